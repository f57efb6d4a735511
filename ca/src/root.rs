//! The root of trust: made once per mesh by its first leader, and sealed whenever it is not in use.

use std::{fmt, time::SystemTime};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest::{SHA256, digest},
};
use conduit_api::TrustDomain;
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    certificate::{self, LIFETIME_MAX, Validity},
    key::{CryptoError, KeyPair},
    seed::{Purpose, Seed},
    svid::Svid,
};

/// The first byte of a sealed key: AES-256-GCM, then nonce, then ciphertext with its tag.
const SEALED_VERSION: u8 = 1;

/// A chain is root, intermediate, leaf.
const INTERMEDIATES_MAX: u8 = 1;

/// Why a root could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Another mesh's seed, or the sealed key or its certificate was changed.
    #[error("the root key does not open with this seed: it was sealed under another one, or it is damaged")]
    Sealed,
    /// Not something that [`SealedKey`] ever holds in this release.
    #[error("the sealed root key is not in a format that this release knows; was it written by a later one?")]
    Format,
    /// The certificate is not a root's, or the key is not this certificate's.
    #[error("the root certificate is not one of a trust domain's, or not that of its key")]
    Certificate,
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A P-256 root with its key in memory; the key is erased when this is dropped.
pub struct Root {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    validity: Validity,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A root's private key, encrypted: safe to replicate, to store and to back up.
///
/// Bound to the seed, the trust domain and the certificate it was sealed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedKey(Vec<u8>);

impl Root {
    /// A new root for `trust_domain`, valid for 10 years from `now`.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CryptoError> {
        let key = KeyPair::generate()?;
        let validity = Validity::new(now, LIFETIME_MAX);
        // Roots of one domain follow each other and are trusted side by side for a while: their names must differ.
        let fingerprint = digest(&SHA256, key.der_bytes());
        let name = format!("Conduit root {:x}", u64::from_be_bytes(first_eight(fingerprint.as_ref())));
        let params = certificate::authority(name, trust_domain, INTERMEDIATES_MAX, validity)?;
        let certificate = params.self_signed(&key).map_err(CryptoError::Sign)?.into();
        Ok(Self { trust_domain: trust_domain.clone(), certificate, validity, issuer: rcgen::Issuer::new(params, key) })
    }

    /// The certificate, as it goes into trust bundles.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Whose identities this root vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    pub(crate) fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Encrypts the key under the mesh's seed. Each call gives different bytes.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn seal(&self, seed: &Seed) -> Result<SealedKey, CryptoError> {
        let mut body = self.issuer.key().pkcs8()?.as_ref().to_vec();
        let nonce = sealing_key(seed)?
            .seal_in_place_append_tag(bound_to(&self.trust_domain, &self.certificate), &mut body)
            .map_err(|_| CryptoError::Key)?;
        Ok(SealedKey([&[SEALED_VERSION], nonce.as_ref().as_slice(), &body].concat()))
    }

    /// The reverse of [`Root::seal`].
    ///
    /// # Errors
    /// When seed, certificate and sealed key do not belong together.
    pub fn open(certificate: CertificateDer<'static>, sealed: &SealedKey, seed: &Seed) -> Result<Self, RootError> {
        let svid = Svid::authority(&certificate).map_err(|_| RootError::Certificate)?;
        let trust_domain = svid.uri.strip_prefix("spiffe://").and_then(|name| name.parse().ok());
        let trust_domain: TrustDomain = trust_domain.ok_or(RootError::Certificate)?;
        let (nonce, body) = sealed.parts().ok_or(RootError::Format)?;
        let mut body = Zeroizing::new(body.to_vec());
        let pkcs8 = sealing_key(seed)?
            .open_in_place(nonce, bound_to(&trust_domain, &certificate), &mut body)
            .map_err(|_| RootError::Sealed)?;
        let key = KeyPair::from_pkcs8(pkcs8)?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, key).map_err(|_| RootError::Certificate)?;
        Ok(Self { trust_domain, certificate, validity: svid.validity, issuer })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl SealedKey {
    fn parts(&self) -> Option<(Nonce, &[u8])> {
        let (version, rest) = self.0.split_first()?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        (*version == SEALED_VERSION).then_some((nonce, body))
    }
}

/// Random nonces are safe here: a mesh seals a handful of keys in its life, far from the 2^32 that GCM allows (SP 800-38D section 8.3).
fn sealing_key(seed: &Seed) -> Result<RandomizedNonceKey, CryptoError> {
    RandomizedNonceKey::new(&AES_256_GCM, seed.derive(Purpose::RootSealing).as_ref()).map_err(|_| CryptoError::Key)
}

/// What is authenticated with the key: it cannot be passed off as the key of another certificate or trust domain.
fn bound_to(trust_domain: &TrustDomain, certificate: &CertificateDer<'_>) -> Aad<Vec<u8>> {
    // The hash has a fixed length and comes last, so that the two cannot run into each other.
    Aad::from([trust_domain.as_str().as_bytes(), digest(&SHA256, certificate).as_ref()].concat())
}

fn first_eight(digest: &[u8]) -> [u8; 8] {
    digest.first_chunk().copied().expect("SHA-256 has 32 bytes")
}
