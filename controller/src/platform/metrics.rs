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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proposal {
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

    /// Into what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "When the platform last told this replica what runs, since the Unix epoch; 0 of one that has not led";
        registry.register("platform_described_timestamp_seconds", help, self.described.clone());
        let help = "Proposals of what has changed in the platform, by what became of them";
        registry.register("platform_proposals", help, self.proposals.clone());
    }
}
