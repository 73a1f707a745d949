use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::{
    agent::{Counters, NodeStatus, PolicyCounters},
    policy::{PolicyKind, PolicyRef},
    records::Text,
    stream::{
        AgentLine, LONGEST_LINE, LeftOut, NodeReport, OTHER_NODES, ObserveFrame, ObserveLine, OperatorLine,
    },
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    Hub, Observer,
    access::{Answer, Denied, Gate},
    agents::keep,
    frame::{Sent, frame},
    hub::{ReportError, Reported, Seen, Versions, Viewing},
    query::Query,
    router,
};
use crate::{
    metrics::{Metrics, StateLabel},
    port::{Limits, Peer},
    testing::{exchange, from, identity, tls_dial, tls_port},
};

const SOON: Duration = Duration::from_secs(20);
const LIMITS: Limits =
    Limits { connections: 32, of_one: 32, handshake: Duration::from_secs(5), head: Duration::from_secs(5) };

/// `agent-NODE` is the token of that node's agent, `jane` may ask about n1, everybody else may not.
struct Rules;

impl Gate for Rules {
    fn agent(&self, token: String) -> Answer<'_, String> {
        Box::pin(async move {
            let node = token.strip_prefix("agent-").map(str::to_owned);
            node.ok_or_else(|| Denied::Unauthenticated("no agent".to_owned()))
        })
    }

    fn person(&self, token: String, node: String, _: &'static str) -> Answer<'_, ()> {
        Box::pin(async move {
            match token.as_str() {
                "jane" if node == "n1" => Ok(()),
                "jane" => Err(Denied::Forbidden("not that node".to_owned())),
                _ => Err(Denied::Unauthenticated("who?".to_owned())),
            }
        })
    }
}

struct Bed {
    address: SocketAddr,
    bundle: String,
    leading: watch::Sender<bool>,
    metrics: Metrics,
    #[expect(dead_code, reason = "nodes stay for as long as the test")]
    nodes: watch::Sender<Arc<[Text]>>,
}

impl Bed {
    async fn new() -> Self {
        let names: Arc<[Text]> = ["n1", "n2"].map(Text::from).into();
        let (leading, leads) = watch::channel(true);
        let (nodes, node_names) = watch::channel(names);
        let metrics = Metrics::default();
        let observer = Observer {
            hub: Arc::new(Hub::new(metrics.clone())),
            gate: Arc::new(Rules),
            leading: leads,
            nodes: node_names,
            end: CancellationToken::new(),
        };
        let identity = identity();
        let address = tls_port(router(observer), LIMITS, || None, &identity).await;
        Self { address, bundle: identity.1, leading, metrics, nodes }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        exchange(self.address, &self.bundle, request.as_bytes()).await
    }

    /// Opens a stream and reads the head of its answer.
    async fn open(&self, path: &str, headers: &str) -> (String, BufReader<TlsStream<TcpStream>>) {
        let mut stream = BufReader::new(tls_dial(self.address, &self.bundle).await.unwrap());
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        (head, stream)
    }

    async fn agent(&self, node: &str) -> Agent {
        let headers = format!(
            "Connection: upgrade\r\nUpgrade: balancing-agent/1\r\nAuthorization: Bearer agent-{node}\r\n"
        );
        let (head, stream) = self.open("/v1/agent", &headers).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        Agent { node: node.to_owned(), stream }
    }

    async fn viewer(&self, query: &str) -> Viewer {
        let (head, stream) = self.open(&format!("/v1/observe{query}"), "").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
        Viewer(stream)
    }

    fn connected(&self) -> i64 {
        self.metrics.agents.get_or_create(&StateLabel { state: "connected" }).get()
    }
}

struct Agent {
    node: String,
    stream: BufReader<TlsStream<TcpStream>>,
}

impl Agent {
    async fn say(&mut self, line: &AgentLine) {
        let text = serde_json::to_string(line).unwrap() + "\n";
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line but signs of life; nothing where the connection ended.
    async fn hear(&mut self) -> Option<OperatorLine> {
        loop {
            let mut text = String::new();
            let read = timeout(SOON, self.stream.read_line(&mut text)).await.expect("a line in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
            match serde_json::from_str(&text).unwrap() {
                OperatorLine::Alive => {}
                line => return Some(line),
            }
        }
    }

    async fn report(&mut self, full: bool, redirects: u64) {
        let (status, counters) = said(&self.node, redirects);
        let frontends = from(json!({"view": "programmed", "items": []}));
        let report = NodeReport {
            full,
            status: full.then_some(status),
            frontends: full.then_some(frontends),
            counters: Some(counters),
            left_out: LeftOut::default(),
        };
        self.say(&AgentLine::Report(Box::new(report))).await;
    }
}

struct Viewer(BufReader<TlsStream<TcpStream>>);

impl Viewer {
    /// The next line; between them stand the lengths of chunks.
    async fn line(&mut self) -> ObserveLine {
        loop {
            let mut text = String::new();
            let read = timeout(SOON, self.0.read_line(&mut text)).await.expect("a line in time").unwrap();
            assert!(read > 0, "the stream ended");
            if text.starts_with('{') {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Why the stream ends.
    async fn end(&mut self) -> String {
        loop {
            if let ObserveLine::Bye { reason } = self.line().await {
                return reason;
            }
        }
    }

    /// The first frame of which that is so.
    async fn frame(&mut self, is: impl Fn(&ObserveFrame) -> bool) -> ObserveFrame {
        let frames = async {
            loop {
                if let ObserveLine::Frame(frame) = self.line().await
                    && is(&frame)
                {
                    return *frame;
                }
            }
        };
        timeout(SOON, frames).await.expect("such a frame in time")
    }
}

fn policy() -> PolicyRef {
    PolicyRef::new(PolicyKind::LocalRedirectPolicy, "dns")
}

fn said(node: &str, redirects: u64) -> (NodeStatus, Counters) {
    let status = from(json!({
        "node": {"name": node, "addresses": [], "source": "kubernetes"},
        "agent": {"version": "1", "startedAt": "2026-01-01T00:00:00Z", "defaultRedirectsPerSecond": 0},
        "kernel": {"release": "6", "features": {"setRetval": true, "socketStorage": true, "socketDestroy": false}},
        "datapath": {"cgroupRoot": "/c", "bpffs": "/b", "layoutVersion": 1, "programs": [], "maps": []},
        "conditions": [], "sourceErrors": [],
        "policies": [{
            "kind": "LocalRedirectPolicy", "name": "dns", "id": 7, "generation": 1, "state": "Programmed",
            "reason": "Programmed", "message": "", "frontends": [], "backends": {"wanted": 1, "programmed": 1},
            "redirectsPerSecond": 0,
        }],
    }));
    let counters = Counters {
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
        taken_at: "2026-01-01T00:01:00Z".parse().unwrap(),
        policies: vec![PolicyCounters {
            policy: policy(),
            redirects,
            balanced: 0,
            qos_drops: 0,
            fallbacks: Default::default(),
            refusals: 0,
        }],
        frontends: Vec::new(),
        backends: Vec::new(),
        events: Default::default(),
    };
    (status, counters)
}

fn redirects(frame: &ObserveFrame, node: &str) -> Option<u64> {
    let node = frame.frame.nodes.iter().find(|n| n.name == node)?;
    Some(node.counters.as_ref()?.policies[0].redirects)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_report_while_somebody_watches() {
    let bed = Bed::new().await;
    let mut agent = bed.agent("n1").await;
    let mut viewer = bed.viewer("?interval=1s").await;
    let ObserveLine::Hello(hello) = viewer.line().await else { panic!("no hello") };
    assert_eq!((hello.interval_ms, hello.nodes), (1000, 2));
    assert_eq!(agent.hear().await, Some(OperatorLine::Watch { interval_ms: 1000 }));
    assert_eq!(bed.metrics.viewers.get(), 1);
    agent.report(true, 5).await;
    let first = viewer.frame(|f| f.frame.coverage.fresh == 1).await;
    assert_eq!(
        (first.frame.coverage.missing.as_slice(), redirects(&first, "n1")),
        (&["n2".to_owned()][..], Some(5))
    );
    assert!(first.frame.nodes[0].status.is_some());
    // What did not change is not said again.
    agent.report(false, 6).await;
    let next = viewer.frame(|f| redirects(f, "n1") == Some(6)).await;
    assert!(next.frame.nodes[0].status.is_none() && next.frame.nodes[0].frontends.is_none());
    // A second viewer is told everything, from what is known.
    let mut second = bed.viewer("?interval=5s").await;
    let whole = second.frame(|_| true).await;
    assert!(whole.frame.nodes[0].status.is_some() && redirects(&whole, "n1") == Some(6));
    drop(second);
    // An agent that is gone is stale: its numbers are no longer in the sums.
    drop(agent);
    let stale = viewer.frame(|f| f.frame.coverage.stale == 1).await;
    assert_eq!((stale.frame.coverage.fresh, stale.frame.nodes[0].stale), (0, true));
    let mut agent = bed.agent("n1").await;
    assert_eq!(agent.hear().await, Some(OperatorLine::Watch { interval_ms: 1000 }));
    agent.report(true, 7).await;
    viewer.frame(|f| redirects(f, "n1") == Some(7)).await;
    // Nobody watches any longer.
    drop(viewer);
    assert_eq!(agent.hear().await, Some(OperatorLine::Rest));
    assert_eq!((bed.metrics.viewers.get(), bed.connected()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nonsense_is_cut_off_and_harms_nobody() {
    let bed = Bed::new().await;
    let mut good = bed.agent("n1").await;
    let mut viewer = bed.viewer("?interval=1s").await;
    assert!(matches!(good.hear().await, Some(OperatorLine::Watch { .. })));
    for nonsense in ["{\n", "[]\n", "{\"kind\": \"Report\", \"full\": false}\n", "\u{0}\n"] {
        let mut bad = bed.agent("n2").await;
        assert!(matches!(bad.hear().await, Some(OperatorLine::Watch { .. })));
        bad.stream.write_all(nonsense.as_bytes()).await.unwrap();
        assert!(matches!(bad.hear().await, Some(OperatorLine::Bye { .. }) | None), "{nonsense:?}");
    }
    // A line without end, and another node's report.
    let mut bad = bed.agent("n2").await;
    let _ = bad.stream.write_all(&vec![b'x'; 2 * LONGEST_LINE]).await;
    while bad.hear().await.is_some() {}
    let mut liar = bed.agent("n2").await;
    liar.node = "n1".to_owned();
    liar.report(true, 99).await;
    while let Some(line) = liar.hear().await {
        if let OperatorLine::Bye { reason } = line {
            assert!(reason.contains("n1"), "{reason}");
        }
    }
    good.report(true, 5).await;
    let frame = viewer.frame(|f| f.frame.coverage.fresh == 1).await;
    assert_eq!(redirects(&frame, "n1"), Some(5));
    // A node that dials again takes the place of its older connection.
    let mut again = bed.agent("n1").await;
    while good.hear().await.is_some() {}
    assert!(matches!(again.hear().await, Some(OperatorLine::Watch { .. })));
    assert_eq!(bed.connected(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_right() {
    let bed = Bed::new().await;
    let status = |answer: String| answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default();
    let upgrade = "Upgrade: balancing-agent/1\r\n";
    for (path, headers, want) in [
        ("/v1/agent", String::new(), "426"),
        ("/v1/agent", upgrade.to_owned(), "401"),
        ("/v1/agent", format!("{upgrade}Authorization: Bearer jane\r\n"), "401"),
        ("/v1/nodes/n1/status", String::new(), "401"),
        ("/v1/nodes/n1/status", "Authorization: Basic jane\r\n".to_owned(), "401"),
        ("/v1/nodes/n1/status", "Authorization: Bearer joe\r\n".to_owned(), "401"),
        ("/v1/nodes/n2/status", "Authorization: Bearer jane\r\n".to_owned(), "403"),
        ("/v1/nodes/n1/status", "Authorization: Bearer jane\r\n".to_owned(), "404"),
        ("/v1/nodes/n1/secrets", "Authorization: Bearer jane\r\n".to_owned(), "404"),
        ("/v1/nodes/n1/decide", "Authorization: Bearer jane\r\n".to_owned(), "405"),
        ("/v1/observe?interval=never", String::new(), "400"),
        ("/v1/nowhere", String::new(), "404"),
    ] {
        assert_eq!(status(bed.ask("GET", path, &headers).await), want, "{path} {headers}");
    }
    bed.leading.send_replace(false);
    let answer = bed.ask("GET", "/v1/observe", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("NotLeading"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_asked_over_its_connection() {
    let bed = Bed::new().await;
    let mut agent = bed.agent("n1").await;
    let answering = tokio::spawn(async move {
        let Some(OperatorLine::Ask { id, method, path, body }) = agent.hear().await else {
            panic!("no question")
        };
        assert_eq!((method.as_str(), path.as_str(), body), ("GET", "/v1/frontends?view=desired", None));
        agent.say(&AgentLine::Begin { id, status: 200, content_type: "application/json".to_owned() }).await;
        agent.say(&AgentLine::Part { id, data: "{\"a\":".to_owned() }).await;
        agent.say(&AgentLine::Part { id, data: "1}".to_owned() }).await;
        agent.say(&AgentLine::End { id }).await;
        agent
    });
    let jane = "Authorization: Bearer jane\r\n";
    let answer = bed.ask("GET", "/v1/nodes/n1/frontends?view=desired", jane).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/json"), "{answer}");
    let body: String =
        answer.split_once("\r\n\r\n").unwrap().1.split("\r\n").filter(|l| l.contains(['{', '}'])).collect();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"a": 1}));
    let mut agent = answering.await.unwrap();

    // Who goes away cancels the question; an agent that goes away breaks the answer off.
    let (asked, (head, stream)) = tokio::join!(
        async {
            let Some(OperatorLine::Ask { id, .. }) = agent.hear().await else { panic!("no question") };
            agent
                .say(&AgentLine::Begin { id, status: 200, content_type: "application/x-ndjson".to_owned() })
                .await;
            agent.say(&AgentLine::Part { id, data: "{}\n".to_owned() }).await;
            id
        },
        bed.open("/v1/nodes/n1/events?follow=true", jane),
    );
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    drop(stream);
    // It is seen at the next part at the latest.
    let cancelled = async {
        loop {
            agent.say(&AgentLine::Part { id: asked, data: "{}\n".to_owned() }).await;
            match timeout(Duration::from_millis(50), agent.hear()).await {
                Ok(Some(OperatorLine::Cancel { id })) => return id,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
        }
    };
    assert_eq!(timeout(SOON, cancelled).await.expect("cancelled in time"), asked);
    let ((), (_, mut stream)) = tokio::join!(
        async {
            let Some(OperatorLine::Ask { id, .. }) = agent.hear().await else { panic!("no question") };
            agent
                .say(&AgentLine::Begin { id, status: 200, content_type: "application/json".to_owned() })
                .await;
            agent.say(&AgentLine::Part { id, data: "{".to_owned() }).await;
        },
        bed.open("/v1/nodes/n1/status", jane),
    );
    drop(agent);
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("an end in time");
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("0\r\n\r\n"), "it does not look whole: {rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_no_longer_lets_go_of_everybody() {
    let bed = Bed::new().await;
    let mut agent = bed.agent("n1").await;
    let mut viewer = bed.viewer("?interval=1s").await;
    assert!(matches!(agent.hear().await, Some(OperatorLine::Watch { .. })));
    agent.report(true, 5).await;
    viewer.frame(|f| f.frame.coverage.fresh == 1).await;
    bed.leading.send_replace(false);
    assert!(viewer.end().await.contains("leads no longer"));
    let said = async {
        loop {
            match agent.hear().await {
                Some(OperatorLine::Bye { reason }) => return reason,
                Some(_) => {}
                None => panic!("it ended without a word"),
            }
        }
    };
    assert!(said.await.contains("leads no longer"));
    // It leads again: they are served again.
    bed.leading.send_replace(true);
    let mut agent = bed.agent("n1").await;
    let _viewer = bed.viewer("?interval=1s").await;
    assert!(matches!(agent.hear().await, Some(OperatorLine::Watch { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_stops_talking_is_read_at_a_pace() {
    let hub = Arc::new(Hub::new(Metrics::default()));
    let (joined, lines) = hub.join("n1");
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut hears, mut says) = tokio::io::split(theirs);
    let keeping = tokio::spawn(async move { keep(&hub, joined, lines, ours, std::future::pending()).await });
    // What it hears is not what this is about.
    let hearing = tokio::spawn(async move { tokio::io::copy(&mut hears, &mut tokio::io::sink()).await });
    let began = tokio::time::Instant::now();
    let line = format!("{{\"kind\":\"Later\",\"x\":\"{}\"}}\n", "x".repeat(1 << 19));
    for _ in 0..128 {
        says.write_all(line.as_bytes()).await.unwrap();
    }
    let took = began.elapsed().as_secs();
    assert!((6..=9).contains(&took), "64 MiB in {took} s");
    let began = tokio::time::Instant::now();
    for _ in 0..200_000 {
        says.write_all(b"{\"kind\":\"Alive\"}\n").await.unwrap();
    }
    let took = began.elapsed().as_secs();
    assert!((4..=9).contains(&took), "200,000 lines in {took} s");
    // It is still listened to.
    assert!(!keeping.is_finished());
    keeping.abort();
    hearing.abort();
}

#[test]
fn what_a_node_counts_has_its_limit_and_a_node_that_is_gone_is_forgotten() {
    let hub = Arc::new(Hub::new(Metrics::default()));
    let _viewing = hub.view(Peer([127, 0, 0, 1].into()), 1000).unwrap();
    let (joined, _lines) = hub.join("n1");
    let began = Instant::now();
    let (status, counters) = said("n1", 1);
    let full = || NodeReport {
        full: true,
        status: Some(status.clone()),
        frontends: Some(from(json!({"view": "programmed", "items": []}))),
        counters: Some(counters.clone()),
        left_out: LeftOut::default(),
    };
    hub.report("n1", full(), 1000, began).unwrap();
    // Rows that are new each time: none of the lines is too long, and together they would fill any memory.
    let rows = |round: u32| {
        let one = |n: u32| {
            let mut row = counters.policies[0].clone();
            row.policy.name = format!("{round}-{n}-{}", "x".repeat(200));
            row
        };
        let counters = Counters { policies: (0..1000).map(one).collect(), ..counters.clone() };
        NodeReport { counters: Some(counters), ..NodeReport::default() }
    };
    let refused = (0..100).map(|round| hub.report("n1", rows(round), 300_000, began)).find(Result::is_err);
    assert_eq!(refused, Some(Err(ReportError::TooMuch)));
    // In full it begins anew, and what changes the same rows over and over may go on for ever.
    hub.report("n1", full(), 1000, began).unwrap();
    for _ in 0..100 {
        hub.report("n1", rows(0), 300_000, began).unwrap();
    }
    drop(joined);
    let after = |seconds| hub.seen(1000, began + Duration::from_secs(seconds)).len();
    assert_eq!((after(0), after(600), after(601), after(0)), (1, 1, 0, 0));
}

#[test]
fn only_so_many_watch() {
    let hub = Arc::new(Hub::new(Metrics::default()));
    let from = |n: u8| Peer([127, 0, 0, n].into());
    let mut all: Vec<_> = std::iter::from_fn(|| hub.view(from(1), 2000)).take(100).collect();
    assert_eq!((all.len(), *hub.watching().borrow()), (32, Some(2000)));
    all.pop();
    let quick = hub.view(from(1), 1).expect("a place is free");
    assert_eq!(*hub.watching().borrow(), Some(1000), "nobody makes agents report more often than that");
    // Whoever has all places makes room for others, the oldest first, until they have as many.
    let others: Vec<_> = std::iter::from_fn(|| hub.view(from(2), 2000)).take(100).collect();
    assert_eq!(others.len(), 16);
    let displaced = |v: &&Viewing| v.displaced().is_cancelled();
    assert_eq!(all.iter().take_while(displaced).count(), 16);
    assert_eq!(all.iter().chain([&quick]).chain(&others).filter(displaced).count(), 16);
    drop((all, quick));
    assert!(hub.watching().borrow().is_some());
    drop(others);
    assert_eq!(*hub.watching().borrow(), None);
}

fn seen(node: &str, redirects: u64, version: u64, fresh: bool) -> Seen {
    let (status, counters) = said(node, redirects);
    let reported = Reported {
        status: Arc::new(status),
        frontends: Arc::new(from(json!({"view": "programmed", "items": []}))),
        counters: Arc::new(counters),
        versions: Versions { status: 1, frontends: 1, counters: version },
        left_out: LeftOut::default(),
    };
    Seen { name: node.to_owned(), fresh, reported }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn those_beyond_the_limit_are_one_and_nothing_is_lost_of_the_sums() {
    let query = Query { limit: 2, ..Query::default() };
    let mut all: Vec<Seen> = (0..10u64).map(|n| seen(&format!("n{n}"), n, 1, true)).collect();
    let mut sent = Sent::default();
    let first = frame(&query, &all, &[], &mut sent, at(0));
    let names = |f: &ObserveFrame| f.frame.nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first), ["n8", "n9", OTHER_NODES], "the busiest by themselves");
    let sum =
        |f: &ObserveFrame| ["n8", "n9", OTHER_NODES].iter().filter_map(|n| redirects(f, n)).sum::<u64>();
    assert_eq!(sum(&first), (0..10u64).sum::<u64>());
    let others = first.others.as_ref().unwrap();
    assert_eq!((others.nodes, others.policies[0].nodes.programmed, first.frame.coverage.fresh), (8, 8, 10));
    let since = |f: &ObserveFrame| {
        let others = f.frame.nodes.iter().find(|n| n.name == OTHER_NODES).unwrap();
        others.counters.as_ref().unwrap().since
    };
    assert_eq!(since(&first), at(0), "counters of this set of nodes began with it");

    // Another is busier now: those that were told by themselves stay so.
    all[0] = seen("n0", 1000, 2, true);
    let second = frame(&query, &all, &[], &mut sent, at(2));
    assert_eq!(
        (names(&second), since(&second)),
        (vec!["n8".to_owned(), "n9".to_owned(), OTHER_NODES.to_owned()], at(0))
    );
    assert!(second.frame.nodes.iter().all(|n| n.status.is_none()), "{second:?}");
    // One with something wrong takes a place; the set of the others is another.
    let mut failed = seen("n3", 3, 2, true);
    let mut status = NodeStatus::clone(&failed.reported.status);
    status.policies[0].state = balancing_api::agent::PolicyState::Failed;
    (failed.reported.status, failed.reported.versions.status) = (Arc::new(status), 2);
    all[3] = failed;
    let third = frame(&query, &all, &[], &mut sent, at(4));
    assert_eq!(names(&third).iter().filter(|n| *n == "n3").count(), 1);
    assert_eq!((third.gone.len(), since(&third)), (1, at(4)));
}

#[test]
fn one_node_or_one_policy_alone() {
    let all = [seen("n1", 1, 1, true), seen("n2", 2, 1, false)];
    let nodes: Vec<Arc<str>> = ["n1", "n2", "n3"].map(Into::into).into();
    let whole = frame(&Query::default(), &all, &nodes, &mut Sent::default(), at(0));
    let coverage = &whole.frame.coverage;
    assert_eq!((coverage.fresh, coverage.stale, coverage.missing.as_slice()), (1, 1, &["n3".to_owned()][..]));
    let one = Query { node: Some("n2".to_owned()), ..Query::default() };
    let one = frame(&one, &all, &nodes, &mut Sent::default(), at(0));
    assert_eq!((one.frame.nodes.len(), one.frame.coverage.missing.len()), (1, 0));
    let other = PolicyRef::new(PolicyKind::BalancingPolicy, "other");
    let other = Query { policy: Some(other), ..Query::default() };
    let other = frame(&other, &all, &nodes, &mut Sent::default(), at(0));
    assert!(other.frame.nodes[0].counters.as_ref().unwrap().policies.is_empty());
    assert!(other.frame.nodes[0].status.as_ref().unwrap().policies.is_empty());
    let dns = Query { policy: Some(policy()), ..Query::default() };
    let dns = frame(&dns, &all, &nodes, &mut Sent::default(), at(0));
    assert_eq!(redirects(&dns, "n1"), Some(1));
}
