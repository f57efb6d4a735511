use serde_json::json;

use super::*;

/// An object as the API server tells of it.
fn object(name: &str, created: &str, spec: Value) -> DynamicObject {
    let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": "7", "generation": 3, "creationTimestamp": created});
    let object = json!({"apiVersion": "conduit.io/v1alpha1", "kind": "Objective", "metadata": metadata, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn spec(deployment: &str) -> Value {
    json!({"targetRef": {"kind": "Deployment", "name": deployment}, "success": 99.9, "latency": {"p99": "1s500ms"}})
}

/// With something else at that place.
fn with(place: &str, value: Value) -> Value {
    let mut spec = spec("web");
    let (parent, field) = place.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[field] = value;
    spec
}

/// What is promised, and the patch of each status, by the objects' names.
fn decided(objects: Vec<DynamicObject>) -> (Vec<String>, BTreeMap<String, Value>) {
    let all =
        objects.into_iter().map(|object| read(object).unwrap()).map(|(key, facts)| (key, facts.unwrap())).collect();
    let (promised, statements) = decide(&all);
    let promised =
        promised.iter().map(|declared| format!("{} by {}: {}", declared.resource, declared.by, declared.objective));
    let now = serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap();
    let patch = |statement: Statement| (statement.name.clone(), statement.patch(&now));
    (promised.collect(), statements.into_iter().map(patch).collect())
}

fn condition(patch: &Value) -> (&str, &str, &str) {
    let condition = &patch["status"]["conditions"][0];
    let text = |field: &str| condition[field].as_str().unwrap();
    (text("status"), text("reason"), text("message"))
}

#[test]
fn what_is_declared_is_promised_and_accepted() {
    let (promised, patches) = decided(vec![object("web", "2026-01-01T00:00:01Z", spec("web"))]);
    assert_eq!(promised, ["deployment/shop/web by shop/web: success 99.9%, p99 1.5s"]);
    let patch = &patches["web"];
    assert_eq!(patch["metadata"], json!({"resourceVersion": "7"}));
    assert_eq!(condition(patch), ("True", "Accepted", ""));
    assert_eq!(patch["status"]["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn what_is_said_already_is_not_said_again() {
    let first = decided(vec![object("web", "2026-01-01T00:00:01Z", spec("web"))]).1.remove("web").unwrap();
    let mut said = object("web", "2026-01-01T00:00:01Z", spec("web"));
    let theirs = json!({"type": "Reviewed", "status": "True"});
    said.data["status"] = json!({"conditions": [theirs, first["status"]["conditions"][0]]});
    assert_eq!(decided(vec![said.clone()]).1, BTreeMap::new());
    said.data["spec"]["success"] = json!(100);
    let patch = decided(vec![said]).1.remove("web").unwrap();
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!((conditions.len(), &conditions[0]), (2, &theirs), "others' conditions stay");
    assert_eq!(conditions[1]["status"], "False");
}

#[test]
fn what_can_never_be_promised_is_named() {
    for (spec, says) in [
        (with("/targetRef/kind", json!("Gateway")), "spec.targetRef.kind: nothing can be promised of a `Gateway`"),
        (with("/targetRef/name", json!("a/b")), "spec.targetRef.name: `a/b` is no name of an object"),
        (json!({"targetRef": {"kind": "Namespace", "name": "other"}, "success": 99}), "its own namespace, shop"),
        (with("/success", json!(100)), "spec.success: `100` is not a share"),
        (with("/success", json!(99.99999)), "spec.success: `99.99999` is not a share"),
        (with("/success", json!("99")), "spec.success: invalid type"),
        (with("/latency/p99", json!("soon")), "spec.latency.p99: `soon` is not a duration"),
        (with("/latency/p50", json!("2m")), "spec.latency.p50: an objective of 120s cannot be measured"),
        (with("/latency/p90", json!("2s")), "spec.latency.p90: unknown field"),
        (json!({"targetRef": {"kind": "Deployment", "name": "web"}}), "spec: an objective promises something"),
        (json!({"success": 99}), "missing field `targetRef`"),
        (Value::Null, "spec: invalid type: null"),
    ] {
        let object = object("web", "2026-01-01T00:00:01Z", spec);
        let objection = objection(object.clone()).unwrap();
        assert!(objection.contains(says), "{says}: {objection}");
        let (promised, patches) = decided(vec![object]);
        assert_eq!(promised, Vec::<String>::new());
        assert_eq!(condition(&patches["web"]), ("False", "Invalid", objection.as_str()));
    }
    for whole in [json!(99), json!(99.0), json!(0.0001)] {
        assert_eq!(objection(object("web", "2026-01-01T00:00:01Z", with("/success", whole))), None);
    }
}

#[test]
fn of_two_for_one_resource_the_older_one_holds() {
    let older = object("younger-by-name", "2026-01-01T00:00:01Z", spec("web"));
    let newer = object("a", "2026-01-01T00:00:02Z", with("/success", json!(90)));
    let other = object("b", "2026-01-01T00:00:03Z", spec("voting"));
    let namespace = json!({"targetRef": {"kind": "Namespace", "name": "shop"}, "success": 99});
    let (promised, patches) = decided(vec![newer, older, other, object("c", "2026-01-01T00:00:04Z", namespace)]);
    assert_eq!(
        promised,
        [
            "deployment/shop/web by shop/younger-by-name: success 99.9%, p99 1.5s",
            "deployment/shop/voting by shop/b: success 99.9%, p99 1.5s",
            "namespace//shop by shop/c: success 99%",
        ]
    );
    let message = "objective shop/younger-by-name declares what is promised of deployment shop/web, and came first";
    assert_eq!(condition(&patches["a"]), ("False", "Conflicted", message));
}

#[test]
fn there_are_no_more_than_can_be_looked_at_and_no_namespace_has_them_all() {
    let of = |namespace: usize, i: usize| {
        let mut object = object(&format!("o{i:03}"), "2026-01-01T00:00:01Z", spec(&format!("d{i}")));
        object.metadata.namespace = Some(format!("n{namespace}"));
        object
    };
    let (promised, patches) = decided((0..=NAMESPACE_MAX).map(|i| of(0, i)).collect());
    assert_eq!(promised.len(), NAMESPACE_MAX);
    let (_, reason, message) = condition(&patches["o100"]);
    assert!(reason == "TooMany" && message.starts_with("100 objectives of n0 are older"), "{message}");
    let (promised, patches) = decided((0..=OBJECTIVES_MAX).map(|i| of(i / NAMESPACE_MAX, i)).collect());
    assert_eq!(promised.len(), OBJECTIVES_MAX);
    let (_, reason, message) = condition(&patches["o500"]);
    assert!(reason == "TooMany" && message.starts_with("500 objectives of this cluster are older"), "{message}");
}
