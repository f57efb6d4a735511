//! What proxies counted, kept in memory for six hours and added up on demand. Pure.
//!
//! Each replica keeps what the proxies attached to it reported; a query asks all replicas and merges ([`crate::api`]). None
//! of it is replicated: it is high in rate, and losing a replica's part is told to the person who asks, never hidden.
//!
//! - [`history`]: what one proxy has told. [`names`]: what that is told apart by. [`block`]: how little memory it takes. [`slots`]: time.
//!   [`spans`]: when it was heard, [`together`]: by several replicas. [`departures`]: who is not heard any more.
//! - [`questions`]: what is added up for whom. [`counts`]: how. [`select`]: which rows a question is about. [`bounds`]: how many are told.
//! - [`edges`]: who speaks with whom. [`paths`]: what is asked for, and how that ends. [`series`]: how it was as time passed.

pub mod block;
pub mod bounds;
pub mod counts;
pub mod departures;
pub mod edges;
pub mod history;
pub mod names;
pub mod paths;
pub mod questions;
pub mod select;
pub mod series;
pub mod server;
pub mod slots;
pub mod spans;
pub mod together;

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use conduit_api::{
    PodName, WorkloadRef,
    proto::telemetry::ReportRequest,
    window::{TIERS, WINDOW_MAX},
};
use tokio::time::Instant;

use self::{departures::Departures, history::History, questions::Counted, slots::Now};

/// Bytes of all that is kept. Six hours of a busy proxy are 146 kB (`controller/examples/telemetry_memory.rs` fills and counts them): of a thousand deployments each of three
/// replicas has a third, 49 MB, and 73 MB when one of them is gone. Past it whoever has more than an equal share forgets its oldest slots, and
/// answers say what they cover.
pub const BYTES_MAX: usize = 96 << 20;
/// Bytes of one proxy, however much room there is: what it costs to look through them while others report.
pub const HISTORY_BYTES_MAX: usize = 4 << 20;
/// Proxies that are known. Past it the one goes that was not heard of for the longest time.
pub const REPORTERS_MAX: usize = 20_000;
/// Proxies of pods that this replica has not heard of: those that have just begun, and those that are about to end. A name is all that it takes to be
/// one, so there are few.
pub const STRANGERS_MAX: usize = 256;
/// A proxy that has nothing to tell for so long is looked after when others say something.
const QUIET: Duration = Duration::from_secs(60);

/// Whose proxy counted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reporter {
    /// The pod beside it.
    pub pod: PodName,
    /// Whether this replica knows that there is such a pod. It may hear of it a moment later than of what its proxy has counted.
    pub is_known: bool,
    /// What owns that.
    pub workload: Option<WorkloadRef>,
    /// Its SPIFFE id.
    pub identity: String,
}

/// What does not change of it.
type ReporterKey = (PodName, String);

impl Reporter {
    fn key(&self) -> ReporterKey {
        (self.pod.clone(), self.identity.clone())
    }
}

/// Namespace and name of a resource, and what the request for rows asked to tell them apart by.
pub type Row = (String, String, Vec<String>);

/// The counts of this replica.
pub struct Telemetry {
    /// Known by it to proxies and other replicas: another one with each process.
    memory: u64,
    began: Instant,
    ran_before: bool,
    histories: BTreeMap<ReporterKey, Arc<History>>,
    /// None before they are looked at for the first time.
    departures: Option<Arc<Departures>>,
    /// When a replica was seen to be removed last.
    removed: Option<Instant>,
    /// Of all of them.
    size: usize,
    /// Those that have counts.
    counting: usize,
    /// When whoever was forgotten for others with its counts was heard last, at the latest.
    forgotten: Option<Instant>,
    bytes_max: usize,
    /// Who was looked after last.
    tidied: Option<ReporterKey>,
    crowded_rows: u64,
    reports: u64,
}

impl Telemetry {
    /// Empty, from `now` on; `memory` is a random number.
    pub fn new(now: Now, memory: u64) -> Self {
        Self {
            // An older release means something else by small numbers.
            memory: memory.max(2),
            began: now.monotonic,
            ran_before: false,
            histories: BTreeMap::new(),
            departures: None,
            removed: None,
            size: 0,
            counting: 0,
            forgotten: None,
            bytes_max: BYTES_MAX,
            tidied: None,
            crowded_rows: 0,
            reports: 0,
        }
    }

    /// Adds a proxy's report; one that was added before is ignored.
    pub fn report(&mut self, now: Now, reporter: Reporter, report: ReportRequest) {
        let key = reporter.key();
        if !self.histories.contains_key(&key) {
            self.make_room(reporter.is_known);
            let history = History::new(Arc::new(reporter.clone()), now);
            self.size += history.size();
            self.histories.insert(key.clone(), Arc::new(history));
        }
        let added = self.change(&key, |history| {
            history.know(reporter);
            let crowded = history.report(now, report);
            history.shrink(HISTORY_BYTES_MAX);
            crowded
        });
        if let Some(crowded) = added.flatten() {
            self.reports += 1;
            self.crowded_rows += crowded;
        }
        self.keep_share(&key);
        self.tidy_another(now);
    }

    /// Changes one of them, and knows how much there is of all then.
    fn change<T>(&mut self, key: &ReporterKey, change: impl FnOnce(&mut History) -> T) -> Option<T> {
        let history = Arc::make_mut(self.histories.get_mut(key)?);
        let (before, had_counts) = (history.size(), history.has_counts());
        let changed = change(history);
        self.size = self.size - before + history.size();
        self.counting = self.counting + usize::from(history.has_counts()) - usize::from(had_counts);
        Some(changed)
    }

    /// When there is no room left, each that has counts may have as much as any other.
    fn keep_share(&mut self, key: &ReporterKey) {
        if self.size > self.bytes_max {
            let share = self.bytes_max / self.counting.max(1);
            self.change(key, |history| history.shrink(share));
        }
    }

    /// Leaves room for one more: of all, or of those of which nobody else has spoken.
    fn make_room(&mut self, is_known: bool) {
        let is_stranger = |history: &&Arc<History>| !history.reporter().is_known;
        // Who has counts is worth more than who has none.
        let worth = |history: &&Arc<History>| (history.has_counts(), history.heard());
        let oldest = if !is_known && self.histories.values().filter(is_stranger).count() >= STRANGERS_MAX {
            self.histories.values().filter(is_stranger).min_by_key(worth)
        } else if self.histories.len() >= REPORTERS_MAX {
            self.histories.values().min_by_key(worth)
        } else {
            None
        };
        if let Some(oldest) = oldest.cloned() {
            if oldest.has_counts() && oldest.reporter().is_known {
                self.forgotten = self.forgotten.max(Some(oldest.heard()));
            }
            self.forget(&oldest.reporter().key());
        }
    }

    fn forget(&mut self, key: &ReporterKey) {
        if let Some(history) = self.histories.remove(key) {
            self.size -= history.size();
            self.counting -= usize::from(history.has_counts());
        }
    }

    /// Looks after one of those that say nothing themselves, so that nobody has to look after all of them at once.
    fn tidy_another(&mut self, now: Now) {
        let from = self.tidied.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.histories.range((from, Bound::Unbounded)).next();
        let Some((key, heard, counted)) = next.map(|(key, it)| (key.clone(), it.heard(), it.counted())) else {
            return;
        };
        if now.since(heard) > WINDOW_MAX + TIERS[TIERS.len() - 1].length {
            self.forget(&key);
        } else if now.since(counted) > QUIET {
            self.change(&key, |history| history.tidy(now));
            self.keep_share(&key);
        }
        self.tidied = Some(key);
    }

    /// The same, of a replica that ran before: what it had heard by then is lost.
    pub fn after_another(self, ran_before: bool) -> Self {
        Self { ran_before, ..self }
    }

    /// What there is to be added up, as it is now: so that nobody who reports has to wait for it.
    pub fn counted(&self, now: Now) -> Counted {
        Counted {
            now,
            began: self.began,
            ran_before: self.ran_before,
            memory: self.memory,
            histories: self.histories.values().cloned().collect(),
            departures: self.departures.clone(),
            removed: self.removed,
            forgotten: self.forgotten,
        }
    }

    /// Which pods are there, and which have gone.
    pub fn departures(&self) -> Option<Arc<Departures>> {
        self.departures.clone()
    }

    /// It is known now.
    pub fn set_departures(&mut self, departures: Arc<Departures>) {
        self.departures = Some(departures);
    }

    /// A replica was removed from the control plane.
    pub fn removed(&mut self, now: Now) {
        self.removed = Some(now.monotonic);
    }

    /// Which memory this is.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Rows since the start that were counted under [`names::OTHER`], for the number of names that their proxies told.
    pub fn crowded_rows(&self) -> u64 {
        self.crowded_rows
    }

    /// Reports that were added since the start.
    pub fn reports(&self) -> u64 {
        self.reports
    }
}

#[cfg(test)]
mod tests;
