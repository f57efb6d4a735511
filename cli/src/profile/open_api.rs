//! From OpenAPI and Swagger documents to calls. Pure.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;
use serde_yaml_ng::Value;

use super::calls::{Call, Calls};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// As much of one as is needed.
#[derive(Deserialize)]
struct Document {
    /// Items, and extensions, which may be anything.
    paths: BTreeMap<String, Value>,
    /// Swagger's.
    #[serde(default, rename = "basePath")]
    base_path: String,
    /// OpenAPI's.
    #[serde(default)]
    servers: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    url: String,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
}

#[derive(Deserialize)]
struct Variable {
    default: String,
}

/// The operations that `text` describes. Behind a parameter in a path anything may follow.
pub(super) fn calls(text: &str) -> anyhow::Result<Calls> {
    let document: Document = serde_yaml_ng::from_str(text).context("this is no OpenAPI document")?;
    let base = match document.servers.first() {
        Some(server) => server.path(),
        None => document.base_path,
    };
    // Relative to where the document is: to the root, as far as anybody can tell.
    let base = base.trim_matches('/');
    let base = if base.is_empty() { String::new() } else { format!("/{base}") };
    let mut calls = Calls::default();
    for (path, item) in document.paths.iter().filter(|(path, _)| path.starts_with('/')) {
        let path = format!("{base}{path}");
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            let method = method.to_ascii_uppercase();
            calls.add(match path.find('{') {
                Some(parameter) => {
                    Call::below(Some(&method), path[..parameter].rsplit_once('/').map_or("", |(before, _)| before))
                }
                None => Call::exact(Some(&method), &path),
            });
        }
    }
    Ok(calls)
}

impl Server {
    /// Of its address, or what is one already; its variables are what they are by themselves.
    fn path(&self) -> String {
        let expand = |url: String, (name, variable): (&String, &Variable)| {
            url.replace(&format!("{{{name}}}"), &variable.default)
        };
        let url = self.variables.iter().fold(self.url.clone(), expand);
        match url.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or(String::new(), |start| rest[start..].to_owned()),
            None => url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_calls() {
        let paths = "
            paths:
              /books: {get: {}, post: {}, parameters: []}
              /books/{id}: {get: {}, x-more: 1}
              /books/{id}/edit: {get: {}}
              /files/v{version}/{name}: {put: {}}
              /{anything}: {get: {}}
              /x#y: {get: {}}
              x-internal: true";
        for (more, base) in [
            ("swagger: '2.0'\nbasePath: /v1/", "/v1"),
            ("openapi: 3.1.0\nservers: [{url: 'https://example.org/api'}, {url: /other}]", "/api"),
            ("openapi: 3.1.0\nservers: [{url: /}]", ""),
            ("openapi: 3.1.0\nservers: [{url: 'https://example.org'}]", ""),
            ("openapi: 3.1.0", ""),
            (
                "openapi: 3.1.0\nservers: [{url: 'https://example.org/{version}', variables: {version: {default: v2}}}]",
                "/v2",
            ),
            ("openapi: 3.1.0\nservers: [{url: api/}]", "/api"),
        ] {
            let document = format!("{more}{}", paths.replace("\n            ", "\n"));
            let expected = [
                Call::exact(Some("GET"), &format!("{base}/books")),
                Call::exact(Some("POST"), &format!("{base}/books")),
                Call::below(Some("GET"), &format!("{base}/books")),
                Call::below(Some("PUT"), &format!("{base}/files")),
            ];
            let mut expected: Calls = expected.into_iter().collect();
            if base.is_empty() {
                // Anything is for the route of everything.
                expected.unroutable = 1;
            } else {
                expected.add(Call::below(Some("GET"), base));
                expected.add(None);
            }
            assert_eq!(calls(&document).unwrap(), expected, "{document}");
        }
        assert!(calls(r#"{"paths": {"/": {"get": {}}}}"#).is_ok(), "JSON is YAML");
        assert!(format!("{:#}", calls("a: b").unwrap_err()).contains("missing field `paths`"));
    }
}
