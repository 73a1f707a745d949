//! Tables as kubectl prints them, and the same as comma-separated values.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{AnsiColors, OwoColorize};

use crate::columns::{Column, Row, Shown, Tone};

/// The rows as a table: upper-case headers, three blanks between columns, no borders, no blanks at the ends of lines.
/// Colour is on the first column alone, which is the state.
#[must_use]
pub fn table<R: Row>(rows: &[&R], wide: bool, colour: bool) -> String {
    let columns: Vec<&Column<R>> =
        R::columns().iter().filter(|c| wide || c.meta.shown == Shown::Always).collect();
    let header = columns.iter().map(|c| c.meta.header.to_owned()).collect();
    let cells = rows.iter().map(|r| columns.iter().map(|c| (c.cell)(r).shown()).collect()).collect();
    let plain = aligned(header, cells);
    if !colour {
        return plain;
    }
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

/// The header line of the comma-separated form.
#[must_use]
pub fn csv_header<R: Row>() -> String {
    let keys: Vec<&str> = std::iter::once("time").chain(R::columns().iter().map(|c| c.meta.key)).collect();
    keys.join(",") + "\n"
}

/// The rows as comma-separated values (RFC 4180), every column and unscaled numbers, behind the time of the sample.
#[must_use]
pub fn csv<R: Row>(rows: &[&R], time: &str) -> String {
    let mut out = String::new();
    for row in rows {
        let cells = R::columns().iter().map(|c| (c.cell)(row).raw());
        let line: Vec<String> = std::iter::once(time.to_owned()).chain(cells).map(|c| quoted(&c)).collect();
        out.push_str(&line.join(","));
        out.push('\n');
    }
    out
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
