//! Reads back what the maps hold: frontends, counters, and the decision about a hypothetical flow.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Deref,
    sync::Arc,
};

use balancing_api::{
    agent::QosState,
    net::{Frontend, Protocol},
    policy::PolicyRef,
};
use balancing_datapath::{
    self as datapath, AFFINITY_SHIFT, Backend, CallerKey, Decision, FRONTEND_BALANCE,
    FRONTEND_POLICY_AFFINITY, FRONTEND_QOS, FRONTEND_REFUSE, FRONTEND_SERVICE, FRONTEND_SERVICE_AFFINITY,
    FrontendKey, Kept, Maps, Outcome, Rung, decide, ip_from_addr,
};

use super::{
    programmer::{frontend_of, key_of},
    store::{KernelStore, StoreError},
    sys::monotonic,
};
use crate::desired::{self, Ladder};

/// A rung as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgrammedRung {
    /// Its backends: address, port.
    pub backends: Vec<(IpAddr, u16)>,
    /// Session affinity in seconds.
    pub affinity_seconds: Option<u32>,
}

/// A frontend as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgrammedFrontend {
    /// Address, port, protocol.
    pub frontend: Frontend,
    /// Its policy, whether it has backends or not, and the limit in force.
    pub policy: Option<(PolicyRef, u32)>,
    /// The policy's rung; `None` where the policy has no backends.
    pub policy_rung: Option<ProgrammedRung>,
    /// Is the policy a BalancingPolicy?
    pub balance: bool,
    /// The Service's rung, without backends where the Service has none; `None` where no Service has this frontend.
    pub service_rung: Option<ProgrammedRung>,
    /// What names the Service's port in the maps.
    pub service_group: u32,
    /// Are connections refused that no rung takes?
    pub refuse: bool,
}

/// The decision about a flow, and what it rests on.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The frontend, if there is one.
    pub frontend: Option<ProgrammedFrontend>,
    /// The decision.
    pub decision: Option<Decision>,
    /// All backends of the rung that is taken.
    pub candidates: Vec<(IpAddr, u16)>,
    /// The policy's budget.
    pub qos: Option<QosState>,
}

/// All counters.
#[derive(Clone, Debug, Default)]
pub struct CounterTotals {
    /// Since when they count, in ns since 1970.
    pub since: u64,
    /// Per policy.
    pub policies: Vec<(PolicyRef, datapath::PolicyCounters)>,
    /// Per frontend, with whether its policy is a BalancingPolicy.
    pub frontends: Vec<(Frontend, bool, datapath::FrontendCounters)>,
    /// Per backend: owner (the policy, or what names the Service's port), address, port, protocol.
    pub backends: BTreeMap<(Result<PolicyRef, u32>, IpAddr, u16, Protocol), u64>,
    /// Events that were received.
    pub events_received: u64,
    /// Events that found no room.
    pub events_lost: u64,
}

/// Reads the maps. Changes nothing, counts nothing, spends no budget.
#[derive(Clone)]
pub struct View {
    store: Arc<KernelStore>,
}

impl View {
    /// A view of these maps.
    #[must_use]
    pub fn new(store: Arc<KernelStore>) -> Self {
        Self { store }
    }

    /// Names of the policies by their index.
    pub fn policies(&self) -> Result<HashMap<u32, PolicyRef>, StoreError> {
        Ok(self.store.names()?.into_iter().collect())
    }

    /// What the programs count besides.
    #[must_use]
    pub fn runtime(&self) -> datapath::Runtime {
        self.store.runtime()
    }

    /// Every frontend, sorted.
    pub fn frontends(&self) -> Result<Vec<ProgrammedFrontend>, StoreError> {
        let _reading = self.store.reading();
        let names = self.policies()?;
        let mut all: Vec<ProgrammedFrontend> = self
            .store
            .all_frontends()?
            .into_iter()
            .filter_map(|(key, slot)| self.decode(&key, &self.store.ladder(slot), &names))
            .collect();
        all.sort_unstable_by_key(|f| f.frontend);
        Ok(all)
    }

    /// One frontend; `names` as [`Self::policies`] gives them, which is too much to read for each.
    pub fn frontend(
        &self,
        frontend: &Frontend,
        names: &HashMap<u32, PolicyRef>,
    ) -> Result<Option<ProgrammedFrontend>, StoreError> {
        let _reading = self.store.reading();
        let key = key_of(frontend);
        let Some(slot) = self.store.slot_of(&key)? else { return Ok(None) };
        Ok(self.decode(&key, &self.store.ladder(slot), names))
    }

    /// Decides about a flow of a caller that is in these cgroups (its own and all above it).
    pub fn decide(&self, to: &Frontend, cgroups: &[u64]) -> Result<Explained, StoreError> {
        let _reading = self.store.reading();
        let names = self.policies()?;
        let key = key_of(to);
        let value = self.store.slot_of(&key)?.map(|slot| self.store.ladder(slot));
        let live = Live { view: self, cgroups, value };
        let decision = decide(&live, &key);
        let rung = match (decision.map(|d| d.outcome), value) {
            (Some(Outcome::Policy), Some(value)) => value.policy_rung,
            (Some(Outcome::Service), Some(value)) => value.service_rung,
            _ => Rung::default(),
        };
        let limited = value.filter(|value| value.flags & FRONTEND_QOS != 0);
        Ok(Explained {
            frontend: value.and_then(|value| self.decode(&key, &value, &names)),
            decision,
            candidates: self.backends(rung),
            qos: limited.and_then(|value| self.qos(value.policy)),
        })
    }

    /// All counters.
    pub fn counters(&self) -> Result<CounterTotals, StoreError> {
        let _reading = self.store.reading();
        let names = self.policies()?;
        let runtime = self.store.runtime();
        let mut totals = CounterTotals {
            since: runtime.since,
            events_received: runtime.events_received,
            events_lost: runtime.events_lost,
            ..CounterTotals::default()
        };
        for (index, policy) in &names {
            totals.policies.push((policy.clone(), self.store.policy_counters(*index)?));
        }
        totals.policies.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, slot) in self.store.all_frontends()? {
            let Some(frontend) = frontend_of(&key) else { continue };
            let value = self.store.ladder(slot);
            let balance = value.flags & FRONTEND_BALANCE != 0;
            let policy = names.get(&value.policy).cloned().ok_or(value.policy);
            let mut counted = self.store.frontend_counters(slot);
            let owner = |owner| (owner, frontend.protocol);
            counted.taken += self.count_rung(&mut totals, owner(policy), value.policy_rung);
            counted.resolved +=
                self.count_rung(&mut totals, owner(Err(value.affinity_group)), value.service_rung);
            totals.frontends.push((frontend, balance, counted));
        }
        totals.frontends.sort_unstable_by_key(|(frontend, ..)| *frontend);
        Ok(totals)
    }

    /// Adds the counters of a rung's backends to those of their owner; answers their sum.
    fn count_rung(
        &self,
        totals: &mut CounterTotals,
        (owner, protocol): (Result<PolicyRef, u32>, Protocol),
        rung: Rung,
    ) -> u64 {
        let mut sum = 0;
        for (backend, index) in self.store.backends_of(rung).into_iter().zip(rung.first..) {
            let count = self.store.backend_counter(index);
            sum += count;
            let (address, port) = (ip_from_addr(&backend.addr), u16::from_be(backend.port));
            *totals.backends.entry((owner.clone(), address, port, protocol)).or_default() += count;
        }
        sum
    }

    fn backends(&self, rung: Rung) -> Vec<(IpAddr, u16)> {
        let mut backends: Vec<(IpAddr, u16)> = self
            .store
            .backends_of(rung)
            .iter()
            .map(|b| (ip_from_addr(&b.addr), u16::from_be(b.port)))
            .collect();
        backends.sort_unstable();
        backends
    }

    fn qos(&self, policy: u32) -> Option<QosState> {
        let policy = self.store.policies.read(policy as usize);
        let second = monotonic() / 1_000_000_000;
        let used = if policy.window >> 32 >= second { policy.window as u32 } else { 0 };
        (policy.limit != 0).then_some(QosState { limit: policy.limit, used: used.min(policy.limit) })
    }

    fn decode(
        &self,
        key: &FrontendKey,
        value: &datapath::Frontend,
        names: &HashMap<u32, PolicyRef>,
    ) -> Option<ProgrammedFrontend> {
        let affinity = |flag| (value.flags & flag != 0).then(|| seconds(value.affinity));
        let rung =
            |rung, flag| ProgrammedRung { backends: self.backends(rung), affinity_seconds: affinity(flag) };
        let limit = |index: u32| {
            if value.flags & FRONTEND_QOS != 0 { self.store.policies.read(index as usize).limit } else { 0 }
        };
        Some(ProgrammedFrontend {
            frontend: frontend_of(key)?,
            policy: names.get(&value.policy).map(|policy| (policy.clone(), limit(value.policy))),
            policy_rung: (value.policy_rung.count != 0)
                .then(|| rung(value.policy_rung, FRONTEND_POLICY_AFFINITY)),
            balance: value.flags & FRONTEND_BALANCE != 0,
            service_rung: (value.flags & FRONTEND_SERVICE != 0)
                .then(|| rung(value.service_rung, FRONTEND_SERVICE_AFFINITY)),
            service_group: value.affinity_group,
            refuse: value.flags & FRONTEND_REFUSE != 0,
        })
    }
}

/// Affinity's unit in seconds; it was rounded up.
fn seconds(units: u32) -> u32 {
    ((u64::from(units) << AFFINITY_SHIFT) / 1_000_000_000) as u32
}

/// The live maps as a hypothetical caller meets them.
struct Live<'a> {
    view: &'a View,
    cgroups: &'a [u64],
    value: Option<datapath::Frontend>,
}

struct Copied(datapath::Frontend);

impl Deref for Copied {
    type Target = datapath::Frontend;

    fn deref(&self) -> &datapath::Frontend {
        &self.0
    }
}

impl Maps for Live<'_> {
    type Ref = Copied;

    fn frontend(&self, _: &FrontendKey) -> Option<Copied> {
        self.value.map(Copied)
    }

    fn backend(&self, index: u32) -> Option<Backend> {
        self.view.store.backend(index)
    }

    fn exempt(&self, policy: u32) -> bool {
        self.cgroups.iter().any(|&cgroup| {
            let key = CallerKey { cgroup, class: policy, spare: 0 };
            self.view.store.is_caller(&key).unwrap_or(false)
        })
    }

    fn stale(&self) -> bool {
        monotonic() > self.view.store.runtime().lease_until
    }

    fn admit(&self, policy: u32) -> bool {
        self.view.qos(policy).is_none_or(|qos| qos.used < qos.limit)
    }

    // A hypothetical flow is a new socket of a client that has not been seen: it may get any backend.
    fn kept(&self, _: &FrontendKey, _: u32) -> Kept {
        Kept::default()
    }

    fn affinity(&self, _: &datapath::Frontend, _: u32) -> u32 {
        0
    }

    fn remember(&self, _: &datapath::Frontend, _: u32, _: u32) {}

    fn random(&self, _: &FrontendKey) -> u32 {
        0
    }
}

impl ProgrammedFrontend {
    /// Does the entry do what the ladder says?
    #[must_use]
    pub fn agrees_with(&self, ladder: &Ladder) -> bool {
        let sorted = |backends: &[desired::Backend]| {
            let mut all: Vec<(IpAddr, u16)> = backends.iter().map(|b| (b.address, b.port)).collect();
            all.sort_unstable();
            all
        };
        let policy = ladder.policy.as_ref();
        let policy_backends = policy.map(|rung| sorted(&rung.backends)).filter(|all| !all.is_empty());
        let service_backends = ladder.service.as_ref().map(|rung| sorted(&rung.backends));
        self.refuse == (ladder.otherwise == desired::Otherwise::Refuse)
            && self.policy.as_ref().map(|(policy, _)| policy) == policy.map(|rung| &rung.policy)
            && self.policy_rung.as_ref().map(|rung| &rung.backends) == policy_backends.as_ref()
            && self.service_rung.as_ref().map(|rung| &rung.backends) == service_backends.as_ref()
    }
}
