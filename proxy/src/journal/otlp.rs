//! A request as a span of OpenTelemetry. Pure.
//!
//! Attributes are those of the semantic conventions for HTTP and RPC (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>), and
//! `conduit.*` for what they have no word for. A query may have secrets in it, and is left out.

use std::time::{Duration, SystemTime};

use conduit_api::{
    SpiffeId, VERSION,
    proto::otlp::{
        AnyValue, Event, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
        ScopeSpans, Span, Status, any_value::Value, span::SpanKind, status::StatusCode,
    },
};

use super::{Happened, Record, What, context::Trace};
use crate::telemetry::{Direction, OTHER};

/// The conventions that the attributes follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";
/// Of W3C: the trace is recorded.
const SAMPLED: u32 = 1;
/// Methods that are told apart; a client may send any word.
const METHODS: [&str; 10] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// Whose spans they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of the workload.
    pub service: String,
    /// Of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
}

/// Those of `records` that are spans, as a collector is told them; `own` is who this proxy's workload is.
pub fn request<'a>(
    source: &Source,
    own: Option<&SpiffeId>,
    records: impl Iterator<Item = &'a Record>,
) -> ExportTraceServiceRequest {
    let mut resource = Attributes::default();
    resource.text("service.name", &source.service);
    resource.text("service.namespace", &source.namespace);
    resource.text("k8s.namespace.name", &source.namespace);
    resource.text("k8s.pod.name", &source.pod);
    let scope = InstrumentationScope { name: "conduit-proxy".to_owned(), version: VERSION.to_owned() };
    let spans = records.filter_map(|record| Some(span(record, record.trace.as_ref()?, own))).collect();
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource.0 }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
            schema_url: SCHEMA_URL.to_owned(),
        }],
    }
}

fn span(record: &Record, trace: &Trace, own: Option<&SpiffeId>) -> Span {
    let kind = match record.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let is_error = is_error(record);
    Span {
        trace_id: trace.trace_id.get().to_be_bytes().to_vec(),
        span_id: trace.span_id.get().to_be_bytes().to_vec(),
        trace_state: trace.tracestate.to_string(),
        parent_span_id: trace.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        name: name(record),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(record.started),
        end_time_unix_nano: nanoseconds(record.started + record.duration),
        attributes: attributes(record, is_error, own),
        events: record.events.iter().map(|happened| event(record, happened)).collect(),
        status: is_error
            .then(|| Status { message: record.error.unwrap_or_default().to_owned(), code: StatusCode::Error.into() }),
        flags: SAMPLED,
    }
}

/// What such requests have in common: never more names than there are methods and patterns.
fn name(record: &Record) -> String {
    if let Some((service, method)) = rpc(record) {
        return format!("{service}/{method}");
    }
    let method = known_method(&record.method).unwrap_or("HTTP");
    match route(record) {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    }
}

fn attributes(record: &Record, is_error: bool, own: Option<&SpiffeId>) -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    attributes.http(record);
    attributes.addresses(record);
    if let Some((service, method)) = rpc(record) {
        attributes.text("rpc.system", "grpc");
        attributes.text("rpc.service", service);
        attributes.text("rpc.method", method);
        if let Some(status) = record.grpc_status {
            attributes.number("rpc.grpc.status_code", status.into());
        }
    }
    let (direction, client, server) = match record.direction {
        Direction::Inbound => ("inbound", record.client.as_ref(), own),
        Direction::Outbound => ("outbound", own, record.endpoint.as_ref().and_then(|to| to.server.as_ref())),
    };
    attributes.text("conduit.direction", direction);
    attributes.text("conduit.client.id", &client.map(SpiffeId::to_string).unwrap_or_default());
    attributes.text("conduit.server.id", &server.map(SpiffeId::to_string).unwrap_or_default());
    if let Some(endpoint) = &record.endpoint {
        attributes.text("conduit.endpoint", &endpoint.address.to_string());
        attributes.text("conduit.endpoint.pod", endpoint.pod.as_deref().unwrap_or_default());
        attributes.text("conduit.service", endpoint.service.as_deref().unwrap_or_default());
    }
    if let Some(meant) = record.meant.as_ref().filter(|meant| !meant.route.is_empty()) {
        attributes.text("conduit.route", &format!("{}/{}", meant.namespace, meant.route));
    }
    if is_error {
        let status = || match (record.grpc_status, record.status) {
            (Some(status), _) if record.is_grpc => status.to_string(),
            (_, status) => status.map(|status| status.to_string()).unwrap_or_default(),
        };
        attributes.text("error.type", &record.error.map_or_else(status, ToOwned::to_owned));
    }
    attributes.0
}

fn event(record: &Record, happened: &Happened) -> Event {
    let mut attributes = Attributes::default();
    let name = match happened.what {
        What::Resent { from } => {
            attributes.text("conduit.endpoint", &from.to_string());
            "retry"
        }
        What::Failed(reason) => {
            attributes.text("error.type", reason);
            "fault"
        }
    };
    let time_unix_nano = nanoseconds(record.started + happened.after);
    Event { time_unix_nano, name: name.to_owned(), attributes: attributes.0 }
}

/// A server is to blame for what begins with 5 and the like, and a client is told of everything that is no success.
fn is_error(record: &Record) -> bool {
    let by_status = match (record.grpc_status, record.status, record.direction) {
        (Some(status), _, Direction::Outbound) if record.is_grpc => status != 0,
        // Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss.
        (Some(status), _, Direction::Inbound) if record.is_grpc => matches!(status, 2 | 4 | 12 | 13 | 14 | 15),
        (_, Some(status), Direction::Outbound) => status >= 400,
        (_, Some(status), Direction::Inbound) => status >= 500,
        (_, None, _) => true,
    };
    by_status || record.error.is_some()
}

/// Service and method of a request of gRPC.
fn rpc(record: &Record) -> Option<(&str, &str)> {
    record.path.strip_prefix('/').filter(|_| record.is_grpc)?.split_once('/')
}

fn route(record: &Record) -> Option<&str> {
    record.route.as_ref().map(|route| &*route.path).filter(|path| *path != OTHER)
}

fn known_method(method: &str) -> Option<&str> {
    METHODS.contains(&method).then_some(method)
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// Nothing is said of what is not known.
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.push(key, Value::StringValue(value.to_owned()));
        }
    }

    fn number(&mut self, key: &str, value: i64) {
        self.push(key, Value::IntValue(value));
    }

    fn push(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) });
    }

    fn http(&mut self, record: &Record) {
        match known_method(&record.method) {
            Some(method) => self.text("http.request.method", method),
            None => {
                self.text("http.request.method", "_OTHER");
                self.text("http.request.method_original", &record.method);
            }
        }
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.text("url.scheme", "http");
        self.text("url.path", record.path.split('?').next().unwrap_or_default());
        self.text("http.route", route(record).unwrap_or_default());
        if let Some(status) = record.status {
            self.number("http.response.status_code", status.into());
        }
        self.number("http.request.body.size", bytes(record.request_bytes));
        self.number("http.response.body.size", bytes(record.response_bytes));
        let is_resent = |happened: &&Happened| matches!(happened.what, What::Resent { .. });
        match record.events.iter().filter(is_resent).count() {
            0 => {}
            resent => self.number("http.request.resend_count", resent as i64),
        }
        self.text("network.protocol.name", "http");
        let version = record.version.strip_prefix("HTTP/").unwrap_or_default();
        self.text("network.protocol.version", if version == "2.0" { "2" } else { version });
        self.text("user_agent.original", &record.user_agent);
    }

    /// The server as it was asked for, and who is at the other end.
    fn addresses(&mut self, record: &Record) {
        let (host, port) = match record.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (&*record.authority, None),
        };
        self.text("server.address", host);
        if let Some(port) = port {
            self.number("server.port", port);
        }
        let peer = match record.direction {
            Direction::Inbound => {
                self.text("client.address", &record.source.ip().to_canonical().to_string());
                Some(record.source)
            }
            Direction::Outbound => record.endpoint.as_ref().map(|endpoint| endpoint.address),
        };
        if let Some(peer) = peer {
            self.text("network.peer.address", &peer.ip().to_canonical().to_string());
            self.number("network.peer.port", peer.port().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::tests::record, *};
    use crate::telemetry::Meant;

    fn exported(record: &Record) -> (Span, BTreeMap<String, String>) {
        let source = Source { service: "books".into(), namespace: "shop".into(), pod: "books-0".into() };
        let own: SpiffeId = "spiffe://cluster.local/ns/shop/sa/books".parse().unwrap();
        let mut request = request(&source, Some(&own), std::iter::once(record));
        let span = request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0);
        let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
        };
        let attributes = span.attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute)));
        (span.clone(), attributes.collect())
    }

    #[test]
    fn a_request_to_the_application_is_a_server_s_span() {
        let (span, attributes) = exported(&record());
        assert_eq!((span.name.as_str(), span.kind()), ("GET /books/*", SpanKind::Server));
        assert_eq!(span.trace_id, 0xbeef_u128.to_be_bytes());
        assert_eq!((span.span_id, span.parent_span_id), (0xbeef_u64.to_be_bytes().into(), 7_u64.to_be_bytes().into()));
        assert_eq!(span.start_time_unix_nano, 1_000_000_000_250_000_000);
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 12_500_000);
        assert_eq!(span.status, None);
        let expected = [
            ("client.address", "10.244.1.7"),
            ("conduit.client.id", "spiffe://cluster.local/ns/shop/sa/web"),
            ("conduit.direction", "inbound"),
            ("conduit.endpoint", "10.244.1.8:8080"),
            ("conduit.server.id", "spiffe://cluster.local/ns/shop/sa/books"),
            ("http.request.body.size", "3"),
            ("http.request.method", "GET"),
            ("http.response.body.size", "512"),
            ("http.response.status_code", "200"),
            ("http.route", "/books/*"),
            ("network.peer.address", "10.244.1.7"),
            ("network.peer.port", "40000"),
            ("network.protocol.name", "http"),
            ("network.protocol.version", "1.1"),
            ("server.address", "books.shop"),
            ("url.path", "/books/42"),
            ("url.scheme", "http"),
            ("user_agent.original", "curl/8.5"),
        ];
        assert_eq!(attributes, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn a_call_of_grpc_has_its_own_names() {
        let from = "10.244.1.9:8080".parse().unwrap();
        let resent = Happened { after: Duration::from_millis(1), what: What::Resent { from } };
        let failed = Happened { after: Duration::from_millis(2), what: What::Failed("timeout") };
        let called = Record {
            direction: Direction::Outbound,
            is_grpc: true,
            method: "POST".into(),
            path: "/emojivoto.v1.VotingService/VoteDoughnut".into(),
            authority: "[fd00::1]:8080".into(),
            version: "HTTP/2.0",
            grpc_status: Some(5),
            meant: Some(Meant { namespace: "shop".into(), name: "voting".into(), port: 80, route: "canary".into() }),
            events: vec![resent, failed],
            ..record()
        };
        let (span, attributes) = exported(&called);
        assert_eq!(span.name, "emojivoto.v1.VotingService/VoteDoughnut");
        assert_eq!((span.kind(), span.status.clone().unwrap().code()), (SpanKind::Client, StatusCode::Error));
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "emojivoto.v1.VotingService"),
            ("rpc.method", "VoteDoughnut"),
            ("rpc.grpc.status_code", "5"),
            ("error.type", "5"),
            ("server.address", "[fd00::1]"),
            ("server.port", "8080"),
            ("http.request.resend_count", "1"),
            ("conduit.route", "shop/canary"),
            ("network.protocol.version", "2"),
            ("network.peer.address", "10.244.1.8"),
            ("conduit.client.id", "spiffe://cluster.local/ns/shop/sa/books"),
        ] {
            assert_eq!(attributes.get(key).map(String::as_str), Some(value), "{key}");
        }
        let event = |name: &str, after: u64, key: &str, value: &str| Event {
            time_unix_nano: span.start_time_unix_nano + after,
            name: name.into(),
            attributes: vec![KeyValue {
                key: key.into(),
                value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }),
            }],
        };
        let expected = [
            event("retry", 1_000_000, "conduit.endpoint", "10.244.1.9:8080"),
            event("fault", 2_000_000, "error.type", "timeout"),
        ];
        assert_eq!(span.events, expected);
    }

    #[test]
    fn who_is_to_blame_is_told_by_direction() {
        let outbound = |record| Record { direction: Direction::Outbound, ..record };
        let status = |status| Record { status: Some(status), ..record() };
        let grpc = |status| Record { is_grpc: true, grpc_status: Some(status), ..record() };
        for (record, error) in [
            (status(404), false),
            (outbound(status(404)), true),
            (status(503), true),
            (grpc(5), false),
            (outbound(grpc(5)), true),
            (grpc(12), true),
            (grpc(0), false),
            (outbound(grpc(0)), false),
            (Record { error: Some("reset"), ..status(200) }, true),
            (Record { status: None, ..record() }, true),
        ] {
            assert_eq!(is_error(&record), error, "{record:?}");
        }
        let failed = Record { error: Some("connect-failed"), ..status(502) };
        let (span, attributes) = exported(&failed);
        assert_eq!(
            (attributes["error.type"].as_str(), span.status.unwrap().message.as_str()),
            ("connect-failed", "connect-failed")
        );
        assert_eq!(exported(&Record { method: "BREW".into(), ..record() }).0.name, "HTTP /books/*");
    }
}
