//! `top` without a terminal: samples, one after the other, as text.

use std::{io::Write, time::Duration};

use balancing_api::cli::{
    BACKEND_TOP, BackendTopItem, FRONTEND_TOP, FrontendTopItem, POLICY_TOP, PolicyTopItem, Top, document,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    client::Client,
    columns::{Row, Sort, UnknownColumn, order},
    filter::Filter,
    sample::{Board, Sample},
    table,
    text::sanitise,
};

/// What `top` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A row a policy: its state, its rates, and why it is not in force.
    #[default]
    #[value(alias = "policy", alias = "lr", alias = "bl")]
    Policies,
    /// A row an address and port that clients dial.
    #[value(alias = "frontend")]
    Frontends,
    /// A row a backend, with its share of the traffic.
    #[value(alias = "backend")]
    Backends,
}

/// `-o` of `top`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// As kubectl prints tables.
    #[default]
    Table,
    /// The same with totals, limits, addresses and messages.
    Wide,
    /// A JSON document; one a line if there are several.
    Json,
    /// A JSON document a line.
    Jsonl,
    /// A YAML document.
    Yaml,
    /// Comma-separated values, every column.
    Csv,
}

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// What to show.
    #[arg(value_enum, default_value_t, value_name = "WHAT")]
    pub what: What,
    /// Print one table and end. Without a terminal, and with -o, this is the default.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// Print that many tables, one an interval, and end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Time between two samples, which the rates are made of: 500ms, 2s, 1m. [default: 2s; 1s with --once]
    ///
    /// With --once, 0s takes one sample only: totals without rates.
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// Format of the output.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Sort by this column; - in front of it puts the largest first, as in --sort-by=-redirects.
    ///
    /// policies: state, name, kind, frontend, backends, redirects, qosDrops, fallbacks, refusals, reason, ...;
    /// an unknown name lists them all. [default: what is wrong first, then by name]
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort_by: Option<String>,
    /// Show only rows that contain these words; ! in front of a word leaves out those that do.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
}

/// Reads `--interval`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(3600);
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "" => return Err("a unit is missing: 500ms, 2s, 1m".to_owned()),
        unit => return Err(format!("unknown unit {unit:?}; use ms, s or m")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    let interval = Duration::try_from_secs_f64(number * seconds)
        .map_err(|_| "it must be a time from 0s to 1h".to_owned())?;
    if interval > MOST {
        return Err("it must not be longer than 1h".to_owned());
    }
    if !interval.is_zero() && interval < LEAST {
        return Err("it must be 0s, or 100ms at least".to_owned());
    }
    Ok(interval)
}

/// Why `top` ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent did not answer.
    #[error(transparent)]
    Client(#[from] crate::client::Error),
    /// `--sort-by` names no column.
    #[error(transparent)]
    Column(#[from] UnknownColumn),
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Write(#[from] std::io::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Json(#[from] serde_json::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

/// Checks what can be checked before anything is asked.
pub fn check(args: &TopArgs) -> Result<Option<Sort>, UnknownColumn> {
    let Some(text) = args.sort_by.as_deref() else { return Ok(None) };
    match args.what {
        What::Policies => Sort::parse::<PolicyTopItem>(text),
        What::Frontends => Sort::parse::<FrontendTopItem>(text),
        What::Backends => Sort::parse::<BackendTopItem>(text),
    }
    .map(Some)
}

/// Prints one table an interval. A sample is taken first, so that every table has rates.
pub async fn run(
    args: &TopArgs,
    client: &Client,
    out: &mut dyn Write,
    err: &mut dyn Write,
    colour: bool,
) -> Result<(), Error> {
    let sort = check(args)?;
    let count = args.count.unwrap_or(1);
    let default = if args.count.is_some() { Duration::from_secs(2) } else { Duration::from_secs(1) };
    let interval = args.interval.unwrap_or(default);
    let mut before: Option<Sample> = None;
    if !interval.is_zero() {
        before = Some(Sample::of_one(client.sample().await?));
    }
    // Ticks at fixed times: what it takes to answer does not make the interval longer.
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    for number in 0..count {
        if before.is_some() {
            ticks.tick().await;
        }
        let board = Board::new(Sample::of_one(client.sample().await?), before.as_ref());
        let text = render(args, sort, &board, number, colour)?;
        out.write_all(text.as_bytes())?;
        out.flush()?;
        if number == 0 && matches!(args.output.unwrap_or_default(), Output::Table | Output::Wide) {
            notes(&board, args, err)?;
        }
        before = Some(board.sample);
    }
    Ok(())
}

/// What a table cannot show, on the other stream.
fn notes(board: &Board, args: &TopArgs, err: &mut dyn Write) -> std::io::Result<()> {
    const MOST: usize = 10;
    for p in board.problems.iter().take(MOST) {
        writeln!(err, "warning: node {}: {}", sanitise(&p.node), sanitise(&p.text))?;
    }
    if board.problems.len() > MOST {
        writeln!(err, "warning: and {} more; see /v1/status of the agent", board.problems.len() - MOST)?;
    }
    let filter = Filter::parse(&args.filter);
    let ((all, shown), what) = match args.what {
        What::Policies => (counts(&board.policies, &filter), "policies"),
        What::Frontends => (counts(&board.frontends, &filter), "frontends"),
        What::Backends => (counts(&board.backends, &filter), "backends"),
    };
    match (all, shown) {
        (0, _) => writeln!(err, "No {what} found."),
        (all, 0) => writeln!(err, "None of {all} {what} matches --filter {:?}.", args.filter),
        _ => Ok(()),
    }
}

fn counts<R: Row>(rows: &[R], filter: &Filter) -> (usize, usize) {
    (rows.len(), order(rows, filter, None).len())
}

fn render(
    args: &TopArgs,
    sort: Option<Sort>,
    board: &Board,
    number: u64,
    colour: bool,
) -> Result<String, Error> {
    match args.what {
        What::Policies => rendered(args, sort, board, &board.policies, POLICY_TOP, number, colour),
        What::Frontends => rendered(args, sort, board, &board.frontends, FRONTEND_TOP, number, colour),
        What::Backends => rendered(args, sort, board, &board.backends, BACKEND_TOP, number, colour),
    }
}

fn rendered<R: Row + Serialize>(
    args: &TopArgs,
    sort: Option<Sort>,
    board: &Board,
    rows: &[R],
    kind: &str,
    number: u64,
    colour: bool,
) -> Result<String, Error> {
    let rows: Vec<&R> =
        order(rows, &Filter::parse(&args.filter), sort).into_iter().map(|i| &rows[i]).collect();
    let taken_at = board.sample.taken_at();
    let top = || {
        let coverage = board.sample.coverage.clone();
        document(kind, Top { taken_at, interval: board.interval, coverage, items: rows.clone() })
    };
    Ok(match args.output.unwrap_or_default() {
        // As kubectl: nothing on this stream where there is nothing, the word about it is on the other.
        Output::Table | Output::Wide if rows.is_empty() => String::new(),
        output @ (Output::Table | Output::Wide) => {
            let gap = if number == 0 { "" } else { "\n" };
            gap.to_owned() + &table::table(&rows, output == Output::Wide, colour)
        }
        Output::Json if args.count.is_none() => serde_json::to_string_pretty(&top())? + "\n",
        Output::Json | Output::Jsonl => serde_json::to_string(&top())? + "\n",
        Output::Yaml => format!("---\n{}", serde_yaml::to_string(&top())?),
        Output::Csv => {
            let header = if number == 0 { table::csv_header::<R>() } else { String::new() };
            header + &table::csv(&rows, &taken_at.to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        fixture::{World, snapshots, world},
        sample::NodeSample,
    };

    fn args(line: &str) -> TopArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Top(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn board() -> Board {
        let sample = |w: World| {
            Sample::of_one(NodeSample { status: w.status, frontends: w.programmed, counters: w.counters })
        };
        Board::new(sample(world().later(2000)), Some(&sample(world())))
    }

    /// The documents are a contract: a change of these snapshots is a change of it.
    #[test]
    fn documents() {
        snapshots().bind(|| {
            for (what, filter) in
                [("policies", "node-local"), ("frontends", "53/udp"), ("backends", "192.0.2.10")]
            {
                let args = args(&format!("x top {what} --filter {filter} -o json"));
                let text = render(&args, None, &board(), 0, false).unwrap();
                insta::assert_snapshot!(format!("top-json-{what}"), text);
            }
        });
    }

    #[test]
    fn every_format_is_what_it_says() {
        let of =
            |format: &str| render(&args(&format!("x top -o {format}")), None, &board(), 0, false).unwrap();
        let json: serde_json::Value = serde_json::from_str(&of("json")).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&of("jsonl")).unwrap(), json);
        assert_eq!(serde_yaml::from_str::<serde_json::Value>(&of("yaml")).unwrap(), json);
        assert_eq!(of("jsonl").lines().count(), 1);
        let top: balancing_api::agent::Document<Top<PolicyTopItem>> =
            serde_json::from_str(&of("json")).unwrap();
        assert_eq!(top.body.items, board().policies);
    }

    #[test]
    fn what_concerns_the_node_is_told_beside_the_table() {
        let mut world = world();
        world.condition("ProgramsAttached", "False", "Detached", "somebody\u{1b}[2J did it");
        let sample = Sample::of_one(NodeSample {
            status: world.status,
            frontends: world.programmed,
            counters: world.counters,
        });
        let mut told = Vec::new();
        notes(&Board::new(sample, None), &args("x top"), &mut told).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told, "warning: node n1: ProgramsAttached is False (Detached): somebody^[[2J did it\n");
    }
}
