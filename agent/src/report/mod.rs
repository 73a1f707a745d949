//! The agent's one connection to the operator: it dials the leader, reports while somebody watches, and answers what it is
//! asked as the agent API would. Nothing here is needed for the data path.
//!
//! The lines are those of [`balancing_api::stream`].

mod answer;
mod delta;
mod dial;
mod session;
mod trim;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the leading replica of the operator listens, and by whom its certificate is signed.
pub use balancing_api::leader::Leader as Place;

use crate::http::NodeView;

/// The first wait after a connection that failed; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// What is needed to dial the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator; its certificate is made out to its Service there.
    pub namespace: String,
    /// File with the token that is shown to it. It is read for each connection.
    pub token: PathBuf,
    /// Where the leader listens.
    pub place: watch::Receiver<Option<Place>>,
}

/// Keeps the connection until `shutdown`.
pub async fn run<V: NodeView>(view: Arc<V>, settings: Settings, shutdown: CancellationToken) {
    let Settings { namespace, token, place: mut places } = settings;
    let mut wait = FIRST_WAIT;
    let mut told = None;
    loop {
        let place = places.borrow_and_update().clone();
        let began = tokio::time::Instant::now();
        let ended = match &place {
            // Without an operator there is nobody to report to.
            None => None,
            Some(place) => tokio::select! {
                () = shutdown.cancelled() => return,
                // Another replica leads: it is dialled at once.
                Ok(()) = places.changed() => continue,
                ended = once(&view, place, (&namespace, &token), &shutdown) => Some(ended),
            },
        };
        if let Some(ended) = ended {
            let why = describe(&ended);
            if began.elapsed() >= GOOD {
                (wait, told) = (FIRST_WAIT, None);
            }
            if told.as_ref() != Some(&why) {
                tracing::info!(
                    "no connection to the operator: {why}; trying again, the data path does not need it"
                );
                told = Some(why);
            }
        }
        let pause = async {
            match place {
                Some(_) => tokio::time::sleep(spread(wait)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = places.changed() => match changed {
                Ok(()) => wait = FIRST_WAIT,
                Err(_) => return,
            },
            () = pause => wait = (wait * 2).min(LONGEST_WAIT),
        }
    }
}

async fn once<V: NodeView>(
    view: &Arc<V>,
    place: &Place,
    (namespace, token): (&str, &Path),
    shutdown: &CancellationToken,
) -> dial::Ended {
    match dial::dial(place, namespace, token).await {
        Ok(stream) => {
            tracing::debug!(address = %place.address, "connected to the operator");
            session::keep(view, stream, shutdown).await
        }
        Err(error) => error,
    }
}

/// Not all agents at the same moment.
fn spread(wait: Duration) -> Duration {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    wait / 2 + wait.mul_f64((random % 1000) as f64 / 1000.0)
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
