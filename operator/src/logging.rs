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
    let filter = EnvFilter::try_new(quiet(&level))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match config.log_format {
        LogFormat::Text => lines.with_ansi(false).with_filter(filter).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
        }
    };
    Ok(tracing_subscriber::registry().with(layer).try_init()?)
}

/// The client of the API server and its watches log each failed request, whoever deals with it and says so: that is left
/// out, unless it is asked for by name.
fn quiet(asked: &str) -> String {
    let mut level = asked.to_owned();
    for (name, target) in [("kube_client", "kube_client::client"), ("kube_runtime", "kube_runtime::watcher")]
    {
        if !asked.contains(name) {
            level += &format!(",{target}=off");
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say_of_failed_requests_is_left_out_unless_asked_for() {
        assert_eq!(quiet("info"), "info,kube_client::client=off,kube_runtime::watcher=off");
        assert_eq!(quiet("info,kube_client=debug"), "info,kube_client=debug,kube_runtime::watcher=off");
        assert!(EnvFilter::try_new(quiet("info")).is_ok());
    }
}
