//! `conduit stat`: every replica's counts, merged, beside the pods that there are.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::proto::{
    common::ResourceRef,
    peer::CollectStatRequest,
    public::{
        ResourceSelection, StatRequest, StatResponse, StatRow,
        stat_request::{self, By},
    },
};
use conduit_consensus::MeshState;
use tonic::Status;

use crate::{
    peer::{Answer, ask_others, server::Own},
    telemetry::{
        Row,
        counts::Traffic,
        paths,
        select::{WORKLOAD_KINDS, matches},
        slots::{SLOT, SLOTS_MAX},
    },
};

/// A shorter window has too few reports in it to say anything.
const WINDOW_MIN: Duration = Duration::from_secs(15);
/// There is nothing else to tell rows apart by.
const BY_MAX: usize = 4;
/// What replicas keep.
const WINDOW_MAX: Duration = SLOT.saturating_mul(SLOTS_MAX as u32);

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn stat(own: &Own, request: StatRequest) -> Result<StatResponse, Status> {
    let selector = validate(&request)?.clone();
    let collect = CollectStatRequest { stat: Some(request.clone()) };
    let others = ask_others(&own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_stat(collect).await.map(|answer| answer.into_inner().counts) }
    })
    .await;
    let by: Vec<_> = request.by().collect();
    let mut merged = Merged::default();
    merged.add_all(own.collect(&collect), others, |mut counts| {
        let group = counts.group.take().unwrap_or_default();
        let (namespace, name) = (std::mem::take(&mut counts.namespace), std::mem::take(&mut counts.name));
        ((namespace, name, paths::values(&group, &by)), Traffic::from_wire(counts))
    });
    let Merged { answered: replicas_answered, asked: replicas_total, traffic } = merged;
    let state = own.cluster.state().borrow().clone();
    Ok(StatResponse { rows: rows(traffic, &selector, &request, &state), replicas_answered, replicas_total })
}

fn validate(request: &StatRequest) -> Result<&ResourceSelection, Status> {
    let selector = request.selector.as_ref().ok_or_else(|| Status::invalid_argument("stat without a resource"))?;
    let other = match &request.other {
        Some(stat_request::Other::To(other) | stat_request::Other::From(other)) => Some(other),
        None => None,
    };
    for selection in other.into_iter().chain([selector]) {
        counted_kind(&selection.kind, &["authority"])?;
    }
    counted_window(request.window_ms)?;
    if !request.by.is_empty() && (request.other.is_some() || selector.kind == "authority") {
        let message = "paths, methods and statuses are counted of what is received: not of authorities, and not together \
                       with --to or --from";
        return Err(Status::invalid_argument(message));
    }
    if request.by.len() > BY_MAX || request.by().any(|by| by == By::Unspecified) {
        return Err(Status::invalid_argument("rows are told apart by path, method, status and class, each once"));
    }
    Ok(selector)
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
    Err(Status::invalid_argument(format!("there are no stats by `{kind}`; there are by {kinds}")))
}

/// Whether there are counts over so many milliseconds.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn counted_window(window_ms: u32) -> Result<(), Status> {
    let window = Duration::from_millis(window_ms.into());
    if (WINDOW_MIN..=WINDOW_MAX).contains(&window) {
        return Ok(());
    }
    let message = format!("the time window must be from {}s to {}s", WINDOW_MIN.as_secs(), WINDOW_MAX.as_secs());
    Err(Status::invalid_argument(message))
}

/// What the replicas that answered have counted.
pub struct Merged<K> {
    /// All of it.
    pub traffic: BTreeMap<K, Traffic>,
    /// Replicas that answered, this one among them.
    pub answered: u32,
    /// Replicas.
    pub asked: u32,
}

impl<K> Default for Merged<K> {
    fn default() -> Self {
        Self { traffic: BTreeMap::new(), answered: 0, asked: 0 }
    }
}

impl<K: Ord> Merged<K> {
    /// Adds this replica's own answer and those of the others.
    pub fn add_all<T>(&mut self, own: Vec<T>, others: Vec<Answer<Vec<T>>>, parse: impl Fn(T) -> (K, Traffic)) {
        self.asked = 1 + others.len() as u32;
        for answer in others.into_iter().filter_map(|other| other.answer).chain([own]) {
            self.answered += 1;
            for (key, traffic) in answer.into_iter().map(&parse) {
                self.traffic.entry(key).or_default().merge(&traffic);
            }
        }
    }
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
    rows.extend(counted.into_iter().map(|(key, traffic)| (key, (0, 0, traffic))));
    let by: Vec<_> = request.by().collect();
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

/// How many pods each selected resource has: meshed, and all.
fn pods_by_resource(selector: &ResourceSelection, state: &MeshState) -> BTreeMap<(String, String), (u32, u32)> {
    let mut found = BTreeMap::new();
    for pod in state.pods().values().map(|pod| &pod.value) {
        let namespace = pod.name.namespace().to_owned();
        let resource = match (selector.kind.as_str(), &pod.workload) {
            ("pod", _) => (namespace, pod.name.name().to_owned()),
            ("namespace", _) => (String::new(), namespace),
            (kind, Some(workload)) if workload.kind == kind => (namespace, workload.name.clone()),
            _ => continue,
        };
        if matches(selector, &selector.kind, &resource.0, &resource.1) {
            let (meshed, running) = found.entry(resource).or_insert((0, 0));
            *meshed += u32::from(pod.meshed);
            *running += 1;
        }
    }
    found
}
