//! The programs of a real control plane, and helm, for the tests: built once from pinned Go modules.

#[path = "../../e2e/src/cluster/binaries.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the file is also a module of the tests, whose library shows all of it"
)]
mod binaries;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use self::binaries::{MODULES, Module};
use crate::process::{find, shown};

/// Signs of life of a build that takes minutes.
const TOLD_EVERY: Duration = Duration::from_secs(20);

/// Builds what is missing. Where Go is missing or too old, says so: the tests that need a control plane are then skipped.
pub(crate) fn ensure_built() -> Result<()> {
    for module in MODULES {
        let missing = module.missing()?;
        if missing.is_empty() {
            continue;
        }
        match go(&module) {
            Ok(go) => build(&go, &module, &missing)?,
            Err(why) => {
                eprintln!("control plane: {} cannot be built: {why:#}", missing.join(", "));
                eprintln!("control plane: tests that need them are skipped");
            }
        }
    }
    Ok(())
}

/// The Go that can build a module.
fn go(module: &Module) -> Result<PathBuf> {
    let usual = Path::new("/usr/local/go/bin/go");
    let go = find("go").or_else(|| usual.is_file().then(|| usual.to_owned()));
    let go = go.context("Go is missing (https://go.dev/dl)")?;
    // In the module's folder Go refuses a module that is too new for it.
    let said = Command::new(&go).args(["list", "-m"]).current_dir(module.source()).output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr).trim());
    Ok(go)
}

fn build(go: &Path, module: &Module, missing: &[&str]) -> Result<()> {
    let folder = module.cache()?;
    let version = module.version()?;
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    for (package, name) in module.programs.iter().filter(|(_, name)| missing.contains(name)) {
        let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
        let began = Instant::now();
        let mut command = Command::new(go);
        command
            .args(["build", "-v", "-mod=readonly", "-trimpath", "-ldflags", &linker_flags(&version)])
            .arg("-o")
            .arg(&partial)
            .arg(package)
            .current_dir(module.source())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off");
        watched(&mut command, name).with_context(|| format!("failed to build {name}"))?;
        // Only a whole program has the name that tests look for.
        fs::rename(&partial, &path).with_context(|| format!("failed to place {}", path.display()))?;
        eprintln!("control plane: built {name} in {:.0} s", began.elapsed().as_secs_f32());
    }
    Ok(())
}

/// What makes the programs call themselves by their version: clients and helm compare it. A name that a program does
/// not have does no harm.
fn linker_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let values = [
        ("k8s.io/component-base/version.gitVersion", version),
        ("k8s.io/component-base/version.gitMajor", major),
        ("k8s.io/component-base/version.gitMinor", minor),
        ("k8s.io/client-go/pkg/version.gitVersion", version),
        ("helm.sh/helm/v3/internal/version.version", version),
    ];
    let values = values.map(|(name, value)| format!("-X {name}={value}"));
    format!("-s -w {}", values.join(" "))
}

/// Runs `go build -v`, which names each package it compiles, and says now and then how far it is.
fn watched(command: &mut Command, name: &str) -> Result<()> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    let output = child.stderr.take().context("no output of go")?;
    let (mut lines, mut told) = (Vec::new(), Instant::now());
    for line in BufReader::new(output).lines() {
        lines.push(line?);
        if told.elapsed() > TOLD_EVERY {
            told = Instant::now();
            eprintln!("control plane: {name}: {} packages so far", lines.len());
        }
    }
    let status = child.wait()?;
    let last = lines.len().saturating_sub(20);
    ensure!(status.success(), "`{}` ended with {status}:\n{}", shown(command), lines[last..].join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_their_version() {
        let flags = linker_flags("v1.36.2");
        assert!(flags.contains("component-base/version.gitVersion=v1.36.2"), "{flags}");
        assert!(flags.contains("gitMajor=1") && flags.contains("gitMinor=36 "), "{flags}");
    }
}
