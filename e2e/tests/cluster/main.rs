//! A cluster on one machine: a real API server, several nodes, real sockets.
//!
//! `cargo xtask setup && cargo build --workspace && cargo test -p balancing-e2e --test cluster -- policies::` runs a
//! theme. With `BALANCING_E2E_KEEP=FOLDER` the logs of control plane, operator and agents are kept there.

mod admission;
mod agree;
mod bed;
mod chart;
mod fixtures;
mod hostile;
mod live;
mod nodes;
mod operator;
mod outage;
mod own;
mod plugin;
mod policies;
mod release;
mod simulate;
mod webhook;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result};
use balancing_e2e::{
    cluster::{self, ControlPlane, ControlPlaneOptions},
    network::Network,
    run,
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// What the tests share: the network, and one control plane.
#[derive(Debug)]
struct Cluster {
    // Ended before the network that it is in.
    plane: ControlPlane,
    network: Network,
}

/// A test of the suite.
type Test = fn(&Cluster) -> Result<()>;

/// The tests by theme.
const THEMES: &[(&str, &[(&str, Test)])] = &[
    ("fixtures", fixtures::TESTS),
    ("policies", policies::TESTS),
    ("chart", chart::TESTS),
    ("agree", agree::TESTS),
    ("nodes", nodes::TESTS),
    ("operator", operator::TESTS),
    ("webhook", webhook::TESTS),
    ("live", live::TESTS),
    ("plugin", plugin::TESTS),
    ("admission", admission::TESTS),
    ("own", own::TESTS),
    ("outage", outage::TESTS),
    ("release", release::TESTS),
    ("simulate", simulate::TESTS),
    ("hostile", hostile::TESTS),
];

/// The error of a test that cannot run on this machine: it counts as ignored.
#[derive(Debug)]
struct CannotRun(String);

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests share a cluster and load the whole machine, and their processes live as long as this thread.
    arguments.test_threads = Some(1);
    let missing = cluster::missing();
    if let Some(why) = &missing {
        eprintln!("these tests cannot run here: {why}");
    }
    let shared: Arc<OnceLock<Cluster>> = Arc::default();
    let mut trials = Vec::new();
    for (theme, tests) in THEMES {
        for (name, test) in *tests {
            let (shared, missing, test) = (shared.clone(), missing.clone(), *test);
            trials.push(Trial::ignorable_test(format!("{theme}::{name}"), move || match missing {
                Some(why) => Ok(Completion::ignored_with(why)),
                None => run_one(&shared, test),
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

fn run_one(shared: &OnceLock<Cluster>, test: Test) -> Result<Completion, Failed> {
    let cluster = match shared.get() {
        Some(cluster) => cluster,
        None => {
            let made = make_cluster().map_err(|e| Failed::from(format!("{e:#}")))?;
            shared.get_or_init(|| made)
        }
    };
    match test(cluster) {
        Ok(()) => Ok(Completion::Completed),
        Err(e) => match e.downcast_ref::<CannotRun>() {
            Some(why) => Ok(Completion::ignored_with(why)),
            None => Err(Failed::from(format!("{e:#}"))),
        },
    }
}

fn make_cluster() -> Result<Cluster> {
    run::claim()?;
    run::remove_on_signals(|| ())?;
    let network = cluster::network().context("the network of the tests")?;
    cluster::enter(&network)?;
    let plane = ControlPlane::start(&network, "ctl", ControlPlaneOptions::default())
        .context("the control plane of the tests")?;
    bed::install(&plane).context("the product in the control plane")?;
    Ok(Cluster { plane, network })
}
