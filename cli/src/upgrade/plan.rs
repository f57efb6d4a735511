//! `conduit upgrade --plan`: what applying the manifests would change, as the API server says itself: it is asked to try.

use std::fmt::Write as _;

use anyhow::Context as _;
use conduit_api::VERSION;
use conduit_deploy::{Kept, Manifest};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::Value;

use super::changes::{changes, taken_away};
use crate::{
    installation::{kind, resource, title},
    prune,
};

/// Who asks. Nothing is ever written under this name.
const FIELD_MANAGER: &str = "conduit-upgrade-plan";
/// Of one object, so many changes are told.
const CHANGES_MAX: usize = 8;
/// What a pod of the control plane is made of.
const TEMPLATE: &str = "spec.template.";

/// What would become of everything.
#[derive(Debug, Default)]
pub(super) struct Plan {
    from: String,
    created: Vec<String>,
    changed: Vec<(String, Vec<String>)>,
    refused: Vec<(String, String)>,
    removed: Vec<String>,
    unchanged: usize,
    /// How many controllers there are to be, if they are replaced.
    rolls: Option<u64>,
}

/// Asks the API server; nothing is changed.
///
/// # Errors
/// When it does not answer.
pub(super) async fn make(client: &Client, namespace: &str, kept: &Kept, manifest: &Manifest) -> anyhow::Result<Plan> {
    let mut plan = Plan { from: kept.release.clone(), ..Plan::default() };
    for object in manifest.objects() {
        let title = title(object);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let resource = resource(&kind(object));
        let api = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let live = api.get_opt(name).await.with_context(|| format!("cannot read {title}"))?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        match (api.patch(name, &parameters, &Patch::Apply(object)).await, live) {
            (Ok(_), None) => plan.created.push(title),
            (Ok(after), Some(live)) => {
                let live = serde_json::to_value(live)?;
                let mut found = changes(&live, &serde_json::to_value(after)?);
                found.extend(taken_away(&live, object));
                plan.add(title, object, found);
            }
            (Err(kube::Error::Api(status)), _) => plan.refused.push((title, status.message.clone())),
            (Err(error), _) => return Err(error).with_context(|| format!("cannot try {title}")),
        }
    }
    plan.removed = prune::extraneous(client, namespace, manifest).await?.iter().map(title).collect();
    Ok(plan)
}

impl Plan {
    fn add(&mut self, title: String, object: &Value, found: Vec<String>) {
        if object["kind"] == "StatefulSet" && found.iter().any(|change| change.starts_with(TEMPLATE)) {
            self.rolls = object["spec"]["replicas"].as_u64();
        }
        match found.is_empty() {
            true => self.unchanged += 1,
            false => self.changed.push((title, found)),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("From {} to {VERSION}. Nothing has been changed.\n\n", self.from);
        for title in &self.created {
            let _ = writeln!(text, "+ {title}");
        }
        for (title, changes) in &self.changed {
            let _ = writeln!(text, "~ {title}");
            changes.iter().take(CHANGES_MAX).for_each(|change| {
                let _ = writeln!(text, "    {change}");
            });
            if let Some(more @ 1..) = changes.len().checked_sub(CHANGES_MAX) {
                let _ = writeln!(text, "    and {more} more");
            }
        }
        for (title, why) in &self.refused {
            let _ = writeln!(text, "! {title}\n    the API server refuses it: {why}");
        }
        for title in &self.removed {
            let _ = writeln!(text, "- {title}");
        }
        let _ = writeln!(
            text,
            "\n{} to be created, {} changed, {} refused, {} unchanged; {} not needed any more, which `conduit prune` prints afterwards.",
            self.created.len(),
            self.changed.len(),
            self.refused.len(),
            self.unchanged,
            self.removed.len()
        );
        text.push_str(match self.rolls {
            None if self.refused.iter().any(|(title, _)| title.starts_with("StatefulSet ")) => {
                "Controllers stay as they are, since what they would become is refused.\n"
            }
            None => "No controller is restarted.\n",
            Some(1) => "The one controller is replaced. While it is away, nothing can be changed and no proxy gets a certificate; traffic goes on.\n",
            Some(_) => "Controllers are replaced one at a time, each when the one before is ready; traffic and certificates go on.\n",
        });
        text.push_str("Proxies stay as they are until their pods are made anew: kubectl rollout restart.\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_is_read_from_top_to_bottom() {
        let mut plan = Plan {
            from: "v0.0.9".to_owned(),
            created: vec!["ConfigMap conduit/new".to_owned()],
            refused: vec![("Service conduit/api".to_owned(), "spec.clusterIP: may not change".to_owned())],
            removed: vec!["ClusterRole old".to_owned()],
            ..Plan::default()
        };
        let set = json!({"kind": "StatefulSet", "spec": {"replicas": 3}});
        plan.add("StatefulSet conduit/controller".to_owned(), &set, vec!["spec.template.a: 1 -> 2".to_owned()]);
        plan.add("ConfigMap conduit/same".to_owned(), &json!({"kind": "ConfigMap"}), vec![]);
        let text = plan.text().replace(VERSION, "VERSION");
        expect![[r#"
            From v0.0.9 to VERSION. Nothing has been changed.

            + ConfigMap conduit/new
            ~ StatefulSet conduit/controller
                spec.template.a: 1 -> 2
            ! Service conduit/api
                the API server refuses it: spec.clusterIP: may not change
            - ClusterRole old

            1 to be created, 1 changed, 1 refused, 1 unchanged; 1 not needed any more, which `conduit prune` prints afterwards.
            Controllers are replaced one at a time, each when the one before is ready; traffic and certificates go on.
            Proxies stay as they are until their pods are made anew: kubectl rollout restart.
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn that_nothing_restarts_is_no_wish_when_it_is_refused() {
        let refused = vec![("StatefulSet conduit/controller".to_owned(), "Forbidden".to_owned())];
        let text = Plan { refused, ..Plan::default() }.text();
        assert!(text.contains("is refused.") && !text.contains("No controller is restarted"), "{text}");
    }
}
