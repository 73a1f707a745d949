//! Rules over several policies: who takes what from whom.

use std::collections::HashMap;

use super::{
    Finding, Place, Policy, Severity,
    catalogue::code,
    checked::{Matcher, Port, Ports},
};
use crate::manifest::Path;
use crate::{names::ANNOTATION_SERVICE_ID, policy::PolicyRef};

/// A finding about one policy of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFinding {
    /// Index of the policy it is about.
    pub policy: usize,
    /// What is to be said about it.
    pub finding: Finding,
    /// Index of the other policy, the place there, and a word on it.
    pub other: (usize, Place, String),
}

/// Look at policies together, given in the order in which their files are read. Nothing found here blocks: an agent
/// decides conflicts for its own node.
#[must_use]
pub fn check_set(policies: &[Policy]) -> Vec<SetFinding> {
    let mut findings = Vec::new();
    let distinct = same_object(policies, &mut findings);
    service_ids(policies, &distinct, &mut findings);
    conflicts(policies, &distinct, &mut findings);
    findings.sort_by_key(|f| f.policy);
    findings
}

/// Report every object that an earlier one has the name of -> the indices of the others.
fn same_object(policies: &[Policy], findings: &mut Vec<SetFinding>) -> Vec<usize> {
    let mut first: HashMap<&PolicyRef, usize> = HashMap::new();
    let mut distinct = Vec::new();
    let name = || Place::value(Path::of(&["metadata", "name"]));
    for (i, policy) in policies.iter().enumerate() {
        let Some(&earlier) = first.get(&policy.reference) else {
            first.insert(&policy.reference, i);
            distinct.push(i);
            continue;
        };
        let message = format!("{} is given twice", policy.reference);
        let help =
            "rename one of the two or remove it; of a folder an agent takes the first path in byte order";
        let finding = finding(code::SAME_OBJECT, Severity::Error, name(), message, help);
        let other = (earlier, name(), "the first is here".to_owned());
        findings.push(SetFinding { policy: i, finding, other });
    }
    distinct
}

fn service_ids(policies: &[Policy], distinct: &[usize], findings: &mut Vec<SetFinding>) {
    let mut first = HashMap::new();
    let place = || Place::value(Path::of(&["metadata", "annotations", ANNOTATION_SERVICE_ID]));
    for &i in distinct {
        let Some(id) = policies[i].service_id else { continue };
        let earlier = *first.entry(id).or_insert(i);
        if earlier == i {
            continue;
        }
        let message = format!("serviceId {id} is also that of {}", policies[earlier].reference);
        let help = "give each policy an id of its own, or remove the annotation to have one assigned";
        let finding = finding(code::SERVICE_ID, Severity::Error, place(), message, help);
        findings.push(SetFinding {
            policy: i,
            finding,
            other: (earlier, place(), "the first is here".to_owned()),
        });
    }
}

/// Policies that claim a frontend which an earlier one by precedence holds.
fn conflicts(policies: &[Policy], distinct: &[usize], findings: &mut Vec<SetFinding>) {
    let mut groups: HashMap<&Matcher, Vec<usize>> = HashMap::new();
    for &i in distinct {
        groups.entry(&policies[i].matcher).or_default().push(i);
    }
    for group in groups.values_mut() {
        group.sort_by_key(|&i| policies[i].precedence());
        for (rank, &loser) in group.iter().enumerate() {
            let contest = |&&winner: &&usize| {
                Some((winner, contested(&policies[winner].ports, &policies[loser].ports)?))
            };
            let meet = |w: &&usize| may_meet(&policies[**w], &policies[loser]);
            if let Some((winner, ports)) = group[..rank].iter().filter(meet).find_map(|w| contest(&w)) {
                findings.push(conflict(policies, winner, loser, &ports));
            }
        }
    }
}

/// Can a node be selected by both, as far as their selectors tell?
fn may_meet(a: &Policy, b: &Policy) -> bool {
    match (&a.nodes, &b.nodes) {
        (Some(a), Some(b)) => !a.excludes(b),
        _ => true,
    }
}

/// The frontend ports that both claim, in words; nothing where there are none.
fn contested(winner: &Ports, loser: &Ports) -> Option<String> {
    let list = |ports: Vec<&Port>| {
        let shown: Vec<_> = ports.iter().take(5).map(|p| format!("{}/{}", p.number, p.protocol)).collect();
        let more = ports.len().saturating_sub(5);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!ports.is_empty()).then(|| shown.join(", ") + &rest)
    };
    let key = |p: &Port| (p.number, p.protocol);
    match (winner, loser) {
        (Ports::OfService { .. }, Ports::OfService { .. }) => Some("all ports".to_owned()),
        (Ports::Listed(one), Ports::OfService { .. }) | (Ports::OfService { .. }, Ports::Listed(one)) => {
            list(one.pairs.iter().map(|p| &p.frontend).collect())
        }
        (Ports::Listed(winner), Ports::Listed(loser)) => {
            let taken = |p: &&Port| winner.pairs.iter().any(|w| key(&w.frontend) == key(p));
            list(loser.pairs.iter().map(|p| &p.frontend).filter(taken).collect())
        }
    }
}

fn conflict(policies: &[Policy], winner: usize, loser: usize, ports: &str) -> SetFinding {
    let (w, l) = (&policies[winner], &policies[loser]);
    let everywhere = w.nodes.is_none() || w.nodes == l.nodes;
    let code = match l.matcher {
        Matcher::Service { .. } => code::SERVICE_CONFLICT,
        Matcher::Address(_) => code::ADDRESS_CONFLICT,
    };
    let severity = if everywhere { Severity::Error } else { Severity::Warning };
    let nodes = if everywhere { "" } else { " on the nodes that both select" };
    let one = ports.starts_with(|c: char| c.is_ascii_digit()) && !ports.contains(' ');
    let go = if one { "goes" } else { "go" };
    let message = format!("{ports} of {} {go} to {}{nodes}: {}", l.matcher, w.reference, why(w, l));
    let unknown = w.created.is_none() && l.created.is_none();
    let help = format!(
        "leave the ports to one of the two, or give them node selectors that exclude each other{}",
        if unknown { "; in a cluster the one that was created first wins" } else { "" }
    );
    let place = |p: &Policy| {
        let path = match p.matcher {
            Matcher::Address(_) => ["spec", "frontend", "addressMatcher", "ip"],
            Matcher::Service { .. } => ["spec", "frontend", "serviceMatcher", "serviceName"],
        };
        Place::value(Path::of(&path))
    };
    let finding = finding(code, severity, place(l), message, &help);
    SetFinding { policy: loser, finding, other: (winner, place(w), format!("{} wins", w.reference)) }
}

/// The rule that decided, in words.
fn why(winner: &Policy, loser: &Policy) -> &'static str {
    match (winner.created, loser.created) {
        (None, Some(_)) => "without a creationTimestamp it counts as the older one",
        (w, l) if w != l => "it is older",
        _ if winner.reference.kind != loser.reference.kind => {
            "a LocalRedirectPolicy comes before a BalancingPolicy of the same age"
        }
        _ => "of the same age, the first by name wins",
    }
}

fn finding(code: &'static str, severity: Severity, place: Place, message: String, help: &str) -> Finding {
    Finding { code, severity, place, message, help: help.to_owned(), related: Vec::new(), blocks: false }
}
