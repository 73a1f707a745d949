//! What the agent tells of the data path: counters, events, metrics, decisions. Each is held against what clients saw.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, ensure};
use balancing_api::{
    agent::{BackendAddress, Event, EventOutcome},
    net::{Frontend, Protocol},
};
use balancing_e2e::{
    manifests::{Front, Pod, redirect, service, with},
    network::Network,
    node::TestNode,
    wait,
};
use serde_json::json;

use crate::{
    Test,
    bed::{self, WEB, at, expect, tcp, udp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("counters_of_frontends_and_backends", counters_of_frontends_and_backends),
    ("counters_of_what_is_removed_start_again", counters_of_what_is_removed_start_again),
    ("events_tell_who_went_where", events_tell_who_went_where),
    ("metrics_say_what_the_counters_say", metrics_say_what_the_counters_say),
    ("the_socket_is_its_owners", the_socket_is_its_owners),
];

fn frontend(port: u16, protocol: Protocol) -> Frontend {
    Frontend::new(WEB, port, protocol)
}

fn counters_of_frontends_and_backends(network: &Network) -> Result<()> {
    let mut objects = bed::scenario(network);
    objects.push(bed::local_pod(network, "l2").object());
    objects.extend(service(
        "plain",
        &[[10, 96, 0, 20].into()],
        &["80/TCP"],
        &[network.v4("r1"), network.v4("r2")],
    ));
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    let flows = |flow, times| vec![flow; times];
    let plain = tcp(at([10, 96, 0, 20].into(), 80));
    let client = node.client("c1")?;
    let web = client.dial_all(flows(tcp(at(WEB, 8080)), 40), 1)?;
    let dns = client.dial_all(flows(udp(at(WEB, 53)), 7), 1)?;
    let other = client.dial_all(flows(plain, 30), 1)?;

    let counters = node.api().counters()?;
    let of = |f: Frontend| {
        counters.frontends.iter().find(|c| c.frontend == f).context("no counters of a frontend")
    };
    ensure!(of(frontend(8080, Protocol::Tcp))?.redirects == 40, "{:?}", counters.frontends);
    ensure!(of(frontend(53, Protocol::Udp))?.redirects == 7, "{:?}", counters.frontends);
    let plain = of(Frontend::new([10, 96, 0, 20].into(), 80, Protocol::Tcp))?;
    ensure!((plain.redirects, plain.resolved) == (0, 30), "{plain:?}");
    // Each backend was chosen as often as its server answered.
    for (owner, outcomes, protocol) in [
        ("LocalRedirectPolicy/lr-web", &web, Protocol::Tcp),
        ("LocalRedirectPolicy/lr-web", &dns, Protocol::Udp),
        ("Service/default/plain", &other, Protocol::Tcp),
    ] {
        let mut seen = std::collections::BTreeMap::<_, u64>::new();
        for outcome in outcomes {
            *seen.entry(outcome.at.context("a dial failed")?).or_default() += 1;
        }
        for (place, times) in seen {
            let place_of = |c: &&balancing_api::agent::BackendCounters| {
                (c.address, c.port, c.protocol) == (place.ip(), place.port(), protocol) && c.owner == owner
            };
            let counted = counters.backends.iter().find(place_of).map(|c| c.selected);
            ensure!(counted == Some(times), "{owner} at {place}: counted {counted:?}, seen {times}");
        }
    }
    Ok(())
}

fn counters_of_what_is_removed_start_again(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.push(bed::local_pod(network, "l1").object());
    let mut node = TestNode::started(network, &objects)?;
    for _ in 0..2 {
        node.apply("20-policy.json", &[bed::web_policy()])?;
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        let counted = node.api().policy_counters("lr-web")?.redirects;
        ensure!(counted == 8, "eight connections since the policy came, {counted} counted");
        node.remove("20-policy.json")?;
        ensure!(node.api().policy_counters("lr-web").is_err(), "a policy that is gone has counters");
    }
    Ok(())
}

fn events_tell_who_went_where(network: &Network) -> Result<()> {
    let caller = Pod::new("caller", &[network.v4("c1")]).labels(json!({"app": "caller"}));
    let mut node = TestNode::new(network, "n1")?;
    node.pod_client("c1", &caller)?;
    let mut objects = bed::scenario(network);
    let policy = objects.pop().context("a policy")?;
    objects.push(with(policy, "/spec/qos/redirectsPerSecond", json!(2)));
    objects.extend(service("nobody", &[[10, 96, 0, 21].into()], &["80/TCP"], &[]));
    objects.push(caller.object());
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &objects)?;
    node.agent.start(&balancing_e2e::agent::Options::default())?;
    node.settle()?;

    let nobody = tcp(at([10, 96, 0, 21].into(), 80));
    let local = BackendAddress { address: network.v4("l1"), port: 81 };
    for (outcome, query, flow, chosen) in [
        (EventOutcome::Redirect, "outcome=redirect&policy=lr-web", tcp(at(WEB, 8080)), Some(local)),
        (EventOutcome::QosDrop, "outcome=qosDrop&policy=lr-web", tcp(at(WEB, 8080)), None),
        (EventOutcome::Refuse, "outcome=refuse&to=10.96.0.21:80", nobody, None),
    ] {
        let event = first_event(&mut node, &caller, query, flow).with_context(|| query.to_owned())?;
        let told = || format!("{query}: {event:?}");
        ensure!(event.outcome == outcome && event.hook == "connect4", "{}", told());
        ensure!(event.to == Frontend::new(flow.to.ip(), flow.to.port(), Protocol::Tcp), "{}", told());
        ensure!(event.pod.as_deref() == Some("default/caller"), "{}", told());
        ensure!(event.process.comm == "balancing-e2e-w" && event.process.pid > 1, "{}", told());
        ensure!(chosen.is_none() || event.chosen == chosen, "{}", told());
        if outcome != EventOutcome::Refuse {
            ensure!(event.policy.as_ref().is_some_and(|p| p.name == "lr-web"), "{}", told());
        }
    }
    Ok(())
}

/// The first event that fits the query while the pod dials again and again.
fn first_event(
    node: &mut TestNode<'_>,
    caller: &Pod,
    query: &str,
    flow: balancing_e2e::protocol::Flow,
) -> Result<Event> {
    let (api, path) = (node.api(), format!("/v1/events?follow=true&limit=1&{query}"));
    let listener = std::thread::spawn(move || api.get(&path));
    wait::until(
        Duration::from_secs(10),
        || format!("an event of {query}"),
        || {
            node.pod_client("c1", caller)?.dial(flow)?;
            Ok(listener.is_finished().then_some(()))
        },
    )?;
    let answer = listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    let text = answer.text();
    let line =
        text.lines().find(|l| !l.contains("\"lost\"")).with_context(|| format!("no event in {text:?}"))?;
    serde_json::from_str(line).with_context(|| line.to_owned())
}

fn metrics_say_what_the_counters_say(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    expect(&mut node, "l1:5353", udp(at(WEB, 53)))?;
    node.apply(
        "20-second.json",
        &[redirect("second", Front::Address(bed::VIP), Some(&["80/TCP"]), &["82/TCP"])],
    )?;
    let page = node.api().metrics()?;
    let is = |name: &str, label: &str, want: f64| -> Result<()> {
        let got = page.sum(name, label);
        ensure!((got - want).abs() < 0.5, "{name}{{{label}}} is {got}, not {want}:\n{}", page.0);
        Ok(())
    };
    is("balancing_redirects_total", "policy=\"lr-web\"", 16.0)?;
    is("balancing_redirects_total", "policy=\"second\"", 0.0)?;
    is("balancing_source_errors", "", 0.0)?;
    // Two of the test and the marker's.
    is("balancing_policies", "state=\"Programmed\"", 3.0)?;
    let programs = node.api().status()?.datapath.programs;
    is("balancing_programs_attached", "", programs.iter().filter(|p| p.attached).count() as f64)?;
    ensure!(programs.len() >= 9, "nine hooks, {programs:?}");
    ensure!(page.sum("balancing_map_entries", "map=\"frontends\"") >= 5.0, "{}", page.0);
    ensure!(page.0.ends_with("# EOF\n"), "not OpenMetrics: it ends with {:?}", page.0.lines().last());
    Ok(())
}

fn the_socket_is_its_owners(network: &Network) -> Result<()> {
    let node = TestNode::started(network, &bed::scenario(network))?;
    let mode = std::fs::metadata(node.agent.socket())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the socket has mode {mode:o}");
    for path in ["/livez", "/readyz"] {
        let answer = node.api().get(path)?;
        ensure!(answer.status == 200, "{path} answers {} {}", answer.status, answer.text());
    }
    Ok(())
}
