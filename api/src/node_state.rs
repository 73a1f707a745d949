//! `NodeBalancingState`: what the agent of a node says of it in the cluster. Cluster-scoped, named like its Node and
//! owned by it, written by that node's agent alone, and only when something changed: nothing that ticks stands here.
#![expect(clippy::duplicated_attributes, reason = "columns of a table share their types and priorities")]

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{BackendCount, PolicyState},
    policy::PolicyKind,
    schema,
};

/// How many policies a state lists; of more there is a count.
pub const MAX_POLICIES: usize = 256;
/// Bytes of a message in a state; longer ones are cut between characters.
pub const MAX_MESSAGE: usize = 256;

/// There is nothing to ask for: everything is status.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "NodeBalancingState",
    plural = "nodebalancingstates",
    shortname = "nbs",
    category = "elf",
    status = "NodeBalancingStateStatus",
    derive = "PartialEq",
    no_spec,
    doc = "What the agent of a node says of it. Named like the Node, written by its agent alone.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Is everything about the node as it should be?"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not"
    ),
    printcolumn(
        name = "ATTACHED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ProgramsAttached")].status"#,
        description = "Are all programs attached?"
    ),
    printcolumn(
        name = "SELECTED",
        type_ = "integer",
        json_path = ".status.counts.selected",
        description = "Policies that select the node"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "integer",
        json_path = ".status.counts.programmed",
        description = "Those that are in its maps"
    ),
    printcolumn(
        name = "FALLBACK",
        type_ = "integer",
        json_path = ".status.counts.degraded",
        description = "Those without a usable backend here"
    ),
    printcolumn(
        name = "FAILED",
        type_ = "integer",
        json_path = ".status.counts.failed",
        description = "Those that should be in its maps and are not"
    ),
    printcolumn(
        name = "VERSION",
        type_ = "string",
        json_path = ".status.agentVersion",
        description = "Version of the agent"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when it exists"
    ),
    printcolumn(
        name = "KERNEL",
        type_ = "string",
        json_path = ".status.kernelRelease",
        description = "Release of the kernel",
        priority = 1
    ),
    printcolumn(
        name = "SYNCED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="SourcesSynced")].status"#,
        description = "Does it follow the API server?",
        priority = 1
    ),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        description = "What is wrong",
        priority = 1
    )
)]
pub struct NodeBalancingStateSpec {}

/// `status` of a NodeBalancingState.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeBalancingStateStatus {
    /// Version of the agent.
    pub agent_version: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Version of the map layout (contract §5).
    #[schemars(schema_with = "schema::count")]
    pub layout_version: u32,
    /// `ProgramsAttached`, `SourcesSynced`, `PoliciesProgrammed`, `ErrnoFidelity`, `Ready`.
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How many policies are in which state here.
    pub counts: NodePolicyCounts,
    /// The policies, problems first, then by kind and name.
    #[schemars(length(max = MAX_POLICIES), extend("x-kubernetes-list-type" = "atomic"))]
    pub policies: Vec<NodePolicyState>,
    /// How many policies are left out of the list.
    #[schemars(schema_with = "schema::count")]
    pub truncated: u32,
    /// How many objects could not be read.
    #[schemars(schema_with = "schema::count")]
    pub source_errors: u32,
}

/// Policies of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NodePolicyCounts {
    /// They select the node.
    #[schemars(schema_with = "schema::count")]
    pub selected: u32,
    /// Their rung is in the maps.
    #[schemars(schema_with = "schema::count")]
    pub programmed: u32,
    /// They have no usable backend here.
    #[schemars(schema_with = "schema::count")]
    pub degraded: u32,
    /// They should be in the maps and are not.
    #[schemars(schema_with = "schema::count")]
    pub failed: u32,
    /// Another policy holds all of their frontends here.
    #[schemars(schema_with = "schema::count")]
    pub conflicted: u32,
    /// Their spec breaks a rule.
    #[schemars(schema_with = "schema::count")]
    pub invalid: u32,
}

/// A policy on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicyState {
    /// Kind of the policy.
    #[schemars(extend("enum" = ["LocalRedirectPolicy", "BalancingPolicy"]), with = "String")]
    pub kind: PolicyKind,
    /// Name of the policy.
    pub name: String,
    /// `metadata.uid` of the policy, so that one made again under the same name is not taken for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The `metadata.generation` that the agent has applied.
    pub observed_generation: i64,
    /// Its state here.
    #[schemars(with = "String")]
    pub state: PolicyState,
    /// Why; see [`crate::names::reason`].
    pub reason: String,
    /// Why, for people; empty where it is programmed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MAX_MESSAGE))]
    pub message: String,
    /// How many backends it should have here and has.
    #[serde(default)]
    pub backends: BackendCount,
    /// When its state last changed.
    #[serde(default = "epoch")]
    pub last_transition_time: Time,
}

/// Of a state whose writer did not say since when it is so.
fn epoch() -> Time {
    Time(Timestamp::UNIX_EPOCH)
}
