//! The decision over plain values.

extern crate std;

use std::{boxed::Box, cell::Cell, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::layout::{FRONTEND_SERVICE, UDP, addr_from_ip, ip_from_addr};

const KEY: FrontendKey = FrontendKey::new([0, 0x0a60_000a], 80, UDP, 0);

/// A frontend, its backends and whatever a caller meets, as plain values.
#[derive(Default)]
struct World {
    frontend: Option<Frontend>,
    backends: Vec<Backend>,
    exempt: bool,
    stale: bool,
    budget: Cell<u32>,
    kept: [u32; 2],
    offset: u32,
    affinity: [u32; 2],
    remembered: Cell<Option<(u32, u32)>>,
    random: u32,
}

impl Maps for World {
    type Ref = Box<Frontend>;

    fn frontend(&self, key: &FrontendKey) -> Option<Box<Frontend>> {
        self.frontend.filter(|_| *key == KEY).map(Box::new)
    }

    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }

    fn exempt(&self, _: u32) -> bool {
        self.exempt
    }

    fn stale(&self) -> bool {
        self.stale
    }

    fn admit(&self, _: u32) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0
    }

    fn kept(&self, _: &FrontendKey, rung: u32) -> Kept {
        Kept { id: self.kept[rung as usize - 1], offset: self.offset }
    }

    fn affinity(&self, _: &Frontend, rung: u32) -> u32 {
        self.affinity[rung as usize - 1]
    }

    fn remember(&self, _: &Frontend, rung: u32, id: u32) {
        self.remembered.set(Some((rung, id)));
    }

    fn random(&self, _: &FrontendKey) -> u32 {
        self.random
    }
}

fn backend(id: u32) -> Backend {
    Backend { addr: [0, u64::from(id)], port: 1, id, ..Backend::default() }
}

/// Backends 10, 20, 30 of the policy and 40, 50 of the Service.
fn world(flags: u32) -> World {
    World {
        frontend: Some(Frontend {
            flags: flags | FRONTEND_SERVICE,
            policy: 7,
            policy_rung: Rung { first: 0, count: 3 },
            service_rung: Rung { first: 3, count: 2 },
            ..Frontend::default()
        }),
        backends: [10, 20, 30, 40, 50].map(backend).to_vec(),
        budget: Cell::new(1),
        ..World::default()
    }
}

fn decided(world: &World) -> (Outcome, PolicyReason, u32) {
    let decision = decide(world, &KEY).unwrap();
    (decision.outcome, decision.reason, decision.backend.id)
}

#[test]
fn an_address_that_is_no_frontend_is_not_decided_about() {
    assert_eq!(decide(&World::default(), &KEY), None);
}

#[test]
fn the_policys_rung_comes_first() {
    assert_eq!(decided(&world(0)), (Outcome::Policy, PolicyReason::Taken, 10));
}

#[test]
fn random_numbers_spread_over_the_whole_rung() {
    let pick = |random| decided(&World { random, ..world(0) }).2;
    assert_eq!([0, u32::MAX / 3 + 1, u32::MAX].map(pick), [10, 20, 30]);
}

#[test]
fn an_exempt_caller_goes_on_and_spends_nothing() {
    let w = World { exempt: true, ..world(FRONTEND_CALLERS | FRONTEND_QOS) };
    assert_eq!(decided(&w), (Outcome::Service, PolicyReason::ExemptCaller, 40));
    assert_eq!(w.budget.get(), 1);
}

#[test]
fn callers_are_asked_only_where_the_policy_has_some() {
    let w = World { exempt: true, ..world(0) };
    assert_eq!(decided(&w).0, Outcome::Policy);
}

#[test]
fn over_the_limit_the_flow_goes_on() {
    let w = world(FRONTEND_QOS);
    assert_eq!(decided(&w), (Outcome::Policy, PolicyReason::Taken, 10));
    assert_eq!(decided(&w), (Outcome::Service, PolicyReason::QosLimit, 40));
}

#[test]
fn a_dead_agent_loses_the_policys_rung_only_where_a_service_is_beneath() {
    let mut w = World { stale: true, ..world(0) };
    assert_eq!(decided(&w), (Outcome::Service, PolicyReason::AgentStale, 40));
    w.frontend.as_mut().unwrap().service_rung.count = 0;
    assert_eq!(decided(&w), (Outcome::Policy, PolicyReason::Taken, 10));
}

#[test]
fn without_backends_the_flow_is_left_alone_or_refused() {
    let mut w = world(FRONTEND_QOS);
    let frontend = w.frontend.as_mut().unwrap();
    frontend.policy_rung.count = 0;
    frontend.service_rung.count = 0;
    assert_eq!(decided(&w), (Outcome::Untouched, PolicyReason::NoBackend, 0));
    w.frontend.as_mut().unwrap().flags |= FRONTEND_REFUSE;
    assert_eq!(decided(&w), (Outcome::Refuse, PolicyReason::NoBackend, 0));
    assert_eq!(w.budget.get(), 1, "a redirect that does not exist spends no budget");
}

#[test]
fn a_socket_keeps_its_backend_on_each_rung_while_it_is_a_member() {
    let mut w = World { kept: [30, 50], random: 0, ..world(FRONTEND_QOS) };
    assert_eq!(decided(&w).2, 30);
    assert_eq!(decided(&w).2, 50, "over the limit it keeps the Service's");
    w.kept = [31, 0];
    w.budget.set(1);
    assert_eq!(decided(&w).2, 10, "what is gone is not kept");
}

#[test]
fn affinity_is_asked_and_told_only_on_a_rung_that_has_it() {
    let w = World { affinity: [20, 50], ..world(FRONTEND_SERVICE_AFFINITY | FRONTEND_QOS) };
    assert_eq!((decided(&w).2, w.remembered.get()), (10, None));
    assert_eq!((decided(&w).2, w.remembered.get()), (50, Some((2, 50))));
    let w = World { affinity: [20, 50], ..world(FRONTEND_POLICY_AFFINITY) };
    assert_eq!((decided(&w).2, w.remembered.get()), (20, Some((1, 20))));
}

#[test]
fn addresses_survive_the_maps_form() {
    for text in ["10.96.0.10", "fd00::1", "::ffff:1.2.3.4", "::", "255.255.255.255"] {
        let ip: core::net::IpAddr = text.parse().unwrap();
        assert_eq!(ip_from_addr(&addr_from_ip(ip)), ip.to_canonical());
    }
}

proptest! {
    /// The binary search finds just the members, in ranges of any length and place.
    #[test]
    fn members_are_found_and_nothing_else(
        ids in prop::collection::btree_set(1u32..5000, 1..300),
        probe in 1u32..5000,
        offset in 0u32..5,
        hint in 0u32..400,
    ) {
        let rung = Rung { first: offset, count: ids.len() as u32 };
        // Around the range lie backends of others, which must not be found.
        let mut backends: Vec<Backend> = (0..offset).map(|_| backend(probe)).collect();
        backends.extend(ids.iter().map(|&id| backend(id)));
        backends.push(backend(probe));
        let w = World { backends, ..World::default() };
        let find = |id| member(&w, rung, Kept { id, offset: hint });
        prop_assert_eq!(find(probe).map(|(_, b)| b.id), ids.contains(&probe).then_some(probe));
        for (offset, &id) in (0u32..).zip(&ids) {
            prop_assert_eq!(find(id).map(|(at, b)| (at, b.id)), Some((offset, id)));
        }
    }
}
