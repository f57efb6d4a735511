//! The counters as Prometheus reads them, with the names that Conduit's and Linkerd's charts use.
//!
//! In both of its texts ([`Format`]). Counters are summed per label set at the scrape; nothing here is ever on a request's path.

use std::{collections::BTreeMap, fmt::Write as _};

use conduit_api::{exposition::Format, latency, process::Measure};

use super::{
    Direction, End, HistogramTotals, Labels, Layer, Meant, Peer, Refused, Tls, Totals,
    transport::{ConnectionLabels, ConnectionTotals, Side},
};

/// Upper bounds in milliseconds, as Conduit has had them since 0.5.
const BOUNDS_MS: [u64; 26] = [
    1,
    2,
    3,
    4,
    5,
    10,
    20,
    30,
    40,
    50,
    100,
    200,
    300,
    400,
    500,
    1_000,
    2_000,
    3_000,
    4_000,
    5_000,
    10_000,
    20_000,
    30_000,
    40_000,
    50_000,
    u64::MAX,
];

/// Name, type and help of a family, and where its values are.
type Column = (&'static str, &'static str, &'static str, fn(&ConnectionTotals) -> u64);

/// All of it; `own` is of the proxy itself.
pub fn render(
    format: Format,
    requests: &BTreeMap<Labels, Totals>,
    connections: &BTreeMap<ConnectionLabels, ConnectionTotals>,
    refusals: &BTreeMap<Refused, u64>,
    own: &[Measure],
) -> String {
    let mut text = Exposition { text: String::new(), format };
    let rows: Vec<_> = requests.iter().map(|(labels, totals)| (request_pairs(labels), totals)).collect();
    text.family("request_total", "counter", "Requests.");
    for (labels, totals) in &rows {
        text.sample("request_total", labels, "", totals.requests);
    }
    text.family("response_total", "counter", "Responses, when they ended.");
    for (labels, totals) in &rows {
        for (end, count) in totals.ends() {
            text.sample("response_total", labels, &end_pairs(end), count);
        }
    }
    text.family("response_latency_ms", "histogram", "Milliseconds from a request to the head of its response.");
    for (labels, totals) in &rows {
        text.histogram("response_latency_ms", labels, &totals.latency);
    }

    let rows: Vec<_> = connections.iter().map(|(labels, totals)| (connection_pairs(labels), totals)).collect();
    let columns: [Column; 5] = [
        ("tcp_open_total", "counter", "Connections opened.", |t| t.opened),
        ("tcp_close_total", "counter", "Connections that have ended.", |t| t.closed),
        ("tcp_open_connections", "gauge", "Connections open now.", |t| t.opened.saturating_sub(t.closed)),
        ("tcp_read_bytes_total", "counter", "Bytes from the other end.", |t| t.read_bytes),
        ("tcp_write_bytes_total", "counter", "Bytes to the other end.", |t| t.write_bytes),
    ];
    for (name, kind, help, value) in columns {
        text.family(name, kind, help);
        for (labels, totals) in &rows {
            text.sample(name, labels, "", value(totals));
        }
    }
    let help = "Milliseconds that connections which have ended lasted.";
    text.family("tcp_connection_duration_ms", "histogram", help);
    for (labels, totals) in &rows {
        text.histogram("tcp_connection_duration_ms", labels, &totals.duration);
    }

    for (layer, name, help) in [
        (Layer::Tls, "conduit_proxy_tls_refused_total", "Handshakes with other proxies that were refused, by why."),
        (
            Layer::Http,
            "conduit_proxy_http_refused_total",
            "Requests and responses that were refused because they could mean two things, or are beyond a limit, by why.",
        ),
    ] {
        text.family(name, "counter", help);
        for (refused, count) in refusals.iter().filter(|(refused, _)| refused.layer == layer) {
            let labels = format!("{},reason=\"{}\"", direction(refused.direction), refused.reason);
            text.sample(name, &labels, "", *count);
        }
    }

    for Measure { name, is_counter, help, value } in own {
        text.family(name, if *is_counter { "counter" } else { "gauge" }, help);
        let _ = writeln!(text.text, "{name} {value}");
    }
    if format == Format::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

/// What has been written of it.
struct Exposition {
    text: String,
    format: Format,
}

// Writing to a string does not fail.
impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // There, a counter's family is called without what its samples end with.
        let family = match self.format {
            Format::OpenMetrics if kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, more: &str, value: u64) {
        let _ = writeln!(self.text, "{name}{{{labels}{more}}} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &str, totals: &HistogramTotals) {
        let bucket_name = format!("{name}_bucket");
        let mut buckets = totals.buckets.iter().peekable();
        let mut below = 0;
        for bound in BOUNDS_MS {
            while let Some((_, count)) =
                buckets.next_if(|(bucket, _)| latency::midpoint(**bucket as usize) <= bound.saturating_mul(1_000))
            {
                below += count;
            }
            let le = match (bound, self.format) {
                (u64::MAX, _) => "+Inf".to_owned(),
                (bound, Format::Text) => bound.to_string(),
                // Its numbers are written in one way only.
                (bound, Format::OpenMetrics) => format!("{bound}.0"),
            };
            self.sample(&bucket_name, labels, &format!(",le=\"{le}\""), below);
        }
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {}", totals.sum_us as f64 / 1_000.0);
        self.sample(&format!("{name}_count"), labels, "", below);
    }
}

fn request_pairs(labels: &Labels) -> String {
    let mut pairs = direction(labels.direction);
    let _ = write!(pairs, ",authority=\"{}\"", escape(&labels.authority));
    tls_pairs(&mut pairs, &labels.tls, labels.direction == Direction::Inbound);
    peer_pairs(&mut pairs, labels.destination.as_deref());
    service_pairs(&mut pairs, labels);
    pairs
}

/// What the client asked for, by the names that Linkerd's proxy has for it; and where it was to go, if nobody there got it.
fn service_pairs(pairs: &mut String, labels: &Labels) {
    if let (None, Some((namespace, name))) = (&labels.destination, &labels.backend) {
        let _ = write!(pairs, ",dst_namespace=\"{}\",dst_service=\"{}\"", escape(namespace), escape(name));
    }
    let Some(meant) = &labels.meant else { return };
    let Meant { namespace, name, port, route } = &**meant;
    let (namespace, name) = (escape(namespace), escape(name));
    let _ = write!(pairs, ",parent_namespace=\"{namespace}\",parent_name=\"{name}\",parent_port=\"{port}\"");
    if !route.is_empty() {
        let _ = write!(pairs, ",route_name=\"{}\"", escape(route));
    }
}

fn connection_pairs(labels: &ConnectionLabels) -> String {
    let mut pairs = direction(labels.direction);
    let side = if labels.side == Side::Source { "src" } else { "dst" };
    let _ = write!(pairs, ",peer=\"{side}\"");
    tls_pairs(&mut pairs, &labels.tls, labels.side == Side::Source);
    peer_pairs(&mut pairs, labels.destination.as_deref());
    pairs
}

fn direction(direction: Direction) -> String {
    match direction {
        Direction::Inbound => "direction=\"inbound\"".to_owned(),
        Direction::Outbound => "direction=\"outbound\"".to_owned(),
    }
}

fn tls_pairs(pairs: &mut String, tls: &Tls, peer_is_client: bool) {
    let (state, reason) = match tls {
        Tls::Mutual(_) => ("true", None),
        Tls::NoIdentity => ("no_identity", Some("not_provided_by_service_discovery")),
        Tls::Loopback => ("no_identity", Some("loopback")),
        Tls::Passthrough(_) => ("opaque", None),
    };
    let _ = write!(pairs, ",tls=\"{state}\"");
    if let Some(reason) = reason {
        let _ = write!(pairs, ",no_tls_reason=\"{reason}\"");
    }
    match tls {
        Tls::Mutual(peer) => {
            let side = if peer_is_client { "client_id" } else { "server_id" };
            let _ = write!(pairs, ",{side}=\"{peer}\"");
        }
        Tls::Passthrough(Some(server_name)) => {
            let _ = write!(pairs, ",server_name=\"{}\"", escape(server_name));
        }
        Tls::Passthrough(None) | Tls::NoIdentity | Tls::Loopback => {}
    }
}

fn peer_pairs(pairs: &mut String, peer: Option<&Peer>) {
    let Some(peer) = peer else { return };
    let _ = write!(pairs, ",dst_namespace=\"{}\",dst_pod=\"{}\"", escape(&peer.namespace), escape(&peer.pod));
    if let Some((kind, name)) = &peer.workload {
        let _ = write!(pairs, ",dst_{kind}=\"{}\"", escape(name));
    }
    if let Some(service) = &peer.service {
        let _ = write!(pairs, ",dst_service=\"{}\"", escape(service));
    }
}

fn end_pairs(end: End) -> String {
    let classification = if end.is_success() { "success" } else { "failure" };
    match end {
        End::Http(status) => format!(",classification=\"{classification}\",status_code=\"{status}\""),
        End::Grpc(code) => {
            format!(",classification=\"{classification}\",status_code=\"200\",grpc_status_code=\"{code}\"")
        }
        End::Reset => format!(",classification=\"{classification}\",error=\"reset\""),
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::telemetry::{Peer, Telemetry};

    #[test]
    fn charts_find_what_they_look_for() {
        let telemetry = Telemetry::default();
        let labels = Labels {
            direction: Direction::Outbound,
            authority: "web-svc.\"emojivoto\"".into(),
            tls: Tls::Mutual("spiffe://cluster.local/ns/emojivoto/sa/web".parse().unwrap()),
            destination: Some(Arc::new(Peer {
                namespace: "emojivoto".into(),
                pod: "web-0".into(),
                workload: Some(("deployment".into(), "web".into())),
                service: Some("web-svc".into()),
            })),
            meant: Some(Arc::new(Meant {
                namespace: "emojivoto".into(),
                name: "web-svc".into(),
                port: 80,
                route: "canary".into(),
            })),
            backend: Some(("emojivoto".into(), "web-svc".into())),
        };
        let nobody = Labels { authority: "gone".into(), tls: Tls::NoIdentity, destination: None, ..labels.clone() };
        let thread = telemetry.thread();
        thread.requests(&nobody).fail(503);
        let counters = thread.requests(&labels);
        counters.requests.add(3);
        counters.end(End::Http(200));
        counters.end(End::Http(500));
        counters.end(End::Grpc(2));
        counters.latency(Duration::from_micros(900));
        counters.latency(Duration::from_millis(7));
        let text = render(
            Format::Text,
            &telemetry.requests(),
            &telemetry.connections(),
            &telemetry.refusals(),
            &[
                Measure { name: "conduit_proxy_ready", is_counter: false, help: "Whether it is.", value: 1.0 },
                Measure { name: "process_cpu_seconds_total", is_counter: true, help: "Time.", value: 0.25 },
            ],
        );
        let common = concat!(
            "direction=\"outbound\",authority=\"web-svc.\\\"emojivoto\\\"\",tls=\"true\",",
            "server_id=\"spiffe://cluster.local/ns/emojivoto/sa/web\",",
            "dst_namespace=\"emojivoto\",dst_pod=\"web-0\",dst_deployment=\"web\",dst_service=\"web-svc\",",
            "parent_namespace=\"emojivoto\",parent_name=\"web-svc\",parent_port=\"80\",route_name=\"canary\""
        );
        let nobody = concat!(
            "direction=\"outbound\",authority=\"gone\",tls=\"no_identity\",",
            "no_tls_reason=\"not_provided_by_service_discovery\",dst_namespace=\"emojivoto\",dst_service=\"web-svc\",",
            "parent_namespace=\"emojivoto\",parent_name=\"web-svc\",parent_port=\"80\",route_name=\"canary\""
        );
        for line in [
            format!("request_total{{{common}}} 3"),
            format!("response_total{{{nobody},classification=\"failure\",status_code=\"503\"}} 1"),
            format!("response_total{{{common},classification=\"success\",status_code=\"200\"}} 1"),
            format!("response_total{{{common},classification=\"failure\",status_code=\"500\"}} 1"),
            format!(
                "response_total{{{common},classification=\"failure\",status_code=\"200\",grpc_status_code=\"2\"}} 1"
            ),
            format!("response_latency_ms_bucket{{{common},le=\"1\"}} 1"),
            format!("response_latency_ms_bucket{{{common},le=\"5\"}} 1"),
            format!("response_latency_ms_bucket{{{common},le=\"10\"}} 2"),
            format!("response_latency_ms_bucket{{{common},le=\"+Inf\"}} 2"),
            format!("response_latency_ms_count{{{common}}} 2"),
            format!("response_latency_ms_sum{{{common}}} 7.9"),
            "# TYPE conduit_proxy_ready gauge".to_owned(),
            "conduit_proxy_ready 1".to_owned(),
            "# TYPE process_cpu_seconds_total counter".to_owned(),
            "process_cpu_seconds_total 0.25".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert!(!text.contains("tcp_open_total{"), "nothing is said of what did not happen");
    }

    #[test]
    fn connections_are_charted_by_side() {
        let telemetry = Telemetry::default();
        let (direction, side) = (Direction::Inbound, Side::Source);
        let labels =
            ConnectionLabels { direction, side, tls: Tls::Passthrough(Some("example.com".into())), destination: None };
        telemetry.thread().connections(&labels);
        let text = render(Format::Text, &telemetry.requests(), &telemetry.connections(), &telemetry.refusals(), &[]);
        let common = "direction=\"inbound\",peer=\"src\",tls=\"opaque\",server_name=\"example.com\"";
        for line in [
            format!("tcp_open_total{{{common}}} 0"),
            format!("tcp_connection_duration_ms_bucket{{{common},le=\"+Inf\"}} 0"),
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }

    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>: what of it the older text does otherwise.
    #[test]
    fn who_reads_open_metrics_gets_that() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        thread.requests(&crate::telemetry::tests::labels("web")).requests.add(3);
        let cpu = Measure { name: "process_cpu_seconds_total", is_counter: true, help: "Time.", value: 0.25 };
        let text = |format| {
            render(
                format,
                &telemetry.requests(),
                &telemetry.connections(),
                &telemetry.refusals(),
                std::slice::from_ref(&cpu),
            )
        };
        let open_metrics = text(Format::OpenMetrics);
        for line in ["# TYPE request counter", "# TYPE process_cpu_seconds counter", "process_cpu_seconds_total 0.25"] {
            assert!(open_metrics.lines().any(|found| found == line), "no line {line} in\n{open_metrics}");
        }
        assert!(open_metrics.ends_with("# EOF\n"));
        let counters = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
        for counter in counters {
            assert!(!counter.ends_with("_total"), "{counter}");
        }
        // The same samples in both.
        let samples = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.replace(".0\"", "\"")).collect()
        };
        assert!(open_metrics.contains(",le=\"1.0\"} ") && open_metrics.contains(",le=\"+Inf\"} "));
        assert_eq!(samples(&open_metrics), samples(&text(Format::Text)));
    }
}
