//! What lies in the maps, byte by byte.
//!
//! Addresses and ports are in network byte order, everything else in the machine's. No layout has implicit padding, and
//! every size is a multiple of 8, so that arrays of them can be mapped into user space.

/// Number of this layout. Maps are pinned below `v<LAYOUT_VERSION>`; any change of a layout, or of what a field means,
/// takes the next number.
pub const LAYOUT_VERSION: u32 = 1;

/// An address of 16 bytes in network byte order, as two words. An IPv4 address is mapped (`::ffff:a.b.c.d`).
pub type Addr = [u64; 2];

/// `::ffff:0:0`: what stands in front of a mapped IPv4 address, in the second word of [`Addr`].
pub const V4_PREFIX: u64 = 0xffff_u32.to_be() as u64;

/// Scope of a frontend that any caller sees.
pub const SCOPE_ANY: u8 = 0;
/// Scope of a frontend that only callers in the host's network namespace see.
pub const SCOPE_HOST: u8 = 1;

/// IANA number of TCP.
pub const TCP: u8 = 6;
/// IANA number of UDP.
pub const UDP: u8 = 17;

/// What is dialled: key of the map `frontends`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendKey {
    /// The dialled address.
    pub addr: Addr,
    /// Port (network byte order), protocol `<< 16`, scope `<< 24`.
    pub meta: u64,
}

impl FrontendKey {
    /// The key of an address, a port in network byte order, an IANA protocol number and a scope.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: u16, protocol: u8, scope: u8) -> Self {
        Self { addr, meta: port as u64 | (protocol as u64) << 16 | (scope as u64) << 24 }
    }

    /// The port, in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.meta as u16
    }

    /// The IANA protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        (self.meta >> 16) as u8
    }

    /// The scope.
    #[inline(always)]
    #[must_use]
    pub const fn scope(&self) -> u8 {
        (self.meta >> 24) as u8
    }
}

/// A backend: element of the array `backends`. A rung is a range of them, sorted by `id`.
///
/// The array has a copy of all backends for each stripe of CPUs, one after the other: a CPU reads and counts in one cache
/// line, which it shares with no CPU of another stripe.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Backend {
    /// Where a connection is sent to.
    pub addr: Addr,
    /// Port, in network byte order.
    pub port: u16,
    /// None yet.
    pub flags: u16,
    /// Stable id within a rung: a hash of address and port, the same in every run. Never 0.
    pub id: u32,
    /// Times a connection was sent there by CPUs of this stripe.
    pub counter: u64,
}

/// A range of the array `backends`. `count` 0: there is no such rung.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rung {
    /// Index of the first backend.
    pub first: u32,
    /// Number of backends.
    pub count: u32,
}

/// Connections that no rung takes are refused; otherwise they are left untouched.
pub const FRONTEND_REFUSE: u32 = 1 << 0;
/// The policy's rung has a limit: see [`Policy::limit`].
pub const FRONTEND_QOS: u32 = 1 << 1;
/// The policy has exempt callers: see the map `callers`.
pub const FRONTEND_CALLERS: u32 = 1 << 2;
/// The policy is a BalancingPolicy.
pub const FRONTEND_BALANCE: u32 = 1 << 3;
/// The policy's rung has session affinity of [`Frontend::affinity`] seconds.
pub const FRONTEND_POLICY_AFFINITY: u32 = 1 << 4;
/// The Service's rung has session affinity of [`Frontend::affinity`] seconds.
pub const FRONTEND_SERVICE_AFFINITY: u32 = 1 << 5;
/// The frontend is a Service's: its service rung exists in principle, with or without endpoints.
pub const FRONTEND_SERVICE: u32 = 1 << 6;

/// The ladder of a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Frontend {
    /// `FRONTEND_*`.
    pub flags: u32,
    /// Index of the policy in `policies` and `policy_counters`; 0: none. Set also where its rung has no backend.
    pub policy: u32,
    /// Session affinity in units of 2^24 ns, for the rungs that have it.
    pub affinity: u32,
    /// What `affinity` remembers by: a hash of the Service's port, the same in every run.
    pub affinity_group: u32,
    /// The policy's backends.
    pub policy_rung: Rung,
    /// The Service's backends.
    pub service_rung: Rung,
}

/// Element of the array `slots`: what the value of the map `frontends` names. Two cache lines, of which the first has all
/// that a reader needs while the first half is in use.
///
/// User space fills the half that is not in use and changes `active` with one store (release). A half, a range of
/// backends or a slot is used again only after a grace period: whoever read it is gone by then. A frontend that changes
/// again within that time gets an element of the array `spares` instead of a half.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Whose slot this is. An element of the hash may be reused while it is read, so a reader compares.
    pub key: FrontendKey,
    /// The half in use, 0 or 1; else [`SPARE`] and the index of an element of `spares`.
    pub active: u32,
    /// Zero.
    pub spare: u32,
    /// The halves.
    pub halves: [Frontend; 2],
    /// Zero.
    pub padding: [u64; 4],
}

/// [`Slot::active`] from here on names an element of the array `spares`.
pub const SPARE: u32 = 2;

/// Element of the array `policies`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// Second of the monotonic clock `<< 32`, redirects admitted in it. The count may pass the limit by the number of
    /// CPUs that asked at once; what was admitted did not.
    pub window: u64,
    /// Redirects a second; 0: no limit.
    pub limit: u32,
    /// Zero.
    pub spare: u32,
}

/// Key of the map `callers`: a cgroup and one of the classes its processes belong to. The class is a policy's index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerKey {
    /// Id of the cgroup: the inode of its folder.
    pub cgroup: u64,
    /// Index of the policy whose redirects do not apply to its processes.
    pub class: u32,
    /// Zero.
    pub spare: u32,
}

/// Key of the map `affinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// The client: cookie of its network namespace.
    pub client: u64,
    /// [`Frontend::affinity_group`].
    pub group: u32,
    /// 1: the policy's rung, 2: the Service's.
    pub rung: u32,
}

/// Shift from nanoseconds to the unit of affinity's times (16.8 ms): 32 bits of it last two years.
pub const AFFINITY_SHIFT: u32 = 24;

/// Value of the map `affinity`, one word so that it is read and written whole: time of the last use in units of 2^24 ns
/// `<< 32`, id of the backend.
#[inline(always)]
#[must_use]
pub const fn affinity_word(now: u32, id: u32) -> u64 {
    (now as u64) << 32 | id as u64
}

/// A translation of a UDP socket, to be undone in recvmsg and getpeername.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpRecord {
    /// The address that the client dialled.
    pub vip: Addr,
    /// Where it was sent.
    pub backend: Addr,
    /// Port of `vip`, in network byte order.
    pub vip_port: u16,
    /// Port of `backend`, in network byte order.
    pub backend_port: u16,
    /// Id of the backend.
    pub id: u32,
    /// `RECORD_*`.
    pub flags: u16,
    /// Rung that chose the backend: 1 the policy's, 2 the Service's.
    pub rung: u16,
    /// Where in the rung the backend was: it is looked for there first.
    pub offset: u32,
}

/// Answers of this backend are from this VIP: the client dialled it last.
pub const RECORD_CURRENT: u16 = 1;
/// This VIP's last choice on this rung: the socket keeps it while it is a member.
pub const RECORD_KEPT: u16 = 2;

/// Number of translations in the first storage value of a socket.
pub const RECORDS: usize = 8;
/// Number of translations in the second, made only for a socket that needs more than [`RECORDS`].
pub const MORE_RECORDS: usize = 256;
/// Elements of [`MoreUdpRecords`] that one backend may lie in.
pub const PROBES: u32 = 8;

/// Socket storage `udp_records`: the translations of an unconnected UDP socket, in order of first use.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpRecords {
    /// Elements in use.
    pub count: u32,
    /// Zero.
    pub spare: u32,
    /// The translations.
    pub records: [UdpRecord; RECORDS],
}

/// Socket storage `udp_more`: further translations, a hash table by backend with open addressing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoreUdpRecords {
    /// The translations; one with `id` 0 is free.
    pub records: [UdpRecord; MORE_RECORDS],
}

/// First element of [`MoreUdpRecords`] in which a backend may lie.
#[inline(always)]
#[must_use]
pub const fn probe_start(addr: &Addr, port: u16) -> u32 {
    ((addr[1] ^ addr[0] ^ ((port as u64) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32
}

/// Element of the arrays `udp_slots` and `tcp_slots`: the translation of a connected socket, at the low bits of its
/// cookie. In `udp_slots` the socket owns the element until it is closed; in `tcp_slots` a later socket replaces it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectedRecord {
    /// Cookie of the socket; 0: free.
    pub cookie: u64,
    /// The address that the client dialled.
    pub vip: Addr,
    /// Where it was sent: compared, since a socket may connect again elsewhere.
    pub backend: Addr,
    /// Port of `vip`, in network byte order.
    pub vip_port: u16,
    /// Port of `backend`, in network byte order.
    pub backend_port: u16,
    /// Zero.
    pub spare: u32,
}

/// Element of the per-CPU array `policy_counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PolicyCounters {
    /// Sent to a backend of the policy (a redirect, or balanced, by the policy's kind).
    pub taken: u64,
    /// Redirects not made because the limit was reached.
    pub qos_drops: u64,
    /// The caller is exempt.
    pub exempt_caller: u64,
    /// The agent's lease is over.
    pub agent_stale: u64,
    /// The policy has no usable backend here.
    pub no_backend: u64,
    /// Refused by the policy.
    pub refusals: u64,
}

/// Element of the array `frontend_counters`, at the slot's number: what its backends' counters do not tell. What happens
/// often is counted at the backends and policies, so this is not striped.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FrontendCounters {
    /// Sent to backends of the policy that have left its rung since. Written by user space.
    pub taken: u64,
    /// Sent to endpoints of the Service that have left its rung since. Written by user space.
    pub resolved: u64,
    /// Redirects not made because the limit was reached.
    pub qos_drops: u64,
    /// Refused.
    pub refusals: u64,
}

/// The single element of the array `runtime`: what changes while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Runtime {
    /// When the lease of the agent ends, in ns of `CLOCK_MONOTONIC`; `u64::MAX`: never.
    pub lease_until: u64,
    /// First level below the root of the hierarchy at which a pod's cgroup may be.
    pub caller_level: u32,
    /// Number of levels.
    pub caller_levels: u32,
    /// An event of a success is made if a random number is below this: 0 none, `u32::MAX` (nearly) all.
    pub sample_below: u32,
    /// Events of successes made in one second at the most.
    pub events_per_second: u32,
    /// Second of the monotonic clock `<< 32`, events of successes in it.
    pub events_window: u64,
    /// Events that found no room in the ring.
    pub events_lost: u64,
    /// Events that user space took from the ring; written by it.
    pub events_received: u64,
    /// Time of the first start, in ns since 1970: since when the counters count.
    pub since: u64,
    /// Translations of a socket that had to make room for others ([`MORE_RECORDS`] exceeded).
    pub records_evicted: u64,
    /// Translations for which no storage could be had.
    pub records_failed: u64,
}

/// Levels of the cgroup hierarchy that are looked at for exempt callers.
pub const MAX_LEVELS: u32 = 16;

/// What happened, as the data path reports it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Id of the caller's cgroup.
    pub cgroup: u64,
    /// Cookie of the caller's network namespace.
    pub netns: u64,
    /// What was dialled.
    pub key: FrontendKey,
    /// Where it was sent; zero where it was not.
    pub backend: Addr,
    /// Port of the backend, in network byte order.
    pub backend_port: u16,
    /// One of `HOOK_*`.
    pub hook: u8,
    /// [`Outcome`] as number.
    pub outcome: u8,
    /// [`PolicyReason`] as number.
    pub reason: u8,
    /// `EVENT_*`.
    pub flags: u8,
    /// Zero.
    pub spare: u16,
    /// Index of the frontend's policy; 0: none.
    pub policy: u32,
    /// Process id, in the initial namespace.
    pub pid: u32,
    /// Name of the process, padded with zeros.
    pub comm: [u8; 16],
}

/// The frontend's policy is a BalancingPolicy.
pub const EVENT_BALANCE: u8 = 1;
/// The translation could not be recorded: the client will see the backend's address.
pub const EVENT_UNRECORDED: u8 = 2;

/// Numbers of the hooks in events.
pub const HOOK_CONNECT4: u8 = 0;
/// See [`HOOK_CONNECT4`].
pub const HOOK_CONNECT6: u8 = 1;
/// See [`HOOK_CONNECT4`].
pub const HOOK_SENDMSG4: u8 = 2;
/// See [`HOOK_CONNECT4`].
pub const HOOK_SENDMSG6: u8 = 3;

/// Names of all hooks; the first four are those of `HOOK_*`. Each is the name of a program, and of its pinned link.
pub const HOOKS: [&str; 9] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "sock_release",
];

/// Do the two addresses agree? The second word differs more often.
#[inline(always)]
#[must_use]
pub const fn same(a: &Addr, b: &Addr) -> bool {
    a[1] == b[1] && a[0] == b[0]
}

/// The address as the maps hold it.
#[must_use]
pub fn addr_from_ip(ip: core::net::IpAddr) -> Addr {
    let octets = match ip {
        core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        core::net::IpAddr::V6(v6) => v6.octets(),
    };
    let (first, second) = octets.split_at(8);
    let word = |bytes: &[u8]| {
        let mut all = [0; 8];
        all.copy_from_slice(bytes);
        u64::from_ne_bytes(all)
    };
    [word(first), word(second)]
}

/// The address that the maps' form stands for; a mapped one is IPv4.
#[must_use]
pub fn ip_from_addr(addr: &Addr) -> core::net::IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&addr[0].to_ne_bytes());
    octets[8..].copy_from_slice(&addr[1].to_ne_bytes());
    core::net::Ipv6Addr::from(octets).to_canonical()
}

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($t:ident),* $(,)?) => {
            $(
                // SAFETY: `#[repr(C)]`, `Copy`, made of integers alone and without padding (asserted below).
                #[expect(unsafe_code, reason = "aya asks for it to read and write the layout")]
                unsafe impl aya::Pod for super::$t {}
            )*
        };
    }
    pod!(FrontendKey, CallerKey, AffinityKey, PolicyCounters);
}

macro_rules! sizes {
    ($($t:ident: $n:literal),* $(,)?) => { $(const _: () = assert!(core::mem::size_of::<$t>() == $n);)* };
}
sizes! {
    FrontendKey: 24,
    Backend: 32,
    Frontend: 32,
    Slot: 128,
    Policy: 16,
    CallerKey: 16,
    AffinityKey: 16,
    UdpRecord: 48,
    UdpRecords: 392,
    MoreUdpRecords: 12288,
    ConnectedRecord: 48,
    PolicyCounters: 48,
    FrontendCounters: 32,
    Runtime: 72,
    Event: 96,
}
