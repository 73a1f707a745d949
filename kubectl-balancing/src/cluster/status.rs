//! `status` of a cluster: operator, agents, nodes, policies, and what is wrong, on one page.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use balancing_api::{
    cli::{NodeState, ProblemItem, document},
    node::Works,
    overview::{BrokenNodes, CLUSTER_STATUS, ClusterStatus, Gap, Replicas},
};
use owo_colors::OwoColorize;

use super::{
    Cluster, Wanted,
    facts::Read,
    pods::{self, Doubt},
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
    let mut why: BTreeMap<(u8, String), (Option<Works>, Vec<String>)> = BTreeMap::new();
    let mut broken = |works: Option<Works>, summary: &str, node: &str| {
        let key = (rank(works), summary.to_owned());
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
        match Doubt::about(read, name) {
            // Why it does not work says more than that it may be otherwise by now.
            _ if works != Works::Yes => broken(Some(works), &summary, name),
            Some(doubt) => broken(None, doubt.summary(), name),
            None => {}
        }
    }
    for name in &sample.coverage.missing {
        broken(Some(Works::No), "its agent has not said anything yet", name);
    }
    let all = sample.nodes.len() + sample.stale.len() + sample.coverage.missing.len();
    let groups = why.into_iter().map(|((_, summary), (works, nodes))| BrokenNodes { works, summary, nodes });
    let mut broken: Vec<BrokenNodes> = groups.collect();
    broken.sort_by(|a, b| {
        let order = |g: &BrokenNodes| (rank(g.works), std::cmp::Reverse(g.nodes.len()));
        order(a).cmp(&order(b)).then_with(|| a.nodes.cmp(&b.nodes))
    });
    let sum = |is: &dyn Fn(Option<Works>) -> bool| -> usize {
        broken.iter().filter(|b| is(b.works)).map(|b| b.nodes.len()).sum()
    };
    let (bad, none) = (sum(&|_| true), sum(&|w| w == Some(Works::No)));
    let unknown = sum(&|w| w.is_none());
    let (mut told, mut said): (Vec<String>, _) = (Vec::new(), None);
    for group in broken.iter().take(NAMED) {
        let word = if group.works.is_some() { "not on " } else { "not known of " };
        // One word serves the groups that follow it.
        let before = if said.replace(word) == Some(word) { "" } else { word };
        told.push(format!("{before}{}: {}", list(&group.nodes, NAMED), group.summary));
    }
    if broken.len() > NAMED {
        told.push(format!("and {} more reasons: kubectl balancing get nodes", broken.len() - NAMED));
    }
    let told = told.join("; ");
    let works = match (all, bad) {
        (0, _) => Some(Works::No),
        // What nodes said last holds only as long as their agents run.
        (_, 0) if read.agents.is_none() => None,
        (_, 0) => Some(if pods::is_without_operator(read) { Works::Partly } else { Works::Yes }),
        _ if unknown == all => None,
        _ if none + unknown == all => Some(Works::No),
        _ => Some(Works::Partly),
    };
    let unseen = read.agents.is_none();
    let when = if unseen { " when last heard" } else { "" };
    let mut summary = match (all, bad) {
        (0, _) => "no node says anything of itself".to_owned(),
        (1, 0) => format!("on the one node that reports{when}"),
        (_, 0) => format!("on all {all} nodes{when}"),
        _ if unknown == all => told,
        _ => format!("on {} of {}; {told}", all - bad, plural(all, "node", "nodes")),
    };
    if unseen {
        summary.push_str("; pods cannot be read: whether agents and operator run now is not known");
    }
    if pods::is_without_operator(read) {
        summary.push_str("; no operator is ready");
    }
    (works, summary, broken)
}

/// The worst first.
fn rank(works: Option<Works>) -> u8 {
    match works {
        Some(Works::No) => 0,
        Some(Works::Partly | Works::Yes) => 1,
        None => 2,
    }
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
    let of_pods = pods::problems(read, &sample);
    let board = Board::new(sample, None);
    let (mut nodes, mut versions, mut ready) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for row in &board.nodes {
        let state: NodeState = row.state;
        match Doubt::about(read, &row.name) {
            // It is as the node said last.
            Some(_) if state == NodeState::Ready => count(&mut nodes, "Unknown"),
            _ => count(&mut nodes, &format!("{state:?}")),
        }
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
    let of_board = board.problems.iter().filter(|p| p.object != "view").cloned();
    let mut problems: Vec<ProblemItem> = of_pods.into_iter().chain(of_board).collect();
    problems.sort_by_key(|p| p.severity);
    ClusterStatus {
        taken_at: read.time,
        client: env!("CARGO_PKG_VERSION").to_owned(),
        server: cluster.connection.server.clone(),
        context: cluster.connection.context.clone(),
        namespace: cluster.namespace.clone(),
        operator: read.operators.as_ref().map(|o| super::replicas(o)),
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
        None => format!("{}: {}", paint(UNKNOWN, Tone::Warn), sanitise(&s.summary)),
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
    use crate::cluster::facts::{NodeState as State, OwnPod};

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

    fn pod(node: &str, why: &str) -> OwnPod {
        OwnPod {
            name: format!("agent-{node}"),
            node: node.to_owned(),
            runs: why.is_empty(),
            ready: why.is_empty(),
            lost: false,
            why: why.to_owned(),
        }
    }

    fn judged(states: Vec<State>, agents: Vec<OwnPod>) -> (Option<Works>, String) {
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
        let run = |names: &[&str]| -> Vec<OwnPod> { names.iter().map(|n| pod(n, "")).collect() };
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
        // Pods are not Ready before a node says so itself.
        let mut agents = run(&["n1", "n2", "n3", "n4"]);
        agents[1].ready = false;
        (agents[2].ready, agents[2].lost) = (false, true);
        let states = || all(&["n1", "n2", "n3", "n4"]);
        assert_eq!(
            judged(states(), agents.clone()),
            (
                Some(Works::Partly),
                "on 2 of 4 nodes; not known of n2: its agent's pod is not Ready; n3: the node is NotReady"
                    .to_owned()
            )
        );
        agents[0] = pod("n1", "CrashLoopBackOff");
        assert_eq!(
            judged(states(), agents.clone()).1,
            "on 1 of 4 nodes; not on n1: its agent does not run (CrashLoopBackOff); not known of n2: its agent's pod \
             is not Ready; n3: the node is NotReady"
        );
        let (works_now, summary) = judged(all(&["n2"]), vec![agents[1].clone()]);
        assert_eq!((works_now, summary.as_str()), (None, "not known of n2: its agent's pod is not Ready"));
        let unknown_and_broken = vec![state("n1", "False"), state("n2", "True")];
        let two = vec![pod("n1", ""), agents[1].clone()];
        assert_eq!(
            judged(unknown_and_broken, two),
            (
                Some(Works::No),
                "on 0 of 2 nodes; not on n1: Why; not known of n2: its agent's pod is not Ready".to_owned()
            )
        );
        let unread = Read::default();
        assert_eq!(works(&unread, &unread.sample()).0, None);
    }

    #[test]
    fn without_an_operator_not_all_works() {
        let read = |operators: Option<Vec<OwnPod>>| Read {
            policies: Some(Vec::new()),
            states: Some(vec![state("n1", "True"), state("n2", "True")]),
            agents: Some(vec![pod("n1", ""), pod("n2", "")]),
            operators,
            ..Read::default()
        };
        let said = |read: &Read| {
            let (works, summary, _) = works(read, &read.sample());
            (works, summary)
        };
        let yes = (Some(Works::Yes), "on all 2 nodes".to_owned());
        assert_eq!(said(&read(Some(vec![pod("n1", "Crash"), pod("n2", "")]))), yes);
        let partly = (Some(Works::Partly), "on all 2 nodes; no operator is ready".to_owned());
        assert_eq!(said(&read(Some(vec![pod("n1", "Crash")]))), partly);
        // Who may not list pods is not told Yes, but what is known to be wrong.
        let unseen = "pods cannot be read: whether agents and operator run now is not known";
        let blind = |states| Read { agents: None, states: Some(states), ..read(None) };
        let (works_now, summary) = said(&blind(vec![state("n1", "True"), state("n2", "True")]));
        assert_eq!((works_now, summary), (None, format!("on all 2 nodes when last heard; {unseen}")));
        let (works_now, summary) = said(&blind(vec![state("n1", "True")]));
        assert_eq!(
            (works_now, summary),
            (None, format!("on the one node that reports when last heard; {unseen}"))
        );
        let (works_now, summary) = said(&blind(vec![state("n1", "True"), state("n2", "False")]));
        assert_eq!(
            (works_now, summary),
            (Some(Works::Partly), format!("on 1 of 2 nodes; not on n2: Why; {unseen}"))
        );
        assert_eq!(said(&blind(vec![state("n1", "False")])).0, Some(Works::No));
        let mut unready = read(Some(vec![OwnPod { ready: false, ..pod("n1", "") }]));
        assert_eq!(said(&unready), partly);
        // Problems are named once, and only where pods can be read.
        unready.agents.iter_mut().flatten().for_each(|p| (p.ready, p.lost) = (false, true));
        let found = pods::problems(&unready, &unready.sample());
        let found: Vec<(&str, usize, &str)> =
            found.iter().map(|p| (p.reason.as_str(), p.nodes.len(), p.next.as_str())).collect();
        assert_eq!(
            found,
            [
                ("OperatorNotReady", 0, "kubectl logs -n  agent-n1 --tail=20"),
                ("NodeNotReady", 2, "kubectl describe node n1"),
            ]
        );
        let unreadable = Read { agents: None, operators: None, ..unready };
        assert_eq!(pods::problems(&unreadable, &unreadable.sample()), []);
    }
}
