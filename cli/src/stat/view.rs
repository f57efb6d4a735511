//! Answers as tables, as JSON and as CSV. Pure.

use conduit_api::proto::public::{Group, StatResponse, StatRow, stat_request::By};
use serde::Serialize;

use super::{
    coverage::{Coverage, JsonCoverage},
    figures::{Connections, Figures, JsonFigures},
};
use crate::{
    output::csv_line,
    resource::Kind,
    table::{Align, Table},
};

/// Which form the table has.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    /// The first column is the namespace.
    pub(super) namespace: bool,
    /// Latencies below a millisecond are told apart, and connections are shown.
    pub(super) wide: bool,
    /// What rows are told apart by, in the order of the columns.
    pub(super) by: Vec<By>,
    /// What stands before names, where there are other kinds too.
    pub(super) prefix: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Json<'a> {
    rows: Vec<JsonRow<'a>>,
    #[serde(flatten)]
    coverage: JsonCoverage,
}

/// What there is no figure for is null; what was not asked to be told apart is not there.
#[derive(Serialize)]
struct JsonRow<'a> {
    namespace: &'a str,
    kind: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    class: &'a str,
    meshed: Option<String>,
    #[serde(flatten)]
    figures: JsonFigures,
    tls: Option<f64>,
    tcp_open_connections: Option<u64>,
    tcp_read_bytes_rate: Option<f64>,
    tcp_write_bytes_rate: Option<f64>,
    window_ms: Option<u32>,
}

pub(super) fn table(answer: &StatResponse, columns: &Columns) -> Table {
    let mut header = Vec::new();
    if columns.namespace {
        header.push(("NAMESPACE", Align::Left));
    }
    header.push(("NAME", Align::Left));
    header.extend(columns.by.iter().map(|by| (by_name(*by), Align::Left)));
    let mut figures = vec!["SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99", "TLS"];
    if columns.by.is_empty() {
        figures.insert(0, "MESHED");
        if columns.wide {
            figures.extend(["TCP_CONN", "READ_BYTES/SEC", "WRITE_BYTES/SEC"]);
        }
    }
    header.extend(figures.into_iter().map(|name| (name, Align::Right)));
    let mut table = Table::new(&header);
    for row in &answer.rows {
        table.row(cells(row, columns));
    }
    table
}

fn cells(row: &StatRow, columns: &Columns) -> Vec<String> {
    let (namespace, _, name) = resource(row);
    let mut cells: Vec<String> = columns.namespace.then(|| namespace.to_owned()).into_iter().collect();
    cells.push(columns.prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}/{name}")));
    if columns.by.is_empty() {
        cells.push(meshed(row).unwrap_or_else(|| "-".to_owned()));
    }
    cells.extend(columns.by.iter().map(|by| by_value(row, *by).to_owned()));
    cells.extend(figures(row).map_or(none(), |figures| figure_cells(&figures, columns.wide)));
    if columns.wide && columns.by.is_empty() {
        let connections = connections(row)
            .map(|tcp| [tcp.open.to_string(), format!("{:.1}B/s", tcp.read_rate), format!("{:.1}B/s", tcp.write_rate)]);
        cells.extend(connections.unwrap_or_else(none));
    }
    cells
}

fn by_name(by: By) -> &'static str {
    match by {
        By::Path => "PATH",
        By::Method => "METHOD",
        By::Status => "STATUS",
        By::Class => "CLASS",
        By::Route => "ROUTE",
        By::Service => "SERVICE",
        By::Unspecified => "",
    }
}

fn by_value(row: &StatRow, by: By) -> &str {
    let Some(Group { method, path, status, class, route, service }) = &row.group else { return "" };
    match by {
        By::Path => path,
        By::Method => method,
        By::Status => status,
        By::Class => class,
        By::Route => route,
        By::Service => service,
        By::Unspecified => "",
    }
}

fn figure_cells(figures: &Figures, exact_latencies: bool) -> [String; 6] {
    let [success, rps, p50, p95, p99] = figures.cells(exact_latencies);
    [success, rps, p50, p95, p99, format!("{:.0}%", figures.tls * 100.0)]
}

pub(super) fn none<const N: usize>() -> [String; N] {
    std::array::from_fn(|_| "-".to_owned())
}

pub(super) fn json(answers: &[(Kind, StatResponse)]) -> Json<'_> {
    Json {
        rows: answers.iter().flat_map(|(_, answer)| answer.rows.iter().map(json_row)).collect(),
        coverage: (&Coverage::of_stats(answers)).into(),
    }
}

fn json_row(row: &StatRow) -> JsonRow<'_> {
    let (namespace, kind, name) = resource(row);
    let (figures, connections) = (figures(row), connections(row));
    JsonRow {
        namespace,
        kind,
        name,
        path: by_value(row, By::Path),
        method: by_value(row, By::Method),
        status: by_value(row, By::Status),
        class: by_value(row, By::Class),
        meshed: meshed(row),
        figures: figures.into(),
        tls: figures.map(|figures| figures.tls),
        tcp_open_connections: connections.map(|tcp| tcp.open),
        tcp_read_bytes_rate: connections.map(|tcp| tcp.read_rate),
        tcp_write_bytes_rate: connections.map(|tcp| tcp.write_rate),
        window_ms: figures.and(row.stats.as_ref()).map(|stats| stats.window_ms),
    }
}

/// With a header; what there is no figure for is empty.
pub(super) fn csv(answers: &[(Kind, StatResponse)], by: &[By]) -> String {
    let by_names = by.iter().map(|by| by_name(*by).to_lowercase()).collect::<Vec<_>>();
    let names = ["namespace", "kind", "name"].into_iter().chain(by_names.iter().map(String::as_str)).chain([
        "meshed",
        "success",
        "rps",
        "latency_ms_p50",
        "latency_ms_p95",
        "latency_ms_p99",
        "tls",
        "tcp_open_connections",
        "tcp_read_bytes_rate",
        "tcp_write_bytes_rate",
        "window_ms",
    ]);
    let mut text = csv_line(names);
    for row in answers.iter().flat_map(|(_, answer)| &answer.rows) {
        let json = json_row(row);
        let figures = [
            json.figures.success,
            json.figures.rps,
            json.figures.latency_ms_p50,
            json.figures.latency_ms_p95,
            json.figures.latency_ms_p99,
            json.tls,
            json.tcp_open_connections.map(|open| open as f64),
            json.tcp_read_bytes_rate,
            json.tcp_write_bytes_rate,
            json.window_ms.map(f64::from),
        ];
        let figures = figures.map(|figure| figure.map(|figure| figure.to_string()).unwrap_or_default());
        let names = [json.namespace, json.kind, json.name].into_iter().chain(by.iter().map(|by| by_value(row, *by)));
        let meshed = json.meshed.as_deref().unwrap_or_default();
        text += &csv_line(names.chain([meshed]).chain(figures.iter().map(String::as_str)));
    }
    text
}

pub(super) fn figures(row: &StatRow) -> Option<Figures> {
    row.stats.as_ref().and_then(Figures::new)
}

fn connections(row: &StatRow) -> Option<Connections> {
    row.tcp.as_ref().and_then(Connections::new)
}

/// Meshed pods of running pods; what has no pods of its own, as an authority, is not meshed or unmeshed.
fn meshed(row: &StatRow) -> Option<String> {
    (row.running_pods > 0).then(|| format!("{}/{}", row.meshed_pods, row.running_pods))
}

pub(super) fn resource(row: &StatRow) -> (&str, &str, &str) {
    row.resource.as_ref().map_or(("", "", ""), |r| (r.namespace.as_str(), r.kind.as_str(), r.name.as_str()))
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::{
        common::ResourceRef,
        public::{BasicStats, TcpStats},
    };
    use expect_test::expect;

    use super::*;

    /// Namespace, name, successes, failures, seconds, percentiles in microseconds, TLS.
    type Sample = (&'static str, &'static str, u64, u64, u32, [u64; 3], u64);

    fn answer(samples: &[Sample]) -> StatResponse {
        let row =
            |&(namespace, name, success_count, failure_count, seconds, [p50, p95, p99], tls_count): &Sample| StatRow {
                resource: Some(ResourceRef {
                    kind: "deployment".into(),
                    namespace: namespace.into(),
                    name: name.into(),
                }),
                meshed_pods: 1,
                running_pods: 1,
                stats: (seconds > 0).then_some(BasicStats {
                    success_count,
                    failure_count,
                    window_ms: seconds * 1000,
                    latency_p50_us: p50,
                    latency_p95_us: p95,
                    latency_p99_us: p99,
                    tls_count,
                }),
                ..StatRow::default()
            };
        let rows = samples.iter().map(row).collect();
        StatResponse { rows, replicas_answered: 3, replicas_total: 3, ..StatResponse::default() }
    }

    const EMOJIVOTO: [Sample; 4] = [
        ("emojivoto", "emoji", 120, 0, 60, [478, 900, 1_200], 120),
        ("emojivoto", "vote-bot", 0, 0, 0, [0; 3], 0),
        ("emojivoto", "voting", 44, 14, 58, [419, 600, 800], 58),
        ("emojivoto", "web", 102, 18, 60, [2_600, 3_800, 4_100], 120),
    ];

    #[test]
    fn as_the_first_users_know_it() {
        expect![[r"
            NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
            emoji         1/1   100.00%   2.0rps           1ms           1ms           1ms   100%
            vote-bot      1/1         -        -             -             -             -      -
            voting        1/1    75.86%   1.0rps           1ms           1ms           1ms   100%
            web           1/1    85.00%   2.0rps           3ms           4ms           4ms   100%
        "]]
        .assert_eq(&table(&answer(&EMOJIVOTO), &Columns::default()).to_string());
    }

    #[test]
    fn without_tls_as_in_linkerd() {
        // Counted for 660 s, so that every rate of the original sample comes out.
        let linkerd = [
            ("emojivoto", "emoji", 5_346, 0, 660, [900, 1_000, 1_100], 0),
            ("emojivoto", "vote-bot", 0, 0, 0, [0; 3], 0),
            ("emojivoto", "voting", 638, 88, 660, [700, 1_000, 1_300], 0),
            ("emojivoto", "web", 1_298, 88, 660, [1_200, 9_000, 88_000], 0),
        ];
        expect![[r"
            NAME       MESHED   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TLS
            emoji         1/1   100.00%   8.1rps           1ms           1ms           1ms    0%
            vote-bot      1/1         -        -             -             -             -     -
            voting        1/1    87.88%   1.1rps           1ms           1ms           1ms    0%
            web           1/1    93.65%   2.1rps           1ms           9ms          88ms    0%
        "]]
        .assert_eq(&table(&answer(&linkerd), &Columns::default()).to_string());
    }

    #[test]
    fn namespaces_come_first_and_wide_is_exact() {
        let columns = Columns { namespace: true, wide: true, ..Columns::default() };
        let mut answer =
            answer(&[EMOJIVOTO[3], ("books", "a-long-name", 1_200_000, 1, 60, [99, 1_050, 2_500_000], 600_000)]);
        answer.rows[1].running_pods = 0;
        answer.rows[0].tcp = Some(TcpStats { open: 123, read_bytes: 120, write_bytes: 150_000, window_ms: 60_000 });
        expect![[r#"
            NAMESPACE   NAME          MESHED   SUCCESS          RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS   TCP_CONN   READ_BYTES/SEC   WRITE_BYTES/SEC
            emojivoto   web              1/1    85.00%       2.0rps         2.6ms         3.8ms         4.1ms   100%        123           2.0B/s         2500.0B/s
            books       a-long-name        -   100.00%   20000.0rps          99µs         1.1ms         2.50s    50%          -                -                 -
        "#]]
        .assert_eq(&table(&answer, &columns).to_string());
    }

    #[test]
    fn programs_get_numbers_and_are_told_when_some_are_missing() {
        let mut answer = answer(&EMOJIVOTO[1..3]);
        answer.replicas_answered = 2;
        expect![[r#"
            {
              "rows": [
                {
                  "namespace": "emojivoto",
                  "kind": "deployment",
                  "name": "vote-bot",
                  "meshed": "1/1",
                  "success": null,
                  "rps": null,
                  "latency_ms_p50": null,
                  "latency_ms_p95": null,
                  "latency_ms_p99": null,
                  "tls": null,
                  "tcp_open_connections": null,
                  "tcp_read_bytes_rate": null,
                  "tcp_write_bytes_rate": null,
                  "window_ms": null
                },
                {
                  "namespace": "emojivoto",
                  "kind": "deployment",
                  "name": "voting",
                  "meshed": "1/1",
                  "success": 0.7586206896551724,
                  "rps": 1.0,
                  "latency_ms_p50": 0.419,
                  "latency_ms_p95": 0.6,
                  "latency_ms_p99": 0.8,
                  "tls": 1.0,
                  "tcp_open_connections": null,
                  "tcp_read_bytes_rate": null,
                  "tcp_write_bytes_rate": null,
                  "window_ms": 58000
                }
              ],
              "replicas_answered": 2,
              "replicas_total": 3,
              "partial": true
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&json(&[(Kind::Deployment, answer)])).unwrap());
    }

    #[test]
    fn rows_by_path_and_status_of_several_kinds() {
        let mut answer = answer(&EMOJIVOTO[2..]);
        for (row, (path, status)) in answer.rows.iter_mut().zip([("/api/vote", "503"), ("/a,\"b\"", "Unknown")]) {
            row.group = Some(Group { path: path.into(), status: status.into(), ..Group::default() });
        }
        let by = vec![By::Path, By::Status];
        let columns = Columns { by: by.clone(), prefix: Some("deploy"), ..Columns::default() };
        expect![[r#"
            NAME            PATH        STATUS    SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
            deploy/voting   /api/vote   503        75.86%   1.0rps           1ms           1ms           1ms   100%
            deploy/web      /a,"b"      Unknown    85.00%   2.0rps           3ms           4ms           4ms   100%
        "#]]
        .assert_eq(&table(&answer, &columns).to_string());
        let answers = [(Kind::Deployment, answer)];
        expect![[r#"
            namespace,kind,name,path,status,meshed,success,rps,latency_ms_p50,latency_ms_p95,latency_ms_p99,tls,tcp_open_connections,tcp_read_bytes_rate,tcp_write_bytes_rate,window_ms
            emojivoto,deployment,voting,/api/vote,503,1/1,0.7586206896551724,1,0.419,0.6,0.8,1,,,,58000
            emojivoto,deployment,web,"/a,""b""",Unknown,1/1,0.85,2,2.6,3.8,4.1,1,,,,60000
        "#]].assert_eq(&csv(&answers, &by).replace('\r', ""));
        let json = serde_json::to_value(json(&answers)).unwrap();
        assert_eq!((&json["rows"][0]["path"], &json["rows"][0]["status"]), (&"/api/vote".into(), &"503".into()));
        assert!(json["rows"][0].get("method").is_none());
    }
}
