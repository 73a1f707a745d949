//! A cluster on one machine: a real control plane, and nodes whose agents know it as the API server.
//!
//! The control plane lives in a namespace of the tests' network, and so does the test itself once it has
//! [entered](enter) it: what it starts (kubectl, helm, an operator) reaches the API server, and the API server reaches
//! webhooks and agents, which it refuses to do on loopback. Nothing of it is seen on the machine's own network.
//!
//! ```text
//! ctl ctl2  control planes, and the tests     op1 op2  pods of the operator     ext  a machine outside the cluster
//! n1 n2 n3  hosts of nodes    a1 a2 a3  a pod on each    b1 b2 b3  another    c1 c2 c3  client pods on each
//! ```

pub mod binaries;
mod control_plane;
pub mod fleet;
pub mod helm;
mod kube;
mod node;
pub mod objects;
mod operator;
mod pki;
pub mod pods;
mod process;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;

pub use self::{
    control_plane::{ControlPlane, ControlPlaneOptions},
    kube::{Answer, Kube, WatchEvent},
    node::ClusterNode,
    operator::Operator,
    pods::{NAMESPACE, OwnPod},
    process::Process,
};
use crate::{
    network::{Network, PORTS, Plan},
    run,
};

/// Namespaces of the network and the last two bytes of their addresses: 10.10.x.y and fd00:10::x:y.
const NAMES: [(&str, u8, u8); 17] = [
    ("ctl", 9, 1),
    ("ctl2", 9, 2),
    ("op1", 9, 11),
    ("op2", 9, 12),
    ("ext", 8, 1),
    ("n1", 1, 1),
    ("a1", 1, 11),
    ("b1", 1, 12),
    ("c1", 1, 21),
    ("n2", 2, 1),
    ("a2", 2, 11),
    ("b2", 2, 12),
    ("c2", 2, 21),
    ("n3", 3, 1),
    ("a3", 3, 11),
    ("b3", 3, 12),
    ("c3", 3, 21),
];
/// The names of the nodes, which are those of their hosts' namespaces.
pub const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// ClusterIPs and VIPs: nobody has them, so that they fail at once where they are not translated.
const DEAD: [&str; 4] = ["10.96.0.0/16", "198.51.100.0/24", "fd00:96::/64", "fd00:51::/64"];
/// The namespace of the tests and of their control plane.
const HOME: &str = "ctl";

/// Why no control plane can run here, or nothing.
#[must_use]
pub fn missing() -> Option<String> {
    let programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm"];
    run::missing()
        .or_else(|| programs.into_iter().find_map(|p| binaries::program(p).err().map(|e| format!("{e:#}"))))
}

/// The network of a cluster.
///
/// # Errors
/// A namespace or server cannot be made.
pub fn network() -> Result<Network> {
    let plans = NAMES.map(|(name, x, y)| {
        let v6 = format!("fd00:10::{x}:{y}").parse::<IpAddr>();
        let plan = Plan {
            addresses: [Ok(IpAddr::from([10, 10, x, y])), v6].into_iter().flatten().collect(),
            // The namespaces of what listens itself have no server of ours.
            ports: if x == 9 { Vec::new() } else { PORTS.to_vec() },
            routes: DEAD.iter().map(|d| format!("unreachable {d}")).collect(),
            ..Plan::default()
        };
        (name.to_owned(), plan)
    });
    Network::build(BTreeMap::from(plans))
}

/// Moves this thread, and what it starts from now on, to where the control plane is.
///
/// # Errors
/// The network is not there.
pub fn enter(network: &Network) -> Result<()> {
    run::join_netns(&network.netns(HOME))
}
