//! `cargo xtask test`: everything that must hold, stage by stage, each with the time it took.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bpf, control_plane,
    process::{cargo, run as execute, shown},
    setup,
};

/// Runs all stages. One build profile serves them all, so that nothing is compiled twice.
///
/// The workspace's default members are everything but the kernel programs, which only build for the BPF target.
pub(crate) fn run() -> Result<()> {
    let mut stages = Stages::default();
    stages.run("setup", setup::for_tests)?;
    stages.run("control plane", control_plane::ensure_built)?;
    stages.run("format", || execute(&mut cargo(&["fmt", "--all", "--check"])))?;
    stages.run("lints", || {
        execute(&mut cargo(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]))
    })?;
    stages.run("eBPF object", || bpf::run(true))?;
    // Tests start the binaries themselves.
    stages.run("build", || execute(&mut cargo(&["build", "--locked", "--bins"])))?;
    let (mut tests, mut failures) = (Tally::default(), Vec::new());
    let passed = stages.run("tests", || {
        (tests, failures) = run_tests()?;
        ensure!(tests.failed == 0, "{} tests failed", tests.failed);
        Ok(())
    });
    // Again at the end, where whoever sees the last page alone finds them.
    for line in &failures {
        writeln!(io::stdout(), "{line}")?;
    }
    eprintln!();
    for (name, took) in &stages.0 {
        eprintln!("{name:<14} {:>6.1} s", took.as_secs_f32());
    }
    writeln!(io::stdout(), "{} passed, {} failed, {} skipped", tests.passed, tests.failed, tests.skipped)?;
    passed
}

/// The stages so far and how long each took.
#[derive(Default)]
struct Stages(Vec<(&'static str, Duration)>);

impl Stages {
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let done = stage().with_context(|| format!("stage \"{name}\""));
        self.0.push((name, start.elapsed()));
        eprintln!(
            "== {name}: {} in {:.1} s",
            if done.is_ok() { "done" } else { "failed" },
            start.elapsed().as_secs_f32()
        );
        done
    }
}

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds a closing line of a test runner: `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            if let (Some(Ok(count)), Some(word)) = (words.next().map(str::parse::<u64>), words.next()) {
                match word {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.skipped += count,
                    _ => {}
                }
            }
        }
    }
}

/// What test runners say of tests that failed, out of all they print.
#[derive(Debug, Default)]
struct Failures {
    told: Vec<String>,
    /// Lines of the runner whose lines are read, between "failures:" and its closing line.
    telling: Option<usize>,
}

impl Failures {
    /// Lines that are kept of one runner.
    const MOST: usize = 60;

    fn add(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.telling = None;
        } else if line == "failures:" {
            self.telling.get_or_insert(0);
        }
        if let Some(lines) = self.telling.as_mut().filter(|lines| **lines < Self::MOST) {
            *lines += 1;
            self.told.push(line.to_owned());
        }
    }
}

/// Runs all tests of all crates, shows what they print, and adds up their closing lines; and what was said of those
/// that failed.
fn run_tests() -> Result<(Tally, Vec<String>)> {
    let mut command = cargo(&["test", "--locked", "--no-fail-fast"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", shown(&command)))?;
    let output = child.stdout.take().context("no output of cargo test")?;
    let (mut tally, mut failures) = (Tally::default(), Failures::default());
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(io::stdout(), "{line}")?;
        tally.add(&line);
        failures.add(&line);
    }
    let status = child.wait()?;
    ensure!(tally.passed > 0, "no test passed");
    if !status.success() && tally.failed == 0 {
        bail!("`{}` ended with {status}", shown(&command));
    }
    Ok((tally, failures.told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 4 filtered out; finished in 0.31s",
        );
        tally.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test some::thing ... ok");
        assert_eq!(tally, Tally { passed: 13, failed: 2, skipped: 3 });
    }

    #[test]
    fn failures_are_kept_and_the_rest_is_not() {
        let mut failures = Failures::default();
        let printed = "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b ----\nwhy\n\n\nfailures:\n    b\n\n\
                       test result: FAILED. 1 passed; 1 failed\n\nrunning 1 test\ntest c ... ok\n";
        printed.lines().for_each(|line| failures.add(line));
        let told: Vec<&str> = failures.told.iter().map(String::as_str).filter(|l| !l.is_empty()).collect();
        assert_eq!(told, ["failures:", "---- b ----", "why", "failures:", "    b"]);
        failures.add("failures:");
        (0..2 * Failures::MOST).for_each(|_| failures.add("x"));
        assert_eq!(failures.told.iter().filter(|l| *l == "x").count(), Failures::MOST - 1);
    }
}
