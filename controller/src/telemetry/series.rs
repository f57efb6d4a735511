//! What was counted, as time passes: steps that begin at multiples of their length, for all replicas alike. Pure.

use std::time::Duration;

use conduit_api::{
    proto::{
        peer,
        public::{SeriesPoint, SeriesRequest},
    },
    window::resolution,
};

use super::{
    counts::{Counts, Traffic},
    questions::{Found, Of},
};

/// More points than this are wider than most screens.
pub const STEPS_MAX: u32 = 360;

/// Consecutive steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Where the first one begins, in milliseconds since the Unix epoch.
    pub first_ms: u64,
    /// Of each.
    pub length: Duration,
    /// How many.
    pub count: u32,
}

impl Steps {
    /// Those that `request` asks for, until now. Whoever asks for finer ones than are known, as pages of older releases do, gets those that are; and every
    /// point says when it begins.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(request: &SeriesRequest, unix_ms: u64) -> Result<Self, String> {
        let SeriesRequest { window_ms, step_ms, .. } = *request;
        let finest = resolution(Duration::from_millis(window_ms.into()));
        if step_ms == 0 {
            return Err("the step is missing".to_owned());
        }
        let step_ms = step_ms.checked_next_multiple_of(finest.as_millis() as u32).ok_or("the step is too long")?;
        let count = window_ms.div_ceil(step_ms);
        if count > STEPS_MAX {
            return Err(format!("{count} steps are too many: there are at most {STEPS_MAX} in a time window"));
        }
        let step = u64::from(step_ms);
        let last_ms = unix_ms / step * step;
        let first_ms = last_ms.saturating_sub(step * u64::from(count.saturating_sub(1)));
        Ok(Self { first_ms, length: Duration::from_millis(step), count })
    }

    /// Which of them a slot is part of that begins then.
    pub fn index(&self, slot_ms: u64) -> Option<usize> {
        let step = (self.length.as_millis() as u64).max(1);
        let index = slot_ms.checked_sub(self.first_ms)? / step;
        (index < self.count.min(STEPS_MAX).into()).then_some(index as usize)
    }

    /// As people are told.
    pub fn points(&self, counted: impl Iterator<Item = Counts>) -> Vec<SeriesPoint> {
        let point = |(index, requests): (u64, Counts)| {
            let start_ms = self.first_ms + index * self.length.as_millis() as u64;
            let traffic = Traffic { requests, ..Traffic::default() };
            let stats = traffic.stats().unwrap_or_default();
            SeriesPoint {
                start_ms,
                success_count: stats.success_count,
                failure_count: stats.failure_count,
                latency_p50_us: stats.latency_p50_us,
                latency_p95_us: stats.latency_p95_us,
                latency_p99_us: stats.latency_p99_us,
                tls_count: stats.tls_count,
            }
        };
        (0..).zip(counted).map(point).collect()
    }
}

/// What was found by step, as replicas tell each other: each with its number.
pub fn numbered(found: Found<usize>) -> Vec<peer::Counts> {
    let step = |((step, of), traffic): ((usize, Of), Traffic)| peer::Counts {
        step: u32::try_from(step).ok(),
        ..traffic.to_wire(of)
    };
    found.into_iter().map(step).collect()
}

/// The same for older releases: all steps in their order, and in them what another replica may have told as well.
pub fn in_order(found: &Found<usize>, steps: &Steps) -> Vec<peer::Counts> {
    let mut all = vec![Traffic::default(); steps.count.min(STEPS_MAX) as usize];
    for ((step, _), traffic) in found {
        if let Some(sum) = all.get_mut(*step) {
            sum.merge(traffic);
        }
    }
    all.iter().map(|traffic| traffic.to_wire(Of::All)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_by_number_and_to_older_releases_in_their_order() {
        let traffic = |success| Traffic { requests: Counts { success, ..Counts::default() }, ..Traffic::default() };
        let found: Found<usize> =
            [((1, Of::All), traffic(5)), ((1, Of::Repeated(1, 2, 3)), traffic(7)), ((3, Of::All), traffic(9))].into();
        let in_order = in_order(&found, &steps(20_000, 5_000).unwrap());
        assert_eq!(in_order.iter().map(|counts| counts.success).collect::<Vec<_>>(), [0, 12, 0, 9]);
        assert!(in_order.iter().all(|counts| counts.report.is_none()));
        let numbered = numbered(found);
        let told = numbered.iter().map(|counts| (counts.step, counts.success, counts.report.is_some()));
        assert!(told.eq([(Some(1), 5, false), (Some(1), 7, true), (Some(3), 9, false)]));
    }

    fn steps(window_ms: u32, step_ms: u32) -> Result<Steps, String> {
        Steps::of(&SeriesRequest { selector: None, window_ms, step_ms }, 1_000_007_000)
    }

    #[test]
    fn steps_begin_at_multiples_of_their_length_and_the_last_has_begun() {
        let steps = steps(60_000, 20_000).unwrap();
        assert_eq!(steps, Steps { first_ms: 999_960_000, length: Duration::from_secs(20), count: 3 });
        let indices = [999_955_000, 999_960_000, 999_975_000, 999_980_000, 1_000_015_000, 1_000_020_000];
        assert_eq!(indices.map(|slot| steps.index(slot)), [None, Some(0), Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (step, says) in [(0, "the step is missing"), (u32::MAX, "the step is too long")] {
            let error = steps(60_000, step).unwrap_err();
            assert!(error.contains(says), "{step}: {error}");
        }
    }

    #[test]
    fn who_asks_for_finer_steps_than_are_known_gets_those_that_are() {
        for (window, step, length_s, count) in [
            (60_000, 5_000, 5, 12),
            (60_000, 7_000, 10, 6),
            (60_000, 25_000, 25, 3),
            (3_600_000, 60_000, 60, 60),
            // As pages of releases before asked.
            (3_600_000, 5_000, 60, 60),
            (21_600_000, 60_000, 600, 36),
        ] {
            let steps = steps(window, step).unwrap();
            assert_eq!((steps.length.as_secs(), steps.count), (length_s, count), "{window} {step}");
        }
    }
}
