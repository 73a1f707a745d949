//! Nodes whose agents only talk: each says of every policy that it is in its maps, and no kernel is behind it.

use std::{collections::BTreeMap, thread};

use anyhow::{Context, Result, bail};
use balancing_api::names::ANNOTATION_SERVICE_ID;
use serde_json::{Value, json};

use super::{ControlPlane, Kube, objects};
use crate::manifests::{POLICIES, policy_ports};

/// Label of the simulated nodes, which the policies select, so that no other node counts.
const LABEL: &str = "e2e/simulated";

/// What an agent would have read of a policy.
#[derive(Clone, Debug)]
struct Seen {
    uid: String,
    generation: i64,
}

/// The agents of all nodes, in one process.
#[derive(Debug)]
pub struct Fleet {
    /// Each is the client of a thread of its own.
    writers: Vec<Kube>,
    nodes: usize,
    policies: BTreeMap<String, Seen>,
}

/// Of every policy: its edition, and what its status says of nodes.
pub type Statuses = BTreeMap<String, (String, Value)>;

/// The name of a simulated node.
#[must_use]
pub fn node_name(index: usize) -> String {
    format!("sim-{index:03}")
}

/// The name of a policy for simulated nodes.
#[must_use]
pub fn policy_name(index: usize) -> String {
    format!("sim-{index:02}")
}

/// A policy for simulated nodes, with an address of its own for each index below 150.
#[must_use]
pub fn policy(index: usize, port: u16) -> Value {
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

impl Fleet {
    /// So many nodes, of which so many write at the same time.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(plane: &ControlPlane, nodes: usize, writers: usize) -> Result<Self> {
        let writers = (0..writers.max(1)).map(|_| plane.admin()).collect::<Result<_>>()?;
        Ok(Self { writers, nodes, policies: BTreeMap::new() })
    }

    /// The paths of what [`Self::join`] makes.
    ///
    /// # Errors
    /// None with kinds that are known.
    pub fn paths(&self) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for index in 0..self.nodes {
            for kind in ["Node", "NodeBalancingState"] {
                paths.push(objects::path(kind, "", &node_name(index))?);
            }
        }
        Ok(paths)
    }

    /// Makes the nodes and their empty states.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn join(&self) -> Result<()> {
        self.each(|kube, index| {
            let name = node_name(index);
            kube.create(&json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {LABEL: "yes", "kubernetes.io/os": "linux"}},
            }))?;
            kube.create(&json!({
                "apiVersion": POLICIES, "kind": "NodeBalancingState", "metadata": {"name": name},
            }))?;
            Ok(())
        })
    }

    /// Does something for every node, by all writers at once.
    fn each(&self, task: impl Fn(&Kube, usize) -> Result<()> + Sync) -> Result<()> {
        let (count, task) = (self.writers.len(), &task);
        thread::scope(|scope| {
            let share = |(first, kube)| {
                scope.spawn(move || (first..self.nodes).step_by(count).try_for_each(|node| task(kube, node)))
            };
            let threads: Vec<_> = self.writers.iter().enumerate().map(share).collect();
            for thread in threads {
                match thread.join() {
                    Ok(done) => done?,
                    Err(_) => bail!("a writer has panicked"),
                }
            }
            Ok(())
        })
    }

    fn kube(&self) -> Result<&Kube> {
        self.writers.first().context("a fleet without a writer")
    }

    /// Reads what is asked of a policy now.
    ///
    /// # Errors
    /// There is no such policy.
    pub fn read(&mut self, name: &str) -> Result<()> {
        let policy = self.kube()?.object(&objects::path("LocalRedirectPolicy", "", name)?)?;
        let seen = Seen {
            uid: policy["metadata"]["uid"].as_str().context("no uid")?.to_owned(),
            generation: policy["metadata"]["generation"].as_i64().context("no generation")?,
        };
        self.policies.insert(name.to_owned(), seen);
        Ok(())
    }

    /// A node writes its state; `failed` is the policy that is not in its maps.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn say(&self, node: usize, failed: Option<&str>) -> Result<()> {
        self.write(self.kube()?, node, failed)
    }

    /// Every node says that all is in its maps.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn say_all(&self) -> Result<()> {
        self.each(|kube, node| self.write(kube, node, None))
    }

    fn write(&self, kube: &Kube, node: usize, failed: Option<&str>) -> Result<()> {
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
        kube.set_status(&path, &status)?;
        Ok(())
    }

    /// The policies that were read, as they are now, by name.
    fn policies(&self) -> Result<BTreeMap<String, Value>> {
        let list = self.kube()?.list(&objects::collection("LocalRedirectPolicy", "")?)?;
        let named = list.into_iter().filter_map(|p| Some((p["metadata"]["name"].as_str()?.to_owned(), p)));
        Ok(named.filter(|(name, _)| self.policies.contains_key(name)).collect())
    }

    /// The policies that were read, as they are now.
    ///
    /// # Errors
    /// No answer.
    pub fn statuses(&self) -> Result<Statuses> {
        let ours = self.policies()?.into_iter().filter_map(|(name, p)| {
            let edition = p["metadata"]["resourceVersion"].as_str()?.to_owned();
            Some((name, (edition, p["status"]["nodes"].clone())))
        });
        Ok(ours.collect())
    }

    /// Has each of these policies its number?
    ///
    /// # Errors
    /// No answer.
    pub fn numbered(&self) -> Result<bool> {
        let number = |p: &Value| p["metadata"]["annotations"][ANNOTATION_SERVICE_ID].is_string();
        Ok(self.policies()?.values().all(number))
    }

    /// What the status of a policy says of nodes once all have it.
    #[must_use]
    pub fn all_programmed(&self) -> Value {
        let all = self.nodes;
        json!({"selected": all, "programmed": all, "effective": all, "degraded": 0, "failed": 0, "pending": 0})
    }
}
