//! A replica of the operator: a process that stands for a pod of its Deployment.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use super::{ControlPlane, Kube, OwnPod, Process, objects};
use crate::{client::built, network::Network, wait};

/// How long it may take to serve.
const SERVES: std::time::Duration = std::time::Duration::from_secs(60);

/// A running replica.
#[derive(Debug)]
pub struct Operator {
    /// Its process.
    pub process: Process,
    /// The pod it stands for.
    pub pod: OwnPod,
    address: IpAddr,
}

impl Operator {
    /// Starts a replica in the namespace of that name (`op1`, `op2`), as a pod on node n1, and waits until it is ready.
    ///
    /// # Errors
    /// The product is not installed, or the replica ends or is not ready in time; the error holds the end of its log.
    pub fn start(network: &Network, plane: &ControlPlane, space: &str, flags: &[&str]) -> Result<Self> {
        let kube = plane.admin()?;
        let node = objects::node(network, "n1");
        if !kube.get(&objects::place(&node)?.path())?.is_success() {
            kube.create(&node)?;
        }
        let pod = OwnPod::of_deployment(plane, "operator", "n1")?;
        let log = plane.folder().join(format!("{}.log", pod.name()));
        let process = Process::start(&network.netns(space), &built("balancing-operator")?, log, |command| {
            command.arg("--kubeconfig").arg(&pod.kubeconfig).args(flags).envs(pod.variables());
            command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        })?;
        let address = network.v4(space);
        let mut operator = Self { process, pod, address };
        operator.wait_ready()?;
        operator.pod.report(&kube, &[address, network.v6(space)], true)?;
        Ok(operator)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let client = Kube::plain(self.address, 5820)?;
        let mut last = String::new();
        let ready = wait::until(
            SERVES,
            || "the operator's /readyz".to_owned(),
            || {
                if let Some(status) = self.process.ended()? {
                    bail!("it ended with {status}");
                }
                match client.get("/readyz") {
                    Ok(answer) if answer.status == 200 => return Ok(Some(())),
                    Ok(answer) => last = answer.text,
                    Err(e) => last = format!("{e:#}"),
                }
                Ok(None)
            },
        );
        ready.with_context(|| format!("last answer: {last}\n{}", self.process.log_tail()))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// No answer.
    pub fn metrics(&self) -> Result<crate::agent::Metrics> {
        Ok(crate::agent::Metrics(Kube::plain(self.address, 5820)?.get("/metrics")?.text))
    }

    /// SIGKILL; its pod is deleted, as it would be on a node that dies, so that the Deployment makes another.
    ///
    /// # Errors
    /// The machine or the API server refuses.
    pub fn kill(self, kube: &Kube) -> Result<()> {
        self.process.kill()?;
        kube.delete(&objects::place(&self.pod.object)?.path())
    }

    /// SIGTERM; its pod is deleted.
    ///
    /// # Errors
    /// It does not end in time or with a failure, or the API server refuses.
    pub fn stop(self, kube: &Kube) -> Result<()> {
        let tail = self.process.log_tail();
        let status = self.process.terminate()?;
        anyhow::ensure!(status.success(), "the operator ended with {status}\n{tail}");
        kube.delete(&objects::place(&self.pod.object)?.path())
    }
}
