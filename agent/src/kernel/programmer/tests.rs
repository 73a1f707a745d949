//! The programmer over maps in memory that know what a reader may still be looking at.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
};

use balancing_api::policy::PolicyKind;
use balancing_datapath::Slot;
use proptest::prelude::*;

use super::{super::store::Limits, *};
use crate::desired::ServiceRung;

#[derive(Clone, Default)]
struct TestClock {
    started: Rc<Cell<Epoch>>,
    completed: Rc<Cell<Epoch>>,
}

impl TestClock {
    fn begin(&self) {
        self.started.set(self.started.get() + 1);
    }

    fn end(&self) {
        self.completed.set(self.started.get());
    }

    fn pass(&self) {
        self.begin();
        self.end();
    }
}

impl Clock for TestClock {
    fn next(&self) -> Epoch {
        self.started.get() + 1
    }

    fn completed(&self) -> Epoch {
        self.completed.get()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Slot(u32),
    Half(u32, u32),
    Spare(u32),
    Backend(u32),
}

const EMPTY: Slot = Slot {
    key: FrontendKey { addr: [0; 2], meta: 0 },
    active: 0,
    spare: 0,
    halves: [Frontend {
        flags: 0,
        policy: 0,
        affinity: 0,
        affinity_group: 0,
        policy_rung: Rung { first: 0, count: 0 },
        service_rung: Rung { first: 0, count: 0 },
    }; 2],
    padding: [0; 4],
};

/// The place of a slot's ladder.
fn place(slot: u32, active: u32) -> Place {
    active.checked_sub(SPARE).map_or(Place::Half(slot, active), Place::Spare)
}

/// Maps in memory. Writing where a reader may be is a failed assertion.
struct Memory {
    limits: Limits,
    clock: TestClock,
    frontends: HashMap<FrontendKey, u32>,
    slots: Vec<Slot>,
    spares: Vec<Frontend>,
    backends: Vec<Backend>,
    /// What frontends' own counters have, by slot: the policy's side, the Service's side.
    left: Vec<[u64; 2]>,
    names: BTreeMap<u32, PolicyRef>,
    policy_limits: Vec<u32>,
    callers: HashSet<CallerKey>,
    /// The epoch after which no reader is at a place that was reachable when it was last looked at.
    seen: HashMap<Place, Epoch>,
}

impl Memory {
    fn new(limits: Limits, clock: TestClock) -> Self {
        Self {
            limits,
            clock,
            frontends: HashMap::new(),
            slots: vec![EMPTY; limits.slots as usize],
            spares: vec![Frontend::default(); limits.spares as usize],
            backends: vec![Backend::default(); limits.backends as usize],
            left: vec![[0; 2]; limits.slots as usize],
            names: BTreeMap::new(),
            policy_limits: vec![0; limits.policies as usize],
            callers: HashSet::new(),
            seen: HashMap::new(),
        }
    }

    fn reachable(&self) -> HashSet<Place> {
        let mut places = HashSet::new();
        for &number in self.frontends.values() {
            let slot = &self.slots[number as usize];
            let value = ladder_of(slot, |spare| self.spares[spare as usize]);
            places.insert(Place::Slot(number));
            places.insert(place(number, slot.active));
            for rung in [value.policy_rung, value.service_rung] {
                places.extend((rung.first..rung.first + rung.count).map(Place::Backend));
            }
        }
        places
    }

    fn ladder(&mut self, slot: u32, at: u32) -> &mut Frontend {
        match at.checked_sub(SPARE) {
            Some(spare) => &mut self.spares[spare as usize],
            None => &mut self.slots[slot as usize].halves[at as usize],
        }
    }

    /// A reader may look at everything now.
    fn observe(&mut self) {
        let next = self.clock.next();
        for place in self.reachable() {
            self.seen.insert(place, next);
        }
    }

    fn check_free(&self, place: Place) {
        assert!(!self.reachable().contains(&place), "{place:?} is written while readers can reach it");
        let free_after = self.seen.get(&place).copied().unwrap_or(0);
        assert!(self.clock.completed() >= free_after, "{place:?} is written before its last reader is gone");
    }
}

type Shared = Rc<RefCell<Memory>>;

impl Store for Shared {
    fn limits(&self) -> Limits {
        self.borrow().limits
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, StoreError> {
        Ok(self.borrow().frontends.iter().map(|(k, s)| (*k, *s)).collect())
    }

    fn insert_frontend(&mut self, key: &FrontendKey, slot: u32) -> Result<(), StoreError> {
        let mut this = self.borrow_mut();
        assert_eq!(this.frontends.insert(*key, slot), None, "an element of the hash is never replaced");
        this.observe();
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), StoreError> {
        let mut this = self.borrow_mut();
        this.observe();
        this.frontends.remove(key);
        Ok(())
    }

    fn slot(&self, slot: u32) -> Slot {
        self.borrow().slots[slot as usize]
    }

    fn init_slot(&mut self, slot: u32, key: &FrontendKey, frontend: Frontend) {
        let mut this = self.borrow_mut();
        for place in [Place::Slot(slot), Place::Half(slot, 0), Place::Half(slot, 1)] {
            this.check_free(place);
        }
        this.left[slot as usize] = [0; 2];
        this.slots[slot as usize] =
            Slot { key: *key, active: 0, spare: 0, halves: [frontend; 2], padding: [0; 4] };
    }

    fn spare(&self, index: u32) -> Frontend {
        self.borrow().spares[index as usize]
    }

    fn fill(&mut self, slot: u32, at: u32, frontend: Frontend) {
        let mut this = self.borrow_mut();
        this.check_free(place(slot, at));
        *this.ladder(slot, at) = frontend;
    }

    fn set_flags(&mut self, slot: u32, at: u32, flags: u32) {
        self.borrow_mut().ladder(slot, at).flags = flags;
    }

    fn activate(&mut self, slot: u32, at: u32) {
        let mut this = self.borrow_mut();
        this.observe();
        this.slots[slot as usize].active = at;
        this.observe();
    }

    fn backend(&self, index: u32) -> Backend {
        self.borrow().backends[index as usize]
    }

    fn write_backend(&mut self, index: u32, backend: Backend) {
        let mut this = self.borrow_mut();
        this.check_free(Place::Backend(index));
        this.backends[index as usize] = backend;
    }

    fn counter(&self, index: u32) -> u64 {
        self.borrow().backends[index as usize].counter
    }

    fn add_to_counter(&mut self, index: u32, count: u64) {
        self.borrow_mut().backends[index as usize].counter += count;
    }

    fn add_to_frontend(&mut self, slot: u32, side: Side, count: u64) {
        self.borrow_mut().left[slot as usize][side as usize] += count;
    }

    fn policy_names(&self) -> Result<Vec<(u32, PolicyRef)>, StoreError> {
        Ok(self.borrow().names.iter().map(|(i, p)| (*i, p.clone())).collect())
    }

    fn name_policy(&mut self, index: u32, policy: &PolicyRef) -> Result<(), StoreError> {
        let mut this = self.borrow_mut();
        this.policy_limits[index as usize] = 0;
        this.names.insert(index, policy.clone());
        Ok(())
    }

    fn unname_policy(&mut self, index: u32) -> Result<(), StoreError> {
        self.borrow_mut().names.remove(&index);
        Ok(())
    }

    fn limit(&self, index: u32) -> u32 {
        self.borrow().policy_limits[index as usize]
    }

    fn set_limit(&mut self, index: u32, limit: u32) {
        self.borrow_mut().policy_limits[index as usize] = limit;
    }

    fn callers(&self) -> Result<Vec<CallerKey>, StoreError> {
        Ok(self.borrow().callers.iter().copied().collect())
    }

    fn insert_caller(&mut self, key: &CallerKey) -> Result<(), StoreError> {
        self.borrow_mut().callers.insert(*key);
        Ok(())
    }

    fn remove_caller(&mut self, key: &CallerKey) -> Result<(), StoreError> {
        self.borrow_mut().callers.remove(key);
        Ok(())
    }
}

const LIMITS: Limits = Limits { frontends: 6, slots: 9, spares: 1, backends: 40, policies: 4, callers: 8 };

struct Bench {
    memory: Shared,
    clock: TestClock,
    programmer: Programmer<Shared, TestClock>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let clock = TestClock::default();
        let memory = Rc::new(RefCell::new(Memory::new(limits, clock.clone())));
        let programmer = Programmer::take_over(Rc::clone(&memory), clock.clone()).unwrap();
        Self { memory, clock, programmer }
    }

    fn apply(&mut self, changes: Changes) {
        self.memory.borrow_mut().observe();
        self.programmer.apply(changes, None);
    }

    fn pass_grace(&mut self) {
        self.memory.borrow_mut().observe();
        self.clock.pass();
        self.programmer.grace_passed();
    }

    /// Lets grace periods pass until nothing depends on one.
    fn settle_grace(&mut self) {
        for _ in 0..10 {
            self.pass_grace();
        }
    }

    fn settle_all(&mut self) {
        self.settle_grace();
        assert!(self.programmer.is_settled());
    }

    /// Room that these maps may grow to.
    fn up_to(mut self, frontends: u32, backends: u32) -> Self {
        self.programmer = self.programmer.up_to(Room { frontends, backends });
        self
    }

    /// Larger maps with the same content take over; which readers of the smaller ones are where is what it was. Answers
    /// what was asked for, if anything was.
    fn grow(&mut self) -> Option<Room> {
        let room = self.programmer.wanted_room()?;
        let most = self.programmer.most;
        self.programmer.growing();
        assert_eq!(self.programmer.wanted_room(), None, "larger maps are being made already");
        {
            let mut memory = self.memory.borrow_mut();
            memory.observe();
            let grown = &mut memory.limits;
            // An eighth more than asked for, as the agent does it: a map that is just large enough is nearly full.
            let roomy = |asked: u32| asked + asked / 8 + 1;
            grown.frontends = grown.frontends.max(roomy(room.frontends).min(most.frontends));
            grown.slots = grown.slots.max(grown.frontends + 1);
            grown.backends = grown.backends.max(roomy(room.backends).min(most.backends));
            let limits = memory.limits;
            memory.slots.resize(limits.slots as usize, EMPTY);
            memory.left.resize(limits.slots as usize, [0; 2]);
            memory.backends.resize(limits.backends as usize, Backend::default());
        }
        self.programmer.grown();
        Some(room)
    }

    /// A new agent over the same maps.
    fn restart(&mut self) {
        let most = self.programmer.most;
        self.programmer =
            Programmer::take_over(Rc::clone(&self.memory), self.clock.clone()).unwrap().up_to(most);
    }

    /// What a reader finds: per frontend its flags, policy, and the addresses of both rungs.
    fn found(&self) -> BTreeMap<net::Frontend, Found> {
        let memory = self.memory.borrow();
        let addresses = |rung: Rung| {
            let mut all: Vec<(IpAddr, u16)> = (rung.first..rung.first + rung.count)
                .map(|i| memory.backends[i as usize])
                .map(|b| (ip_from_addr(&b.addr), u16::from_be(b.port)))
                .collect();
            all.sort_unstable();
            all
        };
        memory
            .frontends
            .iter()
            .map(|(key, &number)| {
                let slot = memory.slots[number as usize];
                assert_eq!(slot.key, *key);
                let value = ladder_of(&slot, |spare| memory.spares[spare as usize]);
                let found = Found {
                    flags: value.flags,
                    policy: memory.names.get(&value.policy).cloned(),
                    policy_backends: addresses(value.policy_rung),
                    service_backends: addresses(value.service_rung),
                };
                (frontend_of(key).unwrap(), found)
            })
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    flags: u32,
    policy: Option<PolicyRef>,
    policy_backends: Vec<(IpAddr, u16)>,
    service_backends: Vec<(IpAddr, u16)>,
}

fn frontend(n: u8) -> net::Frontend {
    net::Frontend::new(IpAddr::from([10, 96, 0, n]), 80, Protocol::Tcp)
}

fn policy(n: u8) -> PolicyRef {
    PolicyRef::new(PolicyKind::LocalRedirectPolicy, format!("p{n}"))
}

fn backends(hosts: &BTreeSet<u8>) -> Vec<desired::Backend> {
    hosts.iter().map(|&h| desired::Backend { address: IpAddr::from([10, 244, 0, h]), port: 8080 }).collect()
}

fn hosts<const N: usize>(hosts: [u8; N]) -> BTreeSet<u8> {
    hosts.into()
}

fn service(hosts: &BTreeSet<u8>) -> ServiceRung {
    let port = ServicePort { namespace: "default".into(), name: "web".into(), port: "http".into() };
    ServiceRung { service: port, backends: backends(hosts).into(), affinity_seconds: None }
}

fn ladder(policy_hosts: Option<(u8, &BTreeSet<u8>)>, service_hosts: Option<&BTreeSet<u8>>) -> Ladder {
    Ladder {
        policy: policy_hosts.map(|(n, hosts)| PolicyRung {
            policy: policy(n),
            backends: backends(hosts).into(),
            affinity_seconds: None,
        }),
        service: service_hosts.map(service),
        otherwise: if service_hosts.is_some() { Otherwise::Refuse } else { Otherwise::Untouched },
    }
}

fn put(n: u8, ladder: Ladder) -> Changes {
    Changes { frontends: vec![(frontend(n), Some(ladder))], policies: Vec::new() }
}

fn settings(n: u8, limit: u32, callers: &[u64]) -> Changes {
    let settings = PolicySettings { redirects_per_second: limit, callers: callers.iter().copied().collect() };
    Changes { frontends: Vec::new(), policies: vec![(policy(n), Some(settings))] }
}

fn addresses(hosts: &BTreeSet<u8>) -> Vec<(IpAddr, u16)> {
    hosts.iter().map(|&h| (IpAddr::from([10, 244, 0, h]), 8080)).collect()
}

#[test]
fn a_rung_that_gets_its_first_backend_is_written() {
    let mut bench = Bench::new(LIMITS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([]))), Some(&hosts([9])))));
    bench.apply(put(1, ladder(Some((1, &hosts([4]))), Some(&hosts([9])))));
    let found = bench.found();
    assert_eq!(found[&frontend(1)].policy_backends, addresses(&hosts([4])));
    assert_eq!(found[&frontend(1)].service_backends, addresses(&hosts([9])));
}

#[test]
fn changes_within_a_grace_period_apply_at_once_while_there_are_spares() {
    let mut bench = Bench::new(Limits { spares: 2, ..LIMITS });
    for host in 1..=4 {
        bench.apply(put(1, ladder(None, Some(&hosts([host])))));
        assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([host])));
    }
    bench.apply(put(1, ladder(None, Some(&hosts([5])))));
    bench.apply(put(1, ladder(None, Some(&hosts([6])))));
    assert!(!bench.programmer.is_settled());
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([4])));
    bench.pass_grace();
    assert!(bench.programmer.is_settled());
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([6])), "the last one wins");
}

/// What `/v1/counters` would say of a frontend: sent by the policy, sent by the Service.
fn totals(memory: &Memory, key: &FrontendKey) -> [u64; 2] {
    let number = memory.frontends[key];
    let value = ladder_of(&memory.slots[number as usize], |spare| memory.spares[spare as usize]);
    let sum = |rung: Rung| {
        (rung.first..rung.first + rung.count).map(|i| memory.backends[i as usize].counter).sum::<u64>()
    };
    let left = memory.left[number as usize];
    [left[0] + sum(value.policy_rung), left[1] + sum(value.service_rung)]
}

#[test]
fn counters_go_on_through_changes_also_those_of_late_readers() {
    let mut bench = Bench::new(LIMITS);
    let key = key_of(&frontend(1));
    let rung = |bench: &Bench| bench.memory.borrow().slots[0].halves[0].service_rung;
    bench.apply(put(1, ladder(None, Some(&hosts([1, 2])))));
    let first = rung(&bench);
    let count = |bench: &Bench, index: u32| bench.memory.borrow_mut().backends[index as usize].counter += 1;
    count(&bench, first.first);
    count(&bench, first.first + 1);
    assert_eq!(totals(&bench.memory.borrow(), &key), [0, 2]);

    // One backend stays, one leaves; readers of the old range count once more each.
    bench.apply(put(1, ladder(None, Some(&hosts([2, 3])))));
    assert_eq!(totals(&bench.memory.borrow(), &key), [0, 2]);
    count(&bench, first.first);
    count(&bench, first.first + 1);
    // A second change before the first one's readers are gone: what they counted is handed on twice.
    bench.apply(put(1, ladder(None, Some(&hosts([2])))));
    assert_eq!(totals(&bench.memory.borrow(), &key), [0, 2]);
    bench.settle_all();
    assert_eq!(totals(&bench.memory.borrow(), &key), [0, 4]);

    // Another policy takes over: the frontend's count goes on, the backend's begins anew.
    bench.apply(settings(1, 0, &[]));
    bench.apply(settings(2, 0, &[]));
    bench.apply(put(2, ladder(Some((1, &hosts([7]))), None)));
    let key = key_of(&frontend(2));
    let slot = bench.memory.borrow().frontends[&key];
    let policy_rung = bench.memory.borrow().slots[slot as usize].halves[0].policy_rung;
    count(&bench, policy_rung.first);
    bench.apply(put(2, ladder(Some((2, &hosts([7]))), None)));
    bench.settle_all();
    assert_eq!(totals(&bench.memory.borrow(), &key), [1, 0]);
    let value = ladder_of(&bench.memory.borrow().slots[slot as usize], |_| Frontend::default());
    assert_eq!(bench.memory.borrow().backends[value.policy_rung.first as usize].counter, 0);

    // Gone and back: from zero.
    bench.apply(Changes { frontends: vec![(frontend(2), None)], policies: Vec::new() });
    bench.settle_all();
    bench.apply(put(2, ladder(Some((2, &hosts([7]))), None)));
    assert_eq!(totals(&bench.memory.borrow(), &key), [0, 0]);
}

#[test]
fn a_full_map_keeps_what_is_there_and_heals_when_there_is_room() {
    let mut bench = Bench::new(Limits { backends: 4, ..LIMITS });
    bench.apply(put(1, ladder(None, Some(&hosts([1, 2, 3])))));
    bench.settle_all();
    bench.apply(put(2, ladder(None, Some(&hosts([4, 5])))));
    bench.apply(put(1, ladder(None, Some(&hosts([6, 7, 8])))));
    let full = Failure::MapFull { map: "backends", capacity: 4 };
    let failures: Vec<_> = bench.programmer.failures().map(|(f, why)| (*f, why.clone())).collect();
    assert_eq!(failures, [(frontend(1), full.clone()), (frontend(2), full)]);
    assert_eq!(bench.found().len(), 1);
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([1, 2, 3])));

    bench.apply(Changes { frontends: vec![(frontend(1), None)], policies: Vec::new() });
    bench.settle_all();
    assert_eq!(bench.programmer.failures().count(), 0);
    assert_eq!(bench.found()[&frontend(2)].service_backends, addresses(&hosts([4, 5])));
}

#[test]
fn a_full_map_does_not_keep_grace_periods_going() {
    let mut bench = Bench::new(Limits { backends: 4, ..LIMITS });
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(None, Some(&hosts([1])))));
    bench.settle_all();
    // The first of two rungs has room, the second has none: for a new frontend, and for one that is there.
    let too_much = || ladder(Some((1, &hosts([2]))), Some(&hosts([3, 4, 5])));
    bench.apply(put(2, too_much()));
    bench.apply(put(1, too_much()));
    bench.settle_all();
    assert_eq!(bench.programmer.failures().count(), 2);
    assert_eq!(bench.programmer.wanted_epoch(), None, "nothing that a reader has seen waits for one");
    assert_eq!(bench.programmer.ranges.used(), 1);
    bench.apply(put(1, ladder(Some((1, &hosts([2]))), Some(&hosts([3, 4])))));
    bench.settle_all();
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([3, 4])));
}

#[test]
fn an_index_is_not_another_policys_while_a_frontend_still_has_it() {
    let mut bench = Bench::new(Limits { backends: 4, ..LIMITS });
    bench.apply(settings(1, 5, &[77]));
    bench.apply(put(1, ladder(Some((1, &hosts([1, 2]))), None)));
    bench.settle_all();
    // The policy goes, and what takes its place finds no room: the frontend keeps what it has.
    let gone = || vec![(policy(1), None)];
    let too_much = || Some(ladder(None, Some(&hosts([3, 4, 5, 6]))));
    bench.apply(Changes { frontends: vec![(frontend(1), too_much())], policies: gone() });
    bench.settle_all();
    assert_eq!(bench.found()[&frontend(1)].policy_backends, addresses(&hosts([1, 2])));
    let kept = bench.memory.borrow().slots[0].halves[0].policy;
    for turn in ["the same agent", "the next"] {
        bench.apply(settings(2, 9, &[78]));
        bench.settle_all();
        assert_ne!(bench.programmer.policy_index(&policy(2)), Some(kept), "{turn}");
        bench.apply(Changes { frontends: Vec::new(), policies: vec![(policy(2), None)] });
        bench.settle_all();
        bench.restart();
        bench.programmer.settle(&|_| true, &|_| false);
        bench.settle_all();
    }
    assert!(bench.memory.borrow().callers.iter().all(|key| (key.class, key.cgroup) == (kept, 77)));
    // Once nothing has it, it is free.
    bench.apply(Changes { frontends: vec![(frontend(1), None)], policies: Vec::new() });
    bench.settle_all();
    for n in 2..5 {
        bench.apply(settings(n, 0, &[]));
    }
    assert_eq!(bench.programmer.policy_failures().count(), 0);
}

#[test]
fn an_agent_that_starts_anew_is_exempt_before_it_hears_of_anything() {
    let mut bench = Bench::new(LIMITS);
    let frontends = vec![(frontend(1), Some(ladder(Some((1, &hosts([1]))), None)))];
    bench.apply(Changes { frontends, ..settings(1, 0, &[]) });
    bench.settle_all();
    let flags = |bench: &Bench| bench.found()[&frontend(1)].flags & FRONTEND_CALLERS;
    assert_eq!(flags(&bench), 0, "nobody is exempt yet, so nobody is looked for");
    bench.restart();
    bench.programmer.exempt(&BTreeSet::from([77])).unwrap();
    let callers =
        |bench: &Bench| -> Vec<u64> { bench.memory.borrow().callers.iter().map(|k| k.cgroup).collect() };
    assert_eq!((callers(&bench), flags(&bench)), (vec![77], FRONTEND_CALLERS));
    // The policies then say who is exempt, itself included; the agent before it is not any longer.
    bench.restart();
    bench.programmer.exempt(&BTreeSet::from([78])).unwrap();
    bench.apply(settings(1, 0, &[78]));
    assert_eq!(callers(&bench), [78]);
}

#[test]
fn callers_find_room_as_soon_as_others_leave() {
    let mut bench = Bench::new(Limits { callers: 2, ..LIMITS });
    bench.apply(settings(1, 0, &[1, 2]));
    bench.apply(settings(2, 0, &[3]));
    let full = Failure::MapFull { map: "callers", capacity: 2 };
    let failures: Vec<_> = bench.programmer.policy_failures().map(|(p, f)| (p.clone(), f.clone())).collect();
    assert_eq!(failures, [(policy(2), full)]);
    bench.apply(settings(1, 0, &[1]));
    assert_eq!(bench.programmer.policy_failures().count(), 0);
    let callers = |bench: &Bench| -> BTreeSet<u64> {
        bench.memory.borrow().callers.iter().map(|key| key.cgroup).collect()
    };
    assert_eq!(callers(&bench), BTreeSet::from([1, 3]));
    // In one batch, whichever comes first.
    let both = |one, other| {
        let Changes { policies: mut all, .. } = settings(1, 0, one);
        all.extend(settings(2, 0, other).policies);
        Changes { frontends: Vec::new(), policies: all }
    };
    bench.apply(both(&[1, 4], &[]));
    assert_eq!(bench.programmer.policy_failures().count(), 0);
    assert_eq!(callers(&bench), BTreeSet::from([1, 4]));
}

#[test]
fn frontends_beyond_the_capacity_are_named() {
    let mut bench = Bench::new(LIMITS);
    for n in 0..8 {
        bench.apply(put(n, ladder(None, Some(&hosts([1])))));
    }
    assert_eq!(bench.found().len(), 6);
    let failures: Vec<String> = bench.programmer.failures().map(|(f, why)| format!("{f}: {why}")).collect();
    assert_eq!(
        failures,
        [
            "10.96.0.6:80/TCP: map frontends is full (6 entries): raise --max-frontends",
            "10.96.0.7:80/TCP: map frontends is full (6 entries): raise --max-frontends",
        ]
    );
}

#[test]
fn a_restart_writes_only_differences() {
    let mut bench = Bench::new(LIMITS);
    let policies = [settings(1, 5, &[77]), settings(2, 0, &[])];
    let frontends = [
        put(1, ladder(Some((1, &hosts([1, 2]))), Some(&hosts([9])))),
        put(2, ladder(Some((2, &hosts([]))), None)),
        put(3, ladder(None, Some(&hosts([])))),
    ];
    let all = || policies.iter().chain(&frontends).cloned();
    all().for_each(|changes| bench.apply(changes));
    bench.programmer.take_written();
    let before = bench.found();

    bench.restart();
    all().for_each(|changes| bench.apply(changes));
    bench.programmer.settle(&|_| true, &|_| true);
    assert_eq!(bench.programmer.take_written(), Written::default());
    assert_eq!(bench.found(), before);

    bench.restart();
    bench.settle_all();
    let known = [&policies[0], &frontends[0]].into_iter().cloned();
    known.for_each(|changes| bench.apply(changes));
    bench.apply(put(3, ladder(None, Some(&hosts([5])))));
    bench.programmer.settle(&|f| *f != frontend(2), &|p| *p != policy(2));
    let writes: Vec<_> = bench.programmer.take_written().writes.into_iter().collect();
    assert_eq!(
        writes,
        [
            (("backends", "insert"), 1),
            (("frontends", "delete"), 1),
            (("frontends", "update"), 1),
            (("policies", "delete"), 1),
        ]
    );
}

#[test]
fn what_an_unread_file_may_say_is_kept_until_it_is_read() {
    let mut bench = Bench::new(LIMITS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([1]))), Some(&hosts([9])))));
    bench.apply(put(2, ladder(None, Some(&hosts([8])))));
    bench.restart();

    // Of the policy nothing was read, of the Service behind it everything; of the second frontend nothing at all.
    let known: Vec<IpAddr> = vec![IpAddr::from([10, 244, 0, 9])];
    let unread = Unread { policy: &|_| false, address: &|ip| known.contains(&ip), gone: &|_, _| false };
    bench.programmer.apply(put(1, ladder(None, Some(&hosts([9])))), Some(&unread));
    bench
        .programmer
        .apply(Changes { frontends: vec![(frontend(2), None)], policies: Vec::new() }, Some(&unread));
    assert_eq!(bench.found()[&frontend(1)].policy_backends, addresses(&hosts([1])));
    assert_eq!(bench.found().len(), 2);

    bench.programmer.settle(&|f| *f == frontend(1), &|_| false);
    bench.settle_all();
    assert_eq!(bench.found()[&frontend(1)].policy_backends, []);
    assert_eq!(bench.found().len(), 1);
}

/// Nothing was read of the policy; everything else was. These hosts serve no more.
fn of_an_unread_policy(bench: &mut Bench, changes: Changes, gone: &[u8]) {
    let gone: Vec<IpAddr> = gone.iter().map(|host| IpAddr::from([10, 244, 0, *host])).collect();
    let unread =
        Unread { policy: &|_| false, address: &|_| true, gone: &|_, address| gone.contains(&address) };
    bench.programmer.apply(changes, Some(&unread));
    bench.settle_all();
}

#[test]
fn the_service_below_a_kept_rung_changes() {
    let mut bench = Bench::new(LIMITS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([1]))), Some(&hosts([9])))));
    bench.restart();
    for endpoints in [[9], [8], [7]] {
        of_an_unread_policy(&mut bench, put(1, ladder(None, Some(&hosts(endpoints)))), &[]);
        let found = bench.found();
        assert_eq!(found[&frontend(1)].policy_backends, addresses(&hosts([1])));
        assert_eq!(found[&frontend(1)].service_backends, addresses(&hosts(endpoints)));
    }
    bench.programmer.settle(&|_| true, &|_| false);
    bench.settle_all();
    assert_eq!(bench.found()[&frontend(1)].policy_backends, []);
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([7])));
}

#[test]
fn a_kept_rung_leads_to_nothing_that_is_gone() {
    let mut bench = Bench::new(LIMITS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([1, 2]))), Some(&hosts([9])))));
    // A virtual IP that only the policy speaks of.
    bench.apply(put(2, ladder(Some((1, &hosts([1, 2]))), None)));
    bench.restart();
    of_an_unread_policy(&mut bench, put(1, ladder(None, Some(&hosts([9])))), &[]);
    for both in [1, 2] {
        assert_eq!(bench.found()[&frontend(both)].policy_backends, addresses(&hosts([1, 2])));
    }
    of_an_unread_policy(&mut bench, Changes::default(), &[1]);
    for both in [1, 2] {
        assert_eq!(bench.found()[&frontend(both)].policy_backends, addresses(&hosts([2])));
    }
    of_an_unread_policy(&mut bench, Changes::default(), &[1, 2]);
    assert_eq!(bench.found()[&frontend(1)].policy_backends, []);
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([9])));
    assert!(!bench.found().contains_key(&frontend(2)));
}

#[test]
fn a_known_pod_that_is_not_ready_goes_also_while_another_file_is_unread() {
    let mut bench = Bench::new(LIMITS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([1]))), Some(&hosts([9])))));
    bench.restart();
    let unread = Unread { policy: &|_| true, address: &|_| true, gone: &|_, _| false };
    bench.settle_all();
    bench.programmer.apply(settings(1, 0, &[]), Some(&unread));
    bench.programmer.apply(put(1, ladder(Some((1, &hosts([]))), Some(&hosts([9])))), Some(&unread));
    assert_eq!(bench.found()[&frontend(1)].policy_backends, []);
}

#[test]
fn flags_follow_a_policys_settings() {
    let mut bench = Bench::new(LIMITS);
    let flags = |bench: &Bench| bench.found()[&frontend(1)].flags & (FRONTEND_QOS | FRONTEND_CALLERS);
    bench.apply(settings(1, 0, &[]));
    bench.apply(put(1, ladder(Some((1, &hosts([1]))), None)));
    assert_eq!(flags(&bench), 0);
    bench.apply(settings(1, 7, &[]));
    assert_eq!(flags(&bench), FRONTEND_QOS);
    bench.apply(settings(1, 7, &[42]));
    assert_eq!(flags(&bench), FRONTEND_QOS | FRONTEND_CALLERS);
    bench.apply(settings(1, 0, &[]));
    assert_eq!(flags(&bench), 0);
    assert_eq!(bench.memory.borrow().callers.len(), 0);
}

#[test]
fn ids_are_the_same_in_every_run_and_unlike_within_a_rung() {
    let all: BTreeSet<u8> = (0..=255).collect();
    let ids: Vec<u32> = identified(&backends(&all)).into_iter().map(|(id, ..)| id).collect();
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]) && ids[0] != 0);
    let alone = identified(&backends(&hosts([7])));
    assert!(identified(&backends(&all)).contains(&alone[0]));
}

#[test]
fn what_does_not_fit_waits_for_larger_maps_that_hold_all_of_it() {
    let small = Limits { frontends: 2, slots: 3, backends: 3, ..LIMITS };
    let mut bench = Bench::new(small).up_to(6, 40);
    for n in 0..5 {
        bench.apply(put(n, ladder(None, Some(&hosts([n, 20])))));
    }
    bench.pass_grace();
    assert!(!bench.programmer.is_settled());
    assert_eq!(bench.programmer.failures().count(), 0, "nothing has failed: room is on its way");
    // Five frontends of two backends each, whichever fitted already.
    assert_eq!(bench.programmer.wanted_room(), Some(Room { frontends: 5, backends: 10 }));
    bench.grow();
    assert!(bench.programmer.is_settled());
    assert_eq!(bench.found().len(), 5);
    assert_eq!(bench.found()[&frontend(4)].service_backends, addresses(&hosts([4, 20])));
    assert_eq!(bench.programmer.fill()[0], ("frontends", 5, 6));
}

#[test]
fn maps_are_full_only_at_their_limit() {
    let small = Limits { frontends: 2, slots: 3, backends: 40, ..LIMITS };
    let mut bench = Bench::new(small).up_to(4, 40);
    for n in 0..6 {
        bench.apply(put(n, ladder(None, Some(&hosts([n])))));
    }
    assert_eq!(bench.grow(), Some(Room { frontends: 4, backends: 6 }));
    assert_eq!(bench.found().len(), 4);
    let full = Failure::MapFull { map: "frontends", capacity: 4 };
    assert_eq!(bench.programmer.failures().map(|(_, f)| f.clone()).collect::<Vec<_>>(), [full.clone(), full]);
    assert_eq!(bench.grow(), None);
}

/// Nobody waits for grace periods while only larger maps help.
#[test]
fn waiting_for_larger_maps_keeps_no_grace_periods_going() {
    let small = Limits { backends: 2, ..LIMITS };
    let mut bench = Bench::new(small).up_to(6, 40);
    bench.apply(put(1, ladder(None, Some(&hosts([1, 2, 3])))));
    bench.programmer.growing();
    bench.settle_grace();
    assert_eq!(bench.programmer.wanted_epoch(), None);
    bench.programmer.growth_failed("no memory".to_owned());
    assert!(bench.programmer.has_failed_to_grow());
    let told: Vec<String> = bench.programmer.failures().map(|(_, f)| f.to_string()).collect();
    assert_eq!(told, ["map backends is too small and did not grow: no memory"]);
    assert_eq!(bench.programmer.wanted_room(), None, "not before it is tried again");
    bench.programmer.try_growth_again();
    assert_eq!(bench.grow(), Some(Room { frontends: 1, backends: 3 }));
    assert_eq!(bench.found()[&frontend(1)].service_backends, addresses(&hosts([1, 2, 3])));
}

/// Programs may be at the smaller maps when the larger ones take over: what they count there is added a grace period
/// later, and no range is given back before.
#[test]
fn what_is_about_to_be_free_waits_for_the_readers_of_smaller_maps() {
    let mut bench = Bench::new(LIMITS).up_to(60, 400);
    bench.apply(put(1, ladder(None, Some(&hosts([1, 2])))));
    bench.apply(put(1, ladder(None, Some(&hosts([2, 3])))));
    let before = bench.programmer.ranges.used();
    // A grace period is under way that began before.
    bench.clock.begin();
    bench.programmer.growing();
    bench.programmer.grown();
    bench.clock.end();
    bench.programmer.grace_passed();
    assert_eq!(bench.programmer.ranges.used(), before, "given back before its last reader has left");
    bench.pass_grace();
    assert_eq!(bench.programmer.ranges.used(), 2);
}

#[test]
fn a_nearly_full_map_asks_before_it_is_full() {
    let mut bench = Bench::new(Limits { backends: 16, ..LIMITS }).up_to(6, 40);
    bench.apply(put(1, ladder(None, Some(&(0..15).collect()))));
    assert_eq!(bench.programmer.wanted_room(), None);
    bench.apply(put(2, ladder(None, Some(&hosts([1])))));
    assert_eq!(bench.programmer.wanted_room(), Some(Room { frontends: 2, backends: 16 }));
    let mut fixed = Bench::new(Limits { backends: 16, ..LIMITS });
    fixed.apply(put(1, ladder(None, Some(&(0..16).collect()))));
    assert_eq!(fixed.programmer.wanted_room(), None, "maps that may not grow ask for nothing");
}

#[derive(Clone, Debug)]
enum Step {
    Put { frontend: u8, policy: Option<(u8, BTreeSet<u8>)>, service: Option<BTreeSet<u8>> },
    Remove(u8),
    Settings { policy: u8, limit: u32, callers: BTreeSet<u64> },
    Grace,
    Restart,
    Grow,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some_hosts = prop::collection::btree_set(0u8..12, 0..4);
    let step = prop_oneof![
        6 => (0u8..6, prop::option::of((1u8..3, some_hosts.clone())), prop::option::of(some_hosts))
            .prop_map(|(frontend, policy, service)| Step::Put { frontend, policy, service }),
        2 => (0u8..6).prop_map(Step::Remove),
        1 => (1u8..3, 0u32..3, prop::collection::btree_set(1u64..4, 0..3))
            .prop_map(|(policy, limit, callers)| Step::Settings { policy, limit, callers }),
        3 => Just(Step::Grace),
        1 => Just(Step::Restart),
        1 => Just(Step::Grow),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: nothing is written where a reader may be (asserted by the maps), and in the
    /// end the maps hold just what is desired.
    #[test]
    fn the_maps_come_to_the_desired_state(steps in steps(), small in any::<bool>()) {
        let limits =
            if small { Limits { frontends: 1, slots: 2, backends: 1, ..LIMITS } } else { LIMITS };
        let mut bench = Bench::new(limits).up_to(LIMITS.frontends, LIMITS.backends);
        let mut wanted: BTreeMap<net::Frontend, Ladder> = BTreeMap::new();
        let mut limits = BTreeMap::from([(1u8, 0u32), (2, 0)]);
        let mut callers = BTreeMap::from([(1u8, BTreeSet::new()), (2, BTreeSet::new())]);
        bench.apply(settings(1, 0, &[]));
        bench.apply(settings(2, 0, &[]));
        for step in steps {
            match step {
                Step::Put { frontend: n, policy, service } => {
                    let ladder = ladder(policy.as_ref().map(|(p, hosts)| (*p, hosts)), service.as_ref());
                    wanted.insert(frontend(n), ladder.clone());
                    bench.apply(put(n, ladder));
                }
                Step::Remove(n) => {
                    wanted.remove(&frontend(n));
                    bench.apply(Changes { frontends: vec![(frontend(n), None)], policies: Vec::new() });
                }
                Step::Settings { policy, limit, callers: all } => {
                    bench.apply(settings(policy, limit, &all.iter().copied().collect::<Vec<_>>()));
                    limits.insert(policy, limit);
                    callers.insert(policy, all);
                }
                Step::Grace => bench.pass_grace(),
                Step::Grow => drop(bench.grow()),
                Step::Restart => {
                    bench.restart();
                    for n in [1, 2] {
                        let all: Vec<u64> = callers[&n].iter().copied().collect();
                        bench.apply(settings(n, limits[&n], &all));
                    }
                    for (frontend, ladder) in &wanted {
                        bench.apply(Changes {
                            frontends: vec![(*frontend, Some(ladder.clone()))],
                            policies: Vec::new(),
                        });
                    }
                    bench.programmer.settle(&|f| wanted.contains_key(f), &|_| true);
                }
            }
        }
        for _ in 0..20 {
            bench.grow();
            bench.settle_grace();
        }
        prop_assert_eq!(bench.grow(), None, "it grows on and on");
        bench.settle_all();
        prop_assert_eq!(bench.programmer.failures().count(), 0);
        let expected: BTreeMap<net::Frontend, Found> = wanted
            .iter()
            .map(|(frontend, ladder)| {
                let mut flags = if ladder.otherwise == Otherwise::Refuse { FRONTEND_REFUSE } else { 0 };
                if let Some(rung) = &ladder.policy {
                    let n: u8 = rung.policy.name[1..].parse().unwrap();
                    flags |= if limits[&n] != 0 { FRONTEND_QOS } else { 0 };
                    flags |= if callers[&n].is_empty() { 0 } else { FRONTEND_CALLERS };
                }
                flags |= if ladder.service.is_some() { FRONTEND_SERVICE } else { 0 };
                let sorted = |all: &[desired::Backend]| {
                    let mut all: Vec<_> = all.iter().map(|b| (b.address, b.port)).collect();
                    all.sort_unstable();
                    all
                };
                let found = Found {
                    flags,
                    policy: ladder.policy.as_ref().map(|rung| rung.policy.clone()),
                    policy_backends: ladder.policy.as_ref().map_or(Vec::new(), |r| sorted(&r.backends)),
                    service_backends: ladder.service.as_ref().map_or(Vec::new(), |r| sorted(&r.backends)),
                };
                (*frontend, found)
            })
            .collect();
        prop_assert_eq!(bench.found(), expected);
        // Nothing leaks: what is not reachable is free again.
        let reachable = bench.memory.borrow().reachable();
        let in_use = reachable.iter().filter(|place| matches!(place, Place::Backend(_))).count();
        prop_assert_eq!(bench.programmer.ranges.used() as usize, in_use);
        prop_assert!(!reachable.iter().any(|place| matches!(place, Place::Spare(_))), "all have moved back");
        let free = std::iter::from_fn(|| bench.programmer.spares.take()).count();
        prop_assert_eq!(free, LIMITS.spares as usize);
    }
}
