//! What the API server publishes of itself: by which authority whoever speaks for it is known.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use conduit_ca::FrontProxies;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::time::sleep;
use tracing::warn;

use crate::platform::kubernetes::client_config;

/// Every API server writes it there, and all that extend it may read it.
const NAMESPACE: &str = "kube-system";
const PUBLISHED: &str = "extension-apiserver-authentication";
/// Of it: certificates in PEM, and a list of names in JSON.
const AUTHORITY: &str = "requestheader-client-ca-file";
const NAMES: &str = "requestheader-allowed-names";
/// Authorities follow each other over months.
const POLL: Duration = Duration::from_secs(60);
/// Until it was read once; so many times, since where the aggregation layer is off, it stays off.
const RETRY: Duration = Duration::from_secs(2);
const RETRIES: u32 = 30;

/// Keeps `proxies` as the API server has it published; until the process ends.
///
/// # Errors
/// When nobody says where the API server is.
pub async fn follow(kubeconfig: Option<&Path>, proxies: FrontProxies) -> anyhow::Result<()> {
    let client = Client::try_from(client_config(kubeconfig).await?)?;
    let (mut retries, mut reported) = (RETRIES, None);
    loop {
        match publish(&client, &proxies).await {
            Ok(()) => (retries, reported) = (0, None),
            Err(error) => {
                // Until it is mended, which may take a person, it is the same each time.
                let error = format!("{error:#}");
                if reported.as_ref() != Some(&error) {
                    warn!(error, "not known now: who speaks for people who ask this control plane");
                    reported = Some(error);
                }
            }
        }
        sleep(if retries > 0 { RETRY } else { POLL }).await;
        retries = retries.saturating_sub(1);
    }
}

async fn publish(client: &Client, proxies: &FrontProxies) -> anyhow::Result<()> {
    let config_maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let published = config_maps.get(PUBLISHED).await;
    let data = published.with_context(|| format!("cannot read the ConfigMap {NAMESPACE}/{PUBLISHED}"))?.data;
    let data = data.unwrap_or_default();
    let authority = data.get(AUTHORITY).with_context(|| {
        format!("the API server lets nobody speak for people: {NAMESPACE}/{PUBLISHED} has no {AUTHORITY}; its aggregation layer is off")
    })?;
    let names = data.get(NAMES).map_or(Ok(Vec::new()), |names| serde_json::from_str(names));
    let names = names.with_context(|| format!("{NAMES} in {NAMESPACE}/{PUBLISHED}"))?;
    Ok(proxies.publish(authority, names)?)
}
