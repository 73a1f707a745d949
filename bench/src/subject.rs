//! What is measured side by side: each a worker in a cgroup and a network namespace of its own, with its programs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{CgroupAttachMode, Program},
};
use balancing_agent::kernel::Sizes;
use balancing_datapath::{HOOKS, LAYOUT_VERSION};
use balancing_e2e::run;

use crate::{
    loader::{CAPABILITIES, Loader, Request, Written},
    peers,
    plan::{self, PORT, Plan, VIP_PORT, backend, backend6, vip},
    sys,
    worker::{CPU, Worker, cpus},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../ebpf/ideal.bpf.o");
/// The product's own.
pub static PRODUCT: &[u8] = aya::include_bytes_aligned!("../../agent-ebpf/balancing.bpf.o");

/// What answers a connect.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing: the client dials a backend.
    None,
    /// Programs that do nothing.
    Empty,
    /// One lookup and a rewrite, with so many Services.
    Ideal(u32),
    /// The product.
    Product(Plan),
    /// The product, whose connect4 takes a slot's key for the one asked for.
    Unchecked(Plan),
    /// The agent, which is started apart.
    Agent,
    /// Rules of kube-proxy's shape in the namespace, no program.
    Rules(peers::Kind, u32),
}

/// A subject that is set up.
#[derive(Debug)]
pub struct Subject {
    /// Its name in the results.
    pub name: &'static str,
    /// Its load.
    pub worker: Worker,
    /// The product's process.
    pub loader: Option<Loader>,
    /// How long filling its maps took.
    pub written: Written,
    /// Its bpffs folder.
    pub bpffs: PathBuf,
    kind: Kind,
    programs: BTreeMap<&'static str, OwnedFd>,
    cgroup: PathBuf,
    _ebpf: Option<Ebpf>,
}

/// The cgroup below which those of the subjects are.
pub fn base() -> Result<PathBuf> {
    let mount = run::cgroup2_mount().context("no cgroup v2 mount")?;
    let base = mount.join(run::name("bench"));
    fs::create_dir_all(&base).with_context(|| format!("failed to create {}", base.display()))?;
    Ok(base)
}

impl Subject {
    /// Sets it up.
    pub fn start(name: &'static str, kind: Kind) -> Result<Self> {
        let need = match &kind {
            Kind::Product(plan) | Kind::Unchecked(plan) => plan.need(),
            _ => (0, 0),
        };
        Self::start_sized(name, kind, need).with_context(|| format!("failed to set up subject {name}"))
    }

    /// Sets it up, the product with room for this many frontends and backends.
    pub fn start_sized(name: &'static str, kind: Kind, need: (u32, u32)) -> Result<Self> {
        let cgroup = base()?.join(name);
        run::remove_cgroup(&cgroup);
        fs::create_dir(&cgroup)?;
        let setup = if let Kind::Rules(rules, services) = &kind {
            peers::setup(*rules, *services)?
        } else {
            String::new()
        };
        let worker = Worker::start(&cgroup, &setup, CPU)?;
        let bpffs = Path::new(run::BPFFS).join(run::name(name));
        let mut subject = Self {
            name,
            worker,
            loader: None,
            written: Written::default(),
            bpffs,
            kind: kind.clone(),
            programs: BTreeMap::new(),
            cgroup,
            _ebpf: None,
        };
        match kind {
            Kind::None | Kind::Rules(..) | Kind::Agent => {}
            Kind::Empty => subject.load("empty", 0)?,
            Kind::Ideal(services) => subject.load("ideal", services)?,
            Kind::Product(plan) => subject.open(&plan, need)?,
            Kind::Unchecked(plan) => {
                subject.open(&plan, need)?;
                subject.uncheck()?;
            }
        }
        Ok(subject)
    }

    fn load(&mut self, prefix: &str, services: u32) -> Result<()> {
        let cgroup = File::open(&self.cgroup)?;
        let mut ebpf = EbpfLoader::new().map_max_entries("FORWARD4", services.max(32) * 2).load(OBJECT)?;
        for (hook, short) in [
            ("connect4", "connect4"),
            ("connect6", "connect6"),
            ("sendmsg4", "sendmsg4"),
            ("recvmsg4", "recvmsg4"),
            ("getpeername4", "getpeer4"),
        ] {
            let program = ebpf.program_mut(&format!("{prefix}_{short}")).context("no such program")?;
            let Program::CgroupSockAddr(program) = program else {
                bail!("not a program of socket addresses")
            };
            program.load()?;
            program.attach(&cgroup, CgroupAttachMode::Single)?;
            self.programs.insert(hook, program.fd()?.as_fd().try_clone_to_owned()?);
        }
        if prefix == "empty" {
            let Some(Program::CgroupSock(program)) = ebpf.program_mut("empty_release") else {
                bail!("no such program")
            };
            program.load()?;
            program.attach(&cgroup, CgroupAttachMode::Single)?;
            self.programs.insert("sock_release", program.fd()?.as_fd().try_clone_to_owned()?);
        } else {
            fill_ideal(&mut ebpf, services)?;
        }
        self._ebpf = Some(ebpf);
        Ok(())
    }

    fn open(&mut self, plan: &Plan, need: (u32, u32)) -> Result<()> {
        run::remove_bpffs(&self.bpffs);
        fs::create_dir(&self.bpffs)?;
        let mut loader = Loader::start(CAPABILITIES)?;
        let open = Request::Open { bpffs: self.bpffs.clone(), cgroup: self.cgroup.clone(), need, cpus: 0 };
        loader.ask::<()>(&open)?;
        self.written = loader.ask(&Request::Fill(plan.clone()))?;
        ensure!(self.written.failures == 0, "{} frontends could not be programmed", self.written.failures);
        for hook in HOOKS {
            let link = self.bpffs.join("balancing/links").join(hook);
            let program =
                sys::program_of_link(&link).with_context(|| format!("failed to open {}", link.display()))?;
            self.programs.insert(hook, program);
        }
        self.loader = Some(loader);
        Ok(())
    }

    /// Puts a connect4 that compares no keys in the place of the agent's, over the same maps.
    fn uncheck(&mut self) -> Result<()> {
        let home = self.bpffs.join("balancing");
        let pins = home.join(format!("v{LAYOUT_VERSION}"));
        let entries = |name: &str| {
            sys::map_entries(&pins.join(name))
                .with_context(|| format!("failed to ask for the size of {name}"))
        };
        let stripes = Sizes::new(1, 1, cpus()).stripes;
        let constants = [
            ("COMPARE_KEYS", 0),
            ("STRIPE_MASK", stripes - 1),
            ("BACKENDS_LEN", entries("backends")? / stripes),
            ("INDEX_MASK", entries("index")? - 1),
            ("UDP_MASK", entries("udp_slots")? - 1),
            ("TCP_MASK", entries("tcp_slots")? - 1),
        ];
        let mut maps = Vec::new();
        for entry in fs::read_dir(&pins)? {
            let entry = entry?;
            maps.push((entry.file_name().to_string_lossy().to_uppercase(), entry.path()));
        }
        let mut loader = EbpfLoader::new();
        for (name, value) in &constants {
            loader.override_global(name, value, true);
        }
        for (name, path) in &maps {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(PRODUCT)?;
        let Some(Program::CgroupSockAddr(program)) = ebpf.program_mut("connect4") else {
            bail!("no such program")
        };
        program.load()?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        sys::replace(&home.join("links/connect4"), program.as_fd()).context("failed to replace connect4")?;
        self.programs.insert("connect4", program);
        self._ebpf = Some(ebpf);
        Ok(())
    }

    /// The product's process.
    pub fn loader(&mut self) -> Result<&mut Loader> {
        self.loader.as_mut().context("the subject has no data path")
    }

    /// One more load in its cgroup, on that CPU.
    pub fn another_worker(&self, cpu: usize) -> Result<Worker> {
        Worker::start(&self.cgroup, "", cpu)
    }

    /// From now on its clients see where they ended up: getpeername is not translated.
    pub fn show_backends(&self) -> Result<()> {
        sys::detach(&self.bpffs.join("balancing/links/getpeername4")).context("failed to detach getpeername4")
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where its client dials for Service 0.
    #[must_use]
    pub fn service(&self) -> std::net::SocketAddr {
        match &self.kind {
            Kind::None | Kind::Empty => plan::direct(),
            _ => plan::service(),
        }
    }

    /// Nanoseconds spent in its programs on these hooks, so far.
    pub fn spent(&self, hooks: &[&str]) -> Result<u64> {
        let mut sum = 0;
        for hook in hooks {
            if let Some(program) = self.programs.get(hook) {
                sum += sys::run_stats(program.as_fd())?.nanoseconds;
            }
        }
        Ok(sum)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        run::remove_cgroup(&self.cgroup);
        if self.loader.take().is_some() || matches!(self.kind, Kind::Agent) {
            run::remove_bpffs(&self.bpffs);
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

fn end4(address: std::net::Ipv4Addr, port: u16, protocol: u8) -> [u8; 8] {
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    let [p, q] = u16::from(protocol).to_ne_bytes();
    [a, b, c, d, high, low, p, q]
}

fn end6(address: std::net::Ipv6Addr, port: u16, protocol: u8) -> [u8; 24] {
    let mut end = [0; 24];
    end[..16].copy_from_slice(&address.octets());
    end[16..18].copy_from_slice(&port.to_be_bytes());
    end[20..].copy_from_slice(&u32::from(protocol).to_ne_bytes());
    end
}

/// Service 0 for both protocols, the others for UDP, and the way back of Service 0.
fn fill_ideal(ebpf: &mut Ebpf, services: u32) -> Result<()> {
    let mut forward: HashMap<_, [u8; 8], [u8; 8]> =
        HashMap::try_from(ebpf.map_mut("FORWARD4").context("no map")?)?;
    for service in 0..services {
        let (from, to) = (vip(service), backend(service, 0));
        forward.insert(end4(from, VIP_PORT, UDP), end4(to, PORT, UDP), 0)?;
    }
    forward.insert(end4(vip(0), VIP_PORT, TCP), end4(backend(0, 0), PORT, TCP), 0)?;
    let mut reverse: HashMap<_, [u8; 8], [u8; 8]> =
        HashMap::try_from(ebpf.map_mut("REVERSE4").context("no map")?)?;
    for protocol in [TCP, UDP] {
        reverse.insert(end4(backend(0, 0), PORT, protocol), end4(vip(0), VIP_PORT, protocol), 0)?;
    }
    let mut six: HashMap<_, [u8; 24], [u8; 24]> =
        HashMap::try_from(ebpf.map_mut("FORWARD6").context("no map")?)?;
    for protocol in [TCP, UDP] {
        six.insert(end6(plan::VIP6, VIP_PORT, protocol), end6(backend6(0), PORT, protocol), 0)?;
    }
    Ok(())
}
