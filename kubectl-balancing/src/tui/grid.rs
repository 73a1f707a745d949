//! Rows and columns: which fit, how wide, and how a row is drawn.

use ratatui::{
    style::Modifier,
    text::{Line, Span},
};

use super::{
    fit::{fit, width},
    model::{Model, metas},
    style::{DIM, REVERSED, glyph, style},
    table::ShownRow,
};
use crate::{
    columns::{Column, Ellipsis, Meta, Row, Shown},
    rows::What,
    text::NONE,
};

/// Blanks between two columns.
const GAP: u16 = 2;

/// Columns that may be wider than this hold sentences.
const SENTENCE: u16 = 100;

/// So many cells of a sentence are worth more than another column. Of a narrow screen its first words have to do.
fn sentence_least(room: u16) -> u16 {
    if room < 100 { 16 } else { (room / 5 * 2).min(50) }
}

/// Room for the marker of the selected row and the glyph of the state.
const MARGIN: u16 = 4;

/// The columns that fit, as indices in the registry: those of the highest priority leave first.
#[must_use]
pub fn visible_columns(model: &Model, what: What) -> Vec<usize> {
    let metas = metas(what);
    let eligible = (0..metas.len()).filter(|i| model.eligible(&metas[*i])).collect();
    fitting(&metas, eligible, &model.table(what).widths, room(model, what))
}

/// Cells that columns may take: the scrollbar has the last one.
fn room(model: &Model, what: What) -> u16 {
    let scrolls = model.table(what).order.len() > usize::from(model.areas().rows());
    model.size.0.saturating_sub(u16::from(scrolls) * 2)
}

/// The column of the table that has this cell of the screen.
pub(super) fn column_at(model: &Model, what: What, cell: u16) -> Option<usize> {
    let metas = metas(what);
    let columns = visible_columns(model, what);
    let widths = column_widths(model, what, &metas, &columns);
    let mut end = MARGIN;
    columns.into_iter().zip(widths).find_map(|(column, width)| {
        let begin = end;
        end += width + GAP;
        (begin..end).contains(&cell).then_some(column)
    })
}

/// Of the columns that are shown only when asked for every one may leave.
fn priority(meta: &Meta) -> u8 {
    if meta.shown == Shown::Wide { meta.priority.max(7) } else { meta.priority }
}

fn fitting(metas: &[Meta], mut columns: Vec<usize>, widths: &[u16], room: u16) -> Vec<usize> {
    // A column of sentences takes what the others leave.
    let most = |i: usize| if metas[i].max > SENTENCE { sentence_least(room) } else { u16::MAX };
    let width_of = |i: usize| widths.get(i).copied().unwrap_or(0).min(most(i)).max(width(metas[i].header));
    loop {
        let needed = MARGIN + columns.iter().map(|i| width_of(*i) + GAP).sum::<u16>();
        let leaves = columns
            .iter()
            .copied()
            .filter(|i| priority(&metas[*i]) > 0)
            .max_by_key(|i| (priority(&metas[*i]), *i));
        match leaves {
            Some(i) if needed.saturating_sub(GAP) > room => columns.retain(|c| *c != i),
            _ => return columns,
        }
    }
}

/// Widths of these columns: as wide as their cells, the widest text column shorter where there is no room.
pub(super) fn column_widths(model: &Model, what: What, metas: &[Meta], columns: &[usize]) -> Vec<u16> {
    let table = model.table(what);
    let mut widths: Vec<u16> = columns
        .iter()
        .map(|i| table.widths.get(*i).copied().unwrap_or(0).max(width(metas[*i].header)))
        .collect();
    let room = room(model, what);
    let gaps = GAP * (columns.len() as u16).saturating_sub(1);
    loop {
        let needed = MARGIN + gaps + widths.iter().sum::<u16>();
        let texts = columns.iter().enumerate().filter(|(_, c)| !metas[**c].number).map(|(i, _)| i);
        match texts.max_by_key(|i| widths[*i]) {
            Some(i) if needed > room && widths[i] > 4 => widths[i] -= (needed - room).min(widths[i] - 4),
            _ => return widths,
        }
    }
}

pub(super) fn row_line(
    model: &Model,
    row: &ShownRow,
    metas: &[Meta],
    columns: &[usize],
    widths: &[u16],
    dim: bool,
) -> Line<'static> {
    let marker = if row.selected { ">" } else { " " };
    // On the selected row, and where nothing is fresh, one style; else the state alone is coloured.
    let all = match (row.selected, dim) {
        (true, _) => Some(REVERSED.add_modifier(Modifier::BOLD)),
        (false, true) => Some(DIM),
        (false, false) => None,
    };
    let plain = all.unwrap_or_default();
    let toned = all.unwrap_or_else(|| style(model, row.tone));
    let mut spans = vec![
        Span::styled(format!(" {marker}"), plain),
        Span::styled(format!("{} ", glyph(model, row.tone)), toned),
    ];
    for (n, (i, cells)) in columns.iter().zip(widths).enumerate() {
        let meta = &metas[*i];
        let text = row.cells.get(*i).map_or("", String::as_str);
        // Where a rate is not known yet, or a counter began again, the screen says so in one cell.
        let text =
            if text == crate::text::UNKNOWN && meta.summed && row.reports { unknown(model) } else { text };
        let text = fit(text, *cells, meta.ellipsis, meta.number, model.unicode);
        spans.push(Span::styled(text, if n == 0 { toned } else { plain }));
        spans.push(Span::styled("  ", plain));
    }
    Line::from(spans)
}

/// What stands for a rate that is not known: of a first sample, or of a counter that began again.
pub(super) fn unknown(model: &Model) -> &'static str {
    let began_again = model.board.as_ref().is_some_and(|b| b.interval.is_some());
    match (began_again, model.unicode) {
        (true, true) => "↻",
        (true, false) => "reset",
        (false, true) => "…",
        (false, false) => "...",
    }
}

/// A small table without selection, as wide as the screen.
pub(super) fn rows_as_lines<R: Row>(model: &Model, rows: &[&R], without: &[&str]) -> Vec<Line<'static>> {
    const MOST: usize = 500;
    let columns: Vec<&Column<R>> = R::columns()
        .iter()
        .filter(|c| c.meta.shown == Shown::Always && !without.contains(&c.meta.key))
        .collect();
    if rows.is_empty() {
        return vec![Line::raw(format!("    {NONE}"))];
    }
    let metas: Vec<Meta> = columns.iter().map(|c| c.meta).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().take(MOST).map(|r| columns.iter().map(|c| (c.cell)(r).shown()).collect()).collect();
    let widths: Vec<u16> = metas
        .iter()
        .enumerate()
        .map(|(i, m)| cells.iter().map(|r| width(&r[i])).max().unwrap_or(0).min(m.max).max(width(m.header)))
        .collect();
    let shown = fitting(&metas, (0..metas.len()).collect(), &widths, model.size.0);
    let shown_widths: Vec<u16> = shown.iter().map(|i| widths[*i]).collect();
    let mut header = vec![Span::raw("    ")];
    for i in &shown {
        header.push(Span::styled(
            fit(metas[*i].header, widths[*i], Ellipsis::Right, metas[*i].number, model.unicode),
            DIM,
        ));
        header.push(Span::raw("  "));
    }
    let mut lines = vec![Line::from(header)];
    for (row, cells) in rows.iter().zip(cells) {
        let shown_row = ShownRow { cells, tone: row.tone(), selected: false, reports: row.reports() };
        lines.push(row_line(model, &shown_row, &metas, &shown, &shown_widths, false));
    }
    if rows.len() > MOST {
        lines.push(Line::raw(format!("    and {} more", rows.len() - MOST)));
    }
    lines
}
