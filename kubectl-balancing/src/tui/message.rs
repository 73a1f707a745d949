//! What the model is told, what it asks of the shell, and the screens it has.

use std::{sync::Arc, time::Duration};

use balancing_api::{agent::Event, policy::PolicyRef};
use crossterm::event::KeyEvent;

use super::traced::Traced;
use crate::{rows::What, sample::Board};

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
    /// Lines of the trace came, and so many were lost; none of either where it has just begun.
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
    /// Follow these events, or stop it.
    Trace(Option<Traced>),
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
