use serde_json::{Value, json};

use super::*;

fn pod(name: &str, owner: Option<&str>, annotations: Value) -> Pod {
    let owners = owner.map(|kind| json!([{"apiVersion": "v1", "kind": kind, "name": "o", "uid": format!("owner-{kind}"), "controller": true}]));
    let metadata =
        json!({"name": name, "namespace": "shop", "uid": name, "annotations": annotations, "ownerReferences": owners});
    let spec = json!({"containers": [{"name": "main", "image": "x"}]});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running"}})).unwrap()
}

fn enabled() -> Annotations {
    [("conduit.io/inject".to_owned(), "enabled".to_owned())].into()
}

fn found(pod: &Pod, namespace: &Annotations) -> Option<Unmeshed> {
    Unmeshed::of(pod, namespace, &Settings::default())
}

#[test]
fn who_should_have_a_proxy_and_has_none_is_found() {
    let none = Annotations::new();
    let web = pod("web", Some("ReplicaSet"), json!({}));
    assert_eq!(found(&web, &enabled()).unwrap().owner.as_deref(), Some("owner-ReplicaSet"));
    assert_eq!(found(&web, &none), None);
    assert!(found(&pod("web", None, json!({"conduit.io/inject": "enabled"})), &none).is_some());
    assert_eq!(found(&pod("web", None, json!({"conduit.io/inject": "disabled"})), &enabled()), None);
    for owner in [None, Some("Job")] {
        assert_eq!(found(&pod("web", owner, json!({})), &enabled()).unwrap().owner, None, "nobody brings it back");
    }
}

#[test]
fn who_can_have_none_or_has_one_is_not() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(pod("web", None, json!({}))).unwrap();
        change(&mut value);
        found(&serde_json::from_value(value).unwrap(), &enabled())
    };
    assert!(changed(&|_| ()).is_some());
    assert_eq!(changed(&|pod| pod["spec"]["hostNetwork"] = true.into()), None);
    assert_eq!(changed(&|pod| pod["spec"]["initContainers"] = json!([{"name": "conduit-proxy"}])), None);
    assert_eq!(changed(&|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()), None);
    assert_eq!(changed(&|pod| pod["status"]["phase"] = "Succeeded".into()), None);
    let component = json!({"conduit.io/control-plane-component": "prometheus"});
    assert_eq!(changed(&|pod| pod["metadata"]["labels"] = component.clone()), None);
    for namespace in ["kube-system", "conduit"] {
        assert_eq!(changed(&|pod| pod["metadata"]["namespace"] = namespace.into()), None, "{namespace}");
    }
}

fn unmeshed(uid: &str, owner: Option<&str>) -> Unmeshed {
    let text = |text: &str| text.to_owned();
    let owner = owner.map(ToOwned::to_owned);
    Unmeshed { namespace: text("shop"), name: text(uid), uid: text(uid), owner, is_ready: true }
}

fn meshed(uid: &str, owner: &str, is_ready: bool) -> Meshed {
    Meshed { uid: uid.to_owned(), owner: owner.to_owned(), is_ready }
}

fn look(pods: &[Unmeshed]) -> Look {
    Look { pods: pods.to_vec(), meshed: Vec::new(), webhook_answers: true }
}

fn with(meshed: &[Meshed], look: Look) -> Look {
    Look { meshed: meshed.to_vec(), ..look }
}

/// A leader that may evict, from now on.
fn evicting() -> (Repair, Instant) {
    let now = Instant::now();
    (Repair::new(Mode::Evict, now), now + PAUSE)
}

#[test]
fn each_is_reported_once_and_nobody_evicted_unasked() {
    let (a, b) = (unmeshed("a", Some("o")), unmeshed("b", Some("o")));
    let (now, later) = (Instant::now(), Instant::now() + PAUSE_MAX);
    let mut repair = Repair::new(Mode::Report, now);
    for _ in 0..2 {
        let told = repair.handle(later, &look(std::slice::from_ref(&a)));
        assert_eq!(told, [Effect::Report(a.clone())], "again, until it is known that somebody was told");
    }
    repair.on_reported(&a);
    assert_eq!(repair.handle(later, &look(&[a, b.clone()])), [Effect::Report(b)]);
}

#[test]
fn many_are_reported_little_by_little() {
    let pods: Vec<_> = (0..REPORTS_MAX + 1).map(|number| unmeshed(&number.to_string(), None)).collect();
    let mut repair = Repair::new(Mode::Report, Instant::now());
    assert_eq!(repair.handle(Instant::now(), &look(&pods)).len(), REPORTS_MAX);
    let next = repair.handle(Instant::now(), &look(&pods));
    assert_eq!(next[0], Effect::Report(pods[REPORTS_MAX].clone()), "those that fail are not before it");
}

/// Who is evicted then; the reports are left out.
fn evicted(repair: &mut Repair, now: Instant, look: &Look) -> Vec<String> {
    let effects = repair.handle(now, look).into_iter();
    let evict = |effect| if let Effect::Evict(pod) = effect { Some(pod.name) } else { None };
    effects.filter_map(evict).collect()
}

#[test]
fn one_goes_at_a_time_and_the_next_when_a_proxy_is_ready() {
    let pods = [unmeshed("alone", None), unmeshed("a", Some("o")), unmeshed("b", Some("o"))];
    let (mut repair, now) = evicting();
    let old = meshed("old", "o", true);
    assert_eq!(evicted(&mut repair, now - PAUSE / 2, &look(&pods)), [""; 0], "it leads for too short a time");
    assert_eq!(evicted(&mut repair, now, &with(std::slice::from_ref(&old), look(&pods))), ["a"]);
    assert_eq!(repair.namespaces(), BTreeSet::from(["shop".to_owned()]));
    let left = look(&[pods[0].clone(), pods[2].clone()]);
    for came in [vec![], vec![old.clone()], vec![old.clone(), meshed("new", "o", false)]] {
        let seen = with(&came, left.clone());
        assert_eq!(evicted(&mut repair, now + PAUSE * 9, &seen), [""; 0], "nothing new is ready: {came:?}");
    }
    let ready = with(&[meshed("new", "o", true)], left);
    assert_eq!(evicted(&mut repair, now + PAUSE * 9, &ready), ["b"]);
    assert_eq!(evicted(&mut repair, now + PAUSE * 99, &look(&pods[..1])), [""; 0], "nobody would bring it back");
}

#[test]
fn one_that_stays_keeps_no_other_from_its_turn() {
    let guarded = [unmeshed("a", Some("o")), unmeshed("a2", Some("o")), unmeshed("b", Some("p"))];
    let (mut repair, now) = evicting();
    let mut turns = Vec::new();
    for turn in 0..6 {
        let now = now + PAUSE * turn;
        for name in evicted(&mut repair, now, &look(&guarded)) {
            let pod = guarded.iter().find(|pod| pod.name == name).unwrap();
            repair.on_eviction(now, pod, false);
            turns.push(name);
        }
    }
    assert_eq!(turns, ["a", "b", "a2", "b"], "and is asked more and more rarely");
}

#[test]
fn what_does_not_help_is_done_more_and_more_rarely() {
    let (mut repair, mut now) = evicting();
    let mut pauses = Vec::new();
    for number in 0..8 {
        let pod = unmeshed(&format!("web-{number}"), Some("o"));
        let began = now;
        while evicted(&mut repair, now, &look(std::slice::from_ref(&pod))).is_empty() {
            now += PAUSE / 2;
        }
        pauses.push((now - began).as_secs() / PAUSE.as_secs());
    }
    assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 60, 60], "in minutes");
    // Only for that one.
    let pods = [unmeshed("web-8", Some("o")), unmeshed("x", Some("p")), unmeshed("y", Some("q"))];
    assert_eq!(evicted(&mut repair, now + PAUSE, &look(&pods)), ["x"]);
    assert_eq!(evicted(&mut repair, now + PAUSE * 2, &look(&pods)), ["y"]);
}

#[test]
fn what_is_remembered_of_owners_is_bounded() {
    let (mut repair, now) = evicting();
    for number in 0..OWNERS_MAX + 9 {
        let owner = number.to_string();
        repair.take_turn(now, &look(&[]), &owner, &unmeshed("a", Some(&owner)));
    }
    assert_eq!(repair.turns.len(), OWNERS_MAX);
}

#[test]
fn nobody_goes_while_nobody_would_add_a_proxy() {
    let (mut repair, now) = evicting();
    let deaf = Look { webhook_answers: false, ..look(&[unmeshed("a", Some("o"))]) };
    assert_eq!(evicted(&mut repair, now, &deaf), [""; 0]);
    assert_eq!(evicted(&mut repair, now, &Look { webhook_answers: true, ..deaf }), ["a"]);
}
