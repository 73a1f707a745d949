//! The log: lines on stderr, for people or as JSON. What objects and clients brought in cannot forge a line.

use std::{
    fmt::{self, Debug, Write},
    io::{self, IsTerminal},
};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::MakeExt,
    fmt::{MakeWriter, format},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{LogConfig, LogFormat};

/// Starts the log of the process.
///
/// # Errors
/// The process has a log already.
pub fn init(config: &LogConfig) -> Result<(), TryInitError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::registry().with(layer(config, colours, io::stderr)).try_init()
}

fn layer<S, W>(config: &LogConfig, colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The configuration has checked the text; what does not parse is left out, not everything with it.
    let filter = EnvFilter::builder().parse_lossy(level(&config.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    match config.format {
        LogFormat::Text => {
            let fields = format::debug_fn(field).delimited(" ");
            lines.with_ansi(colours).fmt_fields(fields).with_filter(filter).boxed()
        }
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
        }
    }
}

/// The client of the API server logs each failed request, and each connection that breaks, whoever deals with it and says
/// so: that is left out, unless it is asked for by name.
fn level(asked: &str) -> String {
    if asked.contains("kube_client") { asked.to_owned() } else { format!("{asked},kube_client::client=off") }
}

/// Writes a field; the message without its name.
fn field(writer: &mut format::Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{field}=")?;
    }
    write!(Escaped(writer), "{value:?}")
}

/// A writer that spells control characters out, and what turns the direction of text: neither a line break nor a
/// terminal's command comes out of a value.
struct Escaped<'w, 'f>(&'w mut format::Writer<'f>);

fn harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some((at, c)) = text.char_indices().find(|(_, c)| !harmless(*c)) {
            self.0.write_str(&text[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            text = &text[at + c.len_utf8()..];
        }
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged by `log`.
    fn logged(format: LogFormat, level: &str, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let config = LogConfig { format, level: level.to_owned() };
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::registry().with(layer(&config, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const HOSTILE: &str = "a\nERROR forged \u{1b}[2J\u{202e}\r\u{9b}\u{7f}é";

    #[test]
    fn values_cannot_forge_lines_nor_drive_the_terminal() {
        let text = logged(LogFormat::Text, "info", || {
            tracing::warn!(file = %HOSTILE, quoted = HOSTILE, "failed to read {HOSTILE}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.trim_end_matches('\n').chars().all(harmless), "{text:?}");
        let (_, line) = text.split_once(" WARN ").unwrap();
        let escaped = r"a\nERROR forged \u{1b}[2J\u{202e}\r\u{9b}\u{7f}é";
        assert!(line.contains(&format!("failed to read {escaped} file={escaped} quoted=\"a")), "{line}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "info", || {
            tracing::info!(file = HOSTILE, count = 3, "failed to read {HOSTILE}");
            tracing::info!("second");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["file"], HOSTILE);
        assert_eq!(lines[0]["count"], 3);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], format!("failed to read {HOSTILE}"));
        let time = lines[0]["timestamp"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn the_level_is_by_target() {
        let text = logged(LogFormat::Text, "warn,chatty=debug", || {
            tracing::info!("hidden");
            tracing::warn!("shown one");
            tracing::debug!(target: "chatty", "shown two");
            tracing::trace!(target: "chatty", "hidden");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("shown one") && text.contains("shown two"), "{text}");
    }

    #[test]
    fn what_the_client_library_says_is_left_out_unless_asked_for() {
        let log = |level: &str| {
            logged(LogFormat::Text, level, || {
                tracing::warn!(target: "kube_client::client", "eof in poll");
                tracing::error!(target: "kube_client::client::builder", "failed with error");
                tracing::warn!("shown");
            })
        };
        assert_eq!(log("info").lines().count(), 1);
        assert_eq!(log("info,kube_client=warn").lines().count(), 3);
    }
}
