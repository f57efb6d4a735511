use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, IsCa, SanType};
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

use super::*;
use crate::root::ROOT_LIFETIME;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn web() -> SpiffeId {
    SpiffeId::new(&trust_domain(), "emojivoto", "web").unwrap()
}

fn root(trust_domain: &TrustDomain, now: SystemTime) -> Root {
    Root::generate(trust_domain, now, ROOT_LIFETIME).unwrap()
}

fn issuer(now: SystemTime, lifetime: Duration) -> Issuer {
    Issuer::new(&root(&trust_domain(), now), None, NodeId::new(1), now, lifetime).unwrap()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    x509_parser::parse_x509_certificate(der).unwrap().1
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn key_ids(certificate: &X509Certificate<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut own, mut authority) = (vec![], vec![]);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(id) => authority = id.key_identifier.as_ref().unwrap().0.to_vec(),
            _ => {}
        }
    }
    (own, authority)
}

#[test]
fn a_leaf_is_an_svid_and_nothing_more() {
    let (now, key) = (SystemTime::now(), KeyPair::generate().unwrap());
    let issued = issuer(now, 7 * DAY).issue(&key.csr().unwrap(), &web(), now, DAY).unwrap();
    let [leaf, intermediate] = &issued.chain[..] else { panic!("{} certificates", issued.chain.len()) };
    let (leaf, intermediate) = (parse(leaf), parse(intermediate));

    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/emojivoto/sa/web")]);
    assert!(names.critical, "RFC 5280 section 4.2.1.6, as the subject is empty");
    assert_eq!(leaf.subject().iter().count(), 0);

    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert_eq!((usage.critical, usage.value.flags), (true, 1), "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && !extended.code_signing);

    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now) - 60);
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now + DAY));
    assert_eq!(seconds(issued.not_after), seconds(now + DAY));
    assert_eq!(leaf.raw_serial().len(), 16);
    assert!(leaf.raw_serial()[0] & 0x80 == 0, "positive");
    let (own, authority) = key_ids(&leaf);
    assert_eq!(authority, key_ids(&intermediate).0);
    assert!(!own.is_empty() && own != authority);
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), rcgen::PublicKeyData::der_bytes(&key));
}

#[test]
fn authorities_are_bounded() {
    let now = SystemTime::now();
    let (root, next) = (root(&trust_domain(), now), root(&trust_domain(), now));
    let intermediate = Issuer::new(&root, None, NodeId::new(1), now, DAY).unwrap();
    let link = root.cross_sign(&next, now).unwrap().unwrap();
    for (certificate, path_len) in [(root.anchor(), 2), (&link, 1), (intermediate.certificate(), 0)] {
        let certificate = parse(certificate);
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(path_len)));
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && !usage.digital_signature());
    }
    let (root, next, link) = (parse(root.anchor()), parse(next.anchor()), parse(&link));
    for (above, below) in [(&root, &parse(intermediate.certificate())), (&root, &link)] {
        assert_eq!(key_ids(above).0, key_ids(below).1);
        assert_eq!(below.issuer(), above.subject());
    }
    assert_eq!((link.subject(), key_ids(&link).0), (next.subject(), key_ids(&next).0));
    assert_ne!(link.raw_serial(), next.raw_serial());
}

#[test]
fn nothing_outlives_its_issuer() {
    let now = SystemTime::now();
    let root = root(&trust_domain(), now);
    let csr = KeyPair::generate().unwrap().csr().unwrap();

    let endless = Issuer::new(&root, None, NodeId::new(1), now, Duration::MAX).unwrap();
    assert_eq!(endless.not_after(), root.not_after());
    let old = Issuer::new(&root, None, NodeId::new(1), root.not_after() + DAY, DAY);
    assert!(matches!(old, Err(IssuerError::RootExpired)));

    let issuer = Issuer::new(&root, None, NodeId::new(1), now, DAY).unwrap();
    let late = issuer.issue(&csr, &web(), now + DAY / 2, Duration::MAX).unwrap();
    assert_eq!(late.not_after, issuer.not_after());
    assert_eq!(parse(&late.chain[0]).validity().not_after.timestamp(), seconds(issuer.not_after()));
    let too_late = issuer.issue(&csr, &web(), now + 2 * DAY, DAY);
    assert!(matches!(too_late, Err(IssueError::Expired)));
}

#[test]
fn vouches_for_its_own_trust_domain_only() {
    let now = SystemTime::now();
    let other: TrustDomain = "example.org".parse().unwrap();
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let foreign = SpiffeId::new(&other, "emojivoto", "web").unwrap();
    let error = issuer(now, DAY).issue(&csr, &foreign, now, DAY).unwrap_err();
    assert!(matches!(error, IssueError::TrustDomain { .. }));
}

/// What a request asks for besides a certificate for its key is not even read.
#[test]
fn wishes_in_a_request_are_ignored() {
    let (now, key) = (SystemTime::now(), rcgen::KeyPair::generate().unwrap());
    let mut wishes = CertificateParams::new(vec!["controller.conduit".to_owned()]).unwrap();
    wishes.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/conduit/sa/controller".try_into().unwrap()));
    wishes.distinguished_name.push(DnType::OrganizationName, "root");
    wishes.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wishes.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let csr = wishes.serialize_request(&key).unwrap();

    let issued = issuer(now, DAY).issue(csr.der(), &web(), now, DAY).unwrap();
    let leaf = parse(&issued.chain[0]);
    assert!(!leaf.is_ca());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names[..], [GeneralName::URI("spiffe://cluster.local/ns/emojivoto/sa/web")]);
}

#[test]
fn keys_of_the_kinds_that_are_cheap_to_verify_are_accepted() {
    let (now, request) = (SystemTime::now(), CertificateParams::default());
    let issuer = issuer(now, DAY);
    let issue = |algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        issuer.issue(request.serialize_request(&key).unwrap().der(), &web(), now, DAY)
    };
    for good in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        issue(good).unwrap();
    }
    for bad in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
        assert!(matches!(issue(bad), Err(IssueError::KeyKind)), "{bad:?}");
    }
}

#[test]
fn bad_requests_are_refused() {
    let now = SystemTime::now();
    let issuer = issuer(now, DAY);
    let issue = |csr: &[u8]| issuer.issue(csr, &web(), now, DAY).unwrap_err();
    let csr = KeyPair::generate().unwrap().csr().unwrap();

    assert!(matches!(issue(b""), IssueError::Malformed));
    assert!(matches!(issue(b"-----BEGIN CERTIFICATE REQUEST-----"), IssueError::Malformed));
    assert!(matches!(issue(&csr[..csr.len() - 1]), IssueError::Malformed));
    assert!(matches!(issue(&[&csr[..], b"more"].concat()), IssueError::Malformed));
    assert!(matches!(issue(&vec![0x30; CSR_BYTES_MAX + 1]), IssueError::TooLarge(_)));

    // Someone else's key: the public key of one request under the signature of another.
    let mut forged = csr.clone();
    let (ours, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let theirs = rcgen::PublicKeyData::der_bytes(&theirs);
    let ours_csr = ours.csr().unwrap();
    let at = ours_csr.windows(theirs.len()).position(|w| w == rcgen::PublicKeyData::der_bytes(&ours)).unwrap();
    forged.splice(.., ours_csr);
    forged[at..at + theirs.len()].copy_from_slice(theirs);
    assert!(matches!(issue(&forged), IssueError::Signature));
}

/// The parser is lenient about the frame around what is signed; nothing in what is signed can be changed.
#[test]
fn every_flipped_bit_is_noticed() {
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let signed = X509CertificationRequest::from_der(&csr).unwrap().1.certification_request_info.raw;
    let start = csr.windows(signed.len()).position(|window| window == signed).unwrap();
    for bit in start * 8..(start + signed.len()) * 8 {
        let mut changed = csr.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(requested_key(&changed).is_err(), "bit {} of byte {} in {csr:02x?}", bit % 8, bit / 8);
    }
}

proptest! {
    #[test]
    fn garbage_is_refused(csr in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(requested_key(&csr).is_err());
    }
}

/// Somebody else's reading of RFC 5280, as strict as it gets; and of who may use what for which side of a connection.
#[test]
fn openssl_accepts_our_chains() {
    let now = SystemTime::now();
    let (old, new) = (root(&trust_domain(), now), root(&trust_domain(), now));
    let link = old.cross_sign(&new, now).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, certificates: &[CertificateDer<'_>]| {
        let path = directory.path().join(name);
        std::fs::write(&path, crate::bundle::to_pem(certificates)).unwrap();
        path
    };
    let anchor = write("anchor.pem", std::slice::from_ref(old.anchor()));
    for (issuing, link) in [(&old, None), (&new, link)] {
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        let issuer = Issuer::new(issuing, link, NodeId::new(1), now, 7 * DAY).unwrap();
        let chain = issuer.issue(&csr, &web(), now, DAY).unwrap().chain;
        let (leaf, middle) = (write("leaf.pem", &chain[..1]), write("middle.pem", &chain[1..]));
        for purpose in ["sslclient", "sslserver"] {
            let mut openssl = std::process::Command::new("openssl");
            openssl.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(&anchor);
            let output = openssl.arg("-untrusted").arg(&middle).arg(&leaf).output();
            let output = output.expect("openssl is installed: it judges what we sign");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{purpose}, {} certificates: {said}", chain.len());
        }
        // A leaf is no authority, whoever asks.
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]).arg(&leaf);
        assert!(!openssl.arg("-partial_chain").arg(&middle).output().unwrap().status.success());
    }
}
