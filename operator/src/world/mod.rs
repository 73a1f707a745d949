//! Everything the operator knows, with the indexes that keep a change to what it touches. Pure: changes in, who is
//! concerned out; the order in which they come makes no difference to what is known in the end.

mod bits;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use balancing_api::{
    backends::{PolicyBackend, backends, selects},
    claims::{Claims, Rank},
    net::Frontend,
    placement::Placement,
    policy::{PolicyKind, PolicyRef, RedirectMode},
    published::Published,
    records::{Name, Pod, Service, Text},
    rules::checked::{self, Backend, Matcher},
};

pub use bits::Bits;

use crate::{
    ids::{self, Numbered},
    objects::{Change, ClusterNode, Endpoint, NodeState, Policy, Port, Report, Slice},
};

/// Label of a node: its operating system (Kubernetes).
const LABEL_OS: &str = "kubernetes.io/os";

/// Who is concerned by changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Policies whose status may differ.
    pub policies: BTreeSet<PolicyRef>,
    /// Policies whose published backends may differ.
    pub backends: BTreeSet<PolicyRef>,
    /// The published addresses of nodes may differ.
    pub nodes: bool,
    /// Policies may lack a number.
    pub policy_ids: bool,
    /// Nodes may lack a number.
    pub node_ids: bool,
}

/// A policy and what is known about it.
#[derive(Debug)]
struct Entry {
    object: Policy,
    /// What it claims; nothing where its spec is invalid.
    claims: Option<Claims>,
    /// The nodes its selector takes.
    selected: Bits,
    /// The pods behind it, where it is a BalancingPolicy.
    pods: BTreeSet<Name>,
}

impl Entry {
    fn rank(&self) -> Rank {
        Rank { created: self.object.created, policy: self.object.reference.clone() }
    }

    fn service(&self) -> Option<Name> {
        service_of(&self.object)
    }

    fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.claims.iter().flat_map(|claims| claims.frontends.keys())
    }
}

fn service_of(policy: &Policy) -> Option<Name> {
    match &policy.spec.as_ref().ok()?.matcher {
        Matcher::Service { namespace, name } => Some(Name::new(&**namespace, &**name)),
        Matcher::Address(_) => None,
    }
}

/// The pods of a BalancingPolicy: selector, namespaces, mode.
fn pods_of(policy: &Policy) -> Option<(&checked::Selector, &[String], RedirectMode)> {
    match &policy.spec.as_ref().ok()?.backend {
        Backend::Pods { selector, namespaces, mode } => Some((selector, namespaces, *mode)),
        Backend::Local { .. } | Backend::Addresses(_) => None,
    }
}

/// A name that is a Node's, or that a NodeBalancingState has.
#[derive(Debug, Default)]
struct Slot {
    name: Text,
    node: Option<Arc<ClusterNode>>,
    state: Option<NodeState>,
}

impl Slot {
    /// Is this a Node that has an agent, or may get one? Without a DaemonSet anybody may start agents, on Linux.
    fn can_have_agent(&self, placement: Option<&Placement>) -> bool {
        let Some(node) = self.node.as_deref() else { return false };
        let label = |key: &str| node.node.labels.get(key);
        label(LABEL_OS).is_none_or(|os| os == "linux")
            && (self.state.is_some() || placement.is_none_or(|p| p.selects(&self.name, label)))
    }

    /// Does a selector take it? Without one every node is taken that may have an agent.
    fn taken(&self, nodes: Option<&checked::Selector>, placement: Option<&Placement>) -> bool {
        let matches = |selector: &checked::Selector, node: &ClusterNode| {
            selector.matches(|key| node.node.labels.get(key))
        };
        self.can_have_agent(placement)
            && nodes.is_none_or(|s| self.node.as_deref().is_some_and(|node| matches(s, node)))
    }
}

/// How many nodes have an agent in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// It says that it is Ready.
    pub ready: u32,
    /// It says that it is not.
    pub not_ready: u32,
    /// It has not said anything.
    pub silent: u32,
}

/// What a node says of a policy, as far as that can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'w> {
    /// This.
    Report(&'w Report),
    /// Nothing is wrong there: its list has no room for it, and names what is wrong first.
    NothingWrong,
    /// Nothing yet.
    Nothing,
}

/// Everything the operator knows.
#[derive(Debug, Default)]
pub struct World {
    policies: BTreeMap<PolicyRef, Entry>,
    claimants: HashMap<Frontend, BTreeSet<Rank>>,
    services: HashMap<Name, Arc<Service>>,
    policies_of: HashMap<Name, BTreeSet<PolicyRef>>,
    slots: Vec<Slot>,
    slot_of: HashMap<Text, u32>,
    free: Vec<u32>,
    pods: HashMap<Name, Arc<Pod>>,
    slices: BTreeMap<String, Slice>,
    placement: Option<Placement>,
}

impl World {
    /// Takes a change in; adds to `dirty` whom it concerns.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Policy(reference, policy) => self.set_policy(&reference, policy.map(|p| *p), dirty),
            Change::Service(name, service) => self.set_service(&name, service, dirty),
            Change::Node(name, node) => self.set_node(&name, node.as_ref(), dirty),
            Change::Pod(name, pod) => self.set_pod(name, pod, dirty),
            Change::State(node, state) => self.set_state(&node, state.map(|s| *s), dirty),
            Change::Slice(name, slice) => self.set_slice(name, slice.map(|s| *s), dirty),
            Change::Agents(placement) => self.set_placement(placement.map(|p| *p), dirty),
        }
    }

    /// Everybody: after the first lists, and where writing begins.
    #[must_use]
    pub fn everybody(&self) -> Dirty {
        let published = self.slices.values().filter_map(|s| s.published.as_ref()).filter_map(policy_of);
        Dirty {
            policies: self.policies.keys().cloned().collect(),
            backends: self.policies.keys().cloned().chain(published).collect(),
            nodes: true,
            policy_ids: true,
            node_ids: true,
        }
    }

    fn set_policy(&mut self, reference: &PolicyRef, new: Option<Policy>, dirty: &mut Dirty) {
        dirty.policies.insert(reference.clone());
        let old = self.policies.get_mut(reference);
        if let (Some(old), Some(new)) = (old, &new) {
            let same = |a: &Policy| {
                (&a.uid, a.generation, a.created, &a.spec)
                    == (&new.uid, new.generation, new.created, &new.spec)
            };
            if same(&old.object) {
                dirty.policy_ids |= old.object.id != new.id;
                old.object = new.clone();
                return;
            }
        }
        dirty.policy_ids = true;
        dirty.backends.insert(reference.clone());
        self.withdraw(reference, dirty);
        let Some(object) = new else { return };
        let nodes = object.spec.as_ref().ok().and_then(|spec| spec.nodes.as_ref());
        let selected = (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.taken(nodes, self.placement.as_ref()))
            .map(|(slot, _)| slot)
            .collect();
        let pods = match pods_of(&object) {
            Some((selector, namespaces, _)) => {
                let behind = self.pods.values().filter(|pod| selects(selector, namespaces, pod));
                behind.map(|pod| pod.name.clone()).collect()
            }
            None => BTreeSet::new(),
        };
        self.policies.insert(reference.clone(), Entry { object, claims: None, selected, pods });
        self.enter(reference, dirty);
    }

    /// Takes a policy out, and its claims with it.
    fn withdraw(&mut self, reference: &PolicyRef, dirty: &mut Dirty) -> Option<Entry> {
        let entry = self.policies.remove(reference)?;
        let rank = entry.rank();
        for frontend in entry.frontends() {
            if let Some(all) = self.claimants.get_mut(frontend) {
                all.remove(&rank);
                dirty.policies.extend(all.iter().map(|r| r.policy.clone()));
                if all.is_empty() {
                    self.claimants.remove(frontend);
                }
            }
        }
        if let Some(service) = entry.service()
            && let Some(all) = self.policies_of.get_mut(&service)
        {
            all.remove(reference);
            if all.is_empty() {
                self.policies_of.remove(&service);
            }
        }
        Some(entry)
    }

    /// Makes a policy's claims.
    fn enter(&mut self, reference: &PolicyRef, dirty: &mut Dirty) {
        let Some(entry) = self.policies.get_mut(reference) else { return };
        let service = service_of(&entry.object);
        let found = service.as_ref().and_then(|name| self.services.get(name));
        entry.claims = entry.object.spec.as_ref().ok().map(|spec| Claims::of(spec, found.map(|s| &**s)));
        let rank = entry.rank();
        for frontend in entry.claims.iter().flat_map(|claims| claims.frontends.keys()) {
            let all = self.claimants.entry(*frontend).or_default();
            dirty.policies.extend(all.iter().map(|r| r.policy.clone()));
            all.insert(rank.clone());
        }
        if let Some(service) = service {
            self.policies_of.entry(service).or_default().insert(reference.clone());
        }
    }

    fn set_service(&mut self, name: &Name, service: Option<Arc<Service>>, dirty: &mut Dirty) {
        if self.services.get(name) == service.as_ref() {
            return;
        }
        match service {
            Some(service) => self.services.insert(name.clone(), service),
            None => self.services.remove(name),
        };
        for reference in self.policies_of.get(name).cloned().unwrap_or_default() {
            if let Some(entry) = self.withdraw(&reference, dirty) {
                self.policies.insert(reference.clone(), entry);
                self.enter(&reference, dirty);
            }
            dirty.policies.insert(reference);
        }
    }

    fn set_node(&mut self, name: &Text, node: Option<&Arc<ClusterNode>>, dirty: &mut Dirty) {
        let slot = self.slot(name);
        let old = std::mem::replace(&mut self.slots[slot as usize].node, node.cloned());
        if old.as_ref() != node {
            let part = |get: fn(&ClusterNode) -> &Vec<std::net::IpAddr>| {
                old.as_deref().map(get) != node.map(|n| &**n).map(get)
            };
            let moved = part(|n| &n.node.addresses);
            dirty.nodes |= moved;
            dirty.node_ids |=
                old.as_deref().map(|n| (&n.id, n.created)) != node.map(|n| &**n).map(|n| (&n.id, n.created));
            if moved || part(|n| &n.node.proxies) {
                let at_nodes = |e: &&Entry| {
                    pods_of(&e.object).is_some_and(|(_, _, mode)| mode != RedirectMode::PodEndpoint)
                };
                dirty
                    .backends
                    .extend(self.policies.values().filter(at_nodes).map(|e| e.object.reference.clone()));
            }
            self.select(slot, dirty);
        }
        self.tidy(slot);
    }

    fn set_placement(&mut self, placement: Option<Placement>, dirty: &mut Dirty) {
        if self.placement == placement {
            return;
        }
        self.placement = placement;
        for slot in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.select(slot, dirty);
        }
    }

    /// Asks each policy's selector about a node.
    fn select(&mut self, slot: u32, dirty: &mut Dirty) {
        let held = &self.slots[slot as usize];
        for (reference, entry) in &mut self.policies {
            let nodes = entry.object.spec.as_ref().ok().and_then(|spec| spec.nodes.as_ref());
            let now = held.taken(nodes, self.placement.as_ref());
            if entry.selected.has(slot) == now {
                continue;
            }
            entry.selected.set(slot, now);
            dirty.policies.insert(reference.clone());
            for all in entry.frontends().filter_map(|frontend| self.claimants.get(frontend)) {
                dirty.policies.extend(all.iter().map(|r| r.policy.clone()));
            }
        }
    }

    fn set_pod(&mut self, name: Name, pod: Option<Arc<Pod>>, dirty: &mut Dirty) {
        if self.pods.get(&name) == pod.as_ref() {
            return;
        }
        for (reference, entry) in &mut self.policies {
            let Some((selector, namespaces, _)) = pods_of(&entry.object) else { continue };
            let now = pod.as_deref().is_some_and(|pod| selects(selector, namespaces, pod));
            let before = if now { !entry.pods.insert(name.clone()) } else { entry.pods.remove(&name) };
            if now || before {
                dirty.backends.insert(reference.clone());
            }
        }
        match pod {
            Some(pod) => self.pods.insert(name, pod),
            None => self.pods.remove(&name),
        };
    }

    fn set_state(&mut self, name: &Text, state: Option<NodeState>, dirty: &mut Dirty) {
        let slot = self.slot(name);
        let old = std::mem::replace(&mut self.slots[slot as usize].state, state);
        if old.is_some() != self.slots[slot as usize].state.is_some() {
            self.select(slot, dirty);
        }
        let new = &self.slots[slot as usize].state;
        let reports =
            |state: &Option<NodeState>| state.as_ref().map(|s| s.policies.clone()).unwrap_or_default();
        let listed = |state: &Option<NodeState>| state.as_ref().and_then(|s| s.listed_until.clone());
        if listed(&old) != listed(new) {
            dirty.policies.extend(self.policies.keys().cloned());
        }
        let (before, after) = (reports(&old), reports(new));
        for (reference, report) in &after {
            if before.get(reference) != Some(report) {
                dirty.policies.insert((**reference).clone());
            }
        }
        let gone = before.keys().filter(|reference| !after.contains_key(*reference));
        dirty.policies.extend(gone.map(|reference| (**reference).clone()));
        self.tidy(slot);
    }

    fn set_slice(&mut self, name: String, slice: Option<Slice>, dirty: &mut Dirty) {
        if self.slices.get(&name) == slice.as_ref() {
            return;
        }
        let new = slice.as_ref().and_then(|s| s.published.clone());
        let old = match slice {
            Some(slice) => self.slices.insert(name, slice),
            None => self.slices.remove(&name),
        };
        for published in old.and_then(|s| s.published).iter().chain(&new) {
            match published {
                Published::Nodes => dirty.nodes = true,
                Published::Backends { policy, .. } => drop(dirty.backends.insert(policy.clone())),
            }
        }
    }

    fn slot(&mut self, name: &Text) -> u32 {
        if let Some(slot) = self.slot_of.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[slot as usize].name = Arc::clone(name);
        self.slot_of.insert(Arc::clone(name), slot);
        slot
    }

    /// Gives a slot back that nothing stands in.
    fn tidy(&mut self, slot: u32) {
        let held = &mut self.slots[slot as usize];
        if held.node.is_none() && held.state.is_none() {
            self.slot_of.remove(&std::mem::take(&mut held.name));
            self.free.push(slot);
        }
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, reference: &PolicyRef) -> Option<&Policy> {
        self.policies.get(reference).map(|entry| &entry.object)
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().map(|entry| &entry.object)
    }

    /// What a valid policy claims.
    #[must_use]
    pub fn claims(&self, reference: &PolicyRef) -> Option<&Claims> {
        self.policies.get(reference)?.claims.as_ref()
    }

    /// The nodes that a policy selects.
    #[must_use]
    pub fn selected(&self, reference: &PolicyRef) -> Option<&Bits> {
        self.policies.get(reference).map(|entry| &entry.selected)
    }

    /// Who comes before a policy on a frontend, first to last, each with the nodes it selects.
    pub fn before<'w>(
        &'w self,
        rank: &'w Rank,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (&'w Rank, &'w Policy, &'w Bits)> {
        let all = self.claimants.get(frontend).into_iter().flatten();
        all.take_while(move |r| *r < rank).filter_map(|r| {
            let entry = self.policies.get(&r.policy)?;
            Some((r, &entry.object, &entry.selected))
        })
    }

    /// Who comes after a policy on a frontend, first to last, each with the nodes it selects.
    pub fn behind<'w>(
        &'w self,
        rank: &'w Rank,
        frontend: &Frontend,
    ) -> impl Iterator<Item = (&'w Rank, &'w Bits)> {
        let all = self.claimants.get(frontend).into_iter().flatten();
        all.skip_while(move |r| *r <= rank)
            .filter_map(|r| self.policies.get(&r.policy).map(|entry| (r, &entry.selected)))
    }

    fn slots_with_agents(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.can_have_agent(self.placement.as_ref()))
    }

    /// The names of all Nodes on which an agent is or may be.
    pub fn nodes(&self) -> impl Iterator<Item = &Text> {
        self.slots_with_agents().map(|slot| &slot.name)
    }

    /// Name of a node.
    #[must_use]
    pub fn node_name(&self, slot: u32) -> &str {
        self.slots.get(slot as usize).map_or("", |slot| &slot.name)
    }

    /// What a node says of this incarnation and generation of a policy.
    #[must_use]
    pub fn said(&self, slot: u32, policy: &Policy) -> Said<'_> {
        let Some(state) = self.slots.get(slot as usize).and_then(|slot| slot.state.as_ref()) else {
            return Said::Nothing;
        };
        match state.policies.get(&policy.reference) {
            Some(report) => {
                let same = report.uid.is_empty() || *report.uid == *policy.uid;
                if same && report.generation >= policy.generation {
                    Said::Report(report)
                } else {
                    Said::Nothing
                }
            }
            None if state.listed_until.as_ref().is_some_and(|last| policy.reference > *last) => {
                Said::NothingWrong
            }
            None => Said::Nothing,
        }
    }

    /// How the agents are.
    #[must_use]
    pub fn agents(&self) -> Agents {
        let mut agents = Agents::default();
        for slot in self.slots_with_agents() {
            match &slot.state {
                Some(state) if state.ready => agents.ready += 1,
                Some(_) => agents.not_ready += 1,
                None => agents.silent += 1,
            }
        }
        agents
    }

    /// Does any policy have pods of the cluster behind it?
    #[must_use]
    pub fn needs_pods(&self) -> bool {
        self.policies.values().any(|entry| pods_of(&entry.object).is_some())
    }

    /// The backends of a policy that are to be published, and their ports.
    #[must_use]
    pub fn backends(&self, reference: &PolicyRef) -> Option<(Published, Vec<Endpoint>, Vec<Port>)> {
        let entry = self.policies.get(reference)?;
        let spec = entry.object.spec.as_ref().ok().filter(|_| pods_of(&entry.object).is_some())?;
        let pods = entry.pods.iter().filter_map(|name| self.pods.get(name)).map(|pod| &**pod);
        let node = |name: &str| {
            let slot = self.slots.get(*self.slot_of.get(name)? as usize)?;
            slot.node.as_deref().map(|n| &n.node)
        };
        let endpoint = |b: PolicyBackend| Endpoint {
            address: b.address,
            ready: b.usability == balancing_api::records::Usability::Ready,
            node: b.node,
            pod: b.pod,
        };
        let over = |b: &PolicyBackend| b.usability != balancing_api::records::Usability::Finished;
        let endpoints = backends(&spec.backend, pods, node).into_iter().filter(over).map(endpoint).collect();
        let ports: BTreeSet<Port> = match &spec.ports {
            checked::Ports::Listed(pairing) => pairing
                .pairs
                .iter()
                .map(|pair| Port { number: pair.backend, protocol: pair.frontend.protocol })
                .collect(),
            checked::Ports::OfService { backend } => {
                backend.iter().map(|p| Port { number: p.number, protocol: p.protocol }).collect()
            }
        };
        let published = Published::Backends { policy: reference.clone(), uid: entry.object.uid.clone() };
        Some((published, endpoints, ports.into_iter().collect()))
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn node_addresses(&self) -> Vec<Endpoint> {
        let nodes = self.slots.iter().filter_map(|slot| slot.node.as_deref());
        let mut all: Vec<_> = nodes
            .flat_map(|n| {
                n.node.addresses.iter().map(|address| Endpoint {
                    address: *address,
                    ready: true,
                    node: Some(Arc::clone(&n.node.name)),
                    pod: None,
                })
            })
            .collect();
        all.sort();
        all.dedup_by_key(|e| e.address);
        all
    }

    /// The slices that hold this, of whichever incarnation.
    #[must_use]
    pub fn slices(&self, held: impl Fn(&Published) -> bool) -> Vec<Slice> {
        self.slices.values().filter(|s| s.published.as_ref().is_some_and(&held)).cloned().collect()
    }

    /// Policies that need a number, with the one they get.
    #[must_use]
    pub fn unnumbered_policies(&self) -> Vec<(PolicyRef, u32)> {
        let all = self.policies.values().map(|entry| Numbered {
            key: entry.rank(),
            name: entry.object.reference.to_string(),
            id: entry.object.id.as_deref().and_then(ids::parse),
        });
        ids::assign(all.collect()).into_iter().map(|(rank, id)| (rank.policy, id)).collect()
    }

    /// Nodes that need a number, with the one they get.
    #[must_use]
    pub fn unnumbered_nodes(&self) -> Vec<(Arc<ClusterNode>, u32)> {
        let nodes = self.slots.iter().filter_map(|slot| slot.node.as_ref());
        let all = nodes.map(|n| Numbered {
            key: (n.created, Arc::clone(&n.node.name)),
            name: n.node.name.to_string(),
            id: n.id.as_deref().and_then(ids::parse),
        });
        let node = |name: &Text| {
            let slot = self.slots.get(*self.slot_of.get(name)? as usize)?;
            slot.node.clone()
        };
        ids::assign(all.collect())
            .into_iter()
            .filter_map(|((_, name), id)| Some((node(&name)?, id)))
            .collect()
    }
}

fn policy_of(published: &Published) -> Option<PolicyRef> {
    match published {
        Published::Backends { policy, .. } => Some(policy.clone()),
        Published::Nodes => None,
    }
}

/// Is it the kind whose backends are pods of the same node?
#[must_use]
pub const fn is_redirect(kind: PolicyKind) -> bool {
    matches!(kind, PolicyKind::LocalRedirectPolicy)
}
