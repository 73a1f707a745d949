use balancing_api::{
    agent::{BackendAddress, EventOutcome, EventSource, Process},
    net::Protocol,
};
use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::{
    cli::{Cli, Command},
    fixture::{frontend, lr, snapshots, time},
};

/// An event of a redirect.
pub(super) fn event(pid: u32) -> Event {
    Event {
        time: time("2026-11-21T15:31:07.5Z") + SignedDuration::from_millis(i64::from(pid)),
        outcome: EventOutcome::Redirect,
        hook: "sendmsg4".to_owned(),
        process: Process { pid, comm: "dig".to_owned() },
        cgroup_id: 4129,
        pod: Some("default/web-0".to_owned()),
        container: None,
        from: EventSource { netns: 7 },
        to: frontend("10.96.0.10", 53, Protocol::Udp),
        chosen: Some(BackendAddress { address: "10.244.1.7".parse().unwrap(), port: 53 }),
        policy: Some(lr("node-local-dns")),
        service: Some("kube-system/kube-dns".to_owned()),
        failure: None,
    }
}

/// One of several kinds, their process ids 1 to 4.
pub(super) fn events() -> Vec<Event> {
    let drop = Event {
        outcome: EventOutcome::QosDrop,
        pod: None,
        to: frontend("10.96.0.10", 53, Protocol::Tcp),
        chosen: Some(BackendAddress { address: "10.244.2.3".parse().unwrap(), port: 53 }),
        failure: Some("QosLimit".to_owned()),
        ..event(2)
    };
    let service = Event {
        outcome: EventOutcome::Service,
        process: Process { pid: 3, comm: "curl".to_owned() },
        to: frontend("fd00:96::7", 443, Protocol::Tcp),
        chosen: Some(BackendAddress { address: "fd00:244:2::8".parse().unwrap(), port: 8443 }),
        policy: None,
        service: Some("web/gateway".to_owned()),
        ..event(3)
    };
    let refuse = Event {
        outcome: EventOutcome::Refuse,
        pod: None,
        process: Process { pid: 4, comm: "\u{1b}[2Jx".to_owned() },
        to: frontend("10.96.0.40", 80, Protocol::Tcp),
        chosen: None,
        policy: None,
        service: None,
        failure: Some("NoBackend".to_owned()),
        ..event(4)
    };
    vec![event(1), drop, service, refuse]
}

pub(super) fn args(line: &str) -> TraceArgs {
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Some(Command::Trace(args)) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lines_for_people_and_for_programs() {
    let mut table = Table::new(false, &["n1"]);
    let mut text = table.header();
    let mut json = String::new();
    for event in events() {
        text.push_str(&table.event("n1", &event));
        json.push_str(&json_event("n1", event).unwrap());
    }
    let mut long = event(5);
    long.pod = Some(format!("default/{}", "x".repeat(245)));
    text.push_str(&table.event("n1", &long));
    text.push_str(&table.lost("n1", 12));
    text.push_str(&table.event("n1", &event(6)));
    json.push_str(&json_lost("n1", 12).unwrap());
    assert!(!text.contains('\u{1b}'));
    assert_eq!(json.lines().count(), 5);
    snapshots().bind(|| {
        insta::assert_snapshot!("trace-text", text);
        insta::assert_snapshot!("trace-json", json);
    });
}

#[test]
fn a_coloured_line_has_the_same_letters() {
    let mut plain = Table::new(false, &["n1", "n2"]);
    let mut coloured = Table::new(true, &["n1", "n2"]);
    for event in events() {
        let line = coloured.event("n1", &event);
        assert!(line.contains('\u{1b}') || event.outcome == EventOutcome::Service);
        let mut parts = line.split('\u{1b}');
        let mut stripped = parts.next().unwrap().to_owned();
        parts.for_each(|p| stripped.push_str(p.split_once('m').unwrap().1));
        assert_eq!(stripped, plain.event("n1", &event));
    }
}

#[test]
fn what_the_agent_is_asked() {
    for (line, stream, past) in [
        ("x trace", "/v1/events?follow=true&rate=100", "/v1/events"),
        ("x trace --rate 0", "/v1/events?follow=true", "/v1/events"),
        (
            "x trace --policy a --last 5",
            "/v1/events?follow=true&policy=a&rate=100",
            "/v1/events?policy=a&limit=5",
        ),
        ("x trace --from-pod a/b --last 5", "/v1/events?follow=true", "/v1/events"),
        ("x trace --last 5 --since 1m", "/v1/events?follow=true&rate=100", "/v1/events"),
    ] {
        assert_eq!(
            (query(&args(line), true), query(&args(line), false)),
            (stream.to_owned(), past.to_owned())
        );
    }
}

#[test]
fn the_last_events_of_those_that_pass() {
    let pids = |line: &str| {
        let now = time("2026-11-21T15:31:08.5Z");
        let events = events().into_iter().map(|e| (0, e)).collect();
        chosen(&args(line), events, now).iter().map(|(_, e)| e.process.pid).collect::<Vec<_>>()
    };
    assert_eq!(pids("x trace --last 2"), [3, 4]);
    assert_eq!(pids("x trace --last 2 --not --outcome refuse"), [2, 3]);
    assert_eq!(pids("x trace --last 0"), [0_u32; 0]);
    // The events are 999 to 996 ms old.
    assert_eq!(pids("x trace --since 997ms"), [3, 4]);
    assert_eq!(pids("x trace --since 1h --last 9"), [1, 2, 3, 4]);
}

#[test]
fn the_past_of_several_nodes_is_in_the_order_of_time() {
    let now = time("2026-11-21T15:31:08.5Z");
    let order = [2, 0, 3, 1];
    let events = events().into_iter().enumerate().map(|(i, e)| (order[i], e)).rev().collect();
    let all = chosen(&args("x trace --last 3"), events, now);
    assert_eq!(
        all.iter().map(|(node, e)| (*node, e.process.pid)).collect::<Vec<_>>(),
        [(0, 2), (3, 3), (1, 4)]
    );
}

#[test]
fn several_nodes_are_told_apart() {
    let nodes = ["n1", "worker-17.example", "n1", "a\u{1b}[2J"];
    let mut table = Table::new(false, &nodes);
    let mut text = table.header();
    for (node, event) in nodes.iter().zip(events()) {
        text.push_str(&table.event(node, &event));
    }
    text.push_str(&table.lost("n1", 1));
    snapshots().bind(|| insta::assert_snapshot!("trace-nodes", text));
}

#[test]
fn a_policy_that_is_not_there_is_told() {
    let known = [lr("node-local-dns"), lr("api")];
    let notes = |line: &str| unknown_policies(&args(line).filters, Some(&known));
    assert_eq!(
        notes("x trace --policy node-local-dsn"),
        [
            "no policy \"node-local-dsn\" is known, so nothing is decided about it; did you mean node-local-dns?"
        ]
    );
    assert_eq!(
        notes("x trace --policy bl/api"),
        ["no BalancingPolicy \"api\" is known, so nothing is decided about it; did you mean api?"]
    );
    assert!(notes("x trace --policy quite-another")[0].ends_with("there is node-local-dns, api"));
    for fine in ["x trace", "x trace --policy api", "x trace --policy no*", "x trace --not --policy nope"] {
        assert_eq!(notes(fine), [""; 0], "{fine}");
    }
    assert_eq!(unknown_policies(&args("x trace --policy nope").filters, None), [""; 0]);
}

proptest! {
    /// Whatever a process, a pod or a newer agent is called: one event, one line, and nothing that a terminal obeys.
    #[test]
    fn an_event_is_one_harmless_line(comm in any::<String>(), pod in any::<String>(), why in any::<String>(), outcome in "[ -~\u{1b}\n]{0,60}") {
        let mut event = event(1);
        event.process.comm = comm;
        event.pod = Some(pod);
        event.failure = Some(why);
        event.outcome = serde_json::from_value(outcome.into()).unwrap();
        let line = Table::new(false, &["a", "b"]).event(&event.process.comm, &event);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert!(!line.trim_end_matches('\n').chars().any(char::is_control), "{:?}", line);
        let json = json_event("n1", event.clone()).unwrap();
        prop_assert_eq!(json.matches('\n').count(), 1);
        let back: balancing_api::agent::Document<balancing_api::trace::TracedEvent> = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(back.body.event, event);
    }
}
