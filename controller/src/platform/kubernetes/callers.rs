//! What the API server is told of us: whom to expect behind the webhook, and behind what people ask. What is not installed is not told.

use std::fmt::Debug;

use anyhow::Context as _;
use conduit_api::access;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, Client, Resource, core::ClusterResourceScope};
use serde::{Serialize, de::DeserializeOwned};
use tracing::warn;

use super::revisioned::Version;

/// The webhook's configurations; the control plane's namespace follows.
const INJECTOR: &str = "conduit-proxy-injector";
const ROUTE_VALIDATOR: &str = "conduit-route-validator";
const OBJECTIVE_VALIDATOR: &str = "conduit-objective-validator";

/// Writes the roots `pem` where they are not. What cannot be written now is tried again with the next look.
pub async fn certify(client: &Client, own: &str, pem: &str, version: Version<'_>) {
    let written = tokio::join!(
        injector(client, own, pem, version),
        validator(client, ROUTE_VALIDATOR, own, pem, version),
        validator(client, OBJECTIVE_VALIDATOR, own, pem, version),
        api(client, own, pem, version)
    );
    for error in [written.0, written.1, written.2, written.3].into_iter().filter_map(Result::err) {
        warn!(error = %format_args!("{error:#}"), "the API server does not know whom to expect; it is tried again");
    }
}

async fn injector(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let trust = |known: &mut MutatingWebhookConfiguration| {
        known.webhooks.iter_mut().flatten().for_each(|webhook| trust(&mut webhook.client_config.ca_bundle, pem));
    };
    write(client, &format!("{INJECTOR}-{own}"), version, trust).await
}

async fn validator(client: &Client, name: &str, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let trust = |known: &mut ValidatingWebhookConfiguration| {
        known.webhooks.iter_mut().flatten().for_each(|webhook| trust(&mut webhook.client_config.ca_bundle, pem));
    };
    write(client, &format!("{name}-{own}"), version, trust).await
}

async fn api(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let trust = |known: &mut APIService| known.spec.iter_mut().for_each(|spec| trust(&mut spec.ca_bundle, pem));
    write(client, &format!("{}.{}", access::API_VERSION, access::group(own)), version, trust).await
}

fn trust(bundle: &mut Option<ByteString>, pem: &str) {
    *bundle = Some(ByteString(pem.as_bytes().to_vec()));
}

/// If it is there, and `trust` changes it.
async fn write<K>(client: &Client, name: &str, version: Version<'_>, trust: impl Fn(&mut K)) -> anyhow::Result<()>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + PartialEq
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let certify = |known: Option<K>| {
        let known = known?;
        let mut certified = known.clone();
        trust(&mut certified);
        (certified != known).then_some(certified)
    };
    let certified = version.write(&Api::all(client.clone()), name, certify).await;
    certified.with_context(|| format!("cannot write the trust bundle into {} {name}", K::kind(&())))
}
