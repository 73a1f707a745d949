//! Gathers what a policy refers to: its claims, who comes before it, its nodes and what they say. Pure: everything is
//! in the stores.

use balancing_api::{
    agent::PolicyState,
    claims::{Claims, Rank},
    net::Frontend,
    policy::PolicyRef,
};

use crate::{
    objects::{Policy, Report},
    world::{Bits, Said, World},
};

/// Somebody comes before the policy on a frontend.
#[derive(Clone, Debug)]
pub struct Earlier<'w> {
    /// The frontend.
    pub frontend: Frontend,
    /// Who.
    pub rank: &'w Rank,
    /// The nodes that one selects.
    pub selected: &'w Bits,
    /// Does it select every node there may ever be?
    pub everywhere: bool,
}

/// A policy with all that it refers to.
#[derive(Clone, Debug)]
pub struct Dereferenced<'w> {
    /// The policy.
    pub policy: &'w Policy,
    /// Its place in conflicts.
    pub rank: Rank,
    /// What it claims; nothing where its spec is invalid.
    pub claims: Option<&'w Claims>,
    /// The nodes it selects.
    pub selected: &'w Bits,
    /// Everybody who comes before it, by frontend, first to last.
    pub earlier: Vec<Earlier<'w>>,
    /// What each selected node says of it.
    pub said: Vec<NodeSays<'w>>,
}

/// A selected node and what it says of the policy.
#[derive(Clone, Debug)]
pub struct NodeSays<'w> {
    /// Its number.
    pub slot: u32,
    /// Its name.
    pub node: &'w str,
    /// What it says.
    pub says: Says<'w>,
}

/// What a node says of a policy.
#[derive(Clone, Copy, Debug)]
pub enum Says<'w> {
    /// Its rung is there, with backends.
    Effective,
    /// It is done there, but nothing is redirected: no usable backend, or nothing of it to program.
    Idle(&'w Report),
    /// Another policy holds its frontends there.
    Conflicted,
    /// It should be there and is not.
    Failed(&'w Report),
    /// Nothing about this generation.
    Nothing,
}

/// What a report comes to.
fn says(said: Said<'_>) -> Says<'_> {
    let report = match said {
        Said::Report(report) => report,
        Said::NothingWrong => return Says::Effective,
        Said::Nothing => return Says::Nothing,
    };
    match &report.state {
        PolicyState::Programmed if report.effective => Says::Effective,
        PolicyState::Programmed | PolicyState::Fallback => Says::Idle(report),
        PolicyState::Conflicted => Says::Conflicted,
        // It looked at other labels than the cluster's.
        PolicyState::NotSelected => Says::Nothing,
        _ => Says::Failed(report),
    }
}

/// Gathers what a policy refers to; nothing where there is no such policy.
#[must_use]
pub fn dereference<'w>(world: &'w World, reference: &PolicyRef, rank: &'w Rank) -> Option<Dereferenced<'w>> {
    let policy = world.policy(reference)?;
    let selected = world.selected(reference)?;
    let claims = world.claims(reference);
    let mut earlier = Vec::new();
    for frontend in claims.iter().flat_map(|claims| claims.frontends.keys()) {
        earlier.extend(world.before(rank, frontend).map(|(rank, other, selected)| Earlier {
            frontend: *frontend,
            rank,
            selected,
            everywhere: other.spec.as_ref().is_ok_and(|spec| spec.nodes.is_none()),
        }));
    }
    let said = selected
        .iter()
        .map(|slot| NodeSays { slot, node: world.node_name(slot), says: says(world.said(slot, policy)) })
        .collect();
    Some(Dereferenced { policy, rank: rank.clone(), claims, selected, earlier, said })
}

/// The place of a policy in conflicts.
#[must_use]
pub fn rank_of(policy: &Policy) -> Rank {
    Rank { created: policy.created, policy: policy.reference.clone() }
}
