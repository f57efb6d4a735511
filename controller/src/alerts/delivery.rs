//! Which event a webhook is told of next, when it is tried again, and what is to be written down of that. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use conduit_api::{Indicator, Revision};
use conduit_consensus::{AlertEvent, Delivery};
use tokio::time::Instant;

/// The first pause after an attempt that failed, doubled at each further one ...
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// ... up to this.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// Together a quarter of an hour and more: what is restarted or deployed anew is back by then, and later nobody wants to hear of what is over. What
/// fires still is told whenever it can be.
const ATTEMPTS_MAX: u32 = 13;

/// Of an event: those of one entry of the log differ by their indicators.
pub type Key = (Revision, Indicator);

/// Of an event.
pub fn key(event: &AlertEvent) -> Key {
    (event.id, event.indicator)
}

/// What there is to do about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// The webhook is to be told.
    Tell(AlertEvent),
    /// It was, or will not be, and that is not committed yet.
    WriteDown(AlertEvent, Delivery),
}

/// What was done about an event that is due.
#[derive(Default)]
struct Progress {
    /// In a row: of attempts to tell it, or to write down what became of that.
    failures: u32,
    not_before: Option<Instant>,
    /// It is not told again.
    outcome: Option<Delivery>,
}

/// What is being told: of each indicator of a resource in the order in which it happened, since an end that is told before its beginning would
/// stay. Those of others do not wait for it.
#[derive(Default)]
pub struct Deliveries(BTreeMap<Key, Progress>);

impl Deliveries {
    /// What is to be done now, of `events`, oldest first: what has waited longest.
    pub fn next<'a>(&mut self, now: Instant, events: impl Iterator<Item = &'a AlertEvent>) -> Option<Task> {
        let due: Vec<_> = events.filter(|event| event.delivery == Delivery::Due).collect();
        let keys: BTreeSet<Key> = due.iter().map(|event| key(event)).collect();
        self.0.retain(|key, _| keys.contains(key));
        let mut waited_for = BTreeSet::new();
        let first = due.into_iter().filter(|event| waited_for.insert((&event.resource, event.indicator)));
        let not_before = |event: &AlertEvent| self.0.get(&key(event)).and_then(|known| known.not_before);
        let ready = first.filter(|event| not_before(event).is_none_or(|time| time <= now));
        let event = ready.min_by_key(|event| not_before(event))?.clone();
        let outcome = self.0.get(&key(&event)).and_then(|known| known.outcome);
        Some(match outcome {
            Some(delivery) => Task::WriteDown(event, delivery),
            None => Task::Tell(event),
        })
    }

    /// The webhook has taken it, and is not told again; or it has not. One that `is_current` is tried for as long as it is.
    pub fn attempted(&mut self, now: Instant, key: Key, taken: bool, is_current: bool) {
        let progress = self.0.entry(key).or_default();
        if taken {
            *progress = Progress { outcome: Some(Delivery::Told), ..Progress::default() };
            return;
        }
        progress.failed(now);
        if progress.failures >= ATTEMPTS_MAX && !is_current {
            *progress = Progress { outcome: Some(Delivery::Failed), ..Progress::default() };
        }
    }

    /// What became of it was not committed.
    pub fn not_written(&mut self, now: Instant, key: Key) {
        self.0.entry(key).or_default().failed(now);
    }
}

impl Progress {
    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = PAUSE_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
        self.not_before = Some(now + pause);
    }
}

/// Whether it says how things are: that it fires, and nothing has happened to that alert since.
pub fn is_current<'a>(of: Key, events: impl DoubleEndedIterator<Item = &'a AlertEvent> + Clone) -> bool {
    let Some(event) = events.clone().find(|event| key(event) == of) else { return false };
    let last = events.rev().find(|other| other.resource == event.resource && other.indicator == event.indicator);
    event.firing && last.is_some_and(|last| last.id == event.id)
}

#[cfg(test)]
mod tests {
    use conduit_api::ResourceName;
    use conduit_consensus::Severity;

    use super::*;

    fn event(id: u64, name: &str, firing: bool, delivery: Delivery) -> AlertEvent {
        AlertEvent {
            id: id.into(),
            resource: ResourceName::new("pod", "a", name).unwrap(),
            indicator: Indicator::Success,
            goal: String::new(),
            firing,
            severity: Severity::Warning,
            since_ms: 0,
            time_ms: 0,
            delivery,
        }
    }

    fn numbered(id: u64) -> Key {
        (id.into(), Indicator::Success)
    }

    fn told(task: Option<Task>) -> Option<u64> {
        match task {
            Some(Task::Tell(event)) => Some(event.id.as_u64()),
            _ => None,
        }
    }

    /// Fails `count` times to tell of `events`, and says how many seconds that took.
    fn fail(deliveries: &mut Deliveries, now: &mut Instant, events: &[AlertEvent], count: u32) -> u64 {
        let (start, mut failed) = (*now, 0);
        while failed < count {
            match deliveries.next(*now, events.iter()) {
                Some(Task::Tell(event)) => {
                    let key = key(&event);
                    deliveries.attempted(*now, key, false, is_current(key, events.iter()));
                    failed += 1;
                }
                Some(task) => panic!("{task:?}"),
                None => *now += Duration::from_secs(1),
            }
        }
        now.duration_since(start).as_secs()
    }

    #[test]
    fn what_is_over_is_tried_for_a_while_in_order() {
        let (mut deliveries, mut now) = (Deliveries::default(), Instant::now());
        let (due, none) = (Delivery::Due, Delivery::None);
        let events = [event(1, "b", true, none), event(3, "b", true, due), event(4, "b", false, due)];
        let minutes = fail(&mut deliveries, &mut now, &events, ATTEMPTS_MAX) / 60;
        assert!((10..30).contains(&minutes), "{minutes}");
        let given_up = Task::WriteDown(events[1].clone(), Delivery::Failed);
        assert_eq!(deliveries.next(now, events.iter()), Some(given_up));
        // The next one has all of its attempts.
        fail(&mut deliveries, &mut now, &events[2..], ATTEMPTS_MAX - 1);
        now += PAUSE_MAX;
        assert_eq!(told(deliveries.next(now, events[2..].iter())), Some(4));
    }

    #[test]
    fn what_fires_is_told_however_long_that_takes() {
        let (mut deliveries, mut now) = (Deliveries::default(), Instant::now());
        let events = [event(3, "b", true, Delivery::Due)];
        fail(&mut deliveries, &mut now, &events, 10 * ATTEMPTS_MAX);
        assert_eq!(deliveries.next(now + PAUSE_MAX - Duration::from_secs(1), events.iter()), None);
        now += PAUSE_MAX;
        assert_eq!(told(deliveries.next(now, events.iter())), Some(3));
        // Until it is over.
        let events = [events[0].clone(), event(5, "b", false, Delivery::Due)];
        fail(&mut deliveries, &mut now, &events, 1);
        assert_eq!(deliveries.next(now, events.iter()), Some(Task::WriteDown(events[0].clone(), Delivery::Failed)));
    }

    #[test]
    fn what_was_taken_is_told_once_and_written_down_with_pauses() {
        let (mut deliveries, mut now) = (Deliveries::default(), Instant::now());
        let events = [event(3, "b", true, Delivery::Due), event(4, "b", false, Delivery::Due)];
        fail(&mut deliveries, &mut now, &events, 1);
        deliveries.attempted(now, numbered(3), true, true);
        let written = Task::WriteDown(events[0].clone(), Delivery::Told);
        for pause in [1, 2, 4, 8] {
            assert_eq!(deliveries.next(now, events.iter()), Some(written.clone()));
            deliveries.not_written(now, numbered(3));
            assert_eq!(deliveries.next(now, events.iter()), None, "not at once");
            now += Duration::from_secs(pause);
        }
        assert_eq!(told(deliveries.next(now, events[1..].iter())), Some(4));
        assert_eq!(deliveries.0.len(), 0, "what is committed is forgotten");
    }

    #[test]
    fn others_do_not_wait_for_one_that_is_not_taken() {
        let (mut deliveries, now) = (Deliveries::default(), Instant::now());
        let due = Delivery::Due;
        let events = [event(1, "b", true, due), event(2, "b", false, due), event(3, "c", true, due)];
        assert_eq!(told(deliveries.next(now, events.iter())), Some(1));
        deliveries.attempted(now, numbered(1), false, false);
        assert_eq!(told(deliveries.next(now, events.iter())), Some(3));
        deliveries.attempted(now, numbered(3), false, true);
        assert_eq!(deliveries.next(now, events.iter()), None);
        // However late it is looked, each has its turn.
        let later = now + PAUSE_MAX;
        assert_eq!(told(deliveries.next(later, events.iter())), Some(1));
        deliveries.attempted(later, numbered(1), false, false);
        assert_eq!(told(deliveries.next(later + PAUSE_MAX, events.iter())), Some(3));
    }
}
