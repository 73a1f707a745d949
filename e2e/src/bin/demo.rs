//! The demo: `cargo xtask demo` builds everything and starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancing_e2e::demo::main(std::env::args().skip(1))
}
