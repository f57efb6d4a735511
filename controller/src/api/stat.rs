//! `conduit stat`: every replica's counts, merged, beside the pods that there are.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    latency::Latencies,
    proto::{
        common::ResourceRef,
        peer::{CollectStatRequest, Counts},
        public::{BasicStats, ResourceSelection, StatRequest, StatResponse, StatRow, stat_request},
    },
};
use conduit_consensus::MeshState;
use tonic::Status;

use crate::{
    peer::{ask_others, server::Own},
    telemetry::{SLOT, SLOTS_MAX, matches},
};

/// A shorter window has too few reports in it to say anything.
const WINDOW_MIN: Duration = Duration::from_secs(15);
/// What replicas keep.
const WINDOW_MAX: Duration = SLOT.saturating_mul(SLOTS_MAX as u32);

/// The kinds that have rows of their own.
const KINDS: [&str; 4] = ["deployment", "pod", "namespace", "authority"];

/// Answers `request` from all replicas.
///
/// # Errors
/// INVALID_ARGUMENT when it asks for what is not counted.
pub async fn stat(own: &Own, request: StatRequest) -> Result<StatResponse, Status> {
    let selector = validate(&request)?.clone();
    let collect = CollectStatRequest { stat: Some(request.clone()) };
    let mut merged = Merged::default();
    merged.add(own.collect(&collect));
    let others = ask_others(&own.cluster, |mut peer| {
        let collect = collect.clone();
        async move { peer.collect_stat(collect).await.map(|answer| answer.into_inner().counts) }
    })
    .await;
    let replicas_total = 1 + others.len() as u32;
    let mut replicas_answered = 1;
    for counts in others.into_iter().filter_map(|other| other.answer) {
        merged.add(counts);
        replicas_answered += 1;
    }
    let state = own.cluster.state().borrow().clone();
    Ok(StatResponse { rows: merged.rows(&selector, &request, &state), replicas_answered, replicas_total })
}

fn validate(request: &StatRequest) -> Result<&ResourceSelection, Status> {
    let selector = request.selector.as_ref().ok_or_else(|| Status::invalid_argument("stat without a resource"))?;
    let other = match &request.other {
        Some(stat_request::Other::To(other) | stat_request::Other::From(other)) => Some(other),
        None => None,
    };
    for selection in other.into_iter().chain([selector]) {
        if !KINDS.contains(&selection.kind.as_str()) {
            let message = format!("there are no stats by `{}`; there are by {}", selection.kind, KINDS.join(", "));
            return Err(Status::invalid_argument(message));
        }
    }
    let window = Duration::from_millis(request.window_ms.into());
    if window < WINDOW_MIN || window > WINDOW_MAX {
        let message = format!("the time window must be from {}s to {}s", WINDOW_MIN.as_secs(), WINDOW_MAX.as_secs());
        return Err(Status::invalid_argument(message));
    }
    Ok(selector)
}

#[derive(Default)]
struct Merged {
    counts: BTreeMap<(String, String), (Counts, Latencies)>,
}

impl Merged {
    fn add(&mut self, answers: Vec<Counts>) {
        for answer in answers {
            let key = (answer.namespace.clone(), answer.name.clone());
            let (counts, latencies) = self.counts.entry(key).or_default();
            counts.success = counts.success.saturating_add(answer.success);
            counts.failure = counts.failure.saturating_add(answer.failure);
            counts.tls = counts.tls.saturating_add(answer.tls);
            // Replicas of different age have seen different parts of the window; the longest is what was asked for.
            counts.covered_ms = counts.covered_ms.max(answer.covered_ms);
            for (bucket, count) in answer.latency {
                latencies.add(bucket, count);
            }
        }
    }

    /// A row for each resource that there is, and for each that was counted.
    fn rows(mut self, selector: &ResourceSelection, request: &StatRequest, state: &MeshState) -> Vec<StatRow> {
        let mut rows = BTreeMap::new();
        for ((namespace, name), (meshed, running)) in pods_by_resource(selector, state) {
            let key = (namespace, name);
            let stats = self.counts.remove(&key).map(stats);
            // With --to or --from, a resource without such traffic is not part of the answer.
            if stats.is_some() || request.other.is_none() {
                rows.insert(key, (meshed, running, stats));
            }
        }
        for (key, counts) in self.counts {
            rows.insert(key, (0, 0, Some(stats(counts))));
        }
        let row = |((namespace, name), (meshed_pods, running_pods, stats))| StatRow {
            resource: Some(ResourceRef { kind: selector.kind.clone(), namespace, name }),
            meshed_pods,
            running_pods,
            stats,
        };
        rows.into_iter().map(row).collect()
    }
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

fn stats((counts, latencies): (Counts, Latencies)) -> BasicStats {
    let quantile = |q| latencies.quantile(q).unwrap_or_default();
    BasicStats {
        success_count: counts.success,
        failure_count: counts.failure,
        window_ms: counts.covered_ms,
        latency_p50_us: quantile(0.5),
        latency_p95_us: quantile(0.95),
        latency_p99_us: quantile(0.99),
        tls_count: counts.tls,
    }
}
