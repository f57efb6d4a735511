//! From the end of a Job's own container until its proxy, which is no native sidecar, has ended as well: until then the Job is not complete.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    NAMESPACE,
    cluster::Cluster,
    objects::object,
    pods::Played,
    replicas::{Replicas, ip},
};
use crate::{
    control_plane::line,
    load::{histogram, record},
    serve::ask,
};

/// Something is wrong if it takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A Job's work: it has just told the control plane what it wants to know.
const WORK: Duration = Duration::from_secs(1);
/// What tells the played kubelet that a container has ended.
const ENDED: &str = "test.conduit.io/exit-code";

/// Says how long it took, of so many of them.
///
/// # Errors
/// When one of them cannot be started, or does not end.
pub async fn run(cluster: &Cluster, programs: &Path, replicas: &Replicas, count: usize) -> anyhow::Result<String> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
    let mut ended = histogram();
    for number in 0..count {
        let pod = Played::make(cluster, object(pod(number))?).await?;
        let mut proxy = proxy(cluster, programs, replicas, &pod)?;
        is_ready(&pod).await?;
        sleep(WORK).await;
        ensure!(proxy.try_wait()?.is_none(), "the proxy of {} has ended before its application", pod.name);
        let began = Instant::now();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ENDED: "0"}}}));
        let params = PatchParams::default();
        let (written, exited) = tokio::join!(pods.patch(&pod.name, &params, &patch), timeout(PATIENCE, proxy.wait()));
        written?;
        let exited = exited.with_context(|| format!("the proxy of {} does not end", pod.name))??;
        ensure!(exited.success(), "the proxy of {} ends with {exited}", pod.name);
        record(&mut ended, began.elapsed());
    }
    Ok(line("a Job's container ended, and so has its proxy", &ended))
}

/// As one is that the webhook has given a proxy.
fn pod(number: usize) -> serde_json::Value {
    let container = |name: &str| json!({"name": name, "image": "played"});
    json!({
        "metadata": {
            "name": format!("once-{number}"),
            "labels": {"conduit.io/control-plane-ns": super::replicas::NAMESPACE},
            "annotations": {"conduit.io/inject": "disabled"},
        },
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "default",
            "restartPolicy": "Never",
            "containers": [container("main"), container("conduit-proxy")],
        },
    })
}

/// Dropping it ends it.
fn proxy(cluster: &Cluster, programs: &Path, replicas: &Replicas, pod: &Played) -> anyhow::Result<Child> {
    let controllers: Vec<_> = (0..replicas.len()).map(|replica| format!("{}:8086", ip(replica))).collect();
    let log = fs::File::create(cluster.directory.path().join(format!("{}.log", pod.name)))?;
    let mut command = Command::new(programs.join("conduit-proxy"));
    command.env("CONDUIT_PROXY_POD_NAMESPACE", NAMESPACE).env("CONDUIT_PROXY_POD_NAME", &pod.name);
    command.env("CONDUIT_PROXY_POD_IP", &pod.ip).env("CONDUIT_PROXY_TRUST_DOMAIN", "cluster.local");
    command.env("CONDUIT_PROXY_CONTROL_URL", controllers.join(","));
    command.env("CONDUIT_PROXY_TRUST_ANCHORS_FILE", &pod.anchors);
    command.env("CONDUIT_PROXY_IDENTITY_TOKEN_FILE", &pod.token);
    for (listener, port) in [("PRIVATE", 4140), ("PUBLIC", 4143), ("METRICS", 4191)] {
        command.env(format!("CONDUIT_PROXY_{listener}_LISTENER"), format!("{}:{port}", pod.ip));
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn is_ready(pod: &Played) -> anyhow::Result<()> {
    let address = format!("{}:4191", pod.ip).parse()?;
    let began = Instant::now();
    while !ask(address, "/ready").await.is_ok_and(|said| said.starts_with("HTTP/1.1 200 ")) {
        ensure!(began.elapsed() < PATIENCE, "the proxy of {} is not ready within {PATIENCE:?}", pod.name);
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}
