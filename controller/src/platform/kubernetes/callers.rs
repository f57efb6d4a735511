//! What the API server is told of us: whom to expect behind the webhook, and behind what people ask. What is not installed is not told.

use anyhow::Context as _;
use conduit_api::access;
use k8s_openapi::{
    ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{Api, Client};
use tracing::warn;

use super::revisioned::Version;

/// The webhook's configuration; the control plane's namespace follows.
const INJECTOR: &str = "conduit-proxy-injector";

/// Writes the roots `pem` where they are not. What cannot be written now is tried again with the next look.
pub async fn certify(client: &Client, own: &str, pem: &str, version: Version<'_>) {
    let (webhook, api) = tokio::join!(webhook(client, own, pem, version), api(client, own, pem, version));
    for error in [webhook, api].into_iter().filter_map(Result::err) {
        warn!(error = %format_args!("{error:#}"), "the API server does not know whom to expect; it is tried again");
    }
}

async fn webhook(client: &Client, own: &str, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
    let name = format!("{INJECTOR}-{own}");
    let bundle = Some(ByteString(pem.as_bytes().to_vec()));
    let certify = |known: Option<MutatingWebhookConfiguration>| {
        let mut known = known?;
        let configs = || known.webhooks.iter().flatten().map(|webhook| &webhook.client_config);
        if configs().all(|config| config.ca_bundle == bundle) {
            return None;
        }
        for webhook in known.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle.clone_from(&bundle);
        }
        Some(known)
    };
    let certified = version.write(&Api::all(client.clone()), &name, certify).await;
    certified.with_context(|| format!("cannot write the trust bundle into MutatingWebhookConfiguration {name}"))
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
