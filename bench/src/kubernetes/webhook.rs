//! How long the API server waits for the webhook, asked as it asks: over TLS, on a few connections that stay open.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{
    Request,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_rustls::TlsConnector;

use super::{
    NAMESPACE,
    cluster::Cluster,
    replicas::{NAMESPACE as INSTALLED, Replicas, ip},
};
use crate::{
    control_plane::line,
    load::{histogram, record},
};

const PORT: u16 = 8443;
/// What the API server calls it.
const NAME: &str = "webhook.conduit.svc";
/// To each replica.
const CONNECTIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Asks about so many pods a second, and says how long the answers took from the moment at which they were due.
///
/// # Errors
/// When a pod gets no proxy.
pub async fn run(
    cluster: &Cluster,
    replicas: &Replicas,
    per_second: u32,
    duration: Duration,
) -> anyhow::Result<String> {
    let tls = TlsConnector::from(Arc::new(config(cluster).await?));
    let (due, queue) = mpsc::channel::<(u32, Instant)>(1_024);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut connections = JoinSet::new();
    for replica in 0..replicas.len() {
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect((ip(replica), PORT)).await?;
            stream.set_nodelay(true)?;
            let stream = tls.connect(ServerName::try_from(NAME)?, stream).await?;
            let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let queue = queue.clone();
            connections.spawn(async move {
                let mut latencies = histogram();
                loop {
                    let next = queue.lock().await.recv().await;
                    let Some((number, at)) = next else { return anyhow::Ok(latencies) };
                    sender.ready().await?;
                    let answer = sender.send_request(request(number)?).await?;
                    let body = answer.into_body().collect().await?.to_bytes();
                    record(&mut latencies, at.elapsed());
                    let answer: Value = serde_json::from_slice(&body).context("the webhook answers no JSON")?;
                    ensure!(answer["response"]["patch"].is_string(), "a pod gets no proxy: {answer}");
                }
            });
        }
    }
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < duration {
        let at = ticks.tick().await;
        due.send((number, at)).await?;
        number += 1;
    }
    drop(due);
    let mut latencies = histogram();
    while let Some(ended) = connections.join_next().await {
        latencies.add(ended??)?;
    }
    Ok(line(&format!("webhook, {per_second} pods a second"), &latencies))
}

/// The leader says whom to trust.
async fn config(cluster: &Cluster) -> anyhow::Result<ClientConfig> {
    let configurations = Api::<MutatingWebhookConfiguration>::all(cluster.client.clone());
    let began = Instant::now();
    let bundle = loop {
        let found = configurations.get(&format!("conduit-proxy-injector-{INSTALLED}")).await?;
        let first = found.webhooks.and_then(|webhooks| webhooks.into_iter().next());
        if let Some(bundle) = first.and_then(|webhook| webhook.client_config.ca_bundle) {
            break bundle;
        }
        if began.elapsed() > PATIENCE {
            bail!("the webhook has no caBundle within {PATIENCE:?}");
        }
        sleep(LOOK_AGAIN).await;
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&bundle.0) {
        roots.add(root?)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

fn request(number: u32) -> anyhow::Result<Request<Full<Bytes>>> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-7d4f9c6b8d-", "namespace": NAMESPACE,
            "labels": {"app": "web", "pod-template-hash": "7d4f9c6b8d"}, "annotations": {"conduit.io/inject": "enabled"},
        },
        "spec": {"serviceAccountName": "default", "containers": [{
            "name": "web", "image": "registry.example.org/shop/web:1.0.0", "ports": [{"containerPort": 8080}],
            "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
        }]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": format!("00000000-0000-4000-8000-{number:012}"), "operation": "CREATE", "namespace": NAMESPACE,
            "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod,
        },
    });
    let request = Request::post("/inject").header(HOST, NAME).header(CONTENT_TYPE, "application/json");
    Ok(request.body(Full::from(serde_json::to_vec(&review)?))?)
}
