//! What the Kubernetes API server is told of pods that are about to be made, and of routes and objectives that are about to be written. Pure.
//!
//! A route is never refused: others may understand it, and its status says what becomes of it. Who writes it is told at once, though. An objective is
//! ours alone, and one that could never be promised is refused.
//!
//! It offers each of them to any replica; whether one gets a proxy, and which, is decided by `conduit-inject`, as for `conduit inject`.

pub mod server;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use conduit_inject::{
    Annotations, Decision, Settings, Skip,
    webhook::{admit, patch},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;

use crate::platform::kubernetes::{objection, objections};

/// What the API server posts, and is answered (`admission.k8s.io/v1`).
#[derive(Deserialize)]
pub struct Review {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    /// What is to be made or written.
    pub request: Request,
}

/// A pod that is to be made, or a route or an objective that is to be written.
#[derive(Deserialize)]
pub struct Request {
    uid: String,
    /// Where.
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    object: Value,
    /// As it was, if it is changed.
    #[serde(default, rename = "oldObject")]
    old_object: Value,
}

/// The answer.
#[derive(Serialize)]
pub struct Answer {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    response: Response,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    /// Shown to whoever makes it; of pods, mostly that is a controller of the cluster, which does not look.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Review {
    /// What to say of it, in a namespace with these annotations.
    ///
    /// A pod that wants a proxy and cannot have one because of what an annotation says is refused: it would run outside of the mesh, and
    /// nobody would know.
    pub fn answer(self, namespace: &Annotations, settings: &Settings) -> Answer {
        let Self { api_version, kind, request: Request { uid, namespace: name, object, .. } } = self;
        let mut response = Response { uid, allowed: true, ..Response::default() };
        match admit(&object, namespace, settings) {
            Ok(Some(Decision::Inject(injection))) => {
                response.warnings =
                    injection.warnings.iter().map(|warning| format!("conduit: the pod {warning}")).collect();
                response.patch_type = Some("JSONPatch");
                let operations = Value::from(patch(&injection.operations));
                response.patch = Some(BASE64_STANDARD.encode(operations.to_string()));
            }
            Ok(Some(Decision::Skip(Skip::AlreadyInjected)) | None) => {}
            Ok(Some(Decision::Skip(skip))) => {
                response.warnings.push(format!("conduit: the pod gets no proxy: {skip}"));
                info!(namespace = name, pod = name_of(&object), reason = %skip, "no proxy was added");
            }
            Err(error) => response.refuse(format!("conduit cannot add a proxy to the pod: {error}")),
        }
        Answer { api_version, kind, response }
    }

    /// What to say of it if it is a route.
    pub fn answer_about_route(self) -> Answer {
        let Self { api_version, kind, request: Request { uid, object, .. } } = self;
        // What is no object at all, the API server refuses.
        let objections = serde_json::from_value(object).map(objections).unwrap_or_default();
        let warnings = objections.iter().map(|objection| format!("conduit: {objection}")).collect();
        Answer { api_version, kind, response: Response { uid, allowed: true, warnings, ..Response::default() } }
    }

    /// What to say of it if it is an objective. One that came in while nobody was asked may be labelled, and deleted: to take its last finalizer
    /// away is to change it.
    pub fn answer_about_objective(self) -> Answer {
        let Self { api_version, kind, request: Request { uid, object, old_object, .. } } = self;
        let mut response = Response { uid, allowed: true, ..Response::default() };
        let is_going = !object["metadata"]["deletionTimestamp"].is_null();
        let promises_the_same = !old_object.is_null() && object["spec"] == old_object["spec"];
        if !is_going
            && !promises_the_same
            && let Some(objection) = serde_json::from_value(object).ok().and_then(objection)
        {
            response.refuse(objection);
        }
        Answer { api_version, kind, response }
    }
}

impl Response {
    fn refuse(&mut self, message: String) {
        self.allowed = false;
        self.status = Some(serde_json::json!({"code": 422, "reason": "Invalid", "message": message}));
    }
}

/// A pod that something else makes has only the beginning of a name yet.
fn name_of(pod: &Value) -> &str {
    let metadata = &pod["metadata"];
    metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(pod: Value, namespace: &[(&str, &str)]) -> Value {
        let request = json!({"uid": "42", "namespace": "shop", "object": pod});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let review: Review = serde_json::from_value(review).unwrap();
        let annotations = namespace.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let answer = serde_json::to_value(review.answer(&annotations, &Settings::default())).unwrap();
        assert_eq!((&answer["kind"], &answer["response"]["uid"]), (&json!("AdmissionReview"), &json!("42")));
        answer["response"].clone()
    }

    fn warnings(spec: Value) -> Value {
        reviewed(json!({"spec": spec}))
    }

    fn reviewed(mut route: Value) -> Value {
        let kind = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"});
        route.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        route["metadata"] = json!({"namespace": "shop", "name": "web"});
        let request = json!({"uid": "42", "namespace": "shop", "object": route});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let review: Review = serde_json::from_value(review).unwrap();
        let answer = serde_json::to_value(review.answer_about_route()).unwrap()["response"].clone();
        assert_eq!((&answer["uid"], &answer["allowed"]), (&json!("42"), &json!(true)), "it is never refused");
        answer["warnings"].clone()
    }

    #[test]
    fn who_writes_a_route_is_told_what_is_not_carried_out() {
        let of = |parents: Value, rules: Value| warnings(json!({"parentRefs": parents, "rules": rules}));
        let service = || json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
        let backend = |more: Value| {
            let mut backend = json!({"name": "web-v2", "port": 80});
            backend.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([{"backendRefs": [backend]}])
        };
        assert_eq!(of(service(), backend(json!({}))), Value::Null, "whether there are such Services is not looked at");
        let gateway = json!([{"name": "edge"}]);
        let rewrite = json!([{"filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "a"}}]}]);
        assert_eq!(of(gateway, rewrite.clone()), Value::Null, "it is somebody else's");
        let was_ours = json!({"parents": [{"controllerName": "conduit.io/controller", "parentRef": service()[0]}]});
        let moved = json!({"parentRefs": [{"name": "edge"}], "rules": rewrite});
        assert_eq!(reviewed(json!({"spec": moved, "status": was_ours})), Value::Null, "it is somebody else's now");
        for odd in [json!("x"), json!([1]), json!(7), json!(true), Value::Null] {
            assert_eq!(reviewed(json!({"spec": odd, "status": was_ours})), Value::Null, "anybody may post anything");
            assert_eq!(reviewed(json!({"spec": {"parentRefs": odd, "rules": odd}, "status": odd})), Value::Null);
        }
        for (parents, rules, says) in [
            (service(), rewrite, "conduit: spec.rules[0].filters[0]"),
            (
                service(),
                backend(json!({"kind": "Bucket"})),
                "conduit: spec.rules[0].backendRefs[0].kind: only Services",
            ),
            (
                service(),
                backend(json!({"namespace": "other"})),
                "conduit: spec.rules[0].backendRefs[0].namespace: only",
            ),
            (
                service(),
                json!([{"matches": [{"path": {"type": "RegularExpression", "value": "a.*"}}]}]),
                "not by Regular",
            ),
            (
                json!([{"group": "", "kind": "Service", "name": "web", "namespace": "other"}]),
                json!([]),
                "conduit: spec.parentRefs[0].namespace: a route is for Services of its own namespace",
            ),
        ] {
            let warnings = of(parents, rules);
            assert!(warnings[0].as_str().unwrap_or_default().contains(says), "{says}: {warnings}");
        }
    }

    #[test]
    fn an_objective_that_could_never_be_promised_is_refused_and_not_kept_from_going() {
        let object = |spec: &Value| {
            let metadata = json!({"namespace": "shop", "name": "web"});
            json!({"apiVersion": "conduit.io/v1alpha1", "kind": "Objective", "metadata": metadata, "spec": spec})
        };
        let answer_to = |object: Value, old: Value| {
            let request = json!({"uid": "42", "namespace": "shop", "object": object, "oldObject": old});
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
            let review: Review = serde_json::from_value(review).unwrap();
            serde_json::to_value(review.answer_about_objective()).unwrap()["response"].clone()
        };
        let target = json!({"kind": "Deployment", "name": "web"});
        let (good, bad) =
            (json!({"targetRef": target, "success": 99.9}), json!({"targetRef": target, "success": 99.99999}));
        let allowed = json!({"uid": "42", "allowed": true});
        assert_eq!(answer_to(object(&good), Value::Null), allowed);
        assert_eq!(answer_to(object(&bad), object(&good))["allowed"], false);
        let mut changed = object(&bad);
        changed["metadata"]["labels"] = json!({"team": "shop"});
        assert_eq!(answer_to(changed.clone(), object(&bad)), allowed);
        changed["metadata"]["deletionTimestamp"] = json!("2026-11-23T16:00:00Z");
        assert_eq!(answer_to(changed, object(&good)), allowed);
        let refused = answer_to(object(&bad), Value::Null);
        assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(422)));
        let message = refused["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.success: `99.99999` is not a share"), "{message}");
    }

    fn pod(annotations: Value) -> Value {
        json!({"metadata": {"generateName": "web-", "annotations": annotations}, "spec": {"containers": [{"name": "web"}]}})
    }

    #[test]
    fn a_pod_of_a_namespace_that_wants_it_gets_a_proxy() {
        let answer = answer(pod(json!({})), &[("conduit.io/inject", "enabled")]);
        assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
        let patch = BASE64_STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
        let patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        let container = |operation: &&Value| operation["path"] == "/spec/containers/-";
        assert_eq!(patch.iter().find(container).unwrap()["value"]["name"], "conduit-proxy");
    }

    #[test]
    fn a_pod_that_nobody_wants_to_have_one_is_left_alone() {
        for (own, namespace) in [("", ""), ("disabled", "enabled")] {
            let annotations = if own.is_empty() { json!({}) } else { json!({"conduit.io/inject": own}) };
            let namespace = [("conduit.io/inject", namespace)];
            let answer = answer(pod(annotations), if namespace[0].1.is_empty() { &[] } else { &namespace });
            assert_eq!(answer, json!({"uid": "42", "allowed": true}));
        }
    }

    #[test]
    fn a_pod_that_can_have_none_is_let_in_with_the_reason() {
        let mut pod = pod(json!({"conduit.io/inject": "enabled"}));
        pod["spec"]["hostNetwork"] = json!(true);
        let answer = answer(pod, &[]);
        assert_eq!(answer["allowed"], true);
        assert!(answer["warnings"][0].as_str().unwrap().contains("hostNetwork"), "{answer}");
    }

    #[test]
    fn a_pod_that_asks_for_what_makes_no_sense_is_refused() {
        let asked = json!({"conduit.io/inject": "enabled", "config.conduit.io/skip-inbound-ports": "http"});
        let answer = answer(pod(asked), &[]);
        assert_eq!(answer["allowed"], false);
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains("config.conduit.io/skip-inbound-ports: http"), "{message}");
    }
}
