//! The harness of a suite: one test after another on ground that they share, which is made when the first one needs it.

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::run;

/// A test on shared ground.
pub type Test<S> = fn(&S) -> Result<()>;

/// The tests of a theme, by name.
pub type Theme<S> = (&'static str, &'static [(&'static str, Test<S>)]);

/// The error of a test that cannot run on this machine: it counts as ignored.
#[derive(Debug)]
pub struct CannotRun(pub String);

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

/// Runs the tests that the arguments of the program name. `missing` says why none can run here, `make` makes the ground.
/// A suite fails too where it leaves something on the machine.
#[must_use]
pub fn run<S: Send + Sync + 'static>(
    themes: &[Theme<S>],
    missing: Option<&str>,
    make: fn() -> Result<S>,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests share their ground, load the whole machine, and their processes live as long as this thread.
    arguments.test_threads = Some(1);
    if let Some(why) = missing {
        eprintln!("these tests cannot run here: {why}");
    }
    let shared: Arc<OnceLock<S>> = Arc::default();
    let mut trials = Vec::new();
    for (theme, tests) in themes {
        for (name, test) in *tests {
            let (shared, missing, test) = (shared.clone(), missing.map(str::to_owned), *test);
            trials.push(Trial::ignorable_test(format!("{theme}::{name}"), move || match missing {
                Some(why) => Ok(Completion::ignored_with(why)),
                None => run_one(&shared, make, test),
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(shared);
    let left = run::own();
    if !left.is_empty() {
        run::remove_own();
        eprintln!("the tests left behind: {left:?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn run_one<S>(shared: &OnceLock<S>, make: fn() -> Result<S>, test: Test<S>) -> Result<Completion, Failed> {
    let ground = match shared.get() {
        Some(ground) => ground,
        None => {
            let made = make().map_err(|e| Failed::from(format!("{e:#}")))?;
            shared.get_or_init(|| made)
        }
    };
    match test(ground) {
        Ok(()) => Ok(Completion::Completed),
        Err(e) => match e.downcast_ref::<CannotRun>() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => Err(Failed::from(format!("{e:#}"))),
        },
    }
}

/// Claims this process's names on the machine, and their removal when it is ended from outside.
///
/// # Errors
/// The machine refuses.
pub fn claim() -> Result<()> {
    run::claim()?;
    run::remove_on_signals(|| ())
}
