//! The maps, the constants that user space sets at load, and the maps as [`decide`](balancing_datapath::decide) sees them.

use core::cell::Cell;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::bpf_spin_lock,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    helpers::*,
    macros::btf_map,
    programs::SockAddrContext,
};
use balancing_datapath::*;

use crate::atomic;

/// `BPF_F_MMAPABLE`
const MMAPABLE: usize = 1 << 10;

// Numbers of entries are defaults: user space sets what the node needs at load.
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, u32, 65536> = HashMap::new();
#[btf_map]
pub static INDEX: Array<u64, 262144, MMAPABLE> = Array::new();
#[btf_map]
pub static SLOTS: Array<Slot, 65536, MMAPABLE> = Array::new();
#[btf_map]
pub static SPARES: Array<Frontend, 4096, MMAPABLE> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, 131072, MMAPABLE> = Array::new();
#[btf_map]
pub static POLICIES: Array<Policy, 4096, MMAPABLE> = Array::new();
#[btf_map]
pub static CALLERS: HashMap<CallerKey, u32, 8192> = HashMap::new();
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, u64, 65536> = LruHashMap::new();
#[btf_map]
pub static UDP_SLOTS: Array<ConnectedRecord, 65536, MMAPABLE> = Array::new();
#[btf_map]
pub static TCP_SLOTS: Array<ConnectedRecord, 65536, MMAPABLE> = Array::new();
#[btf_map]
pub static UDP_RECORDS: SkStorage<UdpRecords> = SkStorage::new();
#[btf_map]
pub static UDP_MORE: SkStorage<MoreUdpRecords> = SkStorage::new();
#[btf_map]
pub static POLICY_COUNTERS: PerCpuArray<PolicyCounters, 4096> = PerCpuArray::new();
#[btf_map]
pub static FRONTEND_COUNTERS: Array<FrontendCounters, 65536, MMAPABLE> = Array::new();
#[btf_map]
pub static RUNTIME: Array<Runtime, 1, MMAPABLE> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<(), 1048576> = RingBuf::new();

/// A policy's window where the kernel has no 64-bit compare-and-exchange for programs.
#[repr(C)]
pub struct LockedWindow {
    lock: bpf_spin_lock,
    count: u32,
    second: u64,
}
#[btf_map]
pub static LOCKED_WINDOWS: Array<LockedWindow, 4096> = Array::new();

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new($value);)*
    };
}
constants! {
    /// 1: `bpf_set_retval` may be called from these hooks.
    SET_RETVAL = 1;
    /// 1: the kernel has compare-and-exchange and fetch-add for programs; 0: a spin lock stands in.
    ATOMICS = 1;
    /// 1: a slot's key is compared with the one asked for. 0 is for the bench alone, which says what that costs.
    COMPARE_KEYS = 1;
    /// Copies of the backends, less one; a power of two less one.
    STRIPE_MASK = 0;
    /// Number of elements of `backends` in one stripe.
    BACKENDS_LEN = 131072;
    /// Number of elements of `index`, less one.
    INDEX_MASK = 0x3ffff;
    /// Number of elements of `udp_slots`, less one.
    UDP_MASK = 0xffff;
    /// Number of elements of `tcp_slots`, less one.
    TCP_MASK = 0xffff;
}

#[inline(always)]
pub fn runtime() -> Option<*mut Runtime> {
    RUNTIME.get_ptr_mut(0)
}

/// The slot that the hash of frontends names.
#[inline(always)]
fn hashed(key: &FrontendKey) -> Option<u32> {
    // SAFETY: an element of a map lives as long as the program runs.
    Some(unsafe { FRONTENDS.get_ptr(key)?.read_volatile() })
}

/// The stripe of this CPU.
#[inline(always)]
fn stripe() -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_smp_processor_id() & STRIPE_MASK.load() }
}

/// Nanoseconds of the monotonic clock at its last tick: one clock for all CPUs, and cheaper than the exact one.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_coarse_ns() }
}

pub const SECOND: u64 = 1_000_000_000;

/// The maps as one call sees them.
pub struct Kernel<'a> {
    pub ctx: &'a SockAddrContext,
    /// The socket's translations; null: none, or the socket is connected.
    pub records: *mut UdpRecords,
    /// The caller is an unconnected UDP socket.
    pub unconnected: bool,
    /// Slot of the frontend, for its counters.
    pub slot: Cell<u32>,
    /// First element of this CPU's copy of the backends.
    pub stripe: Cell<u32>,
    /// What the client's affinity was found in; null: it was not looked for, or there is none.
    pub affine: Cell<*mut u64>,
}

impl Kernel<'_> {
    #[inline(always)]
    fn affinity_key(&self, frontend: &Frontend, rung: u32) -> AffinityKey {
        // SAFETY: the helper takes the hook's own context.
        let client = unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) };
        AffinityKey { client, group: frontend.affinity_group, rung }
    }
}

impl Maps for Kernel<'_> {
    type Ref = &'static Frontend;

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<&'static Frontend> {
        let hash = index_hash(key);
        // SAFETY: an element of a map lives as long as the program runs; one word, read whole.
        let word = unsafe { INDEX.get_ptr(hash as u32 & INDEX_MASK.load())?.read_volatile() };
        let mut number = match indexed(word, hash) {
            Indexed::Absent => return None,
            Indexed::Slot(number) => number,
            Indexed::Elsewhere => hashed(key)?,
        };
        // An element of the hash may be freed and given to another key while it is read: the slot says whose it is.
        for _ in 0..4 {
            let slot = SLOTS.get(number)?;
            if COMPARE_KEYS.load() == 0 || (same(&slot.key.addr, &key.addr) && slot.key.meta == key.meta) {
                self.slot.set(number);
                self.stripe.set(stripe().wrapping_mul(BACKENDS_LEN.load()));
                // SAFETY: as above. Read once: user space changes it with one store.
                let active = unsafe { (&raw const slot.active).read_volatile() };
                if active < SPARE {
                    return Some(&slot.halves[active as usize]);
                }
                return SPARES.get(active - SPARE);
            }
            number = hashed(key)?;
        }
        None
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<Backend> {
        BACKENDS.get(self.stripe.get().wrapping_add(index)).copied()
    }

    #[inline(always)]
    fn exempt(&self, policy: u32) -> bool {
        let Some(runtime) = runtime() else { return false };
        // SAFETY: an element of a map lives as long as the program runs.
        let (first, count) = unsafe { ((*runtime).caller_level, (*runtime).caller_levels) };
        for i in 0..MAX_LEVELS {
            if i >= count {
                break;
            }
            // SAFETY: the helper has no precondition; 0: the caller is not that deep.
            let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(first.wrapping_add(i) as i32) };
            if cgroup == 0 {
                break;
            }
            // SAFETY: only the element's presence is used.
            if unsafe { CALLERS.get(CallerKey { cgroup, class: policy, spare: 0 }) }.is_some() {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn stale(&self) -> bool {
        let Some(runtime) = runtime() else { return false };
        // SAFETY: an element of a map lives as long as the program runs.
        now() > unsafe { (&raw const (*runtime).lease_until).read_volatile() }
    }

    #[inline(always)]
    fn admit(&self, policy: u32) -> bool {
        let Some(element) = POLICIES.get_ptr_mut(policy) else { return true };
        // SAFETY: an element of a map lives as long as the program runs.
        let limit = unsafe { (&raw const (*element).limit).read_volatile() };
        if limit == 0 {
            return true;
        }
        let second = now() / SECOND;
        if ATOMICS.load() == 0 {
            return admit_locked(policy, limit, second);
        }
        // SAFETY: as above.
        atomic::admit(unsafe { &raw mut (*element).window }, limit, second)
    }

    #[inline(always)]
    fn kept(&self, key: &FrontendKey, rung: u32) -> Kept {
        if self.records.is_null() {
            return Kept::default();
        }
        // SAFETY: storage of a socket that this call holds; the programs of one socket run under its lock.
        let records = unsafe { &*self.records };
        for i in 0..RECORDS {
            if i as u32 >= records.count {
                break;
            }
            let r = &records.records[i];
            if same(&r.vip, &key.addr)
                && r.vip_port == key.port()
                && u32::from(r.rung) == rung
                && r.flags & RECORD_KEPT != 0
            {
                return Kept { id: r.id, offset: r.offset };
            }
        }
        Kept::default()
    }

    #[inline(always)]
    fn affinity(&self, frontend: &Frontend, rung: u32) -> u32 {
        let Some(word) = AFFINITY.get_ptr_mut(&self.affinity_key(frontend, rung)) else { return 0 };
        self.affine.set(word);
        // SAFETY: an element of a map lives as long as the program runs; one word, read whole.
        let word = unsafe { word.read_volatile() };
        let age = ((now() >> AFFINITY_SHIFT) as u32).wrapping_sub((word >> 32) as u32);
        // Half-open: at the timeout itself it is over.
        if age < frontend.affinity { word as u32 } else { 0 }
    }

    #[inline(always)]
    fn remember(&self, frontend: &Frontend, rung: u32, id: u32) {
        let word = affinity_word((now() >> AFFINITY_SHIFT) as u32, id);
        // In place where there is one: a store instead of an update, and never a moment without.
        let found = self.affine.get();
        if !found.is_null() {
            // SAFETY: as in `affinity`.
            unsafe { found.write_volatile(word) };
            return;
        }
        // It was not looked for where the socket kept its backend.
        let key = self.affinity_key(frontend, rung);
        match AFFINITY.get_ptr_mut(&key) {
            // SAFETY: as in `affinity`.
            Some(element) => unsafe { element.write_volatile(word) },
            None => {
                // Fails only where memory is short; the next call tries again.
                let _ = AFFINITY.insert(&key, word, 0);
            }
        }
    }

    #[inline(always)]
    fn random(&self, key: &FrontendKey) -> u32 {
        if self.unconnected {
            // The same for each datagram of the socket to this frontend: it keeps its backend while the set does.
            // SAFETY: the helper takes the hook's own context.
            let cookie = unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) };
            let mixed = (cookie ^ key.addr[1].rotate_left(17) ^ key.meta.rotate_left(40))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            return ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32;
        }
        // SAFETY: the helper has no precondition.
        unsafe { bpf_get_prandom_u32() }
    }
}

#[inline(always)]
fn admit_locked(policy: u32, limit: u32, second: u64) -> bool {
    let Some(window) = LOCKED_WINDOWS.get_ptr_mut(policy) else { return true };
    // SAFETY: an element of a map lives as long as the program runs; its fields are touched under its lock.
    unsafe {
        bpf_spin_lock(&raw mut (*window).lock);
        if (*window).second < second {
            (*window).second = second;
            (*window).count = 0;
        }
        let admitted = (*window).count < limit;
        if admitted {
            (*window).count += 1;
        }
        bpf_spin_unlock(&raw mut (*window).lock);
        admitted
    }
}
