//! A cluster of Kubernetes. Its API server says what runs, and keeps what must outlive all replicas: the seed and the sealed root in
//! Secrets, who has started this control plane in a ConfigMap, and the trust bundle in one of every namespace.

mod callers;
mod excerpts;
mod failures;
mod gate;
mod kinds;
mod known;
mod objectives;
mod objects;
mod optional;
mod repair;
mod revisioned;
mod routes;
mod say;
mod stale;
mod status;
mod trust_bundle;
pub mod unmeshed;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use conduit_api::{Revision, TrustDomain};
use conduit_ca::Seed;
use conduit_consensus::store;
use conduit_inject::injection::CONTROL_PLANE_NAMESPACE;
use futures::stream::BoxStream;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Config as ClientConfig,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use self::{
    gate::{GATE, Gate},
    objects::Objects,
    repair::Repairer,
    revisioned::Version,
    trust_bundle::TrustBundles,
};
pub use self::{objectives::objection, routes::objections};
use super::{Platform, failing::Failing, metrics::PlatformMetrics, told::Told};
use crate::config::Config;

/// The secret of all replicas.
const SEED: &str = "conduit-seed";
/// The sealed root.
const ROOT: &str = "conduit-root";
/// Of each of these objects: where in it.
const SEED_KEY: &str = "seed";
const ROOT_KEY: &str = "root.json";
/// A seed is replaced by hand, and nobody waits for it.
const SEED_POLL: Duration = Duration::from_secs(10);
/// A request that has not been answered by then is made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An API server that does not accept a connection by then is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster that a control plane is in.
pub struct Kubernetes {
    /// For single requests, which are answered soon or never.
    client: Client,
    /// For watches, which may be silent for minutes.
    watching: Client,
    namespace: String,
    trust_domain: TrustDomain,
    data_dir: PathBuf,
    trust_bundles: TrustBundles,
    gate: Gate,
    repairer: Repairer,
    failing: Failing,
}

impl Kubernetes {
    /// The one that this process is in, or that its `--kubeconfig` tells of.
    ///
    /// # Errors
    /// When neither says where its API server is.
    pub async fn new(config: &Config, metrics: PlatformMetrics, failing: Failing) -> anyhow::Result<Self> {
        let mut client_config = client_config(config.kubeconfig.as_deref()).await?;
        client_config.connect_timeout = Some(CONNECT_TIMEOUT);
        // That a connection was idle is no sign of the next answer.
        client_config.reset_reader_on_write = true;
        let watching = Client::try_from(client_config.clone())?;
        client_config.read_timeout = Some(REQUEST_TIMEOUT);
        let client = Client::try_from(client_config)?;
        Ok(Self {
            trust_bundles: TrustBundles::new(&client, &config.namespace),
            gate: Gate::new(&client, &config.namespace),
            repairer: Repairer::new(&client, config, metrics),
            failing,
            client,
            watching,
            namespace: config.namespace.clone(),
            trust_domain: config.trust_domain.clone(),
            data_dir: config.data_dir.clone(),
        })
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What is under `key` of the Secret `name`.
    async fn secret(&self, name: &str, key: &str) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let secret = self.secrets().get_opt(name).await;
        let secret = secret.with_context(|| format!("cannot read the Secret {}/{name}", self.namespace))?;
        let Some(mut data) = secret.map(|secret| secret.data.unwrap_or_default()) else { return Ok(None) };
        let value = data.remove(key).with_context(|| format!("the Secret {}/{name} has no `{key}`", self.namespace))?;
        Ok(Some(Zeroizing::new(value.0)))
    }

    /// The first replica that asks makes it: that an object is created only once is the API server's promise.
    async fn create_seed(&self) -> anyhow::Result<()> {
        // A replica that knows of a mesh is a stranger to it under another seed.
        if store::exists(&self.data_dir) {
            bail!(
                "the Secret {}/{SEED} is gone, but {} has the data of a control plane that it belongs to: restore the Secret, or, if that control \
                 plane is gone for good, delete its data",
                self.namespace,
                self.data_dir.display()
            );
        }
        if self.gate.is_passed().await? {
            // Another replica may have made both since.
            if self.secret(SEED, SEED_KEY).await?.is_some() {
                return Ok(());
            }
            bail!(
                "the Secret {0}/{SEED} is gone, and without it nobody can open the trust root of the control plane that was started here: restore \
                 it, or, if that control plane is gone for good, delete the ConfigMap {0}/{GATE} and the Secret {0}/{ROOT}",
                self.namespace
            );
        }
        let seed = Seed::generate().to_text();
        let data = [(SEED_KEY.to_owned(), ByteString(seed.to_vec()))].into();
        let secret = Secret { metadata: metadata(SEED, &self.namespace), data: Some(data), ..Secret::default() };
        match self.secrets().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot create the Secret {}/{SEED}", self.namespace)),
        }
    }
}

/// Of an object that controllers make in `namespace`, where they are.
fn metadata(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(CONTROL_PLANE_NAMESPACE.to_owned(), namespace.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

/// Where the API server is.
pub(crate) async fn client_config(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<ClientConfig> {
    match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(ClientConfig::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
        }
        None => ClientConfig::incluster().context("this is no pod of a cluster, and there is no --kubeconfig"),
    }
}

#[tonic::async_trait]
impl Platform for Kubernetes {
    fn told(&self, level: tokio::sync::watch::Receiver<u32>) -> BoxStream<'static, Told> {
        let objects = Objects::new(&self.namespace, &self.trust_domain);
        let (statements, said) = tokio::sync::watch::channel(Vec::new());
        let (follow, say) = (self.trust_bundles.follow(&self.watching), say::say(self.client.clone(), said, level));
        let (gate, repairer) = (self.gate.clone(), self.repairer.clone());
        let meanwhile = async move {
            // Apart, since it reads much; it ends with the others.
            let mut apart = JoinSet::new();
            apart.spawn(repairer.keep());
            ((), (), ()) = tokio::join!(follow, say, gate.keep());
        };
        watch::told(&self.watching, objects, statements, self.failing.told(), meanwhile)
    }

    fn keeps_routes(&self) -> bool {
        true
    }

    async fn seed(&self) -> anyhow::Result<Seed> {
        let seed = match self.secret(SEED, SEED_KEY).await? {
            Some(seed) => seed,
            None => {
                self.create_seed().await?;
                self.secret(SEED, SEED_KEY)
                    .await?
                    .with_context(|| format!("the Secret {}/{SEED} is gone", self.namespace))?
            }
        };
        Seed::from_text(&seed).with_context(|| format!("the Secret {}/{SEED} does not hold a seed", self.namespace))
    }

    fn seed_poll(&self) -> Duration {
        SEED_POLL
    }

    async fn pass_gate(&self, node: &str, alone: bool) -> anyhow::Result<bool> {
        self.gate.pass(node, alone).await
    }

    async fn is_let_through(&self, node: &str) -> anyhow::Result<bool> {
        self.gate.names(node).await
    }

    fn begin_anew_advice(&self, node: &str) -> Option<String> {
        Some(self.gate.advice(node))
    }

    async fn kept_root(&self) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.secret(ROOT, ROOT_KEY).await?.map(|root| root.to_vec()))
    }

    async fn keep_root(&self, sealed: &[u8], revision: Revision) -> anyhow::Result<()> {
        let data = [(ROOT_KEY.to_owned(), ByteString(sealed.to_vec()))].into();
        let secret = Secret { metadata: metadata(ROOT, &self.namespace), data: Some(data), ..Secret::default() };
        let version = Version { control_plane: self.gate.id().await?, revision };
        let kept = version.write(&self.secrets(), ROOT, |_| Some(secret.clone())).await;
        kept.with_context(|| format!("cannot write the Secret {}/{ROOT}", self.namespace))
    }

    async fn publish_trust_bundle(&self, pem: &str, revision: Revision) -> anyhow::Result<()> {
        let version = Version { control_plane: self.gate.id().await?, revision };
        self.trust_bundles.publish(pem, version).await
    }
}
