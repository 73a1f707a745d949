//! The agent under test: its process and its API.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use balancing_api::agent::{
    Caller, Counters, DecideRequest, Decision, Document, FrontendList, NodeStatus, PolicyCounters,
    PolicyStatus,
};
use balancing_api::net::Frontend;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use crate::{
    client::{built, command_in},
    http::{self, Answer},
    wait,
};

/// How long an agent may take to become ready: it loads its programs into the kernel and reads its folder.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// Where an agent works.
#[derive(Clone, Debug)]
pub struct Places {
    /// `--node-name`.
    pub node: String,
    /// Network namespace of the host.
    pub netns: String,
    /// Where its objects come from.
    pub source: Source,
    /// `--cgroup-root`.
    pub cgroup: PathBuf,
    /// `--bpffs`.
    pub bpffs: PathBuf,
    /// Folder of its socket and log.
    pub scratch: PathBuf,
}

/// Where an agent's objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `--manifests`.
    Manifests(PathBuf),
    /// `--kubeconfig`.
    Kubeconfig(PathBuf),
}

/// How an agent is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The binary, if it is not `balancing-agent`.
    pub binary: Option<String>,
    /// More flags of `run`.
    pub flags: Vec<String>,
    /// More environment variables.
    pub env: Vec<(String, String)>,
    /// Only these capabilities, as `setpriv` spells them (`bpf`); all of root's if there are none.
    pub capabilities: Vec<String>,
    /// A cgroup, of which it sees nothing but what is below: container runtimes give a container a cgroup namespace and a mount
    /// of it. Without one it is in the cgroup of the tests.
    pub container: Option<PathBuf>,
}

/// An agent's process, which may be running or not.
#[derive(Debug)]
pub struct Agent {
    places: Places,
    process: Option<Child>,
}

impl Agent {
    /// An agent that was not started.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self { places, process: None }
    }

    /// Its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.places.scratch.join("agent.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.places.scratch.join("agent.log")
    }

    /// Everything it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Starts `balancing-agent run` and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time; the error holds the end of its log.
    pub fn start(&mut self, options: &Options) -> Result<()> {
        self.spawn(options)?;
        self.wait_ready()
    }

    /// Starts `balancing-agent run` and returns at once.
    ///
    /// # Errors
    /// The binary was not built, or an agent is running.
    pub fn spawn(&mut self, options: &Options) -> Result<()> {
        ensure!(self.process.is_none(), "the agent is running");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.command("run", options)?;
        command.args(["--node-name", &self.places.node]);
        match &self.places.source {
            Source::Manifests(folder) => command.arg("--manifests").arg(folder),
            Source::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
        };
        command.arg("--api").arg(format!("unix:{}", self.socket().display()));
        let files = (Stdio::from(log.try_clone()?), Stdio::from(log));
        let child = command.stdin(Stdio::null()).stdout(files.0).stderr(files.1).spawn();
        self.process = Some(child.context("failed to start the agent")?);
        Ok(())
    }

    /// `balancing-agent SUBCOMMAND --cgroup-root .. --bpffs ..` in the host's namespace, outside the node's cgroup.
    fn command(&self, subcommand: &str, options: &Options) -> Result<std::process::Command> {
        let agent = built(options.binary.as_deref().unwrap_or("balancing-agent"))?;
        let allowed: String = options.capabilities.iter().map(|c| format!(",+{c}")).collect();
        let mut command = match &options.container {
            None if allowed.is_empty() => command_in(&self.places.netns, None, agent)?,
            None => {
                let mut command = command_in(&self.places.netns, None, "setpriv")?;
                command
                    .args([format!("--bounding-set=-all{allowed}"), format!("--inh-caps=-all{allowed}")])
                    .arg(agent);
                command
            }
            Some(_) if !allowed.is_empty() => {
                bail!("a container with fewer capabilities: nobody needed it so far")
            }
            Some(cgroup) => {
                let seen = self.places.scratch.join("cgroup");
                fs::create_dir_all(&seen)?;
                let mut command = command_in(&self.places.netns, Some(cgroup), "unshare")?;
                let script = "mount -t cgroup2 cgroup2 \"$0\" && exec \"$@\"";
                command.args(["--cgroup", "--mount", "sh", "-c", script]).arg(seen).arg(agent);
                command
            }
        };
        command.arg(subcommand);
        command.arg("--cgroup-root").arg(&self.places.cgroup).arg("--bpffs").arg(&self.places.bpffs);
        command.args(&options.flags);
        command.env("BALANCING_REFUSE_ROOT_CGROUP", "1").env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
        command.envs(options.env.iter().map(|(k, v)| (k, v)));
        Ok(command)
    }

    /// Where it works.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Lets the next process know the API server by another kubeconfig.
    pub fn set_kubeconfig(&mut self, file: PathBuf) {
        self.places.source = Source::Kubeconfig(file);
    }

    /// Its process id, while it is running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let api = self.api();
        let mut last = String::new();
        let ready = wait::until(
            READY,
            || "the agent's /readyz".to_owned(),
            || {
                if let Some(status) = self.ended()? {
                    bail!("the agent ended with {status}");
                }
                match api.get("/readyz") {
                    Ok(answer) if answer.status == 200 => return Ok(Some(())),
                    Ok(answer) => last = answer.text(),
                    Err(e) => last = format!("{e:#}"),
                }
                Ok(None)
            },
        );
        ready.with_context(|| format!("last answer: {last}\n{}", self.log_tail()))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().context("the agent was not started")?.try_wait()?)
    }

    /// Fails unless the process is alive.
    ///
    /// # Errors
    /// It has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("the agent has ended with {status}\n{}", self.log_tail()),
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the agent was not started")?;
        process.kill()?;
        let status = process.wait()?;
        ensure!(status.signal() == Some(9), "the agent had ended with {status} before\n{}", self.log_tail());
        Ok(())
    }

    /// SIGTERM; gives the exit status.
    ///
    /// # Errors
    /// It was not running, or does not end in time.
    pub fn sigterm(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent was not started")?;
        if let Some(pid) = Pid::from_raw(process.id().cast_signed()) {
            kill_process(pid, Signal::TERM)?;
        }
        let ended =
            wait::until(END, || "the end of the agent after SIGTERM".to_owned(), || Ok(process.try_wait()?));
        if ended.is_err() {
            process.kill()?;
            process.wait()?;
        }
        ended.with_context(|| self.log_tail())
    }

    /// Waits for an agent that ends by itself.
    ///
    /// # Errors
    /// It was not running, or does not end in time.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let ended = wait::until(END, || "the end of the agent".to_owned(), || self.ended());
        let ended = ended.with_context(|| self.log_tail())?;
        self.process = None;
        Ok(ended)
    }

    /// `balancing-agent cleanup` in the same places.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn cleanup(&self, options: &Options) -> Result<Output> {
        self.command("cleanup", options)?.stdin(Stdio::null()).output().context("failed to start cleanup")
    }

    /// A way to its API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api { socket: self.socket() }
    }

    /// The log holds no panic.
    ///
    /// # Errors
    /// It does; the error shows where.
    pub fn no_panic(&self) -> Result<()> {
        let log = self.log();
        match log.find("panicked at") {
            None => Ok(()),
            Some(at) => {
                bail!("the agent panicked: {}", log[at..].lines().take(4).collect::<Vec<_>>().join(" "))
            }
        }
    }

    /// A copy of what it logged, for people: in the folder that `BALANCING_E2E_KEEP` names.
    pub fn keep_log(&self) {
        if let Some(folder) = std::env::var_os("BALANCING_E2E_KEEP") {
            let name = self.places.scratch.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // An agent that was never started has no log.
            fs::copy(self.log_path(), Path::new(&folder).join(name + ".log")).ok();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            process.kill().ok();
            process.wait().ok();
        }
    }
}

/// The agent's API.
#[derive(Clone, Debug)]
pub struct Api {
    socket: PathBuf,
}

impl Api {
    /// `GET path`.
    ///
    /// # Errors
    /// Nobody listens, or the answer is no HTTP.
    pub fn get(&self, path: &str) -> Result<Answer> {
        http::request(&self.socket, "GET", path, None)
    }

    /// `POST path`.
    ///
    /// # Errors
    /// Nobody listens, or the answer is no HTTP.
    pub fn post(&self, path: &str, body: &[u8]) -> Result<Answer> {
        http::request(&self.socket, "POST", path, Some(body))
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// No such document.
    pub fn status(&self) -> Result<NodeStatus> {
        document("/v1/status", &self.get("/v1/status")?)
    }

    /// A policy in `GET /v1/status`.
    ///
    /// # Errors
    /// No such document, or the agent does not know the policy.
    pub fn policy(&self, name: &str) -> Result<PolicyStatus> {
        let status = self.status()?;
        status
            .policies
            .into_iter()
            .find(|p| p.name == name)
            .with_context(|| format!("no policy {name} in the status"))
    }

    /// `GET /v1/frontends?view=...`.
    ///
    /// # Errors
    /// No such document.
    pub fn frontends(&self, view: &str) -> Result<FrontendList> {
        document("/v1/frontends", &self.get(&format!("/v1/frontends?view={view}"))?)
    }

    /// `GET /v1/counters`.
    ///
    /// # Errors
    /// No such document.
    pub fn counters(&self) -> Result<Counters> {
        document("/v1/counters", &self.get("/v1/counters")?)
    }

    /// The counters of a policy.
    ///
    /// # Errors
    /// No such document, or no counters of such a policy.
    pub fn policy_counters(&self, name: &str) -> Result<PolicyCounters> {
        let counters = self.counters()?;
        let of = |p: &PolicyCounters| p.policy.name == name;
        counters.policies.into_iter().find(of).with_context(|| format!("no counters of policy {name}"))
    }

    /// `POST /v1/decide`.
    ///
    /// # Errors
    /// No such document.
    pub fn decide(&self, from: Caller, to: Frontend) -> Result<Decision> {
        let body = serde_json::to_vec(&DecideRequest { from, to })?;
        document("/v1/decide", &self.post("/v1/decide", &body)?)
    }

    /// `GET /metrics`.
    ///
    /// # Errors
    /// No answer.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics(self.get("/metrics")?.text()))
    }
}

fn document<T: DeserializeOwned>(path: &str, answer: &Answer) -> Result<T> {
    ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.text());
    let document: Document<T> =
        serde_json::from_slice(&answer.body).with_context(|| format!("{path}: {}", answer.text()))?;
    Ok(document.body)
}

/// A page of metrics.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of all samples of that name whose labels contain the given text.
    #[must_use]
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let samples = self.0.lines().filter(|l| !l.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series, labels) = series.split_once('{').unwrap_or((series, ""));
            (series == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        samples.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let page = "# TYPE a counter\na_total{map=\"x\",op=\"put\"} 3\na_total{map=\"y\",op=\"put\"} 4\na 9\nab_total 1\n";
        let metrics = Metrics(page.to_owned());
        assert!((metrics.sum("a_total", "") - 7.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a_total", "map=\"y\"") - 4.0).abs() < f64::EPSILON);
        assert!((metrics.sum("a", "") - 9.0).abs() < f64::EPSILON);
        assert!(metrics.sum("none", "").abs() < f64::EPSILON);
    }
}
