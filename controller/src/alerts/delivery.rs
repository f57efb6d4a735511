//! Which event a webhook is told of next, and when it is tried again. Pure.

use std::time::Duration;

use conduit_api::{Indicator, Revision};
use conduit_consensus::{AlertEvent, Delivery};
use tokio::time::Instant;

/// The first pause after an attempt that failed, doubled at each further one ...
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// Together a quarter of an hour and more: what is restarted or deployed anew is back by then, and later nobody wants to hear of it.
const ATTEMPTS_MAX: u32 = 13;

/// What is being told, in the order in which it happened: an end that is told before its beginning would stay.
#[derive(Default)]
pub struct Deliveries {
    current: Option<(Revision, Indicator)>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Deliveries {
    /// The event to be told of now, out of `events`, oldest first.
    pub fn next<'a>(
        &mut self,
        now: Instant,
        mut events: impl Iterator<Item = &'a AlertEvent>,
    ) -> Option<&'a AlertEvent> {
        let due = events.find(|event| event.delivery == Delivery::Due)?;
        let key = (due.id, due.indicator);
        if self.current != Some(key) {
            *self = Self { current: Some(key), ..Self::default() };
        }
        self.not_before.is_none_or(|time| time <= now).then_some(due)
    }

    /// What became of it: to be written down, or nothing yet.
    pub fn attempted(&mut self, now: Instant, taken: bool) -> Option<Delivery> {
        if taken {
            return Some(Delivery::Told);
        }
        self.failures += 1;
        if self.failures >= ATTEMPTS_MAX {
            return Some(Delivery::Failed);
        }
        let pause = PAUSE_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
        self.not_before = Some(now + pause);
        None
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::ResourceName;
    use conduit_consensus::Severity;

    use super::*;

    fn event(id: u64, delivery: Delivery) -> AlertEvent {
        AlertEvent {
            id: id.into(),
            resource: ResourceName::new("pod", "a", "b").unwrap(),
            indicator: Indicator::Success,
            goal: String::new(),
            firing: true,
            severity: Severity::Warning,
            since_ms: 0,
            time_ms: 0,
            delivery,
        }
    }

    #[test]
    fn events_are_told_in_order_and_each_is_tried_again_for_a_while() {
        let mut deliveries = Deliveries::default();
        let events =
            [event(1, Delivery::Told), event(2, Delivery::None), event(3, Delivery::Due), event(4, Delivery::Due)];
        let start = Instant::now();
        let (mut now, mut attempts) = (start, 0);
        let outcome = loop {
            let next = deliveries.next(now, events.iter()).map(|event| event.id.as_u64());
            if next.is_none() {
                now += Duration::from_secs(1);
                continue;
            }
            assert_eq!(next, Some(3));
            attempts += 1;
            if let Some(outcome) = deliveries.attempted(now, false) {
                break outcome;
            }
            assert_eq!(deliveries.next(now, events.iter()), None, "not at once");
        };
        assert_eq!((outcome, attempts), (Delivery::Failed, ATTEMPTS_MAX));
        let minutes = now.duration_since(start).as_secs() / 60;
        assert!((10..30).contains(&minutes), "{minutes}");
        // The next one has all of its attempts.
        assert_eq!(deliveries.next(now, events[3..].iter()).map(|event| event.id.as_u64()), Some(4));
        assert_eq!(deliveries.attempted(now, true), Some(Delivery::Told));
        assert_eq!(deliveries.next(now, events[..2].iter()), None);
    }
}
