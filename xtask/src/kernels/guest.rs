//! A machine: a kernel, a file system in memory that holds the tests and little else, and what it says.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Suite,
    packages::Package,
    program,
    report::{Kernel, Outcome, Test},
    said,
};
use crate::process::{run as execute, shown};

const INIT: &str = include_str!("init.sh");
/// Modules that the tests' network needs, each after those it needs.
const MODULES: [&str; 4] = ["llc", "stp", "bridge", "veth"];
/// Programs of the machine that the tests start.
const TOOLS: [&str; 2] = ["ip", "setpriv"];
/// Programs of ours that the tests start.
const PROGRAMS: [&str; 4] =
    ["balancing-agent", "balancing-agent-next-layout", "balancing-e2e-worker", "balancing-e2e-kernel"];
/// A machine that takes longer is stuck. Emulation is ten to thirty times slower than the machine it runs on.
const LONGEST: &str = "2700";

/// Runs these tests on a kernel. What its console said is kept in the folder.
pub(super) fn run(package: &Package, suite: &Suite, folder: &Path, tests: &[&str]) -> Result<Kernel> {
    eprintln!("kernels: {}", package.name);
    let files = folder.join("files");
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    fs::create_dir_all(&files).with_context(|| format!("failed to make {}", files.display()))?;
    fill(&files, package, suite, tests)?;
    let archive = folder.join("initramfs.cpio");
    execute(
        Command::new("/bin/busybox")
            .args(["sh", "-c", "find . | busybox cpio -o -H newc 2>/dev/null > \"$0\""])
            .arg(&archive)
            .env("PATH", "/bin")
            .current_dir(&files),
    )?;
    let kernel = found(&package.files, &|name| name == "vmlinuz" || name.starts_with("vmlinuz-"))?;
    let lines = boot(&kernel, &archive, &folder.join("console"))?;
    fs::write(folder.join("results"), lines.join("\n") + "\n")?;
    fs::remove_dir_all(&files)?;
    let mut seen = read(&lines, tests).with_context(|| {
        format!("the machine told nothing of its kernel; its console is in {}", folder.display())
    })?;
    seen.package.clone_from(&package.name);
    Ok(seen)
}

/// What the file system of a machine holds.
fn fill(files: &Path, package: &Package, suite: &Suite, tests: &[&str]) -> Result<()> {
    for folder in ["bin", "dev", "etc", "modules", "proc", "run", "suite/deps", "sys", "tmp"] {
        fs::create_dir_all(files.join(folder))?;
    }
    write_program(&files.join("init"), INIT)?;
    copy(Path::new("/bin/busybox"), &files.join("bin/busybox"))?;
    for applet in ["sh", "mount", "mkdir", "cat", "insmod", "sync", "poweroff"] {
        symlink("busybox", files.join("bin").join(applet))?;
    }
    for tool in TOOLS {
        let path = program(tool)?;
        copy(&path, &files.join("bin").join(tool))?;
        for library in libraries(&said(Command::new("ldd").arg(&path))?) {
            copy(library, &files.join(library.strip_prefix("/").unwrap_or(library)))?;
        }
    }
    let programs = PROGRAMS.map(|name| (suite.programs.join(name), files.join("suite").join(name)));
    for (from, to) in programs.into_iter().chain([(suite.tests.clone(), files.join("suite/deps/node"))]) {
        // Debuggers' sections are most of a program.
        execute(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(from))?;
    }
    let mut order = Vec::new();
    for module in MODULES {
        // What is not there as a module is part of the kernel, or the console will tell.
        let names = [format!("{module}.ko"), format!("{module}.ko.xz")];
        if let Ok(path) = found(&package.files, &|name| names.iter().any(|n| n == name)) {
            let plain = format!("{module}.ko");
            unpacked(&path, &files.join("modules").join(&plain))?;
            order.push(plain);
        }
    }
    fs::write(files.join("modules/order"), order.join("\n"))?;
    fs::write(files.join("skipped"), skipped(&said(Command::new(&suite.tests).arg("--list"))?, tests)?)?;
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn unpacked(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_some_and(|extension| extension == "xz") {
        let to = fs::File::create(to)?;
        return execute(Command::new("xz").args(["--decompress", "--stdout"]).arg(from).stdout(to));
    }
    copy(from, to)
}

/// The libraries that `ldd` tells of.
fn libraries(text: &str) -> Vec<&Path> {
    text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new).collect()
}

/// The first file below a folder whose name is wanted.
fn found(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))? {
            let entry = entry?;
            // Links of a package may lead out of it.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && wanted(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    anyhow::bail!("{} lacks a file of the kernel", folder.display())
}

/// The arguments that leave out every other test.
fn skipped(list: &str, tests: &[&str]) -> Result<String> {
    let all: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let wanted: BTreeSet<&str> = tests.iter().copied().collect();
    let unknown: Vec<_> = wanted.difference(&all).collect();
    ensure!(unknown.is_empty(), "there are no such tests: {unknown:?}");
    let skips: Vec<String> = all.difference(&wanted).map(|name| format!("--skip {name}")).collect();
    Ok(skips.join(" "))
}

/// Runs a machine to its end. Gives what it said on its second serial port, which is shown as it comes.
fn boot(kernel: &Path, archive: &Path, console: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after", "10", LONGEST, "qemu-system-x86_64"])
        // KVM is not to be had everywhere, and results are to be the same everywhere.
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"]);
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", shown(&command)))?;
    let output = child.stdout.take().context("no output of the machine")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        eprintln!("kernels: {:>4} s  {line}", began.elapsed().as_secs());
        lines.push(line);
    }
    let status = child.wait()?;
    ensure!(status.code() != Some(124), "the machine did not end within {LONGEST} s: {}", console.display());
    ensure!(status.success(), "`{}` ended with {status}", shown(&command));
    Ok(lines)
}

/// What a machine said: one line about its kernel, then these tests.
fn read(lines: &[String], tests: &[&str]) -> Result<Kernel> {
    let told =
        lines.iter().find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
    let mut kernel: Kernel = serde_json::from_value(told.with_context(|| lines.join("\n"))?)?;
    kernel.tests = lines.iter().filter_map(|line| test(line)).collect();
    let reasons = reasons(lines);
    for test in &mut kernel.tests {
        test.message = reasons.iter().find(|(name, _)| *name == test.name).map(|(_, reason)| reason.clone());
    }
    // A test that the machine did not come to is no test that passed.
    for name in tests {
        if !kernel.tests.iter().any(|test| test.name == *name) {
            let message = Some("the machine did not come to its end".to_owned());
            kernel.tests.push(Test { name: (*name).to_owned(), outcome: Outcome::Failed, message });
        }
    }
    Ok(kernel)
}

/// `test NAME ... ok`
fn test(line: &str) -> Option<Test> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match outcome.split_whitespace().next()?.trim_end_matches(',') {
        "ok" => Outcome::Passed,
        "ignored" => Outcome::Skipped,
        _ => Outcome::Failed,
    };
    Some(Test { name: name.trim().to_owned(), outcome, message: None })
}

/// Names and messages of failed tests: below `---- NAME ----`, up to an empty line.
fn reasons(lines: &[String]) -> Vec<(&str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut open = false;
    for line in lines {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            found.push((name, String::new()));
            open = true;
        } else if line.is_empty() {
            open = false;
        } else if let (true, Some((_, reason))) = (open, found.last_mut()) {
            *reason += if reason.is_empty() { "" } else { "\n" };
            *reason += line;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_a_machine_says_is_read() {
        let all = ["a::one", "a::two", "a::three", "b::four"];
        let said = lines(&format!(
            "noise {{\n{}\n\nrunning 3 tests\ntest {}   ... ok\ntest {} ... FAILED\ntest {} ... ignored, no such thing\n\nfailures:\n\n---- {} ----\nit went\nelsewhere\n\n\nfailures:\n    x\n",
            r#"{"release": "6.1.0", "ways": [], "features": {"setRetval": true}}"#,
            all[0],
            all[1],
            all[2],
            all[1]
        ));
        let kernel = read(&said, &all).expect("a kernel");
        assert_eq!(kernel.release, "6.1.0");
        let outcomes: Vec<_> = kernel.tests.iter().map(|test| test.outcome).collect();
        assert_eq!(outcomes, [Outcome::Passed, Outcome::Failed, Outcome::Skipped, Outcome::Failed]);
        assert_eq!(kernel.tests[1].message.as_deref(), Some("it went\nelsewhere"));
        assert_eq!(kernel.tests[3].message.as_deref(), Some("the machine did not come to its end"));
        assert!(read(&lines("Kernel panic"), &all).is_err());
    }

    #[test]
    fn a_test_that_is_not_there_is_told() {
        let list = "a::one: test\na::two: test\nplugin::other: test\n";
        assert_eq!(skipped(list, &["a::two", "a::one"]).expect("all are there"), "--skip plugin::other");
        assert!(skipped(list, &["a::one", "a::three"]).is_err());
    }

    #[test]
    fn libraries_are_paths_in_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(text), [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld.so.2")]);
    }
}
