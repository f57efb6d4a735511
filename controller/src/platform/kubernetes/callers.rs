//! What the API server is told of us: whom to expect behind the webhook, and behind what people ask. What is not installed is not told.

use anyhow::Context as _;
use conduit_api::access;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, Client};
use tracing::warn;

use super::revisioned::Version;

/// The webhook's configurations; the control plane's namespace follows.
const INJECTOR: &str = "conduit-proxy-injector";
const ROUTE_VALIDATOR: &str = "conduit-route-validator";

/// Writes the roots `pem` where they are not. What cannot be written now is tried again with the next look.
pub async fn certify(client: &Client, own: &str, pem: &str, version: Version<'_>) {
    let written = tokio::join!(
        injector(client, own, pem, version),
        route_validator(client, own, pem, version),
        api(client, own, pem, version)
    );
    for error in [written.0, written.1, written.2].into_iter().filter_map(Result::err) {
        warn!(error = %format_args!("{error:#}"), "the API server does not know whom to expect; it is tried again");
    }
}

async fn injector(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let name = format!("{INJECTOR}-{own}");
    let certify = |known: Option<MutatingWebhookConfiguration>| {
        let mut known = known?;
        trust(known.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config), pem).then_some(known)
    };
    let certified = version.write(&Api::all(client.clone()), &name, certify).await;
    certified.with_context(|| format!("cannot write the trust bundle into MutatingWebhookConfiguration {name}"))
}

async fn route_validator(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let name = format!("{ROUTE_VALIDATOR}-{own}");
    let certify = |known: Option<ValidatingWebhookConfiguration>| {
        let mut known = known?;
        trust(known.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config), pem).then_some(known)
    };
    let certified = version.write(&Api::all(client.clone()), &name, certify).await;
    certified.with_context(|| format!("cannot write the trust bundle into ValidatingWebhookConfiguration {name}"))
}

/// Whether one of them did not have it.
fn trust<'a>(webhooks: impl Iterator<Item = &'a mut WebhookClientConfig>, pem: &str) -> bool {
    let bundle = Some(ByteString(pem.as_bytes().to_vec()));
    let mut is_new = false;
    for webhook in webhooks.filter(|webhook| webhook.ca_bundle != bundle) {
        webhook.ca_bundle.clone_from(&bundle);
        is_new = true;
    }
    is_new
}

async fn api(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let name = format!("{}.{}", access::API_VERSION, access::group(own));
    let bundle = Some(ByteString(pem.as_bytes().to_vec()));
    let certify = |known: Option<APIService>| {
        let mut known = known?;
        let spec = known.spec.as_mut()?;
        if spec.ca_bundle == bundle {
            return None;
        }
        spec.ca_bundle.clone_from(&bundle);
        Some(known)
    };
    let certified = version.write(&Api::all(client.clone()), &name, certify).await;
    certified.with_context(|| format!("cannot write the trust bundle into APIService {name}"))
}
