//! The agent of one node: reads what is wanted, compiles it, programs the kernel, and says what it did.

pub mod cgroups;
pub mod compile;
pub mod config;
pub mod desired;
pub mod events;
pub mod http;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod report;
pub mod select;
pub mod snapshot;
pub mod source;
#[doc(hidden)]
pub mod testing;

use std::process::ExitCode;

/// The program `balancing-agent`, with maps of that layout version. Exit status: 0 ended as asked, 1 failed, 2 wrong usage.
#[must_use]
pub fn program(layout: u32) -> ExitCode {
    let command = match config::load() {
        Ok(command) => command,
        Err(error) => {
            error.print();
            return ExitCode::from(error.exit_code());
        }
    };
    if let Err(error) = logging::init(command.log()) {
        eprintln!("error: failed to start the log: {error}");
        return ExitCode::FAILURE;
    }
    match command {
        config::Command::Run(run) => match node::run(&run, layout) {
            Ok(node::Ending::Stay) => {
                tracing::info!("ended; the programs stay attached");
                ExitCode::SUCCESS
            }
            Ok(node::Ending::Leave) => cleanup(&run.places),
            Err(error) => failed(&error),
        },
        config::Command::Cleanup(command) => cleanup(&command.places),
    }
}

fn cleanup(places: &config::Places) -> ExitCode {
    match kernel::cleanup(&places.bpffs) {
        Ok(detached) => {
            tracing::info!(detached, bpffs = %places.bpffs.display(), "cleaned up");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    tracing::error!("{text}");
    ExitCode::FAILURE
}
