//! Who has started this control plane: a ConfigMap that is created once, which is the API server's promise. It tells this control plane from
//! one before it in the same cluster as well.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _, api::PostParams};
use tokio::{sync::OnceCell, time::sleep};
use tracing::warn;

use super::{ROOT, metadata, revisioned};

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

    /// Whether `node` is the one that passes. One that is `alone`, and has lost its disk, takes the place of itself.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn pass(&self, node: &str, alone: bool) -> anyhow::Result<bool> {
        if let Some(known) = self.read().await? {
            return match is_named(&known, node) {
                false if alone => self.replace(known, node).await,
                is_named => Ok(is_named),
            };
        }
        // There was a control plane, and its other replicas may live. Read before it is made: whoever is the first has kept no root yet.
        if !alone && self.root().await?.is_some() {
            return Ok(false);
        }
        match self.create(&[(NODE_KEY, node)]).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.names(node).await,
            Err(error) => Err(error).with_context(|| self.failed()),
        }
    }

    /// Whether `node` has passed, or a person has made the ConfigMap so: then it starts, whatever there was before.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn names(&self, node: &str) -> anyhow::Result<bool> {
        Ok(self.read().await?.is_some_and(|known| is_named(&known, node)))
    }

    /// Whether anybody has passed.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn is_passed(&self) -> anyhow::Result<bool> {
        Ok(self.read().await?.is_some())
    }

    /// What a person is to type who knows that every replica has lost its disk, so that `node` starts anew. The ConfigMap is another one
    /// afterwards, and so is the control plane.
    pub fn advice(&self, node: &str) -> String {
        let kubectl = format!("kubectl -n {}", self.namespace);
        format!(
            "if every replica has lost its disk, and only then, let this one start the control plane anew: {kubectl} delete configmap {GATE} \
             --ignore-not-found && {kubectl} create configmap {GATE} --from-literal={NODE_KEY}={node}; roots are kept, and what else was only \
             known to the control plane is not: deny identities again that were denied, and link meshes again"
        )
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
        match self.is_passed().await? {
            true => Ok(()),
            false => self.restore(id).await.map(drop),
        }
    }

    async fn read_or_restore(&self) -> anyhow::Result<String> {
        if let Some(known) = self.read().await? {
            return id_of(&known);
        }
        // Everything that is kept says whose it is.
        let root = self.root().await?;
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

    /// Its version is that of what was read: whoever else does this fails. The control plane is another one: its revisions begin anew.
    async fn replace(&self, mut known: ConfigMap, node: &str) -> anyhow::Result<bool> {
        let data = [(NODE_KEY, node), (ID_KEY, node)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        known.data = Some(data.into());
        let replaced = self.config_maps.replace(GATE, &PostParams::default(), &known).await;
        replaced.map(|_| true).with_context(|| self.failed())
    }

    async fn read(&self) -> anyhow::Result<Option<ConfigMap>> {
        self.config_maps.get_opt(GATE).await.with_context(|| self.failed())
    }

    async fn root(&self) -> anyhow::Result<Option<Secret>> {
        let root = self.secrets.get_opt(ROOT).await;
        root.with_context(|| format!("cannot read the Secret {}/{ROOT}", self.namespace))
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

fn is_named(gate: &ConfigMap, node: &str) -> bool {
    gate.data.as_ref().and_then(|data| data.get(NODE_KEY)).is_some_and(|passed| passed == node)
}

fn id_of(gate: &ConfigMap) -> anyhow::Result<String> {
    let said = gate.data.as_ref().and_then(|data| data.get(ID_KEY));
    said.cloned().or_else(|| gate.uid()).context("an object without a uid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(uid: &str, data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut gate = ConfigMap { metadata: metadata(GATE, "conduit"), data: Some(data), ..ConfigMap::default() };
        gate.metadata.uid = Some(uid.to_owned());
        gate
    }

    #[test]
    fn one_that_was_made_again_is_the_same_control_planes() {
        let first = gate("one", &[(NODE_KEY, "a")]);
        let again = gate("two", &[(NODE_KEY, SOMEBODY), (ID_KEY, "one")]);
        assert_eq!(id_of(&first).unwrap(), id_of(&again).unwrap());
        assert!(is_named(&first, "a") && !is_named(&first, "b"));
        assert!(!is_named(&again, "a"), "nobody starts it a second time");
    }
}
