//! What proxies write down of requests: spans, as a collector that is built from the published protocol is told them, and lines of the
//! access log.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use conduit_api::journal::{AccessLog, Sampling};
use conduit_proxy::config::Config;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tonic::{Status, transport::server::TcpIncoming};

use super::harness::{Mesh, Meshed, identity};
use crate::{echo, rule, serve_http1};

/// An application's span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span, and what is said of who has recorded it.
#[derive(Clone, Debug)]
struct Received {
    resource: BTreeMap<String, String>,
    attributes: BTreeMap<String, String>,
    span: Span,
}

impl Received {
    fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Received>>>);

impl Spans {
    fn take(&self, request: ExportTraceServiceRequest) {
        for spans in request.resource_spans {
            let resource = texts(&spans.resource.unwrap().attributes);
            for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let (resource, attributes) = (resource.clone(), texts(&span.attributes));
                self.0.lock().unwrap().push(Received { resource, attributes, span });
            }
        }
    }

    /// Of `kind`, for `path`.
    fn of(&self, kind: SpanKind, path: &str) -> Option<Received> {
        let is_it = |known: &&Received| known.span.kind() == kind && known.attributes["url.path"] == path;
        self.0.lock().unwrap().iter().find(is_it).cloned()
    }

    /// The two for `path`, when both are here: the client's, and the server's.
    async fn pair(&self, mesh: &Mesh, path: &str) -> (Received, Received) {
        mesh.wait("both spans have come", async || {
            self.of(SpanKind::Client, path).is_some() && self.of(SpanKind::Server, path).is_some()
        })
        .await;
        (self.of(SpanKind::Client, path).unwrap(), self.of(SpanKind::Server, path).unwrap())
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector, until it is dropped: its connections end then as well.
struct Collector {
    address: SocketAddr,
    spans: Spans,
    runtime: Option<Runtime>,
}

impl Collector {
    fn grpc(address: &str) -> Self {
        Self::start(address, |listener, spans| async move {
            let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(spans));
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        })
    }

    fn http(address: &str) -> Self {
        Self::start(address, |listener, spans| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let spans = spans.clone();
                tokio::spawn(serve_http1(stream, move |request: Request<Incoming>| {
                    let spans = spans.clone();
                    async move {
                        let is_otlp = request.uri().path() == "/v1/traces"
                            && request.headers()["content-type"] == "application/x-protobuf";
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        spans.take(ExportTraceServiceRequest::decode(body).unwrap());
                        let mut response = Response::new(Full::<Bytes>::default());
                        if !is_otlp {
                            *response.status_mut() = StatusCode::NOT_FOUND;
                        }
                        response
                    }
                }));
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        address: &str,
        serve: impl FnOnce(TcpListener, Spans) -> F,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (entered, spans) = (runtime.enter(), Spans::default());
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(serve(TcpListener::from_std(listener).unwrap(), spans.clone()));
        drop(entered);
        Self { address, spans, runtime: Some(runtime) }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

fn traced(collector: String, sampling: f64) -> impl Fn(&mut Config) {
    move |config| {
        config.trace_collector = Some(collector.parse().unwrap());
        config.trace_sampling = Sampling::try_from(sampling).unwrap();
    }
}

/// A client and a server, whose application says which fields it has got, over HTTP/1 and HTTP/2.
async fn pair(mesh: &mut Mesh, change: impl Fn(&mut Config)) -> (Meshed, Meshed) {
    let web = mesh.pod_with("web", |config| change(config)).await;
    let server = mesh.pod_with("server", |config| change(config)).await;
    server
        .app(|stream| async {
            let mut first = [0; 3];
            stream.peek(&mut first).await.unwrap();
            match &first {
                b"PRI" => serve_http2(stream).await,
                _ => serve_http1(stream, heard).await,
            }
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    (web, server)
}

/// What is written down of a request has the bytes that have come before its answer was complete: all of them.
async fn heard(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let _ = body.collect().await;
    echo(Request::from_parts(parts, ())).await
}

async fn serve_http2(stream: TcpStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(heard(request).await) });
    // A client that goes away is not this test's matter.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What the application has got of a request with `fields`: names and values.
async fn ask(to: SocketAddr, version: Version, path: &str, fields: &[(&str, &str)]) -> BTreeMap<String, String> {
    let response = answered(to, version, path, fields).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let lines = std::str::from_utf8(&text).unwrap().lines().skip(1);
    lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

async fn answered(to: SocketAddr, version: Version, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(to).await.unwrap());
    let mut request = Request::builder().version(version).method("POST").header("user-agent", "test/1");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = Full::<Bytes>::from("question");
    let response = if version == Version::HTTP_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let uri = format!("http://service-0.test{path}");
        sender.send_request(request.uri(uri).body(body).unwrap()).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = request.uri(path).header("host", "service-0.test").body(body).unwrap();
        sender.send_request(request).await
    };
    response.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_through_two_proxies_is_a_tree_of_spans() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let (web, server) = pair(&mut mesh, traced(collector.address.to_string(), 0.0)).await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    for (version, path, called) in [(Version::HTTP_11, "/books/42", "1.1"), (Version::HTTP_2, "/books/h2", "2")] {
        let fields = [("traceparent", traceparent.as_str()), ("tracestate", "a=b")];
        let got = ask(web.towards(0), version, &format!("{path}?secret=1"), &fields).await;
        let (client, into) = collector.spans.pair(&mesh, path).await;
        assert_eq!((client.trace(), client.parent()), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!((into.trace(), into.parent()), (TRACE.to_owned(), client.id()));
        assert_eq!(got["traceparent"], format!("00-{TRACE}-{}-01", into.id()), "the application goes on from there");
        assert_eq!((got["tracestate"].as_str(), into.span.trace_state.as_str()), ("a=b", "a=b"));
        assert!(into.span.start_time_unix_nano >= client.span.start_time_unix_nano);
        assert!(into.span.end_time_unix_nano > into.span.start_time_unix_nano);
        let (web_id, server_id) = (identity("web").to_string(), identity("server").to_string());
        for span in [&client, &into] {
            for (key, value) in [
                ("http.request.method", "POST"),
                ("http.response.status_code", "200"),
                ("http.request.body.size", "8"),
                ("network.protocol.version", called),
                ("server.address", "service-0.test"),
                ("user_agent.original", "test/1"),
                ("conduit.client.id", &web_id),
                ("conduit.server.id", &server_id),
            ] {
                assert_eq!(span.attributes.get(key).map(String::as_str), Some(value), "{key} of {span:?}");
            }
            assert!(!format!("{:?}", span.attributes).contains("secret"), "{span:?}");
        }
        assert_eq!(client.attributes["network.peer.address"], server.ip.to_string());
        assert_eq!(client.attributes["conduit.service"], "test/service-0");
        assert_eq!(client.attributes["conduit.endpoint.pod"], server.name.to_string());
        assert_eq!(
            (client.resource["service.name"].as_str(), into.resource["service.name"].as_str()),
            ("web", "server")
        );
        assert_eq!(
            (&into.resource["k8s.pod.name"], &*into.resource["k8s.namespace.name"]),
            (&server.name.name().to_owned(), "test")
        );
    }
    let books = collector.spans.of(SpanKind::Server, "/books/42").unwrap();
    assert_eq!((books.span.name.as_str(), books.attributes["http.route"].as_str()), ("POST /books/*", "/books/*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_go_on_in_the_words_in_which_they_came_or_not_at_all() {
    let (mut mesh, collector) = (Mesh::start(), Collector::http("127.0.0.1:0"));
    let (web, _server) = pair(&mut mesh, traced(format!("http://{}", collector.address), 0.0)).await;
    let narrow = &TRACE[16..];
    let single = format!("{narrow}-{PARENT}-1");
    let got = ask(web.towards(0), Version::HTTP_2, "/single", &[("b3", &single)]).await;
    let (client, into) = collector.spans.pair(&mesh, "/single").await;
    assert_eq!((client.trace(), client.parent()), (format!("{}{narrow}", "0".repeat(16)), PARENT.to_owned()));
    assert_eq!(got["b3"], format!("{narrow}-{}-1-{}", into.id(), client.id()));
    assert!(!got.contains_key("traceparent"), "{got:?}");

    let multiple = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", PARENT), ("X-B3-Sampled", "1")];
    let got = ask(web.towards(0), Version::HTTP_11, "/multiple", &multiple).await;
    let (client, into) = collector.spans.pair(&mesh, "/multiple").await;
    let told = ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"].map(|name| got[name].clone());
    assert_eq!(told, [TRACE.to_owned(), into.id(), client.id(), "1".to_owned()]);

    let jaeger = format!("{narrow}:{PARENT}:0:1");
    let got = ask(web.towards(0), Version::HTTP_11, "/jaeger", &[("uber-trace-id", &jaeger)]).await;
    let (client, into) = collector.spans.pair(&mesh, "/jaeger").await;
    assert_eq!(got["uber-trace-id"], format!("{narrow}:{}:{}:1", into.id(), client.id()));

    // Whoever has decided that it is not recorded is heard, and who has said nothing is a draw of none.
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let got = ask(web.towards(0), Version::HTTP_11, "/unsampled", &[("traceparent", &unsampled)]).await;
    assert_eq!(got["traceparent"], unsampled);
    let got = ask(web.towards(0), Version::HTTP_2, "/nobody", &[]).await;
    assert!(!got.contains_key("traceparent"), "{got:?}");
    let got =
        ask(web.towards(0), Version::HTTP_2, "/malformed", &[("traceparent", "00-zz"), ("tracestate", "a=b")]).await;
    assert!(!got.contains_key("traceparent") && !got.contains_key("tracestate"), "{got:?}");
    let _ = ask(web.towards(0), Version::HTTP_11, "/last", &[("b3", &single)]).await;
    collector.spans.pair(&mesh, "/last").await;
    for path in ["/unsampled", "/nobody", "/malformed"] {
        assert!(collector.spans.of(SpanKind::Client, path).is_none(), "{path}");
        assert!(collector.spans.of(SpanKind::Server, path).is_none(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_drawn_is_drawn_by_nobody_else() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let address = collector.address.to_string();
    // The second would draw every one.
    let never = traced(address.clone(), f64::MIN_POSITIVE);
    let web = mesh.pod_with("web", |config| never(config)).await;
    let always = traced(address, 1.0);
    let server = mesh.pod_with("server", |config| always(config)).await;
    server.app(|stream| serve_http1(stream, echo)).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let got = ask(web.towards(0), Version::HTTP_11, "/nobody", &[("tracestate", "a=b")]).await;
    assert!(got["traceparent"].ends_with("-00") && !got.contains_key("tracestate"), "{got:?}");
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    ask(web.towards(0), Version::HTTP_11, "/last", &[("traceparent", &traceparent)]).await;
    collector.spans.pair(&mesh, "/last").await;
    assert!(collector.spans.of(SpanKind::Server, "/nobody").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_dies_costs_nothing_and_is_told_later() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let address = collector.address.to_string();
    let (web, _server) = pair(&mut mesh, traced(address.clone(), 1.0)).await;
    let got = ask(web.towards(0), Version::HTTP_11, "/before", &[]).await;
    let (client, into) = collector.spans.pair(&mesh, "/before").await;
    assert_eq!(client.parent(), "", "nobody has begun it before");
    assert_eq!(got["traceparent"], format!("00-{}-{}-01", client.trace(), into.id()));
    drop(collector);
    for _ in 0..20 {
        ask(web.towards(0), Version::HTTP_11, "/during", &[]).await;
    }
    let failed = ask(web.towards(0), Version::HTTP_2, "/during-h2", &[]).await;
    assert!(failed.contains_key("traceparent"));
    let collector = Collector::grpc(&address);
    collector.spans.pair(&mesh, "/during").await;
    collector.spans.pair(&mesh, "/during-h2").await;
    mesh.wait("all are told", async || web.metric("conduit_proxy_spans_exported_total", &[]).await == 22.0).await;
    assert_eq!(web.metric("conduit_proxy_spans_dropped_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_so_in_its_span() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let change = traced(collector.address.to_string(), 1.0);
    let web = mesh.pod_with("web", |config| change(config)).await;
    let server = mesh.pod_with("server", |config| change(config)).await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let stream = TcpStream::connect(web.towards(0)).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/gone").header("host", "a").body(Full::<Bytes>::from("question")).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    let (client, into) = collector.spans.pair(&mesh, "/gone").await;
    for span in [client, into] {
        assert_eq!(span.span.status.unwrap().code(), SpanStatus::Error);
        assert_eq!(span.attributes["http.response.status_code"], "502");
        assert!(
            span.attributes["error.type"].ends_with("failed") || span.attributes["error.type"] == "502",
            "{:?}",
            span.attributes
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_on_the_way_is_in_the_span_with_its_route() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let change = traced(collector.address.to_string(), 1.0);
    let (web, server) = pair(&mut mesh, &change).await;
    // Its application does not listen.
    let gone = mesh.pod_with("gone", |config| change(config)).await;
    mesh.service(0, &[(&server, identity("server")), (&gone, identity("gone"))]).await;
    mesh.route(vec![rule(Some("/nowhere"), &[]), rule(None, &[(0, 1)])]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let nowhere = answered(web.towards(0), version, "/nowhere", &[]).await;
        assert_eq!(nowhere.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let mut sent = 0;
    let by_way = || {
        let spans = collector.spans.0.lock().unwrap().clone();
        spans.into_iter().partition::<Vec<_>, _>(|known| known.attributes["url.path"] == "/nowhere")
    };
    let with = |spans: &[Received], name: &str| {
        spans.iter().find(|known| known.span.events.iter().any(|event| event.name == name)).cloned()
    };
    mesh.wait("one has gone elsewhere first, and two nowhere", async || {
        sent += 1;
        ask(web.towards(0), Version::HTTP_11, &format!("/{sent}"), &[]).await;
        let (nowhere, others) = by_way();
        with(&others, "retry").is_some() && with(&others, "fault").is_some() && nowhere.len() == 2
    })
    .await;
    let (nowhere, others) = by_way();
    let (again, fault) = (with(&others, "retry").unwrap(), with(&others, "fault").unwrap());
    for nowhere in nowhere {
        assert_eq!(nowhere.attributes["conduit.route"], "test/route");
        assert_eq!(nowhere.attributes["error.type"], "no-backend");
    }
    let [retry] = &again.span.events[..] else { panic!("{again:?}") };
    assert_eq!(texts(&retry.attributes)["conduit.endpoint"], gone.inbound().to_string());
    assert!((again.span.start_time_unix_nano..=again.span.end_time_unix_nano).contains(&retry.time_unix_nano));
    assert_eq!(again.attributes["conduit.endpoint"], server.inbound().to_string());
    assert_eq!(again.attributes["conduit.route"], "test/route");
    assert_eq!(again.attributes["http.request.resend_count"], "1");
    assert_eq!(fault.resource["service.name"], "gone", "its proxy has answered for it");
}

/// An application that gives a request up, before its response or within it, is not its client, which waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_server_resets_is_not_called_cancelled() {
    let (mut mesh, collector) = (Mesh::start(), Collector::grpc("127.0.0.1:0"));
    let change = traced(collector.address.to_string(), 1.0);
    let web = mesh.pod_with("web", |config| change(config)).await;
    let server = mesh.pod_with("server", |config| change(config)).await;
    server
        .app(|stream| async {
            let gives_up = service_fn(|_: Request<Incoming>| async { Err::<Response<Full<Bytes>>, _>(GivesUp) });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), gives_up)
                .await;
        })
        .await;
    mesh.service(0, &[(&server, identity("server"))]).await;
    let stream = TokioIo::new(TcpStream::connect(web.towards(0)).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://service-0.test/reset").body(Full::<Bytes>::from("question")).unwrap();
    sender.send_request(request).await.unwrap_err();
    let (client, into) = collector.spans.pair(&mesh, "/reset").await;
    for span in [client, into] {
        assert_eq!(span.attributes["error.type"], "reset", "{:?}", span.attributes);
    }
}

/// Of a service: HTTP/2 says it by a reset.
#[derive(Debug)]
struct GivesUp;

impl std::fmt::Display for GivesUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not today")
    }
}

impl std::error::Error for GivesUp {}

/// Lines, when there are so many.
async fn lines(mesh: &Mesh, log: &Path, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(log).unwrap_or_default();
    mesh.wait("the lines are written", async || read().lines().count() >= count).await;
    read().lines().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_to_the_application_is_a_line_of_its_log() {
    let (mut mesh, directory) = (Mesh::start(), tempfile::TempDir::with_prefix("conduit-access-log-").unwrap());
    let log = |pod: &str| directory.path().join(pod);
    for (format, number) in [(AccessLog::Json, 0), (AccessLog::Text, 1)] {
        let (client, name) = (format!("web-{number}"), format!("server-{number}"));
        let logged = |config: &mut Config| {
            config.access_log = format;
            config.access_log_file = Some(log(config.pod.name()));
        };
        let web = mesh.pod_with(&client, logged).await;
        let server = mesh.pod_with(&name, logged).await;
        server.app(|stream| serve_http1(stream, echo)).await;
        mesh.service(0, &[(&server, identity(&name))]).await;
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let secrets =
            [("authorization", "Bearer hunter2"), ("cookie", "session=hunter2"), ("traceparent", &traceparent)];
        let got = ask(web.towards(0), Version::HTTP_11, "/a/7?q=%22", &secrets).await;
        assert_eq!(got["traceparent"], traceparent, "nobody traces, and nothing is changed");
        let lines = lines(&mesh, &log(server.name.name()), 1).await;
        let (who, [line]) = (identity(&client).to_string(), lines.as_slice()) else { panic!("{lines:?}") };
        assert!(!line.contains("hunter2"), "{line}");
        assert!(!log(web.name.name()).exists() || fs::read_to_string(log(web.name.name())).unwrap().is_empty());
        if format == AccessLog::Json {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["client.id"], who);
            assert_eq!((&value["uri"], &value["route"]), (&"/a/7?q=%22".into(), &"/a/*".into()));
            assert_eq!((&value["status"], &value["request_bytes"]), (&200.into(), &8.into()));
            assert!(value["response_bytes"].as_u64().unwrap() > 0 && value["total_ns"].as_u64().unwrap() > 0);
            assert_eq!((&value["trace_id"], &value["user_agent"]), (&TRACE.into(), &"test/1".into()));
        } else {
            assert!(
                line.starts_with(&format!("{} - {who} [", web.ip)) || line.contains(&format!(" - {who} [")),
                "{line}"
            );
            assert!(line.contains("] \"POST /a/7?q=%22 HTTP/1.1\" 200 "), "{line}");
            assert!(
                line.contains(" host=\"service-0.test\" user_agent=\"test/1\" request_bytes=8 duration_ms="),
                "{line}"
            );
        }
        assert_eq!(server.metric("conduit_proxy_access_log_dropped_total", &[]).await, 0.0);
    }
}
