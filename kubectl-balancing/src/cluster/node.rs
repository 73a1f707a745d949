//! `explain node` in a cluster: what the agent of a node said of it last, and whether it still runs.

use std::io::Write;

use balancing_api::{
    agent::{NodeStatus, PolicyState},
    cli::{Check, CheckStatus, document},
    names::{condition, reason},
    node::{ExplainedPolicy, NODE_EXPLANATION, NodeActivity, NodeExplanation, Works},
};
use jiff::Timestamp;
use owo_colors::OwoColorize;

use super::{
    Cluster, Wanted,
    facts::{NodeState, Read, addresses},
    pods::{self, Doubt},
    read::{NODES, STATES, gap_text},
};
use crate::{
    columns::Tone,
    explain::{
        Error, columns, field,
        node::{NodeArgs, condition_rows, explained_policies, policies_text, works_text},
        policy_text::check_text,
    },
    sample::NodeSample,
    table::tone_colour,
    text::{NONE, list, near, sanitise},
};

/// Asks the cluster and prints the explanation.
///
/// # Errors
/// There is no such node, or nothing of it can be read.
pub async fn run(args: &NodeArgs, cluster: &Cluster, out: &mut dyn Write, colour: bool) -> Result<(), Error> {
    let mut read = cluster.read(Wanted::ALL).await?;
    if read.states.is_none() {
        let gap = read.gaps.iter().find(|g| g.resource == STATES.resource()).cloned();
        return Err(gap
            .map_or_else(|| Error::NotFound("no node can be read".to_owned()), |g| Error::Gap(Box::new(g))));
    }
    let states = read.states.clone().unwrap_or_default();
    let names: Vec<&str> = states.iter().map(|s| s.name.as_str()).collect();
    let name = match (&args.name, names.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [one]) => (*one).to_owned(),
        (None, []) => {
            return Err(Error::NotFound(
                "no node says anything of itself: do agents run? kubectl balancing status".to_owned(),
            ));
        }
        (None, many) => return Err(Error::Usage(format!("name one of the nodes: {}", list(many, 10)))),
    };
    let Some(state) = states.iter().find(|s| s.name == name) else {
        let is_node =
            cluster.connection.object("whether there is such a node", NODES, None, &name).await.is_ok();
        return Err(Error::NotFound(not_found(&name, is_node, &names, &read)));
    };
    let sample = read.sample();
    let node = sample.nodes.iter().chain(&sample.stale).find(|n| n.status.node.name == name);
    let Some(mut node) = node.cloned() else {
        return Err(Error::NotFound(not_found(&name, false, &names, &read)));
    };
    match cluster.connection.object("addresses of the node", NODES, None, &name).await {
        Ok(object) => node.status.node.addresses = addresses(&object),
        Err(failure) => read.gaps.push(failure.gap()?),
    }
    let explanation = explain(state, &node, &read);
    let document = document(NODE_EXPLANATION, &explanation);
    let text = args.output.render(&document, || text(&explanation, &read, colour))?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn not_found(name: &str, is_node: bool, names: &[&str], read: &Read) -> String {
    if let Some(pod) = read.agent_of(name) {
        let how = if pod.runs { "runs" } else { &pod.why };
        return format!(
            "node {name:?} has not said anything of itself yet, and its agent's pod {} is {how}; look at its log",
            pod.name
        );
    }
    if is_node && read.agents.is_some() {
        return format!(
            "node {name:?} has no agent: no pod of DaemonSet balancing-agent is on it (yet). Its nodeSelector, its affinity or a taint of \
             the node may leave it out"
        );
    }
    match near(name, names.iter().copied()).as_slice() {
        [] => format!(
            "no agent of a node {name:?} has ever said anything; `kubectl balancing get nodes` lists those that did"
        ),
        near => {
            format!("no agent of a node {name:?} has ever said anything; did you mean {}?", near.join(", "))
        }
    }
}

fn check(code: &str, status: CheckStatus, observed: String, expected: &str, next: String) -> Check {
    let (expected, next) = match status {
        CheckStatus::Passed => (String::new(), String::new()),
        _ => (expected.to_owned(), next),
    };
    Check { code: code.to_owned(), status, observed, expected, next }
}

/// Does a node work, and the answer in one sentence.
pub(super) fn judge(state: &NodeState, status: &NodeStatus, read: &Read) -> (Works, String) {
    judged(&checks(state, &explained_policies(status), read))
}

fn judged(checks: &[Check]) -> (Works, String) {
    let failed = checks.iter().find(|c| c.status == CheckStatus::Failed);
    let warned = checks.iter().find(|c| c.status == CheckStatus::Warning);
    match (failed, warned) {
        (Some(c), _) => {
            (if c.code == "ProgramsAttached" { Works::No } else { Works::Partly }, c.observed.clone())
        }
        (None, Some(c)) => (Works::Yes, format!("all is attached and programmed; {}", c.observed)),
        (None, None) => (Works::Yes, "everything works".to_owned()),
    }
}

fn explain(state: &NodeState, node: &NodeSample, read: &Read) -> NodeExplanation {
    let status = &node.status;
    let policies = explained_policies(status);
    let checks = checks(state, &policies, read);
    let (works, summary) = match (judged(&checks), Doubt::about(read, &state.name)) {
        ((Works::Yes, _), Some(doubt)) => {
            (Works::Partly, format!("{}: what follows is what it said last", doubt.summary()))
        }
        (judged, _) => judged,
    };
    NodeExplanation {
        name: state.name.clone(),
        healthy: works == Works::Yes,
        works,
        summary,
        addresses: status.node.addresses.clone(),
        source: "kubernetes".to_owned(),
        agent: status.agent.clone(),
        kernel: status.kernel.clone(),
        datapath: status.datapath.clone(),
        conditions: status.conditions.clone(),
        sources: Vec::new(),
        source_errors: Vec::new(),
        policies,
        differing: Vec::new(),
        activity: NodeActivity {
            since: Timestamp::UNIX_EPOCH,
            redirects: 0,
            balanced: 0,
            resolved: 0,
            qos_drops: 0,
            fallbacks: 0,
            refusals: 0,
            events_lost: 0,
        },
        checks,
    }
}

fn checks(state: &NodeState, policies: &[ExplainedPolicy], read: &Read) -> Vec<Check> {
    let mut checks = vec![agent_runs(state, read)];
    for (kind, expected) in [
        (condition::PROGRAMS_ATTACHED, "a program of the agent on every hook"),
        (condition::SOURCES_SYNCED, "every object read; what was read last stays in force until then"),
        (condition::POLICIES_PROGRAMMED, "every policy that applies here in the maps"),
        (condition::ERRNO_FIDELITY, "ECONNREFUSED for clients that are refused"),
    ] {
        checks.push(of_condition(state, kind, expected));
    }
    let bad =
        |p: &&ExplainedPolicy| p.state != PolicyState::Programmed && p.state != PolicyState::NotSelected;
    let idle: Vec<String> = policies
        .iter()
        .filter(bad)
        .map(|p| format!("{}/{} ({})", p.policy.kind.short_name(), p.policy.name, p.reason))
        .collect();
    let effective = policies.len() - idle.len();
    checks.push(if idle.is_empty() {
        check("PoliciesEffective", CheckStatus::Passed, format!("{effective} in force"), "", String::new())
    } else {
        let observed = format!("{effective} in force; not in force: {}", list(&idle, 5));
        let next = policies.iter().find(bad).map(|p| {
            format!("kubectl balancing explain policy {}/{}", p.policy.kind.short_name(), p.policy.name)
        });
        let expected = "every policy in force, if each is meant to have a backend here";
        check("PoliciesEffective", CheckStatus::Warning, observed, expected, next.unwrap_or_default())
    });
    if state.status.truncated > 0 {
        let observed = format!("{} more policies are not listed", state.status.truncated);
        checks.push(check(
            "PoliciesListed",
            CheckStatus::Warning,
            observed,
            "all of them",
            "kubectl get elf".to_owned(),
        ));
    }
    checks
}

fn agent_runs(state: &NodeState, read: &Read) -> Check {
    let code = "AgentRuns";
    let expected =
        "an agent that runs: without it nothing new is programmed, and policies lapse with their lease";
    match (&read.agents, read.agent_of(&state.name)) {
        (None, _) => check(
            code,
            CheckStatus::Warning,
            "whether its agent runs is not known: pods cannot be read".to_owned(),
            "a look at its pod",
            read.gaps.iter().find(|g| g.resource == "pods").map(|g| g.next.clone()).unwrap_or_default(),
        ),
        (Some(_), None) => check(
            code,
            CheckStatus::Failed,
            "no pod of an agent is on it: what follows is what it said last".to_owned(),
            expected,
            "does the DaemonSet select this node? kubectl get daemonset -A -l app.kubernetes.io/name=balancing".to_owned(),
        ),
        (Some(_), Some(pod)) if !pod.runs => check(
            code,
            CheckStatus::Failed,
            format!("the agent's pod {} does not run ({}): what follows is what it said last", pod.name, pod.why),
            expected,
            format!("kubectl logs -n {} --previous {}", read.namespace, pod.name),
        ),
        (Some(_), Some(pod)) if !pod.ready => check(
            code,
            CheckStatus::Warning,
            match pod.lost {
                true => "the node is NotReady: what follows is what it said last".to_owned(),
                false => format!("the agent's pod {} runs and is not Ready", pod.name),
            },
            "a pod that is Ready: else what the node does now is not known",
            pods::look_at(pod, &read.namespace),
        ),
        (Some(_), Some(pod)) => {
            check(code, CheckStatus::Passed, format!("pod {} runs", pod.name), "", String::new())
        }
    }
}

fn of_condition(state: &NodeState, kind: &str, expected: &str) -> Check {
    let Some(c) = state.status.conditions.iter().find(|c| c.type_ == kind) else {
        return check(
            kind,
            CheckStatus::Warning,
            "the agent says nothing of it".to_owned(),
            expected,
            String::new(),
        );
    };
    let message =
        if c.message.is_empty() { c.reason.clone() } else { format!("{}: {}", c.reason, c.message) };
    let next = match c.reason.as_str() {
        reason::MAP_FULL => {
            "larger agent.maxFrontends or agent.maxBackends of the chart; what is in the maps stays"
        }
        reason::KERNEL_UNSUPPORTED => "a kernel of 6.1 or later, if programs mind",
        _ => "look at the log of the agent",
    };
    let status = match (c.status.as_str(), kind) {
        ("True", _) => CheckStatus::Passed,
        (_, condition::ERRNO_FIDELITY) => CheckStatus::Warning,
        _ => CheckStatus::Failed,
    };
    check(kind, status, message, expected, next.to_owned())
}

fn text(e: &NodeExplanation, read: &Read, colour: bool) -> String {
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    field(&mut out, "Name", &sanitise(&e.name));
    field(&mut out, "Works", &works_text(e.works, &e.summary, &paint));
    let addresses = if e.addresses.is_empty() { NONE.to_owned() } else { list(&e.addresses, 8) };
    field(&mut out, "Addresses", &addresses);
    field(&mut out, "Agent", &sanitise(&e.agent.version));
    field(&mut out, "Kernel", &sanitise(&e.kernel.release));
    field(&mut out, "Maps", &format!("layout {}", e.datapath.layout_version));
    policies_text(&mut out, e, &paint);
    out.push_str("Checks:\n");
    for check in &e.checks {
        check_text(&mut out, check, &paint);
    }
    out.push_str("Conditions:\n");
    let conditions = condition_rows(&e.conditions, read.time);
    out.push_str(&columns(&conditions));
    if !read.gaps.is_empty() {
        out.push_str("Not read:\n");
        for gap in &read.gaps {
            out.push_str(&format!("  {}\n", sanitise(&gap_text(gap))));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::facts::OwnPod;

    /// What is said of node n1, all of whose conditions are good but that of its programs.
    fn said(programs: &str, (runs, ready, lost): (bool, bool, bool)) -> (Works, String, Check) {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Why", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let state = NodeState::of(&json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": "n1"},
            "status": {"agentVersion": "0.1.0", "conditions": [
                condition("ProgramsAttached", programs), condition("SourcesSynced", "True"),
                condition("PoliciesProgrammed", "True"), condition("ErrnoFidelity", "True"),
            ]},
        }))
        .unwrap();
        let pod = OwnPod {
            name: "agent-1".to_owned(),
            node: "n1".to_owned(),
            runs,
            ready,
            lost,
            why: "CrashLoopBackOff".to_owned(),
        };
        let read = Read {
            namespace: "elf".to_owned(),
            states: Some(vec![state.clone()]),
            agents: Some(vec![pod]),
            ..Read::default()
        };
        let sample = read.sample();
        let node = sample.nodes.iter().chain(&sample.stale).next().unwrap();
        let e = explain(&state, node, &read);
        assert_eq!(e.healthy, e.works == Works::Yes);
        (e.works, e.summary, e.checks[0].clone())
    }

    #[test]
    fn a_node_whose_agent_is_not_ready_is_not_said_to_work() {
        let (works, summary, check) = said("True", (true, true, false));
        assert_eq!((works, summary.as_str()), (Works::Yes, "everything works"));
        assert_eq!(check.status, CheckStatus::Passed);
        let (works, summary, check) = said("True", (true, false, false));
        assert_eq!(works, Works::Partly);
        assert_eq!(summary, "its agent's pod is not Ready: what follows is what it said last");
        assert_eq!(check.status, CheckStatus::Warning);
        assert_eq!(check.next, "kubectl logs -n elf agent-1 --tail=20");
        let (works, summary, check) = said("True", (true, false, true));
        assert_eq!(works, Works::Partly);
        assert_eq!(summary, "the node is NotReady: what follows is what it said last");
        assert_eq!(check.next, "kubectl describe node n1");
        // What is known to be broken says more.
        let (works, summary, _) = said("False", (true, false, false));
        assert_eq!((works, summary.as_str()), (Works::No, "Why"));
    }
}
