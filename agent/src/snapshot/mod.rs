//! What the agent knows of its objects, as compact records with the indexes that compile asks by.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

pub use balancing_api::records::*;
use balancing_api::{policy::PolicyRef, published::Published};

/// What changed in a snapshot, by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Everything may have.
    pub everything: bool,
    /// Nodes.
    pub nodes: BTreeSet<Text>,
    /// Services, themselves.
    pub services: BTreeSet<Name>,
    /// Services whose slices changed.
    pub endpoints: BTreeSet<Name>,
    /// Pods.
    pub pods: BTreeSet<Name>,
    /// Policies, and those whose published backends changed.
    pub policies: BTreeSet<PolicyRef>,
    /// Uids of pods whose cgroups appeared or went, or whose processes did.
    pub cgroups: BTreeSet<Text>,
}

impl Dirty {
    /// Everything may have changed: at the start, and after a change of the agent's own settings.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Adds what changed elsewhere.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.nodes.extend(other.nodes);
        self.services.extend(other.services);
        self.endpoints.extend(other.endpoints);
        self.pods.extend(other.pods);
        self.policies.extend(other.policies);
        self.cgroups.extend(other.cgroups);
    }

    /// Did nothing change?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The objects of a source, and their indexes.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<Text, Arc<Node>>,
    services: HashMap<Name, Arc<Service>>,
    slices: HashMap<Name, Arc<Slice>>,
    pods: HashMap<Name, Arc<Pod>>,
    policies: BTreeMap<PolicyRef, Arc<Policy>>,
    slices_of: HashMap<Name, Vec<Name>>,
    /// Slices with published backends, by policy.
    backends_of: HashMap<PolicyRef, Vec<Name>>,
    pods_of: HashMap<Text, BTreeSet<Name>>,
    /// Of one uid there is one pod, but for copies in a folder.
    pods_of_uid: HashMap<Text, Vec<Name>>,
    policies_of: HashMap<Name, BTreeSet<PolicyRef>>,
}

impl Snapshot {
    /// Applies changes in their order; answers what they touched. A change that changes nothing touches nothing.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = ObjectChange>) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            self.apply_one(change, &mut dirty);
        }
        dirty
    }

    fn apply_one(&mut self, change: ObjectChange, dirty: &mut Dirty) {
        match (change.key, change.object) {
            (ObjectKey::Node(name), object) => {
                let node = if let Some(Object::Node(node)) = object { Some(node) } else { None };
                if self.nodes.get(&name) != node.as_ref() {
                    match node {
                        Some(node) => self.nodes.insert(Arc::clone(&name), node),
                        None => self.nodes.remove(&name),
                    };
                    dirty.nodes.insert(name);
                }
            }
            (ObjectKey::Service(name), object) => {
                let service = if let Some(Object::Service(service)) = object { Some(service) } else { None };
                if replace(&mut self.services, &name, service).is_some() {
                    dirty.services.insert(name);
                }
            }
            (ObjectKey::Slice(name), object) => {
                let slice = if let Some(Object::Slice(slice)) = object { Some(slice) } else { None };
                self.set_slice(&name, slice, dirty);
            }
            (ObjectKey::Pod(name), object) => {
                let pod = if let Some(Object::Pod(pod)) = object { Some(pod) } else { None };
                self.set_pod(name, pod, dirty);
            }
            (ObjectKey::Policy(reference), object) => {
                let policy = if let Some(Object::Policy(policy)) = object { Some(policy) } else { None };
                self.set_policy(reference, policy, dirty);
            }
        }
    }

    fn set_slice(&mut self, name: &Name, slice: Option<Arc<Slice>>, dirty: &mut Dirty) {
        let new_policy = slice.as_deref().and_then(policy_of).cloned();
        let new = slice.as_ref().and_then(|s| s.service.clone());
        let Some(old) = replace(&mut self.slices, name, slice) else { return };
        let old_policy = old.as_deref().and_then(policy_of).cloned();
        let old = old.and_then(|s| s.service.clone());
        if let Some(policy) = &old_policy
            && let Some(all) = self.backends_of.get_mut(policy)
        {
            all.retain(|s| s != name);
            if all.is_empty() {
                self.backends_of.remove(policy);
            }
        }
        if let Some(policy) = &new_policy {
            self.backends_of.entry(policy.clone()).or_default().push(name.clone());
        }
        dirty.policies.extend([old_policy, new_policy].into_iter().flatten());
        if let Some(service) = &old
            && let Some(all) = self.slices_of.get_mut(service)
        {
            all.retain(|s| s != name);
            if all.is_empty() {
                self.slices_of.remove(service);
            }
        }
        if let Some(service) = &new {
            // Nearly all have one.
            let all = self.slices_of.entry(service.clone()).or_insert_with(|| Vec::with_capacity(1));
            all.push(name.clone());
        }
        dirty.endpoints.extend([old, new].into_iter().flatten());
    }

    fn set_pod(&mut self, name: Name, pod: Option<Arc<Pod>>, dirty: &mut Dirty) {
        let new = pod.clone();
        let Some(old) = replace(&mut self.pods, &name, pod) else { return };
        if let Some(old) = old {
            if new.as_ref().is_some_and(|new| new.running != old.running) {
                // Containers are compared with cgroups; endpoints of Services depend on that, not on the rest of a pod.
                dirty.cgroups.insert(Arc::clone(&old.uid));
            }
            if let Some(node) = &old.node
                && let Some(all) = self.pods_of.get_mut(node)
            {
                all.remove(&name);
                if all.is_empty() {
                    self.pods_of.remove(node);
                }
            }
            if let Some(all) = self.pods_of_uid.get_mut(&old.uid) {
                all.retain(|pod| *pod != name);
                if all.is_empty() {
                    self.pods_of_uid.remove(&old.uid);
                }
            }
        }
        if let Some(new) = new {
            if let Some(node) = &new.node {
                self.pods_of.entry(Arc::clone(node)).or_default().insert(name.clone());
            }
            if !new.uid.is_empty() {
                self.pods_of_uid.entry(Arc::clone(&new.uid)).or_default().push(name.clone());
            }
        }
        dirty.pods.insert(name);
    }

    fn set_policy(&mut self, reference: PolicyRef, policy: Option<Arc<Policy>>, dirty: &mut Dirty) {
        let old = self.policies.get(&reference);
        if old == policy.as_ref() {
            return;
        }
        if let Some(service) = old.and_then(|p| p.matched_service())
            && let Some(all) = self.policies_of.get_mut(service)
        {
            all.remove(&reference);
            if all.is_empty() {
                self.policies_of.remove(service);
            }
        }
        match policy {
            Some(policy) => {
                if let Some(service) = policy.matched_service() {
                    self.policies_of.entry(service.clone()).or_default().insert(reference.clone());
                }
                self.policies.insert(reference.clone(), policy);
            }
            None => {
                self.policies.remove(&reference);
            }
        }
        dirty.policies.insert(reference);
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(|n| &**n)
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name).map(|s| &**s)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|s| &**s)
    }

    /// The slices of a Service, in no order.
    pub fn slices_of(&self, service: &Name) -> impl Iterator<Item = &Slice> {
        self.slices_of
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(name))
            .map(|s| &**s)
    }

    /// All slices, in no order.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<Slice>> {
        self.slices.values()
    }

    /// The slices with the published backends of a policy, in no order. Those of one that had its name before are not
    /// its.
    pub fn backends_of<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = &'a Slice> {
        let its = |slice: &&Slice| match slice.published.as_deref() {
            Some(Published::Backends { uid, .. }) => policy.uid.is_empty() || **uid == *policy.uid,
            _ => false,
        };
        let names = self.backends_of.get(&policy.reference).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name)).map(|s| &**s).filter(its)
    }

    /// A pod.
    #[must_use]
    pub fn pod(&self, name: &Name) -> Option<&Arc<Pod>> {
        self.pods.get(name)
    }

    /// All pods, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// The pods of a node, by name.
    pub fn pods_of(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_of.get(node).into_iter().flatten().filter_map(|name| self.pods.get(name))
    }

    /// A pod with this uid: the one its cgroup is named by.
    #[must_use]
    pub fn pod_of_uid(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods_of_uid(uid).next()
    }

    /// The pods with this uid: the one their cgroup is named by.
    pub fn pods_of_uid(&self, uid: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_of_uid.get(uid).into_iter().flatten().filter_map(|name| self.pods.get(name))
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, reference: &PolicyRef) -> Option<&Arc<Policy>> {
        self.policies.get(reference)
    }

    /// All policies, by kind and name.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// The policies whose serviceMatcher names this Service.
    pub fn policies_of(&self, service: &Name) -> impl Iterator<Item = &PolicyRef> {
        self.policies_of.get(service).into_iter().flatten()
    }
}

fn policy_of(slice: &Slice) -> Option<&PolicyRef> {
    match slice.published.as_deref()? {
        Published::Backends { policy, .. } => Some(policy),
        Published::Nodes => None,
    }
}

/// Sets or removes an entry; the old one if that changed anything, `None` if not.
fn replace<T: PartialEq>(
    map: &mut HashMap<Name, Arc<T>>,
    name: &Name,
    new: Option<Arc<T>>,
) -> Option<Option<Arc<T>>> {
    if map.get(name) == new.as_ref() {
        return None;
    }
    Some(match new {
        Some(new) => map.insert(name.clone(), new),
        None => map.remove(name),
    })
}
