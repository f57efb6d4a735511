//! Pods as the API server sends them, and the patches that it applies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use conduit_inject::{Decision, Redirection, Settings, Skip, removal, settings::annotations::Annotations, webhook};
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

/// Of whatever settings, and annotations of the pod.
#[test]
fn a_cni_plugin_is_told_what_the_init_container_would_have_been() {
    let ports = |text: &str| conduit_api::PortRange::list(text).unwrap();
    let other = Settings { proxy_uid: 3000, inbound_port: 1, outbound_port: 2, admin_port: 3, ..Settings::default() };
    let skips =
        Settings { skip_inbound_ports: ports("25,80-90"), skip_outbound_ports: ports("1-100"), ..other.clone() };
    for settings in [Settings::default(), other, skips] {
        for own in
            [json!({}), json!({"config.conduit.io/skip-inbound-ports": "25", "config.conduit.io/proxy-uid": "4000"})]
        {
            for native_sidecar in [false, true] {
                let mut pod = pod();
                pod["metadata"]["annotations"] = own.clone();
                let with_init = admitted(&pod, &Settings { native_sidecar, ..settings.clone() });
                assert_eq!(Redirection::of_pod(&with_init), Ok(None), "it does that by itself");
                let is_init = |container: &&Value| container["name"] == "conduit-init";
                let init = with_init["spec"]["initContainers"].as_array().unwrap().iter().find(is_init).unwrap();
                let with_cni = admitted(&pod, &Settings { native_sidecar, cni: true, ..settings.clone() });
                let mut told = vec!["init".to_owned()];
                told.extend(Redirection::of_pod(&with_cni).unwrap().unwrap().arguments());
                assert_eq!(json!(told), init["args"]);
            }
        }
    }
    assert_eq!(Redirection::of_pod(&pod()), Ok(None));
    let mut changed = admitted(&pod(), &Settings { cni: true, ..Settings::default() });
    changed["spec"]["containers"][2]["env"] = json!([]);
    assert!(Redirection::of_pod(&changed).unwrap_err().to_string().contains("CONDUIT_PROXY_PUBLIC_LISTENER"));
}

/// As Pod Security's `restricted` wants it, and by a port that is redirected.
#[test]
fn a_pod_that_a_cni_plugin_redirects_has_no_rights() {
    let all = conduit_api::PortRange::list("1-65535").unwrap();
    let web = conduit_api::PortRange::list("2-80").unwrap();
    for (skipped, port) in [(Vec::new(), Some("80")), (web, Some("1")), (all, None)] {
        let settings =
            Settings { cni: true, native_sidecar: true, skip_outbound_ports: skipped, ..Settings::default() };
        let pod = admitted(&pod(), &settings);
        assert!(!pod.to_string().contains("NET_ADMIN"));
        let first = &pod["spec"]["initContainers"][0];
        assert_eq!(port.is_some(), first["name"] == "conduit-check-redirect");
        if let Some(port) = port {
            assert_eq!(first["args"], json!(["check-redirect", "--outgoing-proxy-port", "4140", "--to-port", port]));
            let context = &first["securityContext"];
            assert_eq!((&context["runAsNonRoot"], &context["capabilities"]["drop"][0]), (&json!(true), &json!("ALL")));
            assert_ne!(context["runAsUser"], settings.proxy_uid);
        }
    }
}
