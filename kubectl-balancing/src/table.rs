//! Tables as kubectl prints them, and the same as comma-separated values.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{AnsiColors, OwoColorize};

use crate::columns::{Cell, Column, Row, Shown, Tone};

/// The rows as a table: upper-case headers, three blanks between columns, no borders, no blanks at the ends of lines.
/// Colour is on the first column alone, which is the state. `counted`: are there counters at all?
#[must_use]
pub fn table<R: Row>(rows: &[&R], wide: bool, colour: bool, counted: bool) -> String {
    // Where nothing is counted a total of 0 would be a lie; what is not known says so by itself.
    let is_total = |c: &Column<R>| rows.first().is_some_and(|r| matches!((c.cell)(r), Cell::Count(_)));
    let columns: Vec<&Column<R>> = R::columns()
        .iter()
        .filter(|c| c.meta.shown == Shown::Always || wide && c.meta.shown == Shown::Wide)
        .filter(|c| counted || !is_total(c))
        .collect();
    let plain = plain(rows, &columns);
    if colour { coloured(&plain, rows) } else { plain }
}

/// The same in lines of so many cells: columns of the highest priority leave until the others fit.
#[must_use]
pub fn narrow<R: Row>(rows: &[&R], colour: bool, cells: u16) -> String {
    let mut columns: Vec<&Column<R>> =
        R::columns().iter().filter(|c| c.meta.shown == Shown::Always).collect();
    loop {
        let plain = plain(rows, &columns);
        let fits = plain.lines().all(|l| l.chars().count() <= usize::from(cells));
        let leaves = columns.iter().enumerate().filter(|(_, c)| c.meta.priority > 0);
        match leaves.max_by_key(|(i, c)| (c.meta.priority, *i)).map(|(i, _)| i) {
            Some(i) if !fits => drop(columns.remove(i)),
            _ if colour => return coloured(&plain, rows),
            _ => return plain,
        }
    }
}

/// The rows in these columns, without colour.
pub(crate) fn plain<R: Row>(rows: &[&R], columns: &[&Column<R>]) -> String {
    let header = columns.iter().map(|c| c.meta.header.to_owned()).collect();
    aligned(header, rows.iter().map(|r| columns.iter().map(|c| (c.cell)(r).shown()).collect()).collect())
}

fn coloured<R: Row>(plain: &str, rows: &[&R]) -> String {
    let mut lines = plain.lines();
    let mut out = lines.next().unwrap_or_default().to_owned() + "\n";
    for (line, row) in lines.zip(rows) {
        let end = line.find(' ').unwrap_or(line.len());
        let (state, rest) = line.split_at(end);
        match tone_colour(row.tone()) {
            Some(c) => out.push_str(&format!("{}{rest}\n", state.color(c))),
            None => out.push_str(&format!("{line}\n")),
        }
    }
    out
}

/// Blue and yellow rather than green and red: told apart by everybody.
#[must_use]
pub fn tone_colour(tone: Tone) -> Option<AnsiColors> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some(AnsiColors::Blue),
        Tone::Warn => Some(AnsiColors::Yellow),
        Tone::Bad => Some(AnsiColors::Red),
        Tone::Dim => Some(AnsiColors::BrightBlack),
    }
}

/// Columns aligned as kubectl aligns them.
#[must_use]
pub fn aligned(header: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let columns = header.len();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for i in 0..columns {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, if i + 1 == columns { 0 } else { 3 }));
        }
    }
    let mut out = String::new();
    for line in table.trim_fmt().lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Every column that has a value without the terminal UI.
fn printed<R: Row>() -> impl Iterator<Item = &'static Column<R>> {
    R::columns().iter().filter(|c| c.meta.shown != Shown::Live && c.meta.shown != Shown::Cluster)
}

/// The header line of the comma-separated form.
#[must_use]
pub fn csv_header<R: Row>() -> String {
    let keys: Vec<&str> = std::iter::once("time").chain(printed::<R>().map(|c| c.meta.key)).collect();
    keys.join(",") + "\n"
}

/// The rows as comma-separated values (RFC 4180), every column and unscaled numbers, behind the time of the sample.
#[must_use]
pub fn csv<R: Row>(rows: &[&R], time: &str) -> String {
    let mut out = String::new();
    for row in rows {
        let cells = printed::<R>().map(|c| (c.cell)(row).raw());
        let line: Vec<String> = std::iter::once(time.to_owned()).chain(cells).map(|c| quoted(&c)).collect();
        out.push_str(&line.join(","));
        out.push('\n');
    }
    out
}

/// A value of a comma-separated line.
pub(crate) fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture::{snapshots, world},
        sample::{Board, NodeSample, Sample},
    };

    fn board() -> Board {
        let sample = |w: crate::fixture::World| {
            Sample::of_one(NodeSample { status: w.status, frontends: w.programmed, counters: w.counters })
        };
        Board::new(sample(world().later(1000)), Some(&sample(world())))
    }

    #[test]
    fn tables() {
        let board = board();
        let policies: Vec<_> = board.policies.iter().collect();
        snapshots().bind(|| {
            insta::assert_snapshot!("top-once-policies", table(&policies, false, false, true));
            insta::assert_snapshot!("top-once-policies-wide", table(&policies, true, false, true));
            insta::assert_snapshot!("top-once-policies-narrow", narrow(&policies, false, 80));
            let frontends: Vec<_> = board.frontends.iter().collect();
            insta::assert_snapshot!("top-once-frontends", table(&frontends, false, false, true));
            let backends: Vec<_> = board.backends.iter().collect();
            insta::assert_snapshot!("top-once-backends", table(&backends, false, false, true));
            insta::assert_snapshot!(
                "top-once-backends-csv",
                csv_header::<balancing_api::cli::BackendTopItem>() + &csv(&backends, "T")
            );
        });
    }

    #[test]
    fn lines_have_no_blanks_at_their_ends_and_colour_changes_no_letter() {
        let board = board();
        let rows: Vec<_> = board.policies.iter().collect();
        let plain = table(&rows, true, false, true);
        assert!(plain.lines().all(|l| l == l.trim_end()));
        let coloured = table(&rows, true, true, true);
        let mut stripped = String::new();
        let mut parts = coloured.split('\u{1b}');
        stripped.push_str(parts.next().unwrap());
        parts.for_each(|p| stripped.push_str(p.split_once('m').unwrap().1));
        assert_eq!(stripped, plain);
        assert_ne!(coloured, plain);
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
    }
}
