//! Why a node's agent was not asked, or did not answer, and what to do about it.

use std::{io, path::PathBuf};

use super::super::{
    connect::chain,
    read::{FORBIDDEN, Failure, Unreachable, gap_cause, gap_text},
};
use crate::text::sanitise;

/// What gives the rights that are needed: a ClusterRole and a Role of the chart have this name.
const ROLE: &str = "balancing-node-inspector";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing of the cluster can be read.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// It may not be read where the operator is.
    #[error("{cause}\n  {next}")]
    NoWay {
        /// What was not read, and why.
        cause: String,
        /// What to do.
        next: String,
    },
    /// The operator said nothing about itself.
    #[error(
        "the operator in namespace {namespace} has not said where it is\n  does it run? kubectl get pods -n {namespace} -l \
         app.kubernetes.io/component=operator"
    )]
    NoLeader {
        /// Of the installation.
        namespace: String,
    },
    /// It did not say which pod it is.
    #[error(
        "the operator does not say which pod it is: it is older than this program\n  upgrade it, or name its address with \
         --operator where there is a route to it"
    )]
    NoPod,
    /// An address does not answer.
    #[error("failed to connect to the operator at {address} (--operator): {source}")]
    Connect {
        /// Which.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A port is not forwarded.
    #[error("no port is forwarded to {to}: {message}\n  {}", route())]
    Forwarding {
        /// Which pod.
        to: String,
        /// Why.
        message: String,
    },
    /// The leader's pod is gone.
    #[error(
        "the operator's leader, pod {namespace}/{pod}, is gone: another replica takes over within seconds; try again then\n  \
         does one run? kubectl get pods -n {namespace} -l app.kubernetes.io/component=operator"
    )]
    LeaderGone {
        /// Of the installation.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// It is not there in time.
    #[error(
        "the operator did not answer within {seconds} s: it is overloaded, or nothing leads to it\n  where there is a route \
         to its address, name that with --operator"
    )]
    Silent {
        /// How long it was waited for.
        seconds: u64,
    },
    /// TLS cannot be had.
    #[error("failed to set up TLS with the operator: {0}")]
    Tls(String),
    /// It is not the operator, or it broke off.
    #[error(
        "what answers at {to} is not trusted to be the operator, or broke off: {message}\n  its certificate must be of the \
         authorities that it publishes: kubectl get endpointslices -n NAMESPACE balancing-operator-leader -o yaml"
    )]
    Handshake {
        /// Where.
        to: String,
        /// Why.
        message: String,
    },
    /// A file with a token cannot be used.
    #[error("failed to read the token {} (--operator-token): {source}", path.display())]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A token cannot be had.
    #[error("failed to find a token to show to the operator: {0}")]
    Token(String),
    /// There is none.
    #[error(
        "the operator asks for a bearer token, and the user of the kubeconfig {has}\n{}",
        make_a_token(.namespace)
    )]
    NoToken {
        /// What there is instead.
        has: &'static str,
        /// Of the installation.
        namespace: String,
    },
    /// Somebody else's rights are asked for.
    #[error(
        "requests act as {user}, and the operator goes by a token alone, which is not that of {user}\n{}",
        make_a_token(.namespace)
    )]
    ActsAs {
        /// As whom.
        user: String,
        /// Of the installation.
        namespace: String,
    },
    /// The operator does not know who asks.
    #[error(
        "the operator does not accept the token: {message}\n  log in anew, or name a file with another one: --operator-token"
    )]
    Unauthenticated {
        /// What it said.
        message: String,
    },
    /// It knows, and that is not enough.
    #[error(
        "{message}\n  the ClusterRole {ROLE} gives it: kubectl create clusterrolebinding NAME --clusterrole={ROLE} --user=USER"
    )]
    Forbidden {
        /// What it said, with the question to ask.
        message: String,
    },
    /// There is no agent.
    #[error(
        "no agent of node {node} is connected to the operator\n  does it run? kubectl get pods -n {namespace} -l \
         app.kubernetes.io/component=agent --field-selector spec.nodeName={node}"
    )]
    NoAgent {
        /// Of which node.
        node: String,
        /// Of the installation.
        namespace: String,
    },
    /// It is connected and silent.
    #[error(
        "the agent of node {node} does not answer the operator: it is overloaded or stuck; look at its log"
    )]
    AgentSilent {
        /// Of which node.
        node: String,
    },
    /// Nothing leads.
    #[error("no replica of the operator leads at this moment; try again in a few seconds")]
    NotLeading,
    /// Too many ask.
    #[error("the operator has too many questions at once ({message}); try again in a few seconds")]
    Busy {
        /// What it said.
        message: String,
    },
    /// It could not find out who asks.
    #[error("the operator cannot answer now: {message}")]
    Unavailable {
        /// What it said.
        message: String,
    },
}

fn route() -> &'static str {
    "the API server reaches the pod by its node's kubelet; where there is a route to the operator's address, name that with \
     --operator"
}

/// What to do where there is no token.
fn make_a_token(namespace: &str) -> String {
    let account = "balancing-inspector";
    format!(
        "  make one for an account that may ask about nodes, and nothing else:
    kubectl create serviceaccount {account} -n {namespace}
    kubectl create clusterrolebinding {account} --clusterrole={ROLE} --serviceaccount={namespace}:{account}
  and show it: --operator-token <(kubectl create token {account} -n {namespace})"
    )
}

/// What a person has to be bound to, to reach the operator's pod.
fn bind(namespace: &str) -> String {
    format!(
        "the Role {ROLE} in namespace {namespace} gives it: kubectl create rolebinding NAME -n {namespace} --role={ROLE} \
         --user=USER"
    )
}

impl Refusal {
    /// The leader's slice was not read.
    pub(super) fn leader(failure: Failure, namespace: &str) -> Self {
        match failure {
            Failure::Unreachable(error) => Self::Unreachable(error),
            Failure::Gap(gap) if gap.reason == FORBIDDEN => {
                Self::NoWay { cause: gap_text(&gap), next: bind(namespace) }
            }
            Failure::Gap(gap) => Self::NoWay { cause: gap_cause(&gap), next: gap.next },
        }
    }

    /// A port was not forwarded.
    pub(super) fn forward(namespace: &str, pod: &str, server: &str, error: &kube::Error) -> Self {
        let to = format!("pod {namespace}/{pod}");
        match error {
            kube::Error::Api(status) if status.code == 401 => {
                Self::Unreachable(Unreachable::Unauthorized(sanitise(&status.message).into_owned()))
            }
            // An upgrade is a GET, for which later API servers want the right to create as well.
            kube::Error::Api(status) if status.code == 403 => Self::NoWay {
                cause: format!(
                    "you may not forward a port to {to}; ask with: kubectl auth can-i create pods/{pod} \
                     --subresource=portforward -n {namespace}, and the same with get"
                ),
                next: bind(namespace),
            },
            kube::Error::Api(status) if status.code == 404 => {
                Self::LeaderGone { namespace: namespace.to_owned(), pod: pod.to_owned() }
            }
            kube::Error::Api(status) => {
                Self::Forwarding { to, message: sanitise(status.message.trim()).into_owned() }
            }
            other => Self::Forwarding {
                to,
                message: format!(
                    "{}: {}",
                    server.split("://").last().unwrap_or(server),
                    sanitise(&chain(other))
                ),
            },
        }
    }

    /// What the operator answers instead of a node's agent: its words are `code` and `message`. None where the answer is
    /// the agent's own.
    #[must_use]
    pub fn of(code: &str, message: &str, node: &str, namespace: &str) -> Option<Self> {
        let message = sanitise(message).into_owned();
        let (node, namespace) = (node.to_owned(), namespace.to_owned());
        Some(match code {
            "Unauthorized" => Self::Unauthenticated { message },
            "Forbidden" => Self::Forbidden { message },
            "NoAgent" => Self::NoAgent { node, namespace },
            "NoAnswer" => Self::AgentSilent { node },
            "NotLeading" => Self::NotLeading,
            "Busy" => Self::Busy { message },
            "Unavailable" => Self::Unavailable { message },
            _ => return None,
        })
    }

    /// May it go by itself, or by another leader?
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(Unreachable::Unauthorized(_)) => false,
            Self::Unreachable(_)
            | Self::Connect { .. }
            | Self::Forwarding { .. }
            | Self::LeaderGone { .. }
            | Self::NoLeader { .. }
            | Self::Silent { .. }
            | Self::Handshake { .. }
            | Self::NoAgent { .. }
            | Self::AgentSilent { .. }
            | Self::NotLeading
            | Self::Busy { .. }
            | Self::Unavailable { .. } => true,
            Self::NoWay { .. }
            | Self::NoPod
            | Self::Tls(_)
            | Self::TokenFile { .. }
            | Self::Token(_)
            | Self::NoToken { .. }
            | Self::ActsAs { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. } => false,
        }
    }

    /// In one line.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().lines().map(str::trim).fold(String::new(), |mut out, line| {
            let between = if out.is_empty() || out.ends_with(':') { " " } else { "; " };
            out.push_str(between);
            out.push_str(line);
            out.trim_start().to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn forward(code: u16) -> Refusal {
        let status = Status { code, message: "no\u{1b}[31m".to_owned(), ..Status::default() };
        Refusal::forward("elf", "op-1", "https://one:6443", &kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn each_says_what_to_do_next_and_whether_time_helps() {
        for (refusal, next, may_pass) in [
            (forward(401), "log in anew", false),
            (forward(403), "kubectl auth can-i create pods/op-1 --subresource=portforward -n elf", false),
            (forward(403), "kubectl create rolebinding", false),
            (forward(404), "another replica takes over", true),
            (forward(500), "--operator", true),
            (Refusal::of("Unauthorized", "m", "n1", "elf").unwrap(), "--operator-token", false),
            (Refusal::of("Forbidden", "m", "n1", "elf").unwrap(), "kubectl create clusterrolebinding", false),
            (Refusal::of("NoAgent", "m", "n1", "elf").unwrap(), "spec.nodeName=n1", true),
            (Refusal::of("NotLeading", "m", "n1", "elf").unwrap(), "try again", true),
            (Refusal::of("Busy", "m", "n1", "elf").unwrap(), "try again", true),
            (Refusal::NoPod, "--operator", false),
        ] {
            let text = refusal.to_string();
            assert!(text.contains(next) && refusal.may_pass() == may_pass, "{text}");
            assert!(!text.contains('\u{1b}') && !refusal.short().contains('\n'), "{text}");
        }
        // What an agent answers is its own.
        assert!(Refusal::of("InvalidField", "m", "n1", "elf").is_none());
    }

    #[test]
    fn in_one_line_commands_stand_behind_what_they_are_for() {
        let text = Refusal::NoToken { has: "has no credentials", namespace: "elf".to_owned() }.short();
        assert!(text.contains("nothing else: kubectl create serviceaccount"), "{text}");
        assert!(text.contains("-n elf; kubectl create clusterrolebinding"), "{text}");
    }
}
