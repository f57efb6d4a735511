//! `conduit uninstall`: everything of a control plane that is in a cluster, to be given to `kubectl delete -f -`.

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use conduit_api::objective;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::{Value, json};

use crate::{
    check::meshed_pods,
    global::Global,
    installation::{self, Kind},
};

/// So many pods are named.
const EXAMPLES_MAX: usize = 5;
/// As long as they are there, the API server asks what goes away, for each pod and route, and for each that lists what there is. So they go first, and
/// last what the rest is in.
const FIRST: [&str; 3] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService"];
const LAST: &str = "Namespace";

/// Whether to do it all the same, and how it is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also while there are pods with a proxy, which are cut off from the mesh then, or Objectives, which go as well
    #[arg(short, long)]
    force: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Yaml,
    Json,
}

/// Prints what is there; nothing is deleted.
///
/// # Errors
/// When the cluster cannot be asked, there is nothing, or pods still need it.
pub async fn run(args: &Args, global: &Global, out: &mut impl Write) -> anyhow::Result<()> {
    let (client, namespace) = (global.kubernetes.client().await?, global.conduit_namespace());
    if !args.force {
        let meshed = meshed_pods(&client, namespace).await.context("cannot list the pods of the cluster")?;
        if !meshed.is_empty() {
            let some = meshed.iter().take(EXAMPLES_MAX).cloned().collect::<Vec<_>>().join(", ");
            bail!(
                "{} pods have a proxy of this control plane, and would be cut off: {some}{}; take it away first (conduit uninject), or \
                 say --force",
                meshed.len(),
                if meshed.len() > EXAMPLES_MAX { ", ..." } else { "" }
            );
        }
    }
    let found = objects(&client, namespace).await?;
    if found.is_empty() {
        bail!("Conduit is not installed in the \"{namespace}\" namespace of this cluster");
    }
    let takes_objectives = found.iter().any(|object| object["kind"] == "CustomResourceDefinition");
    if takes_objectives && !args.force && has_objectives(&client).await? {
        bail!(
            "there are Objectives in the cluster (kubectl get slo -A), which go with their definition, whichever control plane keeps them: delete them \
             first, or say --force"
        );
    }
    let text = match args.output {
        Output::Json => {
            serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": found}))? + "\n"
        }
        Output::Yaml => {
            let documents: Result<Vec<_>, _> = found.iter().map(serde_yaml_ng::to_string).collect();
            format!("---\n{}", documents?.join("---\n"))
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

async fn has_objectives(client: &Client) -> anyhow::Result<bool> {
    let kind = GroupVersionKind::gvk(objective::GROUP, objective::VERSION, objective::KIND);
    let all = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    match all.list_metadata(&ListParams::default().limit(1)).await {
        Ok(listed) => Ok(!listed.items.is_empty()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error).context("cannot list the Objectives of the cluster"),
    }
}

/// Those with the label that everything of a control plane has, by name alone, in the order in which they are to go.
async fn objects(client: &Client, namespace: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for of in kinds(namespace)? {
        let listed = installation::labelled(client, namespace, &of).await?;
        found.extend(listed.iter().map(|object| installation::by_name(&of, object)));
    }
    // A StatefulSet leaves them behind, and they hold what the next control plane would be a stranger to.
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels("conduit.io/control-plane-component=controller");
    let listed = claims.list_metadata(&labelled).await.context("cannot list PersistentVolumeClaims")?;
    let last = found.len() - found.iter().rev().take_while(|object| object["kind"] == LAST).count();
    let claim = |claim: String| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim, "namespace": namespace}});
    found.splice(last..last, listed.items.iter().map(|listed| claim(listed.name_any())));
    Ok(found)
}

/// Of what is installed, and of what controllers make, in the order in which they are to go.
fn kinds(namespace: &str) -> anyhow::Result<Vec<Kind>> {
    let mut kinds = installation::kinds(namespace)?;
    // Pods go with what they belong to.
    kinds.insert(("v1".to_owned(), "Secret".to_owned()));
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, kind)| (!FIRST.contains(&kind.as_str()), kind == LAST));
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_by_the_api_server_goes_first_and_the_namespace_last() {
        let kinds: Vec<_> = kinds("conduit").unwrap().into_iter().map(|(_, kind)| kind).collect();
        assert!(FIRST.iter().all(|kind| kinds[..FIRST.len()].contains(&(*kind).to_owned())), "{kinds:?}");
        assert_eq!(kinds.last().unwrap(), LAST);
        for kind in ["StatefulSet", "PodDisruptionBudget", "Secret", "ConfigMap"] {
            assert!(kinds.contains(&kind.to_owned()), "{kind}");
        }
    }
}
