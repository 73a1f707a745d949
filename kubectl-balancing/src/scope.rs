//! Which part of a sample is shown: one policy, some nodes. All rows, sums, charts and problems follow from it. Pure.

use std::{collections::HashSet, fmt, str::FromStr, sync::Arc};

use balancing_api::{
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};

use crate::{
    explain::policy::kind_of,
    sample::{NodeSample, Sample, owner},
    text::{list, near, sanitise},
};

/// A policy as the command line names it: `NAME`, `lr/NAME`, `bl/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName {
    kind: Option<PolicyKind>,
    name: String,
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (Some(kind_of(kind)?), name),
            None => (None, text),
        };
        if name.is_empty() {
            Err("a name is missing".to_owned())
        } else {
            Ok(Self { kind, name: name.to_owned() })
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{}/{}", kind.short_name(), self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl PolicyName {
    fn is(&self, kind: PolicyKind, name: &str) -> bool {
        self.name == name && self.kind.is_none_or(|k| k == kind)
    }
}

/// What is asked for does not exist anywhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {what} {name:?} here{}", hint(.known, .near))]
pub struct NotFound {
    what: &'static str,
    name: String,
    near: Vec<String>,
    known: Vec<String>,
}

fn hint(known: &[String], near: &[String]) -> String {
    match (known, near) {
        (_, [_, ..]) => format!("; did you mean {}?", sanitise(&list(near, 3))),
        ([], _) => ": there is none at all".to_owned(),
        (known, _) => format!("; there is {}", sanitise(&list(known, 10))),
    }
}

/// The part of a sample that is asked for; by default all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// This policy alone, with the Service beneath it.
    pub policy: Option<PolicyName>,
    /// These nodes alone; none is all.
    pub nodes: Vec<String>,
}

impl Scope {
    /// Is it all of a sample?
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.policy.is_none() && self.nodes.is_empty()
    }

    /// The part of the sample. What is not there at all is an error; what goes later is no more than absent, so only a
    /// `first` sample is checked.
    pub fn of(&self, mut sample: Sample, first: bool) -> Result<Sample, NotFound> {
        if first {
            self.check(&sample)?;
        }
        if !self.nodes.is_empty() {
            sample.only_nodes(|name| self.nodes.iter().any(|n| n == name));
        }
        if let Some(policy) = &self.policy {
            sample.only_policies(|p| policy.is(p.kind, &p.name));
        }
        Ok(sample)
    }

    fn check(&self, sample: &Sample) -> Result<(), NotFound> {
        let nodes = || sample.nodes.iter().chain(&sample.stale);
        let names: Vec<&str> = nodes()
            .map(|n| n.status.node.name.as_str())
            .chain(sample.coverage.missing.iter().map(String::as_str))
            .collect();
        if let Some(name) = self.nodes.iter().find(|n| !names.contains(&n.as_str())) {
            return Err(not_found("node", name, names));
        }
        let Some(policy) = &self.policy else { return Ok(()) };
        // In a cluster there may be policies that no node has heard of yet.
        let facts = sample.cluster.iter().flat_map(|f| f.policies()).map(|f| (f.policy.kind, &f.policy.name));
        let said = nodes().flat_map(|n| &n.status.policies).map(|p| (p.kind, &p.name));
        let known: Vec<(PolicyKind, &String)> = said.chain(facts).collect();
        if known.iter().any(|(kind, name)| policy.is(*kind, name)) {
            return Ok(());
        }
        Err(not_found("policy", &policy.name, known.iter().map(|(_, name)| name.as_str()).collect()))
    }
}

fn not_found(what: &'static str, name: &str, mut known: Vec<&str>) -> NotFound {
    known.sort_unstable();
    known.dedup();
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    NotFound {
        what,
        name: name.to_owned(),
        near: owned(near(name, known.iter().copied())),
        known: owned(known),
    }
}

impl Sample {
    /// Leaves these nodes alone. What the operator counts over all nodes is counted anew over them.
    pub fn only_nodes(&mut self, wanted: impl Fn(&str) -> bool) {
        self.nodes.retain(|n| wanted(&n.status.node.name));
        self.stale.retain(|n| wanted(&n.status.node.name));
        self.coverage.missing.retain(|n| wanted(n));
        self.coverage.fresh = self.nodes.len() as u32;
        self.coverage.stale = self.stale.len() as u32;
        if let Some(facts) = &mut self.cluster {
            Arc::make_mut(facts).recount(&self.nodes, &self.stale);
        }
    }

    /// Leaves what is about these policies.
    pub fn only_policies(&mut self, wanted: impl Fn(&PolicyRef) -> bool) {
        self.nodes.iter_mut().chain(&mut self.stale).for_each(|node| about(&wanted, node));
        if let Some(facts) = &mut self.cluster {
            Arc::make_mut(facts).policies.iter_mut().for_each(|p| p.retain(|p| wanted(&p.policy)));
        }
    }
}

/// Leaves of a node what is about the policies: their frontends with all rungs, and whose backends those are.
fn about(wanted: &impl Fn(&PolicyRef) -> bool, node: &mut NodeSample) {
    node.status.policies.retain(|p| wanted(&PolicyRef::new(p.kind, p.name.clone())));
    let held: HashSet<Frontend> =
        node.status.policies.iter().flat_map(|p| p.frontends.iter().copied()).collect();
    node.frontends.items.retain(|f| {
        held.contains(&f.frontend) || f.rungs.iter().any(|r| r.policy.as_ref().is_some_and(wanted))
    });
    let frontends: HashSet<Frontend> = node.frontends.items.iter().map(|f| f.frontend).chain(held).collect();
    let owners: HashSet<String> = node.frontends.items.iter().flat_map(|f| &f.rungs).map(owner).collect();
    node.counters.policies.retain(|c| wanted(&c.policy));
    node.counters.frontends.retain(|c| frontends.contains(&c.frontend));
    node.counters.backends.retain(|b| owners.contains(&b.owner));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{demo::Demo, sample::Board};

    fn sample() -> Sample {
        let mut demo = Demo::new(1, 6);
        demo.next(Duration::from_secs(30));
        demo.next(Duration::from_secs(20))
    }

    fn scope(policy: Option<&str>, nodes: &[&str]) -> Scope {
        Scope {
            policy: policy.map(|p| p.parse().unwrap()),
            nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    #[test]
    fn one_policy_and_what_is_beneath_it() {
        let board = Board::new(scope(Some("lr/node-local-dns"), &[]).of(sample(), true).unwrap(), None);
        assert_eq!(board.policies.len(), 1);
        assert_eq!(board.policies[0].policy.name, "node-local-dns");
        assert!(!board.frontends.is_empty() && board.frontends.iter().all(|f| f.frontend.port == 53));
        let mut owners: Vec<&str> = board.backends.iter().map(|b| b.owner.as_str()).collect();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners, ["LocalRedirectPolicy/node-local-dns", "Service/kube-system/kube-dns"]);
        assert_eq!(board.nodes.len(), 6);
    }

    #[test]
    fn some_nodes_alone() {
        let all = Board::new(sample(), None);
        let some = scope(None, &["demo-01", "demo-05", "demo-06"]).of(sample(), true).unwrap();
        // One that answers, one that is silent for a while, one that never reported.
        assert_eq!((some.coverage.fresh, some.coverage.stale, some.coverage.missing.len()), (1, 1, 1));
        let board = Board::new(some, None);
        assert_eq!(board.nodes.len(), 3);
        assert!(board.policies[0].nodes.wanted < all.policies[0].nodes.wanted);
        assert_eq!(Scope::default().of(sample(), true).unwrap(), sample());
    }

    #[test]
    fn what_is_not_there_is_told_at_first_only() {
        let error = |scope: Scope| scope.of(sample(), true).unwrap_err().to_string();
        assert_eq!(
            error(scope(Some("node-local-dsn"), &[])),
            "no policy \"node-local-dsn\" here; did you mean node-local-dns?"
        );
        assert_eq!(
            error(scope(Some("bl/node-local-dns"), &[])),
            "no policy \"node-local-dns\" here; did you mean node-local-dns?"
        );
        assert!(error(scope(None, &["n1"])).starts_with("no node \"n1\" here; there is demo-01, demo-02"));
        assert_eq!(scope(Some("gone"), &[]).of(sample(), false).unwrap().nodes[0].status.policies, []);
        for wrong in ["", "lr/", "pod/x"] {
            assert!(wrong.parse::<PolicyName>().is_err(), "{wrong}");
        }
    }
}
