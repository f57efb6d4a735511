//! Reading certificates as X.509-SVIDs: <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>

use conduit_api::TrustDomain;
use rustls_pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use crate::certificate::Validity;

/// Why a certificate is not an X.509-SVID.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum NotSvid {
    /// Not parsed.
    #[error("it is not an X.509 certificate")]
    Encoding,
    /// Section 2: exactly one URI.
    #[error("it has {0} URIs among its names where exactly one is required")]
    Uris(usize),
    /// Section 4.3: a leaf signs handshakes and nothing else.
    #[error("its key usage is not that of a leaf: digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
}

/// What a leaf says. Its signature is someone else's concern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Svid {
    pub(crate) uri: String,
    pub(crate) validity: Validity,
}

/// What an authority's certificate says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AuthorityName {
    /// A user's own need not have one.
    uri: Option<String>,
    pub(crate) validity: Validity,
}

impl AuthorityName {
    /// The one that it names as its own (section 4.2).
    pub(crate) fn trust_domain(&self) -> Option<TrustDomain> {
        self.uri.as_deref()?.strip_prefix("spiffe://")?.parse().ok()
    }
}

impl Svid {
    /// Reads a leaf.
    pub(crate) fn leaf(der: &CertificateDer<'_>) -> Result<Self, NotSvid> {
        let certificate = parse(der)?;
        let usage = certificate.key_usage().map_err(|_| NotSvid::Encoding)?.ok_or(NotSvid::KeyUsage)?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(NotSvid::KeyUsage);
        }
        let mut uris = uris(&certificate)?;
        match (uris.pop(), uris.len()) {
            (Some(uri), 0) => Ok(Self { uri, validity: Validity::of(&certificate) }),
            (last, others) => Err(NotSvid::Uris(others + usize::from(last.is_some()))),
        }
    }

    /// Reads an authority.
    pub(crate) fn authority(der: &CertificateDer<'_>) -> Result<AuthorityName, NotSvid> {
        let certificate = parse(der)?;
        let mut uris = uris(&certificate)?;
        if uris.len() > 1 {
            return Err(NotSvid::Uris(uris.len()));
        }
        Ok(AuthorityName { uri: uris.pop(), validity: Validity::of(&certificate) })
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, NotSvid> {
    let names = certificate.subject_alternative_name().map_err(|_| NotSvid::Encoding)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(NotSvid::Encoding);
    }
    Ok(names.iter().filter_map(as_uri).map(str::to_owned).collect())
}

fn as_uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, NotSvid> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(NotSvid::Encoding),
    }
}
