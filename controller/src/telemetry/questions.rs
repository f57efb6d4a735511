//! What people ask about the counts of one replica. Pure, and done on what was there when it was asked for: whoever reports does not wait.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conduit_api::proto::{
    peer::Heard,
    public::{EdgesRequest, ResourceSelection, StatRequest, stat_request::By},
};
use tokio::time::Instant;

use super::{
    Reporter, Row,
    counts::{Counts, Tcp, Traffic},
    edges::Ends,
    history::History,
    names::Name,
    select,
    series::{self, Steps},
    slots::Now,
};

/// What this release tells other replicas: a question that an older one would misunderstand is not answered by it. 1: rows by path and such,
/// services, windows over an hour, and who has what. 2: rows by route and service.
pub const LEVEL: u32 = 2;

/// The counts of one replica at one moment.
pub struct Counted {
    pub(super) now: Now,
    pub(super) began: Instant,
    pub(super) memory: u64,
    pub(super) histories: Vec<Arc<History>>,
}

/// What was found, by what it is of and by whose memory has the part of it that this one does not have.
pub type Found<K> = BTreeMap<(K, u64), Traffic>;

/// Which counts of a row are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Requests,
    Connections,
    Both,
}

impl Counted {
    /// What this replica says of itself with every answer.
    pub fn heard(&self) -> Heard {
        let age_ms = self.now.since(self.began).as_millis() as u64;
        Heard { memory: self.memory, age_ms, level: LEVEL, truncated: false }
    }

    /// The traffic of each resource that `request` selects, in `window` before now.
    pub fn stat(&self, window: Duration, request: &StatRequest) -> Found<Row> {
        let Some(selector) = &request.selector else { return BTreeMap::new() };
        let by: Vec<_> = request.by().collect();
        if by_route(&by) {
            let other = request.other.as_ref();
            return self.add_up(window, |reporter, name| {
                let Name::Requests(key) = name else { return None };
                let (namespace, name) = select::routed(reporter, key, selector, other)?;
                Some(((namespace, name, select::route_values(reporter, key, &by)), Part::Requests))
            });
        }
        if !by.is_empty() {
            return self.add_up(window, |reporter, name| {
                let Name::Path(path) = name else { return None };
                let (namespace, name) = select::paths(reporter, selector)?;
                Some(((namespace, name, path.values(&by)), Part::Requests))
            });
        }
        let other = request.other.as_ref();
        self.add_up(window, |reporter, name| {
            let ((namespace, name), part) = match name {
                Name::Requests(key) => (select::requests(reporter, key, selector, other)?, Part::Requests),
                Name::Link(key) => (select::connections(reporter, key, selector, other)?, Part::Connections),
                Name::Path(_) => return None,
            };
            Some(((namespace, name, Vec::new()), part))
        })
    }

    /// Who spoke with whom in `window` before now.
    pub fn edges(&self, window: Duration, request: &EdgesRequest) -> Found<Ends> {
        self.add_up(window, |reporter, name| {
            let Name::Link(link) = name else { return None };
            Some((Ends::of(reporter, link, request)?, Part::Both))
        })
    }

    /// The requests of everything that `selector` takes in, by step.
    pub fn series(&self, selector: &ResourceSelection, steps: &Steps) -> Found<usize> {
        let count = steps.count.min(series::STEPS_MAX) as usize;
        let mut found = Found::new();
        let window = Duration::from_millis(self.now.unix_ms.saturating_sub(steps.first_ms));
        for history in &self.histories {
            let is_asked_for = |number: u32| {
                history.name(number).is_some_and(|name| match name {
                    Name::Requests(key) => select::requests(history.reporter(), key, selector, None).is_some(),
                    Name::Link(_) | Name::Path(_) => false,
                })
            };
            let asked_for: Vec<_> = (0..history.names() as u32).map(is_asked_for).collect();
            if !asked_for.contains(&true) {
                continue;
            }
            let mut counts = vec![Counts::default(); count];
            for (date, slot) in history.slots(self.now, steps.first_ms) {
                let Some(step) = steps.index(date).and_then(|index| counts.get_mut(index)) else { continue };
                let rows = slot.rows().filter(|(number, _)| asked_for.get(*number as usize) == Some(&true));
                rows.for_each(|(_, row)| row.add_requests(step));
            }
            let (covered, kept_by) = history.covers(self.now, window);
            for (step, counts) in counts.into_iter().enumerate() {
                add(&mut found, (step, kept_by), counts, Tcp::default(), ms(self.limited(covered)));
            }
        }
        found
    }

    fn add_up<K: Ord + Clone>(
        &self,
        window: Duration,
        select: impl Fn(&Reporter, &Name) -> Option<(K, Part)>,
    ) -> Found<K> {
        let mut found = Found::new();
        let whole = self.now.whole_slots(window);
        for history in &self.histories {
            let select = |number: u32| select(history.reporter(), history.name(number)?);
            let keys: Vec<_> = (0..history.names() as u32).map(select).collect();
            if keys.iter().all(Option::is_none) {
                continue;
            }
            let (covered, kept_by) = history.covers(self.now, whole);
            let covered_ms = ms(self.limited(covered));
            for (number, (counts, tcp)) in self.sums(history, window, &keys) {
                if let Some((key, _)) = &keys[number as usize] {
                    add(&mut found, (key.clone(), kept_by), counts, tcp, covered_ms);
                }
            }
            let told_ms_ago = ms(self.now.since(history.heard()));
            for (number, count) in history.open(self.now) {
                if let Some((key, Part::Connections | Part::Both)) = keys.get(number as usize).and_then(Option::as_ref)
                {
                    let traffic = found.entry((key.clone(), kept_by)).or_default();
                    traffic.merge(&Traffic::of(Counts::default(), Tcp::default(), covered_ms, covered_ms));
                    traffic.open.add(reporter_number(history.reporter()), told_ms_ago, count);
                }
            }
        }
        found
    }

    /// By the names of one proxy.
    fn sums<K>(&self, history: &History, window: Duration, keys: &[Option<(K, Part)>]) -> BTreeMap<u32, (Counts, Tcp)> {
        let mut sums: BTreeMap<u32, (Counts, Tcp)> = BTreeMap::new();
        for (_, slot) in history.slots(self.now, self.now.first_slot(window)) {
            for (number, row) in slot.rows() {
                let Some((_, part)) = keys.get(number as usize).and_then(Option::as_ref) else { continue };
                let (counts, tcp) = sums.entry(number).or_default();
                if *part != Part::Connections {
                    row.add_requests(counts);
                }
                if *part != Part::Requests {
                    row.add_bytes(tcp);
                }
            }
        }
        sums
    }

    /// Nothing is older than this replica.
    fn limited(&self, covered: Duration) -> Duration {
        covered.min(self.now.since(self.began))
    }
}

/// Whether rows are told apart by what clients' proxies know: the routes of requests.
pub fn by_route(by: &[By]) -> bool {
    by.iter().any(|by| matches!(by, By::Route | By::Service))
}

fn add<K: Ord>(found: &mut Found<K>, key: (K, u64), counts: Counts, tcp: Tcp, covered_ms: u32) {
    let traffic = Traffic::of(counts, tcp, covered_ms, covered_ms);
    found.entry(key).or_default().merge(&traffic);
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The same on every replica, of every release (FNV-1a).
fn reporter_number(reporter: &Reporter) -> u64 {
    let name = [reporter.pod.namespace().as_bytes(), b"/", reporter.pod.name().as_bytes()].concat();
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
