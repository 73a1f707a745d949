//! Bad input: a clear message with file and line, nothing that worked is lost, the agent stays up.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use balancing_api::{
    agent::{PolicyState, SourceError},
    names::{condition, reason},
};
use balancing_e2e::{
    agent::{Agent, Options, Places},
    manifests::{Front, redirect, service, with},
    network::Network,
    node::TestNode,
    wait,
};
use serde_json::{Value, json};

use crate::{
    Test,
    bed::{self, DEAD, VIP, WEB, at, expect, expect_from, tcp, udp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("broken_yaml_keeps_the_last_good_state_of_its_file", broken_yaml_keeps_the_last_good_state_of_its_file),
    ("unknown_fields_and_kinds_do_not_matter", unknown_fields_and_kinds_do_not_matter),
    ("invalid_policies_harm_nothing", invalid_policies_harm_nothing),
    ("an_empty_and_a_huge_file", an_empty_and_a_huge_file),
    ("a_folder_that_disappears", a_folder_that_disappears),
    ("an_agent_whose_folder_was_never_read_is_not_ready", an_agent_whose_folder_was_never_read_is_not_ready),
    ("an_invalid_edit_is_told_with_the_policy", an_invalid_edit_is_told_with_the_policy),
    ("a_full_map_keeps_what_is_there", a_full_map_keeps_what_is_there),
    ("garbage_to_the_api", garbage_to_the_api),
    ("wrong_command_lines", wrong_command_lines),
];

const PATIENCE: Duration = Duration::from_secs(10);

/// What worked works, and the agent is up.
fn still_good(node: &mut TestNode<'_>) -> Result<()> {
    expect(node, "l1:81", tcp(at(WEB, 8080)))?;
    expect(node, "l1:5353", udp(at(WEB, 53)))?;
    node.agent.alive()?;
    node.agent.no_panic()
}

/// A file that cannot be read is named by the status, the log and a metric.
fn reported(node: &TestNode<'_>, file: &str) -> Result<SourceError> {
    let api = node.api();
    let error = wait::until(
        PATIENCE,
        || format!("{file} in the status"),
        || Ok(api.status()?.source_errors.into_iter().find(|e| e.file == file)),
    )?;
    wait::until(
        PATIENCE,
        || format!("{file} in the log"),
        || Ok(node.agent.log().contains(file).then_some(())),
    )?;
    ensure!(api.metrics()?.sum("balancing_source_errors", "") >= 1.0, "the metric counts no error");
    Ok(error)
}

fn broken_yaml_keeps_the_last_good_state_of_its_file(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.push(bed::local_pod(network, "l1").object());
    let mut node = TestNode::started(network, &objects)?;
    node.apply("20-policy.json", &[bed::web_policy()])?;
    still_good(&mut node)?;
    let deep = "{".repeat(2000);
    for (text, line) in [
        ("kind: LocalRedirectPolicy\nmetadata:\n  name: [a\n", 3),
        ("kind: A\n  bad: indent\n", 2),
        ("kind: A\n---\nkind: B\nkind: B\n", 4),
        ("\u{0}\u{1}\u{2}", 1),
        (deep.as_str(), 1),
    ] {
        node.folder.write_text("20-policy.json", text)?;
        node.settle()?;
        let shown = text.chars().take(30).collect::<String>();
        still_good(&mut node).with_context(|| format!("after {shown:?}"))?;
        let error = reported(&node, "20-policy.json")?;
        ensure!(error.line == line && error.column > 0 && !error.message.is_empty(), "{shown:?}: {error:?}");
    }
    // Another file is not held up by it, and repaired it applies.
    node.apply("30-vip.json", &[bed::vip_policy("vip", VIP)])?;
    expect(&mut node, "l1:81", tcp(at(VIP, 8080)))?;
    let repaired = redirect("lr-web", Front::Service("default/web"), Some(&["p1:8080/TCP"]), &["p1:82/TCP"]);
    node.apply("20-policy.json", &[repaired])?;
    expect(&mut node, "l1:82", tcp(at(WEB, 8080)))?;
    let errors = node.api().status()?.source_errors;
    ensure!(errors.is_empty(), "{errors:?}");
    node.healthy()
}

fn unknown_fields_and_kinds_do_not_matter(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.extend([
        bed::local_pod(network, "l1").object(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}),
        json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}}),
    ]);
    let mut node = TestNode::started(network, &objects)?;
    node.folder.write_text("30-comments.yaml", "# nothing\n---\n---\n# and nothing\n")?;
    let policy = with(bed::web_policy(), "/spec/surprise", json!({"a": 1}));
    node.apply("20-policy.json", &[with(policy, "/status", json!({"conditions": []}))])?;
    still_good(&mut node)?;
    ensure!(node.agent.log().contains("surprise"), "the log does not warn of the unknown field");
    ensure!(node.api().status()?.source_errors.is_empty(), "{:?}", node.api().status()?.source_errors);
    node.healthy()
}

fn invalid_policies_harm_nothing(network: &Network) -> Result<()> {
    let bad = |port: Value| {
        let policy = redirect("bad", Front::Address(VIP), Some(&["80/TCP"]), &["81/TCP"]);
        with(policy, "/spec/frontend/addressMatcher/toPorts", json!([{"port": port, "protocol": "TCP"}]))
    };
    let good = || bad(json!("80"));
    let vip = |ip: &str| with(good(), "/spec/frontend/addressMatcher/ip", json!(ip));
    let service_too = json!({"serviceName": "web", "namespace": "default"});
    let frontend =
        |ports: &[&str]| json!({"ip": VIP, "toPorts": balancing_e2e::manifests::policy_ports(ports)});
    let cases = [
        ("port 0", bad(json!("0"))),
        ("port 65536", bad(json!("65536"))),
        ("port abc", bad(json!("abc"))),
        ("port number 0", bad(json!(0))),
        ("port number 65536", bad(json!(65536))),
        (
            "backend port 65536",
            with(good(), "/spec/backend/toPorts", json!([{"port": 65536, "protocol": "TCP"}])),
        ),
        ("loopback", vip("127.0.0.1")),
        ("loopback of IPv6", vip("::1")),
        ("multicast", vip("224.0.0.5")),
        ("unspecified", vip("0.0.0.0")),
        ("no address", vip("not-an-ip")),
        ("two matchers", with(good(), "/spec/frontend/serviceMatcher", service_too)),
        ("no matcher", with(good(), "/spec/frontend", json!({}))),
        ("no backend", with(good(), "/spec/backend", Value::Null)),
        ("no frontend", with(good(), "/spec/frontend", Value::Null)),
        (
            "names that do not pair",
            with(
                with(good(), "/spec/frontend/addressMatcher", frontend(&["a:80/TCP", "b:81/TCP"])),
                "/spec/backend/toPorts",
                balancing_e2e::manifests::policy_ports(&["c:80/TCP", "d:81/TCP"]),
            ),
        ),
        (
            "SCTP",
            with(
                good(),
                "/spec/frontend/addressMatcher/toPorts",
                json!([{"port": "80", "protocol": "SCTP"}]),
            ),
        ),
        ("a negative limit", with(good(), "/spec/qos/redirectsPerSecond", json!(-5))),
    ];
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    for (what, policy) in cases {
        node.apply("50-bad.json", std::slice::from_ref(&policy)).with_context(|| what.to_owned())?;
        still_good(&mut node).with_context(|| format!("after {what}"))?;
        expect(&mut node, DEAD, tcp(at(VIP, 80))).with_context(|| format!("the VIP of {what}"))?;
        if let Some(ip) = policy["spec"]["frontend"]["addressMatcher"]["ip"].as_str()
            && let Ok(ip) = ip.parse::<IpAddr>()
            && ip.is_loopback()
        {
            let own = format!("{}", at(ip, 80));
            expect_from(&mut node, "l2", &own, tcp(at(ip, 80)))
                .with_context(|| format!("{what} is left alone"))?;
        }
        let told = node.api().policy("bad").with_context(|| what.to_owned())?;
        ensure!(
            (told.state, told.reason.as_str()) == (PolicyState::Invalid, reason::INVALID_SPEC),
            "{what}: {told:?}"
        );
        ensure!(!told.message.is_empty(), "{what}: the status does not say why");
        node.folder.remove("50-bad.json")?;
    }
    node.settle()?;
    node.apply("50-bad.json", &[good()])?;
    expect(&mut node, "l1:81", tcp(at(VIP, 80)))?;
    node.healthy()
}

fn an_empty_and_a_huge_file(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.folder.write_text("20-empty.yaml", "")?;
    node.settle()?;
    still_good(&mut node)?;
    ensure!(node.api().status()?.source_errors.is_empty(), "an empty file is no error");
    // A file that worked becomes huge: it is refused unread and what it said stays.
    node.apply("30-vip.yaml", &[bed::vip_policy("vip", VIP)])?;
    let line = "# a comment of a manifest that somebody wrote by mistake, again and again and again\n";
    node.folder.write_text("30-vip.yaml", line.repeat(100_000_000 / line.len()))?;
    node.settle()?;
    still_good(&mut node)?;
    expect(&mut node, "l1:81", tcp(at(VIP, 8080)))?;
    let error = reported(&node, "30-vip.yaml")?;
    ensure!(error.message.contains("16"), "the message names no limit: {error:?}");
    node.remove("30-vip.yaml")?;
    expect(&mut node, DEAD, tcp(at(VIP, 8080)))?;
    node.healthy()
}

fn a_folder_that_disappears(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    let (folder, aside) = (node.folder.path().to_owned(), node.scratch().join("aside"));
    fs::rename(&folder, &aside)?;
    let api = node.api();
    wait::until(
        PATIENCE,
        || "the missing folder in the status".to_owned(),
        || Ok((!api.status()?.source_errors.is_empty()).then_some(())),
    )?;
    let message = api.status()?.source_errors[0].message.clone();
    ensure!(
        message.contains(&folder.display().to_string()),
        "the message does not name the folder: {message}"
    );
    still_good(&mut node)?;
    // Removed for good, and made anew with other content.
    fs::remove_dir_all(&aside)?;
    still_good(&mut node)?;
    fs::create_dir(&folder)?;
    let mut objects = bed::web_service(network);
    objects.extend([bed::local_pod(network, "l2").object(), bed::web_policy()]);
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &objects)?;
    node.settle()?;
    expect(&mut node, "l2:81", tcp(at(WEB, 8080)))?;
    ensure!(api.status()?.source_errors.is_empty(), "{:?}", api.status()?.source_errors);
    node.healthy()
}

fn a_full_map_keeps_what_is_there(network: &Network) -> Result<()> {
    const SIZE: u8 = 16;
    let options =
        Options { flags: vec!["--max-frontends".to_owned(), SIZE.to_string()], ..Options::default() };
    let mut node = TestNode::started_with(network, &bed::scenario(network), &options)?;
    node.settle()?;
    let many = (0..2 * SIZE)
        .flat_map(|i| service(&format!("s{i}"), &[[10, 96, 1, i].into()], &["80/TCP"], &[network.v4("r1")]));
    node.folder.write("30-many.json", &many.collect::<Vec<_>>())?;
    let api = node.api();
    let full = wait::until(
        PATIENCE,
        || "a condition that names the full map".to_owned(),
        || {
            let conditions = api.status()?.conditions;
            Ok(conditions
                .into_iter()
                .find(|c| c.type_ == condition::POLICIES_PROGRAMMED && c.reason == reason::MAP_FULL))
        },
    )?;
    ensure!(full.status == "False", "{full:?}");
    ensure!(full.message.contains("frontends") && full.message.contains(&SIZE.to_string()), "{full:?}");
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.agent.alive()?;
    // Some of the new ones fit, the others do as if they were not there.
    let flows = (0..2 * SIZE).map(|i| tcp(at([10, 96, 1, i].into(), 80))).collect();
    let outcomes = node.client("c1")?.dial_all(flows, 1)?;
    let served = outcomes.iter().filter(|o| network.label(o) == "r1:80").count();
    let absent = outcomes.iter().filter(|o| network.label(o) == DEAD).count();
    ensure!(
        served > 0 && absent > 0 && served + absent == outcomes.len(),
        "{served} served, {absent} absent"
    );
    // Room is made: everything that is wanted is there.
    node.folder.remove("30-many.json")?;
    node.settle()?;
    still_good(&mut node)?;
    let conditions = api.status()?.conditions;
    ensure!(conditions.iter().all(|c| c.reason != reason::MAP_FULL), "{conditions:?}");
    node.healthy()
}

fn garbage_to_the_api(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    let api = node.api();
    for body in [&b""[..], b"{", b"[]", b"\xff\xfe", b"{\"to\":\"nowhere\"}"] {
        let status = api.post("/v1/decide", body)?.status;
        ensure!((400..500).contains(&status), "{body:?} is answered with {status}");
    }
    ensure!(api.post("/v1/decide", &vec![b'x'; 3_000_000])?.status == 413, "a body over 1 MiB");
    ensure!(api.get("/v1/nothing")?.status == 404, "an unknown path");
    node.settle()?;
    still_good(&mut node)?;
    node.healthy()
}

fn wrong_command_lines(network: &Network) -> Result<()> {
    let nowhere = "/nonexistent/place";
    type Spoil = fn(&mut Places);
    let places: [(&str, Spoil); 2] = [
        ("--bpffs", |p| p.bpffs = "/nonexistent/place".into()),
        ("--cgroup-root", |p| p.cgroup = "/nonexistent/place".into()),
    ];
    for (flag, spoil) in places {
        let node = TestNode::new(network, "n1")?;
        let mut wrong = node.agent.places().clone();
        spoil(&mut wrong);
        ended_with(Agent::new(wrong), &Options::default(), 1, nowhere).with_context(|| flag.to_owned())?;
        ensure!(node.pins().is_empty(), "{flag}: pinned before the check: {:?}", node.pins());
    }
    let node = TestNode::new(network, "n1")?;
    let wrong = |flag: &str| Options { flags: vec![flag.to_owned()], ..Options::default() };
    for flag in ["--no-such-flag", "--max-frontends=many"] {
        let agent = Agent::new(node.agent.places().clone());
        ended_with(agent, &wrong(flag), 2, flag.split('=').next().unwrap_or(flag))?;
    }
    // The root of the hierarchy is everybody's.
    let mut root = node.agent.places().clone();
    root.cgroup = balancing_e2e::run::cgroup2_mount().context("no cgroup v2 mount")?;
    ended_with(Agent::new(root), &Options::default(), 1, "BALANCING_REFUSE_ROOT_CGROUP")
}

/// The agent ends with that status and a message that says so much.
fn ended_with(mut agent: Agent, options: &Options, code: i32, message: &str) -> Result<()> {
    agent.spawn(options)?;
    let status = agent.wait_end()?;
    ensure!(status.code() == Some(code), "ended with {status}, not {code}\n{}", agent.log_tail());
    ensure!(agent.log().contains(message), "the message does not say {message:?}: {}", agent.log_tail());
    agent.no_panic()
}

fn an_agent_whose_folder_was_never_read_is_not_ready(network: &Network) -> Result<()> {
    let mut node = TestNode::new(network, "n1")?;
    fs::remove_dir_all(node.folder.path())?;
    node.agent.spawn(&Options::default())?;
    let api = node.api();
    let said = wait::until(
        PATIENCE,
        || "an answer about the folder".to_owned(),
        || {
            let Ok(answer) = api.get("/readyz") else { return Ok(None) };
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            Ok(text.contains("folder").then_some((answer.status, text)))
        },
    )?;
    ensure!(said.0 == 503, "/readyz answers {said:?}");
    fs::create_dir(node.folder.path())?;
    node.agent.wait_ready()?;
    node.healthy()
}

fn an_invalid_edit_is_told_with_the_policy(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    let policy = bed::web_policy();
    let name = policy["metadata"]["name"].as_str().context("the policy has a name")?.to_owned();
    let mut wrong = policy.clone();
    wrong["spec"]["backend"]["toPorts"][0]["port"] = json!("abc");
    let others = bed::scenario(network).into_iter().filter(|o| *o != policy);
    let edited: Vec<Value> = others.chain([wrong]).collect();
    node.apply("10-objects.json", &edited)?;
    let status = wait::until(
        PATIENCE,
        || "the edit in the policy's message".to_owned(),
        || Ok(Some(node.api().policy(&name)?).filter(|p| p.message.contains("its last edit is not applied"))),
    )?;
    ensure!(status.state == PolicyState::Programmed, "it is {:?}: {}", status.state, status.message);
    ensure!(status.message.contains("10-objects.json:"), "no file: {}", status.message);
    still_good(&mut node)
}
