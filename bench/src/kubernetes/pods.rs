//! Pods whose proxies really run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{NAMESPACE, cluster::Cluster, objects::object};

/// For what is made for a pod.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One of them, as the kubelet would have it.
pub struct Played {
    /// Within the namespace.
    pub name: String,
    /// Where it is.
    pub ip: String,
    /// The file with its token.
    pub token: PathBuf,
    /// The file with the trust anchors.
    pub anchors: PathBuf,
}

impl Played {
    /// Makes it; returns when it has an address, and its files are there.
    ///
    /// # Errors
    /// When the API server refuses something, or that is not in time.
    pub async fn make(cluster: &Cluster, pod: Pod) -> anyhow::Result<Self> {
        let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
        let pod = pods.create(&PostParams::default(), &pod).await?;
        let (name, uid) = (pod.name_any(), pod.metadata.uid.context("the pod has no uid")?);
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let request: TokenRequest = object(json!({
            "metadata": {}, "spec": {"audiences": ["conduit.io/identity"], "expirationSeconds": 3600, "boundObjectRef": bound},
        }))?;
        let accounts = Api::<ServiceAccount>::namespaced(cluster.client.clone(), NAMESPACE);
        let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
        let token = answer.status.context("the API server gives no token")?.token;
        let bundles = Api::<ConfigMap>::namespaced(cluster.client.clone(), NAMESPACE);
        let anchors = eventually("a trust bundle", async || {
            let bundle = bundles.get_opt("conduit-trust-bundle").await?.and_then(|bundle| bundle.data);
            Ok(bundle.and_then(|data| data.into_values().next()))
        });
        let anchors = anchors.await?;
        let ip = eventually("an address of the pod", async || Ok(pods.get(&name).await?.status.and_then(|s| s.pod_ip)));
        let directory = cluster.directory.path();
        Ok(Self {
            ip: ip.await?,
            token: write(directory, &format!("{name}.token"), &token)?,
            anchors: write(directory, "trust-bundle.pem", &anchors)?,
            name,
        })
    }
}

async fn eventually<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            bail!("there is not {what} within {PATIENCE:?}");
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = directory.join(name);
    fs::write(&file, text)?;
    Ok(file)
}
