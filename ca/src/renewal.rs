//! When to ask for the next certificate.

use std::time::SystemTime;

/// The moment at 70 % ± 5 % of a certificate's life: late enough to be rare, with a third of the life left to retry in.
///
/// `jitter` from 0 to 1 chooses the place in that range and should be random, so that workloads started together do not
/// come back together for ever; anything else counts as the middle.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    const EARLIEST: f64 = 0.65;
    const RANGE: f64 = 0.10;

    let life = not_after.duration_since(not_before).unwrap_or_default();
    let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 0.5 };
    not_before + life.mul_f64(EARLIEST + RANGE * jitter)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn renews_around_seventy_percent() {
        let at = |not_after, jitter| {
            let (not_before, not_after) =
                (UNIX_EPOCH + Duration::from_secs(1000), UNIX_EPOCH + Duration::from_secs(not_after));
            renew_at(not_before, not_after, jitter).duration_since(UNIX_EPOCH).unwrap().as_secs_f64().round()
        };
        for (not_after, jitter, expected) in [
            (2000, 0.0, 1650.0),
            (2000, 0.5, 1700.0),
            (2000, 1.0, 1750.0),
            (2000, -3.0, 1700.0),
            (2000, f64::NAN, 1700.0),
            (1000, 0.5, 1000.0),
            (900, 0.5, 1000.0), // ends before it starts: at once
        ] {
            assert_eq!(at(not_after, jitter), expected, "{not_after} {jitter}");
        }
    }
}
