//! The agent's side: M12 to M15, the first sync of a folder, a restart over pinned maps.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use balancing_agent::{kernel::monotonic, source::manifests::Manifests};
use balancing_e2e::{http, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    asked,
    kernel::MANY,
    loader::{CAPABILITIES, Loader, Request},
    peers,
    plan::{self, PORT, Plan, VIP_PORT, backend, vip},
    process,
    report::Metric,
    stats::{Estimate, median, percentile},
    subject::{Kind, Subject},
    sys,
    worker::{self, Batch, Operation},
};

const ENDPOINTS: u32 = 10;
/// Services in a file.
const FILE: u32 = 100;

/// Measures those that are asked for.
pub fn run(quick: bool, ids: &[String], notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let mut all = Vec::new();
    if asked(ids, &["M12"]) {
        eprintln!("bench: programming the maps");
        all.extend(programming(quick, notes)?);
    }
    if asked(ids, &["M13", "M14", "M15"]) {
        eprintln!("bench: the agent, 10,000 Services with 10 endpoints each");
        all.extend(agent(quick, notes)?);
    }
    Ok(all)
}

// ---------------------------------------------------------------- M12

fn programming(quick: bool, notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let mut times = Vec::new();
    for _ in 0..if quick { 3 } else { 8 } {
        let many = Plan { services: MANY, both: false, ..Plan::default() };
        let subject = Subject::start("program", Kind::Product(many))?;
        times.push(subject.written.nanoseconds as f64 / 1e6);
    }
    let mut all = vec![
        middle("M12", "10,000 Services × 10 endpoints into empty maps, objects in memory", &times, "ms")
            .at_most(60.0),
    ];
    let services = if quick { 500 } else { MANY };
    for (id, kind, endpoints) in [
        ("M12-nftables", peers::Kind::Nftables, if quick { ENDPOINTS } else { 1 }),
        ("M12-iptables", peers::Kind::Iptables, ENDPOINTS),
    ] {
        if !kind.is_installed() {
            notes.push(format!("no peer {id}: {} is not installed", kind.program()));
            continue;
        }
        let load = peers::load(kind, services, endpoints)?;
        let began = Instant::now();
        let status =
            Command::new("timeout").args(["120", "unshare", "--net", "sh", "-ec", &load]).status()?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        if status.success() {
            let name = format!("{services} Services × {endpoints} into empty rules, {}", kind.program());
            all.push(Metric::new(id, &name, took, "ms"));
        } else {
            notes.push(format!("no peer {id}: {} ended with {status}", kind.program()));
        }
    }
    Ok(all)
}

/// The median of several times of the same work. Its interval reaches from the quickest to the slowest: the median of what
/// could be measured lies outside of those of eight in one case of 128.
fn middle(id: &str, name: &str, times: &[f64], unit: &str) -> Metric {
    let (value, low, high) = (median(times), percentile(times, 0.0), percentile(times, 1.0));
    let name = format!("{name}, median of {}", times.len());
    Metric::new(id, &name, value, unit).within(Estimate { value, low, high })
}

// ---------------------------------------------------------------- the folder

fn service(i: u32) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{i}","namespace":"ns-{}"}},"spec":{{"clusterIP":"{}","ports":[{{"name":"http","port":{VIP_PORT},"protocol":"UDP"}}]}}}}"#,
        i % 50,
        vip(i)
    )
}

fn slice(i: u32, first: u32, endpoints: u32) -> String {
    let each = (first..first + endpoints).map(|e| {
        format!(
            r#"{{"addresses":["{}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"node-{}","targetRef":{{"kind":"Pod","namespace":"ns-{}","name":"svc-{i}-6d4cf56db6-{e:05}"}}}}"#,
            backend(i, e),
            (i + e) % 1000,
            i % 50
        )
    });
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{i}-abcde","namespace":"ns-{}","labels":{{"kubernetes.io/service-name":"svc-{i}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":{PORT},"protocol":"UDP"}}],"endpoints":[{}]}}"#,
        i % 50,
        each.collect::<Vec<_>>().join(",")
    )
}

/// The folder: files of 100 Services with their slices, and the slice of Service 0 in a file of its own.
struct Folder {
    path: PathBuf,
    staging: PathBuf,
}

impl Folder {
    fn new(services: u32) -> Result<Self> {
        let temp = std::env::temp_dir();
        let folder =
            Self { path: temp.join(run::name("manifests")), staging: temp.join(run::name("staged")) };
        fs::create_dir_all(&folder.path)?;
        for first in (0..services).step_by(FILE as usize) {
            let mut text = String::new();
            for i in first..(first + FILE).min(services) {
                let _ = writeln!(text, "---\n{}", service(i));
                if i != 0 {
                    let _ = writeln!(text, "---\n{}", slice(i, 0, ENDPOINTS));
                }
            }
            fs::write(folder.path.join(format!("{:03}.yaml", first / FILE)), text)?;
        }
        folder.stage(0)?;
        folder.rename()?;
        Ok(folder)
    }

    /// Writes the slice of Service 0, with this one backend, beside the folder.
    fn stage(&self, index: u32) -> Result<()> {
        Ok(fs::write(&self.staging, slice(0, index, 1))?)
    }

    /// Moves it into the folder.
    fn rename(&self) -> Result<()> {
        Ok(fs::rename(&self.staging, self.path.join("change.yaml"))?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What remains is removed with all else of this run.
        fs::remove_dir_all(&self.path).ok();
    }
}

// ---------------------------------------------------------------- the agent

struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    ready: Duration,
}

impl Agent {
    /// Starts it with the capabilities that the chart gives it, and waits until it is ready.
    fn start(subject: &Subject, folder: &Path) -> Result<Self> {
        let here = std::env::current_exe()?;
        let binary = here.parent().context("no folder of this program")?.join("balancing-agent");
        ensure!(
            binary.exists(),
            "{} is missing: run `cargo build --release -p balancing-agent`",
            binary.display()
        );
        let temp = std::env::temp_dir();
        let (socket, log) = (temp.join(run::name("agent.sock")), temp.join(run::name("agent.log")));
        fs::create_dir_all(&subject.bpffs)?;
        let allowed: String = CAPABILITIES.iter().map(|c| format!(",+{c}")).collect();
        let out = fs::File::create(&log)?;
        let began = Instant::now();
        let child = Command::new("setpriv")
            .args([format!("--bounding-set=-all{allowed}"), format!("--inh-caps=-all{allowed}")])
            .arg(binary)
            .args(["run", "--node-name", "node-1", "--manifests"])
            .arg(folder)
            .arg("--cgroup-root")
            .arg(subject.cgroup())
            .arg("--bpffs")
            .arg(&subject.bpffs)
            .args(["--api", &format!("unix:{}", socket.display())])
            .env("BALANCING_REFUSE_ROOT_CGROUP", "1")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("failed to start the agent")?;
        let mut agent = Self { child, socket, log, ready: Duration::ZERO };
        while !http::request(&agent.socket, "GET", "/readyz", None).is_ok_and(|answer| answer.status == 200) {
            ensure!(agent.child.try_wait()?.is_none(), "the agent has ended:\n{}", agent.tail());
            ensure!(began.elapsed() < Duration::from_secs(60), "the agent is not ready:\n{}", agent.tail());
            thread::sleep(Duration::from_millis(2));
        }
        agent.ready = began.elapsed();
        let log = fs::read_to_string(&agent.log)?;
        ensure!(!log.contains("SourceErrors"), "the agent refuses manifests:\n{}", agent.tail());
        Ok(agent)
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// A line of `/proc/PID/status`, in MB (10^6).
    fn memory(&self, field: &str) -> Result<f64> {
        process::memory(self.child.id(), field)
    }

    /// Writes to the maps since its start.
    fn writes(&self) -> Result<f64> {
        let text = http::request(&self.socket, "GET", "/metrics", None)?.text();
        let lines = text.lines().filter(|line| line.starts_with("balancing_map_writes_total"));
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.fold(0.0, |sum, count| sum + count))
    }

    fn terminate(mut self) -> Result<()> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM)?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.tail());
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn agent(quick: bool, notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let repeats = if quick { 2 } else { 8 };
    let folder = Folder::new(MANY)?;
    let mut first_syncs = Vec::new();
    let (mut subject, agent) = loop {
        let subject = Subject::start("agent", Kind::Agent)?;
        let agent = Agent::start(&subject, &folder.path)?;
        first_syncs.push(ms(agent.ready));
        if first_syncs.len() == repeats {
            break (subject, agent);
        }
        agent.terminate()?;
    };
    subject.show_backends()?;
    thread::sleep(Duration::from_secs(if quick { 5 } else { 60 }));
    let (resident, peak) = (agent.memory("VmRSS")?, agent.memory("VmHWM")?);
    let anonymous = agent.memory("RssAnon")?;
    let times = if quick { 100 } else { 1000 };
    let effect = effects(&mut subject, &folder, times).with_context(|| agent.tail())?;
    let (after, after_peak) = (agent.memory("VmRSS")?, agent.memory("VmHWM")?);
    let map_memory = memory_of_maps(&subject.bpffs)?;
    agent.terminate()?;

    let (mut restarts, mut writes) = (Vec::new(), 0.0_f64);
    for _ in 0..repeats {
        let again = Agent::start(&subject, &folder.path)?;
        restarts.push(ms(again.ready));
        writes = writes.max(again.writes()?);
        again.terminate()?;
    }
    let (waited, entries) = growth(&subject, &folder)?;
    notes
        .push(format!("maps grew with {entries} more Services; what was not programmed waited in that time"));
    let starts = (0..repeats).map(|_| bare_start().map(ms)).collect::<Result<Vec<_>>>()?;
    let (read, seen) = watcher(&mut subject, &folder, times)?;

    let own = percentile(&seen, 0.5);
    let of = |share| percentile(&effect, share);
    let mut p50 = Metric::new(
        "M13",
        "rename of a manifest → first connect that follows, less the watcher's own delay, p50",
        of(0.5) - own,
        "ms",
    )
    .at_most(1.0);
    p50.against = Some("watcher".to_owned());
    p50.baseline = Some(own);
    let total: u64 = map_memory.iter().map(|(_, bytes)| bytes).sum();
    let (many_cpus, largest) = for_many_cpus(128)?;
    notes.push(format!("maps here, MB: {}", listed(&map_memory)));
    notes.push(format!("maps on 128 CPUs, MB: {}", listed(&largest)));
    Ok(vec![
        p50,
        Metric::new("M13-p99", "the same, p99", of(0.99) - own, "ms").at_most(20.0),
        Metric::new("M13-whole", "with the watcher's delay, p50", of(0.5), "ms"),
        Metric::new("M13-whole-p99", "with the watcher's delay, p99", of(0.99), "ms"),
        Metric::new("M13-watcher-p99", "the watcher's own delay, p99", percentile(&seen, 0.99), "ms"),
        middle("M13-sync", "first sync from a folder, start to ready", &first_syncs, "ms").at_most(3000.0),
        Metric::new("M13-read", "reading and converting that folder alone", ms(read), "ms"),
        middle("M13-start", "start to ready with a single Service", &starts, "ms"),
        middle("M13-restart", "restart over pinned maps, start to ready", &restarts, "ms").at_most(1000.0),
        Metric::new("M13-restart-writes", "map writes of that restart", writes, "writes").at_most(0.0),
        Metric::new("M13-growth", "maps of 10,000 Services grow: how long no change gets in", waited, "ms"),
        Metric::new("M14", "resident memory of the agent (VmRSS) after the sync", resident, "MB")
            .at_most(60.0),
        Metric::new(
            "M14-anonymous",
            "of it anonymous memory: without code and mapped BPF arrays",
            anonymous,
            "MB",
        ),
        Metric::new("M14-peak", "its peak (VmHWM)", peak, "MB").at_most(160.0),
        Metric::new("M14-after", &format!("VmRSS after {times} changes"), after, "MB"),
        Metric::new("M14-after-peak", &format!("VmHWM after {times} changes"), after_peak, "MB"),
        Metric::new("M15", "kernel memory of the maps", total as f64 / 1e6, "MB").at_most(16.0),
        Metric::new("M15-128", "the same, on 128 CPUs", many_cpus as f64 / 1e6, "MB"),
    ])
}

/// Adds Services until the maps have grown; how long changes waited for that, as the agent says, and for how many more.
fn growth(subject: &Subject, folder: &Folder) -> Result<(f64, u32)> {
    const MORE: u32 = 3000;
    const SAYS: &str = "changes waited ";
    let agent = Agent::start(subject, &folder.path)?;
    let text: String = (MANY..MANY + MORE)
        .flat_map(|i| [service(i), "\n---\n".to_owned(), slice(i, 0, 1), "\n---\n".to_owned()])
        .collect();
    fs::write(&folder.staging, text)?;
    fs::rename(&folder.staging, folder.path.join("more.yaml"))?;
    let began = Instant::now();
    let waited = loop {
        let log = fs::read_to_string(&agent.log)?;
        let said = log.lines().rev().find_map(|line| line.split_once(SAYS)?.1.split(' ').next());
        if let Some(ms) = said {
            break ms.parse()?;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "the maps have not grown:\n{}", agent.tail());
        thread::sleep(Duration::from_millis(5));
    };
    agent.terminate()?;
    fs::remove_file(folder.path.join("more.yaml"))?;
    Ok((waited, MORE))
}

fn listed(maps: &[(String, u64)]) -> String {
    maps.iter()
        .map(|(name, bytes)| format!("{name} {:.2}", *bytes as f64 / 1e6))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Start to ready with a single Service: what loading and attaching the programs takes.
fn bare_start() -> Result<Duration> {
    let folder = std::env::temp_dir().join(run::name("one"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("one.yaml"), service(0) + "\n---\n" + &slice(0, 0, 1))?;
    let subject = Subject::start("one", Kind::Agent)?;
    let agent = Agent::start(&subject, &folder)?;
    let ready = agent.ready;
    agent.terminate()?;
    Ok(ready)
}

/// From the rename to the first connect that follows, in ms, for each of so many changes.
fn effects(subject: &mut Subject, folder: &Folder, times: u32) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for change in 1..=times {
        let index = change % 2;
        folder.stage(index)?;
        let batch = Batch { operation: Operation::Follow(index), to: plan::service(), count: 1, for_ms: 0 };
        subject.worker.begin(&batch)?;
        // The client is at it before the change is made, at moments that have nothing to do with any timer.
        thread::sleep(Duration::from_micros(3_000 + u64::from(change * 7919 % 5000)));
        let began = monotonic();
        folder.rename()?;
        all.push(subject.worker.finish()?.at.saturating_sub(began) as f64 / 1e6);
    }
    Ok(all)
}

/// How long reading the folder takes, and from each rename to the watcher's batch, in ms, with the same client beside it.
fn watcher(subject: &mut Subject, folder: &Folder, times: u32) -> Result<(Duration, Vec<f64>)> {
    let (send, batches) = mpsc::channel();
    let began = Instant::now();
    let _watch = Manifests::watch(&folder.path, move |batch| {
        // The receiver is gone only at the end.
        send.send((monotonic(), batch.changes.len())).ok();
    })?;
    let next = |wait| batches.recv_timeout(Duration::from_secs(wait)).context("the watcher told of nothing");
    let mut objects = 0;
    while objects < 2 * MANY as usize {
        objects += next(30)?.1;
    }
    let read = began.elapsed();
    let mut all = Vec::new();
    let busy = Batch { operation: Operation::Check(1), to: plan::service(), count: 100, for_ms: 400 };
    for change in 1..=times {
        if change % 20 == 1 {
            if change > 1 {
                subject.worker.finish()?;
            }
            subject.worker.begin(&busy)?;
        }
        folder.stage(change % 2)?;
        thread::sleep(Duration::from_micros(3_000 + u64::from(change * 7919 % 5000)));
        let began = monotonic();
        folder.rename()?;
        all.push((next(20)?.0 - began) as f64 / 1e6);
    }
    subject.worker.finish()?;
    Ok((read, all))
}

// ---------------------------------------------------------------- M15

/// Kernel memory of each pinned map, the largest first.
fn memory_of_maps(bpffs: &Path) -> Result<Vec<(String, u64)>> {
    let home = bpffs.join("balancing");
    let version = fs::read_dir(&home)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v')));
    let Some(version) = version else { bail!("no maps below {}", home.display()) };
    let mut maps = Vec::new();
    for entry in fs::read_dir(&version)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        maps.push((
            name,
            sys::map_memory(&path).with_context(|| format!("failed to read {}", path.display()))?,
        ));
    }
    maps.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(maps)
}

/// The maps' memory on that many CPUs: made with the sizes that the agent takes there; the per-CPU map is counted for
/// all of them.
fn for_many_cpus(cpus: usize) -> Result<(u64, Vec<(String, u64)>)> {
    let subject = Subject::start("cpus", Kind::Agent)?;
    fs::create_dir_all(&subject.bpffs)?;
    let mut loader = Loader::start(CAPABILITIES)?;
    let plan = Plan { services: MANY, both: false, ..Plan::default() };
    loader.ask::<()>(&Request::Open {
        bpffs: subject.bpffs.clone(),
        cgroup: subject.cgroup().to_owned(),
        need: plan.need(),
        cpus,
    })?;
    loader.ask::<crate::loader::Written>(&Request::Fill(plan))?;
    let mut maps = memory_of_maps(&subject.bpffs)?;
    for (name, bytes) in &mut maps {
        if name == "policy_counters" {
            *bytes = *bytes / worker::cpus() as u64 * cpus as u64;
        }
    }
    maps.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok((maps.iter().map(|(_, bytes)| bytes).sum(), maps))
}
