//! `balancing-operator --check`: is what the chart installed at work? `helm test` runs it.

use std::{fmt::Display, time::Duration};

use balancing_api::{names::condition, node_state::NodeBalancingState};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

/// Name of the agents' DaemonSet, as the chart has it.
pub(crate) const AGENTS: &str = "balancing-agent";
/// Name of the operator's Deployment.
const OPERATOR: &str = "balancing-operator";
/// How long an installation may take to be at work.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Nodes named in one line.
const NAMED: usize = 5;

/// Looks until nothing is missing, or patience ends; prints what is.
///
/// # Errors
/// Something is missing; the error names it.
pub async fn run(client: Client, namespace: &str) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    loop {
        let missing = match look(&client, namespace).await {
            Ok(seen) => missing(&seen),
            Err(error) => vec![format!("failed to ask the API server: {error}")],
        };
        if missing.is_empty() {
            tracing::info!("agents and operator are ready, and every node says so");
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(missing.join("; ").into());
        }
        sleep(PAUSE).await;
    }
}

/// What the API server has.
struct Seen {
    agents: DaemonSet,
    operator: Deployment,
    states: Vec<NodeBalancingState>,
}

async fn look(client: &Client, namespace: &str) -> Result<Seen, kube::Error> {
    Ok(Seen {
        agents: Api::namespaced(client.clone(), namespace).get(AGENTS).await?,
        operator: Api::namespaced(client.clone(), namespace).get(OPERATOR).await?,
        states: Api::<NodeBalancingState>::all(client.clone())
            .list(&kube::api::ListParams::default())
            .await?
            .items,
    })
}

/// What is not as it should be, in words.
fn missing(seen: &Seen) -> Vec<String> {
    let mut missing = Vec::new();
    let status = seen.agents.status.clone().unwrap_or_default();
    let wanted = status.desired_number_scheduled;
    let observed = status.observed_generation >= seen.agents.metadata.generation;
    if wanted == 0 || !observed {
        missing.push(format!("DaemonSet {AGENTS} has no pods yet"));
    } else if status.number_ready < wanted || status.updated_number_scheduled.unwrap_or_default() < wanted {
        missing.push(format!("{} of {wanted} agents are ready", status.number_ready));
    }
    let available = seen.operator.status.as_ref().and_then(|s| s.available_replicas).unwrap_or_default();
    if available == 0 {
        missing.push(format!("no pod of Deployment {OPERATOR} is available"));
    }
    if writes_states(&seen.agents) {
        let unready = seen.states.iter().filter(|s| !is_ready(s)).map(kube::ResourceExt::name_any);
        let unready: Vec<_> = unready.collect();
        if !unready.is_empty() {
            missing.push(format!("not Ready, see `kubectl get nbs -o wide`: {}", some_of(&unready)));
        }
        if seen.states.len() < usize::try_from(wanted).unwrap_or_default() {
            missing.push(format!("{} of {wanted} nodes have a NodeBalancingState", seen.states.len()));
        }
    }
    missing
}

/// Were the agents told to write states?
fn writes_states(agents: &DaemonSet) -> bool {
    let pod = agents.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let variables = pod.into_iter().flat_map(|p| &p.containers).flat_map(|c| c.env.iter().flatten());
    !variables.filter(|v| v.name == "BALANCING_NODE_STATUS").any(|v| v.value.as_deref() == Some("false"))
}

fn is_ready(state: &NodeBalancingState) -> bool {
    let conditions = state.status.iter().flat_map(|s| &s.conditions);
    conditions.filter(|c| c.type_ == condition::READY).any(|c| c.status == "True")
}

fn some_of(names: &[impl Display]) -> String {
    let mut text = names.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let more @ 1.. = names.len().saturating_sub(NAMED) {
        text += &format!(" and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(ready: i32, states: &Value, node_status: &str) -> Seen {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "agent", "env": [{"name": "BALANCING_NODE_STATUS", "value": node_status}]}]}});
        let agents = json!({
            "metadata": {"name": AGENTS, "generation": 2},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
            "status": {"currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 0,
                       "numberReady": ready, "updatedNumberScheduled": 2, "observedGeneration": 2},
        });
        let operator = json!({"metadata": {"name": OPERATOR}, "status": {"availableReplicas": 1}});
        let states = states.as_object().unwrap().iter().map(|(name, ready)| {
            let condition = json!({"type": "Ready", "status": ready, "reason": "x", "message": "",
                                   "lastTransitionTime": "2026-01-01T00:00:00Z"});
            json!({"metadata": {"name": name}, "status": {"conditions": [condition]}})
        });
        Seen {
            agents: serde_json::from_value(agents).unwrap(),
            operator: serde_json::from_value(operator).unwrap(),
            states: states.map(|s| serde_json::from_value(s).unwrap()).collect(),
        }
    }

    #[test]
    fn nothing_is_missing_where_every_node_says_so() {
        assert_eq!(missing(&seen(2, &json!({"n1": "True", "n2": "True"}), "true")), Vec::<String>::new());
        assert_eq!(missing(&seen(2, &json!({}), "false")), Vec::<String>::new(), "no states are written");
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = |seen: &Seen| missing(seen).join("; ");
        assert_eq!(said(&seen(1, &json!({"n1": "True", "n2": "True"}), "true")), "1 of 2 agents are ready");
        assert_eq!(
            said(&seen(2, &json!({"n1": "False"}), "true")),
            "not Ready, see `kubectl get nbs -o wide`: n1; 1 of 2 nodes have a NodeBalancingState"
        );
        let mut stale = seen(2, &json!({"n1": "True", "n2": "True"}), "true");
        stale.agents.metadata.generation = Some(3);
        stale.operator.status = None;
        let told =
            "DaemonSet balancing-agent has no pods yet; no pod of Deployment balancing-operator is available";
        assert_eq!(said(&stale), told);
        assert_eq!(some_of(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d, e and 1 more");
    }
}
