//! What applications are given of their identities: the SPIFFE Workload API, by other people's clients, unmodified.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use conduit_api::proto::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient};
use conduit_ca::{
    AuthenticatedPeer, Authorities, ClientAuth, JwtIssuer, KeyPair, ROOT_LIFETIME, Root, TrustBundle, WorkloadTls,
    federation,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use spiffe::{BundleSource as _, JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, X509Source};
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};
use tonic::{Code, Request, transport::Endpoint};
use tower::service_fn;

use super::harness::Mesh;

const WEB: &str = "spiffe://cluster.local/ns/emojivoto/sa/web";
/// Where a test may have a Python with the package `spiffe`; CI always does.
const PYTHON: &str = "CONDUIT_TEST_PYTHON";
const SOON: Duration = Duration::from_secs(20);

fn socket(mesh: &Mesh, pod: &str) -> String {
    mesh.path().join("tokens").join(format!("emojivoto.{pod}")).join("spiffe/workload.sock").display().to_string()
}

fn endpoint(mesh: &Mesh, pod: &str) -> String {
    format!("unix:{}", socket(mesh, pod))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

async fn x509(mesh: &Mesh, pod: &str) -> X509Source {
    X509Source::builder().endpoint(endpoint(mesh, pod)).build().await.unwrap()
}

#[test]
fn an_application_is_who_it_is_through_every_rotation() {
    let mesh = Mesh::up();
    runtime().block_on(async {
        let source = x509(&mesh, "web-0").await;
        let svid = source.svid().unwrap();
        assert_eq!(svid.spiffe_id().to_string(), WEB);
        let anchors = || {
            let bundle = source.bundle_for_trust_domain(&domain("cluster.local")).unwrap().unwrap();
            bundle.authorities().iter().map(|root| root.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        let before = anchors();
        assert_eq!(before.len(), 1);

        // It is worth something: what it was given makes a connection to a workload that was given its own.
        let tls = |svid: &spiffe::X509Svid| {
            let roots = anchors().into_iter().map(CertificateDer::from).collect();
            let tls = WorkloadTls::new("cluster.local".parse().unwrap(), TrustBundle::new(roots).unwrap());
            let key = KeyPair::from_pkcs8(svid.private_key().as_bytes()).unwrap();
            let chain = svid.cert_chain().iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
            tls.set_identity(&key, chain).unwrap();
            tls
        };
        let voting = x509(&mesh, "voting-0").await.svid().unwrap();
        let (client, server) = (tls(&svid), tls(&voting));
        let to = "spiffe://cluster.local/ns/emojivoto/sa/voting".parse().unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = tokio_rustls::TlsConnector::from(client.client_config(&[b"h2"], &to));
        let acceptor = tokio_rustls::TlsAcceptor::from(server.server_config(&[b"h2"], ClientAuth::Required));
        let name = rustls::pki_types::ServerName::try_from("voting").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        client.unwrap();
        assert_eq!(AuthenticatedPeer::from_connection(server.unwrap().get_ref().1).unwrap().id().to_string(), WEB);

        let mut updates = source.updated();
        mesh.ok("ca rotate --wait");
        let renewed = timeout(
            SOON,
            updates.wait_for(|_| {
                let now = anchors();
                now.len() == 1 && now != before && source.svid().unwrap().cert_chain() != svid.cert_chain()
            }),
        );
        renewed.await.expect("it was told of the new root").unwrap();
        tls(&source.svid().unwrap());

        // Whoever is denied has nothing any more, and is told so.
        mesh.ok("ca deny -n emojivoto web --wait");
        let gone = timeout(SOON, async {
            while source.svid().is_ok() {
                let _ = updates.changed().await;
            }
        });
        gone.await.expect("what it has is withdrawn");
        let client = WorkloadApiClient::connect_to(endpoint(&mesh, "web-0")).await.unwrap();
        let refused = client.fetch_jwt_svid(["voting"], None).await.unwrap_err();
        assert!(format!("{refused:?}").contains("PermissionDenied"), "{refused:?}");
        mesh.ok("ca allow -n emojivoto web --wait");
        client.fetch_x509_svid().await.unwrap();
    });
    mesh.down();
}

#[test]
fn tokens_prove_who_sent_them() {
    let mesh = Mesh::up();
    runtime().block_on(async {
        let source = JwtSource::builder().endpoint(endpoint(&mesh, "web-0")).build().await.unwrap();
        let svid = source.fetch_jwt_svid(["voting"]).await.unwrap();
        assert_eq!(svid.spiffe_id().to_string(), WEB);
        let voting = WorkloadApiClient::connect_to(endpoint(&mesh, "voting-0")).await.unwrap();
        voting.validate_jwt_token("voting", svid.token()).await.unwrap();
        let error = voting.validate_jwt_token("emoji", svid.token()).await.unwrap_err();
        assert!(error.to_string().contains("not for the audience"), "{error}");
        // By the keys alone, as one does who is not in the mesh.
        let keys = voting.fetch_jwt_bundles().await.unwrap();
        let validated = JwtSvid::parse_and_validate(svid.token(), &keys, &["voting"]).unwrap();
        assert_eq!(validated.spiffe_id().to_string(), WEB);

        // Roots come and go; a token has nothing to do with them.
        mesh.ok("ca rotate --wait");
        voting.validate_jwt_token("voting", svid.token()).await.unwrap();
        // A replica that was revoked has signed nothing that is believed; the others go on.
        for member in mesh.raft().members {
            mesh.ok(&format!("ca revoke {}", member.id));
        }
        eventually_async(|| async { voting.validate_jwt_token("voting", svid.token()).await.err() }).await;
        let again = eventually_async(|| async {
            let again = source.fetch_jwt_svid(["voting"]).await.ok()?;
            voting.validate_jwt_token("voting", again.token()).await.ok().map(|_| again)
        });
        assert_ne!(again.await.token(), svid.token(), "what is believed by nobody is not handed out again");

        // With every controller gone, what was fetched is good as long as it lives.
        let web = WorkloadApiClient::connect_to(endpoint(&mesh, "web-0")).await.unwrap();
        let known = eventually_async(|| async {
            let known = source.fetch_jwt_svid(["somebody"]).await.ok()?;
            let (here, there) = tokio::join!(
                web.validate_jwt_token("somebody", known.token()),
                voting.validate_jwt_token("somebody", known.token())
            );
            here.and(there).ok().map(|_| known)
        });
        let known = known.await;
        let members = mesh.raft().members;
        members.iter().for_each(|member| mesh.stop(member.pid));
        let meanwhile = source.fetch_jwt_svid(["somebody"]).await.unwrap();
        assert_eq!(meanwhile.token(), known.token());
        voting.validate_jwt_token("somebody", known.token()).await.unwrap();
        members.iter().for_each(|member| mesh.go_on(member.pid));
    });
    if let Ok(python) = std::env::var(PYTHON) {
        let check = concat!(env!("CARGO_MANIFEST_DIR"), "/spiffe/check.py");
        let output =
            Command::new(python).args([check, &socket(&mesh, "web-0"), WEB, &socket(&mesh, "voting-0")]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    mesh.down();
}

#[test]
fn who_does_not_speak_the_protocol_gets_nothing() {
    let mesh = Mesh::up();
    runtime().block_on(async {
        let path = socket(&mesh, "web-0");
        let connect = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap();
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let refused = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
        let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().svids[0].spiffe_id, WEB);
    });
    // Nobody else on this machine may ask.
    let directory = Path::new(&socket(&mesh, "web-0")).parent().unwrap().metadata().unwrap();
    assert_eq!(directory.permissions().mode() & 0o077, 0);
    mesh.down();
}

/// Another trust domain, as SPIRE or another mesh would publish itself.
#[test]
fn another_trust_domain_is_believed_as_long_as_it_is_said_to_be() {
    let mesh = Mesh::up();
    let (theirs, now) = ("example.org".parse().unwrap(), SystemTime::now());
    let root = Root::generate(&theirs, now, ROOT_LIFETIME).unwrap();
    let id = "spiffe://example.org/ns/shop/sa/cart".parse().unwrap();
    let tokens = JwtIssuer::generate().unwrap();
    let token = tokens.issue(&id, &["voting".to_owned()], now).unwrap().token;
    let keys = [(tokens.id().to_owned(), tokens.jwk().to_owned())].into();
    let authorities = Authorities::new(vec![root.anchor().clone()]).unwrap().with_jwt(keys);
    let bundle = mesh.file("bundle.json", &federation::export(&authorities, 1).unwrap());

    runtime().block_on(async {
        let source = x509(&mesh, "web-0").await;
        let client = WorkloadApiClient::connect_to(endpoint(&mesh, "voting-0")).await.unwrap();
        let known = || source.bundle_for_trust_domain(&domain("example.org")).unwrap().is_some();
        assert!(!known());
        let stranger = client.validate_jwt_token("voting", &token).await.unwrap_err();
        assert!(stranger.to_string().contains("not trusted here"), "{stranger}");

        mesh.ok(&format!("ca federate example.org --bundle-file {} --wait", bundle.display()));
        client.validate_jwt_token("voting", &token).await.unwrap();
        let mut updates = source.updated();
        timeout(SOON, updates.wait_for(|_| known())).await.expect("it was told of the other domain").unwrap();
        assert!(mesh.ok("ca status").contains("trust domain example.org is believed: 1 roots"));

        // A foreign identity can be denied like any other.
        mesh.ok("ca deny spiffe://example.org/ns/shop/sa/cart --wait");
        let denied = client.validate_jwt_token("voting", &token).await.unwrap_err();
        assert!(denied.to_string().contains("is denied"), "{denied}");
        mesh.ok("ca allow spiffe://example.org/ns/shop/sa/cart --wait");

        // One that has tokens only is left out where certificates are asked for: clients take nothing for a mistake.
        let tokens_only = Authorities::default().with_jwt(authorities.jwt.clone());
        let tokens_only = mesh.file("tokens.json", &federation::export(&tokens_only, 2).unwrap());
        mesh.ok(&format!("ca federate example.org --bundle-file {} --wait", tokens_only.display()));
        client.validate_jwt_token("voting", &token).await.unwrap();
        assert!(client.fetch_x509_bundles().await.unwrap().get(&domain("example.org")).is_none());
        assert!(client.fetch_jwt_bundles().await.unwrap().get(&domain("example.org")).is_some());
        mesh.ok(&format!("ca federate example.org --bundle-file {} --wait", bundle.display()));
        timeout(SOON, updates.wait_for(|_| known())).await.expect("it has roots again").unwrap();

        mesh.ok("ca defederate example.org --wait");
        assert!(client.validate_jwt_token("voting", &token).await.is_err());
        timeout(SOON, updates.wait_for(|_| !known())).await.expect("it was told that it is over").unwrap();
    });

    // What it exports, others can import; and what is no bundle is refused with the reason.
    let ours = federation::parse(&mesh.ok("ca export-bundle --format spiffe")).unwrap();
    assert_eq!((ours.roots().len(), ours.jwt.is_empty()), (1, false));
    assert!(mesh.ok("ca export-bundle").starts_with("-----BEGIN CERTIFICATE-----"));
    for (junk, why) in [("", "is empty"), ("{\"keys\": [{}]}", "none for X.509-SVIDs"), ("{", "not a bundle")] {
        let junk = mesh.file("junk.json", junk);
        let refused = mesh.fails(&format!("ca federate example.org --bundle-file {}", junk.display()));
        assert!(refused.contains(why), "{refused}");
    }
    let own = mesh.fails(&format!("ca federate cluster.local --bundle-file {}", bundle.display()));
    assert!(own.contains("own trust domain"), "{own}");
    assert!(mesh.fails("ca federate example.org --bundle-file /no/such/file").contains("/no/such/file"));
    mesh.down();
}

async fn eventually_async<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    let found = timeout(SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.expect("in time")
}
