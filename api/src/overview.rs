//! The plugin's documents about a whole cluster: what `status`, `explain policy` and `get` print where no agent is named.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{Condition, PolicyState},
    cli::{Check, Coverage, Effective, ProblemItem},
    net::Frontend,
    node::Works,
    policy::{PolicyNodes, PolicyRef},
};

/// Kind of [`ClusterStatus`].
pub const CLUSTER_STATUS: &str = "ClusterStatus";

/// Something of the cluster that could not be read, so that what follows from it is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// What is missing for that, in words: `nodes`, `rates`, `state of agents and operator`.
    pub missing: String,
    /// The verb that failed: `list`, `get`.
    pub verb: String,
    /// The resource as `kubectl auth can-i` has it: `nodebalancingstates.balancing.elf.io`.
    pub resource: String,
    /// Its namespace; absent where it has none, or all of them were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `Forbidden`, `NotFound` or `Failed`.
    pub reason: String,
    /// What was answered.
    pub message: String,
    /// The command that shows more, or what to do.
    pub next: String,
}

/// What the operator says of a policy, over all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySummary {
    /// Status of its condition `Ready`; empty where it has none yet.
    pub ready: String,
    /// Reason of that condition.
    pub reason: String,
    /// Does its status speak of the newest generation of its spec?
    pub current: bool,
    /// On how many nodes it is in which state.
    pub nodes: PolicyNodes,
}

/// The cluster on one page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// When it was read.
    pub taken_at: Timestamp,
    /// Version of this program.
    pub client: String,
    /// Address of the API server.
    pub server: String,
    /// The context of the kubeconfig; absent in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The namespace that the product is looked for in.
    pub namespace: String,
    /// Replicas of the operator; absent where pods cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Replicas>,
    /// Agents; absent where pods cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Replicas>,
    /// Do the nodes do what their objects ask for, all of them joined? Absent where that is not known: nothing of them
    /// can be read, or their pods are not Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works: Option<Works>,
    /// The answer in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Nodes that do not, with the same reason together; the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenNodes>,
    /// Does the operator tell live numbers? If not, why.
    pub live: String,
    /// Nodes that report.
    pub coverage: Coverage,
    /// How many nodes are in which state.
    pub nodes: BTreeMap<String, u32>,
    /// How many agents have which version.
    pub versions: BTreeMap<String, u32>,
    /// How many policies there are.
    pub policies: u32,
    /// How many policies are Ready, by status of the condition; `Unknown` where it is not there yet.
    pub ready: BTreeMap<String, u32>,
    /// What is wrong, the worst first.
    pub problems: Vec<ProblemItem>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

/// Nodes that do not work, or of which that is not known, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenNodes {
    /// How far they work; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub works: Option<Works>,
    /// Why not, in one sentence.
    pub summary: String,
    /// Their names.
    pub nodes: Vec<String>,
}

/// Pods of one component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// Those that run and are Ready.
    pub ready: u32,
    /// All of them.
    pub all: u32,
}

/// `explain policy` of a policy in a cluster; the kind is that of [`crate::cli::PolicyExplanation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicyExplanation {
    /// Name of the policy.
    pub name: String,
    /// Which policy.
    pub policy: PolicyRef,
    /// Does it do what it says, on the nodes that it selects?
    pub effective: Effective,
    /// The answer in one sentence.
    pub summary: String,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation`
    pub generation: i64,
    /// The generation that its status speaks of; 0 where it has none.
    pub observed_generation: i64,
    /// `namespace/name` of the Service it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The VIP it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The frontends it claims, as far as its Service could be read.
    pub frontends: Vec<Frontend>,
    /// Its selector of backends, as `kubectl -l` spells it.
    pub selector: String,
    /// Namespaces of its backends; empty is all.
    pub namespaces: Vec<String>,
    /// Its selector of nodes, as `kubectl -l` spells it; empty is every node.
    pub node_selector: String,
    /// Its own limit on each node; null where it is the agents' default, 0 where there is none.
    pub redirects_per_second: Option<u32>,
    /// `Fallback` or `Refuse`.
    pub on_no_backend: String,
    /// On how many nodes it is in which state.
    pub nodes: PolicyNodes,
    /// Nodes that say the same of it, what does not work first.
    pub groups: Vec<NodeGroup>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// The steps of the way to an effective policy, in their order.
    pub checks: Vec<Check>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

/// Nodes that say the same of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeGroup {
    /// The state; `Pending` where they have not said anything about its newest generation.
    pub state: PolicyState,
    /// Why.
    pub reason: String,
    /// Why, for people; of several nodes the first one's.
    pub message: String,
    /// Backends that they should have, added up.
    pub wanted: u32,
    /// Those that they have.
    pub programmed: u32,
    /// Have their agents stopped, so that it is what they said last?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Their names.
    pub nodes: Vec<String>,
}
