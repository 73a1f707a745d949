//! What the terminal UI knows, and how it changes: `update` is pure, the shell does what it asks for.

use std::{sync::Arc, time::Duration};

use balancing_api::{
    agent::Event,
    cli::{ProblemItem, Severity},
    policy::PolicyRef,
};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    details,
    keys::{self, Action, Context},
    layout::{self, Areas, Parts},
    style::Theme,
};
use crate::{
    columns::{Meta, Row, RowId, Shown, Sort, Tone, events::EventRow, order},
    filter::Filter,
    history::{History, Measure},
    rates::{RateMode, since_start, smoothed},
    rows::{What, with_rows},
    sample::Board,
    source::Origin,
};

/// Intervals that `+` and `-` walk through, in seconds.
const INTERVALS: [u64; 5] = [1, 2, 5, 10, 30];
/// Times that charts show, in seconds.
const WINDOWS: [u64; 4] = [60, 180, 600, 1800];
/// Letters a filter may have.
const FILTER_MOST: usize = 200;
/// Lines of the trace that are kept.
const EVENTS_MOST: usize = 1000;
/// Cells of a trend in a table.
const TREND: usize = 10;

/// What happened.
#[derive(Clone, Debug)]
pub enum Msg {
    /// A key.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The mouse was pressed there: column, row.
    Click(u16, u16),
    /// The mouse's wheel was turned: down, or up.
    Wheel(bool),
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
    /// Lines of the trace came, and so many were lost.
    Events(Vec<Event>, u64),
    /// The trace ended or could not begin.
    TraceFailed(String),
    /// There is nothing more to replay.
    Ended,
    /// A recording began or ended.
    Recording(bool),
    /// Something to tell the user.
    Notice(String),
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
    /// Follow the agent's events, or stop it.
    Trace(bool),
    /// Save what is shown.
    Save,
    /// Start a recording, or stop it.
    Record(bool),
    /// Put this text into the clipboard.
    Copy(String),
    /// Ask the terminal for the mouse, or leave it alone.
    Mouse(bool),
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
        /// Seconds since it answered last.
        since: u64,
    },
    /// The recording is at its end.
    Ended,
}

/// Which screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A table.
    Table(What),
    /// One policy.
    Policy {
        /// Which.
        policy: PolicyRef,
        /// First line shown.
        scroll: usize,
    },
    /// One node.
    Node {
        /// Its name.
        name: String,
        /// First line shown.
        scroll: usize,
    },
    /// Text about something.
    Text {
        /// What the breadcrumb calls it.
        title: String,
        /// Its lines, harmless to a terminal.
        lines: Arc<Vec<String>>,
        /// First line shown.
        scroll: usize,
    },
}

/// What is being typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// A filter.
    Filter,
    /// What to look for.
    Search,
}

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
    valid: String,
    /// What `order` was made from: number of the sample, sort, filter, faults alone.
    ordered: Option<(u64, Option<Sort>, String, bool)>,
}

/// Everything the UI knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where the agent is, for the header.
    pub agent: String,
    /// What kind of data it is.
    pub origin: Origin,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// The screens, each opened from the one before; the first is a table.
    pub screens: Vec<Screen>,
    /// Is the help on top of it?
    pub help: Option<usize>,
    /// What is being typed?
    pub typing: Option<Typing>,
    /// What to look for.
    pub search: String,
    /// How the agent answers.
    pub link: Link,
    /// Has the user stopped the view?
    pub paused: bool,
    /// Time between samples.
    pub interval: Duration,
    /// The rows shown: those of the last sample, with rates as asked for.
    pub board: Option<Arc<Board>>,
    /// The last sample as it came.
    latest: Option<Arc<Board>>,
    /// The samples so far smoothed.
    smooth: Option<Arc<Board>>,
    /// What was measured before.
    pub history: History,
    /// Goes up when rows change.
    board_number: u64,
    /// Lines of the trace, the newest first.
    pub events: Vec<EventRow>,
    /// Lines of the trace that were lost.
    pub events_lost: u64,
    events_number: u64,
    /// Why there is no trace.
    pub trace_error: Option<String>,
    tracing: bool,
    /// Something to tell, until the next key.
    pub notice: Option<String>,
    /// Is a recording being written?
    pub recording: bool,
    /// Rows with problems alone?
    pub faults: bool,
    /// All columns?
    pub wide: bool,
    /// Unscaled numbers?
    pub exact: bool,
    /// The table alone?
    pub expanded: bool,
    /// Does the selection stay on its row?
    pub follow: bool,
    /// Is the mouse ours?
    pub mouse: bool,
    /// What rates are made of.
    pub rates: RateMode,
    /// Seconds that charts show.
    pub window: u64,
    /// Rows of a table at the most.
    pub top: usize,
    /// Colours.
    pub theme: Theme,
    /// Colour, or weight alone.
    pub colour: bool,
    /// Glyphs beyond ASCII.
    pub unicode: bool,
    tables: [TableState; What::ALL.len()],
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

/// All columns of a table, in the order that [`Sort`] counts.
#[must_use]
pub fn metas(what: What) -> Vec<Meta> {
    fn of<R: Row>(_: &[R]) -> Vec<Meta> {
        R::columns().iter().map(|c| c.meta).collect()
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
            origin: Origin::Live,
            size: (80, 24),
            screens: vec![Screen::Table(what)],
            help: None,
            typing: None,
            search: String::new(),
            link: Link::Connecting { elapsed: 0 },
            paused: false,
            interval,
            board: None,
            latest: None,
            smooth: None,
            history: History::default(),
            board_number: 0,
            events: Vec::new(),
            events_lost: 0,
            events_number: 0,
            trace_error: None,
            tracing: false,
            notice: None,
            recording: false,
            faults: false,
            wide: false,
            exact: false,
            expanded: false,
            follow: true,
            mouse: false,
            rates: RateMode::Interval,
            window: WINDOWS[1],
            top: usize::MAX,
            theme: Theme::Dark,
            colour,
            unicode,
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

    /// The screen on top.
    #[must_use]
    pub fn screen(&self) -> &Screen {
        const TABLE: &Screen = &Screen::Table(What::Policies);
        self.screens.last().unwrap_or(TABLE)
    }

    /// The table shown, or the one that the screen on top was come to from.
    #[must_use]
    pub fn what(&self) -> What {
        let table = |s: &Screen| match s {
            Screen::Table(what) => Some(*what),
            _ => None,
        };
        self.screens.iter().rev().find_map(table).unwrap_or_default()
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
        !self.paused && matches!(self.link, Link::Connecting { .. } | Link::Lost { .. })
    }

    /// Where things are on the screen.
    #[must_use]
    pub fn areas(&self) -> Areas {
        let table = matches!(self.screen(), Screen::Table(_)) && self.help.is_none();
        layout::areas(
            self.size,
            Parts {
                problems: self.board.as_ref().is_some_and(|b| b.node_problems().next().is_some()),
                detail: table && !self.expanded,
                totals: !self.expanded,
                trends: table && !self.expanded,
            },
        )
    }

    /// Number of rows of a table before the filter.
    #[must_use]
    pub fn count(&self, what: What) -> usize {
        self.board.as_ref().map_or(0, |b| with_rows!(what, b, self.events, rows => rows.len()))
    }

    /// Is this column among those that may be shown?
    #[must_use]
    pub fn eligible(&self, meta: &Meta) -> bool {
        meta.shown != Shown::Wide || self.wide
    }

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

    fn trend(&self, policy: &PolicyRef) -> String {
        let values = self.history.policy(policy, Measure::Taken, self.window as f64, TREND);
        super::chart::sparkline(&values, self.unicode)
    }

    /// The selected row of the table shown.
    #[must_use]
    pub fn selected_row(&self) -> Option<&RowId> {
        let table = self.table(self.what());
        table.selected.as_ref().filter(|_| !table.order.is_empty())
    }

    /// The policy that the selected row, or the screen on top, is about.
    #[must_use]
    pub fn selected_policy(&self) -> Option<PolicyRef> {
        let board = self.board.as_ref()?;
        match self.screen() {
            Screen::Policy { policy, .. } => return Some(policy.clone()),
            Screen::Table(_) => {}
            Screen::Node { .. } | Screen::Text { .. } => return None,
        }
        let named =
            |name: &str| board.policies.iter().map(|p| &p.policy).find(|p| p.to_string() == name).cloned();
        match self.selected_row()? {
            RowId::Policy(policy) => Some(policy.clone()),
            RowId::Frontend(frontend) => {
                board.frontends.iter().find(|f| f.frontend == *frontend)?.policy.clone()
            }
            RowId::Backend(id) => named(&id.owner),
            RowId::Problem(_, object, _) => named(object),
            RowId::Node(_) => None,
            RowId::Event(number) => {
                self.events.iter().find(|e| e.number == *number).and_then(|e| e.event.policy.clone())
            }
        }
    }

    /// The node that the selected row is, or that has the selected problem.
    fn selected_node(&self) -> Option<String> {
        match self.selected_row()? {
            RowId::Node(name) => Some(name.clone()),
            RowId::Problem(_, _, node) => Some(node.clone()),
            _ => None,
        }
    }

    /// Why an action can do nothing now.
    #[must_use]
    pub fn refuses(&self, action: Action) -> Option<&'static str> {
        let replay = matches!(self.origin, Origin::Replay { .. });
        let table = self.table(self.what());
        match action {
            Action::Show(What::Trace) | Action::TraceRow if self.origin != Origin::Live => {
                Some("only an agent has a live trace")
            }
            Action::Slower | Action::Faster if replay => Some("a recording has its own pace: --speed"),
            Action::Record if replay => Some("this is a recording already"),
            Action::Refresh if self.paused => Some("paused: Space goes on"),
            Action::Refresh if self.link == Link::Ended => Some("the recording is at its end"),
            Action::Invert if table.sort.is_none() => Some("no column is sorted by: s chooses one"),
            Action::SearchNext | Action::SearchPrevious if self.search.is_empty() => {
                Some("nothing to look for: \\ asks what")
            }
            Action::Explain if self.selected_policy().is_none() => Some("no policy is selected"),
            Action::Open | Action::Describe | Action::Yaml | Action::Copy
                if self.selected_row().is_none() =>
            {
                Some("no row is selected")
            }
            Action::TraceRow if self.selected_policy().is_none() => Some("no policy is selected"),
            Action::Save if self.board.is_none() => Some("nothing is shown yet"),
            _ => None,
        }
    }

    /// Something happened.
    pub fn update(&mut self, msg: Msg) -> Update {
        let mut update = Update { effects: Vec::new(), draw: true };
        match msg {
            Msg::Key(key) if key.kind == KeyEventKind::Release => update.draw = false,
            Msg::Key(key) => update = self.key(key),
            Msg::Paste(text) if self.typing.is_some() => self.type_text(&text),
            Msg::Paste(_) => update.draw = false,
            Msg::Click(column, row) => update.draw = self.click(column, row),
            Msg::Wheel(down) => self.step(if down { 3 } else { -3 }),
            Msg::Resize(columns, rows) => {
                update.draw = self.size != (columns, rows);
                self.size = (columns, rows);
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            // What was under way when the user stopped the view does not change it.
            Msg::Data(_) | Msg::Lost { .. } | Msg::Events(..) | Msg::Ended if self.paused => {
                update.draw = false
            }
            Msg::Data(board) => update.draw = self.data(board),
            Msg::Lost { .. } if self.latest.is_none() => update.effects.push(Effect::Fail),
            Msg::Lost { error, attempt, retry_in } => self.lost(error, attempt, retry_in),
            Msg::Events(events, lost) => update.draw = self.trace(events, lost),
            Msg::TraceFailed(error) => {
                update.draw = self.what() == What::Trace;
                self.trace_error = Some(error);
            }
            Msg::Ended => self.link = Link::Ended,
            Msg::Recording(on) => self.recording = on,
            Msg::Notice(text) => self.notice = Some(text),
            Msg::Second => update.draw = self.second(),
        }
        self.settle();
        // The trace is followed only while it is looked at: it costs the agent something.
        let tracing = self.what() == What::Trace && self.origin == Origin::Live;
        if tracing != self.tracing {
            self.tracing = tracing;
            update.effects.push(Effect::Trace(tracing));
        }
        update
    }

    fn data(&mut self, board: Arc<Board>) -> bool {
        let draw = self.link != Link::Live || self.latest.as_ref() != Some(&board);
        self.link = Link::Live;
        self.history.push(&board, self.interval.as_secs_f64());
        self.smooth = Some(match &self.smooth {
            Some(before) if self.rates == RateMode::Smoothed => Arc::new(smoothed(before, &board)),
            _ => board.clone(),
        });
        self.latest = Some(board);
        self.show();
        draw
    }

    /// Makes the rows that are shown out of what is known.
    fn show(&mut self) {
        let Some(latest) = &self.latest else { return };
        let mut board = match self.rates {
            RateMode::Interval => latest.clone(),
            RateMode::Smoothed => self.smooth.clone().unwrap_or_else(|| latest.clone()),
            RateMode::SinceStart => Arc::new(since_start(latest)),
        };
        if let Link::Lost { error, .. } = &self.link {
            Arc::make_mut(&mut board).problems.insert(0, unreachable(latest, error));
        }
        self.board = Some(board);
        self.board_number += 1;
    }

    fn lost(&mut self, error: String, attempt: u32, retry_in: u64) {
        let (since, same) = match &self.link {
            Link::Lost { since, error: before, .. } => (*since, *before == error),
            _ => (0, false),
        };
        self.link = Link::Lost { error, attempt, retry_in, since };
        if !same {
            self.show();
        }
    }

    fn trace(&mut self, events: Vec<Event>, lost: u64) -> bool {
        if events.is_empty() && lost == 0 {
            return false;
        }
        self.events_lost += lost;
        self.trace_error = None;
        let first = self.events_number;
        self.events_number += events.len() as u64;
        let new =
            events.into_iter().enumerate().map(|(i, event)| EventRow { number: first + i as u64, event });
        let new: Vec<EventRow> = new.rev().take(EVENTS_MOST).collect();
        self.events.splice(0..0, new);
        self.events.truncate(EVENTS_MOST);
        self.board_number += 1;
        self.what() == What::Trace
    }

    /// A second has passed: does anything on the screen show it?
    fn second(&mut self) -> bool {
        if !self.counts_seconds() {
            return false;
        }
        match &mut self.link {
            Link::Connecting { elapsed } => *elapsed += 1,
            Link::Lost { retry_in, since, .. } => {
                *retry_in = retry_in.saturating_sub(1);
                *since += 1;
            }
            Link::Live | Link::Ended => return false,
        }
        true
    }

    fn key(&mut self, key: KeyEvent) -> Update {
        let drawn = Update { effects: Vec::new(), draw: true };
        if self.typing.is_some() && self.type_key(key) {
            return drawn;
        }
        let told = self.notice.take().is_some();
        let context = match self.screen() {
            Screen::Table(_) => Context::Table,
            _ => Context::Policy,
        };
        let Some(action) = keys::action(key, context) else {
            return Update { effects: Vec::new(), draw: told };
        };
        if let Some(reason) = self.refuses(action) {
            self.notice = Some(format!("{}: {reason}", keys::label_of(action)));
            return drawn;
        }
        let before = self.stamp();
        let effects = self.act(action);
        Update { draw: told || before != self.stamp() || !effects.is_empty(), effects }
    }

    /// What a key may change of the screen.
    fn stamp(&self) -> impl PartialEq + use<> {
        let table = self.table(self.what());
        (
            (self.screens.clone(), self.help, self.typing, self.paused, self.interval, self.notice.clone()),
            (
                self.faults,
                self.wide,
                self.exact,
                self.expanded,
                self.follow,
                self.mouse,
                self.rates,
                self.window,
            ),
            (table.index, table.order.len(), table.sort, table.filter.clone(), self.search.clone()),
        )
    }

    fn typed(&mut self) -> &mut String {
        match self.typing {
            Some(Typing::Search) => &mut self.search,
            Some(Typing::Filter) | None => &mut self.table_mut(self.what()).filter,
        }
    }

    /// A key while something is typed. False: it is none of it.
    fn type_key(&mut self, key: KeyEvent) -> bool {
        match (key.code, key.modifiers - KeyModifiers::SHIFT) {
            (KeyCode::Enter, _) => {
                if self.typing.take() == Some(Typing::Search) {
                    self.find(true, true);
                }
            }
            (KeyCode::Esc, _) => {
                self.typed().clear();
                self.typing = None;
            }
            (KeyCode::Backspace, _) => {
                if self.typed().pop().is_none() {
                    self.typing = None;
                }
            }
            (KeyCode::Char('u' | 'w'), KeyModifiers::CONTROL) => self.typed().clear(),
            (KeyCode::Char(c), KeyModifiers::NONE) => self.type_text(c.encode_utf8(&mut [0; 4])),
            (KeyCode::Char(_), _) => return false,
            (KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown, _) => return false,
            _ => {}
        }
        true
    }

    fn type_text(&mut self, text: &str) {
        let typed = self.typed();
        let room = FILTER_MOST.saturating_sub(typed.chars().count());
        typed.extend(text.chars().filter(|c| !c.is_control()).take(room));
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
            Action::Open => self.open(),
            Action::Back => self.back(),
            Action::Show(what) => self.go(what),
            Action::NextTable => {
                let at = What::ALL.iter().position(|w| *w == self.what()).unwrap_or(0);
                let rest = What::ALL.iter().cycle().skip(at + 1);
                let next = rest.copied().find(|w| self.refuses(Action::Show(*w)).is_none());
                self.go(next.unwrap_or_default());
            }
            Action::SortNext => self.sort(1),
            Action::SortPrevious => self.sort(-1),
            Action::Invert => self.invert(),
            Action::Filter | Action::Search => {
                self.help = None;
                self.typing = Some(if action == Action::Filter { Typing::Filter } else { Typing::Search });
            }
            Action::SearchNext => self.find(true, false),
            Action::SearchPrevious => self.find(false, false),
            Action::Faults => self.faults = !self.faults,
            Action::Wide => {
                self.wide = !self.wide;
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            Action::Exact => {
                self.exact = !self.exact;
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            Action::Rates => {
                self.rates = self.rates.next();
                self.smooth.clone_from(&self.latest);
                self.show();
            }
            Action::ShorterWindow => {
                self.window = WINDOWS.iter().rev().copied().find(|w| *w < self.window).unwrap_or(self.window);
            }
            Action::LongerWindow => {
                self.window = WINDOWS.iter().copied().find(|w| *w > self.window).unwrap_or(self.window);
            }
            Action::Expand => self.expanded = !self.expanded,
            Action::Follow => self.follow = !self.follow,
            Action::Pause => {
                self.paused = !self.paused;
                return vec![Effect::Pause(self.paused)];
            }
            Action::Refresh => return vec![Effect::Refresh],
            Action::Slower => return self.change_interval(true),
            Action::Faster => return self.change_interval(false),
            Action::Explain => self.push(details::explanation(self)),
            Action::Describe => self.push(details::description(self)),
            Action::Yaml => self.push(details::yaml(self)),
            Action::TraceRow => {
                if let Some(policy) = self.selected_policy() {
                    self.table_mut(What::Trace).filter =
                        format!("policy={}/{}", policy.kind.short_name(), policy.name);
                    self.go(What::Trace);
                }
            }
            Action::Copy => return details::name(self).map(Effect::Copy).into_iter().collect(),
            Action::Save => return vec![Effect::Save],
            Action::Record => return vec![Effect::Record(!self.recording)],
            Action::Mouse => {
                self.mouse = !self.mouse;
                return vec![Effect::Mouse(self.mouse)];
            }
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Suspend => return vec![Effect::Suspend],
            Action::Redraw => return vec![Effect::Redraw],
            Action::Quit => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn go(&mut self, what: What) {
        self.help = None;
        self.screens = vec![Screen::Table(what)];
    }

    fn push(&mut self, screen: Option<Screen>) {
        self.help = None;
        if let Some(screen) = screen {
            // One about the same takes the place of that before.
            if let (Some(Screen::Text { title: a, .. }), Screen::Text { title: b, .. }) =
                (self.screens.last(), &screen)
                && a == b
            {
                self.screens.pop();
            }
            self.screens.push(screen);
        }
    }

    /// The selected row's own screen.
    fn open(&mut self) {
        if self.help.is_some() {
            return;
        }
        let node = self.selected_node();
        let known =
            |name: &String| self.board.as_ref().is_some_and(|b| b.nodes.iter().any(|n| n.name == *name));
        let screen = match (self.selected_policy(), node) {
            (Some(policy), _) => Some(Screen::Policy { policy, scroll: 0 }),
            (None, Some(name)) if known(&name) => Some(Screen::Node { name, scroll: 0 }),
            _ => details::description(self),
        };
        self.push(screen);
    }

    fn back(&mut self) {
        if self.help.take().is_some() {
            return;
        }
        if self.screens.len() > 1 {
            self.screens.pop();
        } else {
            let what = self.what();
            self.table_mut(what).filter.clear();
            self.search.clear();
            self.faults = false;
        }
    }

    /// Moves the selection, or scrolls what has none.
    fn step(&mut self, by: isize) {
        let moved = |at: usize| at.saturating_add_signed(by);
        if let Some(scroll) = &mut self.help {
            *scroll = moved(*scroll);
            return;
        }
        match self.screens.last_mut() {
            Some(
                Screen::Policy { scroll, .. } | Screen::Node { scroll, .. } | Screen::Text { scroll, .. },
            ) => {
                *scroll = moved(*scroll);
            }
            _ => {
                let what = self.what();
                let table = self.table_mut(what);
                table.index = moved(table.index).min(table.order.len().saturating_sub(1));
                table.selected = None;
            }
        }
    }

    /// Selects the next row with what is looked for; `here` counts too, if asked for.
    fn find(&mut self, forward: bool, here: bool) {
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
    fn sort(&mut self, by: isize) {
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

    fn invert(&mut self) {
        let what = self.what();
        if let Some(sort) = &mut self.table_mut(what).sort {
            sort.descending = !sort.descending;
        }
    }

    /// A press of the mouse: on a row it is selected, on a header it is sorted by.
    fn click(&mut self, column: u16, row: u16) -> bool {
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
    fn reselect(&mut self, what: What, board: &Board) {
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

    /// Cells of a line of text.
    #[must_use]
    pub fn text_width(&self) -> u16 {
        self.size.0.saturating_sub(2)
    }

    fn limit_scrolling(&mut self) {
        let height = usize::from(self.areas().body.height);
        if let Some(scroll) = self.help {
            let most = super::view::help_lines(self).len().saturating_sub(height);
            self.help = Some(scroll.min(most));
        }
        let lines = match self.screen() {
            Screen::Table(_) => return,
            Screen::Policy { .. } => super::policy::policy_lines(self).len(),
            Screen::Node { .. } => super::node::node_lines(self).len(),
            Screen::Text { lines, .. } => details::text_lines(lines, self.text_width()).len(),
        };
        if let Some(
            Screen::Policy { scroll, .. } | Screen::Node { scroll, .. } | Screen::Text { scroll, .. },
        ) = self.screens.last_mut()
        {
            *scroll = (*scroll).min(lines.saturating_sub(height));
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

/// The agent that answered before and does not now.
fn unreachable(board: &Board, error: &str) -> ProblemItem {
    let nodes = board.sample.nodes.iter().map(|n| n.status.node.name.clone()).collect();
    ProblemItem {
        severity: Severity::Error,
        reason: "AgentStopped".to_owned(),
        object: "agent".to_owned(),
        message: format!(
            "the agent does not answer ({error}): this is old. The kernel goes on with its maps, but after --policy-lease \
             (60 s) policies with a rung beneath lapse"
        ),
        next: "start balancing-agent again; the end of its log says why it stopped".to_owned(),
        nodes,
    }
}

/// Header of the column that a sort names.
#[must_use]
pub fn sort_header(what: What, sort: Sort) -> &'static str {
    metas(what).get(sort.column).map_or("", |m| m.header)
}
