//! The steps of the way to an effective policy, in their fixed order. The first that fails decides.

use std::collections::BTreeSet;

use balancing_api::{
    agent::{BackendInfo, Counters, NodeStatus, PolicyState, PolicyStatus},
    cli::{Activity, Check, CheckStatus, ExplainedBackends, ExplainedFrontend, ExplainedQos},
    names::{condition, reason},
    policy::PolicyKind,
};

use super::{
    policy::{Facts, message_or, missing_hooks},
    state_of_frontend,
};
use crate::{
    columns::state_word,
    text::{age_at, list, plural},
    unread,
};

/// The steps in order. After a failed one the others are not reached.
#[derive(Default)]
pub(crate) struct Steps {
    pub(crate) checks: Vec<Check>,
    failed: bool,
}

impl Steps {
    pub(crate) fn add(&mut self, code: &str, found: Found) {
        let (status, observed, expected, next) = match found {
            _ if self.failed => (CheckStatus::NotReached, String::new(), String::new(), String::new()),
            Found::Passed(observed) => (CheckStatus::Passed, observed, String::new(), String::new()),
            Found::Warning(observed, expected, next) => (CheckStatus::Warning, observed, expected, next),
            Found::Failed(observed, expected, next) => (CheckStatus::Failed, observed, expected, next),
        };
        self.failed |= status == CheckStatus::Failed;
        self.checks.push(Check { code: code.to_owned(), status, observed, expected, next });
    }
}

/// What a step found: observed, and unless it passed, expected and what to do next.
pub(crate) enum Found {
    Passed(String),
    Warning(String, String, String),
    Failed(String, String, String),
}

pub(crate) fn passed(observed: impl Into<String>) -> Found {
    Found::Passed(observed.into())
}

pub(crate) fn failed(
    observed: impl Into<String>,
    expected: impl Into<String>,
    next: impl Into<String>,
) -> Found {
    Found::Failed(observed.into(), expected.into(), next.into())
}

pub(crate) fn warning(
    observed: impl Into<String>,
    expected: impl Into<String>,
    next: impl Into<String>,
) -> Found {
    Found::Warning(observed.into(), expected.into(), next.into())
}

pub(super) fn checks(
    policy: &PolicyStatus,
    facts: Facts<'_>,
    frontends: &[ExplainedFrontend],
    backends: &ExplainedBackends,
    qos: &ExplainedQos,
    activity: &Activity,
) -> Vec<Check> {
    let mut steps = Steps::default();
    steps.add("SpecValid", spec_valid(policy));
    steps.add("NodeSelected", node_selected(policy, facts.status));
    steps.add("FrontendResolved", frontend_resolved(policy, facts.status));
    steps.add("NoConflict", no_conflict(policy, facts.status));
    steps.add("SourcesFresh", sources_fresh(policy, facts.status));
    steps.add("BackendsSelected", backends_selected(policy, facts.status));
    steps.add("BackendsReady", backends_ready(policy, backends));
    steps.add("Programmed", programmed(policy, facts, frontends, backends));
    steps.add("ProgramsAttached", programs_attached(policy, facts.status));
    steps.add("EveryFrontendTaken", every_frontend_taken(frontends));
    steps.add("ExemptionActive", exemption_active(policy, facts.status));
    steps.add("WithinLimit", within_limit(qos));
    steps.add("TrafficSeen", traffic_seen(policy, activity, facts.counters));
    steps.checks
}

fn spec_valid(policy: &PolicyStatus) -> Found {
    if policy.state == PolicyState::Invalid || policy.reason == reason::INVALID_SPEC {
        return failed(
            message_or(policy, "the spec breaks a rule"),
            "a spec that breaks no rule",
            "kubectl balancing validate -f FILE",
        );
    }
    passed("the spec breaks no rule")
}

fn node_selected(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let selector = &policy.wanted.node_selector;
    if policy.state == PolicyState::NotSelected {
        let next = format!("kubectl get node {} --show-labels", status.node.name);
        let otherwise = format!("node {} does not match {selector}", status.node.name);
        return failed(
            message_or(policy, &otherwise),
            format!("labels of the node that match {selector}"),
            next,
        );
    }
    passed(if selector.is_empty() {
        "the policy is for every node".to_owned()
    } else {
        format!("node {} matches {selector}", status.node.name)
    })
}

fn frontend_resolved(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let service = policy.wanted.service.as_deref().unwrap_or_default();
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    let look = format!("kubectl get service -n {namespace} {name} -o yaml");
    if policy.reason == reason::SERVICE_NOT_FOUND
        && let Some(e) = unread::service(policy, status)
    {
        return failed(
            format!("the Service cannot be read: {e}"),
            format!("a Service {service} that can be read"),
            unread::next(status, e),
        );
    }
    match policy.reason.as_str() {
        reason::SERVICE_NOT_FOUND => failed(
            message_or(policy, &format!("Service {service} does not exist")),
            format!("a Service {service}"),
            format!(
                "create the Service, or mend spec.frontend.serviceMatcher; kubectl get services -n {namespace}"
            ),
        ),
        reason::SERVICE_NOT_SUPPORTED => failed(
            message_or(policy, &format!("Service {service} has no ClusterIP")),
            "a Service with a ClusterIP, neither headless nor ExternalName",
            look,
        ),
        reason::PORT_NOT_FOUND => {
            failed(message_or(policy, "the Service has no such port"), "ports that the Service has", look)
        }
        reason::PORT_MISMATCH => failed(
            message_or(policy, "frontend and backend ports do not pair"),
            "ports of frontend and backend that pair by name and protocol",
            "kubectl balancing validate -f FILE",
        ),
        reason::ADDRESS_FAMILY_MISMATCH => failed(
            message_or(policy, "no backend has an address of the frontend's family"),
            "backends of the same address family as the frontend",
            look,
        ),
        _ => passed(match (&policy.wanted.service, &policy.wanted.address) {
            (Some(service), _) if policy.frontends.is_empty() => format!("Service {service} exists"),
            (None, Some(address)) if policy.frontends.is_empty() => format!("address {address}"),
            (Some(service), _) => format!("Service {service} has {}", list(&policy.frontends, 4)),
            (None, Some(address)) => format!("address {address}: {}", list(&policy.frontends, 4)),
            (None, None) => list(&policy.frontends, 4),
        }),
    }
}

/// The policy that holds what this one claims, if the status lets it be told.
fn winner<'a>(policy: &PolicyStatus, status: &'a NodeStatus) -> Option<&'a PolicyStatus> {
    let claims_the_same = |p: &&PolicyStatus| {
        let (a, b) = (&p.wanted, &policy.wanted);
        (a.service.is_some() && a.service == b.service || a.address.is_some() && a.address == b.address)
            && !p.frontends.is_empty()
            && (p.kind, &p.name) != (policy.kind, &policy.name)
    };
    status.policies.iter().find(claims_the_same)
}

fn no_conflict(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let conflict = policy.state == PolicyState::Conflicted || policy.reason == reason::FRONTEND_CONFLICT;
    if !conflict {
        return passed("no other policy holds its frontends");
    }
    let winner = winner(policy, status).map(|w| format!("{}/{}", w.kind.short_name(), w.name));
    let otherwise = match &winner {
        Some(winner) => format!("{winner} holds its frontends: the older policy wins"),
        None => "another policy holds its frontends: the older policy wins".to_owned(),
    };
    let next = match &winner {
        Some(winner) => format!("kubectl balancing explain policy {winner}"),
        None => "kubectl balancing top policies -o wide".to_owned(),
    };
    let expected = "one policy for each address, port and protocol";
    if policy.state == PolicyState::Conflicted {
        failed(message_or(policy, &otherwise), expected, next)
    } else {
        warning(message_or(policy, &otherwise), expected, next)
    }
}

fn sources_fresh(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let object = format!("{}/{}", policy.kind, policy.name);
    if let Some(e) = status.source_errors.iter().find(|e| e.object == object) {
        return warning(e.to_string(), "a policy that can be read", unread::next(status, e));
    }
    // What is wrong with another policy is no concern of this one.
    let errors: Vec<_> = status.source_errors.iter().filter(|e| !unread::is_policy(&e.object)).collect();
    if let Some(first) = errors.first() {
        let objects = plural(errors.len(), "object or file", "objects or files");
        return warning(
            format!("{objects} cannot be read; first: {first}"),
            "sources that are read completely: what is missing may be what this policy needs",
            match errors[..] {
                [only] => unread::next(status, only),
                _ => "kubectl balancing status: what to do about each".to_owned(),
            },
        );
    }
    let synced = status.conditions.iter().find(|c| c.type_ == condition::SOURCES_SYNCED);
    match synced {
        Some(c) if c.status != "True" && status.source_errors.is_empty() => warning(
            format!("{} ({}); the agent works on the last good state", c.message, c.reason),
            "sources that are read completely",
            "look at the agent's log",
        ),
        _ => passed("the agent has read all of its sources"),
    }
}

/// `pods that match app=x in namespaces a, b`
fn selected_pods(policy: &PolicyStatus) -> String {
    let selector = if policy.wanted.selector.is_empty() { "any labels" } else { &policy.wanted.selector };
    match policy.wanted.namespaces.as_slice() {
        [] => format!("{selector} in any namespace"),
        some => format!("{selector} in {}", list(some, 5)),
    }
}

fn backends_selected(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let none = policy.wanted.pods.is_empty() && policy.backends.wanted == 0;
    if policy.kind == PolicyKind::BalancingPolicy {
        return if none {
            failed(
                message_or(policy, "the policy has no backend"),
                "one backend at least",
                "look at spec.backend of the policy",
            )
        } else {
            passed(plural(policy.backends.wanted as usize, "backend", "backends"))
        };
    }
    let what = selected_pods(policy);
    if none {
        let scope = match policy.wanted.namespaces.as_slice() {
            [one] => format!("-n {one}"),
            _ => "-A".to_owned(),
        };
        return failed(
            format!("no pod on node {} matches {what}", status.node.name),
            "one pod on this node at least that the policy's endpointSelector matches",
            format!(
                "kubectl get pods {scope} -l '{}' --field-selector spec.nodeName={}",
                policy.wanted.selector, status.node.name
            ),
        );
    }
    let count = policy.wanted.pods.len();
    if count == 0 {
        return passed(plural(policy.backends.wanted as usize, "backend", "backends"));
    }
    passed(format!(
        "{} on this node {} {what}",
        plural(count, "pod", "pods"),
        if count == 1 { "matches" } else { "match" }
    ))
}

fn backends_ready(policy: &PolicyStatus, backends: &ExplainedBackends) -> Found {
    let unusable: Vec<String> =
        backends.pods.iter().filter(|p| !p.usable).map(|p| format!("{} ({})", p.pod, p.reason)).collect();
    let usable = backends.pods.iter().filter(|p| p.usable).count();
    if usable == 0 && !unusable.is_empty() {
        let next = backends.pods.first().map(|p| {
            let (namespace, name) = p.pod.split_once('/').unwrap_or(("default", &p.pod));
            format!("kubectl describe pod -n {namespace} {name}")
        });
        return failed(
            format!("no selected pod can serve: {}", list(&unusable, 5)),
            "one pod at least that is Ready",
            next.unwrap_or_default(),
        );
    }
    if policy.backends.wanted == 0 && backends.wanted.is_empty() {
        return failed(
            message_or(policy, "no pod leads to a usable backend"),
            "one usable backend at least",
            "kubectl balancing top policies -o wide",
        );
    }
    passed(match unusable.len() {
        0 if usable == 0 => plural(policy.backends.wanted as usize, "usable backend", "usable backends"),
        0 => format!("{} Ready", plural(usable, "pod is", "pods are")),
        _ => format!("{usable} of {} are Ready; not {}", backends.pods.len(), list(&unusable, 5)),
    })
}

fn programmed(
    policy: &PolicyStatus,
    facts: Facts<'_>,
    frontends: &[ExplainedFrontend],
    backends: &ExplainedBackends,
) -> Found {
    let differ: Vec<String> =
        frontends.iter().filter(|f| !f.programmed).map(|f| f.frontend.to_string()).collect();
    let short = policy.backends.programmed < policy.backends.wanted;
    if differ.is_empty() && !short && policy.state != PolicyState::Failed {
        return match policy.state {
            PolicyState::Programmed => passed("the maps hold what the objects ask for"),
            state => failed(
                message_or(policy, &format!("the agent calls it {}", state_word(state))),
                "state Programmed",
                "see the policy in the agent's /v1/status, and its log",
            ),
        };
    }
    let mut observed = Vec::new();
    let places = |all: &[BackendInfo]| -> Vec<String> {
        all.iter().map(|b| std::net::SocketAddr::new(b.address, b.port).to_string()).collect()
    };
    if !backends.missing.is_empty() {
        observed.push(format!("missing {}", list(&places(&backends.missing), 5)));
    }
    if !backends.surplus.is_empty() {
        observed.push(format!("left over {}", list(&places(&backends.surplus), 5)));
    }
    if !differ.is_empty() {
        observed.push(format!("not as wanted: {}", list(&differ, 5)));
    }
    if observed.is_empty() {
        observed.push(format!("{} of {} backends", policy.backends.programmed, policy.backends.wanted));
    }
    if !policy.message.is_empty() {
        observed.push(format!("{}: {}", policy.reason, policy.message));
    }
    let condition = facts
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == condition::POLICIES_PROGRAMMED && c.status != "True");
    let next = match condition {
        Some(c) if c.reason == reason::MAP_FULL => {
            format!("{}; start the agent with a larger --max-frontends or --max-backends", c.message)
        }
        Some(c) => format!("{}: {}", c.reason, c.message),
        None => "ask again: a change may be on its way; if it stays, look at the agent's log".to_owned(),
    };
    failed(observed.join("; "), "maps that hold what the objects ask for", next)
}

fn programs_attached(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let missing: BTreeSet<String> = policy.frontends.iter().flat_map(|f| missing_hooks(*f, status)).collect();
    let root = &status.datapath.cgroup_root;
    if !missing.is_empty() {
        let missing: Vec<String> = missing.into_iter().collect();
        let said =
            status.conditions.iter().find(|c| c.type_ == condition::PROGRAMS_ATTACHED && c.status != "True");
        let next = match said {
            Some(c) => format!("{}: {}; restarting balancing-agent attaches them again", c.reason, c.message),
            None => "restarting balancing-agent attaches them again".to_owned(),
        };
        return failed(
            format!(
                "no program is attached to {} of {root}: connections are not looked at",
                missing.join(", ")
            ),
            "the agent's programs attached to the cgroup",
            next,
        );
    }
    let others: u32 = status.datapath.programs.iter().map(|p| p.others).sum();
    passed(match others {
        0 => format!("attached to {root}"),
        n => format!(
            "attached to {root}, beside {}",
            plural(n as usize, "program of somebody else", "programs of somebody else")
        ),
    })
}

fn every_frontend_taken(frontends: &[ExplainedFrontend]) -> Found {
    let untaken: Vec<String> = frontends
        .iter()
        .filter(|f| !f.effective)
        .map(|f| format!("{} ({})", f.frontend, f.state.map_or("not in the maps", state_of_frontend)))
        .collect();
    if frontends.is_empty() {
        return failed(
            "the policy holds no frontend here",
            "one frontend at least",
            "kubectl balancing top frontends",
        );
    }
    if !untaken.is_empty() {
        return warning(
            format!("the policy has no usable backend for {}", list(&untaken, 5)),
            "a backend of the same family, with a port that pairs, for each frontend",
            "kubectl balancing top frontends -o wide",
        );
    }
    passed(match frontends.len() {
        1 => "the policy takes its frontend".to_owned(),
        n => format!("the policy takes all {n} frontends"),
    })
}

fn exemption_active(policy: &PolicyStatus, status: &NodeStatus) -> Found {
    let callers = policy.exempt_callers;
    if callers.pods == 0 {
        return passed("no caller is exempt");
    }
    if callers.active < callers.pods {
        return warning(
            format!(
                "the cgroup of {} of {} backend pods was not found: their own connections to the frontend come back to \
                 themselves instead of going on to the Service",
                callers.pods - callers.active,
                callers.pods
            ),
            format!("a folder pod<UID> below {} for each", status.datapath.cgroup_root),
            "start the agent with the --cgroup-root that the pods' cgroups are below",
        );
    }
    passed(format!(
        "connections of {} are left alone",
        plural(callers.pods as usize, "backend pod", "backend pods")
    ))
}

fn within_limit(qos: &ExplainedQos) -> Found {
    let limit = qos.redirects_per_second;
    if limit == 0 {
        return passed("there is no limit");
    }
    let dropped = format!(
        "{} not made because of it so far",
        plural_count(qos.qos_drops, "redirect was", "redirects were")
    );
    match qos.now {
        Some(now) if now.used >= limit => warning(
            format!(
                "all {limit} redirects of this second are used; {dropped}; these connections went on down the ladder"
            ),
            "fewer connections than the limit",
            "raise spec.qos.redirectsPerSecond, or the agent's --redirect-qos-limit",
        ),
        Some(now) => passed(format!("{} of {limit} redirects used in this second; {dropped}", now.used)),
        None => passed(format!("{limit} redirects a second; {dropped}")),
    }
}

fn plural_count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn traffic_seen(policy: &PolicyStatus, activity: &Activity, counters: &Counters) -> Found {
    let taken = activity.redirects + activity.balanced;
    let since = age_at(counters.since, counters.taken_at);
    if taken > 0 {
        return passed(format!(
            "{} in {since}",
            plural_count(taken, "connection taken", "connections taken")
        ));
    }
    let next = policy.frontends.first().map(|f| {
        let to = f.to_string();
        let to = to.replace("/TCP", "/tcp").replace("/UDP", "/udp");
        format!("kubectl balancing explain connection --from host --to {to}")
    });
    warning(
        format!(
            "no connection was taken in {since}: nobody dialled it, or clients connected before the policy was there"
        ),
        "connections; those that exist already are not moved",
        next.unwrap_or_default(),
    )
}
