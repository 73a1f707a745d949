//! Counts a decision: once for the policy, once for the backend, and what no backend tells for the frontend. Nothing for a
//! miss.

use balancing_datapath::{Decision, FRONTEND_SERVICE, Outcome, PolicyReason};

use crate::{
    atomic,
    maps::{BACKENDS, FRONTEND_COUNTERS, Kernel, POLICY_COUNTERS},
};

/// Counts the decision about the flow that `kernel` looked at.
///
/// Atomic adds also on a CPU's own element: a program may be preempted by another on the same CPU.
#[inline(always)]
pub fn count(kernel: &Kernel<'_>, decision: &Decision) {
    // SAFETY (all below): an element of a map lives as long as the program runs.
    if decision.policy != 0
        && let Some(c) = POLICY_COUNTERS.get_ptr_mut(decision.policy)
    {
        // A refusal of the policy's own, not of a Service without endpoints, is no fallback.
        if matches!(decision.outcome, Outcome::Refuse) && decision.flags & FRONTEND_SERVICE == 0 {
            atomic::add(unsafe { &raw mut (*c).refusals }, 1);
        } else {
            match decision.reason {
                PolicyReason::None => {}
                PolicyReason::Taken => atomic::add(unsafe { &raw mut (*c).taken }, 1),
                PolicyReason::NoBackend => atomic::add(unsafe { &raw mut (*c).no_backend }, 1),
                PolicyReason::ExemptCaller => atomic::add(unsafe { &raw mut (*c).exempt_caller }, 1),
                PolicyReason::AgentStale => atomic::add(unsafe { &raw mut (*c).agent_stale }, 1),
                PolicyReason::QosLimit => atomic::add(unsafe { &raw mut (*c).qos_drops }, 1),
            }
        }
    }
    // What was sent to backends is told by their counters alone: one cache line less to write.
    match decision.outcome {
        Outcome::Policy | Outcome::Service => {
            if let Some(b) = BACKENDS.get_ptr_mut(kernel.stripe.get().wrapping_add(decision.index)) {
                atomic::add(unsafe { &raw mut (*b).counter }, 1);
            }
        }
        Outcome::Refuse => {
            if let Some(c) = FRONTEND_COUNTERS.get_ptr_mut(kernel.slot.get()) {
                atomic::add(unsafe { &raw mut (*c).refusals }, 1);
            }
        }
        Outcome::Untouched => {}
    }
    if matches!(decision.reason, PolicyReason::QosLimit)
        && let Some(c) = FRONTEND_COUNTERS.get_ptr_mut(kernel.slot.get())
    {
        atomic::add(unsafe { &raw mut (*c).qos_drops }, 1);
    }
}
