use conduit_api::{
    Endpoint, ServicePort,
    mesh::ObjectiveName,
    mesh::simplify_routes,
    objective::{Declared, Percentile},
    route::{ParentRef, RouteBackend, RouteRule},
};
use conduit_api::{SpiffeId, TrustDomain};
use conduit_ca::KeyId;
use proptest::prelude::*;

use super::{
    ca::{DENIED_MAX, FEDERATED_MAX, FederatedRecord},
    learned::Belief,
    objectives::{Delivery, EVENTS_MAX, OBJECTIVES_MAX, Severity, Transition},
    *,
};
use crate::{Link, RootState};

fn apply(state: &mut MeshState, index: u64, command: Command) -> Outcome {
    state.apply(index, Proposal::new("test", index, command)).outcome
}

fn service(name: u8, cluster_ip: Option<u8>, endpoints: &[u8]) -> Service {
    let endpoint = |i: &u8| {
        let address = SocketAddr::from(([10, 244, 1, *i], 8080));
        (address, Endpoint { address, pod: None, workload: None, identity: None, zone: None })
    };
    let port = ServicePort { endpoints: endpoints.iter().map(endpoint).collect(), ..ServicePort::default() };
    Service {
        name: ServiceName::new("ns", &format!("s{name}")).unwrap(),
        cluster_ips: cluster_ip.map(|i| IpAddr::from([10, 96, 0, i])).into_iter().collect(),
        ports: [(80, port)].into(),
        balancing: Default::default(),
    }
}

fn pod(name: u8, ip: u8, ready: bool) -> Pod {
    Pod {
        name: PodName::new("ns", &format!("p{name}")).unwrap(),
        ip: IpAddr::from([10, 244, 1, ip]),
        workload: None,
        service_account: "default".into(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready,
        application_ended: false,
    }
}

fn route(name: u8, parent: u8, backend: u8) -> HttpRoute {
    let service = |i| service(i, None, &[]).name;
    let backends = vec![RouteBackend { service: service(backend), port: 80, weight: 1 }];
    let parents = [ParentRef { service: service(parent), port: None }].into();
    let rules = vec![RouteRule { backends, ..RouteRule::default() }];
    HttpRoute::new(RouteName::new("ns", &format!("r{name}")).unwrap(), parents, rules).unwrap()
}

fn root(byte: u8) -> Command {
    Command::CaInit { root: Box::new(sealed(byte)), after: None }
}

fn key_id(byte: u8) -> KeyId {
    KeyId::from_bytes(&[byte])
}

fn sealed(byte: u8) -> SealedRoot {
    SealedRoot {
        id: key_id(byte),
        anchor: vec![byte],
        certificate: vec![byte],
        links: vec![],
        key: rmp_serde::from_slice(&rmp_serde::to_vec(&vec![byte]).unwrap()).unwrap(),
        imported: false,
    }
}

fn prepare(byte: u8, by: Option<u8>) -> Command {
    let link = by.map(|by| Link { by: key_id(by), certificate: vec![by, byte] });
    Command::PrepareRoot { root: Box::new(sealed(byte)), link }
}

fn issuer(node: u64, byte: u8) -> Command {
    Command::AddIssuer { node: NodeId::new(node), id: key_id(byte), certificate: vec![byte] }
}

fn web() -> SpiffeId {
    "spiffe://cluster.local/ns/ns/sa/web".parse().unwrap()
}

fn jwt_key(node: u64, id: u8) -> Command {
    let (id, not_after_ms) = (id.to_string(), 1000 + u64::from(id));
    Command::AddJwtKey { node: NodeId::new(node), jwk: id.clone(), id, not_after_ms }
}

fn domain(byte: u8) -> TrustDomain {
    format!("d{byte}.example.org").parse().unwrap()
}

fn any_rotation() -> impl Strategy<Value = Command> {
    let byte = || 0..6_u8;
    prop_oneof![
        (byte(), proptest::option::of(byte())).prop_map(|(root, by)| prepare(root, by)),
        byte().prop_map(|root| Command::ActivateRoot { root: key_id(root) }),
        byte().prop_map(|root| Command::DropRoot { root: key_id(root) }),
        (0..3_u64, 10..14_u8).prop_map(|(node, byte)| issuer(node, byte)),
        (0..3_u64).prop_map(|node| Command::RevokeIssuer { node: NodeId::new(node) }),
        any::<bool>().prop_map(|drop_connections| Command::DenyIdentity { id: web(), drop_connections }),
        Just(Command::AllowIdentity { id: web() }),
        (0..3_u64, 0..20_u8).prop_map(|(node, id)| jwt_key(node, id)),
        byte()
            .prop_map(|byte| Command::Federate { trust_domain: domain(byte), authorities: FederatedRecord::default() }),
        byte().prop_map(|byte| Command::Defederate { trust_domain: domain(byte) }),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let small = || 0..4_u8;
    prop_oneof![
        (small(), proptest::option::of(small()), proptest::collection::vec(small(), 0..3))
            .prop_map(|(name, ip, endpoints)| Change::UpsertService(service(name, ip, &endpoints))),
        small().prop_map(|name| Change::RemoveService(service(name, None, &[]).name)),
        (small(), small(), any::<bool>()).prop_map(|(name, ip, ready)| Change::UpsertPod(pod(name, ip, ready))),
        small().prop_map(|name| Change::RemovePod(pod(name, 0, true).name)),
        (small(), small(), small())
            .prop_map(|(name, parent, backend)| Change::UpsertRoute(route(name, parent, backend))),
        small().prop_map(|name| Change::RemoveRoute(route(name, 0, 0).name)),
    ]
}

fn any_lesson() -> impl Strategy<Value = Command> {
    let name = || (0..4_u8).prop_map(|name| service(name, None, &[]).name);
    let belief = || prop_oneof![Just(Belief::ServerFirst), Just(Belief::Mixed)];
    prop_oneof![
        3 => (name(), belief(), 0..4_u64).prop_map(|(name, belief, until_ms)| learn(name, belief, until_ms)),
        1 => proptest::collection::vec((name(), 0..4_u64), 0..3)
            .prop_map(|ports| Command::Forget(ports.into_iter().map(|(name, until)| (name, 80, until)).collect())),
    ]
}

fn learn(service: ServiceName, belief: Belief, until_ms: u64) -> Command {
    Command::Learn { service, port: 80, lesson: Lesson { belief, until_ms } }
}

fn resource(name: u8) -> ResourceName {
    ResourceName::new("deployment", "ns", &format!("d{name}")).unwrap()
}

/// A promise for each bit: success, and p99.
fn objective(success: u32, p99_ms: u32) -> Objective {
    let success = (success > 0).then(|| success.try_into().unwrap());
    let p99 = (p99_ms > 0).then(|| (Percentile::P99, p99_ms.try_into().unwrap()));
    Objective::new(success, p99.into_iter().collect()).unwrap()
}

fn set(name: u8, success: u32, p99_ms: u32) -> Command {
    Command::SetObjective { resource: resource(name), objective: objective(success, p99_ms) }
}

/// What was judged is what was promised at that revision.
fn record(version: u64, name: u8, indicator: Indicator, severity: Option<Severity>) -> Command {
    let (resource, version) = (resource(name), version.into());
    Command::RecordAlert(Transition { resource, indicator, version, severity, tell: true })
}

fn any_objective() -> impl Strategy<Value = Command> {
    let name = || 0..3_u8;
    let indicator = || prop_oneof![Just(Indicator::Success), Just(Indicator::Latency(Percentile::P99))];
    let severity = prop_oneof![Just(None), Just(Some(Severity::Warning)), Just(Some(Severity::Critical))];
    prop_oneof![
        (name(), 1..4_u32, 0..2_u32).prop_map(|(name, success, p99)| set(name, success, p99)),
        name().prop_map(|name| Command::RemoveObjective { resource: resource(name) }),
        (name(), 1..4_u32).prop_map(|(name, success)| declare(name, success, "a")),
        name().prop_map(withdraw),
        (1..10_u64, name(), indicator(), severity)
            .prop_map(|(version, name, indicator, severity)| record(version, name, indicator, severity)),
        (1..40_u64, indicator())
            .prop_map(|(id, indicator)| { Command::AlertTold { id: id.into(), indicator, delivery: Delivery::Told } }),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let node = || (0..3_u64).prop_map(NodeId::new);
    prop_oneof![
        6 => proptest::collection::vec(any_change(), 0..4).prop_map(Command::Batch),
        1 => (0..2_u8).prop_map(root),
        2 => any_rotation(),
        1 => node().prop_map(|node| Command::Retire { node }),
        1 => (0..40_u64).prop_map(|to| Command::Rollback { to: to.into() }),
        2 => any_lesson(),
        2 => any_objective(),
    ]
}

fn encoded(state: &MeshState) -> Vec<u8> {
    rmp_serde::to_vec_named(state).unwrap()
}

proptest! {
    /// The same log makes the same bytes; a snapshot in the middle changes nothing of it, indexes included.
    #[test]
    fn replay_and_snapshot_agree(commands in proptest::collection::vec(any_command(), 0..40), cut in 0..40_usize) {
        let (mut straight, mut restored) = (MeshState::default(), MeshState::default());
        for (index, command) in (1..).zip(&commands) {
            if index as usize == cut {
                restored = rmp_serde::from_slice(&encoded(&restored)).unwrap();
            }
            let (a, b) = (apply(&mut straight, index, command.clone()), apply(&mut restored, index, command.clone()));
            prop_assert_eq!(a, b);
        }
        prop_assert_eq!(encoded(&straight), encoded(&restored));
        prop_assert_eq!(straight, restored);
    }

    /// A command applied twice in a row changes nothing the second time, so a proposal may be repeated.
    #[test]
    fn commands_are_idempotent(commands in proptest::collection::vec(any_command(), 1..20)) {
        let mut state = MeshState::default();
        for (index, command) in (1..).step_by(2).zip(commands) {
            apply(&mut state, index, command.clone());
            let before = state.clone();
            // A batch may contain what it undoes itself; then the second time does the same again and ends the same.
            apply(&mut state, index + 1, command);
            prop_assert_eq!(
                state.services().values().map(|s| &s.value).collect::<Vec<_>>(),
                before.services().values().map(|s| &s.value).collect::<Vec<_>>()
            );
            prop_assert_eq!(state.ca(), before.ca());
            prop_assert_eq!(&state.index, &before.index);
        }
    }

    /// Revisions only grow, and move exactly when what proxies are told may have.
    #[test]
    fn revisions_follow_discovery(commands in proptest::collection::vec(any_command(), 0..40)) {
        let mut state = MeshState::default();
        for (index, command) in (1..).zip(commands) {
            let before = state.clone();
            apply(&mut state, index, command);
            prop_assert!(state.revision() >= before.revision());
            let roots = |state: &MeshState| state.ca().map(|ca| ca.roots.clone());
            if state.revision() == before.revision() {
                prop_assert_eq!(state.services(), before.services());
                prop_assert_eq!(state.pods(), before.pods());
                prop_assert_eq!(roots(&state), roots(&before));
            } else {
                prop_assert_eq!(state.revision(), Revision::from(index));
            }
        }
    }
}

#[test]
fn what_did_not_change_keeps_its_version_and_its_memory() {
    let mut state = MeshState::default();
    let (a, b) = (service(1, Some(1), &[1]), service(2, Some(2), &[2]));
    apply(&mut state, 5, Command::Batch(vec![Change::UpsertService(a.clone()), Change::UpsertService(b)]));
    let before = state.clone();
    let changed =
        Command::Batch(vec![Change::UpsertService(a.clone()), Change::UpsertService(service(2, Some(2), &[]))]);
    assert_eq!(apply(&mut state, 6, changed.clone()), Outcome::Done);
    assert!(Arc::ptr_eq(&state.services()[&a.name], &before.services()[&a.name]));
    assert_eq!(state.services()[&a.name].version, Revision::from(5));
    assert_eq!(apply(&mut state, 7, changed), Outcome::Unchanged);
    assert_eq!(state.revision(), Revision::from(6));
}

#[test]
fn addresses_lead_to_what_is_there_now() {
    let mut state = MeshState::default();
    let batch = vec![Change::UpsertService(service(1, Some(1), &[1])), Change::UpsertPod(pod(1, 1, true))];
    apply(&mut state, 1, Command::Batch(batch));
    assert_eq!(state.service_by_cluster_ip([10, 96, 0, 1].into()).unwrap().value.name.name(), "s1");
    assert_eq!(state.pod_by_ip([10, 244, 1, 1].into()).unwrap().value.name.name(), "p1");
    // The pod is replaced by another at its address before the old one is removed.
    apply(&mut state, 2, Command::Batch(vec![Change::UpsertPod(pod(2, 1, true))]));
    apply(&mut state, 3, Command::Batch(vec![Change::RemovePod(pod(1, 1, true).name)]));
    assert_eq!(state.pod_by_ip([10, 244, 1, 1].into()).unwrap().value.name.name(), "p2");
    apply(&mut state, 4, Command::Batch(vec![Change::RemoveService(service(1, None, &[]).name)]));
    assert!(state.service_by_cluster_ip([10, 96, 0, 1].into()).is_none());
}

#[test]
fn headless_services_are_found_by_the_addresses_that_their_clients_use() {
    let mut state = MeshState::default();
    apply(&mut state, 1, Command::Batch(vec![Change::UpsertService(service(1, None, &[7]))]));
    let name = service(1, None, &[]).name;
    for port in [8080, 80] {
        assert_eq!(state.headless_services_of(([10, 244, 1, 7], port).into()), [(name.clone(), 80)], "{port}");
    }
    assert_eq!(state.headless_services_of(([10, 244, 1, 7], 81).into()), []);
    apply(&mut state, 2, Command::Batch(vec![Change::UpsertService(service(1, Some(1), &[7]))]));
    assert_eq!(state.headless_services_of(([10, 244, 1, 7], 8080).into()), []);
}

proptest! {
    /// What was configured at any revision can be had again, and is then what is in force.
    #[test]
    fn routes_are_remembered(commands in proptest::collection::vec(any_command(), 1..40), to in 1..40_u64) {
        let mut state = MeshState::default();
        let mut past = vec![BTreeMap::new()];
        let current = |state: &MeshState| -> BTreeMap<_, _> {
            state.routes().iter().map(|(name, route)| (name.clone(), route.value.clone())).collect()
        };
        for (index, command) in (1..).zip(commands) {
            apply(&mut state, index, command);
            past.push(current(&state));
        }
        for (revision, routes) in (0..=state.revision().as_u64()).zip(&past) {
            prop_assert_eq!(state.routes_at(revision.into()), Some(routes.clone()), "revision {}", revision);
        }
        prop_assert_eq!(state.routes_at((state.revision().as_u64() + 1).into()), None);
        let to = to.min(state.revision().as_u64());
        apply(&mut state, 100, Command::Rollback { to: to.into() });
        prop_assert_eq!(&current(&state), &past[to as usize]);
        for (name, table) in state.routes.tables() {
            prop_assert_eq!(state.routes_of(&name), Some(&table), "the index says the same");
        }
    }
}

#[test]
fn what_was_long_ago_is_forgotten() {
    let mut state = MeshState::default();
    for index in 1..=(AUDIT_MAX as u64 + 10) {
        let changes = vec![Change::UpsertRoute(route(1, 0, (index % 2) as u8))];
        apply(&mut state, index, Command::Batch(changes));
    }
    assert_eq!(state.routes_at(9.into()), None);
    assert_eq!(state.routes_at(10.into()).unwrap()[&route(1, 0, 0).name], route(1, 0, 0));
    assert!(matches!(apply(&mut state, 2000, Command::Rollback { to: 9.into() }), Outcome::Rejected(_)));
}

#[test]
fn a_service_changes_with_its_routes() {
    let mut state = MeshState::default();
    let services = [0, 1].map(|i| Change::UpsertService(service(i, None, &[])));
    apply(&mut state, 1, Command::Batch(services.to_vec()));
    let versions = |state: &MeshState| state.services().values().map(|s| s.version.as_u64()).collect::<Vec<_>>();
    for (index, change, expected) in [
        (2, Change::UpsertRoute(route(1, 0, 3)), [2, 1]),
        (3, Change::UpsertRoute(route(1, 0, 3)), [2, 1]),
        (4, Change::UpsertRoute(route(1, 1, 3)), [4, 4]),
        (5, Change::RemoveRoute(route(1, 0, 0).name), [4, 5]),
    ] {
        apply(&mut state, index, Command::Batch(vec![change]));
        assert_eq!(versions(&state), expected, "{index}");
    }
    assert_eq!(state.routes_of(&service(1, None, &[]).name), None);
}

#[test]
fn what_older_members_would_not_keep_is_not_given_to_them() {
    let plain = Command::Batch(vec![Change::UpsertService(service(1, None, &[1])), Change::UpsertPod(pod(1, 1, true))]);
    assert_eq!(plain.feature_level(), 1);
    let (mut zoned, mut opaque) = (pod(1, 1, true), service(1, None, &[1]));
    zoned.zone = Some("eu-1a".into());
    opaque.ports.get_mut(&80).unwrap().opaque = true;
    let mut balanced = service(1, None, &[1]);
    balanced.balancing.prefer_own_zone = true;
    for change in [Change::UpsertPod(zoned), Change::UpsertService(opaque), Change::UpsertService(balanced)] {
        let command = Command::Batch(vec![change]);
        assert_eq!(command.feature_level(), 5, "{command}");
        let mut state = MeshState::default();
        apply(&mut state, 1, command);
        assert_eq!(Command::Restore(Box::new(state)).feature_level(), 5);
    }
}

#[test]
fn routes_that_older_members_would_not_keep_are_not_given_to_them() {
    let dated = HttpRoute { created_ms: Some(1), ..route(1, 0, 2) };
    let mut state = MeshState::default();
    for (index, change, level) in [
        (1, Change::UpsertRoute(route(1, 0, 2)), 2),
        (2, Change::UpsertRoute(dated), 6),
        // It is remembered, and may be brought back.
        (3, Change::RemoveRoute(route(1, 0, 2).name), 2),
    ] {
        let command = Command::Batch(vec![change]);
        assert_eq!(command.feature_level(), level, "{command}");
        apply(&mut state, index, command);
        assert_eq!(Command::Restore(Box::new(state.clone())).feature_level() >= 6, index >= 2, "{index}");
    }
    let told = |level| simplify_routes(vec![HttpRoute { created_ms: Some(1), ..route(1, 0, 2) }], level);
    assert_eq!(told(5), Some(vec![route(1, 0, 2)]), "as far as they know it");
    assert_eq!(told(4), None);
}

#[test]
fn the_oldest_route_wins_whatever_its_name() {
    let mut state = MeshState::default();
    let made = |name, backend, created_ms| Change::UpsertRoute(HttpRoute { created_ms, ..route(name, 0, backend) });
    let changes = vec![made(1, 1, Some(20)), made(2, 2, Some(10)), made(3, 3, Some(10))];
    apply(&mut state, 1, Command::Batch(changes));
    let state: MeshState = rmp_serde::from_slice(&encoded(&state)).unwrap();
    let table = state.routes_of(&service(0, None, &[]).name).unwrap();
    let order: Vec<_> = table.of_port(80).map(|choice| choice.rule.backends[0].service.clone()).collect();
    assert_eq!(order, [2, 3, 1].map(|i| service(i, None, &[]).name));
}

#[test]
fn a_service_changes_with_what_is_to_be_expected_of_it() {
    use Belief::{Mixed, ServerFirst};
    let mut state = MeshState::default();
    let mut known = service(1, None, &[]);
    let name = known.name.clone();
    let forget = |until_ms| Command::Forget(vec![(service(1, None, &[]).name, 80, until_ms)]);
    assert!(matches!(apply(&mut state, 1, learn(name.clone(), ServerFirst, 9)), Outcome::Rejected(_)), "no service");
    apply(&mut state, 2, Command::Batch(vec![Change::UpsertService(known.clone())]));
    for (index, command, outcome, hint, version) in [
        (3, learn(name.clone(), ServerFirst, 9), Outcome::Done, ProtocolHint::ServerFirst, 3),
        (4, learn(name.clone(), ServerFirst, 8), Outcome::Unchanged, ProtocolHint::ServerFirst, 3),
        (5, learn(name.clone(), ServerFirst, 10), Outcome::Done, ProtocolHint::ServerFirst, 3),
        (6, learn(name.clone(), Mixed, 9), Outcome::Done, ProtocolHint::None, 6),
        (7, learn(name.clone(), ServerFirst, 20), Outcome::Unchanged, ProtocolHint::None, 6),
        (8, forget(9), Outcome::Done, ProtocolHint::None, 6),
        (9, learn(name.clone(), ServerFirst, 20), Outcome::Done, ProtocolHint::ServerFirst, 9),
        (10, forget(19), Outcome::Unchanged, ProtocolHint::ServerFirst, 9),
        (11, forget(20), Outcome::Done, ProtocolHint::None, 11),
        (12, forget(20), Outcome::Unchanged, ProtocolHint::None, 11),
    ] {
        assert_eq!(apply(&mut state, index, command), outcome, "{index}");
        let service = &state.services()[&name];
        assert_eq!((state.hint_of(&service.value, 80), service.version.as_u64()), (hint, version), "{index}");
        assert_eq!(state.revision().as_u64(), version, "{index}");
    }
    apply(&mut state, 13, learn(name.clone(), ServerFirst, 9));
    let audited: Vec<_> = state.audit().map(|record| record.index).collect();
    assert_eq!(audited, [2, 3, 6, 9, 11, 13], "what proxies were told, and nothing else");
    known.ports.get_mut(&80).unwrap().opaque = true;
    apply(&mut state, 14, Command::Batch(vec![Change::UpsertService(known.clone())]));
    assert_eq!(state.hint_of(&known, 80), ProtocolHint::Opaque, "what somebody says goes before what was seen");
    apply(&mut state, 15, Command::Batch(vec![Change::RemoveService(name)]));
    assert_eq!(state.lessons().count(), 0, "what is gone takes its lessons along");
}

#[test]
fn objectives_are_changed_by_people_and_are_nothing_that_proxies_are_told() {
    let mut state = MeshState::default();
    apply(&mut state, 1, Command::Batch(vec![Change::UpsertPod(pod(1, 1, true))]));
    for (index, command, outcome, version) in [
        (2, set(1, 990_000, 0), Outcome::Done, Some(2)),
        (3, set(1, 990_000, 0), Outcome::Unchanged, Some(2)),
        (4, set(1, 999_000, 100), Outcome::Done, Some(4)),
        (5, Command::RemoveObjective { resource: resource(1) }, Outcome::Done, None),
        (6, Command::RemoveObjective { resource: resource(1) }, Outcome::Unchanged, None),
    ] {
        assert_eq!(apply(&mut state, index, command.clone()), outcome, "{command}");
        assert_eq!(state.objectives().get(&resource(1)).map(|known| known.version.as_u64()), version, "{command}");
        assert_eq!(state.revision().as_u64(), 1);
    }
    let audit: Vec<_> = state.audit().skip(1).map(|record| record.summary.clone()).collect();
    assert_eq!(
        audit,
        [
            "objective of deployment/ns/d1: success 99%",
            "objective of deployment/ns/d1: success 99.9%, p99 100ms",
            "objective of deployment/ns/d1 removed"
        ]
    );
    for name in 0..OBJECTIVES_MAX {
        let resource = ResourceName::new("pod", "ns", &format!("p{name}")).unwrap();
        let command = Command::SetObjective { resource, objective: objective(1, 0) };
        assert_eq!(apply(&mut state, 10 + name as u64, command), Outcome::Done);
    }
    assert!(matches!(apply(&mut state, 9_999, set(1, 1, 0)), Outcome::Rejected(_)));
}

fn declare(name: u8, success: u32, by: &str) -> Command {
    let by = ObjectiveName::new("ns", by).unwrap();
    let declared = Declared { by, resource: resource(name), objective: objective(success, 0) };
    Command::Batch(vec![Change::DeclareObjective(declared)])
}

fn withdraw(name: u8) -> Command {
    Command::Batch(vec![Change::WithdrawObjective(resource(name))])
}

#[test]
fn what_an_object_declares_is_changed_by_nobody_else() {
    let mut state = MeshState::default();
    apply(&mut state, 1, Command::Batch(vec![Change::UpsertPod(pod(1, 1, true))]));
    let remove = || Command::RemoveObjective { resource: resource(1) };
    let steps = [
        (set(1, 900_000, 0), Outcome::Done, Some(900_000)),
        (declare(1, 990_000, "a"), Outcome::Done, Some(990_000)),
        (declare(1, 990_000, "a"), Outcome::Unchanged, Some(990_000)),
        (declare(1, 990_000, "b"), Outcome::Done, Some(990_000)),
        (set(1, 990_000, 0), Outcome::Unchanged, Some(990_000)),
        (declare(1, 999_000, "b"), Outcome::Done, Some(999_000)),
        // Who may write objects may not take away what was promised before.
        (withdraw(1), Outcome::Done, Some(900_000)),
        (withdraw(1), Outcome::Unchanged, Some(900_000)),
        (set(1, 900_000, 0), Outcome::Unchanged, Some(900_000)),
        (remove(), Outcome::Done, None),
        (declare(1, 990_000, "a"), Outcome::Done, Some(990_000)),
        (withdraw(1), Outcome::Done, None),
    ];
    for (index, (command, outcome, success)) in (2..).zip(steps) {
        assert_eq!(apply(&mut state, index, command.clone()), outcome, "{index}: {command}");
        let known = state.objectives().get(&resource(1)).map(|known| &known.value);
        assert_eq!(known, success.map(|success| objective(success, 0)).as_ref(), "{index}: {command}");
        assert_eq!(state.revision().as_u64(), 1, "it is nothing that proxies are told");
        if state.declarations().contains_key(&resource(1)) {
            for command in [set(1, 1, 0), remove()] {
                let Outcome::Rejected(why) = apply(&mut state, 1_000, command) else { panic!("{index}") };
                assert!(why.starts_with("what is promised of deployment ns/d1 is declared by an object"), "{why}");
            }
        }
    }
    let declared = state.audit().map(|record| record.summary.as_str()).find(|summary| summary.contains("by objective"));
    assert_eq!(declared, Some("objective of deployment/ns/d1 by objective/ns/a: success 99%"));
}

/// What people promise one by one, and what objects declare, do not take each other's room.
#[test]
fn objects_declare_no_more_than_can_be_looked_at() {
    let mut state = MeshState::default();
    let of = |i: usize| {
        let resource = ResourceName::new("pod", "ns", &format!("p{i}")).unwrap();
        let by = ObjectiveName::new("ns", &format!("o{i}")).unwrap();
        Change::DeclareObjective(Declared { by, resource, objective: objective(1, 0) })
    };
    assert_eq!(apply(&mut state, 1, Command::Batch((0..OBJECTIVES_MAX).map(of).collect())), Outcome::Done);
    assert_eq!(apply(&mut state, 2, Command::Batch(vec![of(OBJECTIVES_MAX)])), Outcome::Unchanged);
    assert_eq!(apply(&mut state, 3, set(1, 1, 0)), Outcome::Done);
    assert_eq!(state.objectives().len(), OBJECTIVES_MAX + 1);
}

/// Of each event: what, whether it began, and what became of telling it.
fn events(state: &MeshState) -> Vec<(Indicator, bool, Severity, u64, Delivery)> {
    let event = |event: &objectives::AlertEvent| {
        (event.indicator, event.firing, event.severity, event.since_ms, event.delivery)
    };
    state.alert_events().map(event).collect()
}

#[test]
fn an_alert_is_told_of_when_it_begins_and_changes_and_ends() {
    let (success, p99) = (Indicator::Success, Indicator::Latency(Percentile::P99));
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    let mut state = MeshState::default();
    assert!(matches!(apply(&mut state, 1, record(1, 1, success, Some(warning))), Outcome::Rejected(_)));
    for (index, command, outcome) in [
        (2, set(1, 990_000, 100), Outcome::Done),
        (3, record(2, 1, success, Some(warning)), Outcome::Done),
        // Another leader finds the same.
        (4, record(2, 1, success, Some(warning)), Outcome::Unchanged),
        (5, record(2, 1, success, Some(critical)), Outcome::Done),
        (6, record(2, 1, success, Some(warning)), Outcome::Done),
        (7, record(2, 1, p99, Some(warning)), Outcome::Done),
        (8, Command::AlertTold { id: 3.into(), indicator: success, delivery: Delivery::Told }, Outcome::Done),
        (9, Command::AlertTold { id: 3.into(), indicator: success, delivery: Delivery::Failed }, Outcome::Unchanged),
        (10, record(2, 1, success, None), Outcome::Done),
        (11, record(2, 1, success, None), Outcome::Unchanged),
        // What is not promised any more is over as well.
        (12, set(1, 990_000, 0), Outcome::Done),
    ] {
        assert_eq!(apply(&mut state, index, command.clone()), outcome, "{index} {command}");
    }
    let (due, told) = (Delivery::Due, Delivery::Told);
    assert_eq!(
        events(&state),
        [
            (success, true, warning, 3, told),
            (success, true, critical, 3, due),
            (success, true, warning, 3, due),
            (p99, true, warning, 7, due),
            (success, false, warning, 3, due),
            (p99, false, warning, 7, due),
        ]
    );
    assert!(state.firing().is_empty());
    assert!(state.audit().all(|record| record.summary.starts_with("objective of")), "alerts are told of elsewhere");
}

#[test]
fn an_alert_is_of_the_promise_that_was_judged() {
    let mut state = MeshState::default();
    let warning = Some(Severity::Warning);
    apply(&mut state, 1, set(1, 990_000, 0));
    apply(&mut state, 2, set(1, 500_000, 0));
    assert!(matches!(apply(&mut state, 3, record(1, 1, Indicator::Success, warning)), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 4, record(2, 1, Indicator::Success, warning)), Outcome::Done);
    apply(&mut state, 5, set(1, 400_000, 0));
    assert!(matches!(apply(&mut state, 6, record(2, 1, Indicator::Success, None)), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 7, record(5, 1, Indicator::Success, None)), Outcome::Done);
}

/// The same, found by a leader that has no webhook.
fn untold(command: Command) -> Command {
    let Command::RecordAlert(transition) = command else { panic!("{command}") };
    Command::RecordAlert(Transition { tell: false, ..transition })
}

#[test]
fn the_end_is_told_to_those_who_were_told_of_the_beginning() {
    let (success, warning) = (Indicator::Success, Some(Severity::Warning));
    for (begins, ends, delivery) in [
        (record(1, 1, success, warning), untold(record(1, 1, success, None)), Delivery::Due),
        (untold(record(1, 1, success, warning)), record(1, 1, success, None), Delivery::None),
    ] {
        let mut state = MeshState::default();
        apply(&mut state, 1, set(1, 990_000, 0));
        apply(&mut state, 2, begins);
        apply(&mut state, 3, ends);
        let deliveries: Vec<_> = events(&state).into_iter().map(|event| event.4).collect();
        assert_eq!(deliveries, [delivery, delivery]);
    }
}

#[test]
fn what_is_not_told_yet_is_forgotten_last() {
    let (success, critical) = (Indicator::Success, Severity::Critical);
    let mut state = MeshState::default();
    apply(&mut state, 1, set(1, 990_000, 0));
    apply(&mut state, 2, set(2, 990_000, 0));
    assert_eq!(apply(&mut state, 3, record(1, 1, success, Some(critical))), Outcome::Done);
    for index in 0..2 * EVENTS_MAX as u64 {
        let severity = index.is_multiple_of(2).then_some(critical);
        assert_eq!(apply(&mut state, 100 + index, untold(record(2, 2, success, severity))), Outcome::Done);
    }
    assert_eq!((state.alert_events().count(), state.alert_events_dropped()), (EVENTS_MAX, 0));
    let first = state.alert_events().next().unwrap();
    assert_eq!((first.id.as_u64(), first.delivery), (3, Delivery::Due));
    for index in 0..EVENTS_MAX as u64 {
        let severity = index.is_multiple_of(2).then_some(critical);
        assert_eq!(apply(&mut state, 1_000 + index, record(2, 2, success, severity)), Outcome::Done);
    }
    assert_eq!((state.alert_events().count(), state.alert_events_dropped()), (EVENTS_MAX, 1));
    assert_eq!(state.alert_events().next().unwrap().id.as_u64(), 1_000);
}

#[test]
fn who_was_told_of_an_alert_is_told_that_it_is_over_when_a_backup_is_restored() {
    let (success, p99) = (Indicator::Success, Indicator::Latency(Percentile::P99));
    let warning = Some(Severity::Warning);
    let mut state = MeshState::default();
    apply(&mut state, 1, set(1, 990_000, 100));
    apply(&mut state, 2, record(1, 1, p99, warning));
    let backup = state.clone();
    apply(&mut state, 3, record(1, 1, p99, None));
    apply(&mut state, 4, record(1, 1, success, warning));
    apply(&mut state, 5, set(2, 990_000, 0));
    apply(&mut state, 6, untold(record(5, 2, success, warning)));
    for (id, indicator) in [(2, p99), (3, p99), (4, success)] {
        let told = Command::AlertTold { id: id.into(), indicator, delivery: Delivery::Told };
        assert_eq!(apply(&mut state, 7, told), Outcome::Done);
    }
    assert_eq!(apply(&mut state, 8, Command::Restore(Box::new(backup))), Outcome::Done);
    assert!(state.firing().is_empty(), "what is bad is found again");
    let (none, due, warning) = (Delivery::None, Delivery::Due, Severity::Warning);
    assert_eq!(events(&state), [(p99, true, warning, 2, none), (success, false, warning, 4, due)]);
    assert_eq!(state.alert_events().last().unwrap().goal, "success 99%");
}

#[test]
fn who_taps_payloads_is_in_the_audit_and_proxies_are_told_nothing_new() {
    let mut state = MeshState::default();
    apply(&mut state, 1, Command::Batch(vec![Change::UpsertPod(pod(1, 1, true))]));
    let tap = Command::TapPayloads { target: "deployment/voting in emojivoto".to_owned() };
    assert_eq!(tap.feature_level(), 8, "a release before would end with it");
    assert_eq!(apply(&mut state, 2, tap), Outcome::Done);
    assert_eq!(state.audit().last().unwrap().summary, "tapped the payloads of deployment/voting in emojivoto");
    assert_eq!(state.revision().as_u64(), 1);
}

#[test]
fn who_looks_again_is_in_the_audit_once() {
    let mut state = MeshState::default();
    let mut written = 0;
    for (index, (who, name, time_ms, is_new)) in [
        ("ann", "web", 1_000, true),
        ("ann", "web", 1_000, false),
        ("ann", "web", 1_000 + FOLDED_MS / 2, false),
        ("bob", "web", 1_000, true),
        ("ann", "voting", 1_000, true),
        ("ann", "web", 1_000 + FOLDED_MS, true),
    ]
    .into_iter()
    .enumerate()
    {
        let tap = Command::TapPayloads { target: format!("deployment/{name} in shop") };
        let outcome = state.apply(index as u64 + 1, Proposal::new(who, time_ms, tap)).outcome;
        assert_eq!(outcome, if is_new { Outcome::Done } else { Outcome::Unchanged }, "{who} {name} {time_ms}");
        written += usize::from(is_new);
        assert_eq!(state.audit().count(), written);
    }
}

#[test]
fn objectives_are_not_given_to_members_that_do_not_know_them() {
    let mut state = MeshState::default();
    assert_eq!(Command::Restore(Box::new(state.clone())).feature_level(), 1);
    for (index, command) in [
        (1, set(1, 1, 0)),
        (2, record(1, 1, Indicator::Success, None)),
        (3, Command::RemoveObjective { resource: resource(1) }),
    ] {
        assert_eq!(command.feature_level(), 7, "{command}");
        apply(&mut state, index, command);
        assert_eq!(Command::Restore(Box::new(state.clone())).feature_level() == 7, index < 3, "{index}");
    }
    for (index, command) in [(4, declare(1, 1, "a")), (5, withdraw(1))] {
        assert_eq!(command.feature_level(), 10, "{command}");
        apply(&mut state, index, command);
        assert_eq!(Command::Restore(Box::new(state.clone())).feature_level() == 10, index < 5, "{index}");
    }
}

#[test]
fn there_is_one_first_root() {
    let mut state = MeshState::default();
    let issuer = issuer(1, 9);
    assert!(matches!(apply(&mut state, 1, issuer.clone()), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 2, root(1)), Outcome::Done);
    assert_eq!(apply(&mut state, 3, root(1)), Outcome::Unchanged);
    assert!(matches!(apply(&mut state, 4, root(2)), Outcome::Rejected(_)));
    assert_eq!(state.revision(), Revision::from(2));
    assert_eq!(apply(&mut state, 5, issuer), Outcome::Done);
    assert_eq!(state.revision(), Revision::from(2), "proxies are told of roots, not of issuers");
}

fn states(state: &MeshState) -> Vec<(u8, RootState, u64)> {
    let roots = &state.ca().unwrap().roots;
    roots.iter().map(|root| (root.root.anchor[0], root.state, root.since.as_u64())).collect()
}

#[test]
fn a_root_is_prepared_then_active_then_retired_then_dropped() {
    use RootState::{Active, Prepared, Retired};
    let mut state = MeshState::default();
    assert!(matches!(apply(&mut state, 1, prepare(2, None)), Outcome::Rejected(_)), "there is none to follow");
    apply(&mut state, 2, root(1));
    assert_eq!(apply(&mut state, 3, prepare(2, Some(1))), Outcome::Done);
    assert_eq!(states(&state), [(1, Active, 2), (2, Prepared, 3)]);
    assert_eq!(state.revision(), Revision::from(3), "proxies are told");
    assert_eq!(apply(&mut state, 4, prepare(2, Some(1))), Outcome::Unchanged);
    assert!(matches!(apply(&mut state, 5, prepare(3, None)), Outcome::Rejected(_)), "one after the other");
    assert!(matches!(apply(&mut state, 6, Command::DropRoot { root: key_id(1) }), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 7, Command::ActivateRoot { root: key_id(2) }), Outcome::Done);
    assert_eq!(states(&state), [(1, Retired, 7), (2, Active, 7)]);
    assert!(matches!(apply(&mut state, 8, Command::ActivateRoot { root: key_id(1) }), Outcome::Rejected(_)));
    assert!(state.ca().unwrap().active().unwrap().link.is_some());
    assert_eq!(apply(&mut state, 9, Command::DropRoot { root: key_id(1) }), Outcome::Done);
    assert_eq!(states(&state), [(2, Active, 7)]);
    assert_eq!(state.ca().unwrap().active().unwrap().link, None, "nobody trusts what it leads from");
    assert_eq!(apply(&mut state, 10, Command::DropRoot { root: key_id(1) }), Outcome::Unchanged);
    assert_eq!(state.revision(), Revision::from(9));
}

#[test]
fn an_issuer_that_was_revoked_does_not_come_back() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    apply(&mut state, 2, issuer(1, 7));
    assert_eq!(apply(&mut state, 3, Command::RevokeIssuer { node: NodeId::new(1) }), Outcome::Done);
    assert_eq!(state.revision(), Revision::from(3), "proxies are told");
    assert_eq!(apply(&mut state, 4, Command::RevokeIssuer { node: NodeId::new(1) }), Outcome::Unchanged);
    assert!(matches!(apply(&mut state, 5, issuer(1, 7)), Outcome::Rejected(_)), "told too late of what was revoked");
    assert_eq!(apply(&mut state, 6, issuer(1, 8)), Outcome::Done);
    assert_eq!(state.ca().unwrap().revoked, [key_id(7)]);
}

#[test]
fn everything_that_a_replica_has_issued_is_revoked_also_when_it_was_removed() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    for (index, id) in (2..).zip([7, 8, 9]) {
        apply(&mut state, index, issuer(1, id));
    }
    apply(&mut state, 5, issuer(2, 20));
    apply(&mut state, 6, Command::Retire { node: NodeId::new(1) });
    assert_eq!(apply(&mut state, 7, Command::RevokeIssuer { node: NodeId::new(1) }), Outcome::Done);
    assert_eq!(state.ca().unwrap().revoked, [key_id(7), key_id(8), key_id(9)]);
    assert_eq!(state.ca().unwrap().issuers.len(), 1);
    for index in 8..1000 {
        apply(
            &mut state,
            index,
            Command::AddIssuer {
                node: NodeId::new(2),
                id: KeyId::from_bytes(&index.to_be_bytes()),
                certificate: vec![],
            },
        );
    }
    assert!(state.ca().unwrap().issued_by[&NodeId::new(2)].len() <= 64);
}

#[test]
fn an_intermediate_that_was_dropped_is_not_believed_by_the_anchor_of_the_next() {
    let mut state = MeshState::default();
    let own = |byte: u8| SealedRoot { anchor: vec![99], ..sealed(byte) };
    apply(&mut state, 1, Command::CaInit { root: Box::new(own(1)), after: None });
    apply(&mut state, 2, Command::PrepareRoot { root: Box::new(own(2)), link: None });
    apply(&mut state, 3, Command::ActivateRoot { root: key_id(2) });
    apply(&mut state, 4, Command::DropRoot { root: key_id(1) });
    assert_eq!(state.ca().unwrap().revoked, [key_id(1)]);
}

#[test]
fn a_control_plane_that_goes_on_with_a_kept_root_is_ahead_of_the_one_that_was() {
    let mut state = MeshState::default();
    apply(&mut state, 1, Command::Batch(vec![Change::UpsertPod(pod(1, 1, true))]));
    apply(&mut state, 2, Command::CaInit { root: Box::new(sealed(1)), after: Some(5_000.into()) });
    let now = state.revision();
    assert!(now.as_u64() > 5_000 + 1_000_000, "{now}");
    assert!(state.pods().values().all(|pod| pod.version == now));
    assert_eq!(state.ca().unwrap().revision, now);
    apply(&mut state, 3, Command::Batch(vec![Change::UpsertPod(pod(1, 1, false))]));
    assert_eq!(state.revision().as_u64(), now.as_u64() + 1);
}

#[test]
fn the_list_of_the_denied_is_bounded() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    let deny = |i: usize| Command::DenyIdentity {
        id: format!("spiffe://cluster.local/ns/ns/sa/s{i}").parse().unwrap(),
        drop_connections: false,
    };
    for i in 0..DENIED_MAX {
        assert_eq!(apply(&mut state, 2 + i as u64, deny(i)), Outcome::Done);
    }
    assert!(matches!(apply(&mut state, 10_000, deny(DENIED_MAX)), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 10_001, deny(0)), Outcome::Unchanged);
}

#[test]
fn keys_of_tokens_are_known_as_long_as_tokens_by_them_are_valid() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    for (index, id) in (2..).zip(0..30) {
        assert_eq!(apply(&mut state, index, jwt_key(1, id)), Outcome::Done);
    }
    let ids = |state: &MeshState| {
        let mut ids: Vec<u8> = state.ca().unwrap().jwt_keys.keys().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&state), (22..30).collect::<Vec<_>>(), "the last ones of a replica that starts all the time");
    assert_eq!(apply(&mut state, 40, jwt_key(1, 29)), Outcome::Unchanged);
    // The index is also the time: a clock that is off takes nothing from others.
    assert_eq!(apply(&mut state, 100_000, jwt_key(2, 30)), Outcome::Done);
    assert_eq!(ids(&state), (22..=30).collect::<Vec<_>>());
    assert_eq!(state.ca().unwrap().revision, 100_000.into(), "proxies are told");
    apply(&mut state, 100_001, Command::Retire { node: NodeId::new(2) });
    assert_eq!(apply(&mut state, 100_002, jwt_key(3, 31)), Outcome::Done);
    assert!(!ids(&state).contains(&30), "of a replica that was removed, when it has expired");
    assert!(state.ca().unwrap().has_issued(NodeId::new(1)));
    assert_eq!(apply(&mut state, 100_003, Command::RevokeIssuer { node: NodeId::new(1) }), Outcome::Done);
    assert_eq!(ids(&state), [31], "whoever has its issuing key has these as well");
    assert_eq!(apply(&mut state, 100_004, Command::RevokeIssuer { node: NodeId::new(1) }), Outcome::Unchanged);
}

#[test]
fn other_trust_domains_are_bounded() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    let federate = |byte| Command::Federate { trust_domain: domain(byte), authorities: FederatedRecord::default() };
    for byte in 0..FEDERATED_MAX as u8 {
        assert_eq!(apply(&mut state, 2 + u64::from(byte), federate(byte)), Outcome::Done);
    }
    assert_eq!(apply(&mut state, 1000, federate(0)), Outcome::Unchanged);
    assert!(matches!(apply(&mut state, 1000, federate(200)), Outcome::Rejected(_)));
    assert_eq!(apply(&mut state, 1001, Command::Defederate { trust_domain: domain(0) }), Outcome::Done);
    assert_eq!(apply(&mut state, 1002, federate(200)), Outcome::Done);
}

#[test]
fn a_root_is_sealed_anew_and_nothing_else_of_it_changes() {
    let mut state = MeshState::default();
    apply(&mut state, 1, root(1));
    let (revision, other) = (state.revision(), sealed(2));
    let reseal = |root| Command::ResealRoot { root, key: other.key.clone() };
    assert_eq!(apply(&mut state, 2, reseal(key_id(1))), Outcome::Done);
    let active = state.ca().unwrap().active().unwrap();
    assert_eq!(active.root, SealedRoot { key: other.key.clone(), ..sealed(1) });
    assert_eq!(state.revision(), revision, "proxies need not be told");
    assert!(matches!(apply(&mut state, 3, reseal(key_id(9))), Outcome::Rejected(_)));
}

proptest! {
    /// Whatever is proposed in whatever order: certificates can be issued under exactly one root, at most one is about to follow
    /// it, and none comes back.
    #[test]
    fn there_is_one_active_root(commands in proptest::collection::vec(any_rotation(), 0..60)) {
        let mut state = MeshState::default();
        apply(&mut state, 1, root(0));
        for (index, command) in (2..).zip(commands) {
            let before = state.ca().unwrap().clone();
            let outcome = apply(&mut state, index, command);
            let ca = state.ca().unwrap();
            prop_assert_eq!(outcome == Outcome::Done, !std::sync::Arc::ptr_eq(&before, ca));
            let count = |wanted| ca.roots.iter().filter(|root| root.state == wanted).count();
            prop_assert_eq!(count(RootState::Active), 1);
            prop_assert!(count(RootState::Prepared) <= 1 && ca.roots.len() <= 4);
            for was in &before.roots {
                let is = ca.roots.iter().find(|root| root.root.id == was.root.id).map(|root| root.state);
                let allowed = matches!(
                    (was.state, is),
                    (RootState::Prepared, Some(RootState::Prepared | RootState::Active) | None)
                        | (RootState::Active, Some(RootState::Active | RootState::Retired))
                        | (RootState::Retired, Some(RootState::Retired) | None)
                );
                prop_assert!(allowed, "{:?} became {is:?}", was.state);
            }
            prop_assert!(ca.issuers.values().all(|issuer| !ca.revoked.contains(&issuer.id)));
        }
    }
}

#[test]
fn the_audit_is_bounded() {
    let mut state = MeshState::default();
    for index in 1..=(AUDIT_MAX as u64 + 10) {
        apply(&mut state, index, Command::Batch(vec![Change::UpsertPod(pod(1, (index % 2) as u8, true))]));
    }
    assert_eq!(state.audit().count(), AUDIT_MAX);
    assert_eq!(state.audit().next().unwrap().index, 11);
}

#[test]
fn a_restored_state_is_the_old_one_at_a_revision_that_nobody_has_seen() {
    let mut old = MeshState::default();
    apply(&mut old, 1, root(1));
    for index in 2..50 {
        apply(&mut old, index, Command::Batch(vec![Change::UpsertPod(pod(1, 1, index % 2 == 0))]));
    }
    let backup = crate::backup::decode(&crate::backup::encode(&old).unwrap()).unwrap();

    let mut fresh = MeshState::default();
    apply(&mut fresh, 1, root(3));
    apply(&mut fresh, 2, issuer(1, 5));
    apply(&mut fresh, 3, Command::Batch(vec![Change::UpsertPod(pod(2, 2, true))]));
    assert_eq!(apply(&mut fresh, 4, Command::Restore(Box::new(backup))), Outcome::Done);

    assert!(fresh.revision() > old.revision(), "{} after {}", fresh.revision(), old.revision());
    assert!(fresh.pods().keys().eq(old.pods().keys()));
    assert!(fresh.pods().values().all(|pod| pod.version == fresh.revision()));
    assert_eq!(fresh.pod_by_ip(pod(1, 1, true).ip).map(|pod| pod.value.name.name()), Some("p1"));
    let roots = |state: &MeshState| state.ca().unwrap().roots.iter().map(|root| root.root.clone()).collect::<Vec<_>>();
    assert_eq!(roots(&fresh), roots(&old));
    assert_eq!(fresh.ca().unwrap().roots[0].since, fresh.revision());
    assert!(fresh.ca().unwrap().issuers.is_empty());
    let before = fresh.revision();
    apply(&mut fresh, 5, Command::Batch(vec![Change::RemovePod(pod(1, 1, true).name)]));
    assert_eq!(fresh.revision().as_u64(), before.as_u64() + 1, "revisions go on");
    assert_eq!(fresh.audit().next_back().unwrap().index, fresh.revision().as_u64());
}

#[test]
fn a_snapshot_of_the_last_revision_there_is_can_be_restored() {
    let last = MeshState { revision: Revision::from(u64::MAX), ..MeshState::default() };
    let mut state = MeshState::default();
    assert_eq!(apply(&mut state, 1, Command::Restore(Box::new(last))), Outcome::Done);
    assert_eq!(apply(&mut state, 2, Command::Batch(vec![Change::UpsertPod(pod(1, 1, true))])), Outcome::Done);
    assert_eq!(state.revision().as_u64(), u64::MAX);
}

/// Those that do not know objectives refuse what has some, and read everything else.
#[test]
fn older_releases_do_not_forget_objectives() {
    let mut state = MeshState::default();
    assert_eq!(state.layout(), 1);
    assert_eq!(apply(&mut state, 1, set(1, 2, 0)), Outcome::Done);
    assert_eq!(state.layout(), 2);
    assert_eq!(crate::backup::decode(&crate::backup::encode(&state).unwrap()).unwrap(), state);
    assert_eq!(apply(&mut state, 2, Command::RemoveObjective { resource: resource(1) }), Outcome::Done);
    assert_eq!(state.layout(), 1);
    apply(&mut state, 3, declare(1, 2, "a"));
    assert_eq!(state.layout(), 3);
    assert_eq!(crate::backup::decode(&crate::backup::encode(&state).unwrap()).unwrap(), state);
    apply(&mut state, 4, withdraw(1));
    assert_eq!(state.layout(), 1);
}
