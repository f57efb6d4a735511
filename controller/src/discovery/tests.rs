use conduit_api::{Pod, PodName, ServiceName, ServicePort, WorkloadRef};
use conduit_consensus::{Change, Command, Proposal};

use super::*;

fn endpoint(address: &str) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), pod: None, workload: None, identity: None, zone: None }
}

fn service(name: &str, cluster_ip: Option<&str>, endpoints: &[&str]) -> Change {
    let endpoints = endpoints.iter().map(|address| (address.parse().unwrap(), endpoint(address))).collect();
    Change::UpsertService(Service {
        name: ServiceName::new("ns", name).unwrap(),
        cluster_ips: cluster_ip.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: [(80, ServicePort { endpoints, ..ServicePort::default() })].into(),
        balancing: Default::default(),
    })
}

fn pod(name: &str, ip: &str, meshed: bool) -> Change {
    Change::UpsertPod(Pod {
        name: PodName::new("ns", name).unwrap(),
        ip: ip.parse().unwrap(),
        workload: Some(WorkloadRef { kind: "deployment".into(), name: "web".into() }),
        service_account: "web".into(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed,
        ready: true,
        application_ended: false,
    })
}

fn apply(state: &mut MeshState, index: u64, changes: Vec<Change>) {
    state.apply(index, Proposal::new("test", 0, Command::Batch(changes)));
}

fn subscriptions() -> Subscriptions {
    Subscriptions::new("ns/web-0".parse().unwrap(), "cluster.local".parse().unwrap(), Arc::default(), PROXY_LEVEL)
}

fn address(text: &str) -> Target {
    Target::Address(text.parse().unwrap())
}

fn only(response: Option<discovery::WatchResponse>) -> target_update::Kind {
    let mut updates = response.expect("something to send").updates;
    assert_eq!(updates.len(), 1, "{updates:?}");
    updates.remove(0).kind.unwrap()
}

fn addresses(endpoints: &[discovery::Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| SocketAddr::try_from(e.address.as_ref().unwrap()).unwrap().to_string()).collect()
}

fn in_full(kind: target_update::Kind) -> destination::Kind {
    let target_update::Kind::Full(encoded) = kind else { panic!("not in full: {kind:?}") };
    discovery::Destination::decode(encoded).unwrap().kind.unwrap()
}

fn endpoints_in_full(kind: target_update::Kind) -> Vec<String> {
    let destination::Kind::Service(service) = in_full(kind) else { panic!("not a service") };
    addresses(&service.endpoints)
}

fn pod_in_full(kind: target_update::Kind) -> discovery::Pod {
    let destination::Kind::Pod(pod) = in_full(kind) else { panic!("not a pod") };
    pod
}

#[test]
fn the_first_response_comes_even_when_there_is_nothing_to_say() {
    let mut subscriptions = subscriptions();
    let mut state = MeshState::default();
    let said = |zone: &str| discovery::WatchResponse { zone: Some(zone.into()), ..discovery::WatchResponse::default() };
    assert_eq!(subscriptions.update(&state), Some(said("")));
    assert_eq!(subscriptions.update(&state), None);
    // Where it runs.
    let Change::UpsertPod(own) = pod("web-0", "10.244.1.9", true) else { panic!("not a pod") };
    apply(&mut state, 1, vec![Change::UpsertPod(Pod { zone: Some("eu-1a".into()), ..own })]);
    assert_eq!(subscriptions.update(&state), Some(discovery::WatchResponse { revision: 1, ..said("eu-1a") }));
}

#[test]
fn a_proxy_is_told_once_that_its_application_has_ended() {
    let mut subscriptions = subscriptions();
    let mut state = MeshState::default();
    let Change::UpsertPod(own) = pod("web-0", "10.244.1.9", true) else { panic!("not a pod") };
    let Change::UpsertPod(other) = pod("web-1", "10.244.1.8", true) else { panic!("not a pod") };
    apply(&mut state, 1, vec![Change::UpsertPod(own.clone())]);
    assert!(subscriptions.update(&state).unwrap().application_ended_at.is_empty());
    apply(&mut state, 2, vec![Change::UpsertPod(Pod { application_ended: true, ..other })]);
    assert_eq!(subscriptions.update(&state), None, "another's");
    apply(&mut state, 3, vec![Change::UpsertPod(Pod { application_ended: true, ..own })]);
    assert_eq!(subscriptions.update(&state).unwrap().application_ended_at, [10, 244, 1, 9]);
    assert_eq!(subscriptions.update(&state), None);
}

#[test]
fn a_service_is_sent_whole_once_and_then_by_its_differences() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80", "10.0.0.2:80"])]);
    let mut subscriptions = subscriptions();
    subscriptions.subscribe(address("10.96.0.1:80"), Revision::default()).unwrap();
    let response = subscriptions.update(&state);
    assert_eq!(response.as_ref().unwrap().revision, 1);
    assert_eq!(endpoints_in_full(only(response)), ["10.0.0.1:80", "10.0.0.2:80"]);

    apply(&mut state, 2, vec![service("other", None, &[])]);
    assert_eq!(subscriptions.update(&state), None, "nothing that this proxy follows");

    apply(&mut state, 3, vec![service("web", Some("10.96.0.1"), &["10.0.0.2:80", "10.0.0.3:80"])]);
    let target_update::Kind::Delta(delta) = only(subscriptions.update(&state)) else { panic!("not a delta") };
    let delta = discovery::EndpointDelta::decode(delta).unwrap();
    assert_eq!(addresses(&delta.upserts), ["10.0.0.3:80"]);
    let removed: Vec<_> = delta.removals.iter().map(|a| SocketAddr::try_from(a).unwrap().to_string()).collect();
    assert_eq!(removed, ["10.0.0.1:80"]);
}

#[test]
fn skipped_states_are_merged() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80"])]);
    let mut subscriptions = subscriptions();
    subscriptions.subscribe(address("10.96.0.1:80"), Revision::default()).unwrap();
    subscriptions.update(&state);
    apply(&mut state, 2, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80", "10.0.0.2:80"])]);
    apply(&mut state, 3, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80"])]);
    assert_eq!(subscriptions.update(&state), None, "it went and came back while nobody looked");
}

#[test]
fn what_the_proxy_holds_already_is_not_sent_again() {
    let mut state = MeshState::default();
    apply(&mut state, 5, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80"])]);
    for (held, sent) in [(5, false), (4, true), (0, true)] {
        let mut subscriptions = subscriptions();
        subscriptions.subscribe(address("10.96.0.1:80"), held.into()).unwrap();
        let updates = subscriptions.update(&state).unwrap().updates;
        assert_eq!(!updates.is_empty(), sent, "held {held}");
    }
}

/// It may have it from its successor, which was told more: the one before it reads what it kept as something else.
#[test]
fn proxies_of_the_release_before_are_told_again_of_routes_that_they_know_in_part() {
    use conduit_api::{
        RouteName,
        route::{HttpRoute, ParentRef, RouteMatch, RouteRule},
    };
    let mut state = MeshState::default();
    let web = ServiceName::new("ns", "web").unwrap();
    let query = [("canary".to_owned(), "1".to_owned())].into();
    let rules =
        vec![RouteRule { matches: vec![RouteMatch { query, ..RouteMatch::default() }], ..RouteRule::default() }];
    let parents = [ParentRef { service: web, port: None }].into();
    let route = HttpRoute::new(RouteName::new("ns", "web").unwrap(), parents, rules).unwrap();
    let service = service("web", Some("10.96.0.1"), &["10.0.0.1:80"]);
    apply(&mut state, 5, vec![service, Change::UpsertRoute(route)]);
    let encodings = Arc::<Encodings>::default();
    for (level, held, rules) in
        [(0, 0, Some(0)), (PROXY_LEVEL, 0, Some(1)), (0, 5, Some(0)), (PROXY_LEVEL, 5, None), (7, 0, Some(1))]
    {
        let (pod, domain) = ("ns/web-0".parse().unwrap(), "cluster.local".parse().unwrap());
        let mut subscriptions = Subscriptions::new(pod, domain, encodings.clone(), level);
        subscriptions.subscribe(address("10.96.0.1:80"), Revision::from(held)).unwrap();
        let mut updates = subscriptions.update(&state).unwrap().updates;
        let told = updates.pop().map(|update| match in_full(update.kind.unwrap()) {
            destination::Kind::Service(service) => service.routes.unwrap().rules.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(told, rules, "level {level}, held {held}");
    }
}

#[test]
fn pods_are_found_by_address_with_their_identity_and_headless_services() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![pod("web-0", "10.0.0.1", true), service("web-svc", None, &["10.0.0.1:80"])]);
    let mut subscriptions = subscriptions();
    subscriptions.subscribe(address("10.0.0.1:80"), Revision::default()).unwrap();
    let found = pod_in_full(only(subscriptions.update(&state)));
    assert_eq!(found.endpoint.unwrap().identity, "spiffe://cluster.local/ns/ns/sa/web");
    assert_eq!(found.headless.iter().map(|s| (s.name.as_str(), s.port)).collect::<Vec<_>>(), [("web-svc", 80)]);

    apply(&mut state, 2, vec![Change::RemoveService(ServiceName::new("ns", "web-svc").unwrap())]);
    let found = pod_in_full(only(subscriptions.update(&state)));
    assert_eq!(found.headless, []);

    apply(&mut state, 3, vec![Change::RemovePod(PodName::new("ns", "web-0").unwrap())]);
    assert_eq!(Some(in_full(only(subscriptions.update(&state)))), unknown().kind);
}

#[test]
fn an_unmeshed_pod_has_no_identity() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![pod("web-0", "10.0.0.1", false)]);
    let mut subscriptions = subscriptions();
    subscriptions.subscribe(address("10.0.0.1:80"), Revision::default()).unwrap();
    let found = pod_in_full(only(subscriptions.update(&state)));
    assert_eq!(found.endpoint.unwrap().identity, "");
}

#[test]
fn a_service_that_goes_becomes_unknown_and_comes_back_whole() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80"])]);
    let mut subscriptions = subscriptions();
    let target = Target::Service(ServiceName::new("ns", "web").unwrap(), 80);
    subscriptions.subscribe(target, Revision::default()).unwrap();
    subscriptions.update(&state);
    apply(&mut state, 2, vec![Change::RemoveService(ServiceName::new("ns", "web").unwrap())]);
    assert_eq!(Some(in_full(only(subscriptions.update(&state)))), unknown().kind);
    apply(&mut state, 3, vec![service("web", Some("10.96.0.2"), &["10.0.0.9:80"])]);
    assert_eq!(endpoints_in_full(only(subscriptions.update(&state))), ["10.0.0.9:80"]);
}

#[test]
fn a_port_that_the_service_does_not_have_is_unknown() {
    let mut state = MeshState::default();
    apply(&mut state, 1, vec![service("web", Some("10.96.0.1"), &["10.0.0.1:80"])]);
    let mut subscriptions = subscriptions();
    subscriptions.subscribe(address("10.96.0.1:81"), Revision::default()).unwrap();
    assert_eq!(Some(in_full(only(subscriptions.update(&state)))), unknown().kind);
}

#[test]
fn subscriptions_are_bounded() {
    let mut subscriptions = subscriptions();
    let target = |i: usize| Target::Address(([10, 1, (i >> 8) as u8, i as u8], 80).into());
    for i in 0..TARGETS_PER_STREAM_MAX {
        subscriptions.subscribe(target(i), Revision::default()).unwrap();
    }
    assert!(subscriptions.subscribe(target(TARGETS_PER_STREAM_MAX), Revision::default()).is_err());
    assert!(subscriptions.subscribe(target(0), Revision::default()).is_ok());
    subscriptions.unsubscribe(&target(0));
    assert!(subscriptions.subscribe(target(TARGETS_PER_STREAM_MAX), Revision::default()).is_ok());
}
