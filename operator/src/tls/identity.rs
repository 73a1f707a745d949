//! The certificate that the ports serve at this moment.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::Certificates;

/// A certificate that can be replaced while connections are made. Without one every handshake fails.
#[derive(Debug, Default)]
pub struct Identity {
    key: RwLock<Option<Arc<CertifiedKey>>>,
}

/// It is no certificate with its key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It does not read.
    #[error("failed to read the certificate or its key")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They do not go together.
    #[error("failed to use the certificate")]
    Key(#[from] rustls::Error),
}

impl Identity {
    /// Serves this from now on.
    ///
    /// # Errors
    /// It cannot be served; what was served before is so on.
    pub fn set(&self, certificates: &Certificates) -> Result<(), IdentityError> {
        let key = certified(certificates)?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }

    /// The configuration of a port with this identity.
    ///
    /// # Errors
    /// The provider of cryptography has no usable version of TLS.
    pub fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as _);
        Ok(Arc::new(config))
    }
}

/// Certificate and key as rustls takes them; they belong together.
pub(super) fn certified(certificates: &Certificates) -> Result<CertifiedKey, IdentityError> {
    let pem = certificates.serving.certificate.as_bytes();
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificates.serving.key.as_bytes())?;
    Ok(CertifiedKey::from_der(chain, key, &ring::default_provider())?)
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
