//! Routes as people write them: Gateway API's `HTTPRoute`, in YAML.
//!
//! A field that is not carried out is refused by its name, never ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::{
    HttpRoute, RouteName, ServiceName,
    proto::route,
    route::{ParentRef, PathMatch, RouteBackend, RouteMatch, RouteRule},
};
use serde::{Deserialize, Serialize};

use crate::yaml;

const KIND: &str = "HTTPRoute";
const GROUP: &str = "gateway.networking.k8s.io";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    parent_refs: Vec<Reference>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// A parent, or a backend.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Reference {
    #[serde(default, skip_serializing_if = "String::is_empty")]
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

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    matches: Vec<Match>,
    #[serde(default)]
    backend_refs: Vec<Reference>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Value>,
}

/// A path, or a header.
#[derive(Serialize, Deserialize)]
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

/// Reads the routes in `files` (`-` is standard input); those that name no namespace are in `namespace`.
///
/// # Errors
/// With file and line, or with the route and its field.
pub fn read(files: &[PathBuf], namespace: &str) -> anyhow::Result<Vec<HttpRoute>> {
    let mut routes: Vec<HttpRoute> = Vec::new();
    for (file, text) in yaml::read(files)? {
        for route in parse(&file, &text, namespace)? {
            if routes.iter().any(|known| known.name == route.name) {
                bail!("{file}: httproute {} is described twice", route.name);
            }
            routes.push(route);
        }
    }
    if routes.is_empty() {
        bail!("there is no {KIND} to be read");
    }
    Ok(routes)
}

fn parse(file: &str, text: &str, namespace: &str) -> anyhow::Result<Vec<HttpRoute>> {
    let mut routes = Vec::new();
    for document in yaml::Document::all(file, text) {
        let Some(Header { api_version, kind }) = document.parse()? else { continue };
        if kind != KIND || api_version.split_once('/').is_none_or(|(group, _)| group != GROUP) {
            bail!("{}: {kind} of {api_version} cannot be applied here, only {KIND} of {GROUP}/v1", document.place());
        }
        let written: Document = document.parse()?;
        let named = format!("{}: httproute {}", document.place(), written.metadata.name);
        routes.push(route(written, namespace).context(named)?);
    }
    Ok(routes)
}

fn route(document: Document, default: &str) -> anyhow::Result<HttpRoute> {
    let namespace = document.metadata.namespace.as_deref().unwrap_or(default);
    let name = RouteName::new(namespace, &document.metadata.name)?;
    let parents = document.spec.parent_refs.iter().map(|parent| {
        if parent.weight.is_some() {
            bail!("spec.parentRefs: a parent has no weight");
        }
        Ok(ParentRef { service: service("spec.parentRefs", parent, namespace)?, port: parent.port })
    });
    let parents: BTreeSet<_> = parents.collect::<Result<_, _>>()?;
    let rules = document.spec.rules.into_iter().enumerate();
    let rules = rules.map(|(i, written)| rule(&format!("spec.rules[{i}]"), written, namespace));
    Ok(HttpRoute::new(name, parents, rules.collect::<Result<_, _>>()?)?)
}

fn service(field: &str, reference: &Reference, namespace: &str) -> anyhow::Result<ServiceName> {
    if reference.kind != "Service" || !["", "core"].contains(&reference.group.as_str()) {
        bail!("{field}: only Services can be referred to, not `{}`", reference.kind);
    }
    Ok(ServiceName::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name)?)
}

fn rule(at: &str, written: Rule, namespace: &str) -> anyhow::Result<RouteRule> {
    let matches = written.matches.into_iter().enumerate();
    let matches = matches.map(|(i, written)| accepted(&format!("{at}.matches[{i}]"), written));
    let backends = written.backend_refs.iter().map(|backend| {
        let port = backend.port.ok_or_else(|| anyhow!("{at}.backendRefs: `{}` needs a port", backend.name))?;
        let service = service(&format!("{at}.backendRefs"), backend, namespace)?;
        Ok(RouteBackend { service, port, weight: backend.weight.unwrap_or(1) })
    });
    Ok(RouteRule { matches: matches.collect::<Result<_, _>>()?, backends: backends.collect::<anyhow::Result<_>>()? })
}

fn accepted(at: &str, written: Match) -> anyhow::Result<RouteMatch> {
    let path = written.path.map(|path| match path.kind.as_deref().unwrap_or("PathPrefix") {
        "PathPrefix" => Ok(PathMatch::Prefix(path.value)),
        "Exact" => Ok(PathMatch::Exact(path.value)),
        other => bail!("{at}.path: a path can be compared by Exact or PathPrefix, not by {other}"),
    });
    let headers = written.headers.into_iter().map(|header| match header.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok((header.name.with_context(|| format!("{at}.headers: a header has a name"))?, header.value)),
        other => bail!("{at}.headers: a header can be compared by Exact, not by {other}"),
    });
    let headers = headers.collect::<Result<Vec<_>, _>>()?;
    let (count, headers) = (headers.len(), headers.into_iter().collect::<BTreeMap<_, _>>());
    if headers.len() < count {
        bail!("{at}.headers: a header is there twice");
    }
    Ok(RouteMatch { path: path.transpose()?.unwrap_or_default(), method: written.method, headers })
}

/// A route as it could have been written.
///
/// # Errors
/// Never for a route that a control plane holds.
pub fn to_yaml(wire: &route::HttpRoute) -> anyhow::Result<String> {
    Ok(serde_yaml_ng::to_string(&document(wire)?)?)
}

/// A route as a JSON value.
///
/// # Errors
/// Never for a route that a control plane holds.
pub fn to_json(wire: &route::HttpRoute) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(document(wire)?)?)
}

fn document(wire: &route::HttpRoute) -> anyhow::Result<Document> {
    let route = HttpRoute::try_from(wire)?;
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
    };
    let rule = |rule: &RouteRule| Rule {
        matches: rule.matches.iter().map(accepted).collect(),
        backend_refs: rule.backends.iter().map(|b| reference(&b.service, Some(b.port), Some(b.weight))).collect(),
    };
    Ok(Document {
        api_version: format!("{GROUP}/v1"),
        kind: KIND.to_owned(),
        metadata: Metadata { name: route.name.name().to_owned(), namespace: Some(route.name.namespace().to_owned()) },
        spec: Spec {
            parent_refs: route.parents.iter().map(|parent| reference(&parent.service, parent.port, None)).collect(),
            rules: route.rules.iter().map(rule).collect(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: canary
  labels: {team: a}
spec:
  parentRefs: [{group: core, kind: Service, name: web, port: 80}]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v1/}
      headers: [{name: X-Canary, value: \"yes\"}]
    - path: {type: Exact, value: /health}
      method: GET
    backendRefs:
    - {name: web, port: 80, weight: 90}
    - {name: web-next, port: 80, weight: 10}
  - backendRefs: [{name: web, port: 80}]
";

    #[test]
    fn what_is_written_is_what_is_read() {
        let [route] = parse("canary.yml", CANARY, "shop").unwrap().try_into().unwrap();
        assert_eq!(route.name.to_string(), "shop/canary");
        assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/v1".into()));
        assert_eq!(route.rules[0].matches[0].headers["x-canary"], "yes");
        assert_eq!(route.rules[0].backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [90, 10]);
        assert_eq!(route.rules[1].matches, [RouteMatch::default()]);
        let yaml = to_yaml(&(&route).into()).unwrap();
        assert_eq!(parse("-", &yaml, "other").unwrap(), [route], "{yaml}");
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_its_name() {
        for (written, instead, error) in [
            ("method: GET", "queryParams: []", "unknown field `queryParams`"),
            ("type: Exact", "type: RegularExpression", "compared by Exact or PathPrefix, not by RegularExpression"),
            ("kind: Service", "kind: Gateway", "only Services can be referred to, not `Gateway`"),
            (
                "kind: HTTPRoute",
                "kind: TCPRoute",
                "canary.yml:1: TCPRoute of gateway.networking.k8s.io/v1 cannot be applied here",
            ),
            ("name: web-next, port: 80", "name: web-next", "`web-next` needs a port"),
            (
                "weight: 90",
                "weight: x",
                "canary.yml:15: spec.rules[0].backendRefs[0].weight: invalid type: string \"x\", expected u32",
            ),
            ("value: /health", "value: health", "spec.rules[0].matches[1].path: `health` is not a path"),
        ] {
            let text = CANARY.replace(written, instead);
            assert_ne!(text, CANARY);
            let told = format!("{:#}", parse("canary.yml", &text, "shop").unwrap_err());
            assert!(told.contains(error), "{told}");
        }
    }
}
