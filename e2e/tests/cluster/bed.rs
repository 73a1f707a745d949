//! The vocabulary of the tests: the product in the cluster, objects that go with their test, kubectl.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, ControlPlane, Kube, binaries, helm, objects},
    judge::tally,
    manifests::{Front, redirect, with},
    protocol::{Flow, Mode},
    wait,
};
use serde_json::{Value, json};

use crate::Cluster;

/// ClusterIPs of Service `default/dns`.
pub(crate) const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const DNS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10));

/// How long something may take to come to pass before a test fails. What is promised is measured elsewhere.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Longer than what agent and operator hold back of their news: what has not been written by then is not written.
pub(crate) const REST: Duration = Duration::from_secs(12);

/// Installs the chart.
pub(crate) fn install(plane: &ControlPlane) -> Result<()> {
    helm::install(plane, &[])?;
    let kube = plane.admin()?;
    for definition in balancing_api::crd::all() {
        let path = objects::place(&definition)?.path();
        kube.wait_for(&path, SOON, "an established definition", |d| is_true(d, "Established"))?;
    }
    Ok(())
}

/// Objects of a test: they are deleted when this is dropped, the last first.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) kube: Kube,
    made: RefCell<Vec<String>>,
}

impl Scene {
    pub(crate) fn new(plane: &ControlPlane) -> Result<Self> {
        Ok(Self { kube: plane.admin()?, made: RefCell::default() })
    }

    /// Creates an object, as it is in the API server with its status.
    pub(crate) fn create(&self, object: &Value) -> Result<Value> {
        self.note(objects::place(object)?.path());
        self.kube.create(object)
    }

    /// Waits until an object is no longer written: as it is then.
    pub(crate) fn at_rest(&self, path: &str) -> Result<Value> {
        wait::rest(3 * SOON, REST, path, || self.kube.object(path))
    }

    /// Applies an object as a user writes it.
    pub(crate) fn apply(&self, object: &Value) -> Result<Value> {
        self.note(objects::place(object)?.path());
        self.kube.apply(&objects::written(object.clone()))
    }

    /// Deletes an object now.
    pub(crate) fn delete(&self, object: &Value) -> Result<()> {
        self.kube.delete(&objects::place(object)?.path())
    }

    /// Deletes what is at a path when the test ends.
    pub(crate) fn note(&self, path: String) {
        let mut made = self.made.borrow_mut();
        if !made.contains(&path) {
            made.push(path);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for path in self.made.take().into_iter().rev() {
            if let Err(e) = self.kube.delete(&path) {
                eprintln!("failed to remove {path}: {e:#}");
            }
        }
    }
}

/// `Some(())` where a condition of the object's status is `True`.
pub(crate) fn is_true(object: &Value, condition: &str) -> Option<()> {
    (condition_of(object, condition)?["status"] == "True").then_some(())
}

/// A condition of the object's status.
pub(crate) fn condition_of<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// `kubectl ARGUMENTS` as a user of the control plane.
pub(crate) fn kubectl(plane: &ControlPlane, user: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program("kubectl")?);
    command
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig(user)?)
        // What it learns of one API server must not be believed of the next at the same address.
        .env("KUBECACHEDIR", plane.folder().join("kubectl-cache"))
        .stdin(Stdio::null());
    command.output().with_context(|| format!("kubectl {arguments:?}"))
}

/// The same, which must succeed: what it printed, and what it warned of.
pub(crate) fn kubectl_ok(plane: &ControlPlane, user: &str, arguments: &[&str]) -> Result<(String, String)> {
    let output = kubectl(plane, user, arguments)?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "kubectl {arguments:?} ended with {}: {err}", output.status);
    Ok((out, err))
}

/// A datagram of an unconnected socket.
pub(crate) fn udp(ip: IpAddr, port: u16) -> Flow {
    Flow { mode: Mode::Udp, to: SocketAddr::new(ip, port), mapped: false }
}

/// A connection.
pub(crate) fn tcp(ip: IpAddr, port: u16) -> Flow {
    Flow { mode: Mode::Tcp, to: SocketAddr::new(ip, port), mapped: false }
}

/// Service `default/dns`, dual-stack, 53/UDP and 53/TCP, and its one pod, `b3` on node n3.
pub(crate) fn dns_service(cluster: &Cluster, scene: &Scene) -> Result<Value> {
    objects::ensure_node(&scene.kube, &cluster.network, "n3")?;
    let labels = json!({"app": "dns"});
    let ports = ["dns:53/UDP", "dns-tcp:53/TCP"];
    scene.create(&objects::service("dns", &[DNS, DNS6], &ports, labels.clone()))?;
    let pod = objects::pod(&cluster.network, "dns-1", "b3", "n3", labels);
    scene.create(&pod.object())
}

/// A node's cache, in namespace `aN` on node nN.
pub(crate) fn local_cache(cluster: &Cluster, scene: &Scene, node: u8) -> Result<Value> {
    let (space, host) = (format!("a{node}"), format!("n{node}"));
    let labels = json!({"app": "dns-cache"});
    let pod = objects::pod(&cluster.network, &format!("dns-cache-{node}"), &space, &host, labels);
    scene.create(&pod.object())
}

/// Policy `dns`: both ports of the Service lead to 5353 of local caches.
pub(crate) fn dns_policy() -> Value {
    let (front, back) = (["dns:53/UDP", "dns-tcp:53/TCP"], ["dns:5353/UDP", "dns-tcp:5353/TCP"]);
    let policy = redirect("dns", Front::Service("default/dns"), Some(&front), &back);
    with(policy, "/spec/backend/endpointSelector/matchLabels", json!({"app": "dns-cache"}))
}

/// Node n1 with its agent, where policy `dns` leads clients to the cache of the node.
pub(crate) fn redirecting<'n>(cluster: &'n Cluster, scene: &Scene) -> Result<ClusterNode<'n>> {
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    node.start(&Options::default())?;
    dns_service(cluster, scene)?;
    local_cache(cluster, scene, 1)?;
    scene.apply(&dns_policy())?;
    expect(cluster, &mut node, "c1", udp(DNS, 53), "a1:5353")?;
    Ok(node)
}

/// New sockets of a host process in that namespace end in `want`: soon, and then eight times in a row.
pub(crate) fn expect(
    cluster: &Cluster,
    node: &mut ClusterNode<'_>,
    client: &str,
    flow: Flow,
    want: &str,
) -> Result<()> {
    let (name, network) = (node.name().to_owned(), &cluster.network);
    let mut last = String::new();
    let reached = wait::until(
        SOON,
        || format!("{flow:?} of {client} on {name} ends in {want}"),
        || {
            last = network.label(&node.client(client)?.dial(flow)?);
            Ok((last == want).then_some(()))
        },
    );
    reached.with_context(|| format!("it ends in {last}\n{}", node.agent.log_tail()))?;
    let seen = node.client(client)?.dial_all(vec![flow], 8)?;
    let seen = tally(seen.iter().map(|outcome| network.label(outcome)));
    ensure!(
        seen.len() == 1 && seen.contains_key(want),
        "{flow:?} of {client} on {name}: {seen:?}, not {want}"
    );
    Ok(())
}
