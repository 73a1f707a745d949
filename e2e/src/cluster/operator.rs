//! A replica of the operator: a process that stands for a pod of its Deployment.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use super::{ControlPlane, Kube, OwnPod, Process, objects};
use crate::{client::built, ground::Ground, network::Network, wait};

/// How long it may take to serve.
const SERVES: std::time::Duration = std::time::Duration::from_secs(60);

/// A running replica. When it is dropped, its process is killed and its pod deleted, so that the Deployment makes another.
#[derive(Debug)]
pub struct Operator {
    process: Option<Process>,
    /// The pod it stands for.
    pub pod: OwnPod,
    address: IpAddr,
    kube: Kube,
}

impl Operator {
    /// Starts a replica in the namespace of that name (`op1`, `op2`), as a pod on node n1, and waits until it is ready.
    ///
    /// # Errors
    /// The product is not installed, or the replica ends or is not ready in time; the error holds the end of its log.
    pub fn start(network: &Network, plane: &ControlPlane, space: &str, flags: &[&str]) -> Result<Self> {
        Self::start_on(network, plane, space, flags, None)
    }

    /// The same, its process being in its pod's cgroup on the ground of node n1.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(
        network: &Network,
        plane: &ControlPlane,
        space: &str,
        flags: &[&str],
        ground: Option<&Ground<'_>>,
    ) -> Result<Self> {
        let kube = plane.admin()?;
        objects::ensure_node(&kube, network, "n1")?;
        let addresses = [network.v4(space), network.v6(space)];
        let mut pod = OwnPod::of_deployment(plane, "operator", "n1")?;
        // Its address stands in its variables.
        pod.report(&kube, &addresses, false)?;
        let log = plane.folder().join(format!("{}.log", pod.name()));
        let cgroup = ground.map(|ground| ground.make_cgroup(&pod.cgroup())).transpose()?;
        let program = built("balancing-operator")?;
        let process = Process::start(&network.netns(space), cgroup.as_deref(), &program, log, |command| {
            command.arg("--kubeconfig").arg(&pod.kubeconfig).args(flags).envs(pod.variables());
            command.env("POD_IP", network.v4(space).to_string());
            command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        })?;
        let mut operator = Self { process: Some(process), pod, address: addresses[0], kube };
        operator.wait_ready()?;
        operator.pod.report(&operator.kube, &addresses, true)?;
        Ok(operator)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let client = Kube::plain(self.address, 5820)?;
        let mut last = String::new();
        let ready = wait::until(
            SERVES,
            || "the operator's /readyz".to_owned(),
            || {
                if let Some(status) = self.process.as_mut().context("it was ended")?.ended()? {
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
        ready.with_context(|| format!("last answer: {last}\n{}", self.log_tail()))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// No answer.
    pub fn metrics(&self) -> Result<crate::agent::Metrics> {
        Ok(crate::agent::Metrics(Kube::plain(self.address, 5820)?.get("/metrics")?.text))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    /// SIGTERM, which must end it well; its pod is deleted after that.
    ///
    /// # Errors
    /// It does not end in time, or with a failure.
    pub fn stop(mut self) -> Result<()> {
        let process = self.process.take().context("it was ended")?;
        let tail = process.log_tail();
        let status = process.terminate()?;
        ensure!(status.success(), "the operator ended with {status}\n{tail}");
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.process = None;
        let deleted = objects::place(&self.pod.object).and_then(|place| self.kube.delete(&place.path()));
        if let Err(e) = deleted {
            eprintln!("failed to delete the operator's pod: {e:#}");
        }
    }
}
