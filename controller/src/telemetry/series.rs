//! What was counted, as time passes: steps that begin at multiples of their length, for all replicas alike. Pure.

use std::time::Duration;

use conduit_api::{
    proto::public::{SeriesPoint, SeriesRequest},
    window::resolution,
};

use super::counts::{Counts, Traffic};

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
    /// Those that `request` asks for, until now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(request: &SeriesRequest, unix_ms: u64) -> Result<Self, String> {
        let SeriesRequest { window_ms, step_ms, .. } = *request;
        let finest = resolution(Duration::from_millis(window_ms.into()));
        if step_ms == 0 || !step_ms.is_multiple_of(finest.as_millis() as u32) {
            return Err(format!(
                "the step must be a multiple of {}s in a time window of that length",
                finest.as_secs()
            ));
        }
        if !window_ms.is_multiple_of(step_ms) {
            return Err("the time window must be a multiple of the step".to_owned());
        }
        let count = window_ms / step_ms;
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for (window, step, says) in [
            (60_000, 0, "multiple of 5s"),
            (60_000, 7_000, "multiple of 5s"),
            (60_000, 25_000, "multiple of the step"),
            (3_600_000, 5_000, "multiple of 60s"),
            (21_600_000, 60_000, "multiple of 600s"),
        ] {
            let error = steps(window, step).unwrap_err();
            assert!(error.contains(says), "{window} {step}: {error}");
        }
        assert_eq!(steps(3_600_000, 60_000).unwrap().count, 60);
        assert_eq!(steps(21_600_000, 600_000).unwrap().count, 36);
    }
}
