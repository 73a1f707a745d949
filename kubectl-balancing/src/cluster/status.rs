//! `status` of a cluster: operator, agents, nodes, policies, and what is wrong, on one page.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use balancing_api::{
    cli::{NodeState, document},
    overview::{CLUSTER_STATUS, ClusterStatus, Gap, Replicas},
};
use owo_colors::OwoColorize;

use super::{
    Cluster, Wanted,
    facts::Read,
    read::{gap_cause, gap_text},
};
use crate::{
    columns::Tone,
    explain::field,
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

fn count(into: &mut BTreeMap<String, u32>, key: &str) {
    *into.entry(key.to_owned()).or_default() += 1;
}

fn status(cluster: &Cluster, read: &Read, live: Option<Gap>) -> ClusterStatus {
    let mut facts = read.facts(None);
    let told = live.as_ref().map_or_else(|| LIVE.to_owned(), gap_cause);
    facts.gaps.extend(live);
    let gaps = facts.gaps.clone();
    let board = Board::new(Sample { cluster: Some(Arc::new(facts)), ..read.sample() }, None);
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
