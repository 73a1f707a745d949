//! The way back: what each socket was translated from, so that the client sees the address it asked for.
//!
//! The programs of one socket run under its lock, so plain stores into its own records do. No loop carries a value that
//! the verifier would have to tell apart (an index found, a maximum): that multiplies its states.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_prandom_u32, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use balancing_datapath::*;

use crate::{
    atomic,
    maps::{ATOMICS, TCP_MASK, TCP_SLOTS, UDP_MASK, UDP_MORE, UDP_RECORDS, UDP_SLOTS, runtime},
};

#[inline(always)]
pub fn cookie(ctx: *mut core::ffi::c_void) -> u64 {
    // SAFETY: callers pass the hook's own context.
    unsafe { bpf_get_socket_cookie(ctx) }
}

/// The socket's translations, null where it has none.
#[inline(always)]
pub fn records(ctx: &SockAddrContext) -> *mut UdpRecords {
    // SAFETY: the storage lives as long as the socket, which this call holds.
    unsafe { UDP_RECORDS.get_ptr_mut(ctx) }
}

#[inline(always)]
fn is_backend(r: &UdpRecord, addr: &Addr, port: u16) -> bool {
    same(&r.backend, addr) && r.backend_port == port
}

#[inline(always)]
fn is_vip(r: &UdpRecord, key: &FrontendKey) -> bool {
    same(&r.vip, &key.addr) && r.vip_port == key.port()
}

#[inline(always)]
fn note_eviction() {
    if let Some(runtime) = runtime() {
        // SAFETY: an element of a map lives as long as the program runs.
        atomic::add(unsafe { &raw mut (*runtime).records_evicted }, 1);
    }
}

#[inline(always)]
fn note_failure() {
    if let Some(runtime) = runtime() {
        // SAFETY: an element of a map lives as long as the program runs.
        atomic::add(unsafe { &raw mut (*runtime).records_failed }, 1);
    }
}

/// The element of the second table that holds this backend or, with `free`, may take it.
#[inline(always)]
fn probe<'a>(more: *mut MoreUdpRecords, addr: &Addr, port: u16, free: bool) -> Option<&'a mut UdpRecord> {
    let start = probe_start(addr, port);
    for i in 0..PROBES {
        let at = (start.wrapping_add(i) & (MORE_RECORDS as u32 - 1)) as usize;
        // SAFETY: callers pass storage of a socket that this call holds; `at` is masked to its size.
        let r = unsafe { &mut (*more).records[at] };
        if (r.id != 0 && is_backend(r, addr, port)) || (free && r.id == 0) {
            return Some(r);
        }
    }
    None
}

/// Remembers that this socket's datagrams to `key` go where it was decided. False: no storage could be had.
#[inline(always)]
pub fn record(ctx: &SockAddrContext, known: *mut UdpRecords, key: &FrontendKey, decision: &Decision) -> bool {
    // The outcome's number is the rung's.
    let (backend, rung) = (&decision.backend, decision.outcome as u16);
    let records = if known.is_null() {
        // SAFETY: a new value is zeroed by the kernel and lives as long as the socket.
        let made = unsafe { UDP_RECORDS.get_or_insert_ptr_mut(ctx, None) };
        if made.is_null() {
            note_failure();
            return false;
        }
        made
    } else {
        known
    };
    // SAFETY: storage of the socket that this call holds, under its lock.
    let records = unsafe { &mut *records };
    let new = UdpRecord {
        vip: key.addr,
        backend: backend.addr,
        vip_port: key.port(),
        backend_port: backend.port,
        id: backend.id,
        flags: RECORD_CURRENT | RECORD_KEPT,
        rung,
        offset: decision.offset,
    };
    let mut found = false;
    for i in 0..RECORDS {
        if i as u32 >= records.count {
            if !found {
                records.records[i] = new;
                records.count = i as u32 + 1;
            }
            return true;
        }
        let r = &mut records.records[i];
        let this_vip = is_vip(r, key) && r.rung == rung;
        if is_backend(r, &backend.addr, backend.port) {
            if this_vip {
                r.flags = RECORD_CURRENT | RECORD_KEPT;
                r.offset = decision.offset;
                found = true;
            } else {
                r.flags &= !RECORD_CURRENT;
            }
        } else if this_vip {
            r.flags &= !RECORD_KEPT;
        }
    }
    record_more(ctx, &new, found)
}

/// The second table: for what the first has no room for. Where the first has `found` it, no answer may come from here.
#[inline(always)]
fn record_more(ctx: &SockAddrContext, new: &UdpRecord, found: bool) -> bool {
    // SAFETY: as in `record`.
    let more =
        unsafe { if found { UDP_MORE.get_ptr_mut(ctx) } else { UDP_MORE.get_or_insert_ptr_mut(ctx, None) } };
    if more.is_null() {
        if !found {
            note_failure();
        }
        return found;
    }
    if found {
        if let Some(r) = probe(more, &new.backend, new.backend_port, false) {
            r.flags &= !RECORD_CURRENT;
        }
        return true;
    }
    if let Some(r) = probe(more, &new.backend, new.backend_port, true) {
        *r = *new;
        return true;
    }
    note_eviction();
    // SAFETY: the helper has no precondition.
    let random = unsafe { bpf_get_prandom_u32() } & (PROBES - 1);
    let at = (probe_start(&new.backend, new.backend_port).wrapping_add(random) & (MORE_RECORDS as u32 - 1))
        as usize;
    // SAFETY: as in `record`; `at` is masked to the size.
    unsafe { (*more).records[at] = *new };
    true
}

/// The client talks to this address as such now: answers from it are no longer some VIP's.
#[inline(always)]
pub fn forget(ctx: &SockAddrContext, records: *mut UdpRecords, addr: &Addr, port: u16) {
    // SAFETY: storage of the socket that this call holds, under its lock.
    let records = unsafe { &mut *records };
    for i in 0..RECORDS {
        if i as u32 >= records.count {
            return;
        }
        let r = &mut records.records[i];
        if is_backend(r, addr, port) {
            r.flags &= !RECORD_CURRENT;
        }
    }
    // SAFETY: as above.
    let more = unsafe { UDP_MORE.get_ptr_mut(ctx) };
    if !more.is_null()
        && let Some(r) = probe(more, addr, port, false)
    {
        r.flags &= !RECORD_CURRENT;
    }
}

/// Remembers a connected UDP socket's translation in the element that its cookie names, which it then owns until it is
/// closed. False: another live socket owns it.
#[inline(always)]
pub fn own(ctx: &SockAddrContext, key: &FrontendKey, backend: &Backend) -> bool {
    if ATOMICS.load() == 0 {
        return false;
    }
    let cookie = cookie(ctx.as_ptr());
    let Some(slot) = UDP_SLOTS.get_ptr_mut(cookie as u32 & UDP_MASK.load()) else { return false };
    // SAFETY: an element of a map lives as long as the program runs; once its cookie is this socket's, only this
    // socket's programs touch it, under its lock.
    unsafe {
        let owner = (&raw const (*slot).cookie).read_volatile();
        if owner != cookie
            && (owner != 0 || atomic::compare_exchange(&raw mut (*slot).cookie, 0, cookie) != 0)
        {
            return false;
        }
        (*slot).vip = key.addr;
        (*slot).backend = backend.addr;
        (*slot).vip_port = key.port();
        (*slot).backend_port = backend.port;
    }
    true
}

/// A socket is closed: its element is free.
#[inline(always)]
pub fn disown(cookie: u64) {
    let Some(slot) = UDP_SLOTS.get_ptr_mut(cookie as u32 & UDP_MASK.load()) else { return };
    // SAFETY: as in `own`.
    unsafe {
        if (&raw const (*slot).cookie).read_volatile() == cookie {
            (&raw mut (*slot).cookie).write_volatile(0);
        }
    }
}

/// Remembers a TCP socket's translation for getpeername, in place of an older socket's at the same element.
#[inline(always)]
pub fn record_tcp(ctx: &SockAddrContext, key: &FrontendKey, backend: &Backend) {
    let cookie = cookie(ctx.as_ptr());
    let Some(slot) = TCP_SLOTS.get_ptr_mut(cookie as u32 & TCP_MASK.load()) else { return };
    // SAFETY: an element of a map lives as long as the program runs. Readers compare the cookie before and after, so
    // the element is nobody's while it is written.
    unsafe {
        (&raw mut (*slot).cookie).write_volatile(0);
        atomic::keep_order();
        (*slot).vip = key.addr;
        (*slot).backend = backend.addr;
        (*slot).vip_port = key.port();
        (*slot).backend_port = backend.port;
        atomic::keep_order();
        (&raw mut (*slot).cookie).write_volatile(cookie);
    }
}

/// The address that the client asked for, where this socket's peer (`peer`) or the source of a datagram is `key`.
#[inline(always)]
pub fn original(ctx: &SockAddrContext, key: &FrontendKey, peer: bool) -> Option<(Addr, u16)> {
    if key.protocol() == UDP {
        if peer {
            // The peer is the connection's, whatever datagrams went elsewhere since.
            return of_connection(ctx, key).or_else(|| of_datagram(ctx, key));
        }
        // The element of a socket that was connected once and is so no more says nothing about its datagrams.
        return of_datagram(ctx, key)
            .or_else(|| if is_connected(ctx) { of_connection(ctx, key) } else { None });
    }
    let cookie = cookie(ctx.as_ptr());
    let slot = TCP_SLOTS.get_ptr(cookie as u32 & TCP_MASK.load())?;
    connected(slot, cookie, key)
}

/// `TCP_ESTABLISHED`: what the state of a connected UDP socket is called.
const ESTABLISHED: u32 = 1;

#[inline(always)]
fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the hook's own context, and its socket, which this call holds.
    unsafe {
        let sk = (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile();
        (&raw const (*sk).state).read_volatile() == ESTABLISHED
    }
}

/// The VIP of a UDP socket's own element.
#[inline(always)]
fn of_connection(ctx: &SockAddrContext, key: &FrontendKey) -> Option<(Addr, u16)> {
    let cookie = cookie(ctx.as_ptr());
    let slot = UDP_SLOTS.get_ptr(cookie as u32 & UDP_MASK.load())?;
    connected(slot, cookie, key)
}

/// The VIP of a UDP socket's translations.
#[inline(always)]
fn of_datagram(ctx: &SockAddrContext, key: &FrontendKey) -> Option<(Addr, u16)> {
    let records = records(ctx);
    if !records.is_null() {
        // SAFETY: storage of the socket that this call holds, under its lock.
        let records = unsafe { &*records };
        for i in 0..RECORDS {
            if i as u32 >= records.count {
                break;
            }
            let r = &records.records[i];
            // Several VIPs may share a backend: the one dialled last is current.
            if r.flags & RECORD_CURRENT != 0 && is_backend(r, &key.addr, key.port()) {
                return Some((r.vip, r.vip_port));
            }
        }
        if records.count == RECORDS as u32 {
            // SAFETY: as above.
            let more = unsafe { UDP_MORE.get_ptr_mut(ctx) };
            if !more.is_null()
                && let Some(r) = probe(more, &key.addr, key.port(), false)
                && r.flags & RECORD_CURRENT != 0
            {
                return Some((r.vip, r.vip_port));
            }
        }
    }
    None
}

/// The VIP of a connected socket's element, if it is this socket's and about this peer.
#[inline(always)]
fn connected(slot: *const ConnectedRecord, cookie: u64, key: &FrontendKey) -> Option<(Addr, u16)> {
    // SAFETY: an element of a map lives as long as the program runs; another socket may write it meanwhile, which the
    // second look at the cookie tells.
    unsafe {
        if (&raw const (*slot).cookie).read_volatile() != cookie
            || !same(&(*slot).backend, &key.addr)
            || (*slot).backend_port != key.port()
        {
            return None;
        }
        let vip = ((*slot).vip, (*slot).vip_port);
        atomic::keep_order();
        ((&raw const (*slot).cookie).read_volatile() == cookie).then_some(vip)
    }
}
