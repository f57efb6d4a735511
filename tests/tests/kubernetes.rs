//! Conduit in Kubernetes: a real API server with its controllers and scheduler, what `conduit install` prints, and controllers as
//! processes that have the rights which that gives them. One cluster for all: what is asked of it is one story.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kubernetes {
    pub mod cluster;
}
mod programs;

use std::{path::Path, time::Duration};

use kubernetes::cluster::{Cluster, eventually, is_possible, within};
use serde_json::{Value, json};

const REPLICAS: usize = 3;
/// The trust bundle, as a pod of the namespace has it.
const ANCHORS: &str = "trust-bundle.pem";

fn deployment(name: &str, replicas: usize, annotations: Value) -> String {
    let labels = json!({"app": name});
    let template = json!({
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "main", "image": "played", "ports": [{"containerPort": 8080}]}]},
    });
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop", "labels": labels}, "spec": spec}).to_string()
}

fn service(name: &str) -> String {
    let spec = json!({"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        .to_string()
}

/// One that nothing has made, and nothing would make again.
fn pod(name: &str) -> String {
    let spec = json!({"containers": [{"name": "main", "image": "played"}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        .to_string()
}

fn namespace(annotations: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
        .to_string()
}

/// The pods of a deployment that are not about to go.
fn pods(cluster: &Cluster, app: &str) -> Vec<Value> {
    let list = cluster.get(&format!("-n shop pods -l app={app}")).unwrap();
    let items = list["items"].as_array().unwrap().clone();
    items.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
}

/// In the order in which they start.
fn containers(pod: &Value) -> Vec<&str> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().map(|container| container["name"].as_str().unwrap()).collect()
}

/// The ready endpoints of a service, as that controller would tell a proxy: how many, and what is said of them.
fn endpoints(cluster: &Cluster, controller: &str, service: &str) -> Option<(usize, String)> {
    let found = cluster.ask(controller, &format!("explain deploy/client svc/{service}:80 -n shop -o json"))?;
    let found: Value = serde_json::from_str(&found).ok()?;
    let step = found["steps"].as_array()?.iter().find(|step| step["about"] == "endpoint")?;
    let (decision, reason) = (step["decision"].as_str()?, step["reason"].as_str()?);
    if reason.starts_with("the only ready endpoint") {
        return Some((1, decision.to_owned()));
    }
    let (count, names) = reason.split_once(" ready endpoints")?;
    Some((count.parse().ok()?, names.to_owned()))
}

#[test]
fn a_control_plane_lives_in_a_cluster() {
    if !is_possible() {
        return;
    }
    let mut cluster = Cluster::start();
    install(&mut cluster);
    upgrade(&mut cluster);
    everything_is_kept(&cluster);
    pods_get_proxies(&cluster);
    endpoints_follow(&cluster);
    workloads_get_identities(&mut cluster);
    a_job_ends_without_a_native_sidecar(&mut cluster);
    what_fails_says_why(&cluster);
    people_ask_by_their_rights(&cluster);
    pages_come_through_the_api_server(&mut cluster);
    pods_without_a_proxy_are_found(&cluster);
    routes_are_followed(&cluster);
    objectives_are_kept_as_objects(&cluster);
    // An API server that has just started knows of nobody's rights for a moment: so this comes first.
    nothing_was_forbidden(&cluster);
    an_api_server_that_is_away_changes_nothing(&mut cluster);
    a_leader_that_dies_is_followed_by_one_that_watches(&mut cluster);
    nothing_is_left(&mut cluster);
}

/// As it was installed by an earlier release.
const EARLIER: &str = include_str!("kubernetes/earlier.yaml");
/// What that installation is given, now as then, but for Prometheus, which is to go.
const FLAGS: &str = "--ha --raft-storage=emptydir --without-prometheus --set=proxyInjector.repair=evict";

/// Three replicas that agree, in an installation by an earlier release.
fn install(cluster: &mut Cluster) {
    cluster.apply(EARLIER);
    for number in 0..REPLICAS {
        cluster.start_controller(&format!("controller-{number}"), REPLICAS);
    }
    all_vote(cluster);
}

fn all_vote(cluster: &Cluster) {
    eventually("all replicas are voters", || {
        let status: Value = serde_json::from_str(&cluster.ask("controller-0", "raft status -o json")?).ok()?;
        let members = status["members"].as_array()?.clone();
        let is_well = |member: &Value| member["voter"] == true && member["role"] != "unreachable";
        (members.len() == REPLICAS && members.iter().all(is_well)).then_some(())
    });
}

/// To this release, by what it prints, and by nothing else.
fn upgrade(cluster: &mut Cluster) {
    let admin = cluster.admin();
    let kept = |cluster: &Cluster| {
        let roots =
            eventually("the trust bundle is there", || cluster.get("-n default configmap conduit-trust-bundle"));
        let gate = cluster.get("-n conduit configmap conduit-bootstrap").unwrap();
        (roots["data"].clone(), gate["metadata"]["uid"].clone(), gate["data"].clone())
    };
    let before = kept(cluster);
    let refused = |flags: &str, says: &str| {
        let (success, output) = cluster.through_api_server(&admin, &format!("upgrade {flags}"));
        assert!(!success && output.contains(says), "upgrade {flags}: {output}");
    };
    refused("", "did not keep its values");
    refused(
        "--reset-values --raft-storage=emptydir",
        "2 of 3 controllers that vote would go (controller-1, controller-2)",
    );
    refused("--reset-values --ha", "persistent volumes are for new StatefulSets only");
    refused(
        &format!("--reset-values {FLAGS} --identity-trust-domain=example.org"),
        "the trust domain is cluster.local",
    );
    refused("-c elsewhere", "not installed in the \"elsewhere\" namespace");
    let (success, plan) = cluster.through_api_server(&admin, &format!("upgrade --plan --reset-values {FLAGS}"));
    for line in [
        "\n+ APIService v1alpha1.conduit.api.conduit.io\n",
        "\n~ ConfigMap conduit/conduit-config\n    data.defaults.yaml\n    data.values.yaml\n",
        "\n- Deployment conduit/prometheus\n",
        "\nControllers are replaced one at a time",
        " 0 refused",
    ] {
        assert!(success && plan.contains(line), "{line}: {plan}");
    }
    let (success, manifests) = cluster.through_api_server(&admin, &format!("upgrade --reset-values {FLAGS}"));
    assert!(success, "{manifests}");
    cluster.apply(&manifests);
    cluster.kubectl("-n conduit rollout status statefulset controller --timeout 120s");
    for number in 0..REPLICAS {
        cluster.restart_controller(&format!("controller-{number}"), REPLICAS);
        all_vote(cluster);
    }
    assert_eq!(kept(cluster), before, "it is the same control plane");
    nothing_changes_by_itself(cluster);
    what_is_gone_is_named(cluster);
}

/// What was chosen is kept.
fn nothing_changes_by_itself(cluster: &Cluster) {
    let (again, notes) = cluster.conduit(&format!("install {FLAGS}"), "");
    assert_eq!(notes, "");
    let (success, upgraded) = cluster.through_api_server(&cluster.admin(), "upgrade");
    assert!(success && upgraded == again, "{upgraded}");
    let (same, difference) = cluster.try_kubectl("diff -f -", &again);
    assert!(same, "installed again, something would change: {difference}");
    let (success, plan) = cluster.through_api_server(&cluster.admin(), "upgrade --plan");
    assert!(success && plan.contains("\n0 to be created, 0 changed, 0 refused, "), "{plan}");
    assert!(plan.contains("No controller is restarted."), "{plan}");
}

fn what_is_gone_is_named(cluster: &Cluster) {
    let admin = cluster.admin();
    let (success, printed) = cluster.through_api_server(&admin, "prune");
    assert!(success, "{printed}");
    let is_there = |name: &str| printed.contains(&format!("  name: {name}\n"));
    assert!(
        ["prometheus", "conduit-prometheus", "conduit-conduit-prometheus", "prometheus-config"]
            .into_iter()
            .all(is_there)
    );
    let kept =
        ["conduit-seed", "conduit-root", "conduit-trust-bundle", "conduit-bootstrap", "conduit-config", "conduit"];
    assert!(!kept.into_iter().any(is_there), "{printed}");
    let (success, output) = cluster.try_kubectl("delete -f -", &printed);
    assert!(success, "{output}");
    let (success, printed) = cluster.through_api_server(&admin, "prune");
    assert!(success && printed.is_empty(), "{printed}");
    cluster.get("-n conduit secret conduit-seed").unwrap();
}

fn everything_is_kept(cluster: &Cluster) {
    eventually("the seed and the sealed root are in Secrets", || {
        cluster.get("-n conduit secret conduit-seed")?;
        cluster.get("-n conduit secret conduit-root")
    });
    let bundle = |namespace: &str| cluster.get(&format!("-n {namespace} configmap conduit-trust-bundle"));
    let first = eventually("the trust bundle is in a namespace", || bundle("default"));
    cluster.apply(&namespace(json!({})));
    let new = eventually("the trust bundle comes to a new namespace", || bundle("shop"));
    assert_eq!(new["data"], first["data"]);
    cluster.kubectl("-n shop delete configmap conduit-trust-bundle");
    eventually("a trust bundle that somebody has deleted comes back", || bundle("shop"));
    let webhook = "mutatingwebhookconfiguration conduit-proxy-injector-conduit";
    eventually("the API server is told whom to expect behind the webhook", || {
        cluster.get(webhook)?["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(ToOwned::to_owned)
    });
}

/// The webhook adds what the command adds.
fn pods_get_proxies(cluster: &Cluster) {
    cluster.apply(&deployment("plain", 1, json!({})));
    eventually("a pod that nobody wants a proxy for has none", || {
        pods(cluster, "plain").first().map(|pod| assert_eq!(containers(pod), ["main"]))
    });
    cluster.apply(&pod("alone"));
    cluster.apply(&namespace(json!({"conduit.io/inject": "enabled"})));
    cluster.apply(&deployment("web", 2, json!({})));
    cluster.apply(&deployment("client", 1, json!({})));
    let by_webhook = eventually("pods of the namespace have proxies", || {
        let pods = pods(cluster, "web");
        (pods.len() == 2).then(|| pods[0].clone())
    });
    assert_eq!(containers(&by_webhook), ["conduit-init", "conduit-proxy", "main"]);
    let wrong = deployment("wrong", 1, json!({"config.conduit.io/skip-inbound-ports": "http"}));
    cluster.apply(&wrong);
    eventually("who has made a mistake in an annotation is told so", || {
        let sets = cluster.get("-n shop replicasets -l app=wrong")?;
        let condition = sets["items"][0]["status"]["conditions"][0]["message"].as_str()?.to_owned();
        condition.contains("config.conduit.io/skip-inbound-ports").then_some(())
    });
    let (injected, notes) =
        cluster.conduit("inject -", &deployment("by-hand", 1, json!({"conduit.io/inject": "disabled"})));
    assert!(notes.contains("\"by-hand\" skipped"), "{notes}");
    assert!(!injected.contains("conduit-proxy"), "{injected}");
    let (injected, _) = cluster.conduit("inject -", &deployment("by-hand", 1, json!({})));
    cluster.apply(&injected);
    let by_hand = eventually("what was injected by hand runs", || pods(cluster, "by-hand").first().cloned());
    let added = |pod: &Value| {
        let spec = &pod["spec"];
        let by_name = |list: &Value, name: &str| {
            list.as_array().unwrap().iter().find(|entry| entry["name"] == name).cloned().unwrap_or_default()
        };
        let mut proxy = by_name(&spec["initContainers"], "conduit-proxy");
        // Each pod has a name of its own for what it mounts by itself.
        proxy.as_object_mut().unwrap().remove("volumeMounts");
        (proxy, by_name(&spec["volumes"], "conduit-identity-token"), spec["initContainers"][0]["args"].clone())
    };
    assert_eq!(added(&by_hand), added(&by_webhook));
}

/// The leader looks for such pods once a minute.
const LOOKED_FOR: Duration = Duration::from_secs(150);

/// They were made before anybody wanted proxies for them.
fn pods_without_a_proxy_are_found(cluster: &Cluster) {
    within(LOOKED_FOR, "a pod that has none is evicted, and comes back with one", || {
        let pods = pods(cluster, "plain");
        pods.iter().any(|pod| containers(pod).contains(&"conduit-proxy")).then_some(())
    });
    let told = |pod: &str| {
        let events = cluster.get("-n shop events --field-selector reason=NoProxy")?;
        let told = events["items"].as_array()?.iter().filter(|event| event["involvedObject"]["name"] == pod).count();
        (told > 0).then_some(told)
    };
    assert_eq!(eventually("whoever looks after a pod is told", || told("alone")), 1);
    let alone = cluster.get("-n shop pod alone").unwrap();
    assert!(alone["metadata"]["deletionTimestamp"].is_null(), "nobody would bring it back");
    let (_, output) = cluster.through_api_server(&cluster.admin(), "check --proxy -n shop -o grouped");
    assert!(output.contains("1 have none: shop/alone"), "{output}");
}

/// What the cluster says of pods and services comes to every replica.
fn endpoints_follow(cluster: &Cluster) {
    cluster.apply(&service("web"));
    for replicas in [2, 4, 1] {
        cluster.kubectl(&format!("-n shop scale deployment web --replicas {replicas}"));
        for number in 0..REPLICAS {
            let controller = format!("controller-{number}");
            eventually(&format!("{controller} knows of {replicas} endpoints"), || {
                let (count, named) = endpoints(cluster, &controller, "web")?;
                let pods = pods(cluster, "web");
                let is_named = |pod: &Value| named.contains(pod["metadata"]["name"].as_str().unwrap());
                // Of more than three, three are named.
                let is_right = pods.iter().filter(|pod| is_named(pod)).count() == replicas.min(3);
                (count == replicas && pods.len() == replicas && is_right).then_some(())
            });
        }
    }
}

/// A route of these requests to `backend`; `more` is what its rule says else.
fn route(name: &str, backend: &str, more: Value) -> String {
    let mut rule = json!({"backendRefs": [{"name": backend, "port": 80}]});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let parents = [json!({"group": "", "kind": "Service", "name": "web", "port": 80})];
    let metadata = json!({"name": name, "namespace": "shop"});
    let spec = json!({"parentRefs": parents, "rules": [rule]});
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata, "spec": spec})
        .to_string()
}

/// The names of the routes that a controller has.
fn routes(cluster: &Cluster, controller: &str) -> Option<Vec<String>> {
    let listed: Value = serde_json::from_str(&cluster.ask(controller, "get httproutes -n shop -o json")?).ok()?;
    listed.as_array()?.iter().map(|route| Some(route["metadata"]["name"].as_str()?.to_owned())).collect()
}

fn all_have_routes(cluster: &Cluster, names: &[&str]) {
    for number in 0..REPLICAS {
        let controller = format!("controller-{number}");
        eventually(&format!("{controller} has the routes {names:?}"), || {
            (routes(cluster, &controller)? == names).then_some(())
        });
    }
}

/// What we say of the route's one parent: the conditions that are not true, each with its message.
fn complaints(cluster: &Cluster, name: &str) -> Option<Vec<(String, String)>> {
    let route = cluster.get(&format!("-n shop httproute {name}"))?;
    let entries = route["status"]["parents"].as_array()?;
    let entry = entries.iter().find(|entry| entry["controllerName"] == "conduit.io/controller")?;
    assert_eq!(entry["parentRef"], route["spec"]["parentRefs"][0]);
    let conditions = entry["conditions"].as_array()?.iter();
    if !conditions.clone().all(|condition| condition["observedGeneration"] == route["metadata"]["generation"]) {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let is_false = |condition: &&Value| condition["status"] != "True";
    Some(conditions.filter(is_false).map(|c| (text(&c["reason"]), text(&c["message"]))).collect())
}

/// What the cluster says of routes comes to every replica, and what becomes of them is said there.
fn routes_are_followed(cluster: &Cluster) {
    let log = |number| cluster.log(&format!("controller-{number}"));
    let missed = |number| log(number).lines().filter(|line| line.contains("the cluster has no HTTPRoutes")).count();
    let most = (0..REPLICAS).map(missed).max();
    assert_eq!(most, Some(1), "that there is no such kind is said once");
    cluster.install_gateway_api();
    // The next leader looks at once.
    let status: Value = serde_json::from_str(&cluster.ask("controller-0", "raft status -o json").unwrap()).unwrap();
    let other =
        status["members"].as_array().unwrap().iter().find(|member| member["id"] != status["leader_id"]).unwrap();
    let other = other["name"].as_str().unwrap();
    eventually("another replica leads", || cluster.ask("controller-0", &format!("raft transfer {other}")));

    cluster.apply(&route("kept", "web", json!({})));
    all_have_routes(cluster, &["kept"]);
    eventually("it is accepted", || complaints(cluster, "kept")?.is_empty().then_some(()));
    what_is_printed_is_accepted(cluster);
    a_route_says_what_it_lacks(cluster);
    others_are_left_alone(cluster);
    let refused = cluster.refused("controller-0", "delete httproute kept -n shop");
    assert!(refused.contains("kubectl"), "{refused}");
}

/// What `conduit profile` writes is of the Gateway API as the cluster has it, and for a Service.
fn what_is_printed_is_accepted(cluster: &Cluster) {
    let (printed, _) = cluster.conduit("profile web.shop:80 --template", "");
    cluster.apply(&printed);
    all_have_routes(cluster, &["kept", "web-80-get-example", "web-80-other", "web-80-v1-items"]);
    for name in ["web-80-get-example", "web-80-other", "web-80-v1-items"] {
        eventually("it is accepted", || complaints(cluster, name)?.is_empty().then_some(()));
    }
    cluster.kubectl("-n shop delete httproute web-80-get-example web-80-other web-80-v1-items");
    all_have_routes(cluster, &["kept"]);
}

fn a_route_says_what_it_lacks(cluster: &Cluster) {
    let unsupported = json!({"filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "a"}}]});
    let unsupported = route("wrong", "web", unsupported);
    eventually("who writes it is warned", || {
        let (_, said) = cluster.try_kubectl("apply --dry-run=server --warnings-as-errors -f -", &unsupported);
        said.contains("Warning: conduit: spec.rules[0].filters[0]").then_some(())
    });
    cluster.apply(&unsupported);
    eventually("what is not carried out is named", || {
        let (reason, message) = complaints(cluster, "wrong")?.first()?.clone();
        (reason == "UnsupportedValue" && message.starts_with("spec.rules[0].filters[0]")).then_some(())
    });
    assert_eq!(routes(cluster, "controller-0").unwrap(), ["kept"], "half a route is none");
    cluster.apply(&route("wrong", "late", json!({})));
    eventually("a backend that is missing is named", || {
        let (reason, message) = complaints(cluster, "wrong")?.first()?.clone();
        (reason == "BackendNotFound" && message.contains("shop/late")).then_some(())
    });
    all_have_routes(cluster, &["kept", "wrong"]);
    cluster.apply(&service("late"));
    eventually("a backend that has come is seen", || complaints(cluster, "wrong")?.is_empty().then_some(()));
    cluster.kubectl("-n shop delete service late");
    eventually("and one that has gone", || (!complaints(cluster, "wrong")?.is_empty()).then_some(()));
    cluster.kubectl("-n shop delete httproute wrong");
    all_have_routes(cluster, &["kept"]);
}

/// Others' entries stay, and ours goes with its parent.
fn others_are_left_alone(cluster: &Cluster) {
    let theirs = json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
        "controllerName": "example.org/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    cluster.apply(&route("shared", "web", json!({})));
    eventually("it is accepted", || complaints(cluster, "shared")?.is_empty().then_some(()));
    let mut entries = cluster.get("-n shop httproute shared").unwrap()["status"]["parents"].clone();
    entries.as_array_mut().unwrap().insert(0, theirs.clone());
    let patch = |patch: Value, more: &str| {
        cluster.kubectl(&format!("-n shop patch httproute shared --type merge {more} -p {patch}"));
    };
    patch(json!({"status": {"parents": entries}}), "--subresource status");
    patch(json!({"spec": {"parentRefs": [theirs["parentRef"]]}}), "");
    eventually("what we have said of it is taken away", || {
        let entries = cluster.get("-n shop httproute shared")?["status"]["parents"].clone();
        (entries == json!([theirs])).then_some(())
    });
    all_have_routes(cluster, &["kept"]);
}

/// A promise about a deployment.
fn objective(name: &str, deployment: &str, more: Value) -> String {
    let mut spec = json!({"targetRef": {"kind": "Deployment", "name": deployment}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({"name": name, "namespace": "shop"});
    json!({"apiVersion": "conduit.io/v1alpha1", "kind": "Objective", "metadata": metadata, "spec": spec}).to_string()
}

/// What is promised in the namespace, by which objects, as that controller knows it.
fn promised(cluster: &Cluster, controller: &str) -> Option<Vec<(String, Option<String>)>> {
    let listed: Value = serde_json::from_str(&cluster.ask(controller, "slo list -n shop -o json")?).ok()?;
    let promised = listed["objectives"].as_array()?.iter().map(|objective| {
        let goals = objective["objectives"].as_array()?.iter().map(|goal| goal["objective"].as_str());
        let goals = goals.collect::<Option<Vec<_>>>()?.join(", ");
        let declared_by = objective["declared_by"].as_str().map(str::to_owned);
        Some((format!("{}: {goals}", objective["resource"]["name"].as_str()?), declared_by))
    });
    promised.collect()
}

/// They hold as long as there are objects, on every replica, and their status says what becomes of them.
fn objectives_are_kept_as_objects(cluster: &Cluster) {
    let all_know = |expected: &[(&str, Option<&str>)]| {
        for number in 0..REPLICAS {
            let controller = format!("controller-{number}");
            eventually(&format!("{controller} knows that {expected:?} is promised"), || {
                let promised = promised(cluster, &controller)?;
                let promised: Vec<_> = promised.iter().map(|(goals, by)| (goals.as_str(), by.as_deref())).collect();
                (promised == expected).then_some(())
            });
        }
    };
    let says = |name: &str, expected: &str| {
        eventually(&format!("{name} is {expected}"), || {
            let found = cluster.kubectl(&format!("-n shop get slo {name} -o wide --no-headers"));
            found.split_whitespace().any(|cell| cell == expected).then_some(())
        });
    };
    let refused = |objective: String, message: &str| {
        eventually(&format!("it is refused: {message}"), || {
            let (success, said) = cluster.try_kubectl("apply -f -", &objective);
            (!success && said.contains(message)).then_some(())
        });
    };
    for (more, message) in [
        (json!({}), "an objective promises something"),
        (json!({"success": 100}), "spec.success"),
        (json!({"latency": {"p99": "2m"}}), "latencies are counted from 1ms to 60s"),
        (json!({"latency": {"p99": "soon"}}), "spec.latency.p99"),
        (json!({"latency": {"p90": "1s"}}), "p90"),
        (json!({"targetRef": {"kind": "Gateway", "name": "web"}, "success": 99}), "spec.targetRef.kind"),
        // No schema can say this.
        (json!({"success": 99.99999}), "at most four decimals"),
        (json!({"targetRef": {"kind": "Namespace", "name": "default"}, "success": 99}), "its own namespace, shop"),
    ] {
        refused(objective("wrong", "web", more), message);
    }

    cluster.apply(&objective("web", "web", json!({"success": 99.9, "latency": {"p99": "1s"}})));
    all_know(&[("web: success 99.9%, p99 1s", Some("shop/web"))]);
    says("web", "True");
    for command in ["slo set deploy/web --success 90 -n shop", "slo remove deploy/web -n shop"] {
        let refused = cluster.refused("controller-1", command);
        assert!(refused.contains("kubectl -n shop edit objectives.conduit.io web"), "{refused}");
    }
    // By its name the later one, also if both are of the same second.
    cluster.apply(&objective("web-again", "web", json!({"success": 90})));
    says("web-again", "Conflicted");
    cluster.apply(&objective("web", "web", json!({"success": 99})));
    all_know(&[("web: success 99%", Some("shop/web"))]);
    cluster.kubectl("-n shop delete objective web");
    all_know(&[("web: success 90%", Some("shop/web-again"))]);
    says("web-again", "True");

    // What one person has set stays when the objects go.
    cluster.ask("controller-0", "slo set deploy/client --success 95 -n shop").unwrap();
    cluster.kubectl("-n shop delete objective web-again");
    all_know(&[("client: success 95%", None)]);
    cluster.ask("controller-0", "slo remove deploy/client -n shop").unwrap();

    // Who may write workloads may promise something of them.
    cluster.kubectl("-n shop create serviceaccount editor");
    cluster.kubectl("-n shop create rolebinding editor --clusterrole edit --serviceaccount shop:editor");
    let can = |verb: &str, who: &str| {
        let asked = format!("-n shop auth can-i {verb} objectives.conduit.io --as system:serviceaccount:shop:{who}");
        cluster.try_kubectl(&asked, "").0
    };
    eventually("the cluster's own roles know of it", || {
        (can("create", "editor") && can("list", "viewer")).then_some(())
    });
    assert!(!can("create", "viewer"));
}

/// Who a pod is, its token says, and the API server.
fn workloads_get_identities(cluster: &mut Cluster) {
    let bundle = cluster.get("-n shop configmap conduit-trust-bundle").unwrap();
    std::fs::write(cluster.path(ANCHORS), bundle["data"]["trust-bundle.pem"].as_str().unwrap()).unwrap();
    let (pod, proxy) = proxy_of(cluster, "web");
    cluster.spawn(&pod, proxy);
    has_identity(cluster, &pod);
}

/// A pod that the scheduler has no node for, and one whose image cannot be pulled: whichever replica is asked.
fn what_fails_says_why(cluster: &Cluster) {
    let pod = |name: &str, annotations: Value, selector: Value| {
        let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations});
        let containers = json!([{"name": "main", "image": "registry.example/none:1"}]);
        let spec = json!({"containers": containers, "nodeSelector": selector});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
    };
    cluster.apply(&pod("nowhere", json!({}), json!({"test.conduit.io/no-such": "node"})));
    let waiting = json!({"test.conduit.io/waiting": "ImagePullBackOff:Back-off pulling image"});
    cluster.apply(&pod("unpulled", waiting, json!({})));
    let failing = |replica: &str, name: &str| {
        let pods: Value = serde_json::from_str(&cluster.ask(replica, "-n shop get pods -o json")?).ok()?;
        pods["failing"].as_array()?.iter().find(|failing| failing["pod"] == name).cloned()
    };
    for number in 0..REPLICAS {
        let replica = format!("controller-{number}");
        let unpulled = eventually("a failing container is told of", || failing(&replica, "unpulled"));
        let expected = json!({
            "namespace": "shop", "pod": "unpulled", "container": "main", "image": "registry.example/none:1",
            "reason": "ImagePullBackOff", "message": "Back-off pulling image",
        });
        assert_eq!(unpulled, expected);
        let nowhere = eventually("a pod without a node is told of", || failing(&replica, "nowhere"));
        assert_eq!((&nowhere["reason"], &nowhere["container"]), (&json!("Unschedulable"), &Value::Null), "{nowhere}");
        assert!(
            nowhere["message"].as_str().is_some_and(|message| message.contains("nodes are available")),
            "{nowhere}"
        );
    }
    let (success, said) = cluster.through_api_server(&cluster.admin(), "-n shop get pods -o json");
    assert!(success && said.contains(r#""reason": "ImagePullBackOff""#), "{said}");
    cluster.kubectl("-n shop delete pod nowhere unpulled --grace-period=0 --force");
    eventually("what is gone does not fail", || {
        (0..REPLICAS).all(|number| failing(&format!("controller-{number}"), "unpulled").is_none()).then_some(())
    });
}

/// Its proxy is a container like the others, and ends when these have.
fn a_job_ends_without_a_native_sidecar(cluster: &mut Cluster) {
    let template = json!({
        "metadata": {"labels": {"app": "once"}, "annotations": {"config.conduit.io/proxy-enable-native-sidecar": "false"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "played"}]},
    });
    let metadata = json!({"name": "once", "namespace": "shop"});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}});
    cluster.apply(&job.to_string());
    eventually("the Job has a pod", || (pods(cluster, "once").len() == 1).then_some(()));
    let own = pods(cluster, "once")[0].clone();
    let containers: Vec<_> = own["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(containers.len(), 2, "{containers:?}");
    let (pod, proxy) = proxy_of(cluster, "once");
    cluster.spawn(&pod, proxy);
    has_identity(cluster, &pod);
    eventually("it is told what there is", || cluster.log(&pod).contains("discovery is connected").then_some(()));
    assert_eq!(cluster.ended(&pod), None, "its application runs");

    cluster.kubectl(&format!("-n shop annotate pod {pod} test.conduit.io/exit-code=0"));
    let ended = eventually("its proxy ends", || cluster.ended(&pod));
    assert!(ended.success(), "{ended}: {}", cluster.log(&pod));
    cluster.kubectl(&format!("-n shop annotate pod {pod} test.conduit.io/proxy-exit-code=0"));
    cluster.kubectl("-n shop wait --for=condition=Complete job/once --timeout=60s");
    cluster.kubectl("-n shop delete job once");
}

/// By way of the API server, which knows who asks, and whether they may.
fn people_ask_by_their_rights(cluster: &Cluster) {
    let admin = cluster.admin();
    let asks = |who: &Path, what: &str, expected: &str| {
        eventually(&format!("`conduit {what}` says {expected:?}"), || {
            let (success, output) = cluster.through_api_server(who, what);
            (success && output.contains(expected)).then_some(())
        });
    };
    let refused = |who: &Path, what: &str, says: &str| {
        let (success, output) = cluster.through_api_server(who, what);
        assert!(!success && output.contains(says), "conduit {what}: {output}");
    };
    let pod = pods(cluster, "web")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    asks(&admin, "raft status", "controller-2");
    asks(&admin, "stat deploy -n shop", "web");
    let selected = |flags: &str| cluster.through_api_server(&admin, &format!("stat deploy {flags}"));
    let (_, of_one) = selected("-n shop -l app=web");
    assert!(of_one.contains("web") && !of_one.contains("client"), "{of_one}");
    let (_, of_others) = selected("-A -l app,app!=web");
    assert!(!of_others.contains("web ") && of_others.contains("client"), "{of_others}");
    refused(&admin, "stat deploy -l =web", "cannot list Deployments with the labels =web: found '='");
    asks(&admin, "routes svc -n shop", "web:80");
    let (success, of_none) = cluster.through_api_server(&admin, "routes svc -n shop -l none=here");
    assert!(success && !of_none.contains("web:80"), "{of_none}");
    refused(&admin, "routes svc -l =web", "cannot list Services with the labels =web: found '='");
    asks(&admin, &format!("identity -n shop {pod}"), "spiffe://cluster.local/ns/shop/sa/default");
    asks(&admin, &format!("diagnostics proxy-metrics pod/{pod} -n shop"), "conduit_proxy_ready 1");
    asks(&admin, "diagnostics controller-metrics", "# CONTROLLER controller-2");
    asks(&admin, "version --proxy", "Proxy version: v");
    asks(&admin, "check --pre", "can create StatefulSets");
    for says in [
        "control plane pods are ready",
        "the API server trusts the webhook",
        "the API server reaches the Conduit API",
        "a quorum of replicas is reachable",
    ] {
        asks(&admin, "check -o grouped", &format!("√ {says}"));
    }
    let deny = "ca deny spiffe://cluster.local/ns/shop/sa/nobody";
    asks(&admin, deny, "nobody");
    asks(&admin, "history", "kubernetes:kubernetes-admin");
    refused(&admin, "-c elsewhere raft status", "conduit install --conduit-namespace elsewhere");

    // Who may look at one namespace may look at its figures, and at nothing else.
    let viewer = cluster.person("shop", "viewer");
    refused(&viewer, "stat deploy -n shop", "shop:viewer");
    cluster.kubectl("-n shop create rolebinding viewer --clusterrole view --serviceaccount shop:viewer");
    asks(&viewer, "stat deploy -n shop", "web");
    asks(&viewer, "pods -n shop", &pod);
    asks(&viewer, "stat deploy -n shop -l app=web", "web");
    asks(&viewer, "diagnostics endpoints web.shop", &pod);
    for (what, resource) in [
        ("stat deploy -n default", "stat"),
        ("stat deploy -A", "stat"),
        ("tap deploy/web -n shop", "tap"),
        ("tap deploy/web -n shop --payload", "tappayload"),
        ("raft status", "raftstatus"),
        ("diagnostics endpoints kubernetes.default", "endpoints"),
        ("diagnostics controller-metrics", "controllermetrics"),
        (deny, "cadeny"),
    ] {
        refused(&viewer, what, &format!("\"{resource}\""));
    }
    asks(&admin, "--as system:serviceaccount:shop:viewer stat deploy -n shop", "web");
    refused(&admin, "--as system:serviceaccount:shop:viewer raft status", "raftstatus");

    // A stream as well.
    let snapshot = cluster.path("state.snapshot");
    asks(&admin, &format!("raft snapshot save {}", snapshot.display()), "state.snapshot");
    // It asks groups that did not answer when they were new again later.
    eventually("the API server lists what can be asked", || {
        let listed = cluster.kubectl("api-resources --cached=false --api-group conduit.api.conduit.io -o name");
        listed.contains("stat.conduit.api.conduit.io").then_some(())
    });
}

/// The dashboard, of whose pages the API server knows who has opened them.
fn pages_come_through_the_api_server(cluster: &mut Cluster) {
    const PAGES: &str = "/api/v1/namespaces/conduit/services/web:http/proxy/";
    const API: &str = "/apis/conduit.api.conduit.io/v1alpha1/watch";
    let page = cluster.kubectl(&format!("get --raw {PAGES}"));
    if std::env::var_os("CI").is_some() || !page.contains("without its dashboard") {
        let asks = format!("../../../../../../..{API}/");
        assert!(page.contains(&format!(r#"<meta name="conduit-api" content="{asks}""#)), "{page}");
    }
    let (success, answer) = cluster.try_kubectl(&format!("get --raw {PAGES}api/v1/live"), "");
    assert!(!success && answer.contains("NotFound"), "{answer}");

    cluster.kubectl("-n conduit create rolebinding viewer --role conduit-web --serviceaccount shop:viewer");
    // What pages ask, in JSON, and tools may.
    let viewer = "--as system:serviceaccount:shop:viewer";
    for (proxy, who) in [(8001, ""), (8002, viewer)] {
        let name = format!("proxy-{proxy}");
        cluster.kubectl_in_background(&name, &format!("{who} proxy --port {proxy}"));
        eventually("kubectl proxy serves", || cluster.log(&name).contains("Starting to serve").then_some(()));
    }
    let question = r#"{"selector":{"kind":"deployment","namespace":"shop"},"windowMs":60000}"#;
    let ask = |proxy: u16, path: &str| -> Value {
        let url = format!("http://127.0.0.1:{proxy}{API}/{path}");
        serde_json::from_str(&cluster.curl(&["-H", "content-type: application/json", "-d", question, &url])).unwrap()
    };
    let has_web = |stat: &Value| stat["rows"].as_array().unwrap().iter().any(|row| row["resource"]["name"] == "web");
    for (proxy, path) in [(8001, "stat"), (8001, "namespaces/shop/stat"), (8002, "namespaces/shop/stat")] {
        let stat = ask(proxy, path);
        assert!(has_web(&stat), "{proxy} {path}: {stat}");
    }
    for path in ["stat", "namespaces/default/stat"] {
        let refused = ask(8002, path);
        assert_eq!(refused["reason"], "Forbidden", "{path}: {refused}");
    }

    // A page's stream, and all of it in a browser, where there is one.
    cluster.kubectl_in_background("live", &format!("get --raw {API}/live?view=table&kind=deployment"));
    eventually("a page is told what there is", || cluster.log("live").contains(r#"data: {"at":"#).then_some(()));
    cluster.kill("live");
    for (proxy, namespace, says) in [
        (8001, "", ["Deployments", "shop", "client"]),
        (
            8002,
            "",
            ["There is no connection.", "cannot watch resource \"live\"", "name a namespace to see that one alone"],
        ),
        (8002, "shop", ["Deployments", "web", "client"]),
    ] {
        cluster.browse(&format!("http://127.0.0.1:{proxy}{PAGES}#/deployments"), namespace, &says);
    }
    for proxy in [8001, 8002] {
        cluster.kill(&format!("proxy-{proxy}"));
    }
}

/// What starts the proxy of the first of a deployment's pods, and which one that is.
fn proxy_of(cluster: &Cluster, app: &str) -> (String, std::process::Command) {
    let controllers =
        (0..REPLICAS).map(|number| format!("{}:8086", cluster.pod_ip("conduit", &format!("controller-{number}"))));
    let pod = pods(cluster, app)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let proxy = cluster.proxy("shop", &pod, &controllers.collect::<Vec<_>>(), &cluster.path(ANCHORS));
    (pod, proxy)
}

fn has_identity(cluster: &Cluster, pod: &str) {
    eventually(&format!("{pod} has an identity"), || {
        let identity = cluster.ask("controller-0", &format!("identity -n shop {pod}"))?;
        identity.contains("spiffe://cluster.local/ns/shop/sa/default").then_some(())
    });
}

fn an_api_server_that_is_away_changes_nothing(cluster: &mut Cluster) {
    let before = endpoints(cluster, "controller-1", "web").unwrap();
    let (pod, proxy) = proxy_of(cluster, "client");
    cluster.order("stop kube-apiserver");
    eventually("the leader notices", || {
        let mut logs = (0..REPLICAS).map(|number| cluster.log(&format!("controller-{number}")));
        logs.any(|log| log.contains("the API server does not tell")).then_some(())
    });
    assert_eq!(endpoints(cluster, "controller-1", "web").unwrap(), before);
    // The keys that its token is signed by are in the log, and so is its pod.
    cluster.spawn(&pod, proxy);
    has_identity(cluster, &pod);
    all_have_routes(cluster, &["kept"]);
    let version = |cluster: &Cluster| cluster.get("-n shop httproute kept").map(|route| route["metadata"].clone());
    cluster.order("start kube-apiserver");
    let before_it_is_watched = eventually("the API server has the route", || version(cluster));
    cluster.kubectl("-n shop scale deployment web --replicas 3");
    eventually("what has changed since comes to all replicas", || {
        (endpoints(cluster, "controller-2", "web")?.0 == 3).then_some(())
    });
    all_have_routes(cluster, &["kept"]);
    assert_eq!(version(cluster), Some(before_it_is_watched), "what is said is not said again");
    let history = cluster.ask("controller-2", "history").unwrap();
    assert!(!history.contains("httproute/shop/kept removed"), "{history}");
}

fn a_leader_that_dies_is_followed_by_one_that_watches(cluster: &mut Cluster) {
    let status: Value = serde_json::from_str(&cluster.ask("controller-0", "raft status -o json").unwrap()).unwrap();
    let leader = status["leader_id"].as_str().unwrap().to_owned();
    let members = status["members"].as_array().unwrap();
    let name =
        members.iter().find(|member| member["id"] == leader.as_str()).unwrap()["name"].as_str().unwrap().to_owned();
    let gate = cluster.get("-n conduit configmap conduit-bootstrap").unwrap();
    // What the next leader has never seen.
    cluster.kubectl("-n conduit delete configmap conduit-bootstrap");
    cluster.kill(&name);
    let other = (0..REPLICAS).map(|number| format!("controller-{number}")).find(|other| *other != name).unwrap();
    cluster.kubectl("-n shop scale deployment web --replicas 2");
    eventually("the next leader watches", || (endpoints(cluster, &other, "web")?.0 == 2).then_some(()));
    cluster.start_controller(&name, REPLICAS);
    eventually("the one that was killed knows it as well", || (endpoints(cluster, &name, "web")?.0 == 2).then_some(()));
    all_have_routes(cluster, &["kept"]);
    let again = eventually("who has started the control plane is known again", || {
        cluster.get("-n conduit configmap conduit-bootstrap")
    });
    assert_eq!(again["data"]["control-plane-id"], gate["metadata"]["uid"], "it is the same control plane");
    cluster.kubectl("create namespace late");
    eventually("the trust bundle comes to a new namespace", || cluster.get("-n late configmap conduit-trust-bundle"));
}

/// The rights that the installation gives are enough, and no less.
fn nothing_was_forbidden(cluster: &Cluster) {
    for number in 0..REPLICAS {
        let log = cluster.log(&format!("controller-{number}"));
        let forbidden: Vec<_> = log.lines().filter(|line| line.to_lowercase().contains("forbidden")).collect();
        assert!(forbidden.is_empty(), "{forbidden:#?}");
    }
}

/// What `conduit uninstall` prints is all that there is.
fn nothing_is_left(cluster: &mut Cluster) {
    let admin = cluster.admin();
    let (success, output) = cluster.through_api_server(&admin, "uninstall");
    assert!(!success && output.contains("would be cut off: shop/"), "{output}");
    cluster.kubectl("-n shop delete deployment --all");
    let promise = "apiVersion: conduit.io/v1alpha1\nkind: Objective\nmetadata: {name: kept, namespace: shop}\nspec: {targetRef: {kind: Namespace, name: shop}, success: 99}\n";
    let (success, output) = cluster.try_kubectl("apply -f -", promise);
    assert!(success, "{output}");
    eventually("nobody is in the mesh any more, and what is promised would go", || {
        let (success, output) = cluster.through_api_server(&admin, "uninstall");
        (!success && output.contains("there are Objectives")).then_some(())
    });
    cluster.kubectl("delete objectives.conduit.io -A --all");
    let (success, printed) = cluster.through_api_server(&admin, "uninstall");
    assert!(success, "{printed}");
    for number in 0..REPLICAS {
        cluster.kill(&format!("controller-{number}"));
    }
    let (success, output) = cluster.try_kubectl("delete --wait=false -f -", &printed);
    assert!(success, "{output}");
    eventually("nothing is left of it", || {
        let kinds = "apiservices,customresourcedefinitions,mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings,roles,rolebindings,configmaps,secrets,\
                     services,statefulsets,networkpolicies,poddisruptionbudgets,serviceaccounts,namespaces";
        let left = cluster.kubectl(&format!("get {kinds} -A -l conduit.io/control-plane-ns=conduit -o name"));
        left.trim().is_empty().then_some(())
    });
    let (success, output) = cluster.through_api_server(&admin, "uninstall");
    assert!(!success && output.contains("is not installed"), "{output}");
}
