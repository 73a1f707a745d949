//! The maps as the programmer sees them: elements to read and write, one at a time, without a policy of its own.

use std::{
    collections::HashMap,
    io,
    mem::offset_of,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::Ordering,
    },
};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use balancing_api::policy::{PolicyKind, PolicyRef};
use balancing_datapath::{
    Backend, CallerKey, Frontend, FrontendCounters, FrontendKey, Policy, PolicyCounters, Rung, Runtime,
    SPARE, Slot,
};

use super::{
    index::Index,
    layout::{POLICY_NAME_SIZE, Sizes},
    programmer::Side,
    sys::{Mapped, release_fence},
};

/// A map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused.
    #[error("failed to {operation} map {map}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: MapError,
    },
    /// The map is not as expected.
    #[error("failed to open map {map}")]
    Open {
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// How much there is room for now.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frontends.
    pub frontends: u32,
    /// Slots of frontends: more, since a removed one waits for its grace period.
    pub slots: u32,
    /// Ladders of frontends that change again within a grace period.
    pub spares: u32,
    /// Backends over all rungs, and counters of backends.
    pub backends: u32,
    /// Policies, with the unused index 0.
    pub policies: u32,
    /// Callers over all policies.
    pub callers: u32,
}

/// What the programmer writes to. In production the kernel's maps.
pub trait Store {
    /// How much there is room for.
    fn limits(&self) -> Limits;

    /// Every frontend and its slot.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, StoreError>;
    /// Makes a filled slot reachable.
    fn insert_frontend(&mut self, key: &FrontendKey, slot: u32) -> Result<(), StoreError>;
    /// Makes a slot unreachable; readers may still be at it.
    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), StoreError>;

    /// Reads a slot.
    fn slot(&self, slot: u32) -> Slot;
    /// Fills a slot that no program reads, its counters at zero.
    fn init_slot(&mut self, slot: u32, key: &FrontendKey, frontend: Frontend);
    /// Reads a spare ladder.
    fn spare(&self, index: u32) -> Frontend;
    /// Fills a place of a slot that no program reads, named as [`Slot::active`] names it.
    fn fill(&mut self, slot: u32, place: u32, frontend: Frontend);
    /// Changes the flags of the ladder in use.
    fn set_flags(&mut self, slot: u32, place: u32, flags: u32);
    /// Makes a place the one in use, after all that was written before.
    fn activate(&mut self, slot: u32, place: u32);

    /// Reads a backend; see [`Store::counter`] for what it has counted.
    fn backend(&self, index: u32) -> Backend;
    /// Writes a backend that no program reads, with what it has counted.
    fn write_backend(&mut self, index: u32, backend: Backend);
    /// Reads a backend's counter.
    fn counter(&self, index: u32) -> u64;
    /// Adds to a backend's counter, which programs may add to as well.
    fn add_to_counter(&mut self, index: u32, count: u64);
    /// Adds to what a frontend's backends counted before they left a rung.
    fn add_to_frontend(&mut self, slot: u32, side: Side, count: u64);

    /// Every policy that has an index.
    fn policy_names(&self) -> Result<Vec<(u32, PolicyRef)>, StoreError>;
    /// Gives an index to a policy, its counters and window at zero.
    fn name_policy(&mut self, index: u32, policy: &PolicyRef) -> Result<(), StoreError>;
    /// Takes the index away.
    fn unname_policy(&mut self, index: u32) -> Result<(), StoreError>;
    /// Redirects a second of a policy.
    fn limit(&self, index: u32) -> u32;
    /// Changes it, at once.
    fn set_limit(&mut self, index: u32, limit: u32);

    /// Every caller and the class it belongs to.
    fn callers(&self) -> Result<Vec<CallerKey>, StoreError>;
    /// Adds one.
    fn insert_caller(&mut self, key: &CallerKey) -> Result<(), StoreError>;
    /// Removes one; it is no error if there is none.
    fn remove_caller(&mut self, key: &CallerKey) -> Result<(), StoreError>;
}

pub(super) type NameValue = [u8; POLICY_NAME_SIZE as usize];

fn encode_name(policy: &PolicyRef) -> NameValue {
    let mut value = [0; POLICY_NAME_SIZE as usize];
    value[0] = match policy.kind {
        PolicyKind::LocalRedirectPolicy => 1,
        PolicyKind::BalancingPolicy => 2,
    };
    // Kubernetes allows names of 253 bytes, which fits; a longer one from a file is told apart by its beginning.
    let name = policy.name.as_bytes();
    let length = name.len().min(POLICY_NAME_SIZE as usize - 2);
    value[1] = length as u8;
    value[2..2 + length].copy_from_slice(&name[..length]);
    value
}

fn decode_name(value: &NameValue) -> Option<PolicyRef> {
    let kind = match value[0] {
        1 => PolicyKind::LocalRedirectPolicy,
        2 => PolicyKind::BalancingPolicy,
        _ => return None,
    };
    let name = value.get(2..2 + value[1] as usize)?;
    Some(PolicyRef::new(kind, String::from_utf8_lossy(name)))
}

/// A hash map that several threads use: the programmer writes, the agent API reads.
struct Hash<K: Pod, V: Pod> {
    name: &'static str,
    map: Mutex<BpfHashMap<MapData, K, V>>,
}

impl<K: Pod + Eq + std::hash::Hash, V: Pod> Hash<K, V> {
    fn new(name: &'static str, map: Map) -> Result<Self, StoreError> {
        Ok(Self { name, map: Mutex::new(map.try_into().map_err(map_error(name, "open"))?) })
    }

    fn lock(&self) -> MutexGuard<'_, BpfHashMap<MapData, K, V>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        match self.lock().get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error(self.name, "read")(source)),
        }
    }

    fn insert(&self, key: &K, value: V) -> Result<(), StoreError> {
        self.lock().insert(key, value, 0).map_err(map_error(self.name, "update"))
    }

    /// An element that is not there any more is as gone as asked.
    fn remove(&self, key: &K) -> Result<(), StoreError> {
        match self.lock().remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(map_error(self.name, "delete from")(source)),
        }
    }

    /// Every element once, also where the kernel's walk starts over because a key was removed under it.
    fn all(&self) -> Result<HashMap<K, V>, StoreError> {
        self.lock().iter().collect::<Result<_, _>>().map_err(map_error(self.name, "read"))
    }
}

/// The maps that grow with the node's need: what their elements say lies at the same indices in larger ones.
pub(super) struct Tables {
    pub(super) sizes: Sizes,
    frontends: Hash<FrontendKey, u32>,
    index: Mutex<Index<Mapped<u64>>>,
    pub(super) slots: Mapped<Slot>,
    pub(super) backends: Mapped<Backend>,
    pub(super) frontend_counters: Mapped<FrontendCounters>,
}

impl Tables {
    /// Takes the maps that the object's programs use; `take` gives each by its name in the object.
    pub(super) fn new(
        sizes: Sizes,
        mut take: impl FnMut(&'static str) -> Option<Map>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            sizes,
            frontends: Hash::new("frontends", taken("frontends", take("FRONTENDS"))?)?,
            index: Mutex::new(Index::new(mapped("index", take("INDEX"))?)),
            slots: mapped("slots", take("SLOTS"))?,
            backends: mapped("backends", take("BACKENDS"))?,
            frontend_counters: mapped("frontend_counters", take("FRONTEND_COUNTERS"))?,
        })
    }

    /// Index of a backend in each stripe; in the first user space adds to the counter.
    fn copies(&self, index: u32) -> impl Iterator<Item = usize> + use<> {
        let (stripes, length) = (self.sizes.stripes as usize, self.sizes.backends as usize);
        (0..stripes).map(move |stripe| stripe * length + index as usize)
    }

    fn index(&self) -> MutexGuard<'_, Index<Mapped<u64>>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills these maps, as far as they are not the same ones and no program uses them yet, with what smaller ones hold,
    /// while nobody but programs changes those. What is counted there from now on is told by what is returned.
    pub(super) fn copy_from(&self, old: &Self) -> Result<Counted, StoreError> {
        let mut copied = Counted::default();
        if self.sizes.slots != old.sizes.slots {
            for slot in 0..old.slots.len() {
                self.slots.write(slot, old.slots.read(slot));
                let counters = old.frontend_counters.read(slot);
                self.frontend_counters.write(slot, counters);
                copied.frontends.push(counters);
            }
        }
        if self.sizes.backends != old.sizes.backends {
            for index in 0..old.sizes.backends {
                for (from, to) in old.copies(index).zip(self.copies(index)) {
                    let backend = old.backends.read(from);
                    self.backends.write(to, backend);
                    copied.backends.push(backend.counter);
                }
            }
        }
        release_fence();
        let all: Vec<_> = old.frontends.all()?.into_iter().collect();
        if self.sizes.frontends != old.sizes.frontends {
            for (key, slot) in &all {
                self.frontends.insert(key, *slot)?;
            }
        }
        // Also where it is the same map: what its words do not tell is not in it.
        self.index().repair(&all);
        Ok(copied)
    }

    /// Adds what programs have counted in `old` since it was copied.
    fn add_late(&self, old: &Self, copied: &Counted) {
        let stripes = old.sizes.stripes as usize;
        for (index, copied) in (0..).zip(copied.backends.chunks(stripes)) {
            for ((from, to), seen) in old.copies(index).zip(self.copies(index)).zip(copied) {
                let late = old.backends.read(from).counter.wrapping_sub(*seen);
                if late != 0 {
                    let counter = self.backends.word64(to, offset_of!(Backend, counter));
                    counter.fetch_add(late, Ordering::Relaxed);
                }
            }
        }
        for (slot, copied) in copied.frontends.iter().enumerate() {
            let now = old.frontend_counters.read(slot);
            // The others are written by user space, which writes to the new maps.
            for (late, offset) in [
                (now.qos_drops.wrapping_sub(copied.qos_drops), offset_of!(FrontendCounters, qos_drops)),
                (now.refusals.wrapping_sub(copied.refusals), offset_of!(FrontendCounters, refusals)),
            ] {
                if late != 0 {
                    self.frontend_counters.word64(slot, offset).fetch_add(late, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Counters at the moment when they were copied, in the order of their elements; none of maps that go on being used.
#[derive(Default)]
pub(super) struct Counted {
    frontends: Vec<FrontendCounters>,
    backends: Vec<u64>,
}

/// Maps that were replaced by larger ones, until the last program has left them.
pub struct Residue {
    old: Tables,
    copied: Counted,
}

fn taken(map: &'static str, found: Option<Map>) -> Result<Map, StoreError> {
    found.ok_or_else(|| StoreError::Open { map, source: io::Error::from(io::ErrorKind::NotFound) })
}

fn mapped<T: Copy>(map: &'static str, found: Option<Map>) -> Result<Mapped<T>, StoreError> {
    let Map::Array(data) = taken(map, found)? else {
        return Err(StoreError::Open { map, source: io::Error::from(io::ErrorKind::InvalidData) });
    };
    Mapped::new(data.fd().as_fd()).map_err(|source| StoreError::Open { map, source })
}

/// The kernel's maps.
pub struct KernelStore {
    callers: Hash<CallerKey, u32>,
    names: Hash<u32, NameValue>,
    policy_counters: Mutex<PerCpuArray<MapData, PolicyCounters>>,
    pub(super) spares: Mapped<Frontend>,
    pub(super) policies: Mapped<Policy>,
    pub(super) runtime: Mapped<Runtime>,
    tables: RwLock<Tables>,
    changing: RwLock<()>,
}

fn map_error(map: &'static str, operation: &'static str) -> impl FnOnce(MapError) -> StoreError {
    move |source| StoreError::Map { map, operation, source }
}

impl KernelStore {
    /// Takes the maps that the object's programs use; `take` gives each by its name in the object.
    pub(super) fn new(
        sizes: Sizes,
        names: MapData,
        mut take: impl FnMut(&'static str) -> Option<Map>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            callers: Hash::new("callers", taken("callers", take("CALLERS"))?)?,
            names: Hash::new("policy_names", Map::HashMap(names))?,
            policy_counters: Mutex::new(
                taken("policy_counters", take("POLICY_COUNTERS"))?
                    .try_into()
                    .map_err(map_error("policy_counters", "open"))?,
            ),
            spares: mapped("spares", take("SPARES"))?,
            policies: mapped("policies", take("POLICIES"))?,
            runtime: mapped("runtime", take("RUNTIME"))?,
            tables: RwLock::new(Tables::new(sizes, take)?),
            changing: RwLock::new(()),
        })
    }

    /// The maps that grow. Readers hold [`Self::reading`], so that all they read is of the same maps.
    pub(super) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other maps in the place of those that grow; called under [`Self::changing`], once the programs use them.
    pub(super) fn replace(&self, tables: Tables, copied: Counted) -> Residue {
        let mut now = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        Residue { old: std::mem::replace(&mut now, tables), copied }
    }

    /// Takes over what programs have counted in maps that were replaced; called under [`Self::changing`], when a grace
    /// period has passed since.
    pub fn settle(&self, residue: &Residue) {
        self.tables().add_late(&residue.old, &residue.copied);
    }

    /// Held by whoever changes the maps: grace periods protect the kernel's readers, not those in user space.
    pub fn changing(&self) -> RwLockWriteGuard<'_, ()> {
        self.changing.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by readers in user space.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sizes of the maps.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.tables().sizes
    }

    pub(super) fn policy_counters(&self, index: u32) -> Result<PolicyCounters, StoreError> {
        let counters = self.policy_counters.lock().unwrap_or_else(PoisonError::into_inner);
        let values = counters.get(&index, 0).map_err(map_error("policy_counters", "read"))?;
        Ok(values.iter().fold(PolicyCounters::default(), |sum, c| PolicyCounters {
            taken: sum.taken + c.taken,
            qos_drops: sum.qos_drops + c.qos_drops,
            exempt_caller: sum.exempt_caller + c.exempt_caller,
            agent_stale: sum.agent_stale + c.agent_stale,
            no_backend: sum.no_backend + c.no_backend,
            refusals: sum.refusals + c.refusals,
        }))
    }

    fn clear_policy_counters(&self, index: u32) -> Result<(), StoreError> {
        let mut counters = self.policy_counters.lock().unwrap_or_else(PoisonError::into_inner);
        let cpus = counters.get(&index, 0).map_err(map_error("policy_counters", "read"))?.len();
        let zero = PerCpuValues::try_from(vec![PolicyCounters::default(); cpus])
            .map_err(|source| StoreError::Open { map: "policy_counters", source })?;
        counters.set(index, zero, 0).map_err(map_error("policy_counters", "clear"))
    }

    /// The ladder in use of a slot.
    pub(super) fn ladder(&self, slot: u32) -> Frontend {
        let slot = self.tables().slots.read(slot as usize);
        ladder_of(&slot, |spare| self.spares.read(spare as usize))
    }

    /// A frontend's own counters: without those of its backends.
    pub(super) fn frontend_counters(&self, slot: u32) -> FrontendCounters {
        self.tables().frontend_counters.read(slot as usize)
    }

    /// Sum of a backend's counter over the stripes.
    pub(super) fn backend_counter(&self, index: u32) -> u64 {
        let tables = self.tables();
        tables.copies(index).map(|at| tables.backends.read(at).counter).sum()
    }

    /// A backend; `None`: there is none of that index.
    pub(super) fn backend(&self, index: u32) -> Option<Backend> {
        let tables = self.tables();
        (index < tables.sizes.backends).then(|| tables.backends.read(index as usize))
    }

    /// The backends of a rung, as far as they exist.
    pub(super) fn backends_of(&self, rung: Rung) -> Vec<Backend> {
        let tables = self.tables();
        (rung.first..rung.first.saturating_add(rung.count).min(tables.sizes.backends))
            .map(|index| tables.backends.read(index as usize))
            .collect()
    }

    /// Changes what the programs read of the running configuration.
    pub fn set_runtime(&self, runtime: RuntimeChange) {
        match runtime {
            RuntimeChange::LeaseUntil(at) => {
                self.runtime.word64(0, offset_of!(Runtime, lease_until)).store(at, Ordering::Relaxed);
            }
            RuntimeChange::CallerLevels { first, count } => {
                // In this order: whoever sees one without the other looks at more levels, not at fewer.
                self.runtime.word32(0, offset_of!(Runtime, caller_levels)).store(count, Ordering::Relaxed);
                self.runtime.word32(0, offset_of!(Runtime, caller_level)).store(first, Ordering::Release);
            }
            RuntimeChange::Events { sample_below, per_second } => {
                self.runtime
                    .word32(0, offset_of!(Runtime, sample_below))
                    .store(sample_below, Ordering::Relaxed);
                self.runtime
                    .word32(0, offset_of!(Runtime, events_per_second))
                    .store(per_second, Ordering::Relaxed);
            }
            RuntimeChange::EventsReceived(count) => {
                self.runtime
                    .word64(0, offset_of!(Runtime, events_received))
                    .fetch_add(count, Ordering::Relaxed);
            }
            RuntimeChange::Since(at) => {
                self.runtime.word64(0, offset_of!(Runtime, since)).store(at, Ordering::Relaxed);
            }
        }
    }

    /// The running configuration, and what the programs count there.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.runtime.read(0)
    }

    /// Slot of a frontend.
    pub(super) fn slot_of(&self, key: &FrontendKey) -> Result<Option<u32>, StoreError> {
        self.tables().frontends.get(key)
    }

    /// Every frontend and its slot.
    pub(super) fn all_frontends(&self) -> Result<Vec<(FrontendKey, u32)>, StoreError> {
        Ok(self.tables().frontends.all()?.into_iter().collect())
    }

    /// Every caller and the class it belongs to.
    pub(super) fn all_callers(&self) -> Result<Vec<CallerKey>, StoreError> {
        Ok(self.callers.all()?.into_keys().collect())
    }

    /// Is a cgroup exempt from a policy?
    pub(super) fn is_caller(&self, key: &CallerKey) -> Result<bool, StoreError> {
        Ok(self.callers.get(key)?.is_some())
    }

    /// Every policy that has an index.
    pub(super) fn names(&self) -> Result<Vec<(u32, PolicyRef)>, StoreError> {
        let named = |(index, value): (u32, NameValue)| decode_name(&value).map(|policy| (index, policy));
        Ok(self.names.all()?.into_iter().filter_map(named).collect())
    }
}

/// The ladder in use of a slot, in one of its halves or in a spare.
pub(super) fn ladder_of(slot: &Slot, spare: impl FnOnce(u32) -> Frontend) -> Frontend {
    match slot.active.checked_sub(SPARE) {
        Some(index) => spare(index),
        None => slot.halves[slot.active as usize],
    }
}

/// A change of [`Runtime`].
#[derive(Clone, Copy, Debug)]
pub enum RuntimeChange {
    /// The lease ends at this time, in ns of `CLOCK_MONOTONIC`.
    LeaseUntil(u64),
    /// Levels at which pods' cgroups are.
    CallerLevels {
        /// First level.
        first: u32,
        /// Number of levels.
        count: u32,
    },
    /// Which successes become events.
    Events {
        /// A random number has to be below this.
        sample_below: u32,
        /// At most so many a second.
        per_second: u32,
    },
    /// The counters count since this time, in ns since 1970.
    Since(u64),
    /// So many more events were received.
    EventsReceived(u64),
}

const fn half_offset(half: u32) -> usize {
    offset_of!(Slot, halves) + half as usize * size_of::<Frontend>()
}

impl Store for Arc<KernelStore> {
    fn limits(&self) -> Limits {
        let Sizes { frontends, slots, spares, backends, policies, callers, .. } = self.sizes();
        Limits { frontends, slots, spares, backends, policies, callers }
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, StoreError> {
        let frontends = self.all_frontends()?;
        self.tables().index().repair(&frontends);
        Ok(frontends)
    }

    fn insert_frontend(&mut self, key: &FrontendKey, slot: u32) -> Result<(), StoreError> {
        release_fence();
        let tables = self.tables();
        tables.frontends.insert(key, slot)?;
        tables.index().insert(key, slot);
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), StoreError> {
        let tables = self.tables();
        if let Some(slot) = tables.frontends.get(key)? {
            tables.index().remove(key, slot);
        }
        tables.frontends.remove(key)
    }

    fn slot(&self, slot: u32) -> Slot {
        self.tables().slots.read(slot as usize)
    }

    fn init_slot(&mut self, slot: u32, key: &FrontendKey, frontend: Frontend) {
        let tables = self.tables();
        tables.frontend_counters.write(slot as usize, FrontendCounters::default());
        tables.slots.write(
            slot as usize,
            Slot { key: *key, active: 0, spare: 0, halves: [frontend; 2], padding: [0; 4] },
        );
    }

    fn spare(&self, index: u32) -> Frontend {
        self.spares.read(index as usize)
    }

    fn fill(&mut self, slot: u32, place: u32, frontend: Frontend) {
        match place.checked_sub(SPARE) {
            Some(spare) => self.spares.write(spare as usize, frontend),
            None => self.tables().slots.write_part(slot as usize, half_offset(place), frontend),
        }
    }

    fn set_flags(&mut self, slot: u32, place: u32, flags: u32) {
        let offset = offset_of!(Frontend, flags);
        let tables = self.tables();
        let word = match place.checked_sub(SPARE) {
            Some(spare) => self.spares.word32(spare as usize, offset),
            None => tables.slots.word32(slot as usize, half_offset(place) + offset),
        };
        word.store(flags, Ordering::Release);
    }

    fn activate(&mut self, slot: u32, place: u32) {
        self.tables().slots.word32(slot as usize, offset_of!(Slot, active)).store(place, Ordering::Release);
    }

    fn backend(&self, index: u32) -> Backend {
        self.tables().backends.read(index as usize)
    }

    fn write_backend(&mut self, index: u32, backend: Backend) {
        let tables = self.tables();
        for (stripe, at) in tables.copies(index).enumerate() {
            let counter = if stripe == 0 { backend.counter } else { 0 };
            tables.backends.write(at, Backend { counter, ..backend });
        }
    }

    fn counter(&self, index: u32) -> u64 {
        self.backend_counter(index)
    }

    fn add_to_counter(&mut self, index: u32, count: u64) {
        self.tables()
            .backends
            .word64(index as usize, offset_of!(Backend, counter))
            .fetch_add(count, Ordering::Relaxed);
    }

    fn add_to_frontend(&mut self, slot: u32, side: Side, count: u64) {
        let offset = match side {
            Side::Policy => offset_of!(FrontendCounters, taken),
            Side::Service => offset_of!(FrontendCounters, resolved),
        };
        self.tables().frontend_counters.word64(slot as usize, offset).fetch_add(count, Ordering::Relaxed);
    }

    fn policy_names(&self) -> Result<Vec<(u32, PolicyRef)>, StoreError> {
        self.names()
    }

    fn name_policy(&mut self, index: u32, policy: &PolicyRef) -> Result<(), StoreError> {
        self.clear_policy_counters(index)?;
        self.policies.write(index as usize, Policy::default());
        self.names.insert(&index, encode_name(policy))
    }

    fn unname_policy(&mut self, index: u32) -> Result<(), StoreError> {
        self.names.remove(&index)
    }

    fn limit(&self, index: u32) -> u32 {
        self.policies.read(index as usize).limit
    }

    fn set_limit(&mut self, index: u32, limit: u32) {
        self.policies.word32(index as usize, offset_of!(Policy, limit)).store(limit, Ordering::Release);
    }

    fn callers(&self) -> Result<Vec<CallerKey>, StoreError> {
        self.all_callers()
    }

    fn insert_caller(&mut self, key: &CallerKey) -> Result<(), StoreError> {
        self.callers.insert(key, 1)
    }

    fn remove_caller(&mut self, key: &CallerKey) -> Result<(), StoreError> {
        self.callers.remove(key)
    }
}
