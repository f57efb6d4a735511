use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn read<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}")})
}

/// Lists one object of each kind that a cluster always has.
fn cluster() -> Objects {
    let mut objects = Objects::new("conduit", &"cluster.local".parse().unwrap());
    let node = json!({"metadata": {"name": "node-1", "labels": {ZONE: "west"}}});
    let namespace = json!({"metadata": {"name": "shop", "annotations": {OPAQUE_PORTS: "25"}}});
    let service =
        json!({"metadata": metadata("kubernetes"), "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}});
    list(&mut objects, Observed::Namespace, vec![read(namespace)]);
    list(&mut objects, Observed::Node, vec![read(node)]);
    list(&mut objects, Observed::Service, vec![read(service)]);
    list(&mut objects, Observed::EndpointSlice, vec![slice_of("kubernetes", 443, &[("192.0.2.1", None, true)])]);
    list(&mut objects, Observed::Pod, vec![pod_of("idle", "10.244.0.9", true)]);
    list(&mut objects, Observed::Route, vec![]);
    list(&mut objects, Observed::Objective, vec![]);
    objects
}

impl Objects {
    /// All of it, made anew.
    fn inventory(&self) -> Inventory {
        let all = self.all(self.configured().0);
        let objectives = all.objectives.is_some().then(|| objectives::decide(self.objectives.objects()).0);
        Inventory { objectives, ..all }
    }

    fn statements(&self) -> Vec<Statement> {
        self.configured().1
    }
}

fn route_of(name: &str, backend: &str) -> DynamicObject {
    let mut metadata = metadata(name);
    metadata["resourceVersion"] = json!("1");
    let parents = [json!({"group": "", "kind": "Service", "name": "web"})];
    let rules = [json!({"backendRefs": [{"group": "", "kind": "Service", "name": backend, "port": 80}]})];
    read(json!({"metadata": metadata, "spec": {"parentRefs": parents, "rules": rules}}))
}

fn objective_of(name: &str, deployment: &str) -> DynamicObject {
    let spec = json!({"targetRef": {"kind": "Deployment", "name": deployment}, "success": 99.9});
    read(json!({"metadata": metadata(name), "spec": spec}))
}

/// The names of the routes that are told of; nothing, if none are told of, which is something else than that there are none.
fn routes(objects: &Objects) -> Option<Vec<String>> {
    Some(objects.inventory().routes?.iter().map(|route| route.name.name().to_owned()).collect())
}

fn list<K>(objects: &mut Objects, kind: fn(Event<K>) -> Observed, listed: Vec<K>) -> bool {
    objects.observe(kind(Event::Init));
    for object in listed {
        objects.observe(kind(Event::InitApply(object)));
    }
    objects.observe(kind(Event::InitDone))
}

fn slice_of(service: &str, port: u16, endpoints: &[(&str, Option<&str>, bool)]) -> EndpointSlice {
    let mut metadata = metadata(&format!("{service}-1"));
    metadata["labels"] = json!({SERVICE_NAME: service});
    let endpoints = endpoints.iter().map(|(ip, pod, ready)| {
        let target = pod.map(|pod| json!({"kind": "Pod", "name": pod, "namespace": "shop"}));
        json!({"addresses": [ip], "conditions": {"ready": ready}, "targetRef": target})
    });
    let ports = [json!({"name": "", "port": port, "protocol": "TCP"})];
    read(
        json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints.collect::<Vec<_>>()}),
    )
}

fn pod_of(name: &str, ip: &str, ready: bool) -> excerpts::Pod {
    let mut metadata = metadata(name);
    metadata["labels"] = json!({CONTROL_PLANE_NAMESPACE: "conduit", POD_TEMPLATE_HASH: "abc12"});
    metadata["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-abc12", "uid": "x", "controller": true}]);
    let status = if ready { "True" } else { "False" };
    read(json!({
        "metadata": metadata,
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "web",
            "containers": [{"name": "web"}, {"name": "conduit-proxy"}],
        },
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": status}]},
    }))
}

fn web_service(extra: Value) -> excerpts::Service {
    let mut spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    read(json!({"metadata": metadata("web"), "spec": spec}))
}

fn found<'a>(inventory: &'a Inventory, name: &str) -> &'a Service {
    inventory.services.iter().find(|service| service.name.name() == name).unwrap()
}

/// The cluster, with two pods of a service, of which one is ready.
fn with_web() -> Objects {
    let mut objects = cluster();
    objects.observe(Observed::Service(Event::Apply(web_service(json!({})))));
    objects.observe(Observed::Pod(Event::Apply(pod_of("web-1", "10.244.0.1", true))));
    objects.observe(Observed::Pod(Event::Apply(pod_of("web-2", "10.244.0.2", false))));
    let endpoints = [("10.244.0.1", Some("web-1"), true), ("10.244.0.2", Some("web-2"), false)];
    objects.observe(Observed::EndpointSlice(Event::Apply(slice_of("web", 8080, &endpoints))));
    objects
}

#[test]
fn what_has_made_a_pod_is_what_people_have_made() {
    let made_by = |kind: &str, name: &str| {
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "x", "controller": true});
        let mut metadata = metadata("pod");
        metadata["labels"] = json!({POD_TEMPLATE_HASH: "abc12"});
        metadata["ownerReferences"] = json!([owner]);
        // Minute 29 000 010 since the Unix epoch.
        metadata["creationTimestamp"] = json!("2025-02-19T21:30:30Z");
        let WorkloadRef { kind, name } = workload(&read(metadata)).unwrap();
        format!("{kind}/{name}")
    };
    for (kind, name, expected) in [
        ("ReplicaSet", "web-abc12", "deployment/web"),
        ("ReplicaSet", "web-other", "replicaset/web-other"),
        ("StatefulSet", "db", "statefulset/db"),
        ("Job", "backup-29000010", "cronjob/backup"),
        ("Job", "nightly-backup-28999000", "cronjob/nightly-backup"),
        // Numbers that are no minute shortly before the pod was made: a day, one to come, and one long ago.
        ("Job", "import-20250220", "job/import-20250220"),
        ("Job", "import-29000011", "job/import-29000011"),
        ("Job", "import-28900000", "job/import-28900000"),
        ("Job", "import-7", "job/import-7"),
        ("Job", "import", "job/import"),
    ] {
        assert_eq!(made_by(kind, name), expected, "{kind} {name}");
    }
}

#[test]
fn a_service_leads_to_its_ready_instances_and_their_identities() {
    let inventory = with_web().inventory();
    let web = found(&inventory, "web");
    assert_eq!(web.cluster_ips, ["10.96.0.7".parse().unwrap()].into());
    assert_eq!(web.ports.keys().collect::<Vec<_>>(), [&80], "TCP only");
    let port = &web.ports[&80];
    assert_eq!(port.not_ready, ["10.244.0.2:8080".parse().unwrap()].into());
    let endpoint = &port.endpoints[&"10.244.0.1:8080".parse().unwrap()];
    assert_eq!(endpoint.pod.as_ref().unwrap().to_string(), "shop/web-1");
    assert_eq!(endpoint.identity.as_ref().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(endpoint.workload.as_ref().unwrap().name, "web", "the deployment, not its ReplicaSet");
    assert_eq!(endpoint.zone.as_deref(), Some("west"), "its node's");
    let pod = inventory.pods.iter().find(|pod| pod.name.name() == "web-1").unwrap();
    assert_eq!((pod.uid.as_deref(), pod.meshed, pod.ready), (Some("uid-web-1"), true, true));
    assert_eq!(pod.ports.opaque, PortRange::list("25").unwrap(), "its namespace's");
}

#[test]
fn a_slice_that_is_given_to_another_service_leaves_the_first() {
    let mut objects = with_web();
    let slice = slice_of("web", 8080, &[("10.244.0.1", Some("web-1"), true)]);
    let endpoints = |objects: &Objects| found(&objects.inventory(), "web").ports[&80].endpoints.len();
    for label in [Some("other"), None] {
        objects.observe(Observed::EndpointSlice(Event::Apply(slice.clone())));
        assert_eq!(endpoints(&objects), 1);
        let mut given_away = slice.clone();
        given_away.metadata.labels = label.map(|label| [(SERVICE_NAME.to_owned(), label.to_owned())].into());
        assert!(objects.observe(Observed::EndpointSlice(Event::Apply(given_away))));
        assert_eq!(endpoints(&objects), 0, "{label:?}");
    }
}

#[test]
fn a_pod_that_goes_is_no_endpoint_before_its_slice_says_so() {
    for change in ["deleted", "unready", "over"] {
        let mut objects = with_web();
        let mut pod = pod_of("web-1", "10.244.0.1", change != "unready");
        match change {
            "deleted" => pod.metadata.deletion_timestamp = Some(read(json!("2026-01-01T00:00:00Z"))),
            "over" => pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned()),
            _ => {}
        }
        assert!(objects.observe(Observed::Pod(Event::Apply(pod))));
        let inventory = objects.inventory();
        let port = &found(&inventory, "web").ports[&80];
        assert!(port.endpoints.is_empty() && port.not_ready.len() == 2, "{change}: {port:?}");
    }
}

#[test]
fn a_pod_that_nobody_knows_is_no_endpoint() {
    let mut objects = with_web();
    objects.observe(Observed::Pod(Event::Delete(pod_of("web-1", "10.244.0.1", true))));
    let inventory = objects.inventory();
    assert!(found(&inventory, "web").ports[&80].endpoints.is_empty(), "it would be spoken to without TLS");
}

#[test]
fn an_address_is_that_of_the_pod_that_stays() {
    let mut objects = with_web();
    let mut going = pod_of("a-going", "10.244.0.1", true);
    going.metadata.deletion_timestamp = Some(read(json!("2026-01-01T00:00:00Z")));
    objects.observe(Observed::Pod(Event::Apply(going)));
    let inventory = objects.inventory();
    let at = inventory.pods.iter().filter(|pod| pod.ip.to_string() == "10.244.0.1").collect::<Vec<_>>();
    assert_eq!(at.iter().map(|pod| pod.name.name()).collect::<Vec<_>>(), ["web-1"]);
}

#[test]
fn an_unready_pod_is_an_endpoint_where_its_service_wants_that() {
    let mut objects = with_web();
    objects.observe(Observed::Service(Event::Apply(web_service(json!({"publishNotReadyAddresses": true})))));
    let endpoints = [("10.244.0.2", Some("web-2"), true)];
    objects.observe(Observed::EndpointSlice(Event::Apply(slice_of("web", 8080, &endpoints))));
    assert_eq!(found(&objects.inventory(), "web").ports[&80].endpoints.len(), 1);
}

#[test]
fn what_has_no_proxy_of_ours_has_no_identity() {
    let change: [fn(&mut excerpts::Pod); 3] = [
        |pod| pod.spec.as_mut().unwrap().containers.truncate(1),
        |pod| {
            _ = pod.metadata.labels.as_mut().unwrap().insert(CONTROL_PLANE_NAMESPACE.to_owned(), "another".to_owned())
        },
        |pod| pod.metadata.annotations = Some([(SKIP_INBOUND_PORTS.to_owned(), "8000-8100".to_owned())].into()),
    ];
    for change in change {
        let mut objects = with_web();
        let mut pod = pod_of("web-1", "10.244.0.1", true);
        change(&mut pod);
        objects.observe(Observed::Pod(Event::Apply(pod)));
        let inventory = objects.inventory();
        let endpoint = found(&inventory, "web").ports[&80].endpoints.values().next().unwrap();
        assert_eq!(endpoint.identity, None);
    }
}

#[test]
fn a_native_sidecar_is_a_proxy() {
    let mut objects = with_web();
    let mut pod = pod_of("web-1", "10.244.0.1", true);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers = spec.containers.pop().map(|proxy| vec![proxy]);
    assert!(!objects.observe(Observed::Pod(Event::Apply(pod))), "nothing is otherwise");
}

#[test]
fn a_headless_service_has_no_address_and_an_external_name_is_none() {
    let mut objects = with_web();
    objects.observe(Observed::Service(Event::Apply(web_service(json!({"clusterIP": "None", "clusterIPs": ["None"]})))));
    assert!(found(&objects.inventory(), "web").is_headless());
    let external = web_service(json!({"type": "ExternalName", "externalName": "example.org"}));
    assert!(objects.observe(Observed::Service(Event::Apply(external))), "it was one before");
    assert!(objects.inventory().services.iter().all(|service| service.name.name() != "web"));
}

#[test]
fn an_empty_list_removes_nothing_and_a_complete_one_all_that_it_has_not() {
    let mut objects = with_web();
    assert!(!list(&mut objects, Observed::Pod, vec![]));
    assert_eq!(objects.inventory().pods.len(), 3);
    objects.observe(Observed::Pod(Event::Init));
    objects.observe(Observed::Pod(Event::InitApply(pod_of("web-1", "10.244.0.1", true))));
    assert_eq!(objects.inventory().pods.len(), 3, "a list that has not come to its end");
    assert!(objects.observe(Observed::Pod(Event::InitDone)));
    assert_eq!(objects.inventory().pods.len(), 1);
}

#[test]
fn nothing_is_said_before_everything_was_listed() {
    let mut objects = Objects::new("conduit", &"cluster.local".parse().unwrap());
    list(&mut objects, Observed::Pod, vec![pod_of("web-1", "10.244.0.1", true)]);
    assert!(!objects.is_complete());
    assert!(cluster().is_complete());
}

#[test]
fn pods_in_the_network_of_their_node_are_none_of_ours() {
    let mut objects = with_web();
    let mut pod = pod_of("web-1", "10.244.0.1", true);
    pod.spec.as_mut().unwrap().host_network = Some(true);
    objects.observe(Observed::Pod(Event::Apply(pod)));
    assert!(objects.inventory().pods.iter().all(|pod| pod.name.name() != "web-1"));
}

#[test]
fn an_update_that_changes_nothing_of_interest_is_none() {
    let mut objects = with_web();
    let mut pod = pod_of("web-1", "10.244.0.1", true);
    pod.metadata.resource_version = Some("4711".to_owned());
    assert!(!objects.observe(Observed::Pod(Event::Apply(pod))));
    assert!(objects.observe(Observed::Pod(Event::Delete(pod_of("web-1", "10.244.0.1", true)))));
}

#[test]
fn only_the_first_family_counts() {
    let mut objects = with_web();
    let mut slice = slice_of("web", 8080, &[("fd00::1", Some("web-1"), true)]);
    (slice.metadata.name, slice.address_type) = (Some("web-6".to_owned()), "IPv6".to_owned());
    objects.observe(Observed::EndpointSlice(Event::Apply(slice)));
    assert_eq!(found(&objects.inventory(), "web").ports[&80].endpoints.len(), 1);
}

#[test]
fn routes_come_and_go_with_their_services() {
    let mut objects = with_web();
    assert_eq!(routes(&objects), Some(vec![]));
    assert!(objects.observe(Observed::Route(Event::Apply(route_of("canary", "web")))));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]));
    assert_eq!(objects.statements().len(), 1);
    let web = || web_service(json!({}));
    objects.observe(Observed::Service(Event::Delete(web())));
    assert_eq!(routes(&objects), Some(vec![]), "there is nobody whose requests it could route");
    objects.observe(Observed::Service(Event::Apply(web())));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]));
    assert!(objects.observe(Observed::Route(Event::Delete(route_of("canary", "web")))));
    assert_eq!((routes(&objects), objects.statements()), (Some(vec![]), vec![]));
}

#[test]
fn an_empty_list_of_routes_is_believed_unless_the_cluster_seems_to_be_empty() {
    let mut objects = with_web();
    assert!(list(&mut objects, Observed::Route, vec![route_of("canary", "web")]));
    objects.observe(Observed::Route(Event::Init));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]), "a list that has not come to its end");
    list(&mut objects, Observed::Pod, vec![]);
    assert_eq!(routes(&objects), None, "what says that there are no pods is not to be believed of routes either");
    assert!(objects.observe(Observed::Route(Event::InitDone)));
    assert_eq!(routes(&objects), None);
    assert!(objects.observe(Observed::Pod(Event::Apply(pod_of("web-1", "10.244.0.1", true)))));
    assert_eq!(routes(&objects), Some(vec![]));
}

/// As a watch meets it: it asks for a list.
fn miss_routes(objects: &mut Objects) -> bool {
    objects.observe(Observed::Route(Event::Init));
    objects.observe(Observed::Missing(Optional::HttpRoute))
}

#[test]
fn objectives_come_and_go_apart_from_routes() {
    let mut objects = with_web();
    let declared = |objects: &Objects| {
        let all = objects.inventory().objectives;
        all.map(|all| all.iter().map(|declared| declared.by.name().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(declared(&objects), Some(vec![]));
    list(&mut objects, Observed::Route, vec![route_of("canary", "web")]);
    assert!(objects.observe(Observed::Objective(Event::Apply(objective_of("fast", "web")))));
    assert_eq!(declared(&objects), Some(vec!["fast".to_owned()]));
    assert_eq!(objects.statements().len(), 2, "of the route and of the objective");
    objects.observe(Observed::Missing(Optional::Objective));
    assert!(objects.observe(Observed::Missing(Optional::Objective)));
    assert_eq!((declared(&objects), routes(&objects)), (Some(vec![]), Some(vec!["canary".to_owned()])));
    list(&mut objects, Observed::Pod, vec![]);
    assert_eq!(declared(&objects), None, "what says that there are no pods is not to be believed of objectives either");
}

#[test]
fn a_kind_that_is_missing_removes_nothing_until_it_is_missing_again() {
    let mut objects = with_web();
    list(&mut objects, Observed::Route, vec![route_of("canary", "web")]);
    assert!(!miss_routes(&mut objects));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]));
    // It was only away for a moment.
    list(&mut objects, Observed::Route, vec![route_of("canary", "web")]);
    assert!(!miss_routes(&mut objects));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]));
    // Who could not be asked in between is not sure.
    assert!(!objects.observe(Observed::Untold(Optional::HttpRoute)));
    assert!(!miss_routes(&mut objects));
    assert_eq!(routes(&objects), Some(vec!["canary".to_owned()]));
    assert!(miss_routes(&mut objects));
    assert_eq!(routes(&objects), Some(vec![]));
    assert!(!miss_routes(&mut objects), "that is nothing new");
}

#[test]
fn who_cannot_tell_of_routes_holds_up_nothing_else() {
    let mut objects = with_web();
    objects.routes = Perhaps::new();
    assert!(objects.is_complete());
    assert_eq!(routes(&objects), None);
    miss_routes(&mut objects);
    assert_eq!(routes(&objects), None);
}

/// What may happen, by small numbers, so that names, addresses, nodes and namespaces meet.
fn anything(random: &mut StdRng) -> Observed {
    fn happens<K>(random: &mut StdRng, object: K) -> Event<K> {
        if random.random_bool(0.25) { Event::Delete(object) } else { Event::Apply(object) }
    }
    let place = format!("ns-{}", random.random_range(0..2));
    let number = random.random_range(0..5);
    let port_list = |random: &mut StdRng| ["8080", "80", "25", "nonsense"][random.random_range(0..4)].to_owned();
    let annotated = |random: &mut StdRng, key: &str| {
        if random.random_bool(0.4) { json!({key: port_list(random)}) } else { json!({}) }
    };
    match random.random_range(0..9) {
        0 => {
            let metadata = json!({"name": place, "annotations": annotated(random, OPAQUE_PORTS)});
            Observed::Namespace(happens(random, read(json!({"metadata": metadata}))))
        }
        1 => {
            let labels = if random.random_bool(0.7) { json!({ZONE: format!("zone-{number}")}) } else { json!({}) };
            let name = format!("node-{}", random.random_range(0..2));
            Observed::Node(happens(random, read(json!({"metadata": {"name": name, "labels": labels}}))))
        }
        2 | 3 => {
            let mut service = web_service(json!({"publishNotReadyAddresses": random.random_bool(0.3)}));
            service.metadata.name = Some(format!("web-{}", number % 3));
            service.metadata.namespace = Some(place);
            service.metadata.annotations = Some(read(annotated(random, OPAQUE_PORTS)));
            Observed::Service(happens(random, service))
        }
        4 | 5 => {
            let pods: Vec<_> = (0..random.random_range(0..4)).map(|_| random.random_range(0..5)).collect();
            let names: Vec<_> = pods.iter().map(|pod| (format!("10.244.0.{pod}"), format!("pod-{pod}"))).collect();
            let ready = random.random_bool(0.8);
            let endpoints: Vec<_> = names.iter().map(|(ip, pod)| (ip.as_str(), Some(pod.as_str()), ready)).collect();
            let mut slice = slice_of(&format!("web-{}", random.random_range(0..3)), 8080, &endpoints);
            // The name is now this service's, now that one's.
            slice.metadata.name = Some(format!("slice-{}", number % 3));
            slice.metadata.namespace = Some(place);
            for endpoint in &mut slice.endpoints {
                let namespace = format!("ns-{}", random.random_range(0..2));
                endpoint.target_ref.as_mut().unwrap().namespace = Some(namespace);
            }
            Observed::EndpointSlice(happens(random, slice))
        }
        6 => {
            let mut route = route_of(&format!("route-{number}"), &format!("web-{}", random.random_range(0..3)));
            route.metadata.namespace = Some(place);
            route.data["spec"]["parentRefs"][0]["name"] = json!(format!("web-{}", random.random_range(0..3)));
            Observed::Route(happens(random, route))
        }
        7 => {
            let mut objective =
                objective_of(&format!("objective-{number}"), &format!("web-{}", random.random_range(0..2)));
            objective.metadata.namespace = Some(place);
            Observed::Objective(happens(random, objective))
        }
        _ => {
            // Fewer addresses than pods.
            let mut pod = pod_of(
                &format!("pod-{number}"),
                &format!("10.244.0.{}", random.random_range(0..4)),
                random.random_bool(0.7),
            );
            pod.metadata.namespace = Some(place);
            let key = [OPAQUE_PORTS, SKIP_INBOUND_PORTS][random.random_range(0..2)];
            pod.metadata.annotations = Some(read(annotated(random, key)));
            pod.metadata.deletion_timestamp = random.random_bool(0.3).then(|| read(json!("2026-01-01T00:00:00Z")));
            pod.spec.as_mut().unwrap().node_name = Some(format!("node-{}", random.random_range(0..2)));
            Observed::Pod(happens(random, pod))
        }
    }
}

/// A whole list of one kind, of which some may be gone and some new.
fn list_anything(objects: &mut Objects, random: &mut StdRng) -> bool {
    let wanted = random.random_range(0..7);
    let mut events: Vec<Observed> = (0..60).map(|_| anything(random)).collect();
    events.retain(|observed| match observed {
        Observed::Namespace(_) => wanted == 0,
        Observed::Node(_) => wanted == 1,
        Observed::Service(_) => wanted == 2,
        Observed::EndpointSlice(_) => wanted == 3,
        Observed::Pod(_) => wanted == 4,
        Observed::Route(_) => wanted == 5,
        _ => wanted == 6,
    });
    fn items<K>(events: Vec<Event<K>>) -> Vec<K> {
        events
            .into_iter()
            .filter_map(|event| if let Event::Apply(object) = event { Some(object) } else { None })
            .collect()
    }
    macro_rules! listed {
        ($kind:ident) => {{
            let events = events.into_iter().filter_map(|o| if let Observed::$kind(e) = o { Some(e) } else { None });
            list(objects, Observed::$kind, items(events.collect()))
        }};
    }
    match wanted {
        0 => listed!(Namespace),
        1 => listed!(Node),
        2 => listed!(Service),
        3 => listed!(EndpointSlice),
        4 => listed!(Pod),
        5 => listed!(Route),
        _ => listed!(Objective),
    }
}

/// What somebody knows who has heard all that was told.
#[derive(Default)]
struct Heard {
    services: BTreeMap<ServiceName, Service>,
    pods: BTreeMap<PodName, Pod>,
    routes: Option<Vec<HttpRoute>>,
    objectives: Option<Vec<Declared>>,
}

impl Heard {
    fn hear(&mut self, told: Told) {
        fn change<K: Ord, V>(known: &mut BTreeMap<K, V>, changed: Vec<(K, Option<V>)>) {
            for (name, value) in changed {
                known.remove(&name);
                known.extend(value.map(|value| (name, value)));
            }
        }
        match told {
            Told::All(inventory) => {
                *self = Self {
                    services: inventory.services.into_iter().map(|service| (service.name.clone(), service)).collect(),
                    pods: inventory.pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(),
                    routes: inventory.routes,
                    objectives: inventory.objectives,
                }
            }
            Told::Changed(changed) => {
                change(&mut self.services, changed.services);
                change(&mut self.pods, changed.pods);
                self.routes = changed.routes;
                self.objectives = changed.objectives;
            }
        }
    }

    fn inventory(&self) -> Inventory {
        let (services, pods) = (self.services.values().cloned().collect(), self.pods.values().cloned().collect());
        Inventory { services, pods, routes: self.routes.clone(), objectives: self.objectives.clone() }
    }
}

#[test]
fn what_was_told_bit_by_bit_is_what_would_be_told_at_once() {
    let mut routes_in_force = 0;
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut objects = cluster();
        let mut heard = Heard::default();
        heard.hear(objects.tell().0);
        let mut is_new = false;
        for step in 0..150 {
            is_new |= match random.random_range(0..20) {
                0 => list_anything(&mut objects, &mut random),
                _ => objects.observe(anything(&mut random)),
            };
            // Not after each: what has changed twice in between is told once.
            if random.random_bool(0.6) {
                if std::mem::take(&mut is_new) {
                    let (told, statements) = objects.tell();
                    assert!(matches!(told, Told::Changed(_)));
                    heard.hear(told);
                    assert_eq!(statements, objects.statements());
                    assert_eq!(heard.routes, objects.inventory().routes, "seed {seed}, step {step}");
                    assert_eq!(heard.objectives, objects.inventory().objectives, "seed {seed}, step {step}");
                    routes_in_force += heard.routes.iter().flatten().count();
                }
                // Also where nothing was new. That an API server tells of nothing at all is no news; what it says of routes is doubtful from then on.
                let (routes, objectives) = (heard.routes.clone(), heard.objectives.clone());
                let expected = Inventory { routes, objectives, ..objects.inventory() };
                assert_eq!(heard.inventory(), expected, "seed {seed}, step {step}");
            }
        }
    }
    assert!(routes_in_force > 1_000, "{routes_in_force}");
}

#[test]
fn one_change_is_told_alone() {
    let mut objects = with_web();
    let other = |name: &str, ip: &str| Observed::Pod(Event::Apply(pod_of(name, ip, true)));
    objects.observe(other("other-1", "10.244.0.3"));
    objects.tell();
    let slice = slice_of("web", 8080, &[("10.244.0.1", Some("web-1"), true)]);
    objects.observe(Observed::EndpointSlice(Event::Apply(slice)));
    let names = |told: Told| match told {
        Told::Changed(Changed { services, pods, .. }) => (
            services.iter().map(|(name, _)| name.name().to_owned()).collect::<Vec<_>>(),
            pods.iter().map(|(name, _)| name.name().to_owned()).collect::<Vec<_>>(),
        ),
        Told::All(_) => panic!("all of it was told before"),
    };
    let told = names(objects.tell().0);
    assert_eq!(told, (vec!["web".to_owned()], vec![]));
    objects.observe(other("other-1", "10.244.0.4"));
    assert_eq!(names(objects.tell().0), (vec![], vec!["other-1".to_owned()]));
    objects.observe(Observed::Pod(Event::Apply(pod_of("web-1", "10.244.0.1", false))));
    assert_eq!(names(objects.tell().0), (vec!["web".to_owned()], vec!["web-1".to_owned()]));
}

#[test]
fn a_proxy_is_left_alone_when_all_others_have_ended_for_good() {
    let running = json!({"running": {}});
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let (sidecar, main, more) = ("conduit-proxy", "main", "more");
    for (policy, containers, states, is_ended) in [
        ("Never", &[main, sidecar][..], &[ended(0), running.clone()][..], true),
        ("Never", &[main, sidecar], &[ended(1), running.clone()], true),
        ("Never", &[main, sidecar], &[running.clone(), running.clone()], false),
        ("Never", &[main, sidecar], &[], false),
        ("Never", &[main, more, sidecar], &[ended(0), running.clone(), running.clone()], false),
        ("Never", &[main, more, sidecar], &[ended(0), ended(2), running.clone()], true),
        ("OnFailure", &[main, sidecar], &[ended(0), running.clone()], true),
        // The kubelet starts it again.
        ("OnFailure", &[main, sidecar], &[ended(1), running.clone()], false),
        ("Always", &[main, sidecar], &[ended(0), running.clone()], false),
        ("", &[main, sidecar], &[ended(0), running.clone()], false),
        // Without a proxy, with a native one, and with nothing but one.
        ("Never", &[main], &[ended(0)], false),
        ("Never", &[sidecar], &[], false),
    ] {
        let named = |name: &&str| json!({"name": name});
        let mut spec = json!({"containers": containers.iter().map(named).collect::<Vec<_>>()});
        if !policy.is_empty() {
            spec["restartPolicy"] = policy.into();
        }
        let statuses = containers.iter().zip(states).map(|(name, state)| json!({"name": name, "state": state}));
        let status = json!({"containerStatuses": statuses.collect::<Vec<_>>()});
        let found = application_ended(&read(spec.clone()), &read(status.clone()));
        assert_eq!(found, is_ended, "{spec} {status}");
    }
    // One container may say otherwise than its pod.
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [0]}});
    for (more, is_ended) in [
        (json!({"name": main, "restartPolicy": "Always"}), false),
        (json!({"name": main, "restartPolicy": "Never", "restartPolicyRules": [rule]}), false),
        (json!({"name": main, "restartPolicy": "Never", "restartPolicyRules": []}), true),
    ] {
        let spec = json!({"restartPolicy": "Never", "containers": [more, {"name": sidecar}]});
        let status = json!({"containerStatuses": [{"name": main, "state": ended(0)}]});
        assert_eq!(application_ended(&read(spec.clone()), &read(status)), is_ended, "{spec}");
    }
}

/// In whatever pod it is: one that was meshed by another control plane is none of ours.
#[test]
fn what_has_ended_is_told_of_our_pods() {
    let mut objects = cluster();
    let ended = |labels: Value| -> excerpts::Pod {
        let mut metadata = metadata("once-x");
        metadata["labels"] = labels;
        read(json!({
            "metadata": metadata,
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}, {"name": "conduit-proxy"}]},
            "status": {"phase": "Running", "podIP": "10.244.0.7", "containerStatuses": [
                {"name": "main", "state": {"terminated": {"exitCode": 0}}},
                {"name": "conduit-proxy", "state": {"running": {}}},
            ]},
        }))
    };
    for (labels, told) in [(json!({CONTROL_PLANE_NAMESPACE: "conduit"}), true), (json!({}), false)] {
        objects.observe(Observed::Pod(Event::Apply(ended(labels))));
        let inventory = objects.inventory();
        let pod = inventory.pods.iter().find(|pod| pod.name.name() == "once-x").unwrap();
        assert_eq!(pod.application_ended, told);
    }
}
