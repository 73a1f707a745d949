//! What the API server says of policies and nodes, as samples that everything else is made of. Pure.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use balancing_api::{
    agent::{
        AgentInfo, Condition, Counters, DatapathInfo, EventCounters, FrontendList, KernelFeatures,
        KernelInfo, NodeInfo, NodeStatus, PolicyState, PolicyStatus, WantedPolicy,
    },
    cli::{Coverage, PolicyTopItem},
    names::{condition, reason},
    node_state::{NodeBalancingState, NodeBalancingStateStatus, NodePolicyState},
    overview::{Gap, PolicySummary},
    policy::{OnNoBackend, PolicyKind, PolicyNodes, PolicyObjectStatus, PolicyRef},
    rules::{
        Policy, check,
        checked::{Backend, Matcher},
    },
    stream::{LeftOut, OtherNodes},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::sample::{NodeSample, Sample, policy_row};

/// State of a policy on a node that has not said anything about its newest generation.
pub const PENDING: &str = "Pending";

/// What is known of a cluster beside what its agents count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// When that was.
    pub time: Timestamp,
    /// The policies, by kind and name; none where they could not be read.
    pub policies: Option<Vec<PolicyFact>>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
    /// Why there are no counters, where there are none.
    pub uncounted: Option<String>,
    /// Nodes that the operator tells as one.
    pub others: Option<OtherNodes>,
    /// Rows that reports had no room for.
    pub left_out: LeftOut,
}

/// A policy as its object has it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFact {
    /// Kind and name.
    pub policy: PolicyRef,
    /// `metadata.uid`
    pub uid: String,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation`
    pub generation: i64,
    /// `metadata.creationTimestamp`
    pub created: Option<Timestamp>,
    /// What it asks for; empty where its spec breaks a rule.
    pub wanted: WantedPolicy,
    /// Its own limit.
    pub redirects_per_second: Option<u32>,
    /// It, with its values parsed; none where its spec breaks a rule.
    pub parsed: Option<Policy>,
    /// What the operator says of it.
    pub status: PolicyObjectStatus,
}

#[derive(Deserialize)]
struct Named {
    metadata: Meta,
    #[serde(default)]
    status: Option<PolicyObjectStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    uid: String,
    generation: i64,
    creation_timestamp: Option<Timestamp>,
}

/// What a policy asks for, in words.
fn wanted(policy: &Policy) -> WantedPolicy {
    let (service, address) = match &policy.matcher {
        Matcher::Service { .. } => (Some(policy.matcher.to_string()), None),
        Matcher::Address(address) => (None, Some(address.to_string())),
    };
    let (selector, namespaces) = match &policy.backend {
        Backend::Local { selector, namespaces, .. } | Backend::Pods { selector, namespaces, .. } => {
            (selector.to_string(), namespaces.clone())
        }
        Backend::Addresses(_) => (String::new(), Vec::new()),
    };
    WantedPolicy {
        service,
        address,
        selector,
        namespaces: namespaces.into_iter().collect(),
        node_selector: policy.nodes.as_ref().map(ToString::to_string).unwrap_or_default(),
        on_no_backend: match policy.on_no_backend {
            OnNoBackend::Fallback => "Fallback",
            OnNoBackend::Refuse => "Refuse",
        }
        .to_owned(),
        pods: Vec::new(),
    }
}

impl PolicyFact {
    /// A policy of its object; none where it has no name, or a status that nobody understands.
    #[must_use]
    pub fn of(kind: PolicyKind, object: &Value) -> Option<Self> {
        let Named { metadata, status } = Named::deserialize(object).ok()?;
        let parsed = check(object).policy;
        Some(Self {
            policy: PolicyRef::new(kind, metadata.name),
            uid: metadata.uid,
            id: parsed.as_ref().and_then(|p| p.service_id).map_or(0, Into::into),
            generation: metadata.generation,
            created: metadata.creation_timestamp,
            wanted: parsed.as_ref().map(wanted).unwrap_or_default(),
            redirects_per_second: parsed.as_ref().and_then(|p| p.redirects_per_second),
            parsed,
            status: status.unwrap_or_default(),
        })
    }

    /// A condition of its status.
    #[must_use]
    pub fn condition(
        &self,
        kind: &str,
    ) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
        self.status.conditions.iter().find(|c| c.type_ == kind)
    }

    /// Does its status speak of what its spec says now?
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.status.observed_generation == Some(self.generation)
    }

    /// What the operator says of it, shortly.
    #[must_use]
    pub fn summary(&self) -> PolicySummary {
        let ready = self.condition(condition::READY);
        PolicySummary {
            ready: ready.map(|c| c.status.clone()).unwrap_or_default(),
            reason: ready.map(|c| c.reason.clone()).unwrap_or_default(),
            current: self.is_current(),
            nodes: self.status.nodes,
        }
    }

    /// Its state where no node says anything: as the operator sees it.
    fn state(&self) -> (PolicyState, String, String) {
        let unmet = |kind: &str| self.condition(kind).filter(|c| c.status == "False");
        let of = |state, c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            (state, c.reason.clone(), c.message.clone())
        };
        if let Some(c) = unmet(condition::ACCEPTED) {
            let conflict = c.reason == reason::FRONTEND_CONFLICT;
            return of(if conflict { PolicyState::Conflicted } else { PolicyState::Invalid }, c);
        }
        if let Some(c) = unmet(condition::PROGRAMMED) {
            return match c.reason.as_str() {
                reason::NO_NODE_SELECTED => of(PolicyState::NotSelected, c),
                reason::SOME_NODES_FAILED => of(PolicyState::Failed, c),
                _ => of(pending(), c),
            };
        }
        let message = "no node has said anything of it yet".to_owned();
        (pending(), reason::NODES_PENDING.to_owned(), message)
    }

    /// As the status of a node has it.
    fn on_node(&self, said: &NodePolicyState) -> PolicyStatus {
        PolicyStatus {
            kind: said.kind,
            name: said.name.clone(),
            id: self.id,
            generation: said.observed_generation,
            created: self.created,
            state: said.state,
            reason: said.reason.clone(),
            message: said.message.clone(),
            frontends: Vec::new(),
            backends: said.backends,
            redirects_per_second: self.redirects_per_second.unwrap_or(0),
            exempt_callers: Default::default(),
            wanted: self.wanted.clone(),
        }
    }
}

/// Why the API server's word alone has no numbers.
const UNCOUNTED: &str = "an API server has no counters; `kubectl balancing top` asks the operator for them";

/// [`PENDING`]
#[must_use]
pub fn pending() -> PolicyState {
    PolicyState::from(PENDING)
}

/// What a node says of a policy whose object could not be read.
fn unread(said: &NodePolicyState) -> PolicyFact {
    PolicyFact {
        policy: PolicyRef::new(said.kind, said.name.clone()),
        uid: said.uid.clone(),
        id: 0,
        generation: said.observed_generation,
        created: None,
        wanted: WantedPolicy::default(),
        redirects_per_second: None,
        parsed: None,
        status: PolicyObjectStatus::default(),
    }
}

/// On how many of these nodes a policy is in which state, as the operator counts over all.
fn counted<'a>(fact: &PolicyFact, nodes: impl Iterator<Item = &'a NodeSample>) -> PolicyNodes {
    let mut count = PolicyNodes::default();
    let said = nodes.flat_map(|n| &n.status.policies);
    for said in said.filter(|s| s.kind == fact.policy.kind && s.name == fact.policy.name) {
        match said.state {
            _ if said.generation != fact.generation => count.pending += 1,
            PolicyState::NotSelected => continue,
            PolicyState::Programmed => {
                count.programmed += 1;
                count.effective += 1;
            }
            PolicyState::Fallback => {
                count.programmed += 1;
                count.degraded += 1;
            }
            PolicyState::Failed | PolicyState::Invalid => count.failed += 1,
            PolicyState::Conflicted => {}
            PolicyState::Other(_) => count.pending += 1,
        }
        count.selected += 1;
    }
    count
}

impl Facts {
    /// The policies that could be read.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyFact> {
        self.policies.iter().flatten()
    }

    /// Counts anew what the operator counts over all nodes: over these alone.
    pub(crate) fn recount(&mut self, nodes: &[NodeSample], stale: &[NodeSample]) {
        for fact in self.policies.iter_mut().flatten() {
            fact.status.nodes = counted(fact, nodes.iter().chain(stale));
        }
    }

    /// The policy of that kind and name.
    #[must_use]
    pub fn policy(&self, kind: PolicyKind, name: &str) -> Option<&PolicyFact> {
        self.policies().find(|p| p.policy.kind == kind && p.policy.name == name)
    }

    /// Adds to the rows what the objects say: rows of policies that no node knows, and what the operator sums up.
    pub(crate) fn complete(&self, rows: &mut Vec<PolicyTopItem>, latest: Timestamp) {
        let Some(policies) = &self.policies else { return };
        let place: HashMap<PolicyRef, usize> =
            rows.iter().enumerate().map(|(i, r)| (r.policy.clone(), i)).collect();
        for fact in policies {
            let row = match place.get(&fact.policy) {
                Some(i) => &mut rows[*i],
                None => {
                    let (state, reason, message) = fact.state();
                    let said = NodePolicyState {
                        kind: fact.policy.kind,
                        name: fact.policy.name.clone(),
                        uid: fact.uid.clone(),
                        observed_generation: 0,
                        state,
                        reason,
                        message,
                        backends: Default::default(),
                        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                            Timestamp::UNIX_EPOCH,
                        ),
                    };
                    let mut row = policy_row(fact.policy.clone(), &fact.on_node(&said), latest);
                    row.nodes.wanted = 0;
                    rows.push(row);
                    match rows.last_mut() {
                        Some(row) => row,
                        None => continue,
                    }
                }
            };
            row.id = fact.id;
            row.newest_generation = fact.generation;
            row.cluster = Some(Box::new(fact.summary()));
            if row.service.is_none() && row.address.is_none() {
                row.service.clone_from(&fact.wanted.service);
                row.address.clone_from(&fact.wanted.address);
            }
            if fact.is_current() && fact.status.nodes.selected > 0 {
                row.nodes.wanted = fact.status.nodes.selected;
                row.nodes.programmed = fact.status.nodes.effective;
            }
        }
    }
}

/// The pod of an agent, or of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name.
    pub name: String,
    /// The node it runs on; empty where it has none yet.
    pub node: String,
    /// Does its container run?
    pub runs: bool,
    /// Is it Ready?
    pub ready: bool,
    /// Has the cluster lost sight of its node? Then its Ready condition is taken away, and that of its containers is as
    /// the kubelet left it.
    pub lost: bool,
    /// Why not, as `kubectl get pods` has it.
    pub why: String,
}

impl OwnPod {
    /// A pod of its object; none where it has no node yet.
    #[must_use]
    pub fn of(pod: &Value) -> Option<Self> {
        Some(Self::read(pod)).filter(|p| !p.node.is_empty())
    }

    /// A pod of its object.
    #[must_use]
    pub fn read(pod: &Value) -> Self {
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let node = text("/spec/nodeName");
        let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
        let stopped = containers.into_iter().flatten().find(|c| c["state"]["running"].is_null());
        let phase = text("/status/phase");
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        let is_true =
            |kind: &str| conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True");
        let ready = is_true("Ready");
        let gates = pod.pointer("/spec/readinessGates").and_then(Value::as_array);
        let gated = gates.is_some_and(|g| !g.is_empty());
        let why = stopped.and_then(|c| {
            let state = &c["state"];
            let reason = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
            reason.map(str::to_owned)
        });
        Self {
            name: text("/metadata/name").to_owned(),
            node: node.to_owned(),
            runs: phase == "Running" && stopped.is_none(),
            ready,
            lost: !ready && !gated && is_true("ContainersReady"),
            why: why.unwrap_or_else(|| phase.to_owned()),
        }
    }
}

/// What was read of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// When.
    pub time: Timestamp,
    /// The namespace of the product.
    pub namespace: String,
    /// See [`Facts::policies`].
    pub policies: Option<Vec<PolicyFact>>,
    /// What nodes say of themselves; none where it could not be read.
    pub states: Option<Vec<NodeState>>,
    /// Pods of agents; none where they could not be read.
    pub agents: Option<Vec<OwnPod>>,
    /// Pods of the operator; none where they could not be read.
    pub operators: Option<Vec<OwnPod>>,
    /// The nodes that are chosen; none is all of them.
    pub chosen: Option<BTreeSet<String>>,
    /// Are policies chosen by their labels, so that there are more than these?
    pub labelled: bool,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    /// Name of the node.
    pub name: String,
    /// Its state.
    pub status: NodeBalancingStateStatus,
}

impl NodeState {
    /// A state of its object; none where nobody understands it.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let state = NodeBalancingState::deserialize(object).ok()?;
        Some(Self { name: state.metadata.name?, status: state.status? })
    }
}

impl Read {
    /// Leaves what is about these nodes.
    pub fn choose(&mut self, nodes: BTreeSet<String>) {
        self.states.iter_mut().for_each(|s| s.retain(|s| nodes.contains(&s.name)));
        self.agents.iter_mut().for_each(|a| a.retain(|p| nodes.contains(&p.node)));
        for fact in self.policies.iter_mut().flatten() {
            fact.status.problem_nodes.retain(|p| nodes.contains(&p.node));
            fact.status.more_problem_nodes = 0;
        }
        self.chosen = Some(nodes);
    }

    /// Leaves of a sample what is chosen.
    pub fn restrict(&self, sample: &mut Sample) {
        if let Some(chosen) = &self.chosen {
            sample.only_nodes(|name| chosen.contains(name));
        }
        if self.labelled {
            let policies: HashSet<&PolicyRef> = self.policies.iter().flatten().map(|p| &p.policy).collect();
            sample.only_policies(|p| policies.contains(p));
        }
    }

    /// The pod of a node's agent: of two, of which one takes the other's place, the one that is Ready.
    #[must_use]
    pub fn agent_of(&self, node: &str) -> Option<&OwnPod> {
        let pods = self.agents.iter().flatten().filter(|p| p.node == node);
        pods.max_by_key(|p| (p.runs && p.ready, p.runs))
    }

    /// Has the agent of a node stopped, as far as pods can be read?
    #[must_use]
    pub fn has_stopped(&self, node: &str) -> bool {
        self.agents.is_some() && !self.agent_of(node).is_some_and(|p| p.runs)
    }

    /// The facts of it.
    #[must_use]
    pub fn facts(&self, uncounted: Option<String>) -> Facts {
        Facts {
            time: self.time,
            policies: self.policies.clone(),
            gaps: self.gaps.clone(),
            uncounted,
            ..Facts::default()
        }
    }

    /// A sample without counters, and why there are none.
    #[must_use]
    pub fn told(&self, why: String) -> Sample {
        let mut sample = Sample { cluster: Some(Arc::new(self.facts(Some(why)))), ..self.sample() };
        self.restrict(&mut sample);
        sample
    }

    /// A sample of what the API server says alone.
    #[must_use]
    pub fn uncounted(&self) -> Sample {
        self.told(UNCOUNTED.to_owned())
    }

    /// Names of nodes that should have an agent and say nothing.
    #[must_use]
    pub fn silent(&self) -> Vec<String> {
        let known: BTreeSet<&str> = self.states.iter().flatten().map(|s| s.name.as_str()).collect();
        // A DaemonSet may leave nodes out; a pod of an agent says that one is meant to be there.
        let pods = self.agents.iter().flatten().map(|p| p.node.as_str());
        let named = self.policies.iter().flatten().flat_map(|p| &p.status.problem_nodes);
        let pending = named.filter(|p| p.state == pending()).map(|p| p.node.as_str());
        let all: BTreeSet<&str> = pods.chain(pending).filter(|n| !known.contains(n)).collect();
        all.into_iter().map(str::to_owned).collect()
    }

    /// The same as a sample: of every node what it says of itself. Counters there are none.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let mut sample = Sample::default();
        for state in self.states.iter().flatten() {
            let node = self.node_sample(state);
            if self.has_stopped(&state.name) { sample.stale.push(node) } else { sample.nodes.push(node) }
        }
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        sample.coverage = Coverage {
            fresh: number(sample.nodes.len()),
            stale: number(sample.stale.len()),
            missing: self.silent(),
        };
        sample
    }

    fn node_sample(&self, state: &NodeState) -> NodeSample {
        let status = &state.status;
        let said = status.policies.iter().filter_map(|said| match &self.policies {
            None => Some(unread(said).on_node(said)),
            Some(all) => {
                let fact = all.iter().find(|f| f.policy.kind == said.kind && f.policy.name == said.name)?;
                // One made again under the same name is another.
                (said.uid.is_empty() || said.uid == fact.uid).then(|| fact.on_node(said))
            }
        });
        NodeSample {
            status: NodeStatus {
                node: NodeInfo {
                    name: state.name.clone(),
                    addresses: Vec::new(),
                    source: "kubernetes".to_owned(),
                },
                agent: AgentInfo {
                    version: status.agent_version.clone(),
                    started_at: UNTOLD,
                    default_redirects_per_second: 0,
                    exempt_pods: Vec::new(),
                },
                kernel: KernelInfo {
                    release: status.kernel_release.clone(),
                    features: KernelFeatures::default(),
                },
                datapath: DatapathInfo {
                    cgroup_root: String::new(),
                    bpffs: String::new(),
                    layout_version: status.layout_version,
                    programs: Vec::new(),
                    maps: Vec::new(),
                },
                conditions: status.conditions.iter().map(condition_of).collect(),
                policies: said.collect(),
                source_errors: Vec::new(),
                sources: Vec::new(),
            },
            frontends: FrontendList { view: "programmed".to_owned(), items: Vec::new() },
            counters: Counters {
                since: UNTOLD,
                taken_at: self.time,
                policies: Vec::new(),
                frontends: Vec::new(),
                backends: Vec::new(),
                events: EventCounters::default(),
            },
        }
    }
}

/// The start of an agent of which only its NodeBalancingState is known, which does not tell it.
const UNTOLD: Timestamp = Timestamp::UNIX_EPOCH;

/// Is this all from a NodeBalancingState, which tells neither programs, maps nor counters?
#[must_use]
pub fn is_told_by_state(status: &NodeStatus) -> bool {
    status.agent.started_at == UNTOLD
}

fn condition_of(c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition) -> Condition {
    Condition {
        type_: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        last_transition_time: c.last_transition_time.0,
    }
}

/// The conditions of a policy as documents have them.
#[must_use]
pub fn conditions(status: &PolicyObjectStatus) -> Vec<Condition> {
    status.conditions.iter().map(condition_of).collect()
}

/// Addresses of a Node object.
#[must_use]
pub fn addresses(node: &Value) -> Vec<std::net::IpAddr> {
    let all = node.pointer("/status/addresses").and_then(Value::as_array);
    let of_node = |a: &&Value| a["type"] == "InternalIP" || a["type"] == "ExternalIP";
    all.into_iter().flatten().filter(of_node).filter_map(|a| a["address"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::Board;

    fn policy(status: &Value) -> PolicyFact {
        let object = json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "LocalRedirectPolicy",
            "metadata": {"name": "dns", "uid": "u2", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "frontend": {"serviceMatcher": {
                    "serviceName": "dns", "namespace": "kube-system",
                    "toPorts": [{"port": "53", "protocol": "UDP"}],
                }},
                "backend": {
                    "endpointSelector": {"matchLabels": {"app": "cache"}},
                    "toPorts": [{"port": "5353", "protocol": "UDP"}],
                },
            },
            "status": status,
        });
        PolicyFact::of(PolicyKind::LocalRedirectPolicy, &object).unwrap()
    }

    fn state(name: &str, uid: &str, generation: i64, state: &str) -> NodeState {
        NodeState::of(&json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": name},
            "status": {"agentVersion": "0.1.0", "policies": [{
                "kind": "LocalRedirectPolicy", "name": "dns", "uid": uid, "observedGeneration": generation,
                "state": state, "reason": state, "backends": {"wanted": 1, "programmed": 1},
            }]},
        }))
        .unwrap()
    }

    fn pod(node: &str, running: bool) -> OwnPod {
        let state = if running { json!({"running": {}}) } else { json!({"waiting": {"reason": "Crash"}}) };
        OwnPod::of(&json!({
            "metadata": {"name": "p"}, "spec": {"nodeName": node},
            "status": {"phase": "Running", "containerStatuses": [{"state": state}]},
        }))
        .unwrap()
    }

    fn read(status: &Value, states: Vec<NodeState>) -> Read {
        Read { policies: Some(vec![policy(status)]), states: Some(states), ..Read::default() }
    }

    fn board(read: &Read) -> Board {
        let facts = Arc::new(read.facts(Some("no stream".to_owned())));
        Board::new(Sample { cluster: Some(facts), ..read.sample() }, None)
    }

    #[test]
    fn an_agent_that_stopped_is_stale_and_one_that_never_spoke_is_missing() {
        let mut read =
            read(&json!({}), vec![state("n1", "u2", 3, "Programmed"), state("n2", "u2", 3, "Programmed")]);
        // Without a look at pods nobody can tell.
        assert_eq!((read.sample().coverage.fresh, read.sample().coverage.stale), (2, 0));
        read.agents = Some(vec![pod("n1", true), pod("n2", false), pod("n3", true)]);
        let coverage = read.sample().coverage;
        assert_eq!((coverage.fresh, coverage.stale, coverage.missing), (1, 1, vec!["n3".to_owned()]));
        assert_eq!(read.agent_of("n2").unwrap().why, "Crash");
        assert_eq!(board(&read).policies[0].nodes.programmed, 1, "what stopped is in no sum");
    }

    #[test]
    fn one_made_again_under_the_same_name_is_another() {
        let read = read(&json!({}), vec![state("n1", "u1", 3, "Programmed")]);
        assert!(read.sample().nodes[0].status.policies.is_empty());
        let row = &board(&read).policies[0];
        assert_eq!((row.state.as_str(), row.nodes.wanted), (PENDING, 0));
        assert_eq!(row.service.as_deref(), Some("kube-system/dns"));
    }

    #[test]
    fn the_operator_counts_nodes_once_it_has_judged_this_generation() {
        let status = |generation: i64| {
            json!({
                "observedGeneration": generation,
                "nodes": {"selected": 9, "programmed": 9, "effective": 7, "degraded": 2, "failed": 0, "pending": 0},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            })
        };
        let states = || vec![state("n1", "u2", 3, "Programmed")];
        let row = board(&read(&status(3), states())).policies.remove(0);
        assert_eq!((row.nodes.programmed, row.nodes.wanted), (7, 9));
        assert!(row.cluster.unwrap().current);
        let row = board(&read(&status(2), states())).policies.remove(0);
        assert_eq!((row.nodes.programmed, row.nodes.wanted), (1, 1), "of an older spec it says nothing");
        assert!(!row.cluster.unwrap().current);
    }

    #[test]
    fn what_a_state_does_not_tell_is_not_known() {
        let board = board(&read(&json!({}), vec![state("n1", "u2", 3, "Programmed")]));
        let node = &board.nodes[0];
        assert!(node.started_at.is_none() && node.cgroup_root.is_none() && node.taken_at.is_none());
        assert!(!board.is_counted());
        assert_eq!(board.top(false, vec![0]).uncounted.as_deref(), Some("no stream"));
    }
}
