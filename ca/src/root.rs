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
    /// The certificate names no trust domain.
    #[error("the root certificate is not one of this mesh's: it must have a trust domain as its one URI")]
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
        let pkcs8 = self.issuer.key().pkcs8()?;
        // Room for the tag at once: growing would leave the key in clear in the memory given back.
        let mut body = Zeroizing::new(Vec::with_capacity(pkcs8.as_ref().len() + AES_256_GCM.tag_len()));
        body.extend_from_slice(pkcs8.as_ref());
        let nonce = sealing_key(seed)?
            .seal_in_place_append_tag(bound_to(&self.trust_domain, &self.certificate), &mut *body)
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

/// Random nonces are safe here: a mesh seals a handful of keys, far from the 2^32 of NIST SP 800-38D section 8.3.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root::generate(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn opens_what_it_sealed() {
        let (root, seed) = (root(), Seed::generate());
        let sealed = root.seal(&seed).unwrap();
        let opened = Root::open(root.certificate().clone(), &sealed, &seed).unwrap();
        assert_eq!(opened.trust_domain(), root.trust_domain());
        assert_eq!(opened.not_after(), root.not_after());
        assert_eq!(opened.issuer.key().der_bytes(), root.issuer.key().der_bytes());
        assert_ne!(root.seal(&seed).unwrap(), sealed, "a nonce was used twice");
    }

    #[test]
    fn opens_only_with_its_own_seed_and_certificate() {
        let (root, seed) = (root(), Seed::generate());
        let sealed = root.seal(&seed).unwrap();
        let open = |certificate: &CertificateDer<'static>, sealed: &SealedKey, seed: &Seed| {
            Root::open(certificate.clone(), sealed, seed).unwrap_err()
        };
        assert!(matches!(open(root.certificate(), &sealed, &Seed::generate()), RootError::Sealed));
        // The same domain and the same seed, but another root.
        assert!(matches!(open(super::tests::root().certificate(), &sealed, &seed), RootError::Sealed));
        assert!(matches!(open(&b"junk".to_vec().into(), &sealed, &seed), RootError::Certificate));
    }

    #[test]
    fn notices_every_changed_or_missing_byte() {
        let (root, seed) = (root(), Seed::generate());
        let SealedKey(sealed) = root.seal(&seed).unwrap();
        let refused = |bytes| Root::open(root.certificate().clone(), &SealedKey(bytes), &seed).is_err();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(refused(changed), "byte {at} was changed");
            assert!(refused(sealed[..at].to_vec()), "cut to {at} bytes");
        }
    }

    #[test]
    fn shows_no_key() {
        let (root, seed) = (root(), Seed::generate());
        let pkcs8 = root.issuer.key().pkcs8().unwrap();
        let SealedKey(sealed) = root.seal(&seed).unwrap();
        // The 32 secret bytes of a P-256 key in PKCS#8 begin at 36; any 16 of them in a row would be a leak.
        assert!(!sealed.windows(16).any(|window| pkcs8.as_ref().windows(16).any(|secret| secret == window)));
        assert_eq!(format!("{root:?}"), r#"Root { trust_domain: TrustDomain("cluster.local"), .. }"#);
    }

    #[test]
    fn sealed_keys_survive_serde() {
        let sealed = root().seal(&Seed::generate()).unwrap();
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<SealedKey>(&json).unwrap(), sealed);
    }
}
