//! Somebody looks on through the real kubectl: rows as they change, words that are completed, a part chosen by labels.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    client::built,
    cluster::{ControlPlane, ControlPlaneOptions, Kube, objects},
    manifests::with,
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{self, SOON, Scene, dns_policy, dns_service, local_cache},
    nodes::state_of,
    plugin::{bind, kubectl, plugin, row, seen},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("rows_are_watched", rows_are_watched),
    ("who_may_list_and_not_watch_sees_changes_later", who_may_list_and_not_watch_sees_changes_later),
    ("a_watch_outlives_the_api_server", a_watch_outlives_the_api_server),
    ("names_of_live_objects_are_completed", names_of_live_objects_are_completed),
    ("labels_choose_policies_and_nodes", labels_choose_policies_and_nodes),
];

/// `kubectl balancing ...` that goes on, and what it has printed so far. Ends with the value.
struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    fn start(mut command: Command, folder: &std::path::Path, arguments: &[&str]) -> Result<Self> {
        let (out, err) = (folder.join("watch.out"), folder.join("watch.err"));
        command.arg("balancing").args(arguments);
        command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        Ok(Self { child: command.spawn().context("kubectl")?, out, err })
    }

    fn printed(&self) -> Result<(String, String)> {
        Ok((fs::read_to_string(&self.out)?, fs::read_to_string(&self.err)?))
    }

    /// Waits for a line of a stream that holds all these words.
    fn says(&self, words: &[&str]) -> Result<()> {
        let said =
            || self.printed().map(|(out, err)| format!("{words:?} in\n{out}{err}")).unwrap_or_default();
        wait::until(SOON, said, || {
            let (out, err) = self.printed()?;
            let holds = |line: &str| words.iter().all(|w| line.contains(w));
            Ok(out.lines().chain(err.lines()).any(holds).then_some(()))
        })
    }

    /// Presses Ctrl-C.
    fn interrupt(&mut self) -> Result<ExitStatus> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status()?;
        wait::until(SOON, || "an end after Ctrl-C".to_owned(), || Ok(self.child.try_wait()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many watches of policies the API server serves.
fn watches(kube: &Kube) -> Result<u64> {
    let text = kube.get("/metrics")?.text;
    let is = |line: &&str| {
        line.starts_with("apiserver_longrunning_requests{")
            && line.contains("resource=\"localredirectpolicies\"")
            && line.contains("verb=\"WATCH\"")
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
    Ok(text.lines().filter(is).filter_map(count).sum())
}

/// The policy with another frontend.
fn moved(policy: &Value) -> Value {
    with(policy.clone(), "/spec/frontend/serviceMatcher/serviceName", json!("elsewhere"))
}

fn rows_are_watched(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    bind(&scene, "balancing-viewer")?;
    let before = watches(&scene.kube)?;
    let command = kubectl(cluster, "viewer", std::path::Path::new("/nonexistent"))?;
    let arguments = ["get", "lr", "--watch", "--output-watch-events"];
    let mut running = Running::start(command, cluster.plane.folder(), &arguments)?;
    running.says(&["No LocalRedirectPolicies found; waiting for some."])?;
    wait::until(SOON, || "a watch".to_owned(), || Ok((watches(&scene.kube)? > before).then_some(())))?;
    scene.apply(&dns_policy())?;
    running.says(&["ADDED", "dns", "default/dns"])?;
    scene.apply(&moved(&dns_policy()))?;
    running.says(&["MODIFIED", "dns", "default/elsewhere"])?;
    // What shows in no column is no change.
    let path = objects::path("LocalRedirectPolicy", "", "dns")?;
    scene.kube.patch(&path, &json!({"metadata": {"annotations": {"about": "nothing"}}}))?;
    scene.delete(&dns_policy())?;
    running.says(&["DELETED", "dns"])?;
    let (out, err) = running.printed()?;
    ensure!(out.lines().count() == 4, "a header and a line a change: {out}");
    ensure!(err.lines().count() == 1, "{err}");
    ensure!(running.interrupt()?.code() == Some(130), "Ctrl-C ends it");
    wait::until(
        SOON,
        || "its watch has ended".to_owned(),
        || Ok((watches(&scene.kube)? <= before).then_some(())),
    )
}

fn who_may_list_and_not_watch_sees_changes_later(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "e2e-lists"},
        "rules": [{
            "apiGroups": ["balancing.elf.io"], "verbs": ["get", "list"],
            "resources": ["localredirectpolicies", "balancingpolicies", "nodebalancingstates"],
        }],
    }))?;
    bind(&scene, "e2e-lists")?;
    let command = kubectl(cluster, "viewer", std::path::Path::new("/nonexistent"))?;
    let running = Running::start(command, cluster.plane.folder(), &["get", "policies", "-w"])?;
    running
        .says(&["warning: ", "ask with: kubectl auth can-i watch localredirectpolicies.balancing.elf.io"])?;
    scene.apply(&dns_policy())?;
    running.says(&["dns", "default/dns"])?;
    Ok(())
}

fn a_watch_outlives_the_api_server(cluster: &Cluster) -> Result<()> {
    let mut plane = ControlPlane::start(&cluster.network, "ctl2", ControlPlaneOptions::default())?;
    bed::install(&plane)?;
    let kube = plane.admin()?;
    kube.apply(&objects::written(dns_policy()))?;
    let mut command = kubectl(cluster, "viewer", std::path::Path::new("/nonexistent"))?;
    command.env("KUBECONFIG", plane.kubeconfig("admin")?);
    let arguments = ["get", "policies", "--watch", "--output-watch-events"];
    let running = Running::start(command, plane.folder(), &arguments)?;
    running.says(&["ADDED", "dns", "default/dns"])?;
    plane.kill_api()?;
    running.says(&["warning: ", "; asking again"])?;
    plane.start_api()?;
    running.says(&["There are answers again."])?;
    kube.apply(&objects::written(moved(&dns_policy())))?;
    running.says(&["MODIFIED", "dns", "default/elsewhere"])?;
    let (out, err) = running.printed()?;
    ensure!(out.lines().count() == 3, "what did not change is not told again: {out}");
    ensure!(err.lines().count() == 2, "an outage is told once: {err}");
    Ok(())
}

fn names_of_live_objects_are_completed(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    scene.apply(&dns_policy())?;
    node(cluster, &scene, "n1", "a")?;
    bind(&scene, "balancing-viewer")?;
    bind(&scene, "view")?;
    let folder = cluster.plane.folder().join("completers");
    fs::create_dir_all(&folder)?;
    let link = folder.join("kubectl_complete-balancing");
    if !link.exists() {
        std::os::unix::fs::symlink(built("kubectl-balancing")?, &link)?;
    }
    for (words, candidate, directive) in [
        (&["get", "lr", "-n", ""][..], "kube-system", ":4"),
        (&["explain", "connection", "--from", "p"], "pod/", ":6"),
        (&["explain", "connection", "--from", "pod/def"], "pod/default/", ":6"),
        (&["explain", "connection", "--from", "pod/default/"], "pod/default/dns-cache-1", ":4"),
        (&["explain", "connection", "--from=pod/default/dns-"], "pod/default/dns-1", ":4"),
        (&["explain", "connection", "--to", "service/def"], "service/default/", ":6"),
        (&["explain", "connection", "--to", "service/default/"], "service/default/dns:53", ":4"),
        (&["explain", "policy", ""], "dns", ":4"),
        (&["explain", "policy", "lr/"], "lr/dns", ":4"),
        (&["explain", "lr/"], "lr/dns", ":4"),
        (&["explain", "node", ""], "n1", ":4"),
        (&["get", "policies", ""], "dns", ":4"),
        (&["get", "lr/d"], "lr/dns", ":4"),
        (&["get", "nodes", ""], "n1", ":4"),
        (&["get", "node/"], "node/n1", ":4"),
        (&["top", "--node", ""], "n1", ":4"),
        (&["top", "--policy", "d"], "dns", ":4"),
        (&["trace", "--policy", ""], "dns", ":4"),
        (&["trace", "--from-pod", "default/"], "default/dns-1", ":4"),
        (&["trace", "--service", "default/"], "default/dns", ":4"),
        (&["trace", "--node", ""], "n1", ":4"),
        (&["services", "--node", ""], "n1", ":4"),
        (&["status", "--context", ""], "e2e", ":4"),
    ] {
        let mut command = kubectl(cluster, "viewer", &folder)?;
        let output = command.args(["__complete", "balancing"]).args(words).output()?;
        let said = String::from_utf8(output.stdout)?;
        let mut lines = said.lines().map(|l| l.split('\t').next().unwrap_or_default());
        ensure!(lines.any(|l| l == candidate), "{words:?} is not completed with {candidate}: {said}");
        ensure!(said.lines().last() == Some(directive), "{words:?}: {directive} expected: {said}");
    }
    Ok(())
}

/// A node that says of itself that policy `dns` is in force on it, in a zone.
fn node(cluster: &Cluster, scene: &Scene, name: &str, zone: &str) -> Result<()> {
    objects::ensure_node(&scene.kube, &cluster.network, name)?;
    let path = objects::path("Node", "", name)?;
    scene.kube.patch(&path, &json!({"metadata": {"labels": {"zone": zone}}}))?;
    let policy = scene.kube.object(&objects::path("LocalRedirectPolicy", "", "dns")?)?;
    let state = json!({
        "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": name},
        "status": {
            "agentVersion": "0.1.0", "kernelRelease": "6.1.0", "layoutVersion": 1,
            "policies": [{
                "kind": "LocalRedirectPolicy", "name": "dns", "uid": policy["metadata"]["uid"],
                "observedGeneration": policy["metadata"]["generation"], "state": "Programmed",
                "reason": "Programmed", "message": "", "backends": {"wanted": 1, "programmed": 1},
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    });
    // An agent of an earlier test may have left one.
    scene.delete(&state)?;
    scene.create(&state)?;
    scene
        .kube
        .wait_for(&state_of(name)?, SOON, "the state of a node", |s| s["status"].is_object().then_some(()))
}

fn labels_choose_policies_and_nodes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let labelled = with(dns_policy(), "/metadata/labels", json!({"team": "dns"}));
    scene.apply(&labelled)?;
    scene.apply(&with(moved(&dns_policy()), "/metadata/name", json!("other")))?;
    for (name, zone) in [("n1", "a"), ("n2", "a"), ("n3", "b")] {
        node(cluster, &scene, name, zone)?;
    }
    let names = |arguments: &[&str]| -> Result<Vec<String>> {
        let (text, _) = seen(cluster, "admin", &[arguments, &["-o", "name"]].concat())?;
        let mut names: Vec<String> =
            text.lines().filter_map(|l| l.rsplit('/').next()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    };
    ensure!(names(&["get", "policies"])? == ["dns", "other"], "all");
    ensure!(names(&["get", "policies", "-l", "team=dns"])? == ["dns"], "one label");
    ensure!(names(&["get", "lr", "--selector", "!team"])? == ["other"], "no label");
    ensure!(names(&["get", "lr", "-l", "team in (web, dns)"])? == ["dns"], "a set");
    ensure!(names(&["get", "nodes", "--node-selector", "zone=a"])? == ["n1", "n2"], "nodes");
    // What is counted over nodes is counted over these.
    let arguments = ["get", "lr", "-l", "team=dns", "--node-selector", "zone=b", "-o"];
    let (text, _) =
        seen(cluster, "admin", &[&arguments[..], &["custom-columns=N:.name,S:.nodes.wanted"]].concat())?;
    ensure!(row(&text, "dns")? == ["dns", "1"], "{text}");
    let (text, _) = seen(cluster, "admin", &["top", "nodes", "--once", "--node-selector", "zone=a"])?;
    ensure!(row(&text, "n1").is_ok() && row(&text, "n2").is_ok() && row(&text, "n3").is_err(), "{text}");
    for arguments in [&["top", "--once", "-l", "team=dns"][..], &["top", "--once", "--policy", "lr/dns"]] {
        let (text, _) = seen(cluster, "admin", arguments)?;
        ensure!(row(&text, "dns").is_ok() && row(&text, "other").is_err(), "{arguments:?}: {text}");
    }
    let (text, _) = seen(cluster, "admin", &["status", "--node-selector", "zone=b"])?;
    ensure!(text.contains("Nodes:       1"), "{text}");
    // What is no selector is a wrong command line, in the API server's words.
    for command in ["get lr -l team+", "top --once -l team+", "status --node-selector zone=(a"] {
        let output = plugin(cluster, "admin", &command.split(' ').collect::<Vec<_>>())?;
        let err = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2) && err.contains("selector \""), "{command}: {err}");
    }
    // Who may not read nodes is not shown all of them.
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "e2e-none"},
        "rules": [{"apiGroups": ["balancing.elf.io"], "resources": ["*"], "verbs": ["get", "list"]}],
    }))?;
    bind(&scene, "e2e-none")?;
    let output = plugin(cluster, "viewer", &["get", "nodes", "--node-selector", "zone=a"])?;
    let err = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && err.contains("kubectl auth can-i list nodes"), "{err}");
    Ok(())
}
