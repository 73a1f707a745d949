//! The plugin's documents: what `-o json|yaml|jsonl` prints.
//!
//! Counts are totals since the agents' counters began, rates are per second over [`Top::interval`]. A list speaks for
//! many nodes; one agent is the case of one node.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{
        BackendCount, BackendInfo, Decision, Document, ExemptCallers, Otherwise, PolicyState, QosState,
        RungInfo,
    },
    names::CLI_API_VERSION,
    net::{Frontend, Protocol},
    overview::{Gap, PolicySummary},
    policy::PolicyRef,
};

/// Kind of [`Top`] of [`PolicyTopItem`].
pub const POLICY_TOP: &str = "PolicyTop";
/// Kind of [`Top`] of [`FrontendTopItem`].
pub const FRONTEND_TOP: &str = "FrontendTop";
/// Kind of [`Top`] of [`BackendTopItem`].
pub const BACKEND_TOP: &str = "BackendTop";
/// Kind of [`Top`] of [`NodeTopItem`].
pub const NODE_TOP: &str = "NodeTop";
/// Kind of [`Top`] of [`ProblemItem`].
pub const PROBLEM_TOP: &str = "ProblemTop";
/// Kind of [`Top`] of [`GroupTopItem`].
pub const GROUP_TOP: &str = "GroupTop";
/// Kind of [`Top`] of [`PolicyTopItem`] where `get` prints it: of one sample, without rates.
pub const POLICY_LIST: &str = "PolicyList";
/// The same of [`NodeTopItem`].
pub const NODE_LIST: &str = "NodeList";
/// The same of [`FrontendTopItem`].
pub const FRONTEND_LIST: &str = "FrontendList";
/// The same of [`BackendTopItem`].
pub const BACKEND_LIST: &str = "BackendList";
/// Kind of [`PolicyExplanation`].
pub const POLICY_EXPLANATION: &str = "PolicyExplanation";
/// Kind of [`ConnectionExplanation`].
pub const DECISION: &str = "Decision";
/// Kind of [`DecisionList`].
pub const DECISION_LIST: &str = "DecisionList";

/// A document of the plugin of that kind.
#[must_use]
pub fn document<T>(kind: &str, body: T) -> Document<T> {
    Document { api_version: CLI_API_VERSION.to_owned(), kind: kind.to_owned(), body }
}

/// A table of `top`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Top<T> {
    /// When the counters were read; of several nodes the latest.
    pub taken_at: Timestamp,
    /// Seconds between the two samples that the rates are made of; null where only one sample exists.
    pub interval: Option<f64>,
    /// Of which nodes the numbers speak.
    pub coverage: Coverage,
    /// Is it synthetic data, of no cluster?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub demo: bool,
    /// Why there are no counters in it, so that every total is 0 and every rate null; absent where there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<String>,
    /// What could not be read, so that what follows from it is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// The rows.
    pub items: Vec<T>,
}

/// Which nodes a table speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Nodes whose numbers are in the sums.
    pub fresh: u32,
    /// Nodes whose last report is too old; not in the sums.
    pub stale: u32,
    /// Names of the nodes that never reported.
    pub missing: Vec<String>,
}

/// On how many nodes a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCount {
    /// Nodes that the policy selects.
    pub wanted: u32,
    /// Those on which its rung is in the maps.
    pub programmed: u32,
}

/// A policy in `top policies`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTopItem {
    /// Kind and name.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation` that every node has applied.
    #[serde(default)]
    pub generation: i64,
    /// The highest that some node has applied.
    #[serde(default)]
    pub newest_generation: i64,
    /// Seconds since it was created; null where no node knows.
    #[serde(default)]
    pub age: Option<f64>,
    /// What the operator says of it over all nodes; absent where one agent was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Box<PolicySummary>>,
    /// Its state; of several nodes the worst.
    pub state: PolicyState,
    /// Why it is in that state.
    pub reason: String,
    /// The same for people; empty where there is nothing to say.
    pub message: String,
    /// `namespace/name` of the Service it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The VIP it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The frontends it holds.
    pub frontends: Vec<Frontend>,
    /// Seconds that a client keeps its backend, inherited from the Service; null without session affinity.
    #[serde(default)]
    pub affinity_seconds: Option<u32>,
    /// Nodes wanted and programmed.
    pub nodes: NodeCount,
    /// Backends wanted and programmed.
    pub backends: BackendCount,
    /// Its limit in force on each node; 0 is no limit. Of several nodes the lowest limit that is set.
    pub redirects_per_second: u32,
    /// Connections a LocalRedirectPolicy sent to a local backend.
    pub redirects: u64,
    /// Connections a BalancingPolicy sent to its backends.
    pub balanced: u64,
    /// Redirects not made because the limit was reached; the connection went on down the ladder.
    pub qos_drops: u64,
    /// Connections that went on down the ladder for another reason, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Connections refused by the policy.
    pub refusals: u64,
    /// Seconds since whoever wrote this last saw it send a connection to its backends; null where that was never.
    #[serde(default)]
    pub last_hit: Option<f64>,
    /// The same per second; null where only one sample exists or a counter began again.
    pub rates: Option<PolicyRates>,
}

/// Rates of a policy, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRates {
    /// See [`PolicyTopItem::redirects`].
    pub redirects: f64,
    /// See [`PolicyTopItem::balanced`].
    pub balanced: f64,
    /// See [`PolicyTopItem::qos_drops`].
    pub qos_drops: f64,
    /// See [`PolicyTopItem::fallbacks`].
    pub fallbacks: BTreeMap<String, f64>,
    /// See [`PolicyTopItem::refusals`].
    pub refusals: f64,
}

/// What becomes of a connection to a frontend while no limit, exemption or lease says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendState {
    /// Nobody serves it: the client gets an error.
    Refused,
    /// Its policy has no usable backend here and the next rung serves it, or nothing does and it is left untouched.
    Fallback,
    /// A newer agent does something with it that this version has no word for.
    Unknown,
    /// To a local backend of a LocalRedirectPolicy.
    Redirected,
    /// To a backend of a BalancingPolicy.
    Balanced,
    /// To an endpoint of the Service.
    Service,
    /// To the address that was dialled.
    Untouched,
}

/// A frontend in `top frontends`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendTopItem {
    /// Address, port, protocol.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// Where connections to it go.
    pub state: FrontendState,
    /// The policy that holds it, effective or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// `namespace/name` of its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Backends of the rung that takes connections.
    pub backends: u32,
    /// What happens after the last rung.
    pub otherwise: Otherwise,
    /// Sent to a local backend by a LocalRedirectPolicy.
    pub redirects: u64,
    /// Sent to a backend of a BalancingPolicy.
    pub balanced: u64,
    /// Sent to an endpoint of the Service.
    pub resolved: u64,
    /// Redirects not made because the limit was reached; the connection went on down the ladder.
    pub qos_drops: u64,
    /// Refused.
    pub refusals: u64,
    /// The same per second; null where only one sample exists or a counter began again.
    pub rates: Option<FrontendRates>,
}

/// Rates of a frontend, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRates {
    /// See [`FrontendTopItem::redirects`].
    pub redirects: f64,
    /// See [`FrontendTopItem::balanced`].
    pub balanced: f64,
    /// See [`FrontendTopItem::resolved`].
    pub resolved: f64,
    /// See [`FrontendTopItem::qos_drops`].
    pub qos_drops: f64,
    /// See [`FrontendTopItem::refusals`].
    pub refusals: f64,
}

/// Is a backend chosen now?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BackendState {
    /// On the rung that takes connections.
    Active,
    /// On a rung below: chosen when the one above is not taken.
    Standby,
    /// No more in the maps; only its counters are left.
    Removed,
}

/// A backend in `top backends`, apart for each policy or Service that leads to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTopItem {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `LocalRedirectPolicy/name`, `BalancingPolicy/name` or `Service/namespace/name`.
    pub owner: String,
    /// Is it chosen now?
    pub state: BackendState,
    /// `namespace/name` of the pod, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name of the node, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How often it was chosen.
    pub selected: u64,
    /// Its part, 0 to 1, of what its owner's backends were chosen; null where none was.
    pub share: Option<f64>,
    /// Seconds since whoever wrote this last saw it chosen; null where that was never.
    #[serde(default)]
    pub last_hit: Option<f64>,
    /// The same per second; null where only one sample exists or a counter began again.
    pub rates: Option<BackendRates>,
}

/// Rates of a backend, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendRates {
    /// See [`BackendTopItem::selected`].
    pub selected: f64,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// A condition of it is not met.
    Degraded,
    /// It never reported.
    Missing,
    /// Its last report is too old.
    Stale,
    /// All conditions are met.
    Ready,
}

/// A node in `top nodes`. What is not known of a node is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTopItem {
    /// Name of the node.
    pub name: String,
    /// How it is.
    pub state: NodeState,
    /// Reason of the first condition that is not met; empty where all are.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// Version of its agent.
    pub agent: Option<String>,
    /// Release of its kernel.
    pub kernel: Option<String>,
    /// The cgroup its programs are attached to.
    #[serde(default)]
    pub cgroup_root: Option<String>,
    /// Limit of policies that have none of their own; 0 is no limit.
    #[serde(default)]
    pub default_redirects_per_second: Option<u32>,
    /// Policies that select it, and those whose rung is in the maps.
    pub policies: BackendCount,
    /// Programs that should be attached, and those that are.
    pub programs: BackendCount,
    /// Name of the fullest map.
    pub map: Option<String>,
    /// How full that is, 0 to 1.
    pub map_fill: Option<f64>,
    /// When its counters were read.
    pub taken_at: Option<Timestamp>,
    /// Seconds from then to the latest report of any node.
    pub age: Option<f64>,
    /// When its agent started.
    pub started_at: Option<Timestamp>,
    /// Connections sent to a local backend by LocalRedirectPolicies.
    pub redirects: u64,
    /// Connections sent to the backends of BalancingPolicies.
    pub balanced: u64,
    /// Redirects not made because a limit was reached; the connection went on down the ladder.
    pub qos_drops: u64,
    /// Connections that went on down the ladder for another reason.
    pub fallbacks: u64,
    /// Connections refused.
    pub refusals: u64,
    /// Events that found no room in the ring. Counters are exact all the same.
    pub lost: u64,
    /// The same per second; null where only one sample exists or a counter began again.
    pub rates: Option<NodeRates>,
}

/// Rates of a node, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRates {
    /// See [`NodeTopItem::redirects`].
    pub redirects: f64,
    /// See [`NodeTopItem::balanced`].
    pub balanced: f64,
    /// See [`NodeTopItem::qos_drops`].
    pub qos_drops: f64,
    /// See [`NodeTopItem::fallbacks`].
    pub fallbacks: f64,
    /// See [`NodeTopItem::refusals`].
    pub refusals: f64,
    /// See [`NodeTopItem::lost`].
    pub lost: f64,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Something does not work.
    Error,
    /// It works, but not as its author wants, or not for long.
    Warning,
}

/// A problem in `top problems`, once for all nodes that have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemItem {
    /// How bad it is.
    pub severity: Severity,
    /// Its cause in one word: the reason of a condition or of a policy's state where there is one.
    pub reason: String,
    /// What it concerns: `LocalRedirectPolicy/x`, `frontend 10.0.0.1:53/UDP`, `map backends`, `file x.yaml`, `node`.
    pub object: String,
    /// What is, in words.
    pub message: String,
    /// What to do or to look at next.
    pub next: String,
    /// The nodes that have it.
    pub nodes: Vec<String>,
}

/// A group in `top --group-by`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupTopItem {
    /// What its rows have in common.
    pub group: String,
    /// How many rows it stands for.
    pub rows: u32,
    /// Sums of the rows' numbers, by column; null where one of them is not known.
    pub sums: BTreeMap<String, Option<f64>>,
}

/// Does a policy do what it says?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effective {
    /// On every frontend it claims.
    Yes,
    /// On some of them.
    Partly,
    /// On none.
    No,
}

/// `explain policy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplanation {
    /// Name of the policy.
    pub name: String,
    /// Its kind and name.
    pub policy: PolicyRef,
    /// Does it do what it says?
    pub effective: Effective,
    /// The answer in one sentence.
    pub summary: String,
    /// Name of the node that was asked.
    pub node: String,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation` the agent has applied.
    pub generation: i64,
    /// Its state on the node.
    pub state: PolicyState,
    /// Why.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// `namespace/name` of the Service it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The VIP it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `Fallback` or `Refuse`.
    pub on_no_backend: String,
    /// The frontends it holds, and where connections to each go.
    pub frontends: Vec<ExplainedFrontend>,
    /// The ladder of each of these frontends.
    pub ladder: Vec<ExplainedLadder>,
    /// Its backends.
    pub backends: ExplainedBackends,
    /// Its limit and its use.
    pub qos: ExplainedQos,
    /// Callers that are not redirected.
    pub exempt_callers: ExemptCallers,
    /// What its counters say.
    pub activity: Activity,
    /// The steps of the way to an effective policy, first to last. The first that failed decides.
    pub checks: Vec<Check>,
}

/// A frontend of a policy that is explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedFrontend {
    /// Address, port, protocol.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// Where connections to it go; null where the maps do not have it.
    pub state: Option<FrontendState>,
    /// Does the policy take connections to it?
    pub effective: bool,
    /// Are the maps as compile wants them?
    pub programmed: bool,
    /// Is it in the maps from before, while the policy as it is now does not hold it?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// The ladder of a frontend, as programmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedLadder {
    /// Address, port, protocol.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// Its rungs, first to last.
    pub rungs: Vec<RungInfo>,
    /// What happens after the last rung.
    pub otherwise: Otherwise,
}

/// Backends of a policy: what the objects ask for and what the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedBackends {
    /// The selector, as `kubectl -l` spells it.
    pub selector: String,
    /// Namespaces in which the pods may live; empty means all.
    pub namespaces: Vec<String>,
    /// Local pods that the selector matches, with why each is or is not a backend.
    pub pods: Vec<crate::agent::WantedPod>,
    /// What the objects ask for.
    pub wanted: Vec<BackendInfo>,
    /// What the maps hold.
    pub programmed: Vec<BackendInfo>,
    /// Wanted and not in the maps.
    pub missing: Vec<BackendInfo>,
    /// In the maps and not wanted.
    pub surplus: Vec<BackendInfo>,
}

/// The limit of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedQos {
    /// Redirects a second and node, all its ports and families together; 0 is no limit.
    pub redirects_per_second: u32,
    /// The current second, where there is a limit.
    pub now: Option<QosState>,
    /// Redirects that were not made because of it.
    pub qos_drops: u64,
}

/// Counters of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// Since when they count.
    pub since: Timestamp,
    /// Connections sent to a local backend.
    pub redirects: u64,
    /// Connections sent to the backends of a BalancingPolicy.
    pub balanced: u64,
    /// Connections that went on down the ladder, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Connections refused.
    pub refusals: u64,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckStatus {
    /// As it should be.
    Passed,
    /// The policy is not effective, or not wholly, because of this.
    Failed,
    /// It works, but somebody should look.
    Warning,
    /// An earlier check failed.
    NotReached,
}

/// A step of the way to an effective policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which one. Codes are never renamed.
    pub code: String,
    /// Its outcome.
    pub status: CheckStatus,
    /// What is.
    pub observed: String,
    /// What should be; empty where it passed.
    pub expected: String,
    /// What to do or to look at next; empty where it passed.
    pub next: String,
}

/// `explain connection`: the decision over the live maps with the intended one beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionExplanation {
    /// What was dialled.
    pub to: Frontend,
    /// The decision over the live maps.
    #[serde(flatten)]
    pub live: Decision,
    /// The decision over what compile wants the maps to hold.
    pub intended: Decision,
    /// Do the two differ?
    pub differs: bool,
}

/// `explain connection` to a Service's port that has several frontends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionList {
    /// One a frontend.
    pub items: Vec<ConnectionExplanation>,
}
