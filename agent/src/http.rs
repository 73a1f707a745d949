//! The agent API: HTTP and JSON on unix sockets and TCP addresses.
//!
//! `GET /livez /readyz /metrics /v1/status /v1/frontends /v1/counters /v1/events`, `POST /v1/decide`. An address that is
//! not the machine's own loopback serves the first three alone. All of it only reads.

mod bind;
mod request;
mod routes;
mod serve;

use balancing_api::agent::{Counters, DecideRequest, Decision, FrontendList, NodeStatus};

pub use bind::{BindError, Bound, bind};
pub use routes::{Access, router};
pub use serve::serve;

use crate::events::EventHub;

/// Which state of the frontends is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Read back from the maps.
    #[default]
    Programmed,
    /// What compile produced.
    Desired,
}

/// Why the node has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// No pod `namespace/name` on this node.
    #[error("no pod {0:?} on this node")]
    UnknownPod(String),
    /// Too early: what is asked for is not there yet.
    #[error("{0}")]
    NotReady(String),
    /// It could not be read.
    #[error("{0}")]
    Failed(String),
}

/// What the node says of itself. Calls may take system calls, not waits; they are made outside the async threads.
pub trait NodeView: Send + Sync + 'static {
    /// Does the agent work at all?
    ///
    /// # Errors
    /// What hangs, in words.
    fn live(&self) -> Result<(), String>;

    /// Are the programs attached, and is what the sources said written and read back?
    ///
    /// # Errors
    /// What is missing, in words.
    fn ready(&self) -> Result<(), String>;

    /// The body of `/v1/status`.
    ///
    /// # Errors
    /// See [`ViewError`]; so for all that follow.
    fn status(&self) -> Result<NodeStatus, ViewError>;

    /// The body of `/v1/frontends`.
    ///
    /// # Errors
    /// See [`ViewError`].
    fn frontends(&self, view: View) -> Result<FrontendList, ViewError>;

    /// The body of `/v1/counters`.
    ///
    /// # Errors
    /// See [`ViewError`].
    fn counters(&self) -> Result<Counters, ViewError>;

    /// What would happen to a flow. Counts nothing and spends no budget.
    ///
    /// # Errors
    /// See [`ViewError`].
    fn decide(&self, request: &DecideRequest) -> Result<Decision, ViewError>;

    /// The page of `/metrics`, in OpenMetrics text.
    ///
    /// # Errors
    /// See [`ViewError`].
    fn metrics(&self) -> Result<String, ViewError>;

    /// Where events are handed out.
    fn events(&self) -> &EventHub;
}

#[cfg(test)]
mod tests;
