//! What was heard of the platform, and written of it into the log.

use std::time::SystemTime;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::propose::unix_ms;

/// Clones are the same.
#[derive(Clone, Default)]
pub struct PlatformMetrics {
    described: Gauge,
    proposals: Family<Proposal, Counter>,
    without_proxy: Gauge,
    evictions: Family<Eviction, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proposal {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Eviction {
    outcome: &'static str,
}

impl PlatformMetrics {
    /// The platform has said at `now` what runs.
    pub fn described(&self, now: SystemTime) {
        self.described.set(i64::try_from(unix_ms(now) / 1000).unwrap_or(i64::MAX));
    }

    /// Its changes were committed, or were not.
    pub fn proposed(&self, committed: bool) {
        let outcome = if committed { "committed" } else { "failed" };
        self.proposals.get_or_create(&Proposal { outcome }).inc();
    }

    /// So many pods should have a proxy and have none.
    pub fn without_proxy(&self, pods: usize) {
        self.without_proxy.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    /// What became of the eviction of one of them.
    pub fn evicted(&self, outcome: &'static str) {
        self.evictions.get_or_create(&Eviction { outcome }).inc();
    }

    /// Into what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "When the platform last told this replica what runs, since the Unix epoch; 0 of one that has not led";
        registry.register("platform_described_timestamp_seconds", help, self.described.clone());
        let help = "Proposals of what has changed in the platform, by what became of them";
        registry.register("platform_proposals", help, self.proposals.clone());
        let help = "Pods that should have a proxy and have none, when this replica last looked, while it led";
        registry.register("platform_pods_without_proxy", help, self.without_proxy.clone());
        let help = "Evictions of such pods, by what became of them";
        registry.register("platform_evictions", help, self.evictions.clone());
    }
}
