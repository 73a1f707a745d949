//! The policies, `balancing.elf.io/v1beta1`: cluster-scoped custom resources.
#![expect(clippy::duplicated_attributes, reason = "columns of a table share their types and priorities")]

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{agent::PolicyState, schema};

/// The kinds of policy. On one frontend a LocalRedirectPolicy of the same age comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Sends what is addressed to a Service or VIP to a pod on the same node.
    LocalRedirectPolicy,
    /// Gives a Service or VIP another set of backends.
    BalancingPolicy,
}

impl PolicyKind {
    /// The `kind` of the custom resource.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicy => "LocalRedirectPolicy",
            Self::BalancingPolicy => "BalancingPolicy",
        }
    }

    /// The short name of the custom resource: `lr` or `bl`.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicy => "lr",
            Self::BalancingPolicy => "bl",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name of a policy. Policies are cluster-scoped, so kind and name are all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Which kind of policy.
    pub kind: PolicyKind,
    /// `metadata.name`.
    pub name: String,
}

impl PolicyRef {
    /// A reference to the policy of that kind and name.
    #[must_use]
    pub fn new(kind: PolicyKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for PolicyRef {
    /// `LocalRedirectPolicy/node-local-dns`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// `spec` of a LocalRedirectPolicy.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "LocalRedirectPolicy",
    plural = "localredirectpolicies",
    shortname = "lr",
    category = "elf",
    status = "PolicyObjectStatus",
    derive = "PartialEq",
    doc = "Sends what is addressed to a Service or a virtual address to a pod on the same node, and to the Service where no local pod can serve.",
    selectable = ".spec.frontend.serviceMatcher.serviceName",
    selectable = ".spec.frontend.serviceMatcher.namespace",
    selectable = ".spec.frontend.addressMatcher.ip",
    printcolumn(
        name = "FRONTEND",
        type_ = "string",
        json_path = r#".spec.frontend.*['serviceName','ip']"#,
        description = "What clients dial"
    ),
    printcolumn(
        name = "BACKEND",
        type_ = "string",
        json_path = r#".spec.backend.endpointSelector.*"#,
        description = "Where it leads"
    ),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Is everything about it as it should be?"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.programmed"#,
        description = "Nodes that have it in their maps, of those it selects"
    ),
    printcolumn(
        name = "EFFECTIVE",
        type_ = "string",
        json_path = r#".status.effective"#,
        description = "Nodes on which it really redirects, of those it selects"
    ),
    printcolumn(
        name = "NODES",
        type_ = "integer",
        json_path = r#".status.nodes.selected"#,
        description = "Nodes it selects"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = r#".metadata.creationTimestamp"#,
        description = "Since when it exists"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not",
        priority = 1
    ),
    printcolumn(
        name = "SERVICE",
        type_ = "string",
        json_path = r#".spec.frontend.serviceMatcher.serviceName"#,
        description = "The Service it matches",
        priority = 1
    ),
    printcolumn(
        name = "NAMESPACE",
        type_ = "string",
        json_path = r#".spec.frontend.serviceMatcher.namespace"#,
        description = "The namespace of that Service",
        priority = 1
    ),
    printcolumn(
        name = "ADDRESS",
        type_ = "string",
        json_path = r#".spec.frontend.addressMatcher.ip"#,
        description = "The virtual address it matches",
        priority = 1
    ),
    printcolumn(
        name = "ID",
        type_ = "string",
        json_path = r#".metadata.annotations.balancing\.elf\.io/serviceId"#,
        description = "Its number in the data path",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::pairs(&["backend.toPorts"])))]
pub struct LocalRedirectPolicySpec {
    /// Where the policy applies and what it does without backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PolicyConfig>,
    /// What clients dial.
    pub frontend: PolicyFrontend,
    /// The pods that serve it on each node.
    pub backend: LocalRedirectBackend,
    /// The policy's own limit of redirects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Qos>,
}

/// `spec` of a BalancingPolicy.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "balancing.elf.io",
    version = "v1beta1",
    kind = "BalancingPolicy",
    plural = "balancingpolicies",
    shortname = "bl",
    category = "elf",
    status = "PolicyObjectStatus",
    derive = "PartialEq",
    doc = "Gives a Service or a virtual address another set of backends: pods, hostPorts, node proxies or fixed addresses.",
    selectable = ".spec.frontend.serviceMatcher.serviceName",
    selectable = ".spec.frontend.serviceMatcher.namespace",
    selectable = ".spec.frontend.addressMatcher.ip",
    selectable = ".spec.backend.serviceEndpoint.redirectMode",
    printcolumn(
        name = "FRONTEND",
        type_ = "string",
        json_path = r#".spec.frontend.*['serviceName','ip']"#,
        description = "What clients dial"
    ),
    printcolumn(
        name = "BACKEND",
        type_ = "string",
        json_path = r#".spec.backend.*['addresses','endpointSelector']"#,
        description = "Where it leads"
    ),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Is everything about it as it should be?"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.programmed"#,
        description = "Nodes that have it in their maps, of those it selects"
    ),
    printcolumn(
        name = "EFFECTIVE",
        type_ = "string",
        json_path = r#".status.effective"#,
        description = "Nodes on which it really redirects, of those it selects"
    ),
    printcolumn(
        name = "NODES",
        type_ = "integer",
        json_path = r#".status.nodes.selected"#,
        description = "Nodes it selects"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = r#".metadata.creationTimestamp"#,
        description = "Since when it exists"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is Ready or not",
        priority = 1
    ),
    printcolumn(
        name = "SERVICE",
        type_ = "string",
        json_path = r#".spec.frontend.serviceMatcher.serviceName"#,
        description = "The Service it matches",
        priority = 1
    ),
    printcolumn(
        name = "NAMESPACE",
        type_ = "string",
        json_path = r#".spec.frontend.serviceMatcher.namespace"#,
        description = "The namespace of that Service",
        priority = 1
    ),
    printcolumn(
        name = "ADDRESS",
        type_ = "string",
        json_path = r#".spec.frontend.addressMatcher.ip"#,
        description = "The virtual address it matches",
        priority = 1
    ),
    printcolumn(
        name = "MODE",
        type_ = "string",
        json_path = r#".spec.backend.serviceEndpoint.redirectMode"#,
        description = "How its pods are reached",
        priority = 1
    ),
    printcolumn(
        name = "ID",
        type_ = "string",
        json_path = r#".metadata.annotations.balancing\.elf\.io/serviceId"#,
        description = "Its number in the data path",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::pairs(&["backend.addressEndpoint.toPorts", "backend.serviceEndpoint.toPorts"])))]
pub struct BalancingPolicySpec {
    /// Where the policy applies and what it does without backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PolicyConfig>,
    /// What clients dial.
    pub frontend: PolicyFrontend,
    /// Where it leads instead.
    pub backend: BalancingBackend,
}

/// `spec.config` of both kinds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyConfig {
    /// Selects nodes by their labels; absent selects every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub node_label_selector: Option<LabelSelector>,
    /// Does the policy apply to an agent that is no node of the cluster? Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub enable_out_cluster: Option<bool>,
    /// What happens where no backend can serve. Default `Fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Fallback"))]
    pub on_no_backend: Option<OnNoBackend>,
}

/// What happens where a policy has no usable backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNoBackend {
    /// The next rung serves; where there is none the address is left untouched.
    #[default]
    Fallback,
    /// The client is refused. Without effect at the frontends of Service default/kubernetes.
    Refuse,
}

/// `spec.frontend`: exactly one of the matchers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::one_of("addressMatcher", "serviceMatcher"),
    schema::misplaced_ports(),
]))]
pub struct PolicyFrontend {
    /// A virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_matcher: Option<AddressMatcher>,
    /// A Service: all its ClusterIPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_matcher: Option<ServiceMatcher>,
    /// Ports written beside `serviceMatcher`; read as `serviceMatcher.toPorts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(true)))]
    pub to_ports: Option<Vec<PortInfo>>,
}

/// `spec.frontend.addressMatcher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressMatcher {
    /// An IPv4 or IPv6 address.
    #[schemars(schema_with = "schema::vip")]
    pub ip: String,
    /// The ports clients dial.
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(true)))]
    pub to_ports: Vec<PortInfo>,
}

/// `spec.frontend.serviceMatcher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMatcher {
    /// Name of the Service.
    #[schemars(length(max = 63), extend("pattern" = schema::DNS_LABEL))]
    pub service_name: String,
    /// Namespace of the Service.
    #[schemars(length(max = 63), extend("pattern" = schema::DNS_LABEL))]
    pub namespace: String,
    /// The Service's ports that the policy takes, by number and protocol; absent takes all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(true)))]
    pub to_ports: Option<Vec<PortInfo>>,
}

/// A port of a frontend or backend. They pair by name and protocol; a single port each pairs without names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortInfo {
    /// The port's number, as text or number in the manifest.
    #[schemars(schema_with = "schema::port")]
    pub port: IntOrString,
    /// `TCP` or `UDP`.
    #[schemars(extend("enum" = ["TCP", "UDP"]))]
    pub protocol: String,
    /// Pairs a frontend port with a backend port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
}

/// A number that may be written as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// Written as a number.
    Int(i64),
    /// Written as text.
    String(String),
}

impl IntOrString {
    /// The port number 1 to 65535 this spells, without leading zeros, or nothing.
    #[must_use]
    pub fn as_port(&self) -> Option<u16> {
        let number = match self {
            Self::Int(n) => u16::try_from(*n).ok()?,
            Self::String(s) if s.starts_with('0') || s.starts_with('+') => return None,
            Self::String(s) => s.parse().ok()?,
        };
        (number != 0).then_some(number)
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::String(s) => f.write_str(s),
        }
    }
}

/// `spec.backend` of a LocalRedirectPolicy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRedirectBackend {
    /// Selects the pods by their labels; `{}` selects every pod of the node.
    #[schemars(schema_with = "schema::label_selector")]
    pub endpoint_selector: LabelSelector,
    /// The pods' ports.
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(false)))]
    pub to_ports: Vec<PortInfo>,
    /// Namespaces in which the pods may live; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Option<Vec<String>>,
    /// Are the backend pods' own connections to the frontend left alone? Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub skip_redirect_from_backend: Option<bool>,
}

/// `spec.backend` of a BalancingPolicy: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::one_of("addressEndpoint", "serviceEndpoint")]))]
pub struct BalancingBackend {
    /// Fixed addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_endpoint: Option<AddressEndpoint>,
    /// Pods of the cluster, reached as `redirectMode` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_endpoint: Option<ServiceEndpoint>,
}

/// `spec.backend.addressEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressEndpoint {
    /// IPv4 or IPv6 addresses.
    #[schemars(schema_with = "schema::addresses")]
    pub addresses: Vec<String>,
    /// Their ports.
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(false)))]
    pub to_ports: Vec<PortInfo>,
}

/// `spec.backend.serviceEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoint {
    /// Selects the pods by their labels.
    #[schemars(schema_with = "schema::label_selector")]
    pub endpoint_selector: LabelSelector,
    /// How the pods are reached. Default `podEndpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "podEndpoint"))]
    pub redirect_mode: Option<RedirectMode>,
    /// Ports of the pods, hostPorts, or ports of the node proxy, as the mode says.
    #[schemars(length(min = 1, max = schema::MAX_PORTS), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::distinct(false)))]
    pub to_ports: Vec<PortInfo>,
    /// Namespaces in which the pods may live; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Option<Vec<String>>,
}

/// How a BalancingPolicy reaches the pods it selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RedirectMode {
    /// At the pod's address.
    #[default]
    PodEndpoint,
    /// At the proxy address of the pod's node.
    NodeProxy,
    /// At the hostPort on the pod's node.
    HostPort,
}

/// `spec.qos` of a LocalRedirectPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Qos {
    /// Redirects a second and node; 0 is no limit; absent is the agent's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub redirects_per_second: Option<u32>,
}

/// `status` of both kinds, written by the operator. Every agent watches policies: it is small and changes seldom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyObjectStatus {
    /// The `metadata.generation` that all of this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Conflicted`, `ResolvedRefs`, `Programmed`, `Effective`, `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Nodes that have it in their maps, of those it selects: `3/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub programmed: String,
    /// Nodes on which it really redirects, of those it selects: `2/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effective: String,
    /// How many nodes are in which state.
    #[serde(default)]
    pub nodes: PolicyNodes,
    /// The first nodes on which something is not as it should be, failed ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PROBLEM_NODES), extend("x-kubernetes-list-type" = "atomic"))]
    pub problem_nodes: Vec<ProblemNode>,
    /// How many more such nodes there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(schema_with = "schema::count")]
    pub more_problem_nodes: u32,
}

/// How many nodes a policy's status names; of more there is a count.
pub const MAX_PROBLEM_NODES: usize = 10;

/// Nodes of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyNodes {
    /// Its node selector takes them.
    #[schemars(schema_with = "schema::count")]
    pub selected: u32,
    /// They have this generation of it in their maps, or know that it has no backend there.
    #[schemars(schema_with = "schema::count")]
    pub programmed: u32,
    /// It really redirects there.
    #[schemars(schema_with = "schema::count")]
    pub effective: u32,
    /// It is programmed and has no usable backend there: the ladder goes on without it.
    #[schemars(schema_with = "schema::count")]
    pub degraded: u32,
    /// It should be programmed there and is not.
    #[schemars(schema_with = "schema::count")]
    pub failed: u32,
    /// They have not yet said anything about this generation.
    #[schemars(schema_with = "schema::count")]
    pub pending: u32,
}

/// A node on which a policy is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemNode {
    /// Name of the node.
    pub node: String,
    /// The policy's state there; `Pending` where the node has not said anything yet.
    #[schemars(with = "String")]
    pub state: PolicyState,
    /// Why; see [`crate::names::reason`].
    pub reason: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A number that is left out where it says nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
