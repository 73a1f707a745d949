//! A policy's own backends reach the Service instead of themselves; everybody else is redirected.

use anyhow::{Context, Result, ensure};
use balancing_api::agent::Caller;
use balancing_api::net::{Frontend, Protocol};
use balancing_e2e::{
    manifests::{Front, Pod, redirect, with},
    network::Network,
    node::TestNode,
};
use serde_json::json;

use crate::{
    Test,
    bed::{self, VIP, WEB, WEB6, at, expect, expect_from, expect_from_pod, mapped, tcp, udp, udp_connected},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_pod_of_its_own_namespace", a_pod_of_its_own_namespace),
    ("a_host_network_pod", a_host_network_pod),
    ("a_pod_that_appears_under_a_running_agent", a_pod_that_appears_under_a_running_agent),
    ("only_for_its_own_frontends_and_only_if_wanted", only_for_its_own_frontends_and_only_if_wanted),
    ("exempt_callers_spend_no_budget", exempt_callers_spend_no_budget),
];

/// The pod reaches the Service by every kind of socket; others are redirected to it at `local_tcp`, `local_udp`.
fn pod_is_exempt(node: &mut TestNode<'_>, netns: &str, pod: &Pod, local: [&str; 2]) -> Result<()> {
    for flow in [tcp(at(WEB, 8080)), mapped(tcp(at(WEB, 8080)))] {
        expect_from_pod(node, netns, pod, "r1:80", flow).context("the backend itself")?;
        expect(node, local[0], flow).context("another pod")?;
        expect_from(node, "n1", local[0], flow).context("a host process")?;
    }
    for flow in [udp(at(WEB, 53)), udp_connected(at(WEB, 53))] {
        expect_from_pod(node, netns, pod, "r1:53", flow).context("the backend itself")?;
        expect_from(node, "n1", local[1], flow).context("a host process")?;
    }
    Ok(())
}

fn a_pod_of_its_own_namespace(network: &Network) -> Result<()> {
    let pod = bed::local_pod(network, "l1");
    let mut node = TestNode::new(network, "n1")?;
    // Its container runs before the agent hears of it.
    node.pod_client("l1", &pod)?;
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &bed::scenario(network))?;
    node.agent.start(&balancing_e2e::agent::Options::default())?;
    node.settle()?;
    pod_is_exempt(&mut node, "l1", &pod, ["l1:81", "l1:5353"])?;
    expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB6, 8080)))?;
    expect(&mut node, "l1:81", tcp(at(WEB6, 8080)))?;

    let status = node.api().policy("lr-web")?.exempt_callers;
    ensure!((status.pods, status.active) == (1, 1), "{status:?}");
    let to = Frontend::new(WEB, 8080, Protocol::Tcp);
    let decision = node.api().decide(Caller::Pod("default/l1".to_owned()), to)?;
    ensure!(decision.rungs.first().is_some_and(|r| r.reason == "ExemptCaller"), "{decision:?}");
    let fallbacks = node.api().policy_counters("lr-web")?.fallbacks;
    // Eight dials of each flow above that came from the pod.
    ensure!(fallbacks.get("ExemptCaller") == Some(&(5 * 8)), "{fallbacks:?}");
    // Two backends are not led to one another either.
    let second = bed::local_pod(network, "l2");
    node.pod_client("l2", &second)?;
    node.apply("20-second.json", &[second.object()])?;
    expect_from_pod(&mut node, "l2", &second, "r1:80", tcp(at(WEB, 8080)))?;
    expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080)))
}

fn a_host_network_pod(network: &Network) -> Result<()> {
    let pod = Pod::new("proxy", &[network.v4("n1"), network.v6("n1")]).host_network();
    let mut objects = bed::web_service(network);
    objects.extend([pod.object(), bed::web_policy()]);
    let mut node = TestNode::new(network, "n1")?;
    node.pod_client("n1", &pod)?;
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &objects)?;
    node.agent.start(&balancing_e2e::agent::Options::default())?;
    node.settle()?;
    pod_is_exempt(&mut node, "n1", &pod, ["n1:81", "n1:5353"])
}

fn a_pod_that_appears_under_a_running_agent(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.push(bed::web_policy());
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    let pod = bed::local_pod(network, "l1");
    // A kubelet makes the cgroup first; the object says Ready later.
    node.pod_client("l1", &pod)?;
    node.apply("20-pod.json", &[pod.object()])?;
    let exempt = || format!("the exemption of {}", pod.name);
    let api = node.api();
    balancing_e2e::wait::until(std::time::Duration::from_secs(10), exempt, || {
        Ok((api.policy("lr-web")?.exempt_callers.active == 1).then_some(()))
    })?;
    pod_is_exempt(&mut node, "l1", &pod, ["l1:81", "l1:5353"])?;
    // No longer a backend, no longer exempt.
    node.apply(
        "20-pod.json",
        &[pod.clone().labels(json!({"app": "other"})).object(), bed::local_pod(network, "l2").object()],
    )?;
    expect_from_pod(&mut node, "l1", &pod, "l2:81", tcp(at(WEB, 8080)))
}

fn only_for_its_own_frontends_and_only_if_wanted(network: &Network) -> Result<()> {
    let pod = bed::local_pod(network, "l1");
    let mut node = TestNode::new(network, "n1")?;
    node.pod_client("l1", &pod)?;
    let second = redirect("second", Front::Address(VIP), Some(&["80/TCP"]), &["82/TCP"]);
    let second = with(second, "/spec/backend/endpointSelector/matchLabels", json!({"app": "second"}));
    let other = bed::local_pod(network, "l2").labels(json!({"app": "second"}));
    let mut objects = bed::scenario(network);
    objects.extend([other.object(), second]);
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &objects)?;
    node.agent.start(&balancing_e2e::agent::Options::default())?;
    node.settle()?;
    expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080)))?;
    expect_from_pod(&mut node, "l1", &pod, "l2:82", tcp(at(VIP, 80)))?;
    for (skip, want) in [(false, "l1:81"), (true, "r1:80")] {
        let mut objects = objects.clone();
        for policy in objects.iter_mut().filter(|o| o["metadata"]["name"] == "lr-web") {
            *policy = with(policy.clone(), "/spec/backend/skipRedirectFromBackend", json!(skip));
        }
        node.apply("10-objects.json", &objects)?;
        expect_from_pod(&mut node, "l1", &pod, want, tcp(at(WEB, 8080)))
            .with_context(|| format!("skip: {skip}"))?;
    }
    Ok(())
}

fn exempt_callers_spend_no_budget(network: &Network) -> Result<()> {
    let pod = bed::local_pod(network, "l1");
    let mut node = TestNode::new(network, "n1")?;
    node.pod_client("l1", &pod)?;
    let mut objects = bed::scenario(network);
    for policy in objects.iter_mut().filter(|o| o["metadata"]["name"] == "lr-web") {
        *policy = with(policy.clone(), "/spec/qos/redirectsPerSecond", json!(1));
    }
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &objects)?;
    node.agent.start(&balancing_e2e::agent::Options::default())?;
    node.settle()?;
    let flow = tcp(at(WEB, 8080));
    expect_from_pod(&mut node, "l1", &pod, "r1:80", flow)?;
    let counters = node.api().policy_counters("lr-web")?;
    ensure!(counters.redirects == 0 && counters.qos_drops == 0, "{counters:?}");
    ensure!(counters.fallbacks.get("ExemptCaller") == Some(&8), "{counters:?}");
    Ok(())
}
