//! Where a policy leads: the addresses behind its backend. The operator publishes them for BalancingPolicies, an agent
//! with a folder of manifests and one with local pods asks here itself.

use std::net::IpAddr;

use crate::{
    policy::RedirectMode,
    records::{Node, Pod, Text, Usability},
    rules::checked::{Backend, Selector},
};

/// An address that a policy leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyBackend {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of the pod that it is; none where the address stands for a node or for itself.
    pub pod: Option<Text>,
    /// The node it is on, where that is known.
    pub node: Option<Text>,
    /// Whether it can serve. Of several pods behind one address the best counts.
    pub usability: Usability,
}

/// Does a backend of these pods select this one?
#[must_use]
pub fn selects(selector: &Selector, namespaces: &[String], pod: &Pod) -> bool {
    (namespaces.is_empty() || namespaces.iter().any(|n| **n == *pod.name.namespace))
        && selector.matches(|key| pod.labels.get(key))
}

/// The addresses behind a backend, of all families, by address and each once. `pods` are the pods that it selects; `node`
/// finds a Node by its name.
///
/// An address of a node stands for all pods there: as `hostPort` the node's first of each family, as `nodeProxy` that of
/// its annotation.
#[must_use]
pub fn backends<'a, 'n>(
    backend: &Backend,
    pods: impl IntoIterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<&'n Node>,
) -> Vec<PolicyBackend> {
    let of_node = |pod: &Pod, proxy: bool| -> Vec<PolicyBackend> {
        let Some(node) = pod.node.as_deref().and_then(&node) else { return Vec::new() };
        let all = if proxy { &node.proxies } else { &node.addresses };
        let first = |v4| all.iter().find(|ip| ip.is_ipv4() == v4);
        let backend = |address: &IpAddr| PolicyBackend {
            address: *address,
            pod: None,
            node: pod.node.clone(),
            usability: pod.usability(),
        };
        [true, false].into_iter().filter_map(first).map(backend).collect()
    };
    let of_pod = |pod: &Pod| -> Vec<PolicyBackend> {
        let backend = |address: &IpAddr| PolicyBackend {
            address: *address,
            pod: Some(pod.full_name.clone()),
            node: pod.node.clone(),
            usability: pod.usability(),
        };
        pod.addresses.iter().map(backend).collect()
    };
    let mut all: Vec<PolicyBackend> = match backend {
        Backend::Addresses(addresses) => addresses
            .iter()
            .map(|ip| PolicyBackend { address: *ip, pod: None, node: None, usability: Usability::Ready })
            .collect(),
        Backend::Local { .. } | Backend::Pods { mode: RedirectMode::PodEndpoint, .. } => {
            pods.into_iter().flat_map(of_pod).collect()
        }
        Backend::Pods { mode, .. } => {
            pods.into_iter().flat_map(|pod| of_node(pod, *mode == RedirectMode::NodeProxy)).collect()
        }
    };
    let unfit = |b: &PolicyBackend| b.usability != Usability::Ready;
    all.sort_by(|a, b| (a.address, unfit(a), &a.pod, &a.node).cmp(&(b.address, unfit(b), &b.pod, &b.node)));
    all.dedup_by_key(|b| b.address);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Converter, Phase};

    fn pod(name: &str, node: &str, addresses: &[&str], ready: bool) -> Pod {
        let mut strings = Converter::default().strings;
        Pod {
            name: crate::records::Name::new("ns", name),
            full_name: format!("ns/{name}").into(),
            uid: name.into(),
            node: Some(strings.text(node)),
            account: None,
            labels: crate::records::Labels::default(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            phase: Phase::Running,
            ready,
            terminating: false,
            running: Box::default(),
        }
    }

    fn node(name: &str, addresses: &[&str], proxies: &[&str]) -> Node {
        let ips = |all: &[&str]| all.iter().map(|a| a.parse().unwrap()).collect();
        Node { name: name.into(), addresses: ips(addresses), proxies: ips(proxies), ..Node::default() }
    }

    fn shown(all: &[PolicyBackend]) -> Vec<String> {
        all.iter()
            .map(|b| format!("{} {} {}", b.address, b.pod.as_deref().unwrap_or("-"), b.usability.as_str()))
            .collect()
    }

    fn pods_in(mode: RedirectMode) -> Backend {
        Backend::Pods { selector: Selector::default(), namespaces: Vec::new(), mode }
    }

    #[test]
    fn each_mode_reaches_pods_in_its_way() {
        let pods = [
            pod("a", "n1", &["10.1.0.1", "fd00::1"], true),
            pod("b", "n1", &["10.1.0.2"], false),
            pod("c", "n2", &["10.1.0.3"], true),
            pod("lost", "n3", &["10.1.0.4"], true),
        ];
        let nodes = [
            node("n1", &["192.0.2.1", "192.0.2.9", "fd01::1"], &["198.51.100.1"]),
            node("n2", &["192.0.2.2"], &[]),
        ];
        let of =
            |mode| shown(&backends(&pods_in(mode), &pods, |name| nodes.iter().find(|n| *n.name == *name)));
        assert_eq!(
            of(RedirectMode::PodEndpoint),
            [
                "10.1.0.1 ns/a Ready",
                "10.1.0.2 ns/b NotReady",
                "10.1.0.3 ns/c Ready",
                "10.1.0.4 ns/lost Ready",
                "fd00::1 ns/a Ready"
            ]
        );
        assert_eq!(of(RedirectMode::HostPort), ["192.0.2.1 - Ready", "192.0.2.2 - Ready", "fd01::1 - Ready"]);
        assert_eq!(of(RedirectMode::NodeProxy), ["198.51.100.1 - Ready"]);
    }

    #[test]
    fn one_that_can_serve_is_enough_for_an_address() {
        let pods = [pod("a", "n1", &["10.1.0.1"], false), pod("b", "n1", &["10.1.0.1"], true)];
        assert_eq!(
            shown(&backends(&pods_in(RedirectMode::PodEndpoint), &pods, |_| None)),
            ["10.1.0.1 ns/b Ready"]
        );
        let nodes = [node("n1", &["192.0.2.1"], &[])];
        let at = |pods: &[Pod]| shown(&backends(&pods_in(RedirectMode::HostPort), pods, |_| nodes.first()));
        assert_eq!(at(&pods), ["192.0.2.1 - Ready"]);
        assert_eq!(at(&pods[..1]), ["192.0.2.1 - NotReady"]);
    }
}
