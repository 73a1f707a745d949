//! The agent's documents: what `/v1/...` answers. Readers ignore fields they do not know; writers never rename one.
//!
//! Addresses are text in RFC 5952 form (an IPv4-mapped one as IPv4), ports numbers in host byte order, times RFC 3339
//! in UTC, durations whole seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    names::AGENT_API_VERSION,
    net::{Frontend, Protocol},
    open::open_enum,
    policy::{PolicyKind, PolicyRef},
    schema,
};

/// A document with the `apiVersion` and `kind` that every answer carries in front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    /// [`AGENT_API_VERSION`].
    pub api_version: String,
    /// Which document.
    pub kind: String,
    /// Its fields.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    /// The document of that kind.
    #[must_use]
    pub fn new(kind: &str, body: T) -> Self {
        Self { api_version: AGENT_API_VERSION.to_owned(), kind: kind.to_owned(), body }
    }
}

/// `GET /v1/status`, kind `NodeStatus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Whose agent this is.
    pub node: NodeInfo,
    /// The agent itself.
    pub agent: AgentInfo,
    /// The kernel it runs on.
    pub kernel: KernelInfo,
    /// What is attached and how full the maps are.
    pub datapath: DatapathInfo,
    /// Conditions of the node.
    pub conditions: Vec<Condition>,
    /// Every policy the agent knows, with its state on this node.
    pub policies: Vec<PolicyStatus>,
    /// What could not be read.
    pub source_errors: Vec<SourceError>,
    /// When each source last made progress.
    #[serde(default)]
    pub sources: Vec<SourceProgress>,
}

/// The node of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// `--node-name`.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `manifests` or `kubernetes`.
    pub source: String,
}

/// The agent's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// The limit of policies that set none of their own; 0 is no limit.
    pub default_redirects_per_second: u32,
    /// Pods of the operator on this node, `namespace/name`: exempt from every policy, as the agent is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_pods: Vec<String>,
}

/// The kernel and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelInfo {
    /// `uname -r`.
    pub release: String,
    /// Optional features, found by trying.
    pub features: KernelFeatures,
}

/// Optional features of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFeatures {
    /// `bpf_set_retval` loads in these hooks: refused clients get `ECONNREFUSED`, else `EPERM`.
    pub set_retval: bool,
    /// Socket storage in these hooks.
    pub socket_storage: bool,
    /// The agent may destroy sockets whose backend is gone.
    pub socket_destroy: bool,
}

/// The kernel side of the data path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatapathInfo {
    /// The cgroup the programs are attached to.
    pub cgroup_root: String,
    /// Where links and maps are pinned.
    pub bpffs: String,
    /// Version of the map layout.
    pub layout_version: u32,
    /// One entry a hook.
    pub programs: Vec<ProgramInfo>,
    /// One entry a map.
    pub maps: Vec<MapInfo>,
}

/// A hook and its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramInfo {
    /// `connect4`, ...
    pub hook: String,
    /// Is this agent's program attached there?
    pub attached: bool,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Programs of somebody else on the same hook of the same cgroup.
    pub others: u32,
}

/// Fill of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapInfo {
    /// Name of the map.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// A condition, as `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// See [`crate::names::condition`].
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// See [`crate::names::reason`].
    pub reason: String,
    /// For people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

open_enum! {
    /// State of a policy on a node.
    pub enum PolicyState {
        /// Its rung is in the maps.
        Programmed = "Programmed",
        /// Valid, but no usable backend here: the ladder goes on without it.
        Fallback = "Fallback",
        /// Its node selector leaves this node out.
        NotSelected = "NotSelected",
        /// Another policy holds all of its frontends here.
        Conflicted = "Conflicted",
        /// Its spec breaks a rule.
        Invalid = "Invalid",
        /// It should be programmed and is not.
        Failed = "Failed",
    }
}

impl PolicyState {
    /// How bad it is: 0 is the worst. Of several nodes the worst is told.
    #[must_use]
    pub const fn severity(self) -> u8 {
        match self {
            Self::Failed => 0,
            Self::Invalid => 1,
            Self::Conflicted => 2,
            Self::Fallback => 3,
            Self::Other(_) => 4,
            Self::Programmed => 5,
            Self::NotSelected => 6,
        }
    }
}

/// A policy on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// Name of the policy.
    pub name: String,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation` the agent has applied.
    pub generation: i64,
    /// When it was created, where its object says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Its state here.
    pub state: PolicyState,
    /// Why; see [`crate::names::reason`].
    pub reason: String,
    /// Why, for people; empty where there is nothing to say.
    pub message: String,
    /// The frontends it claims and holds here.
    pub frontends: Vec<Frontend>,
    /// How many backends it should have here and has.
    pub backends: BackendCount,
    /// Its limit in force; 0 is no limit.
    pub redirects_per_second: u32,
    /// Callers that are not redirected: local pods of the policy whose cgroup was found, and all of them.
    #[serde(default)]
    pub exempt_callers: ExemptCallers,
    /// What the policy asks for, for explanations.
    #[serde(default)]
    pub wanted: WantedPolicy,
}

impl PolicyStatus {
    /// Takes in what a further node says of the policy: the worst state is told, numbers add up, of limits the lowest that
    /// is set counts, and the generation is the one that every node has applied.
    pub fn join(&mut self, other: &Self) {
        self.backends.wanted += other.backends.wanted;
        self.backends.programmed += other.backends.programmed;
        self.exempt_callers.pods += other.exempt_callers.pods;
        self.exempt_callers.active += other.exempt_callers.active;
        self.generation = self.generation.min(other.generation);
        if other.state.severity() < self.state.severity() {
            self.state = other.state;
            self.reason.clone_from(&other.reason);
            self.message.clone_from(&other.message);
        }
        self.redirects_per_second = match (self.redirects_per_second, other.redirects_per_second) {
            (0, limit) | (limit, 0) => limit,
            (one, another) => one.min(another),
        };
        let known: BTreeSet<Frontend> = self.frontends.iter().copied().collect();
        self.frontends.extend(other.frontends.iter().filter(|frontend| !known.contains(frontend)));
    }
}

/// How many backends are wanted and programmed, each counted once a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendCount {
    /// What the objects ask for.
    #[schemars(schema_with = "schema::count")]
    pub wanted: u32,
    /// What the maps hold.
    #[schemars(schema_with = "schema::count")]
    pub programmed: u32,
}

/// Exemption of a policy's own backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptCallers {
    /// Local pods that are to be exempt.
    pub pods: u32,
    /// Those whose cgroup was found, so that the exemption is active.
    pub active: u32,
}

/// What a policy asks for, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedPolicy {
    /// `namespace/name` of the Service it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The VIP it matches, if it matches one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its selector of backends, as `kubectl -l` spells it.
    #[serde(default)]
    pub selector: String,
    /// Its namespaces of backends; empty is all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Its selector of nodes, as `kubectl -l` spells it; empty is every node.
    #[serde(default)]
    pub node_selector: String,
    /// `Fallback` or `Refuse`.
    #[serde(default)]
    pub on_no_backend: String,
    /// Local pods that the selector matches, `namespace/name`, with why each is or is not a backend.
    #[serde(default)]
    pub pods: Vec<WantedPod>,
}

/// A local pod that a policy selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Is it a backend?
    pub usable: bool,
    /// `Ready`, `NotReady`, `Terminating`, ...
    pub reason: String,
}

/// Something a source could not read. What it said before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    /// Name of the file, relative to the folder.
    pub file: String,
    /// 1-based; 0 where there is none.
    pub line: u32,
    /// 1-based, in characters; 0 where there is none.
    pub column: u32,
    /// `Kind/name` of the object, empty where none could be told.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

impl fmt::Display for SourceError {
    /// `FILE:LINE:COLUMN: OBJECT: MESSAGE`, as far as each is known. An error of the folder itself names it in the message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line, self.column) {
            ("" | ".", ..) => {}
            (file, 0, _) => write!(f, "{file}: ")?,
            (file, line, 0) => write!(f, "{file}:{line}: ")?,
            (file, line, column) => write!(f, "{file}:{line}:{column}: ")?,
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        f.write_str(&self.message)
    }
}

/// When a source last made progress: alive is not informed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceProgress {
    /// Name of the source.
    pub name: String,
    /// Was it read completely since the start?
    pub synced: bool,
    /// Last time something was read from it or it was found unchanged.
    pub last_progress: Timestamp,
}

/// `GET /v1/frontends`, kind `FrontendList`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontendList {
    /// `programmed` (read back from the maps) or `desired` (what compile produced).
    pub view: String,
    /// Sorted by address, port, protocol.
    pub items: Vec<FrontendInfo>,
}

/// A frontend and its ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendInfo {
    /// Address, port, protocol.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// Which callers it is for: `Any`, `HostNetwork`.
    pub scope: String,
    /// Its rungs, first to last.
    pub rungs: Vec<RungInfo>,
    /// What happens after the last rung.
    pub otherwise: Otherwise,
}

open_enum! {
    /// What happens to a connection that no rung takes.
    pub enum Otherwise {
        /// It goes to the address that was dialled.
        Untouched = "untouched",
        /// The client gets an error.
        Refuse = "refuse",
    }
}

open_enum! {
    /// Which rung of the ladder.
    pub enum RungKind {
        /// A LocalRedirectPolicy.
        Redirect = "redirect",
        /// A BalancingPolicy.
        Balance = "balance",
        /// A Service.
        Service = "service",
    }
}

/// One step of the ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RungInfo {
    /// Which kind of rung.
    pub rung: RungKind,
    /// The policy of a `redirect` or `balance` rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// Its limit; 0 is none. Only of a `redirect` rung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirects_per_second: Option<u32>,
    /// `namespace/name` of a `service` rung; absent where no object says so any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the Service's port, empty where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_port: Option<String>,
    /// Session affinity; null is none.
    #[serde(default)]
    pub affinity_seconds: Option<u32>,
    /// Where it leads.
    pub backends: Vec<BackendInfo>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendInfo {
    /// Address a connection is sent to.
    pub address: IpAddr,
    /// Port a connection is sent to.
    pub port: u16,
    /// `namespace/name` of the pod, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name of the node, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// `GET /v1/counters`, kind `Counters`. They live in the kernel and survive a restart of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Since when they count.
    pub since: Timestamp,
    /// When they were read.
    pub taken_at: Timestamp,
    /// Per policy.
    pub policies: Vec<PolicyCounters>,
    /// Per frontend.
    pub frontends: Vec<FrontendCounters>,
    /// Per backend.
    pub backends: Vec<BackendCounters>,
    /// Of the event stream.
    pub events: EventCounters,
}

/// Counters of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCounters {
    /// Kind and name.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// Connections a LocalRedirectPolicy sent to a local backend.
    pub redirects: u64,
    /// Connections a BalancingPolicy sent to its backends.
    pub balanced: u64,
    /// Redirects not made because the limit was reached; the connection went on down the ladder.
    pub qos_drops: u64,
    /// Connections that went on down the ladder for another reason, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Connections refused by `onNoBackend: Refuse`.
    pub refusals: u64,
}

/// Counters of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendCounters {
    /// Address, port, protocol.
    #[serde(flatten)]
    pub frontend: Frontend,
    /// Sent to a local backend by a LocalRedirectPolicy.
    pub redirects: u64,
    /// Sent to a backend of a BalancingPolicy.
    pub balanced: u64,
    /// Sent to an endpoint of the Service.
    pub resolved: u64,
    /// Redirects not made because the limit was reached.
    pub qos_drops: u64,
    /// Refused.
    pub refusals: u64,
}

/// Counters of a backend, apart for each policy or Service that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCounters {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `LocalRedirectPolicy/name`, `BalancingPolicy/name` or `Service/namespace/name`.
    pub owner: String,
    /// How often it was chosen.
    pub selected: u64,
}

/// Counters of the event stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounters {
    /// Events the kernel made or tried to make: received and lost.
    pub produced: u64,
    /// Those that found no room.
    pub lost: u64,
}

/// `POST /v1/decide`: a hypothetical flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecideRequest {
    /// Who calls; a host process by default.
    #[serde(default)]
    pub from: Caller,
    /// What is dialled.
    pub to: Frontend,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// A process of the host, outside every pod.
    Host(bool),
    /// A process of the pod `namespace/name`.
    Pod(String),
}

impl Default for Caller {
    fn default() -> Self {
        Self::Host(true)
    }
}

/// Answer of `POST /v1/decide`, kind `Decision`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What happens to the flow.
    pub verdict: DecisionVerdict,
    /// All the candidates of the rung that is taken.
    pub backends: Vec<BackendInfo>,
    /// Every rung, first to last, with why it was taken or not.
    pub rungs: Vec<DecisionRung>,
    /// The policy's budget of this second; null where there is no limit.
    pub qos: Option<QosState>,
    /// The hooks that decide such a flow.
    pub hooks: Vec<String>,
}

open_enum! {
    /// What happens to a flow.
    pub enum DecisionVerdict {
        /// To a local backend of a LocalRedirectPolicy.
        Redirect = "redirect",
        /// To a backend of a BalancingPolicy.
        Balance = "balance",
        /// To an endpoint of the Service.
        Service = "service",
        /// To the address that was dialled.
        Untouched = "untouched",
        /// The client gets an error.
        Refuse = "refuse",
    }
}

/// A rung as a flow met it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRung {
    /// Which kind of rung.
    pub rung: RungKind,
    /// Its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// Its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Was it taken?
    pub taken: bool,
    /// See [`crate::names::rung_reason`].
    pub reason: String,
}

/// A policy's budget in the current second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosState {
    /// Redirects a second.
    pub limit: u32,
    /// Used of it.
    pub used: u32,
}

/// One line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When it was decided.
    pub time: Timestamp,
    /// What was decided.
    pub outcome: EventOutcome,
    /// Where: `connect4`, ...
    pub hook: String,
    /// The process that called.
    pub process: Process,
    /// Id of its cgroup: the inode of the cgroup's folder.
    pub cgroup_id: u64,
    /// `namespace/name` of its pod, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its container, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Where it called from.
    pub from: EventSource,
    /// What was dialled.
    pub to: Frontend,
    /// Where it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<BackendAddress>,
    /// The policy of the frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyRef>,
    /// `namespace/name` of the frontend's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Why the policy's rung was not taken, or what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

open_enum! {
    /// What an event reports.
    pub enum EventOutcome {
        /// A LocalRedirectPolicy's backend.
        Redirect = "redirect",
        /// A BalancingPolicy's backend.
        Balance = "balance",
        /// The Service's endpoint.
        Service = "service",
        /// A redirect not made because the limit was reached.
        QosDrop = "qosDrop",
        /// A policy's rung not taken for another reason.
        Fallback = "fallback",
        /// The client got an error.
        Refuse = "refuse",
        /// The data path could not do what it decided.
        Failure = "failure",
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its process id in the initial namespace.
    pub pid: u32,
    /// Its name (`comm`).
    pub comm: String,
}

/// Where a call came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSource {
    /// Cookie of the network namespace.
    pub netns: u64,
}

/// An address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendAddress {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
}

/// The line of `GET /v1/events` that stands where events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostEvents {
    /// How many.
    pub lost: u64,
}

/// The body of an HTTP error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// `InvalidField`, `InvalidBody`, `NotFound`, `TooLarge`, ...
    pub code: String,
    /// The field in question, empty where none is.
    pub field: String,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_source_names_what_is_known_of_its_place() {
        let shown = |file: &str, line, column, object: &str| {
            let (file, object, message) = (file.to_owned(), object.to_owned(), "wrong".to_owned());
            SourceError { file, line, column, object, message, since: Timestamp::UNIX_EPOCH }.to_string()
        };
        assert_eq!(shown("a.yaml", 7, 3, "Pod/x/y"), "a.yaml:7:3: Pod/x/y: wrong");
        assert_eq!(shown("a.yaml", 7, 0, ""), "a.yaml:7: wrong");
        assert_eq!(shown("a.yaml", 0, 0, ""), "a.yaml: wrong");
        assert_eq!(shown(".", 0, 0, ""), "wrong");
    }

    #[test]
    fn nodes_together_say_the_worst_whoever_is_asked_first() {
        let said = |state: &str, generation: i64, limit: u32, ports: &[u16]| -> PolicyStatus {
            let frontends: Vec<_> = ports
                .iter()
                .map(|port| serde_json::json!({"address": "10.0.0.1", "port": port, "protocol": "TCP"}))
                .collect();
            serde_json::from_value(serde_json::json!({
                "kind": "LocalRedirectPolicy", "name": "x", "id": 7, "generation": generation, "state": state,
                "reason": format!("reason of {state}"), "message": "", "frontends": frontends,
                "backends": {"wanted": 2, "programmed": 1}, "redirectsPerSecond": limit,
                "exemptCallers": {"pods": 3, "active": 2},
            }))
            .unwrap()
        };
        let nodes = [
            said("Programmed", 3, 100, &[80, 81]),
            said("Failed", 2, 0, &[81]),
            said("Fallback", 3, 50, &[82]),
            said("NotSelected", 3, 0, &[]),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let mut all = nodes[order[0]].clone();
            order[1..].iter().for_each(|node| all.join(&nodes[*node]));
            assert_eq!((all.state, all.reason.as_str()), (PolicyState::Failed, "reason of Failed"));
            assert_eq!((all.generation, all.redirects_per_second), (2, 50));
            assert_eq!((all.backends.wanted, all.backends.programmed), (8, 4));
            assert_eq!((all.exempt_callers.pods, all.exempt_callers.active), (12, 8));
            let mut ports: Vec<_> = all.frontends.iter().map(|f| f.port).collect();
            ports.sort_unstable();
            assert_eq!(ports, [80, 81, 82]);
        }
    }
}
