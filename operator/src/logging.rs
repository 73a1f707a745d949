//! The log: lines on stderr, for people or as JSON.

use std::io;

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

/// Starts the log of the process.
///
/// # Errors
/// The process has a log already, or the level is none.
pub fn init(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let variable = std::env::var("RUST_LOG").ok();
    let level = config.log_level.clone().or(variable).unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&level)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match config.log_format {
        LogFormat::Text => lines.with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
        }
    };
    Ok(tracing_subscriber::registry().with(layer).try_init()?)
}
