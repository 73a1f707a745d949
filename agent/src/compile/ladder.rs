//! The ladder of one frontend.

use std::{net::IpAddr, sync::Arc};

use balancing_api::{
    backends::{PolicyBackend, backends},
    names::API_SERVER_SERVICE,
    net::{Frontend, Protocol},
    policy::OnNoBackend,
};

use super::{Compiler, NodeContext, policy::Resolved};
use crate::{
    desired::{Backend, Ladder, Otherwise, PolicyRung, ServicePort, ServiceRung},
    select::{Endpoint, Viewpoint, select},
    snapshot::{Name, Pod, Slice, Snapshot, Usability},
};

impl Compiler {
    /// The ladder of a frontend: policy rung, service rung, and what happens after them. `None`: it is no frontend.
    pub(super) fn ladder(
        &self,
        snapshot: &Snapshot,
        context: &NodeContext,
        frontend: Frontend,
    ) -> Option<Ladder> {
        let service = self.service_rung(snapshot, context, frontend);
        let otherwise = if service.is_some() { Otherwise::Refuse } else { Otherwise::Untouched };
        let Some((reference, winner)) = self.winner(&frontend) else {
            return service.map(|service| Ladder { policy: None, service: Some(service), otherwise });
        };
        let backends = winner.backends(snapshot, context, frontend);
        let refuse = backends.is_empty()
            && winner.on_no_backend() == OnNoBackend::Refuse
            && !is_api_server(snapshot, context, frontend);
        let affinity_seconds = winner.affinity_seconds;
        let policy = Some(PolicyRung { policy: reference.clone(), backends, affinity_seconds });
        Some(if refuse {
            Ladder { policy, service: None, otherwise: Otherwise::Refuse }
        } else {
            Ladder { policy, service, otherwise }
        })
    }

    fn service_rung(
        &self,
        snapshot: &Snapshot,
        context: &NodeContext,
        frontend: Frontend,
    ) -> Option<ServiceRung> {
        let claim = self.services_at.get(&frontend)?.first()?;
        if claim.external && is_api_server(snapshot, context, frontend) {
            return None;
        }
        let service = snapshot.service(&claim.service)?;
        let port =
            service.ports.iter().find(|p| (p.port, p.protocol) == (frontend.port, frontend.protocol))?;
        let mut endpoints = Vec::new();
        for slice in snapshot.slices_of(&service.name) {
            for to in slice.ports.iter().filter(|p| (&p.name, p.protocol) == (&port.name, port.protocol)) {
                let of_family = slice.endpoints.iter().filter(|e| same_family(e.address, frontend.address));
                endpoints.extend(of_family.map(|e| {
                    // Last of all, not never: a sandboxed runtime may move the processes of a pod out of its cgroup, and
                    // a Service has no rung beneath that would make good for it.
                    let alive = !e.pod.is_some_and(|pod| context.is_lifeless(snapshot, pod));
                    Endpoint {
                        backend: Backend { address: e.address, port: to.port },
                        node: e.node.map(|node| &**node),
                        ready: alive && e.ready,
                        serving: e.serving,
                        terminating: e.terminating || !alive,
                        hints: e.hints,
                    }
                }));
            }
        }
        // The internal policy is for ClusterIPs alone, the external one for clients from outside, which none of these is.
        let local_only = service.internal_local && !claim.external;
        let from = Viewpoint { node: &context.node, zone: self.zone.as_deref(), local_only };
        Some(ServiceRung {
            service: ServicePort {
                namespace: Arc::clone(&service.name.namespace),
                name: Arc::clone(&service.name.name),
                port: Arc::clone(&port.name),
            },
            backends: winners(&endpoints, from),
            affinity_seconds: service.affinity_seconds,
        })
    }
}

/// Is the API server there: is it a frontend of its Service, an endpoint of that, or where the agent was told to ask it? No
/// policy refuses anybody there, and no Service takes it as an external address: agents, the operator and those who would
/// take such a thing back all need it.
pub(super) fn is_api_server(snapshot: &Snapshot, context: &NodeContext, frontend: Frontend) -> bool {
    let Frontend { address, port, protocol } = frontend;
    let (namespace, name) = API_SERVER_SERVICE;
    let name = Name::new(namespace, name);
    let is_port = |number: u16, of: Protocol| (number, of) == (port, protocol);
    let is_its_own = snapshot.service(&name).is_some_and(|service| {
        service.addresses.contains(&address) && service.ports.iter().any(|p| is_port(p.port, p.protocol))
    });
    let is_endpoint = |slice: &Slice| {
        slice.ports.iter().any(|p| is_port(p.port, p.protocol))
            && slice.endpoints.iter().any(|e| e.address == address)
    };
    is_its_own
        || snapshot.slices_of(&name).any(is_endpoint)
        || (protocol == Protocol::Tcp && context.api_server == Some((address, port)))
}

/// The backends of the tier that serves.
fn winners(endpoints: &[Endpoint<'_>], from: Viewpoint<'_>) -> Arc<[Backend]> {
    let best = select(endpoints, from).into_iter().next().unwrap_or_default();
    best.backends.into_iter().map(|(backend, _)| backend).collect()
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

fn ready(backend: Backend) -> Endpoint<'static> {
    Endpoint { backend, node: None, ready: true, serving: true, terminating: false, hints: None }
}

impl Resolved {
    fn on_no_backend(&self) -> OnNoBackend {
        self.policy.spec.as_ref().map(|spec| spec.checked.on_no_backend).unwrap_or_default()
    }

    /// The addresses that it leads to, of all families, by address and each once.
    pub(super) fn addresses(&self, snapshot: &Snapshot, context: &NodeContext) -> Vec<PolicyBackend> {
        let Ok(spec) = &self.policy.spec else { return Vec::new() };
        let alive = |pod: &&Pod| context.usability(pod) != Usability::NoProcess;
        let pods = self.pods.iter().map(|pod| &**pod).filter(alive);
        match &self.published {
            Some(published) => published.clone(),
            None => backends(&spec.checked.backend, pods, |name| snapshot.node(name)),
        }
    }

    /// Its backends for one of its frontends, sorted, of the frontend's family.
    pub(super) fn backends(
        &self,
        snapshot: &Snapshot,
        context: &NodeContext,
        frontend: Frontend,
    ) -> Arc<[Backend]> {
        let Some(&port) = self.claims.get(&frontend) else { return Arc::default() };
        let endpoints: Vec<Endpoint<'_>> = self
            .addresses(snapshot, context)
            .into_iter()
            .filter(|b| b.usability == Usability::Ready && same_family(b.address, frontend.address))
            .map(|b| ready(Backend { address: b.address, port }))
            .collect();
        winners(&endpoints, Viewpoint { node: &context.node, zone: None, local_only: false })
    }
}
