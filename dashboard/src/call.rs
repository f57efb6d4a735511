//! `POST api/v1/METHOD`: one method of the public API, in JSON.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{
        Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures::{StreamExt as _, stream};
use prost_reflect::MessageDescriptor;
use serde_json::json;
use tonic::{Status, Streaming};

use crate::{
    BODY_BYTES_MAX, Shared, Upstream,
    failure::{self, Failure, NOT_ALLOWED, NOT_JSON, TOO_LARGE},
    transcode,
};

/// A question, and one answer.
pub(crate) const JSON: &str = "application/json";
/// What a stream of JSON lines calls itself.
pub(crate) const LINES: &str = "application/x-ndjson";
/// Server-Sent Events.
pub(crate) const EVENTS: &str = "text/event-stream";

/// Answers with what the method returns: one object, or a stream of them.
pub(crate) async fn call(
    State(shared): State<Shared>,
    Extension(upstream): Extension<Arc<Upstream>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Path(name) = name.map_err(|_| Status::not_found("there is no such method here: its name is no text"))?;
    if !is_json(&headers) {
        return Ok(NOT_JSON.respond("a question is JSON: send `content-type: application/json`"));
    }
    let method = shared.methods.find(&name);
    let method = method.ok_or_else(|| Status::not_found(format!("there is no method `{name}` here")))?;
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return too_large_or_broken(&rejection),
    };
    let message = transcode::to_message(&body, method.descriptor.input())?;
    let kind = method.descriptor.output();
    if method.descriptor.is_server_streaming() {
        let answers = upstream.stream(method, message).await?;
        return Ok(stream_of(answers, kind, accepts_events(&headers)));
    }
    let answer = upstream.ask(method, message).await?;
    Ok(respond(JSON, Body::from(transcode::to_json(answer, kind)?)))
}

/// A body that did not come as a whole.
fn too_large_or_broken(rejection: &BytesRejection) -> Result<Response, Failure> {
    if rejection.status() == TOO_LARGE.status {
        return Ok(TOO_LARGE.respond(format!("a question is at most {BODY_BYTES_MAX} bytes: ask for less at once")));
    }
    Err(Status::invalid_argument("the body ended before it was complete").into())
}

/// By another HTTP method than the path has.
pub(crate) async fn not_allowed(method: http::Method) -> Response {
    NOT_ALLOWED.respond(format!("{method} is nothing to do here: the header `allow` says what is"))
}

/// Only a page of this server can send this content type without being asked for permission first.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(JSON))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accepts| accepts.contains(EVENTS))
}

/// One line, or one event, for each answer. The last one has the field `error` when the stream broke.
fn stream_of(answers: Streaming<Bytes>, kind: MessageDescriptor, as_events: bool) -> Response {
    let lines = stream::unfold(Some(answers), move |answers| {
        let kind = kind.clone();
        async move {
            let mut answers = answers?;
            let next = answers.message().await.transpose()?;
            Some(match next.and_then(|answer| transcode::to_json(answer, kind)) {
                Ok(json) => (json, Some(answers)),
                Err(status) => (json!({ "error": failure::to_json(&status) }).to_string().into_bytes(), None),
            })
        }
    });
    let (before, after): (&[u8], &[u8]) = if as_events { (b"data: ", b"\n\n") } else { (b"", b"\n") };
    let lines = lines.map(move |json| Ok::<_, Status>([before, &json, after].concat()));
    respond(if as_events { EVENTS } else { LINES }, Body::from_stream(lines))
}

fn respond(kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
