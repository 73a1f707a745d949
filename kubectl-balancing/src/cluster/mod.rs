//! A cluster: what its API server and its operator say, as far as whoever asks may read it.

pub mod connect;
pub mod facts;
pub mod flags;
pub mod live;
pub mod node;
pub mod part;
mod pods;
pub mod policy;
pub mod read;
pub mod relay;
pub mod status;
pub mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::overview::{Gap, Replicas};
use futures_util::future::join_all;
use jiff::Timestamp;

use self::{
    connect::{Connection, Prompts},
    facts::{Facts, OwnPod, Read},
    flags::ClusterArgs,
    live::{Live, Told},
    part::{Chosen, List, Part, Parts},
    read::{Unreachable, gap_cause},
};
use crate::sample::Sample;

/// How old what the API server said may get while the operator's stream is read.
const REFRESH: Duration = Duration::from_secs(10);
/// How often the API server is asked at the most where there is no stream.
const POLL: Duration = Duration::from_secs(5);
/// How long to leave the operator alone that did not answer.
const RETRY: Duration = Duration::from_secs(10);
/// How long the first frame is waited for that speaks of every node: agents report only once somebody watches.
const WHOLE: Duration = Duration::from_secs(3);

/// A cluster that is asked.
#[derive(Clone)]
pub struct Cluster {
    /// The way to its API server.
    pub connection: Connection,
    /// The namespace that the product is installed in.
    pub namespace: String,
    /// Which of its policies and nodes.
    pub chosen: Chosen,
}

/// What of the product is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What nodes say of themselves.
    pub states: bool,
    /// The product's pods.
    pub pods: bool,
}

impl Wanted {
    /// All of it.
    pub const ALL: Self = Self { states: true, pods: true };
}

impl Cluster {
    /// A cluster as flags and kubeconfig name it. Nothing is asked yet.
    ///
    /// # Errors
    /// There is no way to it.
    pub async fn connect(flags: &ClusterArgs, prompts: Prompts) -> Result<Self, connect::Error> {
        let connection = connect::connect(flags, prompts).await?;
        Ok(Self { connection, namespace: flags.balancing_namespace.clone(), chosen: Chosen::default() })
    }

    /// What it is called where one looks at it: its context, or the address of its API server.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.connection.context {
            Some(context) => format!("cluster {context}"),
            None => format!("cluster {}", self.connection.server),
        }
    }

    /// Reads policies, and what else is wanted. What may not be read is a gap.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn read(&self, wanted: Wanted) -> Result<Read, Unreachable> {
        let asked = Part::of(wanted, &self.chosen).into_iter().map(|part| async move {
            let List { missing, kind, namespace, query } = part.list(self);
            (part, self.connection.list(missing, kind, namespace, &query).await)
        });
        let (mut parts, mut gaps) = (Parts::default(), Vec::new());
        for (part, answer) in join_all(asked).await {
            match answer {
                Ok(objects) => parts.put(part, &objects),
                Err(failure) => gaps.push(part.gap(&self.chosen, failure)?),
            }
        }
        Ok(parts.read(&self.namespace, &self.chosen, gaps))
    }

    /// A sample without counters: what nodes say of themselves.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn states(&self, wanted: Wanted) -> Result<Sample, Unreachable> {
        Ok(self.read(wanted).await?.uncounted())
    }

    /// Is the operator's stream to be read? If not, why.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn live_gap(&self) -> Result<Option<Gap>, Unreachable> {
        match Live::open(&self.connection, &self.namespace, Duration::from_secs(2), None).await {
            Ok(_) => Ok(None),
            Err(failure) => live::as_gap(failure).map(Some),
        }
    }
}

/// Counts pods.
#[must_use]
pub fn replicas(pods: &[OwnPod]) -> Replicas {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Replicas { ready: count(pods.iter().filter(|p| p.ready && p.runs).count()), all: count(pods.len()) }
}

/// Samples of a cluster, one after the other: from the operator's stream, and from the API server where there is none.
pub struct Feed {
    cluster: Cluster,
    read: Option<(Instant, Read)>,
    live: Option<Live>,
    /// Why there is no stream, and since when.
    gap: Option<(Instant, Gap)>,
    /// Was a frame told that speaks of every node?
    whole: bool,
    /// The node that alone is looked at: of many nodes the operator tells the rest as one.
    only: Option<String>,
}

impl Feed {
    /// Samples of that cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self::of_node(cluster, None)
    }

    /// The same, where one node alone is looked at.
    #[must_use]
    pub fn of_node(cluster: Cluster, only: Option<String>) -> Self {
        Self { cluster, read: None, live: None, gap: None, whole: false, only }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How long to wait before the next sample is asked for: a stream tells them by itself.
    #[must_use]
    pub fn wait(&self, interval: Duration) -> Duration {
        if self.live.is_some() { Duration::ZERO } else { interval.max(POLL) }
    }

    /// The next sample.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn next(&mut self, interval: Duration) -> Result<(Timestamp, Sample), Unreachable> {
        if self.read.as_ref().is_none_or(|(at, _)| self.live.is_none() || at.elapsed() >= REFRESH) {
            match self.cluster.read(Wanted::ALL).await {
                Ok(read) => self.read = Some((Instant::now(), read)),
                // The stream is a connection of its own, and may go on.
                Err(error) if self.live.is_none() => return Err(error),
                Err(_) => {}
            }
        }
        let told = self.told(interval).await?;
        let silent = told.as_ref().is_some_and(|t| t.sample.nodes.is_empty() && t.sample.stale.is_empty());
        let known = self.read.as_ref().is_some_and(|(_, r)| r.states.iter().flatten().next().is_some());
        // What the API server says has the names of nodes that do not report.
        let known = known || self.only.is_some();
        if let Some(told) = told.filter(|_| !(silent && known)) {
            let facts = self.read.as_ref().map(|(_, r)| r.facts(None)).unwrap_or_default();
            let mut facts = Facts { others: told.others, left_out: told.left_out, ..facts };
            if self.cluster.chosen.node_selector.is_some() {
                facts
                    .gaps
                    .extend(facts.others.take().map(|o| live::together(&self.cluster.namespace, o.nodes)));
            }
            let mut sample = Sample { cluster: Some(Arc::new(facts)), ..told.sample };
            if let Some((_, read)) = &self.read {
                read.restrict(&mut sample);
            }
            return Ok((told.time, sample));
        }
        let mut read = self.read.as_ref().map(|(_, r)| r.clone()).unwrap_or_default();
        let why = match &self.gap {
            _ if silent => live::SILENT.to_owned(),
            Some((_, gap)) => gap_cause(gap),
            None => String::new(),
        };
        let named = read.states.iter().flatten().any(|s| self.only.as_ref().is_none_or(|o| *o == s.name));
        if silent && (named || self.only.is_none()) {
            read.gaps.push(live::silence(&self.cluster.namespace));
        }
        read.gaps.extend(self.gap.as_ref().map(|(_, gap)| gap.clone()));
        Ok((read.time, read.told(why)))
    }

    /// What the operator's stream tells next; none where there is none.
    async fn told(&mut self, interval: Duration) -> Result<Option<Told>, Unreachable> {
        if self.live.as_ref().is_some_and(|l| l.interval != interval) {
            self.live = None;
        }
        if self.live.is_none() {
            if self.gap.as_ref().is_some_and(|(at, _)| at.elapsed() < RETRY) {
                return Ok(None);
            }
            let (connection, namespace) = (&self.cluster.connection, &self.cluster.namespace);
            match Live::open(connection, namespace, interval, self.only.as_deref()).await {
                Ok(live) => self.live = Some(live),
                Err(failure) => {
                    self.gap = Some((Instant::now(), live::as_gap(failure)?));
                    return Ok(None);
                }
            }
            self.whole = false;
        }
        let Some(live) = &mut self.live else { return Ok(None) };
        let began = Instant::now();
        loop {
            match live.next().await {
                Ok(told) if told.whole || self.whole || began.elapsed() >= WHOLE => {
                    self.whole = true;
                    self.gap = None;
                    return Ok(Some(told));
                }
                Ok(_) => {}
                Err(gap) => {
                    self.live = None;
                    self.gap = Some((Instant::now(), gap));
                    return Ok(None);
                }
            }
        }
    }
}
