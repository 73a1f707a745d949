//! Single nodes, asked by the plugin through the operator: with a token and the rights, with less, and while operator or
//! agent are gone. Simulated nodes have no kubelet that would forward a port, so most go straight to its address.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Output, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use balancing_api::stream::NODE_PARTS;
use balancing_e2e::cluster::{NAMESPACE, Operator};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, dns_policy, dns_service, expect, local_cache, udp},
    nodes::three,
    plugin::{self, bind, plugin as run, reporting, snapshot},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("single_nodes_are_asked_through_the_operator", single_nodes_are_asked_through_the_operator),
    ("whoever_may_not_is_told_which_right_is_missing", whoever_may_not_is_told_which_right_is_missing),
    ("what_is_gone_is_told_and_asked_again", what_is_gone_is_told_and_asked_again),
];

const ROLE: &str = "balancing-node-inspector";

/// `kubectl balancing --operator THERE ARGUMENTS`: that flag may stand behind the command.
fn ask(cluster: &Cluster, user: &str, arguments: &[&str]) -> Result<Output> {
    let operator = format!("--operator={}:5821", cluster.network.v4("op1"));
    run(cluster, user, &[arguments, &[operator.as_str()]].concat())
}

/// The same, which must end with that status: what it printed on both streams.
fn ended(output: Output, status: i32) -> Result<(String, String)> {
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.code() == Some(status), "it ended with {}: {out}{err}", output.status);
    Ok((out, err))
}

/// What it printed on standard error, having failed.
fn refused(output: Output) -> Result<String> {
    let (out, err) = ended(output, 1)?;
    ensure!(out.is_empty(), "{out}");
    Ok(err)
}

/// Lets the group of the viewer reach the operator.
fn bind_role(scene: &Scene) -> Result<()> {
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "e2e-relay", "namespace": NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "viewers"}],
    }))?;
    Ok(())
}

/// Tries until what it is answered is so: rights take a moment.
fn soon(cluster: &Cluster, arguments: &[&str], is: impl Fn(&Output) -> bool) -> Result<(String, String)> {
    let end = Instant::now() + SOON;
    loop {
        let output = ask(cluster, "viewer", arguments)?;
        let good = is(&output);
        let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        if good {
            return Ok((out, err));
        }
        ensure!(Instant::now() < end, "{arguments:?} ended with {}: {out}{err}", output.status);
        thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// A trace that kubectl follows, a line at a time.
struct Trace {
    child: Child,
    lines: mpsc::Receiver<String>,
    complaints: mpsc::Receiver<String>,
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Trace {
    fn follow(cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let mut command = plugin::kubectl(cluster, "viewer", std::path::Path::new("/nonexistent"))?;
        command.args(["balancing", "trace", "-o", "json"]).args(arguments);
        command.arg(format!("--operator={}:5821", cluster.network.v4("op1")));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = lines_of(child.stdout.take().context("no stdout")?);
        let complaints = lines_of(child.stderr.take().context("no stderr")?);
        Ok(Self { child, lines, complaints })
    }

    /// Makes things happen until an event of each of these nodes is told -> one of each.
    fn until(&self, nodes: &[&str], mut happen: impl FnMut() -> Result<()>) -> Result<Vec<Value>> {
        let end = Instant::now() + SOON;
        let mut seen: Vec<Option<Value>> = vec![None; nodes.len()];
        while seen.iter().any(Option::is_none) {
            happen()?;
            while let Ok(line) = self.lines.recv_timeout(std::time::Duration::from_millis(100)) {
                let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
                let at = nodes.iter().position(|n| event["node"] == *n);
                if let Some(at) = at.filter(|_| event["kind"] == "Event") {
                    seen[at] = Some(event);
                } else if event["kind"] == "Event" {
                    bail!("of another node: {event}");
                }
            }
            let said: Vec<String> = self.complaints.try_iter().collect();
            ensure!(Instant::now() < end, "no event of each of {nodes:?}: {seen:?} {said:?}");
        }
        Ok(seen.into_iter().flatten().collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An event without what differs from run to run.
fn steady(mut event: Value) -> Value {
    for (field, value) in [("time", json!("TIME")), ("cgroupId", json!(0)), ("from", json!({"netns": 0}))] {
        event[field] = value;
    }
    event["process"]["pid"] = json!(0);
    event
}

fn single_nodes_are_asked_through_the_operator(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    local_cache(cluster, &scene, 2)?;
    scene.apply(&dns_policy())?;
    for role in ["balancing-viewer", ROLE, "view"] {
        bind(&scene, role)?;
    }
    bind_role(&scene)?;
    expect(cluster, &mut nodes[0], "c1", udp(DNS, 53), "a1:5353")?;
    expect(cluster, &mut nodes[1], "c2", udp(DNS, 53), "a2:5353")?;
    expect(cluster, &mut nodes[2], "c3", udp(DNS, 53), "b3:53")?;
    reporting(&operator, 3)?;

    // What is programmed on a node.
    let services = ["services", "--node", "n1", "lr/dns"];
    let (text, _) = soon(cluster, &services, |o| o.status.success())?;
    snapshot("relay-services", &text);
    let (document, _) =
        ended(ask(cluster, "viewer", &["services", "--node=n1", "--node=n3", "lr/dns", "-o", "json"])?, 0)?;
    let document: Value = serde_json::from_str(&document)?;
    let of = |node: &str, state: &str| {
        let items = document["items"].as_array().into_iter().flatten();
        items.filter(|i| i["node"] == node && i["state"] == state).count()
    };
    ensure!(document["coverage"]["fresh"] == 2, "{document}");
    // Two ports of two families, on the node with a local backend and on the one without.
    ensure!((of("n1", "Redirected"), of("n3", "Fallback")) == (4, 4), "{document}");
    // Where there are several, nobody guesses.
    let which = refused(ask(cluster, "viewer", &["services"])?)?;
    ensure!(which.contains("which node? Name it with --node; there is n1, n2, n3"), "{which}");
    let wrong = refused(ask(cluster, "viewer", &["services", "--node", "n4"])?)?;
    ensure!(wrong.contains("no node \"n4\" with an agent; did you mean n1, n2, n3?"), "{wrong}");

    // What becomes of a connection: where there is a local backend, and where there is none.
    let explain = |more: &[&str]| {
        let all = [&["explain", "connection", "--to", "10.96.0.10:53/udp"], more].concat();
        ended(ask(cluster, "viewer", &all)?, 0)
    };
    snapshot("relay-connection-redirected", &explain(&["--node", "n1"])?.0);
    snapshot("relay-connection-fallback", &explain(&["--node", "n3"])?.0);
    // A pod says by itself on which node it is.
    let (of_pod, _) = explain(&["--from", "pod/default/dns-1"])?;
    ensure!(of_pod.contains("Node:        n3"), "{of_pod}");
    let nowhere =
        [&["explain", "connection", "--to", "10.96.0.10:53/udp"][..], &["--from", "pod/default/no"]].concat();
    let nowhere = refused(ask(cluster, "viewer", &nowhere)?)?;
    ensure!(nowhere.contains("there is no pod default/no"), "{nowhere}");

    // What is decided, as it is decided: on one node, and on all.
    let trace = Trace::follow(cluster, &["--node", "n1", "--policy", "dns"])?;
    let events = trace.until(&["n1"], || {
        nodes[0].client("c1")?.dial(udp(DNS, 53))?;
        nodes[1].client("c2")?.dial(udp(DNS, 53))?;
        Ok(())
    })?;
    drop(trace);
    snapshot("relay-trace", &serde_json::to_string_pretty(&steady(events[0].clone()))?);
    let trace = Trace::follow(cluster, &[])?;
    let events = trace.until(&["n1", "n2", "n3"], || {
        for (node, client) in nodes.iter_mut().zip(["c1", "c2", "c3"]) {
            node.client(client)?.dial(udp(DNS, 53))?;
        }
        Ok(())
    })?;
    drop(trace);
    let outcomes: Vec<_> = events.iter().map(|e| e["outcome"].as_str().unwrap_or_default()).collect();
    ensure!(outcomes == ["redirect", "redirect", "fallback"], "{events:?}");
    // The past of all of them, in the order of time.
    let (past, _) = ended(ask(cluster, "viewer", &["trace", "--last", "3", "-o", "json"])?, 0)?;
    let times: Vec<Value> = past
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).map(|e| e["time"].clone()))
        .collect::<Result<_, _>>()?;
    ensure!(times.len() == 3 && times.is_sorted_by(|a, b| a.as_str() <= b.as_str()), "{past}");
    let (text, err) = ended(ask(cluster, "viewer", &["trace", "--last", "3", "--policy", "nope"])?, 0)?;
    ensure!(
        text.is_empty() && err.contains("no policy \"nope\" is known") && err.contains("there is"),
        "{text}{err}"
    );
    Ok(())
}

/// The first command that a message says to ask with, and its answer.
fn asked_with(cluster: &Cluster, message: &str) -> Result<String> {
    let line = message.split("kubectl auth can-i ").nth(1).context(message.to_owned())?;
    let line = line.lines().next().unwrap_or_default().split([',', ';']).next().unwrap_or_default();
    let words: Vec<&str> = ["auth", "can-i"].into_iter().chain(line.split(' ')).collect();
    let answer = crate::bed::kubectl(&cluster.plane, "viewer", &words)?;
    Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
}

fn whoever_may_not_is_told_which_right_is_missing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    reporting(&operator, 3)?;
    bind(&scene, "balancing-viewer")?;
    let services = ["services", "--node", "n1"];
    // Where the operator is.
    let (_, err) =
        soon(cluster, &services, |o| String::from_utf8_lossy(&o.stderr).contains("endpointslices"))?;
    snapshot("relay-refused-leader", &err);
    ensure!(asked_with(cluster, &err)? == "no", "{err}");
    bind_role(&scene)?;
    // What it may be asked for.
    let past = ["trace", "--node", "n1", "--last", "1"];
    let (_, err) =
        soon(cluster, &past, |o| String::from_utf8_lossy(&o.stderr).contains("nodebalancingstates"))?;
    snapshot("relay-refused-part", &err);
    ensure!(asked_with(cluster, &err)? == "no", "{err}");
    // One node alone: the others are named, and hide nothing.
    let parts = NODE_PARTS.map(|part| format!("nodebalancingstates/{part}"));
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "e2e-asks-n1"},
        "rules": [{
            "apiGroups": ["balancing.elf.io"], "resourceNames": ["n1"], "verbs": ["get"],
            "resources": parts,
        }],
    }))?;
    bind(&scene, "e2e-asks-n1")?;
    soon(cluster, &services, |o| o.status.success())?;
    let (_, err) = ended(ask(cluster, "viewer", &["trace", "--last", "1"])?, 0)?;
    ensure!(!err.contains("node n1:"), "{err}");
    for node in ["n2", "n3"] {
        let line = format!(
            "kubectl auth can-i get nodebalancingstates.balancing.elf.io/{node} --subresource=events"
        );
        ensure!(
            err.contains(&format!("warning: node {node}: viewer may not")) && err.contains(&line),
            "{err}"
        );
    }
    let trace = Trace::follow(cluster, &[])?;
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(trace.complaints.recv_timeout(SOON).ok().filter(|l| l.starts_with("warning: node n")));
        ensure!(trace.complaints.try_recv().is_ok() || told.len() < 3, "{told:?}");
    }
    drop(trace);

    // Who acts as somebody else has no token of theirs; one in a file is shown.
    let acting =
        refused(ask(cluster, "admin", &["services", "--node=n1", "--as=viewer", "--as-group=viewers"])?)?;
    snapshot("relay-refused-acting", &acting);
    let file = cluster.plane.folder().join("viewer.token");
    std::fs::write(&file, "viewer-token\n")?;
    let shown = format!("--operator-token={}", file.display());
    let with = ["services", "--node=n1", "--as=viewer", "--as-group=viewers", shown.as_str()];
    ended(ask(cluster, "admin", &with)?, 0)?;
    std::fs::write(&file, "stolen\n")?;
    let stolen = refused(ask(cluster, "viewer", &["services", "--node=n1", &shown])?)?;
    ensure!(stolen.contains("does not accept the token") && stolen.contains("--operator-token"), "{stolen}");
    // Whoever answers instead of the operator does not get it.
    let (address, port) = cluster.plane.server();
    let stranger = format!("--operator={address}:{port}");
    let stranger = refused(run(cluster, "viewer", &["services", "--node=n1", &stranger])?)?;
    ensure!(stranger.contains("is not trusted to be the operator"), "{stranger}");
    // A port is forwarded by kubelets, of which there is none here: what else there is, is said.
    let forwarded = refused(run(cluster, "viewer", &["services", "--node=n1"])?)?;
    ensure!(
        forwarded.contains(&format!("no port is forwarded to pod {NAMESPACE}/balancing-operator-")),
        "{forwarded}"
    );
    ensure!(forwarded.contains("--operator"), "{forwarded}");
    Ok(())
}

fn what_is_gone_is_told_and_asked_again(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &["--lease-duration", "3"])?;
    let mut nodes = three(cluster)?;
    dns_service(cluster, &scene)?;
    for role in ["balancing-viewer", ROLE] {
        bind(&scene, role)?;
    }
    bind_role(&scene)?;
    reporting(&operator, 3)?;
    soon(cluster, &["services", "--node", "n3"], |o| o.status.success())?;
    // The agent of node 3 goes.
    nodes[2].agent.kill9()?;
    reporting(&operator, 2)?;
    let gone = refused(ask(cluster, "viewer", &["services", "--node", "n3"])?)?;
    ensure!(gone.contains("no agent of node n3 is connected to the operator"), "{gone}");
    ensure!(gone.contains("kubectl get pods -n elf -l app.kubernetes.io/component=agent"), "{gone}");
    // Of several nodes those that answer are shown.
    let some = ask(cluster, "viewer", &["services", "--node=n2", "--node=n3", "-o", "name"])?;
    let (shown, err) = ended(some, 1)?;
    ensure!(
        shown.contains("frontend/10.96.0.10:53/UDP") && err.contains("no agent of node n3"),
        "{shown}{err}"
    );

    // The operator goes, and another one comes: the stream is opened again.
    let trace = Trace::follow(cluster, &["--node", "n1"])?;
    trace.until(&["n1"], || nodes[0].client("c1")?.dial(udp(DNS, 53)).map(drop))?;
    operator.stop()?;
    let said = trace.complaints.recv_timeout(SOON).context("nothing was said")?;
    ensure!(
        said.starts_with("warning: node n1: ") && said.ends_with("it is asked again until it answers"),
        "{said}"
    );
    let down = refused(ask(cluster, "viewer", &["services", "--node", "n1"])?)?;
    ensure!(down.contains("failed to connect to the operator at"), "{down}");
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &["--lease-duration", "3"])?;
    reporting(&operator, 2)?;
    trace.until(&["n1"], || nodes[0].client("c1")?.dial(udp(DNS, 53)).map(drop))?;
    Ok(())
}
