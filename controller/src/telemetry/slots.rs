//! Time in slots, which begin when the clock says a multiple of their length: so those of all replicas can be laid upon each
//! other. Pure.

use std::time::Duration;

use conduit_api::window::{SLOT, TIERS};
use tokio::time::Instant;

const SLOT_MS: u64 = SLOT.as_millis() as u64;

/// What time it is, twice: one clock that never jumps, and one that people set.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Tells how long ago something was.
    pub monotonic: Instant,
    /// Tells where slots begin. Milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl Now {
    /// How far the current slot has got.
    fn phase(self) -> Duration {
        Duration::from_millis(self.unix_ms % SLOT_MS)
    }

    /// When the current slot began.
    pub fn slot_start(self) -> Instant {
        self.monotonic.checked_sub(self.phase()).unwrap_or(self.monotonic)
    }

    /// Whether a slot that began at `start` is the current one. Half a slot: the two clocks are not read at the same moment, and one
    /// of them may be set.
    pub fn is_in(self, start: Instant) -> bool {
        self.slot_start() <= start + SLOT / 2
    }

    /// When a slot began, by the clock as it is now: the nearest multiple of [`SLOT`], in milliseconds since the Unix epoch.
    pub fn date(self, start: Instant) -> u64 {
        let ago = self.slot_start().saturating_duration_since(start) + SLOT / 2;
        let slots = (ago.as_millis() / SLOT.as_millis()) as u64;
        (self.unix_ms - self.unix_ms % SLOT_MS).saturating_sub(slots * SLOT_MS)
    }

    /// How long ago that was.
    pub fn since(self, start: Instant) -> Duration {
        self.monotonic.saturating_duration_since(start)
    }

    /// Where what is counted in `window` begins, in milliseconds since the Unix epoch: with the first slot that begins in it, and whose counts
    /// have not been added to earlier ones.
    pub fn first_slot(self, window: Duration) -> u64 {
        let begin = self.unix_ms.saturating_sub(window.as_millis() as u64).next_multiple_of(SLOT_MS);
        let merged = |begin: u64, (pair, until): (u64, u64)| match is_past(begin, pair, until, self.unix_ms) {
            true => begin.next_multiple_of(pair),
            false => begin,
        };
        merges().fold(begin, merged)
    }

    /// How much of `window` is counted at most: whole slots.
    pub fn whole_slots(self, window: Duration) -> Duration {
        Duration::from_millis(self.unix_ms.saturating_sub(self.first_slot(window)))
    }

    /// The slot, by when it began and how long it is in milliseconds, that counts of one which began at `date` are to be part of by now.
    pub fn slot_of(self, date: u64) -> (u64, u64) {
        let coarsest = merges().filter(|(length, until)| is_past(date, *length, *until, self.unix_ms)).last();
        let length = coarsest.map_or(SLOT_MS, |(length, _)| length);
        (date - date % length, length)
    }
}

/// Lengths of slots, and the ages from which on others are added up to them.
fn merges() -> impl Iterator<Item = (u64, u64)> {
    TIERS.windows(2).map(|pair| (pair[1].length.as_millis() as u64, pair[0].until.as_millis() as u64))
}

/// All of the slot of that length that `date` is in is that old.
fn is_past(date: u64, length: u64, until: u64, now: u64) -> bool {
    date - date % length + length + until <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day, at which slots of all lengths begin.
    const DAY: u64 = 86_400_000;

    fn at(start: Instant, ms: u64) -> Now {
        Now { monotonic: start + Duration::from_millis(ms), unix_ms: DAY + ms }
    }

    #[test]
    fn slots_begin_when_the_clock_says_so() {
        let start = Instant::now();
        assert_eq!(at(start, 4_900).slot_start(), start);
        assert!(at(start, 4_999).is_in(start) && !at(start, 5_000).is_in(start));
        assert_eq!(at(start, 20_003).date(start + Duration::from_millis(9_998)), DAY + 10_000);
    }

    #[test]
    fn a_clock_that_is_set_costs_no_slot() {
        let start = Instant::now();
        // Back by an hour, forth by a day.
        let back = Now { unix_ms: DAY - 3_598_500, ..at(start, 1_500) };
        assert!(back.is_in(start));
        assert_eq!(back.date(start), DAY - 3_600_000);
        let forth = Now { unix_ms: 2 * DAY + 6_500, ..at(start, 6_500) };
        assert!(!forth.is_in(start));
        assert_eq!(forth.date(start), 2 * DAY);
    }

    #[test]
    fn old_slots_are_part_of_longer_ones_and_windows_begin_with_one() {
        let now = at(Instant::now(), 7 * 3_600_000 + 123_000);
        let ago = |seconds: u64| now.unix_ms - seconds * 1000;
        for (seconds, begins, length) in
            [(3, 3, 5_000), (303, 303, 5_000), (308, 363, 60_000), (3_723, 3_723, 60_000), (3_728, 4_323, 600_000)]
        {
            let (slot, slot_length) = now.slot_of(ago(seconds) / 5_000 * 5_000);
            assert_eq!((slot, slot_length), (ago(begins), length), "{seconds}");
        }
        for (window, covered) in [(15, 13), (300, 298), (400, 363), (3_600, 3_543), (3_700, 3_663), (21_600, 21_123)] {
            let window = Duration::from_secs(window);
            assert_eq!(now.whole_slots(window), Duration::from_secs(covered), "{window:?}");
        }
    }
}
