//! An installation as its cluster has it: what it keeps of itself, and the objects that belong to it.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use conduit_deploy::{Install, Kept};
use conduit_inject::injection::CONTROL_PLANE_NAMESPACE;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::ConfigMap};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
    core::PartialObjectMeta,
};
use serde_json::{Value, json};

use crate::kubernetes::plural;

/// Where it keeps what it was installed with.
const CONFIG: &str = "conduit-config";
/// helm writes it on everything that it has made.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// `apiVersion` and `kind`.
pub type Kind = (String, String);

/// What the installation in `namespace` keeps of itself.
///
/// # Errors
/// When there is none, it cannot be read, or another tool keeps it.
pub async fn kept(client: &Client, namespace: &str) -> anyhow::Result<Kept> {
    let config = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(CONFIG).await;
    let Some(config) = config.with_context(|| format!("cannot read the ConfigMap {namespace}/{CONFIG}"))? else {
        bail!("Conduit is not installed in the \"{namespace}\" namespace of this cluster");
    };
    if let Some(release) = config.annotations().get(HELM_RELEASE) {
        bail!("helm has installed it, as the release \"{release}\", and keeps its values: use helm upgrade");
    }
    let kept = Kept::read(config.data.as_ref().unwrap_or(&Default::default()));
    kept.with_context(|| format!("the ConfigMap {namespace}/{CONFIG} cannot be used"))
}

/// Of what earlier releases have installed, and this one does not any more. A kind that leaves the chart comes here, or nothing of it would ever
/// be found again; `installed_kinds_are_never_forgotten` says so.
const INSTALLED_BEFORE: [(&str, &str); 0] = [];

/// Of all that can be installed, or ever could.
///
/// # Errors
/// When `namespace` cannot be one.
pub fn kinds(namespace: &str) -> anyhow::Result<BTreeSet<Kind>> {
    let install = Install { ha: Some("3".to_owned()), cni: true, ..Install::default() };
    let before = INSTALLED_BEFORE.map(|(api_version, kind)| (api_version.to_owned(), kind.to_owned()));
    Ok(install.manifest(namespace)?.objects().iter().map(kind).chain(before).collect())
}

/// Of an object.
pub fn kind(object: &Value) -> Kind {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["apiVersion"]), text(&object["kind"]))
}

/// How the API server calls objects of that kind.
pub fn resource((api_version, kind): &Kind) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural(kind).to_lowercase())
}

/// Those of that kind which have the label that everything of a control plane has.
///
/// # Errors
/// When the API server does not say.
pub async fn labelled(
    client: &Client,
    namespace: &str,
    kind: &Kind,
) -> anyhow::Result<Vec<PartialObjectMeta<DynamicObject>>> {
    let labelled = ListParams::default().labels(&format!("{CONTROL_PLANE_NAMESPACE}={namespace}"));
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource(kind));
    let listed = api.list_metadata(&labelled).await;
    Ok(listed.with_context(|| format!("cannot list {}", plural(&kind.1)))?.items)
}

/// The StatefulSet of the controllers, if they run in one.
///
/// # Errors
/// When the API server does not say.
pub async fn controllers(client: &Client, namespace: &str) -> anyhow::Result<Option<StatefulSet>> {
    let set = Api::<StatefulSet>::namespaced(client.clone(), namespace).get_opt("controller").await;
    set.with_context(|| format!("cannot read the StatefulSet {namespace}/controller"))
}

/// An object of that kind by its name alone, for `kubectl delete`.
pub fn by_name((api_version, kind): &Kind, object: &PartialObjectMeta<DynamicObject>) -> Value {
    let mut metadata = json!({"name": object.name_any()});
    if let Some(namespace) = object.namespace() {
        metadata["namespace"] = namespace.into();
    }
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata})
}

/// How people call it: `StatefulSet conduit/controller`.
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let place = metadata["namespace"].as_str().map_or(String::new(), |namespace| format!("{namespace}/"));
    format!("{} {place}{}", text(&object["kind"]), text(&metadata["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds that a release has installed; none is ever taken away from this list.
    const EVER: [&str; 17] = [
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "MutatingWebhookConfiguration",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "StatefulSet",
        "ValidatingWebhookConfiguration",
    ];

    #[test]
    fn installed_kinds_are_never_forgotten() {
        let known: BTreeSet<_> = kinds("conduit").unwrap().into_iter().map(|(_, kind)| kind).collect();
        for kind in EVER {
            assert!(known.contains(kind), "{kind} is to be in INSTALLED_BEFORE");
        }
        let new: Vec<_> = known.iter().filter(|kind| !EVER.contains(&kind.as_str())).collect();
        assert!(new.is_empty(), "they are to be in this list as well: {new:?}");
    }
}
