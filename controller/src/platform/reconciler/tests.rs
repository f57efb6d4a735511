use conduit_api::{
    Endpoint, HttpRoute, Objective, Pod, PodName, ResourceName, RouteName, Service, ServiceName, ServicePort,
    objective::Declared,
    route::{ParentRef, RouteBackend, RouteMatch, RouteRule},
};
use conduit_consensus::{Command, DECLARATIONS_LEVEL, Proposal};

use super::{super::told::Changed, *};

fn service(name: &str, endpoints: &[&str]) -> Service {
    let endpoint = |address: &&str| {
        let address = address.parse().unwrap();
        (address, Endpoint { address, pod: None, workload: None, identity: None, zone: None })
    };
    let port = ServicePort { endpoints: endpoints.iter().map(endpoint).collect(), ..ServicePort::default() };
    Service {
        name: ServiceName::new("ns", name).unwrap(),
        cluster_ips: Default::default(),
        ports: [(80, port)].into(),
        balancing: Default::default(),
    }
}

fn pod(name: &str, ready: bool) -> Pod {
    Pod {
        name: PodName::new("ns", name).unwrap(),
        ip: "10.244.1.1".parse().unwrap(),
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

fn inventory(services: &[Service], pods: &[Pod]) -> Inventory {
    Inventory { services: services.to_vec(), pods: pods.to_vec(), ..Inventory::default() }
}

fn told(inventory: Inventory) -> Input {
    Input::Told(Told::All(inventory))
}

fn state_of(inventory: &Inventory) -> MeshState {
    let mut state = MeshState::default();
    let changes = diff(&state, inventory);
    state.apply(1, Proposal::new("test", 0, Command::Batch(changes)));
    state
}

#[test]
fn the_difference_takes_the_state_to_the_inventory() {
    let before = inventory(&[service("gone", &[]), service("same", &["10.0.0.1:80"])], &[pod("gone-0", true)]);
    let after = inventory(&[service("new", &[]), service("same", &["10.0.0.1:80"])], &[pod("new-0", true)]);
    let mut state = state_of(&before);
    let changes = diff(&state, &after);
    assert_eq!(changes.len(), 4, "the service that is the same is left alone: {changes:?}");
    state.apply(2, Proposal::new("test", 0, Command::Batch(changes)));
    assert_eq!(diff(&state, &after), []);
}

#[test]
fn only_the_leader_proposes_and_one_thing_at_a_time() {
    let now = Instant::now();
    let state = MeshState::default();
    let mut reconciler = Reconciler::default();
    let wanted = inventory(&[service("web", &[])], &[]);
    assert_eq!(reconciler.handle(now, &state, told(wanted.clone())), []);
    assert_eq!(reconciler.handle(now, &state, Input::Leading(false)), []);
    assert_eq!(reconciler.handle(now, &state, Input::Leading(true)), [], "what it knew before is of no use");
    let described = told(wanted.clone());
    assert_eq!(reconciler.handle(now, &state, described), [Effect::WakeAt(now + QUIET)]);
    let proposed = reconciler.handle(now + QUIET, &state, Input::Timer);
    assert_eq!(proposed, [Effect::Propose(diff(&state, &wanted))]);
    assert_eq!(reconciler.handle(now + QUIET, &state, told(wanted.clone())), []);
    assert_eq!(reconciler.handle(now + QUIET, &state_of(&wanted), Input::Proposed(true)), []);
}

#[test]
fn additions_gather_but_not_for_ever() {
    let start = Instant::now();
    let state = MeshState::default();
    let mut reconciler = Reconciler::default();
    reconciler.handle(start, &state, Input::Leading(true));
    let mut proposed_at = None;
    for step in 0..100 {
        let now = start + Duration::from_millis(10 * step);
        let names = (0..=step).map(|i| service(&format!("s{i}"), &[]));
        let effects = reconciler.handle(now, &state, told(inventory(&names.collect::<Vec<_>>(), &[])));
        if matches!(effects[..], [Effect::Propose(_)]) {
            proposed_at = Some(now);
            break;
        }
    }
    let waited = proposed_at.expect("proposed while changes kept coming") - start;
    assert!(waited >= QUIET && waited <= GATHER_MAX, "{waited:?}");
}

#[test]
fn what_is_gone_is_proposed_at_once() {
    let now = Instant::now();
    let before = inventory(&[service("web", &["10.0.0.1:80", "10.0.0.2:80"])], &[pod("web-0", true)]);
    for after in [
        inventory(&[service("web", &["10.0.0.1:80"])], &[pod("web-0", true)]),
        inventory(&[service("web", &["10.0.0.1:80", "10.0.0.2:80"])], &[pod("web-0", false)]),
        inventory(&[service("web", &["10.0.0.1:80", "10.0.0.2:80"])], &[]),
        inventory(&[], &[pod("web-0", true)]),
    ] {
        let state = state_of(&before);
        let mut reconciler = Reconciler::default();
        reconciler.handle(now, &state, Input::Leading(true));
        let effects = reconciler.handle(now, &state, told(after));
        assert!(matches!(effects[..], [Effect::Propose(_)]), "{effects:?}");
    }
}

#[test]
fn a_platform_that_says_nothing_at_all_removes_nothing() {
    let now = Instant::now();
    let before = inventory(&[service("web", &[])], &[pod("web-0", true)]);
    let state = state_of(&before);
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    reconciler.handle(now, &state, told(before));
    assert_eq!(reconciler.handle(now, &state, told(Inventory::default())), []);
    assert_eq!(reconciler.handle(now, &state, Input::Timer), []);

    // Nor one that said so when this replica knew of nothing either, and has learned of it and leads since.
    let mut reconciler = Reconciler::default();
    assert_eq!(reconciler.handle(now, &MeshState::default(), told(Inventory::default())), []);
    assert_eq!(reconciler.handle(now, &state, Input::Leading(true)), []);
    assert_eq!(reconciler.handle(now + GATHER_MAX, &state, Input::Timer), []);
}

#[test]
fn a_refused_proposal_is_made_again_after_a_pause() {
    let now = Instant::now();
    let state = MeshState::default();
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    reconciler.handle(now, &state, told(inventory(&[service("web", &[])], &[])));
    let proposed = reconciler.handle(now + QUIET, &state, Input::Timer);
    assert!(matches!(proposed[..], [Effect::Propose(_)]));
    let refused = now + QUIET;
    assert_eq!(reconciler.handle(refused, &state, Input::Proposed(false)), [Effect::WakeAt(refused + RETRY)]);
    let again = reconciler.handle(refused + RETRY, &state, Input::Timer);
    assert!(matches!(again[..], [Effect::Propose(_)]), "{again:?}");
}

#[test]
fn a_great_difference_is_proposed_in_parts_without_a_pause() {
    let now = Instant::now();
    let gone: Vec<_> = (0..10).map(|i| pod(&format!("gone-{i}"), true)).collect();
    let new: Vec<_> = (0..CHANGES_MAX * 2).map(|i| pod(&format!("new-{i}"), true)).collect();
    let mut state = state_of(&inventory(&[], &gone));
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    let mut effects = reconciler.handle(now, &state, told(inventory(&[], &new)));
    let mut parts = Vec::new();
    while let Some(Effect::Propose(changes)) = effects.pop() {
        parts.push(changes.len());
        let removed = changes.iter().take_while(|change| matches!(change, Change::RemovePod(_))).count();
        assert_eq!(removed, if parts.len() == 1 { 10 } else { 0 }, "what is gone comes first");
        let index = parts.len() as u64 + 1;
        state.apply(index, Proposal::new("test", 0, Command::Batch(changes)));
        effects = reconciler.handle(now, &state, Input::Proposed(true));
    }
    assert_eq!(parts, [CHANGES_MAX, CHANGES_MAX, 10]);
    assert_eq!(diff(&state, &inventory(&[], &new)), []);
}

fn route(name: &str, backend: &str) -> HttpRoute {
    let service = |name| ServiceName::new("ns", name).unwrap();
    let backends = vec![RouteBackend { service: service(backend), port: 80, weight: 1 }];
    let parents = [ParentRef { service: service("web"), port: None }].into();
    let rules = vec![RouteRule { backends, ..RouteRule::default() }];
    HttpRoute::new(RouteName::new("ns", name).unwrap(), parents, rules).unwrap()
}

#[test]
fn routes_are_the_platforms_where_it_tells_of_them() {
    let mut wanted = inventory(&[service("web", &[])], &[]);
    wanted.routes = Some(vec![route("gone", "a"), route("changed", "a"), route("same", "a")]);
    let mut state = state_of(&wanted);
    wanted.routes = None;
    assert_eq!(diff(&state, &wanted), [], "it does not say that there are none");
    wanted.routes = Some(vec![route("changed", "b"), route("new", "b"), route("same", "a")]);
    let changes = diff(&state, &wanted);
    assert_eq!(changes.len(), 3, "{changes:?}");
    state.apply(2, Proposal::new("test", 0, Command::Batch(changes)));
    assert_eq!(diff(&state, &wanted), []);
    wanted.routes = Some(vec![]);
    state.apply(3, Proposal::new("test", 0, Command::Batch(diff(&state, &wanted))));
    assert!(state.routes().is_empty());
}

#[test]
fn much_takes_several_proposals() {
    let now = Instant::now();
    let mut wanted = inventory(&[service("web", &[])], &[]);
    // Some sixty kilobytes each.
    let header = |i| (format!("x-{i}"), "v".repeat(4000));
    let accepted = RouteMatch { headers: (0..15).map(header).collect(), ..RouteMatch::default() };
    let large = |n| {
        let mut route = route(&format!("route-{n}"), "a");
        route.rules[0].matches = vec![accepted.clone()];
        route
    };
    wanted.routes = Some((0..40).map(large).collect());
    let mut state = MeshState::default();
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    reconciler.handle(now, &state, told(wanted.clone()));
    let mut proposed = 0;
    let mut effects = reconciler.handle(now + QUIET, &state, Input::Timer);
    while let Some(Effect::Propose(changes)) = effects.pop() {
        proposed += 1;
        assert!(changes.iter().map(Change::size).sum::<usize>() <= BYTES_MAX);
        state.apply(proposed, Proposal::new("test", 0, Command::Batch(changes)));
        effects = reconciler.handle(now + QUIET, &state, Input::Proposed(true));
    }
    assert_eq!(proposed, 3);
    assert_eq!(diff(&state, &wanted), []);
}

#[test]
fn what_is_larger_than_a_proposal_is_proposed_alone() {
    let endpoints: Vec<_> = (0..20_000).map(|i| format!("10.{}.{}.1:80", i / 256, i % 256)).collect();
    let large = service("large", &endpoints.iter().map(String::as_str).collect::<Vec<_>>());
    let wanted = Wanted::from(inventory(&[large.clone(), service("small", &[])], &[]));
    assert!(Change::UpsertService(large).size() > BYTES_MAX);
    assert_eq!(first(wanted.differences(&MeshState::default(), LEVEL_OF_ALL)).len(), 1);
}

#[test]
fn what_has_changed_since_is_proposed_alone() {
    let now = Instant::now();
    let mut state = state_of(&inventory(&[service("same", &[]), service("gone", &[])], &[pod("same-0", true)]));
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    let early = Changed { pods: vec![(PodName::new("ns", "early").unwrap(), None)], ..Changed::default() };
    assert_eq!(reconciler.handle(now, &state, Input::Told(Told::Changed(early))), [], "nobody has said what there is");
    let before = inventory(&[service("same", &[]), service("gone", &[])], &[pod("same-0", true)]);
    assert_eq!(reconciler.handle(now, &state, told(before)), []);
    let gone = ServiceName::new("ns", "gone").unwrap();
    let changed = Changed {
        services: vec![(gone.clone(), None)],
        pods: vec![(PodName::new("ns", "new-0").unwrap(), Some(pod("new-0", true)))],
        ..Changed::default()
    };
    let expected = vec![Change::RemoveService(gone), Change::UpsertPod(pod("new-0", true))];
    let effects = reconciler.handle(now, &state, Input::Told(Told::Changed(changed)));
    assert_eq!(effects, [Effect::Propose(expected.clone())]);
    state.apply(2, Proposal::new("test", 0, Command::Batch(expected.clone())));
    assert_eq!(reconciler.handle(now, &state, Input::Proposed(true)), []);
    // What it has found to be there it goes on comparing: somebody restores a backup.
    let restored =
        state_of(&inventory(&[service("same", &["10.0.0.1:80"]), service("gone", &[])], &[pod("same-0", true)]));
    let effects = reconciler.handle(now, &restored, Input::Timer);
    let [Effect::Propose(changes)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(changes.len(), 3);
    assert!(changes.contains(&Change::UpsertService(service("same", &[]))));
    state = restored;
    state.apply(2, Proposal::new("test", 0, Command::Batch(changes.clone())));
    assert_eq!(reconciler.handle(now, &state, Input::Proposed(true)), []);
}

#[test]
fn a_platform_that_had_nothing_at_first_is_heard_later() {
    let (now, state) = (Instant::now(), MeshState::default());
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    assert_eq!(reconciler.handle(now, &state, told(inventory(&[], &[]))), []);
    let name = ServiceName::new("ns", "web").unwrap();
    let changed = Changed { services: vec![(name, Some(service("web", &[])))], ..Changed::default() };
    assert_eq!(reconciler.handle(now, &state, Input::Told(Told::Changed(changed))), [Effect::WakeAt(now + QUIET)]);
    let effects = reconciler.handle(now + QUIET, &state, Input::Timer);
    assert_eq!(effects, [Effect::Propose(vec![Change::UpsertService(service("web", &[]))])]);
}

#[test]
fn a_platform_of_which_everything_goes_has_rather_failed() {
    let now = Instant::now();
    let all = inventory(&[service("web", &[])], &[]);
    let state = state_of(&all);
    let mut reconciler = Reconciler::default();
    reconciler.handle(now, &state, Input::Leading(true));
    reconciler.handle(now, &state, told(all));
    let services = vec![(ServiceName::new("ns", "web").unwrap(), None)];
    let none = Told::Changed(Changed { services, ..Changed::default() });
    assert_eq!(reconciler.handle(now, &state, Input::Told(none)), []);
}

#[test]
fn members_are_told_what_they_understand_and_the_rest_when_they_do() {
    let now = Instant::now();
    let mut zoned = pod("web-0", true);
    zoned.zone = Some("west".to_owned());
    let all = inventory(&[], &[zoned.clone()]);
    let mut state = MeshState::default();
    let mut reconciler = Reconciler::default();
    reconciler.understood(4);
    reconciler.handle(now, &state, Input::Leading(true));
    reconciler.handle(now, &state, told(all));
    let mut effects = reconciler.handle(now + QUIET, &state, Input::Timer);
    assert_eq!(effects, [Effect::Propose(vec![Change::UpsertPod(pod("web-0", true))])]);
    let Some(Effect::Propose(changes)) = effects.pop() else { return };
    state.apply(1, Proposal::new("test", 0, Command::Batch(changes)));
    assert_eq!(reconciler.handle(now + QUIET, &state, Input::Proposed(true)), []);
    reconciler.understood(LEVEL_OF_ALL);
    reconciler.handle(now + QUIET, &state, Input::Timer);
    let effects = reconciler.handle(now + QUIET * 2, &state, Input::Timer);
    assert_eq!(effects, [Effect::Propose(vec![Change::UpsertPod(zoned)])]);
}

/// One kind of change that some member does not know would keep all others from being proposed.
#[test]
fn a_pod_whose_application_has_ended_holds_up_nothing() {
    let now = Instant::now();
    let ended = Pod { application_ended: true, ..pod("once-0", false) };
    let mut state = state_of(&inventory(&[service("gone", &[]), service("same", &[])], &[pod("web-0", true)]));
    let mut reconciler = Reconciler::default();
    reconciler.understood(8);
    reconciler.handle(now, &state, Input::Leading(true));
    let all = inventory(&[service("same", &[])], &[pod("web-0", true), ended.clone()]);
    let mut effects = reconciler.handle(now, &state, told(all));
    let Some(Effect::Propose(changes)) = effects.pop() else { panic!("nothing is proposed") };
    let gone = ServiceName::new("ns", "gone").unwrap();
    assert_eq!(changes, [Change::RemoveService(gone), Change::UpsertPod(pod("once-0", false))]);
    assert!(Command::Batch(changes.clone()).feature_level() <= 8);
    state.apply(1, Proposal::new("test", 0, Command::Batch(changes)));
    assert_eq!(reconciler.handle(now + QUIET, &state, Input::Proposed(true)), []);
    reconciler.understood(LEVEL_OF_ALL);
    reconciler.handle(now + QUIET, &state, Input::Timer);
    let effects = reconciler.handle(now + QUIET * 2, &state, Input::Timer);
    let last = vec![Change::UpsertPod(ended)];
    assert_eq!(Command::Batch(last.clone()).feature_level(), 9);
    assert_eq!(effects, [Effect::Propose(last)]);
}

#[test]
fn what_objects_declare_is_proposed_and_withdrawn_with_them() {
    let now = Instant::now();
    let declared = |name: &str, percent: &str| Declared {
        by: "ns/by".parse().unwrap(),
        resource: ResourceName::new("deployment", "ns", name).unwrap(),
        objective: Objective::new(Some(percent.parse().unwrap()), Default::default()).unwrap(),
    };
    let running = inventory(&[], &[pod("web-0", true)]);
    let all = |objectives| Inventory { objectives, ..running.clone() };
    let mut state = state_of(&running);
    let set =
        Command::SetObjective { resource: declared("set", "9").resource, objective: declared("x", "9").objective };
    state.apply(2, Proposal::new("somebody", 0, set));
    let mut reconciler = Reconciler::default();
    reconciler.understood(DECLARATIONS_LEVEL - 1);
    reconciler.handle(now, &state, Input::Leading(true));
    assert_eq!(reconciler.handle(now, &state, told(all(Some(vec![declared("web", "99")])))), [], "somebody is older");
    reconciler.understood(DECLARATIONS_LEVEL);
    reconciler.handle(now, &state, Input::Timer);
    let effects = reconciler.handle(now + QUIET, &state, Input::Timer);
    let changes = vec![Change::DeclareObjective(declared("web", "99"))];
    assert_eq!(effects, [Effect::Propose(changes.clone())]);
    state.apply(3, Proposal::new("test", 0, Command::Batch(changes)));
    assert_eq!(reconciler.handle(now + QUIET, &state, Input::Proposed(true)), []);
    for (unknown, what) in [(None, "nobody can say which there are"), (Some(vec![declared("web", "99")]), "it is so")] {
        let changed = Changed { objectives: unknown, ..Changed::default() };
        assert_eq!(reconciler.handle(now + QUIET, &state, Input::Told(Told::Changed(changed))), [], "{what}");
    }
    let changed = Changed { objectives: Some(vec![]), ..Changed::default() };
    reconciler.handle(now + QUIET, &state, Input::Told(Told::Changed(changed)));
    let effects = reconciler.handle(now + QUIET * 2, &state, Input::Timer);
    assert_eq!(effects, [Effect::Propose(vec![Change::WithdrawObjective(declared("web", "9").resource)])]);
}
