//! The shell of [`unmeshed`](super::unmeshed): looks for pods without the proxy that they should have, tells of them, and evicts them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use conduit_inject::{Annotations, injection::CONTROL_PLANE_NAMESPACE, webhook::is_wanted};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Event, Namespace, Pod},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    excerpts::PodLabels,
    unmeshed::{Effect, Look, Meshed, Mode, Repair, Unmeshed, selector},
};
use crate::{config::Config, platform::metrics::PlatformMetrics, webhook::server::settings};

/// Between two looks: what all pods without a proxy say of themselves is listed each time.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Pods in one answer, of which whole ones are some kilobytes.
const PAGE: u32 = 250;
/// Too many by the budget that guards it, as the Eviction API says it.
const TOO_MANY_REQUESTS: u16 = 429;

/// What has become of an eviction that was not refused.
const EVICTED: &str = "evicted";

/// What is looked for, and how.
#[derive(Clone)]
pub struct Repairer {
    client: Client,
    /// The control plane's own.
    namespace: String,
    /// How proxies are made; without it, none are.
    settings: Option<PathBuf>,
    mode: Mode,
    metrics: PlatformMetrics,
}

impl Repairer {
    /// For the control plane that `config` tells of.
    pub fn new(client: &Client, config: &Config, metrics: PlatformMetrics) -> Self {
        let (namespace, settings) = (config.namespace.clone(), config.injection_file.clone());
        Self { client: client.clone(), namespace, settings, mode: config.repair_pods, metrics }
    }

    /// Does so as long as it is polled: by the leader alone.
    pub async fn keep(self) {
        let Some(settings) = &self.settings else { return };
        let mut repair = Repair::new(self.mode, Instant::now());
        loop {
            sleep(LOOK_AGAIN).await;
            match self.look(settings, repair.namespaces()).await {
                Ok(look) => {
                    self.metrics.without_proxy(look.pods.len());
                    for effect in repair.handle(Instant::now(), &look) {
                        self.perform(effect, &mut repair).await;
                    }
                }
                Err(error) => warn!(error = %format_args!("{error:#}"), "pods without a proxy were not looked for"),
            }
        }
    }

    /// At everything, and at what has a proxy in those namespaces.
    async fn look(&self, file: &Path, awaited: BTreeSet<String>) -> anyhow::Result<Look> {
        let settings = settings(file)?;
        let namespaces =
            Api::<Namespace>::all(self.client.clone()).list_metadata(&ListParams::default().match_any()).await;
        let namespaces: BTreeMap<String, Annotations> = namespaces
            .context("cannot list namespaces")?
            .items
            .into_iter()
            .map(|namespace| (namespace.name_any(), namespace.metadata.annotations.unwrap_or_default()))
            .collect();
        let mut look = Look::default();
        for (place, annotations) in self.places(&namespaces).await? {
            let pods = Api::<Pod>::namespaced(self.client.clone(), place);
            let unmeshed = |pod: Pod| look.pods.extend(Unmeshed::of(&pod, annotations, &settings));
            list(&pods, &selector(), unmeshed).await?;
        }
        if self.mode == Mode::Evict {
            for place in look.namespaces().union(&awaited) {
                let labelled = format!("{CONTROL_PLANE_NAMESPACE}={}", self.namespace);
                let pods = Api::<Pod>::namespaced(self.client.clone(), place);
                list(&pods, &labelled, |pod| look.meshed.extend(Meshed::of(&pod))).await?;
            }
            look.webhook_answers = !look.pods.is_empty() && self.webhook_answers().await?;
        }
        Ok(look)
    }

    /// The namespaces with pods that are not ours and want a proxy, by annotations alone: of most clusters' pods nothing else has to be read.
    async fn places<'a>(
        &self,
        namespaces: &'a BTreeMap<String, Annotations>,
    ) -> anyhow::Result<BTreeMap<&'a str, &'a Annotations>> {
        let mut places = BTreeMap::new();
        let place_of = |pod: PodLabels| {
            let (place, annotations) = namespaces.get_key_value(pod.metadata.namespace.as_deref()?)?;
            let own = json!({"metadata": {"annotations": pod.metadata.annotations}});
            is_wanted(&own, annotations).unwrap_or(false).then_some((place.as_str(), annotations))
        };
        list(&Api::all(self.client.clone()), &selector(), |pod| places.extend(place_of(pod))).await?;
        Ok(places)
    }

    async fn webhook_answers(&self) -> anyhow::Result<bool> {
        let name = format!("conduit-proxy-injector-{}", self.namespace);
        let configuration = Api::<MutatingWebhookConfiguration>::all(self.client.clone()).get_opt(&name).await;
        let configuration = configuration.context("cannot read the webhook's configuration")?;
        let mut webhooks = configuration.iter().flat_map(|found| found.webhooks.iter().flatten());
        let is_trusted = webhooks.any(|webhook| webhook.client_config.ca_bundle.is_some());
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), &self.namespace);
        let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=webhook")).await;
        let slices = slices.context("cannot list the webhook's endpoints")?;
        let mut endpoints = slices.items.iter().flat_map(|slice| &slice.endpoints);
        let is_ready = endpoints
            .any(|endpoint| endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready.unwrap_or(true)));
        Ok(is_trusted && is_ready)
    }

    async fn perform(&self, effect: Effect, repair: &mut Repair) {
        match effect {
            Effect::Report(pod) => match self.report(&pod).await {
                Ok(()) => {
                    warn!(namespace = pod.namespace, pod = pod.name, "a pod that should have a proxy has none");
                    repair.on_reported(&pod);
                }
                Err(error) => {
                    warn!(namespace = pod.namespace, pod = pod.name, %error, "a pod that should have a proxy has none, and nobody was told of it");
                }
            },
            Effect::Evict(pod) => {
                let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
                // That very pod, and not one that has its name by now.
                let this_one = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
                let delete_options = Some(DeleteParams::default().preconditions(this_one));
                let parameters = EvictParams { delete_options, ..EvictParams::default() };
                let outcome = match pods.evict(&pod.name, &parameters).await {
                    Ok(_) => {
                        info!(namespace = pod.namespace, pod = pod.name, "evicted a pod, to come back with a proxy");
                        EVICTED
                    }
                    Err(kube::Error::Api(status)) if status.code == TOO_MANY_REQUESTS => "refused",
                    Err(error) => {
                        warn!(namespace = pod.namespace, pod = pod.name, %error, "a pod without a proxy was not evicted");
                        "failed"
                    }
                };
                self.metrics.evicted(outcome);
                repair.on_eviction(Instant::now(), &pod, outcome == EVICTED);
            }
        }
    }

    /// An Event of the pod, with a name that it has once.
    async fn report(&self, pod: &Unmeshed) -> kube::Result<()> {
        let now = Time(Timestamp::now());
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": format!("conduit-no-proxy.{}", pod.uid), "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
            },
            "type": "Warning",
            "reason": "NoProxy",
            "message": "It should have a proxy and has none: no controller of Conduit answered when it was made, or its namespace was annotated \
                        later. It is outside of the mesh until it is made anew (kubectl rollout restart).",
            "source": {"component": "conduit-controller"},
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        }))
        .expect("it is an Event");
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        match events.create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if !status.is_already_exists() => Err(kube::Error::Api(status)),
            Err(kube::Error::Api(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// All pods with these labels, a page at a time: ten thousand in one answer took half a gigabyte. What the API server has at hand it gives in pages since
/// Kubernetes 1.34; before, each is read from its store, once a minute.
async fn list<K>(pods: &Api<K>, labels: &str, mut each: impl FnMut(K)) -> anyhow::Result<()>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut page = ListParams::default().labels(labels).limit(PAGE);
    loop {
        let listed = pods.list(&page).await.context("cannot list pods")?;
        listed.items.into_iter().for_each(&mut each);
        page.continue_token = listed.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(());
        }
    }
}
