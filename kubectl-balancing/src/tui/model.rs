//! What the terminal UI knows, and how it changes: `update` is pure, the shell does what it asks for.

use std::{sync::Arc, time::Duration};

use balancing_api::policy::PolicyRef;
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    keys::{self, Action, Context},
    layout::{self, Areas},
};
use crate::{
    columns::{Meta, Row, RowId, Shown, Sort, Tone, events::EventRow, order},
    filter::Filter,
    rows::{What, with_rows},
    sample::Board,
};

/// Intervals that `+` and `-` walk through, in seconds.
const INTERVALS: [u64; 5] = [1, 2, 5, 10, 30];
/// Letters a filter may have.
const FILTER_MOST: usize = 200;

/// What happened.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal has this size now: columns, rows.
    Resize(u16, u16),
    /// A sample came.
    Data(Arc<Board>),
    /// The agent did not answer.
    Lost {
        /// Why, in short.
        error: String,
        /// How often in a row.
        attempt: u32,
        /// Seconds until it is asked again.
        retry_in: u64,
    },
    /// A second has passed. Sent only while something counts seconds.
    Second,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Leave.
    Quit,
    /// Leave with this error: the first question was not answered.
    Fail,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Clear and draw everything.
    Redraw,
    /// Ask at this interval.
    Interval(Duration),
    /// Stop asking, or go on.
    Pause(bool),
    /// Ask now.
    Refresh,
}

/// What an update led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// What the shell is to do.
    pub effects: Vec<Effect>,
    /// Must the screen be drawn?
    pub draw: bool,
}

/// How the agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// The first answer has not come.
    Connecting {
        /// Seconds since it was asked.
        elapsed: u64,
    },
    /// It answered last time.
    Live,
    /// It did not.
    Lost {
        /// Why, in short.
        error: String,
        /// How often in a row.
        attempt: u32,
        /// Seconds until it is asked again.
        retry_in: u64,
    },
}

/// Which screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A table.
    Table(What),
    /// One policy, come to from a table.
    Policy {
        /// Which.
        policy: PolicyRef,
        /// The table.
        from: What,
        /// First line shown.
        scroll: usize,
    },
}

/// State of one table.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// Sorted by; none is the rows' own order, problems first.
    pub sort: Option<Sort>,
    /// The filter as typed.
    pub filter: String,
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
    /// What `order` was made from: number of the sample, sort, filter.
    ordered: Option<(u64, Option<Sort>, String)>,
}

/// Everything the UI knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where the agent is, for the header.
    pub agent: String,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The screen.
    pub screen: Screen,
    /// Is the help on top of it?
    pub help: Option<usize>,
    /// Is a filter being typed?
    pub typing: bool,
    /// How the agent answers.
    pub link: Link,
    /// Has the user stopped the view?
    pub paused: bool,
    /// Time between samples.
    pub interval: Duration,
    /// The last sample.
    pub board: Option<Arc<Board>>,
    /// How many samples came.
    board_number: u64,
    /// Colour, or weight alone.
    pub colour: bool,
    /// Glyphs beyond ASCII.
    pub unicode: bool,
    /// Lines of the trace, the newest first.
    pub events: Vec<EventRow>,
    tables: [TableState; 6],
}

/// A visible row, ready to be drawn.
#[derive(Clone, Debug)]
pub struct ShownRow {
    /// A cell a column, sanitised.
    pub cells: Vec<String>,
    /// How its state is to be taken.
    pub tone: Tone,
    /// Is it the selected one?
    pub selected: bool,
}

/// The columns of a table in the UI.
#[must_use]
pub fn metas(what: What) -> Vec<Meta> {
    fn of<R: Row>(_: &[R]) -> Vec<Meta> {
        R::columns().iter().map(|c| c.meta).filter(|m| m.shown == Shown::Always).collect()
    }
    let none = Board::default();
    with_rows!(what, none, [], rows => of(rows))
}

impl Model {
    /// A UI that has not heard of the agent yet.
    #[must_use]
    pub fn new(agent: String, what: What, interval: Duration, colour: bool, unicode: bool) -> Self {
        Self {
            agent,
            size: (80, 24),
            screen: Screen::Table(what),
            help: None,
            typing: false,
            link: Link::Connecting { elapsed: 0 },
            paused: false,
            interval,
            board: None,
            board_number: 0,
            colour,
            unicode,
            events: Vec::new(),
            tables: Default::default(),
        }
    }

    /// The same with a sort and filter of the first table.
    #[must_use]
    pub fn starting_with(mut self, sort: Option<Sort>, filter: &str) -> Self {
        let table = self.table_mut(self.what());
        table.sort = sort;
        table.filter = filter.chars().take(FILTER_MOST).collect();
        self
    }

    /// The table shown, or the one that the policy's screen was come to from.
    #[must_use]
    pub fn what(&self) -> What {
        match &self.screen {
            Screen::Table(what) | Screen::Policy { from: what, .. } => *what,
        }
    }

    /// State of a table.
    #[must_use]
    pub fn table(&self, what: What) -> &TableState {
        &self.tables[what as usize]
    }

    fn table_mut(&mut self, what: What) -> &mut TableState {
        &mut self.tables[what as usize]
    }

    /// Is something on the screen that counts seconds?
    #[must_use]
    pub fn counts_seconds(&self) -> bool {
        !self.paused && self.link != Link::Live
    }

    /// Where things are on the screen.
    #[must_use]
    pub fn areas(&self) -> Areas {
        let problems = self.board.as_ref().is_some_and(|b| b.node_problems().next().is_some());
        let detail = self.help.is_none() && matches!(self.screen, Screen::Table(_));
        layout::areas(self.size, problems, detail)
    }

    /// Number of rows of a table before the filter.
    #[must_use]
    pub fn count(&self, what: What) -> usize {
        self.board.as_ref().map_or(0, |b| with_rows!(what, b, self.events, rows => rows.len()))
    }

    /// The rows of a table that are on the screen.
    #[must_use]
    pub fn shown_rows(&self, what: What) -> Vec<ShownRow> {
        let Some(board) = &self.board else { return Vec::new() };
        let table = self.table(what);
        let height = usize::from(self.areas().rows());
        let visible = table.order.iter().enumerate().skip(table.offset).take(height);
        fn shown<R: Row>(row: &R, selected: bool) -> ShownRow {
            let columns = R::columns().iter().filter(|c| c.meta.shown == Shown::Always);
            ShownRow { cells: columns.map(|c| (c.cell)(row).shown()).collect(), tone: row.tone(), selected }
        }
        with_rows!(what, board, self.events, rows => {
            visible.filter_map(|(i, n)| rows.get(*n).map(|r| shown(r, i == table.index))).collect()
        })
    }

    /// The policy that Enter opens: that of the selected row.
    #[must_use]
    pub fn selected_policy(&self) -> Option<PolicyRef> {
        let board = self.board.as_ref()?;
        match self.table(self.what()).selected.as_ref()? {
            RowId::Policy(policy) => Some(policy.clone()),
            RowId::Frontend(frontend) => {
                board.frontends.iter().find(|f| f.frontend == *frontend)?.policy.clone()
            }
            RowId::Node(_) | RowId::Problem(..) | RowId::Event(_) => None,
            RowId::Backend(id) => {
                board.policies.iter().map(|p| &p.policy).find(|p| p.to_string() == id.owner).cloned()
            }
        }
    }

    /// Something happened.
    pub fn update(&mut self, msg: Msg) -> Update {
        let mut update = Update { effects: Vec::new(), draw: true };
        match msg {
            Msg::Key(key) if key.kind == KeyEventKind::Release => update.draw = false,
            Msg::Key(key) => update = self.key(key),
            Msg::Paste(text) if self.typing => self.type_text(&text),
            Msg::Paste(_) => update.draw = false,
            Msg::Resize(columns, rows) => {
                update.draw = self.size != (columns, rows);
                self.size = (columns, rows);
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            // What was under way when the user stopped the view does not change it.
            Msg::Data(_) if self.paused => update.draw = false,
            Msg::Data(board) => {
                update.draw = self.link != Link::Live || self.board.as_ref() != Some(&board);
                self.link = Link::Live;
                self.board = Some(board);
                self.board_number += 1;
            }
            Msg::Lost { .. } if self.paused => update.draw = false,
            Msg::Lost { .. } if self.board.is_none() => update.effects.push(Effect::Fail),
            Msg::Lost { error, attempt, retry_in } => self.link = Link::Lost { error, attempt, retry_in },
            Msg::Second => update.draw = self.second(),
        }
        self.settle();
        update
    }

    /// A second has passed: does anything on the screen show it?
    fn second(&mut self) -> bool {
        if !self.counts_seconds() {
            return false;
        }
        match &mut self.link {
            Link::Connecting { elapsed } => *elapsed += 1,
            Link::Lost { retry_in, .. } => *retry_in = retry_in.saturating_sub(1),
            Link::Live => return false,
        }
        true
    }

    fn key(&mut self, key: KeyEvent) -> Update {
        let drawn = Update { effects: Vec::new(), draw: true };
        if self.typing && self.type_key(key) {
            return drawn;
        }
        let context = match self.screen {
            Screen::Table(_) => Context::Table,
            Screen::Policy { .. } => Context::Policy,
        };
        let Some(action) = keys::action(key, context) else {
            return Update::default();
        };
        let before = (self.screen.clone(), self.help, self.typing, self.paused, self.interval);
        let moved = self.position();
        let effects = self.act(action);
        let changed = before != (self.screen.clone(), self.help, self.typing, self.paused, self.interval)
            || moved != self.position();
        Update { draw: changed || !effects.is_empty(), effects }
    }

    /// What of the table shown a key may change.
    fn position(&self) -> (usize, usize, Option<Sort>, String) {
        let table = self.table(self.what());
        (table.index, table.order.len(), table.sort, table.filter.clone())
    }

    /// A key while a filter is typed. False: it is none of the filter's.
    fn type_key(&mut self, key: KeyEvent) -> bool {
        let what = self.what();
        match (key.code, key.modifiers - KeyModifiers::SHIFT) {
            (KeyCode::Enter, _) => self.typing = false,
            (KeyCode::Esc, _) => {
                self.typing = false;
                self.table_mut(what).filter.clear();
            }
            (KeyCode::Backspace, _) => self.typing = self.table_mut(what).filter.pop().is_some(),
            (KeyCode::Char('u' | 'w'), KeyModifiers::CONTROL) => self.table_mut(what).filter.clear(),
            (KeyCode::Char(c), KeyModifiers::NONE) => self.type_text(c.encode_utf8(&mut [0; 4])),
            (KeyCode::Char(_), _) => return false,
            (KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown, _) => return false,
            _ => {}
        }
        true
    }

    fn type_text(&mut self, text: &str) {
        let filter = &mut self.table_mut(self.what()).filter;
        let room = FILTER_MOST.saturating_sub(filter.chars().count());
        filter.extend(text.chars().filter(|c| !c.is_control()).take(room));
    }

    fn act(&mut self, action: Action) -> Vec<Effect> {
        let page = isize::from(self.areas().rows().min(1000) as i16 - 1).max(1);
        match action {
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.step(-page),
            Action::PageDown => self.step(page),
            Action::Home => self.step(isize::MIN),
            Action::End => self.step(isize::MAX),
            Action::Open => {
                if let (None, Some(policy)) = (self.help, self.selected_policy()) {
                    self.screen = Screen::Policy { policy, from: self.what(), scroll: 0 };
                }
            }
            Action::Back => self.back(),
            Action::Show(what) => {
                self.help = None;
                self.screen = Screen::Table(what);
            }
            Action::SortNext => self.sort(1),
            Action::SortPrevious => self.sort(-1),
            Action::Invert => self.invert(),
            Action::Filter => {
                self.help = None;
                self.typing = true;
            }
            Action::Pause => {
                self.paused = !self.paused;
                return vec![Effect::Pause(self.paused)];
            }
            Action::Refresh => return if self.paused { vec![] } else { vec![Effect::Refresh] },
            Action::Slower => return self.change_interval(true),
            Action::Faster => return self.change_interval(false),
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Suspend => return vec![Effect::Suspend],
            Action::Redraw => return vec![Effect::Redraw],
            Action::Quit => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn back(&mut self) {
        if self.help.take().is_some() {
            return;
        }
        match self.screen {
            Screen::Policy { from, .. } => self.screen = Screen::Table(from),
            Screen::Table(what) => self.table_mut(what).filter.clear(),
        }
    }

    /// Moves the selection, or scrolls what has none.
    fn step(&mut self, by: isize) {
        let moved = |at: usize| at.saturating_add_signed(by);
        if let Some(scroll) = &mut self.help {
            *scroll = moved(*scroll);
            return;
        }
        if let Screen::Policy { scroll, .. } = &mut self.screen {
            *scroll = moved(*scroll);
            return;
        }
        let what = self.what();
        let table = self.table_mut(what);
        table.index = moved(table.index).min(table.order.len().saturating_sub(1));
        table.selected = None;
    }

    /// The next column to sort by; after the last one the rows' own order.
    fn sort(&mut self, by: isize) {
        let what = self.what();
        let all = self.sortable(what);
        let table = self.table_mut(what);
        let now = table.sort.and_then(|s| all.iter().position(|c| *c == s.column));
        let places = all.len() as isize + 1;
        let next = (now.map_or(0, |i| i as isize + 1) + by).rem_euclid(places);
        table.sort = usize::try_from(next - 1).ok().and_then(|i| all.get(i)).map(|column| {
            // Of numbers the largest are looked for.
            Sort { column: *column, descending: number(what, *column) }
        });
    }

    fn invert(&mut self) {
        let what = self.what();
        let table = self.table_mut(what);
        if let Some(sort) = &mut table.sort {
            sort.descending = !sort.descending;
        }
    }

    /// Indices in the registry of the columns on the screen.
    fn sortable(&self, what: What) -> Vec<usize> {
        let shown = super::grid::visible_columns(self, what);
        let always: Vec<usize> = registry(what)
            .iter()
            .enumerate()
            .filter(|(_, m)| m.shown == Shown::Always)
            .map(|(i, _)| i)
            .collect();
        shown.iter().filter_map(|i| always.get(*i).copied()).collect()
    }

    fn change_interval(&mut self, longer: bool) -> Vec<Effect> {
        let now = self.interval;
        let mut steps = INTERVALS.iter().map(|s| Duration::from_secs(*s));
        let next = if longer { steps.find(|s| *s > now) } else { steps.rev().find(|s| *s < now) };
        match next {
            Some(interval) => {
                self.interval = interval;
                vec![Effect::Interval(interval)]
            }
            None => Vec::new(),
        }
    }

    /// Makes order, selection, scrolling and widths fit what is there now.
    fn settle(&mut self) {
        if let Some(board) = self.board.clone() {
            let what = self.what();
            self.reorder(what, &board);
            self.reselect(what, &board);
            self.widen(what);
        }
        self.limit_scrolling();
    }

    /// Sorts and filters, if anything has changed that these depend on.
    fn reorder(&mut self, what: What, board: &Board) {
        let number = self.board_number;
        let table = self.table_mut(what);
        let now = (number, table.sort, table.filter.clone());
        if table.ordered.as_ref() != Some(&now) {
            table.order = with_rows!(what, board, [], rows => filtered(rows, &table.filter, table.sort));
            table.ordered = Some(now);
        }
    }

    /// The selection stays on its row, wherever that is now. Where the row is gone, its neighbour is selected.
    fn reselect(&mut self, what: What, board: &Board) {
        let height = usize::from(self.areas().rows());
        let table = self.table_mut(what);
        let id_at = |i: usize| with_rows!(what, board, [], rows => rows.get(i).map(Row::id));
        let found = table.selected.as_ref().and_then(|id| {
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
    }

    /// Columns grow with what is shown, and shrink only when the terminal changes.
    fn widen(&mut self, what: What) {
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

    fn limit_scrolling(&mut self) {
        let height = usize::from(self.areas().body.height);
        if let Some(scroll) = self.help {
            let most = super::view::help_lines(self).len().saturating_sub(height);
            self.help = Some(scroll.min(most));
        }
        if matches!(self.screen, Screen::Policy { .. }) {
            let most = super::policy::policy_lines(self).len().saturating_sub(height);
            if let Screen::Policy { scroll, .. } = &mut self.screen {
                *scroll = (*scroll).min(most);
            }
        }
    }
}

fn filtered<R: Row>(rows: &[R], filter: &str, sort: Option<Sort>) -> Vec<usize> {
    order(rows, &Filter::parse::<R>(filter).unwrap_or_default(), sort)
}

/// All columns of a table, those of `-o wide` too, in the order that [`Sort`] counts.
fn registry(what: What) -> Vec<Meta> {
    fn of<R: Row>(_: &[R]) -> Vec<Meta> {
        R::columns().iter().map(|c| c.meta).collect()
    }
    let none = Board::default();
    with_rows!(what, none, [], rows => of(rows))
}

fn number(what: What, column: usize) -> bool {
    registry(what).get(column).is_some_and(|m| m.number)
}

/// Header of the column that a sort names.
#[must_use]
pub fn sort_header(what: What, sort: Sort) -> &'static str {
    registry(what).get(sort.column).map_or("", |m| m.header)
}
