//! What became of a policy on this node, and why, in words.

use std::collections::BTreeSet;

use balancing_api::{
    agent::{BackendCount, ExemptCallers, PolicyState, PolicyStatus, WantedPod, WantedPolicy},
    claims::References,
    names::reason,
    net::Frontend,
    policy::{OnNoBackend, PolicyRef, RedirectMode},
    rules::checked::{Backend, Matcher, Port},
};
use jiff::Timestamp;

use super::{
    Compiler, NodeContext, is_redirect,
    ladder::is_api_server,
    policy::{Resolved, Standing},
};
use crate::snapshot::{PolicySpec, Snapshot, Usability};

/// A policy's state as compile sees it: all of its status but what the maps hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    /// The policy.
    pub policy: PolicyRef,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// Its generation.
    pub generation: i64,
    /// When it was created, where its object says so.
    pub created: Option<Timestamp>,
    /// Its state here, supposing that the maps hold what is desired.
    pub state: PolicyState,
    /// Why; see [`balancing_api::names::reason`].
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
    /// The frontends it claims and holds here.
    pub frontends: Vec<Frontend>,
    /// Distinct addresses and ports of backends over all frontends it holds.
    pub wanted_backends: u32,
    /// Its limit in force; 0 is none.
    pub redirects_per_second: u32,
    /// Its exempt callers.
    pub exempt_callers: ExemptCallers,
    /// What it asks for.
    pub wanted: WantedPolicy,
}

impl PolicyReport {
    /// The document, given how many distinct addresses and ports of backends the maps hold for the policy.
    #[must_use]
    pub fn into_status(self, programmed: u32) -> PolicyStatus {
        PolicyStatus {
            kind: self.policy.kind,
            name: self.policy.name,
            id: self.id,
            generation: self.generation,
            created: self.created,
            state: self.state,
            reason: self.reason.to_owned(),
            message: self.message,
            frontends: self.frontends,
            backends: BackendCount { wanted: self.wanted_backends, programmed },
            redirects_per_second: self.redirects_per_second,
            exempt_callers: self.exempt_callers,
            wanted: self.wanted,
        }
    }
}

struct Verdict {
    state: PolicyState,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(state: PolicyState, reason: &'static str, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into() }
    }
}

impl Compiler {
    /// What became of each policy of the snapshot that was compiled last, by kind and name.
    #[must_use]
    pub fn reports(&self, snapshot: &Snapshot, context: &NodeContext) -> Vec<PolicyReport> {
        self.policies.iter().map(|(reference, r)| self.report_of(reference, r, snapshot, context)).collect()
    }

    /// What became of one policy.
    #[must_use]
    pub fn report(
        &self,
        policy: &PolicyRef,
        snapshot: &Snapshot,
        context: &NodeContext,
    ) -> Option<PolicyReport> {
        self.policies.get(policy).map(|r| self.report_of(policy, r, snapshot, context))
    }

    fn report_of(
        &self,
        reference: &PolicyRef,
        resolved: &Resolved,
        snapshot: &Snapshot,
        context: &NodeContext,
    ) -> PolicyReport {
        let holds = |f: &&Frontend| self.winner(f).is_some_and(|(winner, _)| winner == reference);
        let held: Vec<Frontend> = resolved.claims.keys().filter(holds).copied().collect();
        let rungs = held.iter().filter_map(|f| self.desired.get(f)?.policy.as_ref());
        let backends: BTreeSet<_> = rungs.flat_map(|r| &*r.backends).map(|b| (b.address, b.port)).collect();
        let verdict = self.verdict(resolved, &held, snapshot, context);
        let exempt = resolved.exempt_pods();
        let (pods, active) = exempt.fold((0, 0), |(pods, active), pod| {
            (pods + 1, active + u32::from(context.pod_cgroups.contains_key(&pod.uid)))
        });
        PolicyReport {
            policy: reference.clone(),
            id: resolved.policy.id,
            generation: resolved.policy.generation,
            created: resolved.policy.created,
            state: verdict.state,
            reason: verdict.reason,
            message: verdict.message,
            frontends: held,
            wanted_backends: u32::try_from(backends.len()).unwrap_or(u32::MAX),
            redirects_per_second: resolved.limit(context),
            exempt_callers: ExemptCallers { pods, active },
            wanted: wanted(resolved, context),
        }
    }

    fn verdict(
        &self,
        resolved: &Resolved,
        held: &[Frontend],
        snapshot: &Snapshot,
        context: &NodeContext,
    ) -> Verdict {
        let spec = match &resolved.policy.spec {
            Ok(spec) => spec,
            Err(rules) => return Verdict::new(PolicyState::Invalid, reason::INVALID_SPEC, &**rules),
        };
        if let Some(verdict) = not_claiming(resolved, spec, snapshot, context) {
            return verdict;
        }
        let lost: Vec<String> = resolved.claims.keys().filter_map(|f| self.loss(resolved, f)).collect();
        if held.is_empty() {
            return Verdict::new(PolicyState::Conflicted, reason::FRONTEND_CONFLICT, lost.join("; "));
        }
        let empty: Vec<&Frontend> = held.iter().filter(|f| self.is_empty_rung(f)).collect();
        let mut notes = Vec::new();
        if !empty.is_empty() {
            let consequence = match spec.checked.on_no_backend {
                OnNoBackend::Fallback => "normal resolution",
                OnNoBackend::Refuse if empty.iter().all(|f| is_api_server(snapshot, context, **f)) => {
                    "normal resolution (at the API server onNoBackend: Refuse has no effect)"
                }
                OnNoBackend::Refuse => "clients are refused (onNoBackend: Refuse)",
            };
            let why = no_backend(resolved, spec, context);
            notes.push(match empty.len() == held.len() {
                true => format!("{why}: {consequence}"),
                false => {
                    let frontends: Vec<String> = empty.iter().map(ToString::to_string).collect();
                    format!("{}: {why}: {consequence}", frontends.join(", "))
                }
            });
        }
        notes.extend(port_notes(resolved));
        notes.extend(lost);
        let message = notes.join("; ");
        if empty.len() < held.len() {
            return Verdict::new(PolicyState::Programmed, reason::PROGRAMMED, message);
        }
        let redirect = is_redirect(resolved.policy.reference.kind);
        let why = if redirect { reason::NO_LOCAL_BACKEND } else { reason::NO_BACKEND };
        Verdict::new(PolicyState::Fallback, why, message)
    }

    /// Who holds a frontend that the policy claims, if that is another.
    fn loss(&self, resolved: &Resolved, frontend: &Frontend) -> Option<String> {
        let (winner, theirs) = self.winner(frontend)?;
        let ours = &resolved.policy;
        if *winner == ours.reference {
            return None;
        }
        let rule = theirs.rank().why_before(&resolved.rank());
        Some(format!("{frontend} is held by {winner}: {rule}"))
    }

    fn is_empty_rung(&self, frontend: &Frontend) -> bool {
        self.desired.get(frontend).and_then(|l| l.policy.as_ref()).is_none_or(|rung| rung.backends.is_empty())
    }
}

/// The verdict about a policy that claims nothing here.
fn not_claiming(
    resolved: &Resolved,
    spec: &PolicySpec,
    snapshot: &Snapshot,
    context: &NodeContext,
) -> Option<Verdict> {
    let service = resolved.policy.matched_service().map(|s| format!("Service {s}")).unwrap_or_default();
    let fallback = |reason, message: String| Some(Verdict::new(PolicyState::Fallback, reason, message));
    match &resolved.standing {
        Standing::Applies | Standing::Invalid | Standing::Missing(References::Found) => None,
        Standing::NotSelected => {
            let node = &context.node;
            let message = match (&spec.checked.nodes, snapshot.node(node)) {
                (Some(selector), Some(_)) => {
                    format!("nodeLabelSelector {selector} does not match node {node}")
                }
                _ => format!("there is no Node object {node}, and enableOutCluster is false"),
            };
            Some(Verdict::new(PolicyState::NotSelected, reason::NO_NODE_SELECTED, message))
        }
        Standing::ServicesOff => fallback(
            reason::SERVICE_NOT_SUPPORTED,
            format!("serviceMatcher has no effect: the agent runs with --service-resolution off ({service})"),
        ),
        Standing::Missing(References::NoService) => {
            fallback(reason::SERVICE_NOT_FOUND, format!("{service} does not exist"))
        }
        Standing::Missing(References::Unsupported(why)) => {
            fallback(reason::SERVICE_NOT_SUPPORTED, format!("{service} {}", why.describe()))
        }
        Standing::Missing(References::NoSuchPort) => fallback(
            reason::PORT_NOT_FOUND,
            format!("{service} has no port {}", list(&resolved.missing_ports)),
        ),
        Standing::Missing(References::NoPair) => fallback(
            reason::PORT_MISMATCH,
            format!(
                "no backend port has the name and protocol of frontend port {}",
                list(&resolved.unpaired)
            ),
        ),
    }
}

/// `53/UDP "dns", 80/TCP`
fn list(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is to say of ports that are left out while others are taken.
fn port_notes(resolved: &Resolved) -> Vec<String> {
    let mut notes = Vec::new();
    if !resolved.missing_ports.is_empty() {
        let service = resolved.policy.matched_service().map(ToString::to_string).unwrap_or_default();
        notes.push(format!("Service {service} has no port {}", list(&resolved.missing_ports)));
    }
    if !resolved.unpaired.is_empty() {
        notes.push(format!("no backend port goes with {}", list(&resolved.unpaired)));
    }
    notes
}

/// Why some or all frontends of a policy have no backend.
fn no_backend(resolved: &Resolved, spec: &PolicySpec, context: &NodeContext) -> String {
    let usable = resolved.pods.iter().any(|pod| context.usability(pod) == Usability::Ready);
    let published = resolved.published.as_deref();
    match spec.pods() {
        Some(_) if published.is_some_and(<[_]>::is_empty) => {
            let namespace = "the operator's namespace";
            format!(
                "the operator has published no backend: no pod is selected, or it has not resolved the policy yet (EndpointSlices in {namespace})"
            )
        }
        Some(_) if published.is_some_and(|all| all.iter().any(|b| b.usability == Usability::Ready)) => {
            "no published backend has an address of the frontend's family".to_owned()
        }
        Some(_) if let Some(published) = published => {
            let all = published.iter().map(|b| {
                (b.pod.as_deref().map_or_else(|| b.address.to_string(), str::to_owned), b.usability)
            });
            format!("no published backend can serve: {}", unusable(all))
        }
        None => "no backend address is of the frontend's family".to_owned(),
        Some(_) if usable => match &spec.checked.backend {
            Backend::Pods { mode: RedirectMode::NodeProxy, .. } => {
                "no node of a selected pod has a proxy address of the frontend's family".to_owned()
            }
            Backend::Pods { mode: RedirectMode::HostPort, .. } => {
                "no node of a selected pod has an address of the frontend's family".to_owned()
            }
            _ => "no usable pod has an address of the frontend's family".to_owned(),
        },
        Some((selector, namespaces)) => {
            let place = if is_redirect(resolved.policy.reference.kind) {
                format!(" on node {}", context.node)
            } else {
                String::new()
            };
            let place = match namespaces {
                [] => place,
                all => format!(" of namespace {}{place}", all.join(" or ")),
            };
            let labels = selector.to_string();
            let labels = if labels.is_empty() { "{}" } else { &labels };
            if resolved.pods.is_empty() {
                format!("selector {labels} matches no pod{place}")
            } else {
                let pods = resolved.pods.iter();
                let all = pods.map(|pod| (pod.full_name.to_string(), context.usability(pod)));
                format!("selector {labels} matches no usable pod{place}: {}", unusable(all))
            }
        }
    }
}

/// `team/a is NotReady, team/b is Terminating and 3 more`
fn unusable(all: impl ExactSizeIterator<Item = (String, Usability)>) -> String {
    let more = all.len().saturating_sub(5);
    let named: Vec<String> = all.take(5).map(|(name, why)| format!("{name} is {}", why.as_str())).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &more
}

fn wanted(resolved: &Resolved, context: &NodeContext) -> WantedPolicy {
    let Ok(spec) = &resolved.policy.spec else { return WantedPolicy::default() };
    let selector = spec.pods();
    let pod = |pod: &std::sync::Arc<crate::snapshot::Pod>| WantedPod {
        pod: pod.full_name.to_string(),
        usable: context.usability(pod) == Usability::Ready,
        reason: context.usability(pod).as_str().to_owned(),
    };
    WantedPolicy {
        service: resolved.policy.matched_service().map(ToString::to_string),
        address: match &spec.checked.matcher {
            Matcher::Address(address) => Some(address.to_string()),
            Matcher::Service { .. } => None,
        },
        selector: selector.map(|(labels, _)| labels.to_string()).unwrap_or_default(),
        namespaces: selector.map(|(_, namespaces)| namespaces.to_vec()).unwrap_or_default(),
        node_selector: spec.checked.nodes.as_ref().map(ToString::to_string).unwrap_or_default(),
        on_no_backend: match spec.checked.on_no_backend {
            OnNoBackend::Fallback => "Fallback".to_owned(),
            OnNoBackend::Refuse => "Refuse".to_owned(),
        },
        pods: resolved.pods.iter().map(pod).collect(),
    }
}
