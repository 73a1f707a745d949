//! `explain policy` in a cluster: on which nodes a policy does what it says, and if not, which step of the way fails.

use std::{collections::BTreeMap, io::Write};

use balancing_api::{
    agent::PolicyState,
    cli::{CheckStatus, Effective, POLICY_EXPLANATION, document},
    names::{condition, reason},
    net::Frontend,
    overview::{ClusterPolicyExplanation, Gap, NodeGroup},
    policy::{PolicyKind, PolicyNodes},
    rules::checked::{Matcher, Port, Ports},
};
use jiff::Timestamp;
use owo_colors::OwoColorize;
use serde_json::Value;

use super::{
    Cluster, Wanted,
    facts::{PolicyFact, Read, conditions, pending},
    read::{SERVICES, gap_text},
};
use crate::{
    columns::{Tone, policy_tone, state_word},
    explain::{
        Error, Output,
        checks::{Found, Steps, failed, passed, warning},
        columns, field,
        node::condition_rows,
        policy::PolicyArgs,
        policy_text::{check_text, id},
    },
    output::{json, yaml},
    sample::severity,
    table::tone_colour,
    target::policy_name,
    text::{NONE, list, near, plural, sanitise},
};

/// Nodes of a group that are named.
const NAMED: usize = 5;

/// Asks the cluster and prints the explanation.
///
/// # Errors
/// There is no such policy, or it cannot be read.
pub async fn run(
    args: &PolicyArgs,
    cluster: &Cluster,
    out: &mut dyn Write,
    colour: bool,
) -> Result<(), Error> {
    let (kind, name) = policy_name(&args.name).map_err(Error::Usage)?;
    let read = cluster.read(Wanted::ALL).await?;
    let Some(policies) = &read.policies else {
        // Neither kind: the first gap says why.
        return Err(read.gaps.first().cloned().map_or_else(
            || Error::NotFound("no policy can be read".to_owned()),
            |g| Error::Gap(Box::new(g)),
        ));
    };
    let is_meant = |p: &&PolicyFact| p.policy.name == name && kind.is_none_or(|k| k == p.policy.kind);
    let found: Vec<&PolicyFact> = policies.iter().filter(is_meant).collect();
    if found.is_empty() {
        return Err(Error::NotFound(not_found(name, &read)));
    }
    let mut parts = Vec::new();
    for fact in found {
        let service = service_of(fact, cluster).await?;
        let explanation = explain(fact, &read, service.as_ref());
        let document = document(POLICY_EXPLANATION, &explanation);
        parts.push(match args.output {
            Output::Text => text(&explanation, read.time, colour),
            Output::Json => json(&document)?,
            Output::Yaml => yaml(&document)?,
        });
    }
    out.write_all(parts.join("\n").as_bytes())?;
    Ok(out.flush()?)
}

fn not_found(name: &str, read: &Read) -> String {
    let known: Vec<&str> = read.policies.iter().flatten().map(|p| p.policy.name.as_str()).collect();
    // One of the kinds may be hidden.
    let hidden = read.gaps.iter().find(|g| g.resource.contains("policies."));
    let hidden = hidden.map(|g| format!("; but there are {}", gap_text(g))).unwrap_or_default();
    match near(name, known.iter().copied()).as_slice() {
        [] if known.is_empty() => format!("policy {name:?} not found: there is no policy{hidden}"),
        [] => format!("policy {name:?} not found; `kubectl balancing get policies` lists all{hidden}"),
        near => format!("policy {name:?} not found; did you mean {}?{hidden}", sanitise(&near.join(", "))),
    }
}

/// The Service that a policy matches, as far as it can be read.
async fn service_of(
    fact: &PolicyFact,
    cluster: &Cluster,
) -> Result<Option<Result<Value, Gap>>, super::Unreachable> {
    let Some(Matcher::Service { namespace, name }) = fact.parsed.as_ref().map(|p| &p.matcher) else {
        return Ok(None);
    };
    let answer = cluster.connection.object("addresses of the Service", SERVICES, Some(namespace), name).await;
    Ok(Some(match answer {
        Ok(service) => Ok(service),
        Err(failure) => Err(failure.gap()?),
    }))
}

/// The frontends that a policy claims: of a Service all of its addresses.
fn frontends(fact: &PolicyFact, service: Option<&Value>) -> Vec<Frontend> {
    let Some(policy) = &fact.parsed else { return Vec::new() };
    let (addresses, ports) = match &policy.matcher {
        Matcher::Address(address) => (vec![*address], Vec::new()),
        Matcher::Service { .. } => match service {
            Some(service) => (addresses_of(service), ports_of(service)),
            None => return Vec::new(),
        },
    };
    let ports: Vec<Port> = match &policy.ports {
        Ports::Listed(pairing) => pairing.pairs.iter().map(|p| p.frontend.clone()).collect(),
        of_service => of_service.for_service(&ports).pairs.into_iter().map(|p| p.frontend).collect(),
    };
    let all =
        addresses.iter().flat_map(|a| ports.iter().map(move |p| Frontend::new(*a, p.number, p.protocol)));
    let mut all: Vec<Frontend> = all.collect();
    all.sort_unstable();
    all
}

fn addresses_of(service: &Value) -> Vec<std::net::IpAddr> {
    let all = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(|a| a.as_str()?.parse().ok()).collect()
}

fn ports_of(service: &Value) -> Vec<Port> {
    let all = service.pointer("/spec/ports").and_then(Value::as_array);
    let one = |p: &Value| {
        Some(Port {
            number: u16::try_from(p["port"].as_u64()?).ok()?,
            protocol: p["protocol"].as_str().unwrap_or("TCP").parse().ok()?,
            name: p["name"].as_str().unwrap_or_default().to_owned(),
        })
    };
    all.into_iter().flatten().filter_map(one).collect()
}

/// Nodes by what they say of the policy, what does not work first.
fn groups(fact: &PolicyFact, read: &Read) -> Vec<NodeGroup> {
    let mut groups: BTreeMap<(u8, bool, String, String), NodeGroup> = BTreeMap::new();
    let mut add = |state: PolicyState, why: &str, message: &str, wanted, has, stale, node: &str| {
        let key = (severity(state), stale, state.to_string(), why.to_owned());
        let group = groups.entry(key).or_insert_with(|| NodeGroup {
            state,
            reason: why.to_owned(),
            message: message.to_owned(),
            wanted: 0,
            programmed: 0,
            stale,
            nodes: Vec::new(),
        });
        group.wanted += wanted;
        group.programmed += has;
        group.nodes.push(node.to_owned());
    };
    for state in read.states.iter().flatten() {
        let is = |p: &&balancing_api::node_state::NodePolicyState| {
            p.kind == fact.policy.kind
                && p.name == fact.policy.name
                && (p.uid.is_empty() || p.uid == fact.uid)
                && p.state != PolicyState::NotSelected
        };
        let Some(said) = state.status.policies.iter().find(is) else { continue };
        let stale = read.has_stopped(&state.name);
        let (wanted, has) = (said.backends.wanted, said.backends.programmed);
        if said.observed_generation < fact.generation {
            let message = format!("the node has generation {} of it so far", said.observed_generation);
            add(pending(), reason::NODES_PENDING, &message, wanted, has, stale, &state.name);
        } else {
            add(said.state, &said.reason, &said.message, wanted, has, stale, &state.name);
        }
    }
    let known: Vec<String> = groups.values().flat_map(|g| g.nodes.clone()).collect();
    if fact.is_current() {
        let silent = fact.status.problem_nodes.iter().filter(|p| !known.contains(&p.node));
        for node in silent {
            let stale = read.has_stopped(&node.node);
            match groups
                .values_mut()
                .find(|g| g.state == node.state && g.reason == node.reason && g.stale == stale)
            {
                Some(group) => group.nodes.push(node.node.clone()),
                None => {
                    let key = (severity(node.state), stale, node.state.to_string(), node.reason.clone());
                    groups.insert(
                        key,
                        NodeGroup {
                            state: node.state,
                            reason: node.reason.clone(),
                            message: node.message.clone(),
                            wanted: 0,
                            programmed: 0,
                            stale,
                            nodes: vec![node.node.clone()],
                        },
                    );
                }
            }
        }
    }
    groups.into_values().collect()
}

/// Nodes as the operator counts them; where it has not looked yet, or cannot be read, as they say themselves.
fn counts(fact: &PolicyFact, groups: &[NodeGroup]) -> PolicyNodes {
    if fact.is_current() && !fact.status.conditions.is_empty() {
        return fact.status.nodes;
    }
    let of = |is: &dyn Fn(PolicyState) -> bool| {
        let nodes = groups.iter().filter(|g| is(g.state)).map(|g| g.nodes.len()).sum::<usize>();
        u32::try_from(nodes).unwrap_or(u32::MAX)
    };
    let effective = of(&|s| s == PolicyState::Programmed);
    let degraded = of(&|s| s == PolicyState::Fallback);
    PolicyNodes {
        selected: of(&|_| true),
        programmed: effective + degraded,
        effective,
        degraded,
        failed: of(&|s| s == PolicyState::Failed),
        pending: of(&|s| s == pending()),
    }
}

/// What a policy comes to in a cluster. Pure.
#[must_use]
pub fn explain(
    fact: &PolicyFact,
    read: &Read,
    service: Option<&Result<Value, Gap>>,
) -> ClusterPolicyExplanation {
    let groups = groups(fact, read);
    let nodes = counts(fact, &groups);
    let frontends = frontends(fact, service.and_then(|s| s.as_ref().ok()));
    let mut steps = Steps::default();
    steps.add("SpecValid", spec_valid(fact));
    steps.add("StatusCurrent", status_current(fact));
    steps.add("FrontendResolved", frontend_resolved(fact, &frontends));
    steps.add("NoConflict", no_conflict(fact));
    steps.add("NodesSelected", nodes_selected(fact, nodes));
    steps.add("NodesReport", nodes_report(&groups, nodes, read));
    steps.add("Programmed", programmed(&groups, nodes));
    steps.add("ProgramsAttached", programs_attached(&groups, read));
    steps.add("BackendsReady", backends_ready(fact, &groups, nodes));
    let checks = steps.checks;
    let first = checks
        .iter()
        .find(|c| c.status == CheckStatus::Failed)
        .or_else(|| checks.iter().find(|c| c.status == CheckStatus::Warning));
    let effective = match nodes.effective {
        0 => Effective::No,
        n if n < nodes.selected => Effective::Partly,
        _ if checks.iter().any(|c| c.status == CheckStatus::Failed) => Effective::Partly,
        _ => Effective::Yes,
    };
    let on = format!("on {} of {}", nodes.effective, plural(nodes.selected as usize, "node", "nodes"));
    let verb = match fact.policy.kind {
        PolicyKind::LocalRedirectPolicy => "redirects",
        PolicyKind::BalancingPolicy => "balances",
    };
    let summary = match (effective, first) {
        (Effective::No, Some(check)) => check.observed.clone(),
        (Effective::No, None) => "no node is known to apply it".to_owned(),
        (Effective::Yes, None) => format!("{verb} {on}"),
        (_, Some(check)) => format!("{verb} {on}; {}", check.observed),
        (Effective::Partly, None) => format!("{verb} {on}"),
    };
    let mut gaps = read.gaps.clone();
    if let Some(Err(gap)) = service
        && gap.reason != super::read::NOT_FOUND
    {
        gaps.push(gap.clone());
    }
    ClusterPolicyExplanation {
        name: fact.policy.name.clone(),
        policy: fact.policy.clone(),
        effective,
        summary,
        id: fact.id,
        generation: fact.generation,
        observed_generation: fact.status.observed_generation.unwrap_or(0),
        service: fact.wanted.service.clone(),
        address: fact.wanted.address.clone(),
        frontends,
        selector: fact.wanted.selector.clone(),
        namespaces: fact.wanted.namespaces.clone(),
        node_selector: fact.wanted.node_selector.clone(),
        redirects_per_second: fact.redirects_per_second,
        on_no_backend: fact.wanted.on_no_backend.clone(),
        nodes,
        groups,
        conditions: conditions(&fact.status),
        checks,
        gaps,
    }
}

fn unmet<'a>(
    fact: &'a PolicyFact,
    kind: &str,
) -> Option<&'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    // What was said of an earlier spec may be wrong of this one.
    fact.condition(kind).filter(|c| c.status == "False" && fact.is_current())
}

fn spec_valid(fact: &PolicyFact) -> Found {
    let next =
        format!("kubectl balancing validate --live: it names the place; then kubectl edit {}", object(fact));
    let wrong = unmet(fact, condition::ACCEPTED).filter(|c| c.reason == reason::INVALID_SPEC);
    match (wrong, &fact.parsed) {
        (Some(c), _) => failed(c.message.clone(), "a spec that breaks no rule", next),
        (None, None) => failed("the spec breaks a rule", "a spec that breaks no rule", next),
        (None, Some(_)) => passed("the spec breaks no rule"),
    }
}

/// `lr/node-local-dns`
fn object(fact: &PolicyFact) -> String {
    format!("{}/{}", fact.policy.kind.short_name(), fact.policy.name)
}

fn status_current(fact: &PolicyFact) -> Found {
    let observed = match fact.status.observed_generation {
        Some(n) if n == fact.generation => return passed(format!("the operator has judged generation {n}")),
        Some(n) => {
            format!("the operator has judged generation {n}, the spec is of generation {}", fact.generation)
        }
        None => "the operator has not said anything about it".to_owned(),
    };
    warning(
        format!("{observed}: what follows is what the nodes say themselves"),
        "a status of the newest spec",
        "does the operator run? kubectl get pods -A -l app.kubernetes.io/component=operator",
    )
}

fn frontend_resolved(fact: &PolicyFact, frontends: &[Frontend]) -> Found {
    if let Some(c) = unmet(fact, condition::RESOLVED_REFS) {
        let next = match fact.wanted.service.as_deref().and_then(|s| s.split_once('/')) {
            Some((namespace, name)) => format!("kubectl get service -n {namespace} {name} -o yaml"),
            None => format!("kubectl get {} -o yaml", object(fact)),
        };
        return failed(c.message.clone(), "a Service with a ClusterIP and ports that pair", next);
    }
    passed(match (&fact.wanted.service, &fact.wanted.address) {
        (Some(service), _) if frontends.is_empty() => format!("Service {service}"),
        (Some(service), _) => format!("Service {service} has {}", list(frontends, 4)),
        (None, Some(address)) => format!("address {address}: {}", list(frontends, 4)),
        (None, None) => "what it claims is not known".to_owned(),
    })
}

fn no_conflict(fact: &PolicyFact) -> Found {
    let expected = "one policy for each address, port and protocol of a node";
    let next = "remove one of the two, or what they share: the older one wins";
    if let Some(c) = unmet(fact, condition::ACCEPTED).filter(|c| c.reason == reason::FRONTEND_CONFLICT) {
        return failed(c.message.clone(), expected, next);
    }
    match fact.condition(condition::CONFLICTED).filter(|c| c.status == "True" && fact.is_current()) {
        Some(c) => warning(c.message.clone(), expected, next),
        None => passed("no other policy holds its frontends"),
    }
}

fn nodes_selected(fact: &PolicyFact, nodes: PolicyNodes) -> Found {
    let selector = &fact.wanted.node_selector;
    match (nodes.selected, selector.is_empty()) {
        (0, true) => {
            failed("no node says anything of it", "nodes with an agent", "kubectl balancing get nodes")
        }
        (0, false) => failed(
            format!("no node with an agent matches {selector}"),
            format!("a node with labels that match {selector}"),
            format!("kubectl get nodes -l '{selector}'"),
        ),
        (n, true) => passed(format!("it is for every node with an agent: {n}")),
        (n, false) => passed(format!("{} {selector}", plural(n as usize, "node matches", "nodes match"))),
    }
}

/// Names of nodes in some groups.
fn names<'a>(groups: impl Iterator<Item = &'a NodeGroup>) -> Vec<String> {
    groups.flat_map(|g| g.nodes.iter().cloned()).collect()
}

fn nodes_report(groups: &[NodeGroup], nodes: PolicyNodes, read: &Read) -> Found {
    let stopped = names(groups.iter().filter(|g| g.stale));
    let late = names(groups.iter().filter(|g| !g.stale && g.state == pending()));
    let next = "kubectl get pods -A -o wide -l app.kubernetes.io/component=agent; look at the logs of those that do \
                not run";
    if !stopped.is_empty() {
        let why = stopped
            .first()
            .and_then(|n| read.agent_of(n))
            .map(|p| format!(" ({})", p.why))
            .unwrap_or_default();
        return warning(
            format!("the agent of {} does not run{why}: its node goes on as it was", list(&stopped, NAMED)),
            "an agent on every node",
            next,
        );
    }
    if !late.is_empty() {
        return warning(
            format!(
                "{} not yet said anything about its newest generation: {}",
                have(late.len()),
                list(&late, NAMED)
            ),
            "an agent on every node that has applied the newest generation",
            next,
        );
    }
    passed(match (read.states.is_some(), read.agents.is_some()) {
        (false, _) => "the state of nodes could not be read; the operator counts them".to_owned(),
        (true, false) => {
            format!(
                "{} (whether their agents still run is not known)",
                plural(nodes.selected as usize, "node says how it is", "nodes say how it is")
            )
        }
        (true, true) => plural(nodes.selected as usize, "node says how it is", "nodes say how it is"),
    })
}

fn have(nodes: usize) -> String {
    plural(nodes, "node has", "nodes have")
}

fn programmed(groups: &[NodeGroup], nodes: PolicyNodes) -> Found {
    let broken = |g: &&NodeGroup| {
        !matches!(g.state, PolicyState::Programmed | PolicyState::Fallback) && g.state != pending()
    };
    let Some(first) = groups.iter().find(broken) else {
        return passed(format!(
            "{} of {} in their maps, or know that there is no backend",
            nodes.programmed,
            plural(nodes.selected as usize, "node has it", "nodes have it")
        ));
    };
    let all = names(groups.iter().filter(broken));
    let observed =
        format!("{} on {}: {}: {}", state_word(first.state), list(&all, NAMED), first.reason, first.message);
    let next = match (first.reason.as_str(), first.nodes.first()) {
        (reason::MAP_FULL, _) => {
            "make room: larger agent.maxFrontends or agent.maxBackends of the chart; what is in the maps stays".to_owned()
        }
        (_, Some(node)) => format!("kubectl balancing explain node {node}"),
        (_, None) => String::new(),
    };
    let expected = "maps that hold what the objects ask for, on every node that it selects";
    if nodes.effective == 0 { failed(observed, expected, next) } else { warning(observed, expected, next) }
}

fn programs_attached(groups: &[NodeGroup], read: &Read) -> Found {
    let mine = names(groups.iter());
    let detached: Vec<&str> = read
        .states
        .iter()
        .flatten()
        .filter(|s| mine.contains(&s.name))
        .filter(|s| {
            s.status.conditions.iter().any(|c| c.type_ == condition::PROGRAMS_ATTACHED && c.status == "False")
        })
        .map(|s| s.name.as_str())
        .collect();
    match detached.first() {
        None => passed("no node says that programs are missing"),
        Some(first) => warning(
            format!(
                "programs are not attached on {}: connections there are not looked at",
                list(&detached, NAMED)
            ),
            "the agent's programs attached to the cgroup",
            format!("kubectl balancing explain node {first}"),
        ),
    }
}

fn backends_ready(fact: &PolicyFact, groups: &[NodeGroup], nodes: PolicyNodes) -> Found {
    let without = names(groups.iter().filter(|g| g.state == PolicyState::Fallback));
    let selector = &fact.wanted.selector;
    let scope = match fact.wanted.namespaces.as_slice() {
        [one] => format!("-n {one}"),
        _ => "-A".to_owned(),
    };
    let next = match (fact.policy.kind, selector.is_empty()) {
        (_, true) => "look at spec.backend of the policy".to_owned(),
        _ => format!("kubectl get pods {scope} -o wide -l '{selector}'"),
    };
    let place = match fact.policy.kind {
        PolicyKind::LocalRedirectPolicy => "no Ready pod of their own",
        PolicyKind::BalancingPolicy => "no usable backend",
    };
    let beneath = match fact.wanted.on_no_backend.as_str() {
        "Refuse" => "their clients are refused",
        _ => "their clients get the Service, or the address dialled",
    };
    match (nodes.effective, without.is_empty()) {
        (0, false) => {
            failed(format!("{} {place}; {beneath}", have(without.len())), "one backend at least", next)
        }
        (0, true) => failed("no node redirects", "one node at least that does", next),
        (_, false) => warning(
            format!("{} {place}: {}; {beneath}", have(without.len()), list(&without, NAMED)),
            "a backend on every node, if that is meant",
            next,
        ),
        (n, true) => passed(format!("{} backends", plural(n as usize, "node has", "nodes have"))),
    }
}

/// The explanation for people.
fn text(e: &ClusterPolicyExplanation, now: Timestamp, colour: bool) -> String {
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    field(&mut out, "Name", &sanitise(&e.name));
    let observed = match e.observed_generation {
        0 => "no status yet".to_owned(),
        n => format!("status of {n}"),
    };
    let kind = format!("{}   Id: {}   Generation: {} ({observed})", e.policy.kind, id(e.id), e.generation);
    field(&mut out, "Kind", &kind);
    let (word, tone) = match e.effective {
        Effective::Yes => ("Yes", Tone::Good),
        Effective::Partly => ("Partly", Tone::Warn),
        Effective::No => ("No", Tone::Bad),
    };
    field(&mut out, "Effective", &format!("{}: {}", paint(word, tone), sanitise(&e.summary)));
    let claimed = match (&e.service, &e.address) {
        (Some(service), _) => format!("Service {}", sanitise(service)),
        (None, Some(address)) => format!("address {}", sanitise(address)),
        (None, None) => NONE.to_owned(),
    };
    field(&mut out, "Frontend", &claimed);
    for frontend in e.frontends.iter().take(20) {
        out.push_str(&format!("  {frontend}\n"));
    }
    let namespaces = match e.namespaces.as_slice() {
        [] => "any namespace".to_owned(),
        some => list(some, NAMED),
    };
    let selector = if e.selector.is_empty() { "any labels" } else { &e.selector };
    if e.checks.first().is_some_and(|c| c.status == CheckStatus::Passed) {
        field(&mut out, "Backends", &sanitise(&format!("pods with {selector} in {namespaces}")));
        field(
            &mut out,
            "On nodes",
            &sanitise(if e.node_selector.is_empty() { "all" } else { &e.node_selector }),
        );
        field(&mut out, "Otherwise", &sanitise(&e.on_no_backend));
    }
    if e.policy.kind == PolicyKind::LocalRedirectPolicy {
        let limit = match e.redirects_per_second {
            None => "as the agents' --redirect-qos-limit says".to_owned(),
            Some(0) => "none".to_owned(),
            Some(n) => format!("{n} redirects a second and node"),
        };
        field(&mut out, "QoS limit", &limit);
    }
    let n = e.nodes;
    field(
        &mut out,
        "Nodes",
        &format!("{} selected, {} programmed, {} effective", n.selected, n.programmed, n.effective),
    );
    let rows: Vec<Vec<String>> = e
        .groups
        .iter()
        .map(|g| {
            let stale = if g.stale { ", agent stopped" } else { "" };
            let why = if g.reason == g.state.as_str() { String::new() } else { format!(" ({})", g.reason) };
            vec![
                format!("  {}", plural(g.nodes.len(), "node", "nodes")),
                sanitise(&format!("{}{why}{stale}", g.state)).into_owned(),
                format!("{}/{} backends", g.programmed, g.wanted),
                sanitise(&list(&g.nodes, NAMED)).into_owned(),
            ]
        })
        .collect();
    let tones: Vec<Tone> = e.groups.iter().map(|g| policy_tone(g.state)).collect();
    for (line, tone) in columns(&rows).lines().zip(tones) {
        let painted =
            if matches!(tone, Tone::Bad | Tone::Warn) { paint(line, tone) } else { line.to_owned() };
        out.push_str(&format!("{painted}\n"));
    }
    out.push_str("Checks:\n");
    for check in &e.checks {
        check_text(&mut out, check, &paint);
    }
    out.push_str("Conditions:\n");
    let conditions = condition_rows(&e.conditions, now);
    if conditions.is_empty() {
        out.push_str(&format!("  {NONE}\n"));
    }
    out.push_str(&columns(&conditions));
    if !e.gaps.is_empty() {
        out.push_str("Not read:\n");
        for gap in &e.gaps {
            out.push_str(&format!("  {}\n", sanitise(&gap_text(gap))));
        }
    }
    out.push_str("Note:        connections that were open before the policy was programmed are not moved\n");
    out
}
