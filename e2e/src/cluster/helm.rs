//! The real helm, and the chart.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{ControlPlane, NAMESPACE, binaries::program};

/// What helm printed.
#[derive(Clone, Debug)]
pub struct Said {
    /// On stdout.
    pub out: String,
    /// On stderr, where the API server's warnings go.
    pub err: String,
}

/// The chart's folder.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/operator")
}

/// `helm ARGUMENTS`, which must succeed.
///
/// # Errors
/// It was not built, or fails.
pub fn run(plane: &ControlPlane, arguments: &[&str]) -> Result<Said> {
    let home = plane.folder().join("helm");
    let output = Command::new(program("helm")?)
        .args(arguments)
        .env("KUBECONFIG", plane.kubeconfig("admin")?)
        .envs(["CACHE", "CONFIG", "DATA"].map(|n| (format!("HELM_{n}_HOME"), home.join(n))))
        .stdin(Stdio::null())
        .output()
        .context("failed to start helm")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { out: text(&output.stdout), err: text(&output.stderr) };
    ensure!(output.status.success(), "helm {arguments:?} ended with {}: {}", output.status, said.err);
    Ok(said)
}

/// `helm install operator charts/operator -n elf --create-namespace`, as the documents say it, with these settings.
///
/// # Errors
/// As [`run`].
pub fn install(plane: &ControlPlane, settings: &[&str]) -> Result<Said> {
    with_settings(plane, &["install", "operator"], &["-n", NAMESPACE, "--create-namespace"], settings)
}

/// `helm upgrade operator charts/operator -n elf` with these settings, and the defaults for all others: without being told
/// so, helm takes those of the last time where none are given.
///
/// # Errors
/// As [`run`].
pub fn upgrade(plane: &ControlPlane, settings: &[&str]) -> Result<Said> {
    with_settings(plane, &["upgrade", "operator"], &["-n", NAMESPACE, "--reset-values"], settings)
}

fn with_settings(plane: &ControlPlane, what: &[&str], place: &[&str], settings: &[&str]) -> Result<Said> {
    let chart = chart().display().to_string();
    let settings = settings.iter().flat_map(|s| ["--set", s]);
    let arguments: Vec<&str> =
        what.iter().copied().chain([chart.as_str()]).chain(place.iter().copied()).chain(settings).collect();
    run(plane, &arguments)
}
