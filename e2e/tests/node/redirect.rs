//! Who is redirected, and where to: the published examples, the last local pod, what may not be touched.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context, Result, ensure};
use balancing_api::{agent::PolicyState, names::reason};
use balancing_e2e::{
    manifests::{Front, Pod, redirect, service, with},
    network::Network,
    node::TestNode,
};
use serde_json::{Value, json};

use crate::{
    Test,
    bed::{self, DEAD, RAW_VIP, VIP, WEB, WEB6, at, expect, expect_from, mapped, tcp, udp, udp_connected},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("published_examples_apply_unchanged", published_examples_apply_unchanged),
    (
        "published_examples_without_local_pods_change_nothing",
        published_examples_without_local_pods_change_nothing,
    ),
    ("own_example_leads_two_ports_to_two_others", own_example_leads_two_ports_to_two_others),
    ("every_kind_of_socket_is_redirected", every_kind_of_socket_is_redirected),
    ("last_local_pod_leaves_and_comes_back", last_local_pod_leaves_and_comes_back),
    (
        "without_a_service_the_vip_is_left_untouched_or_refused",
        without_a_service_the_vip_is_left_untouched_or_refused,
    ),
    ("refuse_holds_for_a_service_too", refuse_holds_for_a_service_too),
    ("a_service_without_endpoints_refuses", a_service_without_endpoints_refuses),
    (
        "addresses_outside_of_the_cluster_lead_to_the_endpoints",
        addresses_outside_of_the_cluster_lead_to_the_endpoints,
    ),
    (
        "a_policy_on_a_service_leaves_its_outside_addresses_alone",
        a_policy_on_a_service_leaves_its_outside_addresses,
    ),
    ("node_labels_apply_and_withdraw_a_policy", node_labels_apply_and_withdraw_a_policy),
    ("the_older_policy_wins_and_the_loser_takes_over", the_older_policy_wins_and_the_loser_takes_over),
    ("session_affinity_holds_for_services_and_their_policies", session_affinity_holds),
    ("established_connections_stay", established_connections_stay),
    ("processes_outside_the_cgroup_are_left_alone", processes_outside_the_cgroup_are_left_alone),
];

const HTTP_SERVER: [u8; 4] = [10, 96, 0, 80];
const KUBERNETES: [u8; 4] = [10, 96, 0, 1];

/// The Services that the published examples speak of.
fn published_services(network: &Network) -> Vec<Value> {
    let ports = ["p1:8080->8080/TCP", "p2:80->8081/TCP", "metrics:9153/TCP"];
    let mut objects = service("http-server-v4", &[HTTP_SERVER.into()], &ports, &[network.v4("r1")]);
    objects.extend(service(
        "kubernetes",
        &[KUBERNETES.into()],
        &["https:443->6443/TCP"],
        &[network.v4("ext")],
    ));
    objects
}

/// The three examples of the product documents; one has comments and an annotation besides.
fn write_published_examples(node: &TestNode<'_>) -> Result<()> {
    node.folder
        .write_text("20-service.yaml", include_str!("../../../examples/localredirect-service.yaml"))?;
    node.folder
        .write_text("20-address.yaml", include_str!("../../../examples/localredirect-address.yaml"))?;
    node.folder
        .write_text("20-apiserver.yaml", include_str!("../../../examples/localredirect-apiserver.yaml"))
}

fn published_examples_apply_unchanged(network: &Network) -> Result<()> {
    let mut objects = published_services(network);
    objects.push(bed::local_pod(network, "l1").labels(json!({"app": "http-redirect"})).object());
    objects.push(bed::local_pod(network, "l2").labels(json!({"app": "proxy-redirect"})).object());
    let mut node = TestNode::started(network, &objects)?;
    write_published_examples(&node)?;
    node.settle()?;
    for (ip, port, want) in [
        (HTTP_SERVER.into(), 8080, "l1:80"),
        (HTTP_SERVER.into(), 80, "l1:80"),
        (HTTP_SERVER.into(), 9153, "r1:9153"),
        (RAW_VIP, 8080, "l1:80"),
        (RAW_VIP, 80, "l1:80"),
        (RAW_VIP, 81, "raw:81"),
        (KUBERNETES.into(), 443, "l2:443"),
    ] {
        expect(&mut node, want, tcp(at(ip, port))).with_context(|| format!("{ip}:{port} from a pod"))?;
        expect_from(&mut node, "n1", want, tcp(at(ip, port)))
            .with_context(|| format!("{ip}:{port} from the host"))?;
    }
    let address = node.api().policy("test-addr")?;
    ensure!(address.id == 10091, "the example's serviceId is kept: {}", address.id);
    for name in ["test-addr", "test-service", "test"] {
        let policy = node.api().policy(name)?;
        ensure!(policy.state == PolicyState::Programmed, "{policy:?}");
    }
    node.healthy()
}

fn published_examples_without_local_pods_change_nothing(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &published_services(network))?;
    write_published_examples(&node)?;
    node.settle()?;
    for (ip, port, want) in [
        (HTTP_SERVER.into(), 8080, "r1:8080"),
        (HTTP_SERVER.into(), 80, "r1:8081"),
        (RAW_VIP, 80, "raw:80"),
        (KUBERNETES.into(), 443, "ext:6443"),
    ] {
        expect(&mut node, want, tcp(at(ip, port))).with_context(|| format!("{ip}:{port}"))?;
    }
    for name in ["test-addr", "test-service", "test"] {
        let policy = node.api().policy(name)?;
        ensure!(
            (policy.state, policy.reason.as_str()) == (PolicyState::Fallback, reason::NO_LOCAL_BACKEND),
            "{policy:?}"
        );
    }
    Ok(())
}

fn own_example_leads_two_ports_to_two_others(network: &Network) -> Result<()> {
    let mut objects =
        service("shop", &[[10, 96, 0, 90].into()], &["http:80/TCP", "https:443/TCP"], &[network.v4("r1")]);
    objects.push(bed::local_pod(network, "l1").labels(json!({"app": "shop-cache"})).object());
    let mut node = TestNode::started(network, &objects)?;
    let shop = |port| tcp(at([10, 96, 0, 90].into(), port));
    expect(&mut node, "r1:80", shop(80))?;
    node.folder.write_text("20-shop.yaml", include_str!("../../../examples/localredirect-two-ports.yaml"))?;
    node.settle()?;
    expect(&mut node, "l1:8080", shop(80))?;
    expect(&mut node, "l1:8443", shop(443))?;
    node.healthy()
}

fn every_kind_of_socket_is_redirected(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::web_service(network))?;
    let sockets = |web_tcp: &str, web_udp: &str, node: &mut TestNode<'_>| -> Result<()> {
        for ip in [WEB, WEB6] {
            expect(node, web_tcp, tcp(at(ip, 8080)))?;
            expect(node, web_udp, udp(at(ip, 53)))?;
            expect(node, web_udp, udp_connected(at(ip, 53)))?;
        }
        expect(node, web_tcp, mapped(tcp(at(WEB, 8080))))?;
        expect(node, web_udp, mapped(udp(at(WEB, 53))))?;
        expect(node, web_udp, mapped(udp_connected(at(WEB, 53))))
    };
    sockets("r1:80", "r1:53", &mut node).context("by the Service")?;
    node.apply("20-policy.json", &[bed::local_pod(network, "l1").object(), bed::web_policy()])?;
    sockets("l1:81", "l1:5353", &mut node).context("by the policy")?;
    node.remove("20-policy.json")?;
    sockets("r1:80", "r1:53", &mut node).context("by the Service again")?;
    node.healthy()
}

fn last_local_pod_leaves_and_comes_back(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.push(bed::web_policy());
    let mut node = TestNode::started(network, &objects)?;
    let pod = || bed::local_pod(network, "l1");
    let serving = |node: &mut TestNode<'_>, tcp_at: &str, udp_at: &str| -> Result<()> {
        expect(node, tcp_at, tcp(at(WEB, 8080)))?;
        expect(node, tcp_at, tcp(at(WEB6, 8080)))?;
        expect(node, udp_at, udp(at(WEB, 53)))?;
        expect(node, udp_at, udp_connected(at(WEB, 53)))
    };
    let gone: [(&str, Option<Pod>); 5] = [
        ("not Ready", Some(pod().ready(false))),
        ("terminating", Some(pod().deleting())),
        ("without the label", Some(pod().labels(json!({"app": "other"})))),
        ("on another node", Some(pod().on("n2"))),
        ("deleted", None),
    ];
    for (why, pod_then) in gone {
        node.apply("20-pod.json", &[pod().object()])?;
        serving(&mut node, "l1:81", "l1:5353").with_context(|| format!("Ready, before it is {why}"))?;
        match pod_then {
            Some(pod) => node.apply("20-pod.json", &[pod.object()])?,
            None => node.remove("20-pod.json")?,
        }
        serving(&mut node, "r1:80", "r1:53").with_context(|| why.to_owned())?;
        let policy = node.api().policy("lr-web")?;
        let state = (policy.state, policy.reason.as_str());
        ensure!(state == (PolicyState::Fallback, reason::NO_LOCAL_BACKEND), "{why}: {policy:?}");
    }
    // A second pod takes the place of one that leaves.
    node.apply("20-pod.json", &[pod().object(), bed::local_pod(network, "l2").object()])?;
    bed::expect_spread(&mut node, &["l1:81", "l2:81"], tcp(at(WEB, 8080)))?;
    node.apply("20-pod.json", &[pod().ready(false).object(), bed::local_pod(network, "l2").object()])?;
    serving(&mut node, "l2:81", "l2:5353")?;
    node.healthy()
}

fn without_a_service_the_vip_is_left_untouched_or_refused(network: &Network) -> Result<()> {
    let policies = |on_no_backend: &str| -> Vec<Value> {
        let vips = [("dead", VIP), ("raw", RAW_VIP)];
        vips.map(|(name, vip)| {
            with(bed::vip_policy(name, vip), "/spec/config/onNoBackend", json!(on_no_backend))
        })
        .into()
    };
    let mut node = TestNode::started(network, &policies("Fallback"))?;
    let pod = [bed::local_pod(network, "l1").object()];
    expect(&mut node, DEAD, tcp(at(VIP, 8080)))?;
    expect(&mut node, "raw:8080", tcp(at(RAW_VIP, 8080)))?;
    expect(&mut node, "raw:53", udp(at(RAW_VIP, 53)))?;

    node.apply("20-pod.json", &pod)?;
    expect(&mut node, "l1:81", tcp(at(VIP, 8080)))?;
    expect(&mut node, "l1:5353", udp(at(RAW_VIP, 53)))?;

    node.remove("20-pod.json")?;
    node.apply("10-objects.json", &policies("Refuse"))?;
    let refused = bed::refused(&node)?;
    for flow in
        [tcp(at(VIP, 8080)), tcp(at(RAW_VIP, 8080)), udp(at(RAW_VIP, 53)), udp_connected(at(RAW_VIP, 53))]
    {
        expect(&mut node, refused, flow)?;
    }
    expect(&mut node, "raw:80", tcp(at(RAW_VIP, 80))).context("a port that the policy does not list")?;
    let refusals = node.api().policy_counters("raw")?.refusals;
    ensure!(refusals == 24, "24 clients of policy raw were refused, its counter says {refusals}");

    node.apply("20-pod.json", &pod)?;
    expect(&mut node, "l1:81", tcp(at(RAW_VIP, 8080)))?;
    node.healthy()
}

fn refuse_holds_for_a_service_too(network: &Network) -> Result<()> {
    let mut objects = bed::web_service(network);
    objects.push(with(bed::web_policy(), "/spec/config/onNoBackend", json!("Refuse")));
    let mut node = TestNode::started(network, &objects)?;
    let refused = bed::refused(&node)?;
    expect(&mut node, refused, tcp(at(WEB, 8080)))?;
    node.apply("20-pod.json", &[bed::local_pod(network, "l1").object()])?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.remove("20-pod.json")?;
    expect(&mut node, refused, tcp(at(WEB6, 8080)))
}

fn a_service_without_endpoints_refuses(network: &Network) -> Result<()> {
    let mut node =
        TestNode::started(network, &service("web", &[WEB], &["p1:8080->80/TCP", "dns:53/UDP"], &[]))?;
    let refused = bed::refused(&node)?;
    for flow in [tcp(at(WEB, 8080)), mapped(tcp(at(WEB, 8080))), udp(at(WEB, 53)), udp_connected(at(WEB, 53))]
    {
        expect(&mut node, refused, flow)?;
    }
    expect(&mut node, DEAD, tcp(at(WEB, 81))).context("a port that the Service does not have")?;
    // A policy's local pod serves it, and when that goes it is refused again.
    node.apply("20-policy.json", &[bed::local_pod(network, "l1").object(), bed::web_policy()])?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.remove("20-policy.json")?;
    expect(&mut node, refused, tcp(at(WEB, 8080)))
}

/// The address of a load balancer: `raw` has it.
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 90));

/// `default/web` with an external IP that nobody has, and a load balancer that `raw` stands for.
fn outside_service(network: &Network, mode: &str) -> Vec<Value> {
    let mut objects = bed::web_service(network);
    objects[0]["spec"]["externalIPs"] = json!([VIP]);
    objects[0]["status"] = json!({"loadBalancer": {"ingress": [{"ip": BALANCER, "ipMode": mode}]}});
    objects
}

fn addresses_outside_of_the_cluster_lead_to_the_endpoints(network: &Network) -> Result<()> {
    let mut objects = outside_service(network, "Proxy");
    let mut node = TestNode::started(network, &objects)?;
    for flow in [tcp(at(VIP, 8080)), mapped(tcp(at(VIP, 8080)))] {
        expect(&mut node, "r1:80", flow)?;
    }
    for flow in [udp(at(VIP, 53)), udp_connected(at(VIP, 53))] {
        expect(&mut node, "r1:53", flow)?;
    }
    expect_from(&mut node, "n1", "r1:80", tcp(at(VIP, 8080)))?;
    expect(&mut node, "raw:8080", tcp(at(BALANCER, 8080))).context("a load balancer that is to be asked")?;

    // The internal policy is for ClusterIPs alone, the external one for clients from outside.
    objects = outside_service(network, "VIP");
    objects[0]["spec"]["internalTrafficPolicy"] = json!("Local");
    objects[0]["spec"]["externalTrafficPolicy"] = json!("Local");
    node.apply("10-objects.json", &objects)?;
    expect(&mut node, "r1:80", tcp(at(BALANCER, 8080))).context("a load balancer that may be passed by")?;
    expect(&mut node, "raw:80", tcp(at(BALANCER, 80))).context("a port that the Service does not have")?;
    expect(&mut node, "r1:80", tcp(at(VIP, 8080)))?;
    let refused = bed::refused(&node)?;
    expect(&mut node, refused, tcp(at(WEB, 8080))).context("the ClusterIP, without a local endpoint")?;

    node.apply("10-objects.json", &bed::web_service(network))?;
    expect(&mut node, DEAD, tcp(at(VIP, 8080)))?;
    expect(&mut node, "raw:8080", tcp(at(BALANCER, 8080)))
}

fn a_policy_on_a_service_leaves_its_outside_addresses(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &outside_service(network, "VIP"))?;
    node.apply("20-policy.json", &[bed::local_pod(network, "l1").object(), bed::web_policy()])?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    for outside in [VIP, BALANCER] {
        expect(&mut node, "r1:80", tcp(at(outside, 8080)))?;
    }
    // One on such an address has the Service's endpoints beneath it.
    let policy = bed::vip_policy("lr-vip", VIP);
    node.apply("20-policy.json", &[bed::local_pod(network, "l1").object(), policy.clone()])?;
    expect(&mut node, "l1:81", tcp(at(VIP, 8080)))?;
    node.apply("20-policy.json", &[policy])?;
    expect(&mut node, "r1:80", tcp(at(VIP, 8080)))
}

fn node_labels_apply_and_withdraw_a_policy(network: &Network) -> Result<()> {
    let mut objects = bed::scenario(network);
    let policy = objects.pop().context("a policy")?;
    objects.push(with(policy, "/spec/config/nodeLabelSelector/matchLabels", json!({"region": "edge"})));
    let mut node = TestNode::started(network, &objects)?;
    expect(&mut node, "r1:80", tcp(at(WEB, 8080)))?;
    ensure!(
        node.api().policy("lr-web")?.state == PolicyState::NotSelected,
        "{:?}",
        node.api().policy("lr-web")?
    );
    for (region, want) in [("edge", "l1:81"), ("core", "r1:80"), ("edge", "l1:81")] {
        node.write_nodes(json!({"region": region}))?;
        node.settle()?;
        expect(&mut node, want, tcp(at(WEB, 8080))).with_context(|| format!("region {region}"))?;
    }
    node.healthy()
}

fn the_older_policy_wins_and_the_loser_takes_over(network: &Network) -> Result<()> {
    let aged = |name: &str, port: &str, year: u32| {
        let policy = redirect(name, Front::Service("default/web"), Some(&["p1:8080/TCP"]), &[port]);
        with(policy, "/metadata/creationTimestamp", json!(format!("{year}-01-01T00:00:00Z")))
    };
    let mut objects = bed::web_service(network);
    objects.push(bed::local_pod(network, "l1").object());
    let mut node = TestNode::started(network, &objects)?;
    node.apply("20-young.json", &[aged("a-young", "p1:82/TCP", 2026)])?;
    expect(&mut node, "l1:82", tcp(at(WEB, 8080)))?;
    node.apply("30-old.json", &[aged("z-old", "p1:81/TCP", 2020)])?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    let loser = node.api().policy("a-young")?;
    ensure!(loser.state == PolicyState::Conflicted && loser.reason == reason::FRONTEND_CONFLICT, "{loser:?}");
    ensure!(loser.message.contains("z-old"), "the loser names the winner: {}", loser.message);
    node.remove("30-old.json")?;
    expect(&mut node, "l1:82", tcp(at(WEB, 8080)))?;
    ensure!(
        node.api().policy("a-young")?.state == PolicyState::Programmed,
        "{:?}",
        node.api().policy("a-young")?
    );
    node.healthy()
}

/// A client keeps its backend while that is one, on the Service's rung and on the policy's that takes its place.
fn session_affinity_holds(network: &Network) -> Result<()> {
    let sticky = |endpoints: &[IpAddr]| -> Vec<Value> {
        let mut objects = service("web", &[WEB], &["p1:8080->80/TCP", "dns:53/UDP"], endpoints);
        objects[0] = with(objects[0].clone(), "/spec/sessionAffinity", json!("ClientIP"));
        objects
    };
    let both = [network.v4("r1"), network.v4("r2")];
    let mut node = TestNode::started(network, &sticky(&both))?;
    let used = |node: &mut TestNode<'_>| -> Result<String> {
        let outcomes = node.client("c1")?.dial_all(vec![tcp(at(WEB, 8080))], 40)?;
        let seen: BTreeSet<_> = outcomes.iter().map(|o| network.label(o)).collect();
        ensure!(seen.len() == 1, "one client was spread over {seen:?}");
        Ok(seen.into_iter().next().unwrap_or_default())
    };
    let first = used(&mut node)?;
    let left = both.into_iter().find(|ip| network.name(at(*ip, 80)) != first);
    node.apply("10-objects.json", &sticky(left.as_slice()))?;
    let second = used(&mut node)?;
    ensure!(second != first, "{first} is gone and still used");
    node.apply("10-objects.json", &sticky(&both))?;
    ensure!(used(&mut node)? == second, "a backend that comes does not take clients away");

    let mut objects = ["l1", "l2", "l3"].map(|name| bed::local_pod(network, name).object()).to_vec();
    objects.push(bed::web_policy());
    node.apply("20-policy.json", &objects)?;
    let local = used(&mut node)?;
    ensure!(local.starts_with('l'), "the policy's rung: {local}");
    node.remove("20-policy.json")?;
    ensure!(used(&mut node)? == second, "the Service's rung remembers");
    Ok(())
}

fn established_connections_stay(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::web_service(network))?;
    let old = node.client("c1")?.keep("old", tcp(at(WEB, 8080)))?;
    node.apply("20-policy.json", &[bed::local_pod(network, "l1").object(), bed::web_policy()])?;
    let redirected = node.client("c1")?.keep("new", tcp(at(WEB, 8080)))?;
    node.remove("20-policy.json")?;
    ensure!(
        network.label(&old) == "r1:80" && network.label(&redirected) == "l1:81",
        "{old:?} {redirected:?}"
    );
    for name in ["old", "new"] {
        let echo = node.client("c1")?.echo(name)?;
        ensure!(echo.error.is_none() && echo.peer == Some(at(WEB, 8080)), "connection {name}: {echo:?}");
    }
    Ok(())
}

fn processes_outside_the_cgroup_are_left_alone(network: &Network) -> Result<()> {
    let objects = [bed::local_pod(network, "l1").object(), bed::vip_policy("raw", RAW_VIP)];
    let mut node = TestNode::started(network, &objects)?;
    let flow = tcp(at(RAW_VIP, 8080));
    expect(&mut node, "l1:81", flow)?;
    let outside = balancing_e2e::client::Client::start(&network.netns("c1"), None)?.dial(flow)?;
    ensure!(network.label(&outside) == "raw:8080", "a process outside the agent's cgroup: {outside:?}");
    // A second node on the same machine keeps to its own cgroup, too.
    let mut other = TestNode::new(network, "n2")?;
    other.write_nodes(json!({}))?;
    let pod = bed::local_pod(network, "r2").on("n2");
    other.folder.write("10-objects.json", &[pod.object(), bed::vip_policy("raw", RAW_VIP)])?;
    other.agent.start(&balancing_e2e::agent::Options::default())?;
    expect_from(&mut other, "r1", "r2:81", flow)?;
    expect(&mut node, "l1:81", flow)
}
