//! A synthetic cluster: what `top --demo` shows. The same seed, number of nodes and steps give the same samples; its
//! clock is its own. Pure.

use std::{collections::BTreeMap, f64::consts::TAU, net::IpAddr, time::Duration};

use balancing_api::{
    agent::{
        AgentInfo, BackendCount, BackendCounters, BackendInfo, Condition, Counters, DatapathInfo,
        EventCounters, ExemptCallers, FrontendCounters, FrontendInfo, FrontendList, KernelFeatures,
        KernelInfo, MapInfo, NodeInfo, NodeStatus, Otherwise, PolicyCounters, PolicyState, PolicyStatus,
        ProgramInfo, RungInfo, RungKind, WantedPod, WantedPolicy,
    },
    cli::Coverage,
    names::{condition, reason, rung_reason},
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use jiff::{SignedDuration, Timestamp};

use crate::sample::{NodeSample, Sample};

/// Its clock starts here (2026-01-01T12:00:00Z), in seconds since 1970.
const BEGINNING: i64 = 1_767_268_800;
/// Seconds of a burst; it starts with one, so that everything there is to see is there at once.
const BURST: f64 = 12.0;
/// Seconds that the counters have counted when it starts.
const BEFORE: f64 = 5_400.0;

/// A policy of the synthetic cluster.
struct Script {
    kind: PolicyKind,
    name: &'static str,
    id: u32,
    service: Option<&'static str>,
    /// Address (IPv4 and maybe IPv6), port, protocols.
    addresses: &'static [&'static str],
    port: u16,
    protocols: &'static [Protocol],
    selector: &'static str,
    limit: u32,
    /// Connections a second and node that are offered to it, on average.
    offered: f64,
    /// Seconds of one swing of that.
    swing: f64,
    trouble: Trouble,
    /// Seconds between its creation and the beginning.
    age: f64,
}

/// What is wrong with a policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// Bursts over its limit.
    Bursts,
    /// Every seventh node has no pod of it.
    SomeNodes,
    /// Its pods are not ready for a while.
    Outage,
    WrongSelector,
    Conflict,
    NoService,
}

const TCP: &[Protocol] = &[Protocol::Tcp];
const BOTH: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];

const SCRIPTS: &[Script] = &[
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "node-local-dns",
        id: 10_007,
        service: Some("kube-system/kube-dns"),
        addresses: &["10.96.0.10"],
        port: 53,
        protocols: BOTH,
        selector: "k8s-app=node-local-dns",
        limit: 200,
        offered: 120.0,
        swing: 60.0,
        trouble: Trouble::Bursts,
        age: 112_000.0,
    },
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "apiserver-cache",
        id: 10_012,
        service: None,
        addresses: &["169.254.0.90"],
        port: 443,
        protocols: TCP,
        selector: "app=apiserver-cache",
        limit: 0,
        offered: 6.0,
        swing: 90.0,
        trouble: Trouble::SomeNodes,
        age: 47_000.0,
    },
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "image-cache",
        id: 10_020,
        service: Some("registry/mirror"),
        addresses: &["10.96.3.3"],
        port: 5000,
        protocols: TCP,
        selector: "app=image-cache",
        limit: 0,
        offered: 1.5,
        swing: 200.0,
        trouble: Trouble::Nothing,
        age: 9_000.0,
    },
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "log-cache",
        id: 10_033,
        service: Some("logging/store"),
        addresses: &["10.96.4.4"],
        port: 9200,
        protocols: TCP,
        selector: "app=log-cache",
        limit: 0,
        offered: 14.0,
        swing: 45.0,
        trouble: Trouble::Outage,
        age: 1_600_000.0,
    },
    Script {
        kind: PolicyKind::BalancingPolicy,
        name: "edge-proxy",
        id: 10_091,
        service: Some("web/gateway"),
        addresses: &["10.96.7.7"],
        port: 443,
        protocols: TCP,
        selector: "app=edge",
        limit: 0,
        offered: 31.0,
        swing: 120.0,
        trouble: Trouble::Nothing,
        age: 275_000.0,
    },
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "metrics-gateway",
        id: 10_040,
        service: Some("monitoring/gateway"),
        addresses: &["10.96.5.5"],
        port: 9091,
        protocols: TCP,
        selector: "app=metric-gateway",
        limit: 0,
        offered: 3.0,
        swing: 80.0,
        trouble: Trouble::WrongSelector,
        age: 720.0,
    },
    Script {
        kind: PolicyKind::LocalRedirectPolicy,
        name: "shadow-dns",
        id: 10_055,
        service: Some("kube-system/kube-dns"),
        addresses: &[],
        port: 53,
        protocols: BOTH,
        selector: "app=shadow-dns",
        limit: 0,
        offered: 0.0,
        swing: 1.0,
        trouble: Trouble::Conflict,
        age: 300.0,
    },
    Script {
        kind: PolicyKind::BalancingPolicy,
        name: "legacy-db",
        id: 10_060,
        service: Some("db/legacy"),
        addresses: &[],
        port: 5432,
        protocols: TCP,
        selector: "app=legacy-db",
        limit: 0,
        offered: 0.0,
        swing: 1.0,
        trouble: Trouble::NoService,
        age: 7_776_000.0,
    },
];

/// What a node has counted of a policy.
#[derive(Clone, Copy, Default)]
struct Count {
    taken: f64,
    qos_drops: f64,
    fallbacks: f64,
}

struct Node {
    name: String,
    counts: Vec<Count>,
    refusals: f64,
    since: Timestamp,
    phase: f64,
    /// What it said last.
    last: Option<NodeSample>,
}

/// The synthetic cluster.
pub struct Demo {
    random: Random,
    elapsed: f64,
    nodes: Vec<Node>,
    /// A node that never reports.
    missing: Vec<String>,
}

impl Demo {
    /// A cluster of so many nodes.
    #[must_use]
    pub fn new(seed: u64, nodes: u32) -> Self {
        let mut random = Random(seed);
        let start = at(-BEFORE);
        let absent = u32::from(nodes >= 3);
        let digits = nodes.to_string().len().max(2);
        let name = |i: u32| format!("demo-{:0digits$}", i + 1);
        let nodes_made = (0..nodes.max(1) - absent)
            .map(|i| {
                let phase = random.unit();
                let counts = SCRIPTS
                    .iter()
                    .map(|s| {
                        let broken = without_backend(s, i as usize, 0.0);
                        let all = (s.offered * BEFORE * (0.9 + 0.2 * random.unit())).floor();
                        if broken {
                            Count { fallbacks: all, ..Count::default() }
                        } else {
                            Count { taken: all, ..Count::default() }
                        }
                    })
                    .collect();
                Node { name: name(i), counts, refusals: 0.0, since: start, phase, last: None }
            })
            .collect();
        let missing = (nodes.max(1) - absent..nodes).map(name).collect();
        Self { random, elapsed: 0.0, nodes: nodes_made, missing }
    }

    /// The cluster that much later.
    pub fn next(&mut self, step: Duration) -> Sample {
        let seconds = step.as_secs_f64();
        self.elapsed += seconds;
        let now = at(self.elapsed);
        let mut sample = Sample::default();
        let all = self.nodes.len();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            node.count(i, self.elapsed, seconds, &mut self.random);
            // One agent is restarted with new maps, one does not report for a while.
            if i == 2 && passes(self.elapsed, seconds, 200.0, 30.0) {
                node.counts.iter_mut().for_each(|c| *c = Count::default());
                node.refusals = 0.0;
                node.since = now;
            }
            let silent = i == 4 && (40.0..60.0).contains(&self.elapsed.rem_euclid(120.0));
            match (&node.last, silent) {
                (Some(last), true) => sample.stale.push(last.clone()),
                _ => {
                    let said = node.answer(i, all, self.elapsed, now);
                    node.last = (i == 4).then(|| said.clone());
                    sample.nodes.push(said);
                }
            }
        }
        sample.coverage = Coverage {
            fresh: sample.nodes.len() as u32,
            stale: sample.stale.len() as u32,
            missing: self.missing.clone(),
        };
        sample
    }

    /// The time on its clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        at(self.elapsed)
    }
}

fn at(elapsed: f64) -> Timestamp {
    let start = Timestamp::from_second(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
    start.saturating_add(SignedDuration::from_millis((elapsed * 1000.0) as i64)).unwrap_or(start)
}

/// Does something that happens at `offset` of every `period` seconds happen in the last `step` of them?
fn passes(elapsed: f64, step: f64, period: f64, offset: f64) -> bool {
    let turns = |t: f64| ((t - offset) / period).floor();
    turns(elapsed) > turns(elapsed - step)
}

fn without_backend(s: &Script, node: usize, elapsed: f64) -> bool {
    match s.trouble {
        Trouble::SomeNodes => node % 7 == 3,
        Trouble::Outage => node.is_multiple_of(3) && (90.0..150.0).contains(&elapsed.rem_euclid(240.0)),
        Trouble::WrongSelector => true,
        _ => false,
    }
}

impl Node {
    fn count(&mut self, index: usize, elapsed: f64, seconds: f64, random: &mut Random) {
        for (s, count) in SCRIPTS.iter().zip(&mut self.counts) {
            let wave = 1.0 + 0.4 * (TAU * (elapsed / s.swing + self.phase * 0.2)).sin();
            let burst = match s.trouble {
                Trouble::Bursts if elapsed.rem_euclid(75.0) < BURST => 2.2,
                _ => 1.0,
            };
            let offered = s.offered * wave * burst * (0.85 + 0.3 * random.unit());
            if without_backend(s, index, elapsed) {
                count.fallbacks += offered * seconds;
                continue;
            }
            let limit = if s.limit == 0 { f64::INFINITY } else { f64::from(s.limit) };
            count.taken += offered.min(limit) * seconds;
            count.qos_drops += (offered - limit).max(0.0) * seconds;
        }
        if index % 5 == 1 {
            self.refusals += (1.0 + 0.4 * random.unit()) * seconds;
        }
    }

    fn answer(&self, index: usize, nodes: usize, elapsed: f64, now: Timestamp) -> NodeSample {
        let mut policies = Vec::new();
        let mut frontends = Vec::new();
        let mut counters = Counters {
            since: self.since,
            taken_at: now,
            policies: Vec::new(),
            frontends: Vec::new(),
            backends: Vec::new(),
            events: EventCounters { produced: (elapsed * 900.0) as u64, lost: 0 },
        };
        for (s, count) in SCRIPTS.iter().zip(&self.counts) {
            let empty = without_backend(s, index, elapsed);
            policies.push(status(s, index, &self.name, empty));
            for frontend in claimed(s) {
                frontends.push(ladder(s, frontend, index, &self.name, empty));
            }
            count_of(s, count, index, &mut counters);
        }
        // A Service without endpoints, which some clients keep dialling.
        let nobody = Frontend::new(v4(10, 96, 0, 40), 80, Protocol::Tcp);
        frontends.push(FrontendInfo {
            frontend: nobody,
            scope: "Any".to_owned(),
            rungs: vec![service(Some("web/nobody"), vec![])],
            otherwise: Otherwise::Refuse,
        });
        counters.frontends.push(FrontendCounters {
            frontend: nobody,
            redirects: 0,
            balanced: 0,
            resolved: 0,
            qos_drops: 0,
            refusals: self.refusals as u64,
        });
        frontends.sort_by_key(|f| f.frontend);
        counters.frontends.sort_by_key(|f| f.frontend);
        NodeSample {
            status: self.status(index, nodes, policies),
            frontends: FrontendList { view: "programmed".to_owned(), items: frontends },
            counters,
        }
    }

    fn status(&self, index: usize, nodes: usize, policies: Vec<PolicyStatus>) -> NodeStatus {
        let detached = nodes > 8 && index == 7;
        let start = at(-BEFORE);
        let condition = |type_: &str, met: bool, reason: &str, message: &str| Condition {
            type_: type_.to_owned(),
            status: if met { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: start,
        };
        let attached = match detached {
            false => condition(condition::PROGRAMS_ATTACHED, true, reason::ATTACHED, ""),
            true => condition(
                condition::PROGRAMS_ATTACHED,
                false,
                reason::DETACHED,
                "sendmsg6 has no program of this agent: somebody detached it",
            ),
        };
        let programs = balancing_datapath::HOOKS.iter().map(|hook| ProgramInfo {
            hook: (*hook).to_owned(),
            attached: !(detached && *hook == "sendmsg6"),
            program_id: 812,
            others: 0,
        });
        let fill = if index == 5 { 60_900 } else { 2_100 + index as u64 % 50 };
        NodeStatus {
            node: NodeInfo {
                name: self.name.clone(),
                addresses: vec![v4(10, 10, (index / 250) as u8, (index % 250) as u8 + 1)],
                source: "kubernetes".to_owned(),
            },
            agent: AgentInfo {
                version: if index == 1 { "0.0.9" } else { "0.1.0" }.to_owned(),
                started_at: self.since,
                default_redirects_per_second: 0,
                exempt_pods: Vec::new(),
            },
            kernel: KernelInfo {
                release: "6.12.30".to_owned(),
                features: KernelFeatures { set_retval: true, socket_storage: true, socket_destroy: true },
            },
            datapath: DatapathInfo {
                cgroup_root: "/sys/fs/cgroup".to_owned(),
                bpffs: "/sys/fs/bpf".to_owned(),
                layout_version: 1,
                programs: programs.collect(),
                maps: vec![
                    MapInfo { name: "frontends".to_owned(), entries: 10, capacity: 65_536 },
                    MapInfo { name: "backends".to_owned(), entries: fill, capacity: 65_536 },
                ],
            },
            conditions: vec![
                attached,
                condition(condition::SOURCES_SYNCED, true, reason::SYNCED, ""),
                condition(condition::POLICIES_PROGRAMMED, true, reason::PROGRAMMED, ""),
                condition(condition::ERRNO_FIDELITY, true, reason::NATIVE, ""),
                condition(
                    condition::READY,
                    !detached,
                    if detached { reason::DETACHED } else { reason::READY },
                    "",
                ),
            ],
            policies,
            source_errors: Vec::new(),
            sources: Vec::new(),
        }
    }
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::from([a, b, c, d])
}

fn claimed(s: &Script) -> impl Iterator<Item = Frontend> + '_ {
    let addresses = s.addresses.iter().filter_map(|a| a.parse().ok());
    addresses.flat_map(move |a: IpAddr| s.protocols.iter().map(move |p| Frontend::new(a, s.port, *p)))
}

/// Its pod on a node, or what it is balanced to.
fn backends(s: &Script, index: usize, node: &str) -> Vec<BackendInfo> {
    match s.kind {
        PolicyKind::BalancingPolicy => [10, 11, 12]
            .map(|d| BackendInfo { address: v4(192, 0, 2, d), port: 8443, pod: None, node: None })
            .to_vec(),
        PolicyKind::LocalRedirectPolicy => vec![BackendInfo {
            address: pod_address(s, index),
            port: s.port,
            pod: Some(pod_name(s, index)),
            node: Some(node.to_owned()),
        }],
    }
}

fn pod_address(s: &Script, index: usize) -> IpAddr {
    v4(10, 128 + (index / 250) as u8, (index % 250) as u8, (s.id % 250) as u8)
}

fn pod_name(s: &Script, index: usize) -> String {
    format!("kube-system/{}-{:05x}", s.name, (index as u32 + 1).wrapping_mul(s.id) & 0xf_ffff)
}

fn service(name: Option<&str>, backends: Vec<BackendInfo>) -> RungInfo {
    RungInfo {
        rung: RungKind::Service,
        policy: None,
        redirects_per_second: None,
        service: name.map(str::to_owned),
        service_port: Some(String::new()),
        affinity_seconds: None,
        backends,
    }
}

fn ladder(s: &Script, frontend: Frontend, index: usize, node: &str, empty: bool) -> FrontendInfo {
    let redirect = s.kind == PolicyKind::LocalRedirectPolicy;
    let mut rungs = vec![RungInfo {
        rung: if redirect { RungKind::Redirect } else { RungKind::Balance },
        policy: Some(PolicyRef::new(s.kind, s.name)),
        redirects_per_second: redirect.then_some(s.limit),
        service: None,
        service_port: None,
        affinity_seconds: None,
        backends: if empty { vec![] } else { backends(s, index, node) },
    }];
    if s.service.is_some() {
        let far = |d: u8| BackendInfo {
            address: v4(10, 200, (s.id % 250) as u8, d),
            port: s.port,
            pod: None,
            node: None,
        };
        rungs.push(service(s.service, vec![far(3), far(4)]));
    }
    let otherwise = if s.service.is_some() { Otherwise::Refuse } else { Otherwise::Untouched };
    FrontendInfo { frontend, scope: "Any".to_owned(), rungs, otherwise }
}

fn status(s: &Script, index: usize, node: &str, empty: bool) -> PolicyStatus {
    let (state, reason, message) = match s.trouble {
        Trouble::Conflict => (
            PolicyState::Conflicted,
            reason::FRONTEND_CONFLICT,
            "10.96.0.10:53/TCP is held by LocalRedirectPolicy/node-local-dns: it is older; 10.96.0.10:53/UDP is held by \
             LocalRedirectPolicy/node-local-dns: it is older"
                .to_owned(),
        ),
        Trouble::NoService => (
            PolicyState::Fallback,
            reason::SERVICE_NOT_FOUND,
            format!("Service {} does not exist", s.service.unwrap_or_default()),
        ),
        Trouble::Outage if empty => (
            PolicyState::Fallback,
            reason::NO_LOCAL_BACKEND,
            format!(
                "selector {} matches no usable pod on node {node}: {} is NotReady: normal resolution",
                s.selector,
                pod_name(s, index)
            ),
        ),
        _ if empty => (
            PolicyState::Fallback,
            reason::NO_LOCAL_BACKEND,
            format!("selector {} matches no pod on node {node}: normal resolution", s.selector),
        ),
        _ => (PolicyState::Programmed, reason::PROGRAMMED, String::new()),
    };
    let has = if state == PolicyState::Programmed { backends(s, index, node).len() as u32 } else { 0 };
    let local =
        s.kind == PolicyKind::LocalRedirectPolicy && (has > 0 || (empty && s.trouble == Trouble::Outage));
    let pods = if local {
        let reason = if has > 0 { "Ready" } else { "NotReady" };
        vec![WantedPod { pod: pod_name(s, index), usable: has > 0, reason: reason.to_owned() }]
    } else {
        Vec::new()
    };
    PolicyStatus {
        kind: s.kind,
        name: s.name.to_owned(),
        id: s.id,
        generation: if s.trouble == Trouble::Bursts && index != 1 { 2 } else { 1 },
        created: Some(at(-s.age)),
        state,
        reason: reason.to_owned(),
        message,
        frontends: claimed(s).collect(),
        backends: BackendCount { wanted: has, programmed: has },
        redirects_per_second: s.limit,
        exempt_callers: ExemptCallers { pods: u32::from(local), active: u32::from(local) },
        wanted: WantedPolicy {
            service: s.service.map(str::to_owned),
            address: if s.service.is_none() { s.addresses.first().map(|a| (*a).to_owned()) } else { None },
            selector: s.selector.to_owned(),
            on_no_backend: "Fallback".to_owned(),
            pods,
            ..WantedPolicy::default()
        },
    }
}

/// The counters of a policy, its frontends and backends. Parts are taken so that none of them ever goes down.
fn count_of(s: &Script, count: &Count, index: usize, counters: &mut Counters) {
    let frontends: Vec<Frontend> = claimed(s).collect();
    if frontends.is_empty() {
        return;
    }
    let (taken, drops, fell) = (count.taken as u64, count.qos_drops as u64, count.fallbacks as u64);
    let redirect = s.kind == PolicyKind::LocalRedirectPolicy;
    let (redirects, balanced) = if redirect { (taken, 0) } else { (0, taken) };
    let policy = PolicyRef::new(s.kind, s.name);
    let owner = policy.to_string();
    let fallbacks = if fell == 0 {
        BTreeMap::new()
    } else {
        BTreeMap::from([(rung_reason::NO_LOCAL_BACKEND.to_owned(), fell)])
    };
    counters.policies.push(PolicyCounters {
        policy,
        redirects,
        balanced,
        qos_drops: drops,
        fallbacks,
        refusals: 0,
    });
    // The last frontend (UDP, where there are two) has five parts of six.
    let last = frontends.len() - 1;
    let part = |all: u64, i: usize| match (last, i == last) {
        (0, _) => all,
        (_, true) => all - all / 6,
        (_, false) => all / 6,
    };
    for (i, frontend) in frontends.into_iter().enumerate() {
        counters.frontends.push(FrontendCounters {
            frontend,
            redirects: part(redirects, i),
            balanced: part(balanced, i),
            resolved: if s.service.is_some() { part(drops, i) + part(fell, i) } else { 0 },
            qos_drops: part(drops, i),
            refusals: 0,
        });
        let chosen = backends(s, index, "");
        let all = chosen.len() as u64;
        for (n, b) in chosen.into_iter().enumerate() {
            let n = n as u64;
            // One after the other: the first has one more where it does not go up evenly.
            let selected = (part(taken, i) + all - 1 - n) / all;
            if selected > 0 {
                counters.backends.push(BackendCounters {
                    address: b.address,
                    port: b.port,
                    protocol: frontend.protocol,
                    owner: owner.clone(),
                    selected,
                });
            }
        }
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_cluster() {
        let run = |seed| {
            let mut demo = Demo::new(seed, 12);
            (0..5).map(|_| demo.next(Duration::from_secs(2))).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn it_has_as_many_nodes_as_it_should() {
        for nodes in [1, 2, 3, 12, 300] {
            let sample = Demo::new(1, nodes).next(Duration::from_secs(1));
            let coverage = &sample.coverage;
            let all = coverage.fresh + coverage.stale + coverage.missing.len() as u32;
            assert_eq!((all, sample.nodes.len()), (nodes, coverage.fresh as usize));
        }
    }

    /// What an agent promises of its counters (contract.md §1).
    #[test]
    fn no_counter_goes_down_while_since_stays() {
        let mut demo = Demo::new(3, 9);
        let mut before: HashMap<(String, String), (Timestamp, u64)> = HashMap::new();
        for _ in 0..300 {
            for node in demo.next(Duration::from_secs(1)).nodes {
                let c = &node.counters;
                let mut check = |what: String, value: u64| {
                    let key = (node.status.node.name.clone(), what);
                    if let Some((since, earlier)) = before.insert(key.clone(), (c.since, value)) {
                        assert!(since != c.since || value >= earlier, "{key:?}: {earlier} to {value}");
                    }
                };
                for p in &c.policies {
                    check(p.policy.to_string(), p.redirects + p.balanced);
                    check(format!("{} drops", p.policy), p.qos_drops);
                }
                for f in &c.frontends {
                    check(f.frontend.to_string(), f.redirects + f.balanced + f.resolved);
                }
                for b in &c.backends {
                    check(format!("{}:{} {} {}", b.address, b.port, b.protocol, b.owner), b.selected);
                }
            }
        }
    }

    /// Whoever looks for ten seconds has seen everything that can become of a connection.
    #[test]
    fn all_kinds_are_there_from_the_first_frames() {
        for (seed, step) in [(1, 1), (1, 2), (7, 2)] {
            let mut demo = Demo::new(seed, 12);
            let mut before = demo.next(Duration::from_secs(step));
            for _ in 0..8 / step {
                let board = crate::sample::Board::new(demo.next(Duration::from_secs(step)), Some(&before));
                let rates = board.policies.iter().filter_map(|p| p.rates.as_ref());
                let sum =
                    |of: fn(&balancing_api::cli::PolicyRates) -> f64| rates.clone().map(of).sum::<f64>();
                let frontends = board.frontends.iter().filter_map(|f| f.rates);
                for (kind, rate) in [
                    ("redirected", sum(|r| r.redirects)),
                    ("balanced", sum(|r| r.balanced)),
                    ("QoS drops", sum(|r| r.qos_drops)),
                    ("fallbacks", sum(|r| r.fallbacks.values().sum())),
                    ("refused", frontends.clone().map(|r| r.refusals).sum()),
                    ("to Services", frontends.map(|r| r.resolved).sum()),
                ] {
                    assert!(rate > 0.0, "{kind} with seed {seed} at {}", demo.elapsed);
                }
                before = board.sample;
            }
        }
    }

    #[test]
    fn a_node_goes_silent_and_one_begins_again() {
        let mut demo = Demo::new(1, 12);
        let mut silent = 0;
        let mut since = std::collections::BTreeSet::new();
        for _ in 0..120 {
            let sample = demo.next(Duration::from_secs(1));
            silent += sample.coverage.stale;
            since.extend(sample.nodes.iter().map(|n| n.counters.since));
        }
        assert_eq!(silent, 20);
        assert_eq!(since.len(), 2);
    }
}
