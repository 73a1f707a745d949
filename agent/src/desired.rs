//! What the maps are to hold: the value that `compile` produces and the programmer writes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use balancing_api::{
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};

/// A backend of a rung, which has each once. Whose it is stands in the objects it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Where a connection is sent to: of the frontend's family.
    pub address: IpAddr,
    /// Port, in host byte order.
    pub port: u16,
}

/// The policy's rung of a frontend: of the policy that won it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRung {
    /// The winner.
    pub policy: PolicyRef,
    /// Its backends, sorted; empty: the policy is known to have none, so that this can be told and counted.
    pub backends: Arc<[Backend]>,
    /// Session affinity, inherited from the Service of a serviceMatcher.
    pub affinity_seconds: Option<u32>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// Name of the port, empty where it has none.
    pub port: Arc<str>,
}

/// The Service's rung of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRung {
    /// Which port of which Service.
    pub service: ServicePort,
    /// The endpoints of the tier that won, sorted.
    pub backends: Arc<[Backend]>,
    /// Session affinity.
    pub affinity_seconds: Option<u32>,
}

/// What happens after the last rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The flow goes to the address that was dialled.
    Untouched,
    /// The client is refused.
    Refuse,
}

/// The ladder of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// First rung.
    pub policy: Option<PolicyRung>,
    /// Second rung. A Service without endpoints has one without backends.
    pub service: Option<ServiceRung>,
    /// After the last.
    pub otherwise: Otherwise,
}

/// What all frontends of a policy share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySettings {
    /// Redirects a second; 0 is no limit. Always 0 for a BalancingPolicy.
    pub redirects_per_second: u32,
    /// Ids of the cgroups whose processes the policy does not redirect.
    pub callers: BTreeSet<u64>,
}

/// Changes of the desired state. Whatever is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Frontends that appear or change (`Some`) or go (`None`).
    pub frontends: Vec<(Frontend, Option<Ladder>)>,
    /// Policies that appear or change, or go.
    pub policies: Vec<(PolicyRef, Option<PolicySettings>)>,
}

impl Changes {
    /// Is there nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.policies.is_empty()
    }
}

impl PolicyRung {
    /// Is the rung a LocalRedirectPolicy's?
    #[must_use]
    pub fn is_redirect(&self) -> bool {
        self.policy.kind == PolicyKind::LocalRedirectPolicy
    }
}
