//! Random states of a node, and a naive statement of what has to happen in them. For tests, also of other crates.

mod generate;
mod model;
mod random;
mod verdict;

use std::{collections::BTreeSet, net::IpAddr};

use balancing_api::net::Frontend;

pub use generate::{World, flows, objects};
pub use model::{Rules, expected, limit};
pub use random::Random;
pub use verdict::{shares, verdict};

/// The agent's own namespace, where nobody says another: pods of the operator may be there.
pub const NAMESPACE: &str = "elf";

/// Who dials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caller {
    /// A process outside every pod.
    Host,
    /// A process of a pod, `namespace/name`.
    Pod(String),
}

/// Somebody dials something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who.
    pub from: Caller,
    /// What.
    pub to: Frontend,
}

/// Where a flow may end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// At any of these, by a LocalRedirectPolicy.
    Redirect(BTreeSet<(IpAddr, u16)>),
    /// At any of these, by a BalancingPolicy.
    Balance(BTreeSet<(IpAddr, u16)>),
    /// At any of these, by the Service.
    Service(BTreeSet<(IpAddr, u16)>),
    /// At the address that was dialled, if anybody is there.
    Untouched,
    /// The client is refused.
    Refuse,
}
