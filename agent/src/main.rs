//! `balancing-agent`: programs one node.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_agent::program(balancing_datapath::LAYOUT_VERSION)
}
