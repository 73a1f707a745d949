//! Where objects come from.

pub mod kubernetes;
pub mod manifests;

use std::time::Instant;

use balancing_api::agent::{SourceError, SourceProgress};

use crate::snapshot::ObjectChange;
use kubernetes::Kubernetes;
use manifests::Manifests;

/// A source that is being watched. Dropping it ends that.
pub enum Source {
    /// A folder of manifests.
    Manifests(Manifests),
    /// An API server.
    Kubernetes(Kubernetes),
}

impl Source {
    /// Its name in documents.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Manifests(_) => manifests::NAME,
            Self::Kubernetes(_) => kubernetes::NAME,
        }
    }

    /// When each of its parts was last heard of.
    #[must_use]
    pub fn progress(&self) -> Vec<SourceProgress> {
        match self {
            Self::Manifests(manifests) => vec![manifests.progress()],
            Self::Kubernetes(kubernetes) => kubernetes.progress(),
        }
    }

    /// `metadata.uid` of the agent's Node, if it is a node of a cluster.
    #[must_use]
    pub fn node_uid(&self) -> Option<String> {
        match self {
            Self::Manifests(_) => None,
            Self::Kubernetes(kubernetes) => kubernetes.node_uid(),
        }
    }

    /// Where the leading replica of the operator listens, if there is a cluster.
    #[must_use]
    pub fn operator(&self) -> Option<tokio::sync::watch::Receiver<Option<crate::report::Place>>> {
        match self {
            Self::Manifests(_) => None,
            Self::Kubernetes(kubernetes) => Some(kubernetes.operator()),
        }
    }

    /// At the end of the process: is the agent to leave the node with all that it attached?
    #[must_use]
    pub fn leaves_node(&self) -> bool {
        match self {
            Self::Manifests(_) => false,
            Self::Kubernetes(kubernetes) => kubernetes.leaves_node(),
        }
    }
}

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
    /// Does the source say what is so now?
    pub touch: Touch,
    /// What is legal and remarkable about the source as a whole, for people.
    pub notes: Vec<String>,
}

/// Whether one is in touch with a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Touch {
    /// What it says is followed.
    #[default]
    Live,
    /// Not all of it was read since the start, and why. Nothing of it may be used yet.
    Waiting(String),
    /// It cannot be followed at present, and why: what it said last is in force.
    Lost(String),
}

impl Batch {
    /// Has everything been read at least once since the start?
    #[must_use]
    pub fn synced(&self) -> bool {
        self.unread.is_empty()
    }
}
