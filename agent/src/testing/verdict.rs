//! What the data path's own decision function makes of a ladder.

use std::{collections::BTreeMap, net::IpAddr};

use balancing_datapath::{
    Backend, FRONTEND_CALLERS, FRONTEND_REFUSE, Frontend, FrontendKey, Kept, Maps, Outcome, Rung, SCOPE_ANY,
    addr_from_ip, decide, ip_from_addr,
};

use super::Expected;
use crate::desired::{self, Ladder, Otherwise};

/// One frontend and its backends, as the kernel would hold them, and the dice.
struct View {
    frontend: Frontend,
    backends: Vec<Backend>,
    exempt: bool,
    random: u32,
}

impl Maps for &View {
    type Ref = Box<Frontend>;

    fn frontend(&self, _: &FrontendKey) -> Option<Self::Ref> {
        Some(Box::new(self.frontend))
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.get(usize::try_from(index).ok()?).copied()
    }
    fn exempt(&self, _: u32) -> bool {
        self.exempt
    }
    fn stale(&self) -> bool {
        false
    }
    fn admit(&self, _: u32) -> bool {
        true
    }
    fn kept(&self, _: &FrontendKey, _: u32) -> Kept {
        Kept::default()
    }
    fn affinity(&self, _: &Frontend, _: u32) -> u32 {
        0
    }
    fn remember(&self, _: &Frontend, _: u32, _: u32) {}
    fn random(&self, _: &FrontendKey) -> u32 {
        self.random
    }
}

fn rung(backends: &mut Vec<Backend>, from: &[desired::Backend]) -> Rung {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let first = count(backends.len());
    for b in from {
        let id = count(backends.len()) + 1;
        let (addr, port) = (addr_from_ip(b.address), b.port.to_be());
        backends.push(Backend { addr, port, id, ..Backend::default() });
    }
    Rung { first, count: count(from.len()) }
}

/// How often each backend is chosen if every outcome of the dice comes once, and what else may happen.
#[must_use]
pub fn shares(ladder: &Ladder, exempt: bool) -> (Option<Outcome>, BTreeMap<(IpAddr, u16), u32>) {
    let mut backends = Vec::new();
    let policy = ladder.policy.as_ref();
    let policy_rung = rung(&mut backends, policy.map(|r| &*r.backends).unwrap_or_default());
    let service = ladder.service.as_ref().map(|r| &*r.backends).unwrap_or_default();
    let service_rung = rung(&mut backends, service);
    let refuse = if ladder.otherwise == Otherwise::Refuse { FRONTEND_REFUSE } else { 0 };
    let frontend = Frontend {
        flags: refuse | FRONTEND_CALLERS,
        policy: u32::from(policy.is_some()),
        policy_rung,
        service_rung,
        ..Frontend::default()
    };
    let key = FrontendKey::new([0, 0], 0, 0, SCOPE_ANY);
    let sides = policy_rung.count.max(1) * service_rung.count.max(1);
    let mut view = View { frontend, backends, exempt, random: 0 };
    let mut chosen = BTreeMap::new();
    let mut outcome = None;
    for side in 0..sides {
        // The middle of each of `sides` equal parts of all random numbers.
        let middle = ((u64::from(side) << 32) + (1 << 31)) / u64::from(sides);
        view.random = u32::try_from(middle).unwrap_or(u32::MAX);
        let Some(decision) = decide(&&view, &key) else { continue };
        outcome = Some(decision.outcome);
        if matches!(decision.outcome, Outcome::Policy | Outcome::Service) {
            let at = (ip_from_addr(&decision.backend.addr), u16::from_be(decision.backend.port));
            *chosen.entry(at).or_default() += 1;
        }
    }
    (outcome, chosen)
}

/// Where a flow to a frontend with this ladder may end.
#[must_use]
pub fn verdict(ladder: Option<&Ladder>, exempt: bool) -> Expected {
    let Some(ladder) = ladder else { return Expected::Untouched };
    let (outcome, chosen) = shares(ladder, exempt);
    let backends = chosen.into_keys().collect();
    match outcome {
        Some(Outcome::Policy) if ladder.policy.as_ref().is_some_and(desired::PolicyRung::is_redirect) => {
            Expected::Redirect(backends)
        }
        Some(Outcome::Policy) => Expected::Balance(backends),
        Some(Outcome::Service) => Expected::Service(backends),
        Some(Outcome::Refuse) => Expected::Refuse,
        Some(Outcome::Untouched) | None => Expected::Untouched,
    }
}
