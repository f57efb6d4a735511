//! Alerts as they are written. Pure.

use conduit_api::proto::public::{Alert, AlertEvent, ListAlertsResponse};
use serde_json::{Value, json};

use crate::{
    slo::{assessment_json, burn_columns, cells, name_cells, resource_json, state},
    table::{Align, Table},
    time::rfc3339,
};

const LEFT: Align = Align::Left;

/// What fires or is about to.
pub(super) fn table(answer: &ListAlertsResponse, namespaces: bool) -> Table {
    let burns = burn_columns(answer.alerts.first().and_then(|alert| alert.assessment.as_ref()));
    let mut columns = if namespaces { vec![("NAMESPACE", LEFT)] } else { Vec::new() };
    columns.extend([("NAME", LEFT), ("OBJECTIVE", LEFT), ("STATE", LEFT), ("SEVERITY", LEFT), ("SINCE", LEFT)]);
    columns.push(("KEPT", Align::Right));
    columns.extend(burns.iter().map(|name| (name.as_str(), Align::Right)));
    let mut table = Table::new(&columns);
    for alert in &answer.alerts {
        let (resource, assessment) =
            (alert.resource.clone().unwrap_or_default(), alert.assessment.clone().unwrap_or_default());
        let since = if assessment.since_ms > 0 { rfc3339(assessment.since_ms) } else { "-".to_owned() };
        let own = [assessment.goal.clone(), state(&assessment).to_owned(), assessment.severity.clone(), since];
        table.row(name_cells(&resource, namespaces).into_iter().chain(own).chain(cells(&assessment)));
    }
    table
}

/// What began and ended lately.
pub(super) fn history(answer: &ListAlertsResponse, namespaces: bool) -> Table {
    let mut columns = vec![("TIME", LEFT)];
    columns.extend(namespaces.then_some(("NAMESPACE", LEFT)));
    columns.extend([("NAME", LEFT), ("OBJECTIVE", LEFT), ("STATE", LEFT), ("SEVERITY", LEFT), ("WEBHOOK", LEFT)]);
    let mut table = Table::new(&columns);
    for event in &answer.events {
        let resource = event.resource.clone().unwrap_or_default();
        let delivery = if event.delivery == "none" { "-" } else { &event.delivery };
        let own = [event.goal.clone(), became(event).to_owned(), event.severity.clone(), delivery.to_owned()];
        let cells = [rfc3339(event.time_ms)].into_iter().chain(name_cells(&resource, namespaces));
        table.row(cells.chain(own));
    }
    table
}

fn became(event: &AlertEvent) -> &'static str {
    if event.firing { "firing" } else { "resolved" }
}

/// Both, for programs.
pub(super) fn json(answer: &ListAlertsResponse) -> Value {
    let alert = |alert: &Alert| {
        let mut json = assessment_json(&alert.assessment.clone().unwrap_or_default());
        json["resource"] = resource_json(alert.resource.as_ref());
        json
    };
    let event = |event: &AlertEvent| {
        json!({
            "id": format!("{}-{}", event.id, event.indicator),
            "time": rfc3339(event.time_ms),
            "resource": resource_json(event.resource.as_ref()),
            "indicator": event.indicator,
            "objective": event.goal,
            "state": became(event),
            "severity": event.severity,
            "delivery": event.delivery,
        })
    };
    json!({
        "alerts": answer.alerts.iter().map(alert).collect::<Vec<_>>(),
        "history": answer.events.iter().map(event).collect::<Vec<_>>(),
        "partial": answer.replicas_answered < answer.replicas_total,
    })
}
