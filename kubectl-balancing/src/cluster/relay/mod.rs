//! The way to the agents of a cluster: the leader of its operator asks them, over the connections that they keep, for
//! whoever shows it a token and may.
//!
//! The API server's proxy passes no token on, so the operator is reached by itself: by a port that the API server
//! forwards to its pod, or by a route of one's own. What is spoken there is TLS with the operator, whose authorities its
//! EndpointSlice names: the token is seen by nobody in between.

mod refusal;
mod tls;
mod token;
mod way;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use balancing_api::{
    leader::Leader,
    names::{LEADER_SLICE, OPERATOR_SERVICE},
};
use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::time::timeout;

pub use self::{
    refusal::Refusal,
    token::{Credentials, TokenFile},
    way::{Operator, Stream},
};
use super::{
    Cluster,
    connect::Connection,
    read::{Asked, Failure, NODES, PODS, SLICES, STATES, Unreachable},
};
use crate::text::{list, near, sanitise};

/// How long it may take until the operator is there: a port is forwarded over API server and kubelet.
const DIALS: Duration = Duration::from_secs(10);
/// Nodes that are asked at once at the most. The operator answers 32 questions at once, of all who ask.
pub const NODES_AT_ONCE: usize = 16;

/// The way to the agents of a cluster. What was found on the way is kept for the next question.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    connection: Connection,
    namespace: String,
    leader: Mutex<Option<Leader>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("namespace", &self.0.namespace).finish_non_exhaustive()
    }
}

/// A connection with the operator, and who asks over it.
pub struct Opened {
    /// Bytes within TLS.
    pub stream: Stream,
    /// `Host`.
    pub host: String,
    /// `Authorization`.
    pub bearer: HeaderValue,
}

impl Relay {
    /// The way to the agents of that cluster. Nobody is asked yet.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        Self(Arc::new(Inner {
            connection: cluster.connection.clone(),
            namespace: cluster.namespace.clone(),
            leader: Mutex::default(),
        }))
    }

    /// The namespace of the installation.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Connects with the leader. Where another one leads meanwhile, it is dialled.
    ///
    /// # Errors
    /// It cannot be reached, or there is no token to show.
    pub fn open(&self) -> BoxFuture<'_, Result<Opened, Refusal>> {
        // Boxed, since the compiler cannot tell of a future with so much in it that it may go to another thread.
        Box::pin(self.opened())
    }

    async fn opened(&self) -> Result<Opened, Refusal> {
        let bearer = self.0.connection.credentials.bearer(&self.0.namespace).await?;
        let host = format!("{OPERATOR_SERVICE}.{}.svc", self.0.namespace);
        let known = self.known().clone();
        let leader = match known.clone() {
            Some(leader) => leader,
            None => self.find().await?,
        };
        let stream = match self.dial(&leader, &host).await {
            Ok(stream) => stream,
            // What was just read is not read again.
            Err(refusal) if known.is_none() => return Err(refusal),
            Err(refusal) => {
                let next = self.find().await?;
                if next == leader {
                    return Err(refusal);
                }
                self.dial(&next, &host).await?
            }
        };
        Ok(Opened { stream, host, bearer })
    }

    /// Forgets who leads: whoever was taken for the leader says that it is none.
    pub fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Leader>> {
        self.0.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads who leads.
    async fn find(&self) -> Result<Leader, Refusal> {
        let Inner { connection, namespace, .. } = &*self.0;
        let can_i = format!("kubectl auth can-i get {}/{LEADER_SLICE} -n {namespace}", SLICES.resource());
        let resource = format!("{}/{LEADER_SLICE}", SLICES.resource());
        let absent = format!(
            "is Balancing installed in namespace {namespace}, and does its operator run? kubectl get pods -n {namespace} \
             -l app.kubernetes.io/component=operator; --balancing-namespace names another one"
        );
        let asked = Asked {
            missing: "way to single nodes",
            verb: "get",
            resource: &resource,
            namespace: Some(namespace),
            can_i: &can_i,
            absent: &absent,
        };
        let slice = connection.get(asked, &format!("{}/{LEADER_SLICE}", SLICES.path(Some(namespace)))).await;
        let slice = slice.map_err(|failure| Refusal::leader(failure, namespace))?;
        let leader = Leader::of(&slice).ok_or_else(|| Refusal::NoLeader { namespace: namespace.clone() })?;
        *self.known() = Some(leader.clone());
        Ok(leader)
    }

    async fn dial(&self, leader: &Leader, host: &str) -> Result<Stream, Refusal> {
        let Inner { connection, namespace, .. } = &*self.0;
        let dialled = async {
            let plain = match &connection.operator {
                Some(operator) => way::direct(operator).await?,
                None => way::forwarded(connection, namespace, leader).await?,
            };
            tls::secured(plain, host, &leader.authorities).await
        };
        let patience = connection.timeout.map_or(DIALS, |t| t.min(DIALS));
        timeout(patience, dialled).await.map_err(|_| Refusal::Silent { seconds: patience.as_secs() })?
    }
}

/// Why it is not known which nodes to ask.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// Nothing of the cluster can be read.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The flags name none, or one that is not there.
    #[error("{0}")]
    Wrong(String),
}

/// The nodes that a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish<'a> {
    /// These, or all.
    All(&'a [String]),
    /// These, or the one that there is.
    Some(&'a [String]),
}

impl Cluster {
    /// The way to its agents.
    #[must_use]
    pub fn relay(&self) -> Relay {
        Relay::new(self)
    }

    /// The names of the nodes that a command asks for.
    ///
    /// # Errors
    /// There are none, or too many, or one that was named is not there.
    pub async fn nodes(&self, wish: Wish<'_>) -> Result<Vec<String>, NodesError> {
        let known = match self.node_names().await {
            Ok(known) => Ok(known),
            Err(Failure::Unreachable(error)) => return Err(error.into()),
            Err(Failure::Gap(gap)) => Err(super::read::gap_text(&gap)),
        };
        chosen(wish, known).map_err(NodesError::Wrong)
    }

    /// Those whose agents said something; where these may not be read, the cluster's.
    async fn node_names(&self) -> Result<Vec<String>, Failure> {
        let names = |items: Vec<serde_json::Value>| {
            let mut names: Vec<String> =
                items.iter().filter_map(|o| o["metadata"]["name"].as_str()).map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        let c = &self.connection;
        match c.list("names of nodes", STATES, None, "").await {
            Ok(items) => Ok(names(items)),
            Err(Failure::Gap(gap)) => match c.list("names of nodes", NODES, None, "").await {
                Ok(items) => Ok(names(items)),
                // The right to the first is the one that is given to whoever looks on.
                Err(Failure::Gap(_)) => Err(Failure::Gap(gap)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The node that a pod runs on.
    ///
    /// # Errors
    /// It cannot be read, or has none.
    pub async fn node_of_pod(&self, pod: &str) -> Result<String, NodesError> {
        let wrong = |text: String| Err(NodesError::Wrong(text));
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        match self.connection.object("node of the pod", PODS, Some(namespace), name).await {
            Ok(object) => match object["spec"]["nodeName"].as_str() {
                Some(node) => Ok(node.to_owned()),
                None => wrong(format!("the pod {pod} is on no node yet: nothing decides for it")),
            },
            Err(Failure::Unreachable(error)) => Err(error.into()),
            Err(Failure::Gap(gap)) if gap.reason == super::read::NOT_FOUND => {
                wrong(format!("there is no pod {pod}: kubectl get pods -n {namespace}"))
            }
            Err(Failure::Gap(gap)) => {
                wrong(format!("{}\n  or name its node with --node", super::read::gap_text(&gap)))
            }
        }
    }
}

/// The nodes that are meant, of those that are known. Pure.
fn chosen(wish: Wish<'_>, known: Result<Vec<String>, String>) -> Result<Vec<String>, String> {
    let (Wish::All(named) | Wish::Some(named)) = wish;
    let named: BTreeSet<&String> = named.iter().collect();
    if named.len() > NODES_AT_ONCE {
        return Err(format!("--node: {} nodes are asked at once at the most", NODES_AT_ONCE));
    }
    let known = match (known, named.is_empty()) {
        (Ok(known), _) => known,
        // Whoever may not know their names may still ask for one.
        (Err(_), false) => return Ok(named.into_iter().cloned().collect()),
        (Err(why), true) => return Err(format!("{why}\n  or name a node with --node")),
    };
    if let Some(name) = named.iter().find(|n| !known.contains(n)) {
        let near = near(name, known.iter().map(String::as_str));
        let hint = match near.as_slice() {
            [] if known.is_empty() => "no agent has said anything so far".to_owned(),
            [] => format!("there is {}", sanitise(&list(&known, 10))),
            near => format!("did you mean {}?", sanitise(&list(near, 3))),
        };
        return Err(format!("no node {name:?} with an agent; {hint}"));
    }
    if !named.is_empty() {
        return Ok(named.into_iter().cloned().collect());
    }
    match (wish, known.len()) {
        (_, 0) => Err("there is no node with an agent: kubectl balancing status".to_owned()),
        (_, 1) => Ok(known),
        (Wish::All(_), all) if all <= NODES_AT_ONCE => Ok(known),
        (Wish::All(_), all) => Err(format!(
            "there are {all} nodes, and {NODES_AT_ONCE} are asked at once at the most: name some with --node; there is {}",
            sanitise(&list(&known, 10))
        )),
        (Wish::Some(_), _) => {
            Err(format!("which node? Name it with --node; there is {}", sanitise(&list(&known, 10))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|i| format!("node-{i:02}")).collect()
    }

    fn of(wish: Wish<'_>, known: usize) -> Result<Vec<String>, String> {
        chosen(wish, Ok(names(known)))
    }

    #[test]
    fn which_nodes_are_asked() {
        let one = ["node-02".to_owned(), "node-02".to_owned()];
        assert_eq!(of(Wish::All(&[]), 3).unwrap(), names(3));
        assert_eq!(of(Wish::All(&one), 3).unwrap(), ["node-02"]);
        assert_eq!(of(Wish::Some(&one), 3).unwrap(), ["node-02"]);
        assert_eq!(of(Wish::Some(&[]), 1).unwrap(), ["node-01"]);
        let told = of(Wish::Some(&[]), 3).unwrap_err();
        assert_eq!(told, "which node? Name it with --node; there is node-01, node-02, node-03");
        assert!(of(Wish::All(&[]), 17).unwrap_err().contains("there are 17 nodes, and 16 are asked at once"));
        assert!(of(Wish::All(&names(17)), 17).unwrap_err().contains("16 nodes"));
        assert!(of(Wish::All(&[]), 0).unwrap_err().contains("no node with an agent"));
        let told = of(Wish::All(&["node-3".to_owned()]), 3).unwrap_err();
        assert!(told.starts_with("no node \"node-3\" with an agent; did you mean node-03"), "{told}");
    }

    #[test]
    fn a_name_is_enough_where_names_may_not_be_read() {
        let unknown = || Err("you may not".to_owned());
        assert_eq!(chosen(Wish::Some(&["n1".to_owned()]), unknown()).unwrap(), ["n1"]);
        let told = chosen(Wish::All(&[]), unknown()).unwrap_err();
        assert_eq!(told, "you may not\n  or name a node with --node");
    }
}
