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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Values of the right and of every wrong kind.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0u32..70_000).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop_oneof!["TCP", "udp", "a/b", "/", "10.0.0.1", "fd00::1", ".*"].prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
            "[a-z]/[a-z]".prop_map(|pod| json!({"pod": pod})),
            any::<bool>().prop_map(|host| json!({"host": host})),
        ]
    }

    fn mostly(right: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        prop_oneof![4 => right, 1 => value()]
    }

    proptest! {
        #[test]
        fn a_flow_that_is_accepted_is_the_one_that_was_sent(
            from in mostly(prop_oneof![Just(json!({"host": true})), Just(json!({"pod": "ns/p"}))]),
            address in mostly(any::<IpAddr>().prop_map(|ip| Value::from(ip.to_string()))),
            port in mostly(any::<u16>().prop_map(Value::from)),
            protocol in mostly("TCP|UDP|tcp".prop_map(Value::from)),
        ) {
            let to = json!({"address": address, "port": port, "protocol": protocol});
            let body = json!({"from": from, "to": to}).to_string();
            match decide_request(body.as_bytes()) {
                Ok(request) => {
                    prop_assert_eq!(Some(u64::from(request.to.port)), port.as_u64());
                    prop_assert!(request.to.port != 0);
                    let sent: IpAddr = address.as_str().unwrap().parse().unwrap();
                    prop_assert_eq!(request.to.address, sent.to_canonical());
                    prop_assert!(protocol.as_str().unwrap().eq_ignore_ascii_case(request.to.protocol.as_str()));
                    match request.from {
                        Caller::Host(host) => prop_assert!(host && (from.is_null() || from["host"] == true)),
                        Caller::Pod(pod) => prop_assert_eq!(&from["pod"], &Value::from(pod)),
                    }
                }
                Err(error) => {
                    prop_assert_eq!(error.code, "InvalidField");
                    prop_assert!(error.field.starts_with("from") || error.field.starts_with("to"));
                    prop_assert!(!error.message.is_empty());
                }
            }
        }

        #[test]
        fn no_bytes_make_it_fall_over(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decide_request(&body);
        }
    }
}
