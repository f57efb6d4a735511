//! The web application's files, which are in this program.

use std::borrow::Cow;

use axum::{
    body::Body,
    extract::{Path, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use tonic::Status;

use crate::failure;

struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// Sorted by path; empty where the application was not built.
const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Says how to build it.
const NOT_BUILT: &str = include_str!("not_built.html");

/// Their names have a hash of their content in them.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// Names the others, and must be of the same build.
const NOT_AT_ALL: &str = "no-store";

/// Where the page asks its questions, as it stands in the page.
pub(crate) const ASKS: &str = r#"<meta name="conduit-api" content="api/v1/""#;

/// The page.
pub(crate) async fn index() -> Response {
    Page(Cow::Borrowed(index_bytes())).respond()
}

/// The page, which asks its questions at `api` instead.
pub(crate) fn index_asking(api: &str) -> Page {
    let page = String::from_utf8_lossy(index_bytes());
    let asks = format!(r#"<meta name="conduit-api" content="{api}""#);
    Page(Cow::Owned(page.replace(ASKS, &asks).into_bytes()))
}

/// One that names all others.
#[derive(Clone)]
pub(crate) struct Page(Cow<'static, [u8]>);

impl Page {
    pub(crate) fn respond(&self) -> Response {
        respond("text/html; charset=utf-8", self.0.clone(), NOT_AT_ALL)
    }
}

fn index_bytes() -> &'static [u8] {
    find("index.html").map_or(NOT_BUILT.as_bytes(), |file| file.bytes)
}

/// What it names.
pub(crate) async fn asset(name: Result<Path<String>, PathRejection>) -> Response {
    match name.ok().and_then(|Path(name)| find(&format!("assets/{name}"))) {
        Some(file) => respond(file.kind, file.bytes, FOR_EVER),
        None => not_found().await,
    }
}

/// What stands beside it.
pub(crate) async fn file(name: Result<Path<String>, PathRejection>) -> Response {
    match name.ok().and_then(|Path(name)| find(&name)) {
        Some(file) => respond(file.kind, file.bytes, NOT_AT_ALL),
        None => not_found().await,
    }
}

/// There is nothing else.
pub(crate) async fn not_found() -> Response {
    failure::refusal(StatusCode::NOT_FOUND, &failure::to_json(&Status::not_found("there is no such page")))
}

fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

fn respond(kind: &'static str, bytes: impl Into<Body>, caching: &'static str) -> Response {
    let mut response = Response::new(bytes.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}
