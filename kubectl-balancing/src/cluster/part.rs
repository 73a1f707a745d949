//! The lists that what is known of a cluster is made of, how each is asked for, and what is kept of its objects.

use std::collections::{BTreeMap, BTreeSet};

use balancing_api::{overview::Gap, policy::PolicyKind};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Cluster, Wanted,
    facts::{NodeState, OwnPod, PolicyFact, Read},
    read::{BALANCINGS, Failure, Kind, LOCAL_REDIRECTS, NODES, PODS, STATES, Unreachable, gap_text},
};
use crate::text::percent_encoded;

/// Labels of the product's pods.
const PRODUCT: &str = "app.kubernetes.io/name=balancing";
/// The label that tells its components apart.
const COMPONENT: &str = "/metadata/labels/app.kubernetes.io~1component";

/// Which policies and nodes are asked for. The API server judges labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Chosen {
    /// Of a cluster: only policies with these labels, as kubectl takes them: team=dns, 'tier in (a,b)', '!canary'.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Of a cluster: only nodes with these labels. What is counted over nodes is counted over these.
    #[arg(long, value_name = "SELECTOR")]
    pub node_selector: Option<String>,
}

impl Chosen {
    /// Is everything asked for?
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// One of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Redirects,
    Balancings,
    States,
    Pods,
    /// Nodes that are chosen by their labels.
    Nodes,
}

/// How a list is asked for.
pub(super) struct List<'a> {
    /// What is missing without it.
    pub(super) missing: &'static str,
    pub(super) kind: Kind,
    pub(super) namespace: Option<&'a str>,
    /// `labelSelector=...`, or nothing.
    pub(super) query: String,
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Policy(Box<PolicyFact>),
    State(Box<NodeState>),
    Agent(OwnPod),
    Operator(OwnPod),
    /// A node's name.
    Node(String),
}

fn labels(selector: Option<&str>) -> String {
    selector.map(|s| format!("labelSelector={}", percent_encoded(s).replace('/', "%2F"))).unwrap_or_default()
}

impl Part {
    /// The lists that are needed.
    pub(super) fn of(wanted: Wanted, chosen: &Chosen) -> Vec<Self> {
        let mut parts = vec![Self::Redirects, Self::Balancings];
        parts.extend(wanted.states.then_some(Self::States));
        parts.extend(wanted.pods.then_some(Self::Pods));
        parts.extend(chosen.node_selector.is_some().then_some(Self::Nodes));
        parts
    }

    pub(super) fn list(self, cluster: &Cluster) -> List<'_> {
        let (missing, kind, selector) = match self {
            Self::Redirects => ("LocalRedirectPolicies", LOCAL_REDIRECTS, cluster.chosen.selector.as_deref()),
            Self::Balancings => ("BalancingPolicies", BALANCINGS, cluster.chosen.selector.as_deref()),
            Self::States => ("state of nodes", STATES, None),
            Self::Pods => ("state of agents and operator", PODS, Some(PRODUCT)),
            Self::Nodes => ("labels of nodes", NODES, cluster.chosen.node_selector.as_deref()),
        };
        let namespace = (self == Self::Pods).then_some(cluster.namespace.as_str());
        List { missing, kind, namespace, query: labels(selector) }
    }

    /// What is kept of an object of that list; none where nobody understands it.
    pub(super) fn keep(self, object: &Value) -> Option<Kept> {
        match self {
            Self::Redirects => PolicyFact::of(PolicyKind::LocalRedirectPolicy, object).map(policy),
            Self::Balancings => PolicyFact::of(PolicyKind::BalancingPolicy, object).map(policy),
            Self::States => NodeState::of(object).map(|s| Kept::State(Box::new(s))),
            Self::Pods => match object.pointer(COMPONENT).and_then(Value::as_str) {
                Some("agent") => OwnPod::of(object).map(Kept::Agent),
                Some("operator") => Some(Kept::Operator(OwnPod::read(object))),
                _ => None,
            },
            Self::Nodes => object["metadata"]["name"].as_str().map(|n| Kept::Node(n.to_owned())),
        }
    }

    /// What is missing where it cannot be read. Whoever chooses by labels that cannot be had would be shown what was not
    /// asked for: that is an error.
    pub(super) fn gap(self, chosen: &Chosen, failure: Failure) -> Result<Gap, Unreachable> {
        let gap = failure.gap()?;
        let (flag, selector) = match self {
            Self::Redirects | Self::Balancings => ("--selector", chosen.selector.as_deref()),
            Self::Nodes => ("--node-selector", chosen.node_selector.as_deref()),
            Self::States | Self::Pods => return Ok(gap),
        };
        let Some(selector) = selector else { return Ok(gap) };
        Err(match gap.message.strip_prefix(super::read::BAD_REQUEST) {
            Some(why) => Unreachable::Selector { flag, selector: selector.to_owned(), why: why.to_owned() },
            None => Unreachable::Choosing { flag, why: gap_text(&gap) },
        })
    }
}

fn policy(fact: PolicyFact) -> Kept {
    Kept::Policy(Box::new(fact))
}

/// What an object of a list is called there.
pub(super) fn name_of(object: &Value) -> String {
    let of = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", of("namespace"), of("name"))
}

/// What the lists hold that could be read, each object by its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(BTreeMap<Part, BTreeMap<String, Kept>>);

impl Parts {
    /// A list as a whole.
    pub(super) fn put(&mut self, part: Part, objects: &[Value]) {
        let kept = objects.iter().filter_map(|o| Some((name_of(o), part.keep(o)?))).collect();
        self.0.insert(part, kept);
    }

    /// One object that is new, or as it is now.
    pub(super) fn set(&mut self, part: Part, object: &Value) {
        let objects = self.0.entry(part).or_default();
        match part.keep(object) {
            Some(kept) => objects.insert(name_of(object), kept),
            None => objects.remove(&name_of(object)),
        };
    }

    /// One object that is no more.
    pub(super) fn remove(&mut self, part: Part, object: &Value) {
        self.0.entry(part).or_default().remove(&name_of(object));
    }

    pub(super) fn holds(&self, part: Part) -> bool {
        self.0.contains_key(&part)
    }

    fn each(&self, part: Part) -> Option<impl Iterator<Item = &Kept>> {
        self.0.get(&part).map(BTreeMap::values)
    }

    /// What is known, of the policies and nodes that are chosen.
    pub(super) fn read(&self, namespace: &str, chosen: &Chosen, gaps: Vec<Gap>) -> Read {
        let mut read = Read {
            time: Timestamp::now(),
            namespace: namespace.to_owned(),
            labelled: chosen.selector.is_some(),
            gaps,
            ..Read::default()
        };
        for part in [Part::Redirects, Part::Balancings] {
            let policies = self.each(part).map(|kept| {
                kept.filter_map(|k| match k {
                    Kept::Policy(fact) => Some((**fact).clone()),
                    _ => None,
                })
            });
            if let Some(policies) = policies {
                read.policies.get_or_insert_default().extend(policies);
            }
        }
        read.states = self.each(Part::States).map(|kept| {
            kept.filter_map(|k| match k {
                Kept::State(state) => Some((**state).clone()),
                _ => None,
            })
            .collect()
        });
        if let Some(pods) = self.each(Part::Pods) {
            let (mut agents, mut operators) = (Vec::new(), Vec::new());
            for kept in pods {
                match kept {
                    Kept::Agent(pod) => agents.push(pod.clone()),
                    Kept::Operator(pod) => operators.push(pod.clone()),
                    _ => {}
                }
            }
            read.operators = Some(operators);
            read.agents = Some(agents);
        }
        if let Some(nodes) = self.each(Part::Nodes) {
            let names = nodes.filter_map(|k| match k {
                Kept::Node(name) => Some(name.clone()),
                _ => None,
            });
            read.choose(names.collect::<BTreeSet<_>>());
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::PolicyNodes;
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Value {
        json!({
            "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": name},
            "status": {"agentVersion": "0.1.0"},
        })
    }

    #[test]
    fn selectors_are_parts_of_a_query() {
        assert_eq!(labels(Some("a/b in (c, d),!e")), "labelSelector=a%2Fb%20in%20%28c%2C%20d%29%2C%21e");
        assert_eq!(labels(None), "");
    }

    #[test]
    fn nodes_are_listed_only_where_some_are_chosen() {
        let chosen = Chosen { node_selector: Some("a=b".to_owned()), ..Chosen::default() };
        assert!(Part::of(Wanted::ALL, &chosen).contains(&Part::Nodes));
        assert!(!Part::of(Wanted::ALL, &Chosen::default()).contains(&Part::Nodes));
        assert_eq!(Part::of(Wanted::default(), &Chosen::default()), [Part::Redirects, Part::Balancings]);
    }

    #[test]
    fn objects_come_change_and_go() {
        let mut parts = Parts::default();
        assert!(!parts.holds(Part::States));
        parts.put(Part::States, &[object("n1"), object("n2")]);
        let mut newer = object("n1");
        newer["status"]["agentVersion"] = json!("0.2.0");
        parts.set(Part::States, &newer);
        parts.remove(Part::States, &object("n2"));
        // One that loses what it is understood by is gone too.
        parts.set(Part::States, &object("n3"));
        parts.set(Part::States, &json!({"metadata": {"name": "n3"}}));
        let versions: Vec<String> = parts
            .each(Part::States)
            .unwrap()
            .map(|k| match k {
                Kept::State(s) => format!("{} {}", s.name, s.status.agent_version),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(versions, ["n1 0.2.0"]);
    }

    #[test]
    fn nodes_that_are_not_chosen_are_in_no_sum() {
        let policy = json!({
            "metadata": {"name": "dns", "generation": 2},
            "status": {
                "observedGeneration": 2,
                "nodes": {"selected": 9, "programmed": 9, "effective": 7, "degraded": 2, "failed": 0, "pending": 0},
                "problemNodes": [
                    {"node": "n1", "state": "Fallback", "reason": "NoLocalBackend", "message": ""},
                    {"node": "n9", "state": "Fallback", "reason": "NoLocalBackend", "message": ""},
                ],
            },
        });
        let said = |node: &str, state: &str, generation: i64| {
            let mut object = object(node);
            object["status"]["policies"] = json!([{
                "kind": "LocalRedirectPolicy", "name": "dns", "uid": "", "observedGeneration": generation,
                "state": state, "reason": state,
            }]);
            NodeState::of(&object).unwrap()
        };
        let fact = PolicyFact::of(PolicyKind::LocalRedirectPolicy, &policy).unwrap();
        let states = vec![
            said("n1", "Fallback", 2),
            said("n2", "Programmed", 2),
            said("n3", "Programmed", 1),
            said("n4", "NotSelected", 2),
            said("n9", "Programmed", 2),
        ];
        let mut read = Read { policies: Some(vec![fact]), states: Some(states), ..Read::default() };
        read.choose(["n1", "n2", "n3", "n4"].map(str::to_owned).into());
        let sample = read.told(String::new());
        assert_eq!(sample.nodes.len(), 4);
        let status = &sample.cluster.as_ref().unwrap().policies.as_ref().unwrap()[0].status;
        let counted =
            PolicyNodes { selected: 3, programmed: 2, effective: 1, degraded: 1, failed: 0, pending: 1 };
        assert_eq!(status.nodes, counted);
        let named: Vec<&str> = status.problem_nodes.iter().map(|p| p.node.as_str()).collect();
        assert_eq!(named, ["n1"]);
    }
}
