//! The plugin's document about a change: the lines of `get --watch -o json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Kind of [`WatchEvent`].
pub const WATCH_EVENT: &str = "WatchEvent";

/// What happened to an object, in kubectl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Change {
    /// It was there at the start, or came.
    Added,
    /// Something about it other than its counters is another.
    Modified,
    /// It went; this is what was known of it last.
    Deleted,
}

impl Change {
    /// As tables and documents have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of a policy, node, frontend or backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchEvent<T> {
    /// What happened.
    #[serde(rename = "type")]
    pub change: Change,
    /// When the agent was asked.
    pub taken_at: Timestamp,
    /// An item of the list document of `get`.
    pub object: T,
}
