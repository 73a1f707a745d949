//! One node, end to end: an agent on a folder of manifests, the real kernel, real sockets.
//!
//! `cargo build --workspace && cargo test -p balancing-e2e --test node -- qos::` runs a theme. With
//! `BALANCING_E2E_KEEP=FOLDER` the log of each agent is kept there.

mod bed;
mod churn;
mod demo;
mod exempt;
mod fixtures;
mod growth;
mod hostile;
mod lifecycle;
mod model;
mod observe;
mod plugin;
mod privileges;
mod qos;
mod redirect;
mod reverse;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result};
use balancing_e2e::{network::Network, run};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The error of a test that cannot run on this machine: it counts as ignored.
#[derive(Debug)]
struct CannotRun(String);

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

/// A test of the suite.
type Test = fn(&Network) -> Result<()>;

/// The tests by theme.
const THEMES: &[(&str, &[(&str, Test)])] = &[
    ("fixtures", fixtures::TESTS),
    ("redirect", redirect::TESTS),
    ("qos", qos::TESTS),
    ("reverse", reverse::TESTS),
    ("churn", churn::TESTS),
    ("growth", growth::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("exempt", exempt::TESTS),
    ("model", model::TESTS),
    ("observe", observe::TESTS),
    ("plugin", plugin::TESTS),
    ("privileges", privileges::TESTS),
    ("hostile", hostile::TESTS),
    ("demo", demo::TESTS),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests share a network, load the whole machine, and their processes live as long as this thread.
    arguments.test_threads = Some(1);
    let missing = run::missing();
    if let Some(why) = &missing {
        eprintln!("these tests cannot run here: {why}");
    }
    let network: Arc<OnceLock<Network>> = Arc::default();
    let mut trials = Vec::new();
    for (theme, tests) in THEMES {
        for (name, test) in *tests {
            let (network, missing, test) = (network.clone(), missing.clone(), *test);
            trials.push(Trial::ignorable_test(format!("{theme}::{name}"), move || match missing {
                Some(why) => Ok(Completion::ignored_with(why)),
                None => run_one(&network, test),
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(network);
    let left = run::own();
    if !left.is_empty() {
        run::remove_own();
        eprintln!("the tests left behind: {left:?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn run_one(network: &OnceLock<Network>, test: Test) -> Result<Completion, Failed> {
    let network = match network.get() {
        Some(network) => network,
        None => {
            let made = make_network().map_err(|e| Failed::from(format!("{e:#}")))?;
            network.get_or_init(|| made)
        }
    };
    match test(network) {
        Ok(()) => Ok(Completion::Completed),
        Err(e) => match e.downcast_ref::<CannotRun>() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => Err(Failed::from(format!("{e:#}"))),
        },
    }
}

fn make_network() -> Result<Network> {
    run::claim()?;
    run::remove_on_signals(|| ())?;
    Network::standard().context("the network of the tests")
}
