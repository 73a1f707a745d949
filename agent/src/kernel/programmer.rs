//! Writes the desired state into the maps: only what differs, each frontend's set at once, nothing used again before its
//! last reader is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use balancing_api::{
    net::{self, Protocol},
    policy::PolicyRef,
};
use balancing_datapath::{
    AFFINITY_SHIFT, Addr, Backend, CallerKey, FRONTEND_BALANCE, FRONTEND_CALLERS, FRONTEND_POLICY_AFFINITY,
    FRONTEND_QOS, FRONTEND_REFUSE, FRONTEND_SERVICE, FRONTEND_SERVICE_AFFINITY, Frontend, FrontendKey, Rung,
    SCOPE_ANY, SPARE, addr_from_ip, ip_from_addr,
};

use super::{
    grace::{Epoch, Grace},
    layout::{Room, is_tight},
    memory::{Numbers, Ranges},
    store::{Store, StoreError, ladder_of},
};
use crate::desired::{self, Changes, Ladder, Otherwise, PolicyRung, PolicySettings, ServicePort};

/// Numbers grace periods.
pub trait Clock {
    /// The epoch after which what is unreachable now may be used again.
    fn next(&self) -> Epoch;
    /// The last epoch that is over.
    fn completed(&self) -> Epoch;
}

impl Clock for std::sync::Arc<Grace> {
    fn next(&self) -> Epoch {
        Grace::next(self)
    }

    fn completed(&self) -> Epoch {
        Grace::completed(self)
    }
}

/// Why a part of the desired state is not in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A map is full; what was there is kept.
    MapFull {
        /// Name of the map.
        map: &'static str,
        /// How many elements it holds.
        capacity: u32,
    },
    /// The kernel refused a write.
    Write(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MapFull { map, capacity } => {
                write!(f, "map {map} is full ({capacity} entries): {}", raise(map))
            }
            Self::Write(error) => f.write_str(error),
        }
    }
}

fn raise(map: &str) -> &'static str {
    match map {
        "frontends" => "raise --max-frontends",
        "backends" => "raise --max-backends",
        _ => "there are more policies than the data path holds",
    }
}

/// What one call of the programmer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Writes by (map, `insert` | `update` | `delete`).
    pub writes: BTreeMap<(&'static str, &'static str), u64>,
}

impl Written {
    fn note(&mut self, map: &'static str, operation: &'static str) {
        *self.writes.entry((map, operation)).or_default() += 1;
    }
}

/// What is known besides the desired state, while some source has not been read since the start.
pub struct Unread<'a> {
    /// Is this policy among the objects that were read?
    pub policy: &'a dyn Fn(&PolicyRef) -> bool,
    /// Does an object that was read speak of this address?
    pub address: &'a dyn Fn(IpAddr) -> bool,
    /// Is it known that the policy, whatever it says, has nothing to serve at this address?
    pub gone: &'a dyn Fn(&PolicyRef, IpAddr) -> bool,
}

/// The rung that a change would take away, though nothing that was read speaks of it.
enum Lost {
    /// The policy's: it can stay on top of what is known below.
    Policy,
    /// The Service's, and perhaps the policy's: the maps do not tell the Service's name, so it stays as it is.
    Service,
}

/// One of a frontend's rungs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The policy's.
    Policy,
    /// The Service's.
    Service,
}

/// Who goes on counting for a backend that is in a rung no more.
#[derive(Clone, Copy, Debug)]
enum Heir {
    /// The same backend in the rung's new range.
    Backend(u32),
    /// The frontend, for backends that have left the rung.
    Frontend(u32, Side),
    /// Nobody: the frontend is gone.
    Nobody,
}

/// A backend in a range that is to be given back, with what its counter had when its heir took over: what late readers
/// add to it after that is handed on when they are gone.
#[derive(Clone, Copy, Debug)]
struct Legacy {
    index: u32,
    heir: Heir,
    seen: u64,
}

#[derive(Debug)]
struct Entry {
    slot: u32,
    /// The place in use, as [`Slot::active`](balancing_datapath::Slot::active) names it.
    active: u32,
    value: Frontend,
    /// After these epochs nobody reads the halves any more that are not in use.
    halves_free: [Epoch; 2],
    /// Found in the maps at the start, and not claimed by the desired state since.
    inherited: bool,
}

#[derive(Debug, Default)]
struct PolicyEntry {
    index: u32,
    limit: u32,
    callers: BTreeSet<u64>,
}

impl PolicyEntry {
    fn flags(&self) -> u32 {
        let qos = if self.limit != 0 { FRONTEND_QOS } else { 0 };
        let callers = if self.callers.is_empty() { 0 } else { FRONTEND_CALLERS };
        qos | callers
    }
}

#[derive(Debug)]
enum Retired {
    Range { first: u32, count: u32, legacies: Vec<Legacy> },
    Slot(u32),
    Spare(u32),
    Policy(u32),
}

enum Problem {
    /// Room is on its way: after the next grace period, or in larger maps.
    Later,
    Failed(Failure),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
        Self::Failed(Failure::Write(format!("{error}{source}")))
    }
}

/// Whether the maps can become larger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Growth {
    /// As soon as it is asked for.
    #[default]
    Possible,
    /// Larger ones are being made.
    UnderWay,
    /// They could not be made, for this reason.
    Failed(String),
}

/// Keeps the maps equal to the desired state.
pub struct Programmer<S, C> {
    store: S,
    clock: C,
    entries: HashMap<FrontendKey, Entry>,
    policies: HashMap<PolicyRef, PolicyEntry>,
    ranges: Ranges,
    slots: Numbers,
    spares: Numbers,
    /// Frontends whose ladder is in a spare: they move back to a half when one is free.
    away: Vec<FrontendKey>,
    policy_numbers: Numbers,
    retired: Vec<(Epoch, Retired)>,
    waiting: BTreeMap<net::Frontend, Option<Ladder>>,
    failed: BTreeMap<net::Frontend, (Option<Ladder>, Failure)>,
    /// Policies that are not as they should be; without a failure where they wait for a grace period.
    failed_policies: BTreeMap<PolicyRef, (PolicySettings, Option<Failure>)>,
    held: BTreeMap<net::Frontend, Option<Ladder>>,
    /// Policies that are gone from the desired state, while a ladder that could not be replaced still names them.
    leaving: BTreeSet<PolicyRef>,
    caller_count: u32,
    /// Callers were removed since policies were last tried again.
    callers_left: bool,
    written: Written,
    /// What the maps may grow to.
    most: Room,
    growth: Growth,
    /// What was found full, though the maps may grow, and nothing in it is about to become free.
    short: Room,
    /// After this epoch readers of what an earlier agent took away are gone: nothing is used before.
    usable_after: Epoch,
}

impl<S: Store, C: Clock> Programmer<S, C> {
    /// Takes over what the maps hold. Whatever is not reachable from a frontend is free: no write was ever half done
    /// that a reader could see.
    pub fn take_over(store: S, clock: C) -> Result<Self, StoreError> {
        let limits = store.limits();
        let mut this = Self {
            clock,
            entries: HashMap::new(),
            policies: HashMap::new(),
            ranges: Ranges::new(limits.backends),
            slots: Numbers::new(0, limits.slots),
            spares: Numbers::new(0, limits.spares),
            away: Vec::new(),
            policy_numbers: Numbers::new(1, limits.policies),
            retired: Vec::new(),
            waiting: BTreeMap::new(),
            failed: BTreeMap::new(),
            failed_policies: BTreeMap::new(),
            held: BTreeMap::new(),
            leaving: BTreeSet::new(),
            caller_count: 0,
            callers_left: false,
            written: Written::default(),
            most: Room { frontends: limits.frontends, backends: limits.backends },
            growth: Growth::default(),
            short: Room::default(),
            usable_after: 0,
            store,
        };
        this.adopt_policies()?;
        // Readers may still be at what the agent before took away in its last moments.
        let free_after = this.clock.next();
        for (key, number) in this.store.frontends()? {
            this.adopt_frontend(key, number, free_after)?;
        }
        if !this.entries.is_empty() || !this.policies.is_empty() {
            this.usable_after = free_after;
        }
        Ok(this)
    }

    /// Exempts cgroups, the agent's own, from every policy that was taken over, before anything is known of the policies.
    /// An agent that starts anew is in a new cgroup: a policy that sends what it dials to a pod that is no API server
    /// would keep it from ever hearing that the policy is gone.
    ///
    /// # Errors
    /// The map of callers is full, or cannot be written.
    pub fn exempt(&mut self, cgroups: &BTreeSet<u64>) -> Result<(), StoreError> {
        let mut flags = Vec::new();
        for entry in self.policies.values_mut() {
            for &cgroup in cgroups.difference(&entry.callers.clone()) {
                self.store.insert_caller(&CallerKey { cgroup, class: entry.index, spare: 0 })?;
                self.written.note("callers", "insert");
                entry.callers.insert(cgroup);
                self.caller_count += 1;
            }
            flags.push((entry.index, entry.flags()));
        }
        for (index, flags) in flags {
            self.reflag(index, flags);
        }
        Ok(())
    }

    /// The maps may become larger, up to this; without it they are as large as they may be. Where they are larger already
    /// no more is used of them.
    #[must_use]
    pub fn up_to(mut self, most: Room) -> Self {
        self.most = most;
        self
    }

    /// What the maps need room for, if it is time to make larger ones: then [`Self::growing`] is to be told, and in the end
    /// [`Self::grown`] or [`Self::growth_failed`]. A map that is short of room asks for more than it has; one that
    /// is nearly full for what is in it.
    #[must_use]
    pub fn wanted_room(&self) -> Option<Room> {
        if self.growth != Growth::Possible {
            return None;
        }
        let limits = self.store.limits();
        let need = self.need();
        let asked = Room {
            frontends: need.frontends.max(self.short.frontends).min(self.most.frontends),
            backends: need.backends.max(self.short.backends).min(self.most.backends),
        };
        let tight = is_tight(asked.frontends, limits.frontends, self.most.frontends)
            || is_tight(asked.backends, limits.backends, self.most.backends);
        tight.then_some(asked)
    }

    /// What is programmed and what waits for room.
    fn need(&self) -> Room {
        let leaving: u32 = self
            .retired
            .iter()
            .map(|(_, what)| if let Retired::Range { count, .. } = what { *count } else { 0 })
            .sum();
        let mut need = Room {
            frontends: self.entries.len() as u32,
            backends: self.ranges.used().saturating_sub(leaving),
        };
        let waiting = self.waiting.iter().filter_map(|(frontend, ladder)| Some((frontend, ladder.as_ref()?)));
        for (frontend, ladder) in waiting {
            need.frontends += u32::from(!self.entries.contains_key(&key_of(frontend)));
            let rungs = [
                ladder.policy.as_ref().map_or(0, |rung| rung.backends.len()),
                ladder.service.as_ref().map_or(0, |rung| rung.backends.len()),
            ];
            need.backends = rungs.iter().fold(need.backends, |sum, &count| sum.saturating_add(count as u32));
        }
        need
    }

    /// Larger maps are being made.
    pub fn growing(&mut self) {
        self.growth = Growth::UnderWay;
    }

    /// The maps are larger now, with the same content at the same places. Programs may be at the smaller ones still, and
    /// count there: nothing that is on its way to be free is so before they have left.
    pub fn grown(&mut self) {
        let limits = self.store.limits();
        self.ranges.extend(limits.backends);
        self.slots.extend(limits.slots);
        let left = self.clock.next();
        for (epoch, _) in &mut self.retired {
            *epoch = left.max(*epoch);
        }
        self.try_growth_again();
    }

    /// Larger maps could not be made. What needs them fails, until it is tried again.
    pub fn growth_failed(&mut self, reason: String) {
        self.growth = Growth::Failed(reason);
        self.retry();
        self.finish();
    }

    /// Could larger maps not be made?
    #[must_use]
    pub fn has_failed_to_grow(&self) -> bool {
        matches!(self.growth, Growth::Failed(_))
    }

    /// Whatever was in the way of larger maps may be gone.
    pub fn try_growth_again(&mut self) {
        self.growth = Growth::Possible;
        self.short = Room::default();
        self.retry();
        self.finish();
    }

    fn adopt_policies(&mut self) -> Result<(), StoreError> {
        for (index, policy) in self.store.policy_names()? {
            if self.policy_numbers.claim(index) && !self.policies.contains_key(&policy) {
                let limit = self.store.limit(index);
                self.policies.insert(policy, PolicyEntry { index, limit, callers: BTreeSet::new() });
            }
        }
        let by_index: HashMap<u32, PolicyRef> =
            self.policies.iter().map(|(policy, entry)| (entry.index, policy.clone())).collect();
        for key in self.store.callers()? {
            match by_index.get(&key.class).and_then(|policy| self.policies.get_mut(policy)) {
                Some(entry) => {
                    entry.callers.insert(key.cgroup);
                    self.caller_count += 1;
                }
                None => self.store.remove_caller(&key)?,
            }
        }
        Ok(())
    }

    fn adopt_frontend(&mut self, key: FrontendKey, number: u32, free_after: Epoch) -> Result<(), StoreError> {
        let sound = number < self.store.limits().slots && self.slots.claim(number);
        let slot = sound.then(|| self.store.slot(number)).filter(|slot| slot.key == key);
        let Some(slot) = slot else {
            if sound {
                self.slots.give(number);
            }
            tracing::warn!(?key, number, "a frontend in the maps leads nowhere; removing it");
            return self.store.remove_frontend(&key);
        };
        let active = slot.active;
        if let Some(spare) = active.checked_sub(SPARE)
            && !self.spares.claim(spare)
        {
            tracing::warn!(?key, spare, "a frontend in the maps has no ladder; removing it");
            self.slots.give(number);
            return self.store.remove_frontend(&key);
        }
        if active >= SPARE {
            self.away.push(key);
        }
        let mut value = ladder_of(&slot, |spare| self.store.spare(spare));
        // Also where nothing names the index: another policy must not get it while this ladder has it.
        self.policy_numbers.claim(value.policy);
        for rung in [&mut value.policy_rung, &mut value.service_rung] {
            if rung.count != 0 && !self.ranges.claim(rung.first, rung.count) {
                tracing::warn!(
                    ?key,
                    ?rung,
                    "a rung in the maps is not one of its own; it will be written anew"
                );
                *rung = Rung::default();
            }
        }
        self.entries.insert(
            key,
            Entry { slot: number, active, value, halves_free: [free_after; 2], inherited: true },
        );
        Ok(())
    }

    /// Applies changes of the desired state. `unread` is given while a source has not been read since the start: what an
    /// earlier agent programmed and nothing that was read contradicts is then kept.
    pub fn apply(&mut self, changes: Changes, unread: Option<&Unread<'_>>) {
        let (appear, go): (Vec<_>, Vec<_>) =
            changes.policies.into_iter().partition(|(_, settings)| settings.is_some());
        for (policy, settings) in appear {
            if let Some(settings) = settings {
                self.set_policy(policy, settings);
            }
        }
        // What appears first: an address that moves between frontends is never without its new one.
        let (upserts, removals): (Vec<_>, Vec<_>) =
            changes.frontends.into_iter().partition(|(_, ladder)| ladder.is_some());
        for (frontend, ladder) in upserts.into_iter().chain(removals) {
            self.change(frontend, ladder, unread);
        }
        for (policy, _) in go {
            if unread.is_none_or(|unread| (unread.policy)(&policy)) {
                self.drop_policy(policy);
            }
        }
        if let Some(unread) = unread {
            self.review_kept(unread);
        }
        self.finish();
    }

    /// A policy of which nothing was read keeps its rungs, but not to what is known to serve no more.
    fn review_kept(&mut self, unread: &Unread<'_>) {
        let concerned = |(key, entry): (&FrontendKey, &Entry)| {
            let policy = self.unknown_policy(entry, unread)?;
            let mut backends = self.rung_addresses(entry.value.policy_rung);
            let frontend = frontend_of(key)?;
            // One that nobody claims has a Service's rung only where nothing was read of that either.
            let known =
                self.held.contains_key(&frontend) || (entry.inherited && entry.value.service_rung.count == 0);
            (known && backends.any(|address| (unread.gone)(policy, address))).then_some(frontend)
        };
        let concerned: Vec<net::Frontend> = self.entries.iter().filter_map(concerned).collect();
        for frontend in concerned {
            let ladder = self.held.get(&frontend).cloned().flatten();
            self.change(frontend, ladder, Some(unread));
        }
    }

    /// What became possible by changes that are done.
    fn finish(&mut self) {
        for policy in std::mem::take(&mut self.leaving) {
            self.drop_policy(policy);
        }
        if std::mem::take(&mut self.callers_left) {
            self.retry_policies();
        }
    }

    /// All sources have been read: what was held back applies, and what nobody claims goes. `claimed` are the frontends
    /// of the desired state, `policies` the policies in it.
    pub fn settle(
        &mut self,
        claimed: &dyn Fn(&net::Frontend) -> bool,
        policies: &dyn Fn(&PolicyRef) -> bool,
    ) {
        for (frontend, ladder) in std::mem::take(&mut self.held) {
            self.change(frontend, ladder, None);
        }
        let unclaimed: Vec<net::Frontend> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.inherited)
            .filter_map(|(key, _)| frontend_of(key))
            .filter(|frontend| !claimed(frontend))
            .collect();
        for frontend in unclaimed {
            self.change(frontend, None, None);
        }
        let gone: Vec<PolicyRef> = self.policies.keys().filter(|policy| !policies(policy)).cloned().collect();
        for policy in gone {
            self.drop_policy(policy);
        }
        self.finish();
    }

    /// A grace period is over: what it set free may be used again, and what waited for it is tried again.
    pub fn grace_passed(&mut self) {
        let completed = self.clock.completed();
        let (over, pending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retired).into_iter().partition(|(epoch, _)| *epoch <= completed);
        self.retired = pending;
        for (_, what) in over {
            match what {
                Retired::Range { first, count, legacies } => {
                    self.hand_on(&legacies);
                    self.ranges.give(first, count);
                }
                Retired::Slot(slot) => self.slots.give(slot),
                Retired::Spare(spare) => self.spares.give(spare),
                Retired::Policy(index) => self.policy_numbers.give(index),
            }
        }
        self.move_back();
        self.retry();
        self.finish();
    }

    /// Moves ladders out of the spares, so that those are there for the next burst.
    fn move_back(&mut self) {
        let completed = self.clock.completed();
        for key in std::mem::take(&mut self.away) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(spare) = entry.active.checked_sub(SPARE) else { continue };
            let Some(half) = (0..SPARE).find(|&half| entry.halves_free[half as usize] <= completed) else {
                self.away.push(key);
                continue;
            };
            self.store.fill(entry.slot, half, entry.value);
            self.store.activate(entry.slot, half);
            entry.active = half;
            self.retire(Retired::Spare(spare));
        }
    }

    /// Tries again what had to wait or failed.
    fn retry(&mut self) {
        self.retry_policies();
        let waiting = std::mem::take(&mut self.waiting);
        for (frontend, (ladder, failure)) in std::mem::take(&mut self.failed) {
            self.attempt(frontend, ladder, Some(&failure));
        }
        for (frontend, ladder) in waiting {
            self.attempt(frontend, ladder, None);
        }
    }

    fn retry_policies(&mut self) {
        for (policy, (settings, _)) in std::mem::take(&mut self.failed_policies) {
            self.set_policy(policy, settings);
        }
    }

    /// The epoch that has to pass next, if something waits for one.
    #[must_use]
    pub fn wanted_epoch(&self) -> Option<Epoch> {
        // What waits for larger maps alone has nothing of a grace period.
        let short = self.growth == Growth::UnderWay && self.short != Room::default();
        let waits_for_grace = !self.is_settled() && !short;
        let waiting = (waits_for_grace || !self.away.is_empty()).then(|| self.clock.next());
        let taken_over = (self.usable_after > self.clock.completed()).then_some(self.usable_after);
        let waiting = waiting.into_iter().chain(taken_over);
        self.retired.iter().map(|(epoch, _)| *epoch).chain(waiting).max()
    }

    /// Frontends that are not as desired, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&net::Frontend, &Failure)> {
        self.failed.iter().map(|(frontend, (_, failure))| (frontend, failure))
    }

    /// Policies that have no index, and why.
    pub fn policy_failures(&self) -> impl Iterator<Item = (&PolicyRef, &Failure)> {
        self.failed_policies.iter().filter_map(|(policy, (_, failure))| Some((policy, failure.as_ref()?)))
    }

    /// Is the desired state written, but for what failed?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.failed_policies.values().all(|(_, failure)| failure.is_some())
    }

    /// Index of a policy in the maps.
    #[must_use]
    pub fn policy_index(&self, policy: &PolicyRef) -> Option<u32> {
        self.policies.get(policy).map(|entry| entry.index)
    }

    /// Fill of the maps: (name, entries in use, entries there may be).
    #[must_use]
    pub fn fill(&self) -> Vec<(&'static str, u64, u64)> {
        let limits = self.store.limits();
        vec![
            ("frontends", self.entries.len() as u64, self.most.frontends.into()),
            ("backends", self.ranges.used().into(), self.most.backends.into()),
            ("policies", self.policies.len() as u64, u64::from(limits.policies) - 1),
            ("callers", self.caller_count.into(), limits.callers.into()),
        ]
    }

    /// What was written since the last call.
    pub fn take_written(&mut self) -> Written {
        std::mem::take(&mut self.written)
    }

    // ------------------------------------------------------------ policies

    fn set_policy(&mut self, policy: PolicyRef, settings: PolicySettings) {
        self.leaving.remove(&policy);
        match self.try_set_policy(&policy, &settings) {
            Ok(()) => {
                self.failed_policies.remove(&policy);
            }
            Err(Problem::Later) => {
                self.failed_policies.insert(policy, (settings, None));
            }
            Err(Problem::Failed(failure)) => {
                self.failed_policies.insert(policy, (settings, Some(failure)));
            }
        }
    }

    fn try_set_policy(&mut self, policy: &PolicyRef, settings: &PolicySettings) -> Result<(), Problem> {
        let mut entry = match self.policies.remove(policy) {
            Some(entry) => entry,
            None => self.new_policy(policy)?,
        };
        let result = self.change_policy(&mut entry, settings);
        let (index, flags) = (entry.index, entry.flags());
        self.policies.insert(policy.clone(), entry);
        self.reflag(index, flags);
        result
    }

    fn new_policy(&mut self, policy: &PolicyRef) -> Result<PolicyEntry, Problem> {
        if !self.may_use() {
            return Err(Problem::Later);
        }
        let Some(index) = self.policy_numbers.take() else {
            let capacity = self.store.limits().policies - 1;
            return Err(self.full("policies", capacity));
        };
        if let Err(error) = self.store.name_policy(index, policy) {
            self.policy_numbers.give(index);
            return Err(error.into());
        }
        self.written.note("policies", "insert");
        Ok(PolicyEntry { index, ..PolicyEntry::default() })
    }

    fn change_policy(&mut self, entry: &mut PolicyEntry, settings: &PolicySettings) -> Result<(), Problem> {
        if entry.limit != settings.redirects_per_second {
            entry.limit = settings.redirects_per_second;
            self.store.set_limit(entry.index, entry.limit);
            self.written.note("policies", "update");
        }
        let key = |cgroup| CallerKey { cgroup, class: entry.index, spare: 0 };
        let gone: Vec<u64> = entry.callers.difference(&settings.callers).copied().collect();
        for cgroup in gone {
            self.store.remove_caller(&key(cgroup))?;
            self.written.note("callers", "delete");
            entry.callers.remove(&cgroup);
            self.caller_count -= 1;
            self.callers_left = true;
        }
        for &cgroup in &settings.callers {
            if entry.callers.contains(&cgroup) {
                continue;
            }
            let capacity = self.store.limits().callers;
            if self.caller_count >= capacity {
                return Err(Problem::Failed(Failure::MapFull { map: "callers", capacity }));
            }
            self.store.insert_caller(&key(cgroup))?;
            self.written.note("callers", "insert");
            entry.callers.insert(cgroup);
            self.caller_count += 1;
        }
        Ok(())
    }

    /// Gives all frontends of a policy the flags that follow from its settings.
    fn reflag(&mut self, index: u32, flags: u32) {
        const MASK: u32 = FRONTEND_QOS | FRONTEND_CALLERS;
        let stale: Vec<FrontendKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.value.policy == index && entry.value.flags & MASK != flags)
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            // In place, in one word: a reader sees the old flags or the new, and both are right at any time.
            entry.value.flags = entry.value.flags & !MASK | flags;
            self.store.set_flags(entry.slot, entry.active, entry.value.flags);
            self.written.note("frontends", "update");
        }
    }

    /// Removes a policy, or keeps all of it while a ladder names it: its limit and its callers go on being right.
    fn drop_policy(&mut self, policy: PolicyRef) {
        self.failed_policies.remove(&policy);
        let Some(entry) = self.policies.remove(&policy) else { return };
        if self.entries.values().any(|frontend| frontend.value.policy == entry.index) {
            self.policies.insert(policy.clone(), entry);
            self.leaving.insert(policy);
            return;
        }
        let gone = self.store.unname_policy(entry.index).and_then(|()| {
            entry.callers.iter().try_for_each(|&cgroup| {
                self.store.remove_caller(&CallerKey { cgroup, class: entry.index, spare: 0 })
            })
        });
        if let Err(error) = gone {
            tracing::warn!(%policy, %error, "failed to remove what a policy left in the maps");
        }
        self.written.note("policies", "delete");
        self.caller_count -= entry.callers.len() as u32;
        self.callers_left |= !entry.callers.is_empty();
        self.retire(Retired::Policy(entry.index));
    }

    // ------------------------------------------------------------ frontends

    fn change(&mut self, frontend: net::Frontend, ladder: Option<Ladder>, unread: Option<&Unread<'_>>) {
        self.waiting.remove(&frontend);
        let held = self.held.remove(&frontend).is_some();
        let before = self.failed.remove(&frontend).map(|(_, failure)| failure);
        let lost =
            unread.and_then(|unread| Some((self.lost(&frontend, ladder.as_ref(), held, unread)?, unread)));
        let kept = match lost {
            None => None,
            Some((Lost::Service, _)) => {
                self.held.insert(frontend, ladder);
                return;
            }
            Some((Lost::Policy, unread)) => self.with_kept_rung(&frontend, ladder.as_ref(), unread),
        };
        let now = match kept {
            Some(kept) => {
                self.held.insert(frontend, ladder);
                Some(kept)
            }
            None => ladder,
        };
        self.attempt(frontend, now, before.as_ref());
    }

    /// Writes a frontend, or notes why it has to wait or cannot be. `before`: the failure that is known already.
    fn attempt(&mut self, frontend: net::Frontend, ladder: Option<Ladder>, before: Option<&Failure>) {
        let result = match &ladder {
            Some(ladder) => self.put(&frontend, ladder),
            None => self.remove(&frontend),
        };
        match result {
            Ok(()) => {}
            Err(Problem::Later) => {
                self.waiting.insert(frontend, ladder);
            }
            Err(Problem::Failed(failure)) => {
                if before != Some(&failure) {
                    tracing::error!(%frontend, %failure, "failed to program a frontend; what was there is kept");
                }
                self.failed.insert(frontend, (ladder, failure));
            }
        }
    }

    /// Would the change take away a rung that an earlier agent programmed, and of which nothing that was read speaks?
    fn lost(
        &self,
        frontend: &net::Frontend,
        ladder: Option<&Ladder>,
        held: bool,
        unread: &Unread<'_>,
    ) -> Option<Lost> {
        let entry = self.entries.get(&key_of(frontend)).filter(|entry| entry.inherited || held)?;
        let policy_stays =
            ladder.and_then(|l| l.policy.as_ref()).is_some_and(|rung| !rung.backends.is_empty());
        let service_stays =
            ladder.and_then(|l| l.service.as_ref()).is_some_and(|rung| !rung.backends.is_empty());
        let policy_unknown = entry.value.policy != 0
            && !self
                .policies
                .iter()
                .any(|(policy, p)| p.index == entry.value.policy && (unread.policy)(policy));
        let unknown = |rung: Rung| self.rung_addresses(rung).all(|address| !(unread.address)(address));
        let policy = entry.value.policy_rung.count != 0
            && !policy_stays
            && (policy_unknown || unknown(entry.value.policy_rung));
        let service =
            entry.value.service_rung.count != 0 && !service_stays && unknown(entry.value.service_rung);
        if service { Some(Lost::Service) } else { policy.then_some(Lost::Policy) }
    }

    /// The policy of a frontend's rung in the maps, where nothing was read of it.
    fn unknown_policy(&self, entry: &Entry, unread: &Unread<'_>) -> Option<&PolicyRef> {
        let (policy, _) = self.policies.iter().find(|(_, p)| p.index == entry.value.policy)?;
        (!(unread.policy)(policy)).then_some(policy)
    }

    fn rung_addresses(&self, rung: Rung) -> impl Iterator<Item = IpAddr> {
        (rung.first..rung.first + rung.count).map(|index| ip_from_addr(&self.store.backend(index).addr))
    }

    /// The ladder with the policy's rung that is in the maps, as far as it still serves; nothing where it does not.
    fn with_kept_rung(
        &self,
        frontend: &net::Frontend,
        ladder: Option<&Ladder>,
        unread: &Unread<'_>,
    ) -> Option<Ladder> {
        let entry = self.entries.get(&key_of(frontend))?;
        let Frontend { flags, policy, policy_rung: rung, .. } = entry.value;
        let (policy, _) = self.policies.iter().find(|(_, p)| p.index == policy)?;
        let backend = |index| {
            let backend = self.store.backend(index);
            let address = ip_from_addr(&backend.addr);
            desired::Backend { address, port: u16::from_be(backend.port) }
        };
        let mut backends: Vec<_> = (rung.first..rung.first + rung.count)
            .map(backend)
            .filter(|backend| !(unread.gone)(policy, backend.address))
            .collect();
        backends.sort_unstable();
        if backends.is_empty() {
            return None;
        }
        let refuse = flags & FRONTEND_REFUSE != 0;
        let untold = Ladder {
            policy: None,
            service: None,
            otherwise: if refuse { Otherwise::Refuse } else { Otherwise::Untouched },
        };
        let ladder = ladder.cloned().unwrap_or(untold);
        let of_service = ladder.service.as_ref().and_then(|rung| rung.affinity_seconds);
        let affinity_seconds = of_service.filter(|_| flags & FRONTEND_POLICY_AFFINITY != 0);
        let policy = policy.clone();
        let backends = backends.into();
        Some(Ladder { policy: Some(PolicyRung { policy, backends, affinity_seconds }), ..ladder })
    }

    fn put(&mut self, frontend: &net::Frontend, ladder: &Ladder) -> Result<(), Problem> {
        let key = key_of(frontend);
        let mut value = self.value_of(&key, ladder)?;
        let policy_wanted = ladder.policy.as_ref().map_or(&[][..], |rung| &*rung.backends);
        let service_wanted = ladder.service.as_ref().map_or(&[][..], |rung| &*rung.backends);
        let Some(mut entry) = self.entries.remove(&key) else {
            return self.insert(key, value, policy_wanted, service_wanted);
        };
        entry.inherited = false;
        let result = self.replace(&key, &mut entry, &mut value, policy_wanted, service_wanted);
        self.entries.insert(key, entry);
        result
    }

    /// A frontend's value but for its rungs.
    fn value_of(&self, key: &FrontendKey, ladder: &Ladder) -> Result<Frontend, Problem> {
        let mut value = Frontend::default();
        if ladder.otherwise == Otherwise::Refuse {
            value.flags |= FRONTEND_REFUSE;
        }
        if let Some(rung) = &ladder.policy {
            let Some(entry) = self.policies.get(&rung.policy) else {
                return Err(match self.failed_policies.get(&rung.policy) {
                    Some((_, None)) => Problem::Later,
                    Some((_, Some(failure))) => Problem::Failed(failure.clone()),
                    None => Problem::Failed(Failure::Write(format!("{} has no index", rung.policy))),
                });
            };
            value.policy = entry.index;
            value.flags |= entry.flags();
            if !rung.is_redirect() {
                value.flags |= FRONTEND_BALANCE;
            }
            if let Some(seconds) = rung.affinity_seconds {
                value.flags |= FRONTEND_POLICY_AFFINITY;
                value.affinity = affinity_units(seconds);
            }
        }
        value.affinity_group = key_group(key);
        if let Some(rung) = &ladder.service {
            value.flags |= FRONTEND_SERVICE;
            value.affinity_group = service_group(&rung.service, key.protocol());
            if let Some(seconds) = rung.affinity_seconds {
                value.flags |= FRONTEND_SERVICE_AFFINITY;
                value.affinity = affinity_units(seconds);
            }
        }
        Ok(value)
    }

    fn insert(
        &mut self,
        key: FrontendKey,
        mut value: Frontend,
        policy_wanted: &[desired::Backend],
        service_wanted: &[desired::Backend],
    ) -> Result<(), Problem> {
        let capacity = self.most.frontends;
        let count = self.entries.len() as u32;
        if count >= capacity {
            return Err(Problem::Failed(Failure::MapFull { map: "frontends", capacity }));
        }
        if !self.may_use() {
            return Err(Problem::Later);
        }
        if count >= self.store.limits().frontends {
            return Err(self.too_small("frontends"));
        }
        let Some(slot) = self.slots.take() else { return Err(self.full("frontends", capacity)) };
        let written = self
            .write_rungs(
                &mut value,
                Some((policy_wanted, Rung::default())),
                Some((service_wanted, Rung::default())),
            )
            .and_then(|_| {
                self.store.init_slot(slot, &key, value);
                self.store.insert_frontend(&key, slot).map_err(|error| {
                    self.discard_rung(value.policy_rung);
                    self.discard_rung(value.service_rung);
                    Problem::from(error)
                })
            });
        if let Err(problem) = written {
            self.slots.give(slot);
            return Err(problem);
        }
        self.written.note("frontends", "insert");
        let entry = Entry { slot, active: 0, value, halves_free: [0; 2], inherited: false };
        self.entries.insert(key, entry);
        Ok(())
    }

    fn replace(
        &mut self,
        key: &FrontendKey,
        entry: &mut Entry,
        value: &mut Frontend,
        policy_wanted: &[desired::Backend],
        service_wanted: &[desired::Backend],
    ) -> Result<(), Problem> {
        let old = entry.value;
        let same_policy = old.policy == value.policy;
        let same_service = old.affinity_group == value.affinity_group;
        let policy_same = same_policy && self.holds(old.policy_rung, policy_wanted);
        let service_same = same_service && self.holds(old.service_rung, service_wanted);
        if policy_same {
            value.policy_rung = old.policy_rung;
        }
        if service_same {
            value.service_rung = old.service_rung;
        }
        if policy_same && service_same && *value == old {
            return Ok(());
        }
        let Some(place) = self.free_place(entry) else { return Err(Problem::Later) };
        // A rung with another owner counts anew.
        let heirs_of = |same_owner: bool, rung: Rung| if same_owner { rung } else { Rung::default() };
        let policy = (policy_wanted, heirs_of(same_policy, old.policy_rung));
        let service = (service_wanted, heirs_of(same_service, old.service_rung));
        let [policy_legacies, service_legacies] = match self.write_rungs(
            value,
            (!policy_same).then_some(policy),
            (!service_same).then_some(service),
        ) {
            Ok(legacies) => legacies,
            Err(problem) => {
                self.give_place(place);
                return Err(problem);
            }
        };
        self.store.fill(entry.slot, place, *value);
        self.store.activate(entry.slot, place);
        self.written.note("frontends", "update");
        // Asked after the change: a grace period that had begun before would not do.
        match entry.active.checked_sub(SPARE) {
            Some(spare) => self.retire(Retired::Spare(spare)),
            None => entry.halves_free[entry.active as usize] = self.clock.next(),
        }
        if place >= SPARE {
            self.away.push(*key);
        }
        entry.active = place;
        entry.value = *value;
        if !policy_same {
            self.retire_rung(old.policy_rung, policy_legacies, Heir::Frontend(entry.slot, Side::Policy));
        }
        if !service_same {
            self.retire_rung(old.service_rung, service_legacies, Heir::Frontend(entry.slot, Side::Service));
        }
        Ok(())
    }

    /// A place for the frontend's next ladder: a half, if its readers are gone, else a spare.
    fn free_place(&mut self, entry: &Entry) -> Option<u32> {
        if !self.may_use() {
            return None;
        }
        let completed = self.clock.completed();
        let half =
            (0..SPARE).find(|&half| half != entry.active && entry.halves_free[half as usize] <= completed);
        half.or_else(|| self.spares.take().map(|spare| SPARE + spare))
    }

    /// Gives back a place that was not used.
    fn give_place(&mut self, place: u32) {
        if let Some(spare) = place.checked_sub(SPARE) {
            self.spares.give(spare);
        }
    }

    /// Writes the rungs that are given anew, each with the range that it replaces; both or none. Answers what the old
    /// ranges' counters have handed on.
    fn write_rungs(
        &mut self,
        value: &mut Frontend,
        policy: Option<(&[desired::Backend], Rung)>,
        service: Option<(&[desired::Backend], Rung)>,
    ) -> Result<[Vec<Legacy>; 2], Problem> {
        let mut legacies = [Vec::new(), Vec::new()];
        if let Some((wanted, old)) = policy {
            (value.policy_rung, legacies[0]) = self.write_rung(wanted, old)?;
        }
        let Some((wanted, old)) = service else { return Ok(legacies) };
        match self.write_rung(wanted, old) {
            Ok(written) => (value.service_rung, legacies[1]) = written,
            Err(problem) => {
                if policy.is_some() {
                    self.discard_rung(value.policy_rung);
                }
                return Err(problem);
            }
        }
        Ok(legacies)
    }

    fn remove(&mut self, frontend: &net::Frontend) -> Result<(), Problem> {
        let key = key_of(frontend);
        let Some(entry) = self.entries.remove(&key) else { return Ok(()) };
        if let Err(error) = self.store.remove_frontend(&key) {
            self.entries.insert(key, entry);
            return Err(error.into());
        }
        self.written.note("frontends", "delete");
        for rung in [entry.value.policy_rung, entry.value.service_rung] {
            self.retire_rung(rung, Vec::new(), Heir::Nobody);
        }
        if let Some(spare) = entry.active.checked_sub(SPARE) {
            self.retire(Retired::Spare(spare));
        }
        self.retire(Retired::Slot(entry.slot));
        Ok(())
    }

    // ------------------------------------------------------------ rungs

    /// Does the rung in the maps lead to just these backends?
    fn holds(&self, rung: Rung, wanted: &[desired::Backend]) -> bool {
        if rung.count as usize != wanted.len() {
            return false;
        }
        let wanted = identified(wanted);
        wanted.iter().zip(rung.first..).all(|(&(id, addr, port), index)| {
            let backend = self.store.backend(index);
            (backend.id, backend.addr, backend.port) == (id, addr, port)
        })
    }

    /// Writes backends to a fresh range, sorted by id. Those that are in `old` too go on counting where they were.
    fn write_rung(&mut self, wanted: &[desired::Backend], old: Rung) -> Result<(Rung, Vec<Legacy>), Problem> {
        if wanted.is_empty() {
            return Ok((Rung::default(), Vec::new()));
        }
        let count = wanted.len() as u32;
        let Some(first) = self.take_range(count) else {
            return Err(self.full("backends", self.most.backends));
        };
        let before: HashMap<(Addr, u16), u32> = (old.first..old.first + old.count)
            .map(|index| (index, self.store.backend(index)))
            .map(|(index, backend)| ((backend.addr, backend.port), index))
            .collect();
        let mut legacies = Vec::new();
        for ((id, addr, port), index) in identified(wanted).into_iter().zip(first..) {
            let seen = before.get(&(addr, port)).map(|&from| (from, self.store.counter(from)));
            let counter = seen.map_or(0, |(_, count)| count);
            self.store.write_backend(index, Backend { addr, port, flags: 0, id, counter });
            legacies.extend(seen.map(|(from, seen)| Legacy {
                index: from,
                heir: Heir::Backend(index),
                seen,
            }));
        }
        self.written.note("backends", "insert");
        Ok((Rung { first, count }, legacies))
    }

    /// A range is reachable no more. What its backends have counted and nobody has inherited yet goes to `rest`.
    fn retire_rung(&mut self, rung: Rung, mut legacies: Vec<Legacy>, rest: Heir) {
        if rung.count == 0 {
            return;
        }
        if let Heir::Frontend(slot, side) = rest {
            let inherited: BTreeSet<u32> = legacies.iter().map(|legacy| legacy.index).collect();
            for index in (rung.first..rung.first + rung.count).filter(|index| !inherited.contains(index)) {
                let seen = self.store.counter(index);
                self.store.add_to_frontend(slot, side, seen);
                legacies.push(Legacy { index, heir: rest, seen });
            }
        }
        self.retire(Retired::Range { first: rung.first, count: rung.count, legacies });
    }

    /// The last readers of a range are gone: what they have counted since goes to the heirs.
    fn hand_on(&mut self, legacies: &[Legacy]) {
        for legacy in legacies {
            let late = self.store.counter(legacy.index).wrapping_sub(legacy.seen);
            match legacy.heir {
                _ if late == 0 => {}
                Heir::Backend(index) => self.store.add_to_counter(index, late),
                Heir::Frontend(slot, side) => self.store.add_to_frontend(slot, side, late),
                Heir::Nobody => {}
            }
        }
    }

    /// Takes back a rung that was written and that no reader has seen: no grace period has to pass.
    fn discard_rung(&mut self, rung: Rung) {
        if rung.count != 0 {
            self.ranges.give(rung.first, rung.count);
        }
    }

    fn retire(&mut self, what: Retired) {
        let epoch = self.clock.next();
        self.retired.push((epoch, what));
    }

    /// A range of backends, unless more would be in use than there may be.
    fn take_range(&mut self, count: u32) -> Option<u32> {
        let in_use = self.ranges.used().saturating_add(count);
        (in_use <= self.most.backends).then(|| self.ranges.take(count)).flatten()
    }

    /// No room: is some on its way, can the map grow, or is it full? `capacity`: what it may hold at the most.
    fn full(&mut self, map: &'static str, capacity: u32) -> Problem {
        if !self.retired.is_empty() || !self.may_use() {
            return Problem::Later;
        }
        let limits = self.store.limits();
        let grows = match map {
            "frontends" => limits.frontends < self.most.frontends,
            "backends" => limits.backends < self.most.backends,
            _ => false,
        };
        if grows { self.too_small(map) } else { Problem::Failed(Failure::MapFull { map, capacity }) }
    }

    /// The map has to grow, unless that has just failed.
    fn too_small(&mut self, map: &'static str) -> Problem {
        if let Growth::Failed(reason) = &self.growth {
            return Problem::Failed(Failure::Write(format!(
                "map {map} is too small and did not grow: {reason}"
            )));
        }
        let limits = self.store.limits();
        if map == "frontends" {
            self.short.frontends = limits.frontends.saturating_add(1);
        } else {
            self.short.backends = limits.backends.saturating_add(1);
        }
        Problem::Later
    }

    /// May anything that is free be used?
    fn may_use(&self) -> bool {
        self.clock.completed() >= self.usable_after
    }
}

/// The key of a frontend in the maps.
pub(super) fn key_of(frontend: &net::Frontend) -> FrontendKey {
    FrontendKey::new(
        addr_from_ip(frontend.address),
        frontend.port.to_be(),
        frontend.protocol.number(),
        SCOPE_ANY,
    )
}

/// The frontend that a key stands for.
pub(super) fn frontend_of(key: &FrontendKey) -> Option<net::Frontend> {
    let protocol = Protocol::from_number(key.protocol())?;
    Some(net::Frontend::new(ip_from_addr(&key.addr), u16::from_be(key.port()), protocol))
}

/// Seconds in the unit of [`Frontend::affinity`], rounded up.
fn affinity_units(seconds: u32) -> u32 {
    let unit = 1u64 << AFFINITY_SHIFT;
    u32::try_from((u64::from(seconds) * 1_000_000_000).div_ceil(unit)).unwrap_or(u32::MAX)
}

/// FNV-1a over words, folded to 32 bits, never 0: the same in every run.
fn stable_hash(words: impl IntoIterator<Item = u64>) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in words.into_iter().flat_map(u64::to_le_bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    ((hash ^ (hash >> 32)) as u32).max(1)
}

/// What the affinity of a Service's port is remembered by.
pub fn service_group(service: &ServicePort, protocol: u8) -> u32 {
    let text = [&*service.namespace, "/", &*service.name, "/", &*service.port].concat();
    stable_hash(text.bytes().map(u64::from).chain([u64::from(protocol)]))
}

fn key_group(key: &FrontendKey) -> u32 {
    stable_hash([key.addr[0], key.addr[1], key.meta])
}

/// Backends with their ids, sorted by id. Of two with one hash, the second by address takes the next free id.
fn identified(backends: &[desired::Backend]) -> Vec<(u32, Addr, u16)> {
    let mut addresses: Vec<(Addr, u16)> =
        backends.iter().map(|b| (addr_from_ip(b.address), b.port.to_be())).collect();
    addresses.sort_unstable();
    let mut ids: BTreeMap<u32, (Addr, u16)> = BTreeMap::new();
    for (addr, port) in addresses {
        let mut id = stable_hash([addr[0], addr[1], port.into()]);
        while ids.contains_key(&id) {
            id = id.wrapping_add(1).max(1);
        }
        ids.insert(id, (addr, port));
    }
    ids.into_iter().map(|(id, (addr, port))| (id, addr, port)).collect()
}

#[cfg(test)]
mod tests;
