use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    checked::{Backend, Condition, Matcher, Pair, Port, Ports, Requirement, Selector, pair},
    *,
};
use crate::{
    manifest::parse,
    net::Protocol::{self, Tcp, Udp},
    policy::{OnNoBackend, RedirectMode},
};

fn codes(text: &str) -> Vec<&'static str> {
    check_files(&[parse(text)]).findings.iter().map(|f| f.finding.code).collect()
}

#[test]
fn every_example_does_what_its_rule_says() {
    for rule in RULES {
        let found = check_files(&[parse(&rule.bad.text())]).findings;
        let seen: Vec<_> = found.iter().map(|f| f.finding.code).collect();
        assert!(!seen.is_empty() && seen.iter().all(|c| *c == rule.code), "{}: {seen:?}", rule.code);
        assert_eq!(found[0].finding.severity, rule.severity, "{}", rule.code);
        assert_eq!(codes(&rule.good.text()), [""; 0], "{} right", rule.code);
    }
}

#[test]
fn codes_are_ordered_and_unique() {
    assert!(RULES.windows(2).all(|w| w[0].code < w[1].code));
    assert!(rule("bal0102").is_some_and(|r| r.code == "BAL0102"));
    assert!(rule("BAL9999").is_none());
}

#[test]
fn the_pages_are_those_of_the_engine() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/rules");
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut expected: Vec<(String, String)> =
        RULES.iter().map(|r| (format!("{}.md", r.code), page(r))).collect();
    expected.push(("README.md".to_owned(), index()));
    if update {
        std::fs::create_dir_all(&folder).expect("docs/rules");
        for (name, text) in &expected {
            std::fs::write(folder.join(name), text).expect("write a page");
        }
    }
    for (name, text) in &expected {
        let written = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&written, text, "{name} is stale: UPDATE_DOCS=1 cargo test -p balancing-api pages");
    }
    let mut present: Vec<_> = std::fs::read_dir(&folder)
        .expect("docs/rules")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    present.sort();
    let mut names: Vec<_> = expected.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(present, names, "a page without a rule");
}

fn yaml(text: &str) -> Value {
    let parsed = parse(text);
    assert_eq!(parsed.error, None);
    parsed.objects[0].value.clone()
}

/// A valid policy on a VIP after an edit.
fn edited(edit: impl FnOnce(&mut Value)) -> Checked {
    let mut value = yaml(&rule("BAL0102").expect("a rule").good.text());
    edit(&mut value);
    check(&value)
}

/// Path, severity and code of each finding.
fn brief(checked: &Checked) -> Vec<String> {
    let one = |f: &Finding| {
        format!("{} {} {}{}", f.code, f.severity, f.place.path, if f.blocks { " !" } else { "" })
    };
    checked.findings.iter().map(one).collect()
}

fn port(number: u16, protocol: Protocol, name: &str) -> Port {
    Port { number, protocol, name: name.to_owned() }
}

#[test]
fn a_policy_is_parsed_once_for_all() {
    let value = yaml(
        r#"
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata:
  name: dns
  uid: u-1
  generation: 7
  creationTimestamp: "2026-01-31T12:00:00Z"
  annotations: {balancing.elf.io/serviceId: "4294967295"}
spec:
  config:
    enableOutCluster: false
    onNoBackend: Refuse
    nodeLabelSelector:
      matchLabels: {zone: a}
      matchExpressions:
        - {key: gpu, operator: DoesNotExist}
  frontend:
    serviceMatcher:
      serviceName: kube-dns
      namespace: kube-system
      toPorts:
        - {port: 53, protocol: UDP, name: dns}
        - {port: "53", protocol: TCP, name: DNS-tcp}
  backend:
    endpointSelector:
      matchExpressions:
        - {key: app, operator: In, values: [a, b]}
        - {key: tier, operator: NotIn, values: [x]}
        - {key: k8s.io/on, operator: Exists}
    toPorts:
      - {port: 5353, protocol: TCP, name: dns-tcp}
      - {port: 5354, protocol: UDP, name: dns}
    namespaces: [kube-system]
    skipRedirectFromBackend: false
  qos: {redirectsPerSecond: 0}
status: {anything: 1}
"#,
    );
    let Checked { policy: Some(policy), findings, .. } = check(&value) else { panic!("it is valid") };
    assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), ["BAL0407"]);
    assert_eq!(policy.reference.to_string(), "LocalRedirectPolicy/dns");
    assert_eq!((policy.uid.as_str(), policy.generation), ("u-1", 7));
    assert_eq!(policy.created.map(|t| t.to_string()).as_deref(), Some("2026-01-31T12:00:00Z"));
    assert_eq!(policy.service_id.map(u32::from), Some(u32::MAX));
    assert_eq!(policy.nodes.as_ref().map(ToString::to_string).as_deref(), Some("zone=a,!gpu"));
    assert!(!policy.enable_out_cluster);
    assert_eq!(policy.on_no_backend, OnNoBackend::Refuse);
    assert_eq!(
        policy.matcher,
        Matcher::Service { namespace: "kube-system".to_owned(), name: "kube-dns".to_owned() }
    );
    let Backend::Local { selector, namespaces, skip_redirect_from_backend } = &policy.backend else {
        panic!("{:?}", policy.backend)
    };
    assert_eq!(selector.to_string(), "app in (a,b),tier!=x,k8s.io/on");
    assert_eq!(namespaces, &["kube-system"]);
    assert!(!skip_redirect_from_backend);
    assert_eq!(policy.redirects_per_second, Some(0));
    let Ports::Listed(pairing) = &policy.ports else { panic!("{:?}", policy.ports) };
    let pairs = [
        Pair { frontend: port(53, Udp, "dns"), backend: 5354 },
        Pair { frontend: port(53, Tcp, "DNS-tcp"), backend: 5353 },
    ];
    assert_eq!(pairing.pairs, pairs);
    assert_eq!(pairing.unpaired, []);

    let service = [port(53, Udp, ""), port(9153, Tcp, "metrics")];
    let of_service = policy.ports.for_service(&service);
    assert_eq!((of_service.pairs.as_slice(), of_service.unpaired), (&pairs[..1], vec![]));
}

#[test]
fn defaults_are_those_of_the_design() {
    let policy = edited(|_| {}).policy.expect("valid");
    assert!(policy.enable_out_cluster);
    assert_eq!((policy.on_no_backend, policy.redirects_per_second), (OnNoBackend::Fallback, None));
    assert_eq!((policy.nodes, policy.created, policy.service_id), (None, None, None));
    assert!(matches!(policy.backend, Backend::Local { skip_redirect_from_backend: true, .. }));
    let empty = edited(|v| v["spec"]["config"] = json!({"nodeLabelSelector": {}})).policy.expect("valid");
    assert_eq!(empty.nodes, None);

    let balancing = yaml(
        "apiVersion: balancing.elf.io/v1beta1\nkind: BalancingPolicy\nmetadata: {name: b}\nspec:\n  frontend: {serviceMatcher: {serviceName: s, namespace: n}}\n  backend: {serviceEndpoint: {endpointSelector: {matchLabels: {a: b}}, toPorts: [{port: 80, protocol: TCP}]}}\n",
    );
    let policy = check(&balancing).policy.expect("valid");
    assert!(matches!(policy.backend, Backend::Pods { mode: RedirectMode::PodEndpoint, .. }));
    assert_eq!(policy.ports, Ports::OfService { backend: vec![port(80, Tcp, "")] });
    assert_eq!(policy.ports.for_service(&[port(8080, Tcp, "http")]).pairs.len(), 1, "single ports pair");
    let two = [port(8080, Tcp, "http"), port(8443, Tcp, "https")];
    assert_eq!(policy.ports.for_service(&two).unpaired, two, "an unnamed port pairs with none of two named");
}

#[test]
fn ports_are_numbers_from_1_to_65535() {
    for good in [json!(1), json!(65535), json!("1"), json!("65535")] {
        let checked =
            edited(|v| v["spec"]["frontend"]["addressMatcher"]["toPorts"][0]["port"] = good.clone());
        assert_eq!(brief(&checked), [""; 0], "{good}");
    }
    for bad in [
        json!(0),
        json!(65536),
        json!(-1),
        json!(80.5),
        json!("0"),
        json!("0080"),
        json!("65536"),
        json!("+80"),
        json!("-80"),
        json!(" 80"),
        json!("80 "),
        json!("abc"),
        json!(""),
        json!("8o"),
        json!("80-90"),
        json!("99999999999999999999"),
        json!("８０"),
    ] {
        let front = edited(|v| v["spec"]["frontend"]["addressMatcher"]["toPorts"][0]["port"] = bad.clone());
        assert_eq!(brief(&front), ["BAL0102 error spec.frontend.addressMatcher.toPorts[0].port !"], "{bad}");
        assert_eq!(front.policy, None);
        let back = edited(|v| v["spec"]["backend"]["toPorts"][0]["port"] = bad.clone());
        assert_eq!(brief(&back), ["BAL0102 error spec.backend.toPorts[0].port !"], "{bad}");
    }
    for bad in [json!(true), json!([80]), json!({})] {
        let checked = edited(|v| v["spec"]["backend"]["toPorts"][0]["port"] = bad.clone());
        assert_eq!(brief(&checked), ["BAL0006 error spec.backend.toPorts[0].port !"], "{bad}");
    }
}

#[test]
fn vips_are_single_addresses_that_can_be_dialled() {
    for (good, canonical) in [
        ("169.254.0.90", "169.254.0.90"),
        ("10.0.0.1", "10.0.0.1"),
        ("240.0.0.1", "240.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("FD00:0::1", "fd00::1"),
        ("fe80::1", "fe80::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ] {
        let checked = edited(|v| v["spec"]["frontend"]["addressMatcher"]["ip"] = good.into());
        assert_eq!(brief(&checked), [""; 0], "{good}");
        assert_eq!(
            checked.policy.expect("valid").matcher,
            Matcher::Address(canonical.parse().expect("an address"))
        );
    }
    for bad in [
        "",
        "169.254.0",
        "1.2.3.4.5",
        "256.1.1.1",
        "010.0.0.1",
        " 10.0.0.1",
        "10.0.0.1 ",
        "10.0.0. 1",
        "10.0.0.1/32",
        "10.0.0.1:80",
        "[fd00::1]:80",
        "fe80::1%eth0",
        "10.0.0.1%eth0",
        "localhost",
        "web.default.svc",
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "255.255.255.255",
        "::ffff:0.0.0.0",
    ] {
        let checked = edited(|v| v["spec"]["frontend"]["addressMatcher"]["ip"] = bad.into());
        assert_eq!(brief(&checked), ["BAL0106 error spec.frontend.addressMatcher.ip !"], "{bad:?}");
        assert!(!checked.findings[0].help.is_empty(), "{bad:?} has no help");
    }
    let help = |ip: &str| {
        edited(|v| v["spec"]["frontend"]["addressMatcher"]["ip"] = ip.into()).findings[0].help.clone()
    };
    assert_eq!(help(" 10.0.0.1"), "remove the blanks around it");
    assert_eq!(help("10.0.0.1/32"), "a range cannot be matched; for the one address write 10.0.0.1");
    assert_eq!(help("[fd00::1]:80"), "the port goes into toPorts; write fd00::1 here");
    assert!(help("fe80::1%eth0").contains("zone"));
}

#[test]
fn protocols() {
    let with =
        |p: Value| edited(move |v| v["spec"]["frontend"]["addressMatcher"]["toPorts"][0]["protocol"] = p);
    let at = "spec.frontend.addressMatcher.toPorts[0].protocol";
    let lower = with(json!("tcp"));
    assert_eq!(brief(&lower), [format!("BAL0103 warning {at}")]);
    assert!(lower.policy.is_some(), "an agent understands it");
    for bad in ["SCTP", "ICMP", "", " TCP"] {
        assert_eq!(brief(&with(json!(bad))), [format!("BAL0103 error {at} !")], "{bad}");
    }
    assert_eq!(brief(&with(json!(6))), [format!("BAL0006 error {at} !")]);
    assert_eq!(brief(&with(Value::Null)), [format!("BAL0006 error {at} !")]);
}

#[test]
fn pairs_by_name_and_protocol() {
    let list = |ports: &[(u16, Protocol, &str)]| -> Vec<Port> {
        ports.iter().map(|&(n, p, name)| port(n, p, name)).collect()
    };
    let numbers = |front: &[(u16, Protocol, &str)], back: &[(u16, Protocol, &str)]| {
        let p = pair(&list(front), &list(back));
        let pairs: Vec<_> = p.pairs.iter().map(|p| (p.frontend.number, p.backend)).collect();
        (pairs, p.unpaired.iter().map(|p| p.number).collect::<Vec<_>>())
    };
    assert_eq!(
        numbers(&[(8080, Tcp, "p1"), (80, Tcp, "p2")], &[(81, Tcp, "p2"), (82, Tcp, "p1")]),
        (vec![(8080, 82), (80, 81)], vec![]),
        "order does not matter"
    );
    assert_eq!(numbers(&[(80, Tcp, "")], &[(81, Tcp, "x")]), (vec![(80, 81)], vec![]), "single");
    assert_eq!(
        numbers(&[(80, Tcp, "a")], &[(81, Tcp, "b")]),
        (vec![(80, 81)], vec![]),
        "single, other names"
    );
    assert_eq!(numbers(&[(80, Tcp, "a")], &[(81, Udp, "a")]), (vec![], vec![80]), "protocols differ");
    assert_eq!(
        numbers(&[(53, Udp, "dns"), (53, Tcp, "dns")], &[(81, Tcp, "dns"), (5353, Udp, "dns")]),
        (vec![(53, 5353), (53, 81)], vec![])
    );
    assert_eq!(
        numbers(&[(53, Udp, ""), (53, Tcp, "")], &[(1, Tcp, ""), (2, Udp, "")]),
        (vec![(53, 2), (53, 1)], vec![])
    );
    assert_eq!(
        numbers(&[(1, Tcp, "WEB"), (2, Tcp, "x")], &[(3, Tcp, "web")]),
        (vec![(1, 3)], vec![2]),
        "case"
    );
}

#[test]
fn unpaired_ports_do_not_take_the_others_down() {
    let ports = |front: Value, back: Value| {
        edited(move |v| {
            v["spec"]["frontend"]["addressMatcher"]["toPorts"] = front;
            v["spec"]["backend"]["toPorts"] = back;
        })
    };
    let p = |n: u16, protocol: &str, name: &str| json!({"port": n, "protocol": protocol, "name": name});
    let some =
        ports(json!([p(80, "TCP", "a"), p(81, "TCP", "b")]), json!([p(1, "TCP", "a"), p(2, "TCP", "c")]));
    assert_eq!(brief(&some), ["BAL0104 error spec.frontend.addressMatcher.toPorts[1].name"]);
    assert_eq!(some.findings[0].related.len(), 1);
    let Some(Ports::Listed(pairing)) = some.policy.map(|p| p.ports) else { panic!("it applies") };
    assert_eq!((pairing.pairs.len(), pairing.unpaired), (1, vec![port(81, Tcp, "b")]));

    let none =
        ports(json!([p(80, "TCP", "a"), p(81, "TCP", "b")]), json!([p(1, "TCP", "x"), p(2, "TCP", "y")]));
    assert!(
        none.policy.is_none() && none.findings.iter().all(|f| f.code == "BAL0104" && f.blocks),
        "{none:?}"
    );
    let protocols = ports(json!([p(80, "TCP", "a")]), json!([p(1, "UDP", "a")]));
    assert_eq!(brief(&protocols), ["BAL0104 error spec.backend.toPorts[0].protocol !"]);
    let unused = ports(json!([p(80, "TCP", "a")]), json!([p(1, "TCP", "a"), p(2, "TCP", "b")]));
    assert_eq!(brief(&unused), ["BAL0104 warning spec.backend.toPorts[1].name"]);
    let unnamed = ports(
        json!([{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]),
        json!([{"port": 1, "protocol": "TCP"}]),
    );
    assert_eq!(brief(&unnamed), ["BAL0104 error spec.frontend.addressMatcher.toPorts[1] !"]);

    let twice =
        ports(json!([p(80, "TCP", "a"), p(80, "TCP", "b")]), json!([p(1, "TCP", "a"), p(2, "TCP", "b")]));
    assert_eq!(brief(&twice), ["BAL0105 error spec.frontend.addressMatcher.toPorts[1].port !"]);
    let both =
        ports(json!([p(53, "TCP", "a"), p(53, "UDP", "b")]), json!([p(1, "TCP", "a"), p(1, "UDP", "b")]));
    assert_eq!(
        brief(&both),
        [""; 0],
        "a number may stand once for each protocol, and backends may repeat one"
    );
    let names = ports(json!([p(80, "TCP", "a"), p(81, "TCP", "A")]), json!([p(1, "TCP", "a")]));
    assert_eq!(brief(&names), ["BAL0105 error spec.frontend.addressMatcher.toPorts[1].name !"]);
    let names = ports(json!([p(80, "TCP", "a")]), json!([p(1, "TCP", "a"), p(2, "TCP", "a")]));
    assert_eq!(brief(&names), ["BAL0105 error spec.backend.toPorts[1].name !"]);
}

#[test]
fn ports_beside_the_matcher() {
    let beside = |inside: bool| {
        let list = json!([{"port": 80, "protocol": "TCP", "name": "http"}]);
        edited(move |v| {
            v["spec"]["frontend"] =
                json!({"serviceMatcher": {"serviceName": "s", "namespace": "n"}, "toPorts": list});
            if inside {
                v["spec"]["frontend"]["serviceMatcher"]["toPorts"] = list;
            }
        })
    };
    let accepted = beside(false);
    assert_eq!(brief(&accepted), ["BAL0109 warning spec.frontend.toPorts"]);
    assert!(matches!(accepted.policy.expect("it applies").ports, Ports::Listed(p) if p.pairs.len() == 1));
    assert_eq!(brief(&beside(true)), ["BAL0109 error spec.frontend.toPorts !"]);
    let vip = edited(|v| {
        let list = v["spec"]["frontend"]["addressMatcher"]["toPorts"].take();
        v["spec"]["frontend"]["toPorts"] = list;
    });
    assert_eq!(brief(&vip), ["BAL0109 error spec.frontend.toPorts !"]);
}

#[test]
fn exactly_one_of_two() {
    let frontend = |f: Value| edited(move |v| v["spec"]["frontend"] = f);
    let address = json!({"ip": "10.0.0.1", "toPorts": [{"port": 80, "protocol": "TCP"}]});
    let service = json!({"serviceName": "s", "namespace": "n"});
    assert_eq!(brief(&frontend(json!({}))), ["BAL0101 error spec.frontend !"]);
    assert_eq!(brief(&frontend(json!({"addressMatcher": null}))), ["BAL0101 error spec.frontend !"]);
    let both = json!({"addressMatcher": address, "serviceMatcher": service});
    assert_eq!(brief(&frontend(both)), ["BAL0101 error spec.frontend.serviceMatcher !"]);
    assert_eq!(
        brief(&frontend(json!({"adressMatcher": address}))),
        ["BAL0002 error spec.frontend.adressMatcher !"]
    );
    assert_eq!(brief(&frontend(Value::Null)), ["BAL0006 error spec.frontend !"]);
    let balancing = |b: Value| {
        edited(move |v| {
            v["kind"] = "BalancingPolicy".into();
            v["spec"]["backend"] = b;
        })
    };
    assert_eq!(brief(&balancing(json!({}))), ["BAL0101 error spec.backend !"]);
    let local = balancing(json!({"endpointSelector": {}, "toPorts": []}));
    assert_eq!(
        brief(&local),
        [
            "BAL0002 error spec.backend.endpointSelector",
            "BAL0002 error spec.backend.toPorts",
            "BAL0101 error spec.backend !"
        ]
    );
}

#[test]
fn selectors_as_kubernetes_reads_them() {
    let with = |s: Value| edited(move |v| v["spec"]["backend"]["endpointSelector"] = s);
    let expression = |e: Value| with(json!({"matchExpressions": [e]}));
    let at = "spec.backend.endpointSelector";
    for good in [
        json!({"key": "app", "operator": "In", "values": ["a", ""]}),
        json!({"key": "example.com/app", "operator": "NotIn", "values": ["a"]}),
        json!({"key": "app", "operator": "Exists"}),
        json!({"key": "app", "operator": "DoesNotExist", "values": []}),
    ] {
        assert_eq!(brief(&expression(good.clone())), [""; 0], "{good}");
    }
    for (bad, place) in [
        (json!({"key": "app", "operator": "In"}), "matchExpressions[0].operator"),
        (json!({"key": "app", "operator": "NotIn", "values": []}), "matchExpressions[0].operator"),
        (json!({"key": "app", "operator": "Exists", "values": ["a"]}), "matchExpressions[0].values"),
        (json!({"key": "app", "operator": "Sometimes"}), "matchExpressions[0].operator"),
        (json!({"key": "-app", "operator": "Exists"}), "matchExpressions[0].key"),
        (json!({"key": "a/b/c", "operator": "Exists"}), "matchExpressions[0].key"),
        (json!({"key": "app", "operator": "In", "values": ["a b"]}), "matchExpressions[0].values[0]"),
    ] {
        assert_eq!(brief(&expression(bad.clone())), [format!("BAL0107 error {at}.{place} !")], "{bad}");
    }
    let empty = with(json!({}));
    assert_eq!(brief(&empty), [format!("BAL0107 warning {at}")]);
    assert!(empty.policy.is_some());
    assert_eq!(brief(&with(json!({"app": "web"}))), [format!("BAL0107 error {at} !")]);
    assert_eq!(brief(&with(json!({"matchLabel": {"a": "b"}}))), [format!("BAL0002 error {at}.matchLabel !")]);
    assert_eq!(
        brief(&with(json!({"matchLabels": {"a": 1}}))),
        [format!("BAL0006 error {at}.matchLabels.a !")]
    );
    assert_eq!(brief(&with(Value::Null)), [format!("BAL0006 error {at} !")]);
}

#[test]
fn selectors_match_and_exclude() {
    let selector = |requirements: Vec<(&str, Condition)>| Selector {
        requirements: requirements
            .into_iter()
            .map(|(key, condition)| Requirement { key: key.to_owned(), condition })
            .collect(),
    };
    let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
    let labels = |key: &str| (key == "app").then_some("web");
    for (condition, app, other) in [
        (Condition::In(set(&["web", "x"])), true, false),
        (Condition::NotIn(set(&["web"])), false, true),
        (Condition::Exists, true, false),
        (Condition::DoesNotExist, false, true),
    ] {
        assert_eq!(selector(vec![("app", condition.clone())]).matches(labels), app, "{condition:?}");
        assert_eq!(selector(vec![("other", condition.clone())]).matches(labels), other, "{condition:?}");
    }
    assert!(Selector::default().matches(labels));
    let one = |c: Condition| selector(vec![("zone", c)]);
    let a = || one(Condition::In(set(&["a"])));
    assert!(a().excludes(&one(Condition::In(set(&["b"])))));
    assert!(a().excludes(&one(Condition::NotIn(set(&["a", "b"])))));
    assert!(one(Condition::NotIn(set(&["a"]))).excludes(&a()));
    assert!(a().excludes(&one(Condition::DoesNotExist)));
    assert!(one(Condition::DoesNotExist).excludes(&one(Condition::Exists)));
    assert!(!a().excludes(&one(Condition::In(set(&["a", "b"])))));
    assert!(!a().excludes(&selector(vec![("rack", Condition::In(set(&["b"])))])));
    assert!(!a().excludes(&Selector::default()));
}

#[test]
fn metadata_is_checked_too() {
    let meta = |m: Value| edited(move |v| v["metadata"] = m);
    assert_eq!(brief(&meta(json!({}))), ["BAL0005 error metadata.name !"]);
    assert_eq!(brief(&meta(Value::Null)), ["BAL0005 error metadata.name !"]);
    assert_eq!(brief(&meta(json!({"name": 5}))), ["BAL0006 error metadata.name !"]);
    assert_eq!(brief(&meta(json!({"name": "a".repeat(253)}))), [""; 0]);
    assert_eq!(brief(&meta(json!({"name": "a".repeat(254)}))), ["BAL0005 error metadata.name !"]);
    assert_eq!(brief(&meta(json!({"name": "a", "namespace": "n"}))), ["BAL0008 warning metadata.namespace"]);
    assert_eq!(brief(&meta(json!({"name": "a", "anotations": {}}))), ["BAL0002 error metadata.anotations"]);
    let odd = meta(json!({"name": "a", "annotations": {"x": 1}}));
    assert_eq!(brief(&odd), ["BAL0006 error metadata.annotations.x"]);
    assert!(odd.policy.is_some(), "labels and annotations do not keep a policy from working");
    for (id, valid) in [
        ("1", true),
        ("4294967295", true),
        ("0", false),
        ("4294967296", false),
        ("+1", false),
        ("01", false),
        ("x", false),
        ("", false),
    ] {
        let checked = meta(json!({"name": "a", "annotations": {"balancing.elf.io/serviceId": id}}));
        assert_eq!(checked.findings.is_empty(), valid, "{id}");
        let policy = checked.policy.expect("the id is a label and blocks nothing");
        assert_eq!(policy.service_id.is_some(), valid, "{id}");
    }
    assert_eq!(
        brief(&meta(json!({"name": "a", "creationTimestamp": "yesterday"}))),
        ["BAL0006 error metadata.creationTimestamp !"]
    );
    assert_eq!(brief(&meta(json!({"name": "a", "creationTimestamp": null}))), [""; 0]);
}

#[test]
fn limits() {
    let with = |n: Value| edited(move |v| v["spec"]["qos"] = json!({"redirectsPerSecond": n}));
    for (good, limit) in [(json!(0), 0), (json!(1), 1), (json!(u32::MAX), u32::MAX)] {
        assert_eq!(with(good).policy.expect("valid").redirects_per_second, Some(limit));
    }
    assert_eq!(with(Value::Null).policy.expect("valid").redirects_per_second, None);
    for bad in [json!(-1), json!(4_294_967_296_u64), json!(1.5), json!("100"), json!(true)] {
        assert_eq!(brief(&with(bad.clone())), ["BAL0111 error spec.qos.redirectsPerSecond !"], "{bad}");
    }
}

#[test]
fn fixed_addresses() {
    let with = |vip: &str, addresses: Value| {
        let vip = vip.to_owned();
        edited(move |v| {
            v["kind"] = "BalancingPolicy".into();
            v["spec"]["frontend"]["addressMatcher"]["ip"] = vip.into();
            v["spec"]["backend"] = json!({"addressEndpoint": {"addresses": addresses, "toPorts": [{"port": 1, "protocol": "TCP"}]}});
        })
    };
    let at = "spec.backend.addressEndpoint.addresses";
    assert_eq!(brief(&with("10.0.0.1", json!(["10.0.0.2"]))), [""; 0]);
    assert_eq!(brief(&with("10.0.0.1", json!([]))), [format!("BAL0006 error {at} !")]);
    assert_eq!(
        brief(&with("10.0.0.1", json!(["host", 7]))),
        [format!("BAL0106 error {at}[0] !"), format!("BAL0006 error {at}[1] !")]
    );
    assert_eq!(
        brief(&with("10.0.0.1", json!(["10.0.0.2", "::ffff:10.0.0.2"]))),
        [format!("BAL0105 warning {at}[1]")]
    );
    assert_eq!(brief(&with("10.0.0.1", json!(["127.0.0.1"]))), [format!("BAL0106 warning {at}[0]")]);
    assert_eq!(brief(&with("10.0.0.1", json!(["0.0.0.0"]))), [format!("BAL0106 error {at}[0] !")]);
    assert_eq!(brief(&with("10.0.0.1", json!(["10.0.0.2", "fd00::2"]))), [format!("BAL0112 warning {at}")]);
    let other = with("10.0.0.1", json!(["fd00::2"]));
    assert_eq!(brief(&other), [format!("BAL0112 error {at}")]);
    assert!(other.policy.is_some(), "it is without backends, which is no reason not to apply it");
}

#[test]
fn unknown_fields_apply_and_are_told() {
    let checked = edited(|v| v["spec"]["surprise"] = json!({"a": 1}));
    assert_eq!(brief(&checked), ["BAL0002 error spec.surprise"]);
    assert!(checked.policy.is_some());
    let help = |edit: fn(&mut Value)| edited(edit).findings[0].help.clone();
    assert_eq!(help(|v| v["spec"]["Qos"] = json!({})), "did you mean \"qos\"?");
    let short = |v: &mut Value| {
        v["spec"]["frontend"] = json!({"serviceMatcher": {"name": "web", "namespace": "default"}})
    };
    assert_eq!(help(short), "did you mean \"serviceName\"?");
    assert_eq!(
        help(|v| v["spec"]["backend"]["onNoBackend"] = json!("Refuse")),
        "onNoBackend belongs in spec.config"
    );
    assert_eq!(help(|v| v["spec"]["zzz"] = json!(1)), "known here: config, frontend, backend, qos");
    let misspelt = edited(|v| {
        let selector = v["spec"]["backend"]["endpointSelector"].take();
        v["spec"]["backend"]["endpointSelectr"] = selector;
    });
    assert_eq!(brief(&misspelt), ["BAL0002 error spec.backend.endpointSelectr !"], "said once");
}

#[test]
fn what_is_meant_to_be_a_policy_is_looked_at() {
    let concerned =
        |api_version: &str, kind: &str| concerns(&json!({"apiVersion": api_version, "kind": kind}));
    assert!(concerned("balancing.elf.io/v1beta1", "LocalRedirectPolicy"));
    assert!(concerned("balancing.elf.io/v9", "Whatever"));
    assert!(concerned("v1", "BalancingPolicy"));
    assert!(!concerned("balancing.elf.io/v1beta1", "NodeBalancingState"));
    assert!(!concerned("v1", "Service"));
    assert!(!concerned("cilium.io/v2", "CiliumLocalRedirectPolicy"));
    assert!(concerns(&json!({"spec": {"frontend": {}, "backend": {}}})));
    assert!(!concerns(&json!([1])) && !concerns(&Value::Null));
}

/// Two policies after edits -> (index of the one it is about, its code and severity, the message).
fn set(first: impl FnOnce(&mut Value), second: impl FnOnce(&mut Value)) -> Vec<(usize, String, String)> {
    let policies = [edited(first), edited(second)].map(|c| c.policy.expect("valid"));
    check_set(&policies)
        .into_iter()
        .map(|f| (f.policy, format!("{} {}", f.finding.code, f.finding.severity), f.finding.message))
        .collect()
}

#[test]
fn conflicts_name_the_winner_by_the_rule() {
    let named = |name: &'static str, created: Option<&'static str>| {
        move |v: &mut Value| {
            v["metadata"]["name"] = name.into();
            v["metadata"]["creationTimestamp"] = json!(created);
        }
    };
    let (old, young) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
    for (a, b, loser, why) in [
        (old, young, 1, "goes to LocalRedirectPolicy/a: it is older"),
        (young, old, 0, "goes to LocalRedirectPolicy/b: it is older"),
        (
            old,
            None,
            0,
            "goes to LocalRedirectPolicy/b: without a creationTimestamp it counts as the older one",
        ),
        (old, old, 1, "goes to LocalRedirectPolicy/a: of the same age, the first by name wins"),
        (None, None, 1, "goes to LocalRedirectPolicy/a: of the same age, the first by name wins"),
    ] {
        let found = set(named("a", a), named("b", b));
        assert_eq!(found, [(loser, "BAL0202 error".to_owned(), format!("80/TCP of 169.254.0.90 {why}"))]);
    }
    let balancing = |v: &mut Value| {
        v["kind"] = "BalancingPolicy".into();
        let ports = v["spec"]["backend"]["toPorts"].take();
        v["spec"]["backend"] = json!({"addressEndpoint": {"addresses": ["10.0.0.9"], "toPorts": ports}});
    };
    let found = set(balancing, |_| {});
    assert_eq!(found[0].0, 0);
    assert!(
        found[0].2.ends_with("a LocalRedirectPolicy comes before a BalancingPolicy of the same age"),
        "{found:?}"
    );
}

#[test]
fn only_what_meets_conflicts() {
    let other = |edit: fn(&mut Value)| {
        move |v: &mut Value| {
            v["metadata"]["name"] = "z".into();
            edit(v);
        }
    };
    let zone = |v: &mut Value, z: &str| {
        v["spec"]["config"] = json!({"nodeLabelSelector": {"matchLabels": {"zone": z}}})
    };
    let codes =
        |found: Vec<(usize, String, String)>| found.into_iter().map(|(i, c, _)| (i, c)).collect::<Vec<_>>();
    let none: [(usize, String); 0] = [];
    let front =
        |v: &mut Value, key: &str, x: Value| v["spec"]["frontend"]["addressMatcher"]["toPorts"][0][key] = x;
    assert_eq!(
        codes(set(|_| {}, other(|v| v["spec"]["frontend"]["addressMatcher"]["ip"] = "10.9.9.9".into()))),
        none
    );
    assert_eq!(
        codes(set(
            |_| {},
            move |v| {
                v["metadata"]["name"] = "z".into();
                front(v, "port", json!(81));
            }
        )),
        none
    );
    assert_eq!(
        codes(set(
            move |v| zone(v, "a"),
            move |v| {
                v["metadata"]["name"] = "z".into();
                zone(v, "b");
            }
        )),
        none
    );
    assert_eq!(
        codes(set(
            move |v| zone(v, "a"),
            move |v| {
                v["metadata"]["name"] = "z".into();
                zone(v, "a");
            }
        )),
        [(1, "BAL0202 error".to_owned())]
    );
    assert_eq!(
        codes(set(move |v| zone(v, "a"), other(|_| {}))),
        [(1, "BAL0202 warning".to_owned())],
        "the loser still works on other nodes"
    );
    assert_eq!(
        codes(set(
            |_| {},
            move |v| {
                v["metadata"]["name"] = "z".into();
                zone(v, "a");
            }
        )),
        [(1, "BAL0202 error".to_owned())],
        "the winner is on every node"
    );
    assert_eq!(
        codes(set(|_| {}, |_| {})),
        [(1, "BAL0205 error".to_owned())],
        "the same object is no conflict with itself"
    );
    let service = |name: &'static str, ports: Option<Value>| {
        move |v: &mut Value| {
            v["metadata"]["name"] = name.into();
            v["spec"]["frontend"] =
                json!({"serviceMatcher": {"serviceName": "s", "namespace": "n", "toPorts": ports}});
        }
    };
    let listed = || Some(json!([{"port": 80, "protocol": "TCP"}]));
    assert_eq!(codes(set(service("a", None), service("b", listed()))), [(1, "BAL0201 error".to_owned())]);
    assert_eq!(codes(set(service("a", None), service("b", None))), [(1, "BAL0201 error".to_owned())]);
    assert_eq!(codes(set(service("a", listed()), |_| {})), none, "a VIP and a Service are not compared");
    let id = |name: &'static str| {
        move |v: &mut Value| {
            v["metadata"] = json!({"name": name, "annotations": {"balancing.elf.io/serviceId": "7"}});
            v["spec"]["frontend"]["addressMatcher"]["ip"] = format!("10.0.0.{}", name.len()).into();
        }
    };
    assert_eq!(codes(set(id("a"), id("bb"))), [(1, "BAL0108 error".to_owned())]);
}

/// Any JSON value, with the words of policies in it.
fn any_value() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "spec",
        "frontend",
        "backend",
        "addressMatcher",
        "serviceMatcher",
        "toPorts",
        "port",
        "protocol",
        "name",
        "TCP",
        "80",
        "endpointSelector",
        "matchLabels",
        "matchExpressions",
        "metadata",
        "config",
        "qos",
        "ip",
        "10.0.0.1",
        "",
        "界",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((words.clone(), inner), 0..6)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in place of any part of a policy: no panic, and a policy exactly where nothing blocks it.
    #[test]
    fn any_object_is_answered(value in any_value(), at in 0_usize..8, balancing: bool) {
        let checked = edited(|v| {
            if balancing { v["kind"] = "BalancingPolicy".into(); }
            *match at {
                0 => &mut v["spec"],
                1 => &mut v["spec"]["frontend"],
                2 => &mut v["spec"]["backend"],
                3 => &mut v["spec"]["frontend"]["addressMatcher"]["toPorts"],
                4 => &mut v["spec"]["backend"]["endpointSelector"],
                5 => &mut v["metadata"],
                6 => &mut v["spec"]["config"],
                _ => v,
            } = value;
        });
        prop_assert_eq!(checked.policy.is_some(), checked.blocking().next().is_none(), "{:?}", checked);
        prop_assert!(checked.findings.iter().all(|f| rule(f.code).is_some() && !f.message.is_empty()));
    }
}

#[test]
fn services_of_the_same_files() {
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\nspec: {spec}\n---\n")
    };
    let policy = |front: &str, back: &str| {
        format!(
            "apiVersion: balancing.elf.io/v1beta1\nkind: LocalRedirectPolicy\nmetadata: {{name: p}}\nspec:\n  frontend: {front}\n  backend: {{endpointSelector: {{matchLabels: {{a: b}}}}, toPorts: {back}}}\n"
        )
    };
    let by_name = |ports: &str| format!("{{serviceMatcher: {{serviceName: s, namespace: shop{ports}}}}}");
    let two = "{clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{name: a, port: 80}, {name: b, port: 53, protocol: UDP}]}";
    let check = |spec: &str, front: &str, back: &str| codes(&(service(spec) + &policy(front, back)));
    let none: [&str; 0] = [];
    let one = "[{port: 1, protocol: TCP}]";
    assert_eq!(
        check(two, &by_name(", toPorts: [{port: 80, protocol: TCP}]"), one),
        none,
        "names do not matter"
    );
    assert_eq!(
        check(two, &by_name(", toPorts: [{port: 53, protocol: TCP}]"), one),
        ["BAL0302"],
        "protocols do"
    );
    assert_eq!(check(two, &by_name(""), "[{port: 1, protocol: UDP, name: b}]"), none);
    assert_eq!(check(two, &by_name(""), "[{port: 1, protocol: TCP, name: x}]"), ["BAL0302"]);
    assert_eq!(
        check("{clusterIP: 10.0.0.1, ports: [{port: 80}]}", &by_name(""), one),
        none,
        "single ports pair"
    );
    assert_eq!(check("{clusterIP: None, ports: [{port: 80}]}", &by_name(""), one), ["BAL0301"]);
    assert_eq!(check("{type: ExternalName, externalName: x}", &by_name(""), one), ["BAL0301"]);
    let vip =
        |ip: &str| format!("{{addressMatcher: {{ip: '{ip}', toPorts: [{{port: 80, protocol: TCP}}]}}}}");
    assert_eq!(check(two, &vip("FD00::1"), one), ["BAL0203"]);
    assert_eq!(check(two, &vip("10.0.0.2"), one), none);
    assert_eq!(
        codes(&policy(&by_name(""), one)),
        none,
        "a Service that is not in the files may be in the cluster"
    );
}
