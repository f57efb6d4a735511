//! Reading certificates as X.509-SVIDs: <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>

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

/// What a certificate says. Its signature is someone else's concern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Svid {
    pub(crate) uri: String,
    pub(crate) validity: Validity,
}

impl Svid {
    /// Reads a leaf.
    pub(crate) fn leaf(der: &CertificateDer<'_>) -> Result<Self, NotSvid> {
        let certificate = parse(der)?;
        let usage = certificate.key_usage().map_err(|_| NotSvid::Encoding)?.ok_or(NotSvid::KeyUsage)?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(NotSvid::KeyUsage);
        }
        Self::from_x509(&certificate)
    }

    /// Reads an authority.
    pub(crate) fn authority(der: &CertificateDer<'_>) -> Result<Self, NotSvid> {
        Self::from_x509(&parse(der)?)
    }

    fn from_x509(certificate: &X509Certificate<'_>) -> Result<Self, NotSvid> {
        let names = certificate.subject_alternative_name().map_err(|_| NotSvid::Encoding)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
            return Err(NotSvid::Encoding);
        }
        let uris: Vec<&str> = names.iter().filter_map(as_uri).collect();
        let [uri] = uris[..] else { return Err(NotSvid::Uris(uris.len())) };
        let validity = certificate.validity();
        Ok(Self {
            uri: uri.to_owned(),
            validity: Validity {
                not_before: validity.not_before.to_datetime().into(),
                not_after: validity.not_after.to_datetime().into(),
            },
        })
    }
}

fn as_uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, NotSvid> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(NotSvid::Encoding),
    }
}
