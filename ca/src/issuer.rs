//! A replica's intermediate: any replica signs alone, with the leader, the quorum and the platform's API all gone.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use conduit_api::{NodeId, SpiffeId, TrustDomain};
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateDer;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    certificate::{self, Validity},
    key::{CryptoError, KeyPair},
    key_id::KeyId,
    root::Root,
};

/// The largest signing request read: room for any key we accept and a verbose client, and cheap to refuse.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Why there is no intermediate.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The root's own life is over.
    #[error("the root certificate has expired; a new root is needed")]
    RootExpired,
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Why a certificate was not signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// By the requester: larger than [`CSR_BYTES_MAX`].
    #[error("a signing request of {0} bytes is larger than the {CSR_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// By the requester: not PKCS#10.
    #[error("the signing request is not PKCS#10 in DER")]
    Malformed,
    /// By the requester: another kind of key.
    #[error("the signing request is for a kind of key that is not accepted; use ECDSA P-256 or P-384, or Ed25519")]
    KeyKind,
    /// By the requester: it does not hold the key.
    #[error("the signing request is not signed by the key it is for")]
    Signature,
    /// By the caller: we cannot vouch for other domains.
    #[error("`{id}` is not of this issuer's trust domain `{trust_domain}`")]
    TrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// Ours: our certificate must be replaced first.
    #[error("this replica's issuing certificate has expired")]
    Expired,
    /// Ours: the cryptographic library.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// An intermediate whose key exists in this process only; it is erased when this is dropped.
pub struct Issuer {
    trust_domain: TrustDomain,
    /// Its own certificate, and those that lead from it to what is trusted.
    chain: Vec<CertificateDer<'static>>,
    root: KeyId,
    not_after: SystemTime,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A certificate for a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// DER: the leaf, then the intermediate, and what leads from there to the root, which is left out.
    pub chain: Vec<CertificateDer<'static>>,
    /// The last second in which it is valid.
    pub not_after: SystemTime,
}

impl Issuer {
    /// A new intermediate with a new key, signed by `root` for `lifetime` from `now`, but never beyond the root.
    ///
    /// `link` is the root's certificate by the one that it follows, for those who do not trust it yet.
    ///
    /// # Errors
    /// When the root has expired, or the cryptographic library fails.
    pub fn new(
        root: &Root,
        link: Option<CertificateDer<'static>>,
        node: NodeId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, IssuerError> {
        if now > root.not_after() {
            return Err(IssuerError::RootExpired);
        }
        let validity = Validity::new(now, lifetime).until(root.not_after());
        let name = format!("Conduit intermediate of replica {node}");
        let params = certificate::authority(name, root.trust_domain(), 0, validity)?;
        let key = KeyPair::generate()?;
        let certificate = certificate::sign(&params, &key, root.issuer())?;
        Ok(Self {
            trust_domain: root.trust_domain().clone(),
            chain: std::iter::once(certificate).chain(root.links.iter().cloned()).chain(link).collect(),
            root: root.id().clone(),
            not_after: validity.not_after,
            issuer: rcgen::Issuer::new(params, key),
        })
    }

    /// The intermediate's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The root that it is under.
    pub fn root(&self) -> &KeyId {
        &self.root
    }

    /// The last second in which this issuer can sign; replace it well before.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs a certificate for `id` and the key in `csr_der`, for `lifetime` from `now` but never beyond this issuer.
    ///
    /// The request must be signed by its key; everything else in it (names, extensions, whether to be a CA) is ignored.
    /// It is the caller who has established that the requester is `id`.
    ///
    /// # Errors
    /// When the request is refused, or this issuer cannot sign; see [`IssueError`] for who is to blame.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, IssueError> {
        self.issue_named(csr_der, id, &[], now, lifetime)
    }

    /// The same, for a server that clients outside of the mesh know by the DNS names `names`: they are in the certificate beside `id`
    /// (X.509-SVID section 2 allows them).
    ///
    /// # Errors
    /// As for [`Issuer::issue`].
    pub fn issue_named(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, IssueError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(IssueError::TrustDomain { id: id.clone(), trust_domain: self.trust_domain.clone() });
        }
        if now > self.not_after {
            return Err(IssueError::Expired);
        }
        let key = requested_key(csr_der)?;
        let validity = Validity::new(now, lifetime).until(self.not_after);
        let leaf = certificate::sign(&certificate::leaf(id.to_string(), names, validity)?, &key, &self.issuer)?;
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        Ok(Issued { chain, not_after: validity.not_after })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// The key of a request whose sender holds it.
fn requested_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    if csr_der.len() > CSR_BYTES_MAX {
        return Err(IssueError::TooLarge(csr_der.len()));
    }
    let Ok(([], csr)) = X509CertificationRequest::from_der(csr_der) else { return Err(IssueError::Malformed) };
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| IssueError::KeyKind)?;
    // RSA is left out: peers would pay for large keys that nobody needs here.
    let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if !accepted.contains(&rcgen::PublicKeyData::algorithm(&key)) {
        return Err(IssueError::KeyKind);
    }
    csr.verify_signature().map_err(|_| IssueError::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
