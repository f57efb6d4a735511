//! What people promise of their services, which of it is not kept, and who is to be told of that.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use conduit_api::{Goal, Indicator, Objective, ResourceName, Revision, mesh::ObjectiveName, objective::Declared};
use serde::{Deserialize, Serialize};

use super::{Section, Versioned};
use crate::command::Outcome;

/// Promises that are kept an eye on, of those that people make one by one, and as many of those that objects declare: more are asked about than
/// anybody can be woken for, and an answer has room for all of them.
pub const OBJECTIVES_MAX: usize = 500;
/// Beginnings and ends of alerts that are remembered: a bad day of a large mesh, in some sixty kilobytes.
pub const EVENTS_MAX: usize = 256;

/// How much somebody is to hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// A budget of a month lasts for days.
    Warning,
    /// It lasts for hours.
    Critical,
}

impl Severity {
    /// As rules and people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A promise that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// As it is now: what was critical may have become a warning.
    pub severity: Severity,
    /// By the leader's clock, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Somebody was, or is to be, told that it has begun; and so of its end.
    pub told: bool,
}

/// What has become of telling the webhook of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// There was no webhook.
    None,
    /// It is told by whoever leads.
    Due,
    /// It has taken it.
    Told,
    /// It did not take it, as often as it was tried.
    Failed,
}

impl Delivery {
    /// As it goes over the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Due => "due",
            Self::Told => "told",
            Self::Failed => "failed",
        }
    }
}

/// The beginning of an alert, a change of its severity, or its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertEvent {
    /// Its place in the log: no other event of the same indicator has it.
    pub id: Revision,
    /// Which resource.
    pub resource: ResourceName,
    /// Which promise.
    pub indicator: Indicator,
    /// What was promised, in words.
    pub goal: String,
    /// Otherwise it is over.
    pub firing: bool,
    /// Of the alert.
    pub severity: Severity,
    /// Since when it fires, or has fired.
    pub since_ms: u64,
    /// By the leader's clock.
    pub time_ms: u64,
    /// Whether somebody was told.
    pub delivery: Delivery,
}

/// What became of a promise, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Of which resource.
    pub resource: ResourceName,
    /// Which one.
    pub indicator: Indicator,
    /// The version of the objective that was judged: what is promised instead of it was not.
    pub version: Revision,
    /// It is not kept; none when it is kept again.
    pub severity: Option<Severity>,
    /// There is a webhook to be told of it.
    pub tell: bool,
}

/// All of it. Alerts are of objectives that there are, and go with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Objectives {
    objectives: Section<ResourceName, Objective>,
    firing: Arc<BTreeMap<ResourceName, BTreeMap<Indicator, Firing>>>,
    /// Oldest first.
    events: Arc<VecDeque<Arc<AlertEvent>>>,
    /// Events that went for the room of others before anybody was told of them.
    #[serde(default)]
    dropped: u64,
    /// Which of them hold as long as there is an object, and which: nobody else changes those.
    #[serde(default)]
    declarations: Arc<BTreeMap<ResourceName, ObjectiveName>>,
    /// What people had promised of them one by one, which holds again when there is no object any more: who may write that may not write this.
    #[serde(default)]
    beneath: Arc<BTreeMap<ResourceName, Objective>>,
}

/// When something happens: its place in the log, and its time.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) revision: Revision,
    pub(super) time_ms: u64,
}

impl Objectives {
    pub(super) fn all(&self) -> &BTreeMap<ResourceName, Arc<Versioned<Objective>>> {
        &self.objectives
    }

    pub(super) fn declarations(&self) -> &BTreeMap<ResourceName, ObjectiveName> {
        &self.declarations
    }

    pub(super) fn firing(&self) -> &BTreeMap<ResourceName, BTreeMap<Indicator, Firing>> {
        &self.firing
    }

    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = &AlertEvent> + Clone {
        self.events.iter().map(Arc::as_ref)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objectives.is_empty() && self.events.is_empty()
    }

    /// As they are in a backup, of which nothing fires and nobody is told: that is long over, or is found again. Who was told of what fires at
    /// present in `now`, instead of which they are, is told that it is over, since nobody looks at that any more.
    pub(super) fn restored(&self, at: At, now: &Self) -> Self {
        let mut restored = self.clone();
        restored.firing = Arc::default();
        for event in Arc::make_mut(&mut restored.events).iter_mut().filter(|event| event.delivery == Delivery::Due) {
            Arc::make_mut(event).delivery = Delivery::None;
        }
        let mut ended = now.clone();
        for resource in now.firing.keys() {
            ended.end_all(at, resource, |_| true);
        }
        restored.dropped = ended.dropped;
        for event in ended.events.iter().filter(|event| event.delivery == Delivery::Due) {
            restored.push(event.clone());
        }
        restored
    }

    pub(super) fn set(&mut self, at: At, resource: ResourceName, objective: Objective) -> Outcome {
        let known = self.objectives.get(&resource);
        if known.is_some_and(|known| known.value == objective) {
            return Outcome::Unchanged;
        }
        if let Some(by) = self.declarations.get(&resource) {
            return declared_by(by, &resource);
        }
        if known.is_none() && self.objectives.len() - self.declarations.len() + self.beneath.len() >= OBJECTIVES_MAX {
            return Outcome::Rejected(format!(
                "there are {OBJECTIVES_MAX} objectives already: remove one by `conduit slo remove`, or promise something of a namespace"
            ));
        }
        self.replace(at, resource, objective);
        Outcome::Done
    }

    fn replace(&mut self, at: At, resource: ResourceName, objective: Objective) {
        self.end_all(at, &resource, |indicator| objective.goal(indicator).is_none());
        let objective = Arc::new(Versioned { version: at.revision, value: objective });
        Arc::make_mut(&mut self.objectives).insert(resource, objective);
    }

    /// Whether anything is otherwise then.
    pub(super) fn declare(&mut self, at: At, declared: Declared) -> bool {
        let Declared { by, resource, objective } = declared;
        let known = self.declarations.get(&resource);
        // The platform says so of those that are too many.
        if known.is_none() && self.declarations.len() >= OBJECTIVES_MAX {
            return false;
        }
        let is_known = known == Some(&by);
        let promised = self.objectives.get(&resource).map(|promised| promised.value.clone());
        let is_promised = promised.as_ref() == Some(&objective);
        if let Some(promised) = promised.filter(|_| known.is_none()) {
            Arc::make_mut(&mut self.beneath).insert(resource.clone(), promised);
        }
        if !is_promised {
            self.replace(at, resource.clone(), objective);
        }
        if !is_known {
            Arc::make_mut(&mut self.declarations).insert(resource, by);
        }
        !(is_known && is_promised)
    }

    /// What people have promised one by one stays, or holds again.
    pub(super) fn withdraw(&mut self, at: At, resource: &ResourceName) -> bool {
        if !self.declarations.contains_key(resource) {
            return false;
        }
        Arc::make_mut(&mut self.declarations).remove(resource);
        match self.beneath.get(resource).cloned() {
            Some(promised) => {
                Arc::make_mut(&mut self.beneath).remove(resource);
                if self.objectives.get(resource).is_none_or(|known| known.value != promised) {
                    self.replace(at, resource.clone(), promised);
                }
            }
            None => drop(self.remove(at, resource)),
        }
        true
    }

    pub(super) fn remove(&mut self, at: At, resource: &ResourceName) -> Outcome {
        if !self.objectives.contains_key(resource) {
            return Outcome::Unchanged;
        }
        if let Some(by) = self.declarations.get(resource) {
            return declared_by(by, resource);
        }
        self.end_all(at, resource, |_| true);
        Arc::make_mut(&mut self.objectives).remove(resource);
        Outcome::Done
    }

    /// Takes over what the leader has found.
    pub(super) fn record(&mut self, at: At, transition: &Transition) -> Outcome {
        let Transition { resource, indicator, version, severity, tell } = transition;
        let judged = self.objectives.get(resource).filter(|objective| objective.version == *version);
        let Some(goal) = judged.and_then(|objective| objective.value.goal(*indicator)) else {
            return Outcome::Rejected(format!(
                "what is promised of the {indicator} of {resource} is not what was judged"
            ));
        };
        match severity {
            Some(severity) => self.begin(at, resource, goal, *severity, *tell),
            None => self.end(at, resource, goal),
        }
    }

    /// What became of telling of an event that was due.
    pub(super) fn told(&mut self, id: Revision, indicator: Indicator, delivery: Delivery) -> Outcome {
        let is_it =
            |event: &AlertEvent| event.id == id && event.indicator == indicator && event.delivery == Delivery::Due;
        match Arc::make_mut(&mut self.events).iter_mut().find(|event| is_it(event)) {
            Some(event) => {
                Arc::make_mut(event).delivery = delivery;
                Outcome::Done
            }
            None => Outcome::Unchanged,
        }
    }

    /// It fires, or more or less than it did. Whoever was told of it before is told of that, also where this leader has no webhook: the next may.
    fn begin(&mut self, at: At, resource: &ResourceName, goal: Goal, severity: Severity, tell: bool) -> Outcome {
        let firing = Arc::make_mut(&mut self.firing).entry(resource.clone()).or_default();
        let (since_ms, was_told) = match firing.get(&goal.indicator()) {
            Some(known) if known.severity == severity => return Outcome::Unchanged,
            Some(known) => (known.since_ms, known.told),
            None => (at.time_ms, false),
        };
        let known = Firing { severity, since_ms, told: tell || was_told };
        firing.insert(goal.indicator(), known);
        self.remember(at, resource, goal, known, true);
        Outcome::Done
    }

    /// Who was told that it began is told that it is over, and nobody else.
    fn end(&mut self, at: At, resource: &ResourceName, goal: Goal) -> Outcome {
        let Some(known) = self.firing.get(resource).and_then(|firing| firing.get(&goal.indicator())).copied() else {
            return Outcome::Unchanged;
        };
        let all = Arc::make_mut(&mut self.firing);
        if let Some(firing) = all.get_mut(resource) {
            firing.remove(&goal.indicator());
            if firing.is_empty() {
                all.remove(resource);
            }
        }
        self.remember(at, resource, goal, known, false);
        Outcome::Done
    }

    /// Nobody goes on waiting for the end of what is not promised any more.
    fn end_all(&mut self, at: At, resource: &ResourceName, of: impl Fn(Indicator) -> bool) {
        let objective = self.objectives.get(resource).cloned();
        for goal in objective.iter().flat_map(|objective| objective.value.goals()) {
            if of(goal.indicator()) {
                self.end(at, resource, goal);
            }
        }
    }

    fn remember(&mut self, at: At, resource: &ResourceName, goal: Goal, known: Firing, firing: bool) {
        self.push(Arc::new(AlertEvent {
            id: at.revision,
            resource: resource.clone(),
            indicator: goal.indicator(),
            goal: goal.to_string(),
            firing,
            severity: known.severity,
            since_ms: known.since_ms,
            time_ms: at.time_ms,
            delivery: if known.told { Delivery::Due } else { Delivery::None },
        }));
    }

    /// The oldest of which nobody is to be told goes first; where there is none of those, what is lost is counted.
    fn push(&mut self, event: Arc<AlertEvent>) {
        let events = Arc::make_mut(&mut self.events);
        if events.len() >= EVENTS_MAX {
            let settled = events.iter().position(|event| event.delivery != Delivery::Due);
            self.dropped = self.dropped.saturating_add(u64::from(settled.is_none()));
            events.remove(settled.unwrap_or(0));
        }
        events.push_back(event);
    }
}

fn declared_by(by: &ObjectiveName, resource: &ResourceName) -> Outcome {
    let (namespace, name) = (by.namespace(), by.name());
    Outcome::Rejected(format!(
        "what is promised of {} is declared by an object: change or delete that (kubectl -n {namespace} edit objectives.conduit.io {name})",
        resource.in_words()
    ))
}
