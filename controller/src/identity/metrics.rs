//! What was signed, what was refused, and how long it took.

use std::{fmt, time::Duration};

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

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signed {
    /// An X.509-SVID.
    Certificate,
    /// A JWT-SVID.
    Token,
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        })
    }
}

/// Clones are the same.
#[derive(Clone, Default)]
pub struct IdentityMetrics {
    certificates: Counts,
    tokens: Counts,
}

#[derive(Clone)]
struct Counts {
    issued: Counter,
    refused: Family<Refused, Counter>,
    seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

impl Default for Counts {
    fn default() -> Self {
        Self { issued: Counter::default(), refused: Family::default(), seconds: Histogram::new(buckets()) }
    }
}

impl IdentityMetrics {
    /// One was signed, `after` it was asked for.
    pub fn issued(&self, what: Signed, after: Duration) {
        let counts = self.of(what);
        counts.issued.inc();
        counts.seconds.observe(after.as_secs_f64());
    }

    /// One was not, for one of few reasons.
    pub fn refused(&self, what: Signed, reason: &'static str) {
        self.of(what).refused.get_or_create(&Refused { reason }).inc();
    }

    fn of(&self, what: Signed) -> &Counts {
        match what {
            Signed::Certificate => &self.certificates,
            Signed::Token => &self.tokens,
        }
    }

    /// Into what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        for what in [Signed::Certificate, Signed::Token] {
            let Counts { issued, refused, seconds } = self.of(what).clone();
            registry.register(format!("{what}s_issued"), format!("{what}s that this replica has signed"), issued);
            let help = format!("{what}s that this replica was asked for and has not signed, by why");
            registry.register(format!("{what}s_refused"), help, refused);
            let help = format!("From the request for a {what} to its signature");
            registry.register_with_unit(format!("{what}_issue"), help, Unit::Seconds, seconds);
        }
    }
}
