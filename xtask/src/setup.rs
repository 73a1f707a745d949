//! `cargo xtask setup`: brings a fresh Debian or Ubuntu machine to where tests and demo run. Does nothing twice.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bpf, control_plane,
    process::{cargo, find, run},
};

/// Programs that tests and demo start, and Debian's packages of them. Of dnsmasq the package without a service: nothing
/// is started on the machine itself.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("dig", "bind9-dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("tmux", "tmux"),
    ("setpriv", "util-linux"),
];
const BPFFS: &str = "/sys/fs/bpf";

/// All of it.
pub(crate) fn everything() -> Result<()> {
    for_tests()?;
    control_plane::ensure_built()
}

/// All but the control plane, which is a stage of its own where times are told.
pub(crate) fn for_tests() -> Result<()> {
    machine()?;
    rust_components()?;
    bpf::ensure_tools()
}

/// What tests and demo need of the machine.
pub(crate) fn machine() -> Result<()> {
    packages()?;
    bpf_file_system()?;
    ensure!(
        mounts()?.iter().any(|(_, kind)| kind == "cgroup2"),
        "no cgroup v2 is mounted: this kernel or container cannot run the agent"
    );
    Ok(())
}

fn packages() -> Result<()> {
    install(&PROGRAMS)
}

/// Installs the packages of those programs, or paths, that are missing.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    ensure!(
        find("apt-get").is_some(),
        "these programs are missing and there is no apt-get to install them: {}",
        names.join(", ")
    );
    eprintln!("setup: installing {}", packages.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))
    };
    let install = [&["install", "--yes", "-qq", "--no-install-recommends"], packages.as_slice()].concat();
    // A machine may have no package lists yet, or old ones.
    if apt(&install).is_err() {
        eprintln!("setup: once more, with new package lists");
        apt(&["update", "-qq"]).and_then(|()| apt(&install)).with_context(|| {
            format!(
                "failed to install {} (as root: apt-get install {})",
                names.join(", "),
                packages.join(" ")
            )
        })?;
    }
    for name in names {
        ensure!(find(name).is_some(), "{name} is still missing after installing its package");
    }
    Ok(())
}

fn bpf_file_system() -> Result<()> {
    if mounts()?.iter().any(|(place, kind)| place == BPFFS && kind == "bpf") {
        return Ok(());
    }
    eprintln!("setup: mounting the BPF file system at {BPFFS}");
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))
        .context("failed to mount it (this takes root)")
}

/// Places and kinds of what is mounted.
fn mounts() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string("/proc/self/mounts").context("failed to read /proc/self/mounts")?;
    let fields = |line: &str| {
        let mut fields = line.split(' ').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    Ok(text.lines().filter_map(fields).collect())
}

/// rustfmt and clippy of the toolchain in use.
fn rust_components() -> Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if cargo(&[command, "--version"]).output().is_ok_and(|out| out.status.success()) {
            continue;
        }
        if find("rustup").is_none() {
            bail!("`cargo {command}` is missing and there is no rustup to add {component}");
        }
        run(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}
