//! `status` of a cluster: operator, agents, nodes, policies, and what is wrong, on one page.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use balancing_api::{
    cli::{NodeState, document},
    node::Works,
    overview::{BrokenNodes, CLUSTER_STATUS, ClusterStatus, Gap, Replicas},
};
use owo_colors::OwoColorize;

use super::{
    Cluster, Wanted,
    facts::Read,
    read::{gap_cause, gap_text},
};
use crate::{
    columns::Tone,
    explain::{field, node::works_text},
    output::Error,
    sample::{Board, Sample},
    status::{StatusArgs, problems_list},
    table::tone_colour,
    text::{NONE, UNKNOWN, list, plural, sanitise},
};

/// What is said of a stream that can be read.
const LIVE: &str = "Yes";

/// Asks the cluster and prints the page.
///
/// # Errors
/// Nothing can be read.
pub async fn run(
    args: &StatusArgs,
    cluster: &Cluster,
    out: &mut dyn Write,
    colour: bool,
) -> Result<(), Error> {
    let (read, live) = tokio::try_join!(cluster.read(Wanted::ALL), cluster.live_gap())?;
    let status = status(cluster, &read, live);
    let text = args.output.render(&document(CLUSTER_STATUS, &status), || text(&status, colour))?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Do the nodes work, and the answer in one sentence, which names those that do not.
fn works(read: &Read, sample: &Sample) -> (Option<Works>, String, Vec<BrokenNodes>) {
    const NAMED: usize = 3;
    let Some(states) = &read.states else { return (None, "nodes cannot be read".to_owned(), Vec::new()) };
    let mut why: BTreeMap<(bool, String), (Works, Vec<String>)> = BTreeMap::new();
    let mut broken = |works: Works, summary: &str, node: &str| {
        let key = (works != Works::No, summary.to_owned());
        why.entry(key).or_insert((works, Vec::new())).1.push(node.to_owned());
    };
    for node in sample.nodes.iter().chain(&sample.stale) {
        let name = &node.status.node.name;
        let Some(state) = states.iter().find(|s| s.name == *name) else { continue };
        // Of each node another pod would be named.
        let (works, summary) = match super::node::judge(state, &node.status, read) {
            (works, _) if read.has_stopped(name) => {
                let pod = read.agent_of(name);
                (
                    works,
                    pod.map_or("no agent is on it".to_owned(), |p| {
                        format!("its agent does not run ({})", p.why)
                    }),
                )
            }
            judged => judged,
        };
        if works != Works::Yes {
            broken(works, &summary, name);
        }
    }
    for name in &sample.coverage.missing {
        broken(Works::No, "its agent has not said anything yet", name);
    }
    let all = sample.nodes.len() + sample.stale.len() + sample.coverage.missing.len();
    let groups = why.into_iter().map(|((_, summary), (works, nodes))| BrokenNodes { works, summary, nodes });
    let mut broken: Vec<BrokenNodes> = groups.collect();
    broken.sort_by(|a, b| {
        let rank = |g: &BrokenNodes| (g.works != Works::No, std::cmp::Reverse(g.nodes.len()));
        rank(a).cmp(&rank(b)).then_with(|| a.nodes.cmp(&b.nodes))
    });
    let bad: usize = broken.iter().map(|b| b.nodes.len()).sum();
    let none = broken.iter().filter(|b| b.works == Works::No).map(|b| b.nodes.len()).sum::<usize>();
    let whys: Vec<String> =
        broken.iter().map(|b| format!("{}: {}", list(&b.nodes, NAMED), b.summary)).collect();
    let mut told = whys.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if whys.len() > NAMED {
        told.push_str(&format!("; and {} more reasons: kubectl balancing get nodes", whys.len() - NAMED));
    }
    let (works, summary) = match (all, bad) {
        (0, _) => (Works::No, "no node says anything of itself".to_owned()),
        (1, 0) => (Works::Yes, "on the one node that reports".to_owned()),
        (_, 0) => (Works::Yes, format!("on all {all} nodes")),
        _ => {
            let works = if none == all { Works::No } else { Works::Partly };
            (works, format!("on {} of {}; not on {told}", all - bad, plural(all, "node", "nodes")))
        }
    };
    (Some(works), summary, broken)
}

fn count(into: &mut BTreeMap<String, u32>, key: &str) {
    *into.entry(key.to_owned()).or_default() += 1;
}

fn status(cluster: &Cluster, read: &Read, live: Option<Gap>) -> ClusterStatus {
    let mut facts = read.facts(None);
    let told = live.as_ref().map_or_else(|| LIVE.to_owned(), gap_cause);
    facts.gaps.extend(live);
    let gaps = facts.gaps.clone();
    let mut sample = Sample { cluster: Some(Arc::new(facts)), ..read.sample() };
    read.restrict(&mut sample);
    let (works, summary, broken) = works(read, &sample);
    let board = Board::new(sample, None);
    let (mut nodes, mut versions, mut ready) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for row in &board.nodes {
        let state: NodeState = row.state;
        count(&mut nodes, &format!("{state:?}"));
        if let Some(version) = &row.agent {
            count(&mut versions, version);
        }
    }
    for fact in read.policies.iter().flatten() {
        let summary = fact.summary();
        let word =
            if summary.current && !summary.ready.is_empty() { summary.ready.as_str() } else { "Unknown" };
        count(&mut ready, word);
    }
    // What could not be read stands in a list of its own.
    let problems = board.problems.iter().filter(|p| p.object != "view").cloned().collect();
    ClusterStatus {
        taken_at: read.time,
        client: env!("CARGO_PKG_VERSION").to_owned(),
        server: cluster.connection.server.clone(),
        context: cluster.connection.context.clone(),
        namespace: cluster.namespace.clone(),
        operator: read.operator,
        agents: read.agents.as_ref().map(|a| super::replicas(a)),
        works,
        summary,
        broken,
        live: told,
        coverage: board.sample.coverage.clone(),
        nodes,
        versions,
        policies: u32::try_from(read.policies.iter().flatten().count()).unwrap_or(u32::MAX),
        ready,
        problems,
        gaps,
    }
}

fn text(s: &ClusterStatus, colour: bool) -> String {
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    let context = s.context.as_ref().map(|c| format!(" (context {c})")).unwrap_or_default();
    field(&mut out, "Cluster", &sanitise(&format!("{}{context}", s.server)));
    let works = match s.works {
        Some(works) => works_text(works, &s.summary, &paint),
        None => format!("{UNKNOWN}: {}", sanitise(&s.summary)),
    };
    field(&mut out, "Works", &works);
    let pods = |replicas: Option<Replicas>, nothing: &str| match replicas {
        None => "<unknown>: pods cannot be read".to_owned(),
        Some(Replicas { all: 0, .. }) => paint(nothing, Tone::Bad),
        Some(Replicas { ready, all }) => {
            let text = format!("{ready} of {} ready", plural(all as usize, "pod", "pods"));
            if ready < all { paint(&text, Tone::Warn) } else { text }
        }
    };
    let none = sanitise(&format!("no pod in namespace {}", s.namespace)).into_owned();
    field(&mut out, "Operator", &pods(s.operator, &none));
    field(&mut out, "Agents", &pods(s.agents, &none));
    let live = if s.live == LIVE {
        "Yes".to_owned()
    } else {
        format!("{}: {}", paint("No", Tone::Warn), sanitise(&s.live))
    };
    field(&mut out, "Live view", &live);
    let nodes = s.coverage.fresh as usize + s.coverage.stale as usize + s.coverage.missing.len();
    let hidden = |resource: &str| s.gaps.iter().any(|g| g.resource.starts_with(resource));
    let known = match nodes {
        0 if hidden("nodebalancingstates.") => UNKNOWN.to_owned(),
        _ => counted(nodes, &s.nodes),
    };
    field(&mut out, "Nodes", &sanitise(&known));
    if !s.coverage.missing.is_empty() {
        field(&mut out, "Missing", &sanitise(&list(&s.coverage.missing, 10)));
    }
    let versions = s.versions.iter().map(|(v, n)| format!("{v} on {}", plural(*n as usize, "node", "nodes")));
    let versions: Vec<String> = versions.collect();
    let versions = if versions.is_empty() { NONE.to_owned() } else { versions.join(", ") };
    field(&mut out, "Versions", &sanitise(&format!("agents {versions}; plugin {}", s.client)));
    let words = [("True", "Ready"), ("False", "not Ready"), ("Unknown", "not judged yet")];
    let ready: BTreeMap<String, u32> =
        words.iter().filter_map(|(key, word)| Some(((*word).to_owned(), *s.ready.get(*key)?))).collect();
    let known = match s.policies {
        0 if hidden("localredirectpolicies.") => UNKNOWN.to_owned(),
        n => counted(n as usize, &ready),
    };
    field(&mut out, "Policies", &sanitise(&known));
    problems_list(&mut out, &s.problems, true, colour);
    if !s.gaps.is_empty() {
        out.push_str("Not read:\n");
        for gap in &s.gaps {
            out.push_str(&format!("  {}\n", sanitise(&gap_text(gap))));
        }
    }
    out
}

/// `3: 2 Ready, 1 Degraded`
fn counted(all: usize, parts: &BTreeMap<String, u32>) -> String {
    let parts: Vec<String> = parts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    if parts.is_empty() { all.to_string() } else { format!("{all}: {}", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::facts::{AgentPod, NodeState as State};

    fn state(name: &str, attached: &str) -> State {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Why", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        State::of(&json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": name},
            "status": {"agentVersion": "0.1.0", "conditions": [
                condition("ProgramsAttached", attached), condition("SourcesSynced", "True"),
                condition("PoliciesProgrammed", "True"), condition("ErrnoFidelity", "True"),
            ]},
        }))
        .unwrap()
    }

    fn pod(node: &str, why: &str) -> AgentPod {
        AgentPod {
            name: format!("agent-{node}"),
            node: node.to_owned(),
            runs: why.is_empty(),
            ready: why.is_empty(),
            why: why.to_owned(),
        }
    }

    fn judged(states: Vec<State>, agents: Vec<AgentPod>) -> (Option<Works>, String) {
        let read = Read {
            policies: Some(Vec::new()),
            states: Some(states),
            agents: Some(agents),
            ..Read::default()
        };
        let (works, summary, _) = works(&read, &read.sample());
        (works, summary)
    }

    #[test]
    fn nodes_are_joined_and_those_that_do_not_work_are_named() {
        let all = |names: &[&str]| -> Vec<State> { names.iter().map(|n| state(n, "True")).collect() };
        let run = |names: &[&str]| -> Vec<AgentPod> { names.iter().map(|n| pod(n, "")).collect() };
        assert_eq!(
            judged(all(&["n1", "n2"]), run(&["n1", "n2"])),
            (Some(Works::Yes), "on all 2 nodes".to_owned())
        );
        let mut agents = run(&["n1", "n2", "n3", "n4"]);
        agents[1] = pod("n2", "CrashLoopBackOff");
        let mut states = all(&["n1", "n2"]);
        states.push(state("n3", "False"));
        assert_eq!(
            judged(states, agents),
            (
                Some(Works::Partly),
                "on 1 of 4 nodes; not on n3: Why; n4: its agent has not said anything yet; n2: its agent does not \
                 run (CrashLoopBackOff)"
                    .to_owned()
            )
        );
        assert_eq!(judged(vec![state("n1", "False")], run(&["n1"])).0, Some(Works::No));
        assert_eq!(judged(Vec::new(), Vec::new()).0, Some(Works::No));
        let unread = Read::default();
        assert_eq!(works(&unread, &unread.sample()).0, None);
    }
}
