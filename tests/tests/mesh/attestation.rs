//! Attestation by Kubernetes: real controllers, and an API server that says what it is told to.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use conduit_api::{
    Pod, PodName,
    mesh::Inventory,
    proto::{
        identity::{CertifyRequest, identity_client::IdentityClient},
        public::{Change, HistoryRequest},
    },
};
use conduit_ca::{JwtIssuer, KeyPair, TrustBundle, WorkloadTls};
use conduit_chaos::cluster::Cluster;
use conduit_proxy::{
    connect::{Connector, Who},
    control::Controllers,
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::harness::turn;
use crate::programs;

const AUDIENCE: &str = "identity.conduit.io";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs tokens, reviews them, and tells its keys, as long as it is up.
struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    key: EncodingKey,
    jwks: String,
    up: AtomicBool,
    /// It answers 403.
    forbids: AtomicBool,
    reviews: AtomicUsize,
    /// What a review says, by the token.
    answers: Mutex<BTreeMap<String, Value>>,
}

impl ApiServer {
    async fn start() -> Self {
        let key = EncodingKey::from_ec_der(&KeyPair::generate().unwrap().to_pkcs8().unwrap());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("key".to_owned());
        let jwks = json!({ "keys": [jwk] }).to_string();
        let (up, reviews) = (AtomicBool::new(true), AtomicUsize::new(0));
        let shared = Shared { key, jwks, up, forbids: AtomicBool::new(false), reviews, answers: Mutex::default() };
        let shared = Arc::new(shared);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = answering.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(shared.clone(), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, shared, serving }
    }

    fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        })
        .to_string()
    }

    /// A token as the kubelet has it made for a pod.
    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        sign(&self.shared.key, "key", change)
    }

    /// One that a review says this of.
    fn reviewed(&self, status: Value) -> String {
        let token = self.token(|claims| claims["jti"] = rand::random::<u64>().to_string().into());
        self.shared.answers.lock().unwrap().insert(token.clone(), status);
        token
    }

    fn set_up(&self, up: bool) {
        self.shared.up.store(up, Ordering::SeqCst);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn sign(key: &EncodingKey, id: &str, change: impl FnOnce(&mut Value)) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "iss": ISSUER,
        "aud": [AUDIENCE],
        "exp": now + 3600,
        "sub": "system:serviceaccount:emojivoto:web",
        "kubernetes.io": {
            "namespace": "emojivoto",
            "pod": {"name": "web-0", "uid": "uid-of-web-0"},
            "serviceaccount": {"name": "web", "uid": "uid-of-web"},
        },
    });
    change(&mut claims);
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}

fn authenticated() -> Value {
    json!({
        "authenticated": true,
        "audiences": [AUDIENCE],
        "user": {
            "username": "system:serviceaccount:emojivoto:web",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["web-0"],
                "authentication.kubernetes.io/pod-uid": ["uid-of-web-0"],
            },
        },
    })
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let json = |status: StatusCode, body: String| {
        let body = Full::new(Bytes::from(body));
        Ok(Response::builder().status(status).header("content-type", "application/json").body(body).unwrap())
    };
    if !shared.up.load(Ordering::SeqCst) {
        return json(StatusCode::SERVICE_UNAVAILABLE, "{}".to_owned());
    }
    if shared.forbids.load(Ordering::SeqCst) {
        let message = "this controller may not create tokenreviews";
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Forbidden", "code": 403});
        return json(StatusCode::FORBIDDEN, status.to_string());
    }
    match request.uri().path() {
        "/.well-known/openid-configuration" => json(StatusCode::OK, json!({ "issuer": ISSUER }).to_string()),
        "/openid/v1/jwks" => json(StatusCode::OK, shared.jwks.clone()),
        "/apis/authentication.k8s.io/v1/tokenreviews" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(review["spec"]["audiences"], json!([AUDIENCE]));
            shared.reviews.fetch_add(1, Ordering::SeqCst);
            let token = review["spec"]["token"].as_str().unwrap().to_owned();
            let known = shared.answers.lock().unwrap().get(&token).cloned();
            review["status"] = known.unwrap_or_else(|| json!({"authenticated": false, "error": "token is not known"}));
            json(StatusCode::CREATED, review.to_string())
        }
        other => json(StatusCode::NOT_FOUND, json!({ "message": other }).to_string()),
    }
}

#[test]
fn kubernetes_says_who_its_workloads_are_also_when_it_cannot_be_asked() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = ApiServer::start().await;
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = directory.path().join("kubeconfig").display().to_string();
        fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let flags = ["--service-account-audience", AUDIENCE, "--kubeconfig", &kubeconfig];
        let cluster = Cluster::start_with(&programs::built(), 3, &flags).await.unwrap();
        let pod = |name: &str, uid: &str| Pod {
            name: PodName::new("emojivoto", name).unwrap(),
            ip: Ipv4Addr::new(10, 0, 0, 1).into(),
            workload: None,
            service_account: "web".to_owned(),
            uid: Some(uid.to_owned()),
            ports: Default::default(),
            zone: None,
            meshed: true,
            ready: false,
            application_ended: false,
        };
        cluster.describe(&Inventory { pods: vec![pod("web-0", "uid-of-web-0")], ..Inventory::default() }).unwrap();
        cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await.unwrap();
        let anchors = TrustBundle::from_pem(&fs::read_to_string(cluster.trust_anchors()).unwrap()).unwrap();
        // The identity in the certificate, or why there is none.
        let certify = async |replica: usize, token: &str| {
            let tls = WorkloadTls::new(Cluster::trust_domain(), anchors.clone());
            let address = vec![format!("{}:8086", cluster.ip(replica))];
            let connector = Connector::new(None, tls.clone());
            let controllers = Controllers::new(address, &Cluster::trust_domain(), connector).unwrap();
            let channel = controllers.connect(Who::Nobody).await.map_err(|error| error.to_string())?;
            let key = KeyPair::generate().unwrap();
            let request = CertifyRequest { csr: key.csr().unwrap(), token: token.to_owned() };
            match IdentityClient::new(channel).certify(request).await {
                Ok(answer) => {
                    let chain = answer.into_inner().chain.into_iter().map(Into::into).collect();
                    tls.set_identity(&key, chain).unwrap();
                    Ok(tls.identity().unwrap().id.to_string())
                }
                Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
            }
        };
        let web = "spiffe://cluster.local/ns/emojivoto/sa/web";
        let good = server.reviewed(authenticated());
        for replica in 0..3 {
            let certified = async || certify(replica, &good).await.as_deref() == Ok(web);
            cluster.wait("a replica issues certificates", certified).await.unwrap();
        }
        // What the API server says no to, and what it says yes to that is not for us.
        let refused = async |status: Value, why: &str| {
            let error = certify(0, &server.reviewed(status)).await.unwrap_err();
            assert!(error.starts_with("Unauthenticated") && error.contains(why), "{error}");
        };
        refused(json!({"authenticated": false, "error": "the pod was deleted"}), "the pod was deleted").await;
        let changed = |change: fn(&mut Value)| {
            let mut status = authenticated();
            change(&mut status);
            status
        };
        refused(changed(|status| status["audiences"] = json!([])), "not for the audience").await;
        refused(changed(|status| status["audiences"] = json!(["somebody-else"])), "not for the audience").await;
        refused(changed(|status| status["user"]["username"] = "admin".into()), "that of `admin`").await;
        refused(changed(|status| status["user"]["extra"] = json!({})), "not bound to a pod").await;
        let reviews = server.shared.reviews.load(Ordering::SeqCst);
        assert!(reviews >= 8);
        // What proves nothing in any case, it is not asked about; and that it refuses to be asked is no reason to do without it.
        let expired = server.token(|claims| claims["exp"] = 1_000_000_000.into());
        assert!(certify(0, &expired).await.unwrap_err().contains("the token expired"));
        let padded = format!("{}{}", server.token(|_| {}), " ".repeat(3_500_000));
        assert!(certify(0, &padded).await.unwrap_err().contains("token is not known"));
        assert_eq!(server.shared.reviews.load(Ordering::SeqCst), reviews + 1, "trimmed, and asked about as any other");
        server.shared.forbids.store(true, Ordering::SeqCst);
        let forbidden = certify(0, &server.token(|_| {})).await.unwrap_err();
        assert!(
            forbidden.starts_with("Unavailable") && forbidden.contains("may not create tokenreviews"),
            "{forbidden}"
        );
        server.shared.forbids.store(false, Ordering::SeqCst);

        let in_log = async || {
            let Ok(mut api) = Cluster::api(cluster.socket(1)).await else { return false };
            let history = api.history(HistoryRequest { limit: 100 }).await;
            let is_it = |change: &Change| change.summary.contains("keys for tokens of https://kubernetes");
            history.is_ok_and(|history| history.into_inner().changes.iter().any(is_it))
        };
        cluster.wait("the API server's keys are in the log", in_log).await.unwrap();
        // Before it is gone; now they and the pods that are known decide, at every replica.
        server.set_up(false);
        let by_keys = server.token(|_| {});
        for replica in 0..3 {
            let known = async || certify(replica, &by_keys).await.as_deref() == Ok(web);
            cluster.wait("tokens are verified by what is in the log", known).await.unwrap();
        }
        let refused = async |token: String, why: &str| {
            let error = certify(0, &token).await.unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(
            server.token(|claims| claims["exp"] = 1_000_000_000.into()),
            "Unauthenticated: the ServiceAccount token is refused: the token expired",
        )
        .await;
        refused(server.token(|claims| claims["aud"] = json!(["somebody-else"])), "is not for the audience").await;
        refused(server.token(|claims| claims["iss"] = "https://elsewhere".into()), "issued by somebody else").await;
        refused(server.token(|claims| claims["kubernetes.io"]["pod"] = Value::Null), "not bound to a pod").await;
        let other_pod = server.token(|claims| claims["kubernetes.io"]["pod"]["uid"] = "uid-of-the-one-before".into());
        refused(other_pod, "bound to another pod").await;
        let other_account = server.token(|claims| claims["sub"] = "system:serviceaccount:emojivoto:admin".into());
        refused(other_account, "bound to another pod").await;
        let unknown = server.token(|claims| claims["kubernetes.io"]["pod"]["name"] = "web-9".into());
        refused(unknown, "Unavailable").await;
        let stranger = EncodingKey::from_ec_der(&KeyPair::generate().unwrap().to_pkcs8().unwrap());
        refused(sign(&stranger, "key", |_| {}), "signature is not that of its content").await;
        refused(sign(&stranger, "another", |_| {}), "by a key that is not known").await;
        refused(JwtIssuer::generate().unwrap().jwk().to_owned(), "Unauthenticated").await;

        // A pod of the same name is another pod.
        cluster.describe(&Inventory { pods: vec![pod("web-0", "uid-of-the-next")], ..Inventory::default() }).unwrap();
        let gone = async || certify(2, &by_keys).await.is_err_and(|error| error.contains("bound to another pod"));
        cluster.wait("the old pod's token is worth nothing", gone).await.unwrap();
        server.set_up(true);
        assert_eq!(certify(2, &good).await.as_deref(), Ok(web));
    });
}
