//! The columns of every table, once: terminal UI, `-o table|wide|csv`, sort keys and filters all read this registry.

mod backends;
mod counted;
pub mod events;
mod frontends;
mod nodes;
mod policies;
mod problems;

use std::cmp::Ordering;

use balancing_api::{agent::PolicyState, net::Frontend, policy::PolicyRef};

pub(crate) use self::policies::is_saturated;
use crate::{
    sample::BackendId,
    text::{NONE, UNKNOWN, age, sanitise, scaled, scaled_count},
};

/// How a value is to be taken: what colour and which glyph beside its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Works, but not as its author wants.
    Warn,
    /// Does not work.
    Bad,
    /// Of no interest now.
    Dim,
}

/// A value in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words; sanitised where it is shown.
    Text(String),
    /// Words that sort by a number.
    Ranked(u8, String),
    /// A whole number.
    Count(u64),
    /// A limit; 0 is none and sorts last.
    Limit(u32),
    /// A number that names something; 0 is none.
    Id(u32),
    /// Per second; none where it is not known.
    Rate(Option<f64>),
    /// A part of 1; none where there is no whole.
    Share(Option<f64>),
    /// So many of so many.
    Ratio(u32, u32),
    /// Seconds since something was; none where that is not known.
    Age(Option<f64>),
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Where nothing is known, that is said.
    fn unknown(text: Option<&str>) -> Self {
        Self::text(text.unwrap_or(UNKNOWN))
    }

    fn optional(text: Option<impl Into<String>>) -> Self {
        text.map_or_else(|| Self::text(""), Self::text)
    }

    /// For people; harmless to a terminal.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Text(t) | Self::Ranked(_, t) if t.is_empty() => NONE.to_owned(),
            Self::Text(t) | Self::Ranked(_, t) => sanitise(t).into_owned(),
            Self::Count(n) => scaled_count(*n),
            Self::Limit(0) | Self::Id(0) => NONE.to_owned(),
            Self::Id(n) => n.to_string(),
            Self::Limit(n) => scaled_count(u64::from(*n)),
            Self::Rate(Some(r)) => scaled(*r),
            Self::Share(Some(s)) => format!("{:.1}%", s * 100.0),
            Self::Rate(None) => UNKNOWN.to_owned(),
            Self::Share(None) => NONE.to_owned(),
            Self::Ratio(a, b) => format!("{a}/{b}"),
            Self::Age(Some(seconds)) => age(*seconds as i64),
            Self::Age(None) => UNKNOWN.to_owned(),
        }
    }

    /// For programs: numbers unscaled, nothing for what is not known.
    #[must_use]
    pub fn raw(&self) -> String {
        match self {
            Self::Text(t) | Self::Ranked(_, t) => sanitise(t).into_owned(),
            Self::Count(n) => n.to_string(),
            Self::Limit(n) | Self::Id(n) => n.to_string(),
            Self::Rate(v) | Self::Share(v) | Self::Age(v) => v.map(|v| v.to_string()).unwrap_or_default(),
            Self::Ratio(..) => self.shown(),
        }
    }

    /// The same with whole numbers, unscaled, and rates to a hundredth.
    #[must_use]
    pub fn exact(&self) -> String {
        match self {
            Self::Count(n) => n.to_string(),
            Self::Rate(Some(r)) => format!("{r:.2}"),
            _ => self.shown(),
        }
    }

    /// Its number, where it is one that is known.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Text(_) | Self::Ranked(..) => None,
            Self::Count(n) => Some(*n as f64),
            Self::Limit(n) | Self::Id(n) => Some(f64::from(*n)),
            Self::Rate(v) | Self::Share(v) | Self::Age(v) => *v,
            Self::Ratio(a, _) => Some(f64::from(*a)),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Ranked(a, s), Self::Ranked(b, t)) => a.cmp(b).then_with(|| s.cmp(t)),
            (Self::Count(a), Self::Count(b)) => a.cmp(b),
            (Self::Id(a), Self::Id(b)) => a.cmp(b),
            (Self::Limit(a), Self::Limit(b)) => a.wrapping_sub(1).cmp(&b.wrapping_sub(1)),
            (Self::Rate(a), Self::Rate(b))
            | (Self::Share(a), Self::Share(b))
            | (Self::Age(a), Self::Age(b)) => a.unwrap_or(-1.0).total_cmp(&b.unwrap_or(-1.0)),
            (Self::Ratio(a, n), Self::Ratio(b, m)) => {
                (u64::from(*a) * u64::from(*m)).cmp(&(u64::from(*b) * u64::from(*n))).then(n.cmp(m))
            }
            _ => Ordering::Equal,
        }
    }
}

/// Which end of a value too long for its column is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ellipsis {
    /// `frontend-of-a-l…`
    Right,
    /// `frontend…port`: where both ends tell things apart.
    Middle,
}

/// Where a column is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Always.
    Always,
    /// In `-o wide` and csv, and in the terminal UI when it is asked for.
    Wide,
    /// In the terminal UI only, which puts its value in.
    Live,
    /// In `get` of a cluster: the operator alone knows it.
    Cluster,
}

/// What is known of a column beside its values.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// What `--sort-by` calls it; in csv the name of the column.
    pub key: &'static str,
    /// Its header.
    pub header: &'static str,
    /// Where it is shown.
    pub shown: Shown,
    /// Numbers stand to the right in the terminal UI.
    pub number: bool,
    /// Does the sum of its values over rows mean anything?
    pub summed: bool,
    /// Where the terminal is narrow, columns of the highest priority leave first; 0 never leaves.
    pub priority: u8,
    /// Cells the column takes at the most in the terminal UI.
    pub max: u16,
    /// How a longer value is cut.
    pub ellipsis: Ellipsis,
    /// What it says, in one line.
    pub help: &'static str,
}

/// A column of a table of `R`.
pub struct Column<R: 'static> {
    /// What is known of it beside its values.
    pub meta: Meta,
    /// The value of a row.
    pub cell: fn(&R) -> Cell,
}

/// What tells rows apart and stays when they are sorted anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// A policy.
    Policy(PolicyRef),
    /// A frontend.
    Frontend(Frontend),
    /// A backend.
    Backend(BackendId),
    /// A node, by name.
    Node(String),
    /// A problem: reason, what it concerns, first node that has it.
    Problem(String, String, String),
    /// An event, by number.
    Event(u64),
}

/// A row of a table.
pub trait Row: Sized + 'static {
    /// The columns.
    fn columns() -> &'static [Column<Self>];
    /// This row's identity.
    fn id(&self) -> RowId;
    /// How its state is to be taken.
    fn tone(&self) -> Tone;
    /// Does whoever it is about report? If not, what is unknown of it is not about to come.
    fn reports(&self) -> bool {
        true
    }
    /// Keys of columns that say less than others where nothing is counted.
    fn useless_uncounted() -> &'static [&'static str] {
        &[]
    }
}

/// There is no such column.
#[derive(Debug, thiserror::Error)]
#[error("there is no column {asked:?}; columns are: {known}")]
pub struct UnknownColumn {
    asked: String,
    known: String,
}

/// What rows are sorted by: a column's index and whether large values come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Index in [`Row::columns`].
    pub column: usize,
    /// Largest first.
    pub descending: bool,
}

impl Sort {
    /// Reads `--sort-by`: a column's key or header in any case, with `-` in front for the largest first.
    pub fn parse<R: Row>(text: &str) -> Result<Self, UnknownColumn> {
        let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        // What only the terminal UI can draw has no value to sort by.
        let found = R::columns().iter().position(|c| {
            c.meta.shown != Shown::Live
                && (c.meta.key.eq_ignore_ascii_case(name) || c.meta.header.eq_ignore_ascii_case(name))
        });
        found.map(|column| Self { column, descending }).ok_or_else(|| {
            let known = R::columns().iter().filter(|c| c.meta.shown != Shown::Live);
            let known: Vec<&str> = known.map(|c| c.meta.key).collect();
            UnknownColumn { asked: text.to_owned(), known: known.join(", ") }
        })
    }
}

/// The order in which rows are shown: indices of those that the filter lets through, sorted. Without a sort the rows'
/// own order stays; equal values are told apart by it too, so that rows do not jump.
#[must_use]
pub fn order<R: Row>(rows: &[R], filter: &crate::filter::Filter, sort: Option<Sort>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|i| filter.matches(&rows[*i])).collect();
    if let Some(column) = sort.and_then(|s| R::columns().get(s.column)) {
        let descending = sort.is_some_and(|s| s.descending);
        let mut keyed: Vec<(Cell, usize)> = order.iter().map(|i| ((column.cell)(&rows[*i]), *i)).collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let by_value = a.compare(b);
            if descending { by_value.reverse() } else { by_value }
        });
        order = keyed.into_iter().map(|(_, i)| i).collect();
    }
    order
}

/// A column with the defaults of most.
const fn column<R>(
    key: &'static str,
    header: &'static str,
    help: &'static str,
    cell: fn(&R) -> Cell,
) -> Column<R> {
    let meta = Meta {
        key,
        header,
        shown: Shown::Always,
        number: false,
        summed: false,
        priority: 0,
        max: 40,
        ellipsis: Ellipsis::Middle,
        help,
    };
    Column { meta, cell }
}

impl<R> Column<R> {
    const fn wide(mut self) -> Self {
        self.meta.shown = Shown::Wide;
        self
    }

    const fn cluster(mut self) -> Self {
        self.meta.shown = Shown::Cluster;
        self
    }

    const fn live(mut self) -> Self {
        self.meta.shown = Shown::Live;
        self
    }

    const fn number(mut self) -> Self {
        self.meta.number = true;
        self.meta.max = 14;
        self
    }

    /// A number whose sum over rows means something.
    const fn summed(mut self) -> Self {
        self.meta.summed = true;
        self.number()
    }

    const fn priority(mut self, priority: u8) -> Self {
        self.meta.priority = priority;
        self
    }

    const fn max(mut self, max: u16) -> Self {
        self.meta.max = max;
        self
    }

    const fn end_cut(mut self) -> Self {
        self.meta.ellipsis = Ellipsis::Right;
        self
    }
}

/// What a policy's state is called where it is shown; harmless to a terminal.
#[must_use]
pub fn state_word(state: PolicyState) -> String {
    sanitise(state.as_str()).into_owned()
}

/// How a policy's state is to be taken.
#[must_use]
pub fn policy_tone(state: PolicyState) -> Tone {
    match state {
        PolicyState::Programmed => Tone::Good,
        PolicyState::NotSelected => Tone::Dim,
        PolicyState::Fallback | PolicyState::Other(_) => Tone::Warn,
        PolicyState::Conflicted | PolicyState::Invalid | PolicyState::Failed => Tone::Bad,
    }
}
