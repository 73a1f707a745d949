//! The plugin's documents about nodes: what `status` and `explain node` print.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        AgentInfo, BackendCount, Condition, DatapathInfo, KernelInfo, NodeInfo, PolicyState, SourceError,
        SourceProgress,
    },
    cli::{Check, Coverage, NodeTopItem, ProblemItem},
    net::Frontend,
    policy::PolicyRef,
};

/// Kind of [`Status`].
pub const STATUS: &str = "Status";
/// Kind of [`NodeExplanation`].
pub const NODE_EXPLANATION: &str = "NodeExplanation";

/// How everything is, on one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When the counters were read; of several nodes the latest.
    pub taken_at: Timestamp,
    /// Seconds between the two samples that the rates are made of; null where only one sample exists.
    pub interval: Option<f64>,
    /// Of which nodes it speaks.
    pub coverage: Coverage,
    /// Version of this program.
    pub client: String,
    /// The nodes.
    pub nodes: Vec<StatusNode>,
    /// How many policies are in which state; of several nodes each policy's worst.
    pub policies: BTreeMap<String, u32>,
    /// What is wrong, the worst first.
    pub problems: Vec<ProblemItem>,
}

/// Does a node do what its objects ask for?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Works {
    /// In everything.
    Yes,
    /// Connections are decided, and something is not as it should be.
    #[default]
    Partly,
    /// No connection is decided here.
    No,
}

/// A node on that page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusNode {
    /// Its state and what its counters say.
    #[serde(flatten)]
    pub row: NodeTopItem,
    /// Does it work? As `explain node` judges it.
    #[serde(default)]
    pub works: Works,
    /// The answer in one sentence.
    #[serde(default)]
    pub summary: String,
    /// Where its objects come from and what its addresses are.
    pub info: NodeInfo,
    /// Its agent.
    pub agent_info: AgentInfo,
    /// Its kernel.
    pub kernel_info: KernelInfo,
    /// Its programs and maps.
    pub datapath: DatapathInfo,
    /// When each source last made progress.
    pub sources: Vec<SourceProgress>,
    /// How much could not be read.
    pub source_errors: u32,
    /// Events of its kernel: made or tried, and lost.
    pub events: crate::agent::EventCounters,
}

/// `explain node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExplanation {
    /// Name of the node.
    pub name: String,
    /// Does everything work on it? True where `works` is `Yes`.
    pub healthy: bool,
    /// Does it work?
    #[serde(default)]
    pub works: Works,
    /// The answer in one sentence.
    pub summary: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its objects come from: `manifests` or `kubernetes`.
    pub source: String,
    /// Its agent.
    pub agent: AgentInfo,
    /// Its kernel.
    pub kernel: KernelInfo,
    /// Its programs and maps.
    pub datapath: DatapathInfo,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// When each source last made progress.
    pub sources: Vec<SourceProgress>,
    /// What could not be read.
    pub source_errors: Vec<SourceError>,
    /// Every policy, what does not work first.
    pub policies: Vec<ExplainedPolicy>,
    /// Frontends whose ladder in the maps is not what the objects ask for.
    pub differing: Vec<Frontend>,
    /// What its counters say.
    pub activity: NodeActivity,
    /// What was looked at. Each by itself: one that fails does not hide the next.
    pub checks: Vec<Check>,
}

/// A policy on a node that is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedPolicy {
    /// Kind and name.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// Its state.
    pub state: PolicyState,
    /// Why.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// How many backends it should have and has.
    pub backends: BackendCount,
}

/// Counters of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeActivity {
    /// Since when they count.
    pub since: Timestamp,
    /// Connections sent to a local backend.
    pub redirects: u64,
    /// Connections sent to the backends of BalancingPolicies.
    pub balanced: u64,
    /// Connections sent to endpoints of Services.
    pub resolved: u64,
    /// Redirects not made because a limit was reached; the connection went on down the ladder.
    pub qos_drops: u64,
    /// Connections that went on down the ladder for another reason.
    pub fallbacks: u64,
    /// Connections refused.
    pub refusals: u64,
    /// Events that found no room. Counters are exact all the same.
    pub events_lost: u64,
}
