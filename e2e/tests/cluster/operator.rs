//! The operator beside real agents: what policies say of themselves, who wins, and who takes over.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, NAMESPACE, Operator, objects, pods},
    manifests::{POLICIES, node, policy_ports, with},
    wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{
        DNS, SOON, Scene, condition_of, dns_policy, dns_service, expect, kubectl_ok, local_cache, tcp, udp,
    },
    nodes::three,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_policy_says_on_how_many_nodes_it_holds", a_policy_says_on_how_many_nodes_it_holds),
    ("a_node_that_cannot_is_named", a_node_that_cannot_is_named),
    ("a_node_that_the_daemonset_leaves_out_is_not_waited_for", a_node_that_the_daemonset_leaves_out),
    ("without_the_daemonset_every_node_is_waited_for", without_the_daemonset_every_node_is_waited_for),
    ("a_policy_without_a_backend_anywhere_is_not_ready", a_policy_without_a_backend_anywhere_is_not_ready),
    ("references_that_lead_nowhere_are_named", references_that_lead_nowhere_are_named),
    ("of_two_policies_made_at_once_the_same_one_wins", of_two_policies_made_at_once_the_same_one_wins),
    ("backends_that_span_nodes_are_published", backends_that_span_nodes_are_published),
    ("the_standby_takes_over", the_standby_takes_over),
    ("a_leader_that_was_asleep_writes_no_more", a_leader_that_was_asleep_writes_no_more),
];

/// The path of a LocalRedirectPolicy.
fn lr(name: &str) -> Result<String> {
    objects::path("LocalRedirectPolicy", "", name)
}

/// Waits until a condition of a policy has this status and reason; gives its message.
fn condition(scene: &Scene, path: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
    let what = format!("{kind} is {status}, {reason}");
    let check = |policy: &Value| {
        let condition = condition_of(policy, kind)?;
        let is = condition["status"] == status && condition["reason"] == reason;
        is.then(|| condition["message"].as_str().unwrap_or_default().to_owned())
    };
    scene.kube.wait_for(path, SOON, &what, check)
}

/// `NAME VALUE...` of the columns of a table's row.
fn columns(table: &str, row: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut lines = table.lines();
    let header: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    let line = lines.find(|l| l.split_whitespace().next() == Some(row)).with_context(|| table.to_owned())?;
    let values: Vec<_> = line.split_whitespace().collect();
    let at = |column: &&str| {
        let index =
            header.iter().position(|h| h == column).with_context(|| format!("no {column} in {header:?}"))?;
        Ok(values.get(index).copied().unwrap_or_default().to_owned())
    };
    wanted.iter().map(at).collect()
}

fn a_policy_says_on_how_many_nodes_it_holds(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    let second = local_cache(cluster, &scene, 2)?;
    scene.apply(&dns_policy())?;
    let nodes = |policy: &Value| policy["status"]["nodes"].clone();
    let is = |want: Value| move |policy: &Value| (nodes(policy) == want).then_some(());
    let path = lr("dns")?;
    let two =
        json!({"selected": 3, "programmed": 3, "effective": 2, "degraded": 1, "failed": 0, "pending": 0});
    scene.kube.wait_for(&path, SOON, "programmed on 3, effective on 2", is(two))?;
    for (kind, reason) in [
        ("Accepted", "Accepted"),
        ("ResolvedRefs", "ResolvedRefs"),
        ("Programmed", "AllNodesProgrammed"),
        ("Effective", "Redirecting"),
        ("Ready", "Ready"),
    ] {
        condition(&scene, &path, kind, "True", reason)?;
    }
    let (table, _) = kubectl_ok(&cluster.plane, "admin", &["get", "lr"])?;
    let shown = columns(&table, "dns", &["READY", "PROGRAMMED", "EFFECTIVE", "NODES"])?;
    ensure!(shown == ["True", "3/3", "2/3", "3"], "{shown:?} in\n{table}");
    // The backend of node 2 goes.
    scene.delete(&second)?;
    let one =
        json!({"selected": 3, "programmed": 3, "effective": 1, "degraded": 2, "failed": 0, "pending": 0});
    scene.kube.wait_for(&path, SOON, "effective on 1", is(one))?;
    let problem = |policy: &Value| {
        let problems = policy["status"]["problemNodes"].as_array()?;
        problems.iter().find(|p| p["node"] == "n2").map(|p| p["reason"].clone())
    };
    let why = scene.kube.wait_for(&path, SOON, "node 2 is named", problem)?;
    ensure!(why == "NoLocalBackend", "node 2 says {why}");
    // At rest nothing is written.
    scene.at_rest(&path)?;
    Ok(())
}

fn a_node_that_cannot_is_named(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut healthy = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    let mut full = ClusterNode::join(&cluster.network, &cluster.plane, "n3")?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    healthy.start(&Options::default())?;
    let small =
        Options { env: vec![("BALANCING_MAX_FRONTENDS".to_owned(), "2".to_owned())], ..Options::default() };
    // With maps that are too small it is never ready.
    full.spawn(&small)?;
    let policy = vip_policy("vips", 20);
    scene.apply(&policy)?;
    let path = lr("vips")?;
    let named = |policy: &Value| {
        let problems = policy["status"]["problemNodes"].as_array()?;
        // Before it has said anything at all it is named as one that has not.
        problems.iter().find(|p| p["node"] == "n3" && p["reason"] == "MapFull").map(|_| ())
    };
    scene.kube.wait_for(&path, SOON, "node 3 is named, and its map is full", named)?;
    let message = condition(&scene, &path, "Programmed", "False", "SomeNodesFailed")?;
    ensure!(message.contains("n3"), "the message names node 3: {message:?}");
    full.agent.alive()?;
    full.agent.no_panic()
}

/// A Node without the label that the chart's DaemonSet wants, and without an agent; a policy with a backend on node 1.
fn spare_node(cluster: &Cluster, scene: &Scene) -> Result<Value> {
    let spare = node("spare", &["192.0.2.77".parse()?], json!({}));
    scene.create(&spare)?;
    dns_service(cluster, scene)?;
    local_cache(cluster, scene, 1)?;
    scene.apply(&dns_policy())?;
    Ok(spare)
}

/// Waits until a policy is programmed on three nodes, and waits for so many others.
fn waits_for(scene: &Scene, path: &str, others: u32) -> Result<()> {
    let is = |policy: &Value| {
        let nodes = &policy["status"]["nodes"];
        (nodes["selected"] == 3 + others && nodes["programmed"] == 3 && nodes["pending"] == others)
            .then_some(())
    };
    scene.kube.wait_for(path, SOON, &format!("programmed on 3, pending on {others}"), is)
}

fn a_node_that_the_daemonset_leaves_out(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _nodes = three(cluster)?;
    let spare = objects::place(&spare_node(cluster, &scene)?)?.path();
    let path = lr("dns")?;
    waits_for(&scene, &path, 0)?;
    condition(&scene, &path, "Ready", "True", "Ready")?;
    let label =
        |os: Value| scene.kube.patch(&spare, &json!({"metadata": {"labels": {"kubernetes.io/os": os}}}));
    label(json!("linux"))?;
    waits_for(&scene, &path, 1)?;
    let message = condition(&scene, &path, "Programmed", "False", "NodesPending")?;
    ensure!(message.contains("spare"), "the message names the node: {message:?}");
    label(Value::Null)?;
    waits_for(&scene, &path, 0)?;
    condition(&scene, &path, "Ready", "True", "Ready")?;
    Ok(())
}

/// An operator that may not look at the DaemonSet does all the rest.
fn without_the_daemonset_every_node_is_waited_for(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _nodes = three(cluster)?;
    spare_node(cluster, &scene)?;
    let role = objects::path("Role", NAMESPACE, "balancing-operator")?;
    let rules = scene.kube.object(&role)?["rules"].take();
    let all = rules.as_array().into_iter().flatten();
    let others: Vec<_> = all.filter(|rule| rule["resources"] != json!(["daemonsets"])).collect();
    scene.kube.patch(&role, &json!({"rules": others}))?;
    let path = lr("dns")?;
    let waited = Operator::start(&cluster.network, &cluster.plane, "op1", &[])
        .and_then(|_operator| waits_for(&scene, &path, 1));
    scene.kube.patch(&role, &json!({"rules": rules}))?;
    waited
}

/// A policy on that many TCP ports of a VIP, each of which leads to 5353 of the caches.
fn vip_policy(name: &str, ports: u16) -> Value {
    let ports: Vec<_> =
        (0..ports).map(|i| (format!("p{i}:{}/TCP", 1000 + i), format!("p{i}:5353/TCP"))).collect();
    let (front, back): (Vec<_>, Vec<_>) = ports.iter().map(|(f, b)| (f.as_str(), b.as_str())).unzip();
    json!({
        "apiVersion": POLICIES, "kind": "LocalRedirectPolicy", "metadata": {"name": name},
        "spec": {
            "frontend": {"addressMatcher": {"ip": "198.51.100.20", "toPorts": policy_ports(&front)}},
            "backend": {"endpointSelector": {"matchLabels": {"app": "dns-cache"}}, "toPorts": policy_ports(&back)},
        },
    })
}

fn a_policy_without_a_backend_anywhere_is_not_ready(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    scene.apply(&dns_policy())?;
    let path = lr("dns")?;
    condition(&scene, &path, "Effective", "False", "NoLocalBackend")?;
    condition(&scene, &path, "Ready", "False", "NoLocalBackend")?;
    condition(&scene, &path, "Programmed", "True", "AllNodesProgrammed")?;
    // One that selects no node.
    let nowhere =
        with(dns_policy(), "/spec/config/nodeLabelSelector/matchLabels", json!({"region": "nowhere"}));
    scene.apply(&nowhere)?;
    condition(&scene, &path, "Programmed", "False", "NoNodeSelected")?;
    condition(&scene, &path, "Ready", "False", "NoNodeSelected")?;
    Ok(())
}

fn references_that_lead_nowhere_are_named(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    scene.apply(&dns_policy())?;
    let path = lr("dns")?;
    let message = condition(&scene, &path, "ResolvedRefs", "False", "ServiceNotFound")?;
    ensure!(message.contains("default/dns"), "{message:?}");
    condition(&scene, &path, "Ready", "False", "ServiceNotFound")?;
    let service = scene.create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
        "spec": {"type": "ExternalName", "externalName": "elsewhere.example"},
    }))?;
    condition(&scene, &path, "ResolvedRefs", "False", "ServiceNotSupported")?;
    scene.kube.delete(&objects::path("Service", "default", "dns")?)?;
    ensure!(service["spec"]["type"] == "ExternalName", "{service}");
    scene.create(&objects::service("dns", &[DNS], &["dns:54/UDP"], json!({"app": "dns"})))?;
    condition(&scene, &path, "ResolvedRefs", "False", "PortNotFound")?;
    scene.kube.delete(&objects::path("Service", "default", "dns")?)?;
    dns_service(cluster, &scene)?;
    condition(&scene, &path, "ResolvedRefs", "True", "ResolvedRefs")?;
    Ok(())
}

/// Both kinds, both orders of name, and the same second or not: the rule decides, never the order of arrival.
fn of_two_policies_made_at_once_the_same_one_wins(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    let redirecting = |name: &str| with(dns_policy(), "/metadata/name", json!(name));
    let balancing = |name: &str| {
        json!({
            "apiVersion": POLICIES, "kind": "BalancingPolicy", "metadata": {"name": name},
            "spec": {
                "frontend": redirecting(name)["spec"]["frontend"],
                "backend": {"addressEndpoint": {
                    "addresses": [cluster.network.v4("b1")], "toPorts": policy_ports(&["dns:81/UDP", "dns-tcp:81/TCP"]),
                }},
            },
        })
    };
    for round in 0..100 {
        let (left, right) = match round % 4 {
            0 => (redirecting("aaa"), redirecting("bbb")),
            1 => (redirecting("bbb"), redirecting("aaa")),
            2 => (redirecting("zzz"), balancing("aaa")),
            _ => (balancing("aaa"), balancing("bbb")),
        };
        one_conflict(cluster, &scene, &mut node, &left, &right).with_context(|| format!("round {round}"))?;
    }
    node.healthy()
}

fn one_conflict(
    cluster: &Cluster,
    scene: &Scene,
    node: &mut ClusterNode<'_>,
    left: &Value,
    right: &Value,
) -> Result<()> {
    let places = [objects::place(left)?.path(), objects::place(right)?.path()];
    places.iter().for_each(|p| scene.note(p.clone()));
    let other = cluster.plane.admin()?;
    let made = thread::scope(|scope| {
        let second = scope.spawn(|| other.create(&objects::written(right.clone())));
        let first = scene.kube.create(&objects::written(left.clone()));
        let second = second.join().map_err(|_| anyhow::anyhow!("the other client panicked"))?;
        Ok::<_, anyhow::Error>([first?, second?])
    })?;
    // Older first, then LocalRedirectPolicy before BalancingPolicy, then by name.
    let order = |policy: &Value| {
        let text =
            |pointer: &str| policy.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/metadata/creationTimestamp"), text("/kind") == "BalancingPolicy", text("/metadata/name"))
    };
    let winner = usize::from(order(&made[1]) < order(&made[0]));
    let name = |i: usize| made[i]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let leads = |i: usize| if made[i]["kind"] == "BalancingPolicy" { "b1:81" } else { "a1:5353" };
    let loser = 1 - winner;
    let message = condition(scene, &places[loser], "Accepted", "False", "FrontendConflict")?;
    ensure!(message.contains(&name(winner)), "the loser does not name {}: {message:?}", name(winner));
    condition(scene, &places[winner], "Accepted", "True", "Accepted")?;
    expect(cluster, node, "c1", udp(DNS, 53), leads(winner))?;
    // The winner goes: the loser is in force within two seconds.
    scene.kube.delete(&places[winner])?;
    let (network, flow) = (&cluster.network, tcp(DNS, 53));
    wait::until(
        Duration::from_secs(2),
        || format!("{} leads to {}", name(loser), leads(loser)),
        || {
            let in_force =
                node.api().policy(&name(loser))?.state == balancing_api::agent::PolicyState::Programmed;
            let outcome = node.client("c1")?.dial(flow)?;
            Ok((in_force && network.label(&outcome) == leads(loser)).then_some(()))
        },
    )?;
    condition(scene, &places[loser], "Accepted", "True", "Accepted")?;
    scene.kube.delete(&places[loser])
}

fn backends_that_span_nodes_are_published(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    let far = objects::pod(&cluster.network, "far", "b2", "n2", json!({"app": "far"}));
    let far = scene.create(&far.object())?;
    scene.apply(&json!({
        "apiVersion": POLICIES, "kind": "BalancingPolicy", "metadata": {"name": "far"},
        "spec": {
            "frontend": dns_policy()["spec"]["frontend"],
            "backend": {"serviceEndpoint": {
                "endpointSelector": {"matchLabels": {"app": "far"}}, "redirectMode": "podEndpoint",
                "toPorts": policy_ports(&["dns:81/UDP", "dns-tcp:82/TCP"]),
            }},
        },
    }))?;
    for (node, client) in nodes.iter_mut().zip(["c1", "c2", "c3"]) {
        expect(cluster, node, client, udp(DNS, 53), "b2:81")?;
        expect(cluster, node, client, tcp(DNS, 53), "b2:82")?;
    }
    // It is Ready no more: everybody is back at the Service.
    let addresses = [cluster.network.v4("b2"), cluster.network.v6("b2")];
    scene.kube.set_status(&objects::place(&far)?.path(), &pods::running(&addresses, false))?;
    for (node, client) in nodes.iter_mut().zip(["c1", "c2", "c3"]) {
        expect(cluster, node, client, udp(DNS, 53), "b3:53")?;
    }
    let path = objects::path("BalancingPolicy", "", "far")?;
    condition(&scene, &path, "Effective", "False", "NoBackend")?;
    // Nobody else's slice is believed: one of the same labels in another namespace leads nowhere.
    let stolen = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "stolen", "namespace": "default", "labels": {
            "balancing.elf.io/policy-kind": "BalancingPolicy", "balancing.elf.io/policy-name": "far",
        }, "ownerReferences": [{
            "apiVersion": POLICIES, "kind": "BalancingPolicy", "name": "far",
            "uid": scene.kube.object(&path)?["metadata"]["uid"],
        }]},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [cluster.network.v4("ext")], "conditions": {"ready": true}}],
        "ports": [{"name": "udp-81", "port": 81, "protocol": "UDP"}],
    });
    scene.create(&stolen)?;
    // A change made after it is in force: so is whatever the slice would have done.
    local_cache(cluster, &scene, 1)?;
    scene.apply(&vip_policy("marker", 1))?;
    expect(cluster, &mut nodes[0], "c1", tcp([198, 51, 100, 20].into(), 1000), "a1:5353")?;
    expect(cluster, &mut nodes[0], "c1", udp(DNS, 53), "b3:53")?;
    // The slices go with the policy.
    scene.kube.delete(&path)?;
    let slices = format!(
        "{}?labelSelector=balancing.elf.io/policy-name%3Dfar",
        objects::collection("EndpointSlice", "elf")?
    );
    let none = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty).then_some(());
    scene.kube.wait_for(&slices, SOON, "no slices of a policy that is gone", none)
}

fn the_standby_takes_over(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let quick = ["--lease-duration", "3"];
    let first = Operator::start(&cluster.network, &cluster.plane, "op1", &quick)?;
    let lease = objects::path("Lease", "elf", "balancing-operator")?;
    let held_by = |name: String| move |lease: &Value| (lease["spec"]["holderIdentity"] == name).then_some(());
    scene.kube.wait_for(&lease, SOON, "the first replica leads", held_by(first.pod.name().to_owned()))?;
    let second = Operator::start(&cluster.network, &cluster.plane, "op2", &quick)?;
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    scene.apply(&dns_policy())?;
    condition(&scene, &lr("dns")?, "Accepted", "True", "Accepted")?;
    expect(cluster, &mut node, "c1", udp(DNS, 53), "a1:5353")?;
    // The leader dies; agents notice nothing, and the other writes.
    drop(first);
    scene.apply(&vip_policy("after", 1))?;
    expect(cluster, &mut node, "c1", tcp([198, 51, 100, 20].into(), 1000), "a1:5353")?;
    condition(&scene, &lr("after")?, "Accepted", "True", "Accepted")?;
    scene.kube.wait_for(&lease, SOON, "the second replica leads", held_by(second.pod.name().to_owned()))?;
    // One that is asked to end gives the lease back at once: the next leads long before it would run out.
    let third = Operator::start(&cluster.network, &cluster.plane, "op1", &["--lease-duration", "60"])?;
    second.stop()?;
    scene.kube.wait_for(&lease, SOON, "the third replica leads", held_by(third.pod.name().to_owned()))?;
    node.healthy()
}

/// It is stopped while there is something to write, and goes on when another leads: then as a standby that can lead again.
fn a_leader_that_was_asleep_writes_no_more(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let quick = ["--lease-duration", "3"];
    let first = Operator::start(&cluster.network, &cluster.plane, "op1", &quick)?;
    let lease = objects::path("Lease", "elf", "balancing-operator")?;
    let held_by = |name: String| move |lease: &Value| (lease["spec"]["holderIdentity"] == name).then_some(());
    // The lease of one that was killed before lasts as long as that one said.
    scene.kube.wait_for(&lease, 3 * SOON, "the first replica leads", held_by(first.pod.name().to_owned()))?;
    let second = Operator::start(&cluster.network, &cluster.plane, "op2", &quick)?;
    objects::ensure_node(&scene.kube, &cluster.network, "n1")?;
    scene.apply(&vip_policy("before", 1))?;
    condition(&scene, &lr("before")?, "Accepted", "True", "Accepted")?;
    let pid = first.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("it has ended")?;
    let written = |operator: &Operator| {
        Ok::<_, anyhow::Error>(operator.metrics()?.sum("balancing_reconcile_writes_total", "result=\"made\""))
    };
    let before = written(&first)?;
    kill_process(pid, Signal::STOP)?;
    let asleep = || -> Result<()> {
        scene.apply(&vip_policy("meanwhile", 1))?;
        scene.kube.wait_for(&lease, SOON, "the second leads", held_by(second.pod.name().to_owned()))?;
        condition(&scene, &lr("meanwhile")?, "Accepted", "False", "FrontendConflict")?;
        // It would have this to write when it wakes up.
        scene.delete(&vip_policy("before", 1))?;
        condition(&scene, &lr("meanwhile")?, "Accepted", "True", "Accepted").map(drop)
    };
    let slept = asleep();
    kill_process(pid, Signal::CONT)?;
    slept?;
    let says = |operator: &Operator, leads: &str| {
        let line = format!("balancing_reconcile_leader {leads}");
        wait::until(SOON, || line.clone(), || Ok(operator.metrics()?.0.contains(&line).then_some(())))
    };
    says(&first, "0")?;
    let after = written(&first)?;
    ensure!((after - before).abs() < 0.5, "{before} writes before it slept, {after} after");
    // The second goes: the first leads again, without having been started anew.
    drop(second);
    says(&first, "1")?;
    scene.apply(&vip_policy("later", 1))?;
    condition(&scene, &lr("later")?, "Accepted", "False", "FrontendConflict")?;
    ensure!(written(&first)? > after, "it writes again");
    Ok(())
}
