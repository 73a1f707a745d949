//! The connection of an agent: lines both ways, until either end is silent for too long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::stream::{ALIVE_EVERY, AgentLine, DEAD_AFTER, LONGEST_LINE, OperatorLine};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::hub::{Hub, Joined, ReportError};

/// How long a connection lasts before the agent has to show its token again.
const LASTS: Duration = Duration::from_secs(1800);
/// Bytes that are taken from an agent a second: one that says more is read later, and nobody else waits for it.
const PACE: usize = 8 << 20;
/// Bytes that a line counts for besides its own.
const LINE: usize = 256;
/// How long a line may take to be written.
const WRITE: Duration = Duration::from_secs(DEAD_AFTER);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("it was silent for {DEAD_AFTER} s")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("failed to read its lines")]
    Read(#[from] LinesCodecError),
    #[error("failed to write to it")]
    Write(#[from] std::io::Error),
    #[error("it says what is no line: {0}")]
    Line(#[from] serde_json::Error),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("{0}")]
    Bye(String),
}

/// Keeps a connection until it ends.
pub(super) async fn keep(
    hub: &Arc<Hub>,
    joined: Joined,
    lines: mpsc::Receiver<OperatorLine>,
    stream: impl AsyncRead + AsyncWrite,
    over: impl Future<Output = &'static str>,
) -> Ended {
    let (read, mut write) = tokio::io::split(stream);
    let read = FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_LINE));
    let ended = tokio::select! {
        ended = hear(hub, &joined, read) => ended,
        ended = say(hub, lines, &mut write) => ended,
        () = tokio::time::sleep(LASTS) => Ended::Bye("show the token again".to_owned()),
        reason = over => Ended::Bye(reason.to_owned()),
    };
    let reason = ended.to_string();
    // It may be gone.
    let _ = timeout(Duration::from_secs(1), send(&mut write, &OperatorLine::Bye { reason })).await;
    ended
}

/// How much an agent has said of late.
struct Pace {
    second: tokio::time::Instant,
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        Self { second: tokio::time::Instant::now(), bytes: 0 }
    }

    /// Counts a line; waits for the next second where there was too much in this one.
    async fn count(&mut self, line: usize) {
        self.bytes += line + LINE;
        let next = self.second + Duration::from_secs(1);
        if self.bytes > PACE {
            tokio::time::sleep_until(next).await;
        } else if tokio::time::Instant::now() < next {
            return;
        }
        *self = Self::new();
    }
}

async fn hear(hub: &Arc<Hub>, joined: &Joined, read: FramedRead<impl AsyncRead, LinesCodec>) -> Ended {
    let mut read = std::pin::pin!(read);
    let mut pace = Pace::new();
    loop {
        let text = match timeout(Duration::from_secs(DEAD_AFTER), read.next()).await {
            Err(_) => return Ended::Silent,
            Ok(None) => return Ended::Closed,
            Ok(Some(Err(error))) => return error.into(),
            Ok(Some(Ok(text))) => text,
        };
        pace.count(text.len()).await;
        let line: AgentLine = match serde_json::from_str(&text) {
            Ok(line) => line,
            Err(error) => return error.into(),
        };
        match line {
            AgentLine::Report(report) => {
                if let Err(error) = hub.report(&joined.node, *report, text.len(), Instant::now()) {
                    return error.into();
                }
            }
            AgentLine::Hello { version } => {
                tracing::debug!(node = joined.node, version, "an agent dialled in")
            }
            line => {
                if let Some(id) = joined.link.asks.take(line) {
                    // It goes on until it hears of it.
                    let _ = joined.link.lines.try_send(OperatorLine::Cancel { id });
                }
            }
        }
    }
}

async fn say(
    hub: &Arc<Hub>,
    mut lines: mpsc::Receiver<OperatorLine>,
    write: &mut (impl AsyncWrite + Unpin),
) -> Ended {
    let mut watching = hub.watching();
    // What is so now is said first.
    watching.mark_changed();
    let mut first = true;
    let mut alive = tokio::time::interval(Duration::from_secs(ALIVE_EVERY));
    loop {
        let line = tokio::select! {
            Ok(()) = watching.changed() => match *watching.borrow_and_update() {
                Some(interval_ms) => OperatorLine::Watch { interval_ms },
                None if first => OperatorLine::Alive,
                None => OperatorLine::Rest,
            },
            line = lines.recv() => match line {
                Some(OperatorLine::Bye { reason }) => return Ended::Bye(reason),
                Some(line) => line,
                None => return Ended::Closed,
            },
            _ = alive.tick() => OperatorLine::Alive,
        };
        first = false;
        match timeout(WRITE, send(write, &line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Ended::Silent,
        }
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), line: &OperatorLine) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.flush().await
}
