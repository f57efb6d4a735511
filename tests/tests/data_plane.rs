//! Pairs of proxies between clients and servers of every protocol: what arrives is what was sent, by whom it should be.
//!
//! The proxies and the controller are the real ones; see `data_plane/harness.rs` for what stands in for redirection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_plane {
    mod abuse;
    pub mod harness;
    mod journal;
    mod policies;
    mod routes;
    mod smuggling;
}
mod programs;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use conduit_api::{
    SpiffeId,
    proto::{
        public::{RollbackRequest, WaitRequest},
        route::{self, r#match},
    },
};
use data_plane::harness::{Mesh, Meshed, identity, text};
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    ext::Protocol,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};

async fn serve_http1<B, F>(stream: TcpStream, answer: impl Fn(Request<Incoming>) -> F)
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + 'static,
    F: Future<Output = Response<B>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    // A client that goes away is not this test's matter.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn get(address: std::net::SocketAddr, uri: &str) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(uri).header(header::HOST, "service-0.test").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap()
}

async fn body(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Echoes the headers that it got, one to a line.
/// Until the client has sent all that it will.
async fn echo_bytes(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn echo<B>(request: Request<B>) -> Response<Full<Bytes>> {
    let headers = request.headers().iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
    let mut response = text(&format!("{} {}\n{}", request.method(), request.uri(), headers.collect::<String>()));
    response.headers_mut().insert("conduit-proxy-error", "an application's lie".parse().unwrap());
    response.headers_mut().insert("x-own", "kept".parse().unwrap());
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_arrives_over_mutual_tls_as_it_was_sent() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, echo)).await;
    mesh.service(0, &[(&server, identity("server"))]).await;

    let stream = TcpStream::connect(web.towards(0)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for i in 0..3 {
        let request = Request::post(format!("/path?i={i}"))
            .header(header::HOST, "service-0.test")
            .header(header::CONNECTION, "x-secret")
            .header("x-secret", "for the next hop only")
            .header("conduit-made-up", "a client's lie")
            .header("x-kept", "yes")
            .body(Full::<Bytes>::from("question"))
            .unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-own"], "kept");
        assert!(!response.headers().contains_key("conduit-proxy-error"), "applications do not speak for the mesh");
        let echoed = body(response).await;
        assert!(echoed.starts_with(&format!("POST /path?i={i}\n")), "{echoed}");
        assert!(echoed.contains("x-kept: yes") && echoed.contains("host: service-0.test"), "{echoed}");
        assert!(!echoed.contains("x-secret") && !echoed.contains("conduit-"), "{echoed}");
    }

    let out = ["direction=\"outbound\"", "tls=\"true\"", "dst_deployment=\"server\"", "dst_service=\"service-0\""];
    assert_eq!(web.metric("request_total", &out).await, 3.0);
    let client = format!("client_id=\"{}\"", identity("web"));
    let into = ["direction=\"inbound\"", "classification=\"success\"", "status_code=\"200\"", &client];
    assert_eq!(server.metric("response_total", &into).await, 3.0);
    let connections = |side| ["peer=".to_owned() + side, "tls=\"true\"".into(), "direction=\"inbound\"".into()];
    let source = connections("\"src\"");
    let source: Vec<_> = source.iter().map(String::as_str).collect();
    assert_eq!(server.metric("tcp_open_connections", &source).await, 1.0, "one connection for one client's requests");
    assert!(server.metric("tcp_read_bytes_total", &source).await > 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_keeps_its_trailers_and_its_streams_apart() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(|stream| async {
            let service = service_fn(|request: Request<Incoming>| async move {
                let path = request.uri().path().to_owned();
                let trailers = [("grpc-status", if path == "/fails" { "2" } else { "0" })];
                let trailers = trailers.map(|(n, v)| (n.parse::<header::HeaderName>().unwrap(), v.parse().unwrap()));
                let frames = [
                    Ok::<_, Infallible>(Frame::data(Bytes::from(path))),
                    Ok(Frame::trailers(trailers.into_iter().collect())),
                ];
                let body = StreamBody::new(futures::stream::iter(frames));
                Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;

    let stream = TcpStream::connect(web.towards(0)).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let calls = (0..20).map(|i| {
        let mut sender = sender.clone();
        async move {
            let path = if i == 7 { "/fails".to_owned() } else { format!("/call/{i}") };
            let request = Request::post(format!("http://service-0.test{path}"))
                .version(Version::HTTP_2)
                .header("content-type", "application/grpc")
                .body(Empty::<Bytes>::new())
                .unwrap();
            let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
            let status = collected.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned();
            assert_eq!(collected.to_bytes(), path);
            status
        }
    });
    let statuses = futures::future::join_all(calls).await;
    assert_eq!(statuses.iter().filter(|status| *status == "2").count(), 1);

    let failed = ["direction=\"inbound\"", "classification=\"failure\"", "grpc_status_code=\"2\""];
    assert_eq!(server.metric("response_total", &failed).await, 1.0);
    let succeeded = ["direction=\"outbound\"", "classification=\"success\"", "grpc_status_code=\"0\""];
    assert_eq!(web.metric("response_total", &succeeded).await, 19.0);
}

/// RFC 8441: a tunnel on a stream. A server that has not said that it takes them is not sent any, and its other streams are none the worse.
#[tokio::test(flavor = "multi_thread")]
async fn http2_carries_web_sockets_to_servers_that_take_them() {
    let mut mesh = Mesh::start();
    let (web, taking, other) = (mesh.pod("web").await, mesh.pod("server").await, mesh.pod("server").await);
    let tunnels = Arc::new(AtomicUsize::new(0));
    for (number, server) in [(0, &taking), (1, &other)] {
        let tunnels = tunnels.clone();
        let takes = number == 0;
        server
            .app(move |stream| {
                let tunnels = tunnels.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    if request.method() == Method::CONNECT {
                        tunnels.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
                        assert_eq!(request.uri().path(), "/chat");
                        let upgraded = hyper::upgrade::on(request);
                        tokio::spawn(async move {
                            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                            tokio::io::copy(&mut read, &mut write).await.unwrap();
                            write.shutdown().await.unwrap();
                        });
                    }
                    async { Ok::<_, Infallible>(text("")) }
                });
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if takes {
                    http.enable_connect_protocol();
                }
                async move {
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                }
            })
            .await;
        mesh.service(number, &[(server, identity("server"))]).await;
    }
    let connect = async |service: u8| {
        let stream = TcpStream::connect(web.towards(service)).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let request = |service: u8, method: Method| {
        let request = Request::builder().method(&method).uri(format!("http://service-{service}.test/chat"));
        let protocol = (method == Method::CONNECT).then_some(Protocol::from_static("websocket"));
        let mut request = request.version(Version::HTTP_2).body(Empty::<Bytes>::new()).unwrap();
        protocol.map(|protocol| request.extensions_mut().insert(protocol));
        request
    };

    // The first request of its connections: what the server takes is not known yet.
    let mut taking = connect(0).await;
    let response = taking.send_request(request(0, Method::CONNECT)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let said: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    for part in said.chunks(100_000) {
        let mut heard = vec![0; part.len()];
        let (mut read, mut write) = tokio::io::split(&mut tunnel);
        tokio::join!(async { write.write_all(part).await.unwrap() }, async {
            read.read_exact(&mut heard).await.unwrap()
        });
        assert!(heard == part);
    }
    assert_eq!(taking.send_request(request(0, Method::GET)).await.unwrap().status(), StatusCode::OK);
    tunnel.shutdown().await.unwrap();
    assert_eq!(
        tunnel.read(&mut [0]).await.unwrap(),
        0,
        "the end of one direction arrives, and brings that of the other"
    );
    assert_eq!(tunnels.load(Ordering::Relaxed), 1);

    let mut other = connect(1).await;
    let (refused, answered) = tokio::join!(
        other.clone().send_request(request(1, Method::CONNECT)),
        other.send_request(request(1, Method::GET))
    );
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(refused.headers()["conduit-proxy-error"], "no-extended-connect");
    assert_eq!(answered.unwrap().status(), StatusCode::OK);
    assert_eq!(tunnels.load(Ordering::Relaxed), 1, "it was not sent what it has not said that it takes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_and_half_closed_connections_go_on() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(|mut stream| async move {
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;

    let mut client = TcpStream::connect(web.towards(0)).await.unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    let sent: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).await.unwrap();
    assert!(echoed == sent, "{} bytes came back", echoed.len());
    let into = ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\""];
    assert_eq!(server.metric("tcp_read_bytes_total", &into).await, 300_000.0);
    mesh.wait("the end is counted", async || server.metric("tcp_close_total", &into).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_proxy_sees_of_a_port_all_learn_and_unlearn() {
    let mut mesh = Mesh::start();
    let (web, other, server) = (mesh.pod("web").await, mesh.pod("web").await, mesh.pod("server").await);
    // Greets whoever is silent, and answers whoever is not.
    server
        .app(|mut stream| async move {
            let mut said = [0; 4];
            match timeout(GREETING_AFTER, stream.read(&mut said)).await {
                Ok(Ok(1..)) => {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
                Ok(_) => {}
                Err(_) => stream.write_all(b"220 ready\r\n").await.unwrap(),
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let greeted = async |from: &Meshed| {
        let mut client = TcpStream::connect(from.towards(0)).await.unwrap();
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
    };

    greeted(&web).await;
    mesh.wait("it is learned", async || mesh.explained(&other, 0, "protocol").await.contains("speak first")).await;
    // Whoever expects it is greeted, and whoever does not is served: a hint decides nothing.
    greeted(&other).await;
    assert_eq!(body(get(other.towards(0), "/").await).await, "ok");
    mesh.wait("it is unlearned", async || mesh.explained(&web, 0, "protocol").await.contains("and then its clients"))
        .await;
    greeted(&web).await;
    assert_eq!(body(get(web.towards(0), "/").await).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_slow_to_begin_is_not_taken_for_a_client_that_waits_for_a_greeting() {
    let mut mesh = Mesh::start();
    let web = mesh.pod("web").await;
    // One thread, which has met everybody.
    let server = mesh.pod_with("server", |config| config.cores = 1).await;
    let heard = Arc::<Mutex<Vec<u8>>>::default();
    let listening = heard.clone();
    server
        .app(move |mut stream| {
            let heard = listening.clone();
            async move {
                stream.write_all(b"220 ready\r\n").await.unwrap();
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
                heard.lock().unwrap().extend(said);
            }
        })
        .await;
    // What a proxy sends comes so late.
    let late = Arc::new(AtomicU64::new(0));
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, inbound, lateness) = (relay.local_addr().unwrap(), server.inbound(), late.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = relay.accept().await {
            // The next one comes in time.
            let late = Duration::from_millis(lateness.swap(0, Ordering::Relaxed));
            tokio::spawn(async move {
                let server = TcpStream::connect(inbound).await.unwrap();
                let ((mut said, mut heard), (mut answers, mut asked)) = (client.into_split(), server.into_split());
                let asks = async {
                    sleep(late).await;
                    tokio::io::copy(&mut said, &mut asked).await
                };
                let _ = tokio::join!(asks, tokio::io::copy(&mut answers, &mut heard));
            });
        }
    });
    mesh.service_at(address, &server, identity("server")).await;
    let greeted = async || {
        let mut client = TcpStream::connect(web.towards(0)).await.unwrap();
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        client.write_all(b"QUIT\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let taken_for_another = async || server.metric("tcp_open_total", &["peer=\"src\"", "tls=\"no_identity\""]).await;

    // Nobody has met it. It begins again.
    late.store(300, Ordering::Relaxed);
    greeted().await;
    assert_eq!(taken_for_another().await, 1.0);
    // It is known now, and waited for.
    late.store(300, Ordering::Relaxed);
    greeted().await;
    assert_eq!(taken_for_another().await, 1.0);
    assert_eq!(late.load(Ordering::Relaxed), 0, "it was late");
    let said = || String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    mesh.wait("the application has heard both", async || said().len() >= 12).await;
    assert_eq!(said(), "QUIT\r\nQUIT\r\n", "the handshake of the one that was late is not for it");
}

/// A server that has waited so long for a request says hello: longer than a request takes here to arrive.
const GREETING_AFTER: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_a_client_hello_is_counted_and_its_bytes_pass_unchanged() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(echo_bytes).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let config = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
    let name = "shop.example.com".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(config.with_no_client_auth()), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    let mut client = TcpStream::connect(web.towards(0)).await.unwrap();
    // In two parts, as the larger ones of today come.
    let (first, rest) = hello.split_at(200);
    for part in [first, rest] {
        client.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    client.read_to_end(&mut echoed).await.unwrap();
    assert!(echoed == hello);
    let named = ["direction=\"outbound\"", "peer=\"src\"", "tls=\"opaque\"", "server_name=\"shop.example.com\""];
    assert_eq!(web.metric("tcp_open_total", &named).await, 1.0);
    assert_eq!(web.metric("tcp_read_bytes_total", &named).await, hello.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_be_opaque_is_carried_as_bytes_whatever_it_looks_like() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(echo_bytes).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.opaque(0).await;
    // As a request it would be refused, and what it says of the mesh would be taken out.
    let sent = b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconduit-x: y\r\n\r\n";
    mesh.wait("it is in force", async || {
        let mut client = TcpStream::connect(web.towards(0)).await.unwrap();
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.unwrap();
        echoed == sent
    })
    .await;
    let over_mutual_tls = ["direction=\"inbound\"", "peer=\"src\"", "tls=\"true\""];
    assert_eq!(server.metric("tcp_read_bytes_total", &over_mutual_tls).await, sent.len() as f64);
    assert_eq!(mesh.explained(&web, 0, "protocol").await, "an opaque-ports annotation says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stays_a_reset() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(|mut stream| async move {
            stream.write_all(b"hello").await.unwrap();
            // Or reset, in a test that has failed already.
            let _ = stream.read_u8().await;
            stream.set_zero_linger().unwrap();
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let mut client = TcpStream::connect(web.towards(0)).await.unwrap();
    let mut hello = [0; 5];
    client.read_exact(&mut hello).await.unwrap();
    client.write_all(b"!").await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgraded_and_connected_tunnels_carry_bytes() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server
        .app(|stream| {
            serve_http1(stream, |mut request| async move {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    let mut said = [0; 4];
                    stream.read_exact(&mut said).await.unwrap();
                    said.reverse();
                    stream.write_all(&said).await.unwrap();
                });
                let mut response = Response::new(Empty::<Bytes>::new());
                if request.method() != http::Method::CONNECT {
                    assert_eq!(request.headers()["upgrade"], "websocket");
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
                    response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
                }
                response
            })
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;

    let upgrade = Request::get("/chat").header("connection", "Upgrade").header("upgrade", "websocket");
    for (request, granted) in [
        (upgrade.header("host", "service-0.test"), StatusCode::SWITCHING_PROTOCOLS),
        (Request::connect("example.test:443").header("host", "example.test:443"), StatusCode::OK),
    ] {
        let stream = TcpStream::connect(web.towards(0)).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), granted);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        tunnel.write_all(b"abcd").await.unwrap();
        let mut answer = [0; 4];
        tunnel.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"dcba");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_somebody_else_gets_nothing() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, echo)).await;
    mesh.service(0, &[(&server, identity("somebody-else"))]).await;
    let response = get(web.towards(0), "/").await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()["conduit-proxy-error"], "connect-failed");
    assert_eq!(server.metric("request_total", &[]).await, 0.0);
    // The same service, when it is who it is said to be.
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.wait("it is trusted", async || get(web.towards(0), "/").await.status() == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_the_endpoints() {
    let mut mesh = Mesh::start();
    let (web, a, b) = (mesh.pod("web").await, mesh.pod("a").await, mesh.pod("b").await);
    a.app(|stream| serve_http1(stream, async |_| text("a"))).await;
    b.app(|stream| serve_http1(stream, async |_| text("b"))).await;
    let (a, b) = ((&a, identity("a")), (&b, identity("b")));
    mesh.service(0, &[a.clone(), b.clone()]).await;
    // One connection for all of them: balancing is per request.
    let stream = TcpStream::connect(web.towards(0)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async move || {
        let request = Request::get("/").header(header::HOST, "service-0.test").body(Empty::<Bytes>::new()).unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (status, body(response).await)
    };
    let mut answers = Vec::new();
    for _ in 0..50 {
        answers.push(ask().await.1);
    }
    assert!(answers.contains(&"a".into()) && answers.contains(&"b".into()), "{answers:?}");

    mesh.service(0, std::slice::from_ref(&b)).await;
    mesh.wait("all requests go to the one that is left", async || {
        for _ in 0..10 {
            if ask().await != (200, "b".into()) {
                return false;
            }
        }
        true
    })
    .await;

    mesh.service(0, &[]).await;
    mesh.wait("there is nobody", async || ask().await == (503, "conduit: no ready endpoints\n".into())).await;
    mesh.service(0, &[a]).await;
    mesh.wait("there is somebody", async || ask().await == (200, "a".into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_carried_like_ipv4() {
    let mut mesh = Mesh::start();
    let web = mesh.pod("web").await;
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    mesh.foreign_service(listener.local_addr().unwrap()).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = async |request: Request<Incoming>| text(&format!("{}{}", request.uri(), "!"));
            tokio::spawn(serve_http1(stream, answer));
        }
    });
    for (from, authority) in [(web.towards_over_ipv6(), "[fd00:77::1]"), (web.towards(0), "service-0.test")] {
        let stream = TcpStream::connect(from).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/over").header(header::HOST, authority).body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(body(sender.send_request(request).await.unwrap()).await, "/over!");
        let labels = ["direction=\"outbound\"", &format!("authority=\"{authority}\"")];
        mesh.wait("it is counted", async || web.metric("response_total", &labels).await == 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_stay_in_their_zone_as_long_as_somebody_is_there() {
    let mut mesh = Mesh::start();
    let (web, near, far) = (mesh.pod("web").await, mesh.pod("server").await, mesh.pod("server").await);
    near.app(|stream| serve_http1(stream, async |_| text("near"))).await;
    far.app(|stream| serve_http1(stream, async |_| text("far"))).await;
    mesh.runs_in(&near, "a").await;
    mesh.runs_in(&far, "b").await;
    let (near, far) = ((&near, identity("server")), (&far, identity("server")));
    mesh.service(0, &[near.clone(), far.clone()]).await;
    // Before it is known where the client runs, nobody is nearer than anybody else.
    mesh.runs_in(&web, "a").await;
    let all_from = async |who: &str| {
        for _ in 0..20 {
            if body(get(web.towards(0), "/").await).await != who {
                return false;
            }
        }
        true
    };
    mesh.wait("all go to the own zone", async || all_from("near").await).await;
    mesh.service(0, &[far]).await;
    mesh.wait("nobody is there, and another zone answers", async || all_from("far").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_an_application_is_avoided_and_found_again() {
    let mut mesh = Mesh::start();
    let (web, dead, server) = (mesh.pod("web").await, mesh.pod("dead").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, async |_| text("server"))).await;
    mesh.service(0, &[(&dead, identity("dead")), (&server, identity("server"))]).await;
    for _ in 0..100 {
        let response = get(web.towards(0), "/").await;
        assert_eq!(response.status(), StatusCode::OK, "what was not delivered goes elsewhere");
    }
    let went_there = dead.metric("request_total", &["direction=\"inbound\""]).await;
    assert!(went_there <= 10.0, "{went_there} of 100 requests went to an instance that is known to be dead");
    dead.app(|stream| serve_http1(stream, async |_| text("alive"))).await;
    mesh.wait("it is found again", async || body(get(web.towards(0), "/").await).await == "alive").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_whose_certificate_has_expired_gets_a_new_one() {
    let mut mesh = Mesh::start_with(&["--leaf-lifetime", "3s"]);
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, async |_| text("served"))).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.wait("there is traffic", async || get(web.towards(0), "/").await.status() == StatusCode::OK).await;
    // Longer than any certificate lives.
    mesh.pause_controller(std::time::Duration::from_secs(4)).await;
    let refused = get(web.towards(0), "/").await;
    assert_eq!(refused.status(), StatusCode::BAD_GATEWAY, "an expired certificate lets nobody in");
    mesh.wait("there is traffic again", async || get(web.towards(0), "/").await.status() == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_proxy_itself_goes_nowhere() {
    let mut mesh = Mesh::start();
    let web = mesh.pod("web").await;
    let mut client = TcpStream::connect(web.towards_itself()).await.unwrap();
    // Either end is possible, an answer is not.
    let mut nothing = Vec::new();
    let _ = client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let _ = client.read_to_end(&mut nothing).await;
    assert_eq!(nothing, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_told_to_stop_finishes_what_is_under_way() {
    let mut mesh = Mesh::start();
    let (web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
    let (go, gone) = tokio::sync::watch::channel(false);
    server
        .app(move |stream| {
            let (arrived, gone) = (arrived.clone(), gone.clone());
            serve_http1(stream, move |_| {
                let (arrived, mut gone) = (arrived.clone(), gone.clone());
                async move {
                    arrived.send(()).await.unwrap();
                    gone.wait_for(|go| *go).await.unwrap();
                    text("done")
                }
            })
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let address = web.towards(0);
    let asked = tokio::spawn(async move { body(get(address, "/").await).await });
    arrivals.recv().await.unwrap();
    let (mut web, mut server) = (web, server);
    web.terminate();
    server.terminate();
    mesh.wait("both are told", async || {
        let answers = [web.admin("/ready").await, server.admin("/ready").await];
        answers.iter().all(|answer| answer.as_ref().is_some_and(|answer| answer.contains("503")))
    })
    .await;
    go.send_replace(true);
    assert_eq!(asked.await.unwrap(), "done");
    web.stopped();
    server.stopped();
}

/// How often the servers' proxies are replaced in turn.
const RESTARTS: usize = 6;

/// A client of either version.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn new(address: std::net::SocketAddr, is_http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_one_after_the_other_lose_nothing() {
    let mut mesh = Mesh::start();
    let (web, a, b) = (mesh.pod("web").await, mesh.pod("a").await, mesh.pod("b").await);
    for pod in [&a, &b] {
        pod.app(|stream| async move {
            let mut first = [0; 3];
            stream.peek(&mut first).await.unwrap();
            if &first == b"PRI" {
                let served = service_fn(async |_| Ok::<_, Infallible>(text("served")));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), served).await;
            } else {
                serve_http1(stream, async |_| text("served")).await;
            }
        })
        .await;
    }
    let mut pods: [(_, SpiffeId); 2] = [(a, identity("a")), (b, identity("b"))];
    mesh.service(0, &pods.each_ref().map(|(pod, id)| (pod, id.clone()))).await;
    let address = web.towards(0);
    mesh.wait("there is traffic", async || get(address, "/").await.status() == StatusCode::OK).await;

    let (stop, stopped) = watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut sender = Sender::new(address, number % 2 == 0).await;
                let mut sent = 0;
                while !*stopped.borrow() {
                    // Half of them are of a kind that is not sent twice.
                    let method = if sent % 4 < 2 { "GET" } else { "POST" };
                    let request = Request::builder().method(method).uri("http://service-0.test/");
                    let request =
                        request.header(header::HOST, "service-0.test").body(Full::<Bytes>::from("body")).unwrap();
                    let response = sender.send(request).await;
                    let (status, headers) = (response.status(), format!("{:?}", response.headers()));
                    assert_eq!((status, body(response).await), (StatusCode::OK, "served".into()), "{headers}");
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    let restarts = std::env::var("CONDUIT_TEST_RESTARTS").map_or(RESTARTS, |restarts| restarts.parse().unwrap());
    for restart in 0..restarts {
        let going = restart % 2;
        // Told to stop before anybody else knows.
        pods[going].0.terminate();
        let (staying, id) = &pods[1 - going];
        mesh.service(0, &[(staying, id.clone())]).await;
        pods[going].0.stopped();
        mesh.start_proxy(&mut pods[going].0).await;
        mesh.service(0, &pods.each_ref().map(|(pod, id)| (pod, id.clone()))).await;
    }
    stop.send_replace(true);
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    println!("{restarts} restarts, {sent} requests");
    assert!(sent > restarts * 100, "{sent} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_its_proxy() {
    let mut mesh = Mesh::start();
    let web = mesh.pod("web").await;
    assert!(web.ask("GET", "/shutdown").await.unwrap().contains("405"));
    assert!(!web.has_ended());
    assert!(web.ask("POST", "/shutdown").await.unwrap().contains("200"));
    mesh.wait("it has ended", async || web.has_ended()).await;
}

/// To services, each with its weight.
fn backends(backends: &[(u8, u32)]) -> Vec<route::Backend> {
    let backend = |(number, weight): &(u8, u32)| route::Backend {
        service: format!("service-{number}"),
        port: 80,
        weight: *weight,
    };
    backends.iter().map(backend).collect()
}

/// Of all requests, or of those below a path.
fn rule(prefix: Option<&str>, to: &[(u8, u32)]) -> route::Rule {
    let path = prefix.map(|prefix| r#match::Path::Prefix(prefix.to_owned()));
    let matches = path.into_iter().map(|path| route::Match { path: Some(path), ..route::Match::default() });
    route::Rule { matches: matches.collect(), backends: backends(to), ..route::Rule::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_when_a_route_is_in_force_no_request_sees_the_old_one() {
    const CONNECTIONS: usize = 4;
    let mut mesh = Mesh::start();
    let clients = [mesh.pod("web").await, mesh.pod("web").await];
    let servers = [mesh.pod("server").await, mesh.pod("server").await];
    for (number, server) in (0..).zip(&servers) {
        let answer = move |_| async move { text(&number.to_string()) };
        server.app(move |stream| serve_http1(stream, answer)).await;
        mesh.service(number, &[(server, identity("server"))]).await;
    }
    let mut senders = Vec::new();
    for client in &clients {
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(client.towards(0)).await.unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
    }
    // Everybody sends all the time, and says what was in force before each request and after it: how many changes had begun and
    // ended. With an even number it is known which server answers, the other one after each change.
    let (in_force, watched) = watch::channel(0_u32);
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            let watched = watched.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while watched.has_changed().is_ok() {
                    let before = *watched.borrow();
                    let request = Request::get("/").header(header::HOST, "service-0.test");
                    sender.ready().await.unwrap();
                    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
                    let answer: u8 = body(response).await.parse().unwrap();
                    seen.push((before, answer, *watched.borrow()));
                }
                seen
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for i in 0..10_u8 {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let to = (i + 1) % 2;
        in_force.send_modify(|changes| *changes += 1);
        if i < 6 {
            revisions.push(mesh.route(vec![rule(None, &[(to, 1)])]).await);
        } else {
            let request = RollbackRequest { revision: revisions[usize::from(i - 6)] };
            let back = mesh.api().await.unwrap().rollback(request).await.unwrap().into_inner();
            assert!(back.changed);
            mesh.in_force(back.revision).await;
        }
        in_force.send_modify(|changes| *changes += 1);
    }
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    drop((in_force, watched));
    let mut certain = [0; 2];
    for task in tasks {
        for (before, answer, after) in task.await.unwrap() {
            if before == after && before % 2 == 0 {
                let expected = before / 2 % 2;
                assert_eq!(
                    u32::from(answer),
                    expected,
                    "a request that began and ended under one route went by another"
                );
                certain[usize::from(answer)] += 1;
            }
        }
    }
    assert!(certain.iter().all(|count| *count > 20), "{certain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_share_requests_out_and_refuse_those_that_they_do_not_know() {
    let mut mesh = Mesh::start();
    let (web, old, next) = (mesh.pod("web").await, mesh.pod("server").await, mesh.pod("server").await);
    for (number, server) in [&old, &next].into_iter().enumerate() {
        let answer = move |_| async move { text(&number.to_string()) };
        server.app(move |stream| serve_http1(stream, answer)).await;
        mesh.service(number as u8, &[(server, identity("server"))]).await;
    }
    let rules = [("/shared", &[(0, 3), (1, 1)][..]), ("/gone", &[]), ("/nobody", &[(5, 1)])];
    mesh.route(rules.iter().map(|(prefix, to)| rule(Some(prefix), to)).collect()).await;
    let mut shares = [0; 2];
    for _ in 0..200 {
        let answer: usize = body(get(web.towards(0), "/shared/x").await).await.parse().unwrap();
        shares[answer] += 1;
    }
    // 50 are to be expected; further off than four standard deviations is one chance in ten thousand.
    assert!((25..=75).contains(&shares[1]), "{shares:?}");
    for (path, status, reason) in [
        ("/other", StatusCode::NOT_FOUND, "no-route"),
        ("/gone", StatusCode::INTERNAL_SERVER_ERROR, "no-backend"),
        ("/nobody", StatusCode::INTERNAL_SERVER_ERROR, "no-backend"),
    ] {
        let response = get(web.towards(0), path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["conduit-proxy-error"], reason, "{path}");
    }
    assert_eq!(web.metric("request_total", &["dst_service=\"service-1\""]).await, f64::from(shares[1]));
    assert_eq!(body(get(web.towards(1), "/other").await).await, "1", "the backend's own clients are not routed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_without_a_control_plane_goes_on_from_what_it_knew() {
    let mut mesh = Mesh::start();
    let (mut web, mut server) = (mesh.pod("web").await, mesh.pod("server").await);
    server.app(|stream| serve_http1(stream, async |_| text("as before"))).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    mesh.route(vec![rule(Some("/known"), &[(0, 1)])]).await;
    assert_eq!(get(web.towards(0), "/known").await.status(), StatusCode::OK);
    assert_eq!(web.metric("conduit_proxy_discovery_stale", &[]).await, 0.0);
    for proxy in [&web, &server] {
        mesh.wait("what is known is kept", async || proxy.has_kept_what_it_knows().await).await;
    }

    mesh.kill_controller();
    web.stopped();
    server.stopped();
    mesh.start_proxy(&mut server).await;
    mesh.start_proxy(&mut web).await;
    for _ in 0..3 {
        assert_eq!(body(get(web.towards(0), "/known").await).await, "as before");
        assert_eq!(get(web.towards(0), "/other").await.status(), StatusCode::NOT_FOUND, "routes are kept as well");
    }
    let mutual = ["direction=\"outbound\"", "tls=\"true\""];
    assert_eq!(web.metric("request_total", &mutual).await, 3.0, "as who it is");
    for proxy in [&web, &server] {
        assert_eq!(proxy.metric("conduit_proxy_discovery_stale", &[]).await, 1.0);
        assert_eq!(proxy.metric("conduit_proxy_discovery_connected", &[]).await, 0.0);
    }

    mesh.start_controller();
    mesh.wait("it is confirmed", async || web.metric("conduit_proxy_discovery_stale", &[]).await == 0.0).await;
    assert_eq!(web.metric("conduit_proxy_discovery_connected", &[]).await, 1.0);
    assert_eq!(body(get(web.towards(0), "/known").await).await, "as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_nobody_can_ask_is_not_taken_for_one_that_knows() {
    let mut mesh = Mesh::start();
    let (mut web, server) = (mesh.pod("web").await, mesh.pod("server").await);
    mesh.service(0, &[(&server, identity("server"))]).await;
    let revision = mesh.route(vec![rule(None, &[(0, 1)])]).await;
    web.stopped();
    let request = WaitRequest { revision, acknowledged: true };
    let answer = mesh.api().await.unwrap().wait(request).await.unwrap().into_inner();
    assert!(!answer.done);
    assert_eq!(answer.examples, [format!("{} (not connected)", web.name)]);
    mesh.start_proxy(&mut web).await;
    mesh.in_force(revision).await;
}
