//! What a workload trusts: roots, and exceptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use conduit_api::{Revision, SpiffeId, proto::identity, spiffe::ParseSpiffeError};
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};

use crate::key_id::KeyId;

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
    Denied(#[from] ParseSpiffeError),
}

/// One to [`ROOTS_MAX`] root certificates, parsed, and who is refused all the same.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
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

impl TrustBundle {
    /// A bundle of these roots. Whether they deserve trust is for who calls this to know.
    ///
    /// # Errors
    /// When there are none or too many, or one is not a certificate.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        match roots.len() {
            0 => return Err(BundleError::Empty),
            1..=ROOTS_MAX => {}
            many => return Err(BundleError::TooMany(many)),
        }
        let anchor = |(n, root)| match webpki::anchor_from_trusted_cert(root) {
            Ok(anchor) => Ok(anchor.to_owned()),
            Err(_) => Err(BundleError::Root(n)),
        };
        let anchors = (1..).zip(&roots).map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { roots, anchors, policy: TrustPolicy::default() })
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
        to_pem(&self.roots)
    }

    /// The certificates, in DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// With this policy instead of none.
    pub fn with(self, policy: TrustPolicy) -> Self {
        Self { policy, ..self }
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
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

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots && self.policy == other.policy
    }
}

impl Eq for TrustBundle {}

impl From<&TrustBundle> for identity::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        let TrustPolicy { issuing, renew_within, denied, revoked, revision } = &bundle.policy;
        let denied = denied.iter().map(|(id, drop_connections)| identity::DeniedIdentity {
            spiffe_id: id.to_string(),
            drop_connections: *drop_connections,
        });
        Self {
            roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
            issuing_root: issuing.as_ref().map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            renew_within_ms: u32::try_from(renew_within.as_millis()).unwrap_or(u32::MAX),
            denied: denied.collect(),
            revoked_issuers: revoked.iter().map(|id| id.as_bytes().to_vec()).collect(),
            revision: revision.as_u64(),
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
            denied: denied.collect::<Result<_, ParseSpiffeError>>()?,
            revoked: wire.revoked_issuers.iter().map(|id| KeyId::from_bytes(id)).collect(),
            revision: wire.revision.into(),
        };
        Ok(Self::new(wire.roots.into_iter().map(CertificateDer::from).collect())?.with(policy))
    }
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
