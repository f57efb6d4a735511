//! What the application is asked for, by method and path, and how that ends.
//!
//! A path is known by its pattern: without its query, and with `*` for what only tells one of many things. A request costs a hash
//! of its path and a look into its thread's table, or two where it is not its own pattern; only the first of a pattern takes
//! memory and a lock.

mod pattern;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, Hasher as _},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use memchr::memchr;
use tokio::time::Instant;

use self::pattern::{PATH_LEN_MAX, pattern};
use super::{Counter, End, Histogram, HistogramTotals, OTHER};

/// Patterns in one proxy. Past it, requests are counted under [`OTHER`]. A pattern takes 3 kB for each way in which it ends, in each thread
/// that has seen it: of a proxy with two threads whoever makes paths up gets 6 MB at worst, and one that always ends alike 0.8 MB.
pub const PATHS_MAX: usize = 128;
/// A longer method is counted under [`OTHER`]; those that are registered have at most 17 characters.
const METHOD_LEN_MAX: usize = 32;
/// Ends that are told apart for each pattern, the last two of them being all other successes, and all other failures.
const ENDS_MAX: usize = 8;
/// The kind of those two, after the kinds that [`End::key`] gives.
pub const OTHER_ENDS: u8 = 3;
/// When there is no room left, what was not asked for during so long makes room: what somebody has tried out once must not keep what is in use from
/// being told apart.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// e.g. `/books/*/pages`
    pub path: String,
    /// As it came.
    pub method: String,
    /// Over mutual TLS.
    pub mutual: bool,
}

impl Pattern {
    fn is(&self, mutual: bool, method: &str, path: &str) -> bool {
        self.mutual == mutual && self.path == path && self.method == method
    }

    /// What there was no room for.
    fn other(mutual: bool) -> Self {
        Self { path: OTHER.to_owned(), method: OTHER.to_owned(), mutual }
    }
}

/// The counters of a pattern in one thread, which alone writes them.
#[derive(Default)]
struct Ends {
    ended: [Ended; ENDS_MAX],
    /// Threads that have it are to learn it anew.
    is_forgotten: AtomicBool,
}

#[derive(Default)]
struct Ended {
    /// Of the [`End`], plus one; 0 when it is free.
    key: AtomicU32,
    count: Counter,
    latency: Histogram,
}

/// How many requests ended in one way, and when their responses began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndTotals {
    /// Requests.
    pub count: u64,
    /// Of those that were answered.
    pub latency: HistogramTotals,
}

impl EndTotals {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.latency.merge(&other.latency);
    }
}

/// By how requests ended.
pub type PathTotals = BTreeMap<EndKey, EndTotals>;
/// An [`End`] with an order, or [`OTHER_ENDS`] and whether they are successes.
pub type EndKey = (u8, u32);

/// What a key stands for: an end, if it is one, and whether it is a success.
pub fn end_of(key: EndKey) -> (Option<End>, bool) {
    match key {
        (OTHER_ENDS, success) => (None, success > 0),
        key => (Some(End::from_key(key)), End::from_key(key).is_success()),
    }
}

/// One pattern in one thread.
pub struct Row {
    pattern: Arc<Pattern>,
    ends: Arc<Ends>,
}

impl Row {
    /// What it is of.
    pub fn pattern(&self) -> &Arc<Pattern> {
        &self.pattern
    }

    /// A request ended; its response began after `latency`, if it did.
    pub fn end(&self, end: End, latency: Option<Duration>) {
        let ended = self.ends.of(end);
        ended.count.add(1);
        if let Some(latency) = latency {
            ended.latency.observe(latency);
        }
    }
}

impl Ends {
    fn of(&self, end: End) -> &Ended {
        let key = packed(end);
        let others = ENDS_MAX - 2;
        for ended in &self.ended[..others] {
            match ended.key.load(Ordering::Relaxed) {
                0 => ended.key.store(key, Ordering::Relaxed),
                known if known != key => continue,
                _ => {}
            }
            return ended;
        }
        let success = u32::from(end.is_success());
        let other = &self.ended[others + success as usize];
        other.key.store((u32::from(OTHER_ENDS) + 1) << 16 | success, Ordering::Relaxed);
        other
    }

    fn count(&self) -> u64 {
        self.ended.iter().map(|ended| ended.count.value()).sum()
    }

    fn add_to(&self, totals: &mut PathTotals) {
        for ended in &self.ended {
            let key = ended.key.load(Ordering::Relaxed);
            if key > 0 && ended.count.value() > 0 {
                let total = totals.entry(((key >> 16) as u8 - 1, key & 0xffff)).or_default();
                total.count += ended.count.value();
                ended.latency.add_to(&mut total.latency);
            }
        }
    }
}

/// The kind plus one, and the code: neither HTTP nor gRPC has larger ones.
fn packed(end: End) -> u32 {
    let (kind, code) = end.key();
    (u32::from(kind) + 1) << 16 | code.min(0xffff)
}

/// The counters of all threads; clones are the same.
#[derive(Clone, Default)]
pub struct Paths(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    /// How often something was forgotten.
    forgettings: AtomicU64,
}

#[derive(Default)]
struct Known {
    patterns: BTreeSet<Arc<Pattern>>,
    counters: Vec<(Arc<Pattern>, Arc<Ends>)>,
    /// What was forgotten, as long as some thread holds it: requests that were under way may still end.
    forgotten: Vec<Forgotten>,
    /// What these have come to that no thread holds any more, without and with mutual TLS.
    late: [PathTotals; 2],
    /// While there is no room left: how many requests there were of each, and since when there were not more.
    unused: BTreeMap<Arc<Pattern>, (u64, Instant)>,
}

/// The counters of a pattern that is known no more.
struct Forgotten {
    mutual: bool,
    ends: Arc<Ends>,
    /// What they were when it was forgotten.
    before: PathTotals,
}

impl Forgotten {
    /// What has ended since is counted under [`OTHER`].
    fn add_to(&self, others: &mut PathTotals) {
        let (mut after, nothing) = (PathTotals::new(), EndTotals::default());
        self.ends.add_to(&mut after);
        for (end, after) in after {
            let before = self.before.get(&end).unwrap_or(&nothing);
            if after.count > before.count {
                let other = others.entry(end).or_default();
                other.count += after.count - before.count;
                other.latency.merge(&after.latency.since(&before.latency));
            }
        }
    }
}

impl Paths {
    /// One thread's view.
    pub fn thread(&self) -> ThreadPaths {
        ThreadPaths {
            shared: self.clone(),
            hasher: foldhash::fast::RandomState::default(),
            own: RefCell::default(),
            others: Default::default(),
            is_full: Cell::new(false),
            forgettings: Cell::new(self.0.forgettings.load(Ordering::Relaxed)),
        }
    }

    /// Makes room for what is new, if there is none, by forgetting what nobody asks for any more. To be called now and then.
    pub fn forget_unused(&self, now: Instant) {
        if self.locked().forget_unused(now) {
            self.0.forgettings.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The sums over all threads.
    pub fn sums(&self) -> BTreeMap<Arc<Pattern>, PathTotals> {
        let mut sums = BTreeMap::new();
        let known = self.locked();
        for (pattern, ends) in &known.counters {
            ends.add_to(sums.entry(pattern.clone()).or_default());
        }
        for mutual in [false, true] {
            let mut late = known.late[usize::from(mutual)].clone();
            known.forgotten.iter().filter(|of| of.mutual == mutual).for_each(|of| of.add_to(&mut late));
            if !late.is_empty() {
                let others = sums.entry(Arc::new(Pattern::other(mutual))).or_default();
                late.into_iter().for_each(|(end, totals)| others.entry(end).or_default().merge(&totals));
            }
        }
        sums
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether something was forgotten.
    fn forget_unused(&mut self, now: Instant) -> bool {
        let Self { forgotten, late, .. } = self;
        forgotten.retain(|of| {
            let is_held = Arc::strong_count(&of.ends) > 1;
            if !is_held {
                of.add_to(&mut late[usize::from(of.mutual)]);
            }
            is_held
        });
        if self.patterns.len() < PATHS_MAX {
            self.unused.clear();
            return false;
        }
        let mut counts: BTreeMap<Arc<Pattern>, u64> = BTreeMap::new();
        for (pattern, ends) in self.counters.iter().filter(|(pattern, _)| pattern.path != OTHER) {
            *counts.entry(pattern.clone()).or_default() += ends.count();
        }
        for (pattern, count) in counts {
            let known = self.unused.entry(pattern).or_insert((count, now));
            if known.0 != count {
                *known = (count, now);
            }
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) >= FORGOTTEN_AFTER;
        let old: BTreeSet<_> =
            self.unused.iter().filter(|(_, (_, since))| is_old(*since)).map(|(pattern, _)| pattern.clone()).collect();
        self.unused.retain(|pattern, _| !old.contains(pattern));
        self.patterns.retain(|pattern| !old.contains(pattern));
        let (forgotten, kept) = std::mem::take(&mut self.counters).into_iter().partition(|(of, _)| old.contains(of));
        self.counters = kept;
        self.forgotten.extend(Vec::into_iter(forgotten).map(|(pattern, ends)| {
            ends.is_forgotten.store(true, Ordering::Relaxed);
            let mut before = PathTotals::new();
            ends.add_to(&mut before);
            Forgotten { mutual: pattern.mutual, ends, before }
        }));
        !old.is_empty()
    }

    /// One more thread's counters of `pattern`.
    fn row(&mut self, pattern: Pattern) -> Rc<Row> {
        let pattern = Arc::new(pattern);
        let pattern = self.patterns.get(&pattern).cloned().unwrap_or(pattern);
        self.patterns.insert(pattern.clone());
        let ends = Arc::<Ends>::default();
        self.counters.push((pattern.clone(), ends.clone()));
        Rc::new(Row { pattern, ends })
    }
}

/// The counters of one data thread.
pub struct ThreadPaths {
    shared: Paths,
    hasher: foldhash::fast::RandomState,
    /// By hash: of two patterns that have the same, the second is counted under [`OTHER`].
    own: RefCell<HashMap<u64, Rc<Row>, foldhash::fast::RandomState>>,
    /// Without and with mutual TLS.
    others: [OnceCell<Rc<Row>>; 2],
    is_full: Cell<bool>,
    forgettings: Cell<u64>,
}

impl ThreadPaths {
    /// The counters of a request.
    pub fn row(&self, mutual: bool, method: &str, path: &str) -> Rc<Row> {
        let forgettings = self.shared.0.forgettings.load(Ordering::Relaxed);
        if self.forgettings.replace(forgettings) != forgettings {
            self.own.borrow_mut().retain(|_, row| !row.ends.is_forgotten.load(Ordering::Relaxed));
            self.is_full.set(false);
        }
        let path = &path[..memchr(b'?', path.as_bytes()).unwrap_or(path.len())];
        // Most paths are their own pattern.
        if let Some(row) = self.known(mutual, method, path) {
            return row;
        }
        let mut buffer = [0; PATH_LEN_MAX];
        let Some(pattern) = pattern(path, &mut buffer).filter(|_| method.len() <= METHOD_LEN_MAX) else {
            return self.other(mutual);
        };
        let known = self.known(mutual, method, pattern).or_else(|| {
            self.learn(mutual, method, pattern);
            self.known(mutual, method, pattern)
        });
        known.unwrap_or_else(|| self.other(mutual))
    }

    fn known(&self, mutual: bool, method: &str, pattern: &str) -> Option<Rc<Row>> {
        let own = self.own.borrow();
        let row = own.get(&self.hash(mutual, method, pattern))?;
        row.pattern.is(mutual, method, pattern).then(|| row.clone())
    }

    fn hash(&self, mutual: bool, method: &str, pattern: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(method.as_bytes());
        hasher.write_u8(mutual.into());
        hasher.write(pattern.as_bytes());
        hasher.finish()
    }

    /// Makes a row for what is new. When there is no room left, takes over what other threads know, once: what has a row
    /// in one thread must not be among the others in another.
    fn learn(&self, mutual: bool, method: &str, pattern: &str) {
        if self.is_full.get() {
            return;
        }
        let mut shared = self.shared.locked();
        let mut own = self.own.borrow_mut();
        if shared.patterns.len() >= PATHS_MAX {
            self.is_full.set(true);
            for known in shared.patterns.clone().into_iter().filter(|known| known.path != OTHER) {
                let hash = self.hash(known.mutual, &known.method, &known.path);
                own.entry(hash).or_insert_with(|| shared.row(Pattern::clone(&known)));
            }
            return;
        }
        let hash = self.hash(mutual, method, pattern);
        let new = || Pattern { path: pattern.to_owned(), method: method.to_owned(), mutual };
        own.entry(hash).or_insert_with(|| shared.row(new()));
    }

    fn other(&self, mutual: bool) -> Rc<Row> {
        self.others[usize::from(mutual)].get_or_init(|| self.shared.locked().row(Pattern::other(mutual))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(paths: &Paths) -> Vec<(String, String, u64)> {
        let line = |(pattern, totals): (Arc<Pattern>, PathTotals)| {
            let count = totals.values().map(|total| total.count).sum();
            (pattern.method.clone(), pattern.path.clone(), count)
        };
        paths.sums().into_iter().map(line).collect()
    }

    #[test]
    fn threads_are_added_up_by_pattern_and_end() {
        let paths = Paths::default();
        for thread in [paths.thread(), paths.thread()] {
            for (path, end) in [("/a/1", End::Http(200)), ("/a/2?x=/y/3", End::Http(503)), ("/a/3", End::Http(200))] {
                thread.row(true, "GET", path).end(end, Some(Duration::from_millis(1)));
            }
            thread.row(true, "GET", "/a/4").end(End::Reset, None);
            assert!(Rc::ptr_eq(&thread.row(true, "GET", "/a/5"), &thread.row(true, "GET", "/a/*")));
        }
        let sums = paths.sums();
        assert_eq!(sums.len(), 1);
        let ends = sums.values().next().unwrap().iter();
        let ends: Vec<_> = ends.map(|(end, total)| (*end, total.count, total.latency.buckets.len())).collect();
        assert_eq!(ends, [((0, 200), 4, 1), ((0, 503), 2, 1), ((2, 0), 2, 0)]);
    }

    #[test]
    fn methods_and_tls_are_told_apart() {
        let paths = Paths::default();
        let thread = paths.thread();
        for (mutual, method) in [(true, "GET"), (false, "GET"), (true, "PUT")] {
            thread.row(mutual, method, "/").end(End::Http(200), None);
        }
        assert_eq!(paths.sums().len(), 3);
        // Neither does the end of one run into the beginning of the other.
        let hashes = [thread.hash(true, "GET", "/ab"), thread.hash(true, "GET", "/a/b")];
        assert_ne!(hashes[0], hashes[1]);
    }

    #[test]
    fn paths_made_up_do_not_fill_the_memory_and_what_is_known_stays_told_apart() {
        let paths = Paths::default();
        let (first, second) = (paths.thread(), paths.thread());
        first.row(true, "GET", "/known/1").end(End::Http(200), None);
        for i in 0..4 * PATHS_MAX {
            first.row(true, "GET", &format!("/made-up-{i}")).end(End::Http(404), None);
            second.row(true, "GET", &format!("/made-up-{i}-too")).end(End::Http(404), None);
        }
        second.row(true, "GET", "/known/2").end(End::Http(200), None);
        let seen = seen(&paths);
        assert!(seen.len() <= PATHS_MAX + 2, "{}", seen.len());
        assert_eq!(seen.iter().map(|row| row.2).sum::<u64>(), 8 * PATHS_MAX as u64 + 2);
        assert!(seen.contains(&("GET".to_owned(), "/known/*".to_owned(), 2)));
        assert!(seen.iter().any(|row| row.1 == OTHER && row.2 >= 7 * PATHS_MAX as u64));
        assert!(paths.locked().counters.len() <= 2 * (PATHS_MAX + 2));
    }

    #[test]
    fn what_nobody_asks_for_any_more_makes_room_for_what_is_new() {
        let paths = Paths::default();
        let (first, second, idle) = (paths.thread(), paths.thread(), paths.thread());
        let old = |i: usize| format!("/old-{i}");
        for i in 0..PATHS_MAX {
            first.row(true, "GET", &old(i)).end(End::Http(200), None);
        }
        idle.row(true, "GET", &old(1)).end(End::Http(200), None);
        second.row(true, "GET", "/new").end(End::Http(200), None);
        let told_apart = |path: &str| seen(&paths).into_iter().find(|row| row.1 == path).map(|row| row.2);
        assert_eq!((told_apart("/new"), told_apart(OTHER)), (None, Some(1)));
        // While there is room, and as long as something is used, nothing is forgotten.
        let now = Instant::now();
        paths.forget_unused(now);
        let under_way = first.row(true, "GET", &old(2));
        first.row(true, "GET", &old(3)).end(End::Http(200), None);
        paths.forget_unused(now + FORGOTTEN_AFTER / 2);
        assert_eq!(seen(&paths).len(), PATHS_MAX + 1);
        paths.forget_unused(now + FORGOTTEN_AFTER);
        for thread in [&first, &second] {
            thread.row(true, "GET", "/new").end(End::Http(200), None);
            thread.row(true, "GET", &old(3)).end(End::Http(200), None);
        }
        under_way.end(End::Http(200), None);
        paths.forget_unused(now + FORGOTTEN_AFTER);
        // What was under way for so long has its count all the same, ...
        assert_eq!((told_apart("/new"), told_apart(OTHER)), (Some(2), Some(2)));
        assert_eq!((told_apart(&old(3)), told_apart(&old(2))), (Some(4), None));
        drop(under_way);
        idle.row(true, "GET", "/new");
        paths.forget_unused(now + FORGOTTEN_AFTER);
        // ... also when nobody holds it any more.
        assert_eq!((seen(&paths).len(), told_apart(OTHER)), (3, Some(2)));
        assert!(paths.locked().counters.len() <= 7, "{}", paths.locked().counters.len());
        assert!(paths.locked().forgotten.is_empty());
    }

    #[test]
    fn long_names_and_many_ends_are_counted_all_the_same() {
        let paths = Paths::default();
        let thread = paths.thread();
        thread.row(true, "GET", &"/word".repeat(PATH_LEN_MAX / 5 + 1)).end(End::Http(200), None);
        thread.row(true, &"X".repeat(METHOD_LEN_MAX + 1), "/").end(End::Http(200), None);
        let row = thread.row(true, "GET", "/");
        (200..300).chain(500..510).for_each(|status| row.end(End::Http(status), None));
        let sums = paths.sums();
        let counts: Vec<_> =
            sums.iter().map(|(p, t)| (p.path.as_str(), t.len(), t.values().map(|t| t.count).sum::<u64>())).collect();
        assert_eq!(counts, [("/", ENDS_MAX, 110), (OTHER, 1, 2)]);
        let others = sums.values().next().unwrap().iter().filter(|(key, _)| key.0 == OTHER_ENDS);
        let others: Vec<_> = others.map(|(key, total)| (end_of(*key), total.count)).collect();
        assert_eq!(others, [((None, false), 10), ((None, true), 94)]);
    }
}
