//! An authority without our CA's scruples, and peers that present what it signs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_ca::{KeyPair, WorkloadTls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::{
    ClientConfig, ServerConfig,
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

const HOUR: Duration = Duration::from_secs(60 * 60);

pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().into();
        Self { issuer: rcgen::Issuer::new(params, key), certificate }
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn sign(&self, key: &impl PublicKeyData, leaf: &CertificateParams) -> Vec<CertificateDer<'static>> {
        vec![leaf.signed_by(key, &self.issuer).unwrap().into()]
    }

    /// A chain in which the holder of a leaf of ours plays issuer.
    pub fn sign_through_a_leaf(
        &self,
        key: &impl PublicKeyData,
        leaf: &CertificateParams,
    ) -> Vec<CertificateDer<'static>> {
        let mut middle = self::leaf(&["spiffe://cluster.local/ns/emojivoto/sa/emoji"]);
        middle.distinguished_name.push(DnType::CommonName, "An issuer");
        let middle_key = rcgen::KeyPair::generate().unwrap();
        let middle_certificate = middle.signed_by(&middle_key, &self.issuer).unwrap().into();
        let middle_issuer = rcgen::Issuer::new(middle, middle_key);
        vec![leaf.signed_by(key, &middle_issuer).unwrap().into(), middle_certificate]
    }

    /// Its certificate says nothing of who has signed it.
    pub fn sign_through_an_intermediate(
        &self,
        key: &rcgen::KeyPair,
        leaf: &CertificateParams,
    ) -> Vec<CertificateDer<'static>> {
        let middle_key = rcgen::KeyPair::generate().unwrap();
        let mut middle = CertificateParams::default();
        middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = middle.signed_by(&middle_key, &self.issuer).unwrap().der().clone();
        let leaf = leaf.signed_by(key, &rcgen::Issuer::new(middle, middle_key)).unwrap();
        vec![leaf.der().clone(), certificate]
    }

    pub fn certify(&self, workload: &WorkloadTls, service_account: &str) {
        let key = KeyPair::generate().unwrap();
        let uri = format!("spiffe://cluster.local/ns/emojivoto/sa/{service_account}");
        workload.set_identity(&key, self.sign(&key, &leaf(&[&uri]))).unwrap();
    }
}

/// A leaf that our CA could have signed, if `uris` is one good identity.
pub fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate, and why it is refused in each role.
pub struct Case {
    pub name: &'static str,
    pub leaf: CertificateParams,
    pub as_client: Option<&'static str>,
    pub as_server: Option<&'static str>,
}

const WEB: &str = "spiffe://cluster.local/ns/emojivoto/sa/web";

/// Certificates of `web` with one thing changed each.
pub fn cases() -> Vec<Case> {
    let changed = |name, change: fn(&mut CertificateParams), as_client, as_server| {
        let mut leaf = leaf(&[WEB]);
        change(&mut leaf);
        Case { name, leaf, as_client, as_server }
    };
    let named = |name, uris: &[&str], refusal| Case { name, leaf: leaf(uris), as_client: refusal, as_server: refusal };
    vec![
        changed("nothing changed", |_| {}, None, None),
        changed("usage of clients", |leaf| _ = leaf.extended_key_usages.remove(0), None, Some("usage")),
        changed("usage of servers", |leaf| _ = leaf.extended_key_usages.remove(1), Some("usage"), None),
        // X.509-SVID section 4.4 leaves it out or has both.
        changed("no extended usage", |leaf| leaf.extended_key_usages.clear(), None, None),
        changed("no key usage", |leaf| leaf.key_usages.clear(), Some("malformed"), Some("malformed")),
        changed(
            "signs certificates",
            |leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Some("malformed"),
            Some("malformed"),
        ),
        changed(
            "an authority",
            |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Some("usage"),
            Some("usage"),
        ),
        changed(
            "a host name beside the URI",
            |leaf| leaf.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())),
            None,
            None,
        ),
        changed("expired", |leaf| leaf.not_after = (SystemTime::now() - HOUR).into(), Some("expired"), Some("expired")),
        changed(
            "not yet valid",
            |leaf| leaf.not_before = (SystemTime::now() + HOUR).into(),
            Some("not_yet_valid"),
            Some("not_yet_valid"),
        ),
        named("no URI", &[], Some("malformed")),
        named("two URIs", &[WEB, "spiffe://cluster.local/ns/emojivoto/sa/voting"], Some("malformed")),
        named("the same URI twice", &[WEB, WEB], Some("malformed")),
        named("another trust domain", &["spiffe://example.org/ns/emojivoto/sa/web"], Some("trust_domain")),
        named(
            "a trust domain that begins alike",
            &["spiffe://cluster.local.example.org/ns/a/sa/b"],
            Some("trust_domain"),
        ),
        named("no SPIFFE id", &["https://cluster.local/ns/emojivoto/sa/web"], Some("trust_domain")),
        named("the trust domain itself", &["spiffe://cluster.local"], Some("identity")),
        named("another path", &["spiffe://cluster.local/web"], Some("identity")),
        named(
            "a replica",
            &["spiffe://cluster.local/ns/conduit/sa/controller/replica/0000000000000001"],
            Some("identity"),
        ),
    ]
}

/// `config`, but presenting `chain` with `key`, whether or not they fit.
pub fn client_presenting(
    config: &ClientConfig,
    key: &rcgen::KeyPair,
    chain: Vec<CertificateDer<'static>>,
) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(presenting(key, chain));
    Arc::new(config)
}

/// The same for a server.
pub fn server_presenting(
    config: &ServerConfig,
    key: &rcgen::KeyPair,
    chain: Vec<CertificateDer<'static>>,
) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(presenting(key, chain));
    // Each is somebody else, and no two of them would share the keys of their tickets.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn presenting(key: &rcgen::KeyPair, chain: Vec<CertificateDer<'static>>) -> SingleCertAndKey {
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    SingleCertAndKey::from(CertifiedKey::new(chain, any_ecdsa_type(&der).unwrap()))
}
