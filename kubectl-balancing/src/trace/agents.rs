//! Whose events are shown: those of one agent, or of nodes of a cluster.

use balancing_api::policy::PolicyRef;

use super::{Error, TraceArgs};
use crate::{
    client::Client,
    cluster::{
        Wanted,
        relay::{NodesError, Wish},
    },
    target::Target,
    text::sanitise,
};

/// An agent, and the node that it is of.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Name of the node.
    pub node: String,
    /// Asks it.
    pub client: Client,
}

/// Those that are asked.
#[derive(Clone, Debug)]
pub struct Agents {
    /// At least one.
    pub all: Vec<Agent>,
    /// Is a stream that breaks off opened again? The leader of a cluster may change at any time.
    pub lasting: bool,
    /// The policies that are known there; none where that is not known.
    pub policies: Option<Vec<PolicyRef>>,
}

impl Agents {
    /// Those that the command line asks for.
    ///
    /// # Errors
    /// There are none, or they cannot be found.
    pub async fn of(args: &TraceArgs, target: &Target) -> Result<Self, Error> {
        match target {
            Target::Agent(client) => {
                let status = client.status().await?;
                let node = status.node.name;
                if let Some(other) = args.node.iter().find(|n| **n != node) {
                    return Err(NodesError::Wrong(format!(
                        "--node {other:?}: this agent is that of node {}; without --agent a cluster's nodes are asked",
                        sanitise(&node)
                    ))
                    .into());
                }
                let policies =
                    status.policies.into_iter().map(|p| PolicyRef { kind: p.kind, name: p.name }).collect();
                let all = vec![Agent { node, client: client.clone() }];
                Ok(Self { all, lasting: false, policies: Some(policies) })
            }
            Target::Cluster(cluster) => {
                let relay = cluster.relay();
                let nodes = cluster.nodes(Wish::All(&args.node)).await?;
                let agent = |node: String| Agent { client: Client::of_node(&relay, &node), node };
                let all = nodes.into_iter().map(agent).collect();
                let read = match args.filters.names_policies() {
                    true => cluster.read(Wanted::default()).await.ok().filter(|r| r.gaps.is_empty()),
                    false => None,
                };
                let policies = read.and_then(|r| r.policies);
                let policies = policies.map(|all| all.into_iter().map(|p| p.policy).collect());
                Ok(Self { all, lasting: true, policies })
            }
        }
    }
}
