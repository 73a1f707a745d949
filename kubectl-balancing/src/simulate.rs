//! What the data path would decide over frontends as a document describes them: the same [`decide`] that the kernel
//! runs, over maps in memory. Pure.

use std::collections::HashMap;

use balancing_api::{
    agent::{
        Caller, Decision, DecisionRung, DecisionVerdict, FrontendInfo, FrontendList, NodeStatus, Otherwise,
        PolicyStatus, QosState, RungInfo, RungKind,
    },
    names::rung_reason,
    net::{Frontend, Protocol},
};
use balancing_datapath::{
    self as datapath, Backend, FRONTEND_BALANCE, FRONTEND_CALLERS, FRONTEND_QOS, FRONTEND_REFUSE,
    FRONTEND_SERVICE, FrontendKey, Kept, Maps, Outcome, PolicyReason, Rung, SCOPE_ANY, SCOPE_HOST,
    addr_from_ip, decide,
};

/// Scope of a frontend that only the host's own processes see, as the agent spells it.
const HOST_NETWORK: &str = "HostNetwork";

/// The circumstances of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Who calls.
    pub from: Caller,
    /// What is dialled.
    pub to: Frontend,
    /// Redirects already used in this second by the policy of the frontend.
    pub used: u32,
}

/// The decision about a flow over these frontends.
#[must_use]
pub fn simulate(frontends: &FrontendList, status: &NodeStatus, flow: &Flow) -> Decision {
    let maps = MemoryMaps::new(frontends, status, flow);
    let found = maps.key(flow).and_then(|key| decide(&maps, &key).map(|d| (d, maps.infos[&key])));
    let hooks = hooks(flow.to);
    let Some((decided, info)) = found else {
        return Decision {
            verdict: DecisionVerdict::Untouched,
            backends: vec![],
            rungs: vec![],
            qos: None,
            hooks,
        };
    };
    let verdict = match decided.outcome {
        Outcome::Policy if decided.flags & FRONTEND_BALANCE != 0 => DecisionVerdict::Balance,
        Outcome::Policy => DecisionVerdict::Redirect,
        Outcome::Service => DecisionVerdict::Service,
        Outcome::Refuse => DecisionVerdict::Refuse,
        Outcome::Untouched => DecisionVerdict::Untouched,
    };
    let rungs: Vec<DecisionRung> = info.rungs.iter().map(|rung| told(rung, &decided)).collect();
    let taken = rungs.iter().position(|r| r.taken);
    Decision {
        verdict,
        backends: taken.map(|i| info.rungs[i].backends.clone()).unwrap_or_default(),
        rungs,
        qos: limit(info).map(|limit| QosState { limit, used: flow.used }),
        hooks,
    }
}

/// The hooks that decide flows to a frontend of this family and protocol.
#[must_use]
pub fn hooks(to: Frontend) -> Vec<String> {
    let family = if to.address.is_ipv4() { 4 } else { 6 };
    match to.protocol {
        Protocol::Tcp => vec![format!("connect{family}")],
        Protocol::Udp => vec![format!("connect{family}"), format!("sendmsg{family}")],
    }
}

/// Is the caller one of the policy's own backends, which it leaves alone, or a pod of the operator, which every policy does?
#[must_use]
pub fn is_exempt(status: &NodeStatus, policy: &PolicyStatus, from: &Caller) -> bool {
    match from {
        Caller::Host(_) => false,
        Caller::Pod(pod) => {
            status.agent.exempt_pods.contains(pod)
                || (policy.exempt_callers.pods > 0 && policy.wanted.pods.iter().any(|p| p.pod == *pod))
        }
    }
}

fn limit(info: &FrontendInfo) -> Option<u32> {
    policy_rung(info).and_then(|r| r.redirects_per_second).filter(|limit| *limit > 0)
}

fn policy_rung(info: &FrontendInfo) -> Option<&RungInfo> {
    info.rungs.iter().find(|r| r.rung != RungKind::Service)
}

fn service_rung(info: &FrontendInfo) -> Option<&RungInfo> {
    info.rungs.iter().find(|r| r.rung == RungKind::Service)
}

/// What became of a rung.
fn told(rung: &RungInfo, decided: &datapath::Decision) -> DecisionRung {
    let reason = match (rung.rung, decided.reason) {
        (RungKind::Service, _) if decided.outcome == Outcome::Service => rung_reason::TAKEN,
        (RungKind::Service, PolicyReason::Taken) if !rung.backends.is_empty() => rung_reason::NOT_REACHED,
        (RungKind::Service, _) => rung_reason::NO_BACKEND,
        (_, PolicyReason::Taken) => rung_reason::TAKEN,
        (RungKind::Redirect, PolicyReason::NoBackend) => rung_reason::NO_LOCAL_BACKEND,
        (_, PolicyReason::NoBackend) => rung_reason::NO_BACKEND,
        (_, PolicyReason::ExemptCaller) => rung_reason::EXEMPT_CALLER,
        (_, PolicyReason::AgentStale) => rung_reason::AGENT_STALE,
        (_, PolicyReason::QosLimit) => rung_reason::QOS_LIMIT,
        (_, PolicyReason::None) => rung_reason::NOT_REACHED,
    };
    DecisionRung {
        rung: rung.rung,
        policy: rung.policy.clone(),
        service: rung.service.clone(),
        taken: reason == rung_reason::TAKEN,
        reason: reason.to_owned(),
    }
}

/// The frontends of one address in the layouts of the kernel's maps. There is one policy at most, with index 1.
struct MemoryMaps<'a> {
    frontends: HashMap<FrontendKey, datapath::Frontend>,
    infos: HashMap<FrontendKey, &'a FrontendInfo>,
    backends: Vec<Backend>,
    exempt: bool,
    admits: bool,
}

impl<'a> MemoryMaps<'a> {
    fn new(list: &'a FrontendList, status: &NodeStatus, flow: &Flow) -> Self {
        let mut maps = Self {
            frontends: HashMap::new(),
            infos: HashMap::new(),
            backends: Vec::new(),
            exempt: false,
            admits: true,
        };
        for info in list.items.iter().filter(|i| i.frontend == flow.to) {
            let scope = if info.scope == HOST_NETWORK { SCOPE_HOST } else { SCOPE_ANY };
            let key = key_of(info.frontend, scope);
            let policy = policy_rung(info).and_then(|r| r.policy.as_ref());
            let policy_status =
                policy.and_then(|p| status.policies.iter().find(|s| s.kind == p.kind && s.name == p.name));
            maps.exempt |= policy_status.is_some_and(|p| is_exempt(status, p, &flow.from));
            maps.admits &= limit(info).is_none_or(|limit| flow.used < limit);
            let frontend = maps.ladder(info);
            maps.frontends.insert(key, frontend);
            maps.infos.insert(key, info);
        }
        maps
    }

    fn ladder(&mut self, info: &FrontendInfo) -> datapath::Frontend {
        let policy = policy_rung(info);
        let service = service_rung(info);
        let mut flags = 0;
        let mut flag = |bit: u32, set: bool| flags |= if set { bit } else { 0 };
        flag(FRONTEND_REFUSE, info.otherwise == Otherwise::Refuse);
        flag(FRONTEND_QOS, limit(info).is_some());
        flag(FRONTEND_CALLERS, self.exempt);
        flag(FRONTEND_BALANCE, policy.is_some_and(|r| r.rung == RungKind::Balance));
        flag(FRONTEND_SERVICE, service.is_some());
        datapath::Frontend {
            flags,
            policy: u32::from(policy.is_some()),
            affinity: 0,
            affinity_group: 0,
            policy_rung: policy.map(|r| self.range(r)).unwrap_or_default(),
            service_rung: service.map(|r| self.range(r)).unwrap_or_default(),
        }
    }

    fn range(&mut self, rung: &RungInfo) -> Rung {
        let first = self.backends.len() as u32;
        for (i, b) in rung.backends.iter().enumerate() {
            self.backends.push(Backend {
                addr: addr_from_ip(b.address),
                port: b.port.to_be(),
                id: i as u32 + 1,
                ..Backend::default()
            });
        }
        Rung { first, count: rung.backends.len() as u32 }
    }

    /// The frontend that this caller meets: one of the host's own, then one of everybody's.
    fn key(&self, flow: &Flow) -> Option<FrontendKey> {
        let own = matches!(flow.from, Caller::Host(_)).then(|| key_of(flow.to, SCOPE_HOST));
        let any = key_of(flow.to, SCOPE_ANY);
        own.into_iter().chain([any]).find(|key| self.frontends.contains_key(key))
    }
}

fn key_of(frontend: Frontend, scope: u8) -> FrontendKey {
    FrontendKey::new(addr_from_ip(frontend.address), frontend.port.to_be(), frontend.protocol.number(), scope)
}

impl Maps for MemoryMaps<'_> {
    type Ref = Box<datapath::Frontend>;

    fn frontend(&self, key: &FrontendKey) -> Option<Self::Ref> {
        self.frontends.get(key).map(|f| Box::new(*f))
    }

    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }

    fn exempt(&self, _policy: u32) -> bool {
        self.exempt
    }

    /// The document is from an agent that just answered.
    fn stale(&self) -> bool {
        false
    }

    fn admit(&self, _policy: u32) -> bool {
        self.admits
    }

    fn kept(&self, _key: &FrontendKey, _rung: u32) -> Kept {
        Kept::default()
    }

    fn affinity(&self, _frontend: &datapath::Frontend, _rung: u32) -> u32 {
        0
    }

    fn remember(&self, _frontend: &datapath::Frontend, _rung: u32, _id: u32) {}

    /// Which of the candidates is chosen is not told, so any number does.
    fn random(&self, _key: &FrontendKey) -> u32 {
        0
    }
}

/// Do two decisions send a flow the same way, for the same reasons? What the limit has left is not compared: it changes
/// from one question to the next. Nor are rungs without backends: whether they are named is up to who tells.
#[must_use]
pub fn agree(a: &Decision, b: &Decision) -> bool {
    let backends = |d: &Decision| {
        let mut all: Vec<_> = d.backends.iter().map(|b| (b.address, b.port)).collect();
        all.sort_unstable();
        all
    };
    let counts = |r: &&DecisionRung| {
        ![rung_reason::NO_BACKEND, rung_reason::NO_LOCAL_BACKEND].contains(&r.reason.as_str())
    };
    let rung = |r: &DecisionRung| (r.rung, r.policy.clone(), r.reason.clone());
    let rungs = |d: &Decision| d.rungs.iter().filter(counts).map(rung).collect::<Vec<_>>();
    a.verdict == b.verdict && backends(a) == backends(b) && rungs(a) == rungs(b)
}
