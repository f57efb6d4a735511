//! What the status of an HTTPRoute says about its parents (GEP-1364), by us and by others. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, Time};
use serde::Deserialize;
use serde_json::{Value, json};

/// Who says it.
const CONTROLLER: &str = "conduit.io/controller";
/// In one status: Gateway API's own limit. Others' entries are not ours to take away.
const ENTRIES_MAX: usize = 32;

/// What a route's status is to say from now on, instead of what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Of the route.
    pub namespace: String,
    /// See [`Statement::namespace`].
    pub name: String,
    /// What was read. Who has changed it since has perhaps changed what is to be said.
    resource_version: String,
    /// Others' entries, as they are.
    others: Vec<Value>,
    /// To each of our parents: when each of its conditions came about, unless that is now.
    ours: Vec<Entry>,
}

/// What is said of one parent.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    parent: Value,
    conditions: Vec<(Condition, Option<Time>)>,
}

/// One of the Gateway API's conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `Accepted` or `ResolvedRefs`.
    pub kind: &'static str,
    /// Whether it is so.
    pub is_true: bool,
    /// One of the Gateway API's words.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Which of the route's it was decided about.
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
    pub fn new(
        namespace: &str,
        name: &str,
        resource_version: &str,
        entries: &[Value],
        said: Vec<(Value, [Condition; 2])>,
    ) -> Option<Self> {
        let (known, others): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(is_ours);
        let room = ENTRIES_MAX.saturating_sub(others.len());
        let read: Vec<_> = known.iter().filter_map(|entry| Known::deserialize(entry).ok()).collect();
        let ours = said.into_iter().take(room).map(|(parent, conditions)| {
            let before = read.iter().find(|known| known.parent_ref == parent);
            let conditions = conditions.map(|condition| {
                let since = before.and_then(|known| condition.since(&known.conditions));
                (condition, since)
            });
            Entry { parent, conditions: conditions.into() }
        });
        let ours: Vec<_> = ours.collect();
        let is_said = ours.len() == known.len() && ours.iter().zip(&known).all(|(ours, known)| ours.is_said_by(known));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        (!is_said).then(|| Self { namespace, name, resource_version: resource_version.to_owned(), others, ours })
    }

    /// As a JSON merge patch, which the API server refuses if the route has changed since; what comes about now does so at `now`.
    pub fn patch(&self, now: &Time) -> Value {
        let ours = self.ours.iter().map(|entry| entry.json(now));
        let parents: Vec<_> = self.others.iter().cloned().chain(ours).collect();
        json!({"metadata": {"resourceVersion": self.resource_version}, "status": {"parents": parents}})
    }
}

impl Entry {
    fn is_said_by(&self, known: &Value) -> bool {
        let since = self.conditions.iter().map(|(_, since)| since.as_ref());
        // All of them, or something comes about now.
        let since = since.collect::<Option<Vec<_>>>().and_then(|since| since.first().copied());
        since.is_some_and(|since| self.json(since) == *known)
    }

    fn json(&self, now: &Time) -> Value {
        let conditions = self.conditions.iter().map(|(condition, since)| condition.json(since.as_ref().unwrap_or(now)));
        let conditions: Vec<_> = conditions.collect();
        json!({"parentRef": self.parent, "controllerName": CONTROLLER, "conditions": conditions})
    }
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
