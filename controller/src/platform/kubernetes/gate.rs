//! Who has started this control plane: a ConfigMap that is created once, which is the API server's promise. It tells this control plane from
//! one before it in the same cluster as well.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use tokio::{sync::OnceCell, time::sleep};
use tracing::warn;

use super::{ROOT, metadata, revisioned};
use crate::platform::Passed;

/// The ConfigMap.
pub const GATE: &str = "conduit-bootstrap";
/// In it: the id of the replica that has passed, ...
const NODE_KEY: &str = "node";
/// ... and, in one that was made again, the control plane's. That of the first one is its uid.
const ID_KEY: &str = "control-plane-id";
/// Who has passed one that was made again: somebody has, and it is no id.
const SOMEBODY: &str = "a member";
/// Between two looks whether somebody has deleted it.
const REPAIR: Duration = Duration::from_secs(15);

/// The ConfigMap's keeper. Clones are one.
#[derive(Clone)]
pub struct Gate {
    config_maps: Api<ConfigMap>,
    secrets: Api<Secret>,
    namespace: String,
    id: Arc<OnceCell<String>>,
}

impl Gate {
    /// Of the control plane in `namespace`.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            config_maps: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            id: Arc::default(),
        }
    }

    /// Whether `node` is the one that passes.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn pass(&self, node: &str) -> anyhow::Result<bool> {
        match self.create([(NODE_KEY, node)].as_slice()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Ok(self.passed().await?.is_some_and(|passed| passed.node == node))
            }
            Err(error) => Err(error).with_context(|| self.failed()),
        }
    }

    /// Who has.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn passed(&self) -> anyhow::Result<Option<Passed>> {
        let known = self.config_maps.get_opt(GATE).await.with_context(|| self.failed())?;
        Ok(known.map(|known| Passed {
            node: known.data.as_ref().and_then(|data| data.get(NODE_KEY)).cloned().unwrap_or_default(),
            version: known.resource_version().unwrap_or_default(),
        }))
    }

    /// Whether `node` takes the place of who has passed `before`, and of nobody else.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn pass_after(&self, before: Passed, node: &str) -> anyhow::Result<bool> {
        let Some(mut known) = self.config_maps.get_opt(GATE).await.with_context(|| self.failed())? else {
            return Ok(false);
        };
        known.data.get_or_insert_default().insert(NODE_KEY.to_owned(), node.to_owned());
        // The version that was seen before, and not the one of now.
        known.metadata.resource_version = Some(before.version);
        match self.config_maps.replace(GATE, &PostParams::default(), &known).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
            Err(error) => Err(error).with_context(|| self.failed()),
        }
    }

    /// What tells this control plane from others. Only of use to one that was started.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn id(&self) -> anyhow::Result<&str> {
        Ok(self.id.get_or_try_init(|| self.read_or_restore()).await?)
    }

    /// Makes it again when somebody has deleted it, while this is polled: by the leader alone. A replica that has lost its disk would pass
    /// otherwise, and start a second control plane.
    pub async fn keep(self) {
        loop {
            sleep(REPAIR).await;
            if let Err(error) = self.restore_if_lost().await {
                warn!(error = %format_args!("{error:#}"), "whether it is known who has started this control plane was not looked at");
            }
        }
    }

    async fn restore_if_lost(&self) -> anyhow::Result<()> {
        let id = self.id().await?;
        match self.passed().await? {
            Some(_) => Ok(()),
            None => self.restore(id).await.map(drop),
        }
    }

    async fn read_or_restore(&self) -> anyhow::Result<String> {
        if let Some(known) = self.config_maps.get_opt(GATE).await.with_context(|| self.failed())? {
            return id_of(&known);
        }
        // Everything that is kept says whose it is.
        let root = self.secrets.get_opt(ROOT).await;
        let root = root.with_context(|| format!("cannot read the Secret {}/{ROOT}", self.namespace))?;
        let id = root.as_ref().and_then(revisioned::control_plane);
        self.restore(id.unwrap_or_default()).await
    }

    async fn restore(&self, id: &str) -> anyhow::Result<String> {
        let data = [(NODE_KEY, SOMEBODY), (ID_KEY, id)];
        match self.create(if id.is_empty() { &data[..1] } else { &data }).await {
            Ok(made) => {
                warn!(
                    name = GATE,
                    "somebody has deleted what says who has started this control plane; it is there again"
                );
                id_of(&made)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                id_of(&self.config_maps.get(GATE).await.with_context(|| self.failed())?)
            }
            Err(error) => Err(error).with_context(|| self.failed()),
        }
    }

    async fn create(&self, data: &[(&str, &str)]) -> kube::Result<ConfigMap> {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let gate = ConfigMap { metadata: metadata(GATE, &self.namespace), data: Some(data), ..ConfigMap::default() };
        self.config_maps.create(&PostParams::default(), &gate).await
    }

    fn failed(&self) -> String {
        format!("cannot use the ConfigMap {}/{GATE}", self.namespace)
    }
}

fn id_of(gate: &ConfigMap) -> anyhow::Result<String> {
    let said = gate.data.as_ref().and_then(|data| data.get(ID_KEY));
    said.cloned().or_else(|| gate.uid()).context("an object without a uid")
}
