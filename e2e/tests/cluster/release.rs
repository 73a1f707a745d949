//! A release from install to uninstall, by the real helm on a control plane of its own, with agents and clients.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, ControlPlane, ControlPlaneOptions, OwnPod, helm, objects},
    judge::tally,
    manifests::with,
    protocol::{LoadSpec, Until},
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, dns_policy, dns_service, expect, is_true, kubectl_ok, local_cache, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("from_install_to_uninstall", from_install_to_uninstall),
    ("every_set_of_values_is_accepted", every_set_of_values_is_accepted),
];

/// What the documents say one types.
const SETTINGS: [&str; 1] = ["feature.redirectQosLimit=100"];

/// What a release consists of, and which edition of each object there is: its generation, where it has one, since
/// controllers write the status of workloads.
fn editions(plane: &ControlPlane) -> Result<BTreeMap<String, String>> {
    let manifest = helm::run(plane, &["get", "manifest", "operator", "-n", "elf"])?.out;
    let file = plane.folder().join("manifest.yaml");
    std::fs::write(&file, manifest)?;
    let file = file.display().to_string();
    let (out, _) = kubectl_ok(plane, "admin", &["get", "-f", &file, "-o", "json"])?;
    let list: Value = serde_json::from_str(&out)?;
    let items = list["items"].as_array().context("no list")?;
    let edition = |item: &Value| {
        let meta = &item["metadata"];
        let version =
            if meta["generation"].is_null() { &meta["resourceVersion"] } else { &meta["generation"] };
        (format!("{}/{}", item["kind"], meta["name"]), version.to_string())
    };
    Ok(items.iter().map(edition).collect())
}

fn from_install_to_uninstall(cluster: &Cluster) -> Result<()> {
    let plane = ControlPlane::start(&cluster.network, "ctl2", ControlPlaneOptions::default())?;
    let said = helm::install(&plane, &SETTINGS)?;
    ensure!(said.err.is_empty(), "helm install warns: {}", said.err);
    ensure!(said.out.contains("STATUS: deployed"), "{}", said.out);
    let kube = plane.admin()?;
    for definition in balancing_api::crd::all() {
        let path = objects::place(&definition)?.path();
        kube.wait_for(&path, SOON, "an established definition", |d| is_true(d, "Established"))?;
    }
    // The same once more changes nothing, neither does it warn.
    let before = editions(&plane)?;
    ensure!(before.len() > 15, "{before:?}");
    let said = helm::upgrade(&plane, &SETTINGS)?;
    ensure!(said.err.is_empty(), "helm upgrade warns: {}", said.err);
    let after = editions(&plane)?;
    ensure!(before == after, "an upgrade without changes changes\n{before:?}\nto\n{after:?}");

    let scene = Scene::new(&plane)?;
    let mut node = ClusterNode::join(&cluster.network, &plane, "n1")?;
    node.start(&Options::default())?;
    // The node of the Service's backend is none for the DaemonSet: a pod of it that nobody starts would end a rollout.
    kube.create(&with(objects::node(&cluster.network, "n3"), "/metadata/labels", json!({})))?;
    dns_service(cluster, &scene)?;
    local_cache(cluster, &scene, 1)?;
    kube.apply(&objects::written(dns_policy()))?;
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "a1:5353")?;
    ensure!(node.api().policy("dns")?.redirects_per_second == 100, "the limit of the chart's values");

    // `kubectl set env`, as documented: the DaemonSet makes another pod, with the new limit.
    let load = LoadSpec {
        mode: balancing_e2e::protocol::Mode::Tcp,
        to: vec![tcp(DNS, 53).to],
        mapped: false,
        threads: 1,
        until: Until::Told(120),
        pace_us: 20_000,
        fresh: false,
    };
    node.client_as("c1", "load")?.start_load(load)?;
    let mut old = node.pod.clone();
    old.report(&kube, &[cluster.network.v4("n1")], true)?;
    let set = ["set", "env", "daemonset/balancing-agent", "-n", "elf", "REDIRECT_QOS_LIMIT=70"];
    kubectl_ok(&plane, "admin", &set)?;
    let path = objects::place(&old.object)?.path();
    let leaving =
        |pod: &Value| (pod.is_null() || !pod["metadata"]["deletionTimestamp"].is_null()).then_some(());
    kube.wait_for(&path, SOON, "the old pod is to end", leaving)?;
    let status = node.agent.sigterm()?;
    ensure!(status.success(), "the agent ended with {status}");
    ensure!(!node.pins().is_empty(), "the end of a pod leaves the data path");
    kube.delete(&path)?;
    node.pod = OwnPod::of_daemon_set(&plane, "agent", "n1")?;
    ensure!(node.pod.name() != old.name(), "another pod");
    node.agent.set_kubeconfig(node.pod.kubeconfig.clone());
    node.start(&Options::default())?;
    ensure!(node.api().policy("dns")?.redirects_per_second == 70, "the limit that was set");
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "a1:5353")?;
    let records = node.client_as("c1", "load")?.finish_load(true)?;
    let failed = tally(records.iter().filter(|r| r.errno != 0).map(|r| r.errno));
    ensure!(failed.is_empty() && records.len() > 20, "failed connects: {failed:?} of {}", records.len());

    // Uninstalled: the agent that is told to end cleans up; definitions and policies stay.
    let said = helm::run(&plane, &["uninstall", "operator", "-n", "elf"])?;
    ensure!(said.err.is_empty(), "helm uninstall warns: {}", said.err);
    let status = node.agent.sigterm()?;
    ensure!(status.success(), "the agent ended with {status}\n{}", node.agent.log_tail());
    ensure!(node.pins().is_empty(), "pins are left: {:?}\n{}", node.pins(), node.agent.log_tail());
    // Nothing of it is attached: without any resolution a ClusterIP is an address that nobody has.
    expect(cluster, &mut node, "c1", tcp(DNS, 53), "EHOSTUNREACH")?;
    let (left, _) = kubectl_ok(&plane, "admin", &["get", "lr", "-o", "name"])?;
    ensure!(left.trim() == "localredirectpolicy.balancing.elf.io/dns", "{left:?}");
    // And it can be installed again over them.
    let said = helm::install(&plane, &SETTINGS)?;
    ensure!(said.err.is_empty(), "helm install again warns: {}", said.err);
    Ok(())
}

/// The sets of values that the chart brings as examples, one after another as upgrades, back to the defaults at the end.
fn every_set_of_values_is_accepted(cluster: &Cluster) -> Result<()> {
    let folder = helm::chart().join("ci");
    let mut sets: Vec<_> = std::fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    sets.sort();
    ensure!(sets.len() >= 5, "{sets:?}");
    let chart = helm::chart().display().to_string();
    for set in sets {
        let file = set.display().to_string();
        let arguments = ["upgrade", "operator", &chart, "-n", "elf", "--reset-values", "-f", &file];
        let said = helm::run(&cluster.plane, &arguments)?;
        ensure!(said.err.is_empty(), "{file}: {}", said.err);
    }
    let back = ["upgrade", "operator", &chart, "-n", "elf", "--reset-values"];
    let said = helm::run(&cluster.plane, &back)?;
    ensure!(said.err.is_empty(), "back to the defaults: {}", said.err);
    Ok(())
}
