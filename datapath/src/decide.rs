//! The decision: which backend, if any, a flow to a frontend gets.

use core::ops::Deref;

use crate::layout::{
    Backend, FRONTEND_CALLERS, FRONTEND_POLICY_AFFINITY, FRONTEND_QOS, FRONTEND_REFUSE,
    FRONTEND_SERVICE_AFFINITY, Frontend, FrontendKey, Rung,
};

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It goes to the address that was dialled.
    Untouched = 0,
    /// To a backend of the policy.
    Policy = 1,
    /// To a backend of the Service.
    Service = 2,
    /// The client gets an error.
    Refuse = 3,
}

/// Why the policy's rung was or was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PolicyReason {
    /// No policy has this frontend.
    None = 0,
    /// Taken.
    Taken = 1,
    /// It has no usable backend.
    NoBackend = 2,
    /// The caller is exempt.
    ExemptCaller = 3,
    /// The agent's lease is over and a Service is beneath.
    AgentStale = 4,
    /// The limit of this second is reached.
    QosLimit = 5,
}

/// The decision about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What happens.
    pub outcome: Outcome,
    /// What became of the policy's rung.
    pub reason: PolicyReason,
    /// The frontend's policy; 0: none.
    pub policy: u32,
    /// The frontend's flags.
    pub flags: u32,
    /// Where the flow goes, for [`Outcome::Policy`] and [`Outcome::Service`].
    pub backend: Backend,
    /// Index of the backend.
    pub index: u32,
    /// Index of the backend within its rung.
    pub offset: u32,
}

/// The backend that a socket used before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its id; 0: none.
    pub id: u32,
    /// Where in the rung it was then.
    pub offset: u32,
}

/// The maps, as [`decide`] sees them: in the kernel the maps themselves, elsewhere a copy or a view.
///
/// Times are in nanoseconds of the monotonic clock.
pub trait Maps {
    /// How a frontend is held while it is looked at.
    type Ref: Deref<Target = Frontend>;

    /// The ladder of a frontend, if it has one.
    fn frontend(&self, key: &FrontendKey) -> Option<Self::Ref>;
    /// An element of the array of backends.
    fn backend(&self, index: u32) -> Option<Backend>;
    /// Is the caller exempt from this policy?
    fn exempt(&self, policy: u32) -> bool;
    /// Is the agent's lease over?
    fn stale(&self) -> bool;
    /// May one more redirect of this policy happen in this second? Counts it.
    fn admit(&self, policy: u32) -> bool;
    /// The backend that this socket used for this frontend on rung 1 (policy) or 2 (Service).
    fn kept(&self, key: &FrontendKey, rung: u32) -> Kept;
    /// Id of the backend that this client used last on this rung, unless too long ago; 0: none.
    fn affinity(&self, frontend: &Frontend, rung: u32) -> u32;
    /// The client uses this backend now.
    fn remember(&self, frontend: &Frontend, rung: u32, id: u32);
    /// A random number. For an unconnected UDP socket the same one for the same frontend, so that it keeps its backend.
    fn random(&self, key: &FrontendKey) -> u32;
}

/// Steps of the binary search: ranges of up to 2^17 backends.
const SEARCH_STEPS: u32 = 18;

/// The backend of the rung with this id, and its offset: where it was last, else by search, as ranges are sorted by id.
#[inline(always)]
fn member<M: Maps>(maps: &M, rung: Rung, kept: Kept) -> Option<(u32, Backend)> {
    if kept.offset < rung.count {
        let backend = maps.backend(rung.first.wrapping_add(kept.offset))?;
        if backend.id == kept.id {
            return Some((kept.offset, backend));
        }
    }
    let (mut low, mut high) = (0u32, rung.count);
    for _ in 0..SEARCH_STEPS {
        if low >= high {
            return None;
        }
        let middle = (low + high) >> 1;
        let backend = maps.backend(rung.first.wrapping_add(middle))?;
        if backend.id == kept.id {
            return Some((middle, backend));
        }
        if backend.id < kept.id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    None
}

/// Any backend of the rung, all alike. Multiply and shift: the kernel's instruction set has no cheap division.
#[inline(always)]
fn pick<M: Maps>(maps: &M, rung: Rung, key: &FrontendKey) -> Option<(u32, Backend)> {
    let offset = if rung.count == 1 {
        0
    } else {
        (u64::from(maps.random(key)).wrapping_mul(u64::from(rung.count)) >> 32) as u32
    };
    Some((offset, maps.backend(rung.first.wrapping_add(offset))?))
}

/// Decides what happens to a flow to `key`; `None`: it is no frontend.
///
/// The ladder is policy rung, Service rung, then refusal or nothing. The policy's rung is asked in the order: does it
/// exist, is the caller exempt, is the agent alive, is the limit reached; so a budget is spent only by a redirect that
/// happens.
#[inline(always)]
pub fn decide<M: Maps>(maps: &M, key: &FrontendKey) -> Option<Decision> {
    let frontend = maps.frontend(key)?;
    let frontend: &Frontend = &frontend;
    let flags = frontend.flags;

    let reason = if frontend.policy == 0 {
        PolicyReason::None
    } else if frontend.policy_rung.count == 0 {
        PolicyReason::NoBackend
    } else if flags & FRONTEND_CALLERS != 0 && maps.exempt(frontend.policy) {
        PolicyReason::ExemptCaller
    } else if frontend.service_rung.count != 0 && maps.stale() {
        PolicyReason::AgentStale
    } else if flags & FRONTEND_QOS != 0 && !maps.admit(frontend.policy) {
        PolicyReason::QosLimit
    } else {
        PolicyReason::Taken
    };

    let by_policy = matches!(reason, PolicyReason::Taken);
    let (rung, number, affine) = if by_policy {
        (frontend.policy_rung, 1, flags & FRONTEND_POLICY_AFFINITY != 0)
    } else {
        (frontend.service_rung, 2, flags & FRONTEND_SERVICE_AFFINITY != 0)
    };

    if rung.count != 0 {
        let mut kept = maps.kept(key, number);
        if affine && kept.id == 0 {
            kept = Kept { id: maps.affinity(frontend, number), offset: 0 };
        }
        let mut found = if kept.id != 0 { member(maps, rung, kept) } else { None };
        if found.is_none() {
            found = pick(maps, rung, key);
        }
        if let Some((offset, backend)) = found {
            if affine {
                maps.remember(frontend, number, backend.id);
            }
            let outcome = if by_policy { Outcome::Policy } else { Outcome::Service };
            let index = rung.first.wrapping_add(offset);
            return Some(Decision {
                outcome,
                reason,
                policy: frontend.policy,
                flags,
                backend,
                index,
                offset,
            });
        }
    }
    let outcome = if flags & FRONTEND_REFUSE != 0 { Outcome::Refuse } else { Outcome::Untouched };
    let backend = Backend::default();
    Some(Decision { outcome, reason, policy: frontend.policy, flags, backend, index: 0, offset: 0 })
}

#[cfg(test)]
mod tests;
