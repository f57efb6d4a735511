//! The router, against replicas that answer what they were told to.

mod replica;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{body::Body, http::Request, response::Response};
use futures::FutureExt as _;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tonic::Status;
use tower::ServiceExt as _;

use self::replica::Replica;
use super::*;

const PREFIX: &str = "/api/v1/namespaces/conduit/services/web:http/proxy";

fn over(replicas: &[Replica]) -> Router {
    let channels: Vec<_> = replicas.iter().map(Replica::channel).collect();
    let connect: Connect = Arc::new(move |lost| {
        let channel = channels.get(lost % channels.len().max(1)).cloned();
        async move { channel.ok_or_else(|| Status::unavailable("no replica answers")) }.boxed()
    });
    let options =
        Options { prefixes: vec![PREFIX.to_owned()], hosts: Hosts::Loopback, writes: false, pages: Vec::new() };
    router(Upstream::new(connect), &options)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header(header::HOST, "127.0.0.1:8084").body(Body::empty()).unwrap()
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header(header::HOST, "127.0.0.1:8084");
    request.header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

async fn text(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn json_of(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let (status, text) = text(router.clone().oneshot(request).await.unwrap()).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}")))
}

/// The next event of a page's stream.
async fn event(response: &mut Response) -> Value {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = response.body_mut().frame().await.expect("it has no end").unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    serde_json::from_str(text.strip_prefix("data: ").unwrap_or_else(|| panic!("{text}"))).unwrap()
}

#[tokio::test]
async fn pages_are_at_every_prefix_and_say_what_they_may_load() {
    let router = over(&[]);
    for path in ["/", &format!("{PREFIX}/")] {
        let response = router.clone().oneshot(get(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'self'; "));
        assert!(!header("content-security-policy").contains("unsafe"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        let (_, page) = text(response).await;
        // What is relative is found at any prefix.
        assert!(!page.contains("src=\"/") && !page.contains("href=\"/"), "{page}");
    }
    let response = router.clone().oneshot(get(PREFIX)).await.unwrap();
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()[header::LOCATION], format!("{PREFIX}/"));
    for path in ["/nothing", "/assets/nothing.js", "/a/b/c", "/assets/..%2findex.html"] {
        assert_eq!(json_of(&router, get(path)).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn pages_alone_know_nothing_and_say_whom_to_ask() {
    let router = pages("../apis/x/watch/", "ask the API server");
    let response = router.clone().oneshot(get("/")).await.unwrap();
    assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'; "));
    let (status, page) = text(response).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!page.contains("content=\"api/v1/"), "{page}");
    for path in ["/api/v1/live", "/apis/x/watch/live"] {
        let (status, error) = json_of(&router, get(path)).await;
        assert_eq!((status, &error["message"]), (StatusCode::NOT_FOUND, &json!("ask the API server")), "{path}");
    }
    assert_eq!(json_of(&router, post("/api/v1/Stat", "{}")).await.0, StatusCode::NOT_FOUND);
    // What is replaced is there to be replaced.
    assert!(include_str!("../app/index.html").contains(files::ASKS));
}

#[tokio::test]
async fn methods_are_asked_in_json() {
    let replica = Replica::start("v1", false).await;
    let router = over(&[replica]);
    for prefix in ["", PREFIX] {
        let answer = json_of(&router, post(&format!("{prefix}/api/v1/Version"), "{}")).await;
        assert_eq!(answer, (StatusCode::OK, json!({ "version": "v1" })));
    }
    for (path, body, status, code) in [
        ("/api/v1/Version", "{", StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        ("/api/v1/Nothing", "{}", StatusCode::NOT_FOUND, "NOT_FOUND"),
        ("/api/v1/CaRotate", "{}", StatusCode::NOT_FOUND, "NOT_FOUND"),
        ("/api/v1/Recover", "{}", StatusCode::NOT_FOUND, "NOT_FOUND"),
        ("/api/v1/Edges", "{}", StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        ("/api/v1/Identity", "{}", StatusCode::NOT_FOUND, "NOT_FOUND"),
    ] {
        let (got, error) = json_of(&router, post(path, body)).await;
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{path}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_body_is_bounded_and_says_what_it_is() {
    let router = over(&[]);
    let (status, error) = json_of(&router, post("/api/v1/Version", vec![b' '; BODY_BYTES_MAX + 1])).await;
    assert_eq!((status, &error["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("OUT_OF_RANGE")));
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let mut request = post("/api/v1/Version", "{}");
        request.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
        assert_eq!(json_of(&router, request).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    // No body is a question with the content type, and none without.
    assert_eq!(json_of(&router, post("/api/v1/Version", Body::empty())).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let mut nothing = post("/api/v1/Version", Body::empty());
    nothing.headers_mut().remove(header::CONTENT_TYPE);
    let (status, error) = json_of(&router, nothing).await;
    assert_eq!((status, &error["code"]), (StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!("INVALID_ARGUMENT")));
}

#[tokio::test]
async fn what_no_handler_is_there_for_is_an_error_as_any_other() {
    let router = over(&[]);
    let response = router.clone().oneshot(get("/api/v1/Version")).await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "POST");
    for (request, status, code) in [
        (get("/api/v1/Version"), StatusCode::METHOD_NOT_ALLOWED, "INVALID_ARGUMENT"),
        (post("/api/v1/live", "{}"), StatusCode::METHOD_NOT_ALLOWED, "INVALID_ARGUMENT"),
        (post("/", "{}"), StatusCode::METHOD_NOT_ALLOWED, "INVALID_ARGUMENT"),
        // Names that are no UTF-8.
        (post("/api/v1/%ff", "{}"), StatusCode::NOT_FOUND, "NOT_FOUND"),
        (get("/assets/%ff"), StatusCode::NOT_FOUND, "NOT_FOUND"),
        (get("/%ff"), StatusCode::NOT_FOUND, "NOT_FOUND"),
    ] {
        let path = request.uri().to_string();
        let (got, error) = json_of(&router, request).await;
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{path}: {error}");
    }
}

#[tokio::test]
async fn other_pages_are_refused_everything() {
    let replica = Replica::start("v1", false).await;
    let router = over(&[replica]);
    for path in ["/", "/api/v1/Version", "/api/v1/live?view=overview"] {
        let mut rebound = post(path, "{}");
        rebound.headers_mut().insert(header::HOST, "rebound.example:8084".parse().unwrap());
        let (status, error) = json_of(&router, rebound).await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path}: {error}");
        let mut foreign = post(path, "{}");
        foreign.headers_mut().insert(header::ORIGIN, "http://evil.example".parse().unwrap());
        assert_eq!(json_of(&router, foreign).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    let mut own = post("/api/v1/Version", "{}");
    own.headers_mut().insert(header::ORIGIN, "http://127.0.0.1:8084".parse().unwrap());
    own.headers_mut().insert("sec-fetch-site", "same-origin".parse().unwrap());
    assert_eq!(json_of(&router, own).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_stream_has_a_line_for_each_answer_and_one_for_its_end() {
    let replica = Replica::start("v1", false).await;
    let router = over(&[replica]);
    let (status, lines) = text(router.clone().oneshot(post("/api/v1/Tap", "{}")).await.unwrap()).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((status, lines.len()), (StatusCode::OK, 3), "{lines:?}");
    assert_eq!(lines[0]["id"]["base"], 1);
    assert_eq!(lines[1]["id"]["base"], 2);
    assert_eq!(lines[2]["error"]["code"], "UNAVAILABLE");

    let mut request = post("/api/v1/Tap", "{}");
    request.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let (_, events) = text(response).await;
    assert_eq!(events.matches("data: {").count(), 3);
    assert_eq!(events.matches("}\n\n").count(), 3);
}

#[tokio::test]
async fn a_page_is_told_what_is_new_and_what_there_is_no_answer_to() {
    let replica = Replica::start("v1", false).await;
    let asked = replica.asked();
    let router = over(&[replica]);
    let mut page = router.clone().oneshot(get("/api/v1/live?view=overview")).await.unwrap();
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/event-stream");
    let first = event(&mut page).await;
    assert_eq!(first["parts"]["version"]["version"], "v1");
    assert_eq!(first["errors"]["edges"]["code"], "UNIMPLEMENTED");
    let second = event(&mut page).await;
    // It was asked again, and was what it was before.
    assert!(second["parts"].get("version").is_none(), "{second}");
    assert!(second["at"].as_u64() > first["at"].as_u64());
    assert!(asked.load(Ordering::Relaxed) >= 10);

    for query in ["", "?view=nothing", "?view=overview&windowMs=1", "?view=overview&more=1"] {
        let (status, error) = json_of(&router, get(&format!("/api/v1/live{query}"))).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {error}");
    }
}

#[tokio::test]
async fn there_is_room_for_so_many_pages() {
    let replica = Replica::start("v1", false).await;
    let router = over(&[replica]);
    let open = async || router.clone().oneshot(get("/api/v1/live?view=routes")).await.unwrap();
    let mut pages = Vec::new();
    loop {
        let page = open().await;
        if page.status() != StatusCode::OK {
            assert_eq!((page.status(), pages.len()), (StatusCode::TOO_MANY_REQUESTS, 32));
            break;
        }
        pages.push(page);
    }
    // One that is closed makes room for another one.
    pages.pop();
    assert_eq!(open().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn another_replica_takes_over() {
    let replicas = [Replica::start("first", false).await, Replica::start("second", false).await];
    let router = over(&replicas);
    let version = async || json_of(&router, post("/api/v1/Version", "{}")).await.1["version"].clone();
    assert_eq!(version().await, "first");
    let [first, _second] = replicas;
    first.stop();
    assert_eq!(version().await, "second");
    assert_eq!(version().await, "second");
}

#[tokio::test]
async fn a_replica_that_cannot_answer_at_the_moment_is_not_the_last_word() {
    let replicas = [Replica::start("first", true).await, Replica::start("second", false).await];
    let router = over(&replicas);
    assert_eq!(json_of(&router, post("/api/v1/Version", "{}")).await.1, json!({ "version": "second" }));
    let alone = over(&replicas[..1]);
    let (status, error) = json_of(&alone, post("/api/v1/Version", "{}")).await;
    assert_eq!((status, &error["message"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no leader")));
}

#[tokio::test]
async fn what_changes_something_is_asked_once() {
    let replica = Replica::start("v1", true).await;
    let asked: Arc<AtomicUsize> = replica.asked();
    let channel = replica.channel();
    let connect: Connect = Arc::new(move |_| {
        let channel = channel.clone();
        async move { Ok(channel) }.boxed()
    });
    let options = Options { prefixes: Vec::new(), hosts: Hosts::Loopback, writes: true, pages: Vec::new() };
    let router = router(Upstream::new(connect), &options);
    assert_eq!(json_of(&router, post("/api/v1/CaRotate", "{}")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
