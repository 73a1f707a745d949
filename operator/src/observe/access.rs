//! Who dials in: an agent by its token, a person by theirs. The API server is asked; nothing is believed.

use std::{pin::Pin, time::Duration};

use balancing_api::{names::GROUP, stream::AUDIENCE};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Semaphore, time::timeout};

/// What a token that was made for a pod says of the pod's node (Kubernetes 1.32).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The agents' ServiceAccount, in the operator's namespace.
const ACCOUNT: &str = "balancing-agent";
/// Questions to the API server at once.
const QUESTIONS: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody knows who that is.
    #[error("{0}")]
    Unauthenticated(String),
    /// It is known who that is, and that is not enough.
    #[error("{0}")]
    Forbidden(String),
    /// The API server could not be asked.
    #[error("{0}")]
    Unknown(String),
}

/// A future of a [`Gate`].
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Denied>> + Send + 'a>>;

/// Says who may what.
pub trait Gate: Send + Sync {
    /// The node whose agent has this token.
    fn agent(&self, token: String) -> Answer<'_, String>;

    /// May the bearer of this token ask the agent of a node for a part of it?
    fn person(&self, token: String, node: String, part: &'static str) -> Answer<'_, ()>;
}

/// The gate that asks the API server.
pub struct ApiServer {
    client: Client,
    agents: String,
    room: Semaphore,
}

impl ApiServer {
    /// Of the operator in this namespace.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        let agents = format!("system:serviceaccount:{namespace}:{ACCOUNT}");
        Self { client, agents, room: Semaphore::new(QUESTIONS) }
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Denied> {
        let _place =
            self.room.acquire().await.map_err(|_| Denied::Unknown("the operator ends".to_owned()))?;
        let failed =
            |why: String| Denied::Unknown(format!("the API server cannot be asked who you are: {why}"));
        match timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("it does not answer".to_owned())),
        }
    }

    async fn review(&self, token: String, audience: Option<&str>) -> Result<TokenReviewStatus, Denied> {
        let audiences = audience.map(|a| vec![a.to_owned()]);
        let review =
            TokenReview { spec: TokenReviewSpec { token: Some(token), audiences }, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = self.ask(reviews.create(&PostParams::default(), &review)).await?;
        Ok(answer.status.unwrap_or_default())
    }
}

/// Whose token it is.
fn user(status: TokenReviewStatus) -> Result<UserInfo, Denied> {
    if status.authenticated != Some(true) {
        let why = status.error.filter(|e| !e.is_empty()).map(|e| format!(": {e}")).unwrap_or_default();
        return Err(Denied::Unauthenticated(format!("the token is not valid{why}")));
    }
    status.user.ok_or_else(|| Denied::Unauthenticated("the token is nobody's".to_owned()))
}

/// The node of an agent whose token was reviewed.
fn node_of(status: TokenReviewStatus, agents: &str) -> Result<String, Denied> {
    let heard = status.audiences.as_ref().is_some_and(|all| all.iter().any(|a| a == AUDIENCE));
    let user = user(status)?;
    if !heard {
        return Err(Denied::Unauthenticated(format!("the token is not for audience {AUDIENCE:?}")));
    }
    let name = user.username.unwrap_or_default();
    if name != agents {
        return Err(Denied::Forbidden(format!("{name} is no agent: agents are {agents}")));
    }
    let node = user.extra.and_then(|mut extra| extra.remove(NODE_NAME)).and_then(|mut all| all.pop());
    node.filter(|node| !node.is_empty()).ok_or_else(|| {
        Denied::Forbidden(
            "the token does not say on which node its pod runs; that takes Kubernetes 1.32".to_owned(),
        )
    })
}

/// The question whether a user may ask an agent for a part of its node.
fn question(user: UserInfo, node: &str, part: &str) -> SubjectAccessReview {
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some("nodebalancingstates".to_owned()),
                subresource: Some(part.to_owned()),
                name: Some(node.to_owned()),
                verb: Some("get".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

impl Gate for ApiServer {
    fn agent(&self, token: String) -> Answer<'_, String> {
        Box::pin(async move { node_of(self.review(token, Some(AUDIENCE)).await?, &self.agents) })
    }

    fn person(&self, token: String, node: String, part: &'static str) -> Answer<'_, ()> {
        Box::pin(async move {
            let user = user(self.review(token, None).await?)?;
            let name = user.username.clone().unwrap_or_default();
            let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
            let asked = question(user, &node, part);
            let answer = self.ask(reviews.create(&PostParams::default(), &asked)).await?;
            if answer.status.is_some_and(|s| s.allowed) {
                return Ok(());
            }
            Err(Denied::Forbidden(format!(
                "{name} may not get nodebalancingstates/{part} of {node}; see: kubectl auth can-i get \
                 nodebalancingstates.{GROUP}/{node} --subresource={part}"
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: &str = "system:serviceaccount:elf:balancing-agent";

    fn reviewed(name: &str, audiences: &[&str], node: Option<&str>) -> TokenReviewStatus {
        let extra = node.map(|n| [(NODE_NAME.to_owned(), vec![n.to_owned()])].into());
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
            user: Some(UserInfo { username: Some(name.to_owned()), extra, ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn an_agent_is_the_one_of_its_node_and_nobody_else() {
        assert_eq!(node_of(reviewed(AGENTS, &[AUDIENCE], Some("n1")), AGENTS), Ok("n1".to_owned()));
        let denied = |status| node_of(status, AGENTS).unwrap_err();
        assert!(matches!(denied(reviewed(AGENTS, &["api"], Some("n1"))), Denied::Unauthenticated(_)));
        assert!(matches!(denied(reviewed(AGENTS, &[AUDIENCE], None)), Denied::Forbidden(_)));
        let other = denied(reviewed("system:serviceaccount:elf:default", &[AUDIENCE], Some("n1")));
        assert!(matches!(other, Denied::Forbidden(_)));
        let mut wrong = reviewed(AGENTS, &[AUDIENCE], Some("n1"));
        (wrong.authenticated, wrong.error) = (Some(false), Some("expired".to_owned()));
        assert_eq!(denied(wrong), Denied::Unauthenticated("the token is not valid: expired".to_owned()));
        assert!(matches!(denied(TokenReviewStatus::default()), Denied::Unauthenticated(_)));
    }

    #[test]
    fn a_person_is_asked_for_as_who_they_are() {
        let user = UserInfo {
            username: Some("jane".to_owned()),
            groups: Some(vec!["ops".to_owned()]),
            ..UserInfo::default()
        };
        let asked = question(user, "n1", "events").spec;
        let what = asked.resource_attributes.unwrap();
        assert_eq!((asked.user.as_deref(), asked.groups), (Some("jane"), Some(vec!["ops".to_owned()])));
        let parts = [what.group, what.resource, what.subresource, what.name, what.verb].map(Option::unwrap);
        assert_eq!(parts, ["balancing.elf.io", "nodebalancingstates", "events", "n1", "get"]);
    }
}
