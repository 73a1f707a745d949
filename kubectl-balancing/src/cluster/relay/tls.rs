//! TLS with the operator: its certificate must be of those whom its EndpointSlice names, and of nobody else.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use super::{
    Refusal,
    way::{Plain, Stream, said},
};

/// Speaks TLS over the stream.
pub(super) async fn secured(plain: Plain, host: &str, authorities: &str) -> Result<Stream, Refusal> {
    let config = trusting(authorities)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Refusal::Tls(format!("{host} is no name of a server")))?;
    let Plain { stream, to, complaint } = plain;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => match said(complaint).await {
            Some(said) => Err(Refusal::Forwarding { to, message: said }),
            None => Err(Refusal::Handshake { to, message: error.to_string() }),
        },
    }
}

fn trusting(authorities: &str) -> Result<ClientConfig, Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_trusted_who_is_not_named() {
        assert!(trusting("").unwrap().alpn_protocols.is_empty());
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(trusting(broken), Err(Refusal::Tls(_))));
    }

    #[tokio::test]
    async fn what_breaks_before_it_is_trusted_is_told() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        drop(theirs);
        let plain = Plain { stream: Box::new(ours), to: "there".to_owned(), complaint: None };
        let refused = secured(plain, "balancing-operator.elf.svc", "").await.err().unwrap();
        assert!(matches!(refused, Refusal::Handshake { .. }), "{refused}");
    }
}
