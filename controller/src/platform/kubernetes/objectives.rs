//! From Objectives to what the control plane is to know of them, and to what their status is to say. Pure.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    Objective, ResourceName, duration,
    mesh::{ObjectiveName, is_dns_name},
    objective::{Declared, Percentile, Threshold},
};
use conduit_consensus::OBJECTIVES_MAX;
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::{Number, Value};

use super::status::{Condition, Place, Statement};

/// Of one namespace: who writes there takes nobody else's place. As many promises of one are more than anybody keeps an eye on.
const NAMESPACE_MAX: usize = 100;

/// Namespace and name.
pub type Key = (String, String);

/// Of what a promise can be, as Kubernetes calls it, and as we do.
const KINDS: [(&str, &str); 10] = [
    ("CronJob", "cronjob"),
    ("DaemonSet", "daemonset"),
    ("Deployment", "deployment"),
    ("Job", "job"),
    ("Namespace", "namespace"),
    ("Pod", "pod"),
    ("ReplicaSet", "replicaset"),
    ("ReplicationController", "replicationcontroller"),
    ("Service", "service"),
    ("StatefulSet", "statefulset"),
];

/// What is kept of an object.
#[derive(PartialEq)]
pub struct ObjectiveFacts {
    resource_version: String,
    generation: Option<i64>,
    created_ms: Option<u64>,
    /// What it declares, or why that cannot be.
    declared: Result<Declared, String>,
    /// `status.conditions`, everybody's.
    conditions: Vec<Value>,
}

/// What people write.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_ref: Target,
    success: Option<Number>,
    #[serde(default)]
    latency: Latency,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    p50: Option<String>,
    p95: Option<String>,
    p99: Option<String>,
}

/// Why something is not promised, in a word and in a sentence.
struct Refusal {
    reason: &'static str,
    message: String,
}

/// Which one an object is, and what is kept of it.
pub fn read(object: DynamicObject) -> Option<(Key, Option<ObjectiveFacts>)> {
    let DynamicObject { metadata, mut data, .. } = object;
    let key = (metadata.namespace?, metadata.name?);
    let conditions = match data.pointer_mut("/status/conditions").map(Value::take) {
        Some(Value::Array(conditions)) => conditions,
        _ => Vec::new(),
    };
    let facts = ObjectiveFacts {
        resource_version: metadata.resource_version.unwrap_or_default(),
        generation: metadata.generation,
        created_ms: metadata.creation_timestamp.and_then(|at| at.0.as_millisecond().try_into().ok()),
        declared: declared(&key, data.get_mut("spec").map(Value::take).unwrap_or_default()),
        conditions,
    };
    Some((key, Some(facts)))
}

/// Why an object can never promise anything as it is, for who is about to write it.
pub fn objection(object: DynamicObject) -> Option<String> {
    let (_, facts) = read(object)?;
    facts?.declared.err()
}

/// What is promised, by all of them, and what their status is to say, where it does not say so. Of two for the same resource the older one holds, as of
/// two routes; of two of the same second, the first by name.
pub fn decide(all: &BTreeMap<Key, ObjectiveFacts>) -> (Vec<Declared>, Vec<Statement>) {
    let mut by_age: Vec<_> = all.iter().collect();
    by_age.sort_by_key(|(key, facts)| (facts.created_ms, *key));
    let (mut taken, mut promised) = (Taken::default(), Vec::new());
    let mut statements = Vec::new();
    for (key, facts) in by_age {
        let decided = facts.decide(&mut taken);
        let refusal = decided.map(|declared| promised.push(declared.clone())).err();
        statements.extend(facts.statement(key, refusal));
    }
    (promised, statements)
}

/// What older ones promise.
#[derive(Default)]
struct Taken<'a> {
    resources: BTreeMap<&'a ResourceName, &'a ObjectiveName>,
    /// How many of each namespace.
    namespaces: BTreeMap<&'a str, usize>,
}

impl ObjectiveFacts {
    /// What is promised of it, beside what is `taken` by others, to which it is added.
    fn decide<'a>(&'a self, taken: &mut Taken<'a>) -> Result<&'a Declared, Refusal> {
        let invalid = |message: &String| Refusal { reason: "Invalid", message: message.clone() };
        let declared = self.declared.as_ref().map_err(invalid)?;
        if let Some(other) = taken.resources.get(&declared.resource) {
            let of = declared.resource.in_words();
            let message = format!("objective {other} declares what is promised of {of}, and came first");
            return Err(Refusal { reason: "Conflicted", message });
        }
        let too_many = |message| Err(Refusal { reason: "TooMany", message });
        let namespace = declared.by.namespace();
        let of_namespace = taken.namespaces.entry(namespace).or_default();
        if *of_namespace >= NAMESPACE_MAX {
            return too_many(format!(
                "{NAMESPACE_MAX} objectives of {namespace} are older, and more of one namespace are not judged; one of kind Namespace is for all of it"
            ));
        }
        if taken.resources.len() >= OBJECTIVES_MAX {
            return too_many(format!("{OBJECTIVES_MAX} objectives of this cluster are older, and more are not judged"));
        }
        *of_namespace += 1;
        taken.resources.insert(&declared.resource, &declared.by);
        Ok(declared)
    }

    fn statement(&self, (namespace, name): &Key, refusal: Option<Refusal>) -> Option<Statement> {
        let kind = "Accepted";
        let is_true = refusal.is_none();
        let Refusal { reason, message } = refusal.unwrap_or(Refusal { reason: kind, message: String::new() });
        let said = Condition { kind, is_true, reason, message, generation: self.generation };
        let place = Place { namespace, name, resource_version: &self.resource_version };
        Statement::of_objective(place, &self.conditions, said)
    }
}

fn declared((namespace, name): &Key, spec: Value) -> Result<Declared, String> {
    let by = ObjectiveName::new(namespace, name).map_err(|error| format!("metadata.name: {error}"))?;
    let spec: Spec =
        serde_path_to_error::deserialize(spec).map_err(|error| match error.path().to_string().as_str() {
            "." => format!("spec: {}", error.inner()),
            path => format!("spec.{path}: {}", error.inner()),
        })?;
    let Spec { target_ref, success, latency } = spec;
    let success = success.map(|percent| percent.to_string().parse()).transpose();
    let success = success.map_err(|error| format!("spec.success: {error}"))?;
    let Latency { p50, p95, p99 } = latency;
    let latencies = [("p50", Percentile::P50, p50), ("p95", Percentile::P95, p95), ("p99", Percentile::P99, p99)];
    let latencies = latencies.into_iter().filter_map(|(field, percentile, text)| {
        let threshold = threshold(&text?).map_err(|error| format!("spec.latency.{field}: {error}"));
        Some(threshold.map(|threshold| (percentile, threshold)))
    });
    let objective = Objective::new(success, latencies.collect::<Result<_, String>>()?);
    Ok(Declared {
        by,
        resource: target_ref.resource(namespace)?,
        objective: objective.map_err(|error| format!("spec: {error}"))?,
    })
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let ms = duration::parse(text).map_err(|error| error.to_string())?;
    Threshold::try_from(Duration::from_millis(ms)).map_err(|error| error.to_string())
}

impl Target {
    /// An object promises something of its own namespace: who may write there may do that, and no more.
    fn resource(&self, namespace: &str) -> Result<ResourceName, String> {
        let Self { kind, name } = self;
        let Some((_, known)) = KINDS.iter().find(|(known, _)| known == kind) else {
            let kinds = KINDS.map(|(kind, _)| kind).join(", ");
            return Err(format!("spec.targetRef.kind: nothing can be promised of a `{kind}`; there are {kinds}"));
        };
        let is_namespace = *known == "namespace";
        if is_namespace && name != namespace {
            return Err(format!(
                "spec.targetRef.name: an objective is of its own namespace, {namespace}; move it to {name}"
            ));
        }
        if !is_dns_name(name) {
            return Err(format!("spec.targetRef.name: `{name}` is no name of an object"));
        }
        let place = if is_namespace { "" } else { namespace };
        ResourceName::new(known, place, name).map_err(|error| format!("spec.targetRef: {error}"))
    }
}

#[cfg(test)]
mod tests;
