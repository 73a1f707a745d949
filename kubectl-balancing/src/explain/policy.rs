//! `explain policy`: does a policy do what it says on this node, and if not, which step of the way fails.

use std::{collections::BTreeSet, io::Write};

use balancing_api::{
    agent::{
        BackendInfo, Caller, Counters, DecideRequest, FrontendInfo, FrontendList, NodeStatus, PolicyState,
        PolicyStatus, QosState, RungInfo, RungKind,
    },
    cli::{
        Activity, Check, CheckStatus, Effective, ExplainedBackends, ExplainedFrontend, ExplainedLadder,
        ExplainedQos, FrontendState, POLICY_EXPLANATION, PolicyExplanation, document,
    },
    names::{condition, reason},
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};
use clap::Args;
use owo_colors::OwoColorize;

use super::{Error, Output, backend_cells, columns, field};
use crate::{
    client::{Client, View},
    columns::{Tone, policy_tone, state_word},
    sample::{complete, frontend_state, taking_rung},
    simulate::hooks,
    table::tone_colour,
    text::{NONE, age_at, list, near, plural, sanitise},
};

/// Arguments of `explain policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Name of the policy; lr/NAME or bl/NAME where both kinds have one of that name.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// What the agent says that bears on a policy.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `GET /v1/status`
    pub status: &'a NodeStatus,
    /// `GET /v1/frontends`
    pub programmed: &'a FrontendList,
    /// `GET /v1/frontends?view=desired`
    pub desired: &'a FrontendList,
    /// `GET /v1/counters`
    pub counters: &'a Counters,
    /// The policy's budget of the current second.
    pub qos: Option<QosState>,
}

/// Asks the agent and prints the explanation.
pub async fn run(args: &PolicyArgs, client: &Client, out: &mut dyn Write, colour: bool) -> Result<(), Error> {
    let (status, mut programmed, mut desired, counters) = tokio::try_join!(
        client.status(),
        client.frontends(View::Programmed),
        client.frontends(View::Desired),
        client.counters()
    )?;
    complete(&mut programmed, &status);
    complete(&mut desired, &status);
    let policies = find(&args.name, &status).map_err(Error::NotFound)?;
    let mut parts = Vec::new();
    for policy in policies {
        let qos = match policy.frontends.first() {
            Some(to) if policy.redirects_per_second > 0 => {
                client.decide(&DecideRequest { from: Caller::default(), to: *to }).await?.qos
            }
            _ => None,
        };
        let facts =
            Facts { status: &status, programmed: &programmed, desired: &desired, counters: &counters, qos };
        let explanation = explain(policy, facts);
        parts.push(match args.output {
            Output::Text => text(&explanation, &counters, colour),
            Output::Json => serde_json::to_string_pretty(&document(POLICY_EXPLANATION, &explanation))? + "\n",
            Output::Yaml => {
                format!("---\n{}", serde_yaml::to_string(&document(POLICY_EXPLANATION, &explanation))?)
            }
        });
    }
    out.write_all(parts.join("\n").as_bytes())?;
    Ok(())
}

/// The policies that a name on the command line means: one, or one of each kind.
fn find<'a>(name: &str, status: &'a NodeStatus) -> Result<Vec<&'a PolicyStatus>, String> {
    let (kind, bare) = match name.split_once('/') {
        None => (None, name),
        Some((kind, bare)) => (Some(kind_of(kind)?), bare),
    };
    let found: Vec<&PolicyStatus> =
        status.policies.iter().filter(|p| p.name == bare && kind.is_none_or(|k| k == p.kind)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let node = sanitise(&status.node.name);
    let near = near(bare, status.policies.iter().map(|p| p.name.as_str()));
    Err(if !near.is_empty() {
        format!("policy {name:?} not found on node {node}; did you mean {}?", near.join(", "))
    } else if status.policies.is_empty() {
        format!("policy {name:?} not found: the agent of node {node} knows no policy")
    } else {
        format!(
            "policy {name:?} not found on node {node}; `kubectl balancing top policies` lists those the agent knows"
        )
    })
}

/// A kind as kubectl lets it be written.
fn kind_of(text: &str) -> Result<PolicyKind, String> {
    match text.to_ascii_lowercase().as_str() {
        "lr" | "localredirectpolicy" | "localredirectpolicies" => Ok(PolicyKind::LocalRedirectPolicy),
        "bl" | "balancingpolicy" | "balancingpolicies" => Ok(PolicyKind::BalancingPolicy),
        _ => Err(format!("unknown kind {text:?}; use lr (LocalRedirectPolicy) or bl (BalancingPolicy)")),
    }
}

/// What a policy comes to on a node.
#[must_use]
pub fn explain(policy: &PolicyStatus, facts: Facts<'_>) -> PolicyExplanation {
    let name = PolicyRef::new(policy.kind, policy.name.clone());
    let frontends = explained_frontends(policy, &name, facts);
    let backends = explained_backends(policy, &name, facts);
    let counted = facts.counters.policies.iter().find(|c| c.policy == name);
    let qos = ExplainedQos {
        redirects_per_second: policy.redirects_per_second,
        now: facts.qos,
        qos_drops: counted.map_or(0, |c| c.qos_drops),
    };
    let activity = Activity {
        since: facts.counters.since,
        redirects: counted.map_or(0, |c| c.redirects),
        balanced: counted.map_or(0, |c| c.balanced),
        fallbacks: counted.map(|c| c.fallbacks.clone()).unwrap_or_default(),
        refusals: counted.map_or(0, |c| c.refusals),
    };
    let checks = checks(policy, facts, &frontends, &backends, &qos, &activity);
    let effective = effective(&frontends, &checks);
    let summary = summary(policy, effective, &frontends, &backends, &checks);
    let programmed = facts.programmed.items.iter().filter(|i| policy.frontends.contains(&i.frontend));
    PolicyExplanation {
        name: policy.name.clone(),
        policy: name,
        effective,
        summary,
        node: facts.status.node.name.clone(),
        id: policy.id,
        generation: policy.generation,
        state: policy.state,
        reason: policy.reason.clone(),
        message: policy.message.clone(),
        service: policy.wanted.service.clone(),
        address: policy.wanted.address.clone(),
        on_no_backend: policy.wanted.on_no_backend.clone(),
        frontends,
        ladder: programmed
            .map(|i| ExplainedLadder { frontend: i.frontend, rungs: i.rungs.clone(), otherwise: i.otherwise })
            .collect(),
        backends,
        qos,
        exempt_callers: policy.exempt_callers,
        activity,
        checks,
    }
}

fn item(list: &FrontendList, frontend: Frontend) -> Option<&FrontendInfo> {
    list.items.iter().find(|i| i.frontend == frontend)
}

/// Are the ladders the same, whatever the order of backends?
fn same_ladder(a: Option<&FrontendInfo>, b: Option<&FrontendInfo>) -> bool {
    let plain = |i: &FrontendInfo| {
        let rungs: Vec<_> = i.rungs.iter().map(|r| (r.rung, r.policy.clone(), addresses(r))).collect();
        (rungs, i.otherwise)
    };
    a.map(plain) == b.map(plain)
}

fn addresses(rung: &RungInfo) -> BTreeSet<(std::net::IpAddr, u16)> {
    rung.backends.iter().map(|b| (b.address, b.port)).collect()
}

fn explained_frontends(policy: &PolicyStatus, name: &PolicyRef, facts: Facts<'_>) -> Vec<ExplainedFrontend> {
    let one = |frontend: &Frontend| {
        let programmed = item(facts.programmed, *frontend);
        let taken = programmed.and_then(taking_rung).is_some_and(|r| r.policy.as_ref() == Some(name));
        ExplainedFrontend {
            frontend: *frontend,
            state: programmed.map(frontend_state),
            effective: taken && missing_hooks(*frontend, facts.status).is_empty(),
            programmed: same_ladder(programmed, item(facts.desired, *frontend)),
        }
    };
    policy.frontends.iter().map(one).collect()
}

/// The hooks a frontend needs that have no program of the agent.
fn missing_hooks(frontend: Frontend, status: &NodeStatus) -> Vec<String> {
    let attached = |hook: &String| status.datapath.programs.iter().any(|p| p.hook == *hook && p.attached);
    hooks(frontend).into_iter().filter(|h| !attached(h)).collect()
}

/// The policy's backends in a state of the frontends, each once.
fn backends_in(list: &FrontendList, name: &PolicyRef) -> BTreeSet<BackendInfo> {
    let rungs = list.items.iter().flat_map(|i| &i.rungs).filter(|r| r.policy.as_ref() == Some(name));
    rungs.flat_map(|r| r.backends.iter().cloned()).collect()
}

fn explained_backends(policy: &PolicyStatus, name: &PolicyRef, facts: Facts<'_>) -> ExplainedBackends {
    let wanted = backends_in(facts.desired, name);
    let programmed = backends_in(facts.programmed, name);
    let place = |b: &BackendInfo| (b.address, b.port);
    let without = |all: &BTreeSet<BackendInfo>, known: &BTreeSet<BackendInfo>| -> Vec<BackendInfo> {
        let known: BTreeSet<_> = known.iter().map(place).collect();
        all.iter().filter(|b| !known.contains(&place(b))).cloned().collect()
    };
    ExplainedBackends {
        selector: policy.wanted.selector.clone(),
        namespaces: policy.wanted.namespaces.clone(),
        pods: policy.wanted.pods.clone(),
        missing: without(&wanted, &programmed),
        surplus: without(&programmed, &wanted),
        wanted: wanted.into_iter().collect(),
        programmed: programmed.into_iter().collect(),
    }
}

/// The steps in order. After a failed one the others are not reached.
#[derive(Default)]
struct Steps {
    checks: Vec<Check>,
    failed: bool,
}

impl Steps {
    fn add(&mut self, code: &str, found: Found) {
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
enum Found {
    Passed(String),
    Warning(String, String, String),
    Failed(String, String, String),
}

fn passed(observed: impl Into<String>) -> Found {
    Found::Passed(observed.into())
}

fn failed(observed: impl Into<String>, expected: impl Into<String>, next: impl Into<String>) -> Found {
    Found::Failed(observed.into(), expected.into(), next.into())
}

fn warning(observed: impl Into<String>, expected: impl Into<String>, next: impl Into<String>) -> Found {
    Found::Warning(observed.into(), expected.into(), next.into())
}

fn checks(
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
    steps.add("FrontendResolved", frontend_resolved(policy));
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

fn message_or(policy: &PolicyStatus, otherwise: &str) -> String {
    if policy.message.is_empty() { otherwise.to_owned() } else { policy.message.clone() }
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

fn frontend_resolved(policy: &PolicyStatus) -> Found {
    let service = policy.wanted.service.as_deref().unwrap_or_default();
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    let look = format!("kubectl get service -n {namespace} {name} -o yaml");
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
        return warning(
            format!("{}:{}:{}: {}; what it said before stays in force", e.file, e.line, e.column, e.message),
            "a file that can be read",
            format!("kubectl balancing validate -f {}", e.file),
        );
    }
    // What is wrong with another policy is no concern of this one.
    let kinds = [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy];
    let of_a_policy = |object: &str| kinds.iter().any(|k| object.split('/').next() == Some(k.as_str()));
    let errors: Vec<_> = status.source_errors.iter().filter(|e| !of_a_policy(&e.object)).collect();
    if let Some(first) = errors.first() {
        let objects = plural(errors.len(), "object or file", "objects or files");
        return warning(
            format!("{objects} cannot be read; first {}:{}: {}", first.file, first.line, first.message),
            "sources that are read completely: what is missing may be what this policy needs",
            "kubectl balancing top --once",
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
    let count = policy.wanted.pods.len().max(policy.backends.wanted as usize);
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

fn effective(frontends: &[ExplainedFrontend], checks: &[Check]) -> Effective {
    const PARTLY: [&str; 2] = ["EveryFrontendTaken", "NoConflict"];
    let taken = frontends.iter().filter(|f| f.effective).count();
    let failed = checks.iter().find(|c| c.status == CheckStatus::Failed);
    let lacking =
        checks.iter().any(|c| c.status == CheckStatus::Warning && PARTLY.contains(&c.code.as_str()));
    match (taken, failed) {
        (0, _) => Effective::No,
        (_, Some(_)) => Effective::Partly,
        (n, None) if n < frontends.len() || lacking => Effective::Partly,
        _ => Effective::Yes,
    }
}

fn summary(
    policy: &PolicyStatus,
    effective: Effective,
    frontends: &[ExplainedFrontend],
    backends: &ExplainedBackends,
    checks: &[Check],
) -> String {
    let bad = checks
        .iter()
        .find(|c| c.status == CheckStatus::Failed)
        .or_else(|| checks.iter().find(|c| c.status == CheckStatus::Warning && c.code != "TrafficSeen"));
    match (effective, bad) {
        (Effective::Yes, warning) => {
            let verb = match policy.kind {
                PolicyKind::LocalRedirectPolicy => "redirected to",
                PolicyKind::BalancingPolicy => "balanced to",
            };
            format!(
                "{} {verb} {}{}",
                plural(frontends.len(), "frontend is", "frontends are"),
                plural(backends.programmed.len(), "backend", "backends"),
                warning.map(|c| format!("; but see {} below", c.code)).unwrap_or_default()
            )
        }
        (_, Some(check)) => check.observed.clone(),
        (_, None) => message_or(policy, state_word(policy.state)),
    }
}

/// What a state of a frontend means, in words.
fn state_of_frontend(state: FrontendState) -> &'static str {
    match state {
        FrontendState::Refused => "refused: nothing serves it",
        FrontendState::Fallback => "falls back",
        FrontendState::Redirected => "redirected",
        FrontendState::Balanced => "balanced",
        FrontendState::Service => "served by the Service",
        FrontendState::Untouched => "untouched",
    }
}

/// Where connections to a frontend end, with the Service that serves them where the policy does not.
fn destination(f: &ExplainedFrontend, ladder: Option<&ExplainedLadder>) -> String {
    let Some(state) = f.state else { return "not in the maps".to_owned() };
    let service =
        ladder.and_then(|l| l.rungs.iter().find(|r| r.rung == RungKind::Service && !r.backends.is_empty()));
    match (state, service) {
        (FrontendState::Redirected | FrontendState::Balanced, _) if !f.effective => {
            "in the maps, but no program is attached that asks them".to_owned()
        }
        (FrontendState::Fallback, Some(rung)) => format!(
            "falls back to the Service {} ({})",
            sanitise(rung.service.as_deref().unwrap_or_default()),
            plural(rung.backends.len(), "endpoint", "endpoints")
        ),
        (FrontendState::Fallback, None) => {
            "left untouched: the policy has no backend here, and nothing is beneath".to_owned()
        }
        (state, _) => state_of_frontend(state).to_owned(),
    }
}

/// The explanation for people.
#[must_use]
pub fn text(e: &PolicyExplanation, counters: &Counters, colour: bool) -> String {
    let mut out = String::new();
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    if !e.backends.missing.is_empty() || !e.backends.surplus.is_empty() {
        out.push_str(&paint(
            "DIFFERS: the maps of this node do not hold what its objects ask for",
            Tone::Bad,
        ));
        let said =
            e.checks.iter().find(|c| c.code == "Programmed").map(|c| c.observed.as_str()).unwrap_or_default();
        out.push_str(&format!("\n  {}\n\n", sanitise(said)));
    }
    field(&mut out, "Name", &sanitise(&e.policy.name));
    field(&mut out, "Kind", &format!("{}   Id: {}   Generation: {}", e.policy.kind, id(e.id), e.generation));
    field(&mut out, "Node", &sanitise(&e.node));
    let (word, tone) = match e.effective {
        Effective::Yes => ("Yes", Tone::Good),
        Effective::Partly => ("Partly", Tone::Warn),
        Effective::No => ("No", Tone::Bad),
    };
    field(&mut out, "Effective", &format!("{}: {}", paint(word, tone), sanitise(&e.summary)));
    let state = if e.reason == state_word(e.state) || e.reason.is_empty() {
        state_word(e.state).to_owned()
    } else {
        format!("{} ({})", state_word(e.state), sanitise(&e.reason))
    };
    field(&mut out, "State", &paint(&state, policy_tone(e.state)));
    if !e.message.is_empty() && e.message != e.summary {
        field(&mut out, "Message", &sanitise(&e.message));
    }
    field(&mut out, "Frontend", &claimed(e));
    let rows: Vec<Vec<String>> = e
        .frontends
        .iter()
        .map(|f| {
            let ladder = e.ladder.iter().find(|l| l.frontend == f.frontend);
            vec![format!("  {}", f.frontend), destination(f, ladder)]
        })
        .collect();
    out.push_str(&columns(&rows));
    field(&mut out, "Ladder", &ladder_text(e));
    backends_text(&mut out, e);
    field(&mut out, "QoS", &qos_text(e));
    field(&mut out, "Activity", &activity_text(e, counters));
    out.push_str("Checks:\n");
    for check in &e.checks {
        check_text(&mut out, check, &paint);
    }
    out.push_str("Note:        connections that were open before the policy was programmed are not moved\n");
    out
}

fn id(id: u32) -> String {
    if id == 0 { NONE.to_owned() } else { id.to_string() }
}

fn claimed(e: &PolicyExplanation) -> String {
    match (&e.service, &e.address) {
        (Some(service), _) => format!("Service {}", sanitise(service)),
        (None, Some(address)) => format!("address {}", sanitise(address)),
        (None, None) => NONE.to_owned(),
    }
}

fn ladder_text(e: &PolicyExplanation) -> String {
    let Some(ladder) = e.ladder.first() else {
        return "the policy has no rung here".to_owned();
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (i, r) in ladder.rungs.iter().enumerate() {
        let kind = format!("{:?}", r.rung).to_lowercase();
        let who = match (&r.policy, &r.service) {
            (Some(p), _) if *p == e.policy => "this policy".to_owned(),
            (Some(p), _) => sanitise(&p.to_string()).into_owned(),
            (None, Some(service)) => sanitise(service).into_owned(),
            (None, None) => NONE.to_owned(),
        };
        rows.push(vec![format!("{} {kind}", i + 1), who, plural(r.backends.len(), "backend", "backends")]);
    }
    rows.push(vec!["otherwise".to_owned(), format!("{:?}", ladder.otherwise).to_lowercase()]);
    let mut text = columns(&rows);
    if e.ladder.len() > 1 {
        text.push_str(&format!("(of {}; -o json has all {})\n", ladder.frontend, e.ladder.len()));
    }
    text
}

fn backends_text(out: &mut String, e: &PolicyExplanation) {
    const MOST: usize = 20;
    let b = &e.backends;
    let mut what = format!("{} wanted, {} programmed", b.wanted.len(), b.programmed.len());
    if !b.selector.is_empty() {
        let namespaces =
            if b.namespaces.is_empty() { "any namespace".to_owned() } else { list(&b.namespaces, 5) };
        what = format!("{what}; selector {} in {}", sanitise(&b.selector), sanitise(&namespaces));
    }
    field(out, "Backends", &what);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for backend in b.programmed.iter().take(MOST) {
        let surplus = b.surplus.contains(backend);
        let mut cells = vec![if surplus { "  left over" } else { "  programmed" }.to_owned()];
        cells.extend(backend_cells(backend));
        rows.push(cells);
    }
    for backend in b.missing.iter().take(MOST) {
        let mut cells = vec!["  MISSING".to_owned()];
        cells.extend(backend_cells(backend));
        rows.push(cells);
    }
    out.push_str(&columns(&rows));
    if b.programmed.len() > MOST {
        out.push_str(&format!("  and {} more\n", b.programmed.len() - MOST));
    }
    let pods: Vec<Vec<String>> = b
        .pods
        .iter()
        .filter(|p| !p.usable)
        .take(MOST)
        .map(|p| {
            vec![
                "  not used".to_owned(),
                format!("pod {}", sanitise(&p.pod)),
                sanitise(&p.reason).into_owned(),
            ]
        })
        .collect();
    out.push_str(&columns(&pods));
}

fn qos_text(e: &PolicyExplanation) -> String {
    if e.policy.kind == PolicyKind::BalancingPolicy {
        return "not applied: limits only redirects of a LocalRedirectPolicy".to_owned();
    }
    match (e.qos.redirects_per_second, e.qos.now) {
        (0, _) => "no limit".to_owned(),
        (limit, now) => {
            let used = now.map(|n| format!("{} used in this second, ", n.used)).unwrap_or_default();
            format!("{limit} redirects a second on this node, {used}{} drops so far", e.qos.qos_drops)
        }
    }
}

fn activity_text(e: &PolicyExplanation, counters: &Counters) -> String {
    let a = &e.activity;
    let mut parts = vec![match e.policy.kind {
        PolicyKind::LocalRedirectPolicy => format!("{} redirects", a.redirects),
        PolicyKind::BalancingPolicy => format!("{} balanced", a.balanced),
    }];
    for (reason, count) in &a.fallbacks {
        parts.push(format!("{count} fallbacks ({})", sanitise(reason)));
    }
    if a.refusals > 0 {
        parts.push(format!("{} refusals", a.refusals));
    }
    format!("{} in {}", parts.join(", "), age_at(counters.since, counters.taken_at))
}

fn check_text(out: &mut String, check: &Check, paint: &dyn Fn(&str, Tone) -> String) {
    const INDENT: &str = "                              ";
    let (word, tone) = match check.status {
        CheckStatus::Passed => ("ok    ", Tone::Good),
        CheckStatus::Failed => ("FAILED", Tone::Bad),
        CheckStatus::Warning => ("warn  ", Tone::Warn),
        CheckStatus::NotReached => ("-     ", Tone::Dim),
    };
    let observed = match check.status {
        CheckStatus::NotReached => "not reached".into(),
        _ => sanitise(&check.observed),
    };
    out.push_str(&format!("  {}  {:20}{observed}\n", paint(word, tone), check.code));
    for (label, value) in [("expected: ", &check.expected), ("next:     ", &check.next)] {
        if !value.is_empty() {
            out.push_str(&format!("{INDENT}{label}{}\n", sanitise(value)));
        }
    }
}
