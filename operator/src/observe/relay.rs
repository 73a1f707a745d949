//! Questions to a node's agent, over the connection that it keeps.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use balancing_api::stream::{AgentLine, OperatorLine};
use tokio::sync::mpsc;

use super::hub::Link;

/// Parts of an answer that may wait for whoever asked.
const PARTS: usize = 512;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its head.
    Begin {
        /// HTTP status.
        status: u16,
        /// `Content-Type`.
        content_type: String,
    },
    /// Some of its body.
    Data(String),
    /// So many parts had no room here.
    Lost(u64),
}

#[derive(Debug)]
struct Waiting {
    parts: mpsc::Sender<Part>,
    /// May parts be left out where whoever asked is slow? Otherwise the answer breaks off.
    lossy: bool,
    lost: u64,
    /// Was the answer's end heard?
    complete: Arc<AtomicBool>,
}

/// Questions to one agent that are not answered in full.
#[derive(Debug, Default)]
pub(super) struct Asks {
    inner: Mutex<(u64, HashMap<u64, Waiting>)>,
}

impl Asks {
    fn inner(&self) -> MutexGuard<'_, (u64, HashMap<u64, Waiting>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, lossy: bool) -> (u64, mpsc::Receiver<Part>, Arc<AtomicBool>) {
        let (parts, receiver) = mpsc::channel(PARTS);
        let complete = Arc::<AtomicBool>::default();
        let mut inner = self.inner();
        inner.0 += 1;
        let id = inner.0;
        inner.1.insert(id, Waiting { parts, lossy, lost: 0, complete: Arc::clone(&complete) });
        (id, receiver, complete)
    }

    /// Takes a line of the agent in. Answers the question that is to be cancelled, since nobody can take its answer.
    pub(super) fn take(&self, line: AgentLine) -> Option<u64> {
        let (id, part) = match line {
            AgentLine::Begin { id, status, content_type } => (id, Part::Begin { status, content_type }),
            AgentLine::Part { id, data } => (id, Part::Data(data)),
            AgentLine::End { id } => {
                if let Some(waiting) = self.inner().1.remove(&id) {
                    waiting.complete.store(true, Ordering::Release);
                }
                return None;
            }
            AgentLine::Hello { .. } | AgentLine::Alive | AgentLine::Report(_) | AgentLine::Unknown => {
                return None;
            }
        };
        let mut inner = self.inner();
        let waiting = inner.1.get_mut(&id)?;
        if waiting.lost > 0 && waiting.parts.try_send(Part::Lost(waiting.lost)).is_ok() {
            waiting.lost = 0;
        }
        let sent = if waiting.lost > 0 {
            Err(mpsc::error::TrySendError::Full(part))
        } else {
            waiting.parts.try_send(part)
        };
        match sent {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(_)) if waiting.lossy => {
                waiting.lost += 1;
                None
            }
            Err(_) => {
                inner.1.remove(&id);
                Some(id)
            }
        }
    }

    /// Nobody answers any longer.
    pub(super) fn end(&self) {
        self.inner().1.clear();
    }
}

/// A question whose answer comes in parts; dropped, it is cancelled.
#[derive(Debug)]
pub(super) struct Asking {
    link: Arc<Link>,
    id: u64,
    complete: Arc<AtomicBool>,
    pub(super) parts: mpsc::Receiver<Part>,
}

impl Asking {
    /// Asks; nothing where the agent takes no more.
    pub(super) fn begin(
        link: Arc<Link>,
        method: &str,
        path: String,
        body: Option<String>,
        lossy: bool,
    ) -> Option<Self> {
        let (id, parts, complete) = link.asks.enter(lossy);
        let asking = Self { link, id, complete, parts };
        let line = OperatorLine::Ask { id, method: method.to_owned(), path, body };
        asking.link.lines.try_send(line).ok()?;
        Some(asking)
    }

    /// Was the end of the answer heard? Where not, and no more parts come, it broke off.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // It may be answered in full.
        if self.link.asks.inner().1.remove(&self.id).is_some() {
            let _ = self.link.lines.try_send(OperatorLine::Cancel { id: self.id });
        }
    }
}
