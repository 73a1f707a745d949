//! `balancing-operator`: what the cluster as a whole has to know of its policies.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_operator::program()
}
