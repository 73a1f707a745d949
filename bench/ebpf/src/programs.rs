//! The empty and the ideal programs.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::HashMap,
    macros::{btf_map, cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};

/// A cgroup program of these hooks: let the call go on.
const PROCEED: i32 = 1;

/// An IPv4 end: address, port (both in network byte order), IANA protocol.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End4 {
    addr: u32,
    port: u16,
    protocol: u16,
}

/// An IPv6 end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End6 {
    addr: [u64; 2],
    port: u32,
    protocol: u32,
}

// Numbers of entries are defaults: the bench sets what a case needs at load.
#[btf_map]
pub static FORWARD4: HashMap<End4, End4, 64> = HashMap::new();
#[btf_map]
pub static REVERSE4: HashMap<End4, End4, 64> = HashMap::new();
#[btf_map]
pub static FORWARD6: HashMap<End6, End6, 64> = HashMap::new();

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
fn translate4(p: *mut bpf_sock_addr, map: &HashMap<End4, End4, 64>) -> i32 {
    let key = End4 {
        addr: field!(p, user_ip4),
        port: field!(p, user_port) as u16,
        protocol: field!(p, protocol) as u16,
    };
    if let Some(to) = map.get_ptr(&key) {
        // SAFETY: an element of a map lives as long as the program runs; the bench writes none while it measures.
        let to = unsafe { *to };
        set_field!(p, to.addr, user_ip4);
        set_field!(p, to.port as u32, user_port);
    }
    PROCEED
}

#[inline(always)]
fn translate6(p: *mut bpf_sock_addr) -> i32 {
    let key = End6 {
        addr: [
            field!(p, user_ip6[0]) as u64 | (field!(p, user_ip6[1]) as u64) << 32,
            field!(p, user_ip6[2]) as u64 | (field!(p, user_ip6[3]) as u64) << 32,
        ],
        port: field!(p, user_port) as u16 as u32,
        protocol: field!(p, protocol),
    };
    if let Some(to) = FORWARD6.get_ptr(&key) {
        // SAFETY: as in `translate4`.
        let to = unsafe { *to };
        set_field!(p, to.addr[0] as u32, user_ip6[0]);
        set_field!(p, (to.addr[0] >> 32) as u32, user_ip6[1]);
        set_field!(p, to.addr[1] as u32, user_ip6[2]);
        set_field!(p, (to.addr[1] >> 32) as u32, user_ip6[3]);
        set_field!(p, to.port, user_port);
    }
    PROCEED
}

macro_rules! programs {
    ($($hook:ident: $ideal:ident = |$p:ident| $body:expr, $empty:ident;)*) => {
        $(
            #[cgroup_sock_addr($hook)]
            pub fn $ideal(ctx: SockAddrContext) -> i32 {
                let $p = ctx.sock_addr;
                $body
            }
            #[cgroup_sock_addr($hook)]
            pub fn $empty(_: SockAddrContext) -> i32 {
                PROCEED
            }
        )*
    };
}

programs! {
    connect4: ideal_connect4 = |p| translate4(p, &FORWARD4), empty_connect4;
    connect6: ideal_connect6 = |p| translate6(p), empty_connect6;
    sendmsg4: ideal_sendmsg4 = |p| translate4(p, &FORWARD4), empty_sendmsg4;
    recvmsg4: ideal_recvmsg4 = |p| translate4(p, &REVERSE4), empty_recvmsg4;
    getpeername4: ideal_getpeer4 = |p| translate4(p, &REVERSE4), empty_getpeer4;
}

#[cgroup_sock(sock_release)]
pub fn empty_release(_: SockContext) -> i32 {
    PROCEED
}
