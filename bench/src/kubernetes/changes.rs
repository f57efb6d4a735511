//! From an EndpointSlice that changes in the API server until that is in force in a proxy: its own discovery client, over mutual TLS.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use conduit_api::{Target, TrustDomain};
use conduit_ca::WorkloadTls;
use conduit_proxy::{
    cache::Cache,
    destination::Destination,
    discovery::{
        Directory, Watched,
        client::{Discovery, DiscoveryTask},
    },
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    task::spawn_local,
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
    identity,
    load::{histogram, record},
};

/// Of what changes: a service without a selector, whose endpoints are written by hand.
const NAME: &str = "changing";
/// The pod that the proxy is of.
const CLIENT: &str = "client";
/// Something is wrong if it takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two changes.
const QUIET: Duration = Duration::from_millis(100);

/// Says how long it took.
///
/// # Errors
/// When a change does not arrive.
pub async fn run(cluster: &Cluster, replicas: &Replicas, changes: usize) -> anyhow::Result<String> {
    let slices = Api::<EndpointSlice>::namespaced(cluster.client.clone(), NAMESPACE);
    let services = Api::<Service>::namespaced(cluster.client.clone(), NAMESPACE);
    let spec = json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    let service =
        services.create(&PostParams::default(), &object(json!({"metadata": {"name": NAME}, "spec": spec}))?).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("the service has no address")?;
    slices.create(&PostParams::default(), &object(slice(1))?).await?;

    let (tls, mut watched, _discovery) = proxy(cluster, replicas, &format!("{address}:80")).await?;
    in_force(&mut watched, 1).await?;
    let (mut added, mut removed) = (histogram(), histogram());
    for change in 0..2 * changes {
        sleep(QUIET).await;
        let endpoints = if change % 2 == 0 { 2 } else { 1 };
        let began = Instant::now();
        // Concurrently: it may be in force before the API server's answer is here.
        let patch = Patch::Merge(json!({"endpoints": slice(endpoints)["endpoints"]}));
        let params = PatchParams::default();
        let (written, reached) = tokio::join!(slices.patch(NAME, &params, &patch), in_force(&mut watched, endpoints));
        written?;
        record(if endpoints == 2 { &mut added } else { &mut removed }, reached?.saturating_duration_since(began));
    }
    drop(tls);
    Ok(format!(
        "{}{}",
        line("endpoint added, in force in a proxy", &added),
        line("endpoint removed, in force in a proxy", &removed)
    ))
}

fn slice(endpoints: usize) -> Value {
    let endpoint = |number| json!({"addresses": [format!("10.9.0.{number}")], "conditions": {"ready": true}});
    json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (1..=endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

/// When the proxy has so many endpoints.
async fn in_force(watched: &mut Watched, endpoints: usize) -> anyhow::Result<Instant> {
    let all = |known: &Option<Arc<Destination>>| matches!(known.as_deref(), Some(Destination::Service(found)) if found.endpoints.len() == endpoints);
    match timeout(PATIENCE, watched.wait_for(all)).await {
        Ok(Ok(_)) => Ok(Instant::now()),
        _ => bail!("a change is not in force within {PATIENCE:?}"),
    }
}

/// A proxy's identity and discovery, as a client of `target`.
async fn proxy(
    cluster: &Cluster,
    replicas: &Replicas,
    target: &str,
) -> anyhow::Result<(WorkloadTls, Watched, Discovery)> {
    let containers = json!([{"name": "conduit-proxy", "image": "played"}]);
    let metadata = json!({"name": CLIENT, "annotations": {"conduit.io/inject": "disabled"}});
    let spec = json!({"nodeName": "node-1", "serviceAccountName": "default", "containers": containers});
    let client = Played::make(cluster, object(json!({"metadata": metadata, "spec": spec}))?).await?;
    let (token, anchors) = (client.token, client.anchors);
    let domain: TrustDomain = "cluster.local".parse()?;
    let addresses: Vec<_> = (0..replicas.len()).map(|replica| format!("{}:8086", ip(replica))).collect();
    let tls = identity::of_proxy(addresses.clone(), &domain, anchors, token.clone()).await?;
    let controllers = identity::controllers(addresses, &domain, &tls)?;
    let directory = Directory::new(NAMESPACE, CLIENT);
    let (task, discovery, _) = DiscoveryTask::new(directory, controllers, tls.clone(), Cache::new(None, token));
    spawn_local(task.run());
    let watched = discovery.follow(Target::Address(target.parse()?)).await;
    Ok((tls, watched.context("the proxy does not follow what it asked for")?, discovery))
}
