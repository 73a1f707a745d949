//! With helm: what the chart becomes with several sets of values.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{WithHelm, chart};

pub(crate) const TESTS: &[(&str, WithHelm)] = &[
    ("lint_finds_nothing", lint_finds_nothing),
    ("everything_is_as_it_was", everything_is_as_it_was),
    ("wrong_values_are_refused", wrong_values_are_refused),
    ("no_webhook_configuration_writes_who_signed", no_webhook_configuration_writes_who_signed),
    ("rights_are_explained", rights_are_explained),
    ("an_old_cluster_is_refused", an_old_cluster_is_refused),
];

/// The Kubernetes that is rendered for.
const KUBERNETES: &str = "1.36.2";

/// Sets of values: the file below `charts/operator/ci`, and what the cluster offers besides.
const SETS: [(&str, &[&str]); 6] = [
    ("default", &[]),
    ("quickstart", &[]),
    ("beside-kube-proxy", &[]),
    ("without-kube-proxy", &[]),
    ("minimal", &[]),
    (
        "production",
        &[
            "monitoring.coreos.com/v1/PodMonitor",
            "monitoring.coreos.com/v1/ServiceMonitor",
            "monitoring.coreos.com/v1/PrometheusRule",
        ],
    ),
];

fn helm(program: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    // Nothing of the machine's own helm.
    let none = std::env::temp_dir().join("balancing-no-helm");
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, &none);
    }
    command.args(arguments).env_remove("KUBECONFIG").output().context("failed to start helm")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn values_file(set: &str) -> String {
    chart().join("ci").join(format!("{set}-values.yaml")).display().to_string()
}

/// The documents of a set by `Kind/name`, as helm wrote them; without the definitions of custom resources, which have a
/// test of their own.
fn rendered(program: &Path, set: &str, offers: &[&str]) -> Result<BTreeMap<String, String>> {
    let (folder, file) = (chart().display().to_string(), values_file(set));
    let mut arguments =
        vec!["template", "operator", &folder, "--namespace", "elf", "--kube-version", KUBERNETES];
    arguments.extend(["--values", &file]);
    for offer in offers {
        arguments.extend(["--api-versions", offer]);
    }
    let output = helm(program, &arguments)?;
    ensure!(output.status.success(), "{set}: {}", text(&output));
    let mut documents = BTreeMap::new();
    for document in String::from_utf8(output.stdout)?.split("\n---\n") {
        let value: Value = serde_yaml::from_str(document).with_context(|| format!("{set}: {document}"))?;
        let Some(kind) = value["kind"].as_str().filter(|k| *k != "CustomResourceDefinition") else {
            continue;
        };
        let name = format!("{kind}/{}", value["metadata"]["name"].as_str().unwrap_or_default());
        let body: String = document.lines().filter(|l| *l != "---").map(|l| format!("{l}\n")).collect();
        ensure!(documents.insert(name.clone(), body).is_none(), "{set}: {name} is there twice");
    }
    Ok(documents)
}

fn lint_finds_nothing(program: &Path) -> Result<()> {
    let folder = chart().display().to_string();
    for (set, _) in SETS {
        let file = values_file(set);
        let output =
            helm(program, &["lint", "--strict", &folder, "--values", &file, "--kube-version", KUBERNETES])?;
        ensure!(output.status.success(), "{set}: {}", text(&output));
    }
    Ok(())
}

/// All documents of the default values; of the other sets what differs from it.
fn everything_is_as_it_was(program: &Path) -> Result<()> {
    let usual = rendered(program, "default", &[])?;
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (set, offers) in SETS {
        let documents = rendered(program, set, offers)?;
        let mut shown = String::new();
        for name in usual.keys().filter(|name| !documents.contains_key(*name)) {
            writeln!(shown, "# left out: {name}")?;
        }
        for (name, body) in &documents {
            if set == "default" || usual.get(name) != Some(body) {
                write!(shown, "---\n{body}")?;
            }
        }
        // The dashboard has a file and a test of its own.
        settings.bind(|| insta::assert_snapshot!(format!("chart-{set}"), without_dashboard(&shown)));
    }
    Ok(())
}

fn without_dashboard(text: &str) -> String {
    let mut inside = false;
    let mut shown = String::new();
    for line in text.lines() {
        if inside && !line.starts_with("    ") {
            inside = false;
        }
        if !inside {
            shown += line;
            shown.push('\n');
        }
        inside |= line == "  balancing.json: |";
    }
    shown
}

fn wrong_values_are_refused(program: &Path) -> Result<()> {
    let folder = chart().display().to_string();
    let wrong = [
        ("feature.redirectQosLimt=100", "redirectQosLimt"),
        ("feature.redirectQosLimit=-1", "/feature/redirectQosLimit"),
        ("feature.redirectQosLimit=many", "/feature/redirectQosLimit"),
        ("feature.serviceResolution=some", "/feature/serviceResolution"),
        ("feature.policyLease=soon", "/feature/policyLease"),
        ("feature.apiServerHost=10.0.0.1", "/feature/apiServerPort"),
        ("feature.apiServerPort=6443", "/feature/apiServerPort"),
        ("webhook.failurePolicy=Maybe", "/webhook/failurePolicy"),
        ("image.agent.digest=sha256:12", "/image/agent/digest"),
        ("agent.bpffs=sys/fs/bpf", "/agent/bpffs"),
        ("operator.replicas=0", "/operator/replicas"),
        ("operator.listenAddress=somewhere", "/operator/listenAddress"),
        ("agent.updateStrategy.tpye=OnDelete", "tpye"),
        ("agent.appArmorProfile.prfile=x", "prfile"),
        ("operator.affinity.nodeAfinity.x=y", "nodeAfinity"),
        ("agent.extraCapabilities={sys_admin}", "/agent/extraCapabilities"),
        ("nonsense=1", "nonsense"),
    ];
    for (value, told) in wrong {
        let output =
            helm(program, &["template", "x", &folder, "--kube-version", KUBERNETES, "--set", value])?;
        let said = text(&output);
        ensure!(!output.status.success(), "{value} is accepted");
        ensure!(said.contains("schema") && said.contains(told), "{value}: {said}");
    }
    Ok(())
}

fn an_old_cluster_is_refused(program: &Path) -> Result<()> {
    let folder = chart().display().to_string();
    let output = helm(program, &["template", "x", &folder, "--kube-version", "1.31.0"])?;
    ensure!(!output.status.success() && text(&output).contains("kubeVersion"), "{}", text(&output));
    Ok(())
}

/// An upgrade leaves what the operator wrote there only if the chart never wrote it.
fn no_webhook_configuration_writes_who_signed(program: &Path) -> Result<()> {
    let documents = rendered(program, "default", &[])?;
    let hooks: Vec<_> = documents.iter().filter(|(name, _)| name.contains("WebhookConfiguration/")).collect();
    ensure!(hooks.len() == 2, "{} webhook configurations", hooks.len());
    for (name, body) in hooks {
        let value: Value = serde_yaml::from_str(body)?;
        for hook in value["webhooks"].as_array().context("webhooks")? {
            ensure!(hook["clientConfig"].get("caBundle").is_none(), "{name}");
            ensure!(hook["failurePolicy"] == "Ignore" && hook["timeoutSeconds"] == 3, "{name}");
            let resources = hook["rules"][0]["resources"].as_array().context("resources")?;
            ensure!(
                resources.iter().all(|r| r.as_str().is_some_and(|r| !r.contains('/'))),
                "{name}: {resources:?}"
            );
        }
    }
    Ok(())
}

/// Each rule of the product's own accounts, and of the roles for people, has its reason in the line above.
fn rights_are_explained(_: &Path) -> Result<()> {
    for file in ["agent.yaml", "operator.yaml", "users.yaml"] {
        let text = std::fs::read_to_string(chart().join("templates/rbac").join(file))?;
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let (mut rules, mut explained) = (0, false);
        for line in &lines {
            if line.starts_with("- apiGroups:") {
                rules += 1;
                ensure!(explained, "{file}: rule {rules} has no reason");
            }
            // A reason holds for the rules that follow it directly.
            if line.starts_with('#') {
                explained = true;
            } else if line.is_empty() || *line == "rules:" {
                explained = false;
            }
        }
        ensure!(rules > 5, "{file}: {rules} rules");
        ensure!(!text.contains("\"*\""), "{file}: a right to everything");
    }
    Ok(())
}
