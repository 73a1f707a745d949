//! What the terminal UI knows, and how it changes: `update` is pure, the shell does what it asks for.

use std::{sync::Arc, time::Duration};

use balancing_api::{
    agent::Event,
    cli::{NodeState, ProblemItem, Severity},
    policy::PolicyRef,
};
use crossterm::event::KeyEventKind;

pub use super::message::{Effect, Link, Msg, Screen, Typing, Update};
use super::{
    details,
    fit::wrapped,
    keys::Action,
    layout::{self, Areas, Parts},
    style::Theme,
    table::TableState,
    traced::Traced,
};
use crate::{
    columns::{Meta, Row, RowId, Shown, Sort, events::EventRow},
    history::History,
    problems::concerned,
    rates::{RateMode, since_start, smoothed},
    rows::{What, with_rows},
    sample::Board,
    source::Origin,
    text::sanitise,
};

/// Times that charts show, in seconds.
pub(super) const WINDOWS: [u64; 4] = [60, 180, 600, 1800];
/// Letters a filter may have.
pub(super) const FILTER_MOST: usize = 200;
/// Cells beside the words about the selected row, and beside what concerns whole nodes.
pub(super) const DETAIL_MARGIN: u16 = 5;
pub(super) const BANNER_MARGIN: u16 = 4;
/// Lines of the trace that are kept.
const EVENTS_MOST: usize = 1000;

/// Everything the UI knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// Where the agent is, for the header.
    pub agent: String,
    /// What kind of data it is.
    pub origin: Origin,
    /// Is a cluster asked, rather than one agent?
    pub cluster: bool,
    /// Which part of it is shown, in words; empty is all.
    pub scope: Vec<String>,
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
    pub(super) latest: Option<Arc<Board>>,
    /// The samples so far smoothed.
    pub(super) smooth: Option<Arc<Board>>,
    /// What was measured before.
    pub history: History,
    /// What concerns whole nodes, in a line.
    pub(super) banner: Option<String>,
    /// Goes up when rows change.
    pub(super) board_number: u64,
    /// Lines of the trace, the newest first.
    pub events: Vec<EventRow>,
    /// Lines of the trace that were lost.
    pub events_lost: u64,
    events_number: u64,
    /// Why there is no trace.
    pub trace_error: Option<String>,
    /// The node of a cluster whose trace was asked for last.
    pub(super) trace_node: Option<String>,
    tracing: Option<Traced>,
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
    pub(super) tables: [TableState; What::ALL.len()],
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
            cluster: false,
            scope: Vec::new(),
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
            banner: None,
            history: History::default(),
            board_number: 0,
            events: Vec::new(),
            events_lost: 0,
            events_number: 0,
            trace_error: None,
            trace_node: None,
            tracing: None,
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

    pub(super) fn table_mut(&mut self, what: What) -> &mut TableState {
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
        let wordy = table && self.what() == What::Problems;
        let rows = self.table(self.what()).order.len();
        let lines = |text: &str, margin: u16| {
            u16::try_from(wrapped(text, self.size.0.saturating_sub(margin), 0).len()).unwrap_or(u16::MAX)
        };
        let detail = table && !self.expanded;
        // Where the table leaves nothing nobody needs to know how long they are.
        let words = (detail && rows < usize::from(self.size.1)).then(|| details::words(self)).flatten();
        layout::areas(
            self.size,
            Parts {
                // The table of problems says it better.
                problems: self.banner.as_ref().filter(|_| !wordy).map_or(0, |b| lines(b, BANNER_MARGIN)),
                detail,
                detail_lines: words.map_or(0, |(_, words)| lines(&words, DETAIL_MARGIN)),
                wordy,
                rows,
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
        // Of one node the state says all that a count of nodes would.
        let told = meta.key == "nodes" && self.what() == What::Policies && self.nodes() < 2;
        meta.shown != Shown::Cluster && (self.wide || (meta.shown != Shown::Wide && !told))
    }

    /// How many nodes the rows speak of.
    fn nodes(&self) -> usize {
        self.board.as_ref().map_or(0, |b| b.nodes.len())
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
    pub(super) fn selected_node(&self) -> Option<String> {
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
            Action::TraceRow if self.origin != Origin::Live => Some("only an agent has a live trace"),
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
            Action::TraceRow if self.selected_policy().is_none() && self.node_to_trace().is_none() => {
                Some("no policy is selected")
            }
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
        let traced = self.traced();
        if traced != self.tracing {
            self.tracing.clone_from(&traced);
            update.effects.push(Effect::Trace(traced));
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
    pub(super) fn show(&mut self) {
        let Some(latest) = &self.latest else { return };
        let mut board = match self.rates {
            RateMode::Interval => latest.clone(),
            RateMode::Smoothed => self.smooth.clone().unwrap_or_else(|| latest.clone()),
            RateMode::SinceStart => Arc::new(since_start(latest)),
        };
        if let Link::Lost { error, .. } = &self.link {
            let board = Arc::make_mut(&mut board);
            board.problems.insert(0, unreachable(latest, error, self.cluster));
            let (reason, who) =
                if self.cluster { ("Unreachable", "the cluster") } else { ("AgentStopped", "its agent") };
            for node in board.nodes.iter_mut().filter(|n| n.taken_at.is_some()) {
                node.state = NodeState::Stale;
                reason.clone_into(&mut node.reason);
                node.message = format!("{who} does not answer: {error}");
            }
        }
        self.banner = banner(&board);
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
        let failed = self.trace_error.take().is_some();
        if events.is_empty() && lost == 0 {
            return failed && self.what() == What::Trace;
        }
        self.events_lost += lost;
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
            Screen::Text { lines, .. } => super::details::text_lines(lines, self.text_width()).len(),
        };
        if let Some(
            Screen::Policy { scroll, .. } | Screen::Node { scroll, .. } | Screen::Text { scroll, .. },
        ) = self.screens.last_mut()
        {
            *scroll = (*scroll).min(lines.saturating_sub(height));
        }
    }
}

/// The worst problem of whole nodes, and how many there are.
fn banner(board: &Board) -> Option<String> {
    let mut all = board.node_problems();
    let first = all.next()?;
    let more = match all.count() {
        0 => String::new(),
        n => format!("(1 of {}) ", n + 1),
    };
    Some(format!("{more}{}: {}", sanitise(&concerned(first)), sanitise(&first.message)))
}

/// Who answered before and does not now.
fn unreachable(board: &Board, error: &str, cluster: bool) -> ProblemItem {
    let nodes = board.sample.nodes.iter().map(|n| n.status.node.name.clone()).collect();
    let (reason, object, who, next) = if cluster {
        (
            "Unreachable",
            "view",
            "the cluster",
            "does `kubectl get nodes` answer? Nodes go on with the last good state while they cannot reach the API server",
        )
    } else {
        (
            "AgentStopped",
            "agent",
            "the agent",
            "start balancing-agent again; the end of its log says why it stopped. Until then the kernel goes on with its \
             maps; after --policy-lease (60 s) policies with a rung beneath lapse",
        )
    };
    ProblemItem {
        severity: Severity::Error,
        reason: reason.to_owned(),
        object: object.to_owned(),
        message: format!("{who} does not answer ({error}): all that is shown is old"),
        next: next.to_owned(),
        // Of a cluster no node is known to be wrong.
        nodes: if cluster { Vec::new() } else { nodes },
    }
}

/// Header of the column that a sort names.
#[must_use]
pub fn sort_header(what: What, sort: Sort) -> &'static str {
    metas(what).get(sort.column).map_or("", |m| m.header)
}
