//! What was signed, what was refused, and how long it took.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// 64 µs to a quarter of a second: a signature takes some tens of microseconds, and a busy machine a multiple of that.
fn buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_064, 2.0, 13)
}

/// Clones are the same.
#[derive(Clone)]
pub struct IdentityMetrics {
    issued: Counter,
    refused: Family<Refused, Counter>,
    seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

impl Default for IdentityMetrics {
    fn default() -> Self {
        Self { issued: Counter::default(), refused: Family::default(), seconds: Histogram::new(buckets()) }
    }
}

impl IdentityMetrics {
    /// A certificate was signed, `after` it was asked for.
    pub fn issued(&self, after: Duration) {
        self.issued.inc();
        self.seconds.observe(after.as_secs_f64());
    }

    /// One was not, for one of few reasons.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    /// Into what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("certificates_issued", "Certificates that this replica has signed", self.issued.clone());
        let help = "Certificates that this replica was asked for and has not signed, by why";
        registry.register("certificates_refused", help, self.refused.clone());
        let help = "From the request for a certificate to its signature";
        registry.register_with_unit("certificate_issue", help, Unit::Seconds, self.seconds.clone());
    }
}
