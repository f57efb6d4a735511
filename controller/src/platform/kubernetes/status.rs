//! What the status of an object says: of an HTTPRoute about its parents (GEP-1364), of an Objective about itself. By us and by others. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, Time};
use serde::Deserialize;
use serde_json::{Value, json};

use super::optional::Optional;

/// Who says it.
const CONTROLLER: &str = "conduit.io/controller";
/// In one status: Gateway API's own limit. Others' entries are not ours to take away.
const ENTRIES_MAX: usize = 32;

/// What an object's status is to say from now on, instead of what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Of what kind it is.
    pub kind: Optional,
    /// Where it is.
    pub namespace: String,
    /// See [`Statement::namespace`].
    pub name: String,
    /// What was read. Who has changed it since has perhaps changed what is to be said.
    resource_version: String,
    /// Others' entries, as they are.
    others: Vec<Value>,
    ours: Ours,
}

/// What is said by us.
#[derive(Clone, Debug, PartialEq)]
enum Ours {
    /// To each parent of a route that is one of ours.
    Parents(Vec<Entry>),
    /// Of the object itself.
    Conditions(Dated),
}

/// When each condition came about, unless that is now.
type Dated = Vec<(Condition, Option<Time>)>;

/// An object as it was read: its place, and its version.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Where it is.
    pub namespace: &'a str,
    /// Within that.
    pub name: &'a str,
    /// `metadata.resourceVersion`
    pub resource_version: &'a str,
}

/// What is said of one parent.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    parent: Value,
    conditions: Dated,
}

/// As Kubernetes' objects have them.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `Accepted` or `ResolvedRefs`.
    pub kind: &'static str,
    /// Whether it is so.
    pub is_true: bool,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Which of the object's it was decided about.
    pub generation: Option<i64>,
}

/// An entry of ours as it was read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    parent_ref: Value,
    conditions: Vec<meta::Condition>,
}

/// Whether an entry was written by this controller, or one before it.
pub fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER
}

impl Statement {
    /// What is to be said of each of our parents in the status of that route, which has `entries`; nothing, if they say so already.
    pub fn of_route(place: Place<'_>, entries: &[Value], said: Vec<(Value, [Condition; 2])>) -> Option<Self> {
        let (known, others): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(is_ours);
        let room = ENTRIES_MAX.saturating_sub(others.len());
        let read: Vec<_> = known.iter().filter_map(|entry| Known::deserialize(entry).ok()).collect();
        let ours = said.into_iter().take(room).map(|(parent, conditions)| {
            let before = read.iter().find(|known| known.parent_ref == parent);
            let conditions = dated(conditions, before.map_or(&[], |known| &known.conditions));
            Entry { parent, conditions }
        });
        let ours: Vec<_> = ours.collect();
        let is_said = ours.len() == known.len() && ours.iter().zip(&known).all(|(ours, known)| ours.is_said_by(known));
        (!is_said).then(|| Self::new(Optional::HttpRoute, place, others, Ours::Parents(ours)))
    }

    /// What is to be said in the status of that objective, which has `entries`; nothing, if they say so already.
    pub fn of_objective(place: Place<'_>, entries: &[Value], said: Condition) -> Option<Self> {
        let (known, others): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(|entry| entry["type"] == said.kind);
        let read: Vec<_> = known.iter().filter_map(|entry| meta::Condition::deserialize(entry).ok()).collect();
        let ours = dated([said], &read);
        let is_said = all_since(&ours).is_some_and(|since| json(&ours, since) == known);
        (!is_said).then(|| Self::new(Optional::Objective, place, others, Ours::Conditions(ours)))
    }

    fn new(kind: Optional, place: Place<'_>, others: Vec<Value>, ours: Ours) -> Self {
        let [namespace, name, resource_version] =
            [place.namespace, place.name, place.resource_version].map(str::to_owned);
        Self { kind, namespace, name, resource_version, others, ours }
    }

    /// As a JSON merge patch, which the API server refuses if the object has changed since; what comes about now does so at `now`.
    pub fn patch(&self, now: &Time) -> Value {
        let (field, ours) = match &self.ours {
            Ours::Parents(entries) => ("parents", entries.iter().map(|entry| entry.json(now)).collect()),
            Ours::Conditions(conditions) => ("conditions", json(conditions, now)),
        };
        let entries: Vec<_> = self.others.iter().cloned().chain(ours).collect();
        json!({"metadata": {"resourceVersion": self.resource_version}, "status": {field: entries}})
    }
}

impl Entry {
    fn is_said_by(&self, known: &Value) -> bool {
        all_since(&self.conditions).is_some_and(|since| self.json(since) == *known)
    }

    fn json(&self, now: &Time) -> Value {
        json!({"parentRef": self.parent, "controllerName": CONTROLLER, "conditions": json(&self.conditions, now)})
    }
}

/// Each with the time since when it has been so, by what is `known`.
fn dated(conditions: impl IntoIterator<Item = Condition>, known: &[meta::Condition]) -> Dated {
    let conditions = conditions.into_iter().map(|condition| {
        let since = condition.since(known);
        (condition, since)
    });
    conditions.collect()
}

/// A time for [`json`] which it does not need, if none of them comes about now.
fn all_since(conditions: &Dated) -> Option<&Time> {
    let since: Option<Vec<_>> = conditions.iter().map(|(_, since)| since.as_ref()).collect();
    since?.first().copied()
}

fn json(conditions: &Dated, now: &Time) -> Vec<Value> {
    conditions.iter().map(|(condition, since)| condition.json(since.as_ref().unwrap_or(now))).collect()
}

impl Condition {
    fn status(&self) -> &'static str {
        if self.is_true { "True" } else { "False" }
    }

    /// Since when it has been as it is.
    fn since(&self, known: &[meta::Condition]) -> Option<Time> {
        let known = known.iter().find(|known| known.type_ == self.kind && known.status == self.status())?;
        Some(known.last_transition_time.clone())
    }

    fn json(&self, since: &Time) -> Value {
        json!(meta::Condition {
            type_: self.kind.to_owned(),
            status: self.status().to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            observed_generation: self.generation,
            last_transition_time: since.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
