//! Routes as people write them into files: Gateway API's `HTTPRoute`, in YAML.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use conduit_api::{
    HttpRoute, RouteName,
    gateway::{GROUP, KIND, Spec, VERSION},
    proto::route,
};
use serde::{Deserialize, Serialize};

use crate::yaml;

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
            bail!(
                "{}: {kind} of {api_version} cannot be applied here, only {KIND} of {GROUP}/{VERSION}",
                document.place()
            );
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
    Ok(document.spec.route(name)?)
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
    Ok(Document {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: KIND.to_owned(),
        metadata: Metadata { name: route.name.name().to_owned(), namespace: Some(route.name.namespace().to_owned()) },
        spec: Spec::from(&route),
    })
}

#[cfg(test)]
mod tests {
    use conduit_api::route::{PathMatch, RouteMatch};

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
            ("method: GET", "cookies: []", "unknown field `cookies`"),
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
