//! TLS between control-plane replicas.
//!
//! Who holds the seed derives the same Ed25519 authority from it, signs its own short-lived certificate, and accepts
//! whoever did likewise. So replicas find together before the mesh has a root, and Raft never waits for what is decided
//! through Raft.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use conduit_api::{NodeId, TrustDomain};
use rcgen::{PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey};
use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    bundle::TrustBundle,
    certificate::{self, LIFETIME_MAX, Validity},
    key::{CryptoError, KeyPair},
    seed::{KEY_BYTES, Purpose, Seed},
    svid::Svid,
    tls,
    verifier::{ClientVerifier, Expected, PeerVerifier},
    workload::ClientAuth,
};

/// gRPC is all that replicas speak.
const ALPN: &[&[u8]] = &[b"h2"];

/// A replica's certificate lives this long, and is replaced at the first handshake in the second half.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The control plane's identity, below the trust domain; replicas' names follow it.
const CONTROLLER_PATH: &str = "/ns/conduit/sa/controller/replica/";

/// `spiffe://<trust domain>/ns/conduit/sa/controller/replica/<node id>`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaId {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) node: NodeId,
}

impl ReplicaId {
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, node) = uri.strip_prefix("spiffe://")?.split_once(CONTROLLER_PATH)?;
        Some(Self { trust_domain: trust_domain.parse().ok()?, node: node.parse().ok()? })
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{CONTROLLER_PATH}{}", self.trust_domain, self.node)
    }
}

/// Makes a replica's TLS configurations. Both ends verify each other's membership. Clones share one certificate.
#[derive(Clone, Debug)]
pub struct ReplicaTls {
    trust_domain: TrustDomain,
    node: NodeId,
    authority: Arc<ArcSwap<TrustBundle>>,
    minter: Arc<ArcSwap<Minter>>,
}

impl ReplicaTls {
    /// For the replica `node` of the mesh that `seed` makes.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(seed: &Seed, trust_domain: &TrustDomain, node: NodeId) -> Result<Self, CryptoError> {
        let (bundle, minter) = derived(seed, trust_domain, node)?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            node,
            authority: Arc::new(ArcSwap::from_pointee(bundle)),
            minter: Arc::new(ArcSwap::from_pointee(minter)),
        })
    }

    /// From the next handshake on: accepts whoever has one of the seeds that `seed` accepts, and has the current one itself. Connections
    /// that were made stay.
    ///
    /// # Errors
    /// When the cryptographic library fails; then nothing has changed.
    pub fn replace_seed(&self, seed: &Seed) -> Result<(), CryptoError> {
        let (bundle, minter) = derived(seed, &self.trust_domain, self.node)?;
        self.authority.store(Arc::new(bundle));
        self.minter.store(Arc::new(minter));
        Ok(())
    }

    /// For accepting connections from any replica; [`peer_node`] then tells which.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let peer = self.verifier(Expected::AnyReplica(self.trust_domain.clone()));
        tls::server(ClientVerifier { peer, auth: ClientAuth::Required }, Presented(self.minter.clone()), ALPN, None)
    }

    /// For connecting to any replica, when only its address is known.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let peer = self.verifier(Expected::AnyReplica(self.trust_domain.clone()));
        tls::client(peer, Presented(self.minter.clone()), ALPN, None)
    }

    /// For connecting to the replica `node` and no other, whoever has its address by now.
    pub fn client_config_for(&self, node: NodeId) -> Arc<ClientConfig> {
        let peer = self.verifier(Expected::Replica(self.trust_domain.clone(), node));
        tls::client(peer, Presented(self.minter.clone()), ALPN, None)
    }

    fn verifier(&self, expected: Expected) -> PeerVerifier {
        PeerVerifier { roots: self.authority.clone(), expected }
    }
}

/// The replica at the other end of a connection, from the certificates that its completed handshake has verified.
///
/// Only to be asked of a connection made with a configuration of [`ReplicaTls`]: this reads, and verifies
/// nothing.
pub fn peer_node(certificates: &[CertificateDer<'_>]) -> Option<NodeId> {
    let svid = Svid::leaf(certificates.first()?).ok()?;
    ReplicaId::parse(&svid.uri).map(|id| id.node)
}

/// Whom a replica with this seed accepts, and what it presents.
fn derived(seed: &Seed, trust_domain: &TrustDomain, node: NodeId) -> Result<(TrustBundle, Minter), CryptoError> {
    let authority = |key: Zeroizing<[u8; KEY_BYTES]>| authority(&key, trust_domain);
    let (_, issuer) = authority(seed.derive(Purpose::Membership))?;
    let accepted = seed.derive_all(Purpose::Membership).map(|key| authority(key).map(|(certificate, _)| certificate));
    let bundle = TrustBundle::new(accepted.collect::<Result<_, _>>()?).map_err(|_| CryptoError::Key)?;
    let id = ReplicaId { trust_domain: trust_domain.clone(), node };
    Ok((bundle, Minter::new(issuer, id, SystemTime::now())?))
}

/// The key that everyone with a seed derives, and a certificate to hold it as a trust anchor.
fn authority(
    key: &[u8; KEY_BYTES],
    trust_domain: &TrustDomain,
) -> Result<(CertificateDer<'static>, rcgen::Issuer<'static, MembershipKey>), CryptoError> {
    let key = MembershipKey(Ed25519KeyPair::from_seed_unchecked(key).map_err(|_| CryptoError::Key)?);
    // Peers derive this certificate and never receive it. What they compare is its name and key; its times are not
    // looked at.
    let validity = Validity::new(SystemTime::UNIX_EPOCH, LIFETIME_MAX);
    let mut params = certificate::authority("Conduit control plane".to_owned(), trust_domain, 0, validity)?;
    params.serial_number = Some(SerialNumber::from(1));
    let certificate = params.self_signed(&key).map_err(CryptoError::Sign)?.into();
    Ok((certificate, rcgen::Issuer::new(params, key)))
}

/// The control plane's authority. Its memory is erased when it is dropped.
struct MembershipKey(Ed25519KeyPair);

impl PublicKeyData for MembershipKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for MembershipKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.try_sign(message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// This replica's certificate, replaced when a handshake finds it old: no timer to miss, and no task to stop.
struct Minter {
    issuer: rcgen::Issuer<'static, MembershipKey>,
    id: ReplicaId,
    key: KeyPair,
    current: ArcSwap<Minted>,
}

struct Minted {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Minted {
    fn is_young(&self, now: SystemTime) -> bool {
        let Validity { not_before, not_after } = self.validity;
        // Before its beginning the clock was set back, and peers with the same clock would refuse it.
        match now.duration_since(not_before) {
            Ok(age) => age < not_after.duration_since(not_before).unwrap_or_default() / 2,
            Err(_) => false,
        }
    }
}

impl Minter {
    fn new(issuer: rcgen::Issuer<'static, MembershipKey>, id: ReplicaId, now: SystemTime) -> Result<Self, CryptoError> {
        let key = KeyPair::generate()?;
        let first = mint(&issuer, &id, &key, now)?;
        Ok(Self { issuer, id, key, current: ArcSwap::from_pointee(first) })
    }

    /// The certificate to present at `now`. Handshakes that find it old together may mint one each; the last stays.
    fn certified(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let current = self.current.load();
        if current.is_young(now) {
            return current.certified.clone();
        }
        match mint(&self.issuer, &self.id, &self.key, now) {
            Ok(minted) => {
                let certified = minted.certified.clone();
                self.current.store(Arc::new(minted));
                certified
            }
            Err(error) => {
                tracing::warn!(%error, "keeping the replica's certificate, which could not be replaced");
                current.certified.clone()
            }
        }
    }
}

fn mint(
    issuer: &rcgen::Issuer<'static, MembershipKey>,
    id: &ReplicaId,
    key: &KeyPair,
    now: SystemTime,
) -> Result<Minted, CryptoError> {
    let validity = Validity::new(now, LIFETIME);
    let leaf = certificate::sign(&certificate::leaf(id.to_string(), &[], validity)?, key, issuer)?;
    Ok(Minted { certified: Arc::new(CertifiedKey::new(vec![leaf], key.tls_key()?)), validity })
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Presents the certificate that is current at each handshake.
#[derive(Debug)]
struct Presented(Arc<ArcSwap<Minter>>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified(SystemTime::now()))
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified(SystemTime::now()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minter(now: SystemTime) -> Minter {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let (_, issuer) = authority(&Seed::generate().derive(Purpose::Membership), &trust_domain).unwrap();
        Minter::new(issuer, ReplicaId { trust_domain, node: NodeId::new(7) }, now).unwrap()
    }

    #[test]
    fn everyone_with_the_seed_derives_the_same_authority() {
        let (seed, other_seed) = (Seed::generate(), Seed::generate());
        let certificate = |seed: &Seed, trust_domain: &str| {
            authority(&seed.derive(Purpose::Membership), &trust_domain.parse().unwrap()).unwrap().0
        };
        assert_eq!(certificate(&seed, "cluster.local"), certificate(&seed, "cluster.local"));
        assert_ne!(certificate(&seed, "cluster.local"), certificate(&other_seed, "cluster.local"));
        assert_ne!(certificate(&seed, "cluster.local"), certificate(&seed, "example.org"));
    }

    #[test]
    fn a_certificate_is_replaced_in_the_second_half_of_its_life() {
        let start = SystemTime::now();
        let minter = minter(start);
        let first = minter.certified(start);
        let hours = |hours: u64| start + Duration::from_secs(hours * 60 * 60);
        assert!(Arc::ptr_eq(&first, &minter.certified(hours(11))));
        let second = minter.certified(hours(13));
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &minter.certified(hours(14))), "the new one is kept");
        assert!(!Arc::ptr_eq(&second, &minter.certified(hours(1))), "the clock was set back before its beginning");
    }

    #[test]
    fn names_tell_the_node() {
        let certified = minter(SystemTime::now()).certified(SystemTime::now());
        assert_eq!(peer_node(&certified.cert), Some(NodeId::new(7)));
        assert_eq!(peer_node(&[]), None);
        assert_eq!(peer_node(&[b"junk".to_vec().into()]), None);
    }

    #[test]
    fn ids_parse_only_as_they_print() {
        let text = "spiffe://cluster.local/ns/conduit/sa/controller/replica/00000000000000ff";
        assert_eq!(ReplicaId::parse(text).unwrap().to_string(), text);
        for bad in [
            "spiffe://cluster.local/ns/conduit/sa/controller",
            "spiffe://cluster.local/ns/conduit/sa/controller/replica/",
            "spiffe://cluster.local/ns/conduit/sa/controller/replica/ff",
            "spiffe://cluster.local/ns/conduit/sa/controller/replica/00000000000000ff/",
            "spiffe://cluster.local/ns/other/sa/controller/replica/00000000000000ff",
            "spiffe://cluster.local/x/ns/conduit/sa/controller/replica/00000000000000ff",
            "https://cluster.local/ns/conduit/sa/controller/replica/00000000000000ff",
        ] {
            assert!(ReplicaId::parse(bad).is_none(), "{bad}");
        }
    }
}
