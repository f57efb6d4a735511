//! What only the API server of a cluster can say of a control plane and of the proxies there.

use std::collections::{BTreeMap, BTreeSet};

use conduit_api::access::{API_VERSION, group};
use conduit_deploy::Install;
use conduit_inject::{Settings, injection::CONTROL_PLANE_NAMESPACE};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::DaemonSet,
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{Namespace, Pod},
    },
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::Value;

use super::{
    pods,
    report::{Check, Outcome},
};
use crate::kubernetes::{self, plural, said};

/// Of Kubernetes 1: the first release whose pods can have native sidecars, as proxies are unless told otherwise.
const MINOR_MIN: u32 = 29;
/// Pods in one answer to a list: their JSON is some megabytes.
const PAGE: u32 = 500;
/// What pods of the control plane are labelled with.
const COMPONENT: &str = "conduit.io/control-plane-component";

/// The cluster, and where Conduit is in it.
pub(super) struct Cluster<'a> {
    pub(super) client: Client,
    /// Of the control plane.
    pub(super) namespace: &'a str,
}

/// Whether there is a cluster to ask; without one, nothing else is worth asking.
pub(super) async fn find<'a>(
    options: &kubernetes::Options,
    namespace: &'a str,
    checks: &mut Vec<Check>,
) -> Option<Cluster<'a>> {
    let mut check = |description: &str, outcome| checks.push(Check::new("kubernetes-api", description, outcome));
    let client = match options.client().await {
        Ok(client) => client,
        Err(error) => {
            check("can initialize the client", Outcome::Fail(format!("{error:#}")));
            return None;
        }
    };
    check("can initialize the client", Outcome::Ok);
    match client.apiserver_version().await {
        Ok(version) => {
            check("can query the Kubernetes API", Outcome::Ok);
            check(
                "is running the minimum Kubernetes API version",
                recent_enough(&version.major, &version.minor, &version.git_version),
            );
            Some(Cluster { client, namespace })
        }
        Err(error) => {
            check("can query the Kubernetes API", Outcome::Fail(said(&error)));
            None
        }
    }
}

fn recent_enough(major: &str, minor: &str, version: &str) -> Outcome {
    // Some providers write `33+`.
    let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    match (major, digits.parse::<u32>()) {
        ("1", Ok(minor)) if minor < MINOR_MIN => Outcome::Fail(format!(
            "Kubernetes is {version}, and 1.{MINOR_MIN} is needed; before that, install with --set proxy.nativeSidecar=false"
        )),
        _ => Outcome::Ok,
    }
}

impl Cluster<'_> {
    /// Before an installation: whether whoever asks may make everything that it consists of.
    pub(super) async fn before(&self) -> Vec<Check> {
        let subsystem = "pre-kubernetes-setup";
        // With all that may be part of one.
        let install = Install { ha: Some("3".to_owned()), ..Install::default() };
        let manifest = match install.manifest(self.namespace) {
            Ok(manifest) => manifest,
            Err(error) => return vec![Check::new(subsystem, "can render", Outcome::Error(error.to_string()))],
        };
        let mut seen = BTreeSet::new();
        let mut checks = Vec::new();
        for object in manifest.objects() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let kind = text(&object["kind"]);
            let namespace = object["metadata"]["namespace"].as_str();
            if seen.insert((kind.clone(), namespace)) {
                let outcome = self.may_create(&text(&object["apiVersion"]), &kind, namespace).await;
                let elsewhere = namespace.filter(|namespace| *namespace != self.namespace);
                let place = elsewhere.map_or(String::new(), |namespace| format!(" in {namespace}"));
                checks.push(Check::new(subsystem, &format!("can create {}{place}", plural(&kind)), outcome));
            }
        }
        checks
    }

    async fn may_create(&self, api_version: &str, kind: &str, namespace: Option<&str>) -> Outcome {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(plural(kind).to_lowercase()),
            verb: Some("create".to_owned()),
            namespace: namespace.map(ToOwned::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        match Api::all(self.client.clone()).create(&PostParams::default(), &review).await {
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => Outcome::Ok,
            Ok(_) => Outcome::Fail(format!("you may not create {}; install as somebody who may", plural(kind))),
            Err(error) => Outcome::Error(said(&error)),
        }
    }

    /// Whether what was installed is there and runs, as the cluster sees it.
    pub(super) async fn existence(&self) -> Vec<Check> {
        let (pods, webhook, api, cni) =
            tokio::join!(self.control_plane_pods(), self.webhook(), self.api_service(), self.cni());
        let cni = cni.map(|cni| Check::new("conduit-existence", "the CNI plugin is on every node", cni));
        let checks = vec![
            Check::new("conduit-existence", "control plane pods are ready", pods),
            Check::new("conduit-existence", "the API server trusts the webhook", webhook),
            Check::new("conduit-existence", "the API server reaches the Conduit API", api),
        ];
        checks.into_iter().chain(cni).collect()
    }

    /// Nothing, where none was installed.
    async fn cni(&self) -> Option<Outcome> {
        let labelled =
            ListParams::default().labels(&format!("{COMPONENT}=cni,{CONTROL_PLANE_NAMESPACE}={}", self.namespace));
        match Api::<DaemonSet>::all(self.client.clone()).list(&labelled).await {
            Ok(found) => found.items.first().map(pods::on_every_node),
            Err(kube::Error::Api(status)) if status.is_not_found() => None,
            Err(error) => Some(unless_forbidden(&error)),
        }
    }

    async fn control_plane_pods(&self) -> Outcome {
        let labelled = ListParams::default().labels(&format!("{COMPONENT}=controller"));
        match Api::<Pod>::namespaced(self.client.clone(), self.namespace).list(&labelled).await {
            Ok(found) if found.items.is_empty() => Outcome::Fail(format!(
                "there are none in the \"{0}\" namespace; install with: conduit install --conduit-namespace {0} | kubectl apply -f -",
                self.namespace
            )),
            Ok(found) => pods::ready(&found.items),
            Err(error) => Outcome::Error(said(&error)),
        }
    }

    /// Of each configuration that names it: whether it says whom to expect.
    async fn webhook(&self) -> Outcome {
        let injector = format!("conduit-proxy-injector-{}", self.namespace);
        let (routes, objectives) = (
            format!("conduit-route-validator-{}", self.namespace),
            format!("conduit-objective-validator-{}", self.namespace),
        );
        let (mutating, validating) =
            (Api::<MutatingWebhookConfiguration>::all(self.client.clone()), Api::all(self.client.clone()));
        let found =
            tokio::try_join!(mutating.get_opt(&injector), validating.get_opt(&routes), validating.get_opt(&objectives));
        let (of_pods, of_routes, of_objectives) = match found {
            Ok(found) => found,
            Err(error) => return Outcome::Error(said(&error)),
        };
        let bundles = |found: ValidatingWebhookConfiguration| {
            found.webhooks.into_iter().flatten().map(|webhook| webhook.client_config.ca_bundle).collect::<Bundles>()
        };
        let of_pods = of_pods
            .map(|found| found.webhooks.into_iter().flatten().map(|webhook| webhook.client_config.ca_bundle).collect());
        webhooks([
            (injector, "no pod is given a proxy by itself", of_pods),
            (routes, "nobody who writes a route is told what of it is not carried out", of_routes.map(bundles)),
            (objectives, "what could never be promised is not refused", of_objectives.map(bundles)),
        ])
    }

    async fn api_service(&self) -> Outcome {
        let name = format!("{API_VERSION}.{}", group(self.namespace));
        match Api::<APIService>::all(self.client.clone()).get_opt(&name).await {
            Ok(None) => {
                Outcome::Fail(format!("there is no APIService {name}; apply what `conduit install` prints again"))
            }
            Ok(Some(found)) => {
                let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
                match conditions.into_iter().find(|condition| condition.type_ == "Available") {
                    Some(condition) if condition.status == "True" => Outcome::Ok,
                    Some(condition) => {
                        Outcome::Fail(condition.message.unwrap_or_else(|| "it does not say why not".to_owned()))
                    }
                    None => Outcome::Fail("it has not tried yet".to_owned()),
                }
            }
            Err(error) => Outcome::Error(said(&error)),
        }
    }

    /// Of the proxies in `namespace`, or in all.
    pub(super) async fn proxies(&self, namespace: Option<&str>, latest: &str) -> Vec<Check> {
        let found = meshed(&self.client, self.namespace, namespace).await;
        let outcome = |decide: &dyn Fn(&[Pod]) -> Outcome| match &found {
            Ok(found) => decide(found),
            Err(error) => Outcome::Error(said(error)),
        };
        vec![
            Check::new("conduit-data-plane", "data plane pods are ready", outcome(&pods::ready)),
            Check::new(
                "conduit-data-plane",
                "data plane is up-to-date",
                outcome(&|found| pods::up_to_date(found, latest)),
            ),
            Check::new(
                "conduit-data-plane",
                "pods that should have a proxy have one",
                self.unmeshed(namespace).await.unwrap_or_else(|error| unless_forbidden(&error)),
            ),
        ]
    }

    /// Of the pods in `namespace`, or in all, those that were made while no controller answered, or before somebody wanted a proxy for them.
    async fn unmeshed(&self, namespace: Option<&str>) -> kube::Result<Outcome> {
        let api = Api::<Namespace>::all(self.client.clone());
        let namespaces = match namespace {
            Some(namespace) => vec![api.get_metadata(namespace).await?],
            None => api.list_metadata(&ListParams::default()).await?.items,
        };
        let namespaces: BTreeMap<_, _> = namespaces
            .into_iter()
            .map(|namespace| (namespace.name_any(), namespace.metadata.annotations.unwrap_or_default()))
            .collect();
        let settings = Settings { control_plane_namespace: self.namespace.to_owned(), ..Settings::default() };
        let mut without = Vec::new();
        let labels = format!("!{CONTROL_PLANE_NAMESPACE},!{COMPONENT}");
        // Most pods of most clusters are such: only names are kept.
        let note = |pods: Vec<Pod>| without.extend(pods::without_proxy(&pods, &namespaces, &settings));
        each_page(&self.client, &labels, namespace, note).await?;
        without.sort();
        Ok(pods::in_the_mesh(&without))
    }
}

/// By which roots the API server expects each webhook of a configuration.
type Bundles = Vec<Option<ByteString>>;

/// What comes of configurations of webhooks: each by its name, and what is missing where there is none.
fn webhooks(configurations: [(String, &str, Option<Bundles>); 3]) -> Outcome {
    let is_trusted = |bundle: &Option<ByteString>| bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty());
    for (name, _, bundles) in &configurations {
        if bundles.as_ref().is_some_and(|bundles| !bundles.iter().all(is_trusted)) {
            return Outcome::Fail(format!(
                "{name} has no caBundle; the leading controller writes it when it has a certificate"
            ));
        }
    }
    match configurations.iter().find(|(_, _, bundles)| bundles.is_none()) {
        Some((name, missed, _)) => Outcome::Warning(format!("there is no {name}: {missed}")),
        None => Outcome::Ok,
    }
}

/// Who may not read everything is not told that something is wrong.
fn unless_forbidden(error: &kube::Error) -> Outcome {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            Outcome::Warning(format!("it is not known: {}", said(error)))
        }
        _ => Outcome::Error(said(error)),
    }
}

/// Pods with a proxy of the control plane in `control_plane`, without its own.
pub(super) async fn meshed(client: &Client, control_plane: &str, namespace: Option<&str>) -> kube::Result<Vec<Pod>> {
    living(client, &format!("{CONTROL_PLANE_NAMESPACE}={control_plane},!{COMPONENT}"), namespace).await
}

/// Pods with these labels that have not ended.
async fn living(client: &Client, labels: &str, namespace: Option<&str>) -> kube::Result<Vec<Pod>> {
    let mut found = Vec::new();
    each_page(client, labels, namespace, |mut page| found.append(&mut page)).await?;
    found.sort_by_key(|pod| (pod.namespace(), pod.name_any()));
    Ok(found)
}

/// The same, some at a time.
async fn each_page(
    client: &Client,
    labels: &str,
    namespace: Option<&str>,
    mut take: impl FnMut(Vec<Pod>),
) -> kube::Result<()> {
    let api = match namespace {
        Some(namespace) => Api::<Pod>::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    // What has ended needs no proxy any more.
    let living = "status.phase!=Succeeded,status.phase!=Failed";
    let mut parameters = ListParams::default().labels(labels).fields(living).limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        take(page.items);
        match next {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (minor, is_enough) in [("28", false), ("28+", false), ("29", true), ("33+", true), ("", true), ("x", true)]
        {
            assert_eq!(recent_enough("1", minor, "v1") == Outcome::Ok, is_enough, "{minor}");
        }
        assert_eq!(recent_enough("2", "0", "v2.0.0"), Outcome::Ok);
    }

    #[test]
    fn every_webhook_has_roots() {
        let of = |bundles: [Option<Vec<Option<&str>>>; 3]| {
            let bundle = |bundle: Option<&str>| bundle.map(|pem| ByteString(pem.as_bytes().to_vec()));
            let mut names = ["pods", "routes", "objectives"].into_iter();
            webhooks(bundles.map(|bundles| {
                let bundles = bundles.map(|bundles| bundles.into_iter().map(bundle).collect());
                (names.next().unwrap().to_owned(), "nothing", bundles)
            }))
        };
        let good = || Some(vec![Some("a root")]);
        assert_eq!(of([good(), good(), good()]), Outcome::Ok);
        for bad in [Some(vec![None]), Some(vec![Some("")]), Some(vec![Some("a root"), None])] {
            let outcome = of([good(), None, bad]);
            assert!(
                matches!(&outcome, Outcome::Fail(why) if why.starts_with("objectives has no caBundle")),
                "{outcome:?}"
            );
        }
        assert_eq!(of([good(), None, good()]), Outcome::Warning("there is no routes: nothing".to_owned()));
    }

    #[test]
    fn who_may_not_read_is_warned_only() {
        let error = |code: u16| {
            let status = kube::core::Status { code, ..kube::core::Status::failure("no", "Forbidden") };
            kube::Error::Api(Box::new(if code == 403 {
                status
            } else {
                kube::core::Status { reason: "X".into(), ..status }
            }))
        };
        assert!(matches!(unless_forbidden(&error(403)), Outcome::Warning(_)));
        assert!(matches!(unless_forbidden(&error(500)), Outcome::Error(_)));
    }
}
