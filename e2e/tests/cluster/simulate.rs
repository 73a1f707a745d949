//! A hundred nodes whose agents only talk: how much is written to the API server, and is the status right at the end?

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{Operator, objects},
    manifests::{POLICIES, policy_ports},
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene},
};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_rollout_costs_few_writes_and_rest_costs_none", a_rollout_costs_few_writes_and_rest_costs_none)];

const NODES: usize = 100;
const POLICIES_OF_ALL: usize = 50;
/// Label of the simulated nodes, which the policies select, so that no other node counts.
const LABEL: &str = "e2e/simulated";

/// What an agent would have read of a policy.
#[derive(Clone, Debug)]
struct Seen {
    uid: String,
    generation: i64,
}

/// The agents of all nodes, in one process.
struct Fleet<'s> {
    scene: &'s Scene,
    policies: BTreeMap<String, Seen>,
}

fn node_name(index: usize) -> String {
    format!("sim-{index:03}")
}

fn policy_name(index: usize) -> String {
    format!("sim-{index:02}")
}

fn policy(index: usize, port: u16) -> Value {
    json!({
        "apiVersion": POLICIES, "kind": "LocalRedirectPolicy", "metadata": {"name": policy_name(index)},
        "spec": {
            "config": {"nodeLabelSelector": {"matchLabels": {LABEL: "yes"}}},
            "frontend": {"addressMatcher": {
                "ip": format!("198.51.100.{}", 100 + index), "toPorts": policy_ports(&["80/TCP"]),
            }},
            "backend": {
                "endpointSelector": {"matchLabels": {"app": "simulated"}}, "toPorts": policy_ports(&[&format!("{port}/TCP")]),
            },
        },
    })
}

impl Fleet<'_> {
    /// Makes the nodes and their empty states.
    fn join(&self) -> Result<()> {
        for index in 0..NODES {
            let name = node_name(index);
            self.scene.create(&json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {LABEL: "yes"}},
            }))?;
            self.scene.create(&json!({
                "apiVersion": POLICIES, "kind": "NodeBalancingState", "metadata": {"name": name},
            }))?;
        }
        Ok(())
    }

    /// Reads what is asked of a policy now.
    fn read(&mut self, name: &str) -> Result<()> {
        let policy = self.scene.kube.object(&objects::path("LocalRedirectPolicy", "", name)?)?;
        let seen = Seen {
            uid: policy["metadata"]["uid"].as_str().context("no uid")?.to_owned(),
            generation: policy["metadata"]["generation"].as_i64().context("no generation")?,
        };
        self.policies.insert(name.to_owned(), seen);
        Ok(())
    }

    /// A node writes its state; `failed` is the policy that is not in its maps.
    fn say(&self, node: usize, failed: Option<&str>) -> Result<()> {
        let said = |(name, seen): (&String, &Seen)| {
            let (state, reason) =
                if failed == Some(name) { ("Failed", "MapFull") } else { ("Programmed", "Programmed") };
            json!({
                "kind": "LocalRedirectPolicy", "name": name, "uid": seen.uid, "observedGeneration": seen.generation,
                "state": state, "reason": reason, "backends": {"wanted": 1, "programmed": 1},
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let policies: Vec<_> = self.policies.iter().map(said).collect();
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let path = objects::path("NodeBalancingState", "", &node_name(node))?;
        let status =
            json!({"agentVersion": env!("CARGO_PKG_VERSION"), "conditions": [ready], "policies": policies});
        self.scene.kube.set_status(&path, &status)?;
        Ok(())
    }

    fn say_all(&self) -> Result<()> {
        (0..NODES).try_for_each(|node| self.say(node, None))
    }

    /// Of every policy: its edition, and what its status says of nodes.
    fn statuses(&self) -> Result<BTreeMap<String, (String, Value)>> {
        let list = self.scene.kube.list(&objects::collection("LocalRedirectPolicy", "")?)?;
        let ours = list.into_iter().filter_map(|p| {
            let name = p["metadata"]["name"].as_str()?.to_owned();
            let edition = p["metadata"]["resourceVersion"].as_str()?.to_owned();
            self.policies.contains_key(&name).then(|| (name, (edition, p["status"]["nodes"].clone())))
        });
        Ok(ours.collect())
    }
}

fn all_programmed() -> Value {
    json!({"selected": NODES, "programmed": NODES, "effective": NODES, "degraded": 0, "failed": 0, "pending": 0})
}

fn a_rollout_costs_few_writes_and_rest_costs_none(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let writes = || Ok::<_, anyhow::Error>(operator.metrics()?.sum("balancing_status_writes_total", ""));
    let mut fleet = Fleet { scene: &scene, policies: BTreeMap::new() };
    fleet.join()?;
    for index in 0..POLICIES_OF_ALL {
        scene.apply(&policy(index, 8080))?;
        fleet.read(&policy_name(index))?;
    }
    let begun = Instant::now();
    fleet.say_all()?;
    let said = begun.elapsed();
    wait::until(
        SOON,
        || "every policy is programmed everywhere".to_owned(),
        || Ok(fleet.statuses()?.values().all(|(_, nodes)| *nodes == all_programmed()).then_some(())),
    )
    .with_context(|| format!("{:?}", fleet.statuses()))?;
    let settled = begun.elapsed();

    // At rest: longer than the shortest time between two writes of a status.
    let (before, counted) = (fleet.statuses()?, writes()?);
    let written = wait::until(
        Duration::from_secs(12),
        || "a write".to_owned(),
        || Ok((fleet.statuses()? != before).then_some(())),
    );
    ensure!(written.is_err() && (writes()? - counted).abs() < 0.5, "something is written at rest");

    // One policy is edited, and every node says that it has it.
    scene.apply(&policy(7, 8081))?;
    fleet.read(&policy_name(7))?;
    fleet.say_all()?;
    let path = objects::path("LocalRedirectPolicy", "", &policy_name(7))?;
    let done = |p: &Value| {
        let current = p["status"]["observedGeneration"] == 2 && p["status"]["nodes"] == all_programmed();
        current.then_some(())
    };
    scene.kube.wait_for(&path, SOON, "the edit is programmed everywhere", done)?;
    let cost = writes()? - counted;
    ensure!((1.0..=8.0).contains(&cost), "a rollout to {NODES} nodes cost {cost} writes of statuses");
    let after = fleet.statuses()?;
    let touched: Vec<_> =
        before.iter().filter(|(name, was)| after[*name].0 != was.0).map(|(n, _)| n).collect();
    ensure!(touched == [&policy_name(7)], "the rollout of one policy wrote {touched:?}");

    // One node cannot.
    fleet.say(42, Some(&policy_name(7)))?;
    let named = |p: &Value| {
        let problem = &p["status"]["problemNodes"][0];
        (problem["node"] == node_name(42))
            .then(|| (problem["reason"].clone(), p["status"]["programmed"].clone()))
    };
    let (reason, programmed) = scene.kube.wait_for(&path, SOON, "the node is named", named)?;
    ensure!(reason == "MapFull" && programmed == "99/100", "{reason}, {programmed}");
    eprintln!(
        "{NODES} nodes, {POLICIES_OF_ALL} policies: all states said in {:.1} s, all statuses right after {:.1} s; {cost} writes \
         for a rollout, none at rest",
        said.as_secs_f32(),
        settled.as_secs_f32()
    );
    Ok(())
}
