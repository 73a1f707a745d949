//! Loads the object, with what this kernel can do, and puts the programs on the cgroup's hooks.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, ProgramError, links::FdLink},
};
use balancing_api::agent::{KernelFeatures, ProgramInfo};
use balancing_datapath::HOOKS;

use super::{
    before,
    layout::{self, Sizes, definitions},
    pins::{self, LockError, MapFolders},
    store::{KernelStore, Residue, RuntimeChange, StoreError, Tables},
    sys,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../agent-ebpf/balancing.bpf.o");

/// The data path could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bpffs folder is in use, or is none.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The process may not do what the agent does.
    #[error("the agent needs the capabilities BPF, NET_ADMIN and PERFMON; this process lacks {}", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// The cgroup cannot be opened.
    #[error("failed to open the cgroup {path}")]
    Cgroup {
        /// `--cgroup-root`.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something below the bpffs folder cannot be made or removed.
    #[error("failed to prepare the pins below {path}")]
    Pins {
        /// The bpffs folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The object or a map was refused.
    #[error("failed to load the eBPF object")]
    Object(#[source] EbpfError),
    /// A program was refused.
    #[error("failed to load the program {hook}: {reason}")]
    Program {
        /// Its hook.
        hook: &'static str,
        /// The kernel's error and the end of the verifier's log, whose rest is pages long.
        reason: String,
    },
    /// The kernel lacks what no way of loading the programs can do without.
    #[error("Linux {release} lacks {lacks}; Balancing needs Linux {NEEDED} or later")]
    Kernel {
        /// What the kernel calls itself.
        release: String,
        /// What is missing.
        lacks: &'static str,
        /// What it refused, and how.
        source: Box<LoadError>,
    },
    /// A program could not be attached.
    #[error("failed to attach the program {hook} to {cgroup}")]
    Attach {
        /// Its hook.
        hook: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be had.
    #[error("failed to start a thread")]
    Thread(#[source] io::Error),
}

/// The kernel's error and the end of the verifier's log.
fn explain(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    format!("{io_error} ({})", last_words(&verifier_log.to_string()))
}

/// The end of the verifier's log, without the figures about its work that follow the reason.
fn last_words(log: &str) -> String {
    const FIGURES: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let words = |line: &&str| !FIGURES.iter().any(|figure| line.starts_with(figure));
    let mut tail: Vec<&str> = log.lines().rev().filter(words).take(3).collect();
    tail.reverse();
    tail.join(" | ")
}

/// The oldest Linux that takes the programs. What it takes is tried; this is for words alone.
const NEEDED: &str = "5.12";

/// What the verifier says of an instruction that the kernel does not know, and what that is.
const UNKNOWN: (&str, &str) =
    ("BPF_STX uses reserved fields", "compare-and-exchange and fetch-add for eBPF programs");

/// Says of a refusal what the kernel lacks, where that is known.
fn explained(refusal: LoadError, release: &str) -> LoadError {
    let (words, what) = UNKNOWN;
    let lacks = match &refusal {
        LoadError::Program { reason, .. } if reason.contains(words) => what,
        // Before 5.11 maps were also refused for the limit of locked memory.
        LoadError::Program { .. } | LoadError::Object(_) | LoadError::Pins { .. } if is_older(release) => {
            "what the programs use, by its version"
        }
        _ => return refusal,
    };
    LoadError::Kernel { release: release.to_owned(), lacks, source: Box::new(refusal) }
}

/// Is that release of Linux older than [`NEEDED`]?
fn is_older(release: &str) -> bool {
    let numbers = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    numbers(release).is_some_and(|release| Some(release) < numbers(NEEDED))
}

/// The capabilities that are missing: without one of them the kernel's own message is about something else.
fn missing_capabilities() -> Vec<&'static str> {
    const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Where /proc does not say, the kernel will.
    let Some(Ok(has)) = effective.map(|hex| u64::from_str_radix(hex.trim(), 16)) else { return Vec::new() };
    // CAP_SYS_ADMIN stands in for BPF and PERFMON, not for NET_ADMIN (Documentation: capabilities(7)).
    let stands_in = |bit: u32| bit != 12 && has & SYS_ADMIN != 0;
    NEEDED
        .iter()
        .filter(|(_, bit)| has & (1 << bit) == 0 && !stands_in(*bit))
        .map(|(name, _)| *name)
        .collect()
}

/// What the programs may use of the kernel: tried, never guessed from a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Abilities {
    set_retval: bool,
    atomics: bool,
}

const ABILITIES: [Abilities; 4] = [
    Abilities { set_retval: true, atomics: true },
    Abilities { set_retval: false, atomics: true },
    Abilities { set_retval: true, atomics: false },
    Abilities { set_retval: false, atomics: false },
];

/// The programs, loaded.
pub struct Loaded {
    ebpf: Ebpf,
    abilities: Abilities,
}

impl Loaded {
    /// Optional features that were found.
    #[must_use]
    pub fn features(&self) -> KernelFeatures {
        KernelFeatures {
            set_retval: self.abilities.set_retval,
            // Without it the programs do not load at all.
            socket_storage: true,
            socket_destroy: false,
        }
    }
}

/// The data path of a node: loaded, and attached if its maps were in use before.
pub struct Opened {
    /// The maps.
    pub store: Arc<KernelStore>,
    /// The events.
    pub events: RingBuf<MapData>,
    /// The programs and their links.
    pub attachment: Attachment,
    /// The maps are empty: fill them, then [`Attachment::attach`].
    pub fresh: bool,
}

/// The programs on their hooks.
pub struct Attachment {
    loaded: Loaded,
    folders: MapFolders,
    bpffs: PathBuf,
    cgroup_root: PathBuf,
    cgroup: File,
    cgroup_id: u64,
    attached: bool,
    _lock: pins::Lock,
}

/// Are maps of this layout pinned, so that the sizes of new ones do not matter?
#[must_use]
pub fn has_maps(bpffs: &Path, version: u32) -> bool {
    pins::exist(bpffs, version)
}

/// Opens the data path: loads the programs with the maps of this layout that are pinned, whatever their sizes, or with new
/// ones of these sizes.
pub fn open(bpffs: &Path, cgroup_root: &Path, version: u32, sizes: Sizes) -> Result<Opened, LoadError> {
    let lacking = missing_capabilities();
    if !lacking.is_empty() {
        return Err(LoadError::Capabilities(lacking));
    }
    let lock = pins::lock(bpffs)?;
    let cgroup_error = |source| LoadError::Cgroup { path: cgroup_root.to_owned(), source };
    let cgroup = File::open(cgroup_root).map_err(cgroup_error)?;
    let cgroup_id = cgroup.metadata().map_err(cgroup_error)?.ino();
    let pins_error = |source| LoadError::Pins { path: bpffs.to_owned(), source };
    let (folders, sizes) = pins::map_folders(bpffs, version, sizes).map_err(pins_error)?;

    let mut loaded = load(&folders.now, &sizes)?;
    let names = make(&folders.now, &layout::policy_names(&sizes)).map_err(pins_error)?;
    let names = MapData::from_fd(names).map_err(EbpfError::MapError).map_err(LoadError::Object)?;
    let ring = loaded.ebpf.take_map("EVENTS").ok_or(LoadError::Object(missing("EVENTS")))?;
    let events = RingBuf::try_from(ring).map_err(EbpfError::MapError).map_err(LoadError::Object)?;
    let store = Arc::new(KernelStore::new(sizes, names, |symbol| loaded.ebpf.take_map(symbol))?);
    let fresh = folders.fresh;
    if store.runtime().since == 0 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        store.set_runtime(RuntimeChange::Since(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)));
    }
    let attachment = Attachment {
        loaded,
        folders,
        bpffs: bpffs.to_owned(),
        cgroup_root: cgroup_root.to_owned(),
        cgroup,
        cgroup_id,
        attached: false,
        _lock: lock,
    };
    Ok(Opened { store, events, attachment, fresh })
}

fn missing(symbol: &str) -> EbpfError {
    EbpfError::MapError(aya::maps::MapError::InvalidName { name: symbol.to_owned() })
}

/// Opens a map that is pinned in this folder, or makes and pins it, without memory for what is not there.
fn make(folder: &Path, definition: &layout::MapDefinition) -> io::Result<OwnedFd> {
    let path = folder.join(definition.name);
    if let Ok(map) = sys::obj_get(&path) {
        return Ok(map);
    }
    let map = sys::map_create(definition.shape, sys::NO_PREALLOC, None)?;
    sys::obj_pin(map.as_fd(), &path)?;
    Ok(map)
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn load(folder: &Path, sizes: &Sizes) -> Result<Loaded, LoadError> {
    let mut refused = None;
    for abilities in ABILITIES {
        match load_with(folder, sizes, abilities) {
            Ok(ebpf) => return Ok(Loaded { ebpf, abilities }),
            // The last attempt's reason is the one to report: it needs least.
            Err(error @ LoadError::Program { .. }) => refused = Some(error),
            Err(error) => return Err(explained(error, &release())),
        }
    }
    Err(explained(refused.unwrap_or(LoadError::Object(missing("programs"))), &release()))
}

fn load_with(folder: &Path, sizes: &Sizes, abilities: Abilities) -> Result<Ebpf, LoadError> {
    let definitions = definitions(sizes);
    let constants = [
        ("SET_RETVAL", u32::from(abilities.set_retval)),
        ("ATOMICS", u32::from(abilities.atomics)),
        ("STRIPE_MASK", sizes.stripes - 1),
        ("BACKENDS_LEN", sizes.backends),
        ("INDEX_MASK", layout::index(sizes) - 1),
        ("UDP_MASK", sizes.udp_sockets - 1),
        ("TCP_MASK", sizes.tcp_sockets - 1),
    ];
    let mut loader = EbpfLoader::new();
    for definition in &definitions {
        if definition.shape.entries != 0 {
            loader.map_max_entries(definition.symbol, definition.shape.entries);
        }
        loader.map_pin_path(definition.symbol, folder.join(definition.name));
    }
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    make_callers(folder, sizes).map_err(|source| LoadError::Pins { path: folder.to_owned(), source })?;
    let mut ebpf = loader.load(OBJECT).map_err(LoadError::Object)?;
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    // The verifier takes most of an agent's start, and as many threads as there are programs.
    let results: Vec<Result<(), LoadError>> = thread::scope(|scope| {
        let load = |hook| {
            let program = programs.remove(hook);
            scope.spawn(move || load_program(hook, program))
        };
        let threads: Vec<_> = HOOKS.into_iter().map(load).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(LoadError::Object(missing("programs"))))
        };
        threads.into_iter().map(ended).collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(ebpf)
}

fn load_program(hook: &'static str, program: Option<&mut Program>) -> Result<(), LoadError> {
    let loaded = match program.ok_or_else(|| LoadError::Object(missing(hook)))? {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    loaded.map_err(|error| LoadError::Program { hook, reason: explain(&error) })
}

/// Makes the map of callers, which takes memory only for those that there are: the loader knows no such maps.
fn make_callers(folder: &Path, sizes: &Sizes) -> io::Result<()> {
    let Some(callers) = definitions(sizes).into_iter().find(|d| d.name == "callers") else { return Ok(()) };
    make(folder, &callers).map(drop)
}

/// Whether the programs load on this kernel, for each choice of what they may use of it.
#[derive(Debug)]
pub struct Trial {
    /// `bpf_set_retval` in these hooks.
    pub set_retval: bool,
    /// Compare-and-exchange and fetch-add; without them a spin lock guards the budgets.
    pub atomics: bool,
    /// Did they load?
    pub result: Result<(), LoadError>,
}

/// Loads the programs in every way they can be loaded, with maps of their own in `folder`, an empty folder of a bpf file
/// system. Attaches nothing; the pins are left there.
pub fn trials(folder: &Path, sizes: &Sizes) -> Vec<Trial> {
    ABILITIES
        .into_iter()
        .map(|abilities| Trial {
            set_retval: abilities.set_retval,
            atomics: abilities.atomics,
            result: load_with(folder, sizes, abilities).map(drop),
        })
        .collect()
}

/// `enum bpf_attach_type` of a hook.
fn attach_type(hook: &str) -> u32 {
    match hook {
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        "getpeername4" => 29,
        "getpeername6" => 30,
        _ => 34,
    }
}

/// Makes larger maps beside those in use, and loads the programs anew to use them. Nothing that runs is touched.
#[derive(Debug)]
pub struct Grower {
    now: PathBuf,
    then: PathBuf,
    abilities: Abilities,
}

/// Larger maps, empty, and the programs that use them; see [`Attachment::switch`].
pub struct Grown {
    loaded: Loaded,
    tables: Tables,
}

impl Grower {
    /// Makes them; maps whose size does not change go on being used. Most of the time goes to the verifier.
    pub fn make(self, sizes: &Sizes) -> Result<Grown, LoadError> {
        let path = self.now.clone();
        let folder = pins::prepare_growing(&self.now, &self.then, sizes)
            .map_err(|source| LoadError::Pins { path, source })?;
        let mut ebpf = load_with(&folder, sizes, self.abilities)?;
        let tables = Tables::new(*sizes, |symbol| ebpf.take_map(symbol))?;
        Ok(Grown { loaded: Loaded { ebpf, abilities: self.abilities }, tables })
    }
}

impl Attachment {
    /// Exempts cgroups, the agent's own, from every policy of an earlier agent whose maps have another layout: its programs
    /// are in force until the new maps are filled, for which the agent has to hear of its objects first.
    ///
    /// # Errors
    /// Such a map is full, or cannot be read or written.
    pub fn exempt_before(&self, cgroups: &BTreeSet<u64>) -> Result<(), StoreError> {
        before::exempt(&self.folders.old, cgroups)
    }

    /// Puts the programs on all hooks. A pinned link of this cgroup gets the new program with no moment without one;
    /// where there is none a link is made. Then the maps that no program uses any more are removed.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        for hook in HOOKS {
            self.attach_hook(hook).map_err(|source| LoadError::Attach {
                hook,
                cgroup: self.cgroup_root.clone(),
                source,
            })?;
        }
        let path = self.bpffs.clone();
        self.folders.finish().map_err(|source| LoadError::Pins { path, source })?;
        self.attached = true;
        Ok(())
    }

    /// What makes larger maps, and may take its time.
    #[must_use]
    pub fn grower(&self) -> Grower {
        let MapFolders { now, then, .. } = &self.folders;
        Grower { now: now.clone(), then: then.clone(), abilities: self.loaded.abilities }
    }

    /// Puts larger maps in the place of those in use, with all that these hold, and the programs that use them on the hooks;
    /// called under [`KernelStore::changing`]. No call of a client meets a moment without either. If it fails, everything
    /// is as before.
    pub fn switch(&mut self, grown: Grown, store: &KernelStore) -> Result<Residue, LoadError> {
        let copied = grown.tables.copy_from(&store.tables())?;
        let before = std::mem::replace(&mut self.loaded, grown.loaded);
        let path = self.bpffs.clone();
        let switched = self
            .update_links()
            .and_then(|()| self.folders.grow().map_err(|source| LoadError::Pins { path, source }));
        if let Err(error) = switched {
            self.loaded = before;
            // Those of the hooks that have the new programs: the same again, which can fail no more than the first time.
            self.update_links()?;
            return Err(error);
        }
        Ok(store.replace(grown.tables, copied))
    }

    /// Puts the programs behind the links that there are, once this agent has attached: a link that somebody took away
    /// stays away.
    fn update_links(&mut self) -> Result<(), LoadError> {
        if !self.attached {
            return Ok(());
        }
        for hook in HOOKS {
            let Some(link) = self.own_link(hook) else { continue };
            let program = self.loaded.ebpf.program(hook).ok_or(LoadError::Object(missing(hook)))?;
            let updated = program
                .fd()
                .map_err(|error| Box::new(error) as _)
                .and_then(|program| Ok(sys::link_update(link.as_fd(), program.as_fd())?));
            updated.map_err(|source| LoadError::Attach { hook, cgroup: self.cgroup_root.clone(), source })?;
        }
        Ok(())
    }

    /// The pinned link of a hook, if it is of this cgroup.
    fn own_link(&self, hook: &str) -> Option<OwnedFd> {
        let link = sys::obj_get(&pins::link(&self.bpffs, hook)).ok()?;
        let info = sys::link_info(link.as_fd()).ok()?;
        (info.cgroup == self.cgroup_id && info.attach_type == attach_type(hook)).then_some(link)
    }

    fn attach_hook(&mut self, hook: &'static str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let pin = pins::link(&self.bpffs, hook);
        let existing = self.own_link(hook);
        let program = self.loaded.ebpf.program_mut(hook).ok_or("no such program")?;
        if let Some(link) = existing {
            sys::link_update(link.as_fd(), program.fd()?.as_fd())?;
            return Ok(());
        }
        let link = match program {
            Program::CgroupSockAddr(program) => new_link(program, &self.cgroup)?,
            Program::CgroupSock(program) => new_sock_link(program, &self.cgroup)?,
            _ => return Err("not a program of a cgroup".into()),
        };
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        link.pin(&pin)?;
        Ok(())
    }

    /// The hooks and what is on them now, as the kernel says.
    #[must_use]
    pub fn programs(&self) -> Vec<ProgramInfo> {
        HOOKS.iter().map(|hook| self.program(hook)).collect()
    }

    fn program(&self, hook: &str) -> ProgramInfo {
        let link = sys::obj_get(&pins::link(&self.bpffs, hook)).ok();
        let info = link.and_then(|link| sys::link_info(link.as_fd()).ok());
        let attached = info.is_some_and(|info| info.cgroup == self.cgroup_id);
        let program_id = info.map_or(0, |info| info.program);
        let all = sys::programs_on(self.cgroup.as_fd(), attach_type(hook)).unwrap_or_default();
        let others = all.iter().filter(|&&id| !attached || id != program_id).count() as u32;
        ProgramInfo { hook: hook.to_owned(), attached, program_id, others }
    }

    /// Optional features of the kernel.
    #[must_use]
    pub fn features(&self) -> KernelFeatures {
        self.loaded.features()
    }
}

// Two functions, one shape: aya gives each kind of program its own types of link.
fn new_link(
    program: &mut CgroupSockAddr,
    cgroup: &File,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn new_sock_link(
    program: &mut CgroupSock,
    cgroup: &File,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reason: &str) -> LoadError {
        LoadError::Program { hook: "connect4", reason: reason.to_owned() }
    }

    #[test]
    fn what_an_old_kernel_lacks_is_told() {
        let told = |error: &LoadError| error.to_string();
        let atomics =
            explained(refusal("Invalid argument (BPF_STX uses reserved fields)"), "5.10.0-30-amd64");
        assert_eq!(
            told(&atomics),
            "Linux 5.10.0-30-amd64 lacks compare-and-exchange and fetch-add for eBPF programs; Balancing needs Linux 5.12 or later"
        );
        let cause = std::error::Error::source(&atomics).expect("what the kernel said").to_string();
        assert!(cause.starts_with("failed to load the program connect4: Invalid argument"), "{cause}");
        let ring = explained(LoadError::Object(missing("EVENTS")), "5.4.0-200-generic");
        let old = "Linux 5.4.0-200-generic lacks what the programs use, by its version; ";
        assert!(told(&ring).starts_with(old), "{ring}");
        let source = io::Error::from_raw_os_error(libc::EPERM);
        let locked = explained(LoadError::Pins { path: "/b".into(), source }, "5.4.0-200-generic");
        assert!(told(&locked).starts_with(old), "{locked}");
    }

    /// As Linux 5.10 writes it.
    #[test]
    fn the_verifiers_reason_is_told_and_not_its_figures() {
        let log = "BPF_STX uses reserved fields\nverification time 330 usec\nstack depth 0+0\nprocessed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n";
        assert_eq!(last_words(log), "BPF_STX uses reserved fields");
        assert_eq!(last_words("a\nb\nc\nd"), "b | c | d");
        assert_eq!(last_words(""), "");
    }

    #[test]
    fn what_else_is_refused_is_told_as_it_is() {
        for (error, release) in [
            (refusal("Operation not permitted"), "6.1.0-50-amd64"),
            (refusal("Cannot allocate memory"), "5.12.0"),
            (LoadError::Capabilities(vec!["CAP_BPF"]), "5.4.0"),
            (refusal("Operation not permitted"), "no number"),
        ] {
            let before = error.to_string();
            assert_eq!(explained(error, release).to_string(), before);
        }
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for old in ["4.18.0-553.el8", "5.4.0", "5.9.16", "5.11.22"] {
            assert!(is_older(old), "{old}");
        }
        for new in ["5.12", "5.12.0-rc1", "5.15.0-100-generic", "6.1.0", "10.0"] {
            assert!(!is_older(new), "{new}");
        }
    }
}
