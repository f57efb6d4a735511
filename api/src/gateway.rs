//! Routes as people write them: Gateway API's `HTTPRoute`, whatever it was written in.
//!
//! A field that is not carried out is refused by its name, never ignored.

mod filters;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    HttpRoute, RouteName, ServiceName,
    route::{
        BACKENDS_MAX, ParentRef, PathMatch, RouteBackend, RouteError, RouteMatch, RouteRule, WEIGHT_MAX, same_namespace,
    },
};

/// What its objects are of: this kind, this group, and this version of it.
pub const KIND: &str = "HTTPRoute";
/// See [`KIND`].
pub const GROUP: &str = "gateway.networking.k8s.io";
/// See [`KIND`].
pub const VERSION: &str = "v1";

/// What is said of one route; reading it refuses all fields that are not known.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    parent_refs: Vec<Reference>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// A parent, or a backend.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Reference {
    /// Written also if it is empty: of a parent, Kubernetes takes what is not said for a Gateway's.
    #[serde(default)]
    group: String,
    #[serde(default = "service_kind")]
    kind: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    matches: Vec<Match>,
    #[serde(default)]
    backend_refs: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeouts: Option<filters::Timeouts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    filters: Vec<filters::Filter>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Match {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    query_params: Vec<Value>,
}

/// A path, a header, or a part of a query.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    value: String,
}

fn service_kind() -> String {
    "Service".to_owned()
}

/// Whether a reference to this kind of this group is one to a Service.
pub fn is_service(group: &str, kind: &str) -> bool {
    kind == "Service" && ["", "core"].contains(&group)
}

impl Spec {
    /// The route called `name` that is described.
    ///
    /// # Errors
    /// Names the field that is not carried out, or breaks a limit.
    pub fn route(self, name: RouteName) -> Result<HttpRoute, RouteError> {
        let parents = self.parent_refs.iter().map(|parent| {
            if parent.weight.is_some() {
                return Err(RouteError("spec.parentRefs: a parent has no weight".to_owned()));
            }
            let service = service("spec.parentRefs", parent, name.namespace())?;
            Ok(ParentRef { service, port: parent.port })
        });
        let parents: BTreeSet<_> = parents.collect::<Result<_, _>>()?;
        let rules = rules(self.rules, name.namespace(), Err)?;
        HttpRoute::new(name, parents, rules)
    }

    /// Its rules alone, for who reads its parents otherwise; the route is in `namespace`. Who says of each backend whether it is there gets
    /// also those that cannot be: requests for them fail, and no others.
    ///
    /// # Errors
    /// Names the field that is not carried out. Limits are for [`HttpRoute::new`] to check.
    pub fn rules(self, namespace: &str) -> Result<Vec<RouteRule>, RouteError> {
        rules(self.rules, namespace, |_| Ok(()))
    }
}

/// `on_unresolved` is asked about what cannot be a backend.
fn rules(
    written: Vec<Rule>,
    namespace: &str,
    on_unresolved: impl Fn(RouteError) -> Result<(), RouteError>,
) -> Result<Vec<RouteRule>, RouteError> {
    let rules = written.into_iter().enumerate();
    rules.map(|(i, written)| rule(&format!("spec.rules[{i}]"), written, namespace, &on_unresolved)).collect()
}

fn service(field: &str, reference: &Reference, namespace: &str) -> Result<ServiceName, RouteError> {
    if !is_service(&reference.group, &reference.kind) {
        return Err(RouteError(format!("{field}: only Services can be referred to, not `{}`", reference.kind)));
    }
    let name = ServiceName::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name);
    name.map_err(|error| RouteError(error.to_string()))
}

fn rule(
    at: &str,
    written: Rule,
    namespace: &str,
    on_unresolved: impl Fn(RouteError) -> Result<(), RouteError>,
) -> Result<RouteRule, RouteError> {
    let matches = written.matches.into_iter().enumerate();
    let matches = matches.map(|(i, written)| accepted(&format!("{at}.matches[{i}]"), written));
    let mut rule = RouteRule {
        matches: matches.collect::<Result<_, _>>()?,
        timeouts: filters::timeouts(&format!("{at}.timeouts"), written.timeouts)?,
        filters: filters::filters(&format!("{at}.filters"), written.filters)?,
        ..RouteRule::default()
    };
    let at = format!("{at}.backendRefs");
    if written.backend_refs.len() > BACKENDS_MAX {
        return Err(RouteError(format!("{at}: there must be 0 to {BACKENDS_MAX}, not {}", written.backend_refs.len())));
    }
    for reference in &written.backend_refs {
        let weight = reference.weight.unwrap_or(1);
        if weight > WEIGHT_MAX {
            return Err(RouteError(format!("{at}: a weight is at most {WEIGHT_MAX}")));
        }
        match backend(&at, reference, namespace) {
            Ok((service, port)) => rule.backends.push(RouteBackend { service, port, weight }),
            Err(error) => {
                on_unresolved(error)?;
                rule.unresolved += weight;
            }
        }
    }
    Ok(rule)
}

/// A port of a Service in the route's namespace, which it may not leave: there are no ReferenceGrants here.
fn backend(at: &str, reference: &Reference, namespace: &str) -> Result<(ServiceName, u16), RouteError> {
    let service = service(at, reference, namespace)?;
    same_namespace(at, namespace, &service)?;
    let without_port = || RouteError(format!("{at}: `{}` needs a port", reference.name));
    Ok((service, reference.port.ok_or_else(without_port)?))
}

fn accepted(at: &str, written: Match) -> Result<RouteMatch, RouteError> {
    let path = written.path.map(|path| match path.kind.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" => Ok(PathMatch::Prefix(path.value)),
        "Exact" => Ok(PathMatch::Exact(path.value)),
        other => Err(RouteError(format!("{at}.path: a path can be compared by Exact or PathPrefix, not by {other}"))),
    });
    Ok(RouteMatch {
        path: path.transpose()?.unwrap_or_default(),
        method: written.method,
        headers: named(&format!("{at}.headers"), written.headers)?,
        query: named(&format!("{at}.queryParams"), written.query_params)?,
    })
}

fn named(at: &str, written: Vec<Value>) -> Result<BTreeMap<String, String>, RouteError> {
    let mut values = BTreeMap::new();
    for value in written {
        match value.kind.as_deref().unwrap_or("Exact") {
            "Exact" => {}
            other => return Err(RouteError(format!("{at}: what is here can be compared by Exact, not by {other}"))),
        }
        let name = value.name.ok_or_else(|| RouteError(format!("{at}: what is here has a name")))?;
        if values.insert(name.clone(), value.value).is_some() {
            return Err(RouteError(format!("{at}: `{name}` is there twice")));
        }
    }
    Ok(values)
}

/// As it could have been written.
impl From<&HttpRoute> for Spec {
    fn from(route: &HttpRoute) -> Self {
        let reference = |service: &ServiceName, port, weight| Reference {
            group: String::new(),
            kind: service_kind(),
            name: service.name().to_owned(),
            namespace: None,
            port,
            weight,
        };
        let value = |kind: &str, name: Option<&String>, value: &str| Value {
            kind: Some(kind.to_owned()),
            name: name.cloned(),
            value: value.to_owned(),
        };
        let accepted = |accepted: &RouteMatch| Match {
            path: Some(match &accepted.path {
                PathMatch::Exact(path) => value("Exact", None, path),
                PathMatch::Prefix(path) if path.is_empty() => value("PathPrefix", None, "/"),
                PathMatch::Prefix(path) => value("PathPrefix", None, path),
            }),
            method: accepted.method.clone(),
            headers: accepted.headers.iter().map(|(name, text)| value("Exact", Some(name), text)).collect(),
            query_params: accepted.query.iter().map(|(name, text)| value("Exact", Some(name), text)).collect(),
        };
        // What it was is not known any more; it is refused if it is read again.
        let unresolved = |weight| Reference {
            group: "conduit.io".to_owned(),
            kind: "Unresolved".to_owned(),
            name: "unresolved".to_owned(),
            namespace: None,
            port: None,
            weight: Some(weight),
        };
        let rule = |rule: &RouteRule| {
            let backends = rule.backends.iter().map(|b| reference(&b.service, Some(b.port), Some(b.weight)));
            Rule {
                matches: rule.matches.iter().map(accepted).collect(),
                backend_refs: backends.chain((rule.unresolved > 0).then(|| unresolved(rule.unresolved))).collect(),
                timeouts: filters::Timeouts::written(rule.timeouts),
                filters: filters::Filter::written(&rule.filters),
            }
        };
        Self {
            parent_refs: route.parents.iter().map(|parent| reference(&parent.service, parent.port, None)).collect(),
            rules: route.rules.iter().map(rule).collect(),
        }
    }
}
