//! Which path answers what.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, Request, State},
    http::{
        Method, StatusCode, Uri,
        header::{ALLOW, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use balancing_api::agent::{Document, ErrorBody, ErrorDetail, LostEvents};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    NodeView, View, ViewError,
    request::{BodyError, MAX_BODY, decide_request, read_body},
};
use crate::events::{self, Item, Subscription};

/// Calls into the node at one time: more would only queue behind one another in the kernel.
const CALLS: usize = 8;

/// What an address serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    All,
    /// `/livez`, `/readyz` and `/metrics` alone.
    Health,
}

struct Shared<V> {
    view: Arc<V>,
    calls: Arc<Semaphore>,
    shutdown: CancellationToken,
    access: Access,
}

impl<V> Clone for Shared<V> {
    fn clone(&self) -> Self {
        Self {
            view: Arc::clone(&self.view),
            calls: Arc::clone(&self.calls),
            shutdown: self.shutdown.clone(),
            access: self.access,
        }
    }
}

/// An error as clients read it.
struct ApiError(StatusCode, ErrorDetail);

impl ApiError {
    fn new(status: StatusCode, code: &str, field: &str, message: impl Into<String>) -> Self {
        let detail = ErrorDetail { code: code.to_owned(), field: field.to_owned(), message: message.into() };
        Self(status, detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, axum::Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<ViewError> for ApiError {
    fn from(error: ViewError) -> Self {
        let message = error.to_string();
        match error {
            ViewError::UnknownPod(_) => Self::new(StatusCode::NOT_FOUND, "UnknownPod", "from.pod", message),
            ViewError::NotReady(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", "", message),
            ViewError::Failed(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", "", message),
        }
    }
}

/// The routes of an address. `shutdown` ends the streams of events.
pub fn router<V: NodeView>(view: Arc<V>, access: Access, shutdown: CancellationToken) -> Router {
    let mut router = Router::new()
        .route("/livez", get(livez::<V>))
        .route("/readyz", get(readyz::<V>))
        .route("/metrics", get(metrics::<V>));
    if access == Access::All {
        router = router
            .route("/v1/status", get(status::<V>))
            .route("/v1/frontends", get(frontends::<V>))
            .route("/v1/counters", get(counters::<V>))
            .route("/v1/decide", post(decide::<V>))
            .route("/v1/events", get(stream_events::<V>));
    }
    router.fallback(not_found::<V>).method_not_allowed_fallback(not_allowed).with_state(Shared {
        view,
        calls: Arc::new(Semaphore::new(CALLS)),
        shutdown,
        access,
    })
}

async fn not_found<V: NodeView>(State(shared): State<Shared<V>>, uri: Uri) -> ApiError {
    let message = match shared.access {
        Access::All => format!("there is nothing at {}", uri.path()),
        Access::Health => format!(
            "there is nothing at {}: this address serves /livez, /readyz and /metrics, the agent's unix socket the rest",
            uri.path()
        ),
    };
    ApiError::new(StatusCode::NOT_FOUND, "NotFound", "", message)
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let allowed = if uri.path() == "/v1/decide" { "POST" } else { "GET, HEAD" };
    let message = format!("{} does not take {method}, but {allowed}", uri.path());
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "", message);
    ([(ALLOW, allowed)], error).into_response()
}

/// Runs a call into the node where it may block.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        tracing::error!(%error, "a call for the agent API ended badly");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal",
            "",
            "the agent failed to answer; see its log",
        )
    })
}

async fn health<V: NodeView>(
    shared: Shared<V>,
    code: &str,
    check: fn(&V) -> Result<(), String>,
) -> Result<Response, ApiError> {
    match blocking(move || check(&shared.view)).await? {
        Ok(()) => Ok("ok\n".into_response()),
        Err(missing) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, "", missing)),
    }
}

async fn livez<V: NodeView>(State(shared): State<Shared<V>>) -> Result<Response, ApiError> {
    health(shared, "NotLive", V::live).await
}

async fn readyz<V: NodeView>(State(shared): State<Shared<V>>) -> Result<Response, ApiError> {
    health(shared, "NotReady", V::ready).await
}

/// Asks the node; no more than [`CALLS`] at a time.
async fn ask<V: NodeView, T: Send + 'static>(
    shared: Shared<V>,
    call: impl FnOnce(&V) -> Result<T, ViewError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = Arc::clone(&shared.calls).acquire_owned().await;
    let answer = blocking(move || {
        // Held by the thread, not by the request: a client that goes away leaves its call running.
        let _permit = permit;
        call(&shared.view)
    });
    Ok(answer.await??)
}

/// A document, written out where it may take its time.
async fn document<V: NodeView, T: Serialize>(
    shared: Shared<V>,
    kind: &'static str,
    call: impl FnOnce(&V) -> Result<T, ViewError> + Send + 'static,
) -> Result<Response, ApiError> {
    let json = ask(shared, move |view| {
        let document = Document::new(kind, call(view)?);
        serde_json::to_vec(&document)
            .map_err(|error| ViewError::Failed(format!("failed to write {kind}: {error}")))
    })
    .await?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

async fn metrics<V: NodeView>(State(shared): State<Shared<V>>) -> Result<Response, ApiError> {
    let page = ask(shared, V::metrics).await?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page).into_response())
}

async fn status<V: NodeView>(State(shared): State<Shared<V>>) -> Result<Response, ApiError> {
    document(shared, "NodeStatus", V::status).await
}

async fn counters<V: NodeView>(State(shared): State<Shared<V>>) -> Result<Response, ApiError> {
    document(shared, "Counters", V::counters).await
}

/// The decoded pairs of the query.
type Pairs = Vec<(String, String)>;

fn bad_query(name: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "InvalidField", name, message)
}

fn pairs(uri: &Uri) -> Result<Pairs, ApiError> {
    Query::try_from_uri(uri).map(|Query(pairs)| pairs).map_err(|error| bad_query("", error.body_text()))
}

async fn frontends<V: NodeView>(State(shared): State<Shared<V>>, uri: Uri) -> Result<Response, ApiError> {
    let mut view = View::default();
    for (name, value) in pairs(&uri)? {
        view = match (name.as_str(), value.as_str()) {
            ("view", "programmed") => View::Programmed,
            ("view", "desired") => View::Desired,
            ("view", _) => {
                return Err(bad_query("view", format!("{value:?}: expected programmed or desired")));
            }
            _ => return Err(bad_query(&name, "unknown parameter; there is view")),
        };
    }
    document(shared, "FrontendList", move |node| node.frontends(view)).await
}

async fn decide<V: NodeView>(
    State(shared): State<Shared<V>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_body(request.into_body()).await.map_err(|error| match error {
        BodyError::TooLarge => {
            let message = format!("the body is larger than {MAX_BODY} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", "", message)
        }
        BodyError::TooSlow => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "TooSlow", "", "the body did not come in time")
        }
        BodyError::Broken => {
            ApiError::new(StatusCode::BAD_REQUEST, "InvalidBody", "", "the body ended too early")
        }
    })?;
    let request = decide_request(&body).map_err(|detail| ApiError(StatusCode::BAD_REQUEST, detail))?;
    document(shared, "Decision", move |view| view.decide(&request)).await
}

fn line(value: &impl Serialize) -> Bytes {
    // These types hold nothing that JSON cannot say; an empty line would stand for one that does.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn item_line(item: &Item) -> Bytes {
    match item {
        Item::Event(event) => line(&**event),
        Item::Lost(lost) => line(&LostEvents { lost: *lost }),
    }
}

/// A client that follows the events, and how many more it wants.
struct Follower {
    subscription: Subscription,
    remaining: Option<u64>,
    shutdown: CancellationToken,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.remaining == Some(0) {
            return None;
        }
        let item = tokio::select! {
            item = self.subscription.next() => item,
            () = self.shutdown.cancelled() => return None,
        };
        if let (Item::Event(_), Some(remaining)) = (&item, &mut self.remaining) {
            *remaining -= 1;
        }
        Some((Ok(item_line(&item)), self))
    }
}

async fn stream_events<V: NodeView>(State(shared): State<Shared<V>>, uri: Uri) -> Result<Response, ApiError> {
    let pairs = pairs(&uri)?;
    let query = events::Query::from_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())))
        .map_err(|error| bad_query(&error.parameter, error.message))?;
    let hub = shared.view.events();
    let body = if query.follow {
        let subscription = hub.subscribe(query.filter, query.rate);
        let follower = Follower { subscription, remaining: query.limit, shutdown: shared.shutdown };
        Body::from_stream(futures_util::stream::unfold(follower, Follower::next))
    } else {
        let lines: Vec<Bytes> = hub.recent(&query.filter, query.limit).iter().map(|e| line(&**e)).collect();
        Body::from(lines.concat())
    };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}
