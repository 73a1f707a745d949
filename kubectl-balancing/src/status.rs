//! `status`: how everything is, on one page.

use std::{collections::BTreeMap, io::Write, time::Duration};

use balancing_api::{
    agent::{AgentInfo, KernelInfo, SourceProgress},
    cli::{ProblemItem, Severity, document},
    net::Frontend,
    node::{STATUS, Status, StatusNode},
};
use clap::Args;
use jiff::Timestamp;
use owo_colors::OwoColorize;

use crate::{
    client::Client,
    cluster::part::Chosen,
    columns::Tone,
    explain::{
        columns, field,
        node::{differing, judge, views, works_text},
    },
    output::{Error, Page},
    problems::places,
    sample::{Board, NodeSample, Sample, severity},
    table::tone_colour,
    text::{NONE, age_at, list, parse_duration, plural, sanitise, scaled},
    unread::FOLDER,
};

/// Problems that are shown; `top problems` shows all.
const WORST: usize = 5;

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Time between the two samples that rates are made of.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub interval: Duration,
    /// Which policies and nodes of a cluster.
    #[command(flatten)]
    pub labels: Chosen,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Page,
}

/// Asks the agent twice, for rates, and prints the page.
pub async fn run(args: &StatusArgs, client: &Client, out: &mut dyn Write, colour: bool) -> Result<(), Error> {
    let before = Sample::of_one(client.sample().await?);
    tokio::time::sleep(args.interval).await;
    let (now, (programmed, desired)) = tokio::try_join!(client.sample(), views(client))?;
    let board = Board::new(Sample::of_one(now), Some(&before));
    let differing: Vec<Frontend> =
        board.sample.nodes.iter().flat_map(|n| differing(&n.status, &programmed, &desired)).collect();
    let status = status(&board, &differing);
    let text = args.output.render(&document(STATUS, &status), || text(&status, &board, colour))?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The page of a board; `differing` are frontends of its one node whose ladder is not as the objects ask for.
fn status(board: &Board, differing: &[Frontend]) -> Status {
    let mut policies: BTreeMap<String, u32> = BTreeMap::new();
    for row in &board.policies {
        *policies.entry(row.state.to_string()).or_default() += 1;
    }
    let nodes = board.nodes.iter().filter_map(|row| {
        let known = board.sample.nodes.iter().chain(&board.sample.stale);
        let node: &NodeSample = known.into_iter().find(|n| n.status.node.name == row.name)?;
        let status = &node.status;
        let (works, summary) = judge(status, &node.counters, differing);
        Some(StatusNode {
            row: row.clone(),
            works,
            summary,
            info: status.node.clone(),
            agent_info: status.agent.clone(),
            kernel_info: status.kernel.clone(),
            datapath: status.datapath.clone(),
            sources: status.sources.clone(),
            source_errors: u32::try_from(status.source_errors.len()).unwrap_or(u32::MAX),
            events: node.counters.events,
        })
    });
    Status {
        taken_at: board.sample.taken_at(),
        interval: board.interval,
        coverage: board.sample.coverage.clone(),
        client: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: nodes.collect(),
        policies,
        problems: board.problems.clone(),
    }
}

fn text(status: &Status, board: &Board, colour: bool) -> String {
    let mut out = String::new();
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    match status.nodes.as_slice() {
        [one] => node_text(&mut out, one, status.taken_at, &paint),
        many => many_text(&mut out, many, status),
    }
    let states: Vec<String> =
        by_severity(board).iter().map(|(state, count)| format!("{count} {state}")).collect();
    let states = if states.is_empty() {
        NONE.to_owned()
    } else {
        format!("{}: {}", board.policies.len(), states.join(", "))
    };
    field(&mut out, "Policies", &sanitise(&states));
    field(&mut out, "Frontends", &board.frontends.len().to_string());
    field(&mut out, "Per second", &rates(board));
    problems_text(&mut out, status, colour);
    out
}

/// States with how many policies are in each, what does not work first.
fn by_severity(board: &Board) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(u8, String), usize> = BTreeMap::new();
    for row in &board.policies {
        *counts.entry((severity(row.state), row.state.to_string())).or_default() += 1;
    }
    counts.into_iter().map(|((_, state), count)| (state, count)).collect()
}

fn node_text(out: &mut String, node: &StatusNode, now: Timestamp, paint: &dyn Fn(&str, Tone) -> String) {
    let addresses =
        if node.info.addresses.is_empty() { NONE.to_owned() } else { list(&node.info.addresses, 4) };
    field(out, "Node", &sanitise(&format!("{}: {:?}, {addresses}", node.info.name, node.row.state)));
    field(out, "Works", &works_text(node.works, &node.summary, paint));
    field(out, "Agent", &agent_text(&node.agent_info, now));
    field(out, "Plugin", env!("CARGO_PKG_VERSION"));
    field(out, "Kernel", &kernel_text(&node.kernel_info));
    let programs = node.row.programs;
    let attached =
        format!("{} of {} attached to {}", programs.programmed, programs.wanted, node.datapath.cgroup_root);
    field(out, "Programs", &sanitise(&attached));
    field(
        out,
        "Maps",
        &sanitise(&format!("layout {} in {}", node.datapath.layout_version, node.datapath.bpffs)),
    );
    let maps: Vec<Vec<String>> = node
        .datapath
        .maps
        .iter()
        .map(|m| {
            let fill = if m.capacity == 0 { 0.0 } else { m.entries as f64 / m.capacity as f64 };
            vec![
                format!("  {}", sanitise(&m.name)),
                gauge(fill),
                format!("{:.0}%", fill * 100.0),
                format!("{} of {}", m.entries, m.capacity),
            ]
        })
        .collect();
    out.push_str(&columns(&maps));
    let sources = sources_text(&node.info.source, &node.sources, node.source_errors as usize, now);
    field(out, "Sources", &sanitise(&sources));
    field(out, "Events", &format!("{} produced, {} lost", node.events.produced, node.events.lost));
}

/// A bar of ten, in letters that every terminal has; what is not empty shows a mark, what is not full a gap.
pub(crate) fn gauge(fill: f64) -> String {
    let full = (fill.clamp(0.0, 1.0) * 10.0).round() as usize;
    let full = if fill > 0.0 { full.max(1) } else { 0 };
    let full = if fill < 1.0 { full.min(9) } else { full };
    format!("[{}{}]", "#".repeat(full), ".".repeat(10 - full))
}

pub(crate) fn agent_text(agent: &AgentInfo, now: Timestamp) -> String {
    let limit = match agent.default_redirects_per_second {
        0 => "no limit for policies that set none".to_owned(),
        limit => format!("limit {limit}/s for policies that set none"),
    };
    sanitise(&format!("{}, started {} ago, {limit}", agent.version, age_at(agent.started_at, now)))
        .into_owned()
}

pub(crate) fn kernel_text(kernel: &KernelInfo) -> String {
    let f = &kernel.features;
    let features = [
        (f.set_retval, "refused clients get ECONNREFUSED", "refused clients get EPERM"),
        (f.socket_storage, "socket storage", "no socket storage"),
        (f.socket_destroy, "stale sockets are destroyed", "stale sockets are left alone"),
    ];
    let words: Vec<&str> = features.iter().map(|(has, yes, no)| if *has { *yes } else { *no }).collect();
    sanitise(&format!("{}: {}", kernel.release, words.join(", "))).into_owned()
}

/// Where objects come from, how far they were read, and how many errors there are in them.
pub(crate) fn sources_text(
    source: &str,
    sources: &[SourceProgress],
    errors: usize,
    now: Timestamp,
) -> String {
    let with_errors = errors > 0 && source == FOLDER;
    let errors = match errors {
        0 => String::new(),
        n => format!(", {} in it", plural(n, "error", "errors")),
    };
    match sources {
        [] => format!("{source}{errors}"),
        sources => {
            let one = |s: &SourceProgress| {
                let age = age_at(s.last_progress, now);
                // What a file with an error said before is not known since the start: that lasts until it is mended.
                match (s.synced, with_errors) {
                    (true, _) => format!("{}: read completely, last progress {age} ago", s.name),
                    (false, true) => {
                        format!("{}: NOT ALL OF IT CAN BE READ, looked at {age} ago", s.name)
                    }
                    (false, false) => {
                        format!("{}: NOT YET READ COMPLETELY, last progress {age} ago", s.name)
                    }
                }
            };
            let all: Vec<String> = sources.iter().map(one).collect();
            format!("{}{errors}", all.join("; "))
        }
    }
}

fn many_text(out: &mut String, nodes: &[StatusNode], status: &Status) {
    let coverage = &status.coverage;
    let all = coverage.fresh as usize + coverage.stale as usize + coverage.missing.len();
    field(
        out,
        "Nodes",
        &format!(
            "{} of {all} report, {} stale, {} missing",
            coverage.fresh,
            coverage.stale,
            coverage.missing.len()
        ),
    );
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        *versions.entry(&node.agent_info.version).or_default() += 1;
    }
    let versions: Vec<String> =
        versions.iter().map(|(v, n)| format!("{} on {}", sanitise(v), plural(*n, "node", "nodes"))).collect();
    let versions = if versions.is_empty() { NONE.to_owned() } else { versions.join(", ") };
    field(out, "Agents", &versions);
    field(out, "Plugin", env!("CARGO_PKG_VERSION"));
}

/// What happens in all, per second.
fn rates(board: &Board) -> String {
    let Some(interval) = board.interval else { return crate::text::UNKNOWN.to_owned() };
    let nodes = || board.nodes.iter().filter_map(|n| n.rates);
    let sum = |of: fn(&balancing_api::cli::NodeRates) -> f64| scaled(nodes().map(|r| of(&r)).sum());
    let services: f64 = board.frontends.iter().filter_map(|f| f.rates).map(|r| r.resolved).sum();
    format!(
        "redirected {}, balanced {}, to Services {}, QoS drops {}, fallbacks {}, refused {} (over {interval:.1} s)",
        sum(|r| r.redirects),
        sum(|r| r.balanced),
        scaled(services),
        sum(|r| r.qos_drops),
        sum(|r| r.fallbacks),
        sum(|r| r.refusals)
    )
}

fn problems_text(out: &mut String, status: &Status, colour: bool) {
    problems_list(out, &status.problems, status.nodes.len() > 1, colour);
}

/// The worst problems, each with what to do; `many`: with the nodes that have it.
pub(crate) fn problems_list(out: &mut String, problems: &[ProblemItem], many: bool, colour: bool) {
    let errors = problems.iter().filter(|p| p.severity == Severity::Error).count();
    let count = match problems.len() {
        0 => "none".to_owned(),
        n => format!("{}, {}", plural(errors, "error", "errors"), plural(n - errors, "warning", "warnings")),
    };
    field(out, "Problems", &count);
    for p in problems.iter().take(WORST) {
        let (word, tone) = match p.severity {
            Severity::Error => ("error  ", Tone::Bad),
            Severity::Warning => ("warning", Tone::Warn),
        };
        let word = match tone_colour(tone) {
            Some(c) if colour => word.color(c).to_string(),
            _ => word.to_owned(),
        };
        let place = if many && !p.nodes.is_empty() { format!(" on {}", places(p)) } else { String::new() };
        out.push_str(&format!(
            "  {word}  {}\n",
            sanitise(&format!("{} {}{place}: {}", p.reason, p.object, p.message))
        ));
        if !p.next.is_empty() {
            out.push_str(&format!("           next: {}\n", sanitise(&p.next)));
        }
    }
    if problems.len() > WORST {
        let more = problems.len() - WORST;
        out.push_str(&format!("  and {more} more: kubectl balancing top problems --once\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, snapshots, world};

    fn node(w: World) -> NodeSample {
        NodeSample { status: w.status, frontends: w.programmed, counters: w.counters }
    }

    fn board(w: &World) -> Board {
        let before = Sample::of_one(node(w.clone()));
        Board::new(Sample::of_one(node(w.later(1000))), Some(&before))
    }

    #[test]
    fn pages() {
        let mut bad = world();
        bad.condition("ProgramsAttached", "False", "Detached", "somebody\u{1b}[2J did it");
        bad.status.datapath.programs[0].attached = false;
        bad.status.datapath.maps[0].entries = 60_000;
        bad.source_error("20-policy.yaml", 7, "LocalRedirectPolicy/x", "no such field");
        bad.status.kernel.features.set_retval = false;
        let mut quiet = world();
        quiet.status.policies.retain(|p| p.name == "edge-proxy");
        quiet.counters.frontends.clear();
        snapshots().bind(|| {
            for (name, world) in [("status", world()), ("status-bad", bad), ("status-quiet", quiet)] {
                let board = board(&world);
                let text = text(&status(&board, &[]), &board, false);
                assert!(!text.contains('\u{1b}'));
                insta::assert_snapshot!(name, text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
            }
            let board = board(&world());
            let json = crate::output::json(&document(STATUS, &status(&board, &[]))).unwrap();
            insta::assert_snapshot!("status-json", json);
        });
    }

    #[test]
    fn many_nodes_on_one_page() {
        let mut other = world();
        other.status.node.name = "n2".to_owned();
        other.status.agent.version = "0.2.0".to_owned();
        let coverage = balancing_api::cli::Coverage { fresh: 2, stale: 0, missing: vec!["n3".to_owned()] };
        let sample = Sample { nodes: vec![node(world()), node(other)], coverage, ..Sample::default() };
        let board = Board::new(sample, None);
        let text = text(&status(&board, &[]), &board, false);
        assert!(text.contains("2 of 3 report, 0 stale, 1 missing"), "{text}");
        assert!(text.contains("0.1.0 on 1 node, 0.2.0 on 1 node"), "{text}");
        assert!(text.contains("Per second:  <unknown>"), "{text}");
    }

    #[test]
    fn a_source_with_errors_does_not_read_as_if_it_hung() {
        let now = Timestamp::UNIX_EPOCH;
        let source = |synced| SourceProgress { name: "manifests".to_owned(), synced, last_progress: now };
        let text = |synced, errors| sources_text("manifests", &[source(synced)], errors, now);
        assert_eq!(text(true, 0), "manifests: read completely, last progress 0s ago");
        assert_eq!(text(false, 0), "manifests: NOT YET READ COMPLETELY, last progress 0s ago");
        assert_eq!(text(false, 1), "manifests: NOT ALL OF IT CAN BE READ, looked at 0s ago, 1 error in it");
    }

    #[test]
    fn a_gauge_is_full_only_when_the_map_is() {
        for (fill, bar) in [
            (0.0, "[..........]"),
            (0.001, "[#.........]"),
            (0.5, "[#####.....]"),
            (0.999, "[#########.]"),
            (1.0, "[##########]"),
        ] {
            assert_eq!(gauge(fill), bar, "{fill}");
        }
    }
}
