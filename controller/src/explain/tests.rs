use conduit_api::{
    HttpRoute, PodPorts, RouteName, ServicePort,
    route::{ParentRef, PathMatch, RouteMatch, RouteRule},
};
use conduit_consensus::{Change, Command, Lesson, Proposal};

use super::*;

fn name(name: &str) -> ServiceName {
    ServiceName::new("shop", name).unwrap()
}

fn pod(name: &str, ip: u8, meshed: bool) -> Pod {
    Pod {
        name: PodName::new("shop", name).unwrap(),
        ip: [10, 244, 1, ip].into(),
        workload: None,
        service_account: name.split('-').next().unwrap().into(),
        uid: None,
        ports: PodPorts { opaque: vec!["25".parse().unwrap()], ..PodPorts::default() },
        zone: None,
        meshed,
        ready: true,
        application_ended: false,
    }
}

fn service(service: &str, cluster_ip: Option<u8>, pods: &[&Pod]) -> Service {
    let endpoint = |pod: &&Pod| {
        let address = SocketAddr::new(pod.ip, 8080);
        let identity = SpiffeId::new(&"cluster.local".parse().unwrap(), "shop", &pod.service_account).unwrap();
        let identity = pod.meshed.then_some(identity);
        (address, Endpoint { address, pod: Some(pod.name.clone()), workload: None, identity, zone: None })
    };
    let port = ServicePort { endpoints: pods.iter().map(endpoint).collect(), ..ServicePort::default() };
    let cluster_ips = cluster_ip.map(|ip| [10, 96, 0, ip].into()).into_iter().collect();
    Service { name: name(service), cluster_ips, ports: [(80, port)].into(), balancing: Default::default() }
}

/// web calls cart (headless, two meshed instances), mail (one without a proxy) and empty (none).
fn shop() -> MeshState {
    let (web, cart0, cart1) = (pod("web-0", 1, true), pod("cart-0", 2, true), pod("cart-1", 3, true));
    let mail = pod("mail-0", 4, false);
    let services =
        [service("cart", None, &[&cart0, &cart1]), service("mail", Some(1), &[&mail]), service("empty", Some(2), &[])];
    let services = services.map(Change::UpsertService).into_iter();
    let changes = services.chain([web, cart0, cart1, mail].map(Change::UpsertPod)).collect();
    let mut state = MeshState::default();
    apply(&mut state, Command::Batch(changes));
    state
}

fn apply(state: &mut MeshState, command: Command) {
    let applied = state.apply(state.revision().as_u64() + 1, Proposal::new("test", 0, command));
    assert_eq!(applied.outcome, conduit_consensus::Outcome::Done);
}

/// Step by step: what it is about, and what is decided.
fn decisions(state: &MeshState, from: &str, host: &str, port: u16, path: &str) -> Vec<(String, String)> {
    let from = &state.pods()[&PodName::new("shop", from).unwrap()].value;
    let (to, authority) = address_of_host(state, "shop", host, port).unwrap();
    let headers = BTreeMap::new();
    let question = Question { from, to, authority: &authority, method: "GET", path, headers: &headers };
    let steps = explain(state, &"cluster.local".parse().unwrap(), &question);
    assert!(steps.iter().all(|step| !step.reason.is_empty()));
    steps.into_iter().map(|step| (step.about, step.decision)).collect()
}

fn decision(state: &MeshState, about: &str, host: &str, port: u16, path: &str) -> String {
    let decisions = decisions(state, "web-0", host, port, path);
    decisions.into_iter().filter(|(known, _)| known == about).map(|(_, decision)| decision).collect()
}

#[test]
fn a_request_to_a_headless_service_is_explained_from_end_to_end() {
    let said = decisions(&shop(), "web-0", "cart", 80, "/");
    let said: Vec<_> = said.iter().map(|(about, decision)| (about.as_str(), decision.as_str())).collect();
    assert_eq!(
        said,
        [
            ("client", "spiffe://cluster.local/ns/shop/sa/web"),
            ("destination", "service/shop/cart:80"),
            ("protocol", "by the first bytes of either side"),
            ("route", "to the service itself"),
            ("endpoint", "the less loaded of two at random, by latency and requests under way"),
            ("tls", "mutual, spiffe://cluster.local/ns/shop/sa/cart"),
        ]
    );
}

#[test]
fn it_is_told_why_there_is_no_tls_no_answer_and_no_proxy() {
    let state = shop();
    assert_eq!(decision(&state, "tls", "mail.shop.svc.cluster.local", 80, "/"), "plaintext");
    assert!(decision(&state, "endpoint", "empty", 80, "/").starts_with("503, conduit-proxy-error: no-endpoints"));
    assert_eq!(decision(&state, "destination", "mail", 81, "/"), "10.96.0.1:81");
    assert_eq!(decision(&state, "protocol", "10.244.1.2", 25, "/"), "bytes, whatever they look like");
    assert_eq!(decision(&state, "destination", "192.0.2.1", 443, "/"), "192.0.2.1:443");
    assert_eq!(decisions(&state, "mail-0", "cart", 80, "/")[0], ("client".into(), "no proxy".into()));
    for host in ["example.com", "cart.shop.svc.example.com"] {
        assert_eq!(address_of_host(&state, "shop", host, 80), Err(Unexplained::NotOfTheMesh(host.into())));
    }
}

#[test]
fn what_is_said_of_ports_is_in_it() {
    let mut state = shop();
    let mut cart = state.services()[&name("cart")].value.clone();
    cart.ports.get_mut(&80).unwrap().opaque = true;
    let mut web = pod("web-0", 1, true);
    web.ports.skip_outbound = vec!["3306".parse().unwrap()];
    let mut bare = pod("cart-0", 2, true);
    bare.ports.skip_inbound = vec!["9000-9999".parse().unwrap()];
    let changes = vec![Change::UpsertService(cart), Change::UpsertPod(web), Change::UpsertPod(bare)];
    apply(&mut state, Command::Batch(changes));
    assert_eq!(decision(&state, "protocol", "cart", 80, "/"), "bytes, whatever they look like");
    assert_eq!(decision(&state, "destination", "cart", 80, "/"), "pod/shop/cart-0", "which the client has chosen");
    assert_eq!(decision(&state, "destination", "mail", 3306, "/"), "10.96.0.1:3306, by the kernel");
    assert_eq!(decision(&state, "tls", "10.244.1.2", 9090, "/"), "plaintext");
    assert_ne!(decision(&state, "tls", "10.244.1.2", 8080, "/"), "plaintext");
}

#[test]
fn routes_and_what_was_learned_are_in_it() {
    let mut state = shop();
    let lesson = Lesson { belief: Belief::ServerFirst, until_ms: 1 };
    apply(&mut state, Command::Learn { service: name("mail"), port: 80, lesson });
    assert_eq!(decision(&state, "protocol", "mail", 80, "/"), "connect at once, and see who speaks first");
    let backend = |service, weight| RouteBackend { service: name(service), port: 80, weight };
    let accepted = RouteMatch { path: PathMatch::Prefix("/v2".into()), ..RouteMatch::default() };
    let backends = vec![backend("cart", 3), backend("mail", 1)];
    let rule = RouteRule { matches: vec![accepted], backends, ..RouteRule::default() };
    let parents = [ParentRef { service: name("mail"), port: None }].into();
    let route = HttpRoute::new(RouteName::new("shop", "split").unwrap(), parents, vec![rule]).unwrap();
    apply(&mut state, Command::Batch(vec![Change::UpsertRoute(route)]));
    let shares = "75.0% to service/shop/cart:80, 25.0% to service/shop/mail:80";
    assert_eq!(decision(&state, "route", "mail", 80, "/v2/x"), shares);
    assert_eq!(decision(&state, "route", "mail", 80, "/v3"), "404, conduit-proxy-error: no-route");
    assert_eq!(decision(&state, "endpoint", "mail", 80, "/v3"), "", "nobody is asked");
    let backends = vec![backend("cart", 3)];
    let timeouts = Timeouts { request_ms: 500, backend_request_ms: 200 };
    let rule = RouteRule { backends, unresolved: 1, timeouts, ..RouteRule::default() };
    let parents = [ParentRef { service: name("mail"), port: None }].into();
    let route = HttpRoute::new(RouteName::new("shop", "split").unwrap(), parents, vec![rule]).unwrap();
    apply(&mut state, Command::Batch(vec![Change::UpsertRoute(route)]));
    let shares = "75.0% to service/shop/cart:80, 25.0% to 500, conduit-proxy-error: no-backend, 504 after 200 ms";
    assert_eq!(decision(&state, "route", "mail", 80, "/"), shares);
}
