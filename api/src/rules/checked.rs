//! A policy whose values were parsed and paired once, for everyone who acts on it.

use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU32};

use jiff::Timestamp;

use crate::{
    net::Protocol,
    policy::{OnNoBackend, PolicyKind, PolicyRef, RedirectMode},
};

/// A policy that breaks no blocking rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Kind and name.
    pub reference: PolicyRef,
    /// `metadata.uid`, empty where there is none.
    pub uid: String,
    /// `metadata.generation`, 0 where there is none.
    pub generation: i64,
    /// `metadata.creationTimestamp`; nothing is older than anything.
    pub created: Option<Timestamp>,
    /// The `serviceId` annotation, where it is valid.
    pub service_id: Option<NonZeroU32>,
    /// Which nodes; `None` is every node.
    pub nodes: Option<Selector>,
    /// Does it apply to an agent that is no node of the cluster?
    pub enable_out_cluster: bool,
    /// What happens where no backend can serve.
    pub on_no_backend: OnNoBackend,
    /// What clients dial.
    pub matcher: Matcher,
    /// Where it leads.
    pub backend: Backend,
    /// Which of its ports lead where.
    pub ports: Ports,
    /// `qos.redirectsPerSecond`: 0 is no limit, `None` the agent's default. Always `None` of a BalancingPolicy.
    pub redirects_per_second: Option<u32>,
}

impl Policy {
    /// The rank in conflicts, smallest first: the older (no time is oldest), then LocalRedirectPolicy, then the name.
    #[must_use]
    pub fn precedence(&self) -> (Option<Timestamp>, PolicyKind, &str) {
        (self.created, self.reference.kind, &self.reference.name)
    }
}

/// What clients dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Matcher {
    /// A virtual address: neither unspecified, loopback, multicast nor broadcast. An IPv4-mapped one is IPv4.
    Address(IpAddr),
    /// All ClusterIPs of a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Matcher {
    /// `169.254.0.90`, `default/kubernetes`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Service { namespace, name } => write!(f, "{namespace}/{name}"),
        }
    }
}

/// Where a policy leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pods of the same node (LocalRedirectPolicy).
    Local {
        /// Which pods.
        selector: Selector,
        /// Their namespaces; empty is all.
        namespaces: Vec<String>,
        /// Are the backend pods' own connections to the frontend left alone?
        skip_redirect_from_backend: bool,
    },
    /// Fixed addresses (BalancingPolicy). An IPv4-mapped one is IPv4; none stands twice.
    Addresses(Vec<IpAddr>),
    /// Pods anywhere (BalancingPolicy).
    Pods {
        /// Which pods.
        selector: Selector,
        /// Their namespaces; empty is all.
        namespaces: Vec<String>,
        /// How they are reached.
        mode: RedirectMode,
    },
}

/// A port of a `toPorts` list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535, host byte order.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its name, empty where it has none. Names pair without regard to case.
    pub name: String,
}

impl fmt::Display for Port {
    /// `53/UDP`, or `53/UDP "dns"` with a name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " {:?}", self.name) }
    }
}

/// A frontend port and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// What clients dial.
    pub frontend: Port,
    /// The port on the backends, same protocol.
    pub backend: u16,
}

/// The ports of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The policy lists its frontend ports.
    Listed(Pairing),
    /// The policy takes all ports of its Service: pair them with [`pair`].
    OfService {
        /// The ports of the backends.
        backend: Vec<Port>,
    },
}

impl Ports {
    /// The pairs and the ports that stay unpaired, given the ports of the Service. A listed port that the Service does
    /// not have is in neither; a port matches by number and protocol.
    #[must_use]
    pub fn for_service(&self, service: &[Port]) -> Pairing {
        let offered = |p: &Port| service.iter().any(|s| (s.number, s.protocol) == (p.number, p.protocol));
        match self {
            Self::Listed(pairing) => Pairing {
                pairs: pairing.pairs.iter().filter(|p| offered(&p.frontend)).cloned().collect(),
                unpaired: pairing.unpaired.iter().filter(|p| offered(p)).cloned().collect(),
            },
            Self::OfService { backend } => pair(service, backend),
        }
    }
}

/// Frontend ports with and without a backend port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// In the order of the frontend ports.
    pub pairs: Vec<Pair>,
    /// Frontend ports that no backend port pairs with: the policy does not claim them.
    pub unpaired: Vec<Port>,
}

/// Pair ports by (name, protocol); a single port each pairs without names if the protocols agree. The first backend
/// port that fits is taken.
#[must_use]
pub fn pair(frontend: &[Port], backend: &[Port]) -> Pairing {
    let single = frontend.len() == 1 && backend.len() == 1;
    let fits =
        |f: &Port, b: &Port| f.protocol == b.protocol && (single || f.name.eq_ignore_ascii_case(&b.name));
    let mut pairing = Pairing::default();
    for f in frontend {
        match backend.iter().find(|b| fits(f, b)) {
            Some(b) => pairing.pairs.push(Pair { frontend: f.clone(), backend: b.number }),
            None => pairing.unpaired.push(f.clone()),
        }
    }
    pairing
}

/// A label selector, all of whose requirements have to hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// In the order of the manifest, `matchLabels` first.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What its value has to be.
    pub condition: Condition,
}

/// What a label has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Present, with one of these values.
    In(BTreeSet<String>),
    /// Absent, or with none of these values.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl Selector {
    /// Does it select everything?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Do these labels, given by a lookup, satisfy every requirement? Semantics of Kubernetes: `NotIn` and
    /// `DoesNotExist` hold for a label that is absent.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| {
            let value = label(&r.key);
            match &r.condition {
                Condition::In(values) => value.is_some_and(|v| values.contains(v)),
                Condition::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Condition::Exists => value.is_some(),
                Condition::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Can no set of labels satisfy both, as far as one look at each pair of requirements tells?
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        use Condition as C;
        self.requirements.iter().any(|a| {
            other.requirements.iter().filter(|b| a.key == b.key).any(|b| match (&a.condition, &b.condition) {
                (C::In(x), C::In(y)) => x.is_disjoint(y),
                (C::In(x), C::NotIn(y)) | (C::NotIn(y), C::In(x)) => x.is_subset(y),
                (C::DoesNotExist, C::In(_) | C::Exists) | (C::In(_) | C::Exists, C::DoesNotExist) => true,
                _ => false,
            })
        })
    }
}

impl fmt::Display for Selector {
    /// As `kubectl -l` takes it: `app=web,tier in (a,b),!old`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        for (i, Requirement { key, condition }) in self.requirements.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            match condition {
                Condition::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                Condition::In(values) => write!(f, "{key} in ({})", list(values))?,
                Condition::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values))?,
                Condition::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                Condition::Exists => f.write_str(key)?,
                Condition::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}
