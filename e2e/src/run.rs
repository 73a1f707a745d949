//! The names of a run's objects on the machine, and the removal of what runs leave behind.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Every namespace, cgroup, bpffs folder and scratch folder starts with it, followed by the owner's process id.
const PREFIX: &str = "bal";
/// Where named network namespaces are.
const NETNS: &str = "/run/netns";
/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";

/// `bal<pid>-<what>`: the name of an object of this process.
#[must_use]
pub fn name(what: &str) -> String {
    format!("{PREFIX}{}-{what}", process::id())
}

/// The file of a network namespace by its name.
#[must_use]
pub fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// Moves this thread, and those it starts later, into a network namespace.
///
/// # Errors
/// There is no such namespace, or this is not root.
pub fn join_netns(name: &str) -> Result<()> {
    let path = netns_path(name);
    let file = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("setns {name}"))
}

/// A folder for files that are written often and are gone with the run: in memory, where the machine has that.
#[must_use]
pub fn memory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() }
}

/// Names this process after its objects, so that other runs see that they are in use, and removes what dead ones left.
///
/// # Errors
/// The process cannot be named.
pub fn claim() -> Result<()> {
    fs::write("/proc/self/comm", format!("{PREFIX}{}", process::id())).context("name the process")?;
    remove(|owner| !is_alive(owner));
    Ok(())
}

/// Removes everything of this process, and ends the processes in it.
pub fn remove_own() {
    remove(|owner| owner == process::id());
}

/// What of this process is on the machine.
#[must_use]
pub fn own() -> Vec<PathBuf> {
    places().into_iter().filter(|p| p.owner == process::id()).map(|p| p.path).collect()
}

/// On SIGTERM, SIGINT and SIGHUP: calls `first`, removes everything of this process and ends it with `128 + signal`.
///
/// # Errors
/// The handler cannot be installed.
pub fn remove_on_signals(first: impl FnOnce() + Send + 'static) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            first();
            remove_own();
            process::exit(128 + signal);
        }
    });
    Ok(())
}

/// The first cgroup v2 mount: `/sys/fs/cgroup`, or a folder below it where v1 and v2 are mixed.
#[must_use]
pub fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount = left.split(' ').nth(4)?;
        right.starts_with("cgroup2 ").then(|| PathBuf::from(mount))
    })
}

/// Why nothing of this can run here, or nothing.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root: network namespaces and eBPF programs need it".to_owned());
    }
    if cgroup2_mount().is_none() {
        return Some("no cgroup v2 mount in /proc/self/mountinfo".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|l| l.split(' ').skip(1).take(2).eq([BPFFS, "bpf"])) {
        return Some(format!("no BPF file system at {BPFFS}: `cargo xtask setup` mounts it"));
    }
    ip(None, &["-V".to_owned()]).err().map(|e| format!("no `ip` command (Debian package iproute2): {e:#}"))
}

/// Runs a program of this workspace or the machine's to its end.
///
/// # Errors
/// It cannot be started or fails; the error holds what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("failed to start {command:?}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?} ended with {}: {}", out.status, said.trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// `ip ARGUMENTS`, in a namespace.
fn ip(netns: Option<&str>, arguments: &[String]) -> Result<String> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    output(command.args(arguments))
}

/// Several `ip` commands, one a line, in one process.
///
/// # Errors
/// One of them fails.
pub fn ip_batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    let file = std::env::temp_dir().join(name(&format!("ip-{}", netns.unwrap_or("host"))));
    fs::write(&file, lines.join("\n") + "\n")
        .with_context(|| format!("failed to write {}", file.display()))?;
    let done = ip(netns, &["-batch".to_owned(), file.display().to_string()]);
    fs::remove_file(&file)?;
    done.map(drop)
}

/// Removes a place and what is in it.
type Remover = fn(&Path);

/// Something with our prefix on the machine.
struct Place {
    /// Process id of the run that made it.
    owner: u32,
    path: PathBuf,
    remove: Remover,
}

/// Everything with our prefix, in an order in which it can be removed.
fn places() -> Vec<Place> {
    let cgroups = cgroup2_mount();
    let (temp, memory) = (std::env::temp_dir(), memory());
    let folders: [(Option<&Path>, Remover); 5] = [
        (cgroups.as_deref(), remove_cgroup),
        (Some(Path::new(NETNS)), remove_netns),
        (Some(Path::new(BPFFS)), remove_bpffs),
        (Some(&temp), remove_scratch),
        (Some(&memory), remove_scratch),
    ];
    let mut found = Vec::new();
    for (folder, remove) in folders {
        for entry in folder.into_iter().flat_map(fs::read_dir).flatten().flatten() {
            if let Some(owner) = entry.file_name().to_str().and_then(owner) {
                found.push(Place { owner, path: entry.path(), remove });
            }
        }
    }
    found
}

/// The process id in `bal<pid>-...`.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Does the run of that process id still live? Another process that got its number does not have its name; one that was
/// killed and that nobody has waited for is dead.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| says_alive(pid, &stat))
}

/// `PID (NAME) STATE ...`: is this the run of that process id, and no zombie?
fn says_alive(pid: u32, stat: &str) -> bool {
    let state = stat.strip_prefix(&format!("{pid} ({PREFIX}{pid}) ")).and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn remove(whose: impl Fn(u32) -> bool) {
    for place in places() {
        if whose(place.owner) {
            (place.remove)(&place.path);
        }
    }
}

/// SIGKILL to a process that lives in a place of ours; never to this one.
fn kill(pid: &str) {
    if let Some(pid) =
        pid.trim().parse().ok().filter(|p| *p != process::id().cast_signed()).and_then(Pid::from_raw)
    {
        // It may have ended by itself meanwhile.
        kill_process(pid, Signal::KILL).ok();
    }
}

/// Ends the processes of a cgroup of ours and removes it with its children.
pub fn remove_cgroup(path: &Path) {
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    // A killed process leaves its cgroup a moment later.
    for _ in 0..400 {
        for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
            kill(pid);
        }
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(5)),
            _ => break,
        }
    }
}

/// Ends the processes of a namespace of ours and removes it.
pub fn remove_netns(path: &Path) {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return };
    for pid in ip(None, &["netns".into(), "pids".into(), name.into()]).unwrap_or_default().lines() {
        kill(pid);
    }
    if let Err(e) = ip(None, &["netns".into(), "del".into(), name.into()]) {
        eprintln!("failed to remove network namespace {name}: {e:#}");
    }
}

/// Unlinks every pin below a bpffs folder of ours, and the folder.
pub fn remove_bpffs(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(t) if t.is_dir() => remove_bpffs(&entry.path()),
            _ => drop(fs::remove_file(entry.path())),
        }
    }
    if let Err(e) = fs::remove_dir(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        eprintln!("failed to remove {}: {e}", path.display());
    }
}

fn remove_scratch(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(e) = removed
        && e.kind() != io::ErrorKind::NotFound
    {
        eprintln!("failed to remove {}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_or_another_process_is_not_alive() {
        assert!(says_alive(42, "42 (bal42) S 1 42"));
        assert!(!says_alive(42, "42 (bal42) Z 1 42"));
        assert!(!says_alive(42, "42 (bash) S 1 42"));
        assert!(!says_alive(42, ""));
    }

    #[test]
    fn only_our_names_have_an_owner() {
        assert_eq!(owner("bal123-l1"), Some(123));
        assert_eq!(owner(&name("n1")), Some(process::id()));
        for other in ["bal123", "bal-l1", "balx-l1", "ball12-x", "kal1-x", "balancing-demo"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
