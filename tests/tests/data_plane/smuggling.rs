//! Requests that two programs could understand differently, as they have been used against other proxies: through the server's
//! proxy alone, and through two. One request never becomes two, and what is in order arrives as it does without any proxy.
//!
//! Each case comes between two more requests on the same connection. Whoever refuses a case ends the connection, so that the last one
//! is not answered either: it could be part of what was refused.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::harness::{APP_PORT, Mesh, identity, text};
use crate::serve_http1;

/// Longer than the longest time that a proxy gives a client that it has refused.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST: &str = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What was sent, and why it is refused; `None` for what is in order.
const CASES: &[(&str, Option<&str>)] = &[
    // In order, if seldom seen.
    ("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", None),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", None),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", None),
    ("GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", None),
    ("GET http://a/a HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", None),
    ("GET /a HTTP/1.1\r\nHost: a\r\nConnection: x-b\r\nX-B: 1\r\n\r\n", None),
    ("GET /a?b=%0d%0aHost:c HTTP/1.1\r\nHost: a\r\n\r\n", None),
    // Two lengths.
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        Some("length-and-encoding"),
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n",
        Some("length-and-encoding"),
    ),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello!", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Some("bad-content-length")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", Some("bad-content-length")),
    // Chunked, or not.
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Some("unknown-encoding")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Some("unknown-encoding")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Some("malformed-head")),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Some("bad-transfer-encoding"),
    ),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Some("malformed-head")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Some("malformed-head")),
    ("POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some("bad-transfer-encoding")),
    // Chunks.
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", Some("bad-chunk")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;\n\r\nhello\r\n0\r\n\r\n", Some("bad-chunk")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", Some("bad-chunk")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", Some("bad-chunk")),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello", Some("bad-chunk")),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        Some("bad-trailer"),
    ),
    ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", Some("bad-trailer")),
    // Lines.
    ("GET /a HTTP/1.1\nHost: a\n\n", Some("bare-line-feed")),
    ("GET /a HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Some("bare-line-feed")),
    ("GET /a HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.1\r\n Host: a\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Some("malformed-head")),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Some("unknown-version")),
    ("GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.1 \r\nHost: a\r\n\r\n", Some("malformed-head")),
    ("GET /a HTTP/1.2\r\nHost: a\r\n\r\n", Some("unknown-version")),
    ("GET /a HTTP/2.0\r\nHost: a\r\n\r\n", Some("unknown-version")),
    ("GET /a\r\n\r\n", Some("malformed-head")),
    // Whom it is for, and what goes no further.
    ("GET /a HTTP/1.1\r\n\r\n", Some("no-host")),
    ("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Some("many-hosts")),
    ("GET /a HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", Some("bad-connection-option")),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        Some("bad-connection-option"),
    ),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: authorization\r\nAuthorization: x\r\n\r\n",
        Some("bad-connection-option"),
    ),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Some("connect-with-body")),
];

/// The responses' statuses, the reasons that a proxy gave, and whether the connection was ended.
async fn send(address: SocketAddr, case: &str) -> (Vec<u16>, Vec<String>, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who refuses the first half need not read the second.
    let _ = stream.write_all(format!("{FIRST}{case}{LAST}").as_bytes()).await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok();
    let answer = String::from_utf8(answer).unwrap();
    let statuses = answer.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let reasons = answer.lines().filter_map(|line| line.strip_prefix("conduit-proxy-error: ").map(str::to_owned));
    (statuses.collect(), reasons.collect(), ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_never_becomes_two() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let sees = seen.clone();
    server
        .app(move |stream| {
            let sees = sees.clone();
            serve_http1(stream, move |request: Request<Incoming>| {
                let sees = sees.clone();
                async move {
                    let line = format!("{} {}", request.method(), request.uri().path());
                    let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
                    let Ok(length) = body else { return text("cut short\n") };
                    sees.lock().unwrap().push(format!("{line} {length}"));
                    text("seen\n")
                }
            })
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let direct = SocketAddr::new(server.ip, APP_PORT);
    mesh.wait("the service is known", async || send(web.towards(0), "").await.0 == [200, 200]).await;
    let take = || std::mem::take(&mut *seen.lock().unwrap());
    take();
    for (case, refusal) in CASES {
        let shown = case.escape_debug();
        let without = if refusal.is_none() { Some(send(direct, case).await) } else { None };
        let seen_without = take();
        for (through, address) in [("one proxy", server.inbound()), ("two proxies", web.towards(0))] {
            let (statuses, reasons, ended) = send(address, case).await;
            let seen = take();
            assert!(ended, "{through}: {shown}");
            match (refusal, &without) {
                (Some(refusal), _) => {
                    assert_eq!(reasons, [*refusal], "{through}: {shown}");
                    assert!(matches!(statuses[..], [200, 400..600]), "{through}: {statuses:?} to {shown}");
                    assert_eq!(seen, ["GET /first 0"], "{through}: {shown}");
                }
                (None, Some((direct, ..))) => {
                    assert_eq!((&statuses, &reasons), (direct, &Vec::new()), "{through}: {shown}");
                    assert_eq!(seen, seen_without, "{through}: {shown}");
                    assert!(seen.contains(&"GET /last 0".to_owned()), "{through}: {shown}");
                }
                (None, None) => unreachable!("it was sent"),
            }
        }
    }
    let refused = CASES.iter().filter(|(_, refusal)| refusal.is_some()).count() as f64;
    let counted = async |proxy: &super::harness::Meshed| proxy.metric("conduit_proxy_http_refused_total", &[]).await;
    assert_eq!((counted(&server).await, counted(&web).await), (refused, refused), "each was counted where it came in");
}
