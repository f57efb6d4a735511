//! What the application is asked for, by method and path, and how that ends.
//!
//! A path is known by its pattern: without its query, and with `*` for what only tells one of many things. A request costs a hash
//! of its path and a look into its thread's table, or two where it is not its own pattern; only the first of a pattern takes
//! memory and a lock.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, Hasher as _},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use memchr::memchr;

use super::{Counter, End, Histogram, HistogramTotals, OTHER};

/// Patterns in one proxy. Past it, requests are counted under [`OTHER`]. A pattern takes 3 kB for each way in which it ends, in each thread
/// that has seen it: of a proxy with two threads whoever makes paths up gets 6 MB at worst, and one that always ends alike 0.8 MB.
pub const PATHS_MAX: usize = 128;
/// A longer pattern is counted under [`OTHER`].
const PATH_LEN_MAX: usize = 256;
/// So is a longer method; those that are registered have at most 17 characters.
const METHOD_LEN_MAX: usize = 32;
/// Ends that are told apart for each pattern, the last two of them being all other successes, and all other failures.
const ENDS_MAX: usize = 8;
/// The kind of those two, after the kinds that [`End::key`] gives.
pub const OTHER_ENDS: u8 = 3;
/// Hexadecimal digits from here on are an id, and not a word as `feed`.
const HEX_MIN: usize = 16;
/// What stands for numbers, UUIDs and long hexadecimals.
const ANY: &[u8] = b"*";

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
}

/// The pattern of a path that has no query, in `buffer`; none if there is no room for it.
fn pattern<'a>(path: &str, buffer: &'a mut [u8; PATH_LEN_MAX]) -> Option<&'a str> {
    let mut len = 0;
    let mut push = |bytes: &[u8]| {
        buffer.get_mut(len..len + bytes.len())?.copy_from_slice(bytes);
        len += bytes.len();
        Some(())
    };
    for (index, segment) in path.as_bytes().split(|byte| *byte == b'/').enumerate() {
        if index > 0 {
            push(b"/")?;
        }
        push(if is_one_of_many(segment) { ANY } else { segment })?;
    }
    str::from_utf8(&buffer[..len]).ok()
}

/// A number, a UUID, or a long hexadecimal.
fn is_one_of_many(segment: &[u8]) -> bool {
    let Some(first) = segment.first() else { return false };
    // Most words end here.
    if !first.is_ascii_hexdigit() {
        return false;
    }
    let is_uuid = || {
        segment.len() == 36
            && (0..).zip(segment).all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    segment.iter().all(u8::is_ascii_digit)
        || segment.len() >= HEX_MIN && segment.iter().all(u8::is_ascii_hexdigit)
        || is_uuid()
}

/// The counters of a pattern in one thread, which alone writes them.
#[derive(Default)]
struct Ends([Ended; ENDS_MAX]);

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
        for ended in &self.0[..others] {
            match ended.key.load(Ordering::Relaxed) {
                0 => ended.key.store(key, Ordering::Relaxed),
                known if known != key => continue,
                _ => {}
            }
            return ended;
        }
        let success = u32::from(end.is_success());
        let other = &self.0[others + success as usize];
        other.key.store((u32::from(OTHER_ENDS) + 1) << 16 | success, Ordering::Relaxed);
        other
    }

    fn add_to(&self, totals: &mut PathTotals) {
        for ended in &self.0 {
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
pub struct Paths(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    patterns: BTreeSet<Arc<Pattern>>,
    counters: Vec<(Arc<Pattern>, Arc<Ends>)>,
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
        }
    }

    /// The sums over all threads.
    pub fn sums(&self) -> BTreeMap<Arc<Pattern>, PathTotals> {
        let mut sums = BTreeMap::new();
        for (pattern, ends) in &self.locked().counters {
            ends.add_to(sums.entry(pattern.clone()).or_default());
        }
        sums
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
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
}

impl ThreadPaths {
    /// The counters of a request.
    pub fn row(&self, mutual: bool, method: &str, path: &str) -> Rc<Row> {
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
        let pattern = || Pattern { path: OTHER.to_owned(), method: OTHER.to_owned(), mutual };
        self.others[usize::from(mutual)].get_or_init(|| self.shared.locked().row(pattern())).clone()
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
    fn what_is_one_of_many_is_not_told_apart() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("", ""),
            ("/emojivoto.v1.VotingService/VoteDoughnut", "/emojivoto.v1.VotingService/VoteDoughnut"),
            ("/books/42/pages/7", "/books/*/pages/*"),
            ("/books/", "/books/"),
            ("/u/6f1c2a34-0b1d-4e5f-8a9b-0c1d2e3f4a5b/x", "/u/*/x"),
            ("/u/6f1c2a340b1d4e5f-8a9b-0c1d2e3f4a5b--/x", "/u/6f1c2a340b1d4e5f-8a9b-0c1d2e3f4a5b--/x"),
            ("/blobs/0123456789abcdefABCDEF", "/blobs/*"),
            ("/feed/beef/c0ffee/v1/2x", "/feed/beef/c0ffee/v1/2x"),
            ("/größe/1", "/größe/*"),
        ] {
            assert_eq!(pattern(path, &mut [0; PATH_LEN_MAX]), Some(expected), "{path}");
        }
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
    fn long_names_and_many_ends_are_counted_all_the_same() {
        let paths = Paths::default();
        let thread = paths.thread();
        thread.row(true, "GET", &format!("/{}", "x".repeat(PATH_LEN_MAX))).end(End::Http(200), None);
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
