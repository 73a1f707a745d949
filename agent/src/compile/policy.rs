//! One policy, seen from this node: does it apply, what does it claim, which pods does it select.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use balancing_api::{
    backends::PolicyBackend,
    claims::{Claims, Rank, References},
    net::Frontend,
    policy::RedirectMode,
    rules::checked::{Backend, Condition, Port},
};

use super::{NodeContext, ServiceResolution};
use crate::{
    desired::PolicySettings,
    snapshot::{EndpointRef, Name, Phase, Pod, Policy, PolicySpec, Snapshot, Text, Usability},
};

/// Why a policy claims nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It claims what it names.
    Applies,
    /// Its spec breaks a rule.
    Invalid,
    /// Its node selector leaves this node out.
    NotSelected,
    /// Services are not resolved at all.
    ServicesOff,
    /// What it refers to is not there, or not as it needs it.
    Missing(References),
}

/// A policy as this node sees it.
#[derive(Debug)]
pub(super) struct Resolved {
    pub policy: Arc<Policy>,
    pub standing: Standing,
    /// Its frontends, with the backend port of each.
    pub claims: BTreeMap<Frontend, u16>,
    /// Session affinity of the Service it matches.
    pub affinity_seconds: Option<u32>,
    /// Ports it lists that its Service has not.
    pub missing_ports: Vec<Port>,
    /// Frontend ports that no backend port goes with.
    pub unpaired: Vec<Port>,
    /// The pods it selects: of this node for a LocalRedirectPolicy. By name.
    pub pods: Vec<Arc<Pod>>,
    /// Its backends that the operator published: in a cluster, in the place of pods of many nodes.
    pub published: Option<Vec<PolicyBackend>>,
    /// Does it select pods at all, on this node?
    pub selects_pods: bool,
    /// A label that all pods it can select have.
    pub label: Option<(Text, Text)>,
    /// Do its backends depend on nodes other than this one?
    pub depends_on_nodes: bool,
}

impl Resolved {
    pub(super) fn new(policy: &Arc<Policy>, snapshot: &Snapshot, context: &NodeContext) -> Self {
        let mut resolved = Self {
            policy: Arc::clone(policy),
            standing: Standing::Invalid,
            claims: BTreeMap::new(),
            affinity_seconds: None,
            missing_ports: Vec::new(),
            unpaired: Vec::new(),
            pods: Vec::new(),
            published: None,
            selects_pods: false,
            label: None,
            depends_on_nodes: false,
        };
        let Ok(spec) = &policy.spec else { return resolved };
        if !selects_node(spec, snapshot, context) {
            resolved.standing = Standing::NotSelected;
            return resolved;
        }
        resolved.find_pods(spec, snapshot, context);
        resolved.standing = resolved.claim(spec, snapshot, context);
        resolved
    }

    pub(super) fn rank(&self) -> Rank {
        Rank { created: self.policy.created, policy: self.policy.reference.clone() }
    }

    fn find_pods(&mut self, spec: &PolicySpec, snapshot: &Snapshot, context: &NodeContext) {
        let Some((selector, _)) = spec.pods() else { return };
        if context.cluster && matches!(spec.checked.backend, Backend::Pods { .. }) {
            self.published = Some(published(&self.policy, snapshot, context));
            return;
        }
        self.selects_pods = true;
        self.label = selector
            .requirements
            .iter()
            .find_map(|r| match &r.condition {
                Condition::In(values) if values.len() == 1 => Some((&*r.key, &**values.first()?)),
                _ => None,
            })
            .map(|(key, value)| (key.into(), value.into()));
        self.pods = match &spec.checked.backend {
            Backend::Pods { mode, .. } => {
                self.depends_on_nodes = *mode != RedirectMode::PodEndpoint;
                snapshot.pods().filter(|pod| spec.selects(pod)).cloned().collect()
            }
            _ => snapshot.pods_of(&context.node).filter(|pod| spec.selects(pod)).cloned().collect(),
        };
        self.pods.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The pods that it depends on.
    pub(super) fn pod_names(&self) -> impl Iterator<Item = Name> {
        let name = |pod: &Text| pod.split_once('/').map(|(namespace, name)| Name::new(namespace, name));
        let published = self.published.iter().flatten().filter_map(move |b| name(b.pod.as_ref()?));
        self.pods.iter().map(|pod| pod.name.clone()).chain(published)
    }

    /// Claims frontends; answers how that went.
    fn claim(&mut self, spec: &PolicySpec, snapshot: &Snapshot, context: &NodeContext) -> Standing {
        if spec.service.is_some() && context.resolution == ServiceResolution::Off {
            return Standing::ServicesOff;
        }
        let service = spec.service.as_ref().and_then(|name| snapshot.service(name));
        let claims = Claims::of(&spec.checked, service);
        self.claims = claims.frontends;
        self.affinity_seconds = claims.affinity_seconds;
        self.missing_ports = claims.missing_ports;
        self.unpaired = claims.unpaired;
        match claims.references {
            References::Found => Standing::Applies,
            missing => Standing::Missing(missing),
        }
    }

    /// The local pods whose own connections are left alone: all it selects here that are not over.
    pub(super) fn exempt_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let exempt = self.policy.spec.as_ref().is_ok_and(|spec| {
            matches!(spec.checked.backend, Backend::Local { skip_redirect_from_backend: true, .. })
        });
        self.pods.iter().filter(move |pod| exempt && pod.phase != Phase::Finished)
    }

    /// What all its frontends share, the operator being exempt from every policy; `None` where it does not apply.
    pub(super) fn settings(&self, context: &NodeContext, operator: &BTreeSet<u64>) -> Option<PolicySettings> {
        if matches!(self.standing, Standing::Invalid | Standing::NotSelected) {
            return None;
        }
        let mut callers = &context.own_cgroups | operator;
        for pod in self.exempt_pods() {
            callers.extend(context.pod_cgroups.get(&pod.uid).into_iter().flatten());
        }
        Some(PolicySettings { redirects_per_second: self.limit(context), callers })
    }

    /// Its limit in force; 0 is none.
    pub(super) fn limit(&self, context: &NodeContext) -> u32 {
        match &self.policy.spec {
            Ok(spec) if matches!(spec.checked.backend, Backend::Local { .. }) => {
                spec.checked.redirects_per_second.unwrap_or(context.default_limit)
            }
            _ => 0,
        }
    }
}

/// What the operator published as backends of a policy, by address and each once.
fn published(policy: &Policy, snapshot: &Snapshot, context: &NodeContext) -> Vec<PolicyBackend> {
    let endpoints = snapshot.backends_of(policy).flat_map(|slice| &slice.endpoints);
    let usability = |e: &EndpointRef<'_>| match e.pod {
        Some(pod) if context.is_lifeless(snapshot, pod) => Usability::NoProcess,
        _ if e.ready => Usability::Ready,
        _ => Usability::NotReady,
    };
    let mut all: Vec<PolicyBackend> = endpoints
        .map(|e| PolicyBackend {
            address: e.address,
            pod: e.pod.map(|pod| pod.text()),
            node: e.node.cloned(),
            usability: usability(&e),
        })
        .collect();
    let unfit = |b: &PolicyBackend| b.usability != Usability::Ready;
    all.sort_by(|a, b| (a.address, unfit(a), &a.pod, &a.node).cmp(&(b.address, unfit(b), &b.pod, &b.node)));
    all.dedup_by_key(|b| b.address);
    all
}

/// Does the policy apply to this node? Without a Node object it is none of the cluster.
fn selects_node(spec: &PolicySpec, snapshot: &Snapshot, context: &NodeContext) -> bool {
    match snapshot.node(&context.node) {
        Some(node) => {
            spec.checked.nodes.as_ref().is_none_or(|selector| selector.matches(|key| node.labels.get(key)))
        }
        None => spec.checked.enable_out_cluster,
    }
}
