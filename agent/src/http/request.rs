//! Reads what clients send: bodies within a limit, and flows with the field named that is wrong.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::body::Body;
use balancing_api::{
    agent::{Caller, DecideRequest, ErrorDetail},
    net::{Frontend, Protocol},
};
use futures_util::StreamExt;
use serde_json::{Map, Value};

/// The largest body.
pub(super) const MAX_BODY: usize = 1 << 20;
/// How much of a larger one is read and thrown away, so that its sender gets to read the answer.
const MAX_DISCARDED: usize = 16 << 20;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

/// The whole body.
pub(super) async fn read_body(body: Body) -> Result<Vec<u8>, BodyError> {
    let mut stream = body.into_data_stream();
    let deadline = Instant::now() + BODY_TIME;
    let mut bytes = Vec::new();
    let mut size = 0usize;
    loop {
        match tokio::time::timeout_at(deadline.into(), stream.next()).await {
            Err(_) if size > MAX_BODY => return Err(BodyError::TooLarge),
            Err(_) => return Err(BodyError::TooSlow),
            Ok(Some(Ok(chunk))) => {
                size = size.saturating_add(chunk.len());
                if size <= MAX_BODY {
                    bytes.extend_from_slice(&chunk);
                } else if size > MAX_DISCARDED {
                    return Err(BodyError::TooLarge);
                }
            }
            Ok(Some(Err(_))) => return Err(BodyError::Broken),
            Ok(None) if size > MAX_BODY => return Err(BodyError::TooLarge),
            Ok(None) => return Ok(bytes),
        }
    }
}

fn invalid(field: &str, message: impl Into<String>) -> ErrorDetail {
    ErrorDetail { code: "InvalidField".to_owned(), field: field.to_owned(), message: message.into() }
}

/// The flow of a `POST /v1/decide`. Fields it does not know are ignored.
pub(super) fn decide_request(body: &[u8]) -> Result<DecideRequest, ErrorDetail> {
    let not_a_body =
        |message: String| ErrorDetail { code: "InvalidBody".to_owned(), field: String::new(), message };
    let value: Value =
        serde_json::from_slice(body).map_err(|error| not_a_body(format!("the body is not JSON: {error}")))?;
    let Value::Object(request) = value else {
        return Err(not_a_body("the body is not a JSON object".to_owned()));
    };
    let from = match request.get("from") {
        None | Some(Value::Null) => Caller::default(),
        Some(from) => caller(from)?,
    };
    let to = match request.get("to") {
        None => return Err(invalid("to", "is missing: say what is dialled")),
        Some(Value::Object(to)) => frontend(to)?,
        Some(_) => return Err(invalid("to", "expected an object with address, port and protocol")),
    };
    Ok(DecideRequest { from, to })
}

fn caller(from: &Value) -> Result<Caller, ErrorDetail> {
    let fields = from.as_object().and_then(|o| match (o.get("host"), o.get("pod")) {
        (None, None) | (Some(_), Some(_)) => None,
        either => Some(either),
    });
    match fields {
        Some((Some(Value::Bool(true)), _)) => Ok(Caller::Host(true)),
        Some((Some(_), _)) => Err(invalid("from.host", "expected true; leave it out for a pod")),
        Some((_, Some(Value::String(pod)))) => match pod.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Caller::Pod(pod.clone()))
            }
            _ => Err(invalid("from.pod", format!("{pod:?} is not a pod's \"namespace/name\""))),
        },
        Some(_) => Err(invalid("from.pod", "expected \"namespace/name\"")),
        None => Err(invalid("from", "expected {\"host\": true} or {\"pod\": \"namespace/name\"}")),
    }
}

fn frontend(to: &Map<String, Value>) -> Result<Frontend, ErrorDetail> {
    let field = |name: &str| to.get(name).ok_or_else(|| invalid(&format!("to.{name}"), "is missing"));
    let address: IpAddr = field("address")?
        .as_str()
        .and_then(|a| a.parse().ok())
        .ok_or_else(|| invalid("to.address", "expected an IPv4 or IPv6 address as text"))?;
    let port = field("port")?
        .as_u64()
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .ok_or_else(|| invalid("to.port", "expected a number from 1 to 65535"))?;
    let protocol: Protocol = field("protocol")?
        .as_str()
        .and_then(|p| p.parse().ok())
        .ok_or_else(|| invalid("to.protocol", "expected \"TCP\" or \"UDP\""))?;
    Ok(Frontend::new(address, port, protocol))
}
