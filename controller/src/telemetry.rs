//! What proxies counted, kept in memory for an hour and added up on demand. Pure.
//!
//! Each replica keeps what the proxies attached to it reported; a query asks all replicas and merges ([`crate::api`]). None
//! of it is replicated: it is high in rate, and losing a replica's part is told to the person who asks, never hidden.

pub mod server;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use conduit_api::{
    PodName, WorkloadRef,
    latency::Latencies,
    proto::{
        common::{Direction, tls},
        public::{ResourceSelection, StatRequest, stat_request},
        telemetry::{ReportRequest, RequestCounts},
    },
};
use tokio::time::Instant;

/// Counts are kept by slots of this length; a window is a whole number of them.
pub const SLOT: Duration = Duration::from_secs(5);
/// An hour of slots, the longest window that can be asked for.
pub const SLOTS_MAX: usize = 720;
/// Different rows in one slot. Past it, rows are dropped and counted, so that no number of names exhausts memory: at
/// about 500 bytes a row this is 5 MB in the slot being filled.
pub const ROWS_PER_SLOT_MAX: usize = 10_000;

/// Whose traffic a row counts, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pod: PodName,
    workload: Option<WorkloadRef>,
    inbound: bool,
    authority: String,
    /// (kind, namespace, name) of the other end; empty where it is not known.
    peer: (String, String, String),
}

/// Requests and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered well.
    pub success: u64,
    /// Not answered, or badly.
    pub failure: u64,
    /// Those over mutual TLS.
    pub tls: u64,
    /// Times to the first byte of the response.
    pub latencies: Latencies,
}

impl Counts {
    /// Adds `other`, which may be whatever a proxy says.
    pub fn merge(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.failure = self.failure.saturating_add(other.failure);
        self.tls = self.tls.saturating_add(other.tls);
        self.latencies.merge(&other.latencies);
    }
}

struct Slot {
    start: Instant,
    rows: BTreeMap<Arc<Key>, Counts>,
}

/// The counts of this replica.
pub struct Telemetry {
    started: Instant,
    slots: VecDeque<Slot>,
    /// The last report of each proxy: its incarnation and sequence.
    last: BTreeMap<PodName, (u64, u64)>,
    dropped_rows: u64,
    reports: u64,
}

impl Telemetry {
    /// Empty, from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { started: now, slots: VecDeque::new(), last: BTreeMap::new(), dropped_rows: 0, reports: 0 }
    }

    /// Adds a proxy's report; one that was added before is ignored.
    pub fn report(&mut self, now: Instant, pod: PodName, workload: Option<WorkloadRef>, report: ReportRequest) {
        let sent = (report.incarnation, report.sequence);
        if self.last.get(&pod).is_some_and(|last| last.0 == sent.0 && sent.1 <= last.1) {
            return;
        }
        self.last.insert(pod.clone(), sent);
        self.reports += 1;
        let slot = self.slot(now);
        let mut dropped = 0;
        for counts in report.requests {
            let key = Key {
                pod: pod.clone(),
                workload: workload.clone(),
                inbound: counts.direction() == Direction::Inbound,
                authority: counts.authority.clone(),
                peer: counts.peer.clone().map(|p| (p.kind, p.namespace, p.name)).unwrap_or_default(),
            };
            if slot.rows.len() >= ROWS_PER_SLOT_MAX && !slot.rows.contains_key(&key) {
                dropped += 1;
                continue;
            }
            slot.rows.entry(Arc::new(key)).or_default().merge(&parse(&counts));
        }
        self.dropped_rows += dropped;
    }

    /// Rows lost to [`ROWS_PER_SLOT_MAX`] since the start.
    pub fn dropped_rows(&self) -> u64 {
        self.dropped_rows
    }

    /// Reports that were added since the start.
    pub fn reports(&self) -> u64 {
        self.reports
    }

    /// The time that a query for `window` is answered over: whole slots, and not before this replica started.
    pub fn covered(&self, now: Instant, window: Duration) -> Duration {
        now.duration_since(self.begin(now, window))
    }

    /// Where the first slot begins that is no older than `window`.
    fn begin(&self, now: Instant, window: Duration) -> Instant {
        let before = now.duration_since(self.started).saturating_sub(window);
        self.started + SLOT * before.as_nanos().div_ceil(SLOT.as_nanos()) as u32
    }

    /// The counts per resource (namespace, name) that `request` selects, of `window` before `now`.
    pub fn query(&self, now: Instant, window: Duration, request: &StatRequest) -> BTreeMap<(String, String), Counts> {
        let mut found: BTreeMap<(String, String), Counts> = BTreeMap::new();
        let Some(selector) = &request.selector else { return found };
        let begin = self.begin(now, window);
        for slot in self.slots.iter().rev().take_while(|slot| slot.start >= begin) {
            for (key, counts) in &slot.rows {
                if let Some(resource) = select(key, selector, request.other.as_ref()) {
                    found.entry(resource).or_default().merge(counts);
                }
            }
        }
        found
    }

    fn slot(&mut self, now: Instant) -> &mut Slot {
        if self.slots.back().is_none_or(|slot| now >= slot.start + SLOT) {
            // Starts are multiples of the slot since this replica started, so that idle time leaves no odd slots.
            let slots = (now.duration_since(self.started).as_nanos() / SLOT.as_nanos()) as u32;
            if self.slots.len() == SLOTS_MAX {
                self.slots.pop_front();
            }
            self.slots.push_back(Slot { start: self.started + SLOT * slots, rows: BTreeMap::new() });
        }
        self.slots.back_mut().expect("a slot was pushed if there was none")
    }
}

/// The resource, of the kind selected, that a row counts for.
///
/// Without `other` these are requests that the selected resources received, as their own proxies saw them. With it they are
/// what the sender's proxy saw, since only that knows both ends.
fn select(key: &Key, selector: &ResourceSelection, other: Option<&stat_request::Other>) -> Option<(String, String)> {
    let own = own_resource(key, &selector.kind);
    let peer = (key.peer.0 == selector.kind).then(|| (key.peer.1.clone(), key.peer.2.clone()));
    let resource = match other {
        None if selector.kind == "authority" => (!key.inbound && !key.authority.is_empty())
            .then(|| (key.pod.namespace().to_owned(), key.authority.clone()))?,
        None => own.filter(|_| key.inbound)?,
        Some(stat_request::Other::To(to)) => {
            let sent_there = matches(to, &key.peer.0, &key.peer.1, &key.peer.2);
            own.filter(|_| !key.inbound && sent_there)?
        }
        Some(stat_request::Other::From(from)) => {
            let (namespace, name) = own_resource(key, &from.kind)?;
            peer.filter(|_| !key.inbound && matches(from, &from.kind, &namespace, &name))?
        }
    };
    matches(selector, &selector.kind, &resource.0, &resource.1).then_some(resource)
}

fn own_resource(key: &Key, kind: &str) -> Option<(String, String)> {
    let namespace = key.pod.namespace().to_owned();
    match (kind, &key.workload) {
        ("pod", _) => Some((namespace, key.pod.name().to_owned())),
        ("namespace", _) => Some((String::new(), namespace)),
        (kind, Some(workload)) if workload.kind == kind => Some((namespace, workload.name.clone())),
        _ => None,
    }
}

/// Whether a selection takes in the resource of `kind`, `namespace`, `name`. Namespaces are in no namespace.
pub fn matches(selection: &ResourceSelection, kind: &str, namespace: &str, name: &str) -> bool {
    let in_namespace = kind == "namespace" || selection.namespace.is_empty() || selection.namespace == namespace;
    selection.kind == kind && in_namespace && (selection.name.is_empty() || selection.name == name)
}

fn parse(counts: &RequestCounts) -> Counts {
    let mut latencies = Latencies::default();
    for bucket in &counts.latency {
        latencies.add(bucket.index, bucket.count);
    }
    let mutual = counts.tls.as_ref().is_some_and(|tls| tls.state() == tls::State::Mutual);
    let tls = if mutual { counts.success.saturating_add(counts.failure) } else { 0 };
    Counts { success: counts.success, failure: counts.failure, tls, latencies }
}

#[cfg(test)]
mod tests;
