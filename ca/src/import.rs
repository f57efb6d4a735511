//! A user's own root or intermediate, from PEM, instead of a root that the mesh makes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use conduit_api::{NodeId, SpiffeId, TrustDomain};
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use webpki::KeyUsage;
use x509_parser::{certificate::X509Certificate, time::ASN1Time};
use zeroize::Zeroize as _;

use crate::{
    bundle::TrustBundle,
    certificate::lifetime,
    issuer::Issuer,
    key::KeyPair,
    key_id::KeyId,
    root::Root,
    svid::{Svid, parse},
    verifier::{Expected, PeerVerifier},
};

/// From the one that signs to the one that is trusted; more in every handshake would be a mistake.
const LINKS_MAX: usize = 3;
/// Of what is issued to see whether it is believed.
const PROBE_LIFETIME: Duration = Duration::from_secs(60);

/// Why it cannot be used. All of them are the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No PEM, or of something else.
    #[error("the {0} is not PEM: {1}")]
    Pem(&'static str, String),
    /// Nothing, or too much.
    #[error("{0} certificates in the issuer's chain; 1 to {LINKS_MAX} are expected, the issuer's own first")]
    Chain(usize),
    /// Not a certificate.
    #[error("the {0} is not an X.509 certificate")]
    Encoding(&'static str),
    /// Not P-256.
    #[error(
        "the issuer's key is not ECDSA P-256, the one kind that is supported; make one with `openssl ecparam -name prime256v1 -genkey`"
    )]
    Algorithm,
    /// Somebody else's.
    #[error("the issuer's certificate is not for this key")]
    Key,
    /// Too old.
    #[error("the {0} has expired on {1}")]
    Expired(&'static str, String),
    /// Too young.
    #[error("the {0} is not valid before {1}; a clock may be wrong")]
    NotYetValid(&'static str, String),
    /// A leaf.
    #[error("the {0} is not an authority's: it needs the basic constraint CA:TRUE and the key usage keyCertSign")]
    NotCa(&'static str),
    /// No room for replicas' own intermediates.
    #[error(
        "the issuer's certificate allows for no authority below it, and every replica needs one; issue it with a pathlen of 1 or more"
    )]
    PathLen,
    /// No name for its key.
    #[error("the issuer's certificate has no subject key identifier (RFC 5280 section 4.2.1.2)")]
    KeyId,
    /// It is for other identities.
    #[error("the issuer's certificate is of trust domain `{found}`, not `{expected}`")]
    TrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// The mesh's.
        expected: TrustDomain,
    },
    /// Something else is in the way: constraints of an authority above it.
    #[error("nobody would believe what is issued under the issuer's certificate: {0}")]
    Unusable(String),
    /// It leads nowhere.
    #[error("the issuer's certificate was not issued by one of the trust anchors")]
    Anchors,
}

/// What a user brings, as PEM.
#[derive(Clone, Copy)]
pub struct OwnIssuer<'a> {
    /// The issuer's certificate first, then those between it and a trust anchor.
    pub certificates: &'a str,
    /// The issuer's key: PKCS#8 or SEC 1.
    pub key: &'a str,
    /// What is to be trusted; without it, the last of the certificates, which is the issuer's own where there is one only.
    pub anchors: Option<&'a str>,
}

impl Root {
    /// A user's own authority for `trust_domain`.
    ///
    /// # Errors
    /// When it could not issue, or nobody would believe what it issues, at `now`.
    pub fn import(own: OwnIssuer<'_>, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, ImportError> {
        let certificates = certificates("issuer's certificate", own.certificates)?;
        let Some((certificate, rest)) = certificates.split_first().filter(|(_, rest)| rest.len() < LINKS_MAX) else {
            return Err(ImportError::Chain(certificates.len()));
        };
        let anchors = match own.anchors {
            Some(pem) => self::certificates("trust anchors", pem)?,
            None => vec![certificates.last().unwrap_or(certificate).clone()],
        };
        let issuer = authority("issuer's certificate", certificate, now)?;
        if issuer.basic_constraints().ok().flatten().is_some_and(|found| found.value.path_len_constraint == Some(0)) {
            return Err(ImportError::PathLen);
        }
        let svid = Svid::authority(certificate).map_err(|_| ImportError::Encoding("issuer's certificate"))?;
        if let Some(found) = svid.trust_domain().filter(|found| found != trust_domain) {
            return Err(ImportError::TrustDomain { found, expected: trust_domain.clone() });
        }
        let key = key(own.key)?;
        if issuer.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(ImportError::Key);
        }
        let id = KeyId::subject(&issuer).ok_or(ImportError::KeyId)?;
        let anchor = anchored(&certificates, &anchors, now)?;
        // The anchor itself is known to whoever verifies.
        let links = std::iter::once(certificate).chain(rest).filter(|link| **link != anchor).cloned().collect();
        let issuer = rcgen::Issuer::from_ca_cert_der(certificate, key)
            .map_err(|_| ImportError::Encoding("issuer's certificate"))?;
        // What leads up to it is worth nothing when one of them is over.
        let mut validity = svid.validity;
        for above in certificates.iter().chain([&anchor]) {
            validity = validity.until(lifetime(above).ok_or(ImportError::Encoding("issuer's chain"))?.1);
        }
        let root = Self {
            trust_domain: trust_domain.clone(),
            id,
            certificate: certificate.clone(),
            links,
            anchor,
            imported: true,
            validity,
            params: None,
            issuer,
        };
        root.probe(now)?;
        Ok(root)
    }

    /// Whether what is issued under it is believed: whatever a verifier looks at, it looks at here already.
    fn probe(&self, now: SystemTime) -> Result<(), ImportError> {
        let unusable = |why: String| ImportError::Unusable(why);
        let id =
            SpiffeId::new(&self.trust_domain, "conduit", "controller").map_err(|error| unusable(error.to_string()))?;
        let issuer = Issuer::new(self, None, NodeId::new(0), now, PROBE_LIFETIME);
        let issuer = issuer.map_err(|error| unusable(error.to_string()))?;
        let key = KeyPair::generate().and_then(|key| key.csr()).map_err(|error| unusable(error.to_string()))?;
        let issued = issuer.issue(&key, &id, now, PROBE_LIFETIME).map_err(|error| unusable(error.to_string()))?;
        let bundle = TrustBundle::new(vec![self.anchor.clone()]).map_err(|error| unusable(error.to_string()))?;
        let roots = Arc::new(ArcSwap::from_pointee(bundle));
        let verifier = PeerVerifier { roots, expected: Expected::Workload(id) };
        let (leaf, intermediates) =
            issued.chain.split_first().ok_or_else(|| unusable("nothing was issued".to_owned()))?;
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            let verified = verifier.verify(leaf, intermediates, usage, UnixTime::since_unix_epoch(since_epoch));
            verified.map_err(|error| unusable(error.to_string()))?;
        }
        Ok(())
    }
}

/// The anchor that the chain leads to, every step of which is an authority that the next one has signed.
fn anchored(
    chain: &[CertificateDer<'static>],
    anchors: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<CertificateDer<'static>, ImportError> {
    let signed = |by: &X509Certificate<'_>, certificate: &X509Certificate<'_>| {
        certificate.issuer() == by.subject() && certificate.verify_signature(Some(by.public_key())).is_ok()
    };
    let mut below: Option<X509Certificate<'_>> = None;
    for certificate in chain {
        let this = authority("issuer's chain", certificate, now)?;
        if below.as_ref().is_some_and(|below| !signed(&this, below)) {
            return Err(ImportError::Anchors);
        }
        if let Some(anchor) = anchors.iter().find(|anchor| *anchor == certificate) {
            return Ok(anchor.clone());
        }
        below = Some(this);
    }
    for anchor in anchors {
        let this = authority("trust anchor", anchor, now)?;
        if below.as_ref().is_some_and(|below| signed(&this, below)) {
            return Ok(anchor.clone());
        }
    }
    Err(ImportError::Anchors)
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, ImportError> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err(ImportError::Pem(what, "there is no certificate in it".to_owned())),
        found => found.map_err(|error| ImportError::Pem(what, error.to_string())),
    }
}

fn key(pem: &str) -> Result<KeyPair, ImportError> {
    let mut der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| ImportError::Pem("issuer's key", error.to_string()))?;
    let key = match &der {
        PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Sec1(key) => KeyPair::from_sec1(key.secret_sec1_der()).ok(),
        _ => None,
    };
    der.zeroize();
    key.ok_or(ImportError::Algorithm)
}

fn authority<'a>(
    what: &'static str,
    der: &'a CertificateDer<'_>,
    now: SystemTime,
) -> Result<X509Certificate<'a>, ImportError> {
    let certificate = parse(der).map_err(|_| ImportError::Encoding(what))?;
    let usage = certificate.key_usage().ok().flatten();
    if !certificate.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(ImportError::NotCa(what));
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = ASN1Time::from_timestamp(i64::try_from(now).unwrap_or(i64::MAX)).ok();
    let validity = certificate.validity();
    if now.is_some_and(|now| now > validity.not_after) {
        return Err(ImportError::Expired(what, validity.not_after.to_string()));
    }
    if now.is_some_and(|now| now < validity.not_before) {
        return Err(ImportError::NotYetValid(what, validity.not_before.to_string()));
    }
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    struct Made {
        pem: String,
        key: rcgen::KeyPair,
        params: CertificateParams,
    }

    fn made(name: &str, change: impl Fn(&mut CertificateParams), by: Option<&Made>) -> Made {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        made_for(key, name, change, by)
    }

    fn made_for(key: rcgen::KeyPair, name: &str, change: impl Fn(&mut CertificateParams), by: Option<&Made>) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (SystemTime::now() - YEAR).into();
        params.not_after = (SystemTime::now() + YEAR).into();
        change(&mut params);
        let certificate = match by {
            Some(by) => params.signed_by(&key, &rcgen::Issuer::new(by.params.clone(), &by.key)),
            None => params.self_signed(&key),
        };
        Made { pem: certificate.unwrap().pem(), key, params }
    }

    fn import(certificates: &str, key: &rcgen::KeyPair, anchors: Option<&str>) -> Result<Root, ImportError> {
        let key = key.serialize_pem();
        let own = OwnIssuer { certificates, key: &key, anchors };
        Root::import(own, &"cluster.local".parse().unwrap(), SystemTime::now())
    }

    #[test]
    fn takes_a_root_and_an_intermediate() {
        let root = made("root", |_| {}, None);
        let imported = import(&root.pem, &root.key, None).unwrap();
        assert!(imported.imported && imported.links.is_empty());
        let middle = made("middle", |_| {}, Some(&root));
        let below = made("below", |_| {}, Some(&middle));
        for (chain, key, links) in
            [(middle.pem.clone(), &middle.key, 1), (format!("{}{}", below.pem, middle.pem), &below.key, 2)]
        {
            let imported = import(&chain, key, Some(&root.pem)).unwrap();
            assert_eq!(imported.links.len(), links);
            assert_eq!(imported.anchor(), import(&root.pem, &root.key, None).unwrap().anchor());
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let uri = |uri: &str| vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        let root = made("root", |_| {}, None);
        let refused = |made: &Made| import(&made.pem, &made.key, None).unwrap_err();
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(matches!(refused(&made_for(rsa, "ed25519", |_| {}, None)), ImportError::Algorithm));
        let old = made("old", |params| params.not_after = (SystemTime::now() - YEAR / 2).into(), None);
        assert!(matches!(refused(&old), ImportError::Expired(..)));
        let young = made("young", |params| params.not_before = (SystemTime::now() + YEAR / 2).into(), None);
        assert!(matches!(refused(&young), ImportError::NotYetValid(..)));
        let leaf = made("leaf", |params| params.is_ca = IsCa::ExplicitNoCa, None);
        assert!(matches!(refused(&leaf), ImportError::NotCa(_)));
        let usage = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
        assert!(matches!(refused(&made("usage", usage, None)), ImportError::NotCa(_)));
        let short = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        assert!(matches!(refused(&made("short", short, None)), ImportError::PathLen));
        // Neither the issuer nor the root is in the way, but what is between them.
        let narrow = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let (middle, below) = (made("middle", narrow, Some(&root)), |by| made("below", |_| {}, Some(by)));
        let chain = |below: &Made, above: &Made| format!("{}{}", below.pem, above.pem);
        let under = below(&middle);
        let refusal = import(&chain(&under, &middle), &under.key, Some(&root.pem)).unwrap_err();
        assert!(matches!(refusal, ImportError::Unusable(_)), "{refusal}");
        let foreign = made("foreign", |params| params.subject_alt_names = uri("spiffe://example.org"), None);
        assert!(matches!(refused(&foreign), ImportError::TrustDomain { .. }));
        let other = made("other", |_| {}, None);
        assert!(matches!(import(&root.pem, &other.key, None).unwrap_err(), ImportError::Key));
        let middle = made("middle", |_| {}, Some(&root));
        assert!(matches!(import(&middle.pem, &middle.key, Some(&other.pem)).unwrap_err(), ImportError::Anchors));
        // Of the same name, but another key.
        let impostor = made("root", |_| {}, None);
        assert!(matches!(import(&middle.pem, &middle.key, Some(&impostor.pem)).unwrap_err(), ImportError::Anchors));
        assert!(matches!(import("", &root.key, None).unwrap_err(), ImportError::Pem(..)));
        let key = OwnIssuer { certificates: &root.pem, key: "no key", anchors: None };
        let refused = Root::import(key, &"cluster.local".parse().unwrap(), SystemTime::now()).unwrap_err();
        assert!(matches!(refused, ImportError::Pem("issuer's key", _)));
    }
}
