//! Routes as tables and as JSON. Pure.

use std::collections::BTreeMap;

use conduit_api::proto::public::{StatResponse, StatRow};
use serde::Serialize;

use crate::{
    resource::Kind,
    stat::{
        Coverage, JsonCoverage,
        figures::JsonFigures,
        view::{figures, none, resource},
    },
    table::{Align, Table},
};

/// Requests that no route accepted, or of which no proxy has told the route.
const DEFAULT: &str = "[DEFAULT]";

#[derive(Serialize)]
pub(super) struct Json<'a> {
    rows: Vec<JsonRow<'a>>,
    #[serde(flatten)]
    coverage: JsonCoverage,
}

/// What there is no figure for is null.
#[derive(Serialize)]
struct JsonRow<'a> {
    namespace: &'a str,
    kind: &'a str,
    name: &'a str,
    route: &'a str,
    service: &'a str,
    #[serde(flatten)]
    figures: JsonFigures,
    window_ms: Option<u32>,
}

pub(super) fn json<'a>(answers: &'a [(Kind, StatResponse)], coverage: &Coverage) -> Json<'a> {
    let rows = answers.iter().flat_map(|(_, answer)| sorted(answer.rows.iter().collect()));
    Json { rows: rows.map(json_row).collect(), coverage: coverage.into() }
}

fn json_row(row: &StatRow) -> JsonRow<'_> {
    let (namespace, kind, name) = resource(row);
    let figures = figures(row);
    let (service, route) = service_and_route(row);
    JsonRow {
        namespace,
        kind,
        name,
        route,
        service,
        window_ms: figures.and(row.stats.as_ref()).map(|stats| stats.window_ms),
        figures: figures.into(),
    }
}

/// A table for each resource; what it is of stands above it where there are several.
pub(super) fn text(answers: &[(Kind, StatResponse)], wide: bool, all_namespaces: bool) -> String {
    let mut tables = Vec::new();
    for (kind, answer) in answers {
        let mut by_resource: BTreeMap<(&str, &str), Vec<&StatRow>> = BTreeMap::new();
        for row in &answer.rows {
            let (namespace, _, name) = resource(row);
            by_resource.entry((namespace, name)).or_default().push(row);
        }
        for ((namespace, name), rows) in by_resource {
            let named = if all_namespaces && !namespace.is_empty() {
                format!("{} {namespace}/{name}", kind.as_str())
            } else {
                format!("{}/{name}", kind.as_str())
            };
            tables.push((named, table(rows, wide).to_string()));
        }
    }
    match &tables[..] {
        [(_, only)] => only.clone(),
        several => {
            let titled: Vec<_> = several.iter().map(|(named, table)| format!("==> {named} <==\n{table}")).collect();
            titled.join("\n")
        }
    }
}

fn table(rows: Vec<&StatRow>, wide: bool) -> Table {
    let names = ["SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P95", "LATENCY_P99"];
    let header = ["ROUTE", "SERVICE"].map(|name| (name, Align::Left)).into_iter();
    let mut table = Table::new(&header.chain(names.map(|name| (name, Align::Right))).collect::<Vec<_>>());
    for row in sorted(rows) {
        let (namespace, kind, name) = resource(row);
        let (service, route) = service_and_route(row);
        // Of what is in the same namespace, that is not said.
        let own = if kind == "namespace" { name } else { namespace };
        let near = service.strip_prefix(own).and_then(|rest| rest.strip_prefix('/')).unwrap_or(service);
        let figures = figures(row).map_or_else(none, |figures| figures.cells(wide));
        table.row([route.to_owned(), near.to_owned()].into_iter().chain(figures));
    }
    table
}

/// By service, and what no route accepted last.
fn sorted(mut rows: Vec<&StatRow>) -> Vec<&StatRow> {
    rows.sort_by_key(|row| {
        let (service, route) = service_and_route(row);
        (resource(row), service, route == DEFAULT, route)
    });
    rows
}

fn service_and_route(row: &StatRow) -> (&str, &str) {
    let (service, route) = row.group.as_ref().map_or(("", ""), |group| (group.service.as_str(), group.route.as_str()));
    (service, if route.is_empty() { DEFAULT } else { route })
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::{
        common::ResourceRef,
        public::{BasicStats, Group},
    };
    use expect_test::expect;

    use super::*;

    fn row(kind: &str, name: &str, service: &str, route: &str, success_count: u64, failure_count: u64) -> StatRow {
        let stats = BasicStats {
            success_count,
            failure_count,
            window_ms: 60_000,
            latency_p50_us: 700,
            latency_p95_us: 1_600,
            latency_p99_us: 2_400,
            tls_count: 0,
        };
        StatRow {
            resource: Some(ResourceRef { kind: kind.into(), namespace: "shop".into(), name: name.into() }),
            stats: (success_count + failure_count > 0).then_some(stats),
            group: Some(Group { service: service.into(), route: route.into(), ..Group::default() }),
            ..StatRow::default()
        }
    }

    fn answer(rows: Vec<StatRow>) -> StatResponse {
        StatResponse { rows, replicas_answered: 3, replicas_total: 3, ..StatResponse::default() }
    }

    #[test]
    fn what_no_route_accepted_is_last() {
        let rows = vec![
            row("service", "web", "shop/web:80", "", 0, 0),
            row("service", "web", "shop/web:80", "canary", 102, 18),
            row("service", "web", "shop/web:80", "off", 0, 6),
        ];
        let answers = [(Kind::Service, answer(rows))];
        expect![[r"
            ROUTE       SERVICE   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99
            canary      web:80     85.00%   2.0rps           1ms           2ms           2ms
            off         web:80      0.00%   0.1rps           1ms           2ms           2ms
            [DEFAULT]   web:80          -        -             -             -             -
        "]]
        .assert_eq(&text(&answers, false, false));
        let json = serde_json::to_value(json(&answers, &Coverage::of_stats(&answers))).unwrap();
        assert_eq!((&json["rows"][0]["route"], &json["rows"][0]["success"]), (&"canary".into(), &0.85.into()));
        assert_eq!((&json["rows"][2]["route"], &json["rows"][2]["rps"]), (&DEFAULT.into(), &serde_json::Value::Null));
    }

    #[test]
    fn several_resources_have_a_table_each() {
        let rows = vec![
            row("deployment", "bot", "shop/web:80", "", 60, 0),
            row("deployment", "bot", "books/authors:7001", "v2", 600, 0),
            row("deployment", "cron", "shop/web", "", 6, 0),
        ];
        expect![[r"
            ==> deployment shop/bot <==
            ROUTE       SERVICE              SUCCESS       RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99
            v2          books/authors:7001   100.00%   10.0rps         700µs         1.6ms         2.4ms
            [DEFAULT]   web:80               100.00%    1.0rps         700µs         1.6ms         2.4ms

            ==> deployment shop/cron <==
            ROUTE       SERVICE   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99
            [DEFAULT]   web       100.00%   0.1rps         700µs         1.6ms         2.4ms
        "]]
        .assert_eq(&text(&[(Kind::Deployment, answer(rows))], true, true));
        assert_eq!(text(&[(Kind::Deployment, answer(Vec::new()))], false, false), "");
    }
}
