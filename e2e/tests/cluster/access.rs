//! Who gets what from the operator's port of the live view: with which token, and with none.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{ClusterNode, Kube, Operator, objects, pods},
    tls::Trust,
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, redirecting},
    live,
};

pub(crate) const TESTS: &[(&str, Test)] = &[(
    "without_a_right_nobody_gets_more_than_a_viewer_sees",
    without_a_right_nobody_gets_more_than_a_viewer_sees,
)];

/// The audience of tokens for the operator.
const OPERATOR: &str = balancing_api::stream::AUDIENCE;

/// Paths that take a token, of a node's agent.
fn parts(node: &str) -> Vec<(&'static str, String)> {
    let paths = ["status", "frontends", "counters", "events?follow=true", "decide"];
    let method = |part: &str| if part == "decide" { "POST" } else { "GET" };
    paths.map(|part| (method(part), format!("/v1/nodes/{node}/{part}"))).into()
}

/// A request, as an HTTP client writes it.
fn request(method: &str, path: &str, token: Option<&str>, more: &str) -> String {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let body = if method == "POST" {
        "{\"to\":{\"address\":\"10.96.0.10\",\"port\":53,\"protocol\":\"UDP\"}}"
    } else {
        ""
    };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn upgrade(token: Option<&str>) -> String {
    let request = request("GET", balancing_api::stream::AGENT_PATH, token, "Upgrade: balancing-agent/1\r\n");
    request.replace("Connection: close", "Connection: upgrade, close")
}

/// A service account of somebody else, in namespace `default`.
fn stranger(scene: &Scene) -> Result<Value> {
    scene.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}}))
}

/// The token of an agent whose pod is gone.
fn of_a_pod_that_is_gone(cluster: &Cluster, kube: &Kube) -> Result<String> {
    let node = ClusterNode::join(&cluster.network, &cluster.plane, "n2")?;
    let token = std::fs::read_to_string(node.pod.projected_token(&cluster.plane, OPERATOR)?)?;
    kube.delete(&objects::place(&node.pod.object)?.path())?;
    Ok(token)
}

fn without_a_right_nobody_gets_more_than_a_viewer_sees(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut node = redirecting(cluster, &scene)?;
    live::seen(cluster, "the node's agent is connected", |l| l["coverage"]["fresh"] == 1)?;
    let at = SocketAddr::new(cluster.network.v4("op1"), 5821);
    let trust = Trust::of_leader(&scene.kube)?;

    stranger(&scene)?;
    let token =
        |audiences: &[&str]| pods::account_token(&scene.kube, ("default", "stranger"), audiences, None);
    let gone = of_a_pod_that_is_gone(cluster, &scene.kube)?;
    let agent = std::fs::read_to_string(node.pod.projected_token(&cluster.plane, OPERATOR)?)?;
    let unbound = pods::account_token(&scene.kube, (pods::NAMESPACE, "balancing-agent"), &[OPERATOR], None)?;
    // A signature that is cut.
    let forged = agent[..agent.len() - 4].to_owned();
    let long = "x".repeat(20_000);
    // The tokens, whether it is known whose they are where a node is asked for, and where an agent dials in.
    let tokens: Vec<(&str, Option<String>, u16, u16)> = vec![
        ("none", None, 401, 401),
        ("an empty one", Some(String::new()), 401, 401),
        ("no token", Some("garbage".to_owned()), 401, 401),
        ("one of 20,000 letters", Some(long), 401, 401),
        ("one whose signature is cut", Some(forged), 401, 401),
        ("an agent's whose pod is gone", Some(gone), 401, 401),
        ("a stranger's for the API server", Some(token(&[])?), 403, 401),
        ("a stranger's for the operator", Some(token(&[OPERATOR])?), 401, 403),
        ("a stranger's for somebody else", Some(token(&["somebody-else"])?), 401, 401),
        ("an agent's that names no node", Some(unbound), 401, 403),
        ("an agent's for the API server", Some(node.pod.token.clone()), 403, 401),
        ("the agent's own for the operator", Some(agent.clone()), 401, 101),
    ];
    for (what, token, asking, dialling) in &tokens {
        let token = token.as_deref();
        // Its own node, and another.
        for (method, path) in parts("n1").into_iter().chain(parts("n2")) {
            let (status, answer) = trust.exchange(at, &request(method, &path, token, ""))?;
            ensure!(status == *asking, "{what}: {method} {path} answers {status}, not {asking}: {answer}");
        }
        if *dialling != 101 {
            let (status, answer) = trust.exchange(at, &upgrade(token)).with_context(|| (*what).to_owned())?;
            ensure!(
                status == *dialling,
                "{what}: an agent's upgrade answers {status}, not {dialling}: {answer}"
            );
        }
        // What is not there is not there for anybody.
        for (method, path, want) in [
            ("GET", "/", 404),
            ("GET", "/metrics", 404),
            ("GET", "/v1/nodes/n1/secrets", 404),
            ("GET", "/v1/nodes/../../agent", 404),
            ("DELETE", "/v1/nodes/n1/status", 405),
            ("GET", "/v1/nodes/n1/decide", 405),
            ("POST", "/v1/observe", 405),
            ("GET", "/v1/agent", 426),
        ] {
            let (status, answer) = trust.exchange(at, &request(method, path, token, ""))?;
            ensure!(status == want, "{what}: {method} {path} answers {status}, not {want}: {answer}");
        }
    }
    // An upgrade to something else, on a path that has none, or with lines at once.
    for (more, want) in
        [("Upgrade: websocket\r\n", 426), ("Upgrade: h2c\r\n", 426), ("Upgrade: balancing-agent/2\r\n", 426)]
    {
        let asked = request("GET", "/v1/agent", Some(&agent), more);
        let (status, answer) = trust.exchange(at, &asked)?;
        ensure!(status == want, "{more:?} answers {status}, not {want}: {answer}");
    }
    for (what, token, _, dialling) in tokens.iter().filter(|t| t.3 != 101) {
        let lines = format!("{}{{\"kind\":\"Hello\",\"version\":\"9\"}}\n", upgrade(token.as_deref()));
        let (status, answer) = trust.exchange(at, &lines)?;
        ensure!(status == *dialling, "{what}, with lines at once: {status}: {answer}");
    }
    // An agent's token speaks for its own node.
    lies(&trust, at, &agent)?;
    what_everybody_sees(&trust, at)?;
    live::seen(cluster, "the agent is connected as before", |l| l["coverage"]["fresh"] == 1)?;
    node.healthy()
}

/// The agent of node n1 says that it is that of node n2: it is cut off, and n2 has said nothing.
fn lies(trust: &Trust, at: SocketAddr, token: &str) -> Result<()> {
    use std::io::{Read, Write};
    // Somebody watches, or nobody would listen to reports.
    let mut viewer = trust.dial(at)?;
    viewer.write_all(request("GET", "/v1/observe?interval=1s", None, "").as_bytes())?;
    let mut some = [0; 64];
    viewer.read_exact(&mut some)?;
    let mut liar = trust.dial(at)?;
    liar.write_all(upgrade(Some(token)).as_bytes())?;
    let mut report = json!({"kind": "Report", "full": true});
    report["status"] = status_of("n2");
    report["frontends"] = json!({"view": "programmed", "items": []});
    report["counters"] = json!({
        "since": "2026-01-01T00:00:00Z", "takenAt": "2026-01-01T00:00:00Z", "policies": [], "frontends": [],
        "backends": [], "events": {"produced": 0, "lost": 0},
    });
    liar.write_all(format!("{report}\n").as_bytes())?;
    let mut answer = String::new();
    let _ = liar.read_to_string(&mut answer);
    ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let bye = answer.lines().rev().find(|l| l.contains("\"Bye\"")).with_context(|| answer.clone())?;
    ensure!(bye.contains("n2"), "{bye}");
    Ok(())
}

/// The status that an agent reports.
pub(crate) fn status_of(node: &str) -> Value {
    json!({
        "node": {"name": node, "addresses": [], "source": "kubernetes"},
        "agent": {"version": "1", "startedAt": "2026-01-01T00:00:00Z", "defaultRedirectsPerSecond": 0},
        "kernel": {"release": "6", "features": {"setRetval": true, "socketStorage": true, "socketDestroy": false}},
        "datapath": {"cgroupRoot": "/c", "bpffs": "/b", "layoutVersion": 1, "programs": [], "maps": []},
        "conditions": [], "sourceErrors": [], "policies": [],
    })
}

/// Without a token the live view says what a viewer may see, and nothing of processes and connections.
fn what_everybody_sees(trust: &Trust, at: SocketAddr) -> Result<()> {
    use std::io::{Read, Write};
    let mut viewer = trust.dial(at)?;
    viewer.write_all(request("GET", "/v1/observe?interval=1s", None, "").as_bytes())?;
    let mut seen = String::new();
    wait::until(
        SOON,
        || "a frame with the node".to_owned(),
        || {
            let mut piece = [0; 16 << 10];
            let read = viewer.read(&mut piece)?;
            seen += &String::from_utf8_lossy(&piece[..read]);
            Ok(seen.contains("\"redirects\"").then_some(()))
        },
    )
    .with_context(|| seen.clone())?;
    for secret in ["\"comm\"", "\"pid\"", "\"process\"", "\"cgroupId\"", "\"netns\"", "\"from\"", "\"token\""]
    {
        ensure!(!seen.contains(secret), "{secret} is in {seen}");
    }
    Ok(())
}
