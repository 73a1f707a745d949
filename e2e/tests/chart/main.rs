//! The chart: what it renders to, what values it refuses, and that its documents say what it does.
//!
//! `cargo xtask crds` writes the table of values instead of comparing it.

mod documents;
mod renders;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use balancing_e2e::cluster::binaries;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test that needs nothing.
type Pure = fn() -> Result<()>;
/// A test that starts this helm.
type WithHelm = fn(&Path) -> Result<()>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let helm = binaries::program("helm");
    if let Err(why) = &helm {
        eprintln!("tests with helm cannot run here: {why:#}");
    }
    let failed = |e: anyhow::Error| Failed::from(format!("{e:?}"));
    let pure = documents::TESTS
        .iter()
        .map(|&(name, test)| Trial::test(format!("documents::{name}"), move || test().map_err(failed)));
    let with_helm = renders::TESTS.iter().map(|&(name, test)| {
        let found = helm.as_ref().ok().cloned();
        let missing = found.is_none();
        let run = move || found.as_deref().map_or(Ok(()), test).map_err(failed);
        Trial::test(format!("renders::{name}"), run).with_ignored_flag(missing)
    });
    libtest_mimic::run(&arguments, pure.chain(with_helm).collect()).exit_code()
}

/// The folder of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the chart.
fn chart() -> PathBuf {
    root().join("charts/operator")
}
