//! What agents answered at one moment, and the rows and rates that follow from it. Pure.
//!
//! A sample speaks of many nodes; one agent is the case of one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use balancing_api::{
    agent::{
        BackendCounters, BackendInfo, Counters, FrontendCounters, FrontendInfo, FrontendList, NodeStatus,
        Otherwise, PolicyCounters, PolicyState, PolicyStatus, RungInfo, RungKind,
    },
    cli::{
        BackendRates, BackendState, BackendTopItem, Coverage, FrontendRates, FrontendState, FrontendTopItem,
        NodeCount, NodeTopItem, PolicyRates, PolicyTopItem, ProblemItem, Top,
    },
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use jiff::Timestamp;

use crate::{
    cluster::facts::Facts,
    columns::is_saturated,
    nodes::node_rows,
    problems::{is_whole_node, problem_rows},
};

/// What one node's agent answered.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSample {
    /// `GET /v1/status`
    pub status: NodeStatus,
    /// `GET /v1/frontends`
    pub frontends: FrontendList,
    /// `GET /v1/counters`
    pub counters: Counters,
}

/// What all nodes answered at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Those that answered.
    pub nodes: Vec<NodeSample>,
    /// What those said last that did not answer in time. It is in no sum.
    pub stale: Vec<NodeSample>,
    /// Which nodes the numbers speak of.
    pub coverage: Coverage,
    /// What is known of the cluster besides; none where an agent was asked.
    pub cluster: Option<Arc<Facts>>,
}

impl Sample {
    /// The sample of a single agent.
    #[must_use]
    pub fn of_one(node: NodeSample) -> Self {
        Self { nodes: vec![node], coverage: Coverage { fresh: 1, ..Coverage::default() }, ..Self::default() }
    }

    /// When the latest of the nodes was read.
    #[must_use]
    pub fn taken_at(&self) -> Timestamp {
        let known = self.nodes.iter().chain(&self.stale).map(|n| n.counters.taken_at);
        let read = self.cluster.as_deref().map(|f| f.time);
        self.nodes
            .iter()
            .map(|n| n.counters.taken_at)
            .max()
            .or(read)
            .or(known.max())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// The identity of a backend's row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The policy or Service that leads to it.
    pub owner: String,
}

/// The rows of one sample, with rates where there was a sample before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Board {
    /// The sample.
    pub sample: Sample,
    /// Seconds since the sample before; none for the first.
    pub interval: Option<f64>,
    /// A row a policy, problems first.
    pub policies: Vec<PolicyTopItem>,
    /// A row a frontend, by address.
    pub frontends: Vec<FrontendTopItem>,
    /// A row a backend and owner, by owner.
    pub backends: Vec<BackendTopItem>,
    /// A row a node, what does not work first.
    pub nodes: Vec<NodeTopItem>,
    /// What is wrong, the worst first.
    pub problems: Vec<ProblemItem>,
}

/// How bad a state is; problems come first.
#[must_use]
pub fn severity(state: PolicyState) -> u8 {
    state.severity()
}

impl Board {
    /// The rows of a sample. Rates need the sample before.
    #[must_use]
    pub fn new(sample: Sample, before: Option<&Sample>) -> Self {
        let name = |n: &NodeSample| n.status.node.name.clone();
        let fresh: HashSet<String> = before.iter().flat_map(|s| &s.nodes).map(name).collect();
        // A node that was silent for a while has what it said before.
        let before: HashMap<String, &NodeSample> =
            before.iter().flat_map(|s| s.nodes.iter().chain(&s.stale)).map(|n| (name(n), n)).collect();
        let spans: Vec<Option<Span<'_>>> = sample
            .nodes
            .iter()
            .map(|n| before.get(n.status.node.name.as_str()).and_then(|b| Span::new(b, n)))
            .collect();
        let regular = sample.nodes.iter().zip(&spans).filter(|(n, _)| fresh.contains(&n.status.node.name));
        let interval = regular.filter_map(|(_, s)| s.as_ref()).map(|s| s.seconds).reduce(f64::max);
        let policies = policy_rows(&sample, &spans);
        let frontends = frontend_rows(&sample, &spans);
        let backends = backend_rows(&sample, &spans);
        let nodes = node_rows(&sample, &spans);
        drop(spans);
        let mut board = Self { interval, policies, frontends, backends, nodes, problems: Vec::new(), sample };
        board.note_hits();
        board.problems = problem_rows(&board);
        board
    }

    /// What sent connections in the last interval did so now.
    fn note_hits(&mut self) {
        for row in &mut self.policies {
            let hit = row.rates.as_ref().is_some_and(|r| r.redirects + r.balanced > 0.0);
            row.last_hit = hit.then_some(0.0);
        }
        for row in &mut self.backends {
            row.last_hit = row.rates.is_some_and(|r| r.selected > 0.0).then_some(0.0);
        }
    }

    /// The rows of a sample, with what is known from the board before it.
    #[must_use]
    pub fn next(sample: Sample, before: Option<&Self>) -> Self {
        let board = Self::new(sample, before.map(|b| &b.sample));
        match before {
            Some(before) => board.after(before),
            None => board,
        }
    }

    /// Those that sent nothing in the last interval did so when the board before saw it last.
    fn after(mut self, before: &Self) -> Self {
        let passed = seconds_from(before.sample.taken_at(), self.sample.taken_at());
        let policies: HashMap<&PolicyRef, f64> =
            before.policies.iter().filter_map(|r| Some((&r.policy, r.last_hit?))).collect();
        for row in self.policies.iter_mut().filter(|r| r.last_hit.is_none()) {
            row.last_hit = policies.get(&row.policy).map(|seconds| seconds + passed);
        }
        let id = |r: &BackendTopItem| (r.address, r.port, r.protocol, r.owner.clone());
        let backends: HashMap<_, f64> =
            before.backends.iter().filter_map(|r| Some((id(r), r.last_hit?))).collect();
        for row in self.backends.iter_mut().filter(|r| r.last_hit.is_none()) {
            row.last_hit = backends.get(&id(row)).map(|seconds| seconds + passed);
        }
        self
    }

    /// Are there counters? What an API server says alone has none.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.sample.cluster.as_deref().is_none_or(|f| f.uncounted.is_none())
    }

    /// The document of some of its rows.
    #[must_use]
    pub fn top<T>(&self, demo: bool, items: Vec<T>) -> Top<T> {
        let facts = self.sample.cluster.as_deref();
        Top {
            taken_at: self.sample.taken_at(),
            interval: self.interval,
            coverage: self.sample.coverage.clone(),
            demo,
            uncounted: facts.and_then(|f| f.uncounted.clone()),
            gaps: facts.map(|f| f.gaps.clone()).unwrap_or_default(),
            items,
        }
    }

    /// Problems of whole nodes, rather than of one policy or frontend.
    pub fn node_problems(&self) -> impl Iterator<Item = &ProblemItem> {
        self.problems.iter().filter(|p| is_whole_node(p))
    }

    /// What the first node that knows the policy says about it.
    #[must_use]
    pub fn status_of(&self, policy: &PolicyRef) -> Option<&PolicyStatus> {
        self.sample
            .nodes
            .iter()
            .flat_map(|n| &n.status.policies)
            .find(|p| p.name == policy.name && p.kind == policy.kind)
    }
}

/// Two samples of one node whose difference makes rates.
pub(crate) struct Span<'a> {
    seconds: f64,
    lost: u64,
    policies: HashMap<&'a PolicyRef, &'a PolicyCounters>,
    frontends: HashMap<Frontend, &'a FrontendCounters>,
    backends: HashMap<BackendId, u64>,
}

impl<'a> Span<'a> {
    /// None where the counters began again in between, or no time has passed.
    fn new(before: &'a NodeSample, now: &NodeSample) -> Option<Self> {
        if before.counters.since != now.counters.since {
            return None;
        }
        let seconds = now.counters.taken_at.duration_since(before.counters.taken_at).as_secs_f64();
        (seconds > 0.0).then(|| Self {
            seconds,
            lost: before.counters.events.lost,
            policies: before.counters.policies.iter().map(|c| (&c.policy, c)).collect(),
            frontends: before.counters.frontends.iter().map(|c| (c.frontend, c)).collect(),
            backends: before.counters.backends.iter().map(|c| (backend_id(c), c.selected)).collect(),
        })
    }

    /// A counter per second; none where it went down, because then it began again.
    fn rate(&self, before: u64, now: u64) -> Option<f64> {
        now.checked_sub(before).map(|n| n as f64 / self.seconds)
    }
}

impl Span<'_> {
    /// Rates of a policy.
    pub(crate) fn policy(&self, policy: &PolicyRef, now: Option<&PolicyCounters>) -> Option<PolicyRates> {
        policy_rates(self, self.policies.get(policy).copied(), now)
    }

    /// Rates of a frontend.
    pub(crate) fn frontend(
        &self,
        frontend: Frontend,
        now: Option<&FrontendCounters>,
    ) -> Option<FrontendRates> {
        frontend_rates(self, self.frontends.get(&frontend).copied(), now)
    }

    /// Events lost per second.
    pub(crate) fn lost(&self, now: u64) -> Option<f64> {
        self.rate(self.lost, now)
    }
}

fn backend_id(c: &BackendCounters) -> BackendId {
    BackendId { address: c.address, port: c.port, protocol: c.protocol, owner: c.owner.clone() }
}

fn key(policy: &PolicyStatus) -> PolicyRef {
    PolicyRef::new(policy.kind, policy.name.clone())
}

fn policy_rows(sample: &Sample, spans: &[Option<Span<'_>>]) -> Vec<PolicyTopItem> {
    let latest = sample.taken_at();
    let mut rows: Vec<PolicyTopItem> = joined(sample).iter().map(|policy| policy.row(latest)).collect();
    for (node, span) in sample.nodes.iter().zip(spans) {
        let counted: HashMap<&PolicyRef, &PolicyCounters> =
            node.counters.policies.iter().map(|c| (&c.policy, c)).collect();
        let rungs = node.frontends.items.iter().flat_map(|f| &f.rungs);
        let affinity: HashMap<&PolicyRef, u32> =
            rungs.filter_map(|r| r.policy.as_ref().zip(r.affinity_seconds)).collect();
        for row in &mut rows {
            row.affinity_seconds = row.affinity_seconds.or(affinity.get(&row.policy).copied());
            let now = counted.get(&row.policy).copied();
            let rates = span.as_ref().and_then(|span| span.policy(&row.policy, now));
            if let Some(now) = now {
                add_policy_counters(row, now);
            }
            if let Some(rates) = rates {
                add_policy_rates(row.rates.get_or_insert_default(), rates);
            }
        }
    }
    if let Some(facts) = &sample.cluster {
        facts.complete(&mut rows, latest);
    }
    // No two are equal; a stable sort would want half of them again as room.
    rows.sort_unstable_by(|a, b| {
        (severity(a.state), !is_saturated(a), &a.policy.name, a.policy.kind).cmp(&(
            severity(b.state),
            !is_saturated(b),
            &b.policy.name,
            b.policy.kind,
        ))
    });
    rows
}

pub(crate) fn policy_row(policy: PolicyRef, status: &PolicyStatus, latest: Timestamp) -> PolicyTopItem {
    PolicyTopItem {
        policy,
        id: status.id,
        generation: status.generation,
        newest_generation: status.generation,
        age: status.created.map(|created| seconds_from(created, latest)),
        cluster: None,
        state: status.state,
        reason: status.reason.clone(),
        message: status.message.clone(),
        service: status.wanted.service.clone(),
        address: status.wanted.address.clone(),
        frontends: status.frontends.clone(),
        affinity_seconds: None,
        nodes: node_count(status.state),
        backends: status.backends,
        redirects_per_second: status.redirects_per_second,
        redirects: 0,
        balanced: 0,
        qos_drops: 0,
        fallbacks: BTreeMap::new(),
        refusals: 0,
        last_hit: None,
        rates: None,
    }
}

/// Seconds from one moment to another; 0 where clocks differ.
fn seconds_from(then: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(then).as_secs_f64().max(0.0)
}

fn node_count(state: PolicyState) -> NodeCount {
    NodeCount {
        wanted: u32::from(state != PolicyState::NotSelected),
        programmed: u32::from(state == PolicyState::Programmed),
    }
}

/// What all nodes together say of a policy.
struct Joined<'a> {
    first: &'a PolicyStatus,
    /// Of more than one node. A box, as most have one.
    sum: Option<Box<PolicyStatus>>,
    nodes: NodeCount,
    /// The newest that one of them has applied.
    newest_generation: i64,
}

impl<'a> Joined<'a> {
    fn new(first: &'a PolicyStatus) -> Self {
        Self { first, sum: None, nodes: node_count(first.state), newest_generation: first.generation }
    }

    fn join(&mut self, status: &PolicyStatus) {
        let count = node_count(status.state);
        self.sum.get_or_insert_with(|| Box::new(self.first.clone())).join(status);
        self.nodes.wanted += count.wanted;
        self.nodes.programmed += count.programmed;
        self.newest_generation = self.newest_generation.max(status.generation);
    }

    fn row(&self, latest: Timestamp) -> PolicyTopItem {
        let status = self.sum.as_deref().unwrap_or(self.first);
        PolicyTopItem {
            nodes: self.nodes,
            newest_generation: self.newest_generation,
            ..policy_row(key(status), status, latest)
        }
    }
}

/// Every policy once, in the order in which nodes name them.
fn joined(sample: &Sample) -> Vec<Joined<'_>> {
    let mut all: Vec<Joined<'_>> =
        Vec::with_capacity(sample.nodes.first().map_or(0, |n| n.status.policies.len()));
    let mut known: HashMap<(PolicyKind, &str), usize> = HashMap::new();
    for status in sample.nodes.iter().flat_map(|node| &node.status.policies) {
        let next = all.len();
        match *known.entry((status.kind, &status.name)).or_insert(next) {
            i if i < next => all[i].join(status),
            _ => all.push(Joined::new(status)),
        }
    }
    all
}

fn add_policy_counters(row: &mut PolicyTopItem, now: &PolicyCounters) {
    row.redirects += now.redirects;
    row.balanced += now.balanced;
    row.qos_drops += now.qos_drops;
    row.refusals += now.refusals;
    for (reason, count) in &now.fallbacks {
        *row.fallbacks.entry(reason.clone()).or_default() += count;
    }
}

/// A policy without counters has counted nothing: what is removed and returns begins at zero.
fn policy_rates(
    span: &Span<'_>,
    before: Option<&PolicyCounters>,
    now: Option<&PolicyCounters>,
) -> Option<PolicyRates> {
    let Some(now) = now else {
        return before.is_none().then(PolicyRates::default);
    };
    let of = |field: fn(&PolicyCounters) -> u64| span.rate(before.map_or(0, field), field(now));
    let mut fallbacks = BTreeMap::new();
    for (reason, count) in &now.fallbacks {
        let earlier = before.and_then(|b| b.fallbacks.get(reason)).copied().unwrap_or(0);
        fallbacks.insert(reason.clone(), span.rate(earlier, *count)?);
    }
    Some(PolicyRates {
        redirects: of(|c| c.redirects)?,
        balanced: of(|c| c.balanced)?,
        qos_drops: of(|c| c.qos_drops)?,
        fallbacks,
        refusals: of(|c| c.refusals)?,
    })
}

fn add_policy_rates(sum: &mut PolicyRates, rates: PolicyRates) {
    sum.redirects += rates.redirects;
    sum.balanced += rates.balanced;
    sum.qos_drops += rates.qos_drops;
    sum.refusals += rates.refusals;
    for (reason, rate) in rates.fallbacks {
        *sum.fallbacks.entry(reason).or_default() += rate;
    }
}

/// The policy that holds each frontend.
fn holders(status: &NodeStatus) -> HashMap<Frontend, &PolicyStatus> {
    status.policies.iter().flat_map(|p| p.frontends.iter().map(move |f| (*f, p))).collect()
}

/// Puts in the rungs that an agent leaves out: those of policies that hold a frontend and have no backend for it. Who
/// holds it is in the status.
pub fn complete(list: &mut FrontendList, status: &NodeStatus) {
    let holders = holders(status);
    for item in &mut list.items {
        let Some(policy) = holders.get(&item.frontend) else { continue };
        if item.rungs.iter().any(|r| r.rung != RungKind::Service) {
            continue;
        }
        let redirect = policy.kind == PolicyKind::LocalRedirectPolicy;
        let rung = RungInfo {
            rung: if redirect { RungKind::Redirect } else { RungKind::Balance },
            policy: Some(key(policy)),
            redirects_per_second: redirect.then_some(policy.redirects_per_second),
            service: None,
            service_port: None,
            affinity_seconds: None,
            backends: Vec::new(),
        };
        item.rungs.insert(0, rung);
    }
}

/// The rung that takes connections while nothing but the backends decides: the first that has any.
#[must_use]
pub fn taking_rung(frontend: &FrontendInfo) -> Option<&RungInfo> {
    frontend.rungs.iter().find(|r| !r.backends.is_empty())
}

/// Where connections to a frontend go.
#[must_use]
pub fn frontend_state(frontend: &FrontendInfo) -> FrontendState {
    let has_policy = frontend.rungs.iter().any(|r| r.rung != RungKind::Service);
    match (taking_rung(frontend).map(|r| r.rung), frontend.otherwise) {
        (Some(RungKind::Redirect), _) => FrontendState::Redirected,
        (Some(RungKind::Balance), _) => FrontendState::Balanced,
        (Some(RungKind::Other(_)), _) => FrontendState::Unknown,
        (None, Otherwise::Refuse) => FrontendState::Refused,
        (_, _) if has_policy => FrontendState::Fallback,
        (Some(RungKind::Service), _) => FrontendState::Service,
        (None, Otherwise::Untouched) => FrontendState::Untouched,
        (None, Otherwise::Other(_)) => FrontendState::Unknown,
    }
}

fn frontend_rows(sample: &Sample, spans: &[Option<Span<'_>>]) -> Vec<FrontendTopItem> {
    let mut rows: BTreeMap<Frontend, FrontendTopItem> = BTreeMap::new();
    for (node, span) in sample.nodes.iter().zip(spans) {
        let counted: HashMap<Frontend, &FrontendCounters> =
            node.counters.frontends.iter().map(|c| (c.frontend, c)).collect();
        let holders = holders(&node.status);
        let mut here = HashSet::new();
        for info in node.frontends.items.iter().filter(|i| here.insert(i.frontend)) {
            let backends = taking_rung(info).map_or(0, |r| r.backends.len() as u32);
            let row = rows.entry(info.frontend).or_insert_with(|| frontend_row(info, &holders));
            row.backends += backends;
            row.state = row.state.min(frontend_state(info));
            let now = counted.get(&info.frontend).copied();
            if let Some(now) = now {
                row.redirects += now.redirects;
                row.balanced += now.balanced;
                row.resolved += now.resolved;
                row.qos_drops += now.qos_drops;
                row.refusals += now.refusals;
            }
            if let Some(span) = span
                && let Some(rates) = frontend_rates(span, span.frontends.get(&info.frontend).copied(), now)
            {
                let sum = row.rates.get_or_insert_default();
                sum.redirects += rates.redirects;
                sum.balanced += rates.balanced;
                sum.resolved += rates.resolved;
                sum.qos_drops += rates.qos_drops;
                sum.refusals += rates.refusals;
            }
        }
    }
    rows.into_values().collect()
}

fn frontend_row(info: &FrontendInfo, holders: &HashMap<Frontend, &PolicyStatus>) -> FrontendTopItem {
    let policy = info.rungs.iter().find_map(|r| r.policy.clone());
    // A Service without endpoints has no rung that names it; the policy that matches it does.
    let matched = || holders.get(&info.frontend).and_then(|p| p.wanted.service.clone());
    FrontendTopItem {
        frontend: info.frontend,
        state: frontend_state(info),
        policy,
        service: info.rungs.iter().find_map(|r| r.service.clone()).or_else(matched),
        backends: 0,
        otherwise: info.otherwise,
        redirects: 0,
        balanced: 0,
        resolved: 0,
        qos_drops: 0,
        refusals: 0,
        rates: None,
    }
}

fn frontend_rates(
    span: &Span<'_>,
    before: Option<&FrontendCounters>,
    now: Option<&FrontendCounters>,
) -> Option<FrontendRates> {
    let Some(now) = now else {
        return before.is_none().then(FrontendRates::default);
    };
    let of = |field: fn(&FrontendCounters) -> u64| span.rate(before.map_or(0, field), field(now));
    Some(FrontendRates {
        redirects: of(|c| c.redirects)?,
        balanced: of(|c| c.balanced)?,
        resolved: of(|c| c.resolved)?,
        qos_drops: of(|c| c.qos_drops)?,
        refusals: of(|c| c.refusals)?,
    })
}

/// `LocalRedirectPolicy/name`, `Service/namespace/name`: whose backends a rung's are.
#[must_use]
pub fn owner(rung: &RungInfo) -> String {
    match (&rung.policy, &rung.service) {
        (Some(policy), _) => policy.to_string(),
        (None, Some(service)) => format!("Service/{service}"),
        (None, None) => crate::text::UNKNOWN.to_owned(),
    }
}

fn backend_rows(sample: &Sample, spans: &[Option<Span<'_>>]) -> Vec<BackendTopItem> {
    let mut rows: BTreeMap<(String, BackendId), BackendTopItem> = BTreeMap::new();
    let mut row = |id: BackendId, state: BackendState, known: Option<&BackendInfo>| {
        let row = rows.entry((id.owner.clone(), id.clone())).or_insert_with(|| BackendTopItem {
            address: id.address,
            port: id.port,
            protocol: id.protocol,
            owner: id.owner,
            state,
            pod: known.and_then(|b| b.pod.clone()),
            node: known.and_then(|b| b.node.clone()),
            selected: 0,
            share: None,
            last_hit: None,
            rates: None,
        });
        row.state = row.state.min(state);
    };
    for node in &sample.nodes {
        for info in &node.frontends.items {
            let taking = taking_rung(info).map(|r| r.rung);
            for rung in &info.rungs {
                let state =
                    if taking == Some(rung.rung) { BackendState::Active } else { BackendState::Standby };
                let owner = owner(rung);
                for b in &rung.backends {
                    let protocol = info.frontend.protocol;
                    let id = BackendId { address: b.address, port: b.port, protocol, owner: owner.clone() };
                    row(id, state, Some(b));
                }
            }
        }
        for counted in &node.counters.backends {
            row(backend_id(counted), BackendState::Removed, None);
        }
    }
    let mut began_again: HashSet<BackendId> = HashSet::new();
    for (node, span) in sample.nodes.iter().zip(spans) {
        let mut counted: HashSet<BackendId> = HashSet::new();
        for now in &node.counters.backends {
            let id = backend_id(now);
            if let Some(row) = rows.get_mut(&(id.owner.clone(), id.clone())) {
                row.selected += now.selected;
                let before = span.as_ref().map(|s| s.backends.get(&id).copied().unwrap_or(0));
                match (span, before.and_then(|b| span.as_ref()?.rate(b, now.selected))) {
                    (Some(_), Some(rate)) => row.rates.get_or_insert_default().selected += rate,
                    (Some(_), None) => drop(began_again.insert(id.clone())),
                    (None, _) => {}
                }
            }
            counted.insert(id);
        }
        // Counters that went with what they counted.
        began_again
            .extend(span.iter().flat_map(|s| s.backends.keys()).filter(|id| !counted.contains(*id)).cloned());
    }
    if spans.iter().any(Option::is_some) {
        // What was never chosen was chosen zero times.
        for ((_, id), row) in &mut rows {
            if row.rates.is_none() && !began_again.contains(id) {
                row.rates = Some(BackendRates::default());
            }
        }
    }
    let mut rows: Vec<BackendTopItem> = rows.into_values().collect();
    add_shares(&mut rows);
    rows
}

fn add_shares(rows: &mut [BackendTopItem]) {
    let mut sums: HashMap<String, u64> = HashMap::new();
    for row in rows.iter() {
        *sums.entry(row.owner.clone()).or_default() += row.selected;
    }
    for row in rows {
        row.share = match sums.get(&row.owner) {
            Some(0) | None => None,
            Some(sum) => Some(row.selected as f64 / *sum as f64),
        };
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::net::Protocol;
    use jiff::SignedDuration;

    use super::*;
    use crate::fixture::{World, backend, frontend, info, lr, policy_rung, service_rung, world};

    fn node(world: &World) -> NodeSample {
        NodeSample {
            status: world.status.clone(),
            frontends: world.programmed.clone(),
            counters: world.counters.clone(),
        }
    }

    fn sample(worlds: &[&World]) -> Sample {
        let coverage = Coverage { fresh: worlds.len() as u32, ..Coverage::default() };
        Sample { nodes: worlds.iter().map(|w| node(w)).collect(), coverage, ..Sample::default() }
    }

    fn row<'a>(board: &'a Board, name: &str) -> &'a PolicyTopItem {
        board.policies.iter().find(|r| r.policy.name == name).unwrap()
    }

    fn dns(world: &mut World) -> &mut PolicyCounters {
        world.counters.policies.iter_mut().find(|c| c.policy.name == "node-local-dns").unwrap()
    }

    #[test]
    fn rates_are_differences_over_the_agents_time() {
        let before = world();
        let mut after = world();
        after.counters.taken_at += SignedDuration::from_millis(2500);
        dns(&mut after).redirects += 50;
        dns(&mut after).qos_drops += 5;
        dns(&mut after).fallbacks.insert("AgentStale".to_owned(), 10);
        let board = Board::new(sample(&[&after]), Some(&sample(&[&before])));
        assert_eq!(board.interval, Some(2.5));
        let rates = row(&board, "node-local-dns").rates.clone().unwrap();
        assert_eq!((rates.redirects, rates.qos_drops, rates.fallbacks["AgentStale"]), (20.0, 2.0, 4.0));
        assert_eq!(rates.fallbacks["ExemptCaller"], 0.0);
        assert_eq!(row(&board, "node-local-dns").redirects, 48_050);
    }

    #[test]
    fn a_counter_that_began_again_has_no_rate_for_one_tick() {
        let before = world();
        let mut after = world().later(1000);
        dns(&mut after).redirects = 3;
        let board = Board::new(sample(&[&after]), Some(&sample(&[&before])));
        assert_eq!(row(&board, "node-local-dns").rates, None);
        assert!(row(&board, "edge-proxy").rates.is_some());
        let next = Board::new(sample(&[&after.later(1000)]), Some(&sample(&[&after])));
        assert_eq!(row(&next, "node-local-dns").rates.as_ref().unwrap().redirects, 100.0);
        // All of them began again.
        let mut anew = world().later(1000);
        anew.counters.since = anew.counters.taken_at;
        let board = Board::new(sample(&[&anew]), Some(&sample(&[&before])));
        assert_eq!(board.interval, None);
        assert!(
            board.policies.iter().all(|r| r.rates.is_none())
                && board.backends.iter().all(|r| r.rates.is_none())
        );
    }

    #[test]
    fn what_never_counted_is_zero_and_what_is_new_began_at_zero() {
        let mut before = world();
        before.counters.policies.clear();
        let after = world().later(1000);
        let board = Board::new(sample(&[&after]), Some(&sample(&[&before])));
        assert_eq!(row(&board, "node-local-dns").rates.as_ref().unwrap().redirects, 48_100.0);
        assert_eq!(row(&board, "lost").rates, Some(PolicyRates::default()));
        assert_eq!((row(&board, "lost").redirects, board.policies.len()), (0, 8));
    }

    #[test]
    fn time_that_stands_still_makes_no_rate() {
        let board = Board::new(sample(&[&world()]), Some(&sample(&[&world()])));
        assert_eq!((board.interval, &row(&board, "edge-proxy").rates), (None, &None));
    }

    #[test]
    fn many_nodes_add_up_and_the_worst_state_shows() {
        let one = world();
        let mut two = world();
        two.status.node.name = "n2".to_owned();
        let p = two.policy("node-local-dns");
        (p.state, p.reason, p.message) = (PolicyState::Failed, "MapFull".to_owned(), "full".to_owned());
        p.redirects_per_second = 50;
        let before = sample(&[&one, &two]);
        let board = Board::new(sample(&[&one.later(1000), &two.later(2000)]), Some(&before));
        let row = row(&board, "node-local-dns");
        assert_eq!((row.state, row.reason.as_str()), (PolicyState::Failed, "MapFull"));
        assert_eq!(row.nodes, NodeCount { wanted: 2, programmed: 1 });
        assert_eq!(row.redirects, 2 * 48_000 + 100 + 200);
        assert_eq!(row.rates.as_ref().unwrap().redirects, 200.0);
        assert_eq!((row.redirects_per_second, row.backends.wanted, row.frontends.len()), (50, 2, 2));
        assert_eq!(board.sample.coverage.fresh, 2);
    }

    #[test]
    fn rungs_that_the_agent_leaves_out_are_put_in() {
        let world = world();
        let mut list = world.programmed.clone();
        for item in &mut list.items {
            item.rungs.retain(|r| r.rung == RungKind::Service || !r.backends.is_empty());
        }
        assert_ne!(list, world.programmed);
        complete(&mut list, &world.status);
        assert_eq!(list, world.programmed);
    }

    #[test]
    fn where_connections_to_a_frontend_go() {
        let to = frontend("10.0.0.1", 80, Protocol::Tcp);
        let some = || vec![backend("10.0.0.2", 80, "", "")];
        let redirect = |b| policy_rung(lr("x"), 0, b);
        let service = |b| service_rung("a/b", "", b);
        let state = |rungs, otherwise| frontend_state(&info(to, rungs, otherwise));
        use FrontendState as S;
        use Otherwise::{Refuse, Untouched};
        assert_eq!(state(vec![redirect(some()), service(some())], Refuse), S::Redirected);
        assert_eq!(state(vec![redirect(vec![]), service(some())], Refuse), S::Fallback);
        assert_eq!(state(vec![redirect(vec![])], Untouched), S::Fallback);
        assert_eq!(state(vec![redirect(vec![])], Refuse), S::Refused);
        assert_eq!(state(vec![service(some())], Refuse), S::Service);
        assert_eq!(state(vec![service(vec![])], Refuse), S::Refused);
        assert_eq!(state(vec![service(vec![])], Untouched), S::Untouched);
    }

    #[test]
    fn backends_of_one_owner_share_what_it_was_chosen() {
        let board = Board::new(sample(&[&world()]), None);
        let edge: Vec<_> =
            board.backends.iter().filter(|b| b.owner == "BalancingPolicy/edge-proxy").collect();
        assert_eq!(edge.iter().map(|b| b.share).collect::<Vec<_>>(), [Some(0.75), Some(0.25)]);
        let mut gone = world();
        gone.programmed.items.retain(|i| i.frontend.port != 9200);
        let board = Board::new(sample(&[&gone]), None);
        let left = board.backends.iter().find(|b| b.port == 9200).unwrap();
        assert_eq!((left.state, left.selected), (BackendState::Removed, 40));
    }
}
