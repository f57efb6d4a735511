//! From HTTPRoutes to what the control plane is to know of them, and to what their status is to say. Pure.
//!
//! Ours are references to Services (GAMMA, GEP-1324). Those to Gateways are somebody else's, and so is what is said about them.

use std::collections::{BTreeMap, BTreeSet};

use conduit_api::{
    HttpRoute, RouteName, ServiceName,
    gateway::{self, Spec},
    route::{ParentRef, RouteRule},
};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::{Value, json};

use super::status::{self, Condition, Place, Statement};

/// Namespace and name. Not every name that Kubernetes allows is one of ours, and who has chosen such a one is to be told so.
pub type Key = (String, String);

/// What is kept of a route that refers to Services, or did when its status was written last.
#[derive(PartialEq)]
pub struct RouteFacts {
    resource_version: String,
    generation: Option<i64>,
    created_ms: Option<u64>,
    parents: Vec<Parent>,
    backends: Vec<Backend>,
    /// What is carried out, or why it is not.
    rules: Result<(RouteName, Vec<RouteRule>), String>,
    /// `status.parents`, everybody's.
    entries: Vec<Value>,
}

/// A reference to a Service whose requests are routed.
#[derive(PartialEq)]
struct Parent {
    /// Its field.
    at: String,
    written: Value,
    reference: Reference,
}

/// A reference to where requests go.
#[derive(PartialEq)]
struct Backend {
    at: String,
    reference: Reference,
}

/// As far as it is needed to tell what is referred to, whatever else is said there.
#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Reference {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    section_name: Option<String>,
    port: Option<u16>,
}

/// Why something does not come about, in the words of the Gateway API and in ours.
#[derive(Clone)]
struct Refusal {
    reason: &'static str,
    message: String,
}

/// A service's ports, by their numbers: their names.
type Ports = BTreeMap<u16, String>;

/// Which route an object is, and what is kept of it; nothing, if it is none of ours.
pub fn read(mut object: DynamicObject) -> Option<(Key, Option<RouteFacts>)> {
    let key = (object.metadata.namespace?, object.metadata.name?);
    let entries = match object.data.pointer_mut("/status/parents").map(Value::take) {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let mut spec = match object.data.get_mut("spec").map(Value::take) {
        Some(Value::Object(spec)) => Value::Object(spec),
        // Whoever calls the webhook may post anything.
        _ => json!({}),
    };
    let parents = parents(&spec);
    if parents.is_empty() && !entries.iter().any(status::is_ours) {
        return Some((key, None));
    }
    let backends = backends(&spec);
    // They are read above, and others' as well may be what only others understand.
    spec["parentRefs"] = json!([]);
    let facts = RouteFacts {
        resource_version: object.metadata.resource_version.unwrap_or_default(),
        generation: object.metadata.generation,
        created_ms: object.metadata.creation_timestamp.and_then(|at| at.0.as_millisecond().try_into().ok()),
        parents,
        backends,
        rules: rules(&key, spec),
        entries,
    };
    Some((key, Some(facts)))
}

/// What is wrong with a route by itself, whatever else there is in the cluster: for who is about to write it.
pub fn objections(object: DynamicObject) -> Vec<String> {
    let Some(((namespace, _), Some(facts))) = read(object) else { return Vec::new() };
    // It was ours, and its status says so until that is taken away.
    if facts.parents.is_empty() {
        return Vec::new();
    }
    let parents = facts.parents.iter().map(|parent| parent.check(&namespace));
    let backends = facts.backends.iter().map(|backend| backend.check(&namespace));
    let refused = parents.chain(backends).filter_map(|checked| Some(checked.err()?.message));
    let named = facts.parents.iter().filter_map(|parent| ServiceName::new(&namespace, &parent.reference.name).ok());
    let rules = facts.route(named.map(|service| ParentRef { service, port: None }).collect()).err().map(not_in_force);
    refused.chain(rules).collect()
}

fn not_in_force(why: String) -> String {
    format!("{why}; none of the route is in force until this is changed")
}

fn parents(spec: &Value) -> Vec<Parent> {
    let written = spec["parentRefs"].as_array().into_iter().flatten().enumerate();
    let parents = written.filter_map(|(i, written)| {
        let reference = Reference::deserialize(written).ok()?;
        // What is not said is a Gateway.
        let is_ours = gateway::is_service(reference.group.as_deref()?, reference.kind.as_deref()?);
        is_ours.then(|| Parent { at: format!("spec.parentRefs[{i}]"), written: written.clone(), reference })
    });
    parents.collect()
}

fn backends(spec: &Value) -> Vec<Backend> {
    let rules = spec["rules"].as_array().into_iter().flatten().enumerate();
    let backends = rules.flat_map(|(i, rule)| {
        let written = rule["backendRefs"].as_array().into_iter().flatten().enumerate();
        written.filter_map(move |(j, written)| {
            let at = format!("spec.rules[{i}].backendRefs[{j}]");
            Some(Backend { at, reference: Reference::deserialize(written).ok()? })
        })
    });
    backends.collect()
}

fn rules((namespace, name): &Key, spec: Value) -> Result<(RouteName, Vec<RouteRule>), String> {
    let name = RouteName::new(namespace, name).map_err(|error| format!("metadata.name: {error}"))?;
    let spec: Spec = serde_path_to_error::deserialize(spec)
        .map_err(|error| format!("spec.{}: {} is carried out", error.path(), error.inner()))?;
    Ok((name, spec.rules(namespace).map_err(|error| error.to_string())?))
}

impl RouteFacts {
    /// What of the route called `key` is to be in force, and what its status is to say, if that is not what it says. `services` tells the
    /// ports of those that there are.
    pub fn decide<'a>(
        &self,
        key: &Key,
        services: impl Fn(&ServiceName) -> Option<&'a Ports>,
    ) -> (Option<HttpRoute>, Option<Statement>) {
        let (namespace, name) = key;
        let mut parents: Vec<_> = self.parents.iter().map(|parent| parent.find(namespace, &services)).collect();
        let route = match self.route(parents.iter().flatten().cloned().collect()) {
            Ok(route) => route,
            Err(message) => {
                let message = not_in_force(message);
                parents.fill(Err(Refusal { reason: "UnsupportedValue", message }));
                None
            }
        };
        let unresolved = self.backends.iter().find_map(|backend| backend.find(namespace, &services).err());
        let resolved = self.condition("ResolvedRefs", unresolved);
        let said = self.parents.iter().zip(parents).map(|(parent, found)| {
            (parent.written.clone(), [self.condition("Accepted", found.err()), resolved.clone()])
        });
        let place = Place { namespace, name, resource_version: &self.resource_version };
        let statement = Statement::of_route(place, &self.entries, said.collect());
        (route, statement)
    }

    fn route(&self, parents: BTreeSet<ParentRef>) -> Result<Option<HttpRoute>, String> {
        let (name, rules) = self.rules.as_ref().map_err(Clone::clone)?;
        if parents.is_empty() {
            return Ok(None);
        }
        let route = HttpRoute::new(name.clone(), parents, rules.clone()).map_err(|error| error.to_string())?;
        Ok(Some(HttpRoute { created_ms: self.created_ms, ..route }))
    }

    /// One whose name is also the reason for it to be true.
    fn condition(&self, kind: &'static str, refusal: Option<Refusal>) -> Condition {
        let is_true = refusal.is_none();
        let Refusal { reason, message } = refusal.unwrap_or(Refusal { reason: kind, message: String::new() });
        Condition { kind, is_true, reason, message, generation: self.generation }
    }
}

impl Parent {
    /// Whether it can be one, if there is such a Service.
    fn check(&self, namespace: &str) -> Result<(), Refusal> {
        let (at, reference) = (&self.at, &self.reference);
        if let Some(other) = reference.namespace.as_ref().filter(|other| *other != namespace) {
            let message = format!(
                "{at}.namespace: a route is for Services of its own namespace, {namespace}; move it to {other}"
            );
            return Err(Refusal { reason: "UnsupportedValue", message });
        }
        Ok(())
    }

    fn find<'a>(
        &self,
        namespace: &str,
        services: impl Fn(&ServiceName) -> Option<&'a Ports>,
    ) -> Result<ParentRef, Refusal> {
        self.check(namespace)?;
        let (at, reference) = (&self.at, &self.reference);
        let refusal = |message| Refusal { reason: "NoMatchingParent", message };
        let (service, ports) = reference.service(at, namespace, services).map_err(refusal)?;
        if reference.port.is_none() && reference.section_name.is_none() {
            return Ok(ParentRef { service, port: None });
        }
        // Both must be so if both are said.
        let port = ports.iter().find(|(number, name)| {
            reference.port.is_none_or(|port| port == **number)
                && reference.section_name.as_ref().is_none_or(|section| section == *name)
        });
        let none = || refusal(format!("{at}: Service {service} has no such TCP port"));
        let (port, _) = port.ok_or_else(none)?;
        Ok(ParentRef { port: Some(*port), service: service.clone() })
    }
}

impl Backend {
    /// Whether it can be one, if there is such a Service.
    fn check(&self, namespace: &str) -> Result<(), Refusal> {
        let (at, reference) = (&self.at, &self.reference);
        let (group, kind) =
            (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or("Service"));
        if !gateway::is_service(group, kind) {
            let message = format!("{at}.kind: only Services can be referred to, not `{kind}`; requests for it fail");
            return Err(Refusal { reason: "InvalidKind", message });
        }
        if let Some(other) = reference.namespace.as_ref().filter(|other| *other != namespace) {
            let message = format!(
                "{at}.namespace: only Services of the route's own namespace can be referred to, not of {other}, whatever a \
                 ReferenceGrant says; requests for it fail"
            );
            return Err(Refusal { reason: "RefNotPermitted", message });
        }
        Ok(())
    }

    fn find<'a>(&self, namespace: &str, services: impl Fn(&ServiceName) -> Option<&'a Ports>) -> Result<(), Refusal> {
        self.check(namespace)?;
        let (at, reference) = (&self.at, &self.reference);
        let refusal = |message| {
            let message = format!("{message}; requests for it fail until there is one");
            Refusal { reason: "BackendNotFound", message }
        };
        let (service, ports) = reference.service(at, namespace, services).map_err(refusal)?;
        match reference.port {
            Some(port) if !ports.contains_key(&port) => {
                Err(refusal(format!("{at}.port: Service {service} has no TCP port {port}")))
            }
            Some(_) => Ok(()),
            // The API server asks for it of the group "", and not of `core`.
            None => Err(refusal(format!("{at}.port: Service {service} is referred to without a port"))),
        }
    }
}

impl Reference {
    /// What it refers to in `namespace`.
    fn service<'a>(
        &self,
        at: &str,
        namespace: &str,
        services: impl Fn(&ServiceName) -> Option<&'a Ports>,
    ) -> Result<(ServiceName, &'a Ports), String> {
        let name = ServiceName::new(namespace, &self.name).map_err(|error| format!("{at}.name: {error}"))?;
        let none = || format!("{at}: there is no Service {name} with instances of its own");
        let ports = services(&name).ok_or_else(none)?;
        Ok((name, ports))
    }
}

#[cfg(test)]
mod tests;
