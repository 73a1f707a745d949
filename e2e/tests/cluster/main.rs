//! A cluster on one machine: a real API server, several nodes, real sockets.
//!
//! `cargo xtask setup && cargo build --workspace && cargo test -p balancing-e2e --test cluster -- policies::` runs a
//! theme. With `BALANCING_E2E_KEEP=FOLDER` the logs of control plane, operator and agents are kept there.

mod access;
mod agree;
mod bed;
mod chart;
mod ends;
mod fixtures;
mod hostile;
mod lifecycle;
mod live;
mod nodes;
mod onlooker;
mod operator;
mod outage;
mod own;
mod plugin;
mod policies;
mod relay;
mod release;
mod simulate;
mod webhook;

use std::process::ExitCode;

use anyhow::{Context, Result};
use balancing_e2e::{
    cluster::{self, ControlPlane, ControlPlaneOptions},
    network::Network,
    suite::{self, Theme},
};

/// What the tests share: the network, and one control plane.
#[derive(Debug)]
struct Cluster {
    // Ended before the network that it is in.
    plane: ControlPlane,
    network: Network,
}

/// A test of the suite.
type Test = suite::Test<Cluster>;

/// The tests by theme.
const THEMES: &[Theme<Cluster>] = &[
    ("fixtures", fixtures::TESTS),
    ("policies", policies::TESTS),
    ("chart", chart::TESTS),
    ("agree", agree::TESTS),
    ("nodes", nodes::TESTS),
    ("operator", operator::TESTS),
    ("webhook", webhook::TESTS),
    ("live", live::TESTS),
    ("plugin", plugin::TESTS),
    ("onlooker", onlooker::TESTS),
    ("relay", relay::TESTS),
    ("access", access::TESTS),
    ("outage", outage::TESTS),
    ("ends", ends::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("own", own::TESTS),
    ("release", release::TESTS),
    ("simulate", simulate::TESTS),
    ("hostile", hostile::TESTS),
];

fn main() -> ExitCode {
    suite::run(THEMES, cluster::missing().as_deref(), make_cluster)
}

fn make_cluster() -> Result<Cluster> {
    suite::claim()?;
    let network = cluster::network().context("the network of the tests")?;
    cluster::enter(&network)?;
    let plane = ControlPlane::start(&network, "ctl", ControlPlaneOptions::default())
        .context("the control plane of the tests")?;
    bed::install(&plane).context("the product in the control plane")?;
    Ok(Cluster { plane, network })
}
