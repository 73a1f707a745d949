//! The data path outlives the agent; a new agent takes over what is pinned; cleanup takes exactly what is the agent's.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    manifests::{service, with},
    network::Network,
    node::TestNode,
    protocol::{LoadSpec, Mode, Record, Until},
    wait,
};
use serde_json::Value;

use crate::{
    Test,
    bed::{self, DEAD, WEB, all_served, at, expect, load, tcp, udp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("kill_9_under_load_with_changes_meanwhile", kill_9_under_load_with_changes_meanwhile),
    ("sigterm_keeps_the_data_path", sigterm_keeps_the_data_path),
    ("what_is_ready_has_its_conditions_met", what_is_ready_has_its_conditions_met),
    ("another_map_layout_takes_over_under_load", another_map_layout_takes_over_under_load),
    ("another_limit_takes_over_under_load", another_limit_takes_over_under_load),
    ("killed_before_it_could_fill_its_maps", killed_before_it_could_fill_its_maps),
    ("exemption_holds_while_the_agent_restarts", exemption_holds_while_the_agent_restarts),
    ("an_empty_folder_at_the_start_removes_what_is_gone", an_empty_folder_at_the_start_removes_what_is_gone),
    (
        "an_invalid_policy_at_the_start_keeps_only_what_serves",
        an_invalid_policy_at_the_start_keeps_only_what_serves,
    ),
    ("a_dead_agents_redirects_expire", a_dead_agents_redirects_expire),
    ("an_agent_that_hears_of_nothing_renews_no_lease", an_agent_that_hears_of_nothing_renews_no_lease),
    ("one_agent_a_bpffs_folder", one_agent_a_bpffs_folder),
    ("cleanup_removes_everything_and_nothing_else", cleanup_removes_everything_and_nothing_else),
];

/// Services that do not change while the agent is away.
const STANDING: u8 = 200;

/// Maps that hold what is programmed: the names of those whose writes are counted.
const PROGRAMMED_MAPS: [&str; 3] = ["frontends", "slots", "backends"];

fn standing(network: &Network) -> Vec<Value> {
    let one = |i| service(&format!("s{i}"), &[[10, 96, 1, i].into()], &["80/TCP"], &[network.v4("r1")]);
    (0..STANDING).flat_map(one).collect()
}

/// TCP and UDP at once, until told.
fn start_loads(node: &mut TestNode<'_>) -> Result<()> {
    let until = Until::Told(120);
    let tcp = LoadSpec { pace_us: 1000, ..load(vec![at(WEB, 8080)], 8, until) };
    node.client_as("c1", "load")?.start_load(tcp)?;
    let udp = LoadSpec { mode: Mode::Udp, fresh: true, pace_us: 1000, ..load(vec![at(WEB, 53)], 4, until) };
    node.client_as("c2", "load")?.start_load(udp)
}

/// The records of the two loads.
fn finish_loads(node: &mut TestNode<'_>) -> Result<(Vec<Record>, Vec<Record>)> {
    let tcp = node.client_as("c1", "load")?.finish_load(true)?;
    Ok((tcp, node.client_as("c2", "load")?.finish_load(true)?))
}

fn kill_9_under_load_with_changes_meanwhile(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.folder.write("20-standing.json", &standing(network))?;
    node.apply(
        "30-going.json",
        &service("going", &[[10, 96, 2, 1].into()], &["80/TCP"], &[network.v4("r1")]),
    )?;
    start_loads(&mut node)?;
    expect(&mut node, "r1:80", tcp(at([10, 96, 2, 1].into(), 80)))?;
    let before = node.api().counters()?;

    node.agent.kill9()?;
    // The local pod is replaced, a Service goes, another comes; two hundred stay as they are.
    let mut objects = bed::web_service(network);
    objects.extend([bed::local_pod(network, "l2").object(), bed::web_policy()]);
    node.folder.write("10-objects.json", &objects)?;
    node.folder.remove("30-going.json")?;
    let coming = service("coming", &[[10, 96, 2, 2].into()], &["80/TCP"], &[network.v4("r2")]);
    node.folder.write("40-coming.json", &coming)?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080))).context("while the agent is dead")?;
    node.agent.start(&Options::default())?;

    // Ready means written: no settling here.
    let metrics = node.api().metrics()?;
    let written: f64 = PROGRAMMED_MAPS
        .iter()
        .map(|m| metrics.sum("balancing_map_writes_total", &format!("map=\"{m}\"")))
        .sum();
    expect(&mut node, "l2:81", tcp(at(WEB, 8080)))?;
    expect(&mut node, DEAD, tcp(at([10, 96, 2, 1].into(), 80)))?;
    expect(&mut node, "r2:80", tcp(at([10, 96, 2, 2].into(), 80)))?;
    expect(&mut node, "r1:80", tcp(at([10, 96, 1, 7].into(), 80)))?;
    node.healthy()?;
    ensure!(written >= 1.0, "changes were applied, but no write was counted:\n{}", metrics.0);
    ensure!(written < f64::from(STANDING) / 2.0, "{written} writes: what did not change was written again");

    let after = node.api().counters()?;
    ensure!(after.since == before.since, "counters began anew");
    let redirects = |c: &balancing_api::agent::Counters| c.policies.first().map_or(0, |p| p.redirects);
    ensure!(redirects(&after) >= redirects(&before), "{before:?} then {after:?}");

    // Twice more, with nothing changed.
    for _ in 0..2 {
        node.agent.kill9()?;
        node.agent.start(&Options::default())?;
    }
    let (tcp, udp) = finish_loads(&mut node)?;
    all_served(network, &tcp, &["l1:81", "l2:81"])?;
    bed::all_named(&udp)?;
    all_served(network, &udp, &["l1:5353", "l2:5353"])?;
    node.healthy()
}

fn sigterm_keeps_the_data_path(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    let status = node.agent.sigterm()?;
    ensure!(status.success(), "SIGTERM ended the agent with {status}");
    ensure!(!node.agent.socket().exists(), "the agent left its socket behind");
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    expect(&mut node, "l1:5353", udp(at(WEB, 53)))?;
    node.agent.start(&Options::default())?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.healthy()
}

/// At once, not at the next look at them: over new maps, over those that are pinned, with other limits.
fn what_is_ready_has_its_conditions_met(network: &Network) -> Result<()> {
    let met = |node: &TestNode<'_>| {
        let conditions = node.api().status()?.conditions;
        let unmet: Vec<_> = conditions.iter().filter(|c| c.status != "True").collect();
        ensure!(!conditions.is_empty() && unmet.is_empty(), "ready, and {unmet:?}");
        Ok(())
    };
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    met(&node).context("new maps")?;
    for size in ["1000", "1000", "2000", "3000"] {
        node.agent.kill9()?;
        let flags = vec!["--max-frontends".to_owned(), size.to_owned()];
        node.agent.start(&Options { flags, ..Options::default() })?;
        met(&node).with_context(|| format!("a limit of {size} frontends"))?;
    }
    node.healthy()
}

fn another_map_layout_takes_over_under_load(network: &Network) -> Result<()> {
    let next = Options { binary: Some("balancing-agent-next-layout".to_owned()), ..Options::default() };
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    let own = node.api().status()?.datapath.layout_version;
    start_loads(&mut node)?;
    // Upgrade, downgrade; ended properly and killed.
    for (options, layout, kill) in
        [(&next, own + 1, false), (&Options::default(), own, true), (&next, own + 1, true)]
    {
        if kill {
            node.agent.kill9()?;
        } else {
            node.agent.sigterm()?;
        }
        node.agent.start(options)?;
        let status = node.api().status()?.datapath;
        ensure!(status.layout_version == layout, "the layout is {}, not {layout}", status.layout_version);
        ensure!(status.programs.iter().all(|p| p.attached && p.others == 0), "{:?}", status.programs);
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        node.healthy()?;
    }
    let (tcp, udp) = finish_loads(&mut node)?;
    all_served(network, &tcp, &["l1:81"])?;
    bed::all_named(&udp)?;
    all_served(network, &udp, &["l1:5353"])?;
    // Nothing of the old layout stays pinned.
    let others: Vec<_> =
        node.pins().into_iter().filter(|p| p.to_string_lossy().contains(&format!("/v{own}/"))).collect();
    ensure!(others.is_empty(), "still pinned: {others:?}");
    Ok(())
}

fn another_limit_takes_over_under_load(network: &Network) -> Result<()> {
    let sized =
        |n: u32| Options { flags: vec!["--max-frontends".to_owned(), n.to_string()], ..Options::default() };
    let mut node = TestNode::started_with(network, &bed::scenario(network), &sized(512))?;
    node.settle()?;
    start_loads(&mut node)?;
    for size in [4096, 256] {
        node.agent.kill9()?;
        node.agent.start(&sized(size))?;
        let maps = node.api().status()?.datapath.maps;
        let capacity = maps.iter().find(|m| m.name == "frontends").map(|m| m.capacity);
        ensure!(capacity == Some(size.into()), "--max-frontends {size} has capacity {capacity:?}");
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        node.healthy()?;
    }
    let (tcp, udp) = finish_loads(&mut node)?;
    all_served(network, &tcp, &["l1:81"])?;
    bed::all_named(&udp)?;
    all_served(network, &udp, &["l1:5353"])
}

/// Maps that were made and not filled are not taken for those in use.
fn killed_before_it_could_fill_its_maps(network: &Network) -> Result<()> {
    let next = Options { binary: Some("balancing-agent-next-layout".to_owned()), ..Options::default() };
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    start_loads(&mut node)?;
    // Upgrade and downgrade.
    for options in [&next, &Options::default()] {
        let before = node.pins().len();
        // The programs use all maps but one, which is made once they are loaded: the verifier has them for a good while.
        let programs_maps = before - balancing_datapath::HOOKS.len() - 1;
        node.agent.kill9()?;
        node.agent.spawn(options)?;
        wait::until(
            Duration::from_secs(10),
            || "pins of new maps".to_owned(),
            || Ok((node.pins().len() >= before + programs_maps).then_some(())),
        )?;
        node.agent.kill9()?;
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        node.agent.start(options)?;
        node.healthy()?;
    }
    let (tcp, udp) = finish_loads(&mut node)?;
    all_served(network, &tcp, &["l1:81"])?;
    bed::all_named(&udp)?;
    all_served(network, &udp, &["l1:5353"])
}

/// Also where the maps go on being used; the programs of the agent before go on until those of the new one are filled.
fn exemption_holds_while_the_agent_restarts(network: &Network) -> Result<()> {
    let sized =
        |n: u32| Options { flags: vec!["--max-frontends".to_owned(), n.to_string()], ..Options::default() };
    let pod = bed::local_pod(network, "l1");
    let mut node = TestNode::started_with(network, &bed::scenario(network), &sized(512))?;
    bed::expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080)))?;
    let own = LoadSpec { pace_us: 200, ..load(vec![at(WEB, 8080)], 4, Until::Told(120)) };
    node.pod_client("l1", &pod)?.start_load(own)?;
    for size in [512, 512, 1024, 512, 1024] {
        node.agent.kill9()?;
        node.agent.start(&sized(size))?;
    }
    let own = node.pod_client("l1", &pod)?.finish_load(true)?;
    all_served(network, &own, &["r1:80"]).context("a pod of the policy dials its own frontend")
}

fn an_empty_folder_at_the_start_removes_what_is_gone(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    node.agent.kill9()?;
    // A file that cannot be read may have said it: what nobody claims is kept.
    node.folder.write_text("10-objects.json", "{ not yaml")?;
    node.agent.start(&Options::default())?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080))).context("the file of the policy is broken")?;
    // Once it is gone, it says nothing.
    node.remove("10-objects.json")?;
    expect(&mut node, DEAD, tcp(at(WEB, 8080)))?;
    node.healthy()
}

/// A policy was edited wrongly while the agent was away: what it said is kept, as long as that harms nobody.
fn an_invalid_policy_at_the_start_keeps_only_what_serves(network: &Network) -> Result<()> {
    let invalid =
        |policy| with(policy, "/spec/backend/toPorts", serde_json::json!([{"port": 0, "protocol": "TCP"}]));
    let mut node = TestNode::started(network, &bed::web_service(network))?;
    node.folder.write("20-pod.json", &[bed::local_pod(network, "l1").object()])?;
    node.folder.write("30-policy.json", &[bed::web_policy()])?;
    node.apply("31-vip.json", &[bed::vip_policy("vip", bed::VIP)])?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.agent.kill9()?;
    node.folder.write("30-policy.json", &[invalid(bed::web_policy())])?;
    node.folder.write("31-vip.json", &[invalid(bed::vip_policy("vip", bed::VIP))])?;
    // It becomes ready: other policies do not wait for the one that is invalid.
    node.agent.start(&Options::default())?;
    node.settle()?;
    for front in [WEB, bed::VIP] {
        expect(&mut node, "l1:81", tcp(at(front, 8080))).context("what it said before")?;
    }
    node.apply("20-pod.json", &[bed::local_pod(network, "l1").ready(false).object()])?;
    expect(&mut node, "r1:80", tcp(at(WEB, 8080))).context("its pod serves no more")?;
    expect(&mut node, DEAD, tcp(at(bed::VIP, 8080))).context("its pod serves no more")?;
    node.healthy()
}

/// Where a Service is beneath; where nothing is, the redirect stays.
fn a_dead_agents_redirects_expire(network: &Network) -> Result<()> {
    let options = Options { flags: vec!["--policy-lease".to_owned(), "3s".to_owned()], ..Options::default() };
    let mut objects = bed::scenario(network);
    objects.push(bed::vip_policy("vip", bed::VIP));
    let mut node = TestNode::started_with(network, &objects, &options)?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.agent.kill9()?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080))).context("within its lease")?;
    let flow = tcp(at(WEB, 8080));
    let client = node.client("c1")?;
    wait::until(
        Duration::from_secs(10),
        || "the Service, once the lease is over".to_owned(),
        || Ok((network.label(&client.dial(flow)?) == "r1:80").then_some(())),
    )?;
    expect(&mut node, "r1:80", flow)?;
    expect(&mut node, "l1:81", tcp(at(bed::VIP, 8080))).context("nothing is beneath")?;
    node.agent.start(&options)?;
    expect(&mut node, "l1:81", flow).context("the agent is back")?;
    let fallbacks = node.api().policy_counters("lr-web")?.fallbacks;
    ensure!(fallbacks.get("AgentStale").is_some_and(|n| *n >= 8), "{fallbacks:?}");
    Ok(())
}

/// It runs, and its API server never answers: nobody would notice that the local pod has gone.
fn an_agent_that_hears_of_nothing_renews_no_lease(network: &Network) -> Result<()> {
    let options = Options { flags: vec!["--policy-lease".to_owned(), "3s".to_owned()], ..Options::default() };
    let mut node = TestNode::started_with(network, &bed::scenario(network), &options)?;
    let flow = tcp(at(WEB, 8080));
    expect(&mut node, "l1:81", flow)?;
    node.agent.kill9()?;
    let kubeconfig = node.agent.places().scratch.join("nobody.kubeconfig");
    // Nothing listens on port 1.
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    std::fs::write(&kubeconfig, text.to_string())?;
    node.agent.set_kubeconfig(kubeconfig);
    node.agent.spawn(&options)?;
    let client = node.client("c1")?;
    wait::until(
        Duration::from_secs(10),
        || "the Service, once the lease of the agent before is over".to_owned(),
        || Ok((network.label(&client.dial(flow)?) == "r1:80").then_some(())),
    )?;
    node.agent.alive()?;
    node.agent.no_panic()
}

fn one_agent_a_bpffs_folder(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    let cleanup = node.agent.cleanup(&Options::default())?;
    ensure!(!cleanup.status.success(), "cleanup under a running agent must refuse");
    let said = String::from_utf8_lossy(&cleanup.stderr).into_owned();
    ensure!(said.contains(&node.bpffs().display().to_string()), "the message names no folder: {said}");
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.healthy()
}

fn cleanup_removes_everything_and_nothing_else(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    let mut other = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    other.settle()?;
    ensure!(!node.pins().is_empty(), "nothing is pinned: the data path cannot outlive its agent");
    node.agent.sigterm()?;
    for turn in ["first", "second"] {
        let cleanup = node.agent.cleanup(&Options::default())?;
        let said = String::from_utf8_lossy(&cleanup.stderr).into_owned();
        ensure!(cleanup.status.success(), "the {turn} cleanup ended with {}: {said}", cleanup.status);
    }
    ensure!(node.pins().is_empty(), "still pinned: {:?}", node.pins());
    expect(&mut node, DEAD, tcp(at(WEB, 8080)))?;
    expect(&mut other, "l1:81", tcp(at(WEB, 8080)))?;
    other.healthy()?;
    // The node can be used again.
    node.agent.start(&Options::default())?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))
}
