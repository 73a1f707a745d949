//! What a worker process does: it joins a namespace and a cgroup, then serves requests or becomes another program.
//!
//! Namespaces and cgroups are joined by the process itself before it has a second thread; `ip netns exec` would not
//! do, since it mounts a new /sys and hides bpffs and cgroups.

mod dial;
mod http;
mod load;
mod serve;
mod socket;
mod traffic;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufWriter, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::{
    protocol::{self, Answered, Reply, Request},
    run,
};

/// `[--netns NAME] [--cgroup PATH] [--parent PID] client | serve | http NAME PORT... | exec PROGRAM ARGUMENTS...`
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("balancing-e2e-worker: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    loop {
        let word = arguments.next().context("no mode given")?;
        match word.as_str() {
            "--netns" => run::join_netns(&arguments.next().context("--netns needs a name")?)?,
            "--cgroup" => join_cgroup(Path::new(&arguments.next().context("--cgroup needs a path")?))?,
            "--parent" => end_with(&arguments.next().context("--parent needs a process id")?)?,
            "client" => return client(),
            "serve" => return serve::run(),
            "http" => return http::run(arguments),
            "exec" => return exec(arguments),
            other => bail!("unknown word {other:?}"),
        }
    }
}

fn join_cgroup(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
        .with_context(|| format!("failed to join cgroup {}", path.display()))
}

/// Lets this process and the program it becomes die with its parent.
fn end_with(parent: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|p| p.as_raw_pid().to_string());
    ensure!(now.as_deref() == Some(parent), "the parent process {parent} is gone");
    Ok(())
}

fn exec(mut argv: impl Iterator<Item = String>) -> Result<()> {
    let program = argv.next().context("exec needs a program")?;
    Err(Command::new(&program).args(argv).exec()).with_context(|| format!("failed to execute {program}"))
}

/// Raises the limit of open files to what is allowed.
fn allow_many_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of open files")
}

/// A client's sockets that outlive a request, and its load.
#[derive(Default)]
struct Client {
    kept: HashMap<String, OwnedFd>,
    load: Option<load::Load>,
    many: Option<dial::ManySockets>,
    traffic: Option<traffic::Traffic>,
}

/// Serves requests from stdin until it ends.
fn client() -> Result<()> {
    allow_many_files()?;
    let (mut input, mut output) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
    let mut client = Client::default();
    while let Some(request) = protocol::receive(&mut input)? {
        match client.answer(request) {
            Ok(Answer::Reply(reply)) => protocol::send(&mut output, &reply)?,
            Ok(Answer::Records(records)) => {
                protocol::send(&mut output, &Reply::Records(records.len() as u64))?;
                for record in records {
                    output.write_all(&record.to_bytes())?;
                }
                output.flush()?;
            }
            Err(e) => protocol::send(&mut output, &Reply::Failed(format!("{e:#}")))?,
        }
    }
    Ok(())
}

/// What goes back to the fixture.
enum Answer {
    Reply(Reply),
    Records(Vec<protocol::Record>),
}

impl Client {
    fn answer(&mut self, request: Request) -> Result<Answer> {
        let outcomes = |o| Reply::Outcomes(vec![o]);
        Ok(Answer::Reply(match request {
            Request::Dial(flows, times) => Reply::Outcomes(
                flows.iter().flat_map(|f| (0..times).map(|_| dial::once(*f).0).collect::<Vec<_>>()).collect(),
            ),
            Request::Keep(name, flow) => {
                let (outcome, socket) = dial::once(flow);
                self.kept.extend(socket.map(|s| (name, s)));
                outcomes(outcome)
            }
            Request::OpenUdp(name, v6) => {
                self.kept.insert(name, dial::open_udp(v6)?);
                Reply::Done
            }
            Request::SendTo(name, to) => outcomes(dial::send_to(self.socket(&name)?, to)),
            Request::SendToAll(name, to) => Reply::Outcomes(dial::send_to_all(self.socket(&name)?, &to)),
            Request::Echo(name) => outcomes(dial::echo(self.socket(&name)?)),
            Request::Disconnect(name) => {
                rustix::net::connect_unspec(self.socket(&name)?)?;
                Reply::Done
            }
            Request::Close(name) => {
                self.kept.remove(&name);
                Reply::Done
            }
            Request::StartLoad(spec) => {
                ensure!(self.load.is_none(), "a load is running");
                self.load = Some(load::Load::start(spec));
                Reply::Done
            }
            Request::FinishLoad { now } => {
                let load = self.load.take().context("no load is running")?;
                return Ok(Answer::Records(load.finish(now)?));
            }
            Request::ManySend { to, sockets, from } => {
                let (many, seen) = dial::ManySockets::send(to, sockets, &from)?;
                self.many = Some(many);
                Reply::Many(seen)
            }
            Request::ManyReceive => Reply::Many(self.many.take().context("no sockets are open")?.receive()),
            Request::Ask(kind, to) => {
                let who = traffic::ask(kind, to).unwrap_or_else(|e| format!("error: {e:#}"));
                Reply::Answered(vec![Answered { to, who, times: 1 }])
            }
            Request::StartTraffic(streams) => {
                ensure!(self.traffic.is_none(), "traffic is running");
                self.traffic = Some(traffic::Traffic::start(streams));
                Reply::Done
            }
            Request::Traffic => {
                Reply::Answered(self.traffic.as_ref().context("no traffic is running")?.answered())
            }
            Request::StopTraffic => {
                Reply::Answered(self.traffic.take().context("no traffic is running")?.stop()?)
            }
            Request::Counts => bail!("a client counts nothing"),
        }))
    }

    fn socket(&self, name: &str) -> Result<&OwnedFd> {
        self.kept.get(name).with_context(|| format!("no socket {name:?}"))
    }
}
