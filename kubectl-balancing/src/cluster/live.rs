//! The operator's stream, through the API server's service proxy: frames of all nodes, an interval apart.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use balancing_api::{
    agent::{Counters, FrontendList, NodeStatus},
    names::OPERATOR_SERVICE,
    overview::Gap,
    stream::{
        ALIVE_EVERY, DEAD_AFTER, LARGEST_LIMIT, LeftOut, OBSERVE_PATH, ObserveFrame, ObserveLine, OtherNodes,
    },
};
use http::Request;
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use kube::{client::Body, core::Status};

use super::{
    connect::Connection,
    read::{Asked, Failure, Unreachable, failure, observe_path, segment},
};
use crate::{
    sample::{NodeSample, Sample, complete},
    text::sanitise,
};

/// How long the operator may take to begin: it answers at once, or not at all.
const BEGINS: Duration = Duration::from_secs(5);
/// A frame longer than this is not the operator's.
const LONGEST: usize = 256 << 20;
/// An answer that is an error is not longer than this.
const LONGEST_ERROR: usize = 1 << 20;

/// What a node said last, as far as it is known.
#[derive(Default)]
struct Said {
    status: Option<NodeStatus>,
    frontends: Option<FrontendList>,
    counters: Option<Counters>,
    stale: bool,
}

/// Everything that frames told so far. Pure.
#[derive(Default)]
pub(super) struct Memory {
    nodes: BTreeMap<String, Said>,
    last: Option<Timestamp>,
}

/// What a frame comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When.
    pub time: Timestamp,
    /// All nodes.
    pub sample: Sample,
    /// Nodes that are told as one.
    pub others: Option<OtherNodes>,
    /// Rows that reports had no room for.
    pub left_out: LeftOut,
    /// Are all of the nodes that report in it? Agents report only once somebody watches.
    pub whole: bool,
}

impl Memory {
    pub(super) fn apply(&mut self, frame: ObserveFrame) -> Told {
        let ObserveFrame { frame, gone, others, left_out } = frame;
        for name in gone {
            self.nodes.remove(&name);
        }
        let passed =
            self.last.map(|last| frame.time.duration_since(last)).filter(jiff::SignedDuration::is_positive);
        self.last = Some(frame.time);
        for said in self.nodes.values_mut().filter(|s| !s.stale) {
            // Whoever is not in the frame has counted nothing more until now.
            if let (Some(passed), Some(counters)) = (passed, &mut said.counters) {
                counters.taken_at = counters.taken_at.checked_add(passed).unwrap_or(counters.taken_at);
            }
        }
        for node in frame.nodes {
            let said = self.nodes.entry(node.name).or_default();
            said.stale = node.stale;
            said.status = node.status.or(said.status.take());
            said.frontends = node.frontends.or(said.frontends.take());
            said.counters = node.counters.or(said.counters.take());
        }
        let mut sample = Sample { coverage: frame.coverage, ..Sample::default() };
        for said in self.nodes.values() {
            let (Some(status), Some(frontends), Some(counters)) =
                (&said.status, &said.frontends, &said.counters)
            else {
                continue;
            };
            let (status, mut frontends, counters) = (status.clone(), frontends.clone(), counters.clone());
            complete(&mut frontends, &status);
            let node = NodeSample { status, frontends, counters };
            if said.stale { sample.stale.push(node) } else { sample.nodes.push(node) }
        }
        let apart = others.as_ref().map_or(0, |o| (o.nodes as usize).saturating_sub(1));
        let all = sample.coverage.fresh as usize;
        let whole = sample.coverage.missing.is_empty() && sample.nodes.len() + apart >= all;
        Told { time: frame.time, sample, others, left_out, whole }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    ready: VecDeque<Vec<u8>>,
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes in; false where a line is too long to be one.
    fn push(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.ready.push_back(std::mem::take(&mut self.rest));
            }
        }
        self.rest.len() <= LONGEST
    }
}

/// An open stream. Dropping it closes it.
pub struct Live {
    body: Body,
    lines: Lines,
    memory: Memory,
    /// How often a frame comes.
    pub interval: Duration,
    namespace: String,
}

/// Names of what is asked for, for gaps.
struct Names {
    resource: String,
    can_i: String,
    absent: String,
}

impl Names {
    fn new(namespace: &str) -> Self {
        let resource = format!("services/https:{OPERATOR_SERVICE}:observe");
        Self {
            can_i: format!("kubectl auth can-i get {resource} --subresource=proxy -n {namespace}"),
            absent: format!(
                "is Balancing installed in namespace {namespace}? --balancing-namespace names another one"
            ),
            resource: format!("{resource}/proxy"),
        }
    }

    fn asked<'a>(&'a self, namespace: &'a str) -> Asked<'a> {
        Asked {
            missing: "rates",
            verb: "get",
            resource: &self.resource,
            namespace: Some(namespace),
            can_i: &self.can_i,
            absent: &self.absent,
        }
    }
}

/// What to do where the operator is silent.
fn look(namespace: &str) -> String {
    format!("does the operator run? kubectl get pods -n {namespace} -l app.kubernetes.io/component=operator")
}

impl Live {
    /// Opens the stream, of all nodes or of one.
    ///
    /// # Errors
    /// It may not be read, or the operator does not answer.
    pub async fn open(
        connection: &Connection,
        namespace: &str,
        interval: Duration,
        node: Option<&str>,
    ) -> Result<Self, Failure> {
        let names = Names::new(namespace);
        let mut path = format!(
            "{}{OBSERVE_PATH}?interval={}ms&limit={LARGEST_LIMIT}",
            observe_path(namespace),
            interval.as_millis()
        );
        if let Some(node) = node {
            path.push_str(&format!("&node={}", segment(node)));
        }
        let failed = |message: &str| {
            let asked = names.asked(namespace);
            Failure::Gap(Box::new(gap(asked, namespace, message)))
        };
        let request = Request::get(path).body(Body::empty()).map_err(|e| failed(&e.to_string()))?;
        let answer = tokio::time::timeout(BEGINS, connection.client.send(request)).await;
        let response = match answer {
            Err(_) => {
                return Err(failed(&format!("the operator did not answer within {} s", BEGINS.as_secs())));
            }
            Ok(Err(error)) => return Err(failure(names.asked(namespace), &connection.server, &error)),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(Self {
                body: response.into_body(),
                lines: Lines::default(),
                memory: Memory::default(),
                interval,
                namespace: namespace.to_owned(),
            });
        }
        let body = Limited::new(response.into_body(), LONGEST_ERROR).collect();
        let body = tokio::time::timeout(BEGINS, body).await.ok().and_then(Result::ok);
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        let said = serde_json::from_slice::<Status>(&body).unwrap_or_default();
        let message = if said.message.is_empty() { text } else { said.message };
        match status.as_u16() {
            code @ (401 | 403 | 404) => {
                let error = kube::Error::Api(Box::new(Status { code, message, ..Status::default() }));
                Err(failure(names.asked(namespace), &connection.server, &error))
            }
            _ => Err(failed(&format!(
                "the operator does not answer ({}: {})",
                status.as_u16(),
                message.trim()
            ))),
        }
    }

    fn broken(&self, message: &str) -> Gap {
        let names = Names::new(&self.namespace);
        gap(names.asked(&self.namespace), &self.namespace, message)
    }

    /// The next frame.
    ///
    /// # Errors
    /// The stream has ended or is silent; it is to be opened again.
    pub async fn next(&mut self) -> Result<Told, Gap> {
        loop {
            while let Some(line) = self.lines.ready.pop_front() {
                match serde_json::from_slice::<ObserveLine>(&line) {
                    Ok(ObserveLine::Frame(frame)) if frame.frame.error.is_none() => {
                        return Ok(self.memory.apply(*frame));
                    }
                    Ok(ObserveLine::Frame(frame)) => {
                        return Err(self.broken(&frame.frame.error.unwrap_or_default()));
                    }
                    Ok(ObserveLine::Bye { reason }) => {
                        return Err(self.broken(&format!("the operator ended the stream: {reason}")));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        return Err(
                            self.broken(&format!("the operator said what is no line of its stream: {error}"))
                        );
                    }
                }
            }
            let silence = Duration::from_secs(DEAD_AFTER.max(3 * ALIVE_EVERY));
            let part = match tokio::time::timeout(silence, self.body.frame()).await {
                Err(_) => {
                    return Err(self.broken(&format!("the operator is silent for {} s", silence.as_secs())));
                }
                Ok(None) => return Err(self.broken("the operator's stream ended")),
                Ok(Some(Err(error))) => {
                    return Err(self.broken(&format!("the operator's stream broke: {error}")));
                }
                Ok(Some(Ok(part))) => part,
            };
            if let Ok(bytes) = part.into_data()
                && !self.lines.push(&bytes)
            {
                return Err(self.broken("the operator wrote a line that has no end"));
            }
        }
    }
}

fn gap(asked: Asked<'_>, namespace: &str, message: &str) -> Gap {
    Gap {
        missing: asked.missing.to_owned(),
        verb: asked.verb.to_owned(),
        resource: asked.resource.to_owned(),
        namespace: Some(namespace.to_owned()),
        reason: super::read::FAILED.to_owned(),
        message: sanitise(message).into_owned(),
        next: look(namespace),
    }
}

/// Why there is nothing where the operator answers.
pub(super) const SILENT: &str = "no agent that is asked about reports to the operator";

/// What is missing where the operator answers and no agent tells it anything.
pub(super) fn silence(namespace: &str) -> Gap {
    let names = Names::new(namespace);
    let mut gap = gap(names.asked(namespace), namespace, SILENT);
    gap.next = format!(
        "can the nodes reach its Service? kubectl logs -n {namespace} -l app.kubernetes.io/component=agent --tail=20"
    );
    gap
}

/// What is missing where only some nodes are asked for, and some of all are told as one.
pub(super) fn together(namespace: &str, nodes: u32) -> Gap {
    let names = Names::new(namespace);
    let message =
        format!("of so many nodes the operator tells {nodes} as one, some of these may be among them");
    let mut gap = gap(names.asked(namespace), namespace, &message);
    gap.missing = "numbers of some nodes".to_owned();
    gap.next = "choose fewer: kubectl balancing top --node NAME".to_owned();
    gap
}

/// The last thing that could be said of a stream that could not be opened.
pub(super) fn as_gap(failure: Failure) -> Result<Gap, Unreachable> {
    failure.gap()
}

#[cfg(test)]
mod tests {
    use balancing_api::{cli::Coverage, recording::RecordedNode};

    use super::*;
    use crate::{fixture::world, sample::Board};

    fn frame(seconds: i64, fresh: u32, nodes: Vec<RecordedNode>) -> ObserveFrame {
        let time = world().counters.taken_at + jiff::SignedDuration::from_secs(seconds);
        let coverage = Coverage { fresh, ..Coverage::default() };
        ObserveFrame {
            frame: balancing_api::recording::RecordingFrame { time, coverage, nodes, error: None },
            gone: Vec::new(),
            others: None,
            left_out: LeftOut::default(),
        }
    }

    fn node(name: &str) -> RecordedNode {
        let mut w = world();
        w.status.node.name = name.to_owned();
        RecordedNode {
            name: name.to_owned(),
            stale: false,
            status: Some(w.status),
            frontends: Some(w.programmed),
            counters: Some(w.counters),
        }
    }

    /// Its counters alone, so many seconds and redirects later.
    fn later(name: &str, seconds: i64, redirects: u64) -> RecordedNode {
        let mut counters = world().counters;
        counters.taken_at += jiff::SignedDuration::from_secs(seconds);
        counters.policies[0].redirects += redirects;
        RecordedNode {
            name: name.to_owned(),
            stale: false,
            status: None,
            frontends: None,
            counters: Some(counters),
        }
    }

    #[test]
    fn what_a_frame_leaves_out_is_as_it_was() {
        let mut memory = Memory::default();
        let first = memory.apply(frame(0, 2, vec![node("n1")]));
        assert!(!first.whole && first.sample.nodes.len() == 1);
        let second = memory.apply(frame(2, 2, vec![node("n2")]));
        assert!(second.whole && second.sample.nodes.len() == 2);
        let third = memory.apply(frame(4, 2, vec![later("n1", 4, 100)]));
        let board = Board::new(third.sample.clone(), Some(&second.sample));
        let name = &world().counters.policies[0].policy;
        let row = board.policies.iter().find(|p| p.policy == *name).unwrap();
        // n1 made 100 in two seconds; n2, of which nothing was said, made none.
        assert_eq!(row.rates.as_ref().unwrap().redirects, 50.0);
        let rates =
            |node: &str| board.nodes.iter().find(|n| n.name == node).unwrap().rates.unwrap().redirects;
        assert_eq!((rates("n1"), rates("n2")), (50.0, 0.0));
        let mut last = frame(6, 1, vec![]);
        last.gone = vec!["n2".to_owned()];
        assert_eq!(memory.apply(last).sample.nodes.len(), 1);
    }

    #[test]
    fn a_silent_node_is_apart_and_its_clock_stands_still() {
        let mut memory = Memory::default();
        memory.apply(frame(0, 1, vec![node("n1")]));
        let quiet = RecordedNode { stale: true, counters: None, ..later("n1", 0, 0) };
        memory.apply(frame(2, 0, vec![quiet]));
        let told = memory.apply(frame(4, 0, vec![]));
        assert_eq!((told.sample.nodes.len(), told.sample.stale.len()), (0, 1));
        let since = told.sample.stale[0].counters.taken_at.duration_since(world().counters.taken_at);
        assert_eq!(since.as_secs(), 2);
    }

    #[test]
    fn bytes_become_lines_wherever_they_are_cut() {
        let text = b"one\ntwo\n\nthree";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            for part in text.chunks(size) {
                assert!(lines.push(part));
            }
            assert_eq!(lines.ready, [&b"one\n"[..], b"two\n", b"\n"], "{size}");
            assert_eq!(lines.rest, b"three");
        }
    }
}
