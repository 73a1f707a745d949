//! From the endpoints that are wanted and the slices that are there to the fewest writes. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use balancing_api::published::{MAX_ENDPOINTS, Published, fnv1a, label_value};

use crate::objects::{Endpoint, Port, Slice};

/// A write of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceWrite {
    /// It is to be so.
    Apply(Slice),
    /// It is to go.
    Delete(String),
}

impl SliceWrite {
    /// The slice's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Apply(slice) => &slice.name,
            Self::Delete(name) => name,
        }
    }
}

/// May the API server find this address in a slice? It refuses the whole slice otherwise.
#[must_use]
pub fn publishable(endpoint: &Endpoint) -> bool {
    match endpoint.address {
        std::net::IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast())
        }
        std::net::IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast())
        }
    }
}

/// What to write so that the slices hold the wanted endpoints, each once and at most 100 in one.
///
/// An endpoint stays in the slice where it is. New ones go where something is written anyway, then where there is room,
/// then into new slices. A slice without endpoints goes.
#[must_use]
pub fn plan(published: &Published, there: &[Slice], wanted: &[Endpoint], ports: &[Port]) -> Vec<SliceWrite> {
    let mut writes = Vec::new();
    for v4 in [true, false] {
        let there: Vec<&Slice> = there.iter().filter(|s| s.v4 == v4).collect();
        let wanted = wanted.iter().filter(|e| e.address.is_ipv4() == v4 && publishable(e));
        plan_family(published, v4, &there, wanted, ports, &mut writes);
    }
    writes
}

fn plan_family<'a>(
    published: &Published,
    v4: bool,
    there: &[&Slice],
    wanted: impl Iterator<Item = &'a Endpoint>,
    ports: &[Port],
    writes: &mut Vec<SliceWrite>,
) {
    let mut homeless: BTreeMap<_, _> = wanted.map(|e| (e.address, e)).collect();
    let mut planned: Vec<Slice> = Vec::new();
    for old in there {
        let mut endpoints: Vec<_> =
            old.endpoints.iter().filter_map(|e| homeless.remove(&e.address)).cloned().collect();
        endpoints.sort();
        planned.push(Slice {
            name: old.name.clone(),
            published: Some(published.clone()),
            v4,
            endpoints,
            ports: ports.to_vec(),
        });
    }
    let mut new = homeless.into_values().cloned().peekable();
    let changes = |at: usize, slice: &Slice| there.get(at).is_none_or(|old| **old != *slice);
    let mut order: Vec<usize> = (0..planned.len()).filter(|at| !planned[*at].endpoints.is_empty()).collect();
    order.sort_by_key(|at| (!changes(*at, &planned[*at]), Reverse(planned[*at].endpoints.len()), *at));
    // An emptied slice is used again before a new one is made.
    order.extend((0..planned.len()).filter(|at| planned[*at].endpoints.is_empty()));
    for at in order {
        let room = MAX_ENDPOINTS.saturating_sub(planned[at].endpoints.len());
        planned[at].endpoints.extend(new.by_ref().take(room));
        planned[at].endpoints.sort();
    }
    let mut names: BTreeSet<String> = planned.iter().map(|s| s.name.clone()).collect();
    let mut number = 0;
    while new.peek().is_some() {
        let name = loop {
            let name = slice_name(published, v4, number);
            number += 1;
            if names.insert(name.clone()) {
                break name;
            }
        };
        let mut endpoints: Vec<_> = new.by_ref().take(MAX_ENDPOINTS).collect();
        endpoints.sort();
        planned.push(Slice {
            name,
            published: Some(published.clone()),
            v4,
            endpoints,
            ports: ports.to_vec(),
        });
    }
    for (at, slice) in planned.into_iter().enumerate() {
        if slice.endpoints.is_empty() {
            writes.push(SliceWrite::Delete(slice.name));
        } else if changes(at, &slice) {
            writes.push(SliceWrite::Apply(slice));
        }
    }
}

/// `balancing-web-1a2b3c4d-v4-0`: whose it is, told apart by a digest where the name is cut.
fn slice_name(published: &Published, v4: bool, number: u32) -> String {
    let family = if v4 { "v4" } else { "v6" };
    match published {
        Published::Nodes => format!("balancing-nodes-{family}-{number}"),
        Published::Backends { policy, .. } => {
            let digest = fnv1a(policy.to_string().as_bytes()) >> 32;
            format!("balancing-{}-{digest:08x}-{family}-{number}", label_value(&policy.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::{PolicyKind, PolicyRef};
    use proptest::prelude::*;

    use super::*;

    fn published() -> Published {
        Published::Backends {
            policy: PolicyRef::new(PolicyKind::BalancingPolicy, "web"),
            uid: "u".to_owned(),
        }
    }

    fn endpoint(n: u32, ready: bool) -> Endpoint {
        let address = if n.is_multiple_of(5) {
            std::net::Ipv6Addr::from(0xfd00_0000_0000_0000_0000_0000_0000_0000 + u128::from(n) + 1).into()
        } else {
            std::net::Ipv4Addr::from(0x0a00_0000 + n + 1).into()
        };
        Endpoint { address, ready, node: Some(format!("n{}", n % 3).into()), pod: None }
    }

    fn execute(there: &mut BTreeMap<String, Slice>, writes: Vec<SliceWrite>) {
        for write in writes {
            match write {
                SliceWrite::Apply(slice) => drop(there.insert(slice.name.clone(), slice)),
                SliceWrite::Delete(name) => assert!(there.remove(&name).is_some(), "{name} is not there"),
            }
        }
    }

    fn all(there: &BTreeMap<String, Slice>) -> Vec<Slice> {
        there.values().cloned().collect()
    }

    const PORTS: [Port; 1] = [Port { number: 80, protocol: balancing_api::net::Protocol::Tcp }];

    #[test]
    fn one_change_is_one_write() {
        let mut there = BTreeMap::new();
        let mut wanted: Vec<_> = (0..700).map(|n| endpoint(n, true)).collect();
        execute(&mut there, plan(&published(), &[], &wanted, &PORTS));
        assert_eq!(there.len(), 6 + 2, "560 of IPv4 and 140 of IPv6");
        wanted[301].ready = false;
        let writes = plan(&published(), &all(&there), &wanted, &PORTS);
        assert_eq!(writes.len(), 1);
        execute(&mut there, writes);
        // One goes and one comes: the newcomer takes its place.
        wanted[302] = endpoint(1001, true);
        let writes = plan(&published(), &all(&there), &wanted, &PORTS);
        assert_eq!(writes.len(), 1, "{writes:?}");
        execute(&mut there, writes);
        // Another incarnation of the policy owns them anew.
        let other = Published::Backends {
            policy: PolicyRef::new(PolicyKind::BalancingPolicy, "web"),
            uid: "v".to_owned(),
        };
        assert_eq!(plan(&other, &all(&there), &wanted, &PORTS).len(), there.len());
    }

    #[test]
    fn what_no_slice_may_hold_is_left_out() {
        for address in ["169.254.0.1", "127.0.0.1", "fe80::1", "::1", "224.0.0.1", "0.0.0.0"] {
            let e = Endpoint { address: address.parse().unwrap(), ready: true, node: None, pod: None };
            assert_eq!(plan(&published(), &[], &[e], &PORTS), [], "{address}");
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let named = |name: String| {
            let policy = PolicyRef::new(PolicyKind::BalancingPolicy, name);
            slice_name(&Published::Backends { policy, uid: String::new() }, true, 0)
        };
        assert!(named("x".repeat(253)).len() < 253);
        assert_ne!(named("x".repeat(253)), named("x".repeat(252)));
        assert!(named("web".to_owned()).starts_with("balancing-web-"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_slices_hold_what_is_wanted(steps in prop::collection::vec(prop::collection::btree_map(0u32..400, any::<bool>(), 0..300), 1..6)) {
            let mut there = BTreeMap::new();
            for step in steps {
                let wanted: Vec<_> = step.iter().map(|(n, ready)| endpoint(*n, *ready)).collect();
                let writes = plan(&published(), &all(&there), &wanted, &PORTS);
                execute(&mut there, writes);
                let mut held: Vec<_> = there.values().flat_map(|s| s.endpoints.clone()).collect();
                held.sort();
                let mut expected = wanted.clone();
                expected.sort();
                prop_assert_eq!(held, expected);
                for slice in there.values() {
                    prop_assert!(!slice.endpoints.is_empty() && slice.endpoints.len() <= MAX_ENDPOINTS);
                    prop_assert!(slice.endpoints.iter().all(|e| e.address.is_ipv4() == slice.v4));
                }
                prop_assert_eq!(plan(&published(), &all(&there), &wanted, &PORTS), vec![]);
            }
        }
    }
}
