//! Whom a command asks: the agent of one node, or a cluster.

use std::path::Path;

use balancing_api::policy::PolicyKind;

use crate::{
    cli::Cli,
    client::{Client, Endpoint, ParseEndpointError},
    cluster::{Cluster, connect, connect::Prompts, part::Chosen},
};

/// Where an agent listens unless told otherwise.
pub const DEFAULT_AGENT: &str = "/run/balancing/agent.sock";
/// The variable that names an agent.
pub const VARIABLE: &str = "BALANCING_AGENT";

/// Whom a command asks.
#[derive(Clone)]
pub enum Target {
    /// One agent, without any cluster.
    Agent(Client),
    /// A cluster.
    Cluster(Box<Cluster>),
}

/// There is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two were named.
    #[error(
        "--agent names one agent, which is asked without a cluster: leave out --agent, or the flags that name a cluster"
    )]
    Both,
    /// The variable names no agent.
    #[error("{VARIABLE}: {0}")]
    Variable(ParseEndpointError),
    /// Nobody was named, and there is nobody at the usual places.
    #[error(
        "there is neither a cluster nor an agent to ask\n  a cluster: name its kubeconfig with --kubeconfig or KUBECONFIG; \
         there is none at ~/.kube/config\n  one node without a cluster: name its agent with --agent or {VARIABLE}; none \
         listens at unix:{DEFAULT_AGENT} on this machine"
    )]
    Nobody,
    /// Nobody who is asked knows labels.
    #[error(
        "only a cluster knows labels: without one choose rows with --filter, or name what is to be shown, instead of -l and \
         --node-selector"
    )]
    NoLabels,
    /// There is no way to the cluster.
    #[error(transparent)]
    Connect(#[from] connect::Error),
}

impl Error {
    /// Is the command line wrong?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Both | Self::Variable(_) | Self::NoLabels | Self::Connect(connect::Error::Flag(_))
        )
    }
}

/// Who was named, or is where one would look.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Agent(Endpoint),
    Cluster,
}

/// What is known of who could be asked.
struct Known<'a> {
    flag: Option<&'a Endpoint>,
    names_a_cluster: bool,
    variable: Option<&'a str>,
    configured: bool,
    socket: bool,
}

/// A flag before a variable before a kubeconfig before the socket of this machine's agent.
fn choose(known: &Known<'_>) -> Result<Choice, Error> {
    if let Some(agent) = known.flag {
        return if known.names_a_cluster { Err(Error::Both) } else { Ok(Choice::Agent(agent.clone())) };
    }
    if known.names_a_cluster {
        return Ok(Choice::Cluster);
    }
    if let Some(agent) = known.variable.filter(|v| !v.is_empty()) {
        return agent.parse().map(Choice::Agent).map_err(Error::Variable);
    }
    match (known.configured, known.socket) {
        (true, _) => Ok(Choice::Cluster),
        (false, true) => Ok(Choice::Agent(Endpoint::Unix(DEFAULT_AGENT.into()))),
        (false, false) => Err(Error::Nobody),
    }
}

impl Target {
    /// Whom the command line, the environment and the machine name.
    ///
    /// # Errors
    /// There is nobody, or no way to the cluster.
    pub async fn of(cli: &Cli, prompts: Prompts) -> Result<Self, Error> {
        let variable = std::env::var(VARIABLE).ok();
        let known = Known {
            flag: cli.agent.as_ref(),
            names_a_cluster: cli.connection.names_a_cluster(),
            variable: variable.as_deref(),
            configured: connect::is_configured(&cli.connection),
            socket: Path::new(DEFAULT_AGENT).exists(),
        };
        match choose(&known)? {
            Choice::Agent(endpoint) => Ok(Self::Agent(Client::new(endpoint))),
            Choice::Cluster => {
                let cluster = Cluster::connect(&cli.connection, prompts).await?;
                Ok(Self::Cluster(Box::new(cluster)))
            }
        }
    }

    /// The same, with what is chosen by labels.
    ///
    /// # Errors
    /// An agent knows no labels.
    pub fn choosing(self, chosen: &Chosen) -> Result<Self, Error> {
        match self {
            Self::Cluster(mut cluster) => {
                cluster.chosen = chosen.clone();
                Ok(Self::Cluster(cluster))
            }
            Self::Agent(_) if !chosen.is_all() => Err(Error::NoLabels),
            agent => Ok(agent),
        }
    }

    /// The agent, if it is one.
    #[must_use]
    pub fn agent(&self) -> Option<&Client> {
        match self {
            Self::Agent(client) => Some(client),
            Self::Cluster(_) => None,
        }
    }
}

/// A policy's name on the command line: `NAME`, `lr/NAME`, `bl/NAME`.
///
/// # Errors
/// The kind is none.
pub fn policy_name(text: &str) -> Result<(Option<PolicyKind>, &str), String> {
    match text.split_once('/') {
        None => Ok((None, text)),
        Some((kind, bare)) => Ok((Some(crate::explain::policy::kind_of(kind)?), bare)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_knows_no_labels() {
        let agent = || Target::Agent(Client::new("unix:/a".parse().unwrap()));
        assert!(agent().choosing(&Chosen::default()).is_ok());
        let labels = Chosen { selector: Some("a=b".to_owned()), ..Chosen::default() };
        let error = agent().choosing(&labels).err().unwrap();
        assert!(error.is_usage() && error.to_string().contains("--filter"), "{error}");
    }

    #[test]
    fn who_is_asked() {
        let agent: Endpoint = "unix:/a".parse().unwrap();
        let none =
            || Known { flag: None, names_a_cluster: false, variable: None, configured: false, socket: false };
        let unix = |path: &str| Choice::Agent(Endpoint::Unix(path.into()));
        assert!(matches!(choose(&none()), Err(Error::Nobody)));
        assert_eq!(choose(&Known { socket: true, ..none() }).unwrap(), unix(DEFAULT_AGENT));
        let all = || Known { variable: Some("unix:/b"), configured: true, socket: true, ..none() };
        assert_eq!(choose(&Known { variable: None, ..all() }).unwrap(), Choice::Cluster);
        assert_eq!(choose(&Known { variable: Some(""), ..all() }).unwrap(), Choice::Cluster);
        assert_eq!(choose(&all()).unwrap(), unix("/b"));
        assert_eq!(choose(&Known { names_a_cluster: true, ..all() }).unwrap(), Choice::Cluster);
        assert_eq!(choose(&Known { flag: Some(&agent), ..all() }).unwrap(), unix("/a"));
        let both = Known { flag: Some(&agent), names_a_cluster: true, ..all() };
        assert!(matches!(choose(&both), Err(Error::Both)));
        assert!(matches!(choose(&Known { variable: Some("ftp:x"), ..none() }), Err(Error::Variable(_))));
    }
}
