//! A connection on which a test speaks TLS with the operator, and above it whatever it likes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use balancing_api::names::{ANNOTATION_CA, OPERATOR_SERVICE};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::cluster::{Kube, NAMESPACE, objects};

/// How long the other end may do nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Whom to trust for the operator.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those whom the leading replica publishes, as agents read them.
    ///
    /// # Errors
    /// No replica leads, or it publishes no certificates.
    pub fn of_leader(kube: &Kube) -> Result<Self> {
        let slice = kube.object(&objects::path("EndpointSlice", NAMESPACE, "balancing-operator-leader")?)?;
        let bundle = slice["metadata"]["annotations"][ANNOTATION_CA].as_str();
        let bundle = bundle.context("nobody says whom to trust")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// A connection whose handshake is done.
    ///
    /// # Errors
    /// Nobody listens, or it is nobody to trust.
    pub fn dial(&self, to: SocketAddr) -> Result<Stream> {
        let name = ServerName::try_from(format!("{OPERATOR_SERVICE}.{NAMESPACE}.svc"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut tcp = plain(to)?;
        connection.complete_io(&mut tcp).with_context(|| format!("TLS with {to}"))?;
        Ok(StreamOwned::new(connection, tcp))
    }

    /// Sends a request as it stands on a connection of its own; the HTTP status of the answer and all of its text, as far
    /// as it comes.
    ///
    /// # Errors
    /// There is no answer.
    pub fn exchange(&self, to: SocketAddr, request: &str) -> Result<(u16, String)> {
        let mut stream = self.dial(to)?;
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut answer = Vec::new();
        // It may be closed without ceremony, or never.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.with_context(|| format!("no answer to {request:?}: {answer:?}"))?, answer))
    }
}

/// A connection without TLS.
///
/// # Errors
/// Nobody listens.
pub fn plain(to: SocketAddr) -> Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}
