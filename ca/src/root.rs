//! The root of trust: made by the mesh's leader, or given by its user, and sealed whenever it is not in use.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use conduit_api::TrustDomain;
use rcgen::{BasicConstraints, CertificateParams, IsCa, PublicKeyData};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    certificate::{self, LIFETIME_MAX, Validity},
    key::{CryptoError, KeyPair},
    key_id::KeyId,
    seal::{self, Unopened},
    seed::{Purpose, Seed},
    svid::Svid,
};

/// A chain is root, the same root's successor while they change places, intermediate, leaf.
const INTERMEDIATES_MAX: u8 = 2;

/// How long a root of our own lives unless it is said otherwise: 10 years, and it is followed by the next long before.
pub const ROOT_LIFETIME: Duration = LIFETIME_MAX;

/// Why a root could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Another mesh's seed, or the sealed key or its certificate was changed.
    #[error("the root key does not open with this seed: it was sealed under another one, or it is damaged")]
    Sealed,
    /// Not something that [`SealedKey`] ever holds in this release.
    #[error("the sealed root key is not in a format that this release knows; was it written by a later one?")]
    Format,
    /// Not one that could sign.
    #[error("the root certificate is not one that certificates can be issued under")]
    Certificate,
    /// The caller's configuration and the mesh's root disagree.
    #[error(
        "the root certificate is of trust domain `{root}`, not `{asked}`; \
         start with --trust-domain {root}, or with an empty data directory"
    )]
    TrustDomain {
        /// The root's.
        root: TrustDomain,
        /// The caller's.
        asked: TrustDomain,
    },
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A P-256 authority with its key in memory, under which replicas' intermediates are signed; the key is erased when this is dropped.
pub struct Root {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) id: KeyId,
    pub(crate) certificate: CertificateDer<'static>,
    /// From that certificate on to one that [`Root::anchor`] has signed. Empty when it is the anchor itself.
    pub(crate) links: Vec<CertificateDer<'static>>,
    pub(crate) anchor: CertificateDer<'static>,
    /// Whether it is a user's own.
    pub(crate) imported: bool,
    pub(crate) validity: Validity,
    /// What its certificate says, while it is one that we have just made.
    pub(crate) params: Option<CertificateParams>,
    pub(crate) issuer: rcgen::Issuer<'static, KeyPair>,
}

/// A root whose key is encrypted: safe to replicate, to store and to back up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRoot {
    /// Of its key.
    pub id: KeyId,
    /// What is to be trusted, in DER.
    pub anchor: Vec<u8>,
    /// What signs replicas' intermediates, in DER: the same, unless it is a user's own intermediate.
    pub certificate: Vec<u8>,
    /// From that certificate on to one that the anchor has signed, in DER, for every chain under it.
    pub links: Vec<Vec<u8>>,
    /// The key of `certificate`.
    pub key: SealedKey,
    /// Whether it is a user's own, and so not followed by one of ours.
    pub imported: bool,
}

/// A root's private key, encrypted. Bound to the seed, the trust domain and the certificate it was sealed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedKey(Vec<u8>);

impl Root {
    /// A new root for `trust_domain`, valid for `lifetime` from `now`, but no longer than 10 years.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime, lifetime: Duration) -> Result<Self, CryptoError> {
        let key = KeyPair::generate()?;
        let validity = Validity::new(now, lifetime);
        // Roots of one domain follow each other and are trusted side by side for a while: their names must differ.
        let fingerprint = digest(&SHA256, key.der_bytes());
        let name = format!("Conduit root {:x}", u64::from_be_bytes(first_eight(fingerprint.as_ref())));
        let params = certificate::authority(name, trust_domain, INTERMEDIATES_MAX, validity)?;
        let certificate = CertificateDer::from(params.self_signed(&key).map_err(CryptoError::Sign)?);
        Ok(Self {
            trust_domain: trust_domain.clone(),
            id: KeyId::of(&certificate).ok_or(CryptoError::Key)?,
            anchor: certificate.clone(),
            certificate,
            links: Vec::new(),
            imported: false,
            validity,
            issuer: rcgen::Issuer::new(params.clone(), key),
            params: Some(params),
        })
    }

    /// What is to be trusted: a certificate as it goes into trust bundles.
    pub fn anchor(&self) -> &CertificateDer<'static> {
        &self.anchor
    }

    /// Whose identities this root vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Of its key.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The last second in which it can sign.
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// The key, for those who look for copies of it that should not be there.
    pub fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    pub(crate) fn issuer(&self) -> &rcgen::Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate of `next`, a root just made, that whoever trusts this root verifies; `None` when this root may not sign one.
    ///
    /// Whoever has not heard of `next` yet verifies what is issued under it by this link.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn cross_sign(&self, next: &Self, now: SystemTime) -> Result<Option<CertificateDer<'static>>, CryptoError> {
        if path_len(&self.certificate).is_some_and(|max| max < u32::from(INTERMEDIATES_MAX)) {
            return Ok(None);
        }
        let validity = Validity::new(now, LIFETIME_MAX).until(self.not_after()).until(next.not_after());
        let Some(mut params) = next.params.clone() else { return Ok(None) };
        certificate::renew(&mut params, validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(INTERMEDIATES_MAX - 1));
        certificate::sign(&params, next.issuer.key(), &self.issuer).map(Some)
    }

    /// Encrypts the key under the mesh's seed. Each call gives different bytes.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn seal(&self, seed: &Seed) -> Result<SealedRoot, CryptoError> {
        let pkcs8 = self.issuer.key().pkcs8()?;
        let context = bound_to(&self.trust_domain, &self.certificate);
        let key = seal::seal(&seed.derive(Purpose::RootSealing), &context, pkcs8.as_ref())?;
        Ok(SealedRoot {
            id: self.id.clone(),
            anchor: self.anchor.to_vec(),
            certificate: self.certificate.to_vec(),
            links: self.links.iter().map(|link| link.to_vec()).collect(),
            key: SealedKey(key),
            imported: self.imported,
        })
    }
}

impl SealedRoot {
    /// The reverse of [`Root::seal`], for a control plane of `trust_domain`.
    ///
    /// # Errors
    /// When seed, certificate and sealed key do not belong together, or it is another domain's.
    pub fn open(&self, seed: &Seed, trust_domain: &TrustDomain) -> Result<Root, RootError> {
        let der = |bytes: &Vec<u8>| CertificateDer::from(bytes.clone());
        let certificate = der(&self.certificate);
        let authority = Svid::authority(&certificate).map_err(|_| RootError::Certificate)?;
        if let Some(root) = authority.trust_domain().filter(|domain| domain != trust_domain) {
            return Err(RootError::TrustDomain { root, asked: trust_domain.clone() });
        }
        let context = bound_to(trust_domain, &certificate);
        let opened = seed.derive_all(Purpose::RootSealing).map(|key| seal::open(&key, &context, &self.key.0));
        let pkcs8 = match opened.reduce(Result::or) {
            Some(Ok(pkcs8)) => pkcs8,
            Some(Err(Unopened::Format)) => return Err(RootError::Format),
            Some(Err(Unopened::Key)) | None => return Err(RootError::Sealed),
        };
        let key = KeyPair::from_pkcs8(&pkcs8)?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&certificate, key).map_err(|_| RootError::Certificate)?;
        Ok(Root {
            trust_domain: trust_domain.clone(),
            id: self.id.clone(),
            anchor: der(&self.anchor),
            certificate,
            links: self.links.iter().map(der).collect(),
            imported: self.imported,
            validity: authority.validity,
            params: None,
            issuer,
        })
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// How many authorities may follow this one in a chain; `None` for any number.
fn path_len(certificate: &CertificateDer<'_>) -> Option<u32> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    certificate.basic_constraints().ok()??.value.path_len_constraint
}

/// What is authenticated with the key: it cannot be passed off as the key of another certificate or trust domain.
fn bound_to(trust_domain: &TrustDomain, certificate: &CertificateDer<'_>) -> Vec<u8> {
    // The hash has a fixed length and comes last, so that the two cannot run into each other.
    [trust_domain.as_str().as_bytes(), digest(&SHA256, certificate).as_ref()].concat()
}

fn first_eight(digest: &[u8]) -> [u8; 8] {
    digest.first_chunk().copied().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust_domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    fn root() -> Root {
        Root::generate(&trust_domain(), SystemTime::now(), ROOT_LIFETIME).unwrap()
    }

    #[test]
    fn opens_what_it_sealed() {
        let (root, seed) = (root(), Seed::generate());
        let sealed = root.seal(&seed).unwrap();
        let opened = sealed.open(&seed, &trust_domain()).unwrap();
        assert_eq!((opened.id(), opened.anchor()), (root.id(), root.anchor()));
        assert_eq!(opened.not_after(), root.not_after());
        assert_eq!(opened.issuer.key().der_bytes(), root.issuer.key().der_bytes());
    }

    #[test]
    fn opens_only_with_its_own_seed_certificate_and_domain() {
        let (root, seed) = (root(), Seed::generate());
        let sealed = root.seal(&seed).unwrap();
        let open = |sealed: &SealedRoot, seed: &Seed| sealed.open(seed, &trust_domain()).unwrap_err();
        assert!(matches!(open(&sealed, &Seed::generate()), RootError::Sealed));
        // The same domain and the same seed, but another root.
        let another = super::tests::root().seal(&seed).unwrap();
        assert!(matches!(open(&SealedRoot { key: sealed.key.clone(), ..another }, &seed), RootError::Sealed));
        let junk = SealedRoot { certificate: b"junk".to_vec(), ..sealed.clone() };
        assert!(matches!(open(&junk, &seed), RootError::Certificate));
        let newer = SealedRoot { key: SealedKey(vec![9; 100]), ..sealed.clone() };
        assert!(matches!(open(&newer, &seed), RootError::Format));
        let elsewhere = sealed.open(&seed, &"example.org".parse().unwrap()).unwrap_err();
        assert!(matches!(elsewhere, RootError::TrustDomain { .. }));
    }

    #[test]
    fn opens_under_the_seed_before_and_is_sealed_under_the_next() {
        let (root, old) = (root(), Seed::generate());
        let (sealed, domain) = (root.seal(&old).unwrap(), trust_domain());
        let replaced = old.advance().advance();
        assert!(sealed.open(&replaced.alone(), &domain).is_err());
        let again = sealed.open(&replaced, &domain).unwrap().seal(&replaced).unwrap();
        assert_eq!(again.open(&replaced.alone(), &domain).unwrap().id(), root.id());
        assert!(matches!(again.open(&old, &domain), Err(RootError::Sealed)));
    }

    #[test]
    fn shows_no_key() {
        let (root, seed) = (root(), Seed::generate());
        let pkcs8 = root.issuer.key().pkcs8().unwrap();
        let SealedKey(sealed) = root.seal(&seed).unwrap().key;
        // The 32 secret bytes of a P-256 key in PKCS#8 begin at 36; any 16 of them in a row would be a leak.
        assert!(!sealed.windows(16).any(|window| pkcs8.as_ref().windows(16).any(|secret| secret == window)));
        assert_eq!(format!("{root:?}"), r#"Root { trust_domain: TrustDomain("cluster.local"), .. }"#);
    }

    #[test]
    fn sealed_roots_survive_serde() {
        let sealed = root().seal(&Seed::generate()).unwrap();
        let json = serde_json::to_string(&sealed).unwrap();
        assert_eq!(serde_json::from_str::<SealedRoot>(&json).unwrap(), sealed);
    }
}
