use serde_json::json;

use super::*;

/// A route as the API server tells of it, with what its definition adds.
fn object() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "canary", "namespace": "shop", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:01Z"},
        "spec": {
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge", "sectionName": "http"},
                {"group": "", "kind": "Service", "name": "web", "port": 80},
            ],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [
                    {"group": "", "kind": "Service", "name": "web", "port": 80, "weight": 90},
                    {"group": "", "kind": "Service", "name": "web-next", "port": 80, "weight": 10},
                ],
            }],
        },
    })
}

/// The object, with something else at that place.
fn with(place: &str, value: Value) -> Value {
    let mut object = object();
    let (parent, field) = place.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
        parent => parent[field] = value,
    }
    object
}

/// What becomes of it where there are the Services `web` and `web-next`: the route, and the patch of its status.
fn decided(object: Value) -> (Option<HttpRoute>, Option<Value>) {
    let ports: Ports = [(80, "http".to_owned()), (9090, "admin".to_owned())].into();
    let (key, facts) = read(serde_json::from_value(object).unwrap()).unwrap();
    let services = |name: &ServiceName| ["shop/web", "shop/web-next"].contains(&&*name.to_string()).then_some(&ports);
    let Some(facts) = facts else { return (None, None) };
    let (route, statement) = facts.decide(&key, services);
    (route, statement.map(|statement| statement.patch(&serde_json::from_value(json!("2026-01-02T03:04:05Z")).unwrap())))
}

/// Reason and message of a condition of the first entry; reasons of what is true are its name.
fn said<'a>(patch: &'a Option<Value>, kind: &str) -> (&'a str, &'a str) {
    let conditions = patch.as_ref().unwrap()["status"]["parents"][0]["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    assert_eq!(condition["status"] == "True", condition["reason"] == kind, "{condition}");
    (condition["reason"].as_str().unwrap(), condition["message"].as_str().unwrap())
}

#[test]
fn a_route_is_what_its_file_would_be() {
    let (route, patch) = decided(object());
    let route = route.unwrap();
    assert_eq!(route.name.to_string(), "shop/canary");
    assert_eq!(route.created_ms, Some(1_767_225_601_000), "its age decides between it and others");
    let parent = ParentRef { service: "shop/web".parse().unwrap(), port: Some(80) };
    assert_eq!(route.parents, [parent].into(), "the Gateway is somebody else's");
    assert_eq!(route.rules[0].backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [90, 10]);
    assert_eq!((said(&patch, "Accepted").0, said(&patch, "ResolvedRefs").0), ("Accepted", "ResolvedRefs"));
    let patch = patch.unwrap();
    assert_eq!(patch["metadata"], json!({"resourceVersion": "7"}));
    let entries = patch["status"]["parents"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "nothing is said of the Gateway");
    assert_eq!(entries[0]["parentRef"], object()["spec"]["parentRefs"][1], "as it is written");
    assert_eq!(entries[0]["conditions"][0]["observedGeneration"], 3);
}

#[test]
fn what_is_not_carried_out_is_not_in_force_and_named() {
    for (place, value, message) in [
        (
            "/spec/rules/0/retry",
            json!({"attempts": 1}),
            "spec.rules[0].retry: unknown field `retry`, expected one of `matches`, `backendRefs`",
        ),
        ("/spec/hostnames", json!(["a"]), "spec.hostnames: unknown field `hostnames`"),
        (
            "/spec/rules/0/matches/0/path/type",
            json!("RegularExpression"),
            "spec.rules[0].matches[0].path: a path can be compared by",
        ),
        ("/spec/rules/0/matches/0/path/value", json!("x"), "spec.rules[0].matches[0].path: `x` is not a path"),
        ("/spec/rules/0/backendRefs/0/weight", json!(1_000_001), "spec.rules[0].backendRefs: a weight is at most"),
        ("/spec/rules/0/backendRefs/0/filters", json!([]), "spec.rules[0].backendRefs[0].filters: unknown field"),
        ("/metadata/name", json!("a".repeat(254)), "metadata.name: "),
        (
            "/spec/parentRefs/1/namespace",
            json!("other"),
            "spec.parentRefs[1].namespace: a route is for Services of its own",
        ),
    ] {
        let (route, patch) = decided(with(place, value));
        assert_eq!(route, None, "{place}");
        let (reason, told) = said(&patch, "Accepted");
        assert_eq!(reason, "UnsupportedValue", "{told}");
        assert!(told.starts_with(message), "{told}");
        assert_eq!(said(&patch, "ResolvedRefs").0, "ResolvedRefs", "{place}");
    }
}

#[test]
fn a_parent_is_there_or_told_to_be_missing() {
    for (parent, found) in [
        (json!({"name": "web"}), Ok(None)),
        (json!({"name": "web", "namespace": "shop", "sectionName": "admin"}), Ok(Some(9090))),
        (json!({"name": "web", "sectionName": "admin", "port": 9090}), Ok(Some(9090))),
        (
            json!({"name": "web", "sectionName": "admin", "port": 80}),
            Err("spec.parentRefs[1]: Service shop/web has no such TCP port"),
        ),
        (json!({"name": "web", "port": 81}), Err("spec.parentRefs[1]: Service shop/web has no such TCP port")),
        (json!({"name": "gone"}), Err("spec.parentRefs[1]: there is no Service shop/gone")),
    ] {
        let mut written = json!({"group": "", "kind": "Service"});
        written.as_object_mut().unwrap().extend(parent.as_object().unwrap().clone());
        let (route, patch) = decided(with("/spec/parentRefs/1", written.clone()));
        match found {
            Ok(port) => {
                assert_eq!(route.unwrap().parents.first().unwrap().port, port, "{written}");
                assert_eq!(said(&patch, "Accepted").0, "Accepted", "{written}");
            }
            Err(message) => {
                assert_eq!(route, None, "{written}");
                let (reason, told) = said(&patch, "Accepted");
                assert_eq!(reason, "NoMatchingParent", "{written}");
                assert!(told.starts_with(message), "{told}");
            }
        }
    }
}

#[test]
fn each_parent_is_judged_by_itself() {
    let missing = json!({"group": "", "kind": "Service", "name": "gone"});
    let (route, patch) = decided(with("/spec/parentRefs/0", missing));
    assert_eq!(route.unwrap().parents.len(), 1);
    assert_eq!(said(&patch, "Accepted").0, "NoMatchingParent");
    let second = &patch.as_ref().unwrap()["status"]["parents"][1]["conditions"][0];
    assert_eq!((&second["type"], &second["status"]), (&json!("Accepted"), &json!("True")));
}

#[test]
fn a_backend_is_there_or_told_to_be_missing_and_the_others_go_on() {
    for (field, value, reason, message, unresolved) in [
        ("name", json!("gone"), "BackendNotFound", "there is no Service shop/gone", 0),
        ("port", json!(81), "BackendNotFound", "Service shop/web-next has no TCP port 81", 0),
        ("port", json!(null), "BackendNotFound", "Service shop/web-next is referred to without a port", 10),
        ("name", json!("Not_A_Name"), "BackendNotFound", "`shop/Not_A_Name` is not a name", 10),
        ("kind", json!("Bucket"), "InvalidKind", "not `Bucket`", 10),
        ("group", json!("example.org"), "InvalidKind", "not `Service`", 10),
        ("namespace", json!("other"), "RefNotPermitted", "not of other", 10),
    ] {
        let (route, patch) = decided(with(&format!("/spec/rules/0/backendRefs/1/{field}"), value));
        let (told, text) = said(&patch, "ResolvedRefs");
        assert_eq!(told, reason);
        assert!(text.starts_with("spec.rules[0].backendRefs[1]") && text.contains(message), "{text}");
        assert_eq!(said(&patch, "Accepted").0, "Accepted", "{reason}");
        let rule = &route.expect("it is in force").rules[0];
        assert_eq!((rule.weight(), rule.unresolved), (100, unresolved), "{field}: its share fails, and no other");
    }
}

#[test]
fn what_is_somebody_elses_stays_so() {
    let gateway = object()["spec"]["parentRefs"][0].clone();
    let theirs = json!({"parentRef": gateway, "controllerName": "example.org/gateway", "conditions": []});
    let only_theirs = |entries: Value| {
        let mut object = with("/status", json!({"parents": entries}));
        object["spec"]["parentRefs"] = json!([gateway]);
        decided(object)
    };
    assert_eq!(only_theirs(json!([theirs])), (None, None));
    let nameless = decided(with("/spec/parentRefs", json!([{"name": "web"}])));
    assert_eq!(nameless, (None, None), "what is not said is a Gateway");
    // A parent of ours that was taken away leaves nothing behind.
    let ours = decided(object()).1.unwrap()["status"]["parents"][0].clone();
    let (route, patch) = only_theirs(json!([ours, theirs]));
    assert_eq!(route, None);
    assert_eq!(patch.unwrap()["status"]["parents"], json!([theirs]));
}

#[test]
fn what_is_said_already_is_not_said_again() {
    let status = decided(object()).1.unwrap()["status"].clone();
    let (route, patch) = decided(with("/status", status));
    assert!(route.is_some());
    assert_eq!(patch, None);
}
