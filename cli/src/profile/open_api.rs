//! From OpenAPI and Swagger documents to calls. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Deserialize;
use serde_yaml_ng::Value;

use super::calls::Call;

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// As much of one as is needed.
#[derive(Deserialize)]
struct Document {
    paths: BTreeMap<String, BTreeMap<String, Value>>,
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
}

/// The operations that `text` describes. Behind a parameter in a path anything may follow.
pub(super) fn calls(text: &str) -> anyhow::Result<BTreeSet<Call>> {
    let document: Document = serde_yaml_ng::from_str(text).context("this is no OpenAPI document")?;
    let base = match document.servers.first() {
        Some(server) => path_of(&server.url),
        None => &document.base_path,
    };
    let base = base.trim_end_matches('/');
    let mut calls = BTreeSet::new();
    for (path, operations) in &document.paths {
        let path = format!("{base}{path}");
        for method in METHODS.iter().filter(|method| operations.contains_key(**method)) {
            let method = method.to_ascii_uppercase();
            calls.insert(match path.find('{') {
                Some(parameter) => {
                    Call::below(Some(&method), path[..parameter].rsplit_once('/').map_or("", |(before, _)| before))
                }
                None => Call::exact(Some(&method), &path),
            });
        }
    }
    Ok(calls)
}

/// Of an address, or of what is one already.
fn path_of(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    rest.find('/').map_or("", |start| &rest[start..])
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
              /files/v{version}/{name}: {put: {}}";
        for (more, base) in [
            ("swagger: '2.0'\nbasePath: /v1/", "/v1"),
            ("openapi: 3.1.0\nservers: [{url: 'https://example.org/api'}, {url: /other}]", "/api"),
            ("openapi: 3.1.0\nservers: [{url: /}]", ""),
            ("openapi: 3.1.0\nservers: [{url: 'https://example.org'}]", ""),
            ("openapi: 3.1.0", ""),
        ] {
            let document = format!("{more}{}", paths.replace("\n            ", "\n"));
            let expected = [
                Call::exact(Some("GET"), &format!("{base}/books")),
                Call::exact(Some("POST"), &format!("{base}/books")),
                Call::below(Some("GET"), &format!("{base}/books")),
                Call::below(Some("PUT"), &format!("{base}/files")),
            ];
            assert_eq!(calls(&document).unwrap(), expected.into(), "{document}");
        }
        assert!(calls(r#"{"paths": {"/": {"get": {}}}}"#).is_ok(), "JSON is YAML");
        assert!(format!("{:#}", calls("a: b").unwrap_err()).contains("missing field `paths`"));
    }
}
