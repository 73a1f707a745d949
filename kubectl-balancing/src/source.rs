//! Where samples come from: an agent, a cluster, a recording, or the synthetic cluster.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    client::{self, Client},
    cluster::{Feed, read::Unreachable, relay::Relay},
    demo::Demo,
    recording::{Moment, Replay, ReplayError},
    sample::Sample,
    scope::{NotFound, Scope},
};

/// A source of samples, and the part of them that is asked for.
pub struct Source {
    from: From,
    scope: Scope,
    /// Has something been heard?
    heard: bool,
}

/// Who says it.
pub enum From {
    /// One agent.
    Agent(Client),
    /// A cluster.
    Cluster(Box<Feed>),
    /// A recording.
    Replay(Box<Replay>),
    /// The synthetic cluster.
    Demo(Box<Demo>),
}

/// What kind of data a screen or a document shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Origin {
    /// Of now.
    #[default]
    Live,
    /// Of a recording, so many times faster.
    Replay {
        /// How many times.
        speed: f64,
        /// Is it a recording of synthetic data?
        demo: bool,
    },
    /// Synthetic.
    Demo,
}

impl Origin {
    /// Is it synthetic data? Then every output says so.
    #[must_use]
    pub fn is_demo(self) -> bool {
        matches!(self, Self::Demo | Self::Replay { demo: true, .. })
    }
}

/// What a source said.
#[derive(Debug)]
pub enum Answer {
    /// A sample, and when it was taken.
    Sample(Timestamp, Sample),
    /// Nothing: it could not be had when it was recorded, or cannot be read now.
    Gap(Error),
    /// There is no more.
    End,
}

/// A source did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The agent.
    #[error("{0}")]
    Client(Arc<client::Error>),
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] Unreachable),
    /// The recording.
    #[error("{0}")]
    Replay(Arc<ReplayError>),
    /// It has nothing of what is asked for.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The agent, when it was recorded.
    #[error("the agent did not answer when this was recorded: {0}")]
    Recorded(String),
    /// A line of the recording.
    #[error("{0}; it is left out")]
    Torn(String),
}

impl Error {
    /// May it answer when it is asked again?
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Cluster(Unreachable::Refused(_) | Unreachable::Failed(_)))
    }

    /// The cause in a few words.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Client(error) => error.short(),
            Self::Cluster(error) => error.short(),
            Self::Replay(error) => error.to_string(),
            Self::NotFound(error) => error.to_string(),
            Self::Recorded(error) => format!("no answer then: {error}"),
            Self::Torn(error) => error.clone(),
        }
    }

    /// Does the recording go on behind it?
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(self, Self::Recorded(_) | Self::Torn(_))
    }
}

impl Source {
    /// A part of what somebody says.
    #[must_use]
    pub fn new(from: From, scope: Scope) -> Self {
        Self { from, scope, heard: false }
    }

    /// The agent that is asked, if it is one.
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        match &self.from {
            From::Agent(client) => Some(client),
            From::Cluster(_) | From::Replay(_) | From::Demo(_) => None,
        }
    }

    /// The way to the agents of the cluster that is asked, if it is one.
    #[must_use]
    pub fn relay(&self) -> Option<Relay> {
        match &self.from {
            From::Cluster(feed) => Some(feed.cluster().relay()),
            From::Agent(_) | From::Replay(_) | From::Demo(_) => None,
        }
    }

    /// Asks for the next sample, `step` after the last.
    pub async fn next(&mut self, step: Duration) -> Result<Answer, Error> {
        Ok(match self.from.next(step).await? {
            Answer::Sample(time, sample) => {
                let sample = self.scope.of(sample, !self.heard)?;
                self.heard = true;
                Answer::Sample(time, sample)
            }
            other => other,
        })
    }

    /// How long to wait for the next sample when one is wanted every `interval`.
    pub fn wait(&mut self, interval: Duration) -> Result<Duration, Error> {
        match &mut self.from {
            From::Agent(_) | From::Demo(_) => Ok(interval),
            From::Cluster(feed) => Ok(feed.wait(interval)),
            From::Replay(replay) => replay.wait().map_err(|e| Error::Replay(Arc::new(e))),
        }
    }

    /// Must whoever wants two samples wait between them?
    #[must_use]
    pub fn has_a_clock_of_its_own(&self) -> bool {
        self.client().is_none()
    }

    /// How long whoever prints has to wait before the next sample: a cluster without a stream is not asked at once again.
    #[must_use]
    pub fn pause(&self, interval: Duration) -> Duration {
        match &self.from {
            From::Cluster(feed) if self.heard => feed.wait(interval),
            _ => Duration::ZERO,
        }
    }

    /// What kind of data it is.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match &self.from {
            From::Agent(_) | From::Cluster(_) => Origin::Live,
            From::Replay(replay) => Origin::Replay { speed: replay.speed, demo: replay.header.demo },
            From::Demo(_) => Origin::Demo,
        }
    }

    /// Who is asked.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.from {
            From::Agent(client) => client.endpoint().to_string(),
            From::Cluster(feed) => feed.cluster().name(),
            From::Replay(replay) => replay.header.agent.clone(),
            From::Demo(_) => "the synthetic cluster".to_owned(),
        }
    }
}

impl From {
    async fn next(&mut self, step: Duration) -> Result<Answer, Error> {
        match self {
            Self::Agent(client) => {
                let node = client.sample().await.map_err(|e| Error::Client(Arc::new(e)))?;
                let sample = Sample::of_one(node);
                Ok(Answer::Sample(sample.taken_at(), sample))
            }
            Self::Cluster(feed) => {
                let (time, sample) = feed.next(step).await?;
                Ok(Answer::Sample(time, sample))
            }
            Self::Replay(replay) => {
                Ok(match replay.next_moment().map_err(|e| Error::Replay(Arc::new(e)))? {
                    Some((time, Moment::Sample(sample))) => Answer::Sample(time, sample),
                    Some((_, Moment::Gap(error))) => Answer::Gap(Error::Recorded(error)),
                    Some((_, Moment::Torn(error))) => Answer::Gap(Error::Torn(error)),
                    None => Answer::End,
                })
            }
            Self::Demo(demo) => {
                let sample = demo.next(step);
                Ok(Answer::Sample(demo.now(), sample))
            }
        }
    }
}
