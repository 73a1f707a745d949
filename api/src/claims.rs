//! Who holds a frontend: what a policy claims, and who comes first where several claim the same.
//!
//! The agent decides by this for its node, the operator for all of them, the plugin for files.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;

use crate::{
    net::Frontend,
    policy::PolicyRef,
    records::{Service, Unsupported},
    rules::checked::{self, Matcher, Pairing, Port, Ports},
};

/// The place of a policy in conflicts, smallest first: the older (no time is oldest), then LocalRedirectPolicy, then
/// by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its kind and name.
    pub policy: PolicyRef,
}

impl Rank {
    /// Why this one comes before another, in words that follow "x holds it:".
    #[must_use]
    pub fn why_before(&self, other: &Self) -> &'static str {
        if self.created != other.created {
            "it is older"
        } else if self.policy.kind != other.policy.kind {
            "of the same age, and a LocalRedirectPolicy comes first"
        } else {
            "of the same age, and its name comes first"
        }
    }
}

/// What a policy finds of what it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// What it needs: it claims frontends.
    Found,
    /// Its Service does not exist.
    NoService,
    /// Its Service is not programmed.
    Unsupported(Unsupported),
    /// None of its ports is a port of its Service.
    NoSuchPort,
    /// No backend port goes with any of its frontend ports.
    NoPair,
}

/// What a policy claims wherever it applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What it found.
    pub references: References,
    /// Its frontends, with the backend port of each.
    pub frontends: BTreeMap<Frontend, u16>,
    /// Session affinity of the Service it matches.
    pub affinity_seconds: Option<u32>,
    /// Ports it lists that its Service has not.
    pub missing_ports: Vec<Port>,
    /// Frontend ports that no backend port goes with.
    pub unpaired: Vec<Port>,
}

impl Claims {
    /// The claims of a valid policy. `service` is the Service that its matcher names, where that exists.
    #[must_use]
    pub fn of(policy: &checked::Policy, service: Option<&Service>) -> Self {
        match (&policy.matcher, service) {
            (Matcher::Address(address), _) => {
                let pairing = match &policy.ports {
                    Ports::Listed(pairing) => pairing.clone(),
                    // The rules ask for toPorts beside an address.
                    Ports::OfService { .. } => Pairing::default(),
                };
                let mut claims = Self::nothing(References::Found);
                claims.take(&[*address], pairing);
                claims
            }
            (Matcher::Service { .. }, None) => Self::nothing(References::NoService),
            (Matcher::Service { .. }, Some(service)) => Self::of_service(&policy.ports, service),
        }
    }

    fn nothing(references: References) -> Self {
        Self {
            references,
            frontends: BTreeMap::new(),
            affinity_seconds: None,
            missing_ports: Vec::new(),
            unpaired: Vec::new(),
        }
    }

    fn of_service(ports: &Ports, service: &Service) -> Self {
        if let Some(why) = service.unsupported {
            return Self::nothing(References::Unsupported(why));
        }
        let mut claims = Self::nothing(References::Found);
        claims.affinity_seconds = service.affinity_seconds;
        let port = |p: &crate::records::ServicePort| Port {
            number: p.port,
            protocol: p.protocol,
            name: p.name.to_string(),
        };
        let offered: Vec<Port> = service.ports.iter().map(port).collect();
        let pairing = ports.for_service(&offered);
        if let Ports::Listed(listed) = ports {
            let all = listed.pairs.iter().map(|pair| &pair.frontend).chain(&listed.unpaired);
            let exists = |p: &Port| offered.iter().any(|o| (o.number, o.protocol) == (p.number, p.protocol));
            claims.missing_ports = all.filter(|p| !exists(p)).cloned().collect();
        }
        if pairing.pairs.is_empty() && pairing.unpaired.is_empty() {
            claims.references = References::NoSuchPort;
        } else {
            claims.take(&service.addresses, pairing);
        }
        claims
    }

    fn take(&mut self, addresses: &[IpAddr], pairing: Pairing) {
        for pair in pairing.pairs {
            for address in addresses {
                let frontend = Frontend::new(*address, pair.frontend.number, pair.frontend.protocol);
                self.frontends.entry(frontend).or_insert(pair.backend);
            }
        }
        self.unpaired = pairing.unpaired;
        if self.frontends.is_empty() {
            self.references = References::NoPair;
        }
    }
}
