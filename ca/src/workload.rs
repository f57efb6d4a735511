//! TLS of one workload: a proxy's, or the serving side of a controller's.
//!
//! Certificate and bundle are exchanged underneath configurations that were already handed out: the next handshake of
//! each uses the new ones, established connections go on as they are.

use std::{fmt, sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use conduit_api::{SpiffeId, TrustDomain, spiffe::ParseSpiffeError};
use rustls::{
    ClientConfig, CommonState, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use crate::{
    bundle::TrustBundle,
    key::{CryptoError, KeyPair},
    svid::{NotSvid, Svid},
    tls,
    verifier::{ClientVerifier, Expected, PeerVerifier},
};

/// Why a certificate is not for this workload to present.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The chain has no leaf.
    #[error("the certificate chain is empty")]
    Empty,
    /// The leaf is of no use to anyone.
    #[error("the certificate is not an X.509-SVID: {0}")]
    NotSvid(#[from] NotSvid),
    /// The leaf names nobody.
    #[error("the certificate's identity is none of this mesh's: {0}")]
    Name(#[from] ParseSpiffeError),
    /// Peers would refuse it.
    #[error("the certificate is for `{id}`, which is not of our trust domain `{trust_domain}`")]
    TrustDomain {
        /// The certificate's.
        id: SpiffeId,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// The certificate is for another key.
    #[error("the certificate is not for this key")]
    Key,
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// The certificate that a workload presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub id: SpiffeId,
    /// The first second in which the certificate is valid.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
}

/// Whether a server insists on knowing its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate is refused.
    Required,
    /// A client may come without a certificate, and is then nobody; one with a bad certificate is refused all the same.
    Optional,
}

/// Makes a workload's TLS configurations and exchanges what they present and trust. Clones share both.
#[derive(Clone, Debug)]
pub struct WorkloadTls {
    trust_domain: TrustDomain,
    bundle: Arc<ArcSwap<TrustBundle>>,
    current: Arc<ArcSwapOption<Current>>,
}

struct Current {
    identity: Arc<Identity>,
    certified: Arc<CertifiedKey>,
}

impl WorkloadTls {
    /// Trusts `bundle`, and has no certificate yet: a client presents none, a server completes no handshake.
    pub fn new(trust_domain: TrustDomain, bundle: TrustBundle) -> Self {
        Self { trust_domain, bundle: Arc::new(ArcSwap::from_pointee(bundle)), current: Arc::default() }
    }

    /// Presents `chain` (the leaf first) from now on, and proves `key`.
    ///
    /// Whether peers accept it is for them to say: neither its time nor its issuer is verified here.
    ///
    /// # Errors
    /// When the leaf is not one of our trust domain's or not for `key`; then nothing has changed.
    pub fn set_identity(&self, key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        let svid = Svid::leaf(chain.first().ok_or(IdentityError::Empty)?)?;
        let id: SpiffeId = svid.uri.parse()?;
        if id.trust_domain() != &self.trust_domain {
            return Err(IdentityError::TrustDomain { id, trust_domain: self.trust_domain.clone() });
        }
        let certified = CertifiedKey::new(chain, key.tls_key()?);
        certified.keys_match().map_err(|_| IdentityError::Key)?;
        let identity = Identity { id, not_before: svid.validity.not_before, not_after: svid.validity.not_after };
        self.current.store(Some(Arc::new(Current { identity: Arc::new(identity), certified: Arc::new(certified) })));
        Ok(())
    }

    /// Of all identities that are accepted.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Trusts `bundle`, and nothing else, from now on.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        self.bundle.store(Arc::new(bundle));
    }

    /// What is presented now; `None` before the first [`WorkloadTls::set_identity`].
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.current.load().as_ref().map(|current| current.identity.clone())
    }

    /// Whether those who trust what we trust would accept what we present, now.
    pub fn is_acceptable(&self) -> bool {
        let Some(current) = self.current.load_full() else { return false };
        let Some((leaf, intermediates)) = current.certified.cert.split_first() else { return false };
        let verifier = self.verifier(Expected::AnyWorkload(self.trust_domain.clone()));
        verifier.verify(leaf, intermediates, KeyUsage::client_auth(), UnixTime::now()).is_ok()
    }

    /// For accepting connections from any workload of our trust domain.
    pub fn server_config(&self, alpn: &[&[u8]], client: ClientAuth) -> Arc<ServerConfig> {
        let peer = self.verifier(Expected::AnyWorkload(self.trust_domain.clone()));
        tls::server(ClientVerifier { peer, auth: client }, self.resolver(), alpn)
    }

    /// For connecting to `expected` and nobody else. We present our certificate if we have one by then.
    ///
    /// The server's name given to rustls with each connection is not looked at and not sent.
    pub fn client_config(&self, alpn: &[&[u8]], expected: &SpiffeId) -> Arc<ClientConfig> {
        tls::client(self.verifier(Expected::Workload(expected.clone())), self.resolver(), alpn)
    }

    /// The same, but presenting nothing, whatever we have: for asking for a certificate. One that has expired, or whose root is
    /// gone, would be refused, and there would be no way back.
    pub fn anonymous_client_config(&self, alpn: &[&[u8]], expected: &SpiffeId) -> Arc<ClientConfig> {
        tls::client(self.verifier(Expected::Workload(expected.clone())), Presented(Arc::default()), alpn)
    }

    fn verifier(&self, expected: Expected) -> PeerVerifier {
        PeerVerifier { roots: self.bundle.clone(), expected }
    }

    fn resolver(&self) -> Presented {
        Presented(self.current.clone())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// Presents whatever is current.
#[derive(Debug)]
struct Presented(Arc<ArcSwapOption<Current>>);

impl Presented {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|current| current.certified.clone())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// The workload at the other end of a connection, as a completed handshake has proved it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AuthenticatedPeer(SpiffeId);

impl AuthenticatedPeer {
    /// Who is at the other end of a connection that was made with a configuration of [`WorkloadTls`].
    ///
    /// `None` during the handshake, and for a client that presented no certificate.
    pub fn from_connection(connection: &CommonState) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let leaf = connection.peer_certificates()?.first()?;
        Svid::leaf(leaf).ok()?.uri.parse().ok().map(Self)
    }

    /// Its identity.
    pub fn id(&self) -> &SpiffeId {
        &self.0
    }
}
