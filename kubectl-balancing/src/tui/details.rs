//! What there is to say of the selected row: in a line or two, column by column, as YAML, and why its policy is or is not
//! in force. Pure.

use std::sync::Arc;

use balancing_api::{
    agent::EventOutcome,
    cli::{BackendState, FrontendState, NodeState},
};
use serde::Serialize;

use super::{
    fit::width,
    model::{Model, Screen},
    policy::policy_words,
};
use crate::{
    columns::{Column, Row, RowId, Tone},
    explain,
    problems::concerned,
    rows::with_rows,
    text::{NONE, sanitise},
};

/// The selected row of the table shown, whatever its type.
macro_rules! with_selected {
    ($model:expr, $row:ident => $body:expr) => {{
        let model: &Model = $model;
        let table = model.table(model.what());
        model.board.as_deref().and_then(|board| {
            let at = *table.order.get(table.index)?;
            with_rows!(model.what(), board, model.events, rows => rows.get(at).map(|$row| $body))
        })
    }};
}

/// What the selected row is called.
#[must_use]
pub fn name(model: &Model) -> Option<String> {
    fn of<R: Row>(row: &R) -> String {
        match row.id() {
            RowId::Policy(policy) => policy.name,
            RowId::Node(name) => name,
            RowId::Problem(_, object, _) => object,
            RowId::Frontend(frontend) => frontend.to_string(),
            RowId::Backend(id) => std::net::SocketAddr::new(id.address, id.port).to_string(),
            RowId::Event(_) => R::columns().get(2).map(|c| (c.cell)(row).shown()).unwrap_or_default(),
        }
    }
    with_selected!(model, row => sanitise(&of(row)).into_owned())
}

/// The selected row in words: what a narrow table cannot show.
#[must_use]
pub fn words(model: &Model) -> Option<(Tone, String)> {
    let board = model.board.as_deref()?;
    let found = match model.selected_row()? {
        RowId::Policy(policy) => {
            let row = board.policies.iter().find(|r| r.policy == *policy)?;
            (row.tone(), policy_words(board, row))
        }
        RowId::Node(name) => {
            let row = board.nodes.iter().find(|r| r.name == *name)?;
            let what = match row.state {
                NodeState::Ready => "its agent reports and all conditions are met",
                _ => row.message.as_str(),
            };
            let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", row.reason) };
            (row.tone(), format!("node {}: {what}{reason}", row.name))
        }
        RowId::Problem(reason, object, node) => {
            let is = |p: &&balancing_api::cli::ProblemItem| {
                p.reason == *reason && p.object == *object && p.nodes.first().is_none_or(|n| n == node)
            };
            let row = board.problems.iter().find(is)?;
            (row.tone(), format!("{}: {} -> {}", concerned(row), row.message, row.next))
        }
        RowId::Frontend(frontend) => {
            let row = board.frontends.iter().find(|r| r.frontend == *frontend)?;
            let policy = row.policy.as_ref().map_or(NONE.to_owned(), ToString::to_string);
            let service = row.service.as_deref().unwrap_or(NONE);
            let what = match row.state {
                FrontendState::Refused => ": no rung has a backend, its clients get an error",
                FrontendState::Fallback => ": the policy has no backend here, the ladder goes on without it",
                _ => "",
            };
            (
                row.tone(),
                format!("{}: {:?}{what}; policy {policy}, Service {service}", row.frontend, row.state),
            )
        }
        RowId::Backend(id) => {
            let row = board.backends.iter().find(|r| {
                r.address == id.address
                    && r.port == id.port
                    && r.protocol == id.protocol
                    && r.owner == id.owner
            })?;
            let pod = row.pod.as_deref().unwrap_or(NONE);
            let state = match row.state {
                BackendState::Active => "takes connections",
                BackendState::Standby => "stands by on a lower rung",
                BackendState::Removed => "is no more in the maps",
            };
            let place = std::net::SocketAddr::new(row.address, row.port);
            (row.tone(), format!("{place} of {} {state}; pod {pod}", id.owner))
        }
        RowId::Event(number) => {
            let row = model.events.iter().find(|e| e.number == *number)?;
            let e = &row.event;
            let chosen = match (e.chosen, e.outcome) {
                (Some(c), _) => format!("to {}", std::net::SocketAddr::new(c.address, c.port)),
                (None, EventOutcome::Refuse) => "the client got an error".to_owned(),
                (None, _) => "to the address dialled".to_owned(),
            };
            let why = e.failure.as_ref().map(|f| format!(" ({f})")).unwrap_or_default();
            let who = format!("{}[{}]", e.process.comm, e.process.pid);
            (row.tone(), format!("{who} dialled {}: {}{why}, {chosen}", e.to, e.outcome))
        }
    };
    Some((found.0, sanitise(&found.1).into_owned()))
}

fn screen(title: String, text: &str) -> Screen {
    let lines: Vec<String> = text.lines().map(|l| sanitise(l).into_owned()).collect();
    Screen::Text { title, lines: Arc::new(lines), scroll: 0 }
}

/// The lines of a text screen in so many cells: what is longer goes on below, under its beginning.
#[must_use]
pub fn text_lines(lines: &[String], cells: u16) -> Vec<String> {
    let mut out = Vec::new();
    for line in lines {
        let indent = hanging(line, cells);
        let mut rest = line.as_str();
        let mut lead = String::new();
        loop {
            let room = cells.saturating_sub(width(&lead)).max(1);
            let end = break_at(rest, room);
            let (head, tail) = rest.split_at(end);
            rest = tail.trim_start();
            out.push(lead + if rest.is_empty() { head } else { head.trim_end() });
            if rest.is_empty() {
                break;
            }
            lead = " ".repeat(indent);
        }
    }
    out
}

/// Where a line goes on: under the last of its columns that has room there, as the value of `Key:     value`, or what was
/// observed in a list of checks; else a little to the right of where it begins.
fn hanging(line: &str, cells: u16) -> usize {
    const MORE: usize = 2;
    let cells = usize::from(cells);
    let begin = line.len() - line.trim_start().len();
    // Columns are two blanks apart; prose has none of that. The first is one word: what stands before is no key else.
    let mut columns = Vec::new();
    let mut at = begin;
    while let Some(end) = line[at..].find("  ") {
        let behind = &line[at + end..];
        if columns.is_empty() && line[begin..at + end].contains(' ') {
            break;
        }
        at += end + behind.len() - behind.trim_start().len();
        columns.push(usize::from(width(&line[..at])));
    }
    // `expected: ...` beneath a check.
    let label = line[begin..].split_once(": ").map(|(label, _)| begin + label.len() + 2);
    columns.extend(label.filter(|_| columns.is_empty() && begin >= BENEATH));
    let column = columns.into_iter().rfind(|column| *column <= cells / 2);
    column.unwrap_or(begin.min(cells / 2).saturating_sub(MORE).max(begin.min(cells / 3)) + MORE)
}

/// What is indented so far stands beneath something else.
const BENEATH: usize = 20;

/// Where a line of so many cells may end: at a blank, or in a word that is longer.
fn break_at(text: &str, cells: u16) -> usize {
    if width(text) <= cells {
        return text.len();
    }
    let begun = text.len() - text.trim_start().len();
    let (mut used, mut hard, mut blank) = (0, 0, 0);
    for (at, c) in text.char_indices() {
        if c == ' ' && at > begun {
            blank = at;
        }
        used += width(c.encode_utf8(&mut [0; 4]));
        hard = at;
        if used > cells {
            break;
        }
    }
    let end = if blank > begun { blank } else { hard };
    // At least one character, so that every line is one less.
    if end == 0 { text.chars().next().map_or(0, char::len_utf8) } else { end }
}

/// Every column of the selected row.
#[must_use]
pub fn description(model: &Model) -> Option<Screen> {
    fn of<R: Row>(row: &R) -> String {
        let shown = R::columns().iter().filter(|c| {
            !matches!(c.meta.shown, crate::columns::Shown::Live | crate::columns::Shown::Cluster)
        });
        let line = |c: &Column<R>| format!("   {:16} {}\n", c.meta.header, (c.cell)(row).exact());
        shown.map(line).collect()
    }
    let title = format!("describe {}", name(model)?);
    with_selected!(model, row => of(row)).map(|text| screen(title, &text))
}

/// The selected row as the documents have it.
#[must_use]
pub fn yaml(model: &Model) -> Option<Screen> {
    fn of<R: Serialize>(row: &R) -> String {
        serde_yaml::to_string(row).unwrap_or_else(|e| e.to_string())
    }
    let title = format!("yaml {}", name(model)?);
    let board = model.board.as_deref()?;
    let table = model.table(model.what());
    let at = *table.order.get(table.index)?;
    use crate::rows::What;
    let text = match model.what() {
        What::Policies => board.policies.get(at).map(of),
        What::Nodes => board.nodes.get(at).map(of),
        What::Frontends => board.frontends.get(at).map(of),
        What::Backends => board.backends.get(at).map(of),
        What::Trace => model.events.get(at).map(|e| of(&e.event)),
        What::Problems => board.problems.get(at).map(of),
    };
    text.map(|text| screen(title, &text))
}

/// Why the policy is or is not in force, on the first node where it is not, else on the first that knows it. What should
/// be in the maps is not known here: `kubectl balancing explain policy` asks for it.
#[must_use]
pub fn explanation(model: &Model) -> Option<Screen> {
    let policy = model.selected_policy()?;
    let board = model.board.as_deref()?;
    let is = |p: &&balancing_api::agent::PolicyStatus| p.kind == policy.kind && p.name == policy.name;
    let knows = board.sample.nodes.iter().filter_map(|n| n.status.policies.iter().find(is).map(|p| (n, p)));
    let worst = knows.min_by_key(|(_, p)| crate::sample::severity(p.state));
    let (node, status) = worst?;
    let explained = explain::policy::explain(
        status,
        explain::policy::Facts {
            status: &node.status,
            programmed: &node.frontends,
            desired: &node.frontends,
            counters: &node.counters,
            qos: None,
        },
    );
    let text = explain::policy_text::text(&explained, &node.counters, false);
    let title = format!("explain {}/{} on {}", policy.kind.short_name(), policy.name, node.status.node.name);
    Some(screen(sanitise(&title).into_owned(), &text))
}
