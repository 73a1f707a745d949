//! `GET /v1/agent`, `GET /v1/observe`, `GET|POST /v1/nodes/NODE/PART`. Which lines these are: [`balancing_api::stream`].

use std::{io, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Path, Query as Pairs, Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, UPGRADE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use balancing_api::{
    agent::{ErrorBody, ErrorDetail},
    records::Text,
    stream::{AGENT_PATH, NODE_PARTS, NODES_PATH, OBSERVE_PATH, PROTOCOL},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    access::{Denied, Gate},
    agents,
    hub::Hub,
    query::Query,
    relay::{Asking, Part},
    viewers::Viewer,
};
use crate::port::Peer;

/// The largest body of a question to an agent.
const BODY: usize = 64 << 10;
/// How long it may take to come, and an agent to begin its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions to agents at once.
const RELAYS: usize = 32;
/// The longest token.
const TOKEN: usize = 16 << 10;

/// What the port needs.
#[derive(Clone)]
pub struct Observer {
    /// Who reports.
    pub hub: Arc<Hub>,
    /// Who may what.
    pub gate: Arc<dyn Gate>,
    /// Does this replica lead?
    pub leading: watch::Receiver<bool>,
    /// The names of all Nodes.
    pub nodes: watch::Receiver<Arc<[Text]>>,
    /// The end of the process.
    pub end: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    observer: Observer,
    relays: Arc<Semaphore>,
}

/// An error as clients read it.
struct ApiError(StatusCode, ErrorDetail);

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self(status, ErrorDetail { code: code.to_owned(), field: String::new(), message: message.into() })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let (status, code) = match &denied {
            Denied::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Denied::Forbidden(_) => (StatusCode::FORBIDDEN, "Forbidden"),
            Denied::Unknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
        };
        Self::new(status, code, denied.to_string())
    }
}

/// What the port serves.
pub fn router(observer: Observer) -> Router {
    let relay = get(ask_node).post(ask_node);
    Router::new()
        .route(AGENT_PATH, get(agent))
        .route(OBSERVE_PATH, get(observe))
        .route(&format!("{NODES_PATH}/{{node}}/{{part}}"), relay)
        .fallback(async |uri: Uri| {
            ApiError::new(StatusCode::NOT_FOUND, "NotFound", format!("there is nothing at {}", uri.path()))
        })
        .with_state(Shared { observer, relays: Arc::new(Semaphore::new(RELAYS)) })
}

/// Waits until this replica serves no longer who is connected to it; says why.
async fn over(mut leading: watch::Receiver<bool>, end: CancellationToken) -> &'static str {
    tokio::select! {
        () = end.cancelled() => "this replica ends",
        // Where nobody says whether it leads any longer, it does not.
        _ = leading.wait_for(|leads| !leads) => "this replica leads no longer",
    }
}

impl Shared {
    fn leads(&self) -> Result<(), ApiError> {
        if *self.observer.leading.borrow() {
            return Ok(());
        }
        let message = "no replica of the operator leads at this moment; try again in a few seconds";
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "NotLeading", message))
    }
}

fn bearer(headers: &HeaderMap) -> Result<String, ApiError> {
    let header = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok());
    let token = header.and_then(|h| h.strip_prefix("Bearer ")).map(str::trim);
    token.filter(|t| !t.is_empty() && t.len() <= TOKEN).map(str::to_owned).ok_or_else(|| {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "this takes a bearer token, which the API server's proxy does not pass on: forward a port to the \
             Service balancing-operator instead",
        )
    })
}

async fn agent(State(shared): State<Shared>, mut request: Request) -> Result<Response, ApiError> {
    shared.leads()?;
    let upgrade = request.headers().get(UPGRADE).and_then(|h| h.to_str().ok());
    if upgrade != Some(PROTOCOL) {
        let message = format!("agents ask for Upgrade: {PROTOCOL}");
        return Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, "UpgradeRequired", message));
    }
    let token = bearer(request.headers())?;
    let node = shared.observer.gate.agent(token).await?;
    let upgraded = hyper::upgrade::on(&mut request);
    let Observer { hub, leading, end, .. } = shared.observer;
    tokio::spawn(async move {
        let stream = match upgraded.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(node, %error, "an agent went away"),
        };
        let (joined, lines) = hub.join(&node);
        let ended = agents::keep(&hub, joined, lines, stream, over(leading, end)).await;
        tracing::debug!(node, %ended, "the connection of an agent ended");
    });
    Ok((StatusCode::SWITCHING_PROTOCOLS, [(UPGRADE, PROTOCOL), (CONNECTION, "upgrade")]).into_response())
}

async fn observe(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Response, ApiError> {
    shared.leads()?;
    let pairs: Pairs<Vec<(String, String)>> = Pairs::try_from_uri(&uri)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "InvalidField", error.body_text()))?;
    let query = Query::from_pairs(&pairs.0).map_err(|detail| ApiError(StatusCode::BAD_REQUEST, detail))?;
    let Observer { hub, nodes, leading, end, .. } = shared.observer;
    let viewing = hub.view(peer, query.interval).ok_or_else(|| {
        let message = "too many are watching; try again when somebody has ended";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyViewers", message)
    })?;
    let displaced = viewing.displaced();
    let over = async move {
        tokio::select! {
            reason = over(leading, end) => reason,
            () = displaced.cancelled_owned() => "too many are watching, most of them from where this was asked",
        }
    };
    let body = Viewer::new(hub, query, nodes, viewing, over).body();
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn ask_node(
    State(shared): State<Shared>,
    Path((node, part)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    shared.leads()?;
    let unknown = || {
        let message = format!("a node has {}; not {part:?}", NODE_PARTS.join(", "));
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message)
    };
    let part = *NODE_PARTS.iter().find(|p| **p == part).ok_or_else(unknown)?;
    let method = if part == "decide" { Method::POST } else { Method::GET };
    if *request.method() != method {
        let message = format!("{part} takes {method}");
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    let token = bearer(request.headers())?;
    shared.observer.gate.person(token, node.clone(), part).await?;
    let busy =
        |_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "Busy", "too many questions at once; try again");
    let place = shared.relays.try_acquire_owned().map_err(busy)?;
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let path = format!("/v1/{part}{query}");
    let body = match method {
        Method::POST => Some(text(request.into_body()).await?),
        _ => None,
    };
    let link = shared.observer.hub.link(&node).ok_or_else(|| {
        let message = format!("no agent of node {node} is connected");
        ApiError::new(StatusCode::NOT_FOUND, "NoAgent", message)
    })?;
    let silent = || {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "NoAnswer", format!("the agent of {node} does not answer"))
    };
    let mut asking = Asking::begin(link, method.as_str(), path, body, part == "events").ok_or_else(silent)?;
    let head = timeout(PATIENCE, asking.parts.recv()).await.map_err(|_| silent())?;
    let Some(Part::Begin { status, content_type }) = head else { return Err(silent()) };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let body = Body::from_stream(futures_util::stream::unfold((asking, place), piece));
    Ok((status, [(CONTENT_TYPE, content_type)], body).into_response())
}

/// The next piece of an agent's answer; an error where it breaks off, so that nobody takes it for the whole.
async fn piece((mut asking, place): Asked) -> Option<(io::Result<Bytes>, Asked)> {
    let bytes = match asking.parts.recv().await {
        Some(Part::Data(data)) => Ok(data.into()),
        Some(Part::Lost(lost)) => Ok(format!("{{\"lost\":{lost}}}\n").into()),
        Some(Part::Begin { .. }) => Ok(Bytes::new()),
        None if asking.is_complete() => return None,
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    Some((bytes, (asking, place)))
}

/// A question, and its place among those that may be asked at once.
type Asked = (Asking, OwnedSemaphorePermit);

async fn text(body: Body) -> Result<String, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TooLarge",
            format!("the body is larger than {BODY} bytes"),
        )
    };
    let slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "TooSlow", "the body did not come in time");
    let bytes = timeout(PATIENCE, to_bytes(body, BODY)).await.map_err(slow)?.map_err(|_| too_large())?;
    String::from_utf8(bytes.into())
        .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "InvalidBody", "the body is not text"))
}
