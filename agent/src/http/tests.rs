use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use balancing_api::{
    agent::{
        AgentInfo, Caller, DatapathInfo, DecisionVerdict, ErrorBody, Event, EventCounters, EventOutcome,
        EventSource, KernelFeatures, KernelInfo, NodeInfo, PolicyCounters, Process,
    },
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Listen;

/// A node that answers what it is told to, and keeps what it was asked.
#[derive(Default)]
struct Node {
    missing: Mutex<Option<String>>,
    asked: Mutex<Vec<DecideRequest>>,
    hub: EventHub,
}

impl NodeView for Node {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.missing.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn status(&self) -> Result<NodeStatus, ViewError> {
        Ok(NodeStatus {
            node: NodeInfo { name: "n1".to_owned(), addresses: Vec::new(), source: "manifests".to_owned() },
            agent: AgentInfo {
                version: "1".to_owned(),
                started_at: Timestamp::UNIX_EPOCH,
                default_redirects_per_second: 7,
                exempt_pods: Vec::new(),
            },
            kernel: KernelInfo { release: "6".to_owned(), features: KernelFeatures::default() },
            datapath: DatapathInfo {
                cgroup_root: "/c".to_owned(),
                bpffs: "/b".to_owned(),
                layout_version: 1,
                programs: Vec::new(),
                maps: Vec::new(),
            },
            conditions: Vec::new(),
            policies: Vec::new(),
            source_errors: Vec::new(),
            sources: Vec::new(),
        })
    }

    fn frontends(&self, view: View) -> Result<FrontendList, ViewError> {
        let view = match view {
            View::Programmed => "programmed",
            View::Desired => "desired",
        };
        Ok(FrontendList { view: view.to_owned(), items: Vec::new() })
    }

    fn counters(&self) -> Result<Counters, ViewError> {
        let policy = PolicyRef::new(PolicyKind::LocalRedirectPolicy, "x");
        Ok(Counters {
            since: Timestamp::UNIX_EPOCH,
            taken_at: Timestamp::UNIX_EPOCH,
            policies: vec![PolicyCounters {
                policy,
                redirects: 5,
                balanced: 0,
                qos_drops: 2,
                fallbacks: BTreeMap::from([("ExemptCaller".to_owned(), 1)]),
                refusals: 0,
            }],
            frontends: Vec::new(),
            backends: Vec::new(),
            events: EventCounters::default(),
        })
    }

    fn decide(&self, request: &DecideRequest) -> Result<Decision, ViewError> {
        self.asked.lock().unwrap().push(request.clone());
        match &request.from {
            Caller::Pod(pod) if pod == "ns/unknown" => return Err(ViewError::UnknownPod(pod.clone())),
            Caller::Pod(pod) if pod == "ns/early" => {
                return Err(ViewError::NotReady("no maps yet".to_owned()));
            }
            Caller::Pod(pod) if pod == "ns/broken" => return Err(ViewError::Failed("EIO".to_owned())),
            Caller::Pod(pod) if pod == "ns/panic" => panic!("asked to"),
            _ => {}
        }
        Ok(Decision {
            verdict: DecisionVerdict::Untouched,
            backends: Vec::new(),
            rungs: Vec::new(),
            qos: None,
            hooks: vec!["connect4".to_owned()],
        })
    }

    fn metrics(&self) -> Result<String, ViewError> {
        Ok("# EOF\n".to_owned())
    }

    fn events(&self) -> &EventHub {
        &self.hub
    }
}

/// A folder that is gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("balancing-http-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server on a unix socket in a folder of its own.
struct Server {
    node: Arc<Node>,
    socket: PathBuf,
    shutdown: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
    _folder: Folder,
}

impl Server {
    fn start(access: Access) -> Self {
        let folder = Folder::new();
        let socket = folder.0.join("run/agent.sock");
        let mut bound = bind(&[Listen::Unix(socket.clone())]).unwrap();
        assert_eq!(bound[0].access, Access::All);
        bound[0].access = access;
        let (node, shutdown) = (Arc::new(Node::default()), CancellationToken::new());
        let served = tokio::spawn(serve(bound, Arc::clone(&node), shutdown.clone()));
        Self { node, socket, shutdown, served, _folder: folder }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
        assert!(!self.socket.exists(), "the socket's file is left");
    }

    /// Status, content type and body of the answer.
    async fn request(&self, method: &str, target: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let head = format!("{method} {target} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        let request = [head.as_bytes(), body].concat();
        let socket = self.socket.clone();
        let answer = move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(&request).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        };
        parse(&tokio::task::spawn_blocking(answer).await.unwrap())
    }

    async fn get(&self, target: &str) -> (u16, Value) {
        let (status, kind, body) = self.request("GET", target, b"").await;
        assert_eq!(kind, "application/json", "{target}: {}", String::from_utf8_lossy(&body));
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Code, field and message of an error.
    async fn error(&self, method: &str, target: &str, body: &[u8]) -> (u16, String, String, String) {
        let (status, kind, body) = self.request(method, target, body).await;
        assert_eq!(kind, "application/json");
        let ErrorBody { error } = serde_json::from_slice(&body).unwrap();
        (status, error.code, error.field, error.message)
    }
}

fn parse(answer: &[u8]) -> (u16, String, Vec<u8>) {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|l| l.strip_prefix("content-type: ")).unwrap_or_default();
    (status, kind.to_owned(), answer[end + 4..].to_vec())
}

#[tokio::test]
async fn every_document_has_its_version_and_kind() {
    let server = Server::start(Access::All);
    for (path, kind) in
        [("/v1/status", "NodeStatus"), ("/v1/frontends", "FrontendList"), ("/v1/counters", "Counters")]
    {
        let (status, document) = server.get(path).await;
        assert_eq!(status, 200);
        assert_eq!(document["apiVersion"], "agent.balancing.elf.io/v1alpha1");
        assert_eq!(document["kind"], kind);
    }
    let (_, status) = server.get("/v1/status").await;
    assert_eq!(status["agent"]["defaultRedirectsPerSecond"], 7);
    let (_, counters) = server.get("/v1/counters").await;
    assert_eq!(counters["policies"][0]["qosDrops"], 2);
    assert_eq!(counters["policies"][0]["kind"], "LocalRedirectPolicy");
    let (_, desired) = server.get("/v1/frontends?view=desired").await;
    assert_eq!(desired["view"], "desired");
    let (_, programmed) = server.get("/v1/frontends?view=programmed").await;
    assert_eq!(programmed["view"], "programmed");
    let (status, kind, page) = server.request("GET", "/metrics", b"").await;
    assert_eq!((status, page.as_slice()), (200, b"# EOF\n".as_slice()));
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    server.stop().await;
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let server = Server::start(Access::All);
    assert_eq!(server.request("GET", "/livez", b"").await.0, 200);
    assert_eq!(server.request("GET", "/readyz", b"").await.0, 200);
    assert_eq!(server.request("HEAD", "/readyz", b"").await.2, b"");
    *server.node.missing.lock().unwrap() = Some("folder /m was not read yet".to_owned());
    let (status, code, _, message) = server.error("GET", "/readyz", b"").await;
    assert_eq!((status, code.as_str(), message.as_str()), (503, "NotReady", "folder /m was not read yet"));
    assert_eq!(server.request("GET", "/livez", b"").await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_flow_is_decided() {
    let server = Server::start(Access::All);
    let flow = |from: Value| json!({"from": from, "to": {"address": "::ffff:10.96.0.10", "port": 53, "protocol": "udp"}});
    let bodies = [
        json!({"to": {"address": "10.96.0.10", "port": 53, "protocol": "UDP"}, "later": 1}),
        flow(Value::Null),
        flow(json!({"host": true})),
        flow(json!({"pod": "ns/p"})),
    ];
    for body in bodies {
        let (status, _, answer) = server.request("POST", "/v1/decide", body.to_string().as_bytes()).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status, &answer["kind"]), (200, &json!("Decision")), "{answer}");
        assert_eq!(answer["verdict"], "untouched");
    }
    let to = Frontend::new([10, 96, 0, 10].into(), 53, Protocol::Udp);
    let host = DecideRequest { from: Caller::Host(true), to };
    let pod = DecideRequest { from: Caller::Pod("ns/p".to_owned()), to };
    assert_eq!(*server.node.asked.lock().unwrap(), [host.clone(), host.clone(), host, pod]);
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_flow_names_the_field() {
    let server = Server::start(Access::All);
    let cases: &[(&str, &str, &str)] = &[
        ("", "InvalidBody", ""),
        ("{", "InvalidBody", ""),
        ("[]", "InvalidBody", ""),
        ("{}", "InvalidField", "to"),
        (r#"{"to":"nowhere"}"#, "InvalidField", "to"),
        (r#"{"to":{"port":53,"protocol":"UDP"}}"#, "InvalidField", "to.address"),
        (r#"{"to":{"address":"10.0.0.300","port":53,"protocol":"UDP"}}"#, "InvalidField", "to.address"),
        (r#"{"to":{"address":"10.0.0.1","protocol":"UDP"}}"#, "InvalidField", "to.port"),
        (r#"{"to":{"address":"10.0.0.1","port":0,"protocol":"UDP"}}"#, "InvalidField", "to.port"),
        (r#"{"to":{"address":"10.0.0.1","port":65536,"protocol":"UDP"}}"#, "InvalidField", "to.port"),
        (r#"{"to":{"address":"10.0.0.1","port":"53","protocol":"UDP"}}"#, "InvalidField", "to.port"),
        (r#"{"to":{"address":"10.0.0.1","port":53,"protocol":"SCTP"}}"#, "InvalidField", "to.protocol"),
        (r#"{"to":{"address":"10.0.0.1","port":53}}"#, "InvalidField", "to.protocol"),
        (r#"{"from":{},"to":{}}"#, "InvalidField", "from"),
        (r#"{"from":"host","to":{}}"#, "InvalidField", "from"),
        (r#"{"from":{"host":true,"pod":"a/b"},"to":{}}"#, "InvalidField", "from"),
        (r#"{"from":{"host":false},"to":{}}"#, "InvalidField", "from.host"),
        (r#"{"from":{"pod":"b"},"to":{}}"#, "InvalidField", "from.pod"),
        (r#"{"from":{"pod":7},"to":{}}"#, "InvalidField", "from.pod"),
    ];
    for (body, code, field) in cases {
        let (status, got, got_field, message) = server.error("POST", "/v1/decide", body.as_bytes()).await;
        assert_eq!((status, got.as_str(), got_field.as_str()), (400, *code, *field), "{body}: {message}");
        assert!(!message.is_empty());
    }
    assert_eq!(server.error("POST", "/v1/decide", b"\xff\xfe").await.0, 400);
    assert!(server.node.asked.lock().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn the_nodes_errors_have_their_codes() {
    let server = Server::start(Access::All);
    for (pod, status, code, field, message) in [
        ("ns/unknown", 404, "UnknownPod", "from.pod", "no pod \"ns/unknown\" on this node"),
        ("ns/early", 503, "NotReady", "", "no maps yet"),
        ("ns/broken", 500, "Internal", "", "EIO"),
        ("ns/panic", 500, "Internal", "", "the agent failed to answer; see its log"),
    ] {
        let body = json!({"from": {"pod": pod}, "to": {"address": "10.0.0.1", "port": 1, "protocol": "TCP"}});
        let error = server.error("POST", "/v1/decide", body.to_string().as_bytes()).await;
        assert_eq!(error, (status, code.to_owned(), field.to_owned(), message.to_owned()));
    }
    assert_eq!(server.get("/v1/status").await.0, 200, "a call that panics harms no other");
    server.stop().await;
}

#[tokio::test]
async fn other_paths_methods_and_parameters_are_refused() {
    let server = Server::start(Access::All);
    for path in ["/", "/v1", "/v1/nothing", "/v2/status", "/v1/status/"] {
        assert_eq!(server.error("GET", path, b"").await.0, 404, "{path}");
    }
    let (status, code, _, message) = server.error("POST", "/v1/status", b"{}").await;
    assert_eq!((status, code.as_str()), (405, "MethodNotAllowed"));
    assert_eq!(message, "/v1/status does not take POST, but GET, HEAD");
    assert_eq!(server.error("GET", "/v1/decide", b"").await.0, 405);
    assert_eq!(server.error("DELETE", "/livez", b"").await.0, 405);
    for (target, field) in [
        ("/v1/frontends?view=all", "view"),
        ("/v1/frontends?veiw=desired", "veiw"),
        ("/v1/events?outcome=drop", "outcome"),
        ("/v1/events?to=10.0.0.1", "to"),
        ("/v1/events?rate=0", "rate"),
        ("/v1/events?limit=-1", "limit"),
        ("/v1/events?follow=maybe", "follow"),
        ("/v1/events?policy=", "policy"),
        ("/v1/events?limit=1&limit=2", "limit"),
        ("/v1/events?pod=x", "pod"),
    ] {
        let (status, code, got, message) = server.error("GET", target, b"").await;
        assert_eq!(
            (status, code.as_str(), got.as_str()),
            (400, "InvalidField", field),
            "{target}: {message}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_large_body_is_refused_and_its_sender_told() {
    let server = Server::start(Access::All);
    for size in [super::request::MAX_BODY + 1, 3_000_000] {
        let (status, code, ..) = server.error("POST", "/v1/decide", &vec![b'x'; size]).await;
        assert_eq!((status, code.as_str()), (413, "TooLarge"), "{size}");
    }
    let (status, code, ..) = server.error("POST", "/v1/decide", &vec![b' '; super::request::MAX_BODY]).await;
    assert_eq!((status, code.as_str()), (400, "InvalidBody"), "as large as allowed");
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_serves_health_alone() {
    let server = Server::start(Access::Health);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.request("GET", path, b"").await.0, 200, "{path}");
    }
    for path in ["/v1/status", "/v1/frontends", "/v1/counters", "/v1/events"] {
        let (status, _, _, message) = server.error("GET", path, b"").await;
        assert_eq!(status, 404);
        assert!(
            message.ends_with("serves /livez, /readyz and /metrics, the agent's unix socket the rest"),
            "{message}"
        );
    }
    assert_eq!(server.error("POST", "/v1/decide", b"{}").await.0, 404);
    server.stop().await;
    let access = |host: &str| bind(&[Listen::Tcp(host.to_owned(), 0)]).unwrap()[0].access;
    assert_eq!(access("127.0.0.1"), Access::All);
    assert_eq!(access("localhost"), Access::All);
    assert_eq!(access("0.0.0.0"), Access::Health);
    assert_eq!(access("::"), Access::Health);
}

#[tokio::test]
async fn tcp_is_served_too() {
    let bound = bind(&[Listen::Tcp("127.0.0.1".to_owned(), 0)]).unwrap();
    let Listen::Tcp(host, port) = bound[0].listen.clone() else { panic!("not TCP") };
    assert_ne!(port, 0);
    let again = bind(&[Listen::Tcp(host.clone(), port)]).unwrap_err();
    assert!(matches!(again, BindError::InUse { .. }), "{again}");
    let shutdown = CancellationToken::new();
    let served = tokio::spawn(serve(bound, Arc::new(Node::default()), shutdown.clone()));
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect((host, port)).unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    assert_eq!(parse(&answer.await.unwrap()).0, 200);
    shutdown.cancel();
    served.await.unwrap().unwrap();
}

fn event(pid: u32, outcome: EventOutcome) -> Event {
    Event {
        time: Timestamp::UNIX_EPOCH,
        outcome,
        hook: "connect4".to_owned(),
        process: Process { pid, comm: "curl".to_owned() },
        cgroup_id: 1,
        pod: None,
        container: None,
        from: EventSource { netns: 1 },
        to: Frontend::new([10, 0, 0, 1].into(), 80, Protocol::Tcp),
        chosen: None,
        policy: Some(PolicyRef::new(PolicyKind::LocalRedirectPolicy, "x")),
        service: None,
        failure: None,
    }
}

/// Reads a line of a stream that goes on.
struct Lines(std::io::BufReader<UnixStream>);

impl Lines {
    fn open(socket: &Path, target: &str) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").unwrap();
        let mut lines = Self(std::io::BufReader::new(stream));
        while lines.raw().is_some_and(|l| l != "\r\n") {}
        lines
    }

    fn raw(&mut self) -> Option<String> {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.0, &mut line).unwrap();
        (!line.is_empty()).then_some(line)
    }

    fn next(&mut self) -> Option<Value> {
        self.raw().map(|line| serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test]
async fn events_are_followed() {
    let server = Server::start(Access::All);
    let (node, socket) = (Arc::clone(&server.node), server.socket.clone());
    let client = tokio::task::spawn_blocking(move || {
        node.hub.publish(event(1, EventOutcome::Redirect));
        let target = "/v1/events?follow=true&policy=x&outcome=refuse&to=10.0.0.1:80&limit=2";
        let mut lines = Lines::open(&socket, target);
        // The head of the answer is there, so the client listens already.
        node.hub.publish(event(2, EventOutcome::Redirect));
        node.hub.publish(event(3, EventOutcome::Refuse));
        node.hub.publish_lost(4);
        let seen = [lines.next().unwrap(), lines.next().unwrap()];
        node.hub.publish(event(5, EventOutcome::Refuse));
        node.hub.publish(event(6, EventOutcome::Refuse));
        (seen, lines.next(), lines.next())
    });
    let (seen, last, end) = client.await.unwrap();
    assert_eq!(seen[0]["process"]["pid"], 3);
    assert_eq!(seen[0]["outcome"], "refuse");
    assert_eq!(seen[1], json!({"lost": 4}));
    assert_eq!((last.unwrap()["process"]["pid"].clone(), end), (json!(5), None), "two events were asked for");
    server.stop().await;
}

#[tokio::test]
async fn without_follow_the_last_events_are_listed() {
    let server = Server::start(Access::All);
    for pid in 1..=4 {
        server.node.hub.publish(event(pid, EventOutcome::Redirect));
    }
    server.node.hub.publish(event(5, EventOutcome::QosDrop));
    let list = async |target: &str| -> Vec<Value> {
        let (status, kind, body) = server.request("GET", target, b"").await;
        assert_eq!((status, kind.as_str()), (200, "application/x-ndjson"));
        let lines = String::from_utf8(body).unwrap();
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["process"]["pid"].clone()).collect()
    };
    assert_eq!(list("/v1/events").await, [1, 2, 3, 4, 5]);
    assert_eq!(list("/v1/events?outcome=redirect&limit=2").await, [3, 4]);
    assert_eq!(list("/v1/events?outcome=qosDrop").await, [5]);
    assert_eq!(list("/v1/events?policy=LocalRedirectPolicy%2Fx&limit=1").await, [5]);
    assert_eq!(list("/v1/events?policy=BalancingPolicy/x").await, [0; 0]);
    assert_eq!(list("/v1/events?to=%5B::ffff:10.0.0.1%5D:80&limit=1").await, [5]);
    assert_eq!(list("/v1/events?to=10.0.0.1:81").await, [0; 0]);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_wait_or_go_away_harm_nobody() {
    let server = Server::start(Access::All);
    let socket = server.socket.clone();
    let open = move || {
        let mut all = Vec::new();
        for head in ["", "GET /v1/st", "POST /v1/decide HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            all.push(stream);
        }
        let follower = Lines::open(&socket, "/v1/events?follow=true");
        drop(Lines::open(&socket, "/v1/events?follow=true"));
        (all, follower)
    };
    let (waiting, mut follower) = tokio::task::spawn_blocking(open).await.unwrap();
    // Far more than the buffers of a socket hold, and more than the queue.
    for pid in 0..20_000 {
        server.node.hub.publish(event(pid, EventOutcome::Service));
        assert!(pid % 1000 != 0 || server.get("/v1/status").await.0 == 200);
    }
    let read = tokio::task::spawn_blocking(move || {
        let (mut events, mut lost) = (0, 0);
        while events + lost < 20_000 {
            match follower.next().unwrap() {
                line if line["lost"].is_u64() => lost += line["lost"].as_u64().unwrap(),
                _ => events += 1,
            }
        }
        (events, lost)
    });
    let (events, lost) = read.await.unwrap();
    assert_eq!(events + lost, 20_000, "each event is handed out or counted as lost");
    assert!(events > 0);
    drop(waiting);
    server.stop().await;
}

#[tokio::test]
async fn the_end_cuts_streams_and_idle_connections() {
    let server = Server::start(Access::All);
    let (node, socket, shutdown) = (Arc::clone(&server.node), server.socket.clone(), server.shutdown.clone());
    let client = tokio::task::spawn_blocking(move || {
        let mut idle = UnixStream::connect(&socket).unwrap();
        idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(idle, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut start = [0; 12];
        idle.read_exact(&mut start).unwrap();
        let mut lines = Lines::open(&socket, "/v1/events?follow=true");
        shutdown.cancel();
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        (lines.next(), start)
    });
    let (line, start) = client.await.unwrap();
    assert_eq!((line, &start), (None, b"HTTP/1.1 200"));
    assert_eq!(node.hub.listeners(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_unix_socket_is_private_and_taken_over_only_when_stale() {
    let folder = Folder::new();
    let path = folder.0.join("a/b/agent.sock");
    let listen = [Listen::Unix(path.clone())];
    let bound = bind(&listen).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let taken = bind(&listen).unwrap_err();
    assert!(matches!(taken, BindError::InUse { .. }), "{taken}");
    assert!(taken.to_string().ends_with("another process listens there; is an agent running already?"));
    assert!(path.exists(), "the other's file is left alone");
    drop(bound);
    assert!(!path.exists());

    // Closed without being removed, as after kill -9.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let bound = bind(&listen).unwrap();
    UnixStream::connect(&path).unwrap().shutdown(Shutdown::Both).unwrap();

    // Somebody else's file at the same path stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    drop(bound);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    let error = bind(&listen).unwrap_err();
    assert!(matches!(error, BindError::NoSocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_socket_with_a_full_queue_is_in_use() {
    let folder = Folder::new();
    let path = folder.0.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let error = bind(&[Listen::Unix(path)]).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
}
