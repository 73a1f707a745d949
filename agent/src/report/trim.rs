//! A report of bounded size: what concerns policies first, then what is busiest. Pure.

use std::{cmp::Reverse, collections::HashSet};

use balancing_api::{
    agent::{Counters, FrontendList, NodeStatus, PolicyState},
    net::Frontend,
    stream::LeftOut,
};

/// How many rows a report has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) policies: usize,
    pub(super) frontends: usize,
    pub(super) backends: usize,
}

/// Of a report.
pub(super) const ROOM: Room = Room { policies: 1000, frontends: 200, backends: 400 };
/// Of one that would be too long for a line.
pub(super) const LITTLE_ROOM: Room = Room { policies: 200, frontends: 20, backends: 40 };

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) status: NodeStatus,
    pub(super) frontends: FrontendList,
    pub(super) counters: Counters,
    pub(super) left_out: LeftOut,
}

impl Sample {
    /// The sample with as many rows as there is room for. Its order follows from its rows alone, so that what does not
    /// change stays the same.
    pub(super) fn trimmed(mut self, room: Room) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let policies = &mut self.status.policies;
        if policies.len() > room.policies {
            policies.sort_by_key(|p| {
                (matches!(p.state, PolicyState::Programmed | PolicyState::NotSelected), p.kind)
            });
            self.left_out.policies += count(policies.len() - room.policies);
            policies.truncate(room.policies);
        }
        let held: HashSet<Frontend> =
            self.status.policies.iter().flat_map(|p| p.frontends.iter().copied()).collect();
        if self.counters.frontends.len() > room.frontends || self.frontends.items.len() > room.frontends {
            let busy = |c: &balancing_api::agent::FrontendCounters| {
                (!held.contains(&c.frontend), Reverse(c.redirects + c.balanced + c.resolved), c.frontend)
            };
            self.counters.frontends.sort_by_cached_key(busy);
            self.counters.frontends.truncate(room.frontends);
            let told: HashSet<Frontend> = self.counters.frontends.iter().map(|c| c.frontend).collect();
            let items = &mut self.frontends.items;
            let all = items.len();
            let mut spare = room.frontends.saturating_sub(told.len());
            items.retain(|item| {
                // Those that counted nothing have a place where one is left.
                let kept = told.contains(&item.frontend) || (held.contains(&item.frontend) && spare > 0);
                spare -= usize::from(kept && !told.contains(&item.frontend));
                kept
            });
            self.left_out.frontends += count(all - items.len());
        }
        let backends = &mut self.counters.backends;
        if backends.len() > room.backends {
            backends.sort_by_cached_key(|b| {
                (b.owner.starts_with("Service/"), Reverse(b.selected), b.owner.clone(), b.address, b.port)
            });
            self.left_out.backends += count(backends.len() - room.backends);
            backends.truncate(room.backends);
        }
        for rung in self.frontends.items.iter_mut().flat_map(|item| &mut item.rungs) {
            rung.backends.truncate(room.backends / 4);
        }
        self
    }
}
