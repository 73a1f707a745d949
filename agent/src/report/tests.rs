use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use balancing_api::{
    agent::{Counters, DecideRequest, Decision, FrontendList, NodeStatus},
    stream::{AgentLine, LONGEST_LINE, LeftOut, NodeReport, OperatorLine},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    delta::{delta, full},
    dial::Ended,
    session::keep,
    trim::{LITTLE_ROOM, ROOM, Sample},
};
use crate::{
    events::EventHub,
    http::{NodeView, View, ViewError},
};

const SOON: Duration = Duration::from_secs(20);

/// A node that has counted one redirect more whenever it is asked.
#[derive(Default)]
struct Node {
    redirects: AtomicU64,
    hub: EventHub,
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn policy(name: &str, state: &str, frontends: &Value) -> Value {
    json!({
        "kind": "LocalRedirectPolicy", "name": name, "id": 0, "generation": 1, "state": state, "reason": state,
        "message": "", "frontends": frontends, "backends": {"wanted": 1, "programmed": 1}, "redirectsPerSecond": 0,
    })
}

fn status(policies: &[Value]) -> NodeStatus {
    from(json!({
        "node": {"name": "n1", "addresses": [], "source": "kubernetes"},
        "agent": {"version": "1", "startedAt": "2026-01-01T00:00:00Z", "defaultRedirectsPerSecond": 0},
        "kernel": {"release": "6", "features": {"setRetval": true, "socketStorage": true, "socketDestroy": false}},
        "datapath": {"cgroupRoot": "/c", "bpffs": "/b", "layoutVersion": 1, "programs": [], "maps": []},
        "conditions": [], "sourceErrors": [], "policies": policies,
    }))
}

/// Counters of policies and frontends, by number and count.
fn counters(policies: &[(u32, u64)], frontends: &[(u32, u64)]) -> Counters {
    let policy = |(n, count): &(u32, u64)| {
        json!({"kind": "LocalRedirectPolicy", "name": format!("p{n}"), "redirects": count, "balanced": 0,
               "qosDrops": 0, "fallbacks": {}, "refusals": 0})
    };
    let frontend = |(n, count): &(u32, u64)| {
        json!({"address": format!("10.96.{}.{}", n / 250, n % 250), "port": 80, "protocol": "TCP", "redirects": 0,
               "balanced": 0, "resolved": count, "qosDrops": 0, "refusals": 0})
    };
    from(json!({
        "since": "2026-01-01T00:00:00Z", "takenAt": "2026-01-01T00:01:00Z",
        "policies": policies.iter().map(policy).collect::<Vec<_>>(),
        "frontends": frontends.iter().map(frontend).collect::<Vec<_>>(),
        "backends": [], "events": {"produced": 0, "lost": 0},
    }))
}

impl NodeView for Node {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Result<NodeStatus, ViewError> {
        Ok(status(&[policy("p1", "Programmed", &json!([]))]))
    }

    fn frontends(&self, _: View) -> Result<FrontendList, ViewError> {
        Ok(FrontendList { view: "programmed".to_owned(), items: Vec::new() })
    }

    fn counters(&self) -> Result<Counters, ViewError> {
        Ok(counters(&[(1, self.redirects.fetch_add(1, Ordering::Relaxed)), (2, 0)], &[]))
    }

    fn decide(&self, _: &DecideRequest) -> Result<Decision, ViewError> {
        Err(ViewError::NotReady("no maps yet".to_owned()))
    }

    fn metrics(&self) -> Result<String, ViewError> {
        Ok(String::new())
    }

    fn events(&self) -> &EventHub {
        &self.hub
    }
}

/// The operator's end of a connection.
struct Operator {
    stream: BufReader<DuplexStream>,
    session: JoinHandle<Ended>,
    shutdown: CancellationToken,
}

impl Operator {
    async fn new() -> Self {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let shutdown = CancellationToken::new();
        let end = shutdown.clone();
        let session = tokio::spawn(async move { keep(&Arc::new(Node::default()), theirs, &end).await });
        let mut operator = Self { stream: BufReader::new(ours), session, shutdown };
        assert!(matches!(operator.hear().await, AgentLine::Hello { .. }));
        operator
    }

    async fn say(&mut self, line: &OperatorLine) {
        let text = serde_json::to_string(line).unwrap() + "\n";
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line but signs of life.
    async fn hear(&mut self) -> AgentLine {
        loop {
            let mut text = String::new();
            let read =
                timeout(SOON, self.stream.read_line(&mut text)).await.expect("a line in time").unwrap();
            assert!(read > 0, "the connection ended");
            match serde_json::from_str(&text).unwrap() {
                AgentLine::Alive => {}
                line => return line,
            }
        }
    }

    async fn report(&mut self) -> NodeReport {
        match self.hear().await {
            AgentLine::Report(report) => *report,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_reports_in_full_and_then_what_changed_while_somebody_watches() {
    let mut operator = Operator::new().await;
    operator.say(&OperatorLine::Watch { interval_ms: 2000 }).await;
    let first = operator.report().await;
    assert!(first.full && first.status.is_some() && first.frontends.is_some());
    assert_eq!(first.counters.unwrap().policies.len(), 2);
    let next = operator.report().await;
    assert!(!next.full && next.status.is_none() && next.frontends.is_none());
    let changed = next.counters.unwrap().policies;
    assert_eq!((changed.len(), changed[0].policy.name.as_str()), (1, "p1"));
    operator.say(&OperatorLine::Rest).await;
    operator.say(&OperatorLine::Watch { interval_ms: 1 }).await;
    let again = loop {
        let report = operator.report().await;
        if report.full {
            break report;
        }
    };
    assert!(again.status.is_some());
}

#[tokio::test(start_paused = true)]
async fn it_answers_as_its_api_does() {
    let mut operator = Operator::new().await;
    let ask = |id, path: &str| OperatorLine::Ask { id, method: "GET".into(), path: path.into(), body: None };
    operator.say(&ask(7, "/v1/status")).await;
    assert!(matches!(operator.hear().await, AgentLine::Begin { id: 7, status: 200, .. }));
    let AgentLine::Part { id: 7, data } = operator.hear().await else { panic!("no body") };
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["kind"], "NodeStatus");
    assert_eq!(operator.hear().await, AgentLine::End { id: 7 });
    operator.say(&ask(8, "/v1/nothing")).await;
    assert!(matches!(operator.hear().await, AgentLine::Begin { id: 8, status: 404, .. }));
    while operator.hear().await != (AgentLine::End { id: 8 }) {}
    // A stream without end goes on beside others, until nobody wants it.
    operator.say(&ask(9, "/v1/events?follow=true")).await;
    assert!(matches!(operator.hear().await, AgentLine::Begin { id: 9, status: 200, .. }));
    operator.say(&OperatorLine::Cancel { id: 9 }).await;
    operator.say(&ask(10, "/livez")).await;
    assert!(matches!(operator.hear().await, AgentLine::Begin { id: 10, status: 200, .. }));
    operator.shutdown.cancel();
    assert!(matches!(operator.session.await.unwrap(), Ended::Asked));
}

#[tokio::test(start_paused = true)]
async fn it_ends_where_the_operator_is_silent_or_mad() {
    let operator = Operator::new().await;
    let Operator { stream: _silent, session, .. } = operator;
    assert!(matches!(session.await.unwrap(), Ended::Silent));
    for (text, kind) in [("{\n".to_owned(), "Line"), ("x".repeat(2 * LONGEST_LINE), "Read")] {
        let mut operator = Operator::new().await;
        let _ = operator.stream.write_all(text.as_bytes()).await;
        let ended = format!("{:?}", operator.session.await.unwrap());
        assert!(ended.starts_with(kind), "{ended}");
    }
    let mut operator = Operator::new().await;
    operator.say(&OperatorLine::Bye { reason: "show the token again".to_owned() }).await;
    assert!(matches!(operator.session.await.unwrap(), Ended::Bye(_)));
}

fn sample(policies: &[Value], counters: Counters) -> Sample {
    let item = |c: &balancing_api::agent::FrontendCounters| {
        json!({"address": c.frontend.address, "port": 80, "protocol": "TCP", "scope": "Any", "rungs": [],
               "otherwise": "untouched"})
    };
    let items: Vec<_> = counters.frontends.iter().map(item).collect();
    let frontends = from(json!({"view": "programmed", "items": items}));
    Sample { status: status(policies), frontends, counters, left_out: LeftOut::default() }
}

#[test]
fn what_concerns_policies_and_what_is_busy_is_told() {
    let frontends: Vec<(u32, u64)> = (0..1000).map(|n| (n, u64::from(n))).collect();
    let held = json!([{"address": "10.96.0.3", "port": 80, "protocol": "TCP"}]);
    let mut policies: Vec<Value> =
        (0..1200).map(|n| policy(&format!("p{n}"), "Programmed", &json!([]))).collect();
    policies[1100] = policy("wrong", "Failed", &held);
    let trimmed = sample(&policies, counters(&[], &frontends)).trimmed(ROOM);
    assert_eq!(trimmed.status.policies[0].name, "wrong", "what is wrong is not left out");
    assert_eq!(trimmed.left_out, LeftOut { policies: 200, frontends: 800, backends: 0 });
    assert_eq!((trimmed.frontends.items.len(), trimmed.counters.frontends.len()), (200, 200));
    let told = |last: &str| trimmed.frontends.items.iter().any(|i| i.frontend.address.to_string() == last);
    assert!(told("10.96.0.3") && told("10.96.3.249") && !told("10.96.0.4"));
    let little = sample(&policies, counters(&[], &frontends)).trimmed(LITTLE_ROOM);
    assert!(serde_json::to_vec(&full(&little)).unwrap().len() < LONGEST_LINE);
    let few = sample(&[], counters(&[(1, 1)], &[(1, 1)]));
    assert_eq!(few.clone().trimmed(ROOM), few);
}

proptest! {
    #[test]
    fn what_changed_added_to_what_was_is_what_is(
        before in proptest::collection::btree_map(0..6u32, 0..4u64, 0..6),
        now in proptest::collection::btree_map(0..6u32, 0..4u64, 0..6),
    ) {
        let rows = |map: &std::collections::BTreeMap<u32, u64>| map.iter().map(|(n, c)| (*n, *c)).collect::<Vec<_>>();
        let of = |map| sample(&[], counters(&rows(map), &[]));
        let report = delta(&of(&before), &of(&now));
        let gone = before.keys().any(|n| !now.contains_key(n));
        prop_assert_eq!(report.full, gone, "rows that are gone cannot be told as rows");
        let mut known = if report.full { Default::default() } else { before };
        for row in report.counters.unwrap().policies {
            known.insert(row.policy.name[1..].parse().unwrap(), row.redirects);
        }
        prop_assert_eq!(known, now);
    }
}
