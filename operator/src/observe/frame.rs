//! What a viewer sees: the nodes one by one, as many as were asked for, the others added up. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use balancing_api::{
    agent::{
        AgentInfo, BackendInfo, Counters, DatapathInfo, EventCounters, FrontendInfo, FrontendList,
        KernelFeatures, KernelInfo, NodeInfo, NodeStatus, PolicyState, PolicyStatus, RungInfo,
    },
    cli::{Coverage, NodeCount},
    names::condition,
    net::Frontend,
    policy::PolicyRef,
    recording::{RecordedNode, RecordingFrame},
    stream::{LeftOut, OTHER_NODES, ObserveFrame, OtherNodes, OtherNodesPolicy},
};
use jiff::Timestamp;

use super::{
    hub::{Reported, Seen, Versions},
    query::Query,
};

/// Backends of a rung that are told where nodes are added up.
const BACKENDS_TOLD: usize = 100;

/// What a viewer has been sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    nodes: HashMap<String, Versions>,
    /// Nodes that are told one by one: those that were stay so, so that rates have something to stand on.
    shown: BTreeSet<String>,
    others: Option<Others>,
}

/// The nodes that are told as one.
#[derive(Debug)]
struct Others {
    names: BTreeSet<String>,
    /// Since when it is these.
    since: Timestamp,
    status: NodeStatus,
    frontends: FrontendList,
}

/// The next frame of a viewer. `all` are the nodes that have said something, by name; `nodes` those of the cluster.
pub(super) fn frame(
    query: &Query,
    all: &[Seen],
    nodes: &[Arc<str>],
    sent: &mut Sent,
    time: Timestamp,
) -> ObserveFrame {
    let wanted = |name: &str| query.node.as_deref().is_none_or(|only| only == name);
    let known: BTreeSet<&str> = all.iter().map(|seen| seen.name.as_str()).collect();
    let missing = nodes.iter().map(|n| &**n).filter(|n| wanted(n) && !known.contains(n));
    let missing = missing.map(str::to_owned).collect();
    let (fresh, stale): (Vec<&Seen>, Vec<&Seen>) =
        all.iter().filter(|seen| wanted(&seen.name)).partition(|seen| seen.fresh);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let coverage = Coverage { fresh: count(fresh.len()), stale: count(stale.len()), missing };

    choose(&fresh, query.limit, &mut sent.shown);
    let (told, others): (Vec<&Seen>, Vec<&Seen>) =
        fresh.into_iter().partition(|seen| sent.shown.contains(&seen.name));
    let mut left_out = LeftOut::default();
    for seen in told.iter().chain(&others) {
        left_out.add(seen.reported.left_out);
    }
    let stale = stale.into_iter().take(query.limit);
    let mut recorded: Vec<RecordedNode> =
        told.into_iter().chain(stale).map(|seen| record(seen, query, &mut sent.nodes)).collect();
    let summed = sum(&others, query, &mut sent.others, time);
    let others = summed.map(|(node, others)| {
        recorded.push(node);
        others
    });
    let names: BTreeSet<&str> = recorded.iter().map(|node| node.name.as_str()).collect();
    let mut gone: Vec<String> =
        sent.nodes.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
    gone.sort();
    for name in &gone {
        sent.nodes.remove(name);
    }
    let frame = RecordingFrame { time, coverage, nodes: recorded, error: None };
    ObserveFrame { frame, gone, others, left_out }
}

/// Which nodes are told one by one: those with something wrong, those that were, then the busiest.
fn choose(fresh: &[&Seen], limit: usize, shown: &mut BTreeSet<String>) {
    if fresh.len() <= limit {
        *shown = fresh.iter().map(|seen| seen.name.clone()).collect();
        return;
    }
    let mut order: Vec<_> = fresh
        .iter()
        .map(|seen| {
            let status = &seen.reported.status;
            (
                !troubled(status),
                !shown.contains(&seen.name),
                Reverse(traffic(&seen.reported.counters)),
                &seen.name,
            )
        })
        .collect();
    order.sort();
    *shown = order.into_iter().take(limit).map(|(.., name)| name.clone()).collect();
}

/// Is something wrong with the node, or with a policy on it?
fn troubled(status: &NodeStatus) -> bool {
    let unmet =
        |c: &balancing_api::agent::Condition| c.status != "True" && c.type_ != condition::ERRNO_FIDELITY;
    status.conditions.iter().any(unmet)
        || status.policies.iter().any(|p| p.state.severity() < PolicyState::Fallback.severity())
}

fn traffic(counters: &Counters) -> u64 {
    counters.policies.iter().map(|c| c.redirects + c.balanced + c.qos_drops).sum()
}

/// A node by itself: only what its viewer has not been sent.
fn record(seen: &Seen, query: &Query, sent: &mut HashMap<String, Versions>) -> RecordedNode {
    let Reported { status, frontends, counters, versions, .. } = &seen.reported;
    let before = sent.insert(seen.name.clone(), *versions);
    let new = |part: fn(&Versions) -> u64| before.is_none_or(|b| part(&b) != part(versions));
    let held = held(status, query.policy.as_ref());
    RecordedNode {
        name: seen.name.clone(),
        stale: !seen.fresh,
        status: new(|v| v.status).then(|| status_of(status, query.policy.as_ref())),
        // Which frontends are a policy's follows from the status.
        frontends: (new(|v| v.frontends) || (query.policy.is_some() && new(|v| v.status)))
            .then(|| frontends_of(frontends, held.as_ref())),
        counters: new(|v| v.counters).then(|| counters_of(counters, query.policy.as_ref(), held.as_ref())),
    }
}

/// The frontends of the one policy that is asked for.
fn held(status: &NodeStatus, only: Option<&PolicyRef>) -> Option<BTreeSet<Frontend>> {
    let only = only?;
    let is = |p: &&PolicyStatus| p.kind == only.kind && p.name == only.name;
    Some(status.policies.iter().find(is).map(|p| p.frontends.iter().copied().collect()).unwrap_or_default())
}

fn status_of(status: &NodeStatus, only: Option<&PolicyRef>) -> NodeStatus {
    let mut status = status.clone();
    if let Some(only) = only {
        status.policies.retain(|p| p.kind == only.kind && p.name == only.name);
    }
    status
}

fn frontends_of(list: &FrontendList, held: Option<&BTreeSet<Frontend>>) -> FrontendList {
    let wanted = |f: &&FrontendInfo| held.is_none_or(|held| held.contains(&f.frontend));
    FrontendList { view: list.view.clone(), items: list.items.iter().filter(wanted).cloned().collect() }
}

fn counters_of(counters: &Counters, only: Option<&PolicyRef>, held: Option<&BTreeSet<Frontend>>) -> Counters {
    let mut counters = counters.clone();
    if let Some(only) = only {
        let owner = only.to_string();
        counters.policies.retain(|c| c.policy == *only);
        counters.backends.retain(|c| c.owner == owner);
        counters.frontends.retain(|c| held.is_none_or(|held| held.contains(&c.frontend)));
    }
    counters
}

/// The nodes that are not told one by one, as one.
fn sum(
    others: &[&Seen],
    query: &Query,
    sent: &mut Option<Others>,
    time: Timestamp,
) -> Option<(RecordedNode, OtherNodes)> {
    let Some(first) = others.first() else {
        *sent = None;
        return None;
    };
    let names: BTreeSet<String> = others.iter().map(|seen| seen.name.clone()).collect();
    let since = sent.as_ref().filter(|o| o.names == names).map_or(time, |o| o.since);
    let reports = || others.iter().map(|seen| &seen.reported);
    let status = summed_status(&first.reported.status, reports().map(|r| &*r.status), query.policy.as_ref());
    let held = held(&status, query.policy.as_ref());
    let frontends = frontends_of(&summed_frontends(reports().map(|r| &*r.frontends)), held.as_ref());
    // Counters of another set of nodes are other counters: they began when the set did.
    let mut counters = summed_counters(reports().map(|r| &*r.counters), since);
    counters = counters_of(&counters, query.policy.as_ref(), held.as_ref());
    let wanted = |p: &&PolicyStatus| {
        query.policy.as_ref().is_none_or(|only| p.kind == only.kind && p.name == only.name)
    };
    let mut counts: BTreeMap<PolicyRef, NodeCount> = BTreeMap::new();
    for policy in reports().flat_map(|r| &r.status.policies).filter(wanted) {
        let count = counts.entry(PolicyRef::new(policy.kind, policy.name.clone())).or_default();
        count.wanted += u32::from(policy.state != PolicyState::NotSelected);
        count.programmed += u32::from(policy.state == PolicyState::Programmed);
    }
    let policies = counts.into_iter().map(|(policy, nodes)| OtherNodesPolicy { policy, nodes }).collect();
    let told = OtherNodes { nodes: u32::try_from(others.len()).unwrap_or(u32::MAX), policies };
    let before = sent.as_ref();
    let node = RecordedNode {
        name: OTHER_NODES.to_owned(),
        stale: false,
        status: before.is_none_or(|o| o.status != status).then(|| status.clone()),
        frontends: before.is_none_or(|o| o.frontends != frontends).then(|| frontends.clone()),
        counters: Some(counters),
    };
    *sent = Some(Others { names, since, status, frontends });
    Some((node, told))
}

fn summed_status<'a>(
    first: &NodeStatus,
    all: impl Iterator<Item = &'a NodeStatus>,
    only: Option<&PolicyRef>,
) -> NodeStatus {
    let mut policies: BTreeMap<PolicyRef, PolicyStatus> = BTreeMap::new();
    for policy in all.flat_map(|status| &status.policies) {
        let reference = PolicyRef::new(policy.kind, policy.name.clone());
        if only.is_some_and(|only| *only != reference) {
            continue;
        }
        match policies.get_mut(&reference) {
            Some(sum) => sum.join(policy),
            None => drop(policies.insert(reference, policy.clone())),
        }
    }
    NodeStatus {
        node: NodeInfo {
            name: OTHER_NODES.to_owned(),
            addresses: Vec::new(),
            source: first.node.source.clone(),
        },
        agent: AgentInfo { version: String::new(), exempt_pods: Vec::new(), ..first.agent.clone() },
        kernel: KernelInfo { release: String::new(), features: KernelFeatures::default() },
        datapath: DatapathInfo {
            cgroup_root: String::new(),
            bpffs: String::new(),
            layout_version: first.datapath.layout_version,
            programs: Vec::new(),
            maps: Vec::new(),
        },
        conditions: Vec::new(),
        policies: policies.into_values().collect(),
        source_errors: Vec::new(),
        sources: Vec::new(),
    }
}

/// A rung of several nodes, and the backends it has on any of them.
type Rung = (RungInfo, BTreeSet<BackendInfo>);

fn summed_frontends<'a>(all: impl Iterator<Item = &'a FrontendList>) -> FrontendList {
    let mut sums: BTreeMap<(Frontend, &str), (&FrontendInfo, Vec<Rung>)> = BTreeMap::new();
    for item in all.flat_map(|list| &list.items) {
        let (_, rungs) = sums.entry((item.frontend, &item.scope)).or_insert((item, Vec::new()));
        for rung in &item.rungs {
            let is = |(r, _): &&mut (RungInfo, _)| {
                r.rung == rung.rung && r.policy == rung.policy && r.service == rung.service
            };
            let backends = match rungs.iter_mut().find(is) {
                Some((_, backends)) => backends,
                None => {
                    rungs.push((RungInfo { backends: Vec::new(), ..rung.clone() }, BTreeSet::new()));
                    match rungs.last_mut() {
                        Some((_, backends)) => backends,
                        None => continue,
                    }
                }
            };
            let room = BACKENDS_TOLD.saturating_sub(backends.len());
            backends.extend(rung.backends.iter().take(room).cloned());
        }
    }
    let item = |(item, rungs): (&FrontendInfo, Vec<(RungInfo, BTreeSet<BackendInfo>)>)| FrontendInfo {
        frontend: item.frontend,
        scope: item.scope.clone(),
        rungs: rungs
            .into_iter()
            .map(|(rung, backends)| RungInfo { backends: backends.into_iter().collect(), ..rung })
            .collect(),
        otherwise: item.otherwise,
    };
    FrontendList { view: "programmed".to_owned(), items: sums.into_values().map(item).collect() }
}

fn summed_counters<'a>(all: impl Iterator<Item = &'a Counters>, since: Timestamp) -> Counters {
    let (mut policies, mut frontends, mut backends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut sum = Counters {
        since,
        taken_at: Timestamp::UNIX_EPOCH,
        policies: Vec::new(),
        frontends: Vec::new(),
        backends: Vec::new(),
        events: EventCounters::default(),
    };
    for counters in all {
        sum.since = sum.since.max(counters.since);
        sum.taken_at = sum.taken_at.max(counters.taken_at);
        sum.events.produced += counters.events.produced;
        sum.events.lost += counters.events.lost;
        add(
            &mut policies,
            &counters.policies,
            |c| c.policy.clone(),
            |sum, c| {
                sum.redirects += c.redirects;
                sum.balanced += c.balanced;
                sum.qos_drops += c.qos_drops;
                sum.refusals += c.refusals;
                for (reason, n) in &c.fallbacks {
                    *sum.fallbacks.entry(reason.clone()).or_default() += n;
                }
            },
        );
        add(
            &mut frontends,
            &counters.frontends,
            |c| c.frontend,
            |sum, c| {
                sum.redirects += c.redirects;
                sum.balanced += c.balanced;
                sum.resolved += c.resolved;
                sum.qos_drops += c.qos_drops;
                sum.refusals += c.refusals;
            },
        );
        let key =
            |c: &balancing_api::agent::BackendCounters| (c.address, c.port, c.protocol, c.owner.clone());
        add(&mut backends, &counters.backends, key, |sum, c| sum.selected += c.selected);
    }
    sum.policies = policies.into_values().collect();
    sum.frontends = frontends.into_values().collect();
    sum.backends = backends.into_values().collect();
    sum
}

fn add<T: Clone, K: Ord + Hash>(
    sums: &mut BTreeMap<K, T>,
    rows: &[T],
    key: impl Fn(&T) -> K,
    plus: impl Fn(&mut T, &T),
) {
    for row in rows {
        match sums.entry(key(row)) {
            std::collections::btree_map::Entry::Occupied(mut sum) => plus(sum.get_mut(), row),
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(row.clone())),
        }
    }
}
