//! Who is connected, what each node said last, and who watches. Nothing is kept while nobody does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use balancing_api::{
    agent::{Counters, FrontendList, NodeStatus},
    stream::{DEAD_AFTER, LONGEST_LINE, LeftOut, NodeReport, OperatorLine, SHORTEST_INTERVAL},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::relay::Asks;
use crate::{
    metrics::{Metrics, StateLabel},
    port::Peer,
};

/// Who may watch at once. For one more the oldest viewer ends of the address that has the most.
const VIEWERS: usize = 32;
/// Bytes of reports that are kept with all their rows; of further nodes only what concerns policies is.
const BUDGET: usize = 192 << 20;
/// Bytes that the counters of one node may come to. A whole report fits into a line; what comes to more was added up of
/// rows that are gone.
const COUNTERS: usize = 2 * LONGEST_LINE;
/// Bytes that a row comes to besides its names.
const ROW: usize = 96;
/// A node that has been gone for so long is told no longer.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Lines that may wait for an agent; one that takes none is cut off by its connection.
const LINES: usize = 256;

/// What a node said, in parts that are shared with viewers. A part's version changes with it.
#[derive(Clone, Debug)]
pub(super) struct Reported {
    pub(super) status: Arc<NodeStatus>,
    pub(super) frontends: Arc<FrontendList>,
    pub(super) counters: Arc<Counters>,
    pub(super) versions: Versions,
    pub(super) left_out: LeftOut,
}

/// Versions of the parts of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) status: u64,
    pub(super) frontends: u64,
    pub(super) counters: u64,
}

/// A connected agent.
#[derive(Debug)]
pub(super) struct Link {
    /// Lines on their way to it.
    pub(super) lines: mpsc::Sender<OperatorLine>,
    /// Questions that it has not answered in full.
    pub(super) asks: Asks,
}

#[derive(Debug, Default)]
struct Node {
    link: Option<Arc<Link>>,
    reported: Option<Reported>,
    /// Bytes of the report.
    size: usize,
    heard: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<String, Node>,
    /// Viewers by number, which is larger for who came later.
    viewers: BTreeMap<u64, Watching>,
    counted: u64,
    bytes: usize,
}

/// A viewer.
#[derive(Debug)]
struct Watching {
    /// Milliseconds between two frames.
    interval: u64,
    /// Where it is asked from.
    peer: Peer,
    /// Another has its place.
    displaced: CancellationToken,
}

impl Inner {
    /// Makes room for a viewer from there; fails where nobody else has more of them.
    fn make_room(&mut self, peer: Peer) -> bool {
        if self.viewers.len() < VIEWERS {
            return true;
        }
        let mut count: HashMap<Peer, usize> = HashMap::new();
        for viewer in self.viewers.values() {
            *count.entry(viewer.peer).or_default() += 1;
        }
        let own = count.get(&peer).copied().unwrap_or(0);
        let Some((busiest, _)) = count.into_iter().max_by_key(|(_, n)| *n).filter(|(_, n)| *n > own) else {
            return false;
        };
        let oldest =
            self.viewers.iter().find(|(_, viewer)| viewer.peer == busiest).map(|(number, _)| *number);
        if let Some(viewer) = oldest.and_then(|number| self.viewers.remove(&number)) {
            viewer.displaced.cancel();
        }
        true
    }

    fn number(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    fn forget_reports(&mut self) {
        for node in self.nodes.values_mut() {
            (node.reported, node.size, node.heard) = (None, 0, None);
        }
        self.bytes = 0;
        self.nodes.retain(|_, node| node.link.is_some());
    }

    fn forget_gone(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.nodes.retain(|_, node| {
            let gone = node.link.is_none()
                && node.heard.is_none_or(|heard| now.saturating_duration_since(heard) > FORGOTTEN);
            *bytes -= if gone { node.size } else { 0 };
            !gone
        });
    }
}

/// Bytes that counters come to in memory, about.
fn weight(counters: &Counters) -> usize {
    let policies = counters.policies.iter().map(|c| {
        ROW + c.policy.name.len() + c.fallbacks.keys().map(|reason| ROW + reason.len()).sum::<usize>()
    });
    let backends = counters.backends.iter().map(|c| ROW + c.owner.len());
    ROW * counters.frontends.len() + policies.chain(backends).sum::<usize>()
}

/// What a viewer sees of a node.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) fresh: bool,
    pub(super) reported: Reported,
}

/// Everybody who reports, and everybody who watches.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    /// How often agents are to report, in milliseconds.
    watching: watch::Sender<Option<u64>>,
    metrics: Metrics,
}

/// A report is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReportError {
    /// What changed is told before what there is.
    #[error("the report is not full, and there is none before it")]
    NotFull,
    /// It is of another node.
    #[error("the report is of node {0:?}, which is not the token's")]
    OtherNode(String),
    /// More was added to what there is than there is room for; a full report begins anew.
    #[error("its counters come to more than {COUNTERS} bytes: dial again and report in full")]
    TooMuch,
}

impl Hub {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { inner: Mutex::default(), watching: watch::Sender::new(None), metrics }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often agents are to report.
    pub(super) fn watching(&self) -> watch::Receiver<Option<u64>> {
        self.watching.subscribe()
    }

    /// An agent is connected. One of the same node that was so before ends: its lines have no sender any longer.
    pub(super) fn join(self: &Arc<Self>, node: &str) -> (Joined, mpsc::Receiver<OperatorLine>) {
        let (lines, receiver) = mpsc::channel(LINES);
        let link = Arc::new(Link { lines, asks: Asks::default() });
        let mut inner = self.inner();
        let held = inner.nodes.entry(node.to_owned()).or_default();
        if let Some(before) = held.link.replace(Arc::clone(&link)) {
            before.asks.end();
            let _ = before.lines.try_send(OperatorLine::Bye { reason: "the node dialled again".to_owned() });
        }
        self.count(&inner);
        drop(inner);
        (Joined { hub: Arc::clone(self), node: node.to_owned(), link }, receiver)
    }

    fn leave(&self, node: &str, link: &Arc<Link>) {
        let mut inner = self.inner();
        link.asks.end();
        if let Some(held) = inner.nodes.get_mut(node)
            && held.link.as_ref().is_some_and(|l| Arc::ptr_eq(l, link))
        {
            held.link = None;
            if held.reported.is_none() {
                inner.nodes.remove(node);
            }
        }
        self.count(&inner);
    }

    fn count(&self, inner: &Inner) {
        let connected = inner.nodes.values().filter(|node| node.link.is_some()).count();
        let gauge = self.metrics.agents.get_or_create(&StateLabel { state: "connected" }).clone();
        gauge.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.metrics.viewers.set(i64::try_from(inner.viewers.len()).unwrap_or(i64::MAX));
    }

    /// The agent of a node, if it is connected.
    pub(super) fn link(&self, node: &str) -> Option<Arc<Link>> {
        self.inner().nodes.get(node)?.link.clone()
    }

    /// Takes a report in; `size` is its length as a line.
    pub(super) fn report(
        &self,
        node: &str,
        report: NodeReport,
        size: usize,
        now: Instant,
    ) -> Result<(), ReportError> {
        if let Some(status) = &report.status
            && status.node.name != node
        {
            return Err(ReportError::OtherNode(status.node.name.clone()));
        }
        let mut inner = self.inner();
        if inner.viewers.is_empty() {
            return Ok(());
        }
        let number = inner.number();
        let tight = inner.bytes > BUDGET;
        let Some(held) = inner.nodes.get_mut(node) else { return Ok(()) };
        let before = held.reported.take();
        let Some(mut reported) = merge(before.as_ref(), report, number) else {
            held.reported = before;
            return Err(ReportError::NotFull);
        };
        let counted = weight(&reported.counters);
        if counted > COUNTERS {
            held.reported = before;
            return Err(ReportError::TooMuch);
        }
        if tight {
            thin(&mut reported);
        }
        let size = size.max(held.size).max(counted);
        let old = std::mem::replace(&mut held.size, size);
        let grown = held.size - old;
        (held.reported, held.heard) = (Some(reported), Some(now));
        inner.bytes += grown;
        Ok(())
    }

    /// Somebody watches from now on; nothing where too many do, and none of them from an address that has more of them.
    pub(super) fn view(self: &Arc<Self>, peer: Peer, interval: u64) -> Option<Viewing> {
        let mut inner = self.inner();
        if !inner.make_room(peer) {
            return None;
        }
        let (number, displaced) = (inner.number(), CancellationToken::new());
        inner.viewers.insert(number, Watching { interval, peer, displaced: displaced.clone() });
        self.count(&inner);
        self.pace(&inner);
        drop(inner);
        Some(Viewing { hub: Arc::clone(self), number, displaced })
    }

    fn unview(&self, number: u64) {
        let mut inner = self.inner();
        inner.viewers.remove(&number);
        if inner.viewers.is_empty() {
            inner.forget_reports();
        }
        self.count(&inner);
        self.pace(&inner);
    }

    /// The shortest interval that anybody wants.
    fn pace(&self, inner: &Inner) {
        let shortest = inner.viewers.values().map(|viewer| viewer.interval).min();
        let wanted = shortest.map(|ms| ms.max(SHORTEST_INTERVAL));
        self.watching.send_if_modified(|held| std::mem::replace(held, wanted) != wanted);
    }

    /// Has every connected agent reported?
    pub(super) fn all_reported(&self) -> bool {
        self.inner().nodes.values().all(|node| node.link.is_none() || node.reported.is_some())
    }

    /// All that is known, by name. A node that has not reported for three intervals is not fresh; one that is gone for
    /// good is forgotten, for there are viewers that never end.
    pub(super) fn seen(&self, interval: u64, now: Instant) -> Vec<Seen> {
        let patience =
            Duration::from_millis(interval.saturating_mul(3)).max(Duration::from_secs(DEAD_AFTER / 2));
        let mut inner = self.inner();
        inner.forget_gone(now);
        let one = |(name, node): (&String, &Node)| {
            let recent = node.heard.is_some_and(|heard| now.duration_since(heard) <= patience);
            let reported = node.reported.clone()?;
            Some(Seen { name: name.clone(), fresh: recent && node.link.is_some(), reported })
        };
        inner.nodes.iter().filter_map(one).collect()
    }
}

/// An agent that is connected for as long as this lives.
#[derive(Debug)]
pub(super) struct Joined {
    hub: Arc<Hub>,
    pub(super) node: String,
    pub(super) link: Arc<Link>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.hub.leave(&self.node, &self.link);
    }
}

/// Somebody who watches for as long as this lives.
#[derive(Debug)]
pub(super) struct Viewing {
    hub: Arc<Hub>,
    number: u64,
    displaced: CancellationToken,
}

impl Viewing {
    /// Is cancelled when another has its place.
    pub(super) fn displaced(&self) -> CancellationToken {
        self.displaced.clone()
    }
}

impl Drop for Viewing {
    fn drop(&mut self) {
        self.hub.unview(self.number);
    }
}

/// What is known after a report; nothing where it cannot stand on what was known.
fn merge(before: Option<&Reported>, report: NodeReport, number: u64) -> Option<Reported> {
    let NodeReport { full, status, frontends, counters, left_out } = report;
    if full {
        let (status, frontends, counters) = (status?, frontends?, counters?);
        return Some(Reported {
            status: Arc::new(status),
            frontends: Arc::new(frontends),
            counters: Arc::new(counters),
            versions: Versions { status: number, frontends: number, counters: number },
            left_out,
        });
    }
    let mut known = before?.clone();
    if let Some(status) = status {
        (known.status, known.versions.status) = (Arc::new(status), number);
    }
    if let Some(frontends) = frontends {
        (known.frontends, known.versions.frontends) = (Arc::new(frontends), number);
    }
    if let Some(changed) = counters {
        (known.counters, known.versions.counters) = (Arc::new(updated(&known.counters, changed)), number);
    }
    known.left_out = left_out;
    Some(known)
}

/// The counters with the rows that changed.
fn updated(before: &Counters, changed: Counters) -> Counters {
    let mut all = before.clone();
    (all.since, all.taken_at, all.events) = (changed.since, changed.taken_at, changed.events);
    upsert(&mut all.policies, changed.policies, |c| c.policy.clone());
    upsert(&mut all.frontends, changed.frontends, |c| c.frontend);
    upsert(&mut all.backends, changed.backends, |c| (c.address, c.port, c.protocol, c.owner.clone()));
    all
}

fn upsert<T, K: std::hash::Hash + Eq>(rows: &mut Vec<T>, changed: Vec<T>, key: impl Fn(&T) -> K) {
    if changed.is_empty() {
        return;
    }
    let places: HashMap<K, usize> = rows.iter().enumerate().map(|(i, row)| (key(row), i)).collect();
    for row in changed {
        match places.get(&key(&row)) {
            Some(i) => rows[*i] = row,
            None => rows.push(row),
        }
    }
}

/// Leaves out what does not concern policies.
fn thin(reported: &mut Reported) {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (frontends, backends) = (reported.frontends.items.len(), reported.counters.backends.len());
    reported.left_out.add(LeftOut { policies: 0, frontends: count(frontends), backends: count(backends) });
    let view = reported.frontends.view.clone();
    reported.frontends = Arc::new(FrontendList { view, items: Vec::new() });
    let mut counters = Counters::clone(&reported.counters);
    (counters.frontends, counters.backends) = (Vec::new(), Vec::new());
    reported.counters = Arc::new(counters);
}
