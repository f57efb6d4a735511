//! What Kubernetes would only say when it is too late: that everything named is there, that selectors select, and that nothing is
//! allowed more than it needs.

use conduit_api::access::METHODS;
use conduit_deploy::{Install, Manifest};
use serde_json::{Value, json};

fn manifests() -> Vec<Manifest> {
    let set = vec!["proxyInjector.repair=evict,identity.externalIssuer=false".to_owned()];
    let ha = Install { ha: Some("3".to_owned()), set, ..Install::default() };
    let small = Install { raft_storage: Some("emptydir".to_owned()), without_prometheus: true, ..Install::default() };
    let issuer = |name| Some(format!("{}/tests/issuer/{name}", env!("CARGO_MANIFEST_DIR")).into());
    let own = Install {
        identity_issuer_certificate_file: issuer("issuer.crt"),
        identity_issuer_key_file: issuer("issuer.key"),
        identity_trust_anchors_file: issuer("anchors.crt"),
        ..Install::default()
    };
    let manifests = [Install::default(), ha, small, own];
    manifests.iter().map(|install| install.manifest("mesh").expect("the flags are right")).collect()
}

fn of_kind<'a>(manifest: &'a Manifest, kind: &str) -> Vec<&'a Value> {
    manifest.objects().iter().filter(|object| object["kind"] == kind).collect()
}

fn exists(manifest: &Manifest, kind: &str, name: &Value) -> bool {
    of_kind(manifest, kind).iter().any(|object| object["metadata"]["name"] == *name)
}

/// Templates of pods.
fn pods(manifest: &Manifest) -> Vec<&Value> {
    let owners = [of_kind(manifest, "StatefulSet"), of_kind(manifest, "Deployment")].concat();
    owners.iter().map(|owner| &owner["spec"]["template"]).collect()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn selects(labels: &Value, pod: &Value) -> bool {
    labels
        .as_object()
        .expect("a selector has labels")
        .iter()
        .all(|(key, value)| pod["metadata"]["labels"][key] == *value)
}

fn container(pod: &Value) -> &Value {
    let containers = items(&pod["spec"]["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}

fn has_port(pod: &Value, name: &Value) -> bool {
    items(&container(pod)["ports"]).iter().any(|port| port["name"] == *name)
}

#[test]
fn kinds_come_in_the_order_in_which_they_are_needed() {
    let kinds = |manifest: &Manifest| -> Vec<String> {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        manifest.objects().iter().map(|o| format!("{} {}", o["kind"].as_str().unwrap(), name(o))).collect()
    };
    let default = [
        "Namespace mesh",
        "CustomResourceDefinition objectives.conduit.io",
        "ServiceAccount conduit-controller",
        "ClusterRole conduit-mesh-controller",
        "ClusterRoleBinding conduit-mesh-controller",
        "Role conduit-controller",
        "RoleBinding conduit-controller",
        "RoleBinding conduit-mesh-controller",
        "ClusterRole conduit-mesh-view",
        "ClusterRole conduit-mesh-edit",
        "Role conduit-web",
        "ClusterRole conduit-mesh-tap",
        "ClusterRole conduit-mesh-tap-payload",
        "ClusterRole conduit-mesh-admin",
        "ServiceAccount conduit-prometheus",
        "ClusterRole conduit-mesh-prometheus",
        "ClusterRoleBinding conduit-mesh-prometheus",
        "Service proxy-api",
        "Service api",
        "Service web",
        "Service webhook",
        "Service controller",
        "ConfigMap conduit-config",
        "StatefulSet controller",
        "MutatingWebhookConfiguration conduit-proxy-injector-mesh",
        "ValidatingWebhookConfiguration conduit-route-validator-mesh",
        "ValidatingWebhookConfiguration conduit-objective-validator-mesh",
        "APIService v1alpha1.mesh.api.conduit.io",
        "NetworkPolicy controller",
        "NetworkPolicy prometheus",
        "NetworkPolicy grafana",
        "Service prometheus",
        "Deployment prometheus",
        "ConfigMap prometheus-config",
        "ServiceAccount conduit-grafana",
        "Service grafana",
        "Deployment grafana",
        "ConfigMap grafana-config",
        "ConfigMap grafana-dashboards",
    ];
    assert_eq!(kinds(&manifests()[0]), default);
    assert!(kinds(&manifests()[1]).contains(&"PodDisruptionBudget controller".to_owned()));
    assert!(!manifests()[2].yaml().contains("kind: Deployment"));
    assert!(kinds(&manifests()[3]).contains(&"Secret conduit-identity-issuer".to_owned()));
}

#[test]
fn everything_says_what_it_belongs_to() {
    const CLUSTER_SCOPED: [&str; 7] = [
        "Namespace",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
        "APIService",
    ];
    for manifest in manifests() {
        for object in manifest.objects() {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().unwrap();
            assert_eq!(metadata["labels"]["conduit.io/control-plane-ns"], "mesh", "{name}");
            assert_eq!(
                metadata["annotations"]["conduit.io/created-by"],
                concat!("conduit/cli v", env!("CARGO_PKG_VERSION"))
            );
            if CLUSTER_SCOPED.contains(&object["kind"].as_str().unwrap()) {
                // A kind is the cluster's.
                let is_ours = name.contains("mesh") || object["kind"] == "CustomResourceDefinition";
                assert!(is_ours && metadata.get("namespace").is_none(), "{name}");
            } else if metadata["namespace"] != "mesh" {
                // What the API server publishes of itself is there, and so is who may read it.
                assert_eq!((name, &metadata["namespace"]), ("conduit-mesh-controller", &json!("kube-system")));
            }
        }
    }
}

#[test]
fn what_is_named_is_there() {
    for manifest in manifests() {
        for binding in [of_kind(&manifest, "RoleBinding"), of_kind(&manifest, "ClusterRoleBinding")].concat() {
            let role = &binding["roleRef"];
            // Every cluster has it, in kube-system.
            let is_kubernetes_own = role["name"] == "extension-apiserver-authentication-reader";
            assert!(is_kubernetes_own || exists(&manifest, role["kind"].as_str().unwrap(), &role["name"]));
            for subject in items(&binding["subjects"]) {
                assert!(exists(&manifest, "ServiceAccount", &subject["name"]) && subject["namespace"] == "mesh");
            }
        }
        for pod in pods(&manifest) {
            assert!(exists(&manifest, "ServiceAccount", &pod["spec"]["serviceAccountName"]));
            for volume in items(&pod["spec"]["volumes"]) {
                let named = [("ConfigMap", &volume["configMap"]["name"]), ("Secret", &volume["secret"]["secretName"])];
                assert!(named.iter().all(|(kind, name)| name.is_null() || exists(&manifest, kind, name)), "{volume}");
            }
        }
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            let webhook = &of_kind(&manifest, kind)[0]["webhooks"][0];
            assert!(exists(&manifest, "Service", &webhook["clientConfig"]["service"]["name"]));
            assert_eq!(webhook["clientConfig"].get("caBundle"), None);
        }
        let api = &of_kind(&manifest, "APIService")[0]["spec"];
        assert!(exists(&manifest, "Service", &api["service"]["name"]));
        assert_eq!(api.get("caBundle"), None);
    }
}

#[test]
fn selectors_select_and_ports_are_there() {
    for manifest in manifests() {
        let pods = pods(&manifest);
        for service in of_kind(&manifest, "Service") {
            let pod = pods.iter().find(|pod| selects(&service["spec"]["selector"], pod)).expect("a service has pods");
            assert!(
                items(&service["spec"]["ports"]).iter().all(|port| has_port(pod, &port["targetPort"])),
                "{service}"
            );
        }
        for kind in ["StatefulSet", "Deployment", "PodDisruptionBudget"] {
            for object in of_kind(&manifest, kind) {
                let labels = &object["spec"]["selector"]["matchLabels"];
                assert_eq!(pods.iter().filter(|pod| selects(labels, pod)).count(), 1);
                assert!(object["spec"].get("serviceName").is_none_or(|name| exists(&manifest, "Service", name)));
            }
        }
        for policy in of_kind(&manifest, "NetworkPolicy") {
            let pod = pods.iter().find(|pod| selects(&policy["spec"]["podSelector"]["matchLabels"], pod)).unwrap();
            let rules = items(&policy["spec"]["ingress"]).iter();
            let ports = rules.flat_map(|rule| items(&rule["ports"])).collect::<Vec<_>>();
            assert!(ports.iter().all(|port| has_port(pod, &port["port"])));
            assert_eq!(ports.len(), items(&container(pod)["ports"]).len(), "every port is somebody's");
        }
        for pod in pods {
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let port = &container(pod)[probe]["httpGet"]["port"];
                assert!(port.is_null() || has_port(pod, port));
            }
        }
    }
}

#[test]
fn volumes_are_mounted_and_there() {
    for manifest in manifests() {
        let owners = [of_kind(&manifest, "StatefulSet"), of_kind(&manifest, "Deployment")].concat();
        for owner in owners {
            let pod = &owner["spec"]["template"];
            let claims = items(&owner["spec"]["volumeClaimTemplates"]).iter().map(|claim| &claim["metadata"]["name"]);
            let mut there =
                items(&pod["spec"]["volumes"]).iter().map(|volume| &volume["name"]).chain(claims).collect::<Vec<_>>();
            let mut mounted =
                items(&container(pod)["volumeMounts"]).iter().map(|mount| &mount["name"]).collect::<Vec<_>>();
            there.sort_by_key(|name| name.to_string());
            mounted.sort_by_key(|name| name.to_string());
            assert_eq!(there, mounted);
        }
    }
}

/// Pod security "restricted", <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, and a root that is read only.
#[test]
fn pods_are_restricted() {
    const VOLUMES: [&str; 3] = ["configMap", "secret", "emptyDir"];
    for manifest in manifests() {
        for pod in pods(&manifest) {
            let (spec, container) = (&pod["spec"], container(pod));
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
            assert_ne!(spec["securityContext"]["runAsUser"], 0);
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            let restricted = json!({
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
            });
            assert_eq!(container["securityContext"], restricted);
            assert!(["hostNetwork", "hostPID", "hostIPC"].iter().all(|host| spec.get(host).is_none()));
            assert!(items(&container["ports"]).iter().all(|port| port.get("hostPort").is_none()));
            for volume in items(&spec["volumes"]) {
                assert!(volume.as_object().unwrap().keys().all(|key| key == "name" || VOLUMES.contains(&key.as_str())));
            }
            assert!(container["resources"]["requests"].is_object());
            assert!(container["readinessProbe"].is_object() && container["livenessProbe"].is_object());
        }
    }
}

#[test]
fn rights_are_the_least() {
    for manifest in manifests() {
        for role in [of_kind(&manifest, "Role"), of_kind(&manifest, "ClusterRole")].concat() {
            for rule in items(&role["rules"]) {
                assert!(!rule.to_string().contains('*'), "{rule}");
                let writes =
                    items(&rule["verbs"]).iter().any(|verb| ["update", "patch", "delete"].iter().any(|w| verb == w));
                let status = items(&rule["resources"]).iter().all(|of| of.as_str().unwrap().ends_with("/status"));
                // Bound to nobody, but part of the cluster's own role of who may write everything in a namespace.
                let people = role["metadata"]["name"] == "conduit-mesh-edit";
                assert!(!writes || status || people || rule.get("resourceNames").is_some(), "{rule} has no names");
                let secrets = items(&rule["resources"]).contains(&json!("secrets"));
                assert!(!secrets || role["kind"] == "Role", "Secrets of other namespaces are none of ours");
            }
        }
        // Above each rule is a line that says why.
        let yaml = manifest.yaml();
        let (roles, _) = yaml.split_once("kind: Service\n").unwrap();
        let mut commented = false;
        for line in roles.lines().map(str::trim) {
            if line.starts_with("- apiGroups") || line.starts_with("- nonResourceURLs") {
                assert!(commented, "no reason above {line}");
            }
            commented = line.starts_with('#');
        }
    }
}

/// No call is in two roles, and none in none.
#[test]
fn people_are_given_every_call_by_one_role() {
    let manifest = &manifests()[0];
    let mut given = Vec::new();
    for name in ["view", "tap", "tap-payload", "admin"] {
        let roles = of_kind(manifest, "ClusterRole");
        let role = roles.iter().find(|role| role["metadata"]["name"] == format!("conduit-mesh-{name}")).unwrap();
        let is_object = |rule: &&Value| rule["apiGroups"] == json!([conduit_api::objective::GROUP]);
        for rule in items(&role["rules"]).iter().filter(|rule| !is_object(rule)) {
            assert_eq!(rule["apiGroups"], json!([conduit_api::access::group("mesh")]));
            let call = |resource: &Value| {
                (resource.as_str().unwrap().to_owned(), rule["verbs"][0].as_str().unwrap().to_owned())
            };
            given.extend(items(&rule["resources"]).iter().map(call));
        }
    }
    given.sort();
    let page = (conduit_api::access::LIVE.to_owned(), "watch".to_owned());
    let mut all: Vec<_> =
        METHODS.iter().map(|method| (method.resource(), method.verb().to_owned())).chain([page]).collect();
    all.sort();
    assert_eq!(given, all);
}

#[test]
fn replicas_find_each_other_and_are_kept_apart() {
    let manifests = manifests();
    let controller = |manifest| -> Value { of_kind(manifest, "StatefulSet")[0].clone() };
    let (one, three) = (controller(&manifests[0]), controller(&manifests[1]));
    let peers = |controller: &Value| {
        let arguments = items(&container(&controller["spec"]["template"])["args"]).iter().map(|a| a.as_str().unwrap());
        arguments.filter_map(|argument| argument.strip_prefix("--peers=")).collect::<Vec<_>>().join("").to_owned()
    };
    assert_eq!(peers(&one), "controller-0=controller-0.controller.mesh.svc.cluster.local:8300");
    assert_eq!(peers(&three).split(',').count(), 3);
    assert!(peers(&three).ends_with(",controller-2=controller-2.controller.mesh.svc.cluster.local:8300"));
    assert_eq!((&one["spec"]["replicas"], &three["spec"]["replicas"]), (&json!(1), &json!(3)));
    assert!(one["spec"]["template"]["spec"].get("affinity").is_none());
    let apart = &three["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"];
    let required = &apart["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(required["topologyKey"], "kubernetes.io/hostname");
    assert!(selects(&required["labelSelector"]["matchLabels"], &three["spec"]["template"]));
    let preferred = &apart["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    assert_eq!(preferred["topologyKey"], "topology.kubernetes.io/zone");
    assert_eq!(of_kind(&manifests[1], "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
}

/// `kubectl apply` keeps what it has applied in an annotation, and no object may have more of them.
#[test]
fn everything_can_be_applied() {
    const ANNOTATIONS_MAX: usize = 256 * 1024;
    for manifest in manifests() {
        for object in manifest.objects() {
            let length = object.to_string().len();
            assert!(length < ANNOTATIONS_MAX * 3 / 4, "{} has {length} bytes", object["metadata"]["name"]);
        }
    }
}

#[test]
fn no_secret_is_printed() {
    for manifest in &manifests()[..3] {
        assert!(of_kind(manifest, "Secret").is_empty());
    }
}

#[test]
fn what_is_embedded_is_yaml_too() {
    for manifest in manifests() {
        for (config, key) in [
            ("conduit-config", "injection.yaml"),
            ("conduit-config", "values.yaml"),
            ("conduit-config", "defaults.yaml"),
            ("prometheus-config", "prometheus.yml"),
            ("prometheus-config", "rules.yml"),
            ("grafana-config", "datasources.yaml"),
            ("grafana-config", "dashboards.yaml"),
        ] {
            for map in of_kind(&manifest, "ConfigMap").iter().filter(|map| map["metadata"]["name"] == config) {
                let text = map["data"][key].as_str().unwrap();
                assert!(serde_yaml_ng::from_str::<Value>(text).unwrap().is_object());
            }
        }
    }
}

#[test]
fn json_is_the_same_objects() {
    let manifest = &manifests()[1];
    let list: Value = serde_json::from_str(&manifest.json()).unwrap();
    assert_eq!((&list["kind"], items(&list["items"])), (&json!("List"), manifest.objects()));
}

/// What changes nodes: everywhere, wherever its pods may be, and with no right that it does not use.
#[test]
fn the_cni_plugin_is_on_every_node() {
    let manifest = Install { cni: true, ..Install::default() }.manifest("mesh").unwrap();
    let sets = of_kind(&manifest, "DaemonSet");
    let (set, pod) = (sets[0], &sets[0]["spec"]["template"]);
    assert!(sets.len() == 1 && selects(&set["spec"]["selector"]["matchLabels"], pod));
    assert_eq!(set["metadata"]["namespace"], "kube-system", "that of the control plane is restricted");
    let spec = &pod["spec"];
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!((&spec["priorityClassName"], &spec["hostNetwork"]), (&json!("system-node-critical"), &json!(true)));
    assert!(exists(&manifest, "ServiceAccount", &spec["serviceAccountName"]));
    let context = &container(pod)["securityContext"];
    assert_eq!((&context["capabilities"], &context["privileged"]), (&json!({"drop": ["ALL"]}), &Value::Null));
    for volume in items(&spec["volumes"]) {
        let mut mounts = items(&container(pod)["volumeMounts"]).iter();
        let mount = mounts.find(|mount| mount["name"] == volume["name"]).expect("it is mounted");
        assert_eq!(mount["mountPath"], volume["hostPath"]["path"], "the plugin finds the socket by the same path");
    }
    let rules = |kind: &str, name: &str| {
        let roles = of_kind(&manifest, kind);
        roles.iter().find(|role| role["metadata"]["name"] == name).unwrap()["rules"].clone()
    };
    assert_eq!(
        rules("ClusterRole", "conduit-mesh-cni"),
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
    );
    let own = json!([{"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["conduit-cni"], "verbs": ["get"]}]);
    assert_eq!(rules("Role", "conduit-cni"), own);
    for binding in [of_kind(&manifest, "RoleBinding"), of_kind(&manifest, "ClusterRoleBinding")].concat() {
        if binding["roleRef"]["name"].as_str().unwrap().ends_with("-cni") {
            assert_eq!(
                binding["subjects"],
                json!([{"kind": "ServiceAccount", "name": "conduit-cni", "namespace": "kube-system"}])
            );
        }
    }
    assert!(manifest.yaml().contains("\n    cni: true\n"), "pods need no init container that redirects");
    assert!(of_kind(&manifests()[0], "DaemonSet").is_empty());
}
