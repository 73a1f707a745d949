//! A node of a cluster: its Node object, its ground on this machine, and an agent that stands for its DaemonSet's pod.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{ControlPlane, OwnPod, objects};
use crate::{
    agent::{Agent, Api, Options, Source},
    client::Client,
    ground::Ground,
    network::Network,
    wait,
};

/// How long a change may take from the API server into the maps.
const SAME: Duration = Duration::from_secs(5);

/// A node. Its processes and places go when it is dropped; its Node and pods stay, for the next that joins as it.
#[derive(Debug)]
pub struct ClusterNode<'n> {
    /// Its agent. Declared first, so that it ends before its places go.
    pub agent: Agent,
    ground: Ground<'n>,
    /// The file with its agent's token for the operator.
    operator_token: PathBuf,
    /// The pod that its agent stands for.
    pub pod: OwnPod,
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
    /// A node named as the namespace of its host. Its Node is made if it is not there. Its agent, which is not started
    /// yet, has the token of the pod that the DaemonSet made for this node.
    ///
    /// # Errors
    /// The product is not installed, or the machine or API server refuses.
    pub fn join(network: &'n Network, plane: &ControlPlane, name: &str) -> Result<Self> {
        let kube = plane.admin()?;
        objects::ensure_node(&kube, network, name)?;
        let mut pod = OwnPod::of_daemon_set(plane, "agent", name)?;
        pod.report(&kube, &[network.v4(name), network.v6(name)], false)?;
        let ground = Ground::new(network, name)?;
        let agent = Agent::new(ground.places(Source::Kubeconfig(pod.kubeconfig.clone())));
        let operator_token = pod.projected_token(plane, "balancing-operator")?;
        Ok(Self { agent, ground, operator_token, pod })
    }

    /// Starts its agent as the DaemonSet would, with these options besides, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time; the error holds the end of its log.
    pub fn start(&mut self, options: &Options) -> Result<()> {
        self.spawn(options)?;
        self.agent.wait_ready()
    }

    /// As [`Self::start`], without waiting.
    ///
    /// # Errors
    /// The binary was not built, or an agent is running.
    pub fn spawn(&mut self, options: &Options) -> Result<()> {
        let mut options = options.clone();
        let token = self.operator_token.display().to_string();
        options.env.push(("BALANCING_OPERATOR_TOKEN".to_owned(), token));
        options.env = self.pod.variables().into_iter().chain(options.env).collect();
        self.agent.spawn(&options)
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

    /// The agent lives and has not panicked, and what is in the maps is soon what was compiled, whatever comes from the
    /// API server meanwhile.
    ///
    /// # Errors
    /// One of these is not so.
    pub fn healthy(&mut self) -> Result<()> {
        self.agent.alive()?;
        self.agent.no_panic()?;
        let api = self.api();
        let mut last = None;
        let same = wait::until(
            SAME,
            || "the maps hold what was compiled".to_owned(),
            || {
                let (programmed, desired) = (api.frontends("programmed")?, api.frontends("desired")?);
                let same = programmed.items == desired.items;
                last = Some((programmed, desired));
                Ok(same.then_some(()))
            },
        );
        same.with_context(|| format!("programmed and desired: {last:#?}"))
    }
}

impl Drop for ClusterNode<'_> {
    fn drop(&mut self) {
        self.agent.keep_log();
    }
}
