//! Several nodes, each with its agent on the API server: who is led where, and what the nodes say of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancing_api::names::reason;
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, NODES, objects, pods},
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, condition_of, dns_policy, dns_service, expect, local_cache, udp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("clients_reach_the_backend_of_their_own_node", clients_reach_the_backend_of_their_own_node),
    ("a_policy_made_again_leads_where_the_last_one_says", a_policy_made_again_leads_where_the_last_one_says),
    (
        "a_state_is_written_when_something_changes_and_at_no_other_time",
        a_state_is_written_when_something_changes,
    ),
    ("what_is_new_is_said_at_once", what_is_new_is_said_at_once),
    ("an_object_nobody_understands_stops_nothing", an_object_nobody_understands_stops_nothing),
    ("an_agent_writes_its_own_state_and_nothing_else", an_agent_writes_its_own_state_and_nothing_else),
];

/// The three nodes: their agents are ready, and the API server knows of it.
pub(crate) fn three(cluster: &Cluster) -> Result<Vec<ClusterNode<'_>>> {
    let mut nodes = Vec::new();
    for name in NODES {
        nodes.push(ClusterNode::join(&cluster.network, &cluster.plane, name)?);
    }
    for node in &mut nodes {
        node.spawn(&Options::default())?;
    }
    for node in &mut nodes {
        node.agent.wait_ready().with_context(|| node.name().to_owned())?;
    }
    // Ready is on the node; a plugin knows the nodes of which there is a state.
    let kube = cluster.plane.admin()?;
    for node in &nodes {
        let said = |state: &Value| state["status"].is_object().then_some(());
        kube.wait_for(&state_of(node.name())?, SOON, "the agent has said something", said)?;
    }
    Ok(nodes)
}

/// The path of a node's state.
pub(crate) fn state_of(node: &str) -> Result<String> {
    objects::path("NodeBalancingState", "", node)
}

/// What a node's state says of a policy: `state` and `reason`.
pub(crate) fn said_of(state: &Value, policy: &str) -> Option<(String, String)> {
    let policies = state["status"]["policies"].as_array()?;
    let said = policies.iter().find(|p| p["name"] == policy)?;
    Some((said["state"].as_str()?.to_owned(), said["reason"].as_str().unwrap_or_default().to_owned()))
}

fn clients_reach_the_backend_of_their_own_node(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    let second = local_cache(cluster, &scene, 2)?;
    // Without a policy everybody is led to the Service.
    for (node, client) in nodes.iter_mut().zip(["c1", "c2", "c3"]) {
        expect(cluster, node, client, udp(DNS, 53), "b3:53")?;
    }
    scene.apply(&dns_policy())?;
    for (node, (client, want)) in
        nodes.iter_mut().zip([("c1", "a1:5353"), ("c2", "a2:5353"), ("c3", "b3:53")])
    {
        expect(cluster, node, client, udp(DNS, 53), want)?;
    }
    for (node, want) in [("n1", "Programmed"), ("n2", "Programmed"), ("n3", "Fallback")] {
        let state = |s: &Value| said_of(s, "dns").filter(|(state, _)| state == want);
        scene.kube.wait_for(&state_of(node)?, SOON, want, state)?;
    }
    // The backend of node 2 is Ready no more, then is again, then goes.
    let path = objects::place(&second)?.path();
    let addresses = [cluster.network.v4("a2"), cluster.network.v6("a2")];
    scene.kube.set_status(&path, &pods::running(&addresses, false))?;
    expect(cluster, &mut nodes[1], "c2", udp(DNS, 53), "b3:53")?;
    scene.kube.set_status(&path, &pods::running(&addresses, true))?;
    expect(cluster, &mut nodes[1], "c2", udp(DNS, 53), "a2:5353")?;
    scene.delete(&second)?;
    expect(cluster, &mut nodes[1], "c2", udp(DNS, 53), "b3:53")?;
    expect(cluster, &mut nodes[0], "c1", udp(DNS, 53), "a1:5353")?;
    let state = |s: &Value| said_of(s, "dns").filter(|(state, _)| state == "Fallback");
    let (_, why) = scene.kube.wait_for(&state_of("n2")?, SOON, "node 2 without a backend", state)?;
    ensure!(why == reason::NO_LOCAL_BACKEND, "node 2 says {why}");
    // The policy goes, and everybody is where they were before.
    scene.delete(&dns_policy())?;
    for (node, client) in nodes.iter_mut().zip(["c1", "c2", "c3"]) {
        expect(cluster, node, client, udp(DNS, 53), "b3:53")?;
        node.healthy()?;
    }
    Ok(())
}

fn a_policy_made_again_leads_where_the_last_one_says(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    for index in 1..=3 {
        for (space, app) in [("a", "first"), ("b", "second")] {
            let (space, node) = (format!("{space}{index}"), format!("n{index}"));
            let name = format!("{app}-{index}");
            let pod = objects::pod(&cluster.network, &name, &space, &node, json!({"app": app}));
            scene.create(&pod.object())?;
        }
    }
    let policy = |app: &str| {
        balancing_e2e::manifests::with(
            dns_policy(),
            "/spec/backend/endpointSelector/matchLabels",
            json!({"app": app}),
        )
    };
    let pids: Vec<_> = nodes.iter().map(|n| n.agent.pid()).collect();
    for round in 0..100 {
        scene.delete(&dns_policy())?;
        scene.apply(&policy(if round % 2 == 0 { "first" } else { "second" }))?;
    }
    // The last one leads to the second pods, on every node.
    for (node, (client, want)) in
        nodes.iter_mut().zip([("c1", "b1:5353"), ("c2", "b2:5353"), ("c3", "b3:5353")])
    {
        expect(cluster, node, client, udp(DNS, 53), want)?;
        node.healthy()?;
        let rungs: Vec<_> = node.api().frontends("programmed")?.items;
        let backends: Vec<_> = rungs
            .iter()
            .filter(|f| f.frontend.address == DNS && f.frontend.port == 53)
            .flat_map(|f| f.rungs.iter().filter(|r| r.policy.is_some()).flat_map(|r| &r.backends))
            .map(|b| format!("{}:{}", b.address, b.port))
            .collect();
        let want = format!("{}:5353", cluster.network.v4(&want[..2]));
        ensure!(backends.iter().all(|b| *b == want) && !backends.is_empty(), "{backends:?}, expected {want}");
    }
    ensure!(pids == nodes.iter().map(|n| n.agent.pid()).collect::<Vec<_>>(), "an agent was restarted");
    Ok(())
}

fn a_state_is_written_when_something_changes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    let path = state_of("n1")?;
    let ready = |s: &Value| condition_of(s, "Ready").filter(|c| c["status"] == "True").map(|_| s.clone());
    let state = scene.kube.wait_for(&path, SOON, "a Ready state", ready)?;
    let owner = &state["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Node" && owner["name"] == "n1", "owned by its Node, not {owner}");
    ensure!(state["status"]["agentVersion"] == env!("CARGO_PKG_VERSION"), "{:#}", state["status"]);
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    let policy = scene.apply(&dns_policy())?;
    // A policy of this name may stand there from before: its uid tells them apart.
    let programmed = |state: &Value| {
        let mut policies = state["status"]["policies"].as_array()?.iter();
        let ours = policies.find(|p| p["uid"] == policy["metadata"]["uid"])?;
        (ours["state"] == "Programmed").then(|| state.clone())
    };
    scene.kube.wait_for(&path, SOON, "the policy is programmed", programmed)?;
    let before = scene.at_rest(&path)?;
    // Traffic, and a change that is none: nothing of that is a reason to write.
    let client = node.client("c1")?;
    client.dial_all(vec![udp(DNS, 53)], 500)?;
    scene.kube.patch(&objects::place(&dns_policy())?.path(), &json!({"metadata": {"labels": {"a": "b"}}}))?;
    let after = scene.at_rest(&path)?;
    ensure!(
        before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"],
        "written without need:\nbefore {:#}\nafter {:#}",
        before["status"],
        after["status"]
    );
    Ok(())
}

/// One thing after the other, each before the ten seconds are over in which there is one write in the long run.
fn what_is_new_is_said_at_once(cluster: &Cluster) -> Result<()> {
    const AT_ONCE: Duration = Duration::from_secs(6);
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    let path = state_of("n1")?;
    let ready = |s: &Value| condition_of(s, "Ready").filter(|c| c["status"] == "True").map(|_| ());
    scene.kube.wait_for(&path, SOON, "a Ready state", ready)?;
    dns_service(cluster, &scene)?;
    let cache = local_cache(cluster, &scene, 1)?;
    let policy = scene.apply(&dns_policy())?;
    let says = |state: &'static str, generation: u64| {
        let uid = policy["metadata"]["uid"].clone();
        move |s: &Value| {
            let said = s["status"]["policies"].as_array()?.iter().find(|p| p["uid"] == uid)?;
            (said["state"] == state && said["observedGeneration"] == generation).then_some(())
        }
    };
    scene.kube.wait_for(&path, AT_ONCE, "a new policy", says("Programmed", 1))?;
    scene.kube.delete(&objects::place(&cache)?.path())?;
    scene.kube.wait_for(&path, AT_ONCE, "it has lost its backend", says("Fallback", 1))?;
    let edit = json!({"spec": {"config": {"onNoBackend": "Refuse"}}});
    scene.kube.patch(&objects::place(&dns_policy())?.path(), &edit)?;
    scene.kube.wait_for(&path, AT_ONCE, "its edit", says("Fallback", 2))
}

fn an_object_nobody_understands_stops_nothing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    scene.apply(&dns_policy())?;
    // A slice that no controller made, whose endpoints are no addresses of its family: of type FQDN.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "strange", "labels": {"kubernetes.io/service-name": "dns"}},
        "addressType": "FQDN", "endpoints": [{"addresses": ["strange.example"]}],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
    });
    scene.create(&slice)?;
    node.start(&Options::default())?;
    expect(cluster, &mut node, "c1", udp(DNS, 53), "a1:5353")?;
    scene.delete(&dns_policy())?;
    expect(cluster, &mut node, "c1", udp(DNS, 53), "b3:53")?;
    node.healthy()
}

fn an_agent_writes_its_own_state_and_nothing_else(cluster: &Cluster) -> Result<()> {
    use http::Method;
    let scene = Scene::new(&cluster.plane)?;
    let nodes: Vec<_> = ["n1", "n2"]
        .iter()
        .map(|name| ClusterNode::join(&cluster.network, &cluster.plane, name))
        .collect::<Result<_>>()?;
    scene.apply(&dns_policy())?;
    dns_service(cluster, &scene)?;
    for name in ["n1", "n2"] {
        let state = json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": name}});
        scene.kube.apply(&state)?;
    }
    let agent = balancing_e2e::cluster::Kube::connect(&nodes[0].pod.kubeconfig)?;
    let merge = "application/merge-patch+json";
    let own = format!("{}/status", state_of("n1")?);
    let written =
        agent.request(&Method::PATCH, &own, merge, Some(&json!({"status": {"agentVersion": "9"}})))?;
    ensure!(written.is_success(), "its own state: {}", written.complaint());
    let label = json!({"metadata": {"labels": {"stolen": "yes"}}});
    let policy = objects::path("LocalRedirectPolicy", "", "dns")?;
    let service = objects::path("Service", "default", "dns")?;
    let cases: [(&str, &Method, String, Option<Value>); 13] = [
        (
            "another's status",
            &Method::PATCH,
            format!("{}/status", state_of("n2")?),
            Some(json!({"status": {"agentVersion": "9"}})),
        ),
        ("another's state", &Method::PATCH, state_of("n2")?, Some(label.clone())),
        ("another's state goes", &Method::DELETE, state_of("n2")?, None),
        (
            "a state of no node",
            &Method::POST,
            objects::collection("NodeBalancingState", "")?,
            Some(json!({
                "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": "n9"},
            })),
        ),
        ("a policy", &Method::PATCH, policy.clone(), Some(label.clone())),
        (
            "a policy's status",
            &Method::PATCH,
            format!("{policy}/status"),
            Some(json!({"status": {"effective": "3/3"}})),
        ),
        ("a policy goes", &Method::DELETE, policy, None),
        ("a Service", &Method::PATCH, service, Some(label.clone())),
        ("a pod", &Method::PATCH, objects::path("Pod", "default", "dns-1")?, Some(label.clone())),
        ("its own Node", &Method::PATCH, objects::path("Node", "", "n1")?, Some(label.clone())),
        (
            "a Node's status",
            &Method::PATCH,
            format!("{}/status", objects::path("Node", "", "n2")?),
            Some(label),
        ),
        ("Secrets", &Method::GET, objects::collection("Secret", "elf")?, None),
        (
            "a slice",
            &Method::POST,
            objects::collection("EndpointSlice", "elf")?,
            Some(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"},
                "addressType": "IPv4", "endpoints": [],
            })),
        ),
    ];
    for (what, method, path, body) in cases {
        let media = if *method == Method::PATCH { merge } else { "application/json" };
        let answer = agent.request(method, &path, media, body.as_ref())?;
        let refused =
            answer.status == 403 || (answer.status == 422 && answer.complaint().contains("may not write"));
        ensure!(refused, "{what}: answered {}", answer.complaint());
    }
    Ok(())
}
