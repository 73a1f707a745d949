//! The chart on a real API server: an install draws no warning, an upgrade changes what it is told to and nothing else,
//! and the API server's own rules hold.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{NAMESPACE, helm, objects},
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, dns_policy, kubectl, kubectl_ok},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "an_upgrade_changes_what_it_is_told_and_nothing_else",
        an_upgrade_changes_what_it_is_told_and_nothing_else,
    ),
    ("an_upgrade_leaves_who_signed_the_webhook", an_upgrade_leaves_who_signed_the_webhook),
    ("namespaces_are_required_where_the_chart_says_so", namespaces_are_required_where_the_chart_says_so),
    ("the_operator_writes_one_annotation_of_nodes", the_operator_writes_one_annotation_of_nodes),
    ("the_operator_writes_one_annotation_of_policies", the_operator_writes_one_annotation_of_policies),
    ("virtual_addresses_are_held_to_what_the_page_says", virtual_addresses_are_held_to_what_the_page_says),
    ("who_may_view_sees_and_writes_nothing", who_may_view_sees_and_writes_nothing),
];

/// Kinds that the chart makes, as kubectl names them.
const KINDS: &str = "daemonsets,deployments,services,serviceaccounts,configmaps,roles,rolebindings,clusterroles,\
    clusterrolebindings,poddisruptionbudgets,validatingadmissionpolicies,validatingadmissionpolicybindings,\
    validatingwebhookconfigurations,mutatingwebhookconfigurations,customresourcedefinitions";

/// The objects of the release, `Kind/name`, with what is written by people: no status, which controllers write.
fn release(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let select = "--selector=app.kubernetes.io/instance=operator,app.kubernetes.io/managed-by=Helm";
    let (out, _) = kubectl_ok(&cluster.plane, "admin", &["get", KINDS, "-A", select, "-o", "json"])?;
    let list: Value = serde_json::from_str(&out)?;
    let mut all = BTreeMap::new();
    for mut object in list["items"].as_array().cloned().context("no list")? {
        let name = format!(
            "{}/{}/{}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["namespace"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        // Both change with the status too.
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
        }
        all.insert(name, object);
    }
    ensure!(all.len() > 20, "the release has {:?}", all.keys());
    Ok(all)
}

/// Names of objects that are not the same in both.
fn changed(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let all = before.keys().chain(after.keys().filter(|k| !before.contains_key(*k)));
    all.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn an_upgrade_changes_what_it_is_told_and_nothing_else(cluster: &Cluster) -> Result<()> {
    let before = release(cluster)?;
    let said = helm::upgrade(&cluster.plane, &[])?;
    ensure!(said.err.is_empty(), "the API server warns: {}", said.err);
    let same = changed(&before, &release(cluster)?);
    ensure!(same.is_empty(), "the same values again changed {same:?}");

    let said = helm::upgrade(&cluster.plane, &["feature.redirectQosLimit=100"])?;
    ensure!(said.err.is_empty(), "the API server warns: {}", said.err);
    let after = release(cluster)?;
    ensure!(
        changed(&before, &after) == [format!("DaemonSet/{NAMESPACE}/balancing-agent")],
        "{:?}",
        changed(&before, &after)
    );
    helm::run(&cluster.plane, &["rollback", "operator", "-n", NAMESPACE])?;
    let back = release(cluster)?;
    let spec = |all: &BTreeMap<String, Value>| {
        all.iter().map(|(name, object)| (name.clone(), object["spec"].clone())).collect::<BTreeMap<_, _>>()
    };
    ensure!(spec(&before) == spec(&back), "a rollback leaves the new values");
    Ok(())
}

fn an_upgrade_leaves_who_signed_the_webhook(cluster: &Cluster) -> Result<()> {
    // Any certificate: the API server reads it, and no webhook is asked here.
    let authority = base64(cluster.plane.authority().as_bytes());
    let patch =
        json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": authority}]).to_string();
    let kinds = ["validatingwebhookconfiguration", "mutatingwebhookconfiguration"];
    let operator = format!("--as=system:serviceaccount:{NAMESPACE}:balancing-operator");
    for kind in kinds {
        let arguments = ["patch", kind, "balancing-operator", "--type=json", "-p", &patch, &operator];
        kubectl_ok(&cluster.plane, "admin", &arguments)?;
    }
    helm::upgrade(&cluster.plane, &["webhook.timeoutSeconds=5"])?;
    for kind in kinds {
        let path = "-o=jsonpath={.webhooks[0].timeoutSeconds} {.webhooks[0].clientConfig.caBundle}";
        let (out, _) = kubectl_ok(&cluster.plane, "admin", &["get", kind, "balancing-operator", path])?;
        ensure!(out == format!("5 {authority}"), "{kind}: {out}");
    }
    helm::upgrade(&cluster.plane, &[]).map(drop)
}

/// As RFC 4648 says it, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (word >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

fn namespaces_are_required_where_the_chart_says_so(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut old = dns_policy();
    old["metadata"]["name"] = "from-before".into();
    scene.apply(&old)?;
    helm::upgrade(&cluster.plane, &["policy.requireNamespaces=true"])?;
    let put_back = || helm::upgrade(&cluster.plane, &[]).map(drop);
    let checked = (|| {
        // The API server takes a policy into account when it has seen it, some moments later.
        let mut bad = dns_policy();
        bad["metadata"]["name"] = "without-namespaces".into();
        scene.note(objects::place(&bad)?.path());
        wait::until(
            SOON,
            || "a policy without namespaces is refused".to_owned(),
            || {
                let answer = scene.kube.try_apply(&objects::written(bad.clone()))?;
                let refused = !answer.is_success() && answer.complaint().contains("spec.backend.namespaces");
                if answer.is_success() {
                    scene.delete(&bad)?;
                }
                Ok(refused.then_some(()))
            },
        )?;
        bad["spec"]["backend"]["namespaces"] = json!(["default"]);
        scene.apply(&bad)?;
        // One from before may have its labels changed, not its spec.
        old["metadata"]["labels"] = json!({"team": "x"});
        scene.apply(&old)?;
        old["spec"]["qos"] = json!({"redirectsPerSecond": 5});
        ensure!(
            !scene.kube.try_apply(&objects::written(old.clone()))?.is_success(),
            "its spec is edited without namespaces"
        );
        Ok(())
    })();
    put_back().and(checked)?;
    heeded_no_longer(&scene, dns_policy())
}

/// Waits until the API server forgets a rule that is gone, which refused this: other tests make such policies.
fn heeded_no_longer(scene: &Scene, mut policy: Value) -> Result<()> {
    policy["metadata"]["name"] = "after-the-rule".into();
    scene.note(objects::place(&policy)?.path());
    let attempt = || Ok(scene.kube.try_apply(&objects::written(policy.clone()))?.is_success().then_some(()));
    wait::until(SOON, || "a rule that is gone is heeded no longer".to_owned(), attempt)?;
    scene.delete(&policy)
}

fn the_operator_writes_one_annotation_of_nodes(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let node = objects::node(&cluster.network, "n3");
    scene.create(&node)?;
    let operator = format!("--as=system:serviceaccount:{NAMESPACE}:balancing-operator");
    let attempt = |arguments: &[&str]| {
        let arguments: Vec<_> = arguments.iter().copied().chain([operator.as_str()]).collect();
        kubectl(&cluster.plane, "admin", &arguments)
    };
    for allowed in [
        ["annotate", "node", "n3", "balancing.elf.io/nodeId=7"],
        ["annotate", "node", "n3", "balancing.elf.io/nodeId-"],
    ] {
        let output = attempt(&allowed)?;
        ensure!(output.status.success(), "{allowed:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let taint = ["taint", "node", "n3", "a=b:NoSchedule"];
    for refused in [["annotate", "node", "n3", "a=b"], ["label", "node", "n3", "a=b"], taint] {
        let output = attempt(&refused)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("nothing of a Node but"), "{refused:?}: {said}");
    }
    Ok(())
}

fn the_operator_writes_one_annotation_of_policies(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let policy = dns_policy();
    let name = policy["metadata"]["name"].as_str().context("a name")?.to_owned();
    scene.apply(&policy)?;
    let operator = format!("--as=system:serviceaccount:{NAMESPACE}:balancing-operator");
    let attempt = |arguments: &[&str]| {
        let arguments: Vec<_> = [arguments, &[operator.as_str()]].concat();
        kubectl(&cluster.plane, "admin", &arguments)
    };
    for allowed in ["balancing.elf.io/serviceId=7", "balancing.elf.io/serviceId-"] {
        let output = attempt(&["annotate", "--overwrite", "lr", &name, allowed])?;
        ensure!(output.status.success(), "{allowed:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let status = r#"{"status": {"programmed": "1/1"}}"#;
    let output = attempt(&["patch", "lr", &name, "--subresource=status", "--type=merge", "-p", status])?;
    ensure!(output.status.success(), "its status: {}", String::from_utf8_lossy(&output.stderr));
    let spec = r#"{"spec": {"qos": {"redirectsPerSecond": 5}}}"#;
    let finalizer = r#"{"metadata": {"finalizers": ["example.com/never"]}}"#;
    let refused: [&[&str]; 4] = [
        &["annotate", "lr", &name, "a=b"],
        &["label", "lr", &name, "a=b"],
        &["patch", "lr", &name, "--type=merge", "-p", spec],
        &["patch", "lr", &name, "--type=merge", "-p", finalizer],
    ];
    for refused in refused {
        let output = attempt(refused)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("nothing of a policy but"), "{refused:?}: {said}");
    }
    Ok(())
}

/// The rule that SECURITY.md proposes is one that the API server takes, and does what the page says.
fn virtual_addresses_are_held_to_what_the_page_says(cluster: &Cluster) -> Result<()> {
    let page = include_str!("../../../SECURITY.md");
    let yaml = page.split("```yaml\n").nth(1).and_then(|t| t.split("```").next()).context("no example")?;
    let scene = Scene::new(&cluster.plane)?;
    let file = cluster.plane.folder().join("virtual-addresses.yaml");
    std::fs::write(&file, yaml)?;
    let file = file.display().to_string();
    let rule = |verb: &str| kubectl_ok(&cluster.plane, "admin", &[verb, "-f", &file]).map(drop);
    rule("apply")?;
    let claiming = |ip: &str| {
        let ports = json!([{"port": 53, "protocol": "UDP", "name": "dns"}]);
        let mut policy = dns_policy();
        policy["spec"]["frontend"] = json!({"addressMatcher": {"ip": ip, "toPorts": ports}});
        policy["spec"]["backend"]["toPorts"] = ports;
        policy
    };
    let checked = (|| {
        let refused = |ip: &str| -> Result<bool> {
            let answer = scene.kube.try_apply(&objects::written(claiming(ip)))?;
            if answer.is_success() {
                scene.delete(&claiming(ip))?;
            }
            Ok(!answer.is_success())
        };
        // The API server heeds a new rule a moment after it is made.
        let heeded = || Ok(refused("198.51.100.1")?.then_some(()));
        wait::until(SOON, || "an address elsewhere is refused".to_owned(), heeded)?;
        ensure!(refused("fd00::1")?, "an IPv6 address is accepted");
        ensure!(!refused("169.254.0.90")?, "an address that the rule allows is refused");
        scene.apply(&dns_policy()).map(drop)
    })();
    rule("delete").and(checked)?;
    heeded_no_longer(&scene, claiming("198.51.100.1"))
}

fn who_may_view_sees_and_writes_nothing(cluster: &Cluster) -> Result<()> {
    let can = |user: &str, verb: &str, what: &str| -> Result<bool> {
        let output =
            kubectl(&cluster.plane, "admin", &["auth", "can-i", verb, what, "-n", NAMESPACE, "--as", user])?;
        Ok(output.status.success())
    };
    let bind = |name: &str, role: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
               "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}]})
    };
    let file = cluster.plane.folder().join("bindings.json");
    for (user, role) in [
        ("looker", "view"),
        ("editor", "admin"),
        ("policy-maker", "balancing-policy-admin"),
        ("inspector", "balancing-node-inspector"),
    ] {
        std::fs::write(&file, bind(user, role).to_string())?;
        kubectl_ok(&cluster.plane, "admin", &["apply", "-f", &file.display().to_string()])?;
    }
    let policies = "localredirectpolicies.balancing.elf.io";
    // What `view` aggregates is filled in by the controller manager.
    wait::until(
        SOON,
        || "view sees policies".to_owned(),
        || Ok(can("looker", "list", policies)?.then_some(())),
    )?;
    let proxy = "services/https:balancing-operator:observe";
    let expected = [
        ("looker", "get", "nodebalancingstates.balancing.elf.io", true),
        ("looker", "create", policies, false),
        ("editor", "list", policies, true),
        ("editor", "create", policies, false),
        ("editor", "patch", "bl.balancing.elf.io", false),
        ("policy-maker", "create", policies, true),
        ("policy-maker", "patch", "nodebalancingstates.balancing.elf.io", false),
    ];
    for (user, verb, what, may) in expected {
        ensure!(can(user, verb, what)? == may, "{user} {verb} {what}: not {may}");
    }
    let through = |name: &str| {
        let arguments =
            ["auth", "can-i", "get", name, "--subresource=proxy", "-n", NAMESPACE, "--as", "looker"];
        kubectl(&cluster.plane, "admin", &arguments).map(|o| o.status.success())
    };
    ensure!(
        through(proxy)? && !through("services/https:balancing-operator:webhook")?,
        "the live view, and no other port"
    );
    // The right to ask the operator about a node. An agent's token asks for no node, its own neither.
    let agent = format!("system:serviceaccount:{NAMESPACE}:balancing-agent");
    for (user, may) in [("looker", false), (agent.as_str(), false), ("inspector", true)] {
        for part in balancing_api::stream::NODE_PARTS {
            let subresource = format!("--subresource={part}");
            let what = [
                "auth",
                "can-i",
                "get",
                "nodebalancingstates.balancing.elf.io/n1",
                &subresource,
                "--as",
                user,
            ];
            let output = kubectl(&cluster.plane, "admin", &what)?;
            ensure!(output.status.success() == may, "{user} {part}: not {may}");
        }
    }
    for name in ["looker", "editor", "policy-maker", "inspector"] {
        kubectl_ok(&cluster.plane, "admin", &["delete", "clusterrolebinding", name])?;
    }
    Ok(())
}
