//! The roots that a workload trusts.

use base64::{Engine, engine::general_purpose::STANDARD};
use conduit_api::proto::identity;
use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};

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
}

/// One to [`ROOTS_MAX`] root certificates, parsed.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
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
        Ok(Self { roots, anchors })
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
        let mut pem = String::new();
        for root in &self.roots {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let base64 = STANDARD.encode(root);
            for line in base64.as_bytes().chunks(PEM_LINE_CHARS) {
                pem.extend(line.iter().copied().map(char::from));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }

    /// The certificates, in DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

impl From<&TrustBundle> for identity::TrustBundle {
    fn from(bundle: &TrustBundle) -> Self {
        Self { roots: bundle.roots.iter().map(|root| root.to_vec()).collect() }
    }
}

impl TryFrom<identity::TrustBundle> for TrustBundle {
    type Error = BundleError;

    fn try_from(wire: identity::TrustBundle) -> Result<Self, BundleError> {
        Self::new(wire.roots.into_iter().map(CertificateDer::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::root::Root;

    fn root() -> CertificateDer<'static> {
        Root::generate(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap().certificate().clone()
    }

    #[test]
    fn survives_pem_and_the_wire() {
        let bundle = TrustBundle::new(vec![root(), root()]).unwrap();
        let pem = bundle.to_pem();
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE_CHARS), "{pem}");
        assert_eq!(TrustBundle::from_pem(&pem), Ok(bundle.clone()));
        assert_eq!(TrustBundle::from_pem(&format!("# our roots\n\n{pem}\n# end\n")), Ok(bundle.clone()));
        assert_eq!(TrustBundle::try_from(identity::TrustBundle::from(&bundle)), Ok(bundle));
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
