//! What a cluster holds, as texts and objects that files are checked together with.

use balancing_api::{
    manifest::{Object, Parsed},
    overview::Gap,
    policy::PolicyKind,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::input::File;
use crate::cluster::{
    Cluster,
    read::{BALANCINGS, LOCAL_REDIRECTS, PODS, SERVICES, Unreachable},
};

/// What a text is called that the cluster stands behind.
const CLUSTER: &str = "<cluster>";

/// Policies, Services and Pods of a cluster.
#[derive(Debug, Default)]
pub struct Live {
    policies: Vec<Value>,
    others: Vec<Value>,
    /// What could not be read.
    pub(super) gaps: Vec<Gap>,
    /// Could no policy be read at all?
    pub(super) blind: bool,
}

impl Live {
    /// Reads them.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn read(cluster: &Cluster) -> Result<Self, Unreachable> {
        let c = &cluster.connection;
        let (redirects, balancings, services, pods) = tokio::join!(
            c.list("LocalRedirectPolicies to check", LOCAL_REDIRECTS, None, ""),
            c.list("BalancingPolicies to check", BALANCINGS, None, ""),
            c.list("Services to check against", SERVICES, None, ""),
            c.list("Pods to check against", PODS, None, ""),
        );
        let mut live = Self::default();
        let mut keep = |answer| match answer {
            Ok(items) => Ok(Some(items)),
            Err(failure) => {
                let failure: crate::cluster::read::Failure = failure;
                live.gaps.push(failure.gap()?);
                Ok::<Option<Vec<Value>>, Unreachable>(None)
            }
        };
        let (redirects, balancings) = (keep(redirects)?, keep(balancings)?);
        let (services, pods) = (keep(services)?, keep(pods)?);
        live.blind = redirects.is_none() && balancings.is_none();
        live.policies = redirects.into_iter().chain(balancings).flatten().map(bare).collect();
        // With Pods of nodes, what is not there is taken not to exist: only where Services are known too.
        let pods = pods.filter(|_| services.is_some());
        live.others = services.into_iter().flatten().chain(pods.iter().flatten().map(needed)).collect();
        Ok(live)
    }

    /// When a policy of that kind and name was created.
    pub(super) fn created(&self, kind: &str, name: &str) -> Option<&Value> {
        let found = self.policies.iter().find(|p| p["kind"] == kind && p["metadata"]["name"] == name);
        found.map(|p| &p["metadata"]["creationTimestamp"])
    }

    /// Gives policies of files the age that they have, or would have, in the cluster: what is new is the youngest.
    pub(super) fn date(&self, files: &mut [Parsed], now: Timestamp) {
        for object in files.iter_mut().flat_map(|p| &mut p.objects).filter(|o| is_policy(&o.kind)) {
            let created = self.created(&object.kind, &object.name).cloned().unwrap_or_else(|| json!(now));
            if let Some(metadata) = object.value.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("creationTimestamp".to_owned(), created);
            }
        }
    }

    /// The cluster's policies as a text, without those that files define anew.
    pub(super) fn text(&self, files: &[Parsed]) -> File {
        let anew = |p: &&Value| {
            files
                .iter()
                .flat_map(|f| &f.objects)
                .any(|o| p["kind"] == o.kind.as_str() && p["metadata"]["name"] == o.name.as_str())
        };
        let documents =
            self.policies.iter().filter(|p| !anew(p)).filter_map(|p| serde_yaml::to_string(p).ok());
        let text = documents.collect::<Vec<_>>().join("---\n");
        File { name: CLUSTER.to_owned(), text, error: None, made_from: Some(CLUSTER.to_owned()) }
    }

    /// Everything else, as if it had been read from a file.
    pub(super) fn others(&self) -> Parsed {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let object = |value: &Value| Object {
            api_version: text(&value["apiVersion"]),
            kind: text(&value["kind"]),
            namespace: value["metadata"]["namespace"].as_str().map(str::to_owned),
            name: text(&value["metadata"]["name"]),
            value: value.clone(),
            document: 1,
            origin: Default::default(),
            line: 1,
            column: 1,
        };
        Parsed { objects: self.others.iter().map(object).collect(), ..Parsed::default() }
    }

    /// How many of the objects are no policies.
    pub(super) fn count_others(&self) -> usize {
        self.others.len()
    }
}

fn is_policy(kind: &str) -> bool {
    [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy].iter().any(|k| k.as_str() == kind)
}

/// A policy as its author wrote it, with its age.
fn bare(mut policy: Value) -> Value {
    if let Some(object) = policy.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = policy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .retain(|key, _| ["name", "annotations", "labels", "creationTimestamp"].contains(&key.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    policy
}

/// Of a Pod what rules look at.
fn needed(pod: &Value) -> Value {
    let (meta, spec) = (&pod["metadata"], &pod["spec"]);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "labels": meta["labels"]},
        "spec": {
            "nodeName": spec["nodeName"].as_str().unwrap_or_default(), "containers": spec["containers"],
            "initContainers": spec["initContainers"].as_array().cloned().unwrap_or_default(),
            "hostNetwork": spec["hostNetwork"].as_bool().unwrap_or_default(),
        },
        "status": {"phase": pod["status"]["phase"], "conditions": pod["status"]["conditions"]},
    })
}

#[cfg(test)]
impl Live {
    /// What a cluster with these objects says.
    pub(super) fn of(policies: Vec<Value>, others: Vec<Value>) -> Self {
        Self { policies: policies.into_iter().map(bare).collect(), others, ..Self::default() }
    }
}
