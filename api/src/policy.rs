//! The policies, `balancing.elf.io/v1beta1`: cluster-scoped custom resources.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

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

/// A LocalRedirectPolicy object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalRedirectPolicy {
    /// Name, annotations, creation time.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is redirected, and where to.
    pub spec: LocalRedirectPolicySpec,
}

/// A BalancingPolicy object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalancingPolicy {
    /// Name, annotations, creation time.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is balanced, and where to.
    pub spec: BalancingPolicySpec,
}

/// `spec` of a LocalRedirectPolicy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyConfig {
    /// Selects nodes by their labels; absent selects every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_label_selector: Option<LabelSelector>,
    /// Does the policy apply to an agent that is no node of the cluster? Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_out_cluster: Option<bool>,
    /// What happens where no backend can serve. Default `Fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_no_backend: Option<OnNoBackend>,
}

/// What happens where a policy has no usable backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnNoBackend {
    /// The next rung serves; where there is none the address is left untouched.
    #[default]
    Fallback,
    /// The client is refused.
    Refuse,
}

/// `spec.frontend`: exactly one of the matchers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFrontend {
    /// A virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_matcher: Option<AddressMatcher>,
    /// A Service: all its ClusterIPs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_matcher: Option<ServiceMatcher>,
    /// Ports written beside `serviceMatcher`; read as `serviceMatcher.toPorts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortInfo>>,
}

/// `spec.frontend.addressMatcher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressMatcher {
    /// An IPv4 or IPv6 address.
    pub ip: String,
    /// The ports clients dial.
    pub to_ports: Vec<PortInfo>,
}

/// `spec.frontend.serviceMatcher`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMatcher {
    /// Name of the Service.
    pub service_name: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// The Service's ports that the policy takes, by number and protocol; absent takes all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortInfo>>,
}

/// A port of a frontend or backend. They pair by name and protocol; a single port each pairs without names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// The port's number, as text or number in the manifest.
    pub port: IntOrString,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Pairs a frontend port with a backend port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRedirectBackend {
    /// Selects the pods by their labels; `{}` selects every pod of the node.
    pub endpoint_selector: LabelSelector,
    /// The pods' ports.
    pub to_ports: Vec<PortInfo>,
    /// Namespaces in which the pods may live; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Are the backend pods' own connections to the frontend left alone? Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_redirect_from_backend: Option<bool>,
}

/// `spec.backend` of a BalancingPolicy: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BalancingBackend {
    /// Fixed addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_endpoint: Option<AddressEndpoint>,
    /// Pods of the cluster, reached as `redirectMode` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_endpoint: Option<ServiceEndpoint>,
}

/// `spec.backend.addressEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressEndpoint {
    /// IPv4 or IPv6 addresses.
    pub addresses: Vec<String>,
    /// Their ports.
    pub to_ports: Vec<PortInfo>,
}

/// `spec.backend.serviceEndpoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoint {
    /// Selects the pods by their labels.
    pub endpoint_selector: LabelSelector,
    /// How the pods are reached. Default `podEndpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_mode: Option<RedirectMode>,
    /// Ports of the pods, hostPorts, or ports of the node proxy, as the mode says.
    pub to_ports: Vec<PortInfo>,
    /// Namespaces in which the pods may live; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
}

/// How a BalancingPolicy reaches the pods it selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Qos {
    /// Redirects a second and node; 0 is no limit; absent is the agent's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirects_per_second: Option<u32>,
}
