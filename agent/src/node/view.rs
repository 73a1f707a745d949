//! What the node says of itself through the agent API.

use std::{collections::BTreeMap, sync::PoisonError};

use balancing_api::agent::{
    AgentInfo, Caller, Counters, DatapathInfo, DecideRequest, Decision, FrontendList, MapInfo, NodeStatus,
    SourceProgress,
};

use super::{
    Shared,
    core::Core,
    documents::{self, Names},
};
use crate::{
    events::EventHub,
    http::{NodeView, View, ViewError},
    metrics::Reading,
    snapshot::Name,
    source::Source,
};

fn failed(error: &impl std::error::Error) -> ViewError {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    ViewError::Failed(format!("{error}{cause}"))
}

fn names(core: &Core) -> Names {
    let policies = core.compiler.policy_addresses(&core.snapshot, &core.context);
    Names::new(core.compiler.desired()).with_backends(core.snapshot.slices(), policies, core.snapshot.pods())
}

fn maps(core: &Core) -> Vec<MapInfo> {
    core.fill()
        .into_iter()
        .map(|(name, entries, capacity)| MapInfo { name: name.to_owned(), entries, capacity })
        .collect()
}

impl Shared {
    fn sources(&self) -> Vec<SourceProgress> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.iter().flat_map(Source::progress).collect()
    }

    /// Ids of the cgroups of a caller.
    fn cgroups_of(core: &Core, caller: &Caller) -> Result<Vec<u64>, ViewError> {
        let Caller::Pod(text) = caller else { return Ok(Vec::new()) };
        let unknown = || ViewError::UnknownPod(text.clone());
        let (namespace, name) = text.split_once('/').ok_or_else(unknown)?;
        let pod = core.snapshot.pod(&Name::new(namespace, name)).ok_or_else(unknown)?;
        if pod.node.as_ref() != Some(&core.context.node) {
            return Err(unknown());
        }
        Ok(core.context.pod_cgroups.get(&pod.uid).cloned().unwrap_or_default())
    }
}

impl NodeView for Shared {
    fn live(&self) -> Result<(), String> {
        // The lock is free within moments, or the programming thread hangs.
        drop(self.core());
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.core().missing()
    }

    fn status(&self) -> Result<NodeStatus, ViewError> {
        let programs = self.programs();
        let core = self.core();
        Ok(NodeStatus {
            node: self.node_info(&core),
            agent: AgentInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.started_at,
                default_redirects_per_second: core.context.default_limit,
                exempt_pods: core.compiler.operator_pods(&core.snapshot, &core.context),
            },
            kernel: self.kernel_info(),
            datapath: DatapathInfo {
                cgroup_root: self.places.cgroup_root.display().to_string(),
                bpffs: self.places.bpffs.display().to_string(),
                layout_version: self.layout,
                programs,
                maps: maps(&core),
            },
            conditions: core.conditions.clone(),
            policies: core.policies(),
            source_errors: core.errors.clone(),
            sources: self.sources(),
        })
    }

    fn frontends(&self, view: View) -> Result<FrontendList, ViewError> {
        let names = names(&self.core());
        match view {
            // Without the lock: reading all maps takes its time, and the programming thread needs it.
            View::Programmed => {
                let found = self.view.frontends().map_err(|e| failed(&e))?;
                Ok(documents::programmed(&found, &names))
            }
            View::Desired => {
                let core = self.core();
                let settings = core.compiler.settings();
                let limit = |policy: &_| settings.get(policy).map_or(0, |s| s.redirects_per_second);
                Ok(documents::desired(core.compiler.desired(), &names, limit))
            }
        }
    }

    fn counters(&self) -> Result<Counters, ViewError> {
        let names = Names::new(self.core().compiler.desired());
        let totals = self.view.counters().map_err(|e| failed(&e))?;
        Ok(documents::counters(totals, &names))
    }

    fn decide(&self, request: &DecideRequest) -> Result<Decision, ViewError> {
        let core = self.core();
        let cgroups = Self::cgroups_of(&core, &request.from)?;
        let to = balancing_api::net::Frontend::new(request.to.address, request.to.port, request.to.protocol);
        let explained = self.view.decide(&to, &cgroups).map_err(|e| failed(&e))?;
        Ok(documents::decision(&to, &explained, &names(&core)))
    }

    fn metrics(&self) -> Result<String, ViewError> {
        let programs_attached = self.programs().iter().filter(|p| p.attached).count() as u64;
        let counters = self.counters()?;
        let runtime = self.view.runtime();
        let core = self.core();
        let mut resolved: BTreeMap<(String, String), u64> = BTreeMap::new();
        for frontend in &counters.frontends {
            let ladder = core.compiler.desired().get(&frontend.frontend);
            if let Some(rung) = ladder.and_then(|ladder| ladder.service.as_ref()) {
                let service = (rung.service.namespace.to_string(), rung.service.name.to_string());
                *resolved.entry(service).or_default() += frontend.resolved;
            }
        }
        let mut policy_states = BTreeMap::new();
        for policy in core.policies() {
            *policy_states.entry(policy.state).or_default() += 1;
        }
        let reading = Reading {
            policies: counters.policies,
            resolved,
            events_received: counters.events.produced - counters.events.lost,
            events_lost: counters.events.lost,
            records_evicted: runtime.records_evicted,
            records_failed: runtime.records_failed,
            maps: maps(&core),
            programs_attached,
            sources_synced: core.synced(),
            source_errors: core.errors.len() as u64,
            policy_states,
        };
        self.metrics.page(reading).map_err(|e| failed(&e))
    }

    fn events(&self) -> &EventHub {
        &self.hub
    }
}
