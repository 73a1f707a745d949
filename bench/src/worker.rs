//! The load: one process per subject, in a network namespace and a cgroup of its own, that runs a batch when told.
//!
//! Client and server sockets are in one thread, so that no wake-up lies within an operation. The servers' sockets are
//! made before the process is moved into the subject's cgroup: a socket belongs to the cgroup it was made in, so the
//! subject's programs see the client alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept, bind, connect, getpeername,
        listen, recvfrom, send, sendto, socket_with, sockopt,
    },
    thread::{CpuSet, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use crate::{
    plan::{BACKENDS, PORT, VIP_PORT, backend, vip},
    stats::Random,
};

/// Backends of a Service that have servers.
const SERVERS: u32 = 20;
/// Between two connects of one who attends to a change.
const REST: Duration = Duration::from_micros(50);
/// The CPU that workers run on, where there is more than one: the bench itself stays off it.
pub const CPU: usize = 1;

/// What a batch repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operation {
    /// `connect()` of one UDP socket, again and again.
    Reconnect,
    /// The same, each to a random one of so many Services.
    ReconnectRandom(u32),
    /// A new UDP socket, `connect()`, `close()`.
    NewUdp,
    /// A new UDP socket, `sendto()`, `close()`.
    NewSend,
    /// `sendto()` on one unconnected UDP socket, echo, `recvfrom()`.
    Send,
    /// `send()` on one connected UDP socket, echo, `recv()`.
    Echo,
    /// A new TCP socket, `connect()`, `accept()`, reset by `close()`.
    Tcp,
    /// `getpeername()` of one connected TCP socket.
    PeerTcp,
    /// `getpeername()` of one connected UDP socket.
    PeerUdp,
    /// `connect()` of one UDP socket at this many a second, evenly spread over milliseconds.
    Paced(u32),
    /// `connect()` of one UDP socket to each of so many Services in turn, each followed by `getpeername()`: how often
    /// did it fail, and how often end at none of the Service's backends?
    Check(u32),
    /// The same socket, again and again, until it ends at the backend of Service 0 with this index.
    Follow(u32),
    /// The same, with a rest after each connect that leaves the processor to others.
    Attend(u32),
}

/// A batch.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// What.
    pub operation: Operation,
    /// Where to.
    pub to: SocketAddr,
    /// How often; with `for_ms` the number between two looks at the clock.
    pub count: u32,
    /// Repeats the batch for so long, if it is not 0.
    pub for_ms: u64,
}

/// What a batch took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Operations.
    pub count: u64,
    /// How long all of them took.
    pub nanoseconds: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Operations that ended where they should not have.
    pub astray: u64,
    /// When the last operation was over, in ns of `CLOCK_MONOTONIC`.
    pub at: u64,
}

// ---------------------------------------------------------------- handle

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a worker in a new network namespace and moves it into a cgroup.
    pub fn start(cgroup: &Path, setup: &str, cpu: usize) -> Result<Self> {
        let here = std::env::current_exe()?;
        let addresses: String = (0..SERVERS)
            .map(|i| format!("ip -6 addr add {}/128 dev lo nodad; ", crate::plan::backend6(i as u16)))
            .collect();
        let script = format!(
            "ip link set lo up; ip route add local {BACKENDS} dev lo; {addresses} {setup} exec \"$0\" worker {cpu}"
        );
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-ec", &script])
            .arg(here)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start a worker (unshare, Debian package util-linux)")?;
        let input = child.stdin.take().context("no pipe to the worker")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from the worker")?);
        let mut worker = Self { child, input, output };
        worker.line().context("the worker did not start")?;
        std::fs::write(cgroup.join("cgroup.procs"), worker.child.id().to_string())
            .with_context(|| format!("failed to move the worker into {}", cgroup.display()))?;
        Ok(worker)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the worker has ended");
        Ok(line)
    }

    /// Starts a batch.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        let mut line = serde_json::to_string(batch)?;
        line.push('\n');
        self.input.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Waits for its end.
    pub fn finish(&mut self) -> Result<Done> {
        let line = self.line()?;
        let answer: Result<Done, String> = serde_json::from_str(&line)?;
        answer.map_err(anyhow::Error::msg)
    }

    /// Runs a batch to its end.
    pub fn run(&mut self, batch: &Batch) -> Result<Done> {
        self.begin(batch)?;
        self.finish()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

// ---------------------------------------------------------------- process

/// The worker's process: answers a line with a line until its input ends.
pub fn main(cpu: usize) -> Result<()> {
    pin_to(cpu);
    let mut endpoint = Endpoint::new()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let batch: Batch = serde_json::from_str(&line?)?;
        let done = endpoint.run(&batch).map_err(|e| format!("{batch:?}: {e:#}"));
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}

/// CPUs of the machine; what this process may use of them is another matter once it is pinned.
#[must_use]
pub fn cpus() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// Keeps this thread on a CPU, if there is more than one.
pub fn pin_to(cpu: usize) {
    if cpus() > cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        // Measurements are only noisier without.
        sched_setaffinity(None, &set).ok();
    }
}

/// Lets this thread run on every CPU again.
pub fn unpin() {
    let mut set = CpuSet::new();
    (0..cpus()).for_each(|cpu| set.set(cpu));
    // Measurements are only noisier without.
    sched_setaffinity(None, &set).ok();
}

/// The client's sockets that stay, and the servers.
struct Endpoint {
    listener: OwnedFd,
    listener6: OwnedFd,
    servers: Vec<OwnedFd>,
    servers6: Vec<OwnedFd>,
    kept: Vec<(SocketAddr, Kept)>,
    random: Random,
}

/// Sockets of one destination.
#[derive(Default)]
struct Kept {
    reconnected: Option<OwnedFd>,
    unconnected: Option<OwnedFd>,
    connected: Option<OwnedFd>,
    tcp: Option<(OwnedFd, OwnedFd)>,
    /// The server that answers.
    server: usize,
}

fn open(six: bool, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if six { AddressFamily::INET6 } else { AddressFamily::INET };
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

fn server(address: IpAddr, kind: SocketType) -> Result<OwnedFd> {
    let socket = open(address.is_ipv6(), kind)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, PORT))
        .with_context(|| format!("failed to bind {address}:{PORT}"))?;
    if kind == SocketType::STREAM {
        listen(&socket, 1024)?;
    } else {
        rustix::io::ioctl_fionbio(&socket, true)?;
    }
    Ok(socket)
}

impl Endpoint {
    fn new() -> Result<Self> {
        let udp = |address| server(address, SocketType::DGRAM);
        Ok(Self {
            listener: server(Ipv4Addr::UNSPECIFIED.into(), SocketType::STREAM)?,
            listener6: server(Ipv6Addr::UNSPECIFIED.into(), SocketType::STREAM)?,
            servers: (0..SERVERS).map(|i| udp(backend(0, i).into())).collect::<Result<_>>()?,
            servers6: (0..SERVERS)
                .map(|i| udp(crate::plan::backend6(i as u16).into()))
                .collect::<Result<_>>()?,
            kept: Vec::new(),
            random: Random::new(42),
        })
    }

    fn run(&mut self, batch: &Batch) -> Result<Done> {
        let began = Instant::now();
        let mut total = Done::default();
        loop {
            self.once(batch, &mut total)?;
            if began.elapsed() >= Duration::from_millis(batch.for_ms) {
                break;
            }
        }
        Ok(total)
    }

    fn once(&mut self, batch: &Batch, total: &mut Done) -> Result<()> {
        let place = match self.kept.iter().position(|(to, _)| *to == batch.to) {
            Some(place) => place,
            None => {
                self.kept.push((batch.to, Kept::default()));
                self.kept.len() - 1
            }
        };
        let six = batch.to.is_ipv6();
        let listener = if six { &self.listener6 } else { &self.listener };
        let servers = if six { &self.servers6 } else { &self.servers };
        let kept = &mut self.kept[place].1;
        let to = batch.to;
        let clock = |operation: &mut dyn FnMut() -> Result<()>| -> Result<u64> {
            let began = Instant::now();
            for _ in 0..batch.count {
                operation()?;
            }
            Ok(began.elapsed().as_nanos() as u64)
        };
        total.nanoseconds += match batch.operation {
            Operation::Reconnect => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                clock(&mut || Ok(connect(socket, &to)?))?
            }
            Operation::ReconnectRandom(services) => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                let random = &mut self.random;
                let all: Vec<SocketAddr> = (0..batch.count)
                    .map(|_| (vip(random.below(services as usize) as u32), VIP_PORT).into())
                    .collect();
                let mut next = all.iter().cycle();
                clock(&mut || Ok(connect(socket, next.next().unwrap_or(&to))?))?
            }
            Operation::NewUdp => clock(&mut || Ok(connect(open(six, SocketType::DGRAM)?, &to)?))?,
            Operation::NewSend => {
                let taken = clock(&mut || {
                    sendto(open(six, SocketType::DGRAM)?, b"x", SendFlags::empty(), &to)?;
                    Ok(())
                })?;
                servers.iter().for_each(drain);
                taken
            }
            Operation::Send => {
                let socket = stays(&mut kept.unconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                let first = &mut kept.server;
                clock(&mut || {
                    sendto(socket, b"x", SendFlags::empty(), &to)?;
                    *first = echo(servers, *first)?;
                    let mut buffer = [0; 16];
                    let (_, _, from) = recvfrom(socket, &mut buffer, RecvFlags::empty())?;
                    ensure!(
                        from.and_then(|from| SocketAddr::try_from(from).ok()) == Some(to),
                        "an answer not from {to}"
                    );
                    Ok(())
                })?
            }
            Operation::Echo => {
                let socket = stays(&mut kept.connected, || connected(six, &to))?;
                let first = &mut kept.server;
                clock(&mut || {
                    send(socket, b"x", SendFlags::empty())?;
                    *first = echo(servers, *first)?;
                    let mut buffer = [0; 16];
                    recvfrom(socket, &mut buffer, RecvFlags::empty())?;
                    Ok(())
                })?
            }
            Operation::Tcp => clock(&mut || drop_with_reset(dial(six, &to, listener)?))?,
            Operation::PeerTcp => {
                let (socket, _) = stays(&mut kept.tcp, || dial(six, &to, listener))?;
                ensure!(peer(socket) == Some(to), "the peer is not {to}");
                clock(&mut || Ok(getpeername(socket).map(drop)?))?
            }
            Operation::PeerUdp => {
                let socket = stays(&mut kept.connected, || connected(six, &to))?;
                ensure!(peer(socket) == Some(to), "the peer is not {to}");
                clock(&mut || Ok(getpeername(socket).map(drop)?))?
            }
            Operation::Paced(rate) => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                pace(rate, batch.count, &mut || Ok(connect(socket, &to)?))?
            }
            Operation::Follow(index) => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                follow(socket, &to, index, None)?
            }
            Operation::Attend(index) => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                follow(socket, &to, index, Some(REST))?
            }
            Operation::Check(services) => {
                let socket = stays(&mut kept.reconnected, || Ok(open(six, SocketType::DGRAM)?))?;
                let mut next = 0;
                clock(&mut || {
                    let service = next % services;
                    next += 1;
                    let (failed, astray) = check(socket, service);
                    total.failed += u64::from(failed);
                    total.astray += u64::from(astray);
                    Ok(())
                })?
            }
        };
        total.count += u64::from(batch.count);
        total.at = balancing_agent::kernel::monotonic();
        Ok(())
    }
}

/// Connects until that leads to the backend with this index, with a rest in between; gives up after a while.
fn follow(socket: &OwnedFd, to: &SocketAddr, index: u32, rest: Option<Duration>) -> Result<u64> {
    let wanted = SocketAddr::from((backend(0, index), PORT));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        // It may fail where a Service is not there yet.
        if connect(socket, to).is_ok() && peer(socket) == Some(wanted) {
            return Ok(began.elapsed().as_nanos() as u64);
        }
        rest.into_iter().for_each(std::thread::sleep);
    }
    bail!("{to} did not lead to {wanted} within 20 s")
}

fn peer(socket: &OwnedFd) -> Option<SocketAddr> {
    getpeername(socket).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok())
}

/// A connect to a Service: did it fail, did it end at an address that is no backend of this Service?
fn check(socket: &OwnedFd, service: u32) -> (bool, bool) {
    if connect(socket, &SocketAddr::from((vip(service), VIP_PORT))).is_err() {
        return (true, false);
    }
    let fits = peer(socket).is_some_and(|peer| match peer.ip() {
        IpAddr::V4(ip) => {
            let offset = ip.to_bits().wrapping_sub(backend(service, 0).to_bits());
            offset < SERVERS && peer.port() == PORT
        }
        IpAddr::V6(_) => false,
    });
    (false, !fits)
}

fn stays<T>(place: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if place.is_none() {
        *place = Some(make()?);
    }
    place.as_ref().context("no socket")
}

fn connected(six: bool, to: &SocketAddr) -> Result<OwnedFd> {
    let socket = open(six, SocketType::DGRAM)?;
    connect(&socket, to)?;
    Ok(socket)
}

fn dial(six: bool, to: &SocketAddr, listener: &OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let socket = open(six, SocketType::STREAM)?;
    connect(&socket, to)?;
    Ok((socket, accept(listener)?))
}

fn drop_with_reset((socket, accepted): (OwnedFd, OwnedFd)) -> Result<()> {
    // No TIME_WAIT: ports do not run out.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    drop(socket);
    drop(accepted);
    Ok(())
}

/// The servers' turn: answers the one datagram that is there. `first` is looked at first; gives who had it.
fn echo(servers: &[OwnedFd], first: usize) -> Result<usize> {
    let mut buffer = [0; 16];
    for i in (0..servers.len()).map(|i| (first + i) % servers.len()) {
        match recvfrom(&servers[i], &mut buffer, RecvFlags::empty()) {
            Ok((_, length, Some(from))) => {
                sendto(&servers[i], &buffer[..length.min(buffer.len())], SendFlags::empty(), &from)?;
                return Ok(i);
            }
            Ok(_) => bail!("a datagram from nowhere"),
            Err(Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bail!("the datagram reached no server")
}

fn drain(server: &OwnedFd) {
    let mut buffer = [0; 16];
    while recvfrom(server.as_fd(), &mut buffer, RecvFlags::empty()).is_ok() {}
}

/// `count` operations at `rate` a second, in bursts of a millisecond's worth.
fn pace(rate: u32, count: u32, operation: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
    let burst = (rate / 1000).max(1);
    let step = Duration::from_secs(1) * burst / rate.max(1);
    let began = Instant::now();
    let mut due = began;
    let mut left = count;
    while left > 0 {
        for _ in 0..burst.min(left) {
            operation()?;
        }
        left -= burst.min(left);
        due += step;
        while Instant::now() < due {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(began.elapsed().as_nanos() as u64)
}
