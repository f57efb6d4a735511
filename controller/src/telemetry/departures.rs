//! Pods whose proxies have told something, and that are gone: nobody hears of them again, and what they told a replica that was killed is lost. Pure.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use conduit_api::{PodName, WorkloadRef, window::WINDOW_MAX};
use tokio::time::Instant;

/// All pods of a large mesh, replaced once. Past it the oldest are forgotten, and answers about that time say that they may be partial.
const DEPARTURES_MAX: usize = 20_000;

/// A pod that had a proxy.
#[derive(Clone, Debug)]
pub struct Departure {
    /// Its name.
    pub pod: PodName,
    /// What owned it.
    pub workload: Option<WorkloadRef>,
    /// When it was seen to be gone.
    pub at: Instant,
}

/// Those of the longest window.
#[derive(Clone, Debug)]
pub struct Departures {
    known_since: Instant,
    gone: VecDeque<Arc<Departure>>,
}

impl Departures {
    /// None yet, and all from `now` on.
    pub fn new(now: Instant) -> Self {
        Self { known_since: now, gone: VecDeque::new() }
    }

    /// Another one. They come in the order of their times.
    pub fn add(&mut self, departure: Departure) {
        while let Some(oldest) = self.gone.front()
            && (departure.at.saturating_duration_since(oldest.at) > WINDOW_MAX || self.gone.len() >= DEPARTURES_MAX)
        {
            self.known_since = oldest.at;
            self.gone.pop_front();
        }
        self.gone.push_back(Arc::new(departure));
    }

    /// From when on all are known.
    pub fn known_since(&self) -> Instant {
        self.known_since
    }

    /// Those of the last `window`.
    pub fn within(&self, now: Instant, window: Duration) -> impl Iterator<Item = &Departure> {
        let recent = self.gone.iter().rev().map(AsRef::as_ref);
        recent.take_while(move |departure| now.saturating_duration_since(departure.at) <= window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_said_not_to_be_known() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let departure = |second: u64| Departure {
            pod: PodName::new("ns", &format!("web-{second}")).unwrap(),
            workload: None,
            at: at(second),
        };
        let mut departures = Departures::new(start);
        let within = |departures: &Departures, now, seconds| {
            departures
                .within(at(now), Duration::from_secs(seconds))
                .map(|gone| gone.pod.name().to_owned())
                .collect::<Vec<_>>()
        };
        (1..=3).for_each(|second| departures.add(departure(second)));
        assert_eq!(within(&departures, 4, 2), ["web-3", "web-2"]);
        assert_eq!(departures.known_since(), start);
        departures.add(departure(WINDOW_MAX.as_secs() + 2));
        assert_eq!((departures.known_since(), departures.gone.len()), (at(1), 3));
        let mut many = Departures::new(start);
        (0..DEPARTURES_MAX as u64 + 2)
            .for_each(|number| many.add(Departure { at: at(number / 1_000), ..departure(number) }));
        assert_eq!((many.gone.len(), many.known_since()), (DEPARTURES_MAX, start));
    }
}
