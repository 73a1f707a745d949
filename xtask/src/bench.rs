//! `cargo xtask bench`: builds the bench and the agent as they are released, and starts the bench.

use std::process::Command;

use anyhow::Result;

use crate::{
    bpf,
    process::{built, cargo, find, run as execute},
    setup,
};

/// Programs that load kube-proxy's rules, and Debian's packages of them.
const PEERS: [(&str, &str); 2] = [("nft", "nftables"), ("iptables-legacy-restore", "iptables")];

/// Runs the bench with these arguments; results are kept in `bench/results`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::machine()?;
    peers();
    let root = bpf::workspace()?;
    let mut build = cargo(&["build", "--locked", "--quiet", "--release"]);
    execute(build.args(["--package", "balancing-bench", "--package", "balancing-agent"]))?;
    execute(
        Command::new(built("release", "balancing-bench")?)
            .args(arguments)
            .arg("--results")
            .arg(root.join("bench/results"))
            .env("BALANCING_REFUSE_ROOT_CGROUP", "1"),
    )
}

/// Installs the peers' programs where apt has them. Without one the bench says that it left a peer out.
fn peers() {
    let missing: Vec<_> =
        PEERS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, p)| *p).collect();
    if missing.is_empty() || find("apt-get").is_none() {
        return;
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "-qq", "--no-install-recommends"]).args(missing);
    if let Err(e) = execute(apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr())) {
        eprintln!("bench: {e:#}");
    }
}
