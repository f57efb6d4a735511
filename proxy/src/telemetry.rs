//! What passes through this proxy, counted.
//!
//! A data thread looks up the counters of a label set once per connection and peer, and then only adds to them: each thread
//! has its own, written with plain stores, and the control thread adds them up when somebody asks.

pub mod prometheus;
pub mod report;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use conduit_api::{
    Endpoint, SpiffeId,
    latency::{self, BUCKETS},
};

/// Label sets of one proxy. Past it, what is new is counted under `__other__`: a caller that makes names up must not fill
/// the memory of everybody who looks at metrics.
pub const LABEL_SETS_MAX: usize = 1000;
/// The authority of what came past the budget.
pub const OTHER: &str = "__other__";
/// gRPC status codes are 0 to 16; one more for those that are not defined.
const GRPC_CODES: usize = 18;
/// HTTP status codes are 100 to 999 (RFC 9110 section 15).
const HTTP_CODES: usize = 900;

/// To or from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the application beside this proxy.
    Inbound,
    /// From it.
    Outbound,
}

/// How a connection is secured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tls {
    /// Mutual TLS, with this peer.
    Mutual(SpiffeId),
    /// Plaintext: the peer has no proxy.
    NoIdentity,
    /// Plaintext that does not leave the pod.
    Loopback,
    /// The application's own TLS.
    Passthrough,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    /// To or from the application.
    pub direction: Direction,
    /// What requests name as their destination; empty for opaque connections.
    pub authority: String,
    /// How the connection to the peer is secured.
    pub tls: Tls,
    /// Where an outbound request went.
    pub destination: Option<Arc<Peer>>,
}

/// The endpoint at the other end, as metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Of pod and workload.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Kind and name of the pod's owner.
    pub workload: Option<(String, String)>,
}

impl Peer {
    /// Of an endpoint whose pod is known.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let pod = endpoint.pod.as_ref()?;
        let workload = endpoint.workload.as_ref().map(|workload| (workload.kind.clone(), workload.name.clone()));
        Some(Self { namespace: pod.namespace().to_owned(), pod: pod.name().to_owned(), workload })
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this HTTP status, and nothing that says more.
    Http(u16),
    /// With this gRPC status (and HTTP status 200).
    Grpc(u32),
    /// It did not end: reset, or cancelled.
    Reset,
}

impl End {
    /// Whether it counts as a success.
    pub fn is_success(self) -> bool {
        match self {
            Self::Http(status) => status < 500,
            // Unknown, DeadlineExceeded, Internal, Unavailable, DataLoss: the server's fault, not the caller's.
            Self::Grpc(code) => !matches!(code, 2 | 4 | 13 | 14 | 15),
            Self::Reset => false,
        }
    }
}

/// The counters of one label set in one thread.
#[derive(Default)]
pub struct Counters {
    /// Requests that came, and whose responses have ended.
    pub requests: Counter,
    /// Responses by gRPC status.
    grpc: [Counter; GRPC_CODES],
    /// Responses by HTTP status; made with the first one, since gRPC needs none.
    http: OnceLock<Box<[Counter]>>,
    /// Responses that did not end.
    pub resets: Counter,
    /// Time to the response's head; made with the first one, since opaque connections have none.
    latency: OnceLock<Box<[Counter]>>,
    /// Microseconds of all of the above.
    pub latency_sum_us: Counter,
    /// Connections.
    pub tcp_opened: Counter,
    /// Connections that have ended.
    pub tcp_closed: Counter,
    /// Bytes from the peer that opened the connection.
    pub tcp_read_bytes: Counter,
    /// Bytes to it.
    pub tcp_write_bytes: Counter,
    /// Milliseconds that ended connections lasted.
    pub tcp_duration_ms: Counter,
}

/// Written by one thread only, so that adding needs no locked instruction.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// The head of a response came after `latency`.
    pub fn latency(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.get_or_init(|| counters(BUCKETS))[latency::bucket(us)].add(1);
        self.latency_sum_us.add(us);
    }

    /// A response ended.
    pub fn end(&self, end: End) {
        match end {
            End::Grpc(code) => self.grpc[(code as usize).min(GRPC_CODES - 1)].add(1),
            End::Http(status) => {
                let index = usize::from(status).saturating_sub(100).min(HTTP_CODES - 1);
                self.http.get_or_init(|| counters(HTTP_CODES))[index].add(1);
            }
            End::Reset => self.resets.add(1),
        }
    }

    fn totals(&self, totals: &mut Totals) {
        totals.requests += self.requests.value();
        totals.latency_sum_us += self.latency_sum_us.value();
        totals.tcp_opened += self.tcp_opened.value();
        totals.tcp_closed += self.tcp_closed.value();
        totals.tcp_read_bytes += self.tcp_read_bytes.value();
        totals.tcp_write_bytes += self.tcp_write_bytes.value();
        totals.tcp_duration_ms += self.tcp_duration_ms.value();
        let grpc = self.grpc.iter().enumerate().map(|(code, count)| (End::Grpc(code as u32), count));
        let http = self.http.get().into_iter().flatten().enumerate();
        let http = http.map(|(index, count)| (End::Http(index as u16 + 100), count));
        for (end, count) in grpc.chain(http).chain([(End::Reset, &self.resets)]) {
            if count.value() > 0 {
                *totals.ends.entry(end.key()).or_default() += count.value();
            }
        }
        for (bucket, count) in self.latency.get().into_iter().flatten().enumerate() {
            if count.value() > 0 {
                *totals.latency.entry(bucket as u32).or_default() += count.value();
            }
        }
    }
}

fn counters(count: usize) -> Box<[Counter]> {
    std::iter::repeat_with(Counter::default).take(count).collect()
}

impl End {
    /// An order for maps: kind, then code.
    fn key(self) -> (u8, u32) {
        match self {
            Self::Http(status) => (0, status.into()),
            Self::Grpc(code) => (1, code),
            Self::Reset => (2, 0),
        }
    }

    fn from_key((kind, code): (u8, u32)) -> Self {
        match kind {
            0 => Self::Http(code as u16),
            1 => Self::Grpc(code),
            _ => Self::Reset,
        }
    }
}

/// The sum of a label set over all threads, since the proxy started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    ends: BTreeMap<(u8, u32), u64>,
    /// Responses by latency bucket.
    pub latency: BTreeMap<u32, u64>,
    /// Microseconds.
    pub latency_sum_us: u64,
    /// Connections.
    pub tcp_opened: u64,
    /// Ended connections.
    pub tcp_closed: u64,
    /// Bytes.
    pub tcp_read_bytes: u64,
    /// Bytes.
    pub tcp_write_bytes: u64,
    /// Milliseconds.
    pub tcp_duration_ms: u64,
}

impl Totals {
    /// How many responses ended how.
    pub fn ends(&self) -> impl Iterator<Item = (End, u64)> + '_ {
        self.ends.iter().map(|(key, count)| (End::from_key(*key), *count))
    }
}

/// The counters of one label set in one thread.
type Registered = (Labels, Arc<Counters>);

/// All counters of all threads.
#[derive(Clone, Default)]
pub struct Telemetry {
    all: Arc<Mutex<Vec<Registered>>>,
}

impl Telemetry {
    /// One thread's view.
    pub fn thread(&self) -> ThreadTelemetry {
        ThreadTelemetry { shared: self.clone(), own: RefCell::default() }
    }

    /// The sums by label set.
    pub fn totals(&self) -> BTreeMap<Labels, Totals> {
        let mut sums: BTreeMap<Labels, Totals> = BTreeMap::new();
        for (labels, counters) in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            counters.totals(sums.entry(labels.clone()).or_default());
        }
        sums
    }

    fn is_full(&self) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).len() >= LABEL_SETS_MAX
    }

    /// New counters for `labels`. There are few more than the budget: each thread has one set for what came past it, per
    /// direction and kind of TLS.
    fn register(&self, labels: &Labels) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push((labels.clone(), counters.clone()));
        counters
    }
}

/// The counters of one data thread, by label set.
pub struct ThreadTelemetry {
    shared: Telemetry,
    own: RefCell<HashMap<Labels, Arc<Counters>>>,
}

impl ThreadTelemetry {
    /// The counters for `labels`; to be held for as long as these are used.
    pub fn counters(&self, labels: &Labels) -> Arc<Counters> {
        if let Some(counters) = self.own.borrow().get(labels) {
            return counters.clone();
        }
        let mut own = self.own.borrow_mut();
        let other = Labels { authority: OTHER.to_owned(), destination: None, ..labels.clone() };
        let labels = if self.shared.is_full() { other } else { labels.clone() };
        own.entry(labels).or_insert_with_key(|labels| self.shared.register(labels)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn labels(authority: &str) -> Labels {
        Labels { direction: Direction::Inbound, authority: authority.into(), tls: Tls::NoIdentity, destination: None }
    }

    #[test]
    fn threads_are_added_up() {
        let telemetry = Telemetry::default();
        for thread in [telemetry.thread(), telemetry.thread()] {
            let counters = thread.counters(&labels("web"));
            counters.requests.add(2);
            counters.end(End::Http(200));
            counters.end(End::Grpc(2));
            counters.latency(Duration::from_millis(3));
            assert!(Arc::ptr_eq(&counters, &thread.counters(&labels("web"))));
        }
        let totals = &telemetry.totals()[&labels("web")];
        assert_eq!(totals.requests, 4);
        assert_eq!(totals.ends().collect::<Vec<_>>(), [(End::Http(200), 2), (End::Grpc(2), 2)]);
        assert_eq!(totals.latency.values().sum::<u64>(), 2);
        assert_eq!(totals.latency_sum_us, 6_000);
    }

    #[test]
    fn names_made_up_do_not_fill_the_memory() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for i in 0..5 * LABEL_SETS_MAX {
            thread.counters(&labels(&format!("made-up-{i}"))).requests.add(1);
        }
        let totals = telemetry.totals();
        assert!(totals.len() <= LABEL_SETS_MAX + 1, "{}", totals.len());
        assert_eq!(totals.values().map(|totals| totals.requests).sum::<u64>(), 5 * LABEL_SETS_MAX as u64);
        assert!(totals[&labels(OTHER)].requests >= 4 * LABEL_SETS_MAX as u64);
    }

    #[test]
    fn what_counts_as_success() {
        for (end, success) in [
            (End::Http(200), true),
            (End::Http(404), true),
            (End::Http(500), false),
            (End::Grpc(0), true),
            (End::Grpc(2), false),
            (End::Grpc(5), true),
            (End::Grpc(7), true),
            (End::Grpc(14), false),
            (End::Reset, false),
        ] {
            assert_eq!(end.is_success(), success, "{end:?}");
        }
    }
}
