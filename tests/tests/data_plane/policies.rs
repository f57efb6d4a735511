//! What routes say of requests besides where they go: how long they may take, what is changed of them, what is answered in their place.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use conduit_api::proto::route::{Filters, Header, HeaderEdits, Match, Redirect, Rule, Timeouts, r#match, redirect};
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::harness::{Mesh, Meshed, identity};
use crate::{Sender, backends};

/// What requests may take here. Others come back in far less, and nobody waits for what is late for long.
const TIMEOUT_MS: u64 = 1_500;
/// More than that, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Nothing for `/slow`, half of something for `/half`; else what it was asked.
async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let headers = request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    let text = format!("{}\n{}", request.uri(), headers.collect::<String>());
    match request.uri().path() {
        "/slow" => std::future::pending().await,
        "/half" => {
            let half = futures::stream::once(async { Ok(Frame::data(Bytes::from("half"))) });
            let never = futures::stream::pending();
            Ok(Response::new(StreamBody::new(futures::StreamExt::chain(half, never)).boxed_unsync()))
        }
        _ => {
            let response = Response::builder().header("x-old", "theirs").header("x-gone", "theirs");
            Ok(response.body(Full::from(text).boxed_unsync()).unwrap())
        }
    }
}

async fn mesh_with(is_http2: bool, rules: Vec<Rule>) -> (Mesh, Meshed, Meshed, Sender) {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(move |stream: TcpStream| async move {
            let (stream, answer) = (TokioIo::new(stream), service_fn(answer));
            // A client that goes away is not this test's matter.
            if is_http2 {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await;
            } else {
                let _ = http1::Builder::new().serve_connection(stream, answer).await;
            }
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.route(rules).await;
    let sender = Sender::new(web.towards(0), is_http2).await;
    (mesh, web, server, sender)
}

fn request(is_http2: bool, path: &str) -> http::request::Builder {
    let builder = Request::post(if is_http2 { format!("http://service-0.test{path}") } else { path.to_owned() });
    if is_http2 { builder.version(Version::HTTP_2) } else { builder.header(header::HOST, "service-0.test") }
}

async fn send(sender: &mut Sender, request: http::request::Builder) -> Response<Incoming> {
    let sent = sender.send(request.body(Full::from("question")).unwrap());
    timeout(PATIENCE, sent).await.expect("an answer comes")
}

async fn whole(response: Response<Incoming>) -> Option<String> {
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("it ends").ok()?;
    String::from_utf8(body.to_bytes().to_vec()).ok()
}

async fn late_requests_are_answered(is_http2: bool, timeouts: Timeouts) {
    let rule = Rule { backends: backends(&[(0, 1)]), timeouts: Some(timeouts), ..Rule::default() };
    let (mesh, web, _server, mut sender) = mesh_with(is_http2, vec![rule]).await;
    for _ in 0..2 {
        let start = Instant::now();
        let response = send(&mut sender, request(is_http2, "/slow")).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(response.headers()["conduit-proxy-error"], "timeout");
        assert!(start.elapsed() >= Duration::from_millis(TIMEOUT_MS), "{:?}", start.elapsed());
        assert!(whole(response).await.unwrap().contains("timeout"));
        let response = send(&mut sender, request(is_http2, "/fast")).await;
        assert_eq!(response.status(), StatusCode::OK, "the connection goes on");
        assert!(whole(response).await.unwrap().contains("/fast"));
    }
    let grpc = request(is_http2, "/slow").header(header::CONTENT_TYPE, "application/grpc");
    let response = send(&mut sender, grpc).await;
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"4".parse().unwrap()));
    assert_eq!(whole(response).await.unwrap(), "", "a status without a body");
    let response = send(&mut sender, request(is_http2, "/half")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(whole(response).await, None, "what has begun is cut");
    let labels = ["direction=\"outbound\"", "status_code=\"504\"", "classification=\"failure\""];
    mesh.wait("each of them is counted", async || web.metric("response_total", &labels).await == 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_requests_that_are_late_are_answered() {
    late_requests_are_answered(false, Timeouts { request_ms: TIMEOUT_MS, backend_request_ms: 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_that_are_late_are_answered() {
    late_requests_are_answered(true, Timeouts { request_ms: 0, backend_request_ms: TIMEOUT_MS }).await;
}

async fn messages_are_changed(is_http2: bool) {
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    let edits = HeaderEdits {
        set: vec![header("x-old", "ours")],
        add: vec![header("x-more", "ours")],
        remove: vec!["x-gone".into()],
    };
    let filters = Filters { request_headers: Some(edits.clone()), response_headers: Some(edits), redirect: None };
    let moved = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        port: None,
        path: Some(redirect::Path::Prefix("/new".into())),
        status: 308,
    };
    let matches = |path: &str, query: Vec<Header>| {
        vec![Match { path: Some(r#match::Path::Prefix(path.into())), query, ..Match::default() }]
    };
    let rules = vec![
        Rule { backends: backends(&[(0, 1)]), filters: Some(filters), ..Rule::default() },
        Rule {
            matches: matches("/old", vec![]),
            filters: Some(Filters { redirect: Some(moved), ..Filters::default() }),
            ..Rule::default()
        },
        Rule { matches: matches("", vec![header("to", "nowhere")]), ..Rule::default() },
    ];
    let (mesh, web, _server, mut sender) = mesh_with(is_http2, rules).await;
    let asked = request(is_http2, "/?to=somewhere").header("X-Old", "theirs").header("x-more", "theirs");
    let response = send(&mut sender, asked.header("x-gone", "theirs")).await;
    assert_eq!(
        (&response.headers()["x-old"], &response.headers()["x-more"]),
        (&"ours".parse().unwrap(), &"ours".parse().unwrap())
    );
    assert!(!response.headers().contains_key("x-gone"));
    let echoed = whole(response).await.unwrap();
    for (line, count) in
        [("x-old: ours\n", 1), ("x-old: theirs\n", 0), ("x-more: theirs\n", 1), ("x-more: ours\n", 1), ("x-gone", 0)]
    {
        assert_eq!(echoed.matches(line).count(), count, "{line}{echoed}");
    }
    let response = send(&mut sender, request(is_http2, "/old/a?b")).await;
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(response.headers()[header::LOCATION], "https://service-0.test/new/a?b");
    let response = send(&mut sender, request(is_http2, "/?x&to=%6eowhere")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "by its query");
    let labels = ["direction=\"outbound\"", "status_code=\"308\""];
    mesh.wait("a redirect is counted", async || web.metric("response_total", &labels).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_messages_are_changed_and_redirected() {
    messages_are_changed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_messages_are_changed_and_redirected() {
    messages_are_changed(true).await;
}
