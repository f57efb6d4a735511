//! `GET api/v1/openapi.json`: what the router serves, as an [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.1.html) document.
//! What it says of messages is derived from the descriptors that calls are made by; what it says of statuses, parameters and streams stands
//! here, and tests hold it against the router.
//!
//! `api/openapi.json` is the one with all methods, kept so that a change of the API is seen where it is reviewed.

mod comments;
mod schema;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::{Map, Value, json};

use self::{
    comments::above,
    schema::{Schemas, Way},
};
use crate::{
    Shared,
    call::{EVENTS, JSON, LINES},
    failure::{self, CODES, FOREIGN, MISNAMED, UNASKED},
    live::View,
    methods::{Method, Methods},
};

/// Of the API: what follows `api/` where it is served, and the last part of the contract's package.
const VERSION: &str = "v1";

const ABOUT: &str = "\
The public API of Conduit in JSON. Each method is one of gRPC's service `conduit.public.v1.Api`, and its messages are that contract's by \
proto3's JSON mapping: fields are called `windowMs` where comments say `window_ms`. This document describes these names; in questions \
the contract's own are understood as well.

In a question any field may be left out, which says the same as null, and one that is not known is refused. Numbers may be given as \
strings, and values of enumerations by their numbers. A question without fields is `{}`, or an empty body with the content type. In an answer all fields are written but \
those whose absence says something, numbers of 64 bits as strings; fields and values of enumerations may be \
added, and a value that the server has no name for is a number.

Questions are asked by POST, with `content-type: application/json`, also those that only look; by another HTTP method than a path has, the \
answer is 405 with `INVALID_ARGUMENT`. The server acts with the rights of the \
person who started it, and answers nobody but tools and its own pages: a name in `Host` that it does not go by, and another page's \
`Origin`, are refused.";

/// Answers with the document of what this router serves.
pub(crate) async fn serve(State(shared): State<Shared>) -> Response {
    let document = shared.document.get_or_init(|| document(&shared.methods).to_string().into());
    let mut response = Response::new(Body::from(document.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The document of a router that serves these methods.
pub(crate) fn document(methods: &Methods) -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for (name, method) in methods.all() {
        paths.insert(format!("/{name}"), json!({ "post": operation(name, method, &mut schemas) }));
    }
    paths.insert("/live".to_owned(), json!({ "get": live(methods, &mut schemas) }));
    paths.insert("/openapi.json".to_owned(), json!({ "get": this() }));
    let mut schemas = schemas.into_map();
    schemas.insert(ERROR.to_owned(), error());
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Conduit",
            "version": VERSION,
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        // Wherever this is served, the paths are beside it, also behind a proxy that takes a part of the path away. Tools append paths to what
        // this resolves to, so that it must not end with a slash, as `.` does.
        "servers": [{ "url": format!("../{VERSION}") }],
        "tags": [
            { "name": LOOKS, "description": "Nothing is different afterwards." },
            { "name": CHANGES, "description": "Served only where that is allowed: not by `conduit dashboard`." },
        ],
        "paths": paths,
        "components": { "schemas": schemas, "responses": refusals() },
    })
}

/// What methods are told apart by.
const LOOKS: &str = "looks";
const CHANGES: &str = "changes";

/// The schema of what goes wrong.
const ERROR: &str = "Error";

/// Questions that have an answer in the demo, for those who try, of methods whose answer to `{}` is an error or has nothing in it.
const EXAMPLES: &[(&str, &str)] = &[
    ("CaDeny", r#"{"spiffeId": "spiffe://cluster.local/ns/emojivoto/sa/nobody", "dropConnections": true}"#),
    ("Edges", r#"{"kind": "deployment", "windowMs": 60000}"#),
    (
        "Explain",
        r#"{"from": {"kind": "deployment", "namespace": "emojivoto", "name": "web"},
            "resource": {"kind": "service", "namespace": "emojivoto", "name": "voting-svc"}, "port": 8080}"#,
    ),
    ("Endpoints", r#"{"namespace": "emojivoto", "service": "web-svc"}"#),
    ("Identity", r#"{"namespace": "emojivoto", "pod": "web-0"}"#),
    ("ProxyMetrics", r#"{"namespace": "emojivoto", "pod": "web-0"}"#),
    ("Series", r#"{"selector": {"kind": "deployment"}, "windowMs": 300000, "stepMs": 60000}"#),
    (
        "SetObjective",
        r#"{"resource": {"kind": "deployment", "namespace": "emojivoto", "name": "voting"},
            "goals": {"successPpm": 990000, "latencyMs": {"99": 100}}}"#,
    ),
    ("Stat", r#"{"selector": {"kind": "deployment"}, "windowMs": 60000, "by": ["BY_PATH", "BY_STATUS"]}"#),
    ("Tap", r#"{"target": {"kind": "namespace", "name": "emojivoto"}}"#),
    ("TransferLeader", r#"{"member": "controller-1"}"#),
];

fn operation(name: &str, method: &Method, schemas: &mut Schemas) -> Value {
    let descriptor = &method.descriptor;
    let question = schemas.message(&descriptor.input(), Way::Asked);
    let answer = schemas.message(&descriptor.output(), Way::Answered);
    let content = if descriptor.is_server_streaming() {
        let failed = json!({ "type": "object", "required": ["error"], "properties": { "error": error_reference() } });
        let item = json!({
            "anyOf": [answer, failed],
            "description": "One line, or one event's data. The last one has the field `error` if the stream broke.",
        });
        json!({ LINES: { "schema": item }, EVENTS: { "schema": item } })
    } else {
        json!({ JSON: { "schema": answer } })
    };
    let description = if descriptor.is_server_streaming() {
        "A line of JSON for each answer, or an event where `Accept` has `text/event-stream`."
    } else {
        "The answer."
    };
    let mut body = json!({ "schema": question });
    if let Some((_, example)) = EXAMPLES.iter().find(|(method, _)| *method == name) {
        body["example"] = serde_json::from_str(example).expect("a test reads all of them");
    }
    let comment = above(&descriptor.parent_file(), descriptor.path());
    let mut operation = json!({
        "operationId": name,
        "tags": [if method.reads { LOOKS } else { CHANGES }],
        "requestBody": { "required": true, "content": { JSON: body } },
        "responses": responses(json!({ "description": description, "content": content }), |_| true),
    });
    if !comment.is_empty() {
        operation["description"] = comment.into();
    }
    operation
}

/// What `live.rs` serves.
fn live(methods: &Methods, schemas: &mut Schemas) -> Value {
    let mut parts = Map::new();
    let mut views = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for view in View::all() {
        for question in view.questions().unwrap_or_default() {
            let Some(method) = methods.find(question.method) else { continue };
            parts.insert(question.part.to_owned(), schemas.message(&method.descriptor.output(), Way::Answered));
        }
        kinds.extend(Some(view.kind).filter(|kind| !kind.is_empty()));
        views.insert(view.view);
    }
    let errors = json!({
        "type": "object",
        "additionalProperties": error_reference(),
        "description": "What there is no answer to, and why.",
    });
    let data = json!({
        "type": "object",
        "required": ["at", "parts", "errors"],
        "properties": {
            "at": { "type": "integer", "description": "Milliseconds since the Unix epoch." },
            "parts": {
                "type": "object",
                "properties": parts,
                "description": "The answers that are not what they were in the event before.",
            },
            "errors": errors,
        },
    });
    let window = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
    let answer = json!({ "description": "An event's data.", "content": { EVENTS: { "schema": data } } });
    json!({
        "operationId": "live",
        "tags": [LOOKS],
        "description": "What a page of the dashboard shows, every two seconds, as Server-Sent Events, so that it does not poll.",
        "parameters": [
            parameter("view", json!({ "type": "string", "enum": views }), "Which page."),
            parameter("kind", json!({ "type": "string", "enum": kinds }), "Of `table`; of `resource`, but authorities."),
            parameter("namespace", json!({ "type": "string" }), "Of `resource`."),
            parameter("name", json!({ "type": "string" }), "Of `resource`."),
            parameter("within", json!({ "type": "string" }), "A namespace: nothing but what is in it, and nothing of the mesh as a whole."),
            parameter("windowMs", window, "As of `StatRequest`; a minute by default."),
        ],
        "responses": responses(answer, |status| LIVE.contains(&status)),
    })
}

fn parameter(name: &str, schema: Value, description: &str) -> Value {
    let required = name == "view";
    json!({ "name": name, "in": "query", "required": required, "schema": schema, "description": description })
}

fn this() -> Value {
    let content = json!({ JSON: { "schema": { "type": "object", "required": ["openapi", "info", "paths"] } } });
    let answer = json!({ "description": "Of what this server serves.", "content": content });
    json!({
        "operationId": "openapi",
        "tags": [LOOKS],
        "description": "This document.",
        "responses": responses(answer, |status| GUARD.contains(&status)),
    })
}

/// What [`guard`](crate::guard) says, whatever is asked for.
const GUARD: &[StatusCode] = &[FOREIGN.status, MISNAMED.status];
/// What a page may be told; what there is no answer to, its events say.
const LIVE: &[StatusCode] = &[StatusCode::BAD_REQUEST, FOREIGN.status, MISNAMED.status, StatusCode::TOO_MANY_REQUESTS];

/// All that is not 200, and which of an error's codes say it.
fn reasons() -> BTreeMap<StatusCode, Vec<String>> {
    let mut reasons: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for refusal in UNASKED {
        let reason = format!("{} (`{}`)", (refusal.reason)(), failure::name(refusal.code));
        reasons.entry(refusal.status).or_default().push(reason);
    }
    for (_, name, status) in CODES.iter().filter(|(_, _, status)| *status != StatusCode::OK) {
        reasons.entry(*status).or_default().push(format!("`{name}`"));
    }
    reasons
}

fn response_name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or_default().replace(' ', "")
}

fn refusals() -> Map<String, Value> {
    let content = json!({ JSON: { "schema": error_reference() } });
    let refusals = reasons().into_iter().map(|(status, reasons)| {
        let refusal = json!({ "description": format!("{}.", reasons.join(", ")), "content": content });
        (response_name(status), refusal)
    });
    refusals.collect()
}

fn responses(answer: Value, is_one: impl Fn(StatusCode) -> bool) -> Map<String, Value> {
    let refusals = reasons().into_keys().filter(|status| is_one(*status)).map(|status| {
        let refusal = json!({ "$ref": format!("#/components/responses/{}", response_name(status)) });
        (status.as_str().to_owned(), refusal)
    });
    [("200".to_owned(), answer)].into_iter().chain(refusals).collect()
}

fn error_reference() -> Value {
    json!({ "$ref": format!("#/components/schemas/{ERROR}") })
}

fn error() -> Value {
    let codes: Vec<_> =
        CODES.iter().filter(|(_, _, status)| *status != StatusCode::OK).map(|(_, name, _)| name).collect();
    json!({
        "type": "object",
        "required": ["code", "message"],
        "properties": {
            "code": { "type": "string", "enum": codes, "description": "As gRPC calls it." },
            "message": { "type": "string", "description": "For a person, with what to do next." },
        },
        "additionalProperties": false,
    })
}
