//! Dials the operator and shows it the token.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{body::Body, http::Request};
use balancing_api::{
    names::OPERATOR_SERVICE,
    stream::{AGENT_PATH, DEAD_AFTER, PROTOCOL},
};
use hyper::{
    StatusCode,
    client::conn::http1,
    header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::codec::LinesCodecError;

use super::Place;

/// How long it may take until the operator has said yes or no.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no connection, or none any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("failed to read the token {} (--operator-token)", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("the authorities that the operator publishes cannot be read")]
    Authorities(#[source] rustls::pki_types::pem::Error),
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("failed to connect to it at {address}")]
    Connect { address: std::net::SocketAddr, source: io::Error },
    #[error("failed to speak HTTP with it")]
    Http(#[from] hyper::Error),
    #[error("failed to make a request of the token")]
    Request(#[from] hyper::http::Error),
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("it does not answer")]
    Silent,
    #[error("it closed the connection")]
    Closed,
    #[error("failed to read its lines")]
    Read(#[from] LinesCodecError),
    #[error("failed to write to it")]
    Write(#[from] io::Error),
    #[error("it says what is no line")]
    Line(#[from] serde_json::Error),
    #[error("it says: {0}")]
    Bye(String),
    #[error("the agent ends")]
    Asked,
}

/// A connection on which lines can be spoken.
pub(super) async fn dial(place: &Place, namespace: &str, token: &Path) -> Result<TokioIo<Upgraded>, Ended> {
    let failed = |source| Ended::Token { path: token.to_owned(), source };
    let token = tokio::fs::read_to_string(token).await.map_err(failed)?;
    timeout(PATIENCE, connect(place, namespace, token.trim())).await.map_err(|_| Ended::Silent)?
}

async fn connect(place: &Place, namespace: &str, token: &str) -> Result<TokioIo<Upgraded>, Ended> {
    let connector = TlsConnector::from(Arc::new(trusting(&place.authorities)?));
    let host = format!("{OPERATOR_SERVICE}.{namespace}.svc");
    let name = ServerName::try_from(host.clone())
        .map_err(|_| rustls::Error::General(format!("{host} is no name of a server")))?;
    let failed = |source| Ended::Connect { address: place.address, source };
    let stream = TcpStream::connect(place.address).await.map_err(failed)?;
    prepare(&stream).map_err(failed)?;
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends is seen by whoever uses it.
    let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    let request = Request::get(AGENT_PATH)
        .header(HOST, host)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        driver.abort();
        return Err(Ended::Refused(response.status()));
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await?))
}

fn trusting(authorities: &str) -> Result<ClientConfig, Ended> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.map_err(Ended::Authorities)?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The kernel ends a connection whose other end is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stall = u32::try_from(DEAD_AFTER * 1000).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, stall)?;
    Ok(())
}
