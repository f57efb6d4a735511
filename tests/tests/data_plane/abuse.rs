//! Clients that take more than their share: they are let go or wait, and their neighbours are served.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{Mesh, Meshed, identity, text};
use crate::serve_http1;

/// More than a stream's window, so that an answer waits for its reader.
const LARGE_BYTES: usize = 200 * 1024;
/// More than a connection of h2's own defaults has room for.
const STALLED: usize = 100;
/// Ten times what is too much.
const CANCELLED: usize = 5_000;

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn http2(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(64 * 1024 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://service-0.test{path}")).body(Empty::new()).unwrap()
}

async fn get(sender: &mut Sender, path: &str) -> (StatusCode, usize) {
    sender.ready().await.unwrap();
    let response = sender.send_request(request(path)).await.unwrap();
    (response.status(), response.into_body().collect().await.unwrap().to_bytes().len())
}

/// A client's proxy and a server, which answers over HTTP/2.
async fn meshed(mesh: &mut Mesh) -> (Meshed, Meshed) {
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(|stream| async move {
            let answer = |request: Request<Incoming>| async move {
                let bytes = if request.uri().path() == "/large" { LARGE_BYTES } else { 5 };
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; bytes]))))
            };
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A client that goes away is not this test's matter.
            let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let address = web.towards(0);
    mesh.wait("there is traffic", async || get(&mut http2(address).await, "/").await == (StatusCode::OK, 5)).await;
    (web, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_blocks_nobody_else() {
    let mut mesh = Mesh::start();
    let (web, _server) = meshed(&mut mesh).await;
    let mut slow = http2(web.towards(0)).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        slow.ready().await.unwrap();
        stalled.push(slow.send_request(request("/large")).await.unwrap());
    }
    let mut other = http2(web.towards(0)).await;
    for path in ["/", "/large", "/"] {
        let length = if path == "/large" { LARGE_BYTES } else { 5 };
        assert_eq!(get(&mut other, path).await, (StatusCode::OK, length), "{path}");
    }
    for response in stalled {
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), LARGE_BYTES, "nothing is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_all_that_it_asks_disturbs_nobody_else() {
    let mut mesh = Mesh::start();
    let (web, server) = meshed(&mut mesh).await;
    let mut other = http2(web.towards(0)).await;
    let mut rapid = http2(web.towards(0)).await;
    for i in 0..CANCELLED {
        if rapid.ready().await.is_err() {
            rapid = http2(web.towards(0)).await;
        }
        drop(rapid.send_request(request("/large")));
        if i % 100 == 0 {
            assert_eq!(get(&mut other, "/").await, (StatusCode::OK, 5));
        }
    }
    assert_eq!(get(&mut other, "/").await, (StatusCode::OK, 5));
    let opened = server.metric("tcp_open_total", &["direction=\"inbound\"", "peer=\"src\""]).await;
    assert!(opened <= 4.0, "{opened} connections between the proxies: one to a thread, and no new ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_beyond_their_bounds_are_refused() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, async |_| text("served"))).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(60_000));
    for (head, status, reason) in [(&long, 431, "head-too-large"), (&many, 431, "too-many-headers"), (&fits, 200, "")] {
        for address in [web.towards(0), server.inbound()] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{} bytes: {answer}", head.len());
            assert!(answer.contains(reason), "{answer}");
        }
    }
}
