//! The trust bundle in every namespace: a ConfigMap that pods mount, since they cannot mount another namespace's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use conduit_api::Revision;
use conduit_inject::{
    containers::{TRUST_BUNDLE, TRUST_BUNDLE_FILE},
    injection::CONTROL_PLANE_NAMESPACE,
};
use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, watcher},
    },
};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::{callers, revisioned::Version};

/// Namespaces that are written to at once.
const AT_ONCE: usize = 16;
/// Between two looks whether somebody has lost it, or could not be given it: new pods of a namespace without it wait as long.
const REPAIR: Duration = Duration::from_secs(15);

/// Keeps it there.
pub struct TrustBundles {
    client: Client,
    /// The control plane's own.
    namespace: String,
    /// For namespaces that are made from now on.
    published: watch::Sender<Option<Arc<Published>>>,
}

struct Published {
    pem: String,
    control_plane: String,
    revision: Revision,
}

impl Published {
    fn version(&self) -> Version<'_> {
        Version { control_plane: &self.control_plane, revision: self.revision }
    }

    fn is_in(&self, known: &ConfigMap) -> bool {
        let pem = known.data.as_ref().and_then(|data| data.get(TRUST_BUNDLE_FILE));
        self.version().is_of(known) && pem == Some(&self.pem)
    }
}

impl TrustBundles {
    /// Written by `client`, for the control plane in `namespace`.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned(), published: watch::channel(None).0 }
    }

    /// Writes it into all namespaces, and, by [`TrustBundles::follow`], into those that are made later.
    ///
    /// One that does not take it is tried again later, and keeps it from nobody else: whoever owns a namespace can make it so.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn publish(&self, pem: &str, version: Version<'_>) -> anyhow::Result<()> {
        let (control_plane, revision) = (version.control_plane.to_owned(), version.revision);
        let published = Arc::new(Published { pem: pem.to_owned(), control_plane, revision });
        self.published.send_replace(Some(published.clone()));
        // Proxies come first: they wait for it.
        spread(&self.client, &self.namespace, &published).await?;
        callers::certify(&self.client, &self.namespace, pem, version).await;
        Ok(())
    }

    /// Gives it to namespaces that are made while this is polled, and back to those that have lost it: by the leader alone.
    pub fn follow(&self, watching: &Client) -> impl Future<Output = ()> + Send + use<> {
        let (client, own, published) = (self.client.clone(), self.namespace.clone(), self.published.subscribe());
        let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(watching.clone()), Config::default());
        async move {
            let living = namespaces
                .default_backoff()
                .applied_objects()
                .filter_map(|namespace| std::future::ready(namespace.ok()))
                .filter(|namespace| std::future::ready(namespace.metadata.deletion_timestamp.is_none()));
            let new = living.for_each_concurrent(AT_ONCE, |namespace| {
                let (client, own, mut published) = (client.clone(), own.clone(), published.clone());
                async move {
                    let Ok(published) = published.wait_for(Option::is_some).await.map(|published| published.clone())
                    else {
                        return;
                    };
                    if let Some(published) = published {
                        give(&client, &namespace.name_any(), &own, &published).await;
                    }
                }
            });
            let lost = async {
                loop {
                    sleep(REPAIR).await;
                    let Some(latest) = published.borrow().clone() else { continue };
                    if let Err(error) = spread(&client, &own, &latest).await {
                        warn!(error = %format_args!("{error:#}"), "who has no trust bundle was not looked for");
                    }
                    callers::certify(&client, &own, &latest.pem, latest.version()).await;
                }
            };
            tokio::join!(new, lost);
        }
    }
}

/// To all namespaces that have it not: two questions tell which, however many there are.
async fn spread(client: &Client, own: &str, published: &Arc<Published>) -> anyhow::Result<()> {
    let named = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE}"));
    let known = Api::<ConfigMap>::all(client.clone()).list(&named).await.context("cannot list trust bundles")?;
    let have: BTreeSet<_> =
        known.iter().filter(|known| published.is_in(known)).filter_map(|known| known.namespace()).collect();
    let namespaces = Api::<Namespace>::all(client.clone());
    let listed = namespaces.list_metadata(&ListParams::default()).await.context("cannot list namespaces")?;
    let living = listed.items.into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    let without = living.map(|namespace| namespace.name_any()).filter(|namespace| !have.contains(namespace));
    let each = without.map(|namespace| {
        let (client, own, published) = (client.clone(), own.to_owned(), published.clone());
        async move { give(&client, &namespace, &own, &published).await }
    });
    stream::iter(each).buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(())
}

async fn give(client: &Client, namespace: &str, own: &str, published: &Published) {
    if let Err(error) = write(client, namespace, own, published).await {
        warn!(error = %format_args!("{error:#}"), "a namespace has no trust bundle; it is tried again");
    }
}

async fn write(client: &Client, namespace: &str, own: &str, published: &Published) -> anyhow::Result<()> {
    let config_map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_BUNDLE.to_owned()),
            labels: Some([(CONTROL_PLANE_NAMESPACE.to_owned(), own.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(TRUST_BUNDLE_FILE.to_owned(), published.pem.clone())].into()),
        ..ConfigMap::default()
    };
    let config_maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let written = published
        .version()
        .write(&config_maps, TRUST_BUNDLE, |known| match known {
            Some(known) if published.is_in(&known) => None,
            _ => Some(config_map.clone()),
        })
        .await;
    written.with_context(|| format!("cannot write the ConfigMap {namespace}/{TRUST_BUNDLE}"))
}
