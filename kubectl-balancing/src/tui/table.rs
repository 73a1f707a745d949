//! The tables of the model: which rows are shown in which order, which is selected, how wide columns are.

use balancing_api::policy::PolicyRef;

use super::{
    layout,
    model::{Model, Screen, metas},
};
use crate::{
    columns::{Row, RowId, Shown, Sort, Tone, order},
    filter::Filter,
    history::Measure,
    rows::{What, with_rows},
    sample::Board,
};

/// Cells of a trend in a table.
const TREND: usize = 10;

/// State of one table.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// Sorted by; none is the rows' own order, problems first.
    pub sort: Option<Sort>,
    /// The filter as typed.
    pub filter: String,
    /// What is wrong with it. Then the last one that was right is in force.
    pub filter_error: Option<String>,
    /// Rows shown, as indices.
    pub order: Vec<usize>,
    /// The selected row.
    pub selected: Option<RowId>,
    /// Where in `order` that is.
    pub index: usize,
    /// First of `order` on the screen.
    pub offset: usize,
    /// Widest cell of each column seen at this size; kept so that columns do not jump.
    pub widths: Vec<u16>,
    /// The filter in force.
    pub(super) valid: String,
    /// What `order` was made from: number of the sample, sort, filter, faults alone.
    pub(super) ordered: Option<(u64, Option<Sort>, String, bool)>,
}

/// A visible row, ready to be drawn.
#[derive(Clone, Debug)]
pub struct ShownRow {
    /// A cell a column of the registry, sanitised; empty where the column is not shown.
    pub cells: Vec<String>,
    /// How its state is to be taken.
    pub tone: Tone,
    /// Is it the selected one?
    pub selected: bool,
    /// See [`Row::reports`].
    pub reports: bool,
}

impl Model {
    /// The rows of a table that are on the screen.
    #[must_use]
    pub fn shown_rows(&self, what: What) -> Vec<ShownRow> {
        let Some(board) = &self.board else { return Vec::new() };
        let table = self.table(what);
        let height = usize::from(self.areas().rows());
        let visible = table.order.iter().enumerate().skip(table.offset).take(height);
        with_rows!(what, board, self.events, rows => {
            visible.filter_map(|(i, n)| rows.get(*n).map(|r| self.shown_row(r, i == table.index))).collect()
        })
    }

    pub(super) fn shown_row<R: Row>(&self, row: &R, selected: bool) -> ShownRow {
        let cell = |c: &crate::columns::Column<R>| match (c.meta.shown, row.id()) {
            _ if !self.eligible(&c.meta) => String::new(),
            (Shown::Live, RowId::Policy(policy)) => self.trend(&policy),
            _ if self.exact => (c.cell)(row).exact(),
            _ => (c.cell)(row).shown(),
        };
        ShownRow {
            cells: R::columns().iter().map(cell).collect(),
            tone: row.tone(),
            selected,
            reports: row.reports(),
        }
    }

    pub(super) fn trend(&self, policy: &PolicyRef) -> String {
        let values = self.history.policy(policy, Measure::Taken, self.window as f64, TREND);
        super::chart::sparkline(&values, self.unicode)
    }

    /// Selects the next row with what is looked for; `here` counts too, if asked for.
    pub(super) fn find(&mut self, forward: bool, here: bool) {
        let needle = self.search.to_lowercase();
        let (Some(board), false) = (self.board.clone(), needle.is_empty()) else { return };
        let what = self.what();
        let (index, all) = (self.table(what).index, self.table(what).order.len());
        let contains = |at: usize| {
            let Some(row) = self.table(what).order.get(at) else { return false };
            fn any<R: Row>(rows: &[R], at: usize, needle: &str) -> bool {
                let cell =
                    |c: &crate::columns::Column<R>, r| (c.cell)(r).shown().to_lowercase().contains(needle);
                rows.get(at).is_some_and(|r| R::columns().iter().any(|c| cell(c, r)))
            }
            with_rows!(what, board, self.events, rows => any(rows, *row, &needle))
        };
        let steps = usize::from(!here)..=all;
        let place = |step: usize| {
            if forward { (index + step) % all.max(1) } else { (index + all - step % all.max(1)) % all.max(1) }
        };
        let found = steps.map(place).find(|at| contains(*at));
        match found {
            Some(at) => {
                let table = self.table_mut(what);
                table.index = at;
                table.selected = None;
            }
            None => self.notice = Some(format!("no row has {:?}", self.search)),
        }
    }

    /// The next column to sort by; after the last one the rows' own order.
    pub(super) fn sort(&mut self, by: isize) {
        let what = self.what();
        let all = super::grid::visible_columns(self, what);
        let all: Vec<usize> = all.into_iter().filter(|i| metas(what)[*i].shown != Shown::Live).collect();
        let table = self.table_mut(what);
        let now = table.sort.and_then(|s| all.iter().position(|c| *c == s.column));
        let places = all.len() as isize + 1;
        let next = (now.map_or(0, |i| i as isize + 1) + by).rem_euclid(places);
        // Of numbers the largest are looked for.
        let column = usize::try_from(next - 1).ok().and_then(|i| all.get(i)).copied();
        table.sort = column.map(|column| Sort { column, descending: metas(what)[column].number });
    }

    pub(super) fn invert(&mut self) {
        let what = self.what();
        if let Some(sort) = &mut self.table_mut(what).sort {
            sort.descending = !sort.descending;
        }
    }

    /// A press of the mouse: on a row it is selected, on a header it is sorted by.
    pub(super) fn click(&mut self, column: u16, row: u16) -> bool {
        let what = self.what();
        let body = self.areas().body;
        if !matches!(self.screen(), Screen::Table(_)) || self.help.is_some() || row < body.y {
            return false;
        }
        if row > body.y {
            let table = self.table_mut(what);
            let at = table.offset + usize::from(row - body.y - 1);
            let there = at < table.order.len();
            if there {
                (table.index, table.selected) = (at, None);
            }
            return there;
        }
        let Some(found) = super::grid::column_at(self, what, column) else { return false };
        let meta = metas(what)[found];
        if meta.shown == Shown::Live {
            return false;
        }
        let table = self.table_mut(what);
        table.sort = match table.sort {
            Some(sort) if sort.column == found => Some(Sort { descending: !sort.descending, ..sort }),
            _ => Some(Sort { column: found, descending: meta.number }),
        };
        true
    }

    /// Sorts and filters, if anything has changed that these depend on.
    pub(super) fn reorder(&mut self, what: What, board: &Board) {
        let (number, faults, top) = (self.board_number, self.faults, self.top);
        let typed = self.table(what).filter.clone();
        let error = match what {
            _ if typed == self.table(what).valid => None,
            _ => with_rows!(what, board, self.events, rows => fault(rows, &typed)),
        };
        let table = self.table_mut(what);
        if error.is_none() {
            table.valid = typed;
        }
        table.filter_error = error;
        let now = (number, table.sort, table.valid.clone(), faults);
        if table.ordered.as_ref() != Some(&now) {
            let (filter, sort) = (table.valid.clone(), table.sort);
            let mut order =
                with_rows!(what, board, self.events, rows => filtered(rows, &filter, sort, faults));
            order.truncate(top);
            let table = self.table_mut(what);
            table.order = order;
            table.ordered = Some(now);
        }
    }

    /// The selection stays on its row, wherever that is now. Where the row is gone, its neighbour is selected.
    pub(super) fn reselect(&mut self, what: What, board: &Board) {
        let height = usize::from(self.areas().rows());
        let (follow, events) = (self.follow, std::mem::take(&mut self.events));
        let table = self.table_mut(what);
        let id_at = |i: usize| with_rows!(what, board, events, rows => rows.get(i).map(Row::id));
        // Who has not moved in the trace looks at the newest line.
        let stays = follow && !(what == What::Trace && table.index == 0);
        let found = table.selected.as_ref().filter(|_| stays).and_then(|id| {
            // Where it was is where it most likely is.
            let here = table.order.get(table.index).is_some_and(|i| id_at(*i).as_ref() == Some(id));
            if here {
                Some(table.index)
            } else {
                table.order.iter().position(|i| id_at(*i).as_ref() == Some(id))
            }
        });
        table.index = found.unwrap_or(table.index).min(table.order.len().saturating_sub(1));
        if let Some(id) = table.order.get(table.index).and_then(|i| id_at(*i)) {
            table.selected = Some(id);
        }
        table.offset = layout::window(table.offset, table.index, table.order.len(), height);
        self.events = events;
    }

    /// Columns grow with what is shown, and shrink only when the terminal changes.
    pub(super) fn widen(&mut self, what: What) {
        let rows = self.shown_rows(what);
        let metas = metas(what);
        let table = self.table_mut(what);
        table.widths.resize(metas.len(), 0);
        for (i, meta) in metas.iter().enumerate() {
            let cells = rows.iter().filter_map(|r| r.cells.get(i)).map(|c| super::fit::width(c));
            let widest = cells.max().unwrap_or(0).min(meta.max).max(super::fit::width(meta.header));
            table.widths[i] = table.widths[i].max(widest);
        }
    }
}

/// What is wrong with a filter.
fn fault<R: Row>(_: &[R], filter: &str) -> Option<String> {
    Filter::parse::<R>(filter).err().map(|e| e.to_string())
}

fn filtered<R: Row>(rows: &[R], filter: &str, sort: Option<Sort>, faults: bool) -> Vec<usize> {
    let mut order = order(rows, &Filter::parse::<R>(filter).unwrap_or_default(), sort);
    if faults {
        order.retain(|i| matches!(rows[*i].tone(), Tone::Warn | Tone::Bad));
    }
    order
}
