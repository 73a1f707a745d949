//! The rows of `top nodes`. A node that does not answer has a row too: its absence is the finding. Pure.

use balancing_api::{
    agent::{BackendCount, NodeStatus, PolicyCounters, PolicyState},
    cli::{NodeRates, NodeState, NodeTopItem},
    names::condition,
};
use jiff::Timestamp;

use crate::{
    cluster::facts::is_told_by_state,
    sample::{NodeSample, Sample, Span},
};

/// A row a node: what does not work first, then by name. `spans` are those of `sample.nodes`.
pub(crate) fn node_rows(sample: &Sample, spans: &[Option<Span<'_>>]) -> Vec<NodeTopItem> {
    let latest = sample.taken_at();
    let fresh = sample.nodes.iter().zip(spans).map(|(node, span)| {
        let mut row = row(node, latest);
        row.rates = span.as_ref().and_then(|s| rates(s, node));
        row
    });
    let stale = sample.stale.iter().map(|node| {
        let mut row = row(node, latest);
        row.state = NodeState::Stale;
        row.reason = "Stale".to_owned();
        row.message = if is_told_by_state(&node.status) {
            "its agent does not run: what is known of it is what it said last".to_owned()
        } else {
            "its agent has not reported in time; it is not in the sums".to_owned()
        };
        row
    });
    let missing = sample.coverage.missing.iter().map(|name| absent(name));
    let mut rows: Vec<NodeTopItem> = fresh.chain(stale).chain(missing).collect();
    rows.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
    rows
}

/// Conditions that are not met: `Ready` repeats the others, `EPERM` instead of `ECONNREFUSED` is no fault.
pub(crate) fn unmet(status: &NodeStatus) -> impl Iterator<Item = &balancing_api::agent::Condition> {
    status
        .conditions
        .iter()
        .filter(|c| c.status != "True" && c.type_ != condition::READY && c.type_ != condition::ERRNO_FIDELITY)
}

fn row(node: &NodeSample, latest: Timestamp) -> NodeTopItem {
    let (status, counters) = (&node.status, &node.counters);
    let unmet = unmet(status).next();
    let sum = |f: fn(&PolicyCounters) -> u64| counters.policies.iter().map(f).sum::<u64>();
    let wanted = status.policies.iter().filter(|p| p.state != PolicyState::NotSelected).count();
    let programmed = status.policies.iter().filter(|p| p.state == PolicyState::Programmed).count();
    let fullest = status
        .datapath
        .maps
        .iter()
        .filter(|m| m.capacity > 0)
        .map(|m| (m.entries as f64 / m.capacity as f64, m))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let programs = &status.datapath.programs;
    let by_agent = !is_told_by_state(status);
    NodeTopItem {
        name: status.node.name.clone(),
        state: if unmet.is_some() { NodeState::Degraded } else { NodeState::Ready },
        reason: unmet.map(|c| c.reason.clone()).unwrap_or_default(),
        message: unmet.map(|c| c.message.clone()).unwrap_or_default(),
        agent: Some(status.agent.version.clone()),
        kernel: Some(status.kernel.release.clone()),
        cgroup_root: by_agent.then(|| status.datapath.cgroup_root.clone()),
        default_redirects_per_second: by_agent.then_some(status.agent.default_redirects_per_second),
        policies: BackendCount { wanted: wanted as u32, programmed: programmed as u32 },
        programs: BackendCount {
            wanted: programs.len() as u32,
            programmed: programs.iter().filter(|p| p.attached).count() as u32,
        },
        map: fullest.map(|(_, m)| m.name.clone()),
        map_fill: fullest.map(|(fill, _)| fill),
        taken_at: by_agent.then_some(counters.taken_at),
        age: by_agent.then(|| latest.duration_since(counters.taken_at).as_secs_f64().max(0.0)),
        started_at: by_agent.then_some(status.agent.started_at),
        redirects: sum(|c| c.redirects),
        balanced: sum(|c| c.balanced),
        qos_drops: sum(|c| c.qos_drops),
        fallbacks: sum(|c| c.fallbacks.values().sum()),
        refusals: counters.frontends.iter().map(|f| f.refusals).sum(),
        lost: counters.events.lost,
        rates: None,
    }
}

fn absent(name: &str) -> NodeTopItem {
    NodeTopItem {
        name: name.to_owned(),
        state: NodeState::Missing,
        reason: "Missing".to_owned(),
        message: "its agent never reported: does it run there?".to_owned(),
        agent: None,
        kernel: None,
        cgroup_root: None,
        default_redirects_per_second: None,
        policies: BackendCount::default(),
        programs: BackendCount::default(),
        map: None,
        map_fill: None,
        taken_at: None,
        age: None,
        started_at: None,
        redirects: 0,
        balanced: 0,
        qos_drops: 0,
        fallbacks: 0,
        refusals: 0,
        lost: 0,
        rates: None,
    }
}

/// Sums over the policies of the node. What began again, or went, is not in them for a tick.
fn rates(span: &Span<'_>, node: &NodeSample) -> Option<NodeRates> {
    let mut sum = NodeRates::default();
    for now in &node.counters.policies {
        let Some(r) = span.policy(&now.policy, Some(now)) else { continue };
        sum.redirects += r.redirects;
        sum.balanced += r.balanced;
        sum.qos_drops += r.qos_drops;
        sum.fallbacks += r.fallbacks.values().fold(0.0, |a, b| a + b);
    }
    for now in &node.counters.frontends {
        if let Some(r) = span.frontend(now.frontend, Some(now)) {
            sum.refusals += r.refusals;
        }
    }
    sum.lost = span.lost(node.counters.events.lost)?;
    Some(sum)
}
