//! For how much of a window a Prometheus has scraped anything: it may be younger. Pure.
//!
//! It does not say when its first sample was. It is asked for the first of a hundred moments at which it had one, and then for the first of a
//! hundred between that one and the one before, until that is exact.

use std::time::Duration;

use super::queries::duration;

/// Every proxy has it once, from its beginning; what else is scraped may be there for longer.
const EVERY_PROXY: &str = "conduit_proxy_ready";
/// At how many moments at once.
const MOMENTS: u32 = 100;
/// Nobody scrapes more often.
const EXACT: Duration = Duration::from_secs(1);

/// Looks for the first sample.
#[derive(Debug)]
pub(super) struct Search {
    now: Duration,
    window: Duration,
    /// The first sample is in the `within` before this.
    end: Duration,
    within: Duration,
    found: bool,
}

impl Search {
    /// In the `window` before `now`, which is the time since 1970.
    pub(super) fn new(now: Duration, window: Duration) -> Self {
        Self { now, window, end: now, within: window, found: false }
    }

    /// What to ask next, and of which time.
    pub(super) fn question(&self) -> (String, Duration) {
        let [within, step] = [self.within, self.step()].map(duration);
        (format!("min(min_over_time(timestamp({EVERY_PROXY})[{within}:{step}]))"), self.end)
    }

    /// The seconds since 1970 that were answered, if any; how much of the window is covered, once that is known to a hundredth.
    pub(super) fn answer(&mut self, first: Option<f64>) -> Option<Duration> {
        let step = self.step();
        if let Some(first) = first.and_then(|first| Duration::try_from_secs_f64(first).ok()) {
            self.found = true;
            self.end = first.min(self.end);
        }
        let covered = self.now.saturating_sub(self.end);
        if covered + step >= self.window {
            return Some(self.window);
        }
        self.within = step;
        let is_exact = step <= EXACT || self.found && step * MOMENTS <= covered;
        // Who scrapes and does not say so is trusted.
        is_exact.then_some(if self.found { covered } else { self.window })
    }

    fn step(&self) -> Duration {
        self.within / MOMENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_123);

    /// As Prometheus answers: at multiples of the step, with a sample every ten seconds since `first`.
    fn ask(search: &Search, first: Duration) -> Option<f64> {
        let step = search.step().as_millis();
        let from = (search.end - search.within).as_millis();
        let mut at = (from / step + 1) * step;
        while at <= search.end.as_millis() {
            if at >= first.as_millis() {
                let sample = first.as_millis() + (at - first.as_millis()) / 10_000 * 10_000;
                return Some(sample as f64 / 1000.0);
            }
            at += step;
        }
        None
    }

    fn covered(window: Duration, first: Option<Duration>) -> (Duration, u32) {
        let mut search = Search::new(NOW, window);
        for questions in 1.. {
            if let Some(covered) = search.answer(first.and_then(|first| ask(&search, first))) {
                return (covered, questions);
            }
        }
        unreachable!("it ends")
    }

    #[test]
    fn the_first_sample_is_found() {
        let day = Duration::from_secs(24 * 60 * 60);
        for window in [Duration::from_secs(60), day / 24, day, 7 * day, 49 * day] {
            for age in [1, 11, 70, 600, 3_599, 10_000, 86_000, 600_000, 10_000_000].map(Duration::from_secs) {
                let (covered, questions) = covered(window, Some(NOW - age));
                let expected = age.min(window);
                let off = covered.abs_diff(expected);
                // To a hundredth of what is covered, or of the window if all but that is; and to two scrapes.
                assert!(
                    off <= expected / 50 + Duration::from_secs(20) && questions <= 5,
                    "{window:?} of {age:?}: {covered:?} by {questions} questions"
                );
            }
        }
    }

    #[test]
    fn who_says_nothing_of_it_is_trusted() {
        let (covered, questions) = covered(Duration::from_secs(86_400), None);
        assert_eq!((covered.as_secs(), questions), (86_400, 3));
    }
}
