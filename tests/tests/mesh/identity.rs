//! Whom the mesh trusts: roots that follow each other, identities that are denied, keys that are nowhere to be found.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use conduit_api::proto::{
    cache::Cache,
    identity::{CertifyRequest, identity_client::IdentityClient},
    public::{CaStatusRequest, SelfCheckRequest},
};
use conduit_ca::{KeyPair, LaunchToken, SealedRoot, Seed, TrustBundle, WorkloadTls, cache};
use conduit_chaos::{
    cluster::Cluster,
    drills::{self, Drill},
    run::{self, Plan},
};
use conduit_proxy::{
    connect::{Connector, Who},
    control::Controllers,
};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};
use serde_json::Value;
use tokio::task::LocalSet;

use super::{
    harness::{Mesh, eventually, turn},
    traffic::Traffic,
};
use crate::programs;

/// Secret bytes in a row that are a leak.
const LEAK_BYTES: usize = 16;

/// The roots that are trusted, as (id, state).
fn roots(mesh: &Mesh) -> Vec<(String, String)> {
    let status: Value = serde_json::from_str(&mesh.ok("ca status -o json")).unwrap();
    let text = |root: &Value, field: &str| root[field].as_str().unwrap().to_owned();
    status["roots"].as_array().unwrap().iter().map(|root| (text(root, "id"), text(root, "state"))).collect()
}

fn only_root(mesh: &Mesh) -> Option<String> {
    match &roots(mesh)[..] {
        [(id, state)] if state == "active" => Some(id.clone()),
        _ => None,
    }
}

#[test]
fn the_root_is_replaced_under_traffic_and_whoever_leads_goes_on() {
    let mesh = Mesh::up();
    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(20);
    let mut root = only_root(&mesh).unwrap();
    for _ in 0..5 {
        let said = mesh.ok("ca rotate --wait");
        let next = only_root(&mesh).unwrap();
        assert!(next != root && said.contains(&next[..16]), "{said}");
        root = next;
        traffic.wait_for(10);
    }
    assert_eq!(mesh.ok("ca export-bundle"), mesh.trust_bundle());
    // The leader is killed in the middle of it: at whatever step that is, the next one takes the others.
    for _ in 0..3 {
        mesh.ok("ca rotate");
        mesh.kill9(mesh.raft().leader().pid);
        root = eventually(Duration::from_secs(60), "the root is replaced", || {
            only_root(&mesh).filter(|next| *next != root)
        });
        eventually(Duration::from_secs(30), "all replicas are back", || {
            mesh.raft().members.iter().all(|member| member.role != "unreachable").then_some(())
        });
    }
    traffic.wait_for(50);
    let (_, failed) = traffic.stop();
    assert_eq!(failed, Vec::<String>::new());
    assert!(mesh.ok("check").ends_with("Status check results are [ok]\n"));
    for pod in ["web-0", "voting-0"] {
        let restarts = mesh.process(&format!("{pod}/proxy")).restarts;
        assert_eq!(restarts, 0, "nothing is restarted");
    }
    mesh.down();
}

/// A proxy that was stopped holds a rotation up, and nothing else; force does not wait for it, and it finds back by itself.
#[test]
fn a_proxy_that_is_away_holds_a_rotation_up_unless_it_is_forced() {
    let mesh = Mesh::up();
    let root = only_root(&mesh).unwrap();
    let proxy = mesh.process("emoji-0/proxy").pid;
    mesh.stop(proxy);
    let said = mesh.gives_up("ca rotate --wait --timeout 3s");
    assert!(said.contains("emojivoto/emoji-0") && said.contains("error: after 3s: "), "{said}");
    let states: Vec<_> = roots(&mesh).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["active", "prepared"]);
    let refused = mesh.fails("ca rotate");
    assert!(refused.contains("already"), "{refused}");
    // It is away for so long that its connections are gone as well.
    std::thread::sleep(Duration::from_secs(8));
    mesh.ok("ca rotate --force");
    // The replica that answers may be a heartbeat behind the one that was told.
    let next = || only_root(&mesh).filter(|next| *next != root);
    eventually(Duration::from_secs(5), "the other root is the only one", next);
    mesh.go_on(proxy);
    eventually(Duration::from_secs(30), "it holds a certificate under the new root", || {
        let traffic = Traffic::start(mesh.web_address());
        traffic.wait_for(20);
        traffic.stop().1.is_empty().then_some(())
    });
    mesh.ok("ca rotate --wait");
    mesh.down();
}

#[test]
fn a_root_is_replaced_by_itself_before_it_expires() {
    // It is valid from a minute ago, for clocks that are behind: 80 % of that life is fifteen seconds from now.
    let mesh = Mesh::up_with("--root-lifetime 34s");
    let traffic = Traffic::start(mesh.web_address());
    let mut root = only_root(&mesh).unwrap();
    for _ in 0..2 {
        let next = eventually(Duration::from_secs(60), "another root has taken over", || {
            only_root(&mesh).filter(|next| *next != root)
        });
        root = next;
    }
    traffic.wait_for(20);
    let (_, failed) = traffic.stop();
    assert_eq!(failed, Vec::<String>::new());
    mesh.down();
}

#[test]
fn who_is_denied_is_refused_until_it_is_allowed() {
    let mesh = Mesh::up();
    let works = |mesh: &Mesh| {
        let traffic = Traffic::start(mesh.web_address());
        std::thread::sleep(Duration::from_millis(500));
        let (answered, failed) = traffic.stop();
        (answered > 0, failed.is_empty())
    };
    assert_eq!(works(&mesh), (true, true));
    let said = mesh.ok("ca deny -n emojivoto voting --drop-connections --wait");
    assert!(said.starts_with("spiffe://cluster.local/ns/emojivoto/sa/voting denied at revision "), "{said}");
    // The connection that requests went over was there before.
    assert!(!works(&mesh).1, "nobody answers for voting");
    assert!(mesh.ok("ca status").contains("spiffe://cluster.local/ns/emojivoto/sa/voting, and its connections"));
    assert!(mesh.log("emojivoto.web-0.proxy").contains("reason=\"denied\""));
    // A rotation does not wait for it, and it gets no certificate under the new root.
    mesh.ok("ca rotate --wait");
    mesh.ok("ca allow -n emojivoto voting");
    eventually(Duration::from_secs(60), "it is back", || (works(&mesh) == (true, true)).then_some(()));
    assert!(mesh.fails("ca deny -n conduit controller").contains("control plane"));
    assert!(mesh.fails("ca deny spiffe://example.org/ns/a/sa/b").contains("trust domain"));
    assert!(mesh.fails("ca deny nobody/at/all").contains("is not of the form"));
    mesh.down();
}

#[test]
fn what_a_revoked_replica_has_issued_is_replaced_at_once() {
    let mesh = Mesh::up();
    let issuers = |mesh: &Mesh| -> Vec<String> {
        let status: Value = serde_json::from_str(&mesh.ok("ca status -o json")).unwrap();
        status["issuers"].as_array().unwrap().iter().map(|issuer| issuer["id"].as_str().unwrap().to_owned()).collect()
    };
    let before = issuers(&mesh);
    for replica in ["controller-0", "controller-1", "controller-2"] {
        mesh.ok(&format!("ca revoke {replica}"));
    }
    let certificates = || mesh.ok("identity -n emojivoto");
    eventually(Duration::from_secs(10), "nobody presents what was revoked", || {
        let certificates = certificates();
        before.iter().all(|issuer| !certificates.contains(issuer)).then_some(())
    });
    assert!(issuers(&mesh).iter().all(|issuer| !issuer.is_empty() && !before.contains(issuer)));
    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(30);
    assert_eq!(traffic.stop().1, Vec::<String>::new());
    assert!(mesh.fails("ca revoke controller-9").contains("controller-9"));
    mesh.down();
}

#[test]
fn the_seed_and_what_the_platform_keeps_bring_the_root_back_when_all_disks_are_lost() {
    let mesh = Mesh::up();
    mesh.ok("ca rotate --wait");
    let (root, bundle) = (only_root(&mesh).unwrap(), mesh.trust_bundle());
    mesh.ok("local down");
    for controller in ["controller-0", "controller-1", "controller-2"] {
        mesh.lose_disk(controller);
    }
    mesh.start("");
    assert_eq!((only_root(&mesh).unwrap(), mesh.trust_bundle()), (root, bundle));
    mesh.down();
}

/// A certificate and its key, PEM.
fn authority(
    name: &str,
    by: Option<&(CertificateParams, rcgen::KeyPair)>,
) -> (String, (CertificateParams, rcgen::KeyPair)) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = match by {
        Some((issuer, issuer_key)) => params.signed_by(&key, &rcgen::Issuer::new(issuer.clone(), issuer_key)).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    (certificate.pem(), (params, key))
}

#[test]
fn a_users_own_root_and_intermediate_take_the_place_of_ours() {
    let mesh = Mesh::waiting();
    let (root_pem, root) = authority("Our company", None);
    let (root_file, root_key) = (mesh.file("root.pem", &root_pem), mesh.file("root.key", &root.1.serialize_pem()));
    let wrong = mesh.fails(&format!(
        "local up --demo --identity-issuer-certificate-file {} --identity-issuer-key-file {}",
        root_file.display(),
        root_file.display()
    ));
    assert!(wrong.contains("issuer's key is not PEM"), "{wrong}");
    mesh.start(&format!(
        "--identity-issuer-certificate-file {} --identity-issuer-key-file {}",
        root_file.display(),
        root_key.display()
    ));
    let same = |pem: &str| pem.replace("\r\n", "\n");
    assert_eq!(mesh.ok("ca export-bundle"), same(&root_pem));
    let refused = mesh.fails("ca rotate");
    assert!(refused.contains("your own"), "{refused}");

    let traffic = Traffic::start(mesh.web_address());
    traffic.wait_for(20);
    let (middle_pem, middle) = authority("Our mesh", Some(&root));
    let (middle_file, middle_key) =
        (mesh.file("middle.pem", &middle_pem), mesh.file("middle.key", &middle.1.serialize_pem()));
    mesh.ok(&format!(
        "ca rotate --wait --issuer-certificate-file {} --issuer-key-file {} --trust-anchors-file {}",
        middle_file.display(),
        middle_key.display(),
        root_file.display()
    ));
    traffic.wait_for(20);
    assert_eq!(traffic.stop().1, Vec::<String>::new());
    assert_eq!(mesh.ok("ca export-bundle"), same(&root_pem), "what is trusted is the same");
    let chain = mesh.ok("identity -n emojivoto web-0");
    assert!(chain.contains("Issuer        CN=Our mesh\n") && chain.contains("Subject       CN=Our mesh\n"), "{chain}");
    mesh.down();
}

/// A replica whose clock is off signs nothing, says why, and is seen in the figures; the others go on.
#[test]
fn a_replica_whose_clock_is_off_signs_nothing() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&programs::built(), 3).await.unwrap();
        cluster.kill(2);
        cluster.set_flags(2, &["--clock-shift-seconds", "-45"]);
        cluster.spawn(2).unwrap();
        cluster.all_vote().await.unwrap();
        cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await.unwrap();
        let token = LaunchToken { namespace: "ns".into(), service_account: "web".into(), pod: "web-0".into() };
        let token = token.mint(cluster.seed(), std::time::SystemTime::now() + Duration::from_secs(600));
        let ask = async |replica: usize| {
            let anchors = TrustBundle::from_pem(&fs::read_to_string(cluster.trust_anchors()).unwrap()).unwrap();
            let tls = WorkloadTls::new(Cluster::trust_domain(), anchors);
            let address = vec![format!("{}:8086", cluster.ip(replica))];
            let connector = Connector::new(None, tls);
            let controllers = Controllers::new(address, &Cluster::trust_domain(), connector).unwrap();
            let channel = controllers.connect(Who::Nobody).await.map_err(|error| error.to_string())?;
            let request = CertifyRequest { csr: KeyPair::generate().unwrap().csr().unwrap(), token: token.clone() };
            let answer = IdentityClient::new(channel).certify(request).await;
            answer.map(drop).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
        };
        let refuses =
            async || ask(2).await.is_err_and(|error| error.starts_with("Unavailable: this replica's clock is 4"));
        cluster.wait("it has compared its clock with the others'", refuses).await.unwrap();
        let others_sign = async || (ask(0).await, ask(1).await) == (Ok(()), Ok(()));
        cluster.wait("the others sign, whose clocks agree", others_sign).await.unwrap();
        let mut api = Cluster::api(cluster.socket(0)).await.unwrap();
        let status = api.ca_status(CaStatusRequest {}).await.unwrap().into_inner();
        let offsets: Vec<_> = status.issuers.iter().map(|issuer| issuer.clock_offset_ms / 1000).collect();
        assert!(offsets[0].abs() <= 2 && offsets[1].abs() <= 2 && (-47..=-43).contains(&offsets[2]), "{offsets:?}");
        let checks = api.self_check(SelfCheckRequest::default()).await.unwrap().into_inner().results;
        let clocks = checks.iter().find(|check| check.description == "the replicas' clocks agree").unwrap();
        assert!(clocks.message.contains("controller-2"), "{clocks:?}");
    });
}

/// Workloads with certificates of seconds, roots one after the other, and a control plane that is broken all the time.
#[test]
fn no_connection_fails_while_roots_are_replaced_in_a_broken_control_plane() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Of those that ever failed: a replica that was behind took a proxy back, and a late answer was taken for another.
    for seed in [1, 3] {
        let plan = Plan { seed, duration: Duration::from_secs(15), replicas: 3, apart: false };
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |line: &str| told.borrow_mut().push(line.to_owned());
        let outcome = LocalSet::new().block_on(&runtime, run::identity(&programs::built(), plan, tell)).unwrap();
        assert!(outcome.failures.is_empty(), "seed {seed}: {:?} after {:?}", outcome.failures, told.borrow());
        assert!(outcome.rotations > 1 && outcome.exchanges > 100, "{outcome:?}");
    }
}

/// Expired certificates, clocks that jump, lost roots, lost majorities, dead leaders: each on purpose, once.
#[test]
fn every_drill_is_passed() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let programs = programs::built();
    for drill in Drill::ALL {
        let held = drills::run(&programs, drill, |line| println!("{drill}: {line}"));
        LocalSet::new().block_on(&runtime, held).unwrap_or_else(|error| panic!("{drill}: {error:#}"));
    }
}

/// The secret under all others: nothing is restarted, no request fails, and what was under the old one is worth nothing then.
#[test]
fn the_seed_is_replaced_under_traffic() {
    let mesh = Mesh::up();
    let path = mesh.path().join("seed");
    let (old, traffic) = (Seed::load(&path).unwrap(), Traffic::start(mesh.web_address()));
    traffic.wait_for(20);
    let pids = || mesh.raft().members.iter().map(|member| member.pid).collect::<Vec<_>>();
    let (before, root) = (pids(), only_root(&mesh).unwrap());
    let said = mesh.ok("ca rotate-seed");
    let new = Seed::load(&path).unwrap();
    assert!(new.other().is_none() && new.id() != old.id() && said.contains(&new.id()), "{said}");
    assert_eq!((pids(), only_root(&mesh).unwrap()), (before, root.clone()));
    traffic.wait_for(20);

    // A token under the old one gets no certificate, whoever has it.
    let status: Value = serde_json::from_str(&mesh.ok("ca status -o json")).unwrap();
    assert_eq!(status["roots"][0]["sealedUnder"].as_str(), Some(&*new.id()));
    let kept: Value = serde_json::from_slice(&fs::read(mesh.path().join("trust-root.json")).unwrap()).unwrap();
    let kept: SealedRoot = serde_json::from_value(kept["root"].clone()).unwrap();
    let domain = "cluster.local".parse().unwrap();
    assert!(kept.open(&old, &domain).is_err() && kept.open(&new, &domain).is_ok());
    for files in mesh.pod_files() {
        let token = fs::read_to_string(files.join("token")).unwrap();
        assert!(LaunchToken::verify(&token, &old, SystemTime::now()).is_err());
        assert!(LaunchToken::verify(&token, &new, SystemTime::now()).is_ok());
    }
    mesh.ok("ca rotate --wait");
    mesh.ok("-n emojivoto local scale voting=2");
    let raft = mesh.raft();
    mesh.kill9(raft.leader().pid);
    eventually(Duration::from_secs(20), "the one that was killed is back", || {
        mesh.try_raft().filter(|raft| raft.members.iter().filter(|member| member.role == "follower").count() == 2)
    });

    // Interrupted after its first step, it goes on with the next call.
    new.advance().replace(&path).unwrap();
    let announced = Seed::load(&path).unwrap().other().unwrap().1;
    mesh.ok("ca rotate-seed");
    assert_eq!(Seed::load(&path).unwrap().id(), announced);
    assert_eq!(traffic.stop().1, Vec::<String>::new());

    // While a replica cannot be asked, nothing is begun.
    let follower = mesh.raft().members.into_iter().find(|member| member.role == "follower").unwrap();
    mesh.stop(follower.pid);
    let refused = mesh.fails("ca rotate-seed");
    assert!(refused.contains("cannot be asked") || refused.contains("has not taken"), "{refused}");
    mesh.go_on(follower.pid);
    assert_eq!(Seed::load(&path).unwrap().id(), announced);
    mesh.down();
    mesh.start("");
    mesh.down();
}

/// Every file that a run leaves behind, after everything that keys are used for has happened.
#[test]
fn no_key_is_found_in_clear() {
    let mesh = Mesh::up();
    mesh.ok("ca rotate --wait");
    mesh.ok(&format!("raft snapshot save {}", mesh.file("snapshot", "").display()));
    mesh.kill9(mesh.raft().leader().pid);
    let kept = || mesh.pod_files().into_iter().filter(|files| files.join("proxy/cache").exists()).collect::<Vec<_>>();
    eventually(Duration::from_secs(30), "proxies have kept what they know", || (kept().len() >= 4).then_some(()));
    mesh.ok("local down");

    let directory = mesh.path();
    let seed = Seed::load(&directory.join("seed")).unwrap();
    let backup: Value = serde_json::from_slice(&fs::read(directory.join("trust-root.json")).unwrap()).unwrap();
    let root: SealedRoot = serde_json::from_value(backup["root"].clone()).unwrap();
    let root = root.open(&seed, &"cluster.local".parse().unwrap()).unwrap();
    let mut secrets = vec![("the root's key", scalar(root.key()))];
    for files in kept() {
        let token = fs::read_to_string(files.join("token")).unwrap();
        let opened = cache::open(&token, &fs::read(files.join("proxy/cache")).unwrap()).unwrap();
        let key = KeyPair::from_pkcs8(&Cache::decode(opened.as_slice()).unwrap().key).unwrap();
        secrets.push(("a workload's key", scalar(&key)));
    }
    let hex = fs::read_to_string(directory.join("seed")).unwrap();
    let bytes: Vec<u8> = (0..64).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    secrets.push(("the seed", bytes));
    secrets.push(("the seed's digits", hex.trim().as_bytes().to_vec()));

    let mut searched = 0;
    for file in mesh.all_files() {
        let content = fs::read(&file).unwrap();
        searched += content.len();
        let is_seed = file.ends_with("mesh/seed");
        for (what, secret) in secrets.iter().filter(|_| !is_seed) {
            assert!(!contains(&content, secret), "{what} is in {}", file.display());
        }
        // Any key at all, in the forms that libraries write: PKCS#8 and SEC 1 of P-256, PKCS#8 of Ed25519, PEM.
        for form in [
            &b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20"[..],
            b"\x30\x77\x02\x01\x01\x04\x20",
            b"\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
            b"PRIVATE KEY",
        ] {
            assert!(!content.windows(form.len()).any(|w| w == form), "a private key is in {}", file.display());
        }
    }
    assert!(searched > 100_000, "{searched} bytes are not everything");
}

/// The secret part of a P-256 key, which begins at byte 36 of its PKCS#8.
fn scalar(key: &KeyPair) -> Vec<u8> {
    key.to_pkcs8().unwrap()[36..68].to_vec()
}

fn contains(content: &[u8], secret: &[u8]) -> bool {
    secret.windows(LEAK_BYTES).any(|part| content.windows(LEAK_BYTES).any(|window| window == part))
}
