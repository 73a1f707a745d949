//! The plugin's document about what the data path serves: `services -o json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::{BackendInfo, RungKind},
    cli::{BackendRates, Coverage, FrontendTopItem},
    policy::PolicyRef,
};

/// Kind of [`Services`].
pub const SERVICES: &str = "ServiceTable";

/// Every programmed frontend of every node, with its ladder and its counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// When the counters were read; of several nodes the latest.
    pub taken_at: Timestamp,
    /// Seconds between the two samples that the rates are made of; null where only one sample exists.
    pub interval: Option<f64>,
    /// Of which nodes it speaks.
    pub coverage: Coverage,
    /// By node, address, port and protocol.
    pub items: Vec<ServiceItem>,
}

/// A frontend of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceItem {
    /// Name of the node.
    pub node: String,
    /// Which callers it is for: `Any`, `HostNetwork`.
    pub scope: String,
    /// The frontend with its counters, as `get frontends` has it, of this node.
    #[serde(flatten)]
    pub row: FrontendTopItem,
    /// Its rungs, first to last.
    pub rungs: Vec<ServiceRung>,
}

/// A rung of a frontend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRung {
    /// Which kind of rung.
    pub rung: RungKind,
    /// The policy of a `redirect` or `balance` rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// Its limit; 0 is none. Only of a `redirect` rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirects_per_second: Option<u32>,
    /// `namespace/name` of a `service` rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the Service's port, empty where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<String>,
    /// Session affinity; null is none.
    pub affinity_seconds: Option<u32>,
    /// Where it leads.
    pub backends: Vec<ServiceBackend>,
}

/// A backend of a rung. Its counters are those of all frontends that lead to it through the same policy or Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackend {
    /// Where it is, and what it is called.
    #[serde(flatten)]
    pub info: BackendInfo,
    /// How often it was chosen.
    pub selected: u64,
    /// The same per second; null where only one sample exists or a counter began again.
    pub rates: Option<BackendRates>,
}
