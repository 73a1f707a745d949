//! A process of the fixtures in a network namespace and a cgroup: client, identity server, or any other program.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_e2e::worker::main(std::env::args().skip(1))
}
