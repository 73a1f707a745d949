//! Explanations of a node's documents: each way in which a policy can fail, and the decision of each kind.

use balancing_api::{
    agent::{Caller, DecisionVerdict, Otherwise, QosState, WantedPod},
    cli::{
        CheckStatus, ConnectionExplanation, DECISION, Effective, POLICY_EXPLANATION, PolicyExplanation,
        document,
    },
    names::rung_reason,
    net::Protocol,
};

use super::{
    connection,
    policy::{Facts, explain},
    policy_text::text,
};
use crate::{
    fixture::{World, backend, frontend, info, lr, policy_rung, snapshots, world},
    simulate::{Flow, agree, simulate},
};

fn explained(world: &World, name: &str, used: Option<u32>) -> PolicyExplanation {
    let policy = world.status.policies.iter().find(|p| p.name == name).unwrap();
    let facts = Facts {
        status: &world.status,
        programmed: &world.programmed,
        desired: &world.desired,
        counters: &world.counters,
        qos: used.map(|used| QosState { limit: policy.redirects_per_second, used }),
    };
    explain(policy, facts)
}

/// The check that decides: the first that failed, or else the first warning.
fn deciding(e: &PolicyExplanation) -> Option<&str> {
    let first = |status| e.checks.iter().find(|c| c.status == status).map(|c| c.code.as_str());
    first(CheckStatus::Failed).or_else(|| first(CheckStatus::Warning))
}

fn shows(
    name: &str,
    world: &World,
    policy: &str,
    used: Option<u32>,
    effective: Effective,
    check: Option<&str>,
) {
    let e = explained(world, policy, used);
    assert_eq!((e.effective, deciding(&e)), (effective, check), "{:#?}", e.checks);
    snapshots().bind(|| {
        insta::assert_snapshot!(format!("explain-policy-{name}"), text(&e, &world.counters, false));
    });
}

#[test]
fn effective() {
    shows("effective", &world(), "node-local-dns", Some(37), Effective::Yes, None);
}

#[test]
fn selector_that_matches_nothing() {
    shows("no-local-pod", &world(), "apiserver-cache", None, Effective::No, Some("BackendsSelected"));
}

#[test]
fn pod_that_is_not_ready() {
    shows("not-ready", &world(), "log-cache", None, Effective::No, Some("BackendsReady"));
}

#[test]
fn conflict_with_its_winner() {
    shows("conflict", &world(), "shadow-dns", None, Effective::No, Some("NoConflict"));
    let next = |e: &PolicyExplanation| e.checks.iter().find(|c| c.code == "NoConflict").unwrap().next.clone();
    assert!(next(&explained(&world(), "shadow-dns", None)).ends_with("explain policy lr/node-local-dns"));
}

#[test]
fn service_that_does_not_exist() {
    shows("no-service", &world(), "lost", None, Effective::No, Some("FrontendResolved"));
}

#[test]
fn spec_that_breaks_a_rule() {
    shows("invalid", &world(), "typo", None, Effective::No, Some("SpecValid"));
}

#[test]
fn node_that_is_not_selected() {
    shows("not-selected", &world(), "zoned", None, Effective::No, Some("NodeSelected"));
}

#[test]
fn family_without_a_backend() {
    shows("partly", &world(), "edge-proxy", None, Effective::Partly, Some("EveryFrontendTaken"));
}

#[test]
fn limit_that_is_used_up() {
    shows("limit-reached", &world(), "node-local-dns", Some(100), Effective::Yes, Some("WithinLimit"));
}

#[test]
fn exemption_without_cgroup() {
    let mut world = world();
    world.policy("node-local-dns").exempt_callers.active = 0;
    shows("exemption-inactive", &world, "node-local-dns", Some(0), Effective::Yes, Some("ExemptionActive"));
}

#[test]
fn a_pod_with_two_ports_is_one_pod() {
    let mut world = world();
    world.policy("node-local-dns").backends.wanted = 2;
    let e = explained(&world, "node-local-dns", None);
    let selected = e.checks.iter().find(|c| c.code == "BackendsSelected").unwrap();
    assert_eq!(selected.observed, "1 pod on this node matches k8s-app=node-local-dns in any namespace");
}

#[test]
fn maps_that_lack_a_backend() {
    let mut world = world();
    for items in [&mut world.desired.items] {
        for i in [1, 2] {
            items[i].rungs[0].backends.push(backend(
                "10.244.1.8",
                53,
                "kube-system/node-local-dns-new",
                "n1",
            ));
        }
    }
    let policy = world.policy("node-local-dns");
    policy.backends.wanted = 2;
    let pod = "kube-system/node-local-dns-new".to_owned();
    policy.wanted.pods.push(WantedPod { pod, usable: true, reason: "Ready".to_owned() });
    world.condition("PoliciesProgrammed", "False", "MapFull", "map backends is full: 65536 of 65536");
    shows("not-programmed", &world, "node-local-dns", Some(0), Effective::Partly, Some("Programmed"));
    let e = explained(&world, "node-local-dns", None);
    assert_eq!(e.backends.missing, [backend("10.244.1.8", 53, "kube-system/node-local-dns-new", "n1")]);
    assert!(e.backends.surplus.is_empty());
    assert!(text(&e, &world.counters, false).starts_with("DIFFERS"));
}

#[test]
fn programs_that_are_detached() {
    let mut world = world();
    for program in &mut world.status.datapath.programs {
        program.attached = program.hook != "connect4" && program.hook != "sendmsg4";
    }
    world.condition("ProgramsAttached", "False", "Detached", "somebody detached them");
    shows("detached", &world, "node-local-dns", Some(0), Effective::No, Some("ProgramsAttached"));
}

#[test]
fn file_that_cannot_be_read() {
    let mut world = world();
    world.source_error(
        "20-dns.yaml",
        7,
        "LocalRedirectPolicy/node-local-dns",
        "mapping values are not allowed here",
    );
    shows("source-error", &world, "node-local-dns", Some(0), Effective::Yes, Some("SourcesFresh"));
}

#[test]
fn files_that_cannot_be_read_concern_all_but_those_of_other_policies() {
    let mut world = world();
    world.condition("SourcesSynced", "False", "SourceErrors", "");
    world.source_error("30.yaml", 7, "BalancingPolicy/other", "no");
    assert_eq!(deciding(&explained(&world, "node-local-dns", Some(0))), None);
    world.source_error("10.yaml", 9, "Pod/default/x", "status.podIPs[0].ip: 300.1.1.1 is no address");
    let e = explained(&world, "node-local-dns", Some(0));
    assert_eq!((e.effective, deciding(&e)), (Effective::Yes, Some("SourcesFresh")));
    assert!(e.checks[4].observed.contains("1 object or file") && e.checks[4].observed.contains("10.yaml:9"));
}

/// An agent that started on a broken policy keeps what the one before it wrote: `explain` says what the maps do.
#[test]
fn kept_from_before_the_policy_was_broken() {
    let mut world = world();
    let frontend = frontend("169.254.0.90", 80, Protocol::Tcp);
    let rung = policy_rung(lr("typo"), 50, vec![backend("10.244.1.9", 8080, "web/typo-1", "n1")]);
    world.programmed.items.push(info(frontend, vec![rung], Otherwise::Untouched));
    let e = explained(&world, "typo", None);
    assert!(e.frontends[0].kept && e.frontends[0].effective && !e.frontends[0].programmed);
    assert_eq!(e.ladder[0].rungs.len(), 1);
    assert_eq!(e.qos.redirects_per_second, 50);
    shows("kept", &world, "typo", None, Effective::Partly, Some("SpecValid"));
    // Whoever asks for the connection is told too.
    let flow = host("169.254.0.90", 80, Protocol::Tcp);
    let live = simulate(&world.programmed, &world.status, &flow);
    let intended = simulate(&world.desired, &world.status, &flow);
    let c = ConnectionExplanation { to: flow.to, live, intended, differs: true };
    let said = connection::text(&connection::From(flow.from.clone()), &c, &world.status, false);
    assert!(
        said.contains("so what it said before is kept: kubectl balancing explain policy lr/typo"),
        "{said}"
    );
    // What is wrong is the policy, not the programming.
    assert_eq!(super::node::differing(&world.status, &world.programmed, &world.desired), []);
}

#[test]
fn nobody_has_dialled_yet() {
    let mut world = world();
    world.counters.policies.clear();
    let e = explained(&world, "node-local-dns", Some(0));
    assert_eq!((e.effective, deciding(&e)), (Effective::Yes, Some("TrafficSeen")));
    assert!(e.checks.last().unwrap().next.ends_with("--to 10.96.0.10:53/tcp"));
}

/// The documents are a contract: a change of these snapshots is a change of it.
#[test]
fn documents() {
    let world = world();
    let e = document(POLICY_EXPLANATION, explained(&world, "apiserver-cache", None));
    let flow = host("10.96.0.10", 53, Protocol::Udp);
    let live = simulate(&world.programmed, &world.status, &flow);
    let c = ConnectionExplanation { to: flow.to, intended: live.clone(), live, differs: false };
    snapshots().bind(|| {
        insta::assert_snapshot!("explain-policy-json", serde_json::to_string_pretty(&e).unwrap());
        insta::assert_snapshot!(
            "explain-connection-json",
            serde_json::to_string_pretty(&document(DECISION, c)).unwrap()
        );
    });
}

/// After the check that decides nothing is claimed.
#[test]
fn later_checks_are_not_reached() {
    let e = explained(&world(), "lost", None);
    let failed = e.checks.iter().position(|c| c.status == CheckStatus::Failed).unwrap();
    assert!(e.checks[..failed].iter().all(|c| c.status == CheckStatus::Passed));
    assert!(
        e.checks[failed + 1..].iter().all(|c| c.status == CheckStatus::NotReached && c.observed.is_empty())
    );
    assert_eq!(e.checks.len(), explained(&world(), "edge-proxy", None).checks.len());
}

// ---------------------------------------------------------------- connections

fn flow(from: Caller, to: &str, port: u16, protocol: Protocol, used: u32) -> Flow {
    Flow { from, to: frontend(to, port, protocol), used }
}

fn host(to: &str, port: u16, protocol: Protocol) -> Flow {
    flow(Caller::Host(true), to, port, protocol, 0)
}

#[test]
fn the_intended_decision() {
    let world = world();
    let decide = |flow: &Flow| simulate(&world.desired, &world.status, flow);
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let reasons = |flow: &Flow| decide(flow).rungs.into_iter().map(|r| r.reason).collect::<Vec<_>>();
    let dns = host("10.96.0.10", 53, udp);
    assert_eq!(decide(&dns).verdict, DecisionVerdict::Redirect);
    assert_eq!(decide(&dns).backends, [backend("10.244.1.7", 53, "kube-system/node-local-dns-x9f", "n1")]);
    assert_eq!(reasons(&dns), [rung_reason::TAKEN, rung_reason::NOT_REACHED]);
    assert_eq!(decide(&dns).hooks, ["connect4", "sendmsg4"]);
    assert_eq!(decide(&dns).qos, Some(QosState { limit: 100, used: 0 }));
    let saturated = flow(Caller::Host(true), "10.96.0.10", 53, udp, 100);
    assert_eq!(decide(&saturated).verdict, DecisionVerdict::Service);
    assert_eq!(decide(&saturated).backends.len(), 2);
    assert_eq!(reasons(&saturated), [rung_reason::QOS_LIMIT, rung_reason::TAKEN]);
    let own = Caller::Pod("kube-system/node-local-dns-x9f".to_owned());
    assert_eq!(
        reasons(&flow(own, "10.96.0.10", 53, tcp, 0)),
        [rung_reason::EXEMPT_CALLER, rung_reason::TAKEN]
    );
    let other = Caller::Pod("default/web-0".to_owned());
    assert_eq!(decide(&flow(other, "10.96.0.10", 53, tcp, 0)).verdict, DecisionVerdict::Redirect);
    assert_eq!(decide(&host("10.96.7.7", 443, tcp)).verdict, DecisionVerdict::Balance);
    let six = host("fd00:96::7", 443, tcp);
    assert_eq!(
        (decide(&six).verdict, decide(&six).hooks),
        (DecisionVerdict::Service, vec!["connect6".to_owned()])
    );
    assert_eq!(reasons(&six), [rung_reason::NO_BACKEND, rung_reason::TAKEN]);
    assert_eq!(decide(&host("10.96.0.1", 443, tcp)).verdict, DecisionVerdict::Service);
    let refused = host("10.96.0.40", 80, tcp);
    assert_eq!(
        (decide(&refused).verdict, reasons(&refused)),
        (DecisionVerdict::Refuse, vec!["NoBackend".to_owned()])
    );
    let vip = host("169.254.0.90", 443, tcp);
    assert_eq!(
        (decide(&vip).verdict, reasons(&vip)),
        (DecisionVerdict::Untouched, vec!["NoLocalBackend".to_owned()])
    );
    let nowhere = decide(&host("192.0.2.1", 1, tcp));
    assert_eq!((nowhere.verdict, nowhere.rungs.len()), (DecisionVerdict::Untouched, 0));
}

#[test]
fn a_frontend_of_the_hosts_own_comes_first_for_the_host() {
    let mut world = world();
    let mut own = world.desired.items[3].clone();
    own.scope = "HostNetwork".to_owned();
    own.rungs = vec![policy_rung(lr("node-local-dns"), 0, vec![backend("10.244.1.7", 53, "", "")])];
    own.otherwise = Otherwise::Untouched;
    world.desired.items.push(own);
    let to = |from| {
        simulate(&world.desired, &world.status, &flow(from, "10.96.0.40", 80, Protocol::Tcp, 0)).verdict
    };
    assert_eq!(to(Caller::Host(true)), DecisionVerdict::Redirect);
    assert_eq!(to(Caller::Pod("a/b".to_owned())), DecisionVerdict::Refuse);
}

#[test]
fn decisions_agree_whatever_the_order_and_the_budget() {
    let world = world();
    let a = simulate(&world.desired, &world.status, &host("10.96.0.10", 53, Protocol::Udp));
    let mut b = a.clone();
    b.qos = Some(QosState { limit: 100, used: 99 });
    b.backends.reverse();
    assert!(agree(&a, &b));
    b.backends.clear();
    assert!(!agree(&a, &b));
    // A rung without backends may be named or not; one that was skipped for another reason may not.
    let fallback = simulate(&world.desired, &world.status, &host("10.96.4.4", 9200, Protocol::Tcp));
    let mut shorter = fallback.clone();
    shorter.rungs.remove(0);
    assert!(agree(&fallback, &shorter));
    let mut exempt = fallback.clone();
    exempt.rungs[0].reason = rung_reason::EXEMPT_CALLER.to_owned();
    assert!(!agree(&exempt, &shorter));
}

fn connection_text(world: &World, flow: &Flow) -> String {
    let live = simulate(&world.programmed, &world.status, flow);
    let intended = simulate(&world.desired, &world.status, flow);
    let differs = !agree(&live, &intended);
    let c = ConnectionExplanation { to: flow.to, live, intended, differs };
    connection::text(&connection::From(flow.from.clone()), &c, &world.status, false)
}

#[test]
fn connections_in_words() {
    let mut differing = world();
    differing.programmed.items[2].rungs[0].backends.clear();
    let mut detached = world();
    detached.status.datapath.programs.iter_mut().for_each(|p| p.attached = false);
    let own =
        flow(Caller::Pod("kube-system/node-local-dns-x9f".to_owned()), "10.96.0.10", 53, Protocol::Udp, 12);
    snapshots().bind(|| {
        for (name, world, flow) in [
            ("redirect", &world(), host("10.96.0.10", 53, Protocol::Udp)),
            ("over-the-limit", &world(), flow(Caller::Host(true), "10.96.0.10", 53, Protocol::Tcp, 100)),
            ("exempt", &world(), own),
            ("balance", &world(), host("10.96.7.7", 443, Protocol::Tcp)),
            ("service", &world(), host("10.96.0.1", 443, Protocol::Tcp)),
            ("refuse", &world(), host("10.96.0.40", 80, Protocol::Tcp)),
            ("fallback-to-nothing", &world(), host("169.254.0.90", 443, Protocol::Tcp)),
            ("no-frontend", &world(), host("192.0.2.1", 80, Protocol::Tcp)),
            ("differs", &differing, host("10.96.0.10", 53, Protocol::Udp)),
            ("detached", &detached, host("10.96.0.10", 53, Protocol::Udp)),
        ] {
            insta::assert_snapshot!(format!("explain-connection-{name}"), connection_text(world, &flow));
        }
    });
}
