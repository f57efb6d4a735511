//! Questions about resources as PromQL, and what was answered as figures. Pure.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::proto::{
    common::ResourceRef,
    public::{BasicStats, ResourceSelection, StatRequest, TcpStats, stat_request::Other},
};

use super::{Sample, millis};

/// Within this after Prometheus began, it has scraped every proxy that was there.
const SETTLING: Duration = Duration::from_secs(60);

/// PromQL knows nothing shorter.
const LEAST: Duration = Duration::from_millis(1);

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Responses,
    /// By upper bound, in milliseconds.
    Latencies,
    Open,
    Read,
    Written,
}

/// Which series are meant, and which of their labels are namespace and name of what is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Queries {
    kind: String,
    /// Namespaces are in none.
    namespace: Option<&'static str>,
    name: String,
    matchers: String,
    /// Whose connections: of two that a proxy has for one stream.
    peer: &'static str,
    window: Duration,
}

/// Samples by what they answer.
#[derive(Default)]
pub(super) struct Answers(BTreeMap<What, Vec<Sample>>);

type Row = (Option<BasicStats>, Option<TcpStats>);

/// How one end of traffic is labelled.
struct End {
    namespace: Option<&'static str>,
    name: String,
}

/// The proxy's own pod, as it is found; nothing that has no pods is one.
fn own(kind: &str) -> Option<End> {
    let name = match kind {
        "namespace" => return Some(End { namespace: None, name: "namespace".to_owned() }),
        "deployment" | "pod" => kind,
        "daemonset" => "daemon_set",
        "statefulset" => "stateful_set",
        "replicaset" => "replica_set",
        "replicationcontroller" => "replication_controller",
        // `job` is Prometheus' own.
        "job" => "k8s_job",
        "cronjob" => "cron_job",
        _ => return None,
    };
    Some(End { namespace: Some("namespace"), name: name.to_owned() })
}

/// The other end, as the proxy says it.
fn peer(kind: &str) -> Option<End> {
    match kind {
        "authority" => None,
        "namespace" => Some(End { namespace: None, name: "dst_namespace".to_owned() }),
        kind => Some(End { namespace: Some("dst_namespace"), name: format!("dst_{kind}") }),
    }
}

impl End {
    fn matchers(&self, selection: &ResourceSelection) -> String {
        let name = match selection.name.as_str() {
            "" => format!("{}!=\"\"", self.name),
            name => format!("{}={}", self.name, quoted(name)),
        };
        match self.namespace.filter(|_| !selection.namespace.is_empty()) {
            Some(namespace) => format!("{name}, {namespace}={}", quoted(&selection.namespace)),
            None => name,
        }
    }
}

/// As a string of PromQL.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// As a duration of PromQL.
pub(super) fn duration(of: Duration) -> String {
    format!("{}ms", of.as_millis())
}

impl Queries {
    /// None of what neither sends nor receives anything: a service has sent nothing.
    pub(super) fn of(request: &StatRequest, window: Duration) -> Option<Self> {
        let selector = request.selector.as_ref()?;
        let kind = selector.kind.as_str();
        let (end, direction, others) = match &request.other {
            None if kind == "authority" => {
                (End { namespace: Some("namespace"), name: "authority".to_owned() }, "outbound", None)
            }
            None if kind == "service" => (peer(kind)?, "outbound", None),
            None => (own(kind)?, "inbound", None),
            Some(Other::To(to)) => (own(kind)?, "outbound", Some(peer(&to.kind)?.matchers(to))),
            Some(Other::From(from)) => (peer(kind)?, "outbound", Some(own(&from.kind)?.matchers(from))),
        };
        let matchers = [format!("direction=\"{direction}\""), end.matchers(selector)];
        let matchers = matchers.into_iter().chain(others).collect::<Vec<_>>().join(", ");
        let peer = if direction == "inbound" { "src" } else { "dst" };
        Some(Self { kind: kind.to_owned(), namespace: end.namespace, name: end.name, matchers, peer, window })
    }

    /// Everything that there is to ask, of a Prometheus that has scraped for so long.
    pub(super) fn all(&self, covered: Duration) -> impl Iterator<Item = (What, String)> {
        let Self { namespace, name, matchers, peer, window, .. } = self;
        let keys = namespace.map_or_else(|| name.clone(), |namespace| format!("{namespace}, {name}"));
        let settled = covered.saturating_sub(SETTLING.max(covered / 50)).max(LEAST);
        let (window, settled) = (duration(*window), duration(settled));
        // Series begin with what has been counted by then. `increase` leaves that out, and all of a series with one sample; but what was there when
        // Prometheus began to scrape was counted before.
        let grown = |series: String| {
            let (increase, born) = (
                format!("increase({series}[{window}])"),
                format!("(min_over_time({series}[{window}]) unless {series} offset {settled})"),
            );
            format!("(({increase} + {born}) or {increase} or {born})")
        };
        let bytes =
            |metric: &str| format!("sum by ({keys}) ({})", grown(format!("{metric}{{{matchers}, peer=\"{peer}\"}}")));
        let responses = grown(format!("response_total{{{matchers}}}"));
        let buckets = grown(format!("response_latency_ms_bucket{{{matchers}}}"));
        [
            (What::Responses, format!("sum by ({keys}, classification, tls) ({responses})")),
            (What::Latencies, format!("sum by ({keys}, le) ({buckets})")),
            (What::Open, format!("sum by ({keys}) (tcp_open_connections{{{matchers}, peer=\"{peer}\"}})")),
            (What::Read, bytes("tcp_read_bytes_total")),
            (What::Written, bytes("tcp_write_bytes_total")),
        ]
        .into_iter()
    }

    /// What was asked for, as a row has it.
    pub(super) fn resource(&self, namespace: String, name: String) -> ResourceRef {
        ResourceRef { kind: self.kind.clone(), namespace, name }
    }

    /// Figures by namespace and name.
    pub(super) fn rows(&self, answers: &Answers, covered: Duration) -> BTreeMap<(String, String), Row> {
        let mut counts: BTreeMap<_, BasicStats> = BTreeMap::new();
        for (sample, value) in answers.samples(What::Responses) {
            let stats = counts.entry(self.key(sample)).or_default();
            let label = |name: &str| sample.metric.get(name).map(String::as_str).unwrap_or_default();
            let of_class =
                if label("classification") == "success" { &mut stats.success_count } else { &mut stats.failure_count };
            *of_class += value.round() as u64;
            if label("tls") == "true" {
                stats.tls_count += value.round() as u64;
            }
        }
        counts.retain(|_, stats| stats.success_count + stats.failure_count > 0);
        let mut buckets: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for (sample, count) in answers.samples(What::Latencies) {
            let bound = sample.metric.get("le").and_then(|le| le.parse().ok());
            if let Some(bound) = bound.filter(|_| counts.contains_key(&self.key(sample))) {
                buckets.entry(self.key(sample)).or_default().push((bound, count));
            }
        }
        for (key, mut buckets) in buckets {
            buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            if let Some(stats) = counts.get_mut(&key) {
                let us = |share| quantile(share, &buckets).map_or(0, |ms| (ms * 1000.0) as u64);
                [stats.latency_p50_us, stats.latency_p95_us, stats.latency_p99_us] = [us(0.5), us(0.95), us(0.99)];
            }
        }
        let mut connections: BTreeMap<_, TcpStats> = BTreeMap::new();
        for (what, of) in [
            (What::Open, (|stats| &mut stats.open) as fn(&mut TcpStats) -> &mut u64),
            (What::Read, |stats| &mut stats.read_bytes),
            (What::Written, |stats| &mut stats.write_bytes),
        ] {
            for (sample, value) in answers.samples(what) {
                *of(connections.entry(self.key(sample)).or_default()) = value.round() as u64;
            }
        }
        let mut rows: BTreeMap<_, Row> = BTreeMap::new();
        for (key, stats) in counts {
            rows.entry(key).or_default().0 = Some(BasicStats { window_ms: millis(covered), ..stats });
        }
        for (key, stats) in connections {
            rows.entry(key).or_default().1 = Some(TcpStats { window_ms: millis(covered), ..stats });
        }
        rows
    }

    fn key(&self, sample: &Sample) -> (String, String) {
        let label = |name: &str| sample.metric.get(name).cloned().unwrap_or_default();
        (self.namespace.map(label).unwrap_or_default(), label(&self.name))
    }
}

/// As PromQL's `histogram_quantile`: of counts up to upper bounds, which are sorted; evenly spread between two of them.
fn quantile(share: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let rank = share * buckets.last().filter(|(_, total)| *total > 0.0)?.1;
    let at = buckets.iter().position(|(_, below)| *below >= rank)?;
    let (bound, below) = buckets[at];
    let (lower, before) = at.checked_sub(1).map_or((0.0, 0.0), |at| buckets[at]);
    // Of what is beyond the last bound nothing else is known.
    if bound.is_infinite() {
        return Some(lower);
    }
    Some(lower + (bound - lower) * ((rank - before) / (below - before)).clamp(0.0, 1.0))
}

impl FromIterator<(What, Vec<Sample>)> for Answers {
    fn from_iter<I: IntoIterator<Item = (What, Vec<Sample>)>>(answers: I) -> Self {
        Self(answers.into_iter().collect())
    }
}

impl Answers {
    pub(super) fn insert(&mut self, what: What, samples: Vec<Sample>) {
        self.0.insert(what, samples);
    }

    /// Those that are numbers: a quantile of nothing is none.
    fn samples(&self, what: What) -> impl Iterator<Item = (&Sample, f64)> {
        self.0.get(&what).into_iter().flatten().filter_map(|sample| Some((sample, sample.number()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn selection(kind: &str, namespace: &str, name: &str) -> ResourceSelection {
        ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    fn queries(selector: ResourceSelection, other: Option<Other>) -> Option<Queries> {
        Queries::of(&StatRequest { selector: Some(selector), other, ..StatRequest::default() }, DAY)
    }

    #[test]
    fn the_series_of_each_question() {
        let web = || selection("deployment", "emojivoto", "web");
        for (selector, other, keys, matchers) in [
            (web(), None, "namespace/deployment", r#"direction="inbound", deployment="web", namespace="emojivoto""#),
            (
                selection("statefulset", "", ""),
                None,
                "namespace/stateful_set",
                r#"direction="inbound", stateful_set!="""#,
            ),
            (selection("namespace", "", "shop"), None, "/namespace", r#"direction="inbound", namespace="shop""#),
            (
                selection("service", "shop", ""),
                None,
                "dst_namespace/dst_service",
                r#"direction="outbound", dst_service!="", dst_namespace="shop""#,
            ),
            (
                selection("authority", "", "a\"b"),
                None,
                "namespace/authority",
                r#"direction="outbound", authority="a\"b""#,
            ),
            (
                selection("pod", "shop", ""),
                Some(Other::To(web())),
                "namespace/pod",
                r#"direction="outbound", pod!="", namespace="shop", dst_deployment="web", dst_namespace="emojivoto""#,
            ),
            (
                selection("statefulset", "shop", "db"),
                Some(Other::From(selection("job", "", ""))),
                "dst_namespace/dst_statefulset",
                r#"direction="outbound", dst_statefulset="db", dst_namespace="shop", k8s_job!="""#,
            ),
        ] {
            let queries = queries(selector, other).unwrap();
            assert_eq!(format!("{}/{}", queries.namespace.unwrap_or_default(), queries.name), keys);
            assert_eq!(queries.matchers, matchers);
        }
        assert_eq!(queries(selection("service", "", ""), Some(Other::To(web()))), None);
        assert_eq!(queries(web(), Some(Other::From(selection("service", "", "")))), None);
    }

    #[test]
    fn what_is_asked() {
        let queries = queries(selection("deployment", "emojivoto", ""), None).unwrap();
        let all: BTreeMap<_, _> = queries.all(DAY).collect();
        let matchers = r#"direction="inbound", deployment!="", namespace="emojivoto""#;
        let keys = "namespace, deployment";
        let series = format!("response_total{{{matchers}}}");
        let (increase, born) = (
            format!("increase({series}[86400000ms])"),
            format!("(min_over_time({series}[86400000ms]) unless {series} offset 84672000ms)"),
        );
        assert_eq!(
            all[&What::Responses],
            format!("sum by ({keys}, classification, tls) ((({increase} + {born}) or {increase} or {born}))")
        );
        assert!(
            all[&What::Latencies].starts_with("sum by (namespace, deployment, le) (((increase(response_latency_ms")
        );
        assert!(all[&What::Read].contains("peer=\"src\""));
        let young: BTreeMap<_, _> = queries.all(Duration::from_secs(59)).collect();
        assert!(young[&What::Responses].contains("offset 1ms"), "there is no duration of nothing: {young:?}");
    }

    fn sample(labels: &[(&str, &str)], value: &str) -> Sample {
        let metric = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sample { metric, value: (0.0, value.to_owned()) }
    }

    #[test]
    fn quantiles() {
        let buckets = [(1.0, 50.0), (2.0, 90.0), (5.0, 90.0), (f64::INFINITY, 100.0)];
        for (share, expected) in
            [(0.0, Some(0.0)), (0.25, Some(0.5)), (0.5, Some(1.0)), (0.9, Some(2.0)), (0.99, Some(5.0))]
        {
            assert_eq!(quantile(share, &buckets), expected, "{share}");
        }
        assert_eq!((quantile(0.5, &[]), quantile(0.5, &[(1.0, 0.0)])), (None, None));
    }

    #[test]
    fn what_is_answered() {
        let queries = queries(selection("deployment", "", ""), None).unwrap();
        let web = [("namespace", "shop"), ("deployment", "web")];
        let of = |more: &[(&'static str, &'static str)], value: &str| sample(&[&web[..], more].concat(), value);
        let answers: Answers = [
            (
                What::Responses,
                vec![
                    of(&[("classification", "success"), ("tls", "true")], "89.6"),
                    of(&[("classification", "failure"), ("tls", "no_identity")], "10.2"),
                    sample(&[("namespace", "shop"), ("deployment", "idle"), ("classification", "success")], "0"),
                ],
            ),
            (
                What::Latencies,
                vec![
                    of(&[("le", "+Inf")], "100"),
                    of(&[("le", "2")], "100"),
                    of(&[("le", "1")], "40"),
                    of(&[("le", "x")], "7"),
                ],
            ),
            (What::Read, vec![of(&[], "1000")]),
        ]
        .into_iter()
        .collect();
        let rows = queries.rows(&answers, Duration::from_secs(100));
        assert_eq!(rows.len(), 1, "{rows:?}");
        let (stats, tcp) = &rows[&("shop".to_owned(), "web".to_owned())];
        let expected = BasicStats {
            success_count: 90,
            failure_count: 10,
            tls_count: 90,
            latency_p50_us: 1_166,
            latency_p95_us: 1_916,
            latency_p99_us: 1_983,
            window_ms: 100_000,
        };
        assert_eq!(stats.as_ref(), Some(&expected));
        assert_eq!(tcp.as_ref().map(|tcp| (tcp.read_bytes, tcp.open, tcp.window_ms)), Some((1000, 0, 100_000)));
    }
}
