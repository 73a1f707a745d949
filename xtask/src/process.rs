//! Running other programs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// `cargo ...` in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command
}

/// Runs a program to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {}", shown(command)))?;
    ensure!(status.success(), "`{}` ended with {status}", shown(command));
    Ok(())
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|w| w.to_string_lossy()).collect();
    let program = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(program.as_str())
        .chain(words[1..].iter().map(AsRef::as_ref))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where cargo puts a binary of this workspace, built with that profile's folder (`debug`, `release`).
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let here = env::current_exe().context("failed to find the path of this program")?;
    beside(&here, profile, name)
        .with_context(|| format!("{} is in no target folder of cargo", here.display()))
}

/// The target folder may be anywhere (`CARGO_TARGET_DIR`); the program that runs lies two folders below it.
fn beside(here: &Path, profile: &str, name: &str) -> Option<PathBuf> {
    Some(here.parent()?.parent()?.join(profile).join(name))
}

/// Where a program is, also in the folders of root's programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|f| f.join(program)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_looked_for_where_cargo_was_told_to_put_them() {
        let here = Path::new("/elsewhere/debug/xtask");
        let found = |profile| beside(here, profile, "balancing-demo");
        assert_eq!(found("debug").as_deref(), Some(Path::new("/elsewhere/debug/balancing-demo")));
        assert_eq!(found("release").as_deref(), Some(Path::new("/elsewhere/release/balancing-demo")));
        assert_eq!(beside(Path::new("/xtask"), "debug", "balancing-demo"), None);
    }
}
