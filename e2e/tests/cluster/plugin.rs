//! The plugin through the real kubectl: what somebody who may look on sees of a cluster, and what those see who may
//! less, or look while the operator or an agent is down.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    client::built,
    cluster::{ClusterNode, NAMESPACE, Operator, binaries, objects},
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, dns_policy, dns_service, is_true, local_cache},
    nodes::three,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("who_may_view_sees_the_cluster", who_may_view_sees_the_cluster),
    ("who_may_less_is_told_what_is_missing", who_may_less_is_told_what_is_missing),
    ("files_are_checked_against_the_cluster", files_are_checked_against_the_cluster),
];

/// kubectl as a user of the control plane, with the plugin and a folder in its `PATH`.
pub(crate) fn kubectl(cluster: &Cluster, user: &str, more: &Path) -> Result<Command> {
    let folder = built("kubectl-balancing")?.parent().map(PathBuf::from).context("no folder")?;
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = [folder, more.to_owned()].into_iter().chain(std::env::split_paths(&others));
    let mut command = Command::new(binaries::program("kubectl")?);
    command.env("PATH", std::env::join_paths(path)?).stdin(Stdio::null());
    command.env("KUBECONFIG", cluster.plane.kubeconfig(user)?).env("NO_COLOR", "1");
    command.env_remove("BALANCING_AGENT");
    Ok(command)
}

/// `kubectl balancing ARGUMENTS` as a user of the control plane.
pub(crate) fn plugin(cluster: &Cluster, user: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = kubectl(cluster, user, Path::new("/nonexistent"))?;
    command.arg("balancing").args(arguments);
    command.output().with_context(|| format!("kubectl balancing {arguments:?}"))
}

/// What it printed on both streams, which must succeed.
pub(crate) fn seen(cluster: &Cluster, user: &str, arguments: &[&str]) -> Result<(String, String)> {
    let output = plugin(cluster, user, arguments)?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(
        output.status.success(),
        "kubectl balancing {arguments:?} ended with {}: {out}{err}",
        output.status
    );
    Ok((out, err))
}

pub(crate) fn bind(scene: &Scene, role: &str) -> Result<()> {
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("e2e-plugin-{role}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "viewers"}],
    }))?;
    Ok(())
}

/// Says that the pods of the agents run, as their kubelets would.
fn running(cluster: &Cluster, scene: &Scene, nodes: &mut [ClusterNode<'_>]) -> Result<()> {
    nodes
        .iter_mut()
        .try_for_each(|node| node.pod.report(&scene.kube, &[cluster.network.v4(node.name())], true))
}

/// Waits until so many agents have dialled the operator.
pub(crate) fn reporting(operator: &Operator, agents: usize) -> Result<()> {
    let line = format!("balancing_agents{{state=\"connected\"}} {agents}\n");
    wait::until(SOON, || line.clone(), || Ok(operator.metrics()?.0.contains(&line).then_some(())))
}

/// Waits until policy `dns` is programmed on three nodes and effective on two.
fn settled(scene: &Scene) -> Result<()> {
    let path = objects::path("LocalRedirectPolicy", "", "dns")?;
    let is = |policy: &Value| {
        (policy["status"]["effective"] == "2/3" && is_true(policy, "Ready").is_some()).then_some(())
    };
    scene.kube.wait_for(&path, SOON, "effective on 2 of 3", is)
}

/// The words of a table's row, and whether it is there.
pub(crate) fn row<'t>(table: &'t str, name: &str) -> Result<Vec<&'t str>> {
    let found = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).find(|w| w.contains(&name));
    found.with_context(|| format!("no row {name} in\n{table}"))
}

/// The text without what differs from run to run.
fn steady(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<String> = line.split(' ').map(steady_word).collect();
        out.push_str(padding_after_age(&words.join(" ")).trim_end());
        out.push('\n');
    }
    out
}

/// Ages of one digit and of two have columns of different widths.
fn padding_after_age(line: &str) -> String {
    let mut parts = line.split("AGE ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("AGE ");
        if part.starts_with(' ') {
            out.push(' ');
        }
        out.push_str(part.trim_start());
    }
    out
}

fn steady_word(word: &str) -> String {
    let bare = word.trim_end_matches([',', ';', ':']);
    let age = bare.len() > 1
        && bare.ends_with(['s', 'm', 'h'])
        && bare.chars().all(|c| c.is_ascii_digit() || "smh".contains(c));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match bare {
        // What the operator numbers policies with.
        _ if bare.len() > 7 && bare.chars().all(|c| c.is_ascii_digit()) => word.replace(bare, "ID"),
        _ if age => word.replace(bare, "AGE"),
        _ if bare == kernel.trim() => word.replace(bare, "KERNEL"),
        _ if bare == env!("CARGO_PKG_VERSION") => word.replace(bare, "VERSION"),
        _ if bare.starts_with("balancing-") && bare.matches('-').count() > 1 => {
            let known = ["balancing-agent-", "balancing-operator-"].into_iter().find(|k| bare.starts_with(k));
            known.map_or_else(|| word.to_owned(), |k| word.replace(bare, &format!("{k}POD")))
        }
        _ => word.to_owned(),
    }
}

pub(crate) fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("cluster-{name}"), steady(text)));
}

fn who_may_view_sees_the_cluster(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut nodes = three(cluster)?;
    running(cluster, &scene, &mut nodes)?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    local_cache(cluster, &scene, 2)?;
    scene.apply(&dns_policy())?;
    bind(&scene, "balancing-viewer")?;
    bind(&scene, "view")?;
    settled(&scene)?;

    let (policies, err) = seen(cluster, "viewer", &["get", "policies"])?;
    ensure!(err.is_empty(), "{err}");
    ensure!(row(&policies, "dns")?[3..6] == ["True", "3/3", "2/3"], "{policies}");
    snapshot("get-policies", &policies);
    let (table, err) = seen(cluster, "viewer", &["get", "nodes"])?;
    ensure!(err.is_empty(), "{err}");
    ensure!(["n1", "n2", "n3"].iter().all(|n| row(&table, n).is_ok()), "{table}");
    snapshot("get-nodes", &table);
    snapshot("status", &seen(cluster, "viewer", &["status"])?.0);
    snapshot("explain-policy", &seen(cluster, "viewer", &["explain", "policy", "dns"])?.0);
    snapshot("explain-node", &seen(cluster, "viewer", &["explain", "node", "n3"])?.0);
    // Live: agents report to the operator, so that there are rates.
    reporting(&operator, 3)?;
    let (top, err) = seen(cluster, "viewer", &["top", "--once"])?;
    ensure!(!top.contains("<unknown>") && !err.contains("no rates"), "{top}{err}");
    snapshot("top", &top);
    let (top, _) = seen(cluster, "viewer", &["top", "nodes", "--once"])?;
    ensure!(["n1", "n2", "n3"].iter().all(|n| row(&top, n).is_ok_and(|r| r[0] == "Ready")), "{top}");
    let (names, _) = seen(cluster, "viewer", &["get", "nodes", "-o", "name"])?;
    ensure!(names == "node/n1\nnode/n2\nnode/n3\n", "{names}");

    // kubectl completes the names that are there, by the plugin's other name.
    let folder = cluster.plane.folder().join("completers");
    std::fs::create_dir_all(&folder)?;
    let link = folder.join("kubectl_complete-balancing");
    if !link.exists() {
        std::os::unix::fs::symlink(built("kubectl-balancing")?, &link)?;
    }
    let complete = |words: &[&str]| -> Result<String> {
        let mut command = kubectl(cluster, "viewer", &folder)?;
        let output = command.args(["__complete", "balancing"]).args(words).output()?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let said = complete(&["explain", "policy", ""])?;
    ensure!(said.lines().any(|l| l.starts_with("dns\tLocalRedirectPolicy default/dns")), "{said}");
    let said = complete(&["explain", "node", "n"])?;
    ensure!(["n1", "n2", "n3"].iter().all(|n| said.lines().any(|l| l.starts_with(n))), "{said}");

    // The agent of node 2 crashes.
    let pod = &mut nodes[1].pod;
    let mut status = json!({
        "phase": "Running",
        "containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }],
    });
    status["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    scene.kube.set_status(&objects::place(&pod.object)?.path(), &status)?;
    let (explained, _) = seen(cluster, "viewer", &["explain", "node", "n2"])?;
    ensure!(explained.contains("does not run (CrashLoopBackOff)"), "{explained}");
    snapshot("status-agent-down", &seen(cluster, "viewer", &["status"])?.0);
    snapshot("explain-policy-agent-down", &seen(cluster, "viewer", &["explain", "policy", "lr/dns"])?.0);
    let (table, _) = seen(cluster, "viewer", &["get", "nodes"])?;
    ensure!(row(&table, "n2")?[1] == "Stale", "{table}");

    // The operator goes: what nodes say of themselves is left, and the banner says why there are no rates.
    operator.stop()?;
    let (top, err) = seen(cluster, "viewer", &["top", "--once"])?;
    ensure!(row(&top, "dns")?.contains(&"<unknown>"), "{top}");
    ensure!(err.contains("warning: no rates: "), "{err}");
    let (document, _) = seen(cluster, "viewer", &["top", "--once", "-o", "json"])?;
    let document: Value = serde_json::from_str(&document)?;
    ensure!(document["uncounted"].is_string() && document["gaps"][0]["missing"] == "rates", "{document}");
    Ok(())
}

fn who_may_less_is_told_what_is_missing(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    scene.apply(&dns_policy())?;
    // Nothing at all.
    let nothing = plugin(cluster, "nobody", &["get", "policies"])?;
    let err = String::from_utf8(nothing.stderr)?;
    ensure!(nothing.status.code() == Some(1) && nothing.stdout.is_empty(), "{err}");
    let asks = "kubectl auth can-i list localredirectpolicies.balancing.elf.io";
    ensure!(err.contains(asks), "{err}");
    // The line that it names answers as it says.
    let words: Vec<&str> = asks.split(' ').skip(1).collect();
    let answer = crate::bed::kubectl(&cluster.plane, "nobody", &words)?;
    ensure!(String::from_utf8(answer.stdout)?.trim() == "no", "can-i says yes");
    // Policies alone.
    scene.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "e2e-less"},
        "rules": [{
            "apiGroups": ["balancing.elf.io"], "resources": ["localredirectpolicies", "balancingpolicies"],
            "verbs": ["get", "list"],
        }],
    }))?;
    bind(&scene, "e2e-less")?;
    let (policies, err) = seen(cluster, "viewer", &["get", "policies"])?;
    ensure!(row(&policies, "dns").is_ok(), "one missing right hides the rest: {policies}");
    ensure!(err.contains("kubectl auth can-i list nodebalancingstates.balancing.elf.io"), "{err}");
    let (status, _) = seen(cluster, "viewer", &["status"])?;
    snapshot("status-less", &status);
    ensure!(status.contains(&format!("kubectl auth can-i list pods -n {NAMESPACE}")), "{status}");
    let line = format!(
        "kubectl auth can-i get services/https:balancing-operator:observe --subresource=proxy -n {NAMESPACE}"
    );
    ensure!(status.contains(&line), "{status}");
    let (top, err) = seen(cluster, "viewer", &["top", "--once"])?;
    ensure!(row(&top, "dns").is_ok() && err.contains(&line), "{top}{err}");
    let nodes = plugin(cluster, "viewer", &["get", "nodes"])?;
    ensure!(nodes.status.code() == Some(1), "nodes without the right to read them");
    Ok(())
}

fn files_are_checked_against_the_cluster(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    dns_service(cluster, &scene)?;
    scene.apply(&dns_policy())?;
    let clean = plugin(cluster, "admin", &["validate"])?;
    let text = String::from_utf8(clean.stderr)?;
    ensure!(clean.status.code() == Some(0) && text.contains("1 policy"), "{text}");
    // The same frontend, in a file: the one that is there is older.
    let mut other = dns_policy();
    other["metadata"]["name"] = json!("other");
    let file = cluster.plane.folder().join("other.json");
    std::fs::write(&file, other.to_string())?;
    let name = file.display().to_string();
    let found = plugin(cluster, "admin", &["validate", "--live", "-f", &name, "-o", "json"])?;
    let document: Value = serde_json::from_slice(&found.stdout)?;
    let codes: Vec<&str> =
        document["items"].as_array().into_iter().flatten().filter_map(|i| i["code"].as_str()).collect();
    ensure!(codes.contains(&"BAL0201"), "{document}");
    let loser = document["items"].as_array().into_iter().flatten().find(|i| i["code"] == "BAL0201");
    ensure!(loser.is_some_and(|l| l["object"] == "LocalRedirectPolicy/other"), "{document}");
    // Without the cluster it stands alone.
    let alone = plugin(cluster, "admin", &["validate", "-f", &name])?;
    ensure!(alone.status.code() == Some(0), "{}", String::from_utf8_lossy(&alone.stdout));
    Ok(())
}
