//! `explain policy`: does a policy do what it says on this node, and if not, which step of the way fails.

use std::{collections::BTreeSet, io::Write};

use balancing_api::{
    agent::{
        BackendInfo, Caller, Counters, DecideRequest, FrontendInfo, FrontendList, NodeStatus, PolicyState,
        PolicyStatus, QosState, RungInfo,
    },
    cli::{
        Activity, Check, CheckStatus, Effective, ExplainedBackends, ExplainedFrontend, ExplainedLadder,
        ExplainedQos, POLICY_EXPLANATION, PolicyExplanation, document,
    },
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};
use clap::Args;

use super::{Error, Output, checks::checks, policy_text::text};
use crate::{
    client::{Client, View},
    columns::state_word,
    sample::{complete, frontend_state, taking_rung},
    simulate::hooks,
    text::{near, plural, sanitise},
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
    if let Some((kind, _)) = args.name.split_once('/') {
        kind_of(kind).map_err(Error::Usage)?;
    }
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
pub fn kind_of(text: &str) -> Result<PolicyKind, String> {
    // `localredirectpolicy.balancing.elf.io`, as `-o name` prints it.
    match text.to_ascii_lowercase().split('.').next().unwrap_or_default() {
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
        redirects_per_second: limit(policy, &name, facts.programmed),
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
    let explained: BTreeSet<Frontend> = frontends.iter().map(|f| f.frontend).collect();
    let programmed = facts.programmed.items.iter().filter(|i| explained.contains(&i.frontend));
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
    let one = |(frontend, kept): (&Frontend, bool)| {
        let programmed = item(facts.programmed, *frontend);
        let taken = programmed.and_then(taking_rung).is_some_and(|r| r.policy.as_ref() == Some(name));
        ExplainedFrontend {
            frontend: *frontend,
            state: programmed.map(frontend_state),
            effective: taken && missing_hooks(*frontend, facts.status).is_empty(),
            programmed: same_ladder(programmed, item(facts.desired, *frontend)),
            kept,
        }
    };
    let kept = kept(policy, name, facts.programmed);
    policy.frontends.iter().map(|f| (f, false)).chain(kept.iter().map(|f| (f, true))).map(one).collect()
}

/// The limit in force: of what is kept from before, the one in the maps.
fn limit(policy: &PolicyStatus, name: &PolicyRef, programmed: &FrontendList) -> u32 {
    if policy.state != PolicyState::Invalid {
        return policy.redirects_per_second;
    }
    let rungs = programmed.items.iter().flat_map(|i| &i.rungs).filter(|r| r.policy.as_ref() == Some(name));
    rungs.filter_map(|r| r.redirects_per_second).max().unwrap_or(policy.redirects_per_second)
}

/// Frontends that the maps still give to the policy, while it does not hold them as it is now: of an invalid policy, what
/// an earlier agent programmed stays.
fn kept(policy: &PolicyStatus, name: &PolicyRef, programmed: &FrontendList) -> BTreeSet<Frontend> {
    let has_rung = |i: &&FrontendInfo| i.rungs.iter().any(|r| r.policy.as_ref() == Some(name));
    let rungs = programmed.items.iter().filter(has_rung).map(|i| i.frontend);
    rungs.filter(|f| !policy.frontends.contains(f)).collect()
}

/// The hooks a frontend needs that have no program of the agent.
pub(super) fn missing_hooks(frontend: Frontend, status: &NodeStatus) -> Vec<String> {
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
    let verb = match policy.kind {
        PolicyKind::LocalRedirectPolicy => "redirected to",
        PolicyKind::BalancingPolicy => "balanced to",
    };
    let kept = frontends.iter().filter(|f| f.kept && f.effective).count();
    match (effective, bad) {
        (_, Some(check)) if kept > 0 => format!(
            "not as it is now ({}); as it was before, {} {verb} {}",
            check.observed,
            plural(kept, "frontend is still", "frontends are still"),
            plural(backends.programmed.len(), "backend", "backends"),
        ),
        (Effective::Yes, warning) => {
            format!(
                "{} {verb} {}{}",
                plural(frontends.len(), "frontend is", "frontends are"),
                plural(backends.programmed.len(), "backend", "backends"),
                warning.map(|c| format!("; but see {} below", c.code)).unwrap_or_default()
            )
        }
        (_, Some(check)) => check.observed.clone(),
        (_, None) => message_or(policy, &state_word(policy.state)),
    }
}

pub(super) fn message_or(policy: &PolicyStatus, otherwise: &str) -> String {
    if policy.message.is_empty() { otherwise.to_owned() } else { policy.message.clone() }
}
