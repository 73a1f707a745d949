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

use std::process::ExitCode;

use anyhow::{Context, Result};
use balancing_e2e::{
    network::Network,
    run,
    suite::{self, Theme},
};

/// A test of the suite.
type Test = suite::Test<Network>;

/// The tests by theme.
const THEMES: &[Theme<Network>] = &[
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
    suite::run(THEMES, run::missing().as_deref(), make_network)
}

fn make_network() -> Result<Network> {
    suite::claim()?;
    Network::standard().context("the network of the tests")
}
