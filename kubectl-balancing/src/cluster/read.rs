//! Reads lists of objects. What may not be read is a gap, and hides nothing else; an API server that cannot be reached,
//! or does not know who asks, is an error.

use std::time::Duration;

use balancing_api::{
    names::{GROUP, OPERATOR_SERVICE, VERSION},
    overview::Gap,
};
use futures_util::{StreamExt, stream::BoxStream};
use http::Request;
use kube::core::WatchEvent;
use serde_json::Value;

use super::connect::{Connection, chain};
use crate::text::{percent_encoded, sanitise};

/// Objects of one page of a list, as kubectl asks for them.
const PAGE: u32 = 500;
/// Seconds after which the API server ends a watch, which then goes on anew.
const WATCH_SECONDS: u32 = 290;
/// How long a watch may take to begin.
const WATCH_BEGINS: Duration = Duration::from_secs(30);

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
}

/// LocalRedirectPolicies.
pub const LOCAL_REDIRECTS: Kind =
    Kind { group: GROUP, version: VERSION, plural: "localredirectpolicies", kind: "LocalRedirectPolicy" };
/// BalancingPolicies.
pub const BALANCINGS: Kind =
    Kind { group: GROUP, version: VERSION, plural: "balancingpolicies", kind: "BalancingPolicy" };
/// NodeBalancingStates.
pub const STATES: Kind =
    Kind { group: GROUP, version: VERSION, plural: "nodebalancingstates", kind: "NodeBalancingState" };
/// Nodes.
pub const NODES: Kind = Kind { group: "", version: "v1", plural: "nodes", kind: "Node" };
/// Namespaces.
pub const NAMESPACES: Kind = Kind { group: "", version: "v1", plural: "namespaces", kind: "Namespace" };
/// Pods.
pub const PODS: Kind = Kind { group: "", version: "v1", plural: "pods", kind: "Pod" };
/// Services.
pub const SERVICES: Kind = Kind { group: "", version: "v1", plural: "services", kind: "Service" };
/// EndpointSlices.
pub const SLICES: Kind =
    Kind { group: "discovery.k8s.io", version: "v1", plural: "endpointslices", kind: "EndpointSlice" };

impl Kind {
    /// `nodebalancingstates.balancing.elf.io`, as `kubectl auth can-i` takes it.
    #[must_use]
    pub fn resource(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub(super) fn path(self, namespace: Option<&str>) -> String {
        let Self { group, version, plural, .. } = self;
        let base =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => format!("{base}/namespaces/{}/{plural}", segment(namespace)),
            None => format!("{base}/{plural}"),
        }
    }
}

/// A name as one part of a path.
pub(super) fn segment(name: &str) -> String {
    percent_encoded(name).replace('/', "%2F")
}

/// Nothing can be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// There is nobody there.
    #[error("The connection to the server {0} was refused - did you specify the right host or port?")]
    Refused(String),
    /// The API server does not know who asks.
    #[error(
        "You must be logged in to the server ({0}): look at the user of the kubeconfig's context, or log in anew"
    )]
    Unauthorized(String),
    /// It cannot be reached, or does not answer.
    #[error("Unable to connect to the server: {0}")]
    Failed(String),
    /// A selector of labels is none.
    #[error("{flag} {selector:?}: {why}")]
    Selector {
        /// The flag.
        flag: &'static str,
        /// What it says.
        selector: String,
        /// What the API server says of that.
        why: String,
    },
    /// What is to be chosen by labels cannot be read.
    #[error("{flag}: {why}")]
    Choosing {
        /// The flag.
        flag: &'static str,
        /// What is missing.
        why: String,
    },
}

impl Unreachable {
    /// In a few words.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Refused(server) => format!("{server} refused the connection"),
            Self::Unauthorized(message) => format!("not logged in ({message})"),
            Self::Failed(message) => message.clone(),
            Self::Selector { .. } | Self::Choosing { .. } => self.to_string(),
        }
    }

    /// Is the command line wrong?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Selector { .. })
    }
}

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing can be read.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// This alone cannot.
    #[error("{}", gap_text(.0))]
    Gap(Box<Gap>),
}

impl Failure {
    /// The gap; an error where nothing can be read at all.
    ///
    /// # Errors
    /// Nothing can be read.
    pub fn gap(self) -> Result<Gap, Unreachable> {
        match self {
            Self::Unreachable(error) => Err(error),
            Self::Gap(gap) => Ok(*gap),
        }
    }
}

/// `no rates: you may not get services/... in namespace elf; kubectl auth can-i ...`
#[must_use]
pub fn gap_text(gap: &Gap) -> String {
    format!("no {}: {}; {}", gap.missing, gap_cause(gap), gap.next)
}

/// The first half of that: what was not read, and why.
#[must_use]
pub fn gap_cause(gap: &Gap) -> String {
    let place = gap.namespace.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default();
    match gap.reason.as_str() {
        FORBIDDEN => format!("you may not {} {}{place}", gap.verb, gap.resource),
        _ => gap.message.clone(),
    }
}

/// Reason of a gap: the right is missing.
pub const FORBIDDEN: &str = "Forbidden";
/// Reason of a gap: there is no such thing.
pub const NOT_FOUND: &str = "NotFound";
/// Reason of a gap: it failed.
pub const FAILED: &str = "Failed";
/// How a message begins where the API server did not understand what it was asked.
pub(super) const BAD_REQUEST: &str = "the API server answered 400: ";

/// What was asked for, to say what is missing without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// What follows from it, as [`Gap::missing`] has it.
    pub(super) missing: &'a str,
    pub(super) verb: &'static str,
    pub(super) resource: &'a str,
    pub(super) namespace: Option<&'a str>,
    /// The line that asks whether one may.
    pub(super) can_i: &'a str,
    /// What to do where it is not there.
    pub(super) absent: &'a str,
}

/// Sorts an error of a request: is nothing to be read, or only this not?
pub(super) fn failure(asked: Asked<'_>, server: &str, error: &kube::Error) -> Failure {
    let gap = |reason: &str, message: String, next: &str| {
        Failure::Gap(Box::new(Gap {
            missing: asked.missing.to_owned(),
            verb: asked.verb.to_owned(),
            resource: asked.resource.to_owned(),
            namespace: asked.namespace.map(str::to_owned),
            reason: reason.to_owned(),
            message: sanitise(message.trim()).into_owned(),
            next: next.to_owned(),
        }))
    };
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            Unreachable::Unauthorized(sanitise(&status.message).into_owned()).into()
        }
        kube::Error::Api(status) if status.code == 403 => {
            gap(FORBIDDEN, status.message.clone(), &format!("ask with: {}", asked.can_i))
        }
        kube::Error::Api(status) if status.code == 404 => {
            gap(NOT_FOUND, status.message.clone(), asked.absent)
        }
        kube::Error::Api(status) => gap(
            FAILED,
            format!("the API server answered {}: {}", status.code, status.message),
            "try again; if it lasts, look at the API server",
        ),
        other => {
            let text = sanitise(&chain(other)).into_owned();
            let host = server.split("://").last().unwrap_or(server).to_owned();
            if text.to_ascii_lowercase().contains("connection refused") {
                Unreachable::Refused(host).into()
            } else {
                Unreachable::Failed(format!("{host}: {text}")).into()
            }
        }
    }
}

/// The error of a request that took too long.
pub(super) fn late(server: &str, timeout: Duration) -> Unreachable {
    Unreachable::Failed(format!("{server}: no answer within {} s (--request-timeout)", timeout.as_secs_f64()))
}

/// The line that asks whether one may list a kind.
fn can_i(verb: &str, kind: Kind, namespace: Option<&str>) -> String {
    let namespaced = [PODS, SERVICES, SLICES].contains(&kind);
    let place = match namespace {
        Some(namespace) => format!(" -n {namespace}"),
        None if namespaced => " -A".to_owned(),
        None => String::new(),
    };
    format!("kubectl auth can-i {verb} {}{place}", kind.resource())
}

/// What to do where a kind or object is not there.
fn absent(kind: Kind) -> &'static str {
    if kind.group == GROUP {
        "is Balancing installed there? helm install operator charts/operator -n elf --create-namespace"
    } else {
        "is the name right?"
    }
}

impl Connection {
    /// Asks for a document, within the time that a request may take.
    pub(super) async fn get(&self, asked: Asked<'_>, path: &str) -> Result<Value, Failure> {
        let request = Request::get(path).body(Vec::new()).map_err(|e| Unreachable::Failed(e.to_string()))?;
        let answer = self.client.request::<Value>(request);
        let answer = match self.timeout {
            Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => return Err(late(&self.server, timeout).into()),
            },
            None => answer.await,
        };
        answer.map_err(|e| failure(asked, &self.server, &e))
    }

    /// Every object of a kind, of all namespaces or one, with its `apiVersion` and `kind`. `query` narrows it:
    /// `labelSelector=...`.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn list(
        &self,
        missing: &str,
        kind: Kind,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<Vec<Value>, Failure> {
        self.listed(missing, kind, namespace, query).await.map(|(items, _)| items)
    }

    /// The same, and the version from which a watch goes on.
    pub(super) async fn listed(
        &self,
        missing: &str,
        kind: Kind,
        namespace: Option<&str>,
        query: &str,
    ) -> Result<(Vec<Value>, String), Failure> {
        let (resource, can_i) = (kind.resource(), can_i("list", kind, namespace));
        let asked = Asked {
            missing,
            verb: "list",
            resource: &resource,
            namespace,
            can_i: &can_i,
            absent: absent(kind),
        };
        let mut items = Vec::new();
        let mut next = String::new();
        let from = loop {
            let mut path = format!("{}?limit={PAGE}", kind.path(namespace));
            for (key, value) in [("", query), ("continue=", next.as_str())] {
                if !value.is_empty() {
                    path.push_str(&format!("&{key}{value}"));
                }
            }
            let mut page = self.get(asked, &path).await?;
            let list = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
            items.extend(list.into_iter().flatten());
            next = page["metadata"]["continue"].as_str().map(percent_encoded).unwrap_or_default();
            if next.is_empty() {
                break page["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            }
        };
        // A list does not say of its items what they are.
        let version = if kind.group.is_empty() {
            kind.version.to_owned()
        } else {
            format!("{}/{}", kind.group, kind.version)
        };
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.insert("apiVersion".to_owned(), version.clone().into());
            item.insert("kind".to_owned(), kind.kind.into());
        }
        Ok((items, from))
    }

    /// What happens to objects of a kind after a version, as long as the API server tells it.
    pub(super) async fn watched(
        &self,
        missing: &str,
        kind: Kind,
        namespace: Option<&str>,
        query: &str,
        version: &str,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<Value>>>, Failure> {
        let (resource, can_i) = (kind.resource(), can_i("watch", kind, namespace));
        let asked = Asked {
            missing,
            verb: "watch",
            resource: &resource,
            namespace,
            can_i: &can_i,
            absent: absent(kind),
        };
        let mut path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            kind.path(namespace),
            percent_encoded(version)
        );
        if !query.is_empty() {
            path.push_str(&format!("&{query}"));
        }
        let request = Request::get(path).body(Vec::new()).map_err(|e| Unreachable::Failed(e.to_string()))?;
        let begun = self.client.request_events::<Value>(request);
        let answer = match tokio::time::timeout(WATCH_BEGINS, begun).await {
            Ok(answer) => answer,
            Err(_) => return Err(late(&self.server, WATCH_BEGINS).into()),
        };
        answer.map(StreamExt::boxed).map_err(|e| failure(asked, &self.server, &e))
    }

    /// Names of the first objects of a kind, for completion: without what else is in them.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn names(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<String>, Failure> {
        let (resource, can_i) = (kind.resource(), can_i("list", kind, namespace));
        let asked = Asked {
            missing: kind.plural,
            verb: "list",
            resource: &resource,
            namespace,
            can_i: &can_i,
            absent: absent(kind),
        };
        let request = Request::get(format!("{}?limit={PAGE}", kind.path(namespace)))
            .header(http::header::ACCEPT, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
            .body(Vec::new())
            .map_err(|e| Unreachable::Failed(e.to_string()))?;
        let list: Value = self.client.request(request).await.map_err(|e| failure(asked, &self.server, &e))?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.filter_map(|i| i["metadata"]["name"].as_str()).map(str::to_owned).collect())
    }

    /// One object.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn object(
        &self,
        missing: &str,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, Failure> {
        let (resource, can_i) = (kind.resource(), can_i("get", kind, namespace));
        let asked = Asked {
            missing,
            verb: "get",
            resource: &resource,
            namespace,
            can_i: &can_i,
            absent: absent(kind),
        };
        self.get(asked, &format!("{}/{}", kind.path(namespace), segment(name))).await
    }
}

/// Where the operator's live view is, behind the API server's proxy.
#[must_use]
pub fn observe_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{}/services/https:{OPERATOR_SERVICE}:observe/proxy", segment(namespace))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn asked<'a>(can_i: &'a str) -> Asked<'a> {
        Asked {
            missing: "nodes",
            verb: "list",
            resource: "nodebalancingstates.balancing.elf.io",
            namespace: None,
            can_i,
            absent: absent(STATES),
        }
    }

    fn of(code: u16, message: &str) -> Failure {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        let line = can_i("list", STATES, None);
        failure(asked(&line), "https://one:6443", &kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_missing_right_is_a_gap_with_its_question() {
        let gap = of(403, "forbidden: \u{1b}[31m").gap().unwrap();
        assert_eq!(gap.reason, FORBIDDEN);
        assert!(!gap.message.contains('\u{1b}'));
        assert_eq!(
            gap_text(&gap),
            "no nodes: you may not list nodebalancingstates.balancing.elf.io; ask with: kubectl auth can-i list \
             nodebalancingstates.balancing.elf.io"
        );
        assert_eq!(can_i("list", PODS, Some("elf")), "kubectl auth can-i list pods -n elf");
        assert_eq!(can_i("list", SERVICES, None), "kubectl auth can-i list services -A");
    }

    #[test]
    fn what_is_not_installed_says_how_to_install_it() {
        let gap = of(404, "the server could not find the requested resource").gap().unwrap();
        assert!(gap.reason == NOT_FOUND && gap.next.contains("helm install"), "{gap:?}");
        assert_eq!(of(500, "no").gap().unwrap().reason, FAILED);
    }

    #[test]
    fn who_is_not_known_reads_nothing() {
        let error = of(401, "Unauthorized").gap().unwrap_err();
        assert!(
            error.to_string().starts_with("You must be logged in to the server (Unauthorized)"),
            "{error}"
        );
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let line = String::new();
        let refused = failure(asked(&line), "https://one:6443", &kube::Error::Service(Box::new(io)));
        assert_eq!(refused.gap().unwrap_err(), Unreachable::Refused("one:6443".to_owned()));
    }

    #[test]
    fn paths() {
        assert_eq!(STATES.path(None), "/apis/balancing.elf.io/v1beta1/nodebalancingstates");
        assert_eq!(PODS.path(Some("a/b")), "/api/v1/namespaces/a%2Fb/pods");
        assert_eq!(
            observe_path("elf"),
            "/api/v1/namespaces/elf/services/https:balancing-operator:observe/proxy"
        );
    }
}
