//! Pods that should have a proxy and came up without one, since pods start also while no controller answers: who is told, and which of them go.
//! Pure.
//!
//! One pod at a time is evicted. Another one of the same owner goes when what came in place of the last is ready: until then the owner has less
//! than it wants, perhaps since nothing may come. When that has no proxy, whoever should add it does not, and going on would be a loop: the
//! owner's pauses become longer then. No owner keeps the others from their turns.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    str::FromStr,
    time::Duration,
};

use conduit_inject::{
    Annotations, Settings,
    injection::{CONTROL_PLANE_COMPONENT, CONTROL_PLANE_NAMESPACE},
    webhook::lacks_proxy,
};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

/// Owners that make a pod anew when one is gone. A Job counts it as a failure instead.
const BRINGS_BACK: [&str; 4] = ["ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"];
/// From one eviction to the next: what comes in its place is there by then, and has started or has not.
const PAUSE: Duration = Duration::from_secs(60);
/// From one of an owner to its next, after those that have not helped.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Owners whose pauses are remembered: at one eviction a minute, more have no turn within a day anyway.
const OWNERS_MAX: usize = 1024;
/// Pods that are told of after one look: an Event is a write, and a namespace of thousands may be annotated at once.
const REPORTS_MAX: usize = 50;

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
    is_ready: bool,
}

impl Unmeshed {
    /// That pod, if it is one: as the webhook would decide about it today, in a namespace with these annotations.
    pub fn of(pod: &Pod, namespace: &Annotations, settings: &Settings) -> Option<Self> {
        let metadata = &pod.metadata;
        let place = metadata.namespace.clone()?;
        if !lacks_proxy(&serde_json::to_value(pod).ok()?, namespace, settings) {
            return None;
        }
        let (owner, is_ready) = (owner(pod), is_ready(pod));
        Some(Self { namespace: place, name: metadata.name.clone()?, uid: metadata.uid.clone()?, owner, is_ready })
    }
}

/// Which pods can be one at all, for the API server to choose from.
pub fn selector() -> String {
    format!("!{CONTROL_PLANE_NAMESPACE},!{CONTROL_PLANE_COMPONENT}")
}

/// A pod with a proxy, of an owner that brings it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meshed {
    uid: String,
    owner: String,
    is_ready: bool,
}

impl Meshed {
    /// That pod, if it has such an owner.
    pub fn of(pod: &Pod) -> Option<Self> {
        Some(Self { uid: pod.metadata.uid.clone()?, owner: owner(pod)?, is_ready: is_ready(pod) })
    }
}

fn owner(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller.unwrap_or_default());
    owner.filter(|owner| BRINGS_BACK.contains(&owner.kind.as_str())).map(|owner| owner.uid.clone())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// All of them.
    pub pods: Vec<Unmeshed>,
    /// Pods that do have a proxy, at least those in [`Look::namespaces`] and in [`Repair::namespaces`].
    pub meshed: Vec<Meshed>,
    /// Whether the API server knows a webhook, and somebody behind it is ready.
    pub webhook_answers: bool,
}

impl Look {
    /// Where there are pods without one that something would bring back.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.pods.iter().filter(|pod| pod.owner.is_some()).map(|pod| pod.namespace.clone()).collect()
    }

    /// Of each pod that something would bring back: whose it is, its uid, and whether it is ready; first those with a proxy.
    fn owned(&self) -> impl Iterator<Item = (&str, &str, bool, HasProxy)> {
        let meshed = self.meshed.iter().map(|pod| (pod.owner.as_str(), pod.uid.as_str(), pod.is_ready, HasProxy::Yes));
        let without = self
            .pods
            .iter()
            .filter_map(|pod| Some((pod.owner.as_deref()?, pod.uid.as_str(), pod.is_ready, HasProxy::No)));
        meshed.chain(without)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HasProxy {
    Yes,
    No,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Whoever looks after the pod is to be told; [`Repair::on_reported`] when somebody was.
    Report(Unmeshed),
    /// It is to be evicted, if its disruption budget lets it; [`Repair::on_eviction`] when that is known.
    Evict(Unmeshed),
}

/// What an owner has had, and when it has its next turn.
#[derive(Debug)]
struct Turn {
    namespace: String,
    tried: Instant,
    next: Instant,
    pause: Duration,
    /// The pod whose turn was the last, by its uid: the next is the one after it.
    last: String,
    /// The pods that it had when one of them was evicted, by their uids, as long as none that is newer was seen ready.
    before: Option<HashSet<String>>,
}

impl Turn {
    fn has_helped(&mut self) {
        (self.pause, self.before) = (PAUSE, None);
    }

    fn has_not_helped(&mut self, now: Instant) {
        (self.pause, self.before) = ((self.pause * 2).min(PAUSE_MAX), None);
        self.next = now + self.pause;
    }
}

/// One leadership's memory of all of this.
#[derive(Debug)]
pub struct Repair {
    mode: Mode,
    reported: HashSet<String>,
    /// Whose report has failed: it does not keep others from theirs.
    asked: HashSet<String>,
    /// Of all owners: the rate is that of the cluster.
    next: Instant,
    turns: HashMap<String, Turn>,
}

impl Repair {
    /// Nothing was seen yet. Whoever led before may have evicted a pod just now.
    pub fn new(mode: Mode, now: Instant) -> Self {
        let (reported, asked) = (HashSet::new(), HashSet::new());
        Self { mode, reported, asked, next: now + PAUSE, turns: HashMap::new() }
    }

    /// Where somebody's next turn depends on what has come with a proxy.
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.turns.values().filter(|turn| turn.before.is_some()).map(|turn| turn.namespace.clone()).collect()
    }

    /// What is to be done after that look.
    pub fn handle(&mut self, now: Instant, look: &Look) -> Vec<Effect> {
        let mut effects = self.reports(look);
        if self.mode == Mode::Evict {
            self.judge(now, look);
            effects.extend(self.choose(now, look).map(Effect::Evict));
        }
        effects
    }

    /// The pod's owner was told.
    pub fn on_reported(&mut self, pod: &Unmeshed) {
        self.reported.insert(pod.uid.clone());
    }

    /// It was evicted, or was not.
    pub fn on_eviction(&mut self, now: Instant, pod: &Unmeshed, is_evicted: bool) {
        let turn = pod.owner.as_ref().and_then(|owner| self.turns.get_mut(owner));
        if let Some(turn) = turn.filter(|_| !is_evicted) {
            turn.has_not_helped(now);
        }
    }

    fn reports(&mut self, look: &Look) -> Vec<Effect> {
        let there: HashSet<_> = look.pods.iter().map(|pod| pod.uid.as_str()).collect();
        self.reported.retain(|uid| there.contains(uid.as_str()));
        self.asked.retain(|uid| there.contains(uid.as_str()) && !self.reported.contains(uid));
        let mut new: Vec<_> = look.pods.iter().filter(|pod| !self.reported.contains(&pod.uid)).collect();
        new.sort_by_key(|pod| self.asked.contains(&pod.uid));
        new.truncate(REPORTS_MAX);
        self.asked.extend(new.iter().map(|pod| pod.uid.clone()));
        new.into_iter().cloned().map(Effect::Report).collect()
    }

    /// Whether evictions have helped.
    fn judge(&mut self, now: Instant, look: &Look) {
        let there: HashSet<_> = look.pods.iter().filter_map(|pod| pod.owner.as_deref()).collect();
        self.turns.retain(|owner, turn| there.contains(owner.as_str()) || now < turn.next + PAUSE_MAX);
        let mut came = HashMap::new();
        for (owner, uid, is_ready, has_proxy) in look.owned() {
            let before = self.turns.get(owner).and_then(|turn| turn.before.as_ref());
            if is_ready && before.is_some_and(|before| !before.contains(uid)) {
                came.entry(owner).or_insert(has_proxy);
            }
        }
        // Whoever got no new one has less than it wants, for however long: what keeps that one back would keep back the next.
        for (owner, has_proxy) in came {
            match (self.turns.get_mut(owner), has_proxy) {
                (Some(turn), HasProxy::Yes) => turn.has_helped(),
                (Some(turn), HasProxy::No) => turn.has_not_helped(now),
                (None, _) => {}
            }
        }
    }

    /// Of the owners whose turn it may be, the one that had none for longest.
    fn choose(&mut self, now: Instant, look: &Look) -> Option<Unmeshed> {
        if !look.webhook_answers || now < self.next {
            return None;
        }
        let candidates = look.pods.iter().filter_map(|pod| Some((pod.owner.as_deref()?, pod)));
        let may = |owner: &str| self.turns.get(owner).is_none_or(|turn| turn.before.is_none() && now >= turn.next);
        let (owner, _) = candidates
            .clone()
            .filter(|(owner, _)| may(owner))
            .min_by_key(|(owner, _)| self.turns.get(*owner).map(|turn| turn.tried))?;
        let last = self.turns.get(owner).map_or("", |turn| turn.last.as_str());
        // Around, so that one which its budget guards does not keep the others from their turns.
        let pods = candidates.filter(|(of, _)| *of == owner).map(|(_, pod)| pod);
        let pod = pods.min_by_key(|pod| (pod.uid.as_str() <= last, pod.uid.as_str()))?;
        self.take_turn(now, look, owner, pod);
        Some(pod.clone())
    }

    fn take_turn(&mut self, now: Instant, look: &Look, owner: &str, pod: &Unmeshed) {
        self.next = now + PAUSE;
        let pause = self.turns.remove(owner).map_or(PAUSE, |turn| turn.pause);
        if self.turns.len() >= OWNERS_MAX {
            let longest = self.turns.iter().min_by_key(|(_, turn)| turn.next).map(|(owner, _)| owner.clone());
            longest.map(|owner| self.turns.remove(&owner));
        }
        let of_owner = look.owned().filter(|(of, ..)| *of == owner);
        let before = Some(of_owner.map(|(_, uid, ..)| uid.to_owned()).collect());
        let (namespace, last) = (pod.namespace.clone(), pod.uid.clone());
        self.turns.insert(owner.to_owned(), Turn { namespace, tried: now, next: now + pause, pause, last, before });
    }
}

#[cfg(test)]
mod tests;
