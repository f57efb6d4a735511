//! What a workload trusts: roots, and exceptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use conduit_api::{Revision, SpiffeId, TrustDomain, proto::identity, spiffe::ParseSpiffeError};
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};

use crate::{jwt::JwtKeys, key_id::KeyId};

/// The most roots in a bundle. A rotation needs two; more than this is a mistake, and each costs every handshake.
pub const ROOTS_MAX: usize = 16;

/// RFC 7468 section 2.
const PEM_LINE_CHARS: usize = 64;

/// Why roots are not a bundle.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BundleError {
    /// Nothing could ever be verified against it.
    #[error("a trust bundle needs at least one root certificate, and there is none")]
    Empty,
    /// More than [`ROOTS_MAX`].
    #[error("a trust bundle of {0} roots is larger than the {ROOTS_MAX} allowed")]
    TooMany(usize),
    /// One of them is not a certificate.
    #[error("root number {0} of the trust bundle is not an X.509 certificate")]
    Root(usize),
    /// Not PEM.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(String),
    /// An exception for nobody.
    #[error("the trust bundle denies what is no identity: {0}")]
    Denied(ParseSpiffeError),
    /// Authorities of what is none.
    #[error("the trust bundle is to believe what is no trust domain: {0}")]
    Federated(ParseSpiffeError),
}

/// Whom the identities of one trust domain are believed by.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// What its JWT-SVIDs are verified with.
    pub jwt: JwtKeys,
}

/// The authorities of our own trust domain, at least one root among them; those of others; and who is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    own: Authorities,
    /// Each is believed of its own domain alone.
    pub federated: BTreeMap<TrustDomain, Authorities>,
    /// What is issued, and to whom it is worth nothing.
    pub policy: TrustPolicy,
}

/// What goes with the roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustPolicy {
    /// The root that certificates are issued under now, where it is known.
    pub issuing: Option<KeyId>,
    /// Who holds one under another root gets a new one at a random moment within this.
    pub renew_within: Duration,
    /// Identities that are refused, and whether the connections that they have are closed.
    pub denied: BTreeMap<SpiffeId, bool>,
    /// Issuers that are not believed any more.
    pub revoked: BTreeSet<KeyId>,
    /// When any of this, or the roots, last changed; the lowest of what does not come from the control plane.
    pub revision: Revision,
}

impl Authorities {
    /// These roots, and no keys of tokens. Whether they deserve trust is for who calls this to know.
    ///
    /// # Errors
    /// When there are too many, or one is not a certificate.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if roots.len() > ROOTS_MAX {
            return Err(BundleError::TooMany(roots.len()));
        }
        let anchor = |(n, root)| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Ok(anchor.to_owned()),
            Err(_) => Err(BundleError::Root(n)),
        };
        let anchors = (1..).zip(&roots).map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { roots, anchors, jwt: JwtKeys::new() })
    }

    /// With these keys of tokens instead of none.
    pub fn with_jwt(self, jwt: JwtKeys) -> Self {
        Self { jwt, ..self }
    }

    /// The certificates, in DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl TrustBundle {
    /// A bundle of these roots. Whether they deserve trust is for who calls this to know.
    ///
    /// # Errors
    /// When there are none or too many, or one is not a certificate.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        let (own, federated) = (Authorities::new(roots)?, BTreeMap::new());
        Ok(Self { own, federated, policy: TrustPolicy::default() })
    }

    /// Reads the certificates in `pem`; sections of other kinds are ignored.
    ///
    /// # Errors
    /// When it is not PEM, or as [`TrustBundle::new`].
    pub fn from_pem(pem: &str) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| BundleError::Pem(error.to_string()))?;
        Self::new(roots)
    }

    /// The roots, one after the other (RFC 7468).
    pub fn to_pem(&self) -> String {
        to_pem(self.roots())
    }

    /// The certificates of our own trust domain, in DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.own.roots()
    }

    /// Whom identities of our own trust domain are believed by.
    pub fn own(&self) -> &Authorities {
        &self.own
    }

    /// With this policy instead of none.
    pub fn with(self, policy: TrustPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Whether handshakes end with `other` as they do with this.
    pub(crate) fn accepts_the_same_as(&self, other: &Self) -> bool {
        fn domains(bundle: &TrustBundle) -> impl Iterator<Item = (&TrustDomain, &[CertificateDer<'static>])> {
            bundle.federated.iter().map(|(domain, foreign)| (domain, foreign.roots()))
        }
        let revision = other.policy.revision;
        self.roots() == other.roots()
            && domains(self).eq(domains(other))
            && TrustPolicy { revision, ..self.policy.clone() } == other.policy
    }
}

/// Certificates, one after the other (RFC 7468).
pub fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = STANDARD.encode(certificate);
        for line in base64.as_bytes().chunks(PEM_LINE_CHARS) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        // Anchors are the roots, parsed.
        self.roots == other.roots && self.jwt == other.jwt
    }
}

impl Eq for Authorities {}

impl From<&TrustBundle> for identity::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let TrustPolicy { issuing, renew_within, denied, revoked, revision } = &bundle.policy;
        let denied = denied.iter().map(|(id, drop_connections)| identity::DeniedIdentity {
            spiffe_id: id.to_string(),
            drop_connections: *drop_connections,
        });
        let federated = bundle.federated.iter().map(|(domain, foreign)| identity::FederatedBundle {
            trust_domain: domain.to_string(),
            roots: foreign.roots.iter().map(|root| root.to_vec()).collect(),
            jwt_keys: jwt_to_wire(&foreign.jwt),
        });
        Self {
            roots: bundle.roots().iter().map(|root| root.to_vec()).collect(),
            issuing_root: issuing.as_ref().map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            renew_within_ms: u32::try_from(renew_within.as_millis()).unwrap_or(u32::MAX),
            denied: denied.collect(),
            revoked_issuers: revoked.iter().map(|id| id.as_bytes().to_vec()).collect(),
            revision: revision.as_u64(),
            jwt_keys: jwt_to_wire(&bundle.own.jwt),
            federated: federated.collect(),
        }
    }
}

impl TryFrom<identity::TrustBundle> for TrustBundle {
    type Error = BundleError;

    fn try_from(wire: identity::TrustBundle) -> Result<Self, BundleError> {
        let denied = wire.denied.into_iter().map(|denied| Ok((denied.spiffe_id.parse()?, denied.drop_connections)));
        let policy = TrustPolicy {
            issuing: Some(wire.issuing_root).filter(|id| !id.is_empty()).map(|id| KeyId::from_bytes(&id)),
            renew_within: Duration::from_millis(wire.renew_within_ms.into()),
            denied: denied.collect::<Result<_, ParseSpiffeError>>().map_err(BundleError::Denied)?,
            revoked: wire.revoked_issuers.iter().map(|id| KeyId::from_bytes(id)).collect(),
            revision: wire.revision.into(),
        };
        let foreign = |foreign: identity::FederatedBundle| {
            let domain = foreign.trust_domain.parse().map_err(BundleError::Federated)?;
            let roots = Authorities::new(foreign.roots.into_iter().map(CertificateDer::from).collect())?;
            Ok((domain, roots.with_jwt(jwt_from_wire(foreign.jwt_keys))))
        };
        let mut bundle = Self::new(wire.roots.into_iter().map(CertificateDer::from).collect())?.with(policy);
        bundle.own.jwt = jwt_from_wire(wire.jwt_keys);
        bundle.federated = wire.federated.into_iter().map(foreign).collect::<Result<_, BundleError>>()?;
        Ok(bundle)
    }
}

fn jwt_to_wire(keys: &JwtKeys) -> Vec<identity::JwtKey> {
    keys.iter().map(|(id, jwk)| identity::JwtKey { id: id.clone(), jwk: jwk.clone() }).collect()
}

fn jwt_from_wire(keys: Vec<identity::JwtKey>) -> JwtKeys {
    keys.into_iter().map(|key| (key.id, key.jwk)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::root::{ROOT_LIFETIME, Root};

    fn root() -> CertificateDer<'static> {
        Root::generate(&"cluster.local".parse().unwrap(), SystemTime::now(), ROOT_LIFETIME).unwrap().anchor().clone()
    }

    #[test]
    fn survives_pem_and_the_wire() {
        let bundle = TrustBundle::new(vec![root(), root()]).unwrap();
        let pem = bundle.to_pem();
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE_CHARS), "{pem}");
        assert_eq!(TrustBundle::from_pem(&pem), Ok(bundle.clone()));
        assert_eq!(TrustBundle::from_pem(&format!("# our roots\n\n{pem}\n# end\n")), Ok(bundle.clone()));
        let web: SpiffeId = "spiffe://cluster.local/ns/emojivoto/sa/web".parse().unwrap();
        let bundle = bundle.with(TrustPolicy {
            issuing: KeyId::of(&root()),
            renew_within: Duration::from_secs(3),
            denied: [(web, true)].into(),
            revoked: [KeyId::from_bytes(b"1"), KeyId::from_bytes(b"2")].into(),
            revision: 7.into(),
        });
        let mut bundle = bundle;
        bundle.own.jwt.insert("key".to_owned(), "{}".to_owned());
        let foreign = Authorities::new(vec![root()]).unwrap().with_jwt(bundle.own.jwt.clone());
        bundle.federated.insert("example.org".parse().unwrap(), foreign);
        let mut wire = identity::TrustBundle::from(&bundle);
        assert_eq!(TrustBundle::try_from(wire.clone()), Ok(bundle));
        wire.denied[0].spiffe_id.clear();
        assert!(matches!(TrustBundle::try_from(wire), Err(BundleError::Denied(_))));
    }

    #[test]
    fn refuses_what_nothing_could_be_verified_against() {
        assert_eq!(TrustBundle::new(vec![]), Err(BundleError::Empty));
        assert_eq!(TrustBundle::new(vec![root(), b"junk".to_vec().into()]), Err(BundleError::Root(2)));
        assert_eq!(TrustBundle::new(vec![root(); ROOTS_MAX + 1]), Err(BundleError::TooMany(ROOTS_MAX + 1)));
        assert_eq!(TrustBundle::from_pem(""), Err(BundleError::Empty));
        assert_eq!(TrustBundle::from_pem("no certificate at all"), Err(BundleError::Empty));
        let cut = TrustBundle::new(vec![root()]).unwrap().to_pem().replace("-----END", "");
        assert!(matches!(TrustBundle::from_pem(&cut), Err(BundleError::Pem(_))));
    }
}
