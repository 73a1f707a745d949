//! The documents of the agent API, made from what compile wants and what the maps hold. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use balancing_api::{
    agent::{
        BackendCounters, BackendInfo, Counters, Decision, DecisionRung, DecisionVerdict, EventCounters,
        FrontendCounters, FrontendInfo, FrontendList, Otherwise, PolicyCounters, RungInfo, RungKind,
    },
    names::rung_reason,
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use balancing_datapath::{self as datapath, Outcome, PolicyReason};
use jiff::Timestamp;

use crate::{
    desired::{self, Backend, Ladder, ServicePort},
    kernel::{CounterTotals, Explained, ProgrammedFrontend, ProgrammedRung, service_group},
};

type PodAndNode = (Option<Arc<str>>, Option<Arc<str>>);

/// Names for what the maps hold as numbers.
pub(super) struct Names {
    services: HashMap<u32, ServicePort>,
    backends: HashMap<IpAddr, PodAndNode>,
}

impl Names {
    /// The names that the desired state knows, and those of pods by their address.
    pub(super) fn new(
        desired: &BTreeMap<Frontend, Ladder>,
        pods: impl Iterator<Item = (IpAddr, Arc<str>, Option<Arc<str>>)>,
    ) -> Self {
        let mut names = Self {
            services: HashMap::new(),
            backends: pods.map(|(ip, pod, node)| (ip, (Some(pod), node))).collect(),
        };
        for (frontend, ladder) in desired {
            if let Some(rung) = &ladder.service {
                let group = service_group(&rung.service, frontend.protocol.number());
                names.services.insert(group, rung.service.clone());
            }
            let rungs =
                ladder.policy.iter().map(|r| &*r.backends).chain(ladder.service.iter().map(|r| &*r.backends));
            for backend in rungs.flatten().filter(|b| b.pod.is_some() || b.node.is_some()) {
                names.backends.insert(backend.address, (backend.pod.clone(), backend.node.clone()));
            }
        }
        names
    }

    fn backend(&self, &(address, port): &(IpAddr, u16)) -> BackendInfo {
        let (pod, node) = self.backends.get(&address).cloned().unwrap_or_default();
        BackendInfo { address, port, pod: pod.map(|p| p.to_string()), node: node.map(|n| n.to_string()) }
    }

    fn service(&self, group: u32) -> Option<String> {
        self.services.get(&group).map(service_name)
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
    let items = frontends.iter().map(|frontend| programmed_frontend(frontend, names)).collect();
    FrontendList { view: "programmed".to_owned(), items }
}

fn programmed_frontend(found: &ProgrammedFrontend, names: &Names) -> FrontendInfo {
    let backends = |rung: &ProgrammedRung| rung.backends.iter().map(|b| names.backend(b)).collect();
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
            backends: backends(rung),
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
            backends: backends(rung),
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
    let items =
        ladders.iter().map(|(frontend, ladder)| desired_frontend(*frontend, ladder, names, &limit)).collect();
    FrontendList { view: "desired".to_owned(), items }
}

fn desired_frontend(
    frontend: Frontend,
    ladder: &Ladder,
    names: &Names,
    limit: impl Fn(&PolicyRef) -> u32,
) -> FrontendInfo {
    let backends = |all: &[Backend]| {
        all.iter().map(|b| names.backend(&(b.address, b.port))).collect::<Vec<BackendInfo>>()
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
            backends: backends(&rung.backends),
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
            backends: backends(&rung.backends),
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
    Decision {
        verdict,
        backends: explained.candidates.iter().map(|b| names.backend(b)).collect(),
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
        let names = Names::new(&ladders, std::iter::empty());
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
}
