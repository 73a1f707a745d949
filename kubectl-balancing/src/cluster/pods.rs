//! What the product's own pods say is wrong before any node says so itself. Pure.

use std::collections::BTreeMap;

use balancing_api::cli::{ProblemItem, Severity};

use super::facts::{OwnPod, Read};
use crate::{sample::Sample, text::list};

/// Pods that are named.
const NAMED: usize = 3;

/// Why what a node says of itself may no longer be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// The cluster hears nothing of the node.
    NodeNotReady,
    /// Its agent runs and is not Ready.
    AgentNotReady,
}

impl Doubt {
    /// The doubt about a node whose agent runs; none where its pod is Ready, or pods cannot be read.
    pub(super) fn about(read: &Read, node: &str) -> Option<Self> {
        let pod = read.agent_of(node).filter(|p| p.runs && !p.ready)?;
        Some(if pod.lost { Self::NodeNotReady } else { Self::AgentNotReady })
    }

    /// In a few words.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::NodeNotReady => "the node is NotReady",
            Self::AgentNotReady => "its agent's pod is not Ready",
        }
    }

    fn problem(self, nodes: Vec<String>, read: &Read) -> ProblemItem {
        let first = nodes.first().map(String::as_str).unwrap_or_default();
        let (reason, object, message, next) = match self {
            Self::NodeNotReady => (
                "NodeNotReady",
                "node",
                "the cluster hears nothing of it (its pods are not Ready, their containers were): what is known of it \
                 is what it said last"
                    .to_owned(),
                format!("kubectl describe node {first}"),
            ),
            Self::AgentNotReady => {
                let pods: Vec<&str> =
                    nodes.iter().filter_map(|n| read.agent_of(n)).map(|p| p.name.as_str()).collect();
                (
                    "AgentNotReady",
                    "agent",
                    format!("not Ready: {}: what the node does now is not known", list(&pods, NAMED)),
                    read.agent_of(first).map(|p| look_at(p, &read.namespace)).unwrap_or_default(),
                )
            }
        };
        ProblemItem {
            severity: Severity::Error,
            reason: reason.to_owned(),
            object: object.to_owned(),
            message,
            next,
            nodes,
        }
    }
}

/// Are pods of the operator to be read, and is none of them Ready?
pub(super) fn is_without_operator(read: &Read) -> bool {
    read.operators.as_ref().is_some_and(|pods| !pods.iter().any(|p| p.runs && p.ready))
}

/// The line that shows why a pod is not Ready.
pub(super) fn look_at(pod: &OwnPod, namespace: &str) -> String {
    match (pod.runs, pod.why.as_str()) {
        (true, _) if pod.lost => format!("kubectl describe node {}", pod.node),
        (true, _) => format!("kubectl logs -n {namespace} {} --tail=20", pod.name),
        // Of a container that waits for its next start these are the lines of the last one.
        (false, "CrashLoopBackOff") => {
            format!("kubectl logs -n {namespace} {} --previous --tail=20", pod.name)
        }
        (false, "Error" | "OOMKilled") => format!("kubectl logs -n {namespace} {} --tail=20", pod.name),
        (false, _) => format!("kubectl describe pod -n {namespace} {}", pod.name),
    }
}

fn operator(read: &Read) -> Option<ProblemItem> {
    let pods = read.operators.as_ref().filter(|_| is_without_operator(read))?;
    let one = |p: &OwnPod| {
        let why = if p.runs { "not Ready" } else { p.why.as_str() };
        if why.is_empty() { p.name.clone() } else { format!("{} ({why})", p.name) }
    };
    let (which, next) = match pods.first() {
        None => (
            format!("no pod of it is in namespace {} (--balancing-namespace names another)", read.namespace),
            "kubectl get pods -A -l app.kubernetes.io/name=balancing,app.kubernetes.io/component=operator"
                .to_owned(),
        ),
        Some(first) => {
            let named: Vec<String> = pods.iter().map(one).collect();
            (format!("no pod of it is Ready: {}", list(&named, NAMED)), look_at(first, &read.namespace))
        }
    };
    Some(ProblemItem {
        severity: Severity::Error,
        reason: "OperatorNotReady".to_owned(),
        object: "operator".to_owned(),
        message: format!(
            "{which}; until one is, the status of policies is what it was, and there is no live view"
        ),
        next,
        nodes: Vec::new(),
    })
}

/// The problems that pods tell. Of nodes that are known to have stopped, or never spoke, others tell.
pub(super) fn problems(read: &Read, sample: &Sample) -> Vec<ProblemItem> {
    let mut doubts: BTreeMap<Doubt, Vec<String>> = BTreeMap::new();
    for name in sample.nodes.iter().map(|n| &n.status.node.name) {
        if let Some(doubt) = Doubt::about(read, name) {
            doubts.entry(doubt).or_default().push(name.clone());
        }
    }
    let of_nodes = doubts.into_iter().map(|(doubt, nodes)| doubt.problem(nodes, read));
    operator(read).into_iter().chain(of_nodes).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ready: &str, containers: &str, state: &Value) -> OwnPod {
        OwnPod::read(&json!({
            "metadata": {"name": name}, "spec": {"nodeName": "n1"},
            "status": {
                "phase": "Running",
                "conditions": [
                    {"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers},
                ],
                "containerStatuses": [{"state": state}],
            },
        }))
    }

    fn with(operators: Option<Vec<OwnPod>>, agents: Option<Vec<OwnPod>>) -> Read {
        Read { namespace: "elf".to_owned(), operators, agents, ..Read::default() }
    }

    #[test]
    fn a_node_that_is_cut_off_is_told_from_an_agent_that_is_not_ready() {
        let running = json!({"running": {}});
        let about = |ready, containers| {
            Doubt::about(&with(None, Some(vec![pod("a", ready, containers, &running)])), "n1")
        };
        assert_eq!(about("True", "True"), None);
        assert_eq!(about("False", "False"), Some(Doubt::AgentNotReady));
        assert_eq!(about("False", "True"), Some(Doubt::NodeNotReady));
        let mut gated = json!({
            "metadata": {"name": "a"}, "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "x"}]},
            "status": {"phase": "Running", "conditions": [{"type": "ContainersReady", "status": "True"}]},
        });
        assert!(!OwnPod::read(&gated).lost, "a gate keeps it from being Ready");
        gated["spec"]["readinessGates"] = json!([]);
        assert!(OwnPod::read(&gated).lost);
        assert_eq!(Doubt::about(&with(None, None), "n1"), None, "pods cannot be read: that is a gap");
        // While one is replaced by another, the one that is Ready counts.
        let two = vec![pod("a", "True", "True", &running), pod("b", "False", "False", &running)];
        assert_eq!(Doubt::about(&with(None, Some(two)), "n1"), None);
    }

    #[test]
    fn pods_that_are_not_ready_are_named() {
        let running = json!({"running": {}});
        let read = with(None, Some(vec![pod("agent-1", "False", "False", &running)]));
        let problem = Doubt::AgentNotReady.problem(vec!["n1".to_owned()], &read);
        assert_eq!(problem.message, "not Ready: agent-1: what the node does now is not known");
        assert_eq!(problem.next, "kubectl logs -n elf agent-1 --tail=20");
        let gone = Doubt::NodeNotReady.problem(vec!["n1".to_owned()], &read);
        assert_eq!((gone.object.as_str(), gone.next.as_str()), ("node", "kubectl describe node n1"));
    }

    #[test]
    fn an_operator_of_which_no_pod_is_ready_is_a_problem() {
        let (running, crashed) = (json!({"running": {}}), json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        let ready = pod("op-1", "True", "True", &running);
        let fails = pod("op-2", "False", "False", &running);
        let crashes = pod("op-3", "False", "False", &crashed);
        let told = |pods: Option<Vec<OwnPod>>| operator(&with(pods, None)).map(|p| (p.message, p.next));
        assert_eq!(told(None), None, "pods cannot be read: that is a gap");
        assert_eq!(told(Some(vec![fails.clone(), ready])), None);
        let (message, next) = told(Some(vec![crashes, fails.clone()])).unwrap();
        assert!(
            message.starts_with("no pod of it is Ready: op-3 (CrashLoopBackOff), op-2 (not Ready)"),
            "{message}"
        );
        assert_eq!(next, "kubectl logs -n elf op-3 --previous --tail=20");
        assert_eq!(told(Some(vec![fails])).unwrap().1, "kubectl logs -n elf op-2 --tail=20");
        // There may be no container before the one that has just ended.
        let ended = pod("op-5", "False", "False", &json!({"terminated": {"reason": "Error"}}));
        assert_eq!(told(Some(vec![ended])).unwrap().1, "kubectl logs -n elf op-5 --tail=20");
        let waits = json!({"metadata": {"name": "op-4"}, "spec": {}, "status": {"phase": "Pending"}});
        let (message, next) = told(Some(vec![OwnPod::read(&waits)])).unwrap();
        assert!(message.contains("op-4 (Pending)"), "{message}");
        assert_eq!(next, "kubectl describe pod -n elf op-4");
        let (message, next) = told(Some(Vec::new())).unwrap();
        assert!(message.starts_with("no pod of it is in namespace elf"), "{message}");
        assert!(message.contains("--balancing-namespace"), "{message}");
        assert!(next.starts_with("kubectl get pods -A -l "), "{next}");
    }
}
