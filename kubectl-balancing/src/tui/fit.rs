//! Text in a given number of cells.

use ratatui::{style::Style, text::Span};

use crate::columns::Ellipsis;

/// Cells that a text takes.
#[must_use]
pub fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The text in so many cells: cut where it is longer, filled where it is shorter.
#[must_use]
pub fn fit(text: &str, cells: u16, ellipsis: Ellipsis, right: bool, unicode: bool) -> String {
    let has = width(text);
    if has <= cells {
        let blanks = " ".repeat(usize::from(cells - has));
        return if right { blanks + text } else { text.to_owned() + &blanks };
    }
    let mark = if unicode { "…" } else { "~" };
    if cells == 0 {
        return String::new();
    }
    let room = cells - 1;
    let head = match ellipsis {
        Ellipsis::Right => room,
        Ellipsis::Middle => room.div_ceil(2),
    };
    let span = Span::raw(text);
    let graphemes: Vec<&str> = span.styled_graphemes(Style::default()).map(|g| g.symbol).collect();
    let front = taken(graphemes.iter().copied(), head);
    let back = taken(graphemes.iter().rev().copied(), room - head);
    let tail: Vec<&str> = back.into_iter().rev().collect();
    let cut = front.concat() + mark + &tail.concat();
    let blanks = " ".repeat(usize::from(cells.saturating_sub(width(&cut))));
    cut + &blanks
}

/// As many graphemes as fit into so many cells.
fn taken<'a>(graphemes: impl Iterator<Item = &'a str>, cells: u16) -> Vec<&'a str> {
    let mut left = cells;
    graphemes
        .take_while(|g| {
            let fits = width(g) <= left;
            left = left.saturating_sub(width(g));
            fits
        })
        .collect()
}

/// The text in lines of so many cells, so many at the most; the last says if there is more.
pub(super) fn wrapped(text: &str, cells: u16, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let fits = line.is_empty() || width(&line) + 1 + width(word) <= cells;
        if !fits {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    if lines.len() > most && most > 0 {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            let room = cells.saturating_sub(4);
            let short = if width(last) > room {
                fit(last, room, Ellipsis::Right, false, false)
            } else {
                last.clone()
            };
            *last = short.trim_end_matches('~').trim_end().to_owned() + " ...";
        }
    }
    lines
}
