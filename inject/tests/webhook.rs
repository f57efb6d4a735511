//! Pods as the API server sends them, and the patches that it applies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use conduit_inject::{Decision, Settings, Skip, removal, settings::annotations::Annotations, webhook};
use serde_json::{Value, json};

/// JSON patch (RFC 6902), as far as it is used.
fn apply(pod: &mut Value, patch: &[Value]) {
    for operation in patch {
        let (parent, last) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let last = last.replace("~1", "/").replace("~0", "~");
        let parent = pod.pointer_mut(parent).unwrap_or_else(|| panic!("{operation}: there is no parent"));
        match (operation["op"].as_str().unwrap(), parent) {
            ("add", Value::Object(object)) => drop(object.insert(last, operation["value"].clone())),
            ("add", Value::Array(array)) if last == "-" => array.push(operation["value"].clone()),
            ("add", Value::Array(array)) => array.insert(last.parse().unwrap(), operation["value"].clone()),
            ("remove", Value::Object(object)) => drop(object.remove(&last).unwrap()),
            ("remove", Value::Array(array)) => drop(array.remove(last.parse().unwrap())),
            _ => panic!("{operation}"),
        }
    }
}

fn annotations(text: &[(&str, &str)]) -> Annotations {
    text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5d4f-",
            "labels": {"app": "web", "pod-template-hash": "5d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "controller": true}],
        },
        "spec": {
            "initContainers": [{"name": "migrate"}],
            "containers": [{"name": "web", "env": [{"name": "A", "value": "b"}]}, {"name": "other"}],
            "volumes": [{"name": "kube-api-access", "projected": {"sources": []}}],
        },
    })
}

fn admitted(pod: &Value, settings: &Settings) -> Value {
    let enabled = annotations(&[("conduit.io/inject", "enabled")]);
    let Some(Decision::Inject(injection)) = webhook::admit(pod, &enabled, settings).unwrap() else {
        panic!("it is not injected");
    };
    let mut admitted = pod.clone();
    apply(&mut admitted, &webhook::patch(&injection.operations));
    admitted
}

fn names(containers: &Value) -> Vec<&str> {
    containers.as_array().unwrap().iter().map(|container| container["name"].as_str().unwrap()).collect()
}

#[test]
fn a_pod_says_more_than_its_namespace() {
    let says = |value: Option<&str>| {
        let mut pod = pod();
        if let Some(value) = value {
            pod["metadata"]["annotations"] = json!({"conduit.io/inject": value});
        }
        pod
    };
    let namespace =
        |value: Option<&str>| value.map(|value| annotations(&[("conduit.io/inject", value)])).unwrap_or_default();
    for (own, of_namespace, wanted) in [
        (None, None, false),
        (None, Some("enabled"), true),
        (None, Some("disabled"), false),
        (Some("enabled"), None, true),
        (Some("enabled"), Some("disabled"), true),
        (Some("disabled"), Some("enabled"), false),
    ] {
        assert_eq!(webhook::is_wanted(&says(own), &namespace(of_namespace)), Ok(wanted), "{own:?}, {of_namespace:?}");
    }
    assert!(webhook::is_wanted(&says(Some("perhaps")), &namespace(Some("enabled"))).is_err());
    assert_eq!(webhook::admit(&pod(), &Annotations::new(), &Settings::default()), Ok(None));
}

#[test]
fn a_patch_adds_a_proxy_to_a_pod_and_another_takes_it_away() {
    let native = Settings { native_sidecar: true, workload_api: true, ..Settings::default() };
    for settings in [Settings::default(), native.clone(), Settings { cni: true, ..Settings::default() }] {
        let admitted = admitted(&pod(), &settings);
        let mut without = admitted.clone();
        apply(&mut without, &webhook::patch(&removal::plan(&admitted)));
        assert_eq!(without, pod());
    }
    let plain = admitted(&pod(), &Settings::default());
    assert_eq!(names(&plain["spec"]["initContainers"]), ["migrate", "conduit-init"]);
    assert_eq!(names(&plain["spec"]["containers"]), ["web", "other", "conduit-proxy"]);
    assert_eq!(plain["metadata"]["labels"]["conduit.io/proxy-deployment"], "web");
    assert!(
        plain["metadata"]["annotations"]["conduit.io/created-by"].as_str().unwrap().starts_with("conduit/webhook v")
    );
    let native = admitted(&pod(), &native);
    assert_eq!(names(&native["spec"]["initContainers"]), ["conduit-init", "conduit-proxy", "migrate"]);
    assert_eq!(names(&native["spec"]["containers"]), ["web", "other"]);
    for container in native["spec"]["containers"].as_array().unwrap() {
        assert!(container.to_string().contains("SPIFFE_ENDPOINT_SOCKET"), "{container}");
    }
}

#[test]
fn what_a_proxy_writes_down_is_said_by_namespace_and_pod() {
    let namespace = annotations(&[
        ("conduit.io/inject", "enabled"),
        ("config.conduit.io/access-log", "apache"),
        ("config.conduit.io/trace-collector", "otel.observability:4317"),
        ("config.conduit.io/trace-sampling", "0.25"),
    ]);
    let mut own = pod();
    own["metadata"]["annotations"] = json!({"config.conduit.io/access-log": "json"});
    let Ok(Some(Decision::Inject(injection))) = webhook::admit(&own, &namespace, &Settings::default()) else {
        panic!("it is not injected");
    };
    assert!(injection.warnings.is_empty(), "{:?}", injection.warnings);
    apply(&mut own, &webhook::patch(&injection.operations));
    let variable = |name: &str| {
        let env = own["spec"]["containers"][2]["env"].as_array().unwrap();
        env.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].as_str().unwrap())
    };
    assert_eq!(variable("CONDUIT_PROXY_ACCESS_LOG"), Some("json"));
    assert_eq!(variable("CONDUIT_PROXY_TRACE_COLLECTOR"), Some("otel.observability:4317"));
    assert_eq!(variable("CONDUIT_PROXY_TRACE_SAMPLING"), Some("0.25"));
    assert_eq!(variable("CONDUIT_PROXY_WORKLOAD"), Some("web"), "whose spans they are");
    let https =
        annotations(&[("conduit.io/inject", "enabled"), ("config.conduit.io/trace-collector", "https://otel:4318")]);
    let error = webhook::admit(&pod(), &https, &Settings::default()).unwrap_err().to_string();
    assert!(error.contains("spans are sent without TLS"), "{error}");
}

#[test]
fn a_pod_is_admitted_once() {
    let admitted = admitted(&pod(), &Settings::default());
    let enabled = annotations(&[("conduit.io/inject", "enabled")]);
    let again = webhook::admit(&admitted, &enabled, &Settings::default()).unwrap();
    assert_eq!(again, Some(Decision::Skip(Skip::AlreadyInjected)));
}

#[test]
fn what_a_proxy_is_told_is_what_it_reads() {
    let settings = Settings {
        workload_api: true,
        proxy_cores: Some(2),
        opaque_ports: vec!["25".parse().unwrap()],
        ..Settings::default()
    };
    let admitted = admitted(&pod(), &settings);
    let source = include_str!("../../proxy/src/config.rs");
    let main = include_str!("../../proxy/src/main.rs");
    let proxy = admitted["spec"]["containers"].as_array().unwrap().last().unwrap();
    let told: Vec<_> =
        proxy["env"].as_array().unwrap().iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    for name in &told {
        assert!(
            source.contains(&format!("\"{name}\"")) || main.contains(&format!("\"{name}\"")),
            "no proxy reads {name}"
        );
    }
    for required in source.split("env.required(\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(told.contains(&required), "{required} is missing");
    }
}
