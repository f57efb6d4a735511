//! Which resources have labels. Only the cluster knows, by the rights of whoever asks: the control plane keeps no labels.

use std::collections::HashSet;

use anyhow::{anyhow, bail};
use conduit_api::proto::public::{ResourceSelection, StatRow};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams},
};

use super::view::resource;
use crate::{
    control_plane::ControlPlane,
    installation,
    kubernetes::{plural, said},
    resource::{Kind, Selection},
};

/// A page of a list, as kubectl asks for it.
const PAGE: u32 = 500;

/// What to look for, and where.
pub(super) struct Labelled {
    client: Client,
    selector: String,
}

impl Labelled {
    /// None if nothing is asked for.
    ///
    /// # Errors
    /// When the control plane is in no cluster, or what tells of the cluster cannot be read.
    pub(super) async fn new(selector: Option<&str>, control_plane: &ControlPlane) -> anyhow::Result<Option<Self>> {
        let Some(selector) = selector else { return Ok(None) };
        let ControlPlane::Cluster { options, .. } = control_plane else {
            bail!("--selector is for a control plane that is asked through its cluster: nothing else has labels");
        };
        Ok(Some(Self { client: options.client().await?, selector: selector.to_owned() }))
    }

    /// Leaves those rows whose resources have the labels now.
    ///
    /// # Errors
    /// When the API server does not say.
    pub(super) async fn retain(
        &self,
        kind: Kind,
        selection: Option<&ResourceSelection>,
        rows: &mut Vec<StatRow>,
    ) -> anyhow::Result<()> {
        let namespace = selection.map(|selection| selection.namespace.as_str()).unwrap_or_default();
        let named = self.list(kind, namespace).await?;
        rows.retain(|row| {
            let (namespace, _, name) = resource(row);
            named.contains(&(namespace.to_owned(), name.to_owned()))
        });
        Ok(())
    }

    /// Namespace and name of each; a namespace is in none.
    async fn list(&self, kind: Kind, namespace: &str) -> anyhow::Result<HashSet<(String, String)>> {
        let Some((api_version, name)) = object(kind) else { return Ok(HashSet::new()) };
        let resource = installation::resource(&(api_version.to_owned(), name.to_owned()));
        let api = match namespace {
            "" => Api::<DynamicObject>::all_with(self.client.clone(), &resource),
            namespace => Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let mut found = HashSet::new();
        let mut page = ListParams::default().labels(&self.selector).limit(PAGE);
        loop {
            let cannot =
                |error| anyhow!("cannot list {} with the labels {}: {}", plural(name), self.selector, said(&error));
            let listed = api.list_metadata(&page).await.map_err(cannot)?;
            found.extend(listed.items.iter().map(|item| (item.namespace().unwrap_or_default(), item.name_any())));
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

/// Whether there is something to have labels.
pub(super) fn can_be(kind: Kind) -> bool {
    object(kind).is_some()
}

/// What has labels is not selected by its name as well, as for kubectl; and there is something to have them.
///
/// # Errors
/// When it is not so.
pub(super) fn check(selection: &Selection) -> anyhow::Result<()> {
    if let Some(name) = &selection.name {
        bail!(
            "{}/{name} is one resource, and --selector selects several: leave one of both out",
            selection.kind.short()
        );
    }
    if !can_be(selection.kind) {
        bail!("an {} has no labels: leave --selector out", selection.kind.as_str());
    }
    Ok(())
}

/// As the API server knows it.
fn object(kind: Kind) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        Kind::Deployment => ("apps/v1", "Deployment"),
        Kind::DaemonSet => ("apps/v1", "DaemonSet"),
        Kind::StatefulSet => ("apps/v1", "StatefulSet"),
        Kind::ReplicaSet => ("apps/v1", "ReplicaSet"),
        Kind::ReplicationController => ("v1", "ReplicationController"),
        Kind::Job => ("batch/v1", "Job"),
        Kind::CronJob => ("batch/v1", "CronJob"),
        Kind::Pod => ("v1", "Pod"),
        Kind::Namespace => ("v1", "Namespace"),
        Kind::Service => ("v1", "Service"),
        Kind::Authority => return None,
    })
}
