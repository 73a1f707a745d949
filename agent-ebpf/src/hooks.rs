//! The nine hooks.

use core::cell::Cell;

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::bpf_set_retval,
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use balancing_datapath::*;

use crate::{
    counters, events,
    maps::{Kernel, SET_RETVAL},
    reverse,
};

/// A cgroup program of these hooks: let the call go on.
const PROCEED: i32 = 1;
/// End the call with an error: the one set with `bpf_set_retval`, else `EPERM`.
const REJECT: i32 = 0;
const ECONNREFUSED: i32 = 111;

// The kernel allows only reads and writes of whole fields of a context, so none may be merged, split or moved.
macro_rules! field {
    ($p:expr, $($f:tt)+) => {
        // SAFETY: the hook's own context.
        unsafe { (&raw const (*$p).$($f)+).read_volatile() }
    };
}
macro_rules! set_field {
    ($p:expr, $v:expr, $($f:tt)+) => {
        // SAFETY: the hook's own context.
        unsafe { (&raw mut (*$p).$($f)+).write_volatile($v) }
    };
}

#[inline(always)]
fn key4(ctx: *mut bpf_sock_addr) -> FrontendKey {
    let addr = [0, V4_PREFIX | (field!(ctx, user_ip4) as u64) << 32];
    FrontendKey::new(addr, field!(ctx, user_port) as u16, field!(ctx, protocol) as u8, SCOPE_ANY)
}

#[inline(always)]
fn key6(ctx: *mut bpf_sock_addr) -> FrontendKey {
    let addr = [
        field!(ctx, user_ip6[0]) as u64 | (field!(ctx, user_ip6[1]) as u64) << 32,
        field!(ctx, user_ip6[2]) as u64 | (field!(ctx, user_ip6[3]) as u64) << 32,
    ];
    FrontendKey::new(addr, field!(ctx, user_port) as u16, field!(ctx, protocol) as u8, SCOPE_ANY)
}

#[inline(always)]
fn rewrite(ctx: *mut bpf_sock_addr, six: bool, addr: &Addr, port: u16) {
    if six {
        set_field!(ctx, addr[0] as u32, user_ip6[0]);
        set_field!(ctx, (addr[0] >> 32) as u32, user_ip6[1]);
        set_field!(ctx, addr[1] as u32, user_ip6[2]);
        set_field!(ctx, (addr[1] >> 32) as u32, user_ip6[3]);
    } else {
        set_field!(ctx, (addr[1] >> 32) as u32, user_ip4);
    }
    set_field!(ctx, port as u32, user_port);
}

#[inline(always)]
fn refuse() -> i32 {
    if SET_RETVAL.load() != 0 {
        // SAFETY: the helper has no precondition; the verifier checks that this hook may call it.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REJECT
}

/// connect and sendmsg: where does this go?
#[inline(always)]
fn forward(ctx: &SockAddrContext, key: &FrontendKey, hook: u8, six: bool) -> i32 {
    let unconnected = hook == HOOK_SENDMSG4 || hook == HOOK_SENDMSG6;
    let records = if unconnected { reverse::records(ctx) } else { core::ptr::null_mut() };
    let kernel = Kernel {
        ctx,
        records,
        unconnected,
        slot: Cell::new(0),
        stripe: Cell::new(0),
        affine: Cell::new(core::ptr::null_mut()),
    };
    let Some(decision) = decide(&kernel, key) else {
        if !records.is_null() {
            reverse::forget(ctx, records, &key.addr, key.port());
        }
        return PROCEED;
    };
    counters::count(&kernel, &decision);
    let backend = &decision.backend;
    let recorded = match decision.outcome {
        Outcome::Untouched => {
            if !records.is_null() {
                reverse::forget(ctx, records, &key.addr, key.port());
            }
            true
        }
        Outcome::Refuse => {
            events::report(ctx, key, &decision, hook, true);
            return refuse();
        }
        Outcome::Policy | Outcome::Service => {
            let recorded = if key.protocol() != UDP {
                reverse::record_tcp(ctx, key, backend);
                true
            } else if unconnected {
                reverse::record(ctx, records, key, &decision)
            } else {
                remember_connected(ctx, key, &decision)
            };
            rewrite(ctx.sock_addr, six, &backend.addr, backend.port);
            recorded
        }
    };
    events::report(ctx, key, &decision, hook, recorded);
    PROCEED
}

/// The way back of a connected UDP socket: its own element, else its storage. Where there is storage it is told as well:
/// earlier datagrams of the same socket to this backend under another VIP must not answer for the connection.
#[inline(always)]
fn remember_connected(ctx: &SockAddrContext, key: &FrontendKey, decision: &Decision) -> bool {
    let records = reverse::records(ctx);
    let owned = reverse::own(ctx, key, &decision.backend);
    if owned && records.is_null() {
        return true;
    }
    reverse::record(ctx, records, key, decision) || owned
}

/// recvmsg and getpeername (`peer`): what did the client ask for?
#[inline(always)]
fn backward(ctx: &SockAddrContext, key: &FrontendKey, six: bool, peer: bool) -> i32 {
    if let Some((addr, port)) = reverse::original(ctx, key, peer) {
        rewrite(ctx.sock_addr, six, &addr, port);
    }
    PROCEED
}

macro_rules! forward {
    ($name:ident, $key:ident, $hook:expr, $six:expr) => {
        #[cgroup_sock_addr($name)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            let key = $key(ctx.sock_addr);
            forward(&ctx, &key, $hook, $six)
        }
    };
}
macro_rules! backward {
    ($name:ident, $key:ident, $six:expr, $peer:expr) => {
        #[cgroup_sock_addr($name)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            let key = $key(ctx.sock_addr);
            backward(&ctx, &key, $six, $peer)
        }
    };
}

forward!(connect4, key4, HOOK_CONNECT4, false);
forward!(connect6, key6, HOOK_CONNECT6, true);
forward!(sendmsg4, key4, HOOK_SENDMSG4, false);
forward!(sendmsg6, key6, HOOK_SENDMSG6, true);
backward!(recvmsg4, key4, false, false);
backward!(recvmsg6, key6, true, false);
backward!(getpeername4, key4, false, true);
backward!(getpeername6, key6, true, true);

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    if field!(ctx.sock, protocol) == UDP as u32 {
        reverse::disown(reverse::cookie(ctx.as_ptr()));
    }
    PROCEED
}
