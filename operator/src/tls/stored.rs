//! The certificates as a Secret.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Certificates, identity};

/// Key of the Secret that is read; the others are copies for people and their tools.
const STATE: &str = "state.json";

/// The Secret's data is not what an operator wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoredError {
    /// It is not there.
    #[error("it has no {STATE}")]
    Missing,
    /// It does not read.
    #[error("failed to read its {STATE}")]
    Broken(#[source] serde_json::Error),
    /// Its certificate cannot be served.
    #[error(transparent)]
    Unusable(#[from] identity::IdentityError),
}

/// What a Secret holds.
pub(super) fn read(secret: &Secret) -> Result<Certificates, StoredError> {
    let state = secret.data.as_ref().and_then(|data| data.get(STATE)).ok_or(StoredError::Missing)?;
    let certificates = serde_json::from_slice(&state.0).map_err(StoredError::Broken)?;
    identity::certified(&certificates)?;
    Ok(certificates)
}

/// The Secret of these certificates. With a version it replaces the one that was read, and none that is newer.
pub(super) fn write(
    namespace: &str,
    name: &str,
    version: Option<String>,
    certificates: &Certificates,
) -> Result<Secret, serde_json::Error> {
    let state = serde_json::to_vec(certificates)?;
    let text = |text: String| ByteString(text.into_bytes());
    let data = BTreeMap::from([
        (STATE.to_owned(), ByteString(state)),
        ("ca.crt".to_owned(), text(certificates.bundle())),
        ("tls.crt".to_owned(), text(certificates.serving.certificate.clone())),
        ("tls.key".to_owned(), text(certificates.serving.key.clone())),
    ]);
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource_version: version,
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "balancing-operator".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::tls::rotation::{Step, take};

    #[test]
    fn what_was_written_is_read() {
        let names = ["localhost".to_owned()];
        let certificates = take(None, Step::Begin, &names, Timestamp::UNIX_EPOCH).unwrap();
        let announced = take(Some(certificates), Step::Announce, &names, Timestamp::UNIX_EPOCH).unwrap();
        let secret = write("elf", "x", Some("7".to_owned()), &announced).unwrap();
        assert_eq!(read(&secret).unwrap(), announced);
        assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn what_cannot_be_served_is_told() {
        let names = ["localhost".to_owned()];
        let mut one = take(None, Step::Begin, &names, Timestamp::UNIX_EPOCH).unwrap();
        let other = take(None, Step::Begin, &names, Timestamp::UNIX_EPOCH).unwrap();
        one.serving.key = other.serving.key;
        let secret = write("elf", "x", None, &one).unwrap();
        assert!(matches!(read(&secret), Err(StoredError::Unusable(_))));
        assert!(matches!(read(&Secret::default()), Err(StoredError::Missing)));
        let mut garbage = secret;
        garbage.data.as_mut().unwrap().insert(STATE.to_owned(), ByteString(b"{".to_vec()));
        assert!(matches!(read(&garbage), Err(StoredError::Broken(_))));
    }
}
