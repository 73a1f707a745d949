//! `get --watch`: what changes from one sample to the next.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
};

use balancing_api::{
    cli::document,
    watch::{Change, WATCH_EVENT, WatchEvent},
};
use jiff::Timestamp;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{Asked, Chosen, Format, GetArgs, Named, columns, tell_gap};
use crate::{
    columns::{Cell, Column, RowId},
    output::{Error, Listing, jsonl, yaml},
    sample::Board,
    text::sanitise,
};

/// Cells of the longest word for a change: its column does not grow later.
const EVENT: usize = Change::Modified.as_str().len();

/// Shows the rows, then every row that changes, until Ctrl-C. An agent that does not answer is asked again: whoever
/// watches wants to see it come back.
pub(super) async fn run<R: Named + Serialize + Clone>(
    args: &GetArgs,
    asked: &mut Asked,
    out: &mut dyn Write,
    err: &mut dyn Write,
    rows: impl Fn(&Board) -> Vec<R>,
) -> Result<(), Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut watch = Watch::new(args);
    let mut quiet = args.watch_only;
    let mut away = false;
    let mut first = true;
    let mut gaps = BTreeSet::new();
    loop {
        let answer = tokio::select! {
            answer = asked.sample(args.interval) => answer,
            _ = interrupt.recv() => return Ok(()),
        };
        match answer {
            Ok(sample) => {
                if std::mem::take(&mut away) {
                    writeln!(err, "There are answers again.")?;
                }
                let board = Board::new(sample, None);
                // A right may be taken away, or given, meanwhile.
                let known = board.sample.cluster.iter().flat_map(|f| f.gaps.iter().cloned()).collect();
                for gap in BTreeSet::difference(&known, &gaps) {
                    tell_gap(gap, err)?;
                }
                gaps = known;
                let chosen = Chosen::of(args, &rows(&board))?;
                if first && !args.ignore_not_found && !chosen.missing.is_empty() {
                    return Err(Error::NotFound(chosen.missing.join("\n")));
                }
                watch.counted = board.is_counted();
                let changes = watch.changes(chosen.rows);
                if first && changes.is_empty() {
                    writeln!(err, "No {} found; waiting for some.", args.what.kind)?;
                }
                if !std::mem::take(&mut quiet) {
                    out.write_all(watch.text(&changes, board.sample.taken_at())?.as_bytes())?;
                    out.flush()?;
                }
                first = false;
            }
            Err(error) if first => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    writeln!(err, "warning: {error}; asking again")?;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(asked.wait(args.interval)) => {}
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// What is known, and how it is printed.
struct Watch<'a, R: 'static> {
    args: &'a GetArgs,
    columns: Vec<&'static Column<R>>,
    /// What was printed last of each row, in the order in which they came.
    known: Vec<R>,
    widths: Vec<usize>,
    begun: bool,
    /// Are there counters?
    counted: bool,
}

impl<'a, R: Named + Serialize + Clone> Watch<'a, R> {
    fn new(args: &'a GetArgs) -> Self {
        Self { args, columns: Vec::new(), known: Vec::new(), widths: Vec::new(), begun: false, counted: true }
    }

    /// What happened since the last sample. Counters, shares and ages tick, and are no change.
    fn changes(&mut self, rows: Vec<R>) -> Vec<(Change, R)> {
        if self.columns.is_empty() {
            // Documents hold all of a row.
            let wide = !self.args.output.is(Listing::Table);
            self.columns = columns(&rows.iter().collect::<Vec<_>>(), wide, self.counted);
        }
        let mut before: HashMap<RowId, R> = self.known.drain(..).map(|r| (r.id(), r)).collect();
        let mut changes = Vec::new();
        for row in &rows {
            match before.remove(&row.id()) {
                None => changes.push((Change::Added, row.clone())),
                Some(old) if self.lasting(&old) != self.lasting(row) => {
                    changes.push((Change::Modified, row.clone()));
                }
                Some(_) => {}
            }
        }
        let mut gone: Vec<R> = before.into_values().collect();
        gone.sort_by_key(Named::full_name);
        changes.extend(gone.into_iter().map(|row| (Change::Deleted, row)));
        self.known = rows;
        changes
    }

    /// The cells of a row that stay as they are while nothing happens to it.
    fn lasting(&self, row: &R) -> Vec<Cell> {
        let ticks = |c: &Cell| matches!(c, Cell::Count(_) | Cell::Rate(_) | Cell::Share(_) | Cell::Age(_));
        self.columns.iter().map(|c| (c.cell)(row)).filter(|c| !ticks(c)).collect()
    }

    fn text(&mut self, changes: &[(Change, R)], taken_at: Timestamp) -> Result<String, Error> {
        let mut out = String::new();
        for (change, row) in changes {
            let event = || document(WATCH_EVENT, WatchEvent { change: *change, taken_at, object: row });
            let Format::Listing(format) = &self.args.output else { break };
            match format {
                // One a line: a stream of whole documents over many lines is hard to read for programs.
                Listing::Json | Listing::Jsonl => out.push_str(&jsonl(&event())?),
                Listing::Yaml => out.push_str(&yaml(&event())?),
                Listing::Name => out.push_str(&format!("{}\n", sanitise(&row.full_name()))),
                Listing::Table | Listing::Wide => {}
            }
        }
        let args = self.args;
        match &args.output {
            Format::Custom(columns) => {
                let cells: Result<Vec<_>, _> = changes.iter().map(|(_, row)| columns.cells(row)).collect();
                self.table(changes, columns.headers(), cells?, &mut out);
            }
            Format::Listing(Listing::Table | Listing::Wide) => {
                let headers = self.columns.iter().map(|c| c.meta.header.to_owned()).collect();
                let cells = |row: &R| self.columns.iter().map(|c| (c.cell)(row).shown()).collect();
                let cells = changes.iter().map(|(_, row)| cells(row)).collect();
                self.table(changes, headers, cells, &mut out);
            }
            Format::Listing(_) => {}
        }
        Ok(out)
    }

    /// Lines whose columns are as wide as the widest cell so far, as kubectl's are.
    fn table(
        &mut self,
        changes: &[(Change, R)],
        headers: Vec<String>,
        cells: Vec<Vec<String>>,
        out: &mut String,
    ) {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !changes.is_empty() && !std::mem::replace(&mut self.begun, true) && !self.args.no_headers {
            let event = self.args.output_watch_events.then(|| format!("{:EVENT$}", "EVENT"));
            lines.push(event.into_iter().chain(headers).collect());
        }
        for ((change, _), cells) in changes.iter().zip(cells) {
            let event = self.args.output_watch_events.then(|| change.as_str().to_owned());
            lines.push(event.into_iter().chain(cells).collect());
        }
        for line in &lines {
            self.widths.resize(line.len(), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in lines {
            let cells = line.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:width$}   "));
            out.push_str(cells.collect::<String>().trim_end());
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::{agent::PolicyState, cli::PolicyTopItem};
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        fixture::{World, world},
        sample::{NodeSample, Sample},
    };

    fn args(line: &str) -> GetArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Get(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn policies(args: &GetArgs, world: &World) -> Vec<PolicyTopItem> {
        let w = world.clone();
        let node = NodeSample { status: w.status, frontends: w.programmed, counters: w.counters };
        Chosen::of(args, &Board::new(Sample::of_one(node), None).policies).unwrap().rows
    }

    /// Three samples: as it was, one policy failed and one gone, nothing but traffic.
    fn watched(line: &str) -> Vec<String> {
        let args = args(line);
        let mut watch = Watch::new(&args);
        let mut told = |world: &World| {
            let changes = watch.changes(policies(&args, world));
            watch.text(&changes, world.counters.taken_at).unwrap()
        };
        let mut later = world();
        later.policy("edge-proxy").state = PolicyState::Failed;
        later.policy("edge-proxy").reason = "MapFull".to_owned();
        later.status.policies.retain(|p| p.name != "lost");
        vec![told(&world()), told(&later), told(&later.clone().later(5000))]
    }

    #[test]
    fn changes_are_lines_and_traffic_is_none() {
        for format in ["table", "wide", "json", "yaml", "name"] {
            let parts = watched(&format!("x get policies -w -o {format}"));
            assert!(parts[0].contains("node-local-dns"), "{format}: {}", parts[0]);
            assert!(parts[1].contains("edge-proxy") && parts[1].contains("lost"), "{format}: {}", parts[1]);
            assert!(!parts[1].contains("node-local-dns"), "{format}: {}", parts[1]);
            assert_eq!(parts[2], "", "{format}");
        }
        let parts = watched("x get policies -w -o custom-columns=NAME:.name,STATE:.state");
        assert!(parts[0].starts_with("NAME") && parts[0].lines().count() == 9, "{}", parts[0]);
        assert_eq!(
            parts[1].split_whitespace().collect::<Vec<_>>(),
            ["edge-proxy", "Failed", "lost", "Failed"]
        );
        let parts = watched("x get policies -w --output-watch-events");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&parts[0])[..3], ["EVENT", "POLICY", "STATE"]);
        let lines: Vec<Vec<String>> = parts[1].lines().map(words).collect();
        assert_eq!(lines[0][..3], ["MODIFIED", "edge-proxy", "Failed"]);
        assert_eq!(lines[1][..3], ["DELETED", "lost", "Failed"]);
        assert_eq!(lines.len(), 2, "the header is there once");
        // Columns stay where they were.
        let place = |text: &str, word: &str| text.lines().find_map(|l| l.find(word)).unwrap();
        assert_eq!(place(&parts[0], "STATE"), place(&parts[1], "Failed"));
    }

    #[test]
    fn documents_are_one_a_line_and_say_what_happened() {
        let parts = watched("x get policies -w -o json");
        let events: Vec<serde_json::Value> =
            parts[1].lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(events.len(), 2);
        assert_eq!(
            (
                &events[0]["kind"],
                &events[0]["type"],
                &events[0]["object"]["name"],
                &events[0]["object"]["state"]
            ),
            (&"WatchEvent".into(), &"MODIFIED".into(), &"edge-proxy".into(), &"Failed".into())
        );
        assert_eq!((&events[1]["type"], &events[1]["object"]["name"]), (&"DELETED".into(), &"lost".into()));
        let first: Vec<serde_json::Value> =
            parts[0].lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(first.len() == 8 && first.iter().all(|e| e["type"] == "ADDED"));
    }

    #[test]
    fn names_and_filters_choose() {
        assert!(watched("x get policies edge-proxy -w")[1].lines().count() == 1);
        let filtered = watched("x get policies -w --filter state=Failed --output-watch-events");
        assert!(filtered[0].contains("lost") && !filtered[0].contains("edge-proxy"));
        assert!(filtered[1].starts_with("ADDED"), "what begins to match is new: {}", filtered[1]);
    }
}
