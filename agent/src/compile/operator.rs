//! The operator's processes on this node: as the agent itself, they are exempt from every policy.

use std::{collections::BTreeSet, sync::Arc};

use balancing_api::names::{
    APP_NAME, COMPONENT_OPERATOR, LABEL_APP_COMPONENT, LABEL_APP_NAME, OPERATOR_ACCOUNT,
};

use super::{Compiler, NodeContext};
use crate::snapshot::{Phase, Pod, Snapshot};

/// Ids of the cgroups of the operator's pods on the agent's node. A policy that leads the API server's Service astray would
/// else keep the operator from hearing that it has been taken back.
pub(super) fn cgroups(snapshot: &Snapshot, context: &NodeContext) -> BTreeSet<u64> {
    let cgroups = pods(snapshot, context).filter_map(|pod| context.pod_cgroups.get(&pod.uid));
    cgroups.flatten().copied().collect()
}

impl Compiler {
    /// The operator's pods on the agent's node, `namespace/name`.
    pub fn operator_pods(&self, snapshot: &Snapshot, context: &NodeContext) -> Vec<String> {
        pods(snapshot, context).map(|pod| pod.full_name.to_string()).collect()
    }
}

fn pods<'a>(snapshot: &'a Snapshot, context: &'a NodeContext) -> impl Iterator<Item = &'a Arc<Pod>> {
    snapshot.pods_of(&context.node).filter(|pod| is_operator(pod, context))
}

/// Is a pod of this node the operator's, and not over?
///
/// Anybody may give a pod any labels: it counts only in the agent's own namespace and under the operator's service account,
/// where who can create pods can have that account's token too.
fn is_operator(pod: &Pod, context: &NodeContext) -> bool {
    pod.name.namespace == context.namespace
        && pod.account.as_deref() == Some(OPERATOR_ACCOUNT)
        && pod.labels.get(LABEL_APP_NAME) == Some(APP_NAME)
        && pod.labels.get(LABEL_APP_COMPONENT) == Some(COMPONENT_OPERATOR)
        && pod.phase != Phase::Finished
}

#[cfg(test)]
mod tests {
    use balancing_api::records::{Converter, Labels, Name};

    use super::*;

    fn operator() -> Pod {
        let labels = [(LABEL_APP_NAME, "balancing"), (LABEL_APP_COMPONENT, "operator"), ("more", "x")];
        Pod {
            name: Name::new("elf", "operator-1"),
            full_name: "elf/operator-1".into(),
            uid: "u".into(),
            node: Some("n1".into()),
            account: Some("balancing-operator".into()),
            labels: Labels::new(labels, &mut Converter::default().strings),
            addresses: Vec::new(),
            phase: Phase::Running,
            ready: false,
            terminating: true,
            running: Box::default(),
        }
    }

    #[test]
    fn only_the_operators_pods_of_the_agents_namespace() {
        let context = NodeContext { node: "n1".into(), namespace: "elf".into(), ..NodeContext::default() };
        let is = |change: fn(&mut Pod)| {
            let mut pod = operator();
            change(&mut pod);
            is_operator(&pod, &context)
        };
        // Ready or not, and until it has ended.
        assert!(is(|_| ()));
        assert!(is(|pod| pod.phase = Phase::Pending));
        let others: [fn(&mut Pod); 5] = [
            |pod| pod.name = Name::new("team", "operator-1"),
            |pod| pod.account = Some("default".into()),
            |pod| pod.account = None,
            |pod| pod.labels = Labels::default(),
            |pod| pod.phase = Phase::Finished,
        ];
        for (number, other) in others.into_iter().enumerate() {
            assert!(!is(other), "case {number}");
        }
        let agent = [(LABEL_APP_NAME, "balancing"), (LABEL_APP_COMPONENT, "agent")];
        let mut pod = operator();
        pod.labels = Labels::new(agent, &mut Converter::default().strings);
        assert!(!is_operator(&pod, &context));
    }
}
