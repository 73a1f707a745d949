//! Where objects come from.

pub mod manifests;

use std::time::Instant;

use balancing_api::agent::SourceError;

use crate::snapshot::ObjectChange;

/// What a source has to tell. The state after a batch is one that the source was in: batches are never half a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What changed, each object once.
    pub changes: Vec<ObjectChange>,
    /// Everything that cannot be read at present. What such a place said before stays in force.
    pub errors: Vec<SourceError>,
    /// Files of which something has not been read since the start: what they say is unknown. The folder itself is `.`.
    pub unread: Vec<String>,
    /// Objects of kinds that are not the agent's.
    pub skipped: usize,
    /// When the first of the changes was seen.
    pub seen: Instant,
}

impl Batch {
    /// Has everything been read at least once since the start?
    #[must_use]
    pub fn synced(&self) -> bool {
        self.unread.is_empty()
    }
}
