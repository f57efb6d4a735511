//! What our certificates look like (RFC 5280, X.509-SVID section 4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conduit_api::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use crate::key::CryptoError;

/// Peers whose clocks are behind ours by no more than this accept what we just signed.
const SKEW: Duration = Duration::from_secs(60);

/// No certificate of ours lives longer: a root's life, 10 years.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// From when to when a certificate is valid, both inclusive, in whole seconds as X.509 counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// From a little before `now` until `lifetime` from now.
    pub(crate) fn new(now: SystemTime, lifetime: Duration) -> Self {
        Self { not_before: whole_seconds(now - SKEW), not_after: whole_seconds(now + lifetime.min(LIFETIME_MAX)) }
    }

    /// That of a certificate.
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            not_before: validity.not_before.to_datetime().into(),
            not_after: validity.not_after.to_datetime().into(),
        }
    }

    /// The same, ending with `limit` if that is earlier: a chain is no longer valid than its issuers are.
    pub(crate) fn until(self, limit: SystemTime) -> Self {
        Self { not_after: self.not_after.min(limit), ..self }
    }
}

/// From when to when the certificate `der` is valid; `None` of what is none.
pub fn lifetime(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let Validity { not_before, not_after } = Validity::of(&certificate);
    Some((not_before, not_after))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

/// An authority's certificate; `sub_authorities_max` is how many more may follow it in a chain.
///
/// It names its trust domain as its SPIFFE id (X.509-SVID section 4.2).
pub(crate) fn authority(
    name: String,
    trust_domain: &TrustDomain,
    sub_authorities_max: u8,
    validity: Validity,
) -> Result<CertificateParams, CryptoError> {
    let mut params = common(format!("spiffe://{trust_domain}"), validity)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(sub_authorities_max));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// A certificate for handshakes of both sides, whose names are `uri` and, for servers, the DNS names `names`.
pub(crate) fn leaf(uri: String, names: &[String], validity: Validity) -> Result<CertificateParams, CryptoError> {
    let mut params = common(uri, validity)?;
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(&**name).map_err(CryptoError::Sign)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn common(uri: String, validity: Validity) -> Result<CertificateParams, CryptoError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).map_err(CryptoError::Sign)?)];
    renew(&mut params, validity)?;
    Ok(params)
}

/// Makes `params` those of a new certificate with this validity.
pub(crate) fn renew(params: &mut CertificateParams, validity: Validity) -> Result<(), CryptoError> {
    params.serial_number = Some(random_serial()?);
    params.use_authority_key_identifier_extension = true;
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    Ok(())
}

/// 16 bytes, positive and never zero (RFC 5280 section 4.1.2.2).
fn random_serial() -> Result<SerialNumber, CryptoError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CryptoError::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

/// Signs `params` for `key` with `issuer`.
pub(crate) fn sign(
    params: &CertificateParams,
    key: &impl rcgen::PublicKeyData,
    issuer: &rcgen::Issuer<'_, impl rcgen::SigningKey>,
) -> Result<CertificateDer<'static>, CryptoError> {
    params.signed_by(key, issuer).map(Into::into).map_err(CryptoError::Sign)
}
