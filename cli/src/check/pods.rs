//! What pods say of themselves. Pure.

use std::collections::BTreeMap;

use conduit_inject::{Annotations, Settings, injection::PROXY_VERSION, webhook::lacks_proxy};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt as _;

use super::report::Outcome;

/// So many are named.
const EXAMPLES_MAX: usize = 3;

/// Whether all of them are; those that are not say why.
pub(super) fn ready(pods: &[Pod]) -> Outcome {
    let unready: Vec<_> = pods.iter().filter_map(|pod| Some(format!("{} {}", name(pod), why_not(pod)?))).collect();
    match unready.is_empty() {
        true => Outcome::Ok,
        false => Outcome::Fail(format!("{} of {} are not: {}", unready.len(), pods.len(), examples(&unready))),
    }
}

/// Whether each node that is to have a pod of it has one that is ready.
pub(super) fn on_every_node(set: &DaemonSet) -> Outcome {
    let (ready, wanted) =
        set.status.as_ref().map_or((0, 0), |status| (status.number_ready, status.desired_number_scheduled));
    let name = format!("{}/{}", set.namespace().unwrap_or_default(), set.name_any());
    match wanted {
        0 => Outcome::Fail(format!("DaemonSet {name} is on no node yet")),
        _ if ready < wanted => Outcome::Fail(format!(
            "DaemonSet {name} is ready on {ready} of {wanted} nodes; pods with proxies do not start on the others"
        )),
        _ => Outcome::Ok,
    }
}

/// Of which release a pod's proxy is.
pub(super) fn proxy_version(pod: &Pod) -> String {
    pod.annotations().get(PROXY_VERSION).cloned().unwrap_or_else(|| "unknown".to_owned())
}

/// Whether the proxies of all of them are of the release `latest`.
pub(super) fn up_to_date(pods: &[Pod], latest: &str) -> Outcome {
    let others = pods.iter().filter(|pod| proxy_version(pod) != latest);
    let others: Vec<_> = others.map(|pod| format!("{} has {}", name(pod), proxy_version(pod))).collect();
    match others.is_empty() {
        true => Outcome::Ok,
        false => Outcome::Warning(format!(
            "{} of {} proxies are not {latest}: {}; restart their workloads",
            others.len(),
            pods.len(),
            examples(&others)
        )),
    }
}

/// The names of those that should have a proxy, in namespaces with these annotations, and have none.
pub(super) fn without_proxy(
    pods: &[Pod],
    namespaces: &BTreeMap<String, Annotations>,
    settings: &Settings,
) -> Vec<String> {
    let lacks = |pod: &&Pod| {
        let annotations = pod.namespace().and_then(|namespace| namespaces.get(&namespace));
        let pod = serde_json::to_value(pod);
        annotations.zip(pod.ok()).is_some_and(|(annotations, pod)| lacks_proxy(&pod, annotations, settings))
    };
    pods.iter().filter(lacks).map(name).collect()
}

/// Whether there are none `without` a proxy that they should have.
pub(super) fn in_the_mesh(without: &[String]) -> Outcome {
    match without.is_empty() {
        true => Outcome::Ok,
        false => Outcome::Warning(format!(
            "{} have none: {}; restart their workloads (kubectl rollout restart), or install with proxyInjector.repair=evict",
            without.len(),
            examples(without)
        )),
    }
}

/// Some of them.
pub(super) fn examples(all: &[String]) -> String {
    let shown = all.iter().take(EXAMPLES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match all.len().checked_sub(EXAMPLES_MAX) {
        Some(more @ 1..) => format!("{shown}, and {more} more"),
        _ => shown,
    }
}

/// `namespace/name`
pub(super) fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn why_not(pod: &Pod) -> Option<String> {
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    // A Job's pod that is done is well.
    if status.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return None;
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waiting = containers.filter_map(waits).next();
    let unmet = conditions.iter().find(|condition| condition.status != "True" && condition.message.is_some());
    let unmet = unmet.and_then(|condition| condition.message.clone());
    Some(waiting.or(unmet).map_or_else(|| "is not ready".to_owned(), |why| format!("is not ready ({why})")))
}

fn waits(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or("waits");
    let message = waiting.message.as_deref().map_or(String::new(), |message| format!(": {message}"));
    Some(format!("{} {reason}{message}", container.name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, version: &str, status: Value) -> Pod {
        let annotations = json!({"conduit.io/proxy-version": version});
        let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn ready_status() -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    }

    #[test]
    fn those_that_are_not_ready_say_why() {
        let well = pod("web", "v1", ready_status());
        let done = pod("job", "v1", json!({"phase": "Succeeded"}));
        assert_eq!(ready(&[well.clone(), done]), Outcome::Ok);
        let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
        let container = json!({"name": "conduit-proxy", "state": waiting, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        let pulling = pod("a", "v1", json!({"phase": "Pending", "initContainerStatuses": [container]}));
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"});
        let unscheduled = pod("b", "v1", json!({"phase": "Pending", "conditions": [condition]}));
        let silent = pod("c", "v1", json!({}));
        assert_eq!(
            ready(&[well, pulling, unscheduled, silent]),
            Outcome::Fail(
                "3 of 4 are not: shop/a is not ready (conduit-proxy ErrImagePull: no such image), \
                 shop/b is not ready (0/3 nodes are available), shop/c is not ready"
                    .to_owned()
            )
        );
    }

    #[test]
    fn pods_outside_of_the_mesh_are_named() {
        let mut outside = pod("web", "v1", ready_status());
        outside.spec = serde_json::from_value(json!({"containers": [{"name": "main", "image": "x"}]})).unwrap();
        let settings = Settings::default();
        let namespaces = |inject: &str| -> BTreeMap<_, Annotations> {
            [("shop".to_owned(), [("conduit.io/inject".to_owned(), inject.to_owned())].into())].into()
        };
        let pods = [outside];
        assert_eq!(in_the_mesh(&without_proxy(&pods, &namespaces("disabled"), &settings)), Outcome::Ok);
        assert_eq!(in_the_mesh(&without_proxy(&pods, &BTreeMap::new(), &settings)), Outcome::Ok);
        let Outcome::Warning(says) = in_the_mesh(&without_proxy(&pods, &namespaces("enabled"), &settings)) else {
            panic!("it is a warning")
        };
        assert!(says.starts_with("1 have none: shop/web; restart"), "{says}");
    }

    #[test]
    fn old_proxies_are_named() {
        let pods: Vec<_> =
            ["v1", "v2", "v1", "v1", "v1"].iter().map(|version| pod("web", version, ready_status())).collect();
        assert_eq!(up_to_date(&pods[..1], "v1"), Outcome::Ok);
        let Outcome::Warning(says) = up_to_date(&pods, "v2") else { panic!("it is a warning") };
        assert!(
            says.starts_with("4 of 5 proxies are not v2: shop/web has v1, ") && says.contains("and 1 more"),
            "{says}"
        );
    }

    #[test]
    fn a_plugin_has_to_be_on_every_node() {
        let set = |ready: i32, wanted: i32| {
            let status = serde_json::json!({"numberReady": ready, "desiredNumberScheduled": wanted, "currentNumberScheduled": ready, "numberMisscheduled": 0});
            let metadata = serde_json::json!({"name": "conduit-cni", "namespace": "kube-system"});
            serde_json::from_value(serde_json::json!({"metadata": metadata, "status": status})).unwrap()
        };
        assert!(matches!(on_every_node(&set(3, 3)), Outcome::Ok));
        let Outcome::Fail(reason) = on_every_node(&set(2, 3)) else { panic!("one has none") };
        assert!(reason.contains("kube-system/conduit-cni is ready on 2 of 3 nodes"), "{reason}");
        assert!(matches!(on_every_node(&set(0, 0)), Outcome::Fail(_)));
    }
}
