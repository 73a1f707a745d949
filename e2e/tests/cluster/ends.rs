//! Backends that end before anybody has said so.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    client::Server,
    cluster::{ClusterNode, objects, pods},
    manifests::{Front, redirect, with},
    protocol::{LoadSpec, Mode, ServeSpec, Until},
    wait,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, dns_service, expect, local_cache, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[(
    "a_pod_of_which_only_the_sandbox_lives_is_no_backend",
    a_pod_of_which_only_the_sandbox_lives_is_no_backend,
)];

/// What the container serves, and nothing else in its pod.
const PORT: u16 = 5399;
/// Connections of this time after the end may still be refused: the kernel tells of it, the agent writes its maps. A debug
/// build on a busy machine needs more than the few milliseconds that it is otherwise.
const GRACE: u64 = 300_000_000;

/// CLOCK_MONOTONIC in nanoseconds, the clock of a load's records.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The id of the pod's container of that number; 0 is the sandbox.
fn id(number: u8) -> String {
    format!("{number:064x}")
}

/// A process in a container of the pod, which serves these ports.
fn container(node: &ClusterNode<'_>, pod: &Value, number: u8, ports: &[u16]) -> Result<Server> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without a uid")?;
    let below = format!("kubepods/besteffort/pod{uid}/{}", id(number));
    let cgroup = node.make_cgroup(Path::new(&below))?;
    let spec = ServeSpec { tcp: ports.to_vec(), ..ServeSpec::default() };
    Server::start_in(&node.network().netns("a1"), Some(&cgroup), &spec)
}

/// What the kubelet says while that container runs.
fn says_running(cluster: &Cluster, scene: &Scene, pod: &Value, number: u8) -> Result<()> {
    let addresses = [cluster.network.v4("a1"), cluster.network.v6("a1")];
    let mut status = pods::running(&addresses, true);
    status["containerStatuses"] = json!([{
        "name": "main", "image": "example.invalid/app:1", "imageID": "", "ready": true, "restartCount": number - 1,
        "containerID": format!("containerd://{}", id(number)),
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]);
    scene.kube.set_status(&objects::place(pod)?.path(), &status)?;
    Ok(())
}

fn a_pod_of_which_only_the_sandbox_lives_is_no_backend(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    dns_service(cluster, &scene)?;
    let pod = local_cache(cluster, &scene, 1)?;
    let _sandbox = container(&node, &pod, 0, &[])?;
    let mut first = container(&node, &pod, 1, &[PORT])?;
    says_running(cluster, &scene, &pod, 1)?;
    let back = format!("{PORT}/TCP");
    let policy = redirect("dns", Front::Service("default/dns"), Some(&["dns-tcp:53/TCP"]), &[&back]);
    scene.apply(&with(policy, "/spec/backend/endpointSelector/matchLabels", json!({"app": "dns-cache"})))?;
    let local = format!("a1:{PORT}");
    expect(cluster, &mut node, "c1", tcp(DNS, 53), &local)?;

    let before: u64 = first.counts()?.values().sum();
    node.client("c1")?.start_load(LoadSpec {
        mode: Mode::Tcp,
        to: vec![SocketAddr::new(DNS, 53)],
        mapped: false,
        threads: 4,
        until: Until::Told(60),
        pace_us: 1000,
        fresh: false,
    })?;
    wait::until(
        SOON,
        || "the load reaches the local backend".to_owned(),
        || Ok((first.counts()?.values().sum::<u64>() > before + 200).then_some(())),
    )?;
    let served = || cluster.network.served("b3", 53, false);
    let (others, end) = (served()?, now());
    drop(first);
    let late = now() + GRACE;
    wait::until(
        SOON,
        || "the load goes on at the Service".to_owned(),
        || Ok((now() > late && served()? > others + 500).then_some(())),
    )?;
    let records = node.client("c1")?.finish_load(true)?;
    let name = |at: SocketAddr| cluster.network.name(at);
    let failed: Vec<_> = records.iter().filter(|r| r.errno != 0).collect();
    ensure!(
        failed.iter().all(|r| r.span.1 >= end && r.span.0 <= late),
        "{} of {} connections failed, some without a reason: the first began {:?} ns after the end, the last {:?}",
        failed.len(),
        records.len(),
        failed.first().map(|r| i128::from(r.span.0) - i128::from(end)),
        failed.last().map(|r| i128::from(r.span.0) - i128::from(end)),
    );
    let after: Vec<_> = records.iter().filter(|r| r.span.0 > late).collect();
    ensure!(!after.is_empty() && after.iter().all(|r| name(r.at) == "b3:53"), "not all end at the Service");
    ensure!(
        records.iter().any(|r| r.span.1 < end && name(r.at) == local),
        "nothing ended at the local backend"
    );

    // The kubelet starts it again; as long as the object says otherwise, that is not believed.
    let _second = container(&node, &pod, 2, &[PORT])?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "b3:53")?;
    says_running(cluster, &scene, &pod, 2)?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), &local)?;
    node.healthy()
}
