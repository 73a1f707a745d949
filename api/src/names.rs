//! Every name that others can see.

/// API group of the policies.
pub const GROUP: &str = "balancing.elf.io";
/// Served version of the policies.
pub const VERSION: &str = "v1beta1";
/// `apiVersion` of the policies.
pub const API_VERSION: &str = "balancing.elf.io/v1beta1";
/// `apiVersion` of the agent's documents.
pub const AGENT_API_VERSION: &str = "agent.balancing.elf.io/v1alpha1";
/// `apiVersion` of the plugin's documents.
pub const CLI_API_VERSION: &str = "cli.balancing.elf.io/v1alpha1";

/// Annotation: the number of a policy, decimal, 1 to 2^32-1.
pub const ANNOTATION_SERVICE_ID: &str = "balancing.elf.io/serviceId";
/// Annotation of a policy: codes of rules whose findings about it are not reported, separated by commas.
pub const ANNOTATION_SUPPRESS: &str = "balancing.elf.io/suppress";
/// Annotation of a Node: the IPv4 address of its proxy.
pub const ANNOTATION_NODE_PROXY_IPV4: &str = "balancing.elf.io/nodeProxyIpv4";
/// Annotation of a Node: the IPv6 address of its proxy.
pub const ANNOTATION_NODE_PROXY_IPV6: &str = "balancing.elf.io/nodeProxyIpv6";
/// Annotation of a Node: its number, decimal, 1 to 2^32-1; the operator assigns it.
pub const ANNOTATION_NODE_ID: &str = "balancing.elf.io/nodeId";
/// Label of the operator's EndpointSlices with backends: the policy's kind. See [`crate::published`].
pub const LABEL_POLICY_KIND: &str = "balancing.elf.io/policy-kind";
/// Label of the operator's EndpointSlices with backends: the policy's name, by [`crate::published::label_value`].
pub const LABEL_POLICY_NAME: &str = "balancing.elf.io/policy-name";
/// Label of the operator's EndpointSlices with the addresses of all nodes.
pub const LABEL_NODES: &str = "balancing.elf.io/nodes";
/// Label of the EndpointSlice that says where the leading replica of the operator listens for agents.
pub const LABEL_LEADER: &str = "balancing.elf.io/leader";
/// Name of that slice, in the namespace of the installation.
pub const LEADER_SLICE: &str = "balancing-operator-leader";
/// Annotation of that slice: the certificates, in PEM, of those who may have signed the operator's.
pub const ANNOTATION_CA: &str = "balancing.elf.io/ca";
/// Annotation of that slice: since when that replica leads (RFC 3339). Agents that wait after failures dial at once when it
/// changes, though address and authorities are those of before.
pub const ANNOTATION_LEADS_SINCE: &str = "balancing.elf.io/leads-since";
/// Label: what an object is part of (Kubernetes).
pub const LABEL_APP_NAME: &str = "app.kubernetes.io/name";
/// Label: which part of it (Kubernetes).
pub const LABEL_APP_COMPONENT: &str = "app.kubernetes.io/component";
/// [`LABEL_APP_NAME`] of the product's pods.
pub const APP_NAME: &str = "balancing";
/// [`LABEL_APP_COMPONENT`] of the operator's pods.
pub const COMPONENT_OPERATOR: &str = "operator";
/// Name of the operator's service account.
pub const OPERATOR_ACCOUNT: &str = "balancing-operator";
/// Name of the operator's Service. Its certificates are made out to it.
pub const OPERATOR_SERVICE: &str = "balancing-operator";
/// Annotation of the mirror of a static pod (Kubernetes): the uid that its cgroup is named by.
pub const ANNOTATION_CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Namespace and name of the Service of the API server (Kubernetes).
pub const API_SERVER_SERVICE: (&str, &str) = ("default", "kubernetes");
/// Label that groups EndpointSlices by Service (Kubernetes).
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of Services that another proxy serves (Kubernetes); such a Service is not programmed.
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of headless Services and their slices (Kubernetes); not programmed.
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// Label of a Node with its zone (Kubernetes).
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// Field manager of what an agent applies.
pub const FIELD_MANAGER_AGENT: &str = "balancing-agent";

/// Reasons why a rung of the ladder was or was not taken (counters, events, decisions).
pub mod rung_reason {
    /// The rung was taken.
    pub const TAKEN: &str = "Taken";
    /// An earlier rung was taken, or there is no such rung to ask.
    pub const NOT_REACHED: &str = "NotReached";
    /// No Ready pod on this node that the LocalRedirectPolicy selects.
    pub const NO_LOCAL_BACKEND: &str = "NoLocalBackend";
    /// The BalancingPolicy or the Service has no usable backend.
    pub const NO_BACKEND: &str = "NoBackend";
    /// The policy's limit of this second is used up.
    pub const QOS_LIMIT: &str = "QosLimit";
    /// The caller is one of the policy's own backends, or a process of the product.
    pub const EXEMPT_CALLER: &str = "ExemptCaller";
    /// The agent has not renewed its lease in time.
    pub const AGENT_STALE: &str = "AgentStale";
}

/// What the data path could not do, in an event with outcome `failure`.
pub mod event_failure {
    /// The translation could not be recorded: the client sees the backend's address in answers.
    pub const UNRECORDED: &str = "Unrecorded";
}

/// Condition types of policies and nodes.
pub mod condition {
    /// Policy: its spec is valid and it holds a frontend on some node.
    pub const ACCEPTED: &str = "Accepted";
    /// Policy: another one holds its frontends on some nodes. Absent where none does.
    pub const CONFLICTED: &str = "Conflicted";
    /// Policy: what it refers to is there, with these ports.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// Policy: all nodes that it selects have it.
    pub const PROGRAMMED: &str = "Programmed";
    /// Policy: at least one selected node really redirects.
    pub const EFFECTIVE: &str = "Effective";
    /// All programs are attached to the cgroup.
    pub const PROGRAMS_ATTACHED: &str = "ProgramsAttached";
    /// Every source was read completely.
    pub const SOURCES_SYNCED: &str = "SourcesSynced";
    /// Every policy that applies is in the maps.
    pub const POLICIES_PROGRAMMED: &str = "PoliciesProgrammed";
    /// A refused client gets `ECONNREFUSED`.
    pub const ERRNO_FIDELITY: &str = "ErrnoFidelity";
    /// All of the others of its object.
    pub const READY: &str = "Ready";
}

/// Reasons of conditions and of a policy's state.
pub mod reason {
    #![expect(missing_docs, reason = "the words are their own description, listed in contract order")]
    pub const ACCEPTED: &str = "Accepted";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const FRONTEND_CONFLICT: &str = "FrontendConflict";
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    pub const SERVICE_NOT_FOUND: &str = "ServiceNotFound";
    pub const SERVICE_NOT_SUPPORTED: &str = "ServiceNotSupported";
    pub const PORT_NOT_FOUND: &str = "PortNotFound";
    pub const PORT_MISMATCH: &str = "PortMismatch";
    pub const ADDRESS_FAMILY_MISMATCH: &str = "AddressFamilyMismatch";
    pub const CONFLICT_ON_SOME_NODES: &str = "ConflictOnSomeNodes";
    pub const ALL_NODES_PROGRAMMED: &str = "AllNodesProgrammed";
    pub const NODES_PENDING: &str = "NodesPending";
    pub const SOME_NODES_FAILED: &str = "SomeNodesFailed";
    pub const NO_NODE_SELECTED: &str = "NoNodeSelected";
    pub const REDIRECTING: &str = "Redirecting";
    pub const NO_LOCAL_BACKEND: &str = "NoLocalBackend";
    pub const NO_BACKEND: &str = "NoBackend";
    pub const ATTACHED: &str = "Attached";
    pub const ATTACH_FAILED: &str = "AttachFailed";
    pub const DETACHED: &str = "Detached";
    pub const KERNEL_UNSUPPORTED: &str = "KernelUnsupported";
    pub const SYNCED: &str = "Synced";
    pub const SYNCING: &str = "Syncing";
    pub const SOURCE_ERRORS: &str = "SourceErrors";
    pub const DISCONNECTED: &str = "Disconnected";
    pub const PROGRAMMED: &str = "Programmed";
    pub const MAP_FULL: &str = "MapFull";
    pub const WRITE_FAILED: &str = "WriteFailed";
    pub const NATIVE: &str = "Native";
    pub const READY: &str = "Ready";
}

/// Metric names, without the `_total` that OpenMetrics adds to counters.
pub mod metric {
    #![expect(missing_docs, reason = "the help text of each metric stands where it is registered")]
    pub const REDIRECTS: &str = "balancing_redirects";
    pub const BALANCED: &str = "balancing_balanced";
    pub const QOS_DROPS: &str = "balancing_qos_drops";
    pub const FALLBACKS: &str = "balancing_fallbacks";
    pub const REFUSALS: &str = "balancing_refusals";
    pub const RESOLVED: &str = "balancing_resolved";
    pub const EVENTS: &str = "balancing_events";
    pub const MAP_ENTRIES: &str = "balancing_map_entries";
    pub const MAP_CAPACITY: &str = "balancing_map_capacity";
    pub const PROGRAMS_ATTACHED: &str = "balancing_programs_attached";
    pub const PROGRAMMING_LATENCY: &str = "balancing_programming_latency_seconds";
    pub const MAP_WRITES: &str = "balancing_map_writes";
    pub const SOURCES_SYNCED: &str = "balancing_sources_synced";
    pub const SOURCE_ERRORS: &str = "balancing_source_errors";
    pub const POLICIES: &str = "balancing_policies";
    pub const RECORDS_EVICTED: &str = "balancing_records_evicted";
    pub const RECORDS_FAILED: &str = "balancing_records_failed";
    pub const STATUS_WRITES: &str = "balancing_status_writes";
    pub const RECONCILE_WRITES: &str = "balancing_reconcile_writes";
    pub const RECONCILE_CHANGES: &str = "balancing_reconcile_changes";
    pub const RECONCILE_LEADER: &str = "balancing_reconcile_leader";
    pub const RECONCILE_POLICIES: &str = "balancing_reconcile_policies";
    pub const RECONCILE_SYNCED: &str = "balancing_reconcile_synced";
    pub const RECONCILE_WATCH_ERRORS: &str = "balancing_reconcile_watch_errors";
    /// `_seconds`, which its unit adds.
    pub const RECONCILE_WRITE: &str = "balancing_reconcile_write";
    /// `_seconds`, which its unit adds.
    pub const RECONCILE_LOOK: &str = "balancing_reconcile_look";
    pub const AGENTS: &str = "balancing_agents";
    pub const VIEWERS: &str = "balancing_viewers";
    pub const ADMISSIONS: &str = "balancing_admissions";
    pub const BUILD_INFO: &str = "balancing_build_info";
}
