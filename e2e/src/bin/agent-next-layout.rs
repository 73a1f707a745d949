//! The agent as a later release with another map layout would be: the same program, the next layout version.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_agent::program(balancing_datapath::LAYOUT_VERSION + 1)
}
