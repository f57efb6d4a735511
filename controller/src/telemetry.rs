//! What proxies counted, kept in memory for an hour and added up on demand. Pure.
//!
//! Each replica keeps what the proxies attached to it reported; a query asks all replicas and merges ([`crate::api`]). None
//! of it is replicated: it is high in rate, and losing a replica's part is told to the person who asks, never hidden.
//!
//! - [`slots`]: time. [`counts`]: what is added up. [`select`]: which rows a question is about.
//! - [`edges`]: who speaks with whom. [`paths`]: what is asked for, and how that ends. [`series`]: how it was as time passed.

pub mod counts;
pub mod edges;
pub mod paths;
pub mod select;
pub mod series;
pub mod server;
pub mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use conduit_api::{
    PodName, WorkloadRef,
    proto::{
        common::{Direction, Tls},
        public::{EdgesRequest, ResourceSelection, StatRequest},
        telemetry::{ReportRequest, RequestCounts, TcpCounts},
    },
};

use self::{
    counts::{Counts, Tcp, Traffic},
    edges::Ends,
    paths::Path,
    select::Peer,
    series::Steps,
    slots::{Now, Slots},
};

/// Different rows of one kind in one slot. Past it, rows are dropped and counted, so that no number of names exhausts memory.
pub const ROWS_PER_SLOT_MAX: usize = 10_000;
/// Rows in all slots. Past it the oldest slots are forgotten, and answers say what they cover: at about 500 bytes a row this
/// is 150 MB, which a mesh of some hundred workloads is far below.
pub const ROWS_MAX: usize = 300_000;
/// How many connections are open is told at least every ten seconds: what was said earlier, in so many slots, is of a proxy that has gone.
const OPEN_SLOTS: u32 = 3;

/// Whose proxy counted it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reporter {
    /// The pod beside it.
    pub pod: PodName,
    /// What owns that.
    pub workload: Option<WorkloadRef>,
    /// Its SPIFFE id.
    pub identity: String,
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requests {
    reporter: Arc<Reporter>,
    inbound: bool,
    authority: String,
    /// Without its pod: clients use all pods of a service, which would be as many rows.
    peer: Peer,
}

/// What connections are counted by, and requests between two pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    reporter: Arc<Reporter>,
    inbound: bool,
    peer: Peer,
    /// `Tls` of the wire: its state, and the peer's id.
    tls: (i32, String),
}

#[derive(Default)]
struct Slot {
    requests: BTreeMap<Requests, Counts>,
    links: BTreeMap<Link, Linked>,
    paths: BTreeMap<Path, Counts>,
}

/// Namespace and name of a resource, and what the request for rows asked to tell them apart by.
pub type Row = (String, String, Vec<String>);

#[derive(Default)]
struct Linked {
    traffic: Traffic,
    /// A report said how many connections are open.
    says_open: bool,
}

/// The counts of this replica.
pub struct Telemetry {
    slots: Slots<Slot>,
    /// The last report of each proxy: its incarnation and sequence.
    last: BTreeMap<PodName, (u64, u64)>,
    dropped_rows: u64,
    reports: u64,
}

impl Telemetry {
    /// Empty, from `now` on.
    pub fn new(now: Now) -> Self {
        Self { slots: Slots::new(now.monotonic), last: BTreeMap::new(), dropped_rows: 0, reports: 0 }
    }

    /// Adds a proxy's report; one that was added before is ignored.
    pub fn report(&mut self, now: Now, reporter: Reporter, report: ReportRequest) {
        let sent = (report.incarnation, report.sequence);
        if self.last.get(&reporter.pod).is_some_and(|last| last.0 == sent.0 && sent.1 <= last.1) {
            return;
        }
        self.last.insert(reporter.pod.clone(), sent);
        self.reports += 1;
        if self.slots.advance(now) {
            self.make_room();
        }
        let Some(slot) = self.slots.newest() else { return };
        let reporter = Arc::new(reporter);
        let mut dropped = 0;
        for counts in report.requests {
            dropped += slot.add_requests(&reporter, counts);
        }
        for counts in report.tcp {
            dropped += slot.add_connections(&reporter, counts);
        }
        for (path, counts) in report.paths.into_iter().flat_map(|counts| Path::rows(&reporter, counts)) {
            let added = row(&mut slot.paths, path).map(|sum| sum.merge(&counts));
            dropped += u64::from(added.is_none());
        }
        self.dropped_rows += dropped;
    }

    /// Leaves room for another slot.
    fn make_room(&mut self) {
        let mut rows: usize = self.slots.iter().map(Slot::rows).sum();
        while rows > ROWS_MAX - 3 * ROWS_PER_SLOT_MAX {
            rows -= self.slots.iter().next().map_or(0, Slot::rows);
            self.slots.forget_oldest();
        }
    }

    /// Rows lost to [`ROWS_PER_SLOT_MAX`] since the start.
    pub fn dropped_rows(&self) -> u64 {
        self.dropped_rows
    }

    /// Reports that were added since the start.
    pub fn reports(&self) -> u64 {
        self.reports
    }

    /// The traffic of each resource that `request` selects, in `window` before `now`.
    pub fn query(&self, now: Now, window: Duration, request: &StatRequest) -> BTreeMap<Row, Traffic> {
        let mut found: BTreeMap<Row, Traffic> = BTreeMap::new();
        let Some(selector) = &request.selector else { return found };
        if request.by.is_empty() {
            self.add_resources(&mut found, now, window, request, selector);
        } else {
            self.add_paths(&mut found, now, window, request, selector);
        }
        self.stamp(found, now, window)
    }

    fn add_resources(
        &self,
        found: &mut BTreeMap<Row, Traffic>,
        now: Now,
        window: Duration,
        request: &StatRequest,
        selector: &ResourceSelection,
    ) {
        let whole = |(namespace, name)| (namespace, name, Vec::new());
        for (key, counts) in self.slots.within(now, window).flat_map(|(_, slot)| &slot.requests) {
            if let Some(resource) = select::requests(key, selector, request.other.as_ref()) {
                found.entry(whole(resource)).or_default().requests.merge(counts);
            }
        }
        for (link, _, tcp) in self.links(now, window) {
            if let Some(resource) = select::connections(link, selector, request.other.as_ref()) {
                found.entry(whole(resource)).or_default().tcp.merge(&tcp);
            }
        }
    }

    fn add_paths(
        &self,
        found: &mut BTreeMap<Row, Traffic>,
        now: Now,
        window: Duration,
        request: &StatRequest,
        selector: &ResourceSelection,
    ) {
        let by: Vec<_> = request.by().collect();
        for (path, counts) in self.slots.within(now, window).flat_map(|(_, slot)| &slot.paths) {
            if let Some((namespace, name)) = select::paths(path, selector) {
                let row = (namespace, name, path.values(counts, &by));
                found.entry(row).or_default().requests.merge(counts);
            }
        }
    }

    /// The requests of everything that `selector` takes in, step by step.
    pub fn series(&self, now: Now, selector: &ResourceSelection, steps: &Steps) -> Vec<Counts> {
        let mut found = vec![Counts::default(); steps.count.min(series::STEPS_MAX) as usize];
        for (start_ms, slot) in self.slots.dated(now) {
            let Some(step) = steps.index(start_ms).and_then(|index| found.get_mut(index)) else { continue };
            for (key, counts) in &slot.requests {
                if select::requests(key, selector, None).is_some() {
                    step.merge(counts);
                }
            }
        }
        found
    }

    /// Who spoke with whom in `window` before `now`.
    pub fn edges(&self, now: Now, window: Duration, request: &EdgesRequest) -> BTreeMap<Ends, Traffic> {
        let mut found: BTreeMap<Ends, Traffic> = BTreeMap::new();
        for (link, requests, tcp) in self.links(now, window) {
            if let Some(ends) = Ends::of(link, request) {
                let traffic = found.entry(ends).or_default();
                traffic.requests.merge(requests);
                traffic.tcp.merge(&tcp);
            }
        }
        self.stamp(found, now, window)
    }

    /// All of `window`, the newest first, with the connections that are open where that was said last.
    fn links(&self, now: Now, window: Duration) -> impl Iterator<Item = (&Link, &Counts, Tcp)> {
        let mut known = BTreeSet::new();
        self.slots.within(now, window).flat_map(|(age, slot)| slot.links.iter().map(move |row| (age, row))).map(
            move |(age, (link, linked))| {
                let mut tcp = linked.traffic.tcp;
                let is_latest = linked.says_open && age <= OPEN_SLOTS && known.insert(link);
                if !is_latest {
                    tcp.open = 0;
                }
                (link, &linked.traffic.requests, tcp)
            },
        )
    }

    fn stamp<K: Ord>(&self, mut found: BTreeMap<K, Traffic>, now: Now, window: Duration) -> BTreeMap<K, Traffic> {
        let covered_ms = u32::try_from(self.slots.covered(now, window).as_millis()).unwrap_or(u32::MAX);
        found.values_mut().for_each(|traffic| traffic.covered_ms = covered_ms);
        found
    }
}

impl Slot {
    fn rows(&self) -> usize {
        self.requests.len() + self.links.len() + self.paths.len()
    }

    /// How many rows there was no room for.
    fn add_requests(&mut self, reporter: &Arc<Reporter>, counts: RequestCounts) -> u64 {
        let inbound = counts.direction() == Direction::Inbound;
        let parsed = Counts::of(&counts);
        let peer = Peer::of(counts.peer, counts.peer_pod);
        let of_all_pods = Peer { pod: String::new(), ..peer.clone() };
        let key = Requests { reporter: reporter.clone(), inbound, authority: counts.authority, peer: of_all_pods };
        let added = row(&mut self.requests, key).map(|sum| sum.merge(&parsed));
        let mut dropped = u64::from(added.is_none());
        // Of an inbound request only the identity of who sent it is known, which its connection says as well.
        if !inbound && !peer.kind.is_empty() {
            let link = Link { reporter: reporter.clone(), inbound, peer, tls: tls(counts.tls) };
            let added = row(&mut self.links, link).map(|linked| linked.traffic.requests.merge(&parsed));
            dropped += u64::from(added.is_none());
        }
        dropped
    }

    fn add_connections(&mut self, reporter: &Arc<Reporter>, counts: TcpCounts) -> u64 {
        let inbound = counts.direction() == Direction::Inbound;
        let peer = Peer::of(counts.peer, counts.peer_pod);
        let link = Link { reporter: reporter.clone(), inbound, peer, tls: tls(counts.tls) };
        let Some(Linked { traffic, says_open }) = row(&mut self.links, link) else { return 1 };
        traffic.tcp.merge(&Tcp { open: 0, read_bytes: counts.read_bytes, write_bytes: counts.write_bytes });
        (traffic.tcp.open, *says_open) = (counts.open, true);
        0
    }
}

fn tls(tls: Option<Tls>) -> (i32, String) {
    tls.map(|tls| (tls.state, tls.peer_id)).unwrap_or_default()
}

/// The row of `key`, unless there are too many.
fn row<K: Ord, V: Default>(rows: &mut BTreeMap<K, V>, key: K) -> Option<&mut V> {
    let is_full = rows.len() >= ROWS_PER_SLOT_MAX && !rows.contains_key(&key);
    (!is_full).then(|| rows.entry(key).or_default())
}

#[cfg(test)]
mod tests;
