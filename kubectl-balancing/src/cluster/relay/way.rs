//! How bytes get to the operator: by a port that the API server forwards to its pod, or straight to an address.

use std::{fmt, io, str::FromStr, time::Duration};

use balancing_api::leader::Leader;
use futures_util::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{super::connect::Connection, Refusal};

/// Bytes both ways.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// Bytes both ways, whatever carries them.
pub type Stream = Box<dyn Bytes>;

/// How long the other end of a forwarded port may take to say why it broke.
const SAYS: Duration = Duration::from_millis(300);

/// Where the operator is reached without the API server: `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator(String);

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Operator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let right = |(host, port): (&str, &str)| {
            !host.is_empty()
                && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
                && !host.contains('/')
                && port.parse::<u16>().is_ok_and(|p| p != 0)
        };
        if text.rsplit_once(':').is_some_and(right) {
            return Ok(Self(text.to_owned()));
        }
        Err("expected HOST:PORT, with an IPv6 address in brackets; the operator's port is 5821".to_owned())
    }
}

/// What the other end of a forwarded port says of it, once it breaks.
pub(super) type Complaint = BoxFuture<'static, Option<String>>;

/// Bytes that nothing protects yet.
pub(super) struct Plain {
    /// The bytes.
    pub(super) stream: Stream,
    /// Where they go, in words.
    pub(super) to: String,
    /// Why they break.
    pub(super) complaint: Option<Complaint>,
}

/// What was said of a stream that broke.
pub(super) async fn said(complaint: Option<Complaint>) -> Option<String> {
    tokio::time::timeout(SAYS, complaint?).await.ok().flatten()
}

/// Straight to an address.
pub(super) async fn direct(operator: &Operator) -> Result<Plain, Refusal> {
    let failed = |source: io::Error| Refusal::Connect { address: operator.to_string(), source };
    let stream = TcpStream::connect(&operator.0).await.map_err(failed)?;
    Ok(Plain { stream: Box::new(stream), to: operator.to_string(), complaint: None })
}

/// By a port that the API server forwards to the leader's pod.
pub(super) async fn forwarded(
    connection: &Connection,
    namespace: &str,
    leader: &Leader,
) -> Result<Plain, Refusal> {
    let pod = leader.pod.as_deref().ok_or(Refusal::NoPod)?;
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let port = leader.address.port();
    let forwarded = pods.portforward(pod, &[port]).await;
    let mut forwarded = forwarded.map_err(|e| Refusal::forward(namespace, pod, &connection.server, &e))?;
    // There is one of each of a port that was asked for.
    let stream = forwarded.take_stream(port).ok_or(Refusal::NoPod)?;
    let complaint = forwarded.take_error(port).map(FutureExt::boxed);
    Ok(Plain { stream: Box::new(stream), to: format!("pod {namespace}/{pod}"), complaint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for right in ["10.0.0.1:5821", "[fd00::1]:5821", "operator.example:443"] {
            assert_eq!(right.parse::<Operator>().unwrap().to_string(), right);
        }
        for wrong in ["", "10.0.0.1", "fd00::1:5821", ":5821", "a:0", "https://a:1", "a:x"] {
            assert!(wrong.parse::<Operator>().is_err(), "{wrong}");
        }
    }
}
