//! The plugin's documents about single decisions: the lines of `trace -o json`.

use serde::{Deserialize, Serialize};

use crate::agent::Event;

/// Kind of [`TracedEvent`].
pub const EVENT: &str = "Event";
/// Kind of [`LostEvents`].
pub const LOST_EVENTS: &str = "LostEvents";

/// A decision, and the node on which it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedEvent {
    /// Name of the node.
    pub node: String,
    /// The decision.
    #[serde(flatten)]
    pub event: Event,
}

/// Events that are not shown here: lost, or more than `--rate` lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    /// Name of the node.
    pub node: String,
    /// How many.
    pub lost: u64,
}
