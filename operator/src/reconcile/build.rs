//! The status that follows: from the verdicts and from what the nodes say. Pure; times are put on at the end.

use balancing_api::{
    agent::PolicyState,
    names::{condition, reason},
    policy::{MAX_PROBLEM_NODES, PolicyNodes, PolicyObjectStatus, ProblemNode},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    dereference::{Dereferenced, NodeSays, Says},
    validate::{Judged, Verdict},
};
use crate::{objects::Report, world::is_redirect};

/// State and reason of a node that has not said anything about the policy as it is now.
const PENDING: &str = "Pending";
/// Bytes of a condition's message, at most.
const MAX_MESSAGE: usize = 1024;
/// Bytes of what a node says of a policy, in the policy's status.
const MAX_NODE_MESSAGE: usize = 256;
/// Nodes named in a condition's message.
const NODES_NAMED: usize = 3;

/// How the nodes are.
#[derive(Clone, Debug, Default)]
struct Tally<'w> {
    nodes: PolicyNodes,
    conflicted: u32,
    failed: Vec<(&'w str, &'w Report)>,
    idle: Vec<(&'w str, &'w Report)>,
    lost: Vec<&'w str>,
    pending: Vec<&'w str>,
}

impl<'w> Tally<'w> {
    fn new(of: &Dereferenced<'w>, judged: &Judged) -> Self {
        let mut tally = Self::default();
        for NodeSays { slot, node, says } in &of.said {
            tally.nodes.selected += 1;
            // The operator knows of a conflict before the node says so, and of its end.
            if judged.lost.has(*slot) {
                tally.conflicted += 1;
                tally.lost.push(node);
                continue;
            }
            match says {
                Says::Effective => {
                    tally.nodes.programmed += 1;
                    tally.nodes.effective += 1;
                }
                Says::Idle(report) => {
                    tally.nodes.programmed += 1;
                    tally.nodes.degraded += 1;
                    tally.idle.push((node, report));
                }
                Says::Failed(report) => {
                    tally.nodes.failed += 1;
                    tally.failed.push((node, report));
                }
                Says::Conflicted | Says::Nothing => {
                    tally.nodes.pending += 1;
                    tally.pending.push(node);
                }
            }
        }
        tally
    }

    /// The first nodes by name that are not as they should be: what failed, what falls back, what another holds, what
    /// is not known.
    fn problems(mut self, winner: &str) -> (Vec<ProblemNode>, u32) {
        let reported = |state: PolicyState, (node, report): (&str, &Report)| ProblemNode {
            node: node.to_owned(),
            state,
            reason: report.reason.to_string(),
            message: cut(&report.message, MAX_NODE_MESSAGE),
        };
        let plain = |state: &str, reason: &str, message: &str, node: &str| ProblemNode {
            node: node.to_owned(),
            state: PolicyState::from(state),
            reason: reason.to_owned(),
            message: cut(message, MAX_NODE_MESSAGE),
        };
        self.failed.sort_by_key(|(node, _)| *node);
        self.idle.sort_by_key(|(node, _)| *node);
        self.lost.sort_unstable();
        self.pending.sort_unstable();
        let all = self.failed.len() + self.idle.len() + self.lost.len() + self.pending.len();
        let failed = self.failed.into_iter().map(|f| reported(f.1.state, f));
        let idle = self.idle.into_iter().map(|i| reported(PolicyState::Fallback, i));
        let lost = self.lost.into_iter().map(|n| plain("Conflicted", reason::FRONTEND_CONFLICT, winner, n));
        let pending = self.pending.into_iter().map(|n| plain(PENDING, reason::NODES_PENDING, "", n));
        let shown: Vec<_> = failed.chain(idle).chain(lost).chain(pending).take(MAX_PROBLEM_NODES).collect();
        let more = u32::try_from(all - shown.len()).unwrap_or(u32::MAX);
        (shown, more)
    }
}

/// The status of a policy. Of conditions that are as in `old` the time is kept, the others have `now`.
#[must_use]
pub fn build(
    of: &Dereferenced<'_>,
    judged: &Judged,
    old: &PolicyObjectStatus,
    now: Timestamp,
) -> PolicyObjectStatus {
    let tally = Tally::new(of, judged);
    let mut conditions = vec![(condition::ACCEPTED, Some(judged.accepted.met), judged.accepted.clone())];
    if let Some(conflicted) = &judged.conflicted {
        conditions.push((condition::CONFLICTED, Some(true), conflicted.clone()));
    }
    conditions.push(match &judged.references {
        Some(verdict) => (condition::RESOLVED_REFS, Some(verdict.met), verdict.clone()),
        None => {
            let verdict = Verdict::no(reason::RESOLVED_REFS, "not looked at: the spec is invalid");
            (condition::RESOLVED_REFS, None, verdict)
        }
    });
    let programmed = programmed(&tally, judged);
    conditions.push((condition::PROGRAMMED, Some(programmed.met), programmed));
    let effective = effective(of, &tally, judged);
    conditions.push((condition::EFFECTIVE, Some(effective.met), effective));
    let unmet = conditions.iter().find(|(_, met, _)| *met != Some(true));
    let ready = match unmet {
        Some((type_, _, verdict)) => Verdict::no(verdict.reason, format!("not {type_}: {}", verdict.message)),
        None => {
            Verdict::yes(reason::READY, conditions.last().map(|c| c.2.message.clone()).unwrap_or_default())
        }
    };
    conditions.push((condition::READY, Some(ready.met), ready));

    let nodes = tally.nodes;
    let winner = [Some(&judged.accepted), judged.conflicted.as_ref()];
    let winner = winner.into_iter().flatten().find(|v| v.reason != reason::ACCEPTED);
    let (problem_nodes, more_problem_nodes) = tally.problems(winner.map_or("", |v| &v.message));
    PolicyObjectStatus {
        observed_generation: Some(of.policy.generation),
        conditions: conditions
            .into_iter()
            .map(|(type_, met, verdict)| {
                let status = match met {
                    Some(true) => "True",
                    Some(false) => "False",
                    None => "Unknown",
                };
                let before = old.conditions.iter().find(|c| c.type_ == type_ && c.status == status);
                Condition {
                    type_: type_.to_owned(),
                    status: status.to_owned(),
                    reason: verdict.reason.to_owned(),
                    message: cut(&verdict.message, MAX_MESSAGE),
                    observed_generation: Some(of.policy.generation),
                    last_transition_time: before
                        .map_or_else(|| seconds(now), |c| c.last_transition_time.clone()),
                }
            })
            .collect(),
        programmed: format!("{}/{}", nodes.programmed, nodes.selected),
        effective: format!("{}/{}", nodes.effective, nodes.selected),
        nodes,
        problem_nodes,
        more_problem_nodes,
    }
}

/// The time in whole seconds, as Kubernetes stores it.
fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn programmed(tally: &Tally<'_>, judged: &Judged) -> Verdict {
    let nodes = &tally.nodes;
    let of = nodes.selected - tally.conflicted;
    if nodes.selected == 0 {
        return Verdict::no(
            reason::NO_NODE_SELECTED,
            "its node selector takes no node that has an agent or may get one",
        );
    }
    if let Some((node, report)) = tally.failed.iter().min_by_key(|(node, _)| *node) {
        let message = match (judged.accepted.met, &*report.message) {
            (_, "") => String::new(),
            (_, text) => format!(": {text}"),
        };
        let more = match nodes.failed - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let text = format!(
            "{} of {of} nodes have it; {node} does not ({}{message}){more}",
            nodes.programmed, report.reason
        );
        return Verdict::no(reason::SOME_NODES_FAILED, text);
    }
    if nodes.pending > 0 {
        let named = named(&tally.pending);
        return Verdict::no(
            reason::NODES_PENDING,
            format!("{} of {of} nodes have it; nothing yet from {named}", nodes.programmed),
        );
    }
    if of == 0 {
        return Verdict::no(
            reason::NO_NODE_SELECTED,
            "no selected node is left to it: another policy holds its frontends on each",
        );
    }
    Verdict::yes(reason::ALL_NODES_PROGRAMMED, format!("{} of {of} nodes have it", nodes.programmed))
}

fn effective(of: &Dereferenced<'_>, tally: &Tally<'_>, judged: &Judged) -> Verdict {
    let nodes = &tally.nodes;
    let redirect = is_redirect(of.policy.reference.kind);
    if nodes.effective > 0 {
        let verb = if redirect { "redirect" } else { "balance" };
        let rest = match tally.idle.as_slice() {
            [] => String::new(),
            idle => {
                let names: Vec<_> = idle.iter().map(|(node, _)| *node).collect();
                format!("; no usable backend on {}", named(&names))
            }
        };
        return Verdict::yes(
            reason::REDIRECTING,
            format!("{} of {} selected nodes {verb}{rest}", nodes.effective, nodes.selected),
        );
    }
    let why = if redirect { reason::NO_LOCAL_BACKEND } else { reason::NO_BACKEND };
    let message = if !judged.accepted.met {
        "it holds no frontend".to_owned()
    } else if let Some((node, report)) = tally.idle.iter().min_by_key(|(node, _)| *node) {
        let text = if report.message.is_empty() { &report.reason } else { &report.message };
        format!("nothing is redirected on any of {} selected nodes; on {node}: {text}", nodes.selected)
    } else {
        format!("no node of {} selected says that it redirects", nodes.selected)
    };
    Verdict::no(why, message)
}

/// `n1, n2, n3 and 7 more`
fn named(nodes: &[&str]) -> String {
    let mut sorted = nodes.to_vec();
    sorted.sort_unstable();
    let more = sorted.len().saturating_sub(NODES_NAMED);
    sorted.truncate(NODES_NAMED);
    match more {
        0 => sorted.join(", "),
        more => format!("{} and {more} more", sorted.join(", ")),
    }
}

/// The text, cut between characters where it is too long.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// Are two statuses the same but for times?
#[must_use]
pub fn same(a: &PolicyObjectStatus, b: &PolicyObjectStatus) -> bool {
    let timeless = |status: &PolicyObjectStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        status
    };
    timeless(a) == timeless(b)
}

/// The conditions whose status differs, with what they are now: `None` where one is gone.
#[must_use]
pub fn transitions<'s>(
    old: &'s PolicyObjectStatus,
    new: &'s PolicyObjectStatus,
) -> Vec<(&'s str, Option<&'s Condition>)> {
    let find = |all: &'s [Condition], type_: &str| all.iter().find(|c| c.type_ == type_);
    let changed = new
        .conditions
        .iter()
        .filter(|c| find(&old.conditions, &c.type_).is_none_or(|o| o.status != c.status));
    let gone = old.conditions.iter().filter(|c| find(&new.conditions, &c.type_).is_none());
    changed.map(|c| (c.type_.as_str(), Some(c))).chain(gone.map(|c| (c.type_.as_str(), None))).collect()
}
