//! Many pods, in many services.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::NAMESPACE;

/// Objects that are being made at once: the API server is not what is measured.
const AT_ONCE: usize = 32;
/// For all of it to be as it is to be.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An object of that kind.
///
/// # Errors
/// When it is none.
pub fn object<K: DeserializeOwned>(value: Value) -> anyhow::Result<K> {
    serde_json::from_value(value).context("this is no such object")
}

/// Makes them, and returns when all pods are ready endpoints.
///
/// # Errors
/// When the API server refuses one, or they are not in time.
pub async fn make(client: &Client, pods: usize, services: usize) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": NAMESPACE}}))?).await?;
    let (of_services, of_pods) =
        (Api::<Service>::namespaced(client.clone(), NAMESPACE), Api::namespaced(client.clone(), NAMESPACE));
    let services_made = stream::iter(0..services).map(Ok).try_for_each_concurrent(AT_ONCE, async |number| {
        of_services.create(&PostParams::default(), &object(service(number))?).await?;
        anyhow::Ok(())
    });
    services_made.await?;
    // The account that all pods run as is made soon after their namespace.
    let pods_made = stream::iter(0..pods).map(Ok).try_for_each_concurrent(AT_ONCE, async |number| {
        let pod: Pod = object(pod(number, services))?;
        let mut tries = 0;
        while let Err(error) = of_pods.create(&PostParams::default(), &pod).await {
            tries += 1;
            ensure!(tries < 10, "a pod cannot be made: {error}");
            sleep(LOOK_AGAIN).await;
        }
        anyhow::Ok(())
    });
    pods_made.await?;
    all_ready(client, pods).await
}

async fn all_ready(client: &Client, pods: usize) -> anyhow::Result<()> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let began = Instant::now();
    loop {
        let slices = slices.list(&ListParams::default()).await?;
        let endpoints = slices.items.iter().flat_map(|slice| &slice.endpoints);
        let is_ready =
            |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| conditions.ready == Some(true);
        let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().is_some_and(is_ready)).count();
        if ready >= pods {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{ready} of {pods} pods are ready after {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}

fn service(number: usize) -> Value {
    let spec = json!({"selector": {"app": app(number)}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    json!({"metadata": {"name": app(number)}, "spec": spec})
}

fn app(number: usize) -> String {
    format!("app-{number}")
}

/// With a proxy beside the application. Nothing has made it, and nothing would make it again.
fn pod(number: usize, services: usize) -> Value {
    let name = app(number % services.max(1));
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "BACKEND", "value": "http://api.shop.svc.cluster.local:8080"}, {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
        })
    };
    json!({
        "metadata": {
            "name": format!("{name}-7d4f9c6b8d-{number:05}"),
            "labels": {"app": name, "pod-template-hash": "7d4f9c6b8d"},
            "annotations": {"conduit.io/inject": "disabled"},
        },
        "spec": {"nodeName": format!("node-{}", number % 3 + 1), "containers": [container("web", "registry.example.org/shop/web:1.0.0"), container("conduit-proxy", "gcr.io/runconduit/proxy:v0.1.0")]},
    })
}
