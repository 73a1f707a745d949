//! A node of a cluster: its Node object, its ground on this machine, and an agent that runs as its pod would.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ControlPlane, Kube, objects};
use crate::{
    agent::{Agent, Api, Source},
    client::Client,
    ground::Ground,
    network::Network,
};

/// The namespace of the product.
pub const NAMESPACE: &str = "elf";
/// The agents' service account.
pub const ACCOUNT: &str = "balancing-agent";

/// A node. Its processes and places go when it is dropped; its objects stay for the next test to see or remove.
#[derive(Debug)]
pub struct ClusterNode<'n> {
    /// Its agent. Declared first, so that it ends before its places go.
    pub agent: Agent,
    ground: Ground<'n>,
    /// Its agent's token, for tests that try what it may do.
    pub token: String,
}

impl<'n> Deref for ClusterNode<'n> {
    type Target = Ground<'n>;

    fn deref(&self) -> &Ground<'n> {
        &self.ground
    }
}

impl DerefMut for ClusterNode<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.ground
    }
}

impl<'n> ClusterNode<'n> {
    /// A node named as the namespace of its host. Its Node is made if it is not there; its agent, which is not started
    /// yet, has a token that is bound to a pod of the agents' service account on this node, as kubelet would give it.
    ///
    /// # Errors
    /// The service account is not there, or the machine or API server refuses.
    pub fn join(network: &'n Network, plane: &ControlPlane, name: &str) -> Result<Self> {
        let kube = plane.admin()?;
        let node = objects::node(network, name);
        if !kube.get(&objects::place(&node)?.path())?.is_success() {
            kube.create(&node)?;
        }
        let pod = agent_pod(&kube, name)?;
        let token = bound_token(&kube, &pod)?;
        let kubeconfig = plane.kubeconfig_with(&format!("agent-{name}"), &token)?;
        let ground = Ground::new(network, name)?;
        let agent = Agent::new(ground.places(Source::Kubeconfig(kubeconfig)));
        Ok(Self { agent, ground, token })
    }

    /// Its agent's API.
    #[must_use]
    pub fn api(&self) -> Api {
        self.agent.api()
    }

    /// A client process in a namespace of the network, in the cgroup of the pod with that object.
    ///
    /// # Errors
    /// The object is no pod that was made, or the process cannot be started.
    pub fn client_of(&mut self, netns: &str, pod: &Value) -> Result<&mut Client> {
        let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
        let cgroup = PathBuf::from(format!("kubepods/besteffort/pod{uid}/main"));
        self.client_below(netns, &cgroup)
    }
}

impl Drop for ClusterNode<'_> {
    fn drop(&mut self) {
        self.agent.keep_log();
    }
}

/// The pod that an agent's token is bound to.
fn agent_pod(kube: &Kube, node: &str) -> Result<Value> {
    let name = format!("{ACCOUNT}-{node}");
    let path = objects::path("Pod", NAMESPACE, &name)?;
    let there = kube.get(&path)?;
    if there.is_success() {
        return there.object();
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"e2e": "agent"}},
        "spec": {
            "nodeName": node, "hostNetwork": true, "serviceAccountName": ACCOUNT,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "agent", "image": "example.invalid/agent:1"}],
        },
    });
    kube.create(&pod)
}

fn bound_token(kube: &Kube, pod: &Value) -> Result<String> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token");
    let meta = &pod["metadata"];
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": 7200,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
        },
    });
    let answer = kube.request(&http::Method::POST, &path, "application/json", Some(&request))?.object()?;
    let token = answer["status"]["token"].as_str().unwrap_or_default();
    ensure!(!token.is_empty(), "no token in {answer}");
    Ok(token.to_owned())
}
