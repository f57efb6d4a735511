//! `conduit stat`: every replica's counts, merged, beside the pods that there are.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    proto::{
        common::ResourceRef,
        peer::CollectStatRequest,
        public::{
            ResourceSelection, StatRequest, StatResponse, StatRow,
            stat_request::{self, By},
        },
    },
    refusals::{NO_STATS_BY, PATHS_ARE_COUNTED},
    window,
};
use conduit_consensus::MeshState;
use tonic::{Response, Status};

use super::{edges::latency_window_ms, merged::Merged};
use crate::{
    peer::{SUMS_TIMEOUT, ask_others_within, server::Own},
    telemetry::{
        Row,
        bounds::{Busy as _, TOLD, bounded},
        counts::Traffic,
        paths,
        questions::by_route,
        select::{self, Tellers, WORKLOAD_KINDS, matches},
    },
};

/// There is nothing else to tell rows apart by.
const BY_MAX: usize = 4;

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn stat(own: &Own, request: StatRequest) -> Result<StatResponse, Status> {
    let selector = validate(&request)?.clone();
    let merged = collect(own, &request).await;
    let state = own.cluster.state().borrow().clone();
    let of_links = select::is_about_receiving_pods(&selector, request.other.as_ref());
    let (rows, is_too_much) = bounded(rows(merged.traffic, &selector, &request, &state), TOLD, StatRow::traffic);
    Ok(StatResponse {
        rows,
        replicas_answered: merged.answered,
        replicas_total: merged.asked,
        replicas_outdated: merged.outdated,
        covered_ms: merged.covered_ms,
        truncated: is_too_much || merged.truncated,
        window_ms: merged.window_ms,
        since_start: merged.since_start,
        by: request.by,
        latency_window_ms: if of_links { latency_window_ms(merged.window_ms) } else { 0 },
    })
}

/// What all replicas have counted of what `request` selects.
pub async fn collect(own: &Own, request: &StatRequest) -> Merged<Row> {
    let collect = CollectStatRequest { stat: Some(request.clone()) };
    let others = ask_others_within(SUMS_TIMEOUT, &own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_stat(collect).await.map(Response::into_inner) }
    });
    let (own_answer, others) = tokio::join!(own.collect(collect.clone()), others);
    let by: Vec<_> = request.by().collect();
    let mut merged = Merged::new(own, request.window_ms, needed_level(request), Tellers::of(request));
    merged.add_all(
        own_answer,
        others,
        |answer| (answer.heard, answer.counts),
        |mut counts| {
            let group = counts.group.take().unwrap_or_default();
            let (namespace, name) = (std::mem::take(&mut counts.namespace), std::mem::take(&mut counts.name));
            ((namespace, name, paths::values(&group, &by)), counts)
        },
    );
    merged
}

/// What an older release would misunderstand.
fn needed_level(request: &StatRequest) -> u32 {
    let other = match &request.other {
        Some(stat_request::Other::To(other) | stat_request::Other::From(other)) => other.kind.as_str(),
        None => "",
    };
    if by_route(&request.by().collect::<Vec<_>>()) {
        return 2;
    }
    let kind = request.selector.as_ref().map_or("", |selector| selector.kind.as_str());
    if request
        .selector
        .as_ref()
        .is_some_and(|selector| select::is_about_receiving_pods(selector, request.other.as_ref()))
        || (request.other.is_some() && (kind == "authority" || other == "authority"))
    {
        return 3;
    }
    u32::from(!request.by.is_empty() || kind == "service" || other == "service")
}

fn validate(request: &StatRequest) -> Result<&ResourceSelection, Status> {
    let selector = request.selector.as_ref().ok_or_else(|| Status::invalid_argument("stat without a resource"))?;
    let other = match &request.other {
        Some(stat_request::Other::To(other) | stat_request::Other::From(other)) => Some(other),
        None => None,
    };
    for selection in other.into_iter().chain([selector]) {
        counted_kind(&selection.kind, &["authority", "service"])?;
    }
    counted_window(request.window_ms)?;
    let asks = match &request.other {
        Some(stat_request::Other::From(from)) => Some(from),
        Some(stat_request::Other::To(_)) => Some(selector),
        None => None,
    };
    match asks.map(|asks| asks.kind.as_str()) {
        Some("service") => Err(Status::invalid_argument(
            "a service sends nothing: ask what is sent to it, as in `stat svc/NAME --from deploy/NAME`",
        )),
        Some("authority") => Err(Status::invalid_argument(
            "an authority sends nothing: ask who asks for it, as in `stat deploy --to au/NAME` or `stat au --from deploy/NAME`",
        )),
        _ => Ok(()),
    }?;
    let by: Vec<_> = request.by().collect();
    if by.len() != request.by.len() || by.contains(&By::Unspecified) || by.len() > BY_MAX {
        return Err(Status::invalid_argument(
            "rows are told apart by path, method, status and class, or by route and service, each once",
        ));
    }
    if by_route(&by) {
        return counted_by_route(&by, selector, request.other.as_ref()).map(|()| selector);
    }
    let is_told_by_clients = matches!(selector.kind.as_str(), "authority" | "service");
    if !request.by.is_empty() && (request.other.is_some() || is_told_by_clients) {
        let message = "of what is received: not of authorities and services, and not together with --to or --from";
        return Err(Status::invalid_argument(format!("{PATHS_ARE_COUNTED} {message}")));
    }
    Ok(selector)
}

/// Whether there are counts by route of what is asked for.
fn counted_by_route(
    by: &[By],
    selector: &ResourceSelection,
    other: Option<&stat_request::Other>,
) -> Result<(), Status> {
    if by.iter().any(|by| !matches!(by, By::Route | By::Service)) {
        let message = "rows are told apart by route and service, or by path, method, status and class: senders know the ones, \
                       and receivers the others";
        return Err(Status::invalid_argument(message));
    }
    let (got, sent) = match other {
        Some(stat_request::Other::To(to)) => (to, Some(selector)),
        Some(stat_request::Other::From(from)) => (selector, Some(from)),
        None => (selector, None),
    };
    if [Some(got), sent].into_iter().flatten().any(|end| end.kind == "authority") {
        return Err(Status::invalid_argument("routes are of services: there are none by authority"));
    }
    if got.kind == "pod" {
        let message = "what was sent by a route is counted by the workload that got it, not by its pod: ask for the workload, or, \
                       with --to, what the pod has sent";
        return Err(Status::invalid_argument(message));
    }
    Ok(())
}

/// Whether there are counts by `kind`: every kind of workload, pods, namespaces, and `more`.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn counted_kind(kind: &str, more: &[&str]) -> Result<(), Status> {
    let kinds = || WORKLOAD_KINDS.iter().chain(&["pod", "namespace"]).chain(more).copied();
    if kinds().any(|counted| counted == kind) {
        return Ok(());
    }
    let kinds = kinds().collect::<Vec<_>>().join(", ");
    Err(Status::invalid_argument(format!("{NO_STATS_BY} `{kind}`; there are by {kinds}")))
}

/// Whether there are counts over so many milliseconds.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn counted_window(window_ms: u32) -> Result<(), Status> {
    window::check(Duration::from_millis(window_ms.into())).map_err(Status::invalid_argument)
}

/// A row for each resource that there is, and for each that was counted.
fn rows(
    mut counted: BTreeMap<Row, Traffic>,
    selector: &ResourceSelection,
    request: &StatRequest,
    state: &MeshState,
) -> Vec<StatRow> {
    let mut rows = BTreeMap::new();
    // What was asked of some traffic only is not told of a resource without any.
    let is_of_some = request.other.is_some() || !request.by.is_empty();
    for ((namespace, name), (meshed, running)) in pods_by_resource(selector, state) {
        let key = (namespace, name, Vec::new());
        let traffic = counted.remove(&key);
        if traffic.is_some() || !is_of_some {
            rows.insert(key, (meshed, running, traffic.unwrap_or_default()));
        }
    }
    let by: Vec<_> = request.by().collect();
    if request.other.is_none() && by_route(&by) {
        for key in routes_there_are(selector, &by, state) {
            counted.entry(key).or_default();
        }
    }
    rows.extend(counted.into_iter().map(|(key, traffic)| (key, (0, 0, traffic))));
    let row = |((namespace, name, values), (meshed_pods, running_pods, traffic)): (Row, (u32, u32, Traffic))| StatRow {
        group: paths::group(&by, values),
        resource: Some(ResourceRef { kind: selector.kind.clone(), namespace, name }),
        meshed_pods,
        running_pods,
        stats: traffic.stats(),
        tcp: traffic.tcp_stats(),
    };
    rows.into_iter().map(row).collect()
}

/// All routes of the selected services, by port; and for each port what no route accepts.
fn routes_there_are(selector: &ResourceSelection, by: &[By], state: &MeshState) -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, ports) in state.services().iter().map(|(name, service)| (name, &service.value.ports)) {
        let (namespace, name) = (service.namespace(), service.name());
        if !matches(selector, "service", namespace, name) {
            continue;
        }
        let table = state.routes_of(service);
        for port in ports.keys() {
            let routes = table.into_iter().flat_map(|table| table.of_port(*port)).map(|choice| choice.route.name());
            for route in routes.chain([""]) {
                let value = |by: &By| match by {
                    By::Service => select::service_value(namespace, name, *port),
                    _ => route.to_owned(),
                };
                rows.push((namespace.to_owned(), name.to_owned(), by.iter().map(value).collect()));
            }
        }
    }
    rows
}

/// How many pods each selected resource has: meshed, and all. A service has none of its own: it is what clients ask for.
fn pods_by_resource(selector: &ResourceSelection, state: &MeshState) -> BTreeMap<(String, String), (u32, u32)> {
    let mut found = BTreeMap::new();
    if selector.kind == "service" {
        let services =
            state.services().keys().map(|service| (service.namespace().to_owned(), service.name().to_owned()));
        let selected = services.filter(|(namespace, name)| matches(selector, "service", namespace, name));
        return selected.map(|service| (service, (0, 0))).collect();
    }
    for pod in state.pods().values().map(|pod| &pod.value) {
        if let Some(resource) = select::selected(&pod.name, pod.workload.as_ref(), selector) {
            let (meshed, running) = found.entry(resource).or_insert((0, 0));
            *meshed += u32::from(pod.meshed);
            *running += 1;
        }
    }
    found
}
