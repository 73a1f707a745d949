//! The stream of a viewer. A frame is made when the reader is ready for it: whoever is slow gets fewer, and holds up
//! nobody.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use balancing_api::{
    records::Text,
    stream::{ALIVE_EVERY, ObserveHello, ObserveLine},
};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    frame::{self, Sent},
    hub::{Hub, Viewing},
    query::Query,
};

/// How long the first frame waits for agents, which report only once somebody watches.
const FIRST: Duration = Duration::from_millis(1500);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(50);

/// A viewer's end.
pub(super) struct Viewer {
    hub: Arc<Hub>,
    query: Query,
    nodes: watch::Receiver<Arc<[Text]>>,
    /// Becomes ready, with the reason, when nobody is served here any longer.
    over: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    #[expect(dead_code, reason = "held for as long as somebody watches")]
    viewing: Viewing,
    sent: Sent,
    stage: Stage,
}

enum Stage {
    Hello,
    First,
    /// When the next frame is due.
    Next(Instant),
    Over,
}

impl Viewer {
    pub(super) fn new(
        hub: Arc<Hub>,
        query: Query,
        nodes: watch::Receiver<Arc<[Text]>>,
        viewing: Viewing,
        over: impl Future<Output = &'static str> + Send + 'static,
    ) -> Self {
        Self { hub, query, nodes, over: Box::pin(over), viewing, sent: Sent::default(), stage: Stage::Hello }
    }

    /// The stream as a body.
    pub(super) fn body(self) -> Body {
        Body::from_stream(futures_util::stream::unfold(self, Self::next))
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let lines = match self.stage {
            Stage::Hello => {
                self.stage = Stage::First;
                vec![ObserveLine::Hello(self.hello())]
            }
            Stage::First => {
                wait_for_agents(&self.hub).await;
                self.stage = Stage::Next(Instant::now() + self.interval());
                vec![self.frame()]
            }
            Stage::Next(due) => self.later(due).await,
            Stage::Over => return None,
        };
        let mut text = Vec::new();
        for line in lines {
            // These types hold nothing that JSON cannot say.
            text.extend(serde_json::to_vec(&line).unwrap_or_default());
            text.push(b'\n');
        }
        Some((Ok(text.into()), self))
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.query.interval)
    }

    fn hello(&self) -> ObserveHello {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ObserveHello {
            server: env!("CARGO_PKG_VERSION").to_owned(),
            interval_ms: self.query.interval,
            limit: count(self.query.limit),
            nodes: count(self.nodes.borrow().len()),
        }
    }

    /// The frame that is due then, or a sign of life where that is far off.
    async fn later(&mut self, due: Instant) -> Vec<ObserveLine> {
        let alive = Instant::now() + Duration::from_secs(ALIVE_EVERY);
        tokio::select! {
            () = tokio::time::sleep_until(due.min(alive).into()) => {}
            reason = &mut self.over => {
                self.stage = Stage::Over;
                return vec![ObserveLine::Bye { reason: reason.to_owned() }];
            }
        }
        let now = Instant::now();
        if now < due {
            return vec![ObserveLine::Alive];
        }
        let interval = self.interval();
        let late =
            u64::try_from(now.duration_since(due).as_millis() / interval.as_millis().max(1)).unwrap_or(0);
        self.stage = Stage::Next(due + interval.saturating_mul(u32::try_from(late + 1).unwrap_or(u32::MAX)));
        let lost = (late > 0).then_some(ObserveLine::Lost { frames: late });
        lost.into_iter().chain([self.frame()]).collect()
    }

    fn frame(&mut self) -> ObserveLine {
        let seen = self.hub.seen(self.query.interval, Instant::now());
        let nodes = Arc::clone(&self.nodes.borrow());
        // Adding up a thousand nodes takes a tenth of a second.
        let frame = tokio::task::block_in_place(|| {
            frame::frame(&self.query, &seen, &nodes, &mut self.sent, Timestamp::now())
        });
        ObserveLine::Frame(Box::new(frame))
    }
}

async fn wait_for_agents(hub: &Hub) {
    let until = Instant::now() + FIRST;
    while !hub.all_reported() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
}
