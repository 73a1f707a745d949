//! The product's own processes under policies that lead the API server astray: they keep hearing of it, and a policy that
//! is taken back ends.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, ControlPlane, ControlPlaneOptions, Operator, objects, pods},
    manifests::{Front, redirect, with},
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{self, SOON, Scene, expect, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an_agent_is_exempt_in_a_container", an_agent_is_exempt_in_a_container),
    ("the_operator_is_exempt", the_operator_is_exempt),
];

/// ClusterIP of Service `default/kubernetes`.
const KUBERNETES: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

/// A policy that leads to port 443 of a local pod that is no API server, and that pod, `a1` on node n1.
fn astray(cluster: &Cluster, front: Front<'_>, port: &str) -> (Value, Value) {
    let labels = json!({"app": "astray"});
    let pod = objects::pod(&cluster.network, "astray", "a1", "n1", labels.clone());
    let policy = redirect("astray", front, Some(&[port]), &["443/TCP"]);
    (with(policy, "/spec/backend/endpointSelector/matchLabels", labels), pod.object())
}

/// The agent's next container: a cgroup of its own in the cgroup of its pod.
fn container(node: &ClusterNode<'_>, number: u8) -> Result<Options> {
    let name = format!("container-{number}");
    let cgroup = node.make_cgroup(&node.pod.cgroup().with_file_name(name))?;
    Ok(Options { container: Some(cgroup), ..Options::default() })
}

/// Waits until no policy is in the node's maps.
fn has_no_policy(node: &ClusterNode<'_>) -> Result<()> {
    let api = node.api();
    wait::until(
        SOON,
        || "the policy is out of the maps".to_owned(),
        || {
            let programmed = api.frontends("programmed")?.items;
            let rungs = programmed.iter().flat_map(|f| &f.rungs);
            Ok(rungs.into_iter().all(|r| r.policy.is_none()).then_some(()))
        },
    )
}

/// By whatever programs are there as it starts: its own, those of an agent before it, those of another layout.
fn an_agent_is_exempt_in_a_container(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&container(&node, 0)?)?;
    let seen = std::fs::read_to_string(format!("/proc/{}/cgroup", node.agent.pid().context("no agent")?))?;
    ensure!(seen.contains("/container-0"), "the agent is in cgroup {seen}: the test shows nothing");
    let (address, port) = cluster.plane.server();
    let (policy, pod) = astray(cluster, Front::Address(address), &format!("{port}/TCP"));
    scene.create(&pod)?;
    scene.apply(&policy)?;
    expect(cluster, &mut node, "c1", tcp(address, port), "a1:443")?;
    let next = Some("balancing-agent-next-layout".to_owned());
    for (number, binary) in [(1, None), (2, next), (3, None)] {
        node.agent.kill9()?;
        expect(cluster, &mut node, "c1", tcp(address, port), "a1:443")?;
        node.start(&Options { binary, ..container(&node, number)? })
            .with_context(|| format!("container {number}"))?;
        expect(cluster, &mut node, "c1", tcp(address, port), "a1:443")?;
        if number == 1 {
            // Another layout counts anew, once it is in force.
            let exempt = node.api().policy_counters("astray")?.fallbacks;
            ensure!(exempt.contains_key("ExemptCaller"), "{exempt:?}: the agent's connections were not seen");
        }
    }
    scene.delete(&policy)?;
    has_no_policy(&node)
}

fn the_operator_is_exempt(cluster: &Cluster) -> Result<()> {
    let mut plane = ControlPlane::start(&cluster.network, "ctl2", ControlPlaneOptions::default())?;
    bed::install(&plane)?;
    let scene = Scene::new(&plane)?;
    let mut node = ClusterNode::join(&cluster.network, &plane, "n1")?;
    node.start(&container(&node, 0)?)?;
    // It knows the API server as pods do, by the Service that the agent resolves.
    let flags = ["--api-server-host", "10.96.0.1", "--api-server-port", "443"];
    let first = Operator::start_on(&cluster.network, &plane, "op1", &flags, Some(&*node))?;
    let (policy, pod) = astray(cluster, Front::Service("default/kubernetes"), "443/TCP");
    scene.create(&pod)?;
    scene.apply(&policy)?;
    expect(cluster, &mut node, "c1", tcp(KUBERNETES, 443), "a1:443")?;
    let exempt = node.api().status()?.agent.exempt_pods;
    ensure!(exempt == [format!("{}/{}", pods::NAMESPACE, first.pod.name())], "{exempt:?}");
    // Connections that were there before the policy end.
    plane.kill_api()?;
    plane.start_api()?;
    let lease = objects::path("Lease", pods::NAMESPACE, "balancing-operator")?;
    let renewed = |lease: &Value| lease["spec"]["renewTime"].as_str().map(str::to_owned);
    let before = renewed(&scene.kube.object(&lease)?);
    let renews = |lease: &Value| {
        let is_holder = lease["spec"]["holderIdentity"] == first.pod.name();
        (is_holder && renewed(lease) > before).then_some(())
    };
    scene
        .kube
        .wait_for(&lease, SOON, "the operator renews its lease", renews)
        .with_context(|| first.log_tail())?;
    // Another pod of it, which never had a connection without the policy.
    let second = Operator::start_on(&cluster.network, &plane, "op2", &flags, Some(&*node))?;
    expect(cluster, &mut node, "c1", tcp(KUBERNETES, 443), "a1:443")?;
    second.stop()?;
    first.stop()?;
    scene.delete(&policy)?;
    has_no_policy(&node)?;
    node.healthy()
}
