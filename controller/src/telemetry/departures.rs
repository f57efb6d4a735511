//! Pods whose proxies have told something, and that are gone: nobody hears of them again, and what they told a replica that was lost is lost. Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use conduit_api::{Pod, window::WINDOW_MAX};
use conduit_consensus::Versioned;
use tokio::time::Instant;

use super::questions::number_of;

/// All pods of a large mesh, replaced once. Past it the oldest are forgotten, and answers about that time say that they may be partial.
const DEPARTURES_MAX: usize = 20_000;

/// Pods with proxies: those that are there, and those that have gone in the longest window.
#[derive(Clone, Debug)]
pub struct Departures {
    /// Nothing is known of who went before.
    known_since: Instant,
    /// By number.
    there: HashMap<u64, Arc<Versioned<Pod>>>,
    /// In the order of their times.
    gone: VecDeque<Departure>,
}

#[derive(Clone, Debug)]
struct Departure {
    number: u64,
    pod: Arc<Versioned<Pod>>,
    at: Instant,
}

impl Departures {
    /// These are there; nothing is known of those before.
    pub fn new<'a>(now: Instant, pods: impl Iterator<Item = &'a Arc<Versioned<Pod>>>) -> Self {
        let there = pods.filter(|pod| pod.value.meshed).map(|pod| (number_of(&pod.value.name), pod.clone())).collect();
        Self { known_since: now, there, gone: VecDeque::new() }
    }

    /// The same when these are there. One of the same name may be another one.
    pub fn after<'a>(&self, now: Instant, pods: impl Iterator<Item = &'a Arc<Versioned<Pod>>>) -> Self {
        let mut after = Self { known_since: self.known_since, gone: self.gone.clone(), ..Self::new(now, pods) };
        let is_the_same =
            |number: u64, before: &Pod| after.there.get(&number).is_some_and(|now| now.value.uid == before.uid);
        let gone = self.there.iter().filter(|(number, pod)| !is_the_same(**number, &pod.value));
        let gone: Vec<_> = gone.map(|(number, pod)| Departure { number: *number, pod: pod.clone(), at: now }).collect();
        after.gone.extend(gone);
        while let Some(oldest) = after.gone.front()
            && (now.saturating_duration_since(oldest.at) > WINDOW_MAX || after.gone.len() > DEPARTURES_MAX)
        {
            after.known_since = oldest.at;
            after.gone.pop_front();
        }
        after
    }

    /// From when on all that have gone are known.
    pub fn known_since(&self) -> Instant {
        self.known_since
    }

    /// Those that are there, by number.
    pub fn there(&self) -> impl Iterator<Item = (u64, &Pod)> {
        self.there.iter().map(|(number, pod)| (*number, &pod.value))
    }

    /// Those that have gone in the last `window`, the last one first: number and time.
    pub fn within(&self, now: Instant, window: Duration) -> impl Iterator<Item = (u64, &Pod, Instant)> {
        let recent = self.gone.iter().rev().map(|gone| (gone.number, &gone.pod.value, gone.at));
        recent.take_while(move |(_, _, at)| now.saturating_duration_since(*at) <= window)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::IpAddr;

    use conduit_api::{PodName, PodPorts, Revision, WorkloadRef};

    use super::*;

    pub(in super::super) fn pod(name: &str, uid: &str) -> Arc<Versioned<Pod>> {
        let value = Pod {
            name: PodName::new("ns", name).unwrap(),
            ip: IpAddr::from([10, 0, 0, 1]),
            workload: name
                .rsplit_once('-')
                .map(|(name, _)| WorkloadRef { kind: "deployment".into(), name: name.into() }),
            service_account: "web".into(),
            uid: Some(uid.into()),
            meshed: true,
            ports: PodPorts::default(),
            zone: None,
            ready: true,
            application_ended: false,
        };
        Arc::new(Versioned { version: Revision::default(), value })
    }

    #[test]
    fn who_is_gone_and_who_has_anothers_name_is_known() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let gone = |departures: &Departures, now, seconds| {
            let gone = departures.within(at(now), Duration::from_secs(seconds));
            gone.map(|(_, pod, _)| format!("{}:{}", pod.name.name(), pod.uid.as_deref().unwrap())).collect::<Vec<_>>()
        };
        let (first, other) = ([pod("a-0", "1"), pod("b-0", "2")], pod("a-0", "3"));
        let departures = Departures::new(at(0), first.iter());
        assert_eq!(gone(&departures, 0, 60), [""; 0]);
        let departures = departures.after(at(10), [other.clone(), first[1].clone()].iter());
        let departures = departures.after(at(20), [other.clone()].iter());
        assert_eq!(gone(&departures, 25, 60), ["b-0:2", "a-0:1"]);
        assert_eq!(gone(&departures, 25, 10), ["b-0:2"]);
        assert_eq!(departures.there().map(|(number, _)| number).collect::<Vec<_>>(), [number_of(&other.value.name)]);
        assert_eq!(departures.known_since(), at(0));
        let later = departures.after(at(WINDOW_MAX.as_secs() + 15), std::iter::empty());
        assert_eq!((later.known_since(), later.gone.len()), (at(10), 2), "what is forgotten is not known");
    }

    #[test]
    fn not_all_are_remembered() {
        let start = Instant::now();
        let pods: Vec<_> = (0..DEPARTURES_MAX + 2).map(|number| pod(&format!("web-{number}"), "1")).collect();
        let later = start + Duration::from_secs(1);
        let departures = Departures::new(start, pods.iter()).after(later, std::iter::empty());
        assert_eq!((departures.gone.len(), departures.known_since()), (DEPARTURES_MAX, later));
    }
}
