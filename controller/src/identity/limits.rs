//! How much is signed: for one identity, so that it takes nothing from the others, and for all, so that this replica has time for
//! everything else.

use std::{num::NonZeroU32, thread};

use conduit_api::SpiffeId;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Seconds for which what was not used can be made up for: a deployment that starts asks for all its certificates at once.
const BURST_SECONDS: u32 = 2;
/// Identities that are remembered; more than that and those that have asked for nothing lately are forgotten.
const IDENTITIES_MAX: usize = 10_000;

/// Certificates a second.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// For one identity.
    pub per_identity: NonZeroU32,
    /// For each of this machine's cores.
    pub per_core: NonZeroU32,
}

/// What was signed lately.
pub struct Limits {
    identities: DefaultKeyedRateLimiter<SpiffeId>,
    all: DefaultDirectRateLimiter,
}

/// Later, or at another replica, it may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limited {
    /// This one asks too often.
    #[error("too many certificates are asked for by this identity; is one of its pods restarting all the time?")]
    Identity,
    /// All together do.
    #[error("this replica has signed all that it can at the moment; ask another one, or later")]
    All,
}

impl Limits {
    /// Nothing was signed yet.
    pub fn new(rates: Rates) -> Self {
        let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let quota = |rate: NonZeroU32| {
            let burst = NonZeroU32::new(rate.get().saturating_mul(BURST_SECONDS)).unwrap_or(rate);
            Quota::per_second(rate).allow_burst(burst)
        };
        let all = NonZeroU32::new(rates.per_core.get().saturating_mul(cores)).unwrap_or(rates.per_core);
        Self { identities: RateLimiter::keyed(quota(rates.per_identity)), all: RateLimiter::direct(quota(all)) }
    }

    /// Whether one more may be signed for `id`; it counts as signed then.
    ///
    /// # Errors
    /// When it may not now.
    pub fn admit(&self, id: &SpiffeId) -> Result<(), Limited> {
        if self.identities.len() >= IDENTITIES_MAX {
            self.identities.retain_recent();
        }
        self.identities.check_key(id).map_err(|_| Limited::Identity)?;
        self.all.check().map_err(|_| Limited::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_takes_nothing_from_the_others() {
        let rate = |n| NonZeroU32::new(n).unwrap();
        let limits = Limits::new(Rates { per_identity: rate(10), per_core: rate(1_000_000) });
        let id = |n: usize| format!("spiffe://cluster.local/ns/ns/sa/s{n}").parse::<SpiffeId>().unwrap();
        let admitted = (0..1000).filter(|_| limits.admit(&id(0)) == Ok(())).count();
        assert!((20..40).contains(&admitted), "{admitted}: two seconds' worth, and what time has passed");
        assert_eq!(limits.admit(&id(0)), Err(Limited::Identity));
        assert_eq!(limits.admit(&id(1)), Ok(()));
        for n in 0..3 * IDENTITIES_MAX {
            let _ = limits.admit(&id(n));
        }
        assert!(limits.identities.len() <= 3 * IDENTITIES_MAX);
    }

    #[test]
    fn all_together_are_limited() {
        let rate = |n| NonZeroU32::new(n).unwrap();
        let limits = Limits::new(Rates { per_identity: rate(1), per_core: rate(1) });
        let ids = (0..1000).map(|n| format!("spiffe://cluster.local/ns/ns/sa/s{n}").parse::<SpiffeId>().unwrap());
        let admitted = ids.filter(|id| limits.admit(id) == Ok(())).count();
        assert!(admitted < 1000, "{admitted}");
    }
}
