//! The documents of the agent API, made from what compile wants and what the maps hold. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use balancing_api::{
    agent::{
        BackendCounters, BackendInfo, Counters, Decision, DecisionRung, DecisionVerdict, EventCounters,
        FrontendCounters, FrontendInfo, FrontendList, Otherwise, PolicyCounters, RungInfo, RungKind,
    },
    backends::PolicyBackend,
    names::rung_reason,
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use balancing_datapath::{self as datapath, Outcome, PolicyReason};
use jiff::Timestamp;

use crate::{
    desired::{self, Backend, Ladder, ServicePort, ServiceRung},
    kernel::{CounterTotals, Explained, ProgrammedFrontend, ProgrammedRung, service_group},
    snapshot::{Pod, PodName, Slice, Usability},
};

/// Names for what the maps hold as numbers: taken at a moment, to be looked up later.
#[derive(Default)]
pub(super) struct Names {
    services: HashMap<u32, ServicePort>,
    slices: Vec<Arc<Slice>>,
    policies: Vec<PolicyBackend>,
    pods: Vec<Arc<Pod>>,
}

impl Names {
    /// The names of Services that the desired state knows.
    pub(super) fn new(desired: &BTreeMap<Frontend, Ladder>) -> Self {
        let rungs =
            desired.iter().filter_map(|(frontend, ladder)| Some((frontend, ladder.service.as_ref()?)));
        let named = |(frontend, rung): (&Frontend, &ServiceRung)| {
            (service_group(&rung.service, frontend.protocol.number()), rung.service.clone())
        };
        Self { services: rungs.map(named).collect(), ..Self::default() }
    }

    /// The same with those of backends: of the endpoints of Services, of what policies lead to, of pods.
    pub(super) fn with_backends<'a>(
        mut self,
        slices: impl Iterator<Item = &'a Arc<Slice>>,
        policies: Vec<PolicyBackend>,
        pods: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Self {
        self.slices = slices.filter(|slice| slice.service.is_some()).cloned().collect();
        self.policies = policies;
        self.pods = pods.cloned().collect();
        self
    }

    /// Whose the addresses are that are asked for.
    fn whose(&self, asked: impl Fn(&IpAddr) -> bool) -> Whose<'_> {
        let mut whose = Whose::default();
        for e in self.slices.iter().flat_map(|slice| &slice.endpoints) {
            if (e.pod.is_none() && e.node.is_none()) || !asked(&e.address) {
                continue;
            }
            let named = (e.pod, e.node.map(|node| &**node));
            // An address may be another pod's by now: that of one that is over says less.
            if e.ready || e.serving {
                whose.services.insert(e.address, named);
            } else {
                whose.services.entry(e.address).or_insert(named);
            }
        }
        let known =
            |b: &&PolicyBackend| b.usability == Usability::Ready && (b.pod.is_some() || b.node.is_some());
        for b in self.policies.iter().filter(known).filter(|b| asked(&b.address)) {
            whose.policies.insert(b.address, (b.pod.as_deref().map(Into::into), b.node.as_deref()));
        }
        for pod in &self.pods {
            let named = (Some((&*pod.full_name).into()), pod.node.as_deref());
            whose.pods.extend(pod.addresses.iter().filter(|ip| asked(ip)).map(|ip| (*ip, named)));
        }
        whose
    }

    fn service(&self, group: u32) -> Option<String> {
        self.services.get(&group).map(service_name)
    }
}

/// Whose rung.
#[derive(Clone, Copy)]
enum Side {
    Policy,
    Service,
}

type PodAndNode<'a> = (Option<PodName<'a>>, Option<&'a str>);

/// Pod and node of addresses, as the objects have it that the rungs come from.
#[derive(Default)]
struct Whose<'a> {
    services: HashMap<IpAddr, PodAndNode<'a>>,
    policies: HashMap<IpAddr, PodAndNode<'a>>,
    pods: HashMap<IpAddr, PodAndNode<'a>>,
}

impl Whose<'_> {
    /// A backend of a rung. An address of a node is to a policy the node, and to a Service a pod in the host's network.
    fn backend(&self, of: Side, &(address, port): &(IpAddr, u16)) -> BackendInfo {
        let places = match of {
            Side::Policy => [&self.policies, &self.services, &self.pods],
            Side::Service => [&self.services, &self.policies, &self.pods],
        };
        let (pod, node) = places.iter().find_map(|place| place.get(&address)).copied().unwrap_or_default();
        BackendInfo { address, port, pod: pod.map(|p| p.to_string()), node: node.map(str::to_owned) }
    }
}

fn service_name(service: &ServicePort) -> String {
    format!("{}/{}", service.namespace, service.name)
}

const fn policy_rung_kind(kind: PolicyKind) -> RungKind {
    match kind {
        PolicyKind::LocalRedirectPolicy => RungKind::Redirect,
        PolicyKind::BalancingPolicy => RungKind::Balance,
    }
}

/// `/v1/frontends?view=programmed`
pub(super) fn programmed(frontends: &[ProgrammedFrontend], names: &Names) -> FrontendList {
    let whose = names.whose(|_| true);
    let items = frontends.iter().map(|frontend| programmed_frontend(frontend, names, &whose)).collect();
    FrontendList { view: "programmed".to_owned(), items }
}

fn programmed_frontend(found: &ProgrammedFrontend, names: &Names, whose: &Whose<'_>) -> FrontendInfo {
    let backends =
        |of: Side, rung: &ProgrammedRung| rung.backends.iter().map(|b| whose.backend(of, b)).collect();
    let mut rungs = Vec::new();
    if let (Some((policy, limit)), Some(rung)) = (&found.policy, &found.policy_rung) {
        let redirect = policy.kind == PolicyKind::LocalRedirectPolicy;
        rungs.push(RungInfo {
            rung: policy_rung_kind(policy.kind),
            policy: Some(policy.clone()),
            redirects_per_second: redirect.then_some(*limit),
            service: None,
            service_port: None,
            affinity_seconds: rung.affinity_seconds,
            backends: backends(Side::Policy, rung),
        });
    }
    // A Service without endpoints has its rung too: it says whose frontend it is that refuses.
    if let Some(rung) = &found.service_rung {
        let port = names.services.get(&found.service_group);
        rungs.push(RungInfo {
            rung: RungKind::Service,
            policy: None,
            redirects_per_second: None,
            service: port.map(service_name),
            service_port: port.map(|p| p.port.to_string()),
            affinity_seconds: rung.affinity_seconds,
            backends: backends(Side::Service, rung),
        });
    }
    let otherwise = if found.refuse { Otherwise::Refuse } else { Otherwise::Untouched };
    FrontendInfo { frontend: found.frontend, scope: "Any".to_owned(), rungs, otherwise }
}

/// `/v1/frontends?view=desired`; `limit` is a policy's limit.
pub(super) fn desired(
    ladders: &BTreeMap<Frontend, Ladder>,
    names: &Names,
    limit: impl Fn(&PolicyRef) -> u32,
) -> FrontendList {
    let whose = names.whose(|_| true);
    let items = ladders
        .iter()
        .map(|(frontend, ladder)| desired_frontend(*frontend, ladder, &whose, &limit))
        .collect();
    FrontendList { view: "desired".to_owned(), items }
}

fn desired_frontend(
    frontend: Frontend,
    ladder: &Ladder,
    whose: &Whose<'_>,
    limit: impl Fn(&PolicyRef) -> u32,
) -> FrontendInfo {
    let backends = |of: Side, all: &[Backend]| {
        all.iter().map(|b| whose.backend(of, &(b.address, b.port))).collect::<Vec<BackendInfo>>()
    };
    let mut rungs = Vec::new();
    if let Some(rung) = ladder.policy.as_ref().filter(|rung| !rung.backends.is_empty()) {
        rungs.push(RungInfo {
            rung: policy_rung_kind(rung.policy.kind),
            policy: Some(rung.policy.clone()),
            redirects_per_second: rung.is_redirect().then(|| limit(&rung.policy)),
            service: None,
            service_port: None,
            affinity_seconds: rung.affinity_seconds,
            backends: backends(Side::Policy, &rung.backends),
        });
    }
    if let Some(rung) = &ladder.service {
        rungs.push(RungInfo {
            rung: RungKind::Service,
            policy: None,
            redirects_per_second: None,
            service: Some(service_name(&rung.service)),
            service_port: Some(rung.service.port.to_string()),
            affinity_seconds: rung.affinity_seconds,
            backends: backends(Side::Service, &rung.backends),
        });
    }
    let otherwise = match ladder.otherwise {
        desired::Otherwise::Untouched => Otherwise::Untouched,
        desired::Otherwise::Refuse => Otherwise::Refuse,
    };
    FrontendInfo { frontend, scope: "Any".to_owned(), rungs, otherwise }
}

/// `/v1/counters`
pub(super) fn counters(totals: CounterTotals, names: &Names) -> Counters {
    let since = Timestamp::from_nanosecond(i128::from(totals.since)).unwrap_or_default();
    let mut backends: BTreeMap<(String, IpAddr, u16, Protocol), u64> = BTreeMap::new();
    for ((owner, address, port, protocol), selected) in totals.backends {
        let owner = match owner {
            Ok(policy) => policy.to_string(),
            Err(group) => format!("Service/{}", names.service(group).unwrap_or_else(|| "unknown".to_owned())),
        };
        *backends.entry((owner, address, port, protocol)).or_default() += selected;
    }
    Counters {
        since,
        taken_at: Timestamp::now(),
        policies: totals
            .policies
            .into_iter()
            .map(|(policy, counted)| policy_counters(policy, &counted))
            .collect(),
        frontends: totals
            .frontends
            .iter()
            .map(|(frontend, balance, counted)| frontend_counters(*frontend, *balance, counted))
            .collect(),
        backends: backends
            .into_iter()
            .map(|((owner, address, port, protocol), selected)| BackendCounters {
                address,
                port,
                protocol,
                owner,
                selected,
            })
            .collect(),
        events: EventCounters {
            produced: totals.events_received + totals.events_lost,
            lost: totals.events_lost,
        },
    }
}

fn policy_counters(policy: PolicyRef, counted: &datapath::PolicyCounters) -> PolicyCounters {
    let redirect = policy.kind == PolicyKind::LocalRedirectPolicy;
    let fallbacks = [
        (no_backend(policy.kind), counted.no_backend),
        (rung_reason::EXEMPT_CALLER, counted.exempt_caller),
        (rung_reason::AGENT_STALE, counted.agent_stale),
    ];
    PolicyCounters {
        redirects: if redirect { counted.taken } else { 0 },
        balanced: if redirect { 0 } else { counted.taken },
        qos_drops: counted.qos_drops,
        fallbacks: fallbacks
            .into_iter()
            .filter(|(_, n)| *n != 0)
            .map(|(why, n)| (why.to_owned(), n))
            .collect(),
        refusals: counted.refusals,
        policy,
    }
}

fn frontend_counters(
    frontend: Frontend,
    balance: bool,
    counted: &datapath::FrontendCounters,
) -> FrontendCounters {
    FrontendCounters {
        frontend,
        redirects: if balance { 0 } else { counted.taken },
        balanced: if balance { counted.taken } else { 0 },
        resolved: counted.resolved,
        qos_drops: counted.qos_drops,
        refusals: counted.refusals,
    }
}

const fn no_backend(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::LocalRedirectPolicy => rung_reason::NO_LOCAL_BACKEND,
        PolicyKind::BalancingPolicy => rung_reason::NO_BACKEND,
    }
}

/// `POST /v1/decide`
pub(super) fn decision(to: &Frontend, explained: &Explained, names: &Names) -> Decision {
    let outcome = explained.decision.map_or(Outcome::Untouched, |d| d.outcome);
    let verdict = match outcome {
        Outcome::Untouched => DecisionVerdict::Untouched,
        Outcome::Service => DecisionVerdict::Service,
        Outcome::Refuse => DecisionVerdict::Refuse,
        Outcome::Policy if explained.frontend.as_ref().is_some_and(|f| f.balance) => DecisionVerdict::Balance,
        Outcome::Policy => DecisionVerdict::Redirect,
    };
    let of = if outcome == Outcome::Policy { Side::Policy } else { Side::Service };
    let asked: HashSet<IpAddr> = explained.candidates.iter().map(|(address, _)| *address).collect();
    let whose = names.whose(|address| asked.contains(address));
    Decision {
        verdict,
        backends: explained.candidates.iter().map(|b| whose.backend(of, b)).collect(),
        rungs: explained.frontend.iter().flat_map(|found| decision_rungs(found, explained, names)).collect(),
        qos: explained.qos,
        hooks: hooks(to),
    }
}

fn decision_rungs(found: &ProgrammedFrontend, explained: &Explained, names: &Names) -> Vec<DecisionRung> {
    let reason = explained.decision.map_or(PolicyReason::None, |d| d.reason);
    let outcome = explained.decision.map_or(Outcome::Untouched, |d| d.outcome);
    let policy = found.policy.as_ref().map(|(policy, _)| DecisionRung {
        rung: policy_rung_kind(policy.kind),
        policy: Some(policy.clone()),
        service: None,
        taken: reason == PolicyReason::Taken,
        reason: match reason {
            PolicyReason::None => rung_reason::NOT_REACHED,
            PolicyReason::Taken => rung_reason::TAKEN,
            PolicyReason::NoBackend => no_backend(policy.kind),
            PolicyReason::ExemptCaller => rung_reason::EXEMPT_CALLER,
            PolicyReason::AgentStale => rung_reason::AGENT_STALE,
            PolicyReason::QosLimit => rung_reason::QOS_LIMIT,
        }
        .to_owned(),
    });
    let service = found.service_rung.as_ref().map(|rung| DecisionRung {
        rung: RungKind::Service,
        policy: None,
        service: names.service(found.service_group),
        taken: outcome == Outcome::Service,
        reason: match outcome {
            Outcome::Service => rung_reason::TAKEN,
            _ if rung.backends.is_empty() => rung_reason::NO_BACKEND,
            _ => rung_reason::NOT_REACHED,
        }
        .to_owned(),
    });
    policy.into_iter().chain(service).collect()
}

fn hooks(to: &Frontend) -> Vec<String> {
    let family = if to.address.is_ipv4() { '4' } else { '6' };
    let names: &[&str] = match to.protocol {
        Protocol::Tcp => &["connect"],
        Protocol::Udp => &["connect", "sendmsg"],
    };
    names.iter().map(|name| format!("{name}{family}")).collect()
}

#[cfg(test)]
mod tests {
    use balancing_api::records::{Name, SliceEndpoint};

    use super::*;

    /// Whoever is refused must find out by which Service: in the maps and in what they should be alike.
    #[test]
    fn a_service_without_endpoints_is_named() {
        let frontend = Frontend::new([10, 96, 0, 40].into(), 80, Protocol::Tcp);
        let service = ServicePort { namespace: "web".into(), name: "nobody".into(), port: "http".into() };
        let group = service_group(&service, frontend.protocol.number());
        let rung = desired::ServiceRung { service, backends: Arc::default(), affinity_seconds: Some(60) };
        let ladder = Ladder { policy: None, service: Some(rung), otherwise: desired::Otherwise::Refuse };
        let ladders = BTreeMap::from([(frontend, ladder)]);
        let names = Names::new(&ladders);
        let found = ProgrammedFrontend {
            frontend,
            policy: None,
            policy_rung: None,
            balance: false,
            service_rung: Some(ProgrammedRung { backends: Vec::new(), affinity_seconds: Some(60) }),
            service_group: group,
            refuse: true,
        };
        let wanted = super::desired(&ladders, &names, |_| 0);
        assert_eq!(wanted.items, programmed(&[found], &names).items);
        let rung = &wanted.items[0].rungs[0];
        assert_eq!((rung.rung, rung.service.as_deref()), (RungKind::Service, Some("web/nobody")));
        assert_eq!((rung.service_port.as_deref(), rung.backends.as_slice()), (Some("http"), &[][..]));
    }

    fn slice(name: &str, endpoints: &[(&str, bool, &str, &str)]) -> Arc<Slice> {
        let endpoint = |&(address, ready, pod, node): &(&str, bool, &str, &str)| SliceEndpoint {
            address: address.parse().unwrap(),
            ready,
            serving: ready,
            terminating: !ready,
            node: Some(node.into()),
            pod: Some(pod.into()),
            hints: None,
        };
        Arc::new(Slice {
            name: Name::new("web", name),
            service: Some(Name::new("web", "front")),
            published: None,
            ports: Vec::new(),
            endpoints: endpoints.iter().map(endpoint).collect(),
        })
    }

    #[test]
    fn backends_have_the_names_of_the_objects_their_rung_comes_from() {
        let slices = [
            slice("old", &[("10.0.0.1", false, "web/gone", "n9"), ("10.0.0.3", false, "web/over", "n3")]),
            slice("new", &[("10.0.0.1", true, "web/a", "n1"), ("192.0.2.1", true, "web/host", "n1")]),
            slice("late", &[("10.0.0.1", false, "web/gone", "n9")]),
        ];
        let led = |address: &str, pod: Option<&str>| PolicyBackend {
            address: address.parse().unwrap(),
            pod: pod.map(Into::into),
            node: Some("n1".into()),
            usability: Usability::Ready,
        };
        let policies = vec![led("192.0.2.1", None), led("10.0.0.2", Some("web/b"))];
        let names = Names::default().with_backends(slices.iter(), policies, std::iter::empty());
        let whose = names.whose(|_| true);
        let told = |side, address: &str| {
            let info = whose.backend(side, &(address.parse().unwrap(), 80));
            [info.pod, info.node].map(Option::unwrap_or_default).join(" ")
        };
        assert_eq!(told(Side::Service, "10.0.0.1"), "web/a n1", "not of the pod that is over");
        assert_eq!(told(Side::Service, "10.0.0.3"), "web/over n3");
        assert_eq!(told(Side::Policy, "10.0.0.2"), "web/b n1");
        assert_eq!(told(Side::Policy, "192.0.2.1"), " n1", "a host port is the node's");
        assert_eq!(told(Side::Service, "192.0.2.1"), "web/host n1");
        assert_eq!(told(Side::Service, "10.0.0.4"), " ");
        let asked = names.whose(|address| *address == IpAddr::from([10, 0, 0, 2]));
        assert_eq!((asked.services.len(), asked.policies.len()), (0, 1), "only what is asked for");
    }
}
