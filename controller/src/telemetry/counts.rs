//! What is counted, and how it is added up. Pure.

use conduit_api::{
    latency::Latencies,
    proto::{
        common::{Tls, tls},
        peer,
        public::{BasicStats, TcpStats},
        telemetry::{LatencyBucket, RequestCounts},
    },
};

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
    /// Open now.
    pub open: u64,
    /// From the other end.
    pub read_bytes: u64,
    /// To it.
    pub write_bytes: u64,
}

/// Both, and the time that they were counted in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What was understood.
    pub requests: Counts,
    /// Whatever it was.
    pub tcp: Tcp,
    /// The longest of those that were added: replicas of different age have seen different parts of a window.
    pub covered_ms: u32,
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
    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.open = self.open.saturating_add(other.open);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.write_bytes = self.write_bytes.saturating_add(other.write_bytes);
    }
}

impl Traffic {
    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.requests.merge(&other.requests);
        self.tcp.merge(&other.tcp);
        self.covered_ms = self.covered_ms.max(other.covered_ms);
    }

    /// As replicas tell each other, without names.
    pub fn to_wire(&self) -> peer::Counts {
        peer::Counts {
            namespace: String::new(),
            name: String::new(),
            group: None,
            success: self.requests.success,
            failure: self.requests.failure,
            tls: self.requests.tls,
            covered_ms: self.covered_ms,
            latency: self.requests.latencies.iter().collect(),
            tcp_open: self.tcp.open,
            read_bytes: self.tcp.read_bytes,
            write_bytes: self.tcp.write_bytes,
        }
    }

    /// What another replica told.
    pub fn from_wire(counts: peer::Counts) -> Self {
        let mut latencies = Latencies::default();
        for (bucket, count) in counts.latency {
            latencies.add(bucket, count);
        }
        let requests = Counts { success: counts.success, failure: counts.failure, tls: counts.tls, latencies };
        let tcp = Tcp { open: counts.tcp_open, read_bytes: counts.read_bytes, write_bytes: counts.write_bytes };
        Self { requests, tcp, covered_ms: counts.covered_ms }
    }

    /// As people are told; none without requests.
    pub fn stats(&self) -> Option<BasicStats> {
        let quantile = |q| self.requests.latencies.quantile(q).unwrap_or_default();
        (self.requests.total() > 0).then(|| BasicStats {
            success_count: self.requests.success,
            failure_count: self.requests.failure,
            window_ms: self.covered_ms,
            latency_p50_us: quantile(0.5),
            latency_p95_us: quantile(0.95),
            latency_p99_us: quantile(0.99),
            tls_count: self.requests.tls,
        })
    }

    /// The same of connections; none when there was none.
    pub fn tcp_stats(&self) -> Option<TcpStats> {
        let Tcp { open, read_bytes, write_bytes } = self.tcp;
        let stats = TcpStats { open, read_bytes, write_bytes, window_ms: self.covered_ms };
        (self.tcp != Tcp::default()).then_some(stats)
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
