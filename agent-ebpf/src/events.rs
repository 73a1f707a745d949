//! Reports decisions to user space: every failure, and a sample of the rest. Never wakes a reader up.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_netns_cookie,
        bpf_get_prandom_u32,
    },
    programs::SockAddrContext,
};
use balancing_datapath::{
    Decision, EVENT_BALANCE, EVENT_UNRECORDED, Event, FRONTEND_BALANCE, FrontendKey, Outcome, Runtime,
};

use crate::{
    atomic,
    maps::{ATOMICS, EVENTS, SECOND, now, runtime},
};

/// `BPF_RB_NO_WAKEUP`
const NO_WAKEUP: u64 = 1;

/// Is this success one of those that are reported? Decided before anything is reserved.
#[inline(always)]
fn sampled(runtime: *mut Runtime) -> bool {
    // SAFETY: an element of a map lives as long as the program runs; the helper has no precondition.
    unsafe {
        let below = (&raw const (*runtime).sample_below).read_volatile();
        if below == 0 || bpf_get_prandom_u32() >= below {
            return false;
        }
        let limit = (&raw const (*runtime).events_per_second).read_volatile();
        ATOMICS.load() == 0 || atomic::admit(&raw mut (*runtime).events_window, limit, now() / SECOND)
    }
}

/// Reports a decision, if it is one to report. `recorded`: the way back could be remembered.
#[inline(always)]
pub fn report(ctx: &SockAddrContext, key: &FrontendKey, decision: &Decision, hook: u8, recorded: bool) {
    let Some(runtime) = runtime() else { return };
    let failure = !recorded || matches!(decision.outcome, Outcome::Refuse);
    if !failure && !sampled(runtime) {
        return;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<Event>(0) else {
        // SAFETY: an element of a map lives as long as the program runs.
        atomic::add(unsafe { &raw mut (*runtime).events_lost }, 1);
        return;
    };
    let balance = if decision.flags & FRONTEND_BALANCE != 0 { EVENT_BALANCE } else { 0 };
    let unrecorded = if recorded { 0 } else { EVENT_UNRECORDED };
    entry.write(Event {
        time: now(),
        // SAFETY: the helper has no precondition.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        // SAFETY: the helper takes the hook's own context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        key: *key,
        backend: decision.backend.addr,
        backend_port: decision.backend.port,
        hook,
        outcome: decision.outcome as u8,
        reason: decision.reason as u8,
        flags: balance | unrecorded,
        spare: 0,
        policy: decision.policy,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    });
    entry.submit(NO_WAKEUP);
}
