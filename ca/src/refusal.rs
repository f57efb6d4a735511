//! Why a handshake was refused, in terms that can be counted and acted upon.

use std::io;

use conduit_api::TrustDomain;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Why we or the peer refused.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS; is there a proxy beside it?")]
    Plaintext,
    /// It speaks another TLS.
    #[error("the peer does not speak TLS 1.3 as this mesh does: {0}")]
    Protocol(String),
    /// It presented nothing where something is required.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// It presented something that this mesh never issues.
    #[error("the peer's certificate is not an X.509-SVID: {0}")]
    Malformed(String),
    /// No chain to our bundle.
    #[error("the peer's certificate was not issued by a root of our trust bundle; do both belong to the same mesh?")]
    UnknownCa,
    /// A root of ours signed it, for another domain.
    #[error("the peer is `{found}`, not of our trust domain `{expected}`")]
    TrustDomain {
        /// Ours.
        expected: TrustDomain,
        /// The peer's identity.
        found: String,
    },
    /// Too late.
    #[error("the peer's certificate has expired; it could not renew it, or a clock is wrong")]
    Expired,
    /// Too early, by more than the minute that issuers allow for.
    #[error("the peer's certificate is not valid yet; a clock is wrong")]
    NotYetValid,
    /// For the other side of a handshake, or an authority's.
    #[error("the peer's certificate is not for this side of a connection")]
    Usage,
    /// One of us, but not who we were looking for.
    #[error("the peer is `{found}`, and {expected} was expected")]
    Identity {
        /// Who was expected.
        expected: String,
        /// The peer's identity.
        found: String,
    },
    /// One of us whom nobody is to speak with.
    #[error("the peer is `{0}`, which is denied; see `conduit ca status`")]
    Denied(String),
    /// Signed by a replica whose issuing certificate was revoked.
    #[error("the peer's certificate is of an issuer that was revoked; its proxy gets another one as soon as it can")]
    RevokedIssuer,
    /// Its certificate is someone else's.
    #[error("the peer did not prove that it holds its certificate's key")]
    Key,
    /// The peer refused us, and this is all it says.
    #[error("the peer refused our handshake with the TLS alert {0:?}; its log says why")]
    ByPeer(AlertDescription),
}

impl Refusal {
    /// The refusal in a failed handshake; `None` when it failed for another reason, such as a protocol error.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(Self::Plaintext),
            rustls::Error::PeerIncompatible(why) => Some(Self::Protocol(format!("{why:?}"))),
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::AlertReceived(alert) => Some(Self::ByPeer(*alert)),
            rustls::Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            _ => None,
        }
    }

    /// The same for the error that an asynchronous handshake returns.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().and_then(Self::of)
    }

    /// A stable label for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Protocol(_) => "protocol",
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::UnknownCa => "unknown_ca",
            Self::TrustDomain { .. } => "trust_domain",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Usage => "usage",
            Self::Identity { .. } => "identity",
            Self::Denied(_) => "denied",
            Self::RevokedIssuer => "revoked_issuer",
            Self::Key => "key",
            Self::ByPeer(_) => "by_peer",
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownCa,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::Usage,
            // The verifier calls a bad signature in the chain an unknown issuer; this is the handshake's own.
            CertificateError::BadSignature => Self::Key,
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(refusal) => refusal.clone(),
                None => Self::Malformed(other.to_string()),
            },
            other => Self::Malformed(other.to_string()),
        }
    }
}
