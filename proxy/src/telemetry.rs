//! What passes through this proxy, counted.
//!
//! A data thread looks up the counters of a label set once per connection and peer, and then only adds to them: each thread
//! has its own, written with plain stores, and the control thread adds them up when somebody asks.

pub mod paths;
pub mod prometheus;
mod registry;
pub mod report;
mod status;
pub mod transport;

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use conduit_api::{
    Endpoint, ServiceName, SpiffeId, grpc,
    latency::{self, BUCKETS},
};

use tokio::time::Instant;

use self::{
    paths::{PathTotals, Paths, Pattern, ThreadPaths},
    registry::{LabelSet, Registry, ThreadRegistry},
    status::Statuses,
    transport::{ConnectionLabels, ConnectionTotals, Connections},
};

/// The authority of what came past the budget of label sets.
pub const OTHER: &str = "__other__";
/// A longer authority is counted under [`OTHER`]: a name of the DNS has at most 253 characters, and a port five.
const AUTHORITY_LEN_MAX: usize = 259;
/// gRPC status codes are 0 to 16; one more for those that are not defined.
const GRPC_CODES: usize = 18;

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
    /// The application's own TLS, with a server of this name, if its client says one.
    Passthrough(Option<Arc<str>>),
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels {
    /// To or from the application.
    pub direction: Direction,
    /// What requests name as their destination.
    pub authority: String,
    /// How the connection to the peer is secured.
    pub tls: Tls,
    /// Where an outbound request went.
    pub destination: Option<Arc<Peer>>,
    /// What an outbound request was for; none where that is no service.
    pub meant: Option<Arc<Meant>>,
    /// Namespace and name of the service among whose endpoints it was to be given to one: where a route chooses among several services, the one
    /// that it chose.
    pub backend: Option<(String, String)>,
}

/// A service that requests were for, and which of its routes accepted them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meant {
    /// Of the service and its routes.
    pub namespace: String,
    /// The service's.
    pub name: String,
    /// The service's.
    pub port: u16,
    /// The name of an HTTPRoute; empty where none has.
    pub route: String,
}

impl Meant {
    /// Of a service's port.
    pub fn new(service: &ServiceName, port: u16, route: &str) -> Self {
        let (namespace, name) = (service.namespace().to_owned(), service.name().to_owned());
        Self { namespace, name, port, route: route.to_owned() }
    }

    /// What is counted together past the budget.
    fn other() -> Self {
        Self { namespace: String::new(), name: OTHER.to_owned(), port: 0, route: OTHER.to_owned() }
    }
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
    /// The service that was asked for, in the same namespace as its pods.
    pub service: Option<String>,
}

impl Peer {
    /// Of an endpoint whose pod is known, and which was chosen for `service`.
    pub fn of(endpoint: &Endpoint, service: Option<&ServiceName>) -> Option<Self> {
        let pod = endpoint.pod.as_ref()?;
        let workload = endpoint.workload.as_ref().map(|workload| (workload.kind.clone(), workload.name.clone()));
        let service = service.map(|service| service.name().to_owned());
        Some(Self { namespace: pod.namespace().to_owned(), pod: pod.name().to_owned(), workload, service })
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
            Self::Grpc(code) => !grpc::is_failure(code),
            Self::Reset => false,
        }
    }
}

/// The counters of one label set in one thread.
#[derive(Default)]
pub struct Counters {
    /// Requests that were sent, or failed.
    pub requests: Counter,
    /// Responses by gRPC status.
    grpc: [Counter; GRPC_CODES],
    /// Responses by HTTP status.
    http: Statuses,
    /// Responses that did not end.
    pub resets: Counter,
    /// Time to the response's head.
    latency: Histogram,
}

/// How long something took, by the buckets of [`latency`]; their memory is taken with the first count.
#[derive(Default)]
pub struct Histogram {
    buckets: OnceLock<Box<[Counter]>>,
    sum_us: Counter,
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramTotals {
    /// Counts by bucket.
    pub buckets: BTreeMap<u32, u64>,
    /// The sum, in microseconds.
    pub sum_us: u64,
}

impl HistogramTotals {
    fn merge(&mut self, other: &Self) {
        self.sum_us += other.sum_us;
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }
}

impl HistogramTotals {
    /// Without what was counted by then.
    fn since(&self, before: &Self) -> Self {
        let count = |(bucket, count): (&u32, &u64)| {
            let count = count.saturating_sub(*before.buckets.get(bucket).unwrap_or(&0));
            (count > 0).then_some((*bucket, count))
        };
        let buckets = self.buckets.iter().filter_map(count).collect();
        Self { buckets, sum_us: self.sum_us.saturating_sub(before.sum_us) }
    }
}

impl Histogram {
    /// Counts.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let buckets = self.buckets.get_or_init(|| std::iter::repeat_with(Counter::default).take(BUCKETS).collect());
        buckets[latency::bucket(us)].add(1);
        self.sum_us.add(us);
    }

    fn add_to(&self, totals: &mut HistogramTotals) {
        totals.sum_us += self.sum_us.value();
        for (bucket, count) in self.buckets.get().into_iter().flatten().enumerate() {
            if count.value() > 0 {
                *totals.buckets.entry(bucket as u32).or_default() += count.value();
            }
        }
    }
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
        self.latency.observe(latency);
    }

    /// A request got no answer but this proxy's own, with this HTTP status.
    pub fn fail(&self, status: u16) {
        self.requests.add(1);
        self.end(End::Http(status));
    }

    /// A response ended.
    pub fn end(&self, end: End) {
        match end {
            End::Grpc(code) => self.grpc[(code as usize).min(GRPC_CODES - 1)].add(1),
            End::Http(status) => self.http.add(status),
            End::Reset => self.resets.add(1),
        }
    }

    fn add_to(&self, totals: &mut Totals) {
        totals.requests += self.requests.value();
        let grpc = self.grpc.iter().enumerate().map(|(code, count)| (End::Grpc(code as u32), count.value()));
        let http = self.http.counts().map(|(status, count)| (End::Http(status), count));
        for (end, count) in grpc.chain(http).chain([(End::Reset, self.resets.value())]) {
            if count > 0 {
                *totals.ends.entry(end.key()).or_default() += count;
            }
        }
        self.latency.add_to(&mut totals.latency);
    }
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
    /// Times to the responses' heads.
    pub latency: HistogramTotals,
}

impl Totals {
    /// How many responses ended how.
    pub fn ends(&self) -> impl Iterator<Item = (End, u64)> + '_ {
        self.ends.iter().map(|(key, count)| (End::from_key(*key), *count))
    }
}

impl LabelSet for Labels {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn past_the_budget(&self) -> Self {
        // They are said to be of a service all the same: what fails must not go unnoticed because there is much of it.
        let meant = self.meant.is_some().then(|| Arc::new(Meant::other()));
        let backend = self.backend.is_some().then(|| (String::new(), OTHER.to_owned()));
        Self { meant, backend, ..self.configured() }
    }

    fn configured(&self) -> Self {
        Self { authority: OTHER.to_owned(), destination: None, ..self.clone() }
    }
}

/// All counters of all threads.
#[derive(Clone, Default)]
pub struct Telemetry {
    requests: Registry<Labels, Counters>,
    connections: Registry<ConnectionLabels, Connections>,
    refusals: Registry<Refused, Counter>,
    paths: Paths,
}

/// Handshakes and messages that were refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refused {
    /// Of the connection.
    pub direction: Direction,
    /// What it was part of.
    pub layer: Layer,
    /// As [`conduit_ca::Refusal::reason`] or [`crate::http::Refusal::reason`] says it, or `overloaded`: there are few.
    pub reason: &'static str,
}

/// Where something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// A handshake between proxies.
    Tls,
    /// A message.
    Http,
}

impl LabelSet for Refused {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn past_the_budget(&self) -> Self {
        self.clone()
    }
}

impl Telemetry {
    /// One thread's view.
    pub fn thread(&self) -> ThreadTelemetry {
        ThreadTelemetry {
            requests: self.requests.thread(),
            connections: self.connections.thread(),
            refusals: self.refusals.thread(),
            paths: Rc::new(self.paths.thread()),
        }
    }

    /// What was refused, by why.
    pub fn refusals(&self) -> BTreeMap<Refused, u64> {
        self.refusals.sums(|counter, sum| *sum += counter.value())
    }

    /// What became of requests, by label set.
    pub fn requests(&self) -> BTreeMap<Labels, Totals> {
        self.requests.sums(Counters::add_to)
    }

    /// What became of requests to the application, by what they asked for.
    pub fn paths(&self) -> BTreeMap<Arc<Pattern>, PathTotals> {
        self.paths.sums()
    }

    /// Forgets what the application is not asked for any more, if there is no room left. To be called now and then.
    pub fn forget_unused(&self, now: Instant) {
        self.paths.forget_unused(now);
    }

    /// What became of connections, by label set.
    pub fn connections(&self) -> BTreeMap<ConnectionLabels, ConnectionTotals> {
        self.connections.sums(Connections::add_to)
    }
}

/// The counters of one data thread, by label set.
pub struct ThreadTelemetry {
    requests: ThreadRegistry<Labels, Counters>,
    connections: ThreadRegistry<ConnectionLabels, Connections>,
    refusals: ThreadRegistry<Refused, Counter>,
    /// What the application is asked for.
    pub paths: Rc<ThreadPaths>,
}

impl ThreadTelemetry {
    /// A handshake or a message was refused.
    pub fn refused(&self, direction: Direction, layer: Layer, reason: &'static str) {
        self.refusals.counters(&Refused { direction, layer, reason }).add(1);
    }

    /// The counters for requests with `labels`; to be held for as long as these are used.
    pub fn requests(&self, labels: &Labels) -> Arc<Counters> {
        if labels.authority.len() > AUTHORITY_LEN_MAX {
            return self.requests.counters(&Labels { authority: OTHER.to_owned(), ..labels.clone() });
        }
        self.requests.counters(labels)
    }

    /// The counters for connections with `labels`.
    pub fn connections(&self, labels: &ConnectionLabels) -> Arc<Connections> {
        self.connections.counters(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn labels(authority: &str) -> Labels {
        let (direction, tls) = (Direction::Inbound, Tls::NoIdentity);
        Labels { direction, authority: authority.into(), tls, destination: None, meant: None, backend: None }
    }

    #[test]
    fn threads_are_added_up() {
        let telemetry = Telemetry::default();
        for thread in [telemetry.thread(), telemetry.thread()] {
            let counters = thread.requests(&labels("web"));
            counters.requests.add(2);
            counters.end(End::Http(200));
            counters.end(End::Grpc(2));
            counters.latency(Duration::from_millis(3));
            assert!(Arc::ptr_eq(&counters, &thread.requests(&labels("web"))));
        }
        let totals = &telemetry.requests()[&labels("web")];
        assert_eq!(totals.requests, 4);
        assert_eq!(totals.ends().collect::<Vec<_>>(), [(End::Http(200), 2), (End::Grpc(2), 2)]);
        assert_eq!(totals.latency.buckets.values().sum::<u64>(), 2);
        assert_eq!(totals.latency.sum_us, 6_000);
    }

    #[test]
    fn an_authority_that_is_no_name_is_one_of_the_others() {
        let telemetry = Telemetry::default();
        let thread = telemetry.thread();
        for length in [AUTHORITY_LEN_MAX, AUTHORITY_LEN_MAX + 1, 60_000] {
            thread.requests(&labels(&"a".repeat(length))).requests.add(1);
        }
        let requests = telemetry.requests();
        assert_eq!((requests.len(), requests[&labels(OTHER)].requests), (2, 2));
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
