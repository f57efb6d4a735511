//! Pods that should have a proxy and came up without one, since pods start also while no controller answers: who is told, and which of them go.
//! Pure.
//!
//! One pod at a time is evicted, and the next when what came in its place has a proxy. If it has none, whoever should add it does not, and
//! going on would be a loop: the pauses become longer then.

use std::{
    collections::{BTreeSet, HashSet},
    str::FromStr,
    time::Duration,
};

use conduit_inject::{Annotations, Settings, injection::CONTROL_PLANE_NAMESPACE, webhook::lacks_proxy};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

/// Owners that make a pod anew when one is gone. A Job counts it as a failure instead.
const BRINGS_BACK: [&str; 4] = ["ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"];
/// From one eviction to the next: what comes in its place is there by then, and has started or has not.
const PAUSE: Duration = Duration::from_secs(60);
/// After evictions that have not helped.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// What is done about such pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are told of.
    #[default]
    Report,
    /// And evicted, so that they come back with a proxy.
    Evict,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "report" => Ok(Self::Report),
            "evict" => Ok(Self::Evict),
            _ => Err(format!("`{text}` is neither report nor evict")),
        }
    }
}

/// A pod without the proxy that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeshed {
    /// Where it is.
    pub namespace: String,
    /// See [`Unmeshed::namespace`].
    pub name: String,
    /// One pod, whatever has its name later.
    pub uid: String,
    /// The uid of what brings it back when it is gone; nothing, if nobody does.
    owner: Option<String>,
}

impl Unmeshed {
    /// That pod, if it is one: as the webhook would decide about it today, in a namespace with these annotations.
    pub fn of(pod: &Pod, namespace: &Annotations, settings: &Settings) -> Option<Self> {
        let metadata = &pod.metadata;
        let place = metadata.namespace.clone()?;
        if !lacks_proxy(&serde_json::to_value(pod).ok()?, namespace, settings) {
            return None;
        }
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller.unwrap_or_default());
        let owner = owner.filter(|owner| BRINGS_BACK.contains(&owner.kind.as_str())).map(|owner| owner.uid.clone());
        Some(Self { namespace: place, name: metadata.name.clone()?, uid: metadata.uid.clone()?, owner })
    }
}

/// Which pods can be one at all, for the API server to choose from.
pub fn selector() -> String {
    format!("!{CONTROL_PLANE_NAMESPACE}")
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// All of them.
    pub pods: Vec<Unmeshed>,
    /// Whether the API server knows a webhook, and somebody behind it is ready.
    pub webhook_answers: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Whoever looks after the pod is to be told.
    Report(Unmeshed),
    /// It is to be evicted, if its disruption budget lets it.
    Evict(Unmeshed),
}

/// One leadership's memory of all of this.
#[derive(Debug)]
pub struct Repair {
    mode: Mode,
    reported: HashSet<String>,
    pause: Duration,
    next: Option<Instant>,
    /// They had their turn: one that its budget guards does not keep the others from theirs.
    tried: HashSet<String>,
    /// Whose pod was evicted last, and which of its pods had no proxy then.
    evicted: Option<(String, BTreeSet<String>)>,
}

impl Repair {
    /// Nothing was seen yet.
    pub fn new(mode: Mode) -> Self {
        Self { mode, reported: HashSet::new(), pause: PAUSE, next: None, tried: HashSet::new(), evicted: None }
    }

    /// What is to be done after that look.
    pub fn handle(&mut self, now: Instant, look: &Look) -> Vec<Effect> {
        self.reported.retain(|uid| look.pods.iter().any(|pod| pod.uid == *uid));
        let new = look.pods.iter().filter(|pod| self.reported.insert(pod.uid.clone()));
        let mut effects: Vec<_> = new.cloned().map(Effect::Report).collect();
        if self.mode == Mode::Evict {
            self.judge(now, look);
            effects.extend(self.choose(now, look).map(Effect::Evict));
        }
        effects
    }

    /// Whether the last eviction has helped.
    fn judge(&mut self, now: Instant, look: &Look) {
        let Some((owner, before)) = &self.evicted else { return };
        let came_without = |pod: &Unmeshed| pod.owner.as_ref() == Some(owner) && !before.contains(&pod.uid);
        if look.pods.iter().any(came_without) {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.next = Some(now + self.pause);
            self.evicted = None;
        } else if self.next.is_none_or(|next| now >= next) {
            self.pause = PAUSE;
            self.evicted = None;
        }
    }

    fn choose(&mut self, now: Instant, look: &Look) -> Option<Unmeshed> {
        if !look.webhook_answers || self.next.is_some_and(|next| now < next) {
            return None;
        }
        let mut candidates = look.pods.iter().filter_map(|pod| Some((pod, pod.owner.as_ref()?)));
        let first = candidates.clone().next()?;
        let untried = candidates.find(|(pod, _)| !self.tried.contains(&pod.uid));
        if untried.is_none() {
            self.tried.clear();
        }
        let (pod, owner) = untried.unwrap_or(first);
        self.tried.insert(pod.uid.clone());
        let of_owner = look.pods.iter().filter(|other| other.owner.as_ref() == Some(owner));
        self.evicted = Some((owner.clone(), of_owner.map(|pod| pod.uid.clone()).collect()));
        self.next = Some(now + self.pause);
        Some(pod.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: Option<&str>, annotations: Value) -> Pod {
        let owners = owner.map(|kind| json!([{"apiVersion": "v1", "kind": kind, "name": "o", "uid": format!("owner-{kind}"), "controller": true}]));
        let metadata = json!({"name": name, "namespace": "shop", "uid": name, "annotations": annotations, "ownerReferences": owners});
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
        for namespace in ["kube-system", "conduit"] {
            assert_eq!(changed(&|pod| pod["metadata"]["namespace"] = namespace.into()), None, "{namespace}");
        }
    }

    fn unmeshed(uid: &str, owner: Option<&str>) -> Unmeshed {
        let text = |text: &str| text.to_owned();
        Unmeshed { namespace: text("shop"), name: text(uid), uid: text(uid), owner: owner.map(ToOwned::to_owned) }
    }

    fn look(pods: &[Unmeshed]) -> Look {
        Look { pods: pods.to_vec(), webhook_answers: true }
    }

    #[test]
    fn each_is_reported_once_and_nobody_evicted_unasked() {
        let (a, b) = (unmeshed("a", Some("o")), unmeshed("b", Some("o")));
        let (mut repair, now) = (Repair::new(Mode::Report), Instant::now());
        assert_eq!(repair.handle(now, &look(std::slice::from_ref(&a))), [Effect::Report(a.clone())]);
        assert_eq!(repair.handle(now, &look(&[a, b.clone()])), [Effect::Report(b)]);
    }

    /// Who is evicted then; the reports are left out.
    fn evicted(repair: &mut Repair, now: Instant, look: &Look) -> Vec<String> {
        let effects = repair.handle(now, look).into_iter();
        let evict = |effect| if let Effect::Evict(pod) = effect { Some(pod.name) } else { None };
        effects.filter_map(evict).collect()
    }

    #[test]
    fn one_goes_at_a_time_and_the_next_when_it_has_helped() {
        let pods = [unmeshed("alone", None), unmeshed("a", Some("o")), unmeshed("b", Some("o"))];
        let (mut repair, now) = (Repair::new(Mode::Evict), Instant::now());
        assert_eq!(evicted(&mut repair, now, &look(&pods)), ["a"]);
        let left = look(&[pods[0].clone(), pods[2].clone()]);
        assert_eq!(evicted(&mut repair, now + PAUSE / 2, &left), [""; 0]);
        assert_eq!(evicted(&mut repair, now + PAUSE, &left), ["b"]);
        assert_eq!(evicted(&mut repair, now + PAUSE * 9, &look(&pods[..1])), [""; 0], "nobody would bring it back");
    }

    #[test]
    fn one_that_stays_keeps_no_other_from_its_turn() {
        let guarded = look(&[unmeshed("a", Some("o")), unmeshed("b", Some("p"))]);
        let (mut repair, now) = (Repair::new(Mode::Evict), Instant::now());
        let turns: Vec<_> = (0..4).flat_map(|turn| evicted(&mut repair, now + PAUSE * turn, &guarded)).collect();
        assert_eq!(turns, ["a", "b", "a", "b"]);
    }

    #[test]
    fn what_does_not_help_is_done_more_and_more_rarely() {
        let (mut repair, mut now) = (Repair::new(Mode::Evict), Instant::now());
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
        // Until it helps.
        now += PAUSE_MAX;
        assert_eq!(evicted(&mut repair, now, &look(&[])), [""; 0]);
        let pods = [unmeshed("x", Some("p")), unmeshed("y", Some("q"))];
        assert_eq!(evicted(&mut repair, now, &look(&pods)), ["x"]);
        assert_eq!(evicted(&mut repair, now + PAUSE, &look(&pods[1..])), ["y"]);
    }

    #[test]
    fn nobody_goes_while_nobody_would_add_a_proxy() {
        let (mut repair, now) = (Repair::new(Mode::Evict), Instant::now());
        let deaf = Look { webhook_answers: false, ..look(&[unmeshed("a", Some("o"))]) };
        assert_eq!(evicted(&mut repair, now, &deaf), [""; 0]);
        assert_eq!(evicted(&mut repair, now, &Look { webhook_answers: true, ..deaf }), ["a"]);
    }
}
