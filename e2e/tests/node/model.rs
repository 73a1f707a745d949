//! Random states of a node: flows are dialled through real sockets and must end where a naive model of the rules, which
//! shares no code with the product, says they may; `/v1/decide` and `kubectl balancing explain connection` must say so too.
//!
//! `BALANCING_E2E_SEED=N` explores other states; a failure names its seed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use balancing_agent::testing::{Caller, Expected, Flow, Random, Rules, World, expected, flows, objects};
use balancing_api::{
    agent::{self, DecisionVerdict},
    net::Protocol,
};
use balancing_e2e::{agent::Options, client::built, manifests, network::Network, node::TestNode, protocol};
use serde_json::{Value, json};

use crate::{
    Test,
    bed::{self, DEAD, RAW_VIP, VIP, at},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("with_service_resolution_all", |n| agrees(n, "all", 100)),
    ("with_service_resolution_policies", |n| agrees(n, "policies", 40)),
    ("with_service_resolution_off", |n| agrees(n, "off", 40)),
];

/// Flows of each state.
const FLOWS: usize = 40;
/// States whose flows the plugin explains as well: 200 flows.
const EXPLAINED: u64 = 5;

/// The addresses of the tests' network.
fn world(network: &Network) -> Result<World> {
    let both = |name: &str| vec![network.v4(name), network.v6(name)];
    let pods =
        |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), network.v4(n), network.v6(n))).collect();
    let cluster = |last: u8| -> Result<(IpAddr, IpAddr)> {
        Ok(([10, 96, 0, last].into(), format!("fd00:96::{last}").parse()?))
    };
    Ok(World {
        node_addresses: [both("n1"), both("n2")],
        local: pods(&["l1", "l2", "l3"]),
        remote: pods(&["r1", "r2"]),
        vips: vec![VIP, RAW_VIP, "fd00:51::1".parse()?],
        cluster: vec![cluster(10)?, cluster(11)?, cluster(12)?],
        outside: both("ext"),
        frontend_ports: vec![53, 80, 443, 8080],
        backend_ports: vec![81, 82, 5353],
        ..World::default()
    })
}

fn agrees(network: &Network, resolution: &str, states: u64) -> Result<()> {
    let first = std::env::var("BALANCING_E2E_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1_u64);
    let world = world(network)?;
    let mut node = TestNode::new(network, "n1")?;
    // The pods' containers are there before the agent; whether a Pod object speaks of them differs.
    for (name, ..) in &world.local {
        node.client_below(name, &cgroup(name))?;
    }
    let flags = vec!["--service-resolution".to_owned(), resolution.to_owned()];
    node.agent.start(&Options { flags, ..Options::default() })?;
    let rules = Rules { node: "n1".to_owned(), resolution: resolution.to_owned() };
    let mut seen = BTreeSet::new();
    for seed in first..first + states {
        seen.extend(
            one_state(&mut node, &world, &rules, seed, seed - first < EXPLAINED)
                .with_context(|| format!("BALANCING_E2E_SEED={seed}"))?,
        );
    }
    node.healthy()?;
    let kinds = if resolution == "all" { 5 } else { 3 };
    ensure!(seen.len() >= kinds, "only these kinds of verdict came up: {seen:?}; the test shows too little");
    Ok(())
}

/// Gives the kinds of verdict that came up.
fn one_state(
    node: &mut TestNode<'_>,
    world: &World,
    rules: &Rules,
    seed: u64,
    explain: bool,
) -> Result<BTreeSet<&'static str>> {
    let mut random = Random::new(seed);
    let mut manifests = objects(&mut random, world);
    for pod in manifests.iter_mut().filter(|o| o["kind"] == "Pod") {
        let uid = uid(pod["metadata"]["name"].as_str().unwrap_or_default());
        pod["metadata"]["uid"] = json!(uid);
    }
    node.apply("10-objects.json", &manifests)?;
    // The marker's pod and policy are as real as the others.
    manifests.extend(node.marker_objects());
    let mut seen = BTreeSet::new();
    for flow in flows(&mut random, world, FLOWS) {
        let want = expected(&manifests, rules, &flow);
        let told = || format!("{flow:?}, expected {want:?}\n{}", json!(manifests));
        dialled(node, &flow, &want).with_context(told)?;
        decided(node, &manifests, &flow, &want).with_context(told)?;
        if explain {
            explained(node, &manifests, &flow, &want).with_context(told)?;
        }
        seen.insert(kind(&want));
    }
    Ok(seen)
}

fn kind(expected: &Expected) -> &'static str {
    match expected {
        Expected::Redirect(_) => "redirect",
        Expected::Balance(_) => "balance",
        Expected::Service(_) => "service",
        Expected::Untouched => "untouched",
        Expected::Refuse => "refuse",
    }
}

fn uid(pod: &str) -> String {
    manifests::uid("Pod", "", pod)
}

fn cgroup(pod: &str) -> PathBuf {
    PathBuf::from(format!("kubepods/besteffort/pod{}/main", uid(pod)))
}

/// The flow ends where it may, by every kind of socket.
fn dialled(node: &mut TestNode<'_>, flow: &Flow, want: &Expected) -> Result<()> {
    let (network, refused) = (node.network(), bed::refused(node)?);
    let to = at(flow.to.address, flow.to.port);
    let mut sockets = match flow.to.protocol {
        Protocol::Tcp => vec![bed::tcp(to)],
        Protocol::Udp => vec![bed::udp(to), bed::udp_connected(to)],
    };
    if to.is_ipv4() {
        sockets.extend(sockets.clone().into_iter().map(bed::mapped));
    }
    let client = match &flow.from {
        Caller::Host => node.client("c1")?,
        Caller::Pod(name) => node.client_below(name, &cgroup(name))?,
    };
    let outcomes: Vec<_> = sockets.iter().map(|s| client.dial(*s)).collect::<Result<_>>()?;
    for (socket, outcome) in sockets.iter().zip(&outcomes) {
        let label = network.label(outcome);
        let right = match want {
            Expected::Redirect(set) | Expected::Balance(set) | Expected::Service(set) => {
                ended_in(outcome, set)
            }
            Expected::Refuse => label == refused,
            Expected::Untouched if to.ip() == RAW_VIP => label == format!("raw:{}", to.port()),
            Expected::Untouched => label == DEAD,
        };
        ensure!(right, "{socket:?} ended at {label}");
        bed::judge(network, std::slice::from_ref(outcome), &[&label], *socket, "client")?;
    }
    Ok(())
}

fn ended_in(outcome: &protocol::Outcome, set: &BTreeSet<(IpAddr, u16)>) -> bool {
    outcome.at.is_some_and(|at: SocketAddr| set.contains(&(at.ip(), at.port())))
}

/// `namespace/name` of the caller's Pod object; none where there is no such object: of such a pod the agent knows nothing.
fn caller(manifests: &[Value], flow: &Flow) -> Option<agent::Caller> {
    match &flow.from {
        Caller::Host => Some(agent::Caller::Host(true)),
        Caller::Pod(name) => {
            let pod =
                manifests.iter().find(|o| o["kind"] == "Pod" && o["metadata"]["name"] == name.as_str())?;
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            Some(agent::Caller::Pod(format!("{namespace}/{name}")))
        }
    }
}

/// The verdict that is expected, as documents spell it, and the backends that it may lead to.
fn spelled(want: &Expected) -> (DecisionVerdict, BTreeSet<(IpAddr, u16)>) {
    match want {
        Expected::Redirect(set) => (DecisionVerdict::Redirect, set.clone()),
        Expected::Balance(set) => (DecisionVerdict::Balance, set.clone()),
        Expected::Service(set) => (DecisionVerdict::Service, set.clone()),
        Expected::Untouched => (DecisionVerdict::Untouched, BTreeSet::new()),
        Expected::Refuse => (DecisionVerdict::Refuse, BTreeSet::new()),
    }
}

/// The plugin explains the flow as it went, and finds the maps as the objects ask for.
fn explained(node: &TestNode<'_>, manifests: &[Value], flow: &Flow, want: &Expected) -> Result<()> {
    let Some(from) = caller(manifests, flow) else { return Ok(()) };
    let from = match from {
        agent::Caller::Host(_) => "host".to_owned(),
        agent::Caller::Pod(name) => format!("pod/{name}"),
    };
    let to = format!("{}/{}", at(flow.to.address, flow.to.port), flow.to.protocol.as_str().to_lowercase());
    let agent = format!("unix:{}", node.agent.socket().display());
    let arguments = ["explain", "connection", "--from", &from, "--to", &to, "-o", "json", "--agent", &agent];
    let output = Command::new(built("kubectl-balancing")?).args(arguments).output()?;
    let told = || format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(0), "{}", told());
    let document: Value = serde_json::from_slice(&output.stdout).with_context(told)?;
    let (verdict, backends) = spelled(want);
    for decision in [&document, &document["intended"]] {
        let listed = decision["backends"].as_array().into_iter().flatten();
        let named: Option<BTreeSet<(IpAddr, u16)>> = listed
            .map(|b| Some((b["address"].as_str()?.parse().ok()?, u16::try_from(b["port"].as_u64()?).ok()?)))
            .collect();
        let same = decision["verdict"] == verdict.as_str() && named.as_ref() == Some(&backends);
        ensure!(same, "explain connection says {decision}");
    }
    ensure!(
        document["differs"] == false,
        "explain connection says that the maps are not as wanted: {document}"
    );
    Ok(())
}

/// The agent says the same of it, and names all the backends it may end at.
fn decided(node: &TestNode<'_>, manifests: &[Value], flow: &Flow, want: &Expected) -> Result<()> {
    let Some(from) = caller(manifests, flow) else { return Ok(()) };
    let decision = node.api().decide(from, flow.to)?;
    let (verdict, backends) = spelled(want);
    let told: BTreeSet<_> = decision.backends.iter().map(|b| (b.address, b.port)).collect();
    if decision.verdict != verdict || told != backends {
        bail!("/v1/decide says {decision:?}");
    }
    Ok(())
}
