//! What people ask about the counts of one replica. Pure, and done on what was there when it was asked for: whoever reports does not wait.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conduit_api::{
    PodName,
    proto::{
        peer::{Departure, Heard, HeardProxy, ReportId},
        public::{EdgesRequest, ResourceSelection, StatRequest, stat_request::By},
    },
};
use tokio::time::Instant;

use super::{
    Reporter, Row,
    block::Block,
    counts::{Counts, Tcp, Traffic},
    departures::Departures,
    edges::Ends,
    history::History,
    names::Name,
    select::{self, Tellers},
    series::Steps,
    slots::Now,
};

/// What this release tells other replicas: a question that an older one would misunderstand is not answered by it. 1: rows by path and such,
/// services, windows over an hour, and who has what. 2: rows by route and service, and when each proxy was heard. 3: what was sent to pods, and what by its
/// authority.
pub const LEVEL: u32 = 3;

/// The counts of one replica at one moment.
pub struct Counted {
    pub(super) now: Now,
    pub(super) began: Instant,
    pub(super) ran_before: bool,
    pub(super) memory: u64,
    pub(super) histories: Vec<Arc<History>>,
    pub(super) departures: Option<Arc<Departures>>,
    pub(super) removed: Option<Instant>,
    pub(super) forgotten: Option<Instant>,
}

/// What was found, by what it is of and by who has told it.
pub type Found<K> = BTreeMap<(K, Of), Traffic>;

/// An answer, and when those were heard who are in it.
pub struct Told<K> {
    /// The answer.
    pub found: Found<K>,
    /// By whom.
    pub heard: Heard,
}

/// Who has told something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// All that were heard for all of the window, and lately: so that it need not be told for each of them.
    All,
    /// One, by its number, and the memory that has what came before; 0 if it is not known.
    One(u64, u64),
    /// One, in a report that another replica may have added as well: number, incarnation and sequence.
    Repeated(u64, u64, u64),
}

/// Which counts of a row are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Requests,
    Connections,
    Both,
}

impl Counted {
    /// What this replica says of itself with every answer, which is about a window.
    fn heard(&self, window: Duration, tellers: Tellers<'_>, proxies: Vec<HeardProxy>) -> Heard {
        let ms_ago = |at| self.now.since(at).as_millis() as u64;
        let departures = self.departures.iter().flat_map(|departures| departures.within(self.now.monotonic, window));
        let departures = departures.filter(|(_, pod, _)| tellers.has(&pod.name, pod.workload.as_ref()));
        let departures = departures.map(|(reporter, _, at)| Departure { reporter, ms_ago: ms_ago(at) }).collect();
        let known_since = self.departures.as_ref().map(|departures| departures.known_since());
        Heard {
            memory: self.memory,
            age_ms: ms_ago(self.began),
            level: LEVEL,
            truncated: self.forgotten.is_some_and(|at| self.now.since(at) <= window),
            proxies,
            ran_before: self.ran_before,
            departures,
            departures_known_ms: known_since.map_or(0, ms_ago),
            removed_ms_ago: self.removed.map(ms_ago),
        }
    }

    /// When a proxy was heard.
    fn heard_proxy(&self, history: &History, from: u64) -> HeardProxy {
        let repeated = history.repeated(self.now, from);
        let repeated = repeated.map(|((incarnation, sequence), _, _)| ReportId { incarnation, sequence });
        HeardProxy {
            reporter: number_of(&history.reporter().pod),
            spans: history.spans().to_wire(self.now),
            repeated_reports: repeated.collect(),
            kept_by: history.kept_by(),
        }
    }

    /// The slots that `history` has from `from` on, which are `of` whoever that is, and then the reports that another replica may have too.
    fn told<'a>(&self, history: &'a History, of: Of, from: u64) -> impl Iterator<Item = (Of, u64, &'a Block)> {
        let number = number_of(&history.reporter().pod);
        let repeated = history.repeated(self.now, from);
        let repeated = repeated
            .map(move |((process, sequence), date, counts)| (Of::Repeated(number, process, sequence), date, counts));
        history.slots(self.now, from).map(move |(date, counts)| (of, date, counts)).chain(repeated)
    }

    /// The traffic of each resource that `request` selects, in `window` before now.
    pub fn stat(&self, window: Duration, request: &StatRequest) -> Told<Row> {
        let tellers = Tellers::of(request);
        let Some(selector) = &request.selector else {
            return Told { found: BTreeMap::new(), heard: self.heard(window, tellers, Vec::new()) };
        };
        let by: Vec<_> = request.by().collect();
        if by_route(&by) {
            let other = request.other.as_ref();
            return self.add_up(window, tellers, |reporter, name| {
                let Name::Requests(key) = name else { return None };
                let (namespace, name) = select::routed(reporter, key, selector, other)?;
                Some(((namespace, name, select::route_values(reporter, key, &by)), Part::Requests))
            });
        }
        if !by.is_empty() {
            return self.add_up(window, tellers, |reporter, name| {
                let Name::Path(path) = name else { return None };
                let (namespace, name) = select::paths(reporter, selector)?;
                Some(((namespace, name, path.values(&by)), Part::Requests))
            });
        }
        let other = request.other.as_ref();
        let of_pods = select::is_about_receiving_pods(selector, other);
        self.add_up(window, tellers, |reporter, name| {
            let ((namespace, name), part) = match name {
                Name::Link(key) => {
                    let part = if of_pods { Part::Both } else { Part::Connections };
                    (select::connections(reporter, key, selector, other)?, part)
                }
                Name::Requests(_) if of_pods => return None,
                Name::Requests(key) => (select::requests(reporter, key, selector, other)?, Part::Requests),
                Name::Path(_) => return None,
            };
            Some(((namespace, name, Vec::new()), part))
        })
    }

    /// Who spoke with whom in `window` before now.
    pub fn edges(&self, window: Duration, request: &EdgesRequest) -> Told<Ends> {
        self.add_up(window, Tellers::ALL, |reporter, name| {
            let Name::Link(link) = name else { return None };
            Some((Ends::of(reporter, link, request)?, Part::Both))
        })
    }

    /// The requests of everything that `selector` takes in, by step; not of steps that have none.
    pub fn series(&self, selector: &ResourceSelection, steps: &Steps) -> Told<usize> {
        let (mut found, mut proxies) = (Found::new(), Vec::new());
        let window = Duration::from_millis(self.now.unix_ms.saturating_sub(steps.first_ms));
        let (window_ms, tellers) = (ms(self.limited(window)), Tellers::of_received(selector));
        for history in &self.histories {
            let is_asked_for = |number: u32| {
                history.name(number).is_some_and(|name| match name {
                    Name::Requests(key) => select::requests(history.reporter(), key, selector, None).is_some(),
                    Name::Link(_) | Name::Path(_) => false,
                })
            };
            let asked_for: Vec<_> = (0..history.names() as u32).map(is_asked_for).collect();
            let is_teller = history.is_of(tellers);
            if !asked_for.contains(&true) {
                proxies.extend(is_teller.then(|| self.heard_proxy(history, steps.first_ms)));
                continue;
            }
            let proxy = self.heard_proxy(history, steps.first_ms);
            // Points are no rates: it need not be told for each proxy.
            let told = self.told(history, Of::All, steps.first_ms);
            // A repeated report is in one slot, and so in one step.
            let mut by_step: BTreeMap<(usize, Of), Counts> = BTreeMap::new();
            for (of, date, slot) in told {
                let Some(step) = steps.index(date) else { continue };
                for (_, row) in slot.rows().filter(|(number, _)| asked_for.get(*number as usize) == Some(&true)) {
                    row.add_requests(by_step.entry((step, of)).or_default());
                }
            }
            by_step.retain(|_, counts| counts.total() > 0);
            if is_teller || !by_step.is_empty() {
                proxies.push(proxy);
            }
            for (key, counts) in by_step {
                add(&mut found, key, counts, Tcp::default(), window_ms);
            }
        }
        Told { found, heard: self.heard(window, tellers, proxies) }
    }

    fn add_up<K: Ord + Clone>(
        &self,
        window: Duration,
        tellers: Tellers<'_>,
        select: impl Fn(&Reporter, &Name) -> Option<(K, Part)>,
    ) -> Told<K> {
        let (mut found, mut proxies) = (Found::new(), Vec::new());
        let (whole, from) = (self.now.whole_slots(window), self.now.first_slot(window));
        for history in &self.histories {
            let select = |number: u32| select(history.reporter(), history.name(number)?);
            let keys: Vec<_> = (0..history.names() as u32).map(select).collect();
            let is_teller = history.is_of(tellers);
            if keys.iter().all(Option::is_none) {
                proxies.extend(is_teller.then(|| self.heard_proxy(history, from)));
                continue;
            }
            let proxy = self.heard_proxy(history, from);
            let number = proxy.reporter;
            let covered = history.spans().covers(self.now, whole);
            let is_one = covered < whole || history.is_quiet(self.now) || !proxy.repeated_reports.is_empty();
            let of = if is_one { Of::One(number, history.kept_by()) } else { Of::All };
            let covered_ms = ms(self.limited(covered));
            let told = self.told(history, of, from).map(|(of, _, counts)| (of, counts));
            let mut is_found = is_teller;
            for ((of, number), (counts, tcp)) in sums(told, &keys) {
                if let Some((key, _)) = &keys[number as usize] {
                    add(&mut found, (key.clone(), of), counts, tcp, covered_ms);
                    is_found = true;
                }
            }
            let told_ms_ago = ms(self.now.since(history.heard()));
            for (name, count) in history.open(self.now) {
                if let Some((key, Part::Connections | Part::Both)) = keys.get(name as usize).and_then(Option::as_ref) {
                    let traffic = found.entry((key.clone(), of)).or_default();
                    traffic.merge(&Traffic::of(Counts::default(), Tcp::default(), covered_ms, covered_ms));
                    traffic.open.add(number, told_ms_ago, count);
                    is_found = true;
                }
            }
            if is_found {
                proxies.push(proxy);
            }
        }
        Told { found, heard: self.heard(window, tellers, proxies) }
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

/// By who has told them, and the names of one proxy.
fn sums<'a, K>(
    told: impl Iterator<Item = (Of, &'a Block)>,
    keys: &[Option<(K, Part)>],
) -> BTreeMap<(Of, u32), (Counts, Tcp)> {
    let mut sums: BTreeMap<(Of, u32), (Counts, Tcp)> = BTreeMap::new();
    for (of, block) in told {
        for (number, row) in block.rows() {
            let Some((_, part)) = keys.get(number as usize).and_then(Option::as_ref) else { continue };
            let (counts, tcp) = sums.entry((of, number)).or_default();
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

fn add<K: Ord>(found: &mut Found<K>, key: (K, Of), counts: Counts, tcp: Tcp, covered_ms: u32) {
    let traffic = Traffic::of(counts, tcp, covered_ms, covered_ms);
    found.entry(key).or_default().merge(&traffic);
}

/// As the wire has it.
pub fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Of a pod's proxy, the same on every replica, of every release (FNV-1a).
pub fn number_of(pod: &PodName) -> u64 {
    let name = [pod.namespace().as_bytes(), b"/", pod.name().as_bytes()].concat();
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
