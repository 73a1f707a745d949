//! A cluster: what its API server and its operator say, as far as whoever asks may read it.

pub mod connect;
pub mod facts;
pub mod flags;
pub mod live;
pub mod node;
pub mod policy;
pub mod read;
pub mod status;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::{
    overview::{Gap, Replicas},
    policy::PolicyKind,
};
use jiff::Timestamp;
use serde_json::Value;

use self::{
    connect::{Connection, Prompts},
    facts::{AgentPod, Facts, NodeState, PolicyFact, Read},
    flags::ClusterArgs,
    live::{Live, Told},
    read::{BALANCINGS, Failure, LOCAL_REDIRECTS, PODS, STATES, Unreachable, gap_cause},
};
use crate::sample::Sample;

/// Labels of the product's pods.
const PRODUCT: &str = "app.kubernetes.io/name=balancing";
/// The label that tells its components apart.
const COMPONENT: &str = "/metadata/labels/app.kubernetes.io~1component";
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
        Ok(Self { connection, namespace: flags.balancing_namespace.clone() })
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
        let c = &self.connection;
        let none = || async { Ok::<_, Failure>(Vec::new()) };
        let states = async {
            if wanted.states { c.list("state of nodes", STATES, None, "").await } else { none().await }
        };
        let pods = async {
            let query = format!("labelSelector={}", PRODUCT.replace('=', "%3D"));
            if wanted.pods {
                c.list("agents that stopped", PODS, Some(&self.namespace), &query).await
            } else {
                none().await
            }
        };
        let (redirects, balancings, states, pods) = tokio::join!(
            c.list("LocalRedirectPolicies", LOCAL_REDIRECTS, None, ""),
            c.list("BalancingPolicies", BALANCINGS, None, ""),
            states,
            pods,
        );
        let mut read = Read { time: Timestamp::now(), namespace: self.namespace.clone(), ..Read::default() };
        let mut keep = |answer: Result<Vec<Value>, Failure>| -> Result<Option<Vec<Value>>, Unreachable> {
            match answer {
                Ok(items) => Ok(Some(items)),
                Err(failure) => {
                    read.gaps.push(failure.gap()?);
                    Ok(None)
                }
            }
        };
        let redirects = keep(redirects)?;
        let balancings = keep(balancings)?;
        let states = keep(states)?;
        let pods = keep(pods)?;
        let kinds = [(PolicyKind::LocalRedirectPolicy, redirects), (PolicyKind::BalancingPolicy, balancings)];
        for (kind, items) in kinds {
            if let Some(items) = items {
                let facts = items.iter().filter_map(|o| PolicyFact::of(kind, o));
                read.policies.get_or_insert_default().extend(facts);
            }
        }
        if wanted.states {
            read.states = states.map(|s| s.iter().filter_map(NodeState::of).collect());
        }
        if let Some(pods) = pods.filter(|_| wanted.pods) {
            let of = |component: &str| {
                let is = move |p: &&Value| p.pointer(COMPONENT).is_some_and(|c| c == component);
                pods.iter().filter(is).filter_map(AgentPod::of).collect::<Vec<_>>()
            };
            let operator = of("operator");
            read.operator = Some(replicas(&operator));
            read.agents = Some(of("agent"));
        }
        Ok(read)
    }

    /// A sample without counters: what nodes say of themselves.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn states(&self, wanted: Wanted) -> Result<Sample, Unreachable> {
        let read = self.read(wanted).await?;
        let why =
            "an API server has no counters; `kubectl balancing top` asks the operator for them".to_owned();
        let facts = read.facts(Some(why));
        Ok(Sample { cluster: Some(Arc::new(facts)), ..read.sample() })
    }

    /// Is the operator's stream to be read? If not, why.
    ///
    /// # Errors
    /// Nothing can be read.
    pub async fn live_gap(&self) -> Result<Option<Gap>, Unreachable> {
        match Live::open(&self.connection, &self.namespace, Duration::from_secs(2)).await {
            Ok(_) => Ok(None),
            Err(failure) => live::as_gap(failure).map(Some),
        }
    }
}

/// Counts pods.
#[must_use]
pub fn replicas(pods: &[AgentPod]) -> Replicas {
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
}

impl Feed {
    /// Samples of that cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, read: None, live: None, gap: None, whole: false }
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
        if let Some(told) = told.filter(|_| !(silent && known)) {
            let facts = self.read.as_ref().map(|(_, r)| r.facts(None)).unwrap_or_default();
            let facts = Facts { others: told.others, left_out: told.left_out, ..facts };
            return Ok((told.time, Sample { cluster: Some(Arc::new(facts)), ..told.sample }));
        }
        let mut read = self.read.as_ref().map(|(_, r)| r.clone()).unwrap_or_default();
        let why = match &self.gap {
            _ if silent => "no agent reports to the operator".to_owned(),
            Some((_, gap)) => gap_cause(gap),
            None => String::new(),
        };
        if silent {
            read.gaps.push(live::silence(&self.cluster.namespace));
        }
        read.gaps.extend(self.gap.as_ref().map(|(_, gap)| gap.clone()));
        let facts = read.facts(Some(why));
        Ok((read.time, Sample { cluster: Some(Arc::new(facts)), ..read.sample() }))
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
            match Live::open(&self.cluster.connection, &self.cluster.namespace, interval).await {
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
