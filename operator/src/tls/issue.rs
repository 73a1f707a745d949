//! Makes certificates.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::rotation::Issued;

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a certificate")]
pub struct IssueError(#[from] rcgen::Error);

/// A new authority that signs itself.
pub(super) fn authority(begins: Timestamp, made: Timestamp, ends: Timestamp) -> Result<Issued, IssueError> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(begins, made, ends)?.self_signed(&key)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem(), made, ends })
}

fn authority_params(
    begins: Timestamp,
    made: Timestamp,
    ends: Timestamp,
) -> Result<CertificateParams, IssueError> {
    let mut params = params(Vec::new(), begins, ends)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    // Two of them are told apart by name, so that a reader tries the right one.
    params.distinguished_name.push(DnType::CommonName, format!("balancing-operator {}", made.as_second()));
    Ok(params)
}

/// A certificate for these names, signed by the authority.
pub(super) fn serving(
    authority: &Issued,
    names: &[String],
    begins: Timestamp,
    made: Timestamp,
    ends: Timestamp,
) -> Result<Issued, IssueError> {
    // Of an issuer its name and key count, both as when it was made.
    let issuer = authority_params(begins, authority.made, authority.ends)?;
    let issuer = Issuer::new(issuer, KeyPair::from_pem(&authority.key)?);
    let mut params = params(names.to_vec(), begins, ends)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("balancing-operator", |n| n));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem(), made, ends })
}

fn params(names: Vec<String>, begins: Timestamp, ends: Timestamp) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let time = |t: Timestamp| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(t.as_second()).unwrap_or(0))
    };
    (params.not_before, params.not_after) = (time(begins), time(ends));
    Ok(params)
}
