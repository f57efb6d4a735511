//! `conduit prune`: what earlier releases have installed and this one does not, to be given to `kubectl delete -f -`.

use std::io::Write;

use anyhow::bail;
use conduit_api::VERSION;
use conduit_deploy::{Manifest, render};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Client, ResourceExt as _, api::DynamicObject, core::PartialObjectMeta};
use serde_json::Value;

use crate::{
    global::Global,
    installation::{self, Kind, kind},
};

/// Everything that is installed says who has made it; what controllers make does not.
const CREATED_BY: &str = "conduit.io/created-by";
const INSTALLER: &str = "conduit/cli ";
/// Never, whatever they say: with them goes more than an object, and what was in it does not come back.
const KEPT: [&str; 4] = ["CustomResourceDefinition", "Namespace", "PersistentVolumeClaim", "Secret"];
/// Where installations have objects beside their own namespace.
const SYSTEM: &str = "kube-system";

/// Prints them; nothing is deleted.
///
/// # Errors
/// When the cluster cannot be asked, or has not been upgraded yet: then what goes is still in use.
pub async fn run(global: &Global, out: &mut impl Write) -> anyhow::Result<()> {
    let (client, namespace) = (global.kubernetes.client().await?, global.conduit_namespace());
    let kept = installation::kept(&client, namespace).await?;
    let Some(values) = kept.values().filter(|_| kept.release == VERSION) else {
        bail!(
            "the installation is of {}, and this command of {VERSION}: first upgrade (conduit upgrade | kubectl apply -f -), then prune",
            if kept.release == VERSION { "an earlier build" } else { &kept.release }
        );
    };
    let set = installation::controllers(&client, namespace).await?;
    if set.is_some_and(|set| !is_rolled_out(&set)) {
        bail!(
            "controllers of the earlier release may still run, and use what goes: wait until they are replaced (kubectl -n {namespace} rollout \
             status statefulset/controller), then prune"
        );
    }
    let manifest = render(&values, namespace)?;
    for object in extraneous(&client, namespace, &manifest).await? {
        out.write_all(format!("---\n{}", serde_yaml_ng::to_string(&object)?).as_bytes())?;
    }
    Ok(())
}

/// Whether all of its pods are as it says now.
fn is_rolled_out(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else { return false };
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.observed_generation >= set.metadata.generation && status.updated_replicas.unwrap_or_default() >= replicas
}

/// What is there of the installation in `namespace` and is not in `manifest`, by name alone.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn extraneous(client: &Client, namespace: &str, manifest: &Manifest) -> anyhow::Result<Vec<Value>> {
    let kinds = installation::kinds(namespace)?;
    let mut found = Vec::new();
    for kind in kinds.iter().filter(|(_, kind)| !KEPT.contains(&kind.as_str())) {
        let listed = installation::labelled(client, namespace, kind).await?;
        found.extend(listed.iter().filter_map(|object| superfluous(kind, object, namespace, manifest.objects())));
    }
    Ok(found)
}

/// The object by its name, if it was installed and is not any more.
fn superfluous(
    of: &Kind,
    object: &PartialObjectMeta<DynamicObject>,
    namespace: &str,
    installed: &[Value],
) -> Option<Value> {
    let is_installed = object.annotations().get(CREATED_BY).is_some_and(|by| by.starts_with(INSTALLER));
    let is_here = object.namespace().is_none_or(|place| place == namespace || place == SYSTEM);
    let name = object.name_any();
    let is_it = |known: &&Value| {
        // A release may say the same in another version of its group.
        let group = |api_version: &str| api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let (api_version, known_kind) = kind(known);
        let metadata = &known["metadata"];
        (group(&api_version), &known_kind) == (group(&of.0), &of.1)
            && metadata["name"] == name.as_str()
            && metadata["namespace"].as_str() == object.namespace().as_deref()
    };
    if !is_installed || !is_here || installed.iter().any(|known| is_it(&known)) {
        return None;
    }
    Some(installation::by_name(of, object))
}

#[cfg(test)]
mod tests {
    use conduit_deploy::Install;
    use serde_json::json;

    use super::*;

    /// What is printed of an object of that kind, place and name, with that annotation, beside an installation in `conduit`.
    fn printed(kind: (&str, &str), namespace: Option<&str>, name: &str, created_by: Option<&str>) -> Option<Value> {
        let installed = Install::default().manifest("conduit").unwrap();
        let mut metadata = json!({"name": name});
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        if let Some(created_by) = created_by {
            metadata["annotations"] = json!({(CREATED_BY): created_by});
        }
        let object = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        superfluous(&(kind.0.to_owned(), kind.1.to_owned()), &object, "conduit", installed.objects())
    }

    const CONFIG_MAP: (&str, &str) = ("v1", "ConfigMap");
    const OURS: Option<&str> = Some("conduit/cli v0.0.1");

    #[test]
    fn what_is_not_installed_any_more_is_printed_by_name() {
        let expected =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old", "namespace": "conduit"}});
        assert_eq!(printed(CONFIG_MAP, Some("conduit"), "old", OURS), Some(expected));
        let role = ("rbac.authorization.k8s.io/v1", "ClusterRole");
        assert!(printed(role, None, "conduit-conduit-old", OURS).is_some());
        assert!(printed(("rbac.authorization.k8s.io/v1", "RoleBinding"), Some("kube-system"), "old", OURS).is_some());
    }

    #[test]
    fn what_is_installed_is_not_printed() {
        assert_eq!(printed(CONFIG_MAP, Some("conduit"), "conduit-config", OURS), None);
        let role = ("rbac.authorization.k8s.io/v1", "ClusterRole");
        assert_eq!(printed(role, None, "conduit-conduit-controller", OURS), None);
        let older_version = ("rbac.authorization.k8s.io/v1beta1", "ClusterRole");
        assert_eq!(printed(older_version, None, "conduit-conduit-controller", OURS), None);
    }

    #[test]
    fn nothing_goes_while_controllers_are_replaced() {
        let is = |status: Value| {
            let set = json!({"metadata": {"generation": 2}, "spec": {"replicas": 3, "selector": {}, "serviceName": "x", "template": {}}, "status": status});
            is_rolled_out(&serde_json::from_value(set).unwrap())
        };
        assert!(is(json!({"replicas": 3, "observedGeneration": 2, "updatedReplicas": 3})));
        assert!(
            !is(json!({"replicas": 3, "observedGeneration": 1, "updatedReplicas": 3})),
            "the change is not seen yet"
        );
        assert!(!is(json!({"replicas": 3, "observedGeneration": 2, "updatedReplicas": 2})));
        assert!(!is(json!({"replicas": 0, "observedGeneration": 2})));
    }

    #[test]
    fn what_others_made_is_not_printed() {
        for created_by in [None, Some("somebody"), Some("conduit/controller")] {
            assert_eq!(printed(CONFIG_MAP, Some("conduit"), "conduit-bootstrap", created_by), None);
        }
        assert_eq!(printed(CONFIG_MAP, Some("shop"), "old", OURS), None, "it is in somebody's namespace");
    }
}
