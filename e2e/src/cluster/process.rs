//! A program of the fixture that runs until it is ended: its log, its end.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{client::command_in, wait};

/// How long a program may take to end after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// A running program. It is killed when this is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a network namespace and, if given, a cgroup; its output is added to the log.
    ///
    /// # Errors
    /// It cannot be started, or the log not be opened.
    pub fn start(
        netns: &str,
        cgroup: Option<&Path>,
        program: &Path,
        log: PathBuf,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("failed to open {}", log.display()))?;
        let mut command = command_in(netns, cgroup, program)?;
        prepare(&mut command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Has it ended, and how?
    ///
    /// # Errors
    /// The machine does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{}:\n{}", self.log.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// The machine refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; gives how it ended.
    ///
    /// # Errors
    /// It does not end in time; it is killed then.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM)?;
        }
        let ended = wait::until(
            END,
            || "the end of a program after SIGTERM".to_owned(),
            || Ok(self.child.try_wait()?),
        );
        ended.with_context(|| self.log_tail())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
