//! Which endpoints serve: the one function for Services and policies, after kube-proxy's `CategorizeEndpoints`.

use crate::{desired::Backend, snapshot::Hints};

/// An endpoint that could serve.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Where it is.
    pub backend: Backend,
    /// Name of its node, where known.
    pub node: Option<&'a str>,
    /// Does it want new connections?
    pub ready: bool,
    /// Could it serve them?
    pub serving: bool,
    /// Is it on its way out?
    pub terminating: bool,
    /// For which nodes and zones it is meant.
    pub hints: Option<&'a Hints>,
}

/// From where one looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Viewpoint<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Only endpoints of this node (`internalTrafficPolicy: Local`). Hints do not matter then.
    pub local_only: bool,
}

/// Endpoints of one rank. Those of a tier serve only where every tier before it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    /// Sorted and each once, with its share of the connections.
    pub backends: Vec<(Backend, u32)>,
}

/// Ranks endpoints: those ready and meant for here, then the other ready ones, then those that are terminating but
/// serve still. What is in none of these does not serve. Empty tiers are left out.
///
/// Hints count only if every ready endpoint has them and at least one names this node or, failing that, this zone. An
/// endpoint that is named twice is one.
#[must_use]
pub fn select(endpoints: &[Endpoint<'_>], from: Viewpoint<'_>) -> Vec<Tier> {
    let here = |e: &&Endpoint<'_>| !from.local_only || e.node == Some(from.node);
    let candidates = || endpoints.iter().filter(here);
    let ready: Vec<_> = candidates().filter(|e| e.ready).collect();
    let meant: Box<dyn Fn(&Endpoint<'_>) -> bool> = match hints_in_force(&ready, from) {
        Some(Level::Node) => Box::new(move |e| names_node(e, from.node)),
        Some(Level::Zone) => Box::new(move |e| from.zone.is_some_and(|zone| names_zone(e, zone))),
        None => Box::new(|_| true),
    };
    let ranks = [
        ready.iter().filter(|e| meant(e)).map(|e| e.backend).collect::<Vec<_>>(),
        ready.iter().filter(|e| !meant(e)).map(|e| e.backend).collect(),
        candidates().filter(|e| !e.ready && e.serving && e.terminating).map(|e| e.backend).collect(),
    ];

    let mut tiers: Vec<Tier> = Vec::new();
    for mut rank in ranks {
        rank.sort();
        rank.dedup();
        rank.retain(|b| !tiers.iter().any(|t| contains(t, b)));
        if !rank.is_empty() {
            tiers.push(Tier { backends: rank.into_iter().map(|b| (b, 1)).collect() });
        }
    }
    tiers
}

fn contains(tier: &Tier, backend: &Backend) -> bool {
    tier.backends.binary_search_by_key(backend, |(b, _)| *b).is_ok()
}

enum Level {
    Node,
    Zone,
}

fn names_node(e: &Endpoint<'_>, node: &str) -> bool {
    e.hints.is_some_and(|h| h.nodes.iter().any(|n| **n == *node))
}

fn names_zone(e: &Endpoint<'_>, zone: &str) -> bool {
    e.hints.is_some_and(|h| h.zones.iter().any(|z| **z == *zone))
}

fn hints_in_force(ready: &[&Endpoint<'_>], from: Viewpoint<'_>) -> Option<Level> {
    if from.local_only {
        return None;
    }
    let all_have = |has: fn(&Hints) -> bool| ready.iter().all(|e| e.hints.is_some_and(has));
    if all_have(|h| !h.nodes.is_empty()) && ready.iter().any(|e| names_node(e, from.node)) {
        return Some(Level::Node);
    }
    let zone = from.zone?;
    (all_have(|h| !h.zones.is_empty()) && ready.iter().any(|e| names_zone(e, zone))).then_some(Level::Zone)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn endpoint(last: u8, node: &str) -> Endpoint<'_> {
        let backend = Backend { address: std::net::Ipv4Addr::new(10, 0, 0, last).into(), port: 80 };
        Endpoint { backend, node: Some(node), ready: true, serving: true, terminating: false, hints: None }
    }

    fn not_ready(e: Endpoint<'_>) -> Endpoint<'_> {
        Endpoint { ready: false, serving: false, ..e }
    }

    fn leaving(e: Endpoint<'_>) -> Endpoint<'_> {
        Endpoint { ready: false, serving: true, terminating: true, ..e }
    }

    fn tiers(endpoints: &[Endpoint<'_>], from: Viewpoint<'_>) -> Vec<Vec<String>> {
        let name = |(b, weight): &(Backend, u32)| {
            assert_eq!(*weight, 1);
            b.address.to_string().trim_start_matches("10.0.0.").to_owned()
        };
        select(endpoints, from).iter().map(|t| t.backends.iter().map(name).collect()).collect()
    }

    fn n1<'a>() -> Viewpoint<'a> {
        Viewpoint { node: "n1", zone: Some("z1"), local_only: false }
    }

    #[test]
    fn ready_first_then_terminating_that_serve() {
        let all = [leaving(endpoint(1, "n1")), endpoint(2, "n2"), not_ready(endpoint(3, "n1"))];
        assert_eq!(tiers(&all, n1()), [["2"], ["1"]]);
        assert_eq!(tiers(&all[2..], n1()), Vec::<Vec<String>>::new());
        // Serving and not ready, but not terminating: a pod that fails its readiness gate.
        let waiting = Endpoint { terminating: false, ..leaving(endpoint(4, "n1")) };
        assert_eq!(tiers(&[waiting], n1()), Vec::<Vec<String>>::new());
    }

    #[test]
    fn local_only_ranks_its_own_set() {
        let local = Viewpoint { local_only: true, ..n1() };
        let all = [leaving(endpoint(1, "n1")), endpoint(2, "n2")];
        assert_eq!(tiers(&all, local), [["1"]]);
        assert_eq!(tiers(&all[1..], local), Vec::<Vec<String>>::new());
    }

    #[test]
    fn duplicates_are_one_and_the_better_state_counts() {
        let all = [endpoint(1, "n1"), endpoint(2, "n2"), endpoint(1, "n1"), leaving(endpoint(2, "n2"))];
        assert_eq!(tiers(&all, n1()), [["1", "2"]]);
        let other_port =
            Endpoint { backend: Backend { port: 81, ..endpoint(1, "n1").backend }, ..endpoint(1, "n1") };
        assert_eq!(tiers(&[endpoint(1, "n1"), other_port], n1()), [["1", "1"]]);
    }

    #[test]
    fn hints() {
        let hint = |nodes: &[&str], zones: &[&str]| Hints {
            nodes: nodes.iter().map(|s| Arc::from(*s)).collect(),
            zones: zones.iter().map(|s| Arc::from(*s)).collect(),
        };
        let (z1, z2) = (hint(&[], &["z1"]), hint(&[], &["z2"]));
        let (on1, on2) = (hint(&["n1"], &["z1"]), hint(&["n2"], &["z1"]));
        let with = |last, h| Endpoint { hints: Some(h), ..endpoint(last, "n1") };
        let zones = [with(1, &z1), with(2, &z2)];
        assert_eq!(tiers(&zones, n1()), [["1"], ["2"]]);
        // One in our zone is needed, and every ready endpoint has to have hints; one that is not ready need not.
        assert_eq!(tiers(&zones, Viewpoint { zone: Some("z3"), ..n1() }), [["1", "2"]]);
        assert_eq!(tiers(&zones, Viewpoint { zone: None, ..n1() }), [["1", "2"]]);
        assert_eq!(tiers(&[zones[0], endpoint(3, "n1")], n1()), [["1", "3"]]);
        assert_eq!(tiers(&[zones[0], leaving(endpoint(3, "n1"))], n1()), [["1"], ["3"]]);
        // Nodes come before zones; where none names this node, the zones decide.
        assert_eq!(tiers(&[with(1, &on1), with(2, &on2)], n1()), [["1"], ["2"]]);
        assert_eq!(tiers(&[with(2, &on2), with(3, &z2)], n1()), [["2"], ["3"]]);
        assert_eq!(tiers(&[with(1, &on1), with(2, &z1), with(3, &z2)], n1()), [vec!["1", "2"], vec!["3"]]);
    }
}
