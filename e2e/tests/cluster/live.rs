//! The live view through the API server's own proxy, and single nodes by who may see them.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use balancing_e2e::{
    cluster::{Kube, Operator, binaries, objects},
    manifests::node,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, dns_policy, dns_service, expect, kubectl, local_cache, udp},
    nodes::three,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("every_node_is_seen_through_the_api_servers_proxy", every_node_is_seen_through_the_api_servers_proxy),
    ("who_may_asks_a_nodes_agent", who_may_asks_a_nodes_agent),
];

const PROXY: &str = "/api/v1/namespaces/elf/services/https:balancing-operator:observe/proxy";

/// A stream that kubectl reads, a line at a time.
pub(crate) struct Stream {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Stream {
    fn open(cluster: &Cluster) -> Result<Self> {
        let mut child = Command::new(binaries::program("kubectl")?)
            .args(["get", "--raw", &format!("{PROXY}/v1/observe?interval=1s")])
            .env("KUBECONFIG", cluster.plane.kubeconfig("admin")?)
            .env("KUBECACHEDIR", cluster.plane.folder().join("kubectl-cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("kubectl get --raw")?;
        let out = BufReader::new(child.stdout.take().context("no stdout")?);
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The first line of which that is so.
    pub(crate) fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + SOON;
        let mut last = Value::Null;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => last = serde_json::from_str(&line).with_context(|| line.clone())?,
                Err(_) => break,
            }
            if is(&last) {
                return Ok(last);
            }
        }
        bail!("{what} was not seen; the last line is {last}")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A stream on which that becomes so: one that cannot be had yet, or breaks off, is opened again.
pub(crate) fn seen(cluster: &Cluster, what: &str, is: impl Fn(&Value) -> bool) -> Result<(Stream, Value)> {
    let end = Instant::now() + 2 * SOON;
    loop {
        let stream = Stream::open(cluster)?;
        match stream.until(what, &is) {
            Ok(line) => return Ok((stream, line)),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn fresh(line: &Value, nodes: u64) -> bool {
    line["kind"] == "Frame" && line["coverage"]["fresh"] == nodes && line["coverage"]["missing"] == json!([])
}

/// The redirects of a policy that a frame tells of a node.
pub(crate) fn redirects(frame: &Value, node: &str, policy: &str) -> Option<u64> {
    let node = frame["nodes"].as_array()?.iter().find(|n| n["name"] == node)?;
    let counted = node["counters"]["policies"].as_array()?;
    counted.iter().find(|c| c["name"] == policy)?["redirects"].as_u64()
}

fn every_node_is_seen_through_the_api_servers_proxy(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let quick = ["--lease-duration", "3"];
    let first = Operator::start(&cluster.network, &cluster.plane, "op1", &quick)?;
    let second = Operator::start(&cluster.network, &cluster.plane, "op2", &quick)?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    scene.apply(&dns_policy())?;
    expect(cluster, &mut nodes[0], "c1", udp(DNS, 53), "a1:5353")?;

    let (stream, frame) = seen(cluster, "a frame with all nodes", |l| fresh(l, 3))?;
    let before = redirects(&frame, "n1", "dns").context("no counters of n1")?;
    ensure!(before > 0, "{frame}");
    ensure!(redirects(&frame, "n3", "dns").unwrap_or(0) == 0, "nothing is redirected on n3: {frame}");
    // A node whose agent has never been heard of is missing by name, for as long as there is such a node and the
    // DaemonSet, which wants this label, does not leave it out.
    let silent = node("silent", &["192.0.2.78".parse()?], json!({"kubernetes.io/os": "linux"}));
    let missing = |l: &Value| l["coverage"]["missing"] == json!(["silent"]);
    scene.create(&silent)?;
    stream.until("a node that is missing", missing)?;
    let label = |os: Value| {
        let labels = json!({"metadata": {"labels": {"kubernetes.io/os": os}}});
        scene.kube.patch(&objects::place(&silent)?.path(), &labels)
    };
    label(Value::Null)?;
    stream.until("the node is left out", |l| fresh(l, 3))?;
    label(json!("linux"))?;
    stream.until("the node is missing again", missing)?;
    scene.delete(&silent)?;
    stream.until("no such node any longer", |l| fresh(l, 3))?;
    // What happens is seen while it happens.
    nodes[0].client("c1")?.dial_all(vec![udp(DNS, 53)], 10)?;
    stream.until("the connections of a moment ago", |l| {
        redirects(l, "n1", "dns").is_some_and(|now| now >= before + 10)
    })?;
    // An agent that is gone is stale, and says so.
    nodes[2].agent.kill9()?;
    stream.until("a stale node", |l| l["coverage"]["fresh"] == 2 && l["coverage"]["stale"] == 1)?;
    drop(stream);
    // The leader goes: agents dial the next one.
    let metrics = first.metrics()?.0;
    let (leader, standby) =
        if metrics.contains("balancing_reconcile_leader 1") { (first, second) } else { (second, first) };
    leader.stop()?;
    seen(cluster, "two nodes at the next leader", |l| l["coverage"]["fresh"] == 2)?;
    ensure!(
        standby.metrics()?.0.contains("balancing_agents{state=\"connected\"} 2"),
        "{}",
        standby.metrics()?.0
    );
    // Whoever may not call the Service does not get through.
    let nobody = kubectl(&cluster.plane, "nobody", &["get", "--raw", &format!("{PROXY}/v1/observe")])?;
    ensure!(!nobody.status.success(), "{nobody:?}");
    Ok(())
}

/// A client of the operator's own port, with that token.
fn at_operator(cluster: &Cluster, space: &str, token: &str) -> Result<Kube> {
    let path = cluster.plane.folder().join(format!("at-operator-{token}.kubeconfig"));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {
            "server": format!("https://{}:5821", cluster.network.v4(space)), "insecure-skip-tls-verify": true,
        }}],
        "users": [{"name": "x", "user": if token.is_empty() { json!({}) } else { json!({"token": token}) }}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    });
    std::fs::write(&path, config.to_string())?;
    Kube::connect(&path)
}

fn who_may_asks_a_nodes_agent(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    seen(cluster, "a frame with all nodes", |l| fresh(l, 3))?;
    let admin = at_operator(cluster, "op1", "admin-token")?;
    let status = admin.get("/v1/nodes/n2/status")?;
    ensure!(status.status == 200, "{status:?}");
    let status: Value = serde_json::from_str(&status.text)?;
    ensure!(status["kind"] == "NodeStatus" && status["node"]["name"] == "n2", "{status}");
    let question = json!({"to": {"address": DNS, "port": 53, "protocol": "UDP"}});
    let decide = |kube: &Kube, node: &str| {
        let path = format!("/v1/nodes/{node}/decide");
        kube.request(&http::Method::POST, &path, "application/json", Some(&question))
    };
    let answer: Value = serde_json::from_str(&decide(&admin, "n1")?.text)?;
    ensure!(answer["kind"] == "Decision", "{answer}");
    ensure!(admin.get("/v1/nodes/n9/status")?.status == 404, "no such node");
    // Without a right, with one for one node, without a token.
    let viewer = at_operator(cluster, "op1", "viewer-token")?;
    ensure!(decide(&viewer, "n1")?.status == 403, "{:?}", decide(&viewer, "n1")?);
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "asks-n1"},
        "rules": [{"apiGroups": ["balancing.elf.io"], "resources": ["nodebalancingstates/decide"],
                   "resourceNames": ["n1"], "verbs": ["get"]}],
    }))?;
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "asks-n1"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "asks-n1"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}],
    }))?;
    let end = Instant::now() + SOON;
    while decide(&viewer, "n1")?.status != 200 {
        ensure!(Instant::now() < end, "{:?}", decide(&viewer, "n1")?);
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(decide(&viewer, "n2")?.status == 403, "another node");
    ensure!(viewer.get("/v1/nodes/n1/events")?.status == 403, "another part");
    ensure!(at_operator(cluster, "op1", "")?.get("/v1/nodes/n1/status")?.status == 401, "without a token");
    ensure!(at_operator(cluster, "op1", "stolen")?.get("/v1/nodes/n1/status")?.status == 401, "no token");
    // Through the API server's proxy nobody's token comes, not even the administrator's.
    let proxied =
        kubectl(&cluster.plane, "admin", &["get", "--raw", &format!("{PROXY}/v1/nodes/n1/status")])?;
    ensure!(!proxied.status.success(), "{proxied:?}");
    Ok(())
}
