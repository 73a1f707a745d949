//! `trace`: decisions as they are made, one a line.

mod agents;
mod cap;
mod draw;
mod filter;
mod follow;
#[cfg(test)]
mod tests;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use balancing_api::{agent::Event, policy::PolicyRef};
use clap::{Args, ValueEnum};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

pub use self::{
    agents::{Agent, Agents},
    filter::{Filters, OUTCOMES},
};
use self::{
    cap::Cap,
    draw::{Table, json_event, json_lost},
    follow::{Streams, Told},
};
use crate::{
    client::{self, Client},
    cluster::relay::NodesError,
    text::{list, near, parse_duration, percent_encoded, sanitise},
};

/// `-o` of `trace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for people.
    #[default]
    Text,
    /// A line of JSON: kind Event, and LostEvents where some are missing.
    #[value(alias = "jsonl")]
    Json,
}

/// Arguments of `trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Show decisions on this node; repeat for several. [default: all nodes of a cluster, if they are 16 at the most]
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Which events.
    #[command(flatten)]
    pub filters: Filters,
    /// Show the last N events that the agent still has, then end (with -f: go on).
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Show the events of this time that the agent still has, then end (with -f: go on): 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// Show events as they come. The default, unless --last or --since is given.
    #[arg(short, long)]
    pub follow: bool,
    /// End after N events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: 30s, 5m.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Show so many events a second at the most; 0 is all of them.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub rate: u32,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// Why `trace` ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent did not answer.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// It is not known which nodes to ask.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The stream is over.
    #[error("the agent at {0} has ended the stream; it was stopped or restarted")]
    Ended(client::Endpoint),
    /// A line is none of an agent.
    #[error(
        "failed to read an event of {endpoint}: {message}; compare `kubectl balancing version` with the agent's"
    )]
    Event {
        /// Where it came from.
        endpoint: client::Endpoint,
        /// What is wrong with it.
        message: String,
    },
    /// Signals cannot be caught.
    #[error("failed to wait for signals: {0}")]
    Signal(#[source] std::io::Error),
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Write(#[from] std::io::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why `trace` ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has shown what was asked for.
    Done,
    /// Ctrl-C.
    Interrupted,
}

/// A line of the stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Lost { lost: u64 },
    Event(Box<Event>),
}

/// Shows events until there are enough of them.
pub async fn run(
    args: &TraceArgs,
    agents: &Agents,
    out: &mut dyn Write,
    err: &mut dyn Write,
    colour: bool,
) -> Result<End, Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    for note in unknown_policies(&args.filters, agents.policies.as_deref()) {
        writeln!(err, "note: {note}")?;
    }
    let nodes: Vec<&str> = agents.all.iter().map(|a| a.node.as_str()).collect();
    let table = Table::new(colour, &nodes);
    let mut show =
        Show { args, agents, printer: Printer { args, out, table, begun: false, shown: 0, lost: 0 }, err };
    let end = tokio::select! {
        end = show.all() => end?,
        _ = interrupt.recv() => End::Interrupted,
    };
    let Show { printer, err, .. } = show;
    printer.out.flush()?;
    match (printer.shown, printer.lost) {
        (0, 0) if end == End::Done => writeln!(err, "No events found.")?,
        (_, 0) => {}
        (shown, lost) => writeln!(err, "{shown} shown, {lost} not: lost, or more than --rate lets through")?,
    }
    Ok(end)
}

/// Says of policies that are filtered by and are not there, that nothing will come of them.
fn unknown_policies(filters: &Filters, known: Option<&[PolicyRef]>) -> Vec<String> {
    let Some(known) = known else { return Vec::new() };
    let names: Vec<&str> = known.iter().map(|p| p.name.as_str()).collect();
    let unknown = filters
        .policies()
        .filter(|(kind, name)| !known.iter().any(|p| p.name == **name && kind.is_none_or(|k| k == p.kind)));
    let note = |(kind, name): (Option<balancing_api::policy::PolicyKind>, &str)| {
        let what = kind.map_or("policy", |k| k.as_str());
        let hint = match near(name, names.iter().copied()).as_slice() {
            [] if names.is_empty() => "there is none at all".to_owned(),
            [] => format!("there is {}", sanitise(&list(&names, 10))),
            near => format!("did you mean {}?", sanitise(&list(near, 3))),
        };
        format!("no {what} {name:?} is known, so nothing is decided about it; {hint}")
    };
    unknown.map(note).collect()
}

/// The path of the stream, or of the last events.
fn query(args: &TraceArgs, follow: bool) -> String {
    let (mut parameters, all) = args.filters.pushed();
    if follow {
        parameters.insert(0, ("follow", "true".to_owned()));
        // A cap before a filter would cut off what the filter is after.
        if all && args.rate > 0 {
            parameters.push(("rate", args.rate.to_string()));
        }
    } else if let (true, Some(last), None) = (all, args.last, args.since) {
        parameters.push(("limit", percent_encoded(&last.to_string())));
    }
    let parameters: Vec<String> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("/v1/events{mark}{}", parameters.join("&"))
}

/// The events of the past that an agent still has, oldest first.
async fn recent(args: &TraceArgs, client: &Client) -> Result<Vec<Event>, Error> {
    let mut lines = client.lines(&query(args, false)).await?;
    let mut events = Vec::new();
    while let Some(line) = lines.next().await? {
        if let Line::Event(event) = read(client, &line)? {
            events.push(*event);
        }
    }
    Ok(events)
}

/// Those of the past that pass the filters, `--since` and `--last`, with the number of their node; oldest first.
fn chosen(args: &TraceArgs, mut events: Vec<(usize, Event)>, now: Timestamp) -> Vec<(usize, Event)> {
    let oldest = args.since.and_then(|since| {
        let since = SignedDuration::try_from(since).ok()?;
        now.checked_sub(since).ok()
    });
    events.retain(|(_, e)| args.filters.wants(e) && oldest.is_none_or(|oldest| e.time >= oldest));
    // Those of one node are in their order already, and stay in it.
    events.sort_by_key(|(_, e)| e.time);
    let most = args.last.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    events.split_off(events.len().saturating_sub(most))
}

fn read(client: &Client, line: &[u8]) -> Result<Line, Error> {
    serde_json::from_slice(line)
        .map_err(|error| Error::Event { endpoint: client.endpoint().clone(), message: error.to_string() })
}

/// What an agent of that number answered.
type Numbered<T> = (usize, Result<T, Error>);

/// What is under way.
struct Show<'a> {
    args: &'a TraceArgs,
    agents: &'a Agents,
    printer: Printer<'a>,
    err: &'a mut dyn Write,
}

impl Show<'_> {
    async fn all(&mut self) -> Result<End, Error> {
        let past = self.args.last.is_some() || self.args.since.is_some();
        let follow = self.args.follow || !past;
        // The streams are opened first: nothing is missed between them and the past.
        let streams = if follow { Some(self.open().await?) } else { None };
        if follow {
            self.printer.header()?;
        }
        let mut known = Vec::new();
        if past {
            known = self.recent().await?;
            for (number, event) in &known {
                self.printer.event(&self.agents.all[*number].node, event.clone())?;
            }
        }
        match streams {
            Some(streams) if !self.printer.is_done() => self.follow(streams, known).await,
            _ => Ok(End::Done),
        }
    }

    /// Of many answers those that were had. Where none was, the first error.
    fn had<T>(&mut self, answers: Vec<Result<T, Error>>) -> Result<Vec<Numbered<T>>, Error> {
        let answers: Vec<_> = answers.into_iter().enumerate().collect();
        let none = answers.iter().all(|(_, a)| a.is_err());
        let first = answers.iter().find_map(|(_, a)| a.as_ref().err()).map(ToString::to_string);
        for (agent, (_, answer)) in self.agents.all.iter().zip(&answers) {
            // Where all say the same, it is said once.
            if let Err(error) = answer
                && !(none && first.as_ref() == Some(&error.to_string()))
            {
                writeln!(self.err, "warning: node {}: {error}", sanitise(&agent.node))?;
            }
        }
        if !none {
            return Ok(answers);
        }
        match answers.into_iter().find_map(|(_, a)| a.err()) {
            Some(first) => Err(first),
            None => Ok(Vec::new()),
        }
    }

    async fn open(&mut self) -> Result<Streams, Error> {
        let path = query(self.args, true);
        let opened = join_all(self.agents.all.iter().map(|a| a.client.lines(&path))).await;
        let opened = opened.into_iter().map(|o| o.map_err(Error::from)).collect();
        let mut streams = Vec::new();
        for (number, answer) in self.had(opened)? {
            let lines = match answer {
                Ok(lines) => Some(lines),
                Err(Error::Client(error)) if error.may_pass() => None,
                Err(_) => continue,
            };
            streams.push((number, self.agents.all[number].clone(), lines));
        }
        Ok(Streams::new(streams, &path, self.agents.lasting))
    }

    /// The events of the past that are asked for, with the number of their node; oldest first.
    async fn recent(&mut self) -> Result<Vec<(usize, Event)>, Error> {
        let agents = self.agents;
        let all = join_all(agents.all.iter().map(|a| recent(self.args, &a.client))).await;
        let mut events = Vec::new();
        for (number, answer) in self.had(all)? {
            events.extend(answer.into_iter().flatten().map(|event| (number, event)));
        }
        Ok(chosen(self.args, events, Timestamp::now()))
    }

    async fn follow(&mut self, mut streams: Streams, mut known: Vec<(usize, Event)>) -> Result<End, Error> {
        let (args, agents) = (self.args, self.agents);
        let (_, all) = args.filters.pushed();
        // One agent does it alone where it does all of the filters.
        let limit = if all && agents.all.len() == 1 { 0 } else { args.rate };
        let mut cap = Cap::new(limit, agents.all.len());
        let deadline = args.duration.map(|d| tokio::time::Instant::now() + d);
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let mut last = None;
        while !self.printer.is_done() {
            // What the cap holds back is told when its second is over, also where no event follows.
            let due = cap.due();
            let told = tokio::select! {
                told = streams.next() => told,
                () = &mut over => break,
                () = sleep_until(due) => {
                    self.gaps(cap.take(Instant::now()))?;
                    continue;
                }
            };
            let Some((number, told)) = told else {
                return Err(last.unwrap_or(Error::Ended(agents.all[0].client.endpoint().clone())));
            };
            let Agent { node, client } = &agents.all[number];
            let line = match told {
                Told::Line(line) => read(client, &line)?,
                Told::Over(None) => {
                    last = Some(Error::Ended(client.endpoint().clone()));
                    continue;
                }
                Told::Over(Some(error)) => {
                    if agents.all.len() > 1 {
                        writeln!(self.err, "warning: node {}: {error}", sanitise(node))?;
                    }
                    last = Some(error.into());
                    continue;
                }
                Told::Broken(why) => {
                    let node = sanitise(node);
                    writeln!(self.err, "warning: node {node}: {why}; it is asked again until it answers")?;
                    continue;
                }
                Told::Back => {
                    let node = sanitise(node);
                    writeln!(self.err, "node {node} answers again; what it decided in between is not shown")?;
                    continue;
                }
            };
            match line {
                Line::Lost { lost } => self.gaps(vec![(number, lost)])?,
                Line::Event(event) if !args.filters.wants(&event) => {}
                Line::Event(event) => {
                    // It came between the stream's beginning and the answer about the past.
                    if let Some(at) = known.iter().position(|(n, k)| *n == number && *k == *event) {
                        known.remove(at);
                        continue;
                    }
                    let now = Instant::now();
                    self.gaps(cap.take(now))?;
                    if cap.admits(number, now) {
                        self.printer.event(node, *event)?;
                    }
                }
            }
        }
        self.gaps(cap.rest())?;
        Ok(End::Done)
    }

    fn gaps(&mut self, lost: Vec<(usize, u64)>) -> Result<(), Error> {
        let agents = self.agents;
        lost.into_iter().try_for_each(|(number, lost)| self.printer.gap(&agents.all[number].node, lost))
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Writes events and counts them.
struct Printer<'a> {
    args: &'a TraceArgs,
    out: &'a mut dyn Write,
    table: Table,
    /// Is the header written?
    begun: bool,
    shown: u64,
    lost: u64,
}

impl Printer<'_> {
    /// Tells at once that something is going on, even where nothing is to be seen yet.
    fn header(&mut self) -> Result<(), Error> {
        if self.args.output == Output::Text && !std::mem::replace(&mut self.begun, true) {
            let header = self.table.header();
            self.out.write_all(header.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn event(&mut self, node: &str, event: Event) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        self.header()?;
        self.shown += 1;
        let line = match self.args.output {
            Output::Text => self.table.event(node, &event),
            Output::Json => json_event(node, event)?,
        };
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn gap(&mut self, node: &str, lost: u64) -> Result<(), Error> {
        if lost == 0 {
            return Ok(());
        }
        self.header()?;
        self.lost += lost;
        let line = match self.args.output {
            Output::Text => self.table.lost(node, lost),
            Output::Json => json_lost(node, lost)?,
        };
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.shown >= count)
    }
}
