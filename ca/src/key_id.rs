//! How an authority is told from all others: by its key.

use std::fmt;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::{extensions::ParsedExtension, prelude::X509Certificate};

/// The identifier of an authority's key, as certificates name it (RFC 5280 sections 4.2.1.1 and 4.2.1.2). Written in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Vec<u8>);

impl KeyId {
    /// Of the authority that `certificate` is of; `None` when it does not say.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Self::subject(&x509_parser::parse_x509_certificate(certificate).ok()?.1)
    }

    /// Of the authority that has signed `certificate`; `None` when it does not say.
    pub fn of_issuer(certificate: &CertificateDer<'_>) -> Option<Self> {
        Self::issuer(&x509_parser::parse_x509_certificate(certificate).ok()?.1)
    }

    /// From the bytes that [`KeyId::as_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// As it is on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn subject(certificate: &X509Certificate<'_>) -> Option<Self> {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(Self(id.0.to_vec())),
            _ => None,
        })
    }

    pub(crate) fn issuer(certificate: &X509Certificate<'_>) -> Option<Self> {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(Self(id.key_identifier.as_ref()?.0.to_vec())),
            _ => None,
        })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
