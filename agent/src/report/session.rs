//! The lines of a connection, both ways.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::Router;
use balancing_api::stream::{
    ALIVE_EVERY, AgentLine, DEAD_AFTER, LONGEST_LINE, LeftOut, NodeReport, OperatorLine, SHORTEST_INTERVAL,
};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, interval_at, timeout, timeout_at},
};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    sync::CancellationToken,
};

use super::{
    answer, delta,
    dial::Ended,
    trim::{LITTLE_ROOM, ROOM, Sample},
};
use crate::http::{Access, NodeView, View, ViewError, router};

/// Questions that are answered at once.
const ANSWERS: usize = 32;
/// Lines of answers that may wait.
const LINES: usize = 64;
/// How long a line may take to be written.
const WRITE: Duration = Duration::from_secs(DEAD_AFTER);

struct Session<'v, V, W> {
    view: &'v Arc<V>,
    write: W,
    router: Router,
    /// How often to report, while somebody watches.
    ticks: Option<tokio::time::Interval>,
    /// What was reported last.
    reported: Option<Sample>,
    answers: JoinSet<()>,
    answering: HashMap<u64, AbortHandle>,
    lines: mpsc::Sender<AgentLine>,
}

/// Speaks until either side ends.
pub(super) async fn keep<V: NodeView>(
    view: &Arc<V>,
    stream: impl AsyncRead + AsyncWrite,
    shutdown: &CancellationToken,
) -> Ended {
    let (read, write) = tokio::io::split(stream);
    let mut read = std::pin::pin!(FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_LINE)));
    let (lines, mut answered) = mpsc::channel(LINES);
    let router = router(Arc::clone(view), Access::All, shutdown.clone());
    let mut session = Session {
        view,
        write,
        router,
        ticks: None,
        reported: None,
        answers: JoinSet::new(),
        answering: HashMap::new(),
        lines,
    };
    let hello = AgentLine::Hello { version: env!("CARGO_PKG_VERSION").to_owned() };
    let mut alive = interval(Duration::from_secs(ALIVE_EVERY));
    let mut heard = Instant::now();
    let mut first = Some(hello);
    loop {
        if let Some(line) = first.take()
            && let Err(ended) = session.send(&line).await
        {
            return ended;
        }
        let done = tokio::select! {
            () = shutdown.cancelled() => Err(Ended::Asked),
            line = timeout_at(heard + Duration::from_secs(DEAD_AFTER), read.next()) => match line {
                Err(_) => Err(Ended::Silent),
                Ok(None) => Err(Ended::Closed),
                Ok(Some(Err(error))) => Err(error.into()),
                Ok(Some(Ok(text))) => {
                    heard = Instant::now();
                    session.take(&text)
                }
            },
            () = tick(&mut session.ticks) => session.report().await,
            Some(line) = answered.recv() => session.send(&line).await,
            Some(_) = session.answers.join_next() => {
                session.answering.retain(|_, handle| !handle.is_finished());
                Ok(())
            }
            _ = alive.tick() => session.send(&AgentLine::Alive).await,
        };
        if let Err(ended) = done {
            return ended;
        }
    }
}

async fn tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

impl<V: NodeView, W: AsyncWrite + Unpin> Session<'_, V, W> {
    async fn send(&mut self, line: &AgentLine) -> Result<(), Ended> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.write(&text).await
    }

    async fn write(&mut self, text: &[u8]) -> Result<(), Ended> {
        let writing = async {
            self.write.write_all(text).await?;
            self.write.flush().await
        };
        Ok(timeout(WRITE, writing).await.map_err(|_| Ended::Silent)??)
    }

    /// Takes a line of the operator in.
    fn take(&mut self, text: &str) -> Result<(), Ended> {
        match serde_json::from_str(text)? {
            OperatorLine::Alive | OperatorLine::Unknown => {}
            OperatorLine::Watch { interval_ms } => {
                let every = Duration::from_millis(interval_ms.max(SHORTEST_INTERVAL));
                let mut ticks = interval_at(Instant::now(), every);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                (self.ticks, self.reported) = (Some(ticks), None);
            }
            OperatorLine::Rest => (self.ticks, self.reported) = (None, None),
            OperatorLine::Ask { id, method, path, body } => {
                if self.answers.len() < ANSWERS {
                    let answer =
                        answer::answer(self.router.clone(), id, (method, path, body), self.lines.clone());
                    self.answering.insert(id, self.answers.spawn(answer));
                } else {
                    // No head, only an end: it has no answer. Where even that has no room, it waits in vain.
                    let _ = self.lines.try_send(AgentLine::End { id });
                }
            }
            OperatorLine::Cancel { id } => {
                if let Some(answer) = self.answering.remove(&id) {
                    answer.abort();
                }
            }
            OperatorLine::Bye { reason } => return Err(Ended::Bye(reason)),
        }
        Ok(())
    }

    async fn report(&mut self) -> Result<(), Ended> {
        let view = Arc::clone(self.view);
        let read = tokio::task::spawn_blocking(move || sample(&*view)).await;
        let sample = match read {
            Ok(Ok(sample)) => sample,
            Ok(Err(error)) => {
                tracing::debug!(%error, "nothing to report yet");
                return Ok(());
            }
            Err(error) => {
                tracing::error!(%error, "failed to read what is to be reported");
                return Ok(());
            }
        };
        let trimmed = sample.clone().trimmed(ROOM);
        let mut text = line(self.reported.as_ref(), &trimmed)?;
        self.reported = Some(trimmed);
        if text.len() >= LONGEST_LINE {
            let small = sample.trimmed(LITTLE_ROOM);
            text = line(None, &small)?;
            self.reported = Some(small);
        }
        if text.len() >= LONGEST_LINE {
            tracing::warn!(bytes = text.len(), "the report is too long for the operator; it is left out");
            self.reported = None;
            return Ok(());
        }
        self.write(&text).await
    }
}

fn line(before: Option<&Sample>, now: &Sample) -> Result<Vec<u8>, serde_json::Error> {
    let report: NodeReport = match before {
        Some(before) => delta::delta(before, now),
        None => delta::full(now),
    };
    let mut text = serde_json::to_vec(&AgentLine::Report(Box::new(report)))?;
    text.push(b'\n');
    Ok(text)
}

fn sample(view: &impl NodeView) -> Result<Sample, ViewError> {
    Ok(Sample {
        status: view.status()?,
        frontends: view.frontends(View::Programmed)?,
        counters: view.counters()?,
        left_out: LeftOut::default(),
    })
}
