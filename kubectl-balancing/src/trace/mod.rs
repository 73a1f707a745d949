//! `trace`: decisions as they are made, one a line.

mod draw;
mod filter;
#[cfg(test)]
mod tests;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use balancing_api::agent::Event;
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use self::draw::{Table, json_event, json_lost};
pub use self::filter::{Filters, OUTCOMES};
use crate::{
    client::{self, Client, Lines},
    text::{parse_duration, percent_encoded},
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
    client: &Client,
    out: &mut dyn Write,
    err: &mut dyn Write,
    colour: bool,
) -> Result<End, Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let node = client.status().await?.node.name;
    let past = args.last.is_some() || args.since.is_some();
    let follow = args.follow || !past;
    let mut printer = Printer { args, node, out, table: Table::new(colour), begun: false, shown: 0, lost: 0 };
    // The stream is opened first: nothing is missed between it and the past.
    let stream = if follow { Some(client.lines(&query(args, true)).await?) } else { None };
    if follow {
        printer.header()?;
    }
    let mut known = Vec::new();
    if past {
        known = recent(args, client).await?;
        for event in &known {
            printer.event(event.clone())?;
        }
    }
    let end = match stream {
        Some(stream) if !printer.is_done() => {
            tokio::select! {
                end = follow_stream(args, client, stream, known, &mut printer) => end?,
                _ = interrupt.recv() => End::Interrupted,
            }
        }
        _ => End::Done,
    };
    printer.out.flush()?;
    match (printer.shown, printer.lost) {
        (0, 0) if end == End::Done => writeln!(err, "No events found.")?,
        (_, 0) => {}
        (shown, lost) => writeln!(err, "{shown} shown, {lost} not: lost, or more than --rate lets through")?,
    }
    Ok(end)
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

/// The events of the past that are asked for, oldest first.
async fn recent(args: &TraceArgs, client: &Client) -> Result<Vec<Event>, Error> {
    let mut lines = client.lines(&query(args, false)).await?;
    let mut events = Vec::new();
    while let Some(line) = lines.next().await? {
        if let Line::Event(event) = read(client, &line)? {
            events.push(*event);
        }
    }
    Ok(chosen(args, events, Timestamp::now()))
}

/// Those of the past that pass the filters, `--since` and `--last`.
fn chosen(args: &TraceArgs, mut events: Vec<Event>, now: Timestamp) -> Vec<Event> {
    let oldest = args.since.and_then(|since| {
        let since = SignedDuration::try_from(since).ok()?;
        now.checked_sub(since).ok()
    });
    events.retain(|e| args.filters.wants(e) && oldest.is_none_or(|oldest| e.time >= oldest));
    let most = args.last.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    events.split_off(events.len().saturating_sub(most))
}

fn read(client: &Client, line: &[u8]) -> Result<Line, Error> {
    serde_json::from_slice(line)
        .map_err(|error| Error::Event { endpoint: client.endpoint().clone(), message: error.to_string() })
}

async fn follow_stream(
    args: &TraceArgs,
    client: &Client,
    mut stream: Lines,
    mut known: Vec<Event>,
    printer: &mut Printer<'_>,
) -> Result<End, Error> {
    let (_, all) = args.filters.pushed();
    let mut cap = Cap::new(if all { 0 } else { args.rate });
    let deadline = args.duration.map(|d| tokio::time::Instant::now() + d);
    let over = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    while !printer.is_done() {
        // What the cap holds back is told when its second is over, also where no event follows.
        let told = cap.due();
        let line = tokio::select! {
            line = stream.next() => line?,
            () = &mut over => break,
            () = sleep_until(told) => {
                printer.gap(cap.take(Instant::now()))?;
                continue;
            }
        };
        let Some(line) = line else { return Err(Error::Ended(client.endpoint().clone())) };
        match read(client, &line)? {
            Line::Lost { lost } => printer.gap(lost)?,
            Line::Event(event) if !args.filters.wants(&event) => {}
            Line::Event(event) => {
                // It came between the stream's beginning and the answer about the past.
                if let Some(at) = known.iter().position(|k| *k == *event) {
                    known.remove(at);
                    continue;
                }
                let now = Instant::now();
                printer.gap(cap.take(now))?;
                if cap.admits(now) {
                    printer.event(*event)?;
                }
            }
        }
    }
    printer.gap(cap.rest())?;
    Ok(End::Done)
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Lets so many events a second through and counts the others.
#[derive(Debug)]
struct Cap {
    /// 0 is no limit.
    limit: u32,
    window: Option<Instant>,
    used: u32,
    held: u64,
}

impl Cap {
    const SECOND: Duration = Duration::from_secs(1);

    fn new(limit: u32) -> Self {
        Self { limit, window: None, used: 0, held: 0 }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if self.limit == 0 {
            return true;
        }
        if self.window.is_none_or(|start| now.duration_since(start) >= Self::SECOND) {
            self.window = Some(now);
            self.used = 0;
        }
        let admitted = self.used < self.limit;
        if admitted {
            self.used += 1;
        } else {
            self.held += 1;
        }
        admitted
    }

    /// When what is held back is to be told.
    fn due(&self) -> Option<Instant> {
        self.window.filter(|_| self.held > 0).map(|start| start + Self::SECOND)
    }

    /// What is held back, if that is to be told now.
    fn take(&mut self, now: Instant) -> u64 {
        if self.due().is_some_and(|due| now >= due) { self.rest() } else { 0 }
    }

    fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.held)
    }
}

/// Writes events and counts them.
struct Printer<'a> {
    args: &'a TraceArgs,
    node: String,
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

    fn event(&mut self, event: Event) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        self.header()?;
        self.shown += 1;
        let line = match self.args.output {
            Output::Text => self.table.event(&event),
            Output::Json => json_event(&self.node, event)?,
        };
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn gap(&mut self, lost: u64) -> Result<(), Error> {
        if lost == 0 {
            return Ok(());
        }
        self.header()?;
        self.lost += lost;
        let line = match self.args.output {
            Output::Text => self.table.lost(lost),
            Output::Json => json_lost(&self.node, lost)?,
        };
        self.out.write_all(line.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.shown >= count)
    }
}
