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
        config::Command::Run(run) => ended(node::run(&run, layout)),
        config::Command::Cleanup(cleanup) => {
            let cleaned = kernel::cleanup(&cleanup.places.bpffs);
            if let Ok(detached) = &cleaned {
                tracing::info!(detached, bpffs = %cleanup.places.bpffs.display(), "cleaned up");
            }
            ended(cleaned.map(drop))
        }
    }
}

fn ended<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    tracing::error!("{text}");
    ExitCode::FAILURE
}
