//! TLS of one workload: a proxy's, or the serving side of a controller's.
//!
//! Certificate and bundle are exchanged underneath configurations that were already handed out: the next handshake of
//! each uses the new ones, established connections go on as they are.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use conduit_api::{SpiffeId, TrustDomain, spiffe::ParseSpiffeError};
use rustls::{
    ClientConfig, CommonState, HandshakeKind, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use zeroize::Zeroizing;

use crate::{
    bundle::TrustBundle,
    front_proxy::FrontProxies,
    key::{CryptoError, KeyPair},
    key_id::KeyId,
    sessions::{Epoch, Sessions, Tickets},
    svid::{NotSvid, Svid},
    tls,
    verifier::{ClientVerifier, Expected, PeerVerifier},
};

/// Identities whose configurations, and sessions with them, are remembered; with more, all are made anew.
const CLIENTS_MAX: usize = 64;

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
    /// Whoever issued it has not heard of what is trusted now, or the clocks differ.
    #[error(
        "the certificate is not under the root that is issued under now, or not valid now; the replica that signed it is behind"
    )]
    Behind,
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
    /// The root that it was issued under, as far as the chain says.
    pub root: Option<KeyId>,
}

/// What the certificate that a workload presents is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everybody accepts it.
    Good,
    /// Everybody accepts it still, but what is issued now is under another root.
    Superseded,
    /// Nobody does, or there is none.
    Worthless,
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
    epoch: Epoch,
    configurations: Arc<Mutex<Configurations>>,
}

/// Those that were made in an epoch: with a configuration goes what it remembers of sessions.
#[derive(Debug, Default)]
struct Configurations {
    epoch: u64,
    servers: Vec<(Vec<u8>, ClientAuth, Arc<ServerConfig>)>,
    clients: HashMap<(SpiffeId, Vec<u8>), Arc<ClientConfig>>,
}

struct Current {
    identity: Arc<Identity>,
    certified: Arc<CertifiedKey>,
    key: Zeroizing<Vec<u8>>,
}

/// What a workload needs to be who it is by itself: to be handed to it at once.
pub struct X509Svid {
    /// Who it is.
    pub id: SpiffeId,
    /// In DER, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// In clear, as PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
}

impl WorkloadTls {
    /// Trusts `bundle`, and has no certificate yet: a client presents none, a server completes no handshake.
    pub fn new(trust_domain: TrustDomain, bundle: TrustBundle) -> Self {
        let bundle = Arc::new(ArcSwap::from_pointee(bundle));
        Self { trust_domain, bundle, current: Arc::default(), epoch: Epoch::default(), configurations: Arc::default() }
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
        let root = certified.cert.get(1).and_then(KeyId::of_issuer);
        let identity = Identity { id, not_before: svid.validity.not_before, not_after: svid.validity.not_after, root };
        let (identity, certified, key) = (Arc::new(identity), Arc::new(certified), key.to_pkcs8()?);
        self.current.store(Some(Arc::new(Current { identity, certified, key })));
        self.epoch.end();
        Ok(())
    }

    /// As [`WorkloadTls::set_identity`], unless what is presented already is worth more: a replica that is behind issues under a root
    /// that others have left behind.
    ///
    /// # Errors
    /// Then, and as there.
    pub fn renew_identity(&self, key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        let renewed = Self::new(self.trust_domain.clone(), TrustBundle::clone(&self.bundle.load()));
        renewed.set_identity(key, chain.clone())?;
        match (renewed.standing(), self.standing()) {
            (Standing::Good, _) | (Standing::Superseded, Standing::Superseded | Standing::Worthless) => {
                self.set_identity(key, chain)
            }
            (Standing::Superseded, Standing::Good) | (Standing::Worthless, _) => Err(IdentityError::Behind),
        }
    }

    /// Of all identities that are accepted.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Trusts `bundle`, and nothing else, from now on, however old it is: the control plane that knew more is gone.
    pub fn replace_bundle(&self, bundle: TrustBundle) {
        self.bundle.store(Arc::new(bundle));
        self.epoch.end();
    }

    /// Trusts `bundle`, and nothing else, from now on; unless it is older than what is trusted already: it may come from a replica that
    /// is behind, and a root that was dropped stays dropped.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        let known = self.bundle.load();
        if **known == bundle || bundle.policy.revision < known.policy.revision {
            return;
        }
        let accepts_the_same = known.accepts_the_same_as(&bundle);
        self.bundle.store(Arc::new(bundle));
        if !accepts_the_same {
            self.epoch.end();
        }
    }

    /// What is presented now; `None` before the first [`WorkloadTls::set_identity`].
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.current.load().as_ref().map(|current| current.identity.clone())
    }

    /// What those who trust what we trust think of what we present, now.
    pub fn standing(&self) -> Standing {
        let Some(current) = self.current.load_full() else { return Standing::Worthless };
        let Some((leaf, intermediates)) = current.certified.cert.split_first() else { return Standing::Worthless };
        let verifier = self.verifier(Expected::AnyWorkload(self.trust_domain.clone()));
        if verifier.verify(leaf, intermediates, KeyUsage::client_auth(), UnixTime::now()).is_err() {
            return Standing::Worthless;
        }
        let bundle = self.bundle.load();
        let superseded = bundle.policy.issuing.is_some() && bundle.policy.issuing != current.identity.root;
        if superseded { Standing::Superseded } else { Standing::Good }
    }

    /// Whether a client with this chain (the leaf first) would be let in, now: a connection may be older than what is trusted.
    pub fn accepts_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let verifier = self.verifier(Expected::AnyWorkload(self.trust_domain.clone()));
        verifier.verify(leaf, intermediates, KeyUsage::client_auth(), UnixTime::now()).is_ok()
    }

    /// What is trusted now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.load_full()
    }

    /// The certificate that is presented and those that follow it, in DER; empty before there is one.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().as_ref().map(|current| current.certified.cert.clone()).unwrap_or_default()
    }

    /// What is presented, with its key; `None` before there is one.
    pub fn svid(&self) -> Option<X509Svid> {
        let current = self.current.load();
        let Current { identity, certified, key } = &**current.as_ref()?;
        Some(X509Svid { id: identity.id.clone(), chain: certified.cert.clone(), key: key.clone() })
    }

    /// For accepting a connection from any workload of our trust domain. To be asked for with each: one that was made before
    /// something changed resumes no sessions.
    pub fn server_config(&self, alpn: &[&[u8]], client: ClientAuth) -> Arc<ServerConfig> {
        let protocols = alpn.concat();
        let mut made = self.made();
        if let Some((_, _, config)) =
            made.servers.iter().find(|(known, auth, _)| *known == protocols && *auth == client)
        {
            return config.clone();
        }
        let peer = self.verifier(Expected::AnyWorkload(self.trust_domain.clone()));
        let config =
            tls::server(ClientVerifier { peer, auth: client }, self.resolver(), alpn, Tickets::new(&self.epoch));
        made.servers.push((protocols, client, config.clone()));
        config
    }

    /// For accepting a connection from whoever may speak for people. Sessions are not resumed: of these connections there are few.
    pub fn server_config_for_front_proxies(&self, alpn: &[&[u8]], clients: &FrontProxies) -> Arc<ServerConfig> {
        tls::server(clients.clone(), self.resolver(), alpn, None)
    }

    /// For connecting to `expected` and nobody else. We present our certificate if we have one by then. To be asked for with each
    /// connection, as [`WorkloadTls::server_config`].
    ///
    /// The server's name given to rustls with each connection is not looked at and not sent.
    pub fn client_config(&self, alpn: &[&[u8]], expected: &SpiffeId) -> Arc<ClientConfig> {
        let key = (expected.clone(), alpn.concat());
        let mut made = self.made();
        if let Some(config) = made.clients.get(&key) {
            return config.clone();
        }
        if made.clients.len() >= CLIENTS_MAX {
            made.clients.clear();
        }
        let verifier = self.verifier(Expected::Workload(expected.clone()));
        let config = tls::client(verifier, self.resolver(), alpn, Some(Sessions::new(&self.epoch)));
        made.clients.insert(key, config.clone());
        config
    }

    /// The same, but presenting nothing, whatever we have: for asking for a certificate. One that has expired, or whose root is
    /// gone, would be refused, and there would be no way back.
    pub fn anonymous_client_config(&self, alpn: &[&[u8]], expected: &SpiffeId) -> Arc<ClientConfig> {
        tls::client(self.verifier(Expected::Workload(expected.clone())), Presented(Arc::default()), alpn, None)
    }

    /// Those of the present epoch.
    fn made(&self) -> MutexGuard<'_, Configurations> {
        let mut made = self.configurations.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.number();
        if made.epoch != epoch {
            *made = Configurations { epoch, ..Configurations::default() };
        }
        made
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
pub struct AuthenticatedPeer {
    id: SpiffeId,
    not_after: SystemTime,
}

impl AuthenticatedPeer {
    /// Who is at the other end of a connection that was made with a configuration of [`WorkloadTls`].
    ///
    /// `None` during the handshake, for a client that presented no certificate, and for a peer whose session was resumed after its
    /// certificate had expired.
    pub fn from_connection(connection: &CommonState) -> Option<Self> {
        if connection.is_handshaking() {
            return None;
        }
        let leaf = connection.peer_certificates()?.first()?;
        let svid = Svid::leaf(leaf).ok()?;
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if is_resumed && svid.validity.not_after < SystemTime::now() {
            return None;
        }
        Some(Self { id: svid.uri.parse().ok()?, not_after: svid.validity.not_after })
    }

    /// Its identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When the certificate expires that proved it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}
