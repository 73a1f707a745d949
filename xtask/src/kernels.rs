//! `cargo xtask kernels`: the committed object and the agent on other kernels, those of Debian, each in a virtual machine
//! that qemu emulates. Nothing is attached to anything of this machine.

mod guest;
mod packages;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use self::{
    packages::SUITES,
    report::{Report, THEMES},
};
use crate::{
    bpf, images,
    process::{cargo, find, run as execute, shown},
    setup,
};

/// Programs that the machines take, and Debian's packages of them.
const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/bin/busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Runs on the kernels of these suites of Debian, on all of [`SUITES`] if none is named, and writes the results and the
/// page; with `--page` alone only the page is written. With `--test NAME` that test of a node runs, and nothing is written.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let root = bpf::workspace()?;
    if arguments == ["--page"] {
        return report::write_page(&root);
    }
    let Wanted { suites, tests: only } = wanted(arguments)?;
    ensure!(std::env::consts::ARCH == "x86_64", "this is made for x86-64 machines");
    setup::install(&PROGRAMS)?;

    let suite = build(&root)?;
    // The object may change while machines run.
    let object = object(&root)?;
    let mut failed = Vec::new();
    for debian in suites {
        let package = packages::fetch(debian.name, &cache()?)?;
        let part = || THEMES.iter().flat_map(|theme| theme.tests).copied().collect();
        let tests = match (only.is_empty(), debian.supported) {
            (false, _) => only.clone(),
            (true, true) => part(),
            (true, false) => Vec::new(),
        };
        let mut kernel = guest::run(&package, &suite, &work(&root).join(debian.name), &tests)?;
        debian.name.clone_into(&mut kernel.debian);
        kernel.object.clone_from(&object);
        failed.extend(kernel.failures());
        if !only.is_empty() {
            continue;
        }
        // Read now, since others may have run meanwhile.
        let mut report = Report::read(&root).unwrap_or_default();
        report.take(kernel);
        report.taken_at =
            said(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned();
        report.write(&root)?;
        report::write_page(&root)?;
    }
    ensure!(failed.is_empty(), "not everything works on every kernel:\n{}", failed.join("\n"));
    Ok(())
}

/// What is to run.
struct Wanted<'a> {
    suites: Vec<&'static packages::Suite>,
    /// Tests of a node; none: those of the table.
    tests: Vec<&'a str>,
}

fn wanted(arguments: &[String]) -> Result<Wanted<'_>> {
    let mut wanted = Wanted { suites: Vec::new(), tests: Vec::new() };
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        if argument == "--test" {
            wanted.tests.push(arguments.next().context("--test takes the name of a test")?);
        } else {
            let known = || SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
            let suite = packages::suite(argument);
            wanted.suites.push(suite.with_context(|| {
                format!("{argument} is no suite of Debian that is known here: {}", known())
            })?);
        }
    }
    if wanted.suites.is_empty() {
        wanted.suites = SUITES.iter().collect();
    }
    Ok(wanted)
}

/// The folder of machines, for people: what their consoles said.
fn work(root: &Path) -> PathBuf {
    root.join("target/kernels")
}

/// Kernels are kept outside of the tree: they outlive its target folder.
fn cache() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let caches = caches.context("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache")?;
    Ok(caches.join("balancing/kernels"))
}

/// The digest of the committed object.
fn object(root: &Path) -> Result<String> {
    let path = root.join("agent-ebpf/balancing.bpf.digest");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let digest = text.lines().find_map(|line| line.strip_prefix("object "));
    Ok(digest.with_context(|| format!("{} names no object", path.display()))?.to_owned())
}

/// The programs that run in a machine, without a library.
struct Suite {
    /// The tests of a node.
    tests: PathBuf,
    /// The folder of the others.
    programs: PathBuf,
}

/// Builds the tests of a node, the agent, and what the tests start.
fn build(root: &Path) -> Result<Suite> {
    let target = images::target()?;
    let folder = images::target_folder(root);
    eprintln!("kernels: building static programs (a few minutes the first time)");
    let mut command = cargo(&["build", "--locked", "--quiet", "--target", &target]);
    command.args(["--package", "balancing-agent", "--bin", "balancing-agent"]);
    execute(images::linked_statically(&mut command, root))?;
    let mut command = cargo(&["test", "--no-run", "--locked", "--target", &target]);
    command.args(["--package", "balancing-e2e", "--test", "node"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let messages = said(images::linked_statically(&mut command, root).stderr(Stdio::inherit()))?;
    let tests = executable(&messages, "node").context("cargo did not say where it put the tests")?;
    Ok(Suite { tests, programs: folder.join(target).join("debug") })
}

/// The executable of a target, in cargo's messages.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == target && message["target"]["kind"][0] == "test")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

/// What a program prints, which has to succeed.
fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("failed to start {}", shown(command)))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}: {}",
        shown(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is.
fn program(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_tests_are_named() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let told = words("sid --test a::b bookworm --test a::c");
        let Wanted { suites, tests } = wanted(&told).expect("it is right");
        let names: Vec<_> = suites.iter().map(|suite| suite.name).collect();
        assert_eq!((names, tests), (vec!["sid", "bookworm"], vec!["a::b", "a::c"]));
        assert_eq!(wanted(&[]).expect("all").suites.len(), SUITES.len());
        for wrong in ["buster", "sid --test", "--page sid"] {
            assert!(wanted(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tests_are_found_in_what_cargo_says() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"node"},"executable":"/t/node"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"node"},"executable":"/t/deps/node-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "node"), Some(PathBuf::from("/t/deps/node-1")));
        assert_eq!(executable(messages, "cluster"), None);
    }
}
