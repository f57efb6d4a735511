//! What is counted, and how it is added up. Pure.

use std::collections::BTreeMap;

use conduit_api::{
    latency::Latencies,
    proto::{
        common::{Tls, tls},
        peer,
        public::{BasicStats, TcpStats},
        telemetry::{LatencyBucket, RequestCounts},
    },
};

use super::questions::Of;

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

/// Connections and the bytes on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Open now, where it is not known whose they are.
    pub open: u64,
    /// From the other end.
    pub read_bytes: u64,
    /// To it.
    pub write_bytes: u64,
}

/// Both, and the time that they were counted in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// What was understood.
    pub requests: Counts,
    /// Whatever it was.
    pub tcp: Tcp,
    /// Connections that are open now.
    pub open: Open,
    /// Over how long requests were counted.
    pub requests_over: Covered,
    /// Over how long bytes were.
    pub bytes_over: Covered,
}

/// Open connections by who has told of them, which the proxy is said by a number, and how many milliseconds ago. A proxy that goes to another replica
/// is known to both for a while: what it has said last is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open(BTreeMap<u64, (u32, u64)>);

impl Open {
    /// So many more, of one proxy that has told so long ago.
    pub fn add(&mut self, reporter: u64, told_ms_ago: u32, count: u64) {
        let (told, sum) = self.0.entry(reporter).or_insert((told_ms_ago, 0));
        (*told, *sum) = (told_ms_ago.min(*told), sum.saturating_add(count));
    }

    /// Takes over what `other` has of proxies that are not known here, or has been told later.
    pub fn merge(&mut self, other: &Self) {
        for (reporter, (told_ms_ago, count)) in &other.0 {
            let known = self.0.entry(*reporter).or_insert((*told_ms_ago, *count));
            if *told_ms_ago < known.0 {
                *known = (*told_ms_ago, *count);
            }
        }
    }

    fn sum(&self) -> u64 {
        self.0.values().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// Over how long something was counted, by parts: so that what they add up to is a rate although each was counted over another time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Covered {
    amount: f64,
    per_ms: f64,
    /// The shortest of them.
    least: Option<u32>,
}

impl Covered {
    /// So much, in so many milliseconds.
    pub fn of(amount: u64, ms: u32) -> Self {
        let amount = amount as f64;
        Self { amount, per_ms: amount / f64::from(ms.max(1)), least: Some(ms) }
    }

    fn merge(&mut self, other: &Self) {
        self.amount += other.amount;
        self.per_ms += other.per_ms;
        self.least = self.least.into_iter().chain(other.least).min();
    }

    /// The time by which the sum is the rate that the parts have together.
    pub fn ms(&self) -> u32 {
        let ms = if self.per_ms > 0.0 { (self.amount / self.per_ms).round() as u32 } else { 0 };
        if ms > 0 { ms } else { self.least.unwrap_or_default() }
    }
}

impl Counts {
    /// What a proxy reports.
    pub fn of(counts: &RequestCounts) -> Self {
        let is_mutual = counts.tls.as_ref().is_some_and(is_mutual);
        let tls = if is_mutual { counts.success.saturating_add(counts.failure) } else { 0 };
        Self { success: counts.success, failure: counts.failure, tls, latencies: latencies(&counts.latency) }
    }

    /// Adds `other`, which may be whatever a proxy says.
    pub fn merge(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.failure = self.failure.saturating_add(other.failure);
        self.tls = self.tls.saturating_add(other.tls);
        self.latencies.merge(&other.latencies);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.success.saturating_add(self.failure)
    }
}

impl Tcp {
    fn bytes(&self) -> u64 {
        self.read_bytes.saturating_add(self.write_bytes)
    }

    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.open = self.open.saturating_add(other.open);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.write_bytes = self.write_bytes.saturating_add(other.write_bytes);
    }
}

impl Traffic {
    /// Of one proxy, or several that were heard equally long.
    pub fn of(requests: Counts, tcp: Tcp, requests_ms: u32, bytes_ms: u32) -> Self {
        let requests_over = Covered::of(requests.total(), requests_ms);
        let bytes_over = Covered::of(tcp.bytes(), bytes_ms);
        Self { requests, tcp, open: Open::default(), requests_over, bytes_over }
    }

    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.requests.merge(&other.requests);
        self.tcp.merge(&other.tcp);
        self.open.merge(&other.open);
        self.requests_over.merge(&other.requests_over);
        self.bytes_over.merge(&other.bytes_over);
    }

    /// The shortest time that any part of it was counted in.
    pub fn least_covered_ms(&self) -> Option<u32> {
        self.requests_over.least.into_iter().chain(self.bytes_over.least).min()
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.tcp.open.saturating_add(self.open.sum())
    }

    /// As replicas tell each other, without names.
    pub fn to_wire(&self, of: Of) -> peer::Counts {
        let open = self.open.0.iter();
        let (reporter, report, kept_by) = match of {
            Of::All => (0, None, 0),
            Of::One(reporter, kept_by) => (reporter, None, kept_by.max(1)),
            Of::Repeated(reporter, incarnation, sequence) => {
                (reporter, Some(peer::ReportId { incarnation, sequence }), 1)
            }
        };
        peer::Counts {
            success: self.requests.success,
            failure: self.requests.failure,
            tls: self.requests.tls,
            covered_ms: self.requests_over.ms(),
            bytes_covered_ms: self.bytes_over.ms(),
            latency: self.requests.latencies.iter().collect(),
            tcp_open: self.open(),
            read_bytes: self.tcp.read_bytes,
            write_bytes: self.tcp.write_bytes,
            open: open
                .map(|(reporter, (told_ms_ago, count))| peer::Open {
                    reporter: *reporter,
                    told_ms_ago: *told_ms_ago,
                    count: *count,
                })
                .collect(),
            kept_by,
            reporter,
            report,
            ..peer::Counts::default()
        }
    }

    /// What another replica told; `over_ms` is how long it was counted by all replicas together, where that is known.
    pub fn from_wire(counts: peer::Counts, over_ms: Option<u32>) -> Self {
        let mut latencies = Latencies::default();
        for (bucket, count) in counts.latency {
            latencies.add(bucket, count);
        }
        let requests = Counts { success: counts.success, failure: counts.failure, tls: counts.tls, latencies };
        // One of an older release says only how many there are.
        let tcp_open = if counts.open.is_empty() { counts.tcp_open } else { 0 };
        let tcp = Tcp { open: tcp_open, read_bytes: counts.read_bytes, write_bytes: counts.write_bytes };
        let bytes_ms = if counts.bytes_covered_ms > 0 { counts.bytes_covered_ms } else { counts.covered_ms };
        let mut traffic = Self::of(requests, tcp, over_ms.unwrap_or(counts.covered_ms), over_ms.unwrap_or(bytes_ms));
        for open in counts.open {
            traffic.open.add(open.reporter, open.told_ms_ago, open.count);
        }
        traffic
    }

    /// As people are told; none without requests.
    pub fn stats(&self) -> Option<BasicStats> {
        let quantile = |q| self.requests.latencies.quantile(q).unwrap_or_default();
        (self.requests.total() > 0).then(|| BasicStats {
            success_count: self.requests.success,
            failure_count: self.requests.failure,
            window_ms: self.requests_over.ms(),
            latency_p50_us: quantile(0.5),
            latency_p95_us: quantile(0.95),
            latency_p99_us: quantile(0.99),
            tls_count: self.requests.tls,
        })
    }

    /// The same of connections; none when there was none.
    pub fn tcp_stats(&self) -> Option<TcpStats> {
        let Tcp { read_bytes, write_bytes, .. } = self.tcp;
        let open = self.open();
        let stats = TcpStats { open, read_bytes, write_bytes, window_ms: self.bytes_over.ms() };
        (open | read_bytes | write_bytes > 0).then_some(stats)
    }
}

/// Whether a connection is between two proxies that know each other.
pub fn is_mutual(tls: &Tls) -> bool {
    tls.state() == tls::State::Mutual
}

/// Of the wire, as they are added up.
pub fn latencies(buckets: &[LatencyBucket]) -> Latencies {
    let mut latencies = Latencies::default();
    for bucket in buckets {
        latencies.add(bucket.index, bucket.count);
    }
    latencies
}
