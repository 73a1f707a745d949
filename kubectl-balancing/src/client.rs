//! Asks one agent over its HTTP API: at its own address, or through the operator of its cluster.

use std::{collections::VecDeque, fmt, io, path::PathBuf, str::FromStr, time::Duration};

use balancing_api::{
    agent::{Counters, DecideRequest, Decision, Document, ErrorBody, FrontendList, NodeStatus},
    stream::NODES_PATH,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    cluster::relay::{Refusal, Relay, Stream},
    sample::{NodeSample, complete},
    text::{percent_encoded, sanitise},
};

/// How long one question may take: an agent answers in milliseconds, and whoever waits longer should be told.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where the way leads over API server, kubelet and operator.
const FAR: Duration = Duration::from_secs(20);
/// What the paths of an agent begin with.
const VERSION: &str = "/v1/";
/// A line of a stream longer than this is not an agent's.
const LONGEST_LINE: usize = 1 << 20;
/// An answer larger than this is not an agent's.
const LARGEST: usize = 256 << 20;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:PATH`
    Unix(PathBuf),
    /// `http://HOST:PORT`: host and port as in a URL, so an IPv6 address is in brackets.
    Http(String),
    /// The agent of a node of this name, which the operator asks.
    Node(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Node(name) => write!(f, "node {}", sanitise(name)),
        }
    }
}

/// The text names no agent.
#[derive(Debug, thiserror::Error)]
#[error("{0}; expected unix:PATH or http://HOST:PORT")]
pub struct ParseEndpointError(String);

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |what: &str| Err(ParseEndpointError(what.to_owned()));
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { wrong("the path is missing") } else { Ok(Self::Unix(path.into())) };
        }
        if text.starts_with("https:") {
            return wrong("an agent does not speak TLS");
        }
        let Some(authority) = text.strip_prefix("http://") else {
            return wrong("it has no scheme");
        };
        let authority = authority.trim_end_matches('/');
        match authority.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty()
                    && !authority.contains(['/', '@'])
                    && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
                    && port.parse::<u16>().is_ok_and(|p| p != 0) =>
            {
                Ok(Self::Http(authority.to_owned()))
            }
            _ => wrong("it is not HOST:PORT (an IPv6 address goes in brackets)"),
        }
    }
}

/// A question to the agent was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could be reached.
    #[error("failed to reach the agent at {endpoint}: {}", explain_connect(.endpoint, .source))]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("the agent at {endpoint} did not answer {path} within {} s: it is overloaded or stuck; look at its log", patience(.endpoint).as_secs())]
    Timeout {
        /// Where.
        endpoint: Endpoint,
        /// What was asked.
        path: String,
    },
    /// The connection broke or did not speak HTTP.
    #[error(
        "the agent at {endpoint} broke off its answer to {path}: {message}; is it balancing-agent that listens there?"
    )]
    Protocol {
        /// Where.
        endpoint: Endpoint,
        /// What was asked.
        path: String,
        /// What went wrong.
        message: String,
    },
    /// It answered that it could not.
    #[error("the agent at {endpoint} answered {path} with {status}: {message}")]
    Refused {
        /// Where.
        endpoint: Endpoint,
        /// What was asked.
        path: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// Nothing leads to it through the operator, or the operator does not ask it.
    #[error("{0}")]
    Relay(Refusal),
    /// It answered something else.
    #[error(
        "the answer of {endpoint} to {path} is no {kind} of this version: {message}; compare `kubectl balancing version` with the agent's"
    )]
    Document {
        /// Where.
        endpoint: Endpoint,
        /// What was asked.
        path: String,
        /// What was expected.
        kind: &'static str,
        /// Why it is not.
        message: String,
    },
}

impl Error {
    /// May it answer when it is asked again?
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Relay(refusal) => refusal.may_pass(),
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Document { .. } => false,
        }
    }

    /// The cause in a few words.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Connect { source, .. } => bare(source),
            Self::Timeout { endpoint, path } => {
                format!("no answer to {path} within {} s", patience(endpoint).as_secs())
            }
            Self::Relay(refusal) => refusal.short(),
            Self::Protocol { endpoint: Endpoint::Node(_), .. } => {
                "the connection with the operator broke off".to_owned()
            }
            Self::Protocol { message, .. } | Self::Document { message, .. } => sanitise(message).into_owned(),
            Self::Refused { status, message, .. } => format!("{status}: {message}"),
        }
    }
}

/// How long a question may take.
fn patience(endpoint: &Endpoint) -> Duration {
    if matches!(endpoint, Endpoint::Node(_)) { FAR } else { PATIENCE }
}

/// The error without Rust's `(os error 2)`.
fn bare(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// What a failed connect means for whoever typed the command.
fn explain_connect(endpoint: &Endpoint, error: &io::Error) -> String {
    let what = bare(error);
    let hint = match (endpoint, error.kind()) {
        (Endpoint::Unix(_), io::ErrorKind::NotFound) => {
            "no agent listens there: start balancing-agent on this machine, or name its socket with --agent or BALANCING_AGENT"
        }
        (Endpoint::Unix(_), io::ErrorKind::ConnectionRefused) => {
            "the socket is left over from an agent that has ended: start balancing-agent again"
        }
        (Endpoint::Unix(_), io::ErrorKind::PermissionDenied) => {
            "the socket belongs to the agent's user: run this as root or as that user"
        }
        (Endpoint::Unix(_), _) => "name the agent's socket with --agent or BALANCING_AGENT",
        (Endpoint::Http(_) | Endpoint::Node(_), _) => {
            "start balancing-agent with --api tcp:HOST:PORT there, or name another with --agent or BALANCING_AGENT"
        }
    };
    format!("{what}\n  {hint}")
}

/// Which state of the frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Read back from the maps.
    Programmed,
    /// What compile produced.
    Desired,
}

/// Asks one agent. Every question is a connection of its own, so that a restarted agent is no special case.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    /// The way, where it is a node of a cluster.
    relay: Option<Relay>,
}

impl Client {
    /// A client of the agent there.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, relay: None }
    }

    /// A client of the agent of a node.
    #[must_use]
    pub fn of_node(relay: &Relay, node: &str) -> Self {
        Self { endpoint: Endpoint::Node(node.to_owned()), relay: Some(relay.clone()) }
    }

    /// Where it asks.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        self.ask("/v1/status", "NodeStatus", None).await
    }

    /// `GET /v1/frontends`
    pub async fn frontends(&self, view: View) -> Result<FrontendList, Error> {
        let path = match view {
            View::Programmed => "/v1/frontends",
            View::Desired => "/v1/frontends?view=desired",
        };
        self.ask(path, "FrontendList", None).await
    }

    /// `GET /v1/counters`
    pub async fn counters(&self) -> Result<Counters, Error> {
        self.ask("/v1/counters", "Counters", None).await
    }

    /// `POST /v1/decide`
    pub async fn decide(&self, request: &DecideRequest) -> Result<Decision, Error> {
        let path = "/v1/decide";
        let body = serde_json::to_vec(request).map_err(|e| self.broken(path, &e))?;
        self.ask(path, "Decision", Some(body)).await
    }

    /// Everything that `top` shows of a node.
    pub async fn sample(&self) -> Result<NodeSample, Error> {
        let (status, mut frontends, counters) =
            tokio::try_join!(self.status(), self.frontends(View::Programmed), self.counters())?;
        complete(&mut frontends, &status);
        Ok(NodeSample { status, frontends, counters })
    }

    fn broken(&self, path: &str, error: &dyn fmt::Display) -> Error {
        let message = sanitise(&error.to_string()).into_owned();
        Error::Protocol { endpoint: self.endpoint.clone(), path: path.to_owned(), message }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<T, Error> {
        let (status, body) = timeout(patience(&self.endpoint), self.exchange(path, body))
            .await
            .map_err(|_| Error::Timeout { endpoint: self.endpoint.clone(), path: path.to_owned() })??;
        if !status.is_success() {
            return Err(self.refused(path, status, &body));
        }
        let wrong = |message: String| Error::Document {
            endpoint: self.endpoint.clone(),
            path: path.to_owned(),
            kind,
            message: sanitise(&message).into_owned(),
        };
        let document: Document<T> = serde_json::from_slice(&body).map_err(|e| wrong(e.to_string()))?;
        if document.kind != kind {
            return Err(wrong(format!("its kind is {}", document.kind)));
        }
        Ok(document.body)
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> Error {
        let said = serde_json::from_slice::<ErrorBody>(body);
        if let (Endpoint::Node(node), Some(relay), Ok(said)) = (&self.endpoint, &self.relay, &said)
            && let Some(refusal) = Refusal::of(&said.error.code, &said.error.message, node, relay.namespace())
        {
            if matches!(refusal, Refusal::NotLeading) {
                relay.forget();
            }
            return Error::Relay(refusal);
        }
        let message = match said {
            Ok(b) if b.error.field.is_empty() => b.error.message,
            Ok(b) => format!("{}: {}", b.error.field, b.error.message),
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        };
        let message = sanitise(&message).into_owned();
        Error::Refused { endpoint: self.endpoint.clone(), path: path.to_owned(), status, message }
    }

    /// Opens an answer that comes line by line and may never end.
    pub async fn lines(&self, path: &str) -> Result<Lines, Error> {
        let late = |_| Error::Timeout { endpoint: self.endpoint.clone(), path: path.to_owned() };
        let patience = patience(&self.endpoint);
        let (response, connection) = timeout(patience, self.open(path)).await.map_err(late)??;
        let status = response.status();
        if status.is_success() {
            let client = self.clone();
            let path = path.to_owned();
            let body = response.into_body();
            let (ready, rest) = (VecDeque::new(), Vec::new());
            return Ok(Lines { client, path, body, connection, ready, rest, ended: false });
        }
        let body = Limited::new(response.into_body(), LONGEST_LINE).collect();
        let body = timeout(patience, body).await.map_err(late)?.map_err(|e| self.broken(path, &e))?;
        Err(self.refused(path, status, &body.to_bytes()))
    }

    /// A connection, and the request to write on it.
    async fn prepare(
        &self,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(Stream, Request<Full<Bytes>>), Error> {
        let failed = |source| Error::Connect { endpoint: self.endpoint.clone(), source };
        let broken = |e: hyper::http::Error| self.broken(path, &e);
        match &self.endpoint {
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(failed)?;
                Ok((Box::new(stream), request(path, "localhost", body).map_err(broken)?))
            }
            Endpoint::Http(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(failed)?;
                Ok((Box::new(stream), request(path, authority, body).map_err(broken)?))
            }
            Endpoint::Node(name) => {
                let Some(relay) = &self.relay else {
                    return Err(failed(io::ErrorKind::NotConnected.into()));
                };
                let opened = relay.open().await.map_err(Error::Relay)?;
                let path = node_path(name, path);
                let mut request = request(&path, &opened.host, body).map_err(broken)?;
                request.headers_mut().insert(header::AUTHORIZATION, opened.bearer);
                Ok((opened.stream, request))
            }
        }
    }

    /// Asks, and leaves the connection to a task of its own.
    async fn open(&self, path: &str) -> Result<(Response<Incoming>, Connection), Error> {
        let broken = |e: &dyn fmt::Display| self.broken(path, e);
        let (stream, request) = self.prepare(path, None).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        // How it ends is told by the body.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        Ok((response, connection))
    }

    async fn exchange(&self, path: &str, body: Option<Vec<u8>>) -> Result<(StatusCode, Bytes), Error> {
        let broken = |e: &dyn fmt::Display| self.broken(path, e);
        let (stream, request) = self.prepare(path, body).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|e| broken(&e))?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(answer, connection);
        // The connection must be driven while the answer is awaited; it ends by itself once that is read.
        let mut open = true;
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                _ = &mut connection, if open => open = false,
            }
        }
    }
}

/// Where the operator serves a path of an agent.
fn node_path(node: &str, path: &str) -> String {
    let part = path.strip_prefix(VERSION).unwrap_or(path);
    let node = percent_encoded(node).replace('/', "%2F");
    format!("{NODES_PATH}/{node}/{part}")
}

fn request(
    path: &str,
    host: &str,
    body: Option<Vec<u8>>,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let method = if body.is_some() { Method::POST } else { Method::GET };
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("kubectl-balancing/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
}

/// The task that drives a connection; it ends with this value.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer that comes line by line. Dropping it closes the connection.
#[derive(Debug)]
pub struct Lines {
    client: Client,
    path: String,
    body: Incoming,
    #[expect(dead_code, reason = "held for as long as lines are read")]
    connection: Connection,
    /// Whole lines that were read and not yet asked for.
    ready: VecDeque<Vec<u8>>,
    /// The beginning of a line.
    rest: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line, without its end; none where the agent has ended the answer. May be dropped and called again
    /// without losing one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.rest);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.rest.len() > LONGEST_LINE {
                return Err(self.client.broken(&self.path, &"a line of it does not end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let mut parts = data.split(|b| *b == b'\n').peekable();
                    while let Some(part) = parts.next() {
                        self.rest.extend_from_slice(part);
                        if parts.peek().is_some() {
                            self.ready.push_back(std::mem::take(&mut self.rest));
                        }
                    }
                }
                Some(Err(error)) => return Err(self.client.broken(&self.path, &error)),
                None => self.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_is_asked_stands_below_its_name() {
        assert_eq!(node_path("n1", "/v1/events?follow=true"), "/v1/nodes/n1/events?follow=true");
        assert_eq!(node_path("a/b c", "/v1/status"), "/v1/nodes/a%2Fb%20c/status");
    }

    #[test]
    fn endpoints() {
        assert_eq!("unix:/run/a.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("/run/a.sock".into()));
        assert_eq!("unix:///run/a.sock".parse::<Endpoint>().unwrap(), Endpoint::Unix("/run/a.sock".into()));
        assert_eq!(
            "http://10.0.0.1:5810/".parse::<Endpoint>().unwrap(),
            Endpoint::Http("10.0.0.1:5810".into())
        );
        assert_eq!("http://[::1]:5810".parse::<Endpoint>().unwrap(), Endpoint::Http("[::1]:5810".into()));
        for wrong in [
            "",
            "unix:",
            "/run/a.sock",
            "https://a:1",
            "http://a",
            "http://::1:80",
            "http://a:0",
            "http://u@a:1",
            "http://a:1/x",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
