//! Counts a decision: once for the policy, once for the backend, and what no backend tells for the frontend. Nothing for a
//! miss.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use balancing_datapath::{Decision, FRONTEND_SERVICE, Outcome, PolicyReason};

use crate::{
    atomic,
    maps::{BACKEND_COUNTERS, FRONTEND_COUNTERS, POLICY_COUNTERS, STRIPE_MASK, STRIPE_SHIFT},
};

/// This CPU's element of a striped array.
#[inline(always)]
fn striped(index: u32) -> u32 {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    (index << STRIPE_SHIFT.load()).wrapping_add(cpu & STRIPE_MASK.load())
}

/// Counts the decision about a flow to the frontend in `slot`.
///
/// Atomic adds also on a CPU's own element: a program may be preempted by another on the same CPU.
#[inline(always)]
pub fn count(slot: u32, decision: &Decision) {
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
            if let Some(c) = BACKEND_COUNTERS.get_ptr_mut(striped(decision.index)) {
                atomic::add(c, 1);
            }
        }
        Outcome::Refuse => {
            if let Some(c) = FRONTEND_COUNTERS.get_ptr_mut(striped(slot)) {
                atomic::add(unsafe { &raw mut (*c).refusals }, 1);
            }
        }
        Outcome::Untouched => {}
    }
    if matches!(decision.reason, PolicyReason::QosLimit)
        && let Some(c) = FRONTEND_COUNTERS.get_ptr_mut(striped(slot))
    {
        atomic::add(unsafe { &raw mut (*c).qos_drops }, 1);
    }
}
