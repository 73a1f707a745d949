//! The product's data path, opened and filled by a process that has no more capabilities than the agent in a cluster.

use std::{
    io::{BufRead, BufReader, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{Program, ProgramError, ProgramFd},
};
use balancing_agent::kernel::{
    Grace, KernelStore, Opened, Programmer, Room, RuntimeChange, Sizes, View, monotonic, open,
};
use balancing_datapath::{HOOKS, LAYOUT_VERSION};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    plan::Plan,
    subject::PRODUCT,
    sys::{self, Size},
};

/// What the chart gives the agent.
pub const CAPABILITIES: &[&str] = &["bpf", "net_admin", "perfmon"];
/// `--max-frontends` and `--max-backends` of the agent.
const MOST: Room = Room { frontends: 65_536, backends: 131_072 };

/// What the process is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Opens the data path and attaches it, empty.
    Open {
        /// The bpffs folder.
        bpffs: PathBuf,
        /// The cgroup.
        cgroup: PathBuf,
        /// Frontends and backends that are needed: the maps get the sizes that the agent would give them.
        need: (u32, u32),
        /// CPUs that the maps are made for; 0: as many as there are.
        cpus: usize,
    },
    /// Makes the maps what the plan says. Answers [`Written`].
    Fill(Plan),
    /// Switches each plan in turn, as fast as grace periods allow, `times` over, or in bursts without waiting.
    Churn {
        /// The plans.
        plans: Vec<Plan>,
        /// Changes in all.
        times: u32,
        /// Waits so long between two changes, in microseconds.
        pause_us: u64,
    },
    /// Which successes become events.
    Events {
        /// A random number has to be below this.
        sample_below: u32,
        /// At most so many a second.
        per_second: u32,
    },
    /// Stops (or goes on) taking events out of the ring.
    Consume(bool),
    /// Waits on the ring as a reader that wants to be woken: was it, within this time?
    AwaitWakeup(u64),
    /// Answers [`Counts`].
    Counts,
    /// Loads each program, with maps of its own that are gone again. Answers a [`Verified`] for each.
    Verify,
}

/// What the verifier made of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// Its hook.
    pub hook: String,
    /// Its size, or why it was refused.
    pub size: Result<Size, String>,
}

/// How long filling took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Written {
    /// Until the last write was done.
    pub nanoseconds: u64,
    /// Frontends that did not fit or were refused.
    pub failures: usize,
}

/// What the data path counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Redirects of the policy.
    pub taken: u64,
    /// Redirects not made because of its limit.
    pub qos_drops: u64,
    /// Events taken out of the ring.
    pub received: u64,
    /// Events that found no room.
    pub lost: u64,
    /// The redirects of all frontends and resolutions of all Services.
    pub translated: u64,
}

// ---------------------------------------------------------------- handle

/// The process that holds the product's data path.
#[derive(Debug)]
pub struct Loader {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Loader {
    /// Starts it with these capabilities.
    pub fn start(capabilities: &[&str]) -> Result<Self> {
        let here = std::env::current_exe()?;
        let allowed: String = capabilities.iter().map(|c| format!(",+{c}")).collect();
        let mut child = Command::new("setpriv")
            .args([format!("--bounding-set=-all{allowed}"), format!("--inh-caps=-all{allowed}")])
            .arg(here)
            .arg("loader")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start the loader (setpriv, Debian package util-linux)")?;
        let input = child.stdin.take().context("no pipe to the loader")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from the loader")?);
        Ok(Self { child, input, output })
    }

    /// Asks and does not wait for the answer.
    pub fn begin(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.input.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Waits for the answer.
    pub fn finish<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the loader has ended");
        let answer: Result<T, String> = serde_json::from_str(&line)?;
        answer.map_err(anyhow::Error::msg)
    }

    /// Asks and waits for the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        self.begin(request)?;
        self.finish()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

// ---------------------------------------------------------------- process

/// The loader's process: answers a line with a line until its input ends.
pub fn main() -> Result<()> {
    crate::worker::pin_to(0);
    let mut held = None;
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = serve(&mut held, request).map_err(|e| format!("{e:#}"));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

/// The open data path.
struct Held {
    store: Arc<KernelStore>,
    programmer: Programmer<Arc<KernelStore>, Arc<Grace>>,
    grace: Arc<Grace>,
    passed: Arc<AtomicU64>,
    ring: Arc<Mutex<RingBuf<MapData>>>,
    consume: Arc<AtomicBool>,
    consuming: bool,
    _attachment: balancing_agent::kernel::Attachment,
}

fn serve(held: &mut Option<Held>, request: Request) -> Result<serde_json::Value> {
    if let Request::Verify = request {
        return Ok(serde_json::to_value(verify()?)?);
    }
    if let Request::Open { bpffs, cgroup, need, cpus } = &request {
        *held = Some(Held::open(bpffs, cgroup, *need, *cpus)?);
        return Ok(serde_json::Value::Null);
    }
    let held = held.as_mut().context("nothing is open")?;
    let value = match request {
        Request::Open { .. } | Request::Verify => serde_json::Value::Null,
        Request::Fill(plan) => serde_json::to_value(held.fill(&plan))?,
        Request::Churn { plans, times, pause_us } => {
            serde_json::to_value(held.churn(&plans, times, Duration::from_micros(pause_us)))?
        }
        Request::Events { sample_below, per_second } => {
            held.store.set_runtime(RuntimeChange::Events { sample_below, per_second });
            serde_json::Value::Null
        }
        Request::Consume(on) => {
            held.consume(on);
            serde_json::Value::Null
        }
        Request::AwaitWakeup(ms) => serde_json::to_value(held.await_wakeup(Duration::from_millis(ms))?)?,
        Request::Counts => serde_json::to_value(held.counts()?)?,
    };
    Ok(value)
}

impl Held {
    fn open(bpffs: &Path, cgroup: &Path, need: (u32, u32), cpus: usize) -> Result<Self> {
        let need = Room { frontends: need.0, backends: need.1 };
        let sizes = Sizes::fitting(need, MOST, if cpus == 0 { crate::worker::cpus() } else { cpus });
        let Opened { store, events, mut attachment, .. } = open(bpffs, cgroup, LAYOUT_VERSION, sizes)?;
        let passed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&passed);
        let grace = Arc::new(Grace::start(move || {
            count.fetch_add(1, Ordering::Release);
        })?);
        let programmer = Programmer::take_over(Arc::clone(&store), Arc::clone(&grace))?;
        store.set_runtime(RuntimeChange::LeaseUntil(monotonic() + 3_600_000_000_000));
        store.set_runtime(RuntimeChange::CallerLevels { first: 1, count: 1 });
        attachment.attach()?;
        let ring = Arc::new(Mutex::new(events));
        let consume = Arc::new(AtomicBool::new(false));
        Ok(Self {
            store,
            programmer,
            grace,
            passed,
            ring,
            consume,
            consuming: false,
            _attachment: attachment,
        })
    }

    /// Applies a plan whose frontends are those of the one before or more.
    fn fill(&mut self, plan: &Plan) -> Written {
        let changes = plan.changes();
        let began = Instant::now();
        self.programmer.apply(changes, None);
        let written = Written {
            nanoseconds: began.elapsed().as_nanos() as u64,
            failures: self.programmer.failures().count() + self.programmer.policy_failures().count(),
        };
        self.settle();
        written
    }

    /// Lets grace periods pass until nothing waits for one.
    fn settle(&mut self) {
        while let Some(epoch) = self.programmer.wanted_epoch() {
            self.grace.request(epoch);
            while self.grace.completed() < epoch {
                thread::sleep(Duration::from_micros(200));
            }
            self.programmer.grace_passed();
        }
    }

    fn consume(&mut self, on: bool) {
        self.consume.store(on, Ordering::Relaxed);
        if on && !self.consuming {
            self.consuming = true;
            spawn_consumer(Arc::clone(&self.ring), Arc::clone(&self.store), Arc::clone(&self.consume));
        }
    }

    fn churn(&mut self, plans: &[Plan], times: u32, pause: Duration) -> Written {
        let began = Instant::now();
        let mut seen = self.passed.load(Ordering::Acquire);
        for plan in plans.iter().cycle().take(times as usize) {
            self.programmer.apply(plan.changes(), None);
            if let Some(epoch) = self.programmer.wanted_epoch() {
                self.grace.request(epoch);
            }
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            let passed = self.passed.load(Ordering::Acquire);
            if passed != seen {
                seen = passed;
                self.programmer.grace_passed();
            }
        }
        self.settle();
        Written {
            nanoseconds: began.elapsed().as_nanos() as u64,
            failures: self.programmer.failures().count(),
        }
    }

    /// Blocks on the empty ring. At the end of the time `poll` looks once more and would find what came: only an
    /// earlier return is a wake-up.
    fn await_wakeup(&self, time: Duration) -> Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while ring.next().is_some() {}
        let began = Instant::now();
        let limit = Timespec::try_from(time)?;
        poll(&mut [PollFd::new(&*ring, PollFlags::IN)], Some(&limit))?;
        Ok(began.elapsed() < time)
    }

    fn counts(&self) -> Result<Counts> {
        let totals = View::new(Arc::clone(&self.store)).counters()?;
        let sum = |f: fn(&balancing_datapath::PolicyCounters) -> u64| {
            totals.policies.iter().map(|(_, c)| f(c)).sum()
        };
        Ok(Counts {
            taken: sum(|c| c.taken),
            qos_drops: sum(|c| c.qos_drops),
            received: totals.events_received,
            lost: totals.events_lost,
            translated: totals.frontends.iter().map(|(_, _, c)| c.taken + c.resolved).sum(),
        })
    }
}

fn verify() -> Result<Vec<Verified>> {
    let mut ebpf = Ebpf::load(PRODUCT)?;
    let each = |hook: &&str| {
        let size = match ebpf.program_mut(hook) {
            Some(Program::CgroupSockAddr(program)) => loaded(program.load(), || program.fd()),
            Some(Program::CgroupSock(program)) => loaded(program.load(), || program.fd()),
            _ => Err("no such program".to_owned()),
        };
        Verified { hook: (*hook).to_owned(), size }
    };
    Ok(HOOKS.iter().map(each).collect())
}

fn loaded<'a>(
    result: Result<(), ProgramError>,
    program: impl FnOnce() -> Result<&'a ProgramFd, ProgramError>,
) -> Result<Size, String> {
    match result.and_then(|()| program()) {
        Ok(program) => sys::size(program.as_fd()).map_err(|e| e.to_string()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            // The last lines are statistics, and the one before is the reason.
            let log = verifier_log.to_string();
            let statistics = ["processed ", "verification time", "stack depth"];
            let reason = log.lines().rev().find(|l| !statistics.iter().any(|s| l.starts_with(s)));
            Err(reason.map_or_else(|| io_error.to_string(), |reason| reason.trim().replace('|', "/")))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Takes events out of the ring every millisecond, as the agent does for a listener.
fn spawn_consumer(ring: Arc<Mutex<RingBuf<MapData>>>, store: Arc<KernelStore>, consume: Arc<AtomicBool>) {
    thread::spawn(move || {
        loop {
            if consume.load(Ordering::Relaxed) {
                let mut ring = ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut received = 0;
                while ring.next().is_some() {
                    received += 1;
                }
                if received > 0 {
                    store.set_runtime(RuntimeChange::EventsReceived(received));
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
}
