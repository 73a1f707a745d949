//! From a snapshot to what the maps are to hold: precedence is settled here, before any packet.

mod ladder;
mod operator;
mod policy;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use balancing_api::{
    backends::PolicyBackend,
    claims::Rank,
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};
use jiff::Timestamp;

pub use report::PolicyReport;

use crate::{
    desired::{Changes, Ladder, PolicySettings},
    snapshot::{Dirty, Name, Pod, PodName, Slice, Snapshot, Text, Usability},
};
use policy::Resolved;

/// Which Services the agent resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceResolution {
    /// All of them.
    #[default]
    All,
    /// None of its own; policies may name Services, and whatever resolves Services on the node goes on doing so.
    Policies,
    /// None: only policies that name an address apply.
    Off,
}

/// What compile has to know besides the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// `--node-name`.
    pub node: Text,
    /// `--namespace`: where the operator's pods are.
    pub namespace: Text,
    /// `--service-resolution`.
    pub resolution: ServiceResolution,
    /// Redirects a second of policies that set no limit of their own; 0 is none.
    pub default_limit: u32,
    /// `--api-server-host` and `--api-server-port`, where the host is an address.
    pub api_server: Option<(IpAddr, u16)>,
    /// Ids of the agent's own cgroups: exempt from every policy, as the operator's pods are.
    pub own_cgroups: BTreeSet<u64>,
    /// Ids of cgroups by the uid of their pod.
    pub pod_cgroups: HashMap<Text, Vec<u64>>,
    /// The objects are a cluster's: what spans nodes is resolved by its operator, and published in slices.
    pub cluster: bool,
    /// Uids of pods whose cgroup had processes and has none any more: no backends, whatever the API says. Empty with a
    /// folder of manifests, where the objects alone decide.
    pub lifeless: HashSet<Text>,
    /// Ids of containers whose cgroup had processes and has none any more, by the uid of their pod. A pod is no backend
    /// while its object calls one of them running. Empty with a folder of manifests.
    pub ended_containers: HashMap<Text, HashSet<Text>>,
}

impl NodeContext {
    /// Sets the cgroups of a pod, none: it has none any more. Tells `dirty` if that changed anything.
    pub fn set_pod_cgroups(&mut self, uid: Text, cgroups: Vec<u64>, dirty: &mut Dirty) {
        let changed = match self.pod_cgroups.entry(Arc::clone(&uid)) {
            Entry::Occupied(e) if *e.get() == cgroups => false,
            Entry::Occupied(e) if cgroups.is_empty() => {
                e.remove();
                true
            }
            Entry::Occupied(mut e) => {
                e.insert(cgroups);
                true
            }
            Entry::Vacant(_) if cgroups.is_empty() => false,
            Entry::Vacant(e) => {
                e.insert(cgroups);
                true
            }
        };
        if changed {
            dirty.cgroups.insert(uid);
        }
    }

    /// The processes of a pod have gone, or are there (again). Tells `dirty` if that changed anything.
    pub fn set_lifeless(&mut self, uid: Text, lifeless: bool, dirty: &mut Dirty) {
        let changed =
            if lifeless { self.lifeless.insert(Arc::clone(&uid)) } else { self.lifeless.remove(&uid) };
        if changed {
            dirty.cgroups.insert(uid);
        }
    }

    /// Sets the containers of a pod that have ended, none: it has none such. Tells `dirty` if that changed anything.
    pub fn set_ended_containers(&mut self, uid: Text, ids: HashSet<Text>, dirty: &mut Dirty) {
        let changed = if ids.is_empty() {
            self.ended_containers.remove(&uid).is_some()
        } else {
            let old = self.ended_containers.insert(Arc::clone(&uid), ids);
            old.as_ref() != self.ended_containers.get(&uid)
        };
        if changed {
            dirty.cgroups.insert(uid);
        }
    }

    /// Has the pod no process any more, or a container that its object calls running?
    fn has_ended(&self, pod: &Pod) -> bool {
        let ended = || self.ended_containers.get(&pod.uid);
        self.lifeless.contains(&pod.uid)
            || ended().is_some_and(|ids| pod.running.iter().any(|id| ids.contains(id)))
    }

    /// Can the pod be a backend, as far as the API and its cgroup say?
    #[must_use]
    pub fn usability(&self, pod: &Pod) -> Usability {
        match pod.usability() {
            Usability::Ready if self.has_ended(pod) => Usability::NoProcess,
            usability => usability,
        }
    }

    /// The same of the pod with this full name. Pods of other nodes are not known, and have not.
    fn is_lifeless(&self, snapshot: &Snapshot, full_name: PodName<'_>) -> bool {
        if self.lifeless.is_empty() && self.ended_containers.is_empty() {
            return false;
        }
        let full_name = full_name.to_string();
        let name = full_name.split_once('/').map(|(namespace, name)| Name::new(namespace, name));
        let pod = name.and_then(|name| snapshot.pod(&name));
        pod.is_some_and(|pod| self.has_ended(pod))
    }
}

/// A port of a Service on a frontend. Of several Services on one the first is that whose ClusterIP it is, then the older.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServiceClaim {
    /// Is the address one from outside of the cluster? Whoever may write a Service chooses those, and takes no other Service's
    /// frontend by it.
    external: bool,
    created: Option<Timestamp>,
    service: Name,
}

/// Turns changes of a snapshot into changes of the desired state.
///
/// It holds who claims what, so that a change costs what it touches. What it holds follows from the snapshot and the
/// context alone: a new one, given everything at once, comes to the same state.
#[derive(Debug, Default)]
pub struct Compiler {
    policies: BTreeMap<PolicyRef, Resolved>,
    policies_at: HashMap<Frontend, Vec<Rank>>,
    services: HashMap<Name, Vec<Frontend>>,
    services_at: HashMap<Frontend, Vec<ServiceClaim>>,
    /// Policies by a label that all their pods have.
    by_label: HashMap<(Text, Text), BTreeSet<PolicyRef>>,
    /// Policies whose selector asks for no certain label.
    by_no_label: BTreeSet<PolicyRef>,
    /// The policies that select a pod.
    selected_by: HashMap<Name, BTreeSet<PolicyRef>>,
    zone: Option<Text>,
    /// Ids of the cgroups of the operator's pods: exempt from every policy.
    operator: BTreeSet<u64>,
    desired: BTreeMap<Frontend, Ladder>,
    settings: BTreeMap<PolicyRef, PolicySettings>,
}

impl Compiler {
    /// Brings the desired state up to date with a snapshot of which only what `dirty` names has changed since the last
    /// call; answers the differences.
    pub fn compile(&mut self, snapshot: &Snapshot, context: &NodeContext, dirty: &Dirty) -> Changes {
        let mut changes = Changes::default();
        let mut touched = BTreeSet::new();
        let zone_changed = self.update_zone(snapshot, context);
        let operator_changed = self.update_operator(snapshot, context, dirty);
        for reference in self.affected_policies(snapshot, context, dirty, operator_changed) {
            self.update_policy(snapshot, context, reference, &mut touched, &mut changes);
        }
        for service in self.affected_services(snapshot, dirty) {
            self.update_service(snapshot, context, service, &mut touched);
        }
        let lives = services_with_pods(snapshot, context, dirty);
        if zone_changed {
            touched.extend(self.services_at.keys());
        } else {
            let changed = dirty.endpoints.iter().chain(lives.iter());
            touched.extend(changed.filter_map(|service| self.services.get(service)).flatten());
        }
        if dirty.endpoints.iter().any(Name::is_api_server) {
            self.touch_where_the_api_server_may_be(&mut touched);
        }
        for frontend in touched {
            self.update_frontend(snapshot, context, frontend, &mut changes);
        }
        changes
    }

    /// The desired state: the ladder of each frontend.
    #[must_use]
    pub fn desired(&self) -> &BTreeMap<Frontend, Ladder> {
        &self.desired
    }

    /// The desired state: the settings of each policy that applies to this node.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<PolicyRef, PolicySettings> {
        &self.settings
    }

    /// Whose the addresses are that the policies which claim something here lead to.
    pub fn policy_addresses(&self, snapshot: &Snapshot, context: &NodeContext) -> Vec<PolicyBackend> {
        let claiming = self.policies.values().filter(|resolved| !resolved.claims.is_empty());
        claiming.flat_map(|resolved| resolved.addresses(snapshot, context)).collect()
    }

    fn update_zone(&mut self, snapshot: &Snapshot, context: &NodeContext) -> bool {
        let zone = snapshot.node(&context.node).and_then(|n| n.labels.get(balancing_api::names::LABEL_ZONE));
        if self.zone.as_deref() == zone {
            return false;
        }
        self.zone = zone.map(Into::into);
        true
    }

    fn update_operator(&mut self, snapshot: &Snapshot, context: &NodeContext, dirty: &Dirty) -> bool {
        if !dirty.everything && dirty.pods.is_empty() && dirty.cgroups.is_empty() {
            return false;
        }
        let cgroups = operator::cgroups(snapshot, context);
        let changed = self.operator != cgroups;
        self.operator = cgroups;
        changed
    }

    /// `operator_changed`: other processes than before are exempt from every policy.
    fn affected_policies(
        &self,
        snapshot: &Snapshot,
        context: &NodeContext,
        dirty: &Dirty,
        operator_changed: bool,
    ) -> BTreeSet<PolicyRef> {
        if dirty.everything || operator_changed || dirty.nodes.contains(&context.node) {
            return self
                .policies
                .keys()
                .cloned()
                .chain(snapshot.policies().map(|p| p.reference.clone()))
                .collect();
        }
        let mut affected = dirty.policies.clone();
        affected.extend(dirty.services.iter().flat_map(|s| snapshot.policies_of(s)).cloned());
        for name in &dirty.pods {
            affected.extend(self.selected_by.get(name).into_iter().flatten().cloned());
            if let Some(pod) = snapshot.pod(name) {
                self.candidates_for(pod, &mut affected);
            }
        }
        if !dirty.nodes.is_empty() {
            affected.extend(self.policies.iter().filter(|(_, r)| r.depends_on_nodes).map(|(p, _)| p.clone()));
        }
        let pods = dirty.cgroups.iter().flat_map(|uid| snapshot.pods_of_uid(uid));
        affected.extend(pods.filter_map(|pod| self.selected_by.get(&pod.name)).flatten().cloned());
        affected
    }

    /// The policies that may select a pod, by its labels.
    fn candidates_for(&self, pod: &Pod, found: &mut BTreeSet<PolicyRef>) {
        found.extend(self.by_no_label.iter().cloned());
        for (key, value) in pod.labels.iter() {
            let policies = self.by_label.get(&(Arc::clone(key), Arc::clone(value)));
            found.extend(policies.into_iter().flatten().cloned());
        }
    }

    fn affected_services(&self, snapshot: &Snapshot, dirty: &Dirty) -> BTreeSet<Name> {
        if dirty.everything {
            return self
                .services
                .keys()
                .cloned()
                .chain(snapshot.services().map(|s| s.name.clone()))
                .collect();
        }
        dirty.services.clone()
    }

    fn update_policy(
        &mut self,
        snapshot: &Snapshot,
        context: &NodeContext,
        reference: PolicyRef,
        touched: &mut BTreeSet<Frontend>,
        changes: &mut Changes,
    ) {
        if let Some(old) = self.policies.remove(&reference) {
            touched.extend(old.claims.keys());
            self.forget(&reference, &old);
        }
        let new = snapshot.policy(&reference).map(|policy| Resolved::new(policy, snapshot, context));
        let settings = new.as_ref().and_then(|r| r.settings(context, &self.operator));
        if self.settings.get(&reference) != settings.as_ref() {
            match &settings {
                Some(settings) => self.settings.insert(reference.clone(), settings.clone()),
                None => self.settings.remove(&reference),
            };
            changes.policies.push((reference.clone(), settings));
        }
        if let Some(new) = new {
            touched.extend(new.claims.keys());
            self.remember(&reference, &new);
            self.policies.insert(reference, new);
        }
    }

    fn forget(&mut self, reference: &PolicyRef, old: &Resolved) {
        let rank = old.rank();
        for frontend in old.claims.keys() {
            remove_sorted(&mut self.policies_at, frontend, &rank);
        }
        for pod in old.pod_names() {
            remove_member(&mut self.selected_by, &pod, reference);
        }
        match &old.label {
            Some(label) => remove_member(&mut self.by_label, label, reference),
            None => {
                self.by_no_label.remove(reference);
            }
        }
    }

    fn remember(&mut self, reference: &PolicyRef, new: &Resolved) {
        let rank = new.rank();
        for frontend in new.claims.keys() {
            insert_sorted(&mut self.policies_at, *frontend, rank.clone());
        }
        for pod in new.pod_names() {
            self.selected_by.entry(pod).or_default().insert(reference.clone());
        }
        match &new.label {
            Some(label) => {
                self.by_label.entry(label.clone()).or_default().insert(reference.clone());
            }
            None if new.selects_pods => {
                self.by_no_label.insert(reference.clone());
            }
            None => {}
        }
    }

    fn update_service(
        &mut self,
        snapshot: &Snapshot,
        context: &NodeContext,
        name: Name,
        touched: &mut BTreeSet<Frontend>,
    ) {
        for frontend in self.services.remove(&name).unwrap_or_default() {
            if let Entry::Occupied(mut claims) = self.services_at.entry(frontend) {
                claims.get_mut().retain(|c| c.service != name);
                if claims.get().is_empty() {
                    claims.remove();
                }
            }
            touched.insert(frontend);
        }
        if name.is_api_server() {
            self.touch_where_the_api_server_may_be(touched);
        }
        let Some(service) = snapshot.service(&name).filter(|_| context.resolution == ServiceResolution::All)
        else {
            return;
        };
        let at = |ip: &IpAddr| {
            let ip = *ip;
            service.ports.iter().map(move |p| Frontend::new(ip, p.port, p.protocol))
        };
        let mut frontends: Vec<Frontend> =
            service.addresses.iter().chain(&service.external).flat_map(at).collect();
        frontends.sort();
        frontends.dedup();
        for frontend in &frontends {
            let external = !service.addresses.contains(&frontend.address);
            let claim = ServiceClaim { external, created: service.created, service: name.clone() };
            insert_sorted(&mut self.services_at, *frontend, claim);
            touched.insert(*frontend);
        }
        if !frontends.is_empty() {
            self.services.insert(name, frontends);
        }
    }

    /// Policies refuse nobody where the API server is, also where Services are not resolved, and no Service takes its place.
    fn touch_where_the_api_server_may_be(&self, touched: &mut BTreeSet<Frontend>) {
        touched.extend(self.policies_at.keys());
        let external = |claims: &[ServiceClaim]| claims.first().is_some_and(|claim| claim.external);
        touched.extend(self.services_at.iter().filter(|(_, claims)| external(claims)).map(|(at, _)| at));
    }

    fn update_frontend(
        &mut self,
        snapshot: &Snapshot,
        context: &NodeContext,
        frontend: Frontend,
        changes: &mut Changes,
    ) {
        let ladder = self.ladder(snapshot, context, frontend);
        if self.desired.get(&frontend) == ladder.as_ref() {
            return;
        }
        match &ladder {
            Some(ladder) => self.desired.insert(frontend, ladder.clone()),
            None => self.desired.remove(&frontend),
        };
        changes.frontends.push((frontend, ladder));
    }

    /// The policy that holds a frontend.
    fn winner(&self, frontend: &Frontend) -> Option<(&PolicyRef, &Resolved)> {
        let first = self.policies_at.get(frontend)?.first()?;
        self.policies.get_key_value(&first.policy)
    }
}

/// The Services that have an endpoint in a pod of this node whose processes may have come or gone.
fn services_with_pods(snapshot: &Snapshot, context: &NodeContext, dirty: &Dirty) -> BTreeSet<Name> {
    let pods = dirty.cgroups.iter().flat_map(|uid| snapshot.pods_of_uid(uid));
    let pods: HashSet<&str> = pods.filter(|_| context.cluster).map(|pod| &*pod.full_name).collect();
    if pods.is_empty() {
        return BTreeSet::new();
    }
    let mut name = String::new();
    let has = |slice: &&Arc<Slice>| {
        slice.endpoints.iter().filter_map(|e| e.pod).any(|pod| {
            pod.write_to(&mut name);
            pods.contains(&*name)
        })
    };
    snapshot.slices().filter(has).filter_map(|slice| slice.service.clone()).collect()
}

fn insert_sorted<T: Ord>(map: &mut HashMap<Frontend, Vec<T>>, frontend: Frontend, item: T) {
    let all = map.entry(frontend).or_insert_with(|| Vec::with_capacity(1));
    if let Err(at) = all.binary_search(&item) {
        all.insert(at, item);
    }
}

fn remove_sorted<T: Ord>(map: &mut HashMap<Frontend, Vec<T>>, frontend: &Frontend, item: &T) {
    if let Entry::Occupied(mut all) = map.entry(*frontend) {
        if let Ok(at) = all.get().binary_search(item) {
            all.get_mut().remove(at);
        }
        if all.get().is_empty() {
            all.remove();
        }
    }
}

fn remove_member<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<PolicyRef>>,
    key: &K,
    reference: &PolicyRef,
) {
    if let Some(all) = map.get_mut(key) {
        all.remove(reference);
        if all.is_empty() {
            map.remove(key);
        }
    }
}

/// Is it the kind whose backends are pods of this node?
const fn is_redirect(kind: PolicyKind) -> bool {
    matches!(kind, PolicyKind::LocalRedirectPolicy)
}
