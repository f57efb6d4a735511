//! An answer as a table and as JSON. Pure.

use conduit_api::proto::public::{StatResponse, StatRow};
use serde::Serialize;

use super::figures::{Figures, exact_latency, rounded_latency};
use crate::table::{Align, Table};

/// Which form the table has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Columns {
    /// The first column is the namespace.
    pub(super) namespace: bool,
    /// Latencies below a millisecond are told apart.
    pub(super) exact_latencies: bool,
}

#[derive(Serialize)]
pub(super) struct Json<'a> {
    rows: Vec<JsonRow<'a>>,
    replicas_answered: u32,
    replicas_total: u32,
    /// Some replicas' counts are missing.
    partial: bool,
}

/// What there is no figure for is null.
#[derive(Serialize)]
struct JsonRow<'a> {
    namespace: &'a str,
    kind: &'a str,
    name: &'a str,
    meshed: Option<String>,
    success: Option<f64>,
    rps: Option<f64>,
    latency_ms_p50: Option<f64>,
    latency_ms_p95: Option<f64>,
    latency_ms_p99: Option<f64>,
    tls: Option<f64>,
    window_ms: Option<u32>,
}

/// Fewer replicas answered than there are.
pub(super) fn is_partial(answer: &StatResponse) -> bool {
    answer.replicas_answered < answer.replicas_total
}

pub(super) fn table(answer: &StatResponse, columns: Columns) -> Table {
    let mut header = vec![
        ("NAME", Align::Left),
        ("MESHED", Align::Right),
        ("SUCCESS", Align::Right),
        ("RPS", Align::Right),
        ("LATENCY_P50", Align::Right),
        ("LATENCY_P95", Align::Right),
        ("LATENCY_P99", Align::Right),
        ("TLS", Align::Right),
    ];
    if columns.namespace {
        header.insert(0, ("NAMESPACE", Align::Left));
    }
    let mut table = Table::new(&header);
    for row in &answer.rows {
        let (namespace, _, name) = resource(row);
        let namespace = columns.namespace.then(|| namespace.to_owned());
        let names = namespace.into_iter().chain([name.to_owned(), meshed(row).unwrap_or_else(|| "-".to_owned())]);
        table.row(names.chain(figures(row).map_or(none(), |figures| cells(&figures, columns.exact_latencies))));
    }
    table
}

fn cells(figures: &Figures, exact_latencies: bool) -> [String; 6] {
    let latency = if exact_latencies { exact_latency } else { rounded_latency };
    let [p50, p95, p99] = figures.latencies_us.map(latency);
    let percent = |share: f64| share * 100.0;
    let (success, tls) = (percent(figures.success), percent(figures.tls));
    [format!("{success:.2}%"), format!("{:.1}rps", figures.rps), p50, p95, p99, format!("{tls:.0}%")]
}

fn none() -> [String; 6] {
    std::array::from_fn(|_| "-".to_owned())
}

pub(super) fn json(answer: &StatResponse) -> Json<'_> {
    Json {
        rows: answer.rows.iter().map(json_row).collect(),
        replicas_answered: answer.replicas_answered,
        replicas_total: answer.replicas_total,
        partial: is_partial(answer),
    }
}

fn json_row(row: &StatRow) -> JsonRow<'_> {
    let (namespace, kind, name) = resource(row);
    let figures = figures(row);
    let latency_ms = |index: usize| figures.map(|figures| figures.latencies_us[index] as f64 / 1000.0);
    JsonRow {
        namespace,
        kind,
        name,
        meshed: meshed(row),
        success: figures.map(|figures| figures.success),
        rps: figures.map(|figures| figures.rps),
        latency_ms_p50: latency_ms(0),
        latency_ms_p95: latency_ms(1),
        latency_ms_p99: latency_ms(2),
        tls: figures.map(|figures| figures.tls),
        window_ms: figures.and(row.stats.as_ref()).map(|stats| stats.window_ms),
    }
}

fn figures(row: &StatRow) -> Option<Figures> {
    row.stats.as_ref().and_then(Figures::new)
}

/// Meshed pods of running pods; what has no pods of its own, as an authority, is not meshed or unmeshed.
fn meshed(row: &StatRow) -> Option<String> {
    (row.running_pods > 0).then(|| format!("{}/{}", row.meshed_pods, row.running_pods))
}

fn resource(row: &StatRow) -> (&str, &str, &str) {
    row.resource.as_ref().map_or(("", "", ""), |r| (r.namespace.as_str(), r.kind.as_str(), r.name.as_str()))
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::{common::ResourceRef, public::BasicStats};
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
        StatResponse { rows: samples.iter().map(row).collect(), replicas_answered: 3, replicas_total: 3 }
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
        .assert_eq(&table(&answer(&EMOJIVOTO), Columns::default()).to_string());
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
        .assert_eq(&table(&answer(&linkerd), Columns::default()).to_string());
    }

    #[test]
    fn namespaces_come_first_and_wide_is_exact() {
        let columns = Columns { namespace: true, exact_latencies: true };
        let mut answer =
            answer(&[EMOJIVOTO[3], ("books", "a-long-name", 1_200_000, 1, 60, [99, 1_050, 2_500_000], 600_000)]);
        answer.rows[1].running_pods = 0;
        expect![[r"
            NAMESPACE   NAME          MESHED   SUCCESS          RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99    TLS
            emojivoto   web              1/1    85.00%       2.0rps         2.6ms         3.8ms         4.1ms   100%
            books       a-long-name        -   100.00%   20000.0rps          99µs         1.1ms         2.50s    50%
        "]]
        .assert_eq(&table(&answer, columns).to_string());
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
                  "window_ms": 58000
                }
              ],
              "replicas_answered": 2,
              "replicas_total": 3,
              "partial": true
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&json(&answer)).unwrap());
    }
}
