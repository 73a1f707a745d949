//! A recording of `top`: JSON lines, a [`RecordingHeader`] and then a [`RecordingFrame`] a sample. A reader skips kinds
//! that it does not know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{Counters, FrontendList, NodeStatus},
    cli::Coverage,
};

/// Kind of [`RecordingHeader`].
pub const RECORDING: &str = "Recording";
/// Kind of [`RecordingFrame`].
pub const FRAME: &str = "Frame";
/// Version of the format. A reader refuses a higher one.
pub const RECORDING_VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingHeader {
    /// [`RECORDING_VERSION`] of the writer.
    pub version: u32,
    /// Version of the program that wrote it.
    pub writer: String,
    /// Who was asked: an agent's address.
    pub agent: String,
    /// Is it synthetic data?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demo: bool,
}

/// What all nodes answered at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingFrame {
    /// When.
    pub time: Timestamp,
    /// Which nodes the numbers speak of.
    pub coverage: Coverage,
    /// The nodes that answered, and the last answer of those that are stale.
    pub nodes: Vec<RecordedNode>,
    /// Why there was no answer, where there was none: a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A node in a frame. What is absent is as in the last frame that had it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedNode {
    /// Name of the node.
    pub name: String,
    /// It did not answer in time; what is here is what it said last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// `GET /v1/status`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// `GET /v1/frontends`, with the rungs of policies that have no backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendList>,
    /// `GET /v1/counters`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
}
