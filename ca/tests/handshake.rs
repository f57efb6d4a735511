//! Handshakes between real configurations, in memory: who gets through, and what is said to those who do not.

#![allow(clippy::unwrap_used, reason = "what fails in a test shall fail the test")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{NodeId, SpiffeId, TrustDomain};
use conduit_ca::{
    AuthenticatedPeer, Authorities, ClientAuth, IdentityError, Issuer, KeyId, KeyPair, ROOT_LIFETIME, Refusal,
    ReplicaTls, Root, Seed, Standing, TrustBundle, TrustPolicy, WorkloadTls, peer_node,
};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};

mod authority;
use authority::Authority;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ALPN: &[&[u8]] = &[b"conduit/h1", b"conduit/h2"];

/// How a handshake ended on both sides.
struct Ended {
    client: Result<ClientConnection, rustls::Error>,
    server: Result<ServerConnection, rustls::Error>,
}

impl Ended {
    fn established(self) -> (ClientConnection, ServerConnection) {
        let (client, server) = (self.client.unwrap(), self.server.unwrap());
        assert!(!client.is_handshaking() && !server.is_handshaking());
        (client, server)
    }

    /// The reasons that client and server have for having no connection.
    fn refusals(&self) -> (Option<Refusal>, Option<Refusal>) {
        let reason = |error: &rustls::Error| Refusal::of(error).unwrap_or_else(|| panic!("no refusal: {error}"));
        (self.client.as_ref().err().map(reason), self.server.as_ref().err().map(reason))
    }
}

/// Carries bytes between the two until neither has any more to say.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Ended {
    let name = rustls::pki_types::ServerName::IpAddress("10.244.1.7".parse::<std::net::IpAddr>().unwrap().into());
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        feed(&mut server, &to_server, &mut server_error);
        let mut to_client = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        feed(&mut client, &to_client, &mut client_error);
        if to_server.is_empty() && to_client.is_empty() {
            return Ended {
                client: client_error.map_or(Ok(client), Err),
                server: server_error.map_or(Ok(server), Err),
            };
        }
    }
}

fn feed<T>(
    connection: &mut impl std::ops::DerefMut<Target = rustls::ConnectionCommon<T>>,
    mut bytes: &[u8],
    error: &mut Option<rustls::Error>,
) {
    while !bytes.is_empty() && error.is_none() {
        connection.read_tls(&mut bytes).unwrap();
        *error = connection.process_new_packets().err();
    }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), "emojivoto", service_account).unwrap()
}

/// A mesh's CA as a replica runs it.
struct Mesh {
    root: Root,
    issuer: Issuer,
}

impl Mesh {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = Root::generate(&trust_domain(), now, ROOT_LIFETIME).unwrap();
        let issuer = Issuer::new(&root, None, NodeId::new(1), now, 7 * DAY).unwrap();
        Self { root, issuer }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new(vec![self.root.anchor().clone()]).unwrap()
    }

    /// A workload without a certificate.
    fn newcomer(&self) -> WorkloadTls {
        WorkloadTls::new(trust_domain(), self.bundle())
    }

    fn workload(&self, service_account: &str) -> WorkloadTls {
        let workload = self.newcomer();
        self.certify(&workload, service_account);
        workload
    }

    fn certify(&self, workload: &WorkloadTls, service_account: &str) {
        self.certify_from(workload, service_account, SystemTime::now());
    }

    fn certify_from(&self, workload: &WorkloadTls, service_account: &str, now: SystemTime) {
        let key = KeyPair::generate().unwrap();
        let issued = self.issuer.issue(&key.csr().unwrap(), &id(service_account), now, DAY).unwrap();
        workload.set_identity(&key, issued.chain).unwrap();
    }
}

/// `web` calls `voting`.
fn call(web: &WorkloadTls, voting: &WorkloadTls) -> Ended {
    handshake(web.client_config(ALPN, &id("voting")), voting.server_config(ALPN, ClientAuth::Required))
}

#[test]
fn workloads_of_one_mesh_know_each_other() {
    let mesh = Mesh::new();
    let (client, server) = call(&mesh.workload("web"), &mesh.workload("voting")).established();
    assert_eq!(AuthenticatedPeer::from_connection(&server).unwrap().id(), &id("web"));
    assert_eq!(AuthenticatedPeer::from_connection(&client).unwrap().id(), &id("voting"));
    assert_eq!(server.alpn_protocol(), Some(&b"conduit/h1"[..]));
    assert_eq!(server.server_name(), None, "names are not sent");
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn a_peer_is_nobody_before_the_handshake_is_complete() {
    let mesh = Mesh::new();
    let server = ServerConnection::new(mesh.workload("web").server_config(ALPN, ClientAuth::Required)).unwrap();
    assert_eq!(AuthenticatedPeer::from_connection(&server), None);
}

/// A resumed session is not verified again: so it ends with whatever could make a difference.
#[test]
fn sessions_are_resumed_until_something_changes() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.workload("web"), mesh.workload("voting"));
    let kind = || {
        let (client, server) = call(&web, &voting).established();
        assert_eq!(AuthenticatedPeer::from_connection(&server).unwrap().id(), &id("web"));
        assert_eq!(AuthenticatedPeer::from_connection(&client).unwrap().id(), &id("voting"));
        assert_eq!(client.handshake_kind(), server.handshake_kind());
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        client.handshake_kind().unwrap()
    };
    let again = |what: &str| {
        assert_eq!(kind(), HandshakeKind::Full, "{what}");
        assert_eq!(kind(), HandshakeKind::Resumed, "{what}");
    };
    again("the first one");
    assert_eq!(kind(), HandshakeKind::Resumed, "with the next ticket");
    mesh.certify(&web, "web");
    again("the client has another certificate");
    mesh.certify(&voting, "voting");
    again("the server has another certificate");
    let denied = |name: &str| TrustPolicy { denied: [(id(name), false)].into(), ..TrustPolicy::default() };
    voting.set_bundle(mesh.bundle().with(denied("emoji")));
    again("the server trusts somebody less");
    web.set_bundle(mesh.bundle().with(denied("emoji")));
    again("the client trusts somebody less");
    voting.set_bundle(mesh.bundle().with(denied("emoji")));
    assert_eq!(kind(), HandshakeKind::Resumed, "nothing has changed");
    voting.set_bundle(mesh.bundle().with(denied("web")));
    let refused = call(&web, &voting);
    assert_eq!(refused.refusals().1, Some(Refusal::Denied(id("web").to_string())), "a ticket lets nobody in");
}

/// What was verified before something changed, and remembered after it, is of no use: a ticket may come at any time, and a handshake
/// may take its time.
#[test]
fn a_session_does_not_cross_a_change() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.workload("web"), mesh.workload("voting"));
    let denied = |name: &str| TrustPolicy { denied: [(id(name), false)].into(), ..TrustPolicy::default() };
    // Those that connections have that were made before.
    let client = web.client_config(ALPN, &id("voting"));
    let server = voting.server_config(ALPN, ClientAuth::Required);
    handshake(client.clone(), server.clone()).established();
    web.set_bundle(mesh.bundle().with(denied("emoji")));
    // A late ticket of the old connection's server: with it, the client would not look again.
    let (late, _) = handshake(client.clone(), server.clone()).established();
    assert_eq!((late.handshake_kind(), late.tls13_tickets_received()), (Some(HandshakeKind::Full), 1));
    let (next, _) = handshake(client, server.clone()).established();
    assert_eq!(next.handshake_kind(), Some(HandshakeKind::Full));
    // A handshake that is completed by the server of before gives out nothing.
    voting.set_bundle(mesh.bundle().with(denied("emoji")));
    let (after, _) = handshake(web.client_config(ALPN, &id("voting")), server).established();
    assert_eq!(after.tls13_tickets_received(), 0);
}

#[test]
fn a_session_with_one_peer_is_not_resumed_with_another() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.workload("web"), mesh.workload("voting"));
    call(&web, &voting).established();
    // The same address, and another identity is expected there.
    let server = voting.server_config(ALPN, ClientAuth::Required);
    let ended = handshake(web.client_config(ALPN, &id("emoji")), server.clone());
    assert!(matches!(ended.refusals().0, Some(Refusal::Identity { .. })));
    // Another client does not come in on what the first one has.
    let (_, server) = handshake(mesh.workload("emoji").client_config(ALPN, &id("voting")), server).established();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_session_does_not_outlive_its_certificate() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.newcomer(), mesh.workload("voting"));
    // Valid for the next moment only.
    let key = KeyPair::generate().unwrap();
    let issued = mesh.issuer.issue(&key.csr().unwrap(), &id("web"), SystemTime::now(), Duration::from_secs(2)).unwrap();
    web.set_identity(&key, issued.chain).unwrap();
    let (_, server) = call(&web, &voting).established();
    assert!(AuthenticatedPeer::from_connection(&server).is_some());
    while SystemTime::now() <= issued.not_after {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, server) = call(&web, &voting).established();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(AuthenticatedPeer::from_connection(&server), None);
}

#[test]
fn clients_may_be_nobody_where_that_is_allowed() {
    let mesh = Mesh::new();
    let optional = mesh.workload("controller").server_config(ALPN, ClientAuth::Optional);
    let call = |client: &WorkloadTls| handshake(client.client_config(ALPN, &id("controller")), optional.clone());

    let (client, server) = call(&mesh.newcomer()).established();
    assert_eq!(AuthenticatedPeer::from_connection(&server), None);
    assert_eq!(AuthenticatedPeer::from_connection(&client).unwrap().id(), &id("controller"));

    let (_, server) = call(&mesh.workload("web")).established();
    assert_eq!(AuthenticatedPeer::from_connection(&server).unwrap().id(), &id("web"));

    // Who presents something must be able to stand by it: a stranger that trusts us is refused all the same.
    let stranger = WorkloadTls::new(trust_domain(), mesh.bundle());
    Mesh::new().certify(&stranger, "web");
    assert_eq!(call(&stranger).refusals().1, Some(Refusal::UnknownCa));
}

#[test]
fn clients_must_be_somebody_where_that_is_required() {
    let mesh = Mesh::new();
    let (client, server) = call(&mesh.newcomer(), &mesh.workload("voting")).refusals();
    assert_eq!(server, Some(Refusal::NoCertificate));
    assert_eq!(client, Some(Refusal::ByPeer(AlertDescription::CertificateRequired)));
}

#[test]
fn a_server_without_certificate_completes_no_handshake() {
    let mesh = Mesh::new();
    let ended = call(&mesh.workload("web"), &mesh.newcomer());
    assert!(ended.client.is_err() && ended.server.is_err());
}

#[test]
fn plaintext_is_recognized() {
    let mesh = Mesh::new();
    for bytes in
        [&b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"220 mail ready\r\n"]
    {
        let config = mesh.workload("web").server_config(ALPN, ClientAuth::Required);
        let (mut server, mut error) = (ServerConnection::new(config).unwrap(), None);
        feed(&mut server, bytes, &mut error);
        let error = error.unwrap();
        assert_eq!(Refusal::of(&error), Some(Refusal::Plaintext));
        assert_eq!(Refusal::of_io(&std::io::Error::other(error)), Some(Refusal::Plaintext));
    }
}

#[test]
fn only_the_expected_workload_is_connected_to() {
    let mesh = Mesh::new();
    let (client, server) = call(&mesh.workload("web"), &mesh.workload("emoji")).refusals();
    let (expected, found) = (format!("`{}`", id("voting")), id("emoji").to_string());
    assert_eq!(client, Some(Refusal::Identity { expected, found }));
    assert_eq!(server, Some(Refusal::ByPeer(AlertDescription::CertificateUnknown)));
}

#[test]
fn strangers_are_refused_by_both_sides() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let (client, server) = call(&mesh.workload("web"), &other.workload("voting")).refusals();
    assert_eq!(client, Some(Refusal::UnknownCa));
    assert_eq!(server, Some(Refusal::ByPeer(AlertDescription::UnknownCA)));

    let trusting = WorkloadTls::new(trust_domain(), mesh.bundle());
    other.certify(&trusting, "web");
    let (client, server) = call(&trusting, &mesh.workload("voting")).refusals();
    assert_eq!(server, Some(Refusal::UnknownCa));
    assert_eq!(client, Some(Refusal::ByPeer(AlertDescription::UnknownCA)));
}

#[test]
fn certificates_have_a_time() {
    let mesh = Mesh::new();
    let (early, late) = (SystemTime::now() - 2 * DAY, SystemTime::now() + 2 * DAY);
    for (issued, refusal) in [(early, Refusal::Expired), (late, Refusal::NotYetValid)] {
        let (client, server) = (mesh.newcomer(), mesh.newcomer());
        mesh.certify_from(&client, "web", issued);
        mesh.certify_from(&server, "voting", issued);
        assert_eq!(call(&client, &mesh.workload("voting")).refusals().1.as_ref(), Some(&refusal));
        assert_eq!(call(&mesh.workload("web"), &server).refusals().0.as_ref(), Some(&refusal));
    }
}

#[test]
fn a_clock_that_is_a_little_behind_is_forgiven() {
    let mesh = Mesh::new();
    let client = mesh.newcomer();
    mesh.certify_from(&client, "web", SystemTime::now() + Duration::from_secs(30));
    call(&client, &mesh.workload("voting")).established();
}

/// Certificates that the CA never signs, as a root of ours that went astray would sign them.
#[test]
fn a_valid_chain_is_not_enough() {
    let authority = Authority::new("Test root");
    let bundle = TrustBundle::new(vec![authority.certificate()]).unwrap();
    let voting = WorkloadTls::new(trust_domain(), bundle);
    authority.certify(&voting, "voting");
    let to_voting = voting.client_config(ALPN, &id("voting"));
    let to_web = voting.client_config(ALPN, &id("web"));
    let server = voting.server_config(ALPN, ClientAuth::Required);
    let reason = |error: Option<&rustls::Error>| error.and_then(Refusal::of).map(|refusal| refusal.reason());

    for case in authority::cases() {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = authority.sign(&key, &case.leaf);
        let ended = handshake(authority::client_presenting(&to_voting, &key, chain.clone()), server.clone());
        assert_eq!(reason(ended.server.as_ref().err()), case.as_client, "{} as a client", case.name);
        let ended = handshake(to_web.clone(), authority::server_presenting(&server, &key, chain));
        assert_eq!(reason(ended.client.as_ref().err()), case.as_server, "{} as a server", case.name);
    }
}

/// The trust domain is one domain among those that a root may come to sign for; ours is the only one we speak with.
#[test]
fn another_trust_domain_under_the_same_root_is_refused() {
    let authority = Authority::new("Shared root");
    let bundle = TrustBundle::new(vec![authority.certificate()]).unwrap();
    let ours = WorkloadTls::new(trust_domain(), bundle.clone());
    authority.certify(&ours, "voting");

    let key = KeyPair::generate().unwrap();
    let found = "spiffe://example.org/ns/emojivoto/sa/web";
    let chain = authority.sign(&key, &authority::leaf(&[found]));
    let theirs = WorkloadTls::new("example.org".parse().unwrap(), bundle);
    theirs.set_identity(&key, chain.clone()).unwrap();
    let ended = handshake(theirs.client_config(ALPN, &id("voting")), ours.server_config(ALPN, ClientAuth::Required));
    let refusal = Refusal::TrustDomain { expected: trust_domain(), found: found.to_owned() };
    assert_eq!(ended.refusals().1, Some(refusal));

    assert!(ours.set_identity(&key, chain).is_err(), "nor do we present it");
}

/// Other trust domains are believed of their own identities, and of nobody else's.
#[test]
fn federated_trust_domains_speak_for_themselves_alone() {
    let (mesh, other) = (Mesh::new(), Authority::new("Other root"));
    let bundle = |authority: &Authority| {
        let mut bundle = mesh.bundle();
        let foreign = Authorities::new(vec![authority.certificate()]).unwrap();
        bundle.federated.insert("example.org".parse().unwrap(), foreign);
        bundle
    };
    let voting = mesh.workload("voting");
    // Whoever comes from example.org trusts ours; only what we think of them is looked at.
    let ended = |authority: &Authority, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = authority.sign(&key, &authority::leaf(&[name]));
        let client = authority::client_presenting(&voting.client_config(ALPN, &id("voting")), &key, chain);
        handshake(client, voting.server_config(ALPN, ClientAuth::Required))
    };
    let theirs = "spiffe://example.org/ns/emojivoto/sa/web";
    assert_eq!(ended(&other, theirs).refusals().1, Some(Refusal::UnknownCa), "before it is believed");
    voting.set_bundle(bundle(&other));
    let (_, server) = ended(&other, theirs).established();
    assert_eq!(AuthenticatedPeer::from_connection(&server).unwrap().id().to_string(), theirs);
    let ours = id("web").to_string();
    assert_eq!(ended(&other, &ours).refusals().1, Some(Refusal::UnknownCa), "one of ours, by them");
    let third = "spiffe://example.com/ns/emojivoto/sa/web";
    assert_eq!(ended(&other, third).refusals().1, Some(Refusal::UnknownCa), "somebody else's, by them");
    let impostor = Authority::new("Other root");
    assert_eq!(ended(&impostor, theirs).refusals().1, Some(Refusal::UnknownCa), "one of theirs, by a stranger");
    // Ours signs what it should not: it speaks for us alone as well.
    let astray = WorkloadTls::new(trust_domain(), TrustBundle::new(vec![other.certificate()]).unwrap());
    other.certify(&astray, "voting");
    let foreign = Authorities::new(vec![impostor.certificate()]).unwrap();
    let mut believed = TrustBundle::clone(&astray.bundle());
    believed.federated.insert("example.org".parse().unwrap(), foreign);
    astray.set_bundle(believed);
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = other.sign(&key, &authority::leaf(&[theirs]));
    let client = authority::client_presenting(&astray.client_config(ALPN, &id("voting")), &key, chain);
    let refusals = handshake(client, astray.server_config(ALPN, ClientAuth::Required)).refusals();
    assert_eq!(refusals.1, Some(Refusal::UnknownCa));
    // To be believed is not to be everybody: a server that must be ours must be ours.
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = other.sign(&key, &authority::leaf(&[theirs]));
    let server = authority::server_presenting(&voting.server_config(ALPN, ClientAuth::Required), &key, chain);
    let refusals = handshake(voting.client_config(ALPN, &id("web")), server).refusals();
    assert!(matches!(refusals.0, Some(Refusal::TrustDomain { .. })), "{refusals:?}");
    // And no longer; nor is the session resumed that was agreed on before.
    voting.set_bundle(mesh.bundle());
    assert_eq!(ended(&other, theirs).refusals().1, Some(Refusal::UnknownCa));
}

#[test]
fn a_workload_cannot_sign_for_others() {
    let authority = Authority::new("Test root");
    let voting = WorkloadTls::new(trust_domain(), TrustBundle::new(vec![authority.certificate()]).unwrap());
    authority.certify(&voting, "voting");

    let key = rcgen::KeyPair::generate().unwrap();
    let chain = authority.sign_through_a_leaf(&key, &authority::leaf(&[&id("web").to_string()]));
    let client = authority::client_presenting(&voting.client_config(ALPN, &id("voting")), &key, chain);
    let ended = handshake(client, voting.server_config(ALPN, ClientAuth::Required));
    assert_eq!(ended.refusals().1, Some(Refusal::UnknownCa));
}

#[test]
fn a_certificate_needs_its_key() {
    let mesh = Mesh::new();
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let issued = mesh.issuer.issue(&key.csr().unwrap(), &id("web"), SystemTime::now(), DAY).unwrap();
    let web = mesh.newcomer();
    assert!(web.set_identity(&other, issued.chain.clone()).is_err());
    assert_eq!(web.identity(), None, "a refused identity changes nothing");

    // Who goes on without the key, with a certificate seen on the wire, cannot sign the handshake.
    let own_key = rcgen::KeyPair::generate().unwrap();
    let thief = authority::client_presenting(&web.client_config(ALPN, &id("voting")), &own_key, issued.chain);
    let ended = handshake(thief, mesh.workload("voting").server_config(ALPN, ClientAuth::Required));
    assert_eq!(ended.refusals().1, Some(Refusal::Key));
}

#[test]
fn a_new_certificate_is_presented_by_live_configurations() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.newcomer(), mesh.workload("voting"));
    let client = web.client_config(ALPN, &id("voting"));
    let server = voting.server_config(ALPN, ClientAuth::Required);
    let call = || handshake(client.clone(), server.clone());

    assert_eq!(call().refusals().1, Some(Refusal::NoCertificate));
    mesh.certify(&web, "web");
    let (_, established) = call().established();
    mesh.certify(&web, "web-2");
    let (_, next) = call().established();
    assert_eq!(AuthenticatedPeer::from_connection(&next).unwrap().id(), &id("web-2"));
    assert_eq!(AuthenticatedPeer::from_connection(&established).unwrap().id(), &id("web"), "established ones go on");

    mesh.certify(&voting, "emoji");
    assert!(matches!(call().refusals().0, Some(Refusal::Identity { .. })));
}

/// A root is exchanged while everything runs: both trusted, certificates renewed, the old one dropped.
#[test]
fn a_new_bundle_is_obeyed_by_live_configurations() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let both = || TrustBundle::new(vec![old.root.anchor().clone(), new.root.anchor().clone()]).unwrap();
    let (web, voting) = (old.workload("web"), old.workload("voting"));
    let client = web.client_config(ALPN, &id("voting"));
    let server = voting.server_config(ALPN, ClientAuth::Required);
    let call = || handshake(client.clone(), server.clone());

    call().established();
    web.set_bundle(both());
    call().established();
    voting.set_bundle(both());
    new.certify(&web, "web");
    call().established();
    voting.set_bundle(new.bundle());
    call().established();
    web.set_bundle(new.bundle());
    assert_eq!(call().refusals().0, Some(Refusal::UnknownCa), "voting still presents the old");
    new.certify(&voting, "voting");
    call().established();
    old.certify(&web, "web");
    assert_eq!(call().refusals().1, Some(Refusal::UnknownCa), "the old is dropped");
}

/// Who was away while the root was exchanged believes the new one by its link, and nothing else of it.
#[test]
fn a_link_leads_from_the_old_root_to_the_new_one() {
    let (old, mut new, now) = (Mesh::new(), Mesh::new(), SystemTime::now());
    let link = old.root.cross_sign(&new.root, now).unwrap();
    assert!(link.is_some());
    new.issuer = Issuer::new(&new.root, link, NodeId::new(1), now, 7 * DAY).unwrap();
    let (away, voting) = (old.workload("web"), new.newcomer());
    new.certify(&voting, "voting");
    voting.set_bundle(TrustBundle::new(vec![old.root.anchor().clone(), new.root.anchor().clone()]).unwrap());
    call(&away, &voting).established();
    call(&voting, &old.workload("voting")).established();
    let unlinked = Issuer::new(&new.root, None, NodeId::new(1), now, 7 * DAY).unwrap();
    new.issuer = unlinked;
    new.certify(&voting, "voting");
    assert_eq!(call(&away, &voting).refusals().0, Some(Refusal::UnknownCa));
}

#[test]
fn who_is_denied_is_refused_by_both_sides() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.workload("web"), mesh.workload("voting"));
    let deny = |service_account: &str| {
        let policy = TrustPolicy { denied: [(id(service_account), false)].into(), ..TrustPolicy::default() };
        mesh.bundle().with(policy)
    };
    voting.set_bundle(deny("emoji"));
    call(&web, &voting).established();
    voting.set_bundle(deny("web"));
    assert_eq!(call(&web, &voting).refusals().1, Some(Refusal::Denied(id("web").to_string())));
    web.set_bundle(deny("voting"));
    assert_eq!(call(&web, &voting).refusals().0, Some(Refusal::Denied(id("voting").to_string())));
    assert_eq!(web.standing(), Standing::Good);
    web.set_bundle(deny("web"));
    assert_eq!(web.standing(), Standing::Worthless);
}

#[test]
fn what_a_revoked_issuer_has_signed_is_worth_nothing() {
    let mesh = Mesh::new();
    let (web, voting) = (mesh.workload("web"), mesh.workload("voting"));
    let revoked = [KeyId::of(mesh.issuer.certificate()).unwrap()].into();
    let bundle = mesh.bundle().with(TrustPolicy { revoked, ..TrustPolicy::default() });
    voting.set_bundle(bundle.clone());
    assert_eq!(call(&web, &voting).refusals().1, Some(Refusal::RevokedIssuer));
    web.set_bundle(bundle);
    assert_eq!(web.standing(), Standing::Worthless);
    let another = Issuer::new(&mesh.root, None, NodeId::new(1), SystemTime::now(), DAY).unwrap();
    let mesh = Mesh { issuer: another, ..mesh };
    mesh.certify(&web, "web");
    mesh.certify(&voting, "voting");
    assert_eq!(web.standing(), Standing::Good);
    call(&web, &voting).established();
}

/// Whoever has the key of an issuer that was revoked writes into a leaf what he likes, also nothing of who has signed it.
#[test]
fn a_leaf_that_does_not_say_who_has_signed_it_is_of_a_revoked_issuer_all_the_same() {
    let authority = Authority::new("Test root");
    let bundle = TrustBundle::new(vec![authority.certificate()]).unwrap();
    let voting = WorkloadTls::new(trust_domain(), bundle.clone());
    authority.certify(&voting, "voting");
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = authority.sign_through_an_intermediate(&key, &authority::leaf(&[&id("web").to_string()]));
    assert_eq!(KeyId::of_issuer(&chain[0]), None);
    let come = || {
        let config = voting.client_config(ALPN, &id("voting"));
        let client = authority::client_presenting(&config, &key, chain.clone());
        handshake(client, voting.server_config(ALPN, ClientAuth::Required))
    };
    come().established();
    let revoked = [KeyId::of(&chain[1]).unwrap()].into();
    voting.set_bundle(bundle.with(TrustPolicy { revoked, ..TrustPolicy::default() }));
    assert_eq!(come().refusals().1, Some(Refusal::RevokedIssuer));
}

#[test]
fn a_certificate_under_a_root_that_was_followed_is_superseded() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let both = TrustBundle::new(vec![old.root.anchor().clone(), new.root.anchor().clone()]).unwrap();
    let web = old.workload("web");
    assert_eq!(web.standing(), Standing::Good);
    let issuing = |root: &Root| TrustPolicy { issuing: Some(root.id().clone()), ..TrustPolicy::default() };
    web.set_bundle(both.clone().with(issuing(&old.root)));
    assert_eq!(web.standing(), Standing::Good);
    web.set_bundle(both.with(issuing(&new.root)));
    assert_eq!(web.standing(), Standing::Superseded);
    new.certify(&web, "web");
    assert_eq!((web.standing(), web.identity().unwrap().root.as_ref()), (Standing::Good, Some(new.root.id())));
    assert_eq!(old.newcomer().standing(), Standing::Worthless);
}

/// What comes from a replica that is behind: older than what is known, and worth less.
#[test]
fn nothing_older_takes_the_place_of_what_is_there() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let at = |revision: u64, issuing: &Root| TrustPolicy {
        issuing: Some(issuing.id().clone()),
        revision: revision.into(),
        ..TrustPolicy::default()
    };
    let both = TrustBundle::new(vec![old.root.anchor().clone(), new.root.anchor().clone()]).unwrap();
    let web = new.workload("web");
    web.set_bundle(both.clone().with(at(7, &new.root)));
    web.set_bundle(old.bundle().with(at(6, &old.root)));
    assert_eq!(web.bundle().policy.revision, 7.into());
    assert_eq!(web.standing(), Standing::Good);
    let renew = |mesh: &Mesh| {
        let key = KeyPair::generate().unwrap();
        let issued = mesh.issuer.issue(&key.csr().unwrap(), &id("web"), SystemTime::now(), DAY).unwrap();
        web.renew_identity(&key, issued.chain)
    };
    assert!(
        matches!(renew(&old), Err(IdentityError::Behind)),
        "it would be refused as soon as the old root is dropped"
    );
    assert!(renew(&new).is_ok());
    assert!(matches!(renew(&Mesh::new()), Err(IdentityError::Behind)), "nobody knows that root");
    // The root is given up in favour of the other one: better that than nothing.
    web.set_bundle(old.bundle().with(at(8, &new.root)));
    assert_eq!(web.standing(), Standing::Worthless);
    assert!(renew(&old).is_ok());
    assert_eq!(web.standing(), Standing::Superseded);
}

#[test]
fn an_identity_says_when_to_renew() {
    let (mesh, now) = (Mesh::new(), SystemTime::now());
    let web = mesh.newcomer();
    mesh.certify_from(&web, "web", now);
    let identity = web.identity().unwrap();
    assert_eq!(identity.id, id("web"));
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds(identity.not_before), seconds(now) - 60);
    assert_eq!(seconds(identity.not_after), seconds(now + DAY));
}

#[test]
fn replicas_with_the_same_seed_know_each_other() {
    let seed = Seed::generate();
    let replica = |node| ReplicaTls::new(&seed, &trust_domain(), NodeId::new(node)).unwrap();
    let (one, two) = (replica(1), replica(2));

    for config in [one.client_config(), one.client_config_for(NodeId::new(2))] {
        let (client, server) = handshake(config, two.server_config()).established();
        assert_eq!(peer_node(client.peer_certificates().unwrap()), Some(NodeId::new(2)));
        assert_eq!(peer_node(server.peer_certificates().unwrap()), Some(NodeId::new(1)));
        assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    }

    // An address that another replica has by now.
    let ended = handshake(one.client_config_for(NodeId::new(3)), two.server_config());
    assert!(matches!(ended.refusals().0, Some(Refusal::Identity { .. })));
}

/// One after the other is restarted or told; at no moment is one of them a stranger to another.
#[test]
fn replicas_know_each_other_while_a_seed_follows_another() {
    let old = Seed::generate();
    let announced = old.advance();
    let replaced = announced.advance();
    let settled = replaced.advance();
    let replica = |node, seed: &Seed| ReplicaTls::new(seed, &trust_domain(), NodeId::new(node)).unwrap();
    let (one, two) = (replica(1, &old), replica(2, &old));
    let know_each_other = || {
        handshake(one.client_config_for(NodeId::new(2)), two.server_config()).established();
        handshake(two.client_config_for(NodeId::new(1)), one.server_config()).established();
    };
    for seed in [&announced, &replaced, &settled] {
        one.replace_seed(seed).unwrap();
        know_each_other();
        two.replace_seed(seed).unwrap();
        know_each_other();
    }
    let left_behind = replica(3, &old);
    assert!(handshake(left_behind.client_config(), one.server_config()).server.is_err());
}

#[test]
fn replicas_of_other_meshes_are_strangers() {
    let seed = Seed::generate();
    let replica = |seed: &Seed, domain: &str| ReplicaTls::new(seed, &domain.parse().unwrap(), NodeId::new(1)).unwrap();
    let (ours, other_seed) = (replica(&seed, "cluster.local"), replica(&Seed::generate(), "cluster.local"));
    let other_domain = replica(&seed, "example.org");

    let client = |from: &ReplicaTls, to: &ReplicaTls| handshake(from.client_config(), to.server_config()).refusals().0;
    assert_eq!(client(&ours, &other_seed), Some(Refusal::UnknownCa));
    assert_eq!(client(&other_seed, &ours), Some(Refusal::UnknownCa));
    assert!(matches!(client(&ours, &other_domain), Some(Refusal::TrustDomain { .. })));
}

#[test]
fn workloads_are_not_replicas() {
    let mesh = Mesh::new();
    let replica = ReplicaTls::new(&Seed::generate(), &trust_domain(), NodeId::new(1)).unwrap();
    let h2: &[&[u8]] = &[b"h2"];
    let workload = mesh.workload("controller");
    let ended = handshake(replica.client_config(), workload.server_config(h2, ClientAuth::Required));
    assert_eq!(ended.refusals().0, Some(Refusal::UnknownCa));
    let ended = handshake(workload.client_config(h2, &id("controller")), replica.server_config());
    assert_eq!(ended.refusals().0, Some(Refusal::UnknownCa));
}
