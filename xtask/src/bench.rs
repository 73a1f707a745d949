//! `cargo xtask bench`: builds the bench and the product as they are released, and starts the bench.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bpf, control_plane,
    process::{built, cargo, find, run as execute, shown},
    setup,
};

/// Programs that load kube-proxy's rules, and Debian's packages of them.
const PEERS: [(&str, &str); 2] = [("nft", "nftables"), ("iptables-legacy-restore", "iptables")];

/// Runs the bench with these arguments; results are kept in `bench/results`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::machine()?;
    peers();
    if takes_a_cluster(arguments) {
        control_plane::ensure_built()?;
    }
    let root = bpf::workspace()?;
    let mut build = cargo(&["build", "--locked", "--quiet", "--release"]);
    let products = ["balancing-bench", "balancing-agent", "balancing-operator"];
    execute(build.args(products.iter().flat_map(|p| ["--package", p])))?;
    // What starts the programs of a cluster in their namespaces.
    let mut build = cargo(&["build", "--locked", "--quiet", "--release"]);
    execute(build.args(["--package", "balancing-e2e", "--bin", "balancing-e2e-worker"]))?;
    let frame = frames()?;
    execute(
        Command::new(built("release", "balancing-bench")?)
            .args(arguments)
            .arg("--frame")
            .arg(frame)
            .arg("--results")
            .arg(root.join("bench/results"))
            .env("BALANCING_REFUSE_ROOT_CGROUP", "1"),
    )
}

/// Is anything asked for that takes a control plane, whose programs are minutes of work where they were never built?
fn takes_a_cluster(arguments: &[String]) -> bool {
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let mut ids = arguments.iter().filter(|a| !a.starts_with('-') && !matches!(a.as_str(), "json" | "table"));
    if has("--page") || has("--agree") {
        return false;
    }
    let named = |id: &String| ["K1", "K2", "K3"].iter().any(|k| id.eq_ignore_ascii_case(k));
    ids.clone().any(named) || (!has("--quick") && ids.next().is_none())
}

/// Builds the bench of the frames of `top`, which cargo gives a name of its own; says where it is.
fn frames() -> Result<PathBuf> {
    let mut build = cargo(&["build", "--locked", "--quiet", "--release", "--package", "kubectl-balancing"]);
    build.args(["--bench", "frame", "--message-format", "json-render-diagnostics"]);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to start {}", shown(&build)))?;
    ensure!(output.status.success(), "`{}` ended with {}", shown(&build), output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages).context("cargo did not say where it put the bench `frame`")
}

/// The executable that cargo's messages tell of.
fn executable(messages: &str) -> Option<PathBuf> {
    let path = messages.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(rest.split_once('"')?.0)
    })?;
    Some(PathBuf::from(path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_is_built_for_those_who_ask_for_it() {
        let takes =
            |line: &str| takes_a_cluster(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for line in ["", "-o json", "k1", "--quick K3", "M1 K2"] {
            assert!(takes(line), "{line}");
        }
        for line in ["--quick", "M1", "--quick -o json", "--page", "--agree a.json b.json"] {
            assert!(!takes(line), "{line}");
        }
    }

    #[test]
    fn the_executable_is_the_last_that_cargo_tells_of() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"api"},"executable":null,"fresh":true}
{"reason":"compiler-artifact","target":{"name":"frame"},"executable":"/t/release/deps/frame-1a","fresh":false}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/release/deps/frame-1a")));
        assert_eq!(executable("{}"), None);
    }
}
