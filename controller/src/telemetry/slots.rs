//! Time in slots, which begin when the clock says a multiple of their length: so those of all replicas can be laid upon each
//! other. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Counts are kept by slots of this length; a window is a whole number of them.
pub const SLOT: Duration = Duration::from_secs(5);
/// An hour of slots, the longest window that can be asked for.
pub const SLOTS_MAX: usize = 720;

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

    fn slot_start(self) -> Instant {
        self.monotonic.checked_sub(self.phase()).unwrap_or(self.monotonic)
    }
}

struct Slot<T> {
    start: Instant,
    counts: T,
}

/// What was counted, by slots; those without counts are not there.
pub struct Slots<T> {
    /// Nothing before this is known.
    since: Instant,
    slots: VecDeque<Slot<T>>,
}

impl<T: Default> Slots<T> {
    /// Empty, from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { since: now, slots: VecDeque::new() }
    }

    /// Whether another slot has begun since the last one; the oldest goes when there are too many.
    pub fn advance(&mut self, now: Now) -> bool {
        let start = now.slot_start();
        // Half a slot: the two clocks are not read at the same moment, and one of them may be set.
        let is_same = self.slots.back().is_some_and(|slot| start <= slot.start + SLOT / 2);
        if !is_same {
            if self.slots.len() == SLOTS_MAX {
                self.forget_oldest();
            }
            self.slots.push_back(Slot { start, counts: T::default() });
        }
        !is_same
    }

    /// The slot that [`Self::advance`] has found or begun.
    pub fn newest(&mut self) -> Option<&mut T> {
        self.slots.back_mut().map(|slot| &mut slot.counts)
    }

    /// Forgets the oldest slot, unless it is the only one.
    pub fn forget_oldest(&mut self) {
        if self.slots.len() > 1 {
            self.slots.pop_front();
            self.since = self.slots.front().map_or(self.since, |oldest| self.since.max(oldest.start));
        }
    }

    /// All that is kept.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|slot| &slot.counts)
    }

    /// The time that a query for `window` is answered over: whole slots, and only what is known.
    pub fn covered(&self, now: Now, window: Duration) -> Duration {
        let asked = now.phase() + SLOT * slots_before(now, window);
        asked.min(now.monotonic.saturating_duration_since(self.since))
    }

    /// All slots, by when they began by the clock as it is now: milliseconds since the Unix epoch.
    pub fn dated(&self, now: Now) -> impl Iterator<Item = (u64, &T)> {
        let current = now.unix_ms - now.unix_ms % SLOT_MS;
        self.slots.iter().map(move |slot| {
            let ago = u64::from(age(slot.start, now)) * SLOT_MS;
            (current.saturating_sub(ago), &slot.counts)
        })
    }

    /// The slots that began within `window`, the newest first, by how many slots ago they began.
    pub fn within(&self, now: Now, window: Duration) -> impl Iterator<Item = (u32, &T)> {
        let before = slots_before(now, window);
        let aged = self.slots.iter().rev().map(move |slot| (age(slot.start, now), &slot.counts));
        aged.take_while(move |(age, _)| *age <= before)
    }
}

/// The slots that began within `window`, besides the current one.
fn slots_before(now: Now, window: Duration) -> u32 {
    (window.saturating_sub(now.phase()).as_nanos() / SLOT.as_nanos()) as u32
}

/// How many slots ago one began: the nearest number, as in [`Slots::advance`].
fn age(start: Instant, now: Now) -> u32 {
    let ago = now.slot_start().saturating_duration_since(start) + SLOT / 2;
    (ago.as_nanos() / SLOT.as_nanos()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Now {
        Now { monotonic: start + Duration::from_millis(ms), unix_ms: 1_000_000_000 + ms }
    }

    fn ages(slots: &Slots<u32>, now: Now, window: u64) -> Vec<u32> {
        slots.within(now, Duration::from_secs(window)).map(|(age, _)| age).collect()
    }

    #[test]
    fn slots_begin_when_the_clock_says_so() {
        let start = Instant::now();
        let mut slots = Slots::<u32>::new(start + Duration::from_millis(4_900));
        let begun = [4_900, 4_999, 5_000, 9_999, 10_001, 20_003].map(|ms| slots.advance(at(start, ms)));
        assert_eq!(begun, [true, false, true, false, true, true]);
        assert_eq!(ages(&slots, at(start, 20_003), 15), [0, 2]);
        assert_eq!(ages(&slots, at(start, 20_000), 20), [0, 2, 3, 4]);
        assert_eq!(slots.covered(at(start, 20_003), Duration::from_secs(15)), Duration::from_millis(10_003));
        assert_eq!(slots.covered(at(start, 20_003), Duration::from_secs(60)), Duration::from_millis(15_103));
    }

    #[test]
    fn a_clock_that_is_set_costs_no_slot() {
        let start = Instant::now();
        let mut slots = Slots::<u32>::new(start);
        assert!(slots.advance(at(start, 1_000)));
        // Back by an hour and a second, forth by a day.
        let back = Now { unix_ms: 1_000_000_000 - 3_601_000, ..at(start, 1_500) };
        assert!(!slots.advance(back));
        let forth = Now { unix_ms: 1_000_000_000 + 86_401_000, ..at(start, 6_500) };
        assert!(slots.advance(forth));
        assert_eq!(ages(&slots, forth, 15), [0, 1]);
    }

    #[test]
    fn what_was_forgotten_is_not_covered() {
        let start = Instant::now();
        let mut slots = Slots::<u32>::new(start);
        (0..3).for_each(|slot| assert!(slots.advance(at(start, slot * 5_000))));
        slots.forget_oldest();
        assert_eq!(slots.covered(at(start, 14_000), Duration::from_secs(60)), Duration::from_secs(9));
        (0..5).for_each(|_| slots.forget_oldest());
        assert_eq!(slots.iter().count(), 1);
    }
}
