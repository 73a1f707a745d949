//! Handles of worker processes: clients and their loads, identity servers.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufReader, BufWriter},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::protocol::{
    self, Answered, Count, Flow, LoadSpec, Many, Mode, Outcome, Record, Reply, Request, ServeSpec, Steady,
    TrafficKind,
};

/// The worker binary: beside this one, or one folder up for a test.
///
/// # Errors
/// It was not built.
pub fn worker_binary() -> Result<PathBuf> {
    built("balancing-e2e-worker")
}

/// A binary of this workspace, of the profile this program was built with.
///
/// # Errors
/// It was not built.
pub fn built(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().context("the path of this program")?;
    let folder = here.parent().context("the folder of this program")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    Ok(path)
}

/// A command that runs `program` in a namespace and, if given, a cgroup, and that dies with this thread.
///
/// # Errors
/// The worker was not built.
pub fn command_in(netns: &str, cgroup: Option<&Path>, program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = placed(netns, cgroup)?;
    command.args(["--parent", &process::id().to_string(), "exec"]).arg(program);
    Ok(command)
}

fn placed(netns: &str, cgroup: Option<&Path>) -> Result<Command> {
    let mut command = Command::new(worker_binary()?);
    command.args(["--netns", netns]);
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    Ok(command)
}

/// A worker process and the pipes to it. It ends when its handle is dropped.
#[derive(Debug)]
struct Worker {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(netns: &str, cgroup: Option<&Path>, mode: &str) -> Result<Self> {
        let mut child = placed(netns, cgroup)?
            .arg(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start a worker in {netns}"))?;
        let input = child.stdin.take().map(BufWriter::new);
        let output = BufReader::new(child.stdout.take().context("no pipe to the worker")?);
        Ok(Self { child, input, output })
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let input = self.input.as_mut().context("the worker was ended")?;
        protocol::send(input, message).context("the worker is gone")
    }

    fn reply(&mut self) -> Result<Reply> {
        match protocol::receive(&mut self.output)?.context("the worker ended without an answer")? {
            Reply::Failed(why) => bail!("the worker says: {why}"),
            reply => Ok(reply),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(request)?;
        self.reply()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A client process in a namespace and a cgroup.
#[derive(Debug)]
pub struct Client(Worker);

impl Client {
    /// Starts it.
    ///
    /// # Errors
    /// The process cannot be started there.
    pub fn start(netns: &str, cgroup: Option<&Path>) -> Result<Self> {
        Worker::start(netns, cgroup, "client").map(Self)
    }

    /// Dials one flow on a new socket.
    ///
    /// # Errors
    /// The process is gone. A dial that fails is an [`Outcome`].
    pub fn dial(&mut self, flow: Flow) -> Result<Outcome> {
        self.one(&Request::Dial(vec![flow], 1))
    }

    /// Dials flows, each `times` times in a row, on new sockets.
    ///
    /// # Errors
    /// The process is gone.
    pub fn dial_all(&mut self, flows: Vec<Flow>, times: u32) -> Result<Vec<Outcome>> {
        self.outcomes(&Request::Dial(flows, times))
    }

    /// Dials a flow and keeps the socket as `name`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn keep(&mut self, name: &str, flow: Flow) -> Result<Outcome> {
        self.one(&Request::Keep(name.to_owned(), flow))
    }

    /// Opens an unconnected UDP socket and keeps it as `name`.
    ///
    /// # Errors
    /// The process is gone, or the socket cannot be opened.
    pub fn open_udp(&mut self, name: &str, v6: bool) -> Result<()> {
        self.done(&Request::OpenUdp(name.to_owned(), v6))
    }

    /// A datagram and its answer on a kept unconnected socket.
    ///
    /// # Errors
    /// The process is gone, or there is no such socket.
    pub fn send_to(&mut self, name: &str, to: SocketAddr) -> Result<Outcome> {
        self.one(&Request::SendTo(name.to_owned(), to))
    }

    /// Datagrams to several addresses on a kept unconnected socket before any answer is read; the answers as they come.
    ///
    /// # Errors
    /// The process is gone, or there is no such socket.
    pub fn send_to_all(&mut self, name: &str, to: Vec<SocketAddr>) -> Result<Vec<Outcome>> {
        self.outcomes(&Request::SendToAll(name.to_owned(), to))
    }

    /// Ends the connection of a kept UDP socket, which stays open.
    ///
    /// # Errors
    /// The process is gone, or there is no such socket.
    pub fn disconnect(&mut self, name: &str) -> Result<()> {
        self.done(&Request::Disconnect(name.to_owned()))
    }

    /// Bytes and their echo on a kept connected socket.
    ///
    /// # Errors
    /// The process is gone, or there is no such socket.
    pub fn echo(&mut self, name: &str) -> Result<Outcome> {
        self.one(&Request::Echo(name.to_owned()))
    }

    /// Starts a load; one at a time.
    ///
    /// # Errors
    /// The process is gone, or a load is running.
    pub fn start_load(&mut self, spec: LoadSpec) -> Result<()> {
        self.done(&Request::StartLoad(spec))
    }

    /// Waits for the load's end, or ends it, and gives its records sorted by time.
    ///
    /// # Errors
    /// The process is gone, or no load is running.
    pub fn finish_load(&mut self, now: bool) -> Result<Vec<Record>> {
        match self.0.ask(&Request::FinishLoad { now })? {
            Reply::Records(count) => Ok(Record::read_all(&mut self.0.output, count)?),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// Lets very many UDP sockets, bound to the addresses in turn and every other one connected, send one datagram each.
    ///
    /// # Errors
    /// The process is gone, or a socket cannot be opened.
    pub fn many_send(&mut self, to: SocketAddr, sockets: u32, from: Vec<IpAddr>) -> Result<Many> {
        self.many(&Request::ManySend { to, sockets, from })
    }

    /// Lets them read their answers and closes them.
    ///
    /// # Errors
    /// The process is gone, or no sockets are open.
    pub fn many_receive(&mut self) -> Result<Many> {
        self.many(&Request::ManyReceive)
    }

    /// Asks once; gives the name of the server that answered, or `error: ...`.
    ///
    /// # Errors
    /// The process is gone.
    pub fn ask(&mut self, kind: TrafficKind, to: SocketAddr) -> Result<String> {
        let mut answered = self.answered(&Request::Ask(kind, to))?;
        Ok(answered.pop().context("no answer")?.who)
    }

    /// Starts steady traffic.
    ///
    /// # Errors
    /// The process is gone, or traffic is running.
    pub fn start_traffic(&mut self, streams: Vec<Steady>) -> Result<()> {
        self.done(&Request::StartTraffic(streams))
    }

    /// Who answered so far.
    ///
    /// # Errors
    /// The process is gone, or no traffic is running.
    pub fn traffic(&mut self) -> Result<Vec<Answered>> {
        self.answered(&Request::Traffic)
    }

    /// Ends the traffic and tells who answered.
    ///
    /// # Errors
    /// The process is gone, or no traffic is running.
    pub fn stop_traffic(&mut self) -> Result<Vec<Answered>> {
        self.answered(&Request::StopTraffic)
    }

    fn answered(&mut self, request: &Request) -> Result<Vec<Answered>> {
        match self.0.ask(request)? {
            Reply::Answered(answered) => Ok(answered),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn many(&mut self, request: &Request) -> Result<Many> {
        match self.0.ask(request)? {
            Reply::Many(many) => Ok(many),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.0.ask(request)? {
            Reply::Done => Ok(()),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn outcomes(&mut self, request: &Request) -> Result<Vec<Outcome>> {
        match self.0.ask(request)? {
            Reply::Outcomes(outcomes) => Ok(outcomes),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    fn one(&mut self, request: &Request) -> Result<Outcome> {
        self.outcomes(request)?.pop().context("no outcome")
    }
}

/// A server that tells everybody where it was reached.
#[derive(Debug)]
pub struct Server(Worker);

impl Server {
    /// Starts it in a namespace; it serves when this returns.
    ///
    /// # Errors
    /// An address or port cannot be bound.
    pub fn start(netns: &str, spec: &ServeSpec) -> Result<Self> {
        Self::start_in(netns, None, spec)
    }

    /// The same in a cgroup.
    ///
    /// # Errors
    /// An address or port cannot be bound, or the process cannot be put there.
    pub fn start_in(netns: &str, cgroup: Option<&Path>, spec: &ServeSpec) -> Result<Self> {
        let mut worker = Worker::start(netns, cgroup, "serve")?;
        worker.send(spec)?;
        match worker.reply().with_context(|| format!("the server in {netns}"))? {
            Reply::Done => Ok(Self(worker)),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    /// How often it was reached since its start, by (address and port, UDP or not). Everything that a client has an
    /// answer to is counted.
    ///
    /// # Errors
    /// The process is gone.
    pub fn counts(&mut self) -> Result<BTreeMap<(SocketAddr, bool), u64>> {
        match self.0.ask(&Request::Counts)? {
            Reply::Counts(counts) => {
                Ok(counts.into_iter().map(|Count { at, udp, served }| ((at, udp), served)).collect())
            }
            other => bail!("unexpected answer {other:?}"),
        }
    }
}

/// A TCP flow.
#[must_use]
pub fn tcp(to: SocketAddr) -> Flow {
    Flow { mode: Mode::Tcp, to, mapped: false }
}

/// The name of an errno, as the manual spells it.
#[must_use]
pub fn errno_name(e: rustix::io::Errno) -> String {
    use rustix::io::Errno as E;
    let name = match e {
        E::PERM => "EPERM",
        E::ACCESS => "EACCES",
        E::AGAIN => "EAGAIN",
        E::INVAL => "EINVAL",
        E::CONNREFUSED => "ECONNREFUSED",
        E::CONNRESET => "ECONNRESET",
        E::HOSTUNREACH => "EHOSTUNREACH",
        E::NETUNREACH => "ENETUNREACH",
        E::TIMEDOUT => "ETIMEDOUT",
        E::PROTO => "EPROTO",
        E::PIPE => "EPIPE",
        E::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        E::MFILE => "EMFILE",
        _ => return format!("errno {}", e.raw_os_error()),
    };
    name.to_owned()
}
