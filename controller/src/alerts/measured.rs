//! What all replicas have counted of the resources that something is promised of. The one place that asks telemetry for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use conduit_api::{
    Goal, Indicator, NodeId, Objective, ResourceName, Revision,
    proto::public::{Assessment, BurnRate, ResourceSelection, StatRequest, assessment::State},
};
use conduit_consensus::{Firing, Severity, Versioned};
use futures::future::join_all;
use tokio::time::Instant;

use super::{Reading, Readings, Verdict, WINDOWS, Windows, judge};
use crate::{
    api::{merged::Merged, stat::collect},
    peer::server::Own,
    telemetry::{Row, counts::Traffic, questions::ms},
};

/// Promises, as the state has them.
pub type Objectives = BTreeMap<ResourceName, Arc<Versioned<Objective>>>;
/// What fires, likewise.
pub type AllFiring = BTreeMap<ResourceName, BTreeMap<Indicator, Firing>>;

/// The counts of all of them, in each window.
pub struct Measured {
    windows: Windows,
    by_kind: BTreeMap<String, Vec<Merged<Row>>>,
    /// Replicas that have not answered for so long that they have no proxies.
    gone: BTreeSet<NodeId>,
    /// Replicas that answered every question, of all replicas.
    pub answered: u32,
    /// All of them.
    pub asked: u32,
}

/// A promise, how it is kept, and by which counts.
pub struct Assessed {
    /// Of which resource.
    pub resource: ResourceName,
    /// Of the objective that it is part of.
    pub version: Revision,
    /// Which one.
    pub goal: Goal,
    /// Since when it fires, if it does in the replicated state.
    pub fires: Option<Firing>,
    /// How it is kept.
    pub verdict: Verdict,
    /// The counts.
    pub readings: Readings,
    /// How long the windows are.
    pub windows: Windows,
}

/// Asks all replicas, a question for each window and kind of resource: so many as one namespace, or one resource, would do.
pub async fn measure(own: &Own, windows: Windows, objectives: &Objectives) -> Measured {
    let selections = selections(objectives.keys());
    let questions = selections.values().map(|selection| async {
        let asked = windows.lengths().map(|length| StatRequest {
            selector: Some(selection.clone()),
            window_ms: ms(length),
            ..StatRequest::default()
        });
        let answers = asked.into_iter().map(|request| async move { collect(own, &request).await });
        (selection.kind.clone(), join_all(answers).await)
    });
    let by_kind: BTreeMap<_, _> = join_all(questions).await.into_iter().collect();
    let answers = || by_kind.values().flatten();
    let asked = answers().map(|merged| merged.asked).max().unwrap_or_default();
    let answered = answers().map(|merged| merged.answered).min().unwrap_or_default();
    let silent = answers().flat_map(|merged| merged.silent.iter().copied()).collect();
    let [patience, ..] = windows.lengths();
    let gone = own.silence.gone(Instant::now(), &silent, patience);
    Measured { windows, by_kind, gone, answered, asked }
}

/// What to ask of each kind: all that something is promised of, and no more namespaces and names than are needed for that.
fn selections<'a>(resources: impl Iterator<Item = &'a ResourceName>) -> BTreeMap<String, ResourceSelection> {
    let mut selections: BTreeMap<String, ResourceSelection> = BTreeMap::new();
    for resource in resources {
        let (kind, namespace, name) = (resource.kind(), resource.namespace(), resource.name());
        match selections.get_mut(kind) {
            None => {
                let [kind, namespace, name] = [kind, namespace, name].map(ToOwned::to_owned);
                selections.insert(kind.clone(), ResourceSelection { kind, namespace, name });
            }
            Some(selection) => {
                if selection.namespace != namespace {
                    (selection.namespace, selection.name) = (String::new(), String::new());
                } else if selection.name != name {
                    selection.name.clear();
                }
            }
        }
    }
    selections
}

impl Measured {
    /// How each promise is kept.
    pub fn assess(&self, objectives: &Objectives, firing: &AllFiring) -> Vec<Assessed> {
        let of_resource = |(resource, objective): (&ResourceName, &Arc<Versioned<Objective>>)| {
            let goals: Vec<_> = objective.value.goals().collect();
            let assessed = |goal: Goal| {
                let fires = firing.get(resource).and_then(|firing| firing.get(&goal.indicator())).copied();
                let readings = self.readings(resource, goal);
                let verdict = judge(goal, readings, fires.map(|firing| firing.severity));
                let (resource, version) = (resource.clone(), objective.version);
                Assessed { resource, version, goal, fires, verdict, readings, windows: self.windows }
            };
            goals.into_iter().map(assessed).collect::<Vec<_>>()
        };
        objectives.iter().flat_map(of_resource).collect()
    }

    fn readings(&self, resource: &ResourceName, goal: Goal) -> Readings {
        let mut readings = [Reading::default(); WINDOWS];
        let key = (resource.namespace().to_owned(), resource.name().to_owned(), Vec::new());
        for (reading, merged) in readings.iter_mut().zip(self.by_kind.get(resource.kind()).into_iter().flatten()) {
            *reading = read(merged, &self.gone, &key, goal);
        }
        readings
    }
}

/// What one answer says of a promise. Nothing, while a replica is missing that is not `gone`: it may have the proxies whose counts would make the
/// difference. Proxies of one that is gone are with the others within seconds, and what it knew of them is not covered. Nothing either without a
/// majority, since a leader that has none can write nothing down, and proxies may be on the other side. The time that is covered is that
/// of the resource's own proxies, so that one elsewhere that is not heard leaves it alone.
fn read(merged: &Merged<Row>, gone: &BTreeSet<NodeId>, key: &Row, goal: Goal) -> Reading {
    let traffic = merged.traffic.get(key);
    let known_gone = merged.silent.iter().filter(|node| gone.contains(node)).count() as u32;
    let is_answered = merged.answered * 2 > merged.asked && merged.answered + known_gone >= merged.asked;
    let is_told = is_answered && (traffic.is_some() || !merged.truncated);
    let covered_ms = traffic.and_then(Traffic::least_covered_ms).unwrap_or(merged.covered_ms).min(merged.window_ms);
    let [whole, covered] = [merged.window_ms, covered_ms].map(|ms| Duration::from_millis(ms.into()));
    if !is_told {
        return Reading { whole, ..Reading::default() };
    }
    let (requests, bad) = traffic.map_or((0, 0), |traffic| count(traffic, goal));
    Reading { whole, covered, requests, bad }
}

fn count(traffic: &Traffic, goal: Goal) -> (u64, u64) {
    match goal {
        Goal::Success(_) => (traffic.requests.total(), traffic.requests.failure),
        Goal::Latency(_, threshold) => traffic.requests.latencies.over(u64::from(u32::from(threshold)) * 1_000),
    }
}

impl Assessed {
    /// What there is to write down, if anything has changed.
    pub fn transition(&self) -> Option<Option<Severity>> {
        let found = match self.verdict {
            Verdict::Firing(severity) => Some(severity),
            Verdict::Unknown | Verdict::Met | Verdict::Pending(_) => None,
        };
        (found != self.fires.map(|fires| fires.severity)).then_some(found)
    }

    /// How fast the budget is used up, by window.
    pub fn burn_rates(&self) -> impl Iterator<Item = (Duration, Option<f64>)> + '_ {
        self.windows.lengths().into_iter().zip(self.readings.map(|reading| reading.burn_rate(self.goal)))
    }

    /// As people are told. What fires is what is written down.
    pub fn to_wire(&self) -> Assessment {
        let (state, severity) = match (self.fires, self.verdict) {
            (Some(fires), _) => (State::Firing, fires.severity.as_str()),
            // It is written down in a moment.
            (None, Verdict::Pending(severity) | Verdict::Firing(severity)) => (State::Pending, severity.as_str()),
            (None, Verdict::Met) => (State::Met, ""),
            (None, Verdict::Unknown) => (State::Unknown, ""),
        };
        let burn_rate = |((window, rate), reading): ((Duration, Option<f64>), Reading)| BurnRate {
            window_ms: ms(window),
            rate,
            requests: reading.requests,
            bad: reading.bad,
            partial: reading.is_partial(),
        };
        Assessment {
            indicator: self.goal.indicator().to_string(),
            goal: self.goal.to_string(),
            state: state.into(),
            severity: severity.to_owned(),
            since_ms: self.fires.map_or(0, |fires| fires.since_ms),
            burn_rates: self.burn_rates().zip(self.readings).map(burn_rate).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        counts::{Counts, Tcp},
        slots::Now,
    };

    fn resource(kind: &str, namespace: &str, name: &str) -> ResourceName {
        ResourceName::new(kind, namespace, name).unwrap()
    }

    #[test]
    fn no_more_is_asked_for_than_something_is_promised_of() {
        for (resources, expected) in [
            (&[("deployment", "a", "x")][..], ("a", "x")),
            (&[("deployment", "a", "x"), ("deployment", "a", "y")], ("a", "")),
            (&[("deployment", "a", "x"), ("deployment", "b", "x")], ("", "")),
            (&[("deployment", "a", "x"), ("deployment", "b", "x"), ("deployment", "b", "y")], ("", "")),
        ] {
            let resources: Vec<_> = resources.iter().map(|(kind, ns, name)| resource(kind, ns, name)).collect();
            let asked = selections(resources.iter());
            assert_eq!((asked["deployment"].namespace.as_str(), asked["deployment"].name.as_str()), expected);
        }
        let both = [resource("namespace", "", "a"), resource("service", "a", "web")];
        assert_eq!(selections(both.iter()).len(), 2);
    }

    fn answer(key: &Row) -> Merged<Row> {
        let now = Now { monotonic: Instant::now(), unix_ms: 86_400_000 };
        let mut latencies = conduit_api::latency::Latencies::default();
        latencies.add(conduit_api::latency::bucket(50_000) as u32, 90);
        latencies.add(conduit_api::latency::bucket(500_000) as u32, 10);
        let counts = Counts { success: 70, failure: 30, tls: 0, latencies };
        let mut merged = Merged::at(now, Duration::from_secs(300), 0);
        merged.traffic.insert(key.clone(), Traffic::of(counts, Tcp::default(), 250_000, 300_000));
        // Of some proxy elsewhere.
        merged.covered_ms = 20_000;
        merged
    }

    #[test]
    fn counts_are_believed_of_what_is_in_the_answer_for_the_time_that_they_cover() {
        let key = ("a".to_owned(), "x".to_owned(), Vec::new());
        let mut merged = answer(&key);
        let success = Goal::Success("99".parse().unwrap());
        let latency = Goal::Latency(conduit_api::objective::Percentile::P99, 100.try_into().unwrap());
        for (truncated, key, goal, expected) in [
            (false, &key, success, (250, 100, 30)),
            (true, &key, latency, (250, 100, 10)),
            // There is nothing of it; and perhaps there is, and was left out.
            (false, &Row::default(), success, (20, 0, 0)),
            (true, &Row::default(), success, (0, 0, 0)),
        ] {
            (merged.asked, merged.answered, merged.truncated) = (3, 3, truncated);
            let Reading { whole, covered, requests, bad } = read(&merged, &BTreeSet::new(), key, goal);
            assert_eq!((whole.as_secs(), (covered.as_secs(), requests, bad)), (300, expected), "{truncated} {goal}");
        }
    }

    #[test]
    fn nothing_is_known_while_a_replica_is_missing_that_may_have_proxies() {
        let key = ("a".to_owned(), "x".to_owned(), Vec::new());
        let mut merged = answer(&key);
        let success = Goal::Success("99".parse().unwrap());
        for (what, answered, silent, gone, is_known) in [
            ("all answer", 3, &[][..], &[][..], true),
            ("one was asked in vain", 2, &[2], &[], false),
            ("for long", 2, &[2], &[2], true),
            ("one that did not understand is there", 2, &[], &[2], false),
            ("another one is gone than is silent", 2, &[2], &[3], false),
            ("most are gone", 1, &[2, 3], &[2, 3], false),
        ] {
            let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId::new(*id)).collect::<Vec<_>>();
            (merged.asked, merged.answered, merged.silent) = (3, answered, nodes(silent));
            let reading = read(&merged, &nodes(gone).into_iter().collect(), &key, success);
            assert_eq!(reading.requests > 0, is_known, "{what}");
            assert_eq!(reading.covered.is_zero(), !is_known, "{what}");
        }
    }
}
