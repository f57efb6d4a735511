//! Objectives as they are written. Pure.

use std::io::Write;

use conduit_api::proto::{
    common::ResourceRef,
    public::{Assessment, BurnRate, ListObjectivesResponse, assessment::State},
};
use serde_json::{Value, json};

use crate::{
    table::{Align, Table},
    time::rfc3339,
};

const NOTHING: &str = "-";

/// A row for each promise.
pub(super) fn table(answer: &ListObjectivesResponse, namespaces: bool) -> Table {
    let first = answer.objectives.iter().flat_map(|objective| &objective.assessments).next();
    let burns = burn_columns(first);
    let mut columns = if namespaces { vec![("NAMESPACE", Align::Left)] } else { Vec::new() };
    columns.extend([("NAME", Align::Left), ("OBJECTIVE", Align::Left), ("STATE", Align::Left), ("KEPT", Align::Right)]);
    columns.extend(burns.iter().map(|name| (name.as_str(), Align::Right)));
    // Mostly there are no such objects.
    let is_any_declared = answer.objectives.iter().any(|objective| !objective.declared_by.is_empty());
    columns.extend(is_any_declared.then_some(("DECLARED_BY", Align::Left)));
    let mut table = Table::new(&columns);
    for objective in &answer.objectives {
        let resource = objective.resource.clone().unwrap_or_default();
        for assessment in &objective.assessments {
            let state = state(assessment).to_owned();
            let own = [assessment.goal.clone(), state];
            let declared_by = match objective.declared_by.as_str() {
                "" => NOTHING,
                declared_by => declared_by,
            };
            let declared_by = is_any_declared.then(|| declared_by.to_owned());
            let cells = own.into_iter().chain(cells(assessment)).chain(declared_by);
            table.row(name_cells(&resource, namespaces).into_iter().chain(cells));
        }
    }
    table
}

/// Namespace, if it is asked for, and name.
pub(crate) fn name_cells(resource: &ResourceRef, namespaces: bool) -> Vec<String> {
    let kind = resource.kind.parse::<crate::resource::Kind>().map_or(resource.kind.as_str(), |kind| kind.short());
    let name = format!("{kind}/{}", resource.name);
    let namespace = if resource.namespace.is_empty() { NOTHING } else { &resource.namespace };
    if namespaces { vec![namespace.to_owned(), name] } else { vec![name] }
}

/// `BURN_5M` and so on: how fast the budget is used up within that time.
pub(crate) fn burn_columns(assessment: Option<&Assessment>) -> Vec<String> {
    let rates = assessment.into_iter().flat_map(|assessment| &assessment.burn_rates);
    rates.map(|rate| format!("BURN_{}", window(rate).to_ascii_uppercase())).collect()
}

/// The share that is as promised, of the shortest window that has requests enough, and how fast the budget is used up.
pub(crate) fn cells(assessment: &Assessment) -> Vec<String> {
    let known = assessment.burn_rates.iter().find(|rate| rate.rate.is_some() && rate.requests > 0);
    let share = |rate: &BurnRate| 100.0 - rate.bad as f64 * 100.0 / rate.requests as f64;
    let kept = known.map_or_else(|| NOTHING.to_owned(), |rate| format!("{:.2}%", share(rate)));
    let burn = |rate: &BurnRate| rate.rate.map_or_else(|| NOTHING.to_owned(), |rate| format!("{rate:.1}x"));
    [kept].into_iter().chain(assessment.burn_rates.iter().map(burn)).collect()
}

fn window(rate: &BurnRate) -> String {
    let seconds = rate.window_ms / 1000;
    match seconds {
        s if s > 0 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        s if s > 0 && s.is_multiple_of(60) => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// In a word.
pub(crate) fn state(assessment: &Assessment) -> &'static str {
    match assessment.state() {
        State::Met => "met",
        State::Pending => "pending",
        State::Firing => "firing",
        State::Unknown | State::Unspecified => "unknown",
    }
}

/// What the table cannot say.
pub(crate) fn note_missing(answered: u32, total: u32, notes: &mut impl Write) -> anyhow::Result<()> {
    if answered < total {
        writeln!(notes, "{} of {total} controllers did not answer: what they know is missing.", total - answered)?;
    }
    Ok(())
}

/// The same for programs.
pub(super) fn json(answer: &ListObjectivesResponse) -> Value {
    let objective = |objective: &conduit_api::proto::public::Objective| {
        json!({
            "resource": resource_json(objective.resource.as_ref()),
            "revision": objective.revision,
            "declared_by": (!objective.declared_by.is_empty()).then_some(&objective.declared_by),
            "objectives": objective.assessments.iter().map(assessment_json).collect::<Vec<_>>(),
        })
    };
    json!({
        "objectives": answer.objectives.iter().map(objective).collect::<Vec<_>>(),
        "partial": answer.replicas_answered < answer.replicas_total,
    })
}

/// A resource.
pub(crate) fn resource_json(resource: Option<&ResourceRef>) -> Value {
    let ResourceRef { kind, namespace, name } = resource.cloned().unwrap_or_default();
    json!({"kind": kind, "namespace": namespace, "name": name})
}

/// How a promise is kept.
pub(crate) fn assessment_json(assessment: &Assessment) -> Value {
    let rate = |rate: &BurnRate| {
        json!({
            "window_ms": rate.window_ms,
            "burn_rate": rate.rate,
            "requests": rate.requests,
            "bad": rate.bad,
            "partial": rate.partial,
        })
    };
    json!({
        "indicator": assessment.indicator,
        "objective": assessment.goal,
        "state": state(assessment),
        "severity": (!assessment.severity.is_empty()).then_some(&assessment.severity),
        "since": (assessment.since_ms > 0).then(|| rfc3339(assessment.since_ms)),
        "windows": assessment.burn_rates.iter().map(rate).collect::<Vec<_>>(),
    })
}
