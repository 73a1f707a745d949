//! What agents, operator and plugin say to one another live: one JSON object a line, each with its `kind`. A reader
//! skips kinds that it does not know.
//!
//! **Agent and operator.** The leader's EndpointSlice ([`LABEL_LEADER`](crate::names::LABEL_LEADER)) says where it
//! listens and by which authority its certificate is signed ([`ANNOTATION_CA`](crate::names::ANNOTATION_CA)). An agent
//! keeps one connection to it: `GET /v1/agent` with its token of audience [`AUDIENCE`] and `Upgrade:` [`PROTOCOL`];
//! after `101` both sides write lines, the agent [`AgentLine`], the operator [`OperatorLine`].
//!
//! **Operator and plugin.** `GET /v1/observe?interval=2s&limit=N[&node=NAME][&policy=KIND/NAME]` answers [`ObserveLine`]s
//! without end. It needs no token, since the API server's service proxy passes none on; so it tells aggregates only:
//! counters, states, no process and no connection. `GET /v1/nodes/NODE/status`, `/frontends`, `/counters`, `/events?…` and
//! `POST /v1/nodes/NODE/decide` are the agent's own paths, relayed over its connection; they need a bearer token whose
//! user may `get` the subresource of that name of `nodebalancingstates` NODE (`balancing.elf.io`).

use serde::{Deserialize, Serialize};

use crate::{
    agent::{Counters, FrontendList, NodeStatus},
    cli::NodeCount,
    policy::PolicyRef,
    recording::RecordingFrame,
};

/// Audience of the token that an agent shows to the operator.
pub const AUDIENCE: &str = "balancing-operator";
/// What an agent's connection is upgraded to.
pub const PROTOCOL: &str = "balancing-agent/1";
/// Path of an agent's connection.
pub const AGENT_PATH: &str = "/v1/agent";
/// Path of the plugin's stream.
pub const OBSERVE_PATH: &str = "/v1/observe";
/// Path below which a node's agent is asked.
pub const NODES_PATH: &str = "/v1/nodes";
/// The parts of an agent that can be asked for a node. Each is a subresource of `nodebalancingstates` for rights.
pub const NODE_PARTS: [&str; 5] = ["status", "frontends", "counters", "events", "decide"];

/// The longest line that an agent or the operator takes from the other.
pub const LONGEST_LINE: usize = 1 << 20;
/// Seconds between two signs of life of a connection on which nothing else is written.
pub const ALIVE_EVERY: u64 = 5;
/// Seconds without a sign of life after which a connection is dead.
pub const DEAD_AFTER: u64 = 20;
/// Milliseconds between two reports: the shortest that may be asked for, and what is meant where nothing is.
pub const SHORTEST_INTERVAL: u64 = 1000;
/// See [`SHORTEST_INTERVAL`].
pub const DEFAULT_INTERVAL: u64 = 2000;
/// Nodes that a frame tells one by one, where nothing else is asked for.
pub const DEFAULT_LIMIT: usize = 50;
/// The most nodes that a frame tells one by one.
pub const LARGEST_LIMIT: usize = 500;

/// Name of the node in a frame that stands for those which are not told one by one.
pub const OTHER_NODES: &str = "(others)";

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum AgentLine {
    /// The first line. Which node it is follows from the token.
    Hello {
        /// Version of the agent.
        version: String,
    },
    /// Nothing else to say.
    Alive,
    /// How the node is and what it counted.
    Report(Box<NodeReport>),
    /// The head of the answer to a question.
    Begin {
        /// The question.
        id: u64,
        /// HTTP status.
        status: u16,
        /// `Content-Type`.
        #[serde(rename = "contentType")]
        content_type: String,
    },
    /// A part of the answer's body.
    Part {
        /// The question.
        id: u64,
        /// The bytes, which are text.
        data: String,
    },
    /// The end of the answer.
    End {
        /// The question.
        id: u64,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

/// What the operator says to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum OperatorLine {
    /// Nothing else to say.
    Alive,
    /// Somebody watches: report now, in full, and then what changed.
    Watch {
        /// Milliseconds from one report to the next.
        interval_ms: u64,
    },
    /// Nobody watches any longer.
    Rest,
    /// Answer this as the agent API would.
    Ask {
        /// Number of the question on this connection.
        id: u64,
        /// `GET` or `POST`.
        method: String,
        /// Path and query.
        path: String,
        /// The body of a `POST`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// Nobody waits for the answer any longer.
    Cancel {
        /// The question.
        id: u64,
    },
    /// The connection ends; the agent is to dial again, after a moment.
    Bye {
        /// Why.
        reason: String,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

/// A node's report. What is absent is as it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeReport {
    /// Everything is here, and what was reported before counts no longer.
    pub full: bool,
    /// `GET /v1/status`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// `GET /v1/frontends`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontends: Option<FrontendList>,
    /// `GET /v1/counters`; unless `full`, only the rows that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What had no room in it.
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
}

/// Rows that a report has no room for: those of policies and the busiest are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Policies.
    pub policies: u32,
    /// Frontends.
    pub frontends: u32,
    /// Backends.
    pub backends: u32,
}

impl LeftOut {
    /// Is everything there?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what else is left out.
    pub fn add(&mut self, other: Self) {
        self.policies += other.policies;
        self.frontends += other.frontends;
        self.backends += other.backends;
    }
}

/// What the operator says to the plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum ObserveLine {
    /// The first line.
    Hello(ObserveHello),
    /// How things are.
    Frame(Box<ObserveFrame>),
    /// Nothing new.
    Alive,
    /// So many frames were not made, because the reader was slow.
    Lost {
        /// How many.
        frames: u64,
    },
    /// The stream ends.
    Bye {
        /// Why.
        reason: String,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

/// The head of the plugin's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObserveHello {
    /// Version of the operator.
    pub server: String,
    /// Milliseconds between two frames: what was asked for, within what is allowed.
    pub interval_ms: u64,
    /// Nodes that a frame tells one by one.
    pub limit: u32,
    /// Nodes of the cluster.
    pub nodes: u32,
}

/// A frame: as one of a recording, its nodes absent where nothing about them changed since the last.
///
/// The first frames may be without nodes: agents report only once somebody watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObserveFrame {
    /// Coverage and nodes. A node's `counters` are whole, `status` and `frontends` absent where they are as they were.
    /// Nodes that are in no frame any longer are in `gone`.
    #[serde(flatten)]
    pub frame: RecordingFrame,
    /// Nodes of earlier frames that are told no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// What the node [`OTHER_NODES`] stands for, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<OtherNodes>,
    /// Rows that reports had no room for, over all nodes.
    #[serde(default, skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
}

/// The nodes that are told as one: their counters are added up, of their states the worst is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherNodes {
    /// How many. They are among the fresh ones.
    pub nodes: u32,
    /// On how many of them each policy is wanted and programmed.
    pub policies: Vec<OtherNodesPolicy>,
}

/// A policy on the nodes that are told as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherNodesPolicy {
    /// Kind and name.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// Nodes.
    pub nodes: NodeCount,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_spelled_so() {
        let line = |line: &OperatorLine| serde_json::to_value(line).unwrap();
        assert_eq!(line(&OperatorLine::Alive), json!({"kind": "Alive"}));
        assert_eq!(
            line(&OperatorLine::Watch { interval_ms: 2000 }),
            json!({"kind": "Watch", "intervalMs": 2000})
        );
        let ask = OperatorLine::Ask { id: 7, method: "GET".into(), path: "/v1/status".into(), body: None };
        assert_eq!(line(&ask), json!({"kind": "Ask", "id": 7, "method": "GET", "path": "/v1/status"}));
        let begin = AgentLine::Begin { id: 7, status: 200, content_type: "application/json".into() };
        assert_eq!(
            serde_json::to_value(&begin).unwrap(),
            json!({"kind": "Begin", "id": 7, "status": 200, "contentType": "application/json"})
        );
        let report = AgentLine::Report(Box::default());
        assert_eq!(serde_json::to_value(&report).unwrap(), json!({"kind": "Report", "full": false}));
        assert_eq!(
            serde_json::to_value(ObserveLine::Lost { frames: 3 }).unwrap(),
            json!({"kind": "Lost", "frames": 3})
        );
    }

    #[test]
    fn what_a_later_version_says_is_skipped() {
        let later = json!({"kind": "Weather", "clouds": 3}).to_string();
        assert_eq!(serde_json::from_str::<AgentLine>(&later).unwrap(), AgentLine::Unknown);
        assert_eq!(serde_json::from_str::<OperatorLine>(&later).unwrap(), OperatorLine::Unknown);
        assert_eq!(serde_json::from_str::<ObserveLine>(&later).unwrap(), ObserveLine::Unknown);
        let more = json!({"kind": "Watch", "intervalMs": 5, "colour": "red"}).to_string();
        assert_eq!(
            serde_json::from_str::<OperatorLine>(&more).unwrap(),
            OperatorLine::Watch { interval_ms: 5 }
        );
    }

    #[test]
    fn a_frame_reads_as_one_of_a_recording() {
        let line = json!({
            "kind": "Frame", "time": "2026-01-01T00:00:00Z",
            "coverage": {"fresh": 1, "stale": 0, "missing": ["n2"]}, "nodes": [{"name": "n1"}], "gone": ["n3"],
        })
        .to_string();
        let frame: RecordingFrame = serde_json::from_str(&line).unwrap();
        assert_eq!((frame.nodes[0].name.as_str(), frame.coverage.missing.len()), ("n1", 1));
        let ObserveLine::Frame(read) = serde_json::from_str::<ObserveLine>(&line).unwrap() else { panic!() };
        assert_eq!((read.frame, read.gone), (frame, vec!["n3".to_owned()]));
    }
}
