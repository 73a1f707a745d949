//! What clients notice when the API server or an agent is gone: nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::{Api, Options},
    cluster::{ClusterNode, ControlPlane, ControlPlaneOptions},
    judge::tally,
    protocol::{Flow, LoadSpec, Record, Until},
    wait,
};
use serde_json::Value;

use crate::{
    Cluster, Test,
    bed::{self, DNS, SOON, Scene, dns_policy, dns_service, expect, local_cache, tcp, udp},
    nodes::{said_of, state_of},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("nobody_notices_an_api_server_that_is_gone", nobody_notices_an_api_server_that_is_gone),
    ("a_dead_agent_leaves_its_node_to_the_service", a_dead_agent_leaves_its_node_to_the_service),
];

/// Asks for the long form of tests that have one.
const LONG: &str = "BALANCING_E2E_LONG";

/// A load of one thread that dials this 200 times a second, until it is told to end.
pub(crate) fn steady(flow: Flow) -> LoadSpec {
    LoadSpec {
        mode: flow.mode,
        to: vec![flow.to],
        mapped: false,
        threads: 1,
        until: Until::Told(600),
        pace_us: 5_000,
        fresh: true,
    }
}

/// Every operation ended in one of these places.
pub(crate) fn ended_in(cluster: &Cluster, records: &[Record], places: &[&str]) -> Result<()> {
    ensure!(records.len() > 100, "only {} operations", records.len());
    let seen = tally(records.iter().map(|r| match r.errno {
        0 => cluster.network.name(r.at),
        errno => format!("errno {errno}"),
    }));
    ensure!(seen.keys().all(|s| places.contains(&s.as_str())), "{seen:?}, expected {places:?}");
    Ok(())
}

/// Waits until a condition of the node has this reason.
fn node_says(api: &Api, kind: &str, reason: &str) -> Result<()> {
    let mut last = None;
    let reached = wait::until(
        SOON,
        || format!("{kind} says {reason}"),
        || {
            let conditions = serde_json::to_value(api.status()?.conditions)?;
            let said = conditions.as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned();
            let is = said.as_ref().is_some_and(|c| c["reason"] == reason);
            last = said;
            Ok(is.then_some(()))
        },
    );
    reached.with_context(|| format!("{last:?}"))
}

fn nobody_notices_an_api_server_that_is_gone(cluster: &Cluster) -> Result<()> {
    let gone = Duration::from_secs(if std::env::var_os(LONG).is_some() { 60 } else { 10 });
    let mut plane = ControlPlane::start(&cluster.network, "ctl2", ControlPlaneOptions::default())?;
    bed::install(&plane)?;
    let kube = plane.admin()?;
    {
        let scene = Scene::new(&plane)?;
        let mut first = ClusterNode::join(&cluster.network, &plane, "n1")?;
        let mut second = ClusterNode::join(&cluster.network, &plane, "n2")?;
        first.start(&Options::default())?;
        second.start(&Options::default())?;
        dns_service(cluster, &scene)?;
        local_cache(cluster, &scene, 2)?;
        let cache = local_cache(cluster, &scene, 1)?;
        scene.apply(&dns_policy())?;
        expect(cluster, &mut first, "c1", udp(DNS, 53), "a1:5353")?;
        expect(cluster, &mut second, "c2", tcp(DNS, 53), "a2:5353")?;
        let writes = |node: &ClusterNode<'_>| {
            Ok::<_, anyhow::Error>(node.api().metrics()?.sum("balancing_map_writes_total", ""))
        };
        first.healthy()?;
        let before = writes(&first)?;

        first.client_as("c1", "load")?.start_load(steady(tcp(DNS, 53)))?;
        second.client_as("c2", "load")?.start_load(steady(udp(DNS, 53)))?;
        plane.kill_api()?;
        let since = Instant::now();
        node_says(&first.api(), "SourcesSynced", "Disconnected")?;
        // It works on the last good state, and says that it does: it is no reason to take the node for broken.
        ensure!(first.api().get("/readyz")?.status == 200, "an agent that works on is ready");
        // An agent that starts meanwhile knows nothing, and touches nothing.
        second.agent.kill9()?;
        second.spawn(&Options::default())?;
        while since.elapsed() < gone {
            expect(cluster, &mut first, "c1", udp(DNS, 53), "a1:5353")?;
            expect(cluster, &mut second, "c2", tcp(DNS, 53), "a2:5353")?;
        }
        ensure!(
            second.api().get("/readyz").map(|a| a.status).unwrap_or_default() != 200,
            "it has no list yet"
        );
        plane.start_api()?;
        node_says(&first.api(), "SourcesSynced", "Synced")?;
        second.agent.wait_ready()?;
        for (node, client, place) in [(&mut first, "c1", "a1:5353"), (&mut second, "c2", "a2:5353")] {
            let records = node.client_as(client, "load")?.finish_load(true)?;
            ended_in(cluster, &records, &[place]).with_context(|| client.to_owned())?;
        }
        first.healthy()?;
        let after = writes(&first)?;
        ensure!((after - before).abs() < 0.5, "{before} writes to maps before the outage, {after} after it");

        // Everything is as before: what changes now is in force, and the status follows.
        kube.delete(&balancing_e2e::cluster::objects::place(&cache)?.path())?;
        expect(cluster, &mut first, "c1", udp(DNS, 53), "b3:53")?;
        let state = |s: &Value| said_of(s, "dns").filter(|(state, _)| state == "Fallback");
        kube.wait_for(&state_of("n1")?, SOON, "the state says so", state)?;
    }
    Ok(())
}

fn a_dead_agent_leaves_its_node_to_the_service(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    let lease =
        Options { env: vec![("BALANCING_POLICY_LEASE".to_owned(), "3s".to_owned())], ..Options::default() };
    node.start(&lease)?;
    dns_service(cluster, &scene)?;
    let cache = local_cache(cluster, &scene, 1)?;
    scene.apply(&dns_policy())?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "a1:5353")?;
    node.client_as("c1", "load")?.start_load(steady(tcp(DNS, 53)))?;
    node.agent.kill9()?;
    scene.delete(&cache)?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "b3:53")?;
    let records = node.client_as("c1", "load")?.finish_load(true)?;
    ended_in(cluster, &records, &["a1:5353", "b3:53"])?;
    // It comes back to a node without a local backend.
    node.start(&lease)?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "b3:53")?;
    node.healthy()
}
