//! `cargo xtask demo`: sets up, builds, and hands over to the demo itself.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{
    process::{built, cargo, run as execute},
    setup,
};

/// Runs the demo; with `once` it needs no terminal.
pub(crate) fn run(once: bool) -> Result<()> {
    setup::machine()?;
    eprintln!("demo: building (a few minutes the first time)");
    execute(&mut cargo(&[
        "build",
        "--locked",
        "-p",
        "balancing-agent",
        "-p",
        "kubectl-balancing",
        "-p",
        "balancing-e2e",
    ]))?;
    // The profile of the tests, so that nothing is compiled twice.
    let mut demo = Command::new(built("debug", "balancing-demo")?);
    if once {
        demo.arg("--once");
    }
    // It becomes this process, so that Ctrl-C and signals reach it directly.
    Err(demo.exec()).context("failed to start the demo")
}
