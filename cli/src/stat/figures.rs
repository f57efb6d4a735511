//! Counts, as rates and shares.

use conduit_api::proto::public::{BasicStats, TcpStats};
use serde::Serialize;

/// What there is to say of some requests. There was at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// From 0 to 1.
    pub(crate) success: f64,
    /// Requests per second.
    pub(crate) rps: f64,
    /// From 0 to 1.
    pub(super) tls: f64,
    /// 50th, 95th and 99th percentile, in microseconds; none where they are not known: of what nobody answered, and of pairs of pods some time ago.
    latencies_us: [Option<u64>; 3],
}

/// For programs; what there is no figure for is null.
#[derive(Default, Serialize)]
pub(super) struct JsonFigures {
    pub(super) success: Option<f64>,
    pub(super) rps: Option<f64>,
    pub(super) latency_ms_p50: Option<f64>,
    pub(super) latency_ms_p95: Option<f64>,
    pub(super) latency_ms_p99: Option<f64>,
}

impl Figures {
    /// None without requests, or without a time that they were counted in.
    pub(crate) fn new(stats: &BasicStats) -> Option<Self> {
        let total = stats.success_count.saturating_add(stats.failure_count);
        if total == 0 || stats.window_ms == 0 {
            return None;
        }
        let total = total as f64;
        Some(Self {
            success: stats.success_count as f64 / total,
            rps: total * 1000.0 / f64::from(stats.window_ms),
            tls: stats.tls_count as f64 / total,
            latencies_us: [stats.latency_p50_us, stats.latency_p95_us, stats.latency_p99_us]
                .map(|us| (us > 0).then_some(us)),
        })
    }

    /// For tables: SUCCESS, RPS, and the latencies, `exact` or rounded.
    pub(super) fn cells(&self, exact: bool) -> [String; 5] {
        let latency = if exact { exact_latency } else { rounded_latency };
        let [p50, p95, p99] = self.latencies_us.map(|us| us.map_or_else(|| "-".to_owned(), latency));
        [format!("{:.2}%", self.success * 100.0), format!("{:.1}rps", self.rps), p50, p95, p99]
    }
}

impl From<Option<Figures>> for JsonFigures {
    fn from(figures: Option<Figures>) -> Self {
        let Some(Figures { success, rps, latencies_us, .. }) = figures else { return Self::default() };
        let [latency_ms_p50, latency_ms_p95, latency_ms_p99] = latencies_us.map(|us| us.map(|us| us as f64 / 1000.0));
        Self { success: Some(success), rps: Some(rps), latency_ms_p50, latency_ms_p95, latency_ms_p99 }
    }
}

/// What there is to say of some connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Connections {
    /// Open now.
    pub(super) open: u64,
    /// Bytes per second, from and to the other end.
    pub(super) read_rate: f64,
    pub(super) write_rate: f64,
}

impl Connections {
    /// None without a time that they were counted in.
    pub(super) fn new(stats: &TcpStats) -> Option<Self> {
        let rate = |bytes: u64| bytes as f64 * 1000.0 / f64::from(stats.window_ms);
        let (read_rate, write_rate) = (rate(stats.read_bytes), rate(stats.write_bytes));
        (stats.window_ms > 0).then_some(Self { open: stats.open, read_rate, write_rate })
    }
}

/// To the millisecond; what took any time at all took one.
pub(crate) fn rounded_latency(us: u64) -> String {
    format!("{}ms", (us.saturating_add(500) / 1000).max(1))
}

/// To the microsecond below a millisecond, and to a tenth of a millisecond below a second.
pub(crate) fn exact_latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.2}s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_requests() {
        let stats = BasicStats {
            success_count: 22,
            failure_count: 7,
            window_ms: 29_000,
            tls_count: 29,
            ..BasicStats::default()
        };
        let figures = Figures::new(&stats).unwrap();
        assert_eq!(
            format!("{:.2} {:.1} {:.0}", figures.success * 100.0, figures.rps, figures.tls * 100.0),
            "75.86 1.0 100"
        );
    }

    #[test]
    fn nothing_is_said_of_no_requests() {
        assert_eq!(Figures::new(&BasicStats { window_ms: 60_000, ..BasicStats::default() }), None);
        assert_eq!(Figures::new(&BasicStats { success_count: 1, ..BasicStats::default() }), None);
        let refused = BasicStats { failure_count: 1, window_ms: 60_000, ..BasicStats::default() };
        assert_eq!(Figures::new(&refused).unwrap().latencies_us, [None; 3]);
    }

    #[test]
    fn latencies() {
        for (us, rounded, exact) in [
            (0, "1ms", "0µs"),
            (478, "1ms", "478µs"),
            (1_499, "1ms", "1.5ms"),
            (1_500, "2ms", "1.5ms"),
            (88_000, "88ms", "88.0ms"),
            (12_345_678, "12346ms", "12.35s"),
            (u64::MAX, "18446744073709551ms", "18446744073709.55s"),
        ] {
            assert_eq!((rounded_latency(us).as_str(), exact_latency(us).as_str()), (rounded, exact));
        }
    }
}
