//! `cargo xtask demo`: sets up, builds, and hands over to the demo itself.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{
    process::{self, cargo},
    setup,
};

/// The binaries of the demo are built with this profile; `cargo xtask test` builds the same ones.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug");

/// Runs the demo; with `once` it needs no terminal.
pub(crate) fn run(once: bool) -> Result<()> {
    setup::machine()?;
    eprintln!("demo: building (a few minutes the first time)");
    process::run(&mut cargo(&[
        "build",
        "--locked",
        "-p",
        "balancing-agent",
        "-p",
        "kubectl-balancing",
        "-p",
        "balancing-e2e",
    ]))?;
    let mut demo = Command::new(format!("{FOLDER}/balancing-demo"));
    if once {
        demo.arg("--once");
    }
    // It becomes this process, so that Ctrl-C and signals reach it directly.
    Err(demo.exec()).context("failed to start the demo")
}
