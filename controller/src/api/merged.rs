//! What all replicas have counted, added up: over how long each part was heard, who did not answer, and who could not understand.

use std::{collections::BTreeMap, time::Duration};

use conduit_api::{
    NodeId,
    proto::peer::{Counts, Heard},
    window::WINDOW_MAX,
};

use crate::{
    peer::{Answer, server::Own},
    telemetry::{self, counts::Traffic, questions::ms, select::Tellers, slots::Now, together::Together},
};

/// Windows that releases which say nothing of their level remember.
const OLD_WINDOW_MAX: Duration = Duration::from_secs(3600);

/// What the replicas that answered have counted.
pub struct Merged<K> {
    /// All of it.
    pub traffic: BTreeMap<K, Traffic>,
    /// Of the window, the time in which the proxy that was heard for the least time was heard.
    pub covered_ms: u32,
    /// That is all since the first of the replicas began to listen.
    pub since_start: bool,
    /// The window, in whole slots.
    pub window_ms: u32,
    needed_level: u32,
    /// Proxies that count what is asked for and are there, by their numbers; none if it is not known which.
    tellers: Option<Vec<u64>>,
    /// Replicas that answered, this one among them.
    pub answered: u32,
    /// Those that did not answer at all.
    pub silent: Vec<NodeId>,
    /// Replicas.
    pub asked: u32,
    /// Those that did not understand.
    pub outdated: u32,
    /// Some replica had more to tell.
    pub truncated: bool,
}

impl<K: Ord> Merged<K> {
    /// Nothing yet, of a question that replicas have to be of `needed_level` for, and that `tellers` have counted the answer to.
    pub fn new(own: &Own, window_ms: u32, needed_level: u32, tellers: Tellers<'_>) -> Self {
        let (now, window) = (telemetry::server::now(&own.clock), Duration::from_millis(window_ms.into()));
        // Of the same moment as who has gone.
        let departures = own.telemetry.lock().departures();
        let tellers = departures.map(|departures| {
            let tellers = departures.there().filter(|(_, pod)| tellers.has(&pod.name, pod.workload.as_ref()));
            tellers.map(|(number, _)| number).collect()
        });
        Self { tellers, ..Self::at(now, window, needed_level) }
    }

    /// The same at a time, where nobody is there to tell.
    pub fn at(now: Now, window: Duration, needed_level: u32) -> Self {
        let needed_level = if window > OLD_WINDOW_MAX { needed_level.max(1) } else { needed_level };
        Self {
            traffic: BTreeMap::new(),
            covered_ms: 0,
            since_start: false,
            window_ms: ms(now.whole_slots(window.min(WINDOW_MAX))),
            needed_level,
            tellers: Some(Vec::new()),
            answered: 0,
            silent: Vec::new(),
            asked: 0,
            outdated: 0,
            truncated: false,
        }
    }

    /// Adds this replica's own answer and those of the others: each is taken apart by `parts`, and each of its rows by `parse`.
    pub fn add_all<A, T>(
        &mut self,
        own: A,
        others: Vec<Answer<A>>,
        parts: impl Fn(A) -> (Option<Heard>, Vec<T>),
        parse: impl Fn(T) -> (K, Counts),
    ) {
        self.asked = 1 + others.len() as u32;
        self.silent = others.iter().filter(|other| other.answer.is_none()).map(|other| other.node).collect();
        let answers = others.into_iter().filter_map(|other| other.answer).chain([own]).map(parts);
        let heard = |(heard, rows): (Option<Heard>, Vec<T>)| (heard.unwrap_or_default(), rows);
        let (answers, outdated): (Vec<_>, Vec<_>) =
            answers.map(heard).partition(|(heard, _)| heard.level >= self.needed_level);
        (self.answered, self.outdated) = (answers.len() as u32, outdated.len() as u32);
        self.truncated = answers.iter().any(|(heard, _)| heard.truncated);
        let all_heard: Vec<_> = answers.iter().map(|(heard, _)| heard).collect();
        // Nobody knows of anything before the one that has been listening for the longest time.
        let oldest = all_heard.iter().map(|heard| heard.age_ms).max().unwrap_or_default();
        let whole_ms = self.window_ms.min(ms(Duration::from_millis(oldest)));
        let together = Together::of(&all_heard, whole_ms);
        let lost = lost_ms_ago(&all_heard).filter(|lost| *lost < whole_ms.into());
        let lost = lost.filter(|lost| !self.is_all_known(&all_heard, &together, whole_ms, *lost));
        let known_ms = lost.map_or(whole_ms, |lost| ms(Duration::from_millis(lost)));
        for (at, (heard, rows)) in answers.into_iter().enumerate() {
            let rows = rows.into_iter().map(&parse);
            for (key, counts) in rows.filter(|(_, counts)| together.takes(at, counts)) {
                let over_ms = together.over_ms(heard.level, &counts);
                self.traffic.entry(key).or_default().merge(&Traffic::from_wire(counts, over_ms));
            }
        }
        let least = self.traffic.values().filter_map(Traffic::least_covered_ms).min();
        self.covered_ms = least.unwrap_or(whole_ms).min(whole_ms).min(together.least_ms()).min(known_ms);
        self.since_start = self.covered_ms == whole_ms && whole_ms < self.window_ms;
    }

    /// Whether everybody who may have told something to a replica that was lost `lost_ms` ago has been heard since: what they say then tells what is
    /// missing. Nobody hears of those again who were gone before.
    fn is_all_known(&self, heard: &[&Heard], together: &Together, whole_ms: u32, lost_ms: u64) -> bool {
        let Some(tellers) = &self.tellers else { return false };
        let departures_known = heard.iter().map(|heard| heard.departures_known_ms).max().unwrap_or_default();
        let mut departures = heard.iter().flat_map(|heard| &heard.departures);
        departures_known >= whole_ms.into()
            && departures.all(|gone| together.has_heard(gone.reporter, lost_ms, gone.ms_ago))
            && tellers.iter().all(|proxy| together.has_heard(*proxy, lost_ms, 0))
    }
}

/// When a replica was last lost, with what it had heard: one that is back, or one that was removed, as it is when another one has its place.
fn lost_ms_ago(heard: &[&Heard]) -> Option<u64> {
    let back = heard.iter().filter(|heard| heard.ran_before).map(|heard| heard.age_ms);
    back.chain(heard.iter().filter_map(|heard| heard.removed_ms_ago)).min()
}

#[cfg(test)]
mod tests {
    use conduit_api::{
        PodName,
        proto::{
            common::Direction,
            peer::{Departure, HeardProxy, Open, Span},
            public::{ResourceSelection, StatRequest},
            telemetry::{ReportRequest, RequestCounts},
        },
    };
    use tokio::time::Instant;

    use super::*;
    use crate::telemetry::{
        Reporter, Telemetry,
        questions::{LEVEL, Of, Told},
    };

    /// What a release before says of rows of which it has heard everything, or that nobody has the rest of.
    const NOBODYS: u64 = 0;
    const LOST: u64 = 1;

    type Reply = (Heard, Vec<Counts>);

    fn heard(memory: u64, age_s: u64) -> Heard {
        Heard { memory, age_ms: age_s * 1000, level: 1, departures_known_ms: age_s * 1000, ..Heard::default() }
    }

    /// So many requests of `web`, of proxies that were heard for so many seconds, and whose memory has the rest.
    fn counts(success: u64, covered_s: u32, kept_by: u64) -> Counts {
        let covered_ms = covered_s * 1000;
        Counts { name: "web".into(), success, covered_ms, kept_by, ..Counts::default() }
    }

    fn merged(window_s: u64, level: u32, own: Reply, others: Vec<Option<Reply>>) -> Merged<String> {
        let now = Now { monotonic: Instant::now(), unix_ms: 86_400_000 };
        let mut merged = Merged::at(now, Duration::from_secs(window_s), level);
        let others = others.into_iter().map(|answer| Answer { node: NodeId::from(9), answer }).collect();
        merged.add_all(own, others, |(heard, rows)| (Some(heard), rows), |counts| (counts.name.clone(), counts));
        merged
    }

    /// Requests per second, and what all of it covers, in seconds.
    fn rate(merged: &Merged<String>) -> (u64, u32) {
        let stats = merged.traffic["web"].stats().unwrap();
        (stats.success_count * 1000 / u64::from(stats.window_ms), merged.covered_ms / 1000)
    }

    #[test]
    fn rates_are_over_the_time_in_which_proxies_were_heard() {
        let old = || (heard(7, 4_000), vec![counts(600, 60, NOBODYS)]);
        for (what, other, expected) in [
            ("one that has begun with its replica", (heard(8, 20), vec![counts(200, 20, LOST)]), (20, 20)),
            ("one that has begun itself", (heard(8, 4_000), vec![counts(600, 60, NOBODYS)]), (20, 60)),
            ("one whose replica is younger than it", (heard(8, 20), vec![counts(600, 20, NOBODYS)]), (20, 60)),
            // Ten a second, forty seconds of them told to the first replica.
            ("one that has moved, and is known all the same", (heard(8, 4_000), vec![counts(600, 20, 7)]), (20, 60)),
            ("one that has moved from a replica that is gone", (heard(8, 4_000), vec![counts(200, 20, 6)]), (20, 20)),
        ] {
            assert_eq!(rate(&merged(60, 1, old(), vec![Some(other)])), expected, "{what}");
        }
        let young = merged(60, 1, (heard(7, 30), vec![counts(300, 30, NOBODYS)]), vec![]);
        assert_eq!((rate(&young), young.window_ms), ((10, 30), 60_000));
    }

    #[test]
    fn what_was_told_to_a_replica_that_was_killed_is_missing() {
        let heard_from = |reporter, from_s_ago: u64, to_s_ago: u64| HeardProxy {
            reporter,
            spans: vec![Span {
                incarnation: 7,
                first: 1,
                last: 9,
                from_ms_ago: from_s_ago * 1000,
                to_ms_ago: to_s_ago * 1000,
            }],
            ..HeardProxy::default()
        };
        let proxy = |(reporter, heard_s_ago): &(u64, u64)| {
            // Those that have begun lately.
            let begun = if *reporter > 10 { 4 } else { 90 };
            heard_from(reporter % 10, begun, *heard_s_ago)
        };
        let gone = |(reporter, s_ago): &(u64, u64)| Departure { reporter: *reporter, ms_ago: s_ago * 1000 };
        // What the proxies 1 and 2 may have told a replica that has begun five seconds ago.
        let covered = |young: Heard, proxies: &[(u64, u64)], departures: &[(u64, u64)], known_s: u64| {
            let old = Heard {
                level: LEVEL,
                proxies: proxies.iter().map(proxy).collect(),
                departures: departures.iter().map(gone).collect(),
                departures_known_ms: known_s * 1000,
                ..heard(7, 4_000)
            };
            let young = Heard { level: LEVEL, ..young };
            let now = Now { monotonic: Instant::now(), unix_ms: 86_400_000 };
            let merged = Merged::<String>::at(now, Duration::from_secs(60), 0);
            let mut merged = Merged { tellers: Some(vec![1, 2]), ..merged };
            let others = vec![Answer { node: NodeId::from(9), answer: Some((young, Vec::new())) }];
            merged.add_all(
                (old, Vec::new()),
                others,
                |(heard, rows)| (Some(heard), rows),
                |counts: Counts| (String::new(), counts),
            );
            (merged.covered_ms / 1000, merged.since_start)
        };
        let back = || Heard { ran_before: true, ..heard(8, 5) };
        let both = [(1, 1), (2, 4)];
        for (what, young, proxies, departures, known_s, expected) in [
            ("both have been heard since, and know what they have told", back(), &both[..], &[][..], 4_000, 60),
            ("one was not heard", back(), &both[..1], &[], 4_000, 5),
            ("one was heard before", back(), &[(1, 1), (2, 6)], &[], 4_000, 5),
            ("one is gone since, and was heard until then", back(), &[(1, 1), (2, 1), (3, 3)], &[(3, 2)], 4_000, 60),
            ("one was gone before", back(), &[(1, 1), (2, 1), (3, 7)], &[(3, 6)], 4_000, 5),
            ("another one has its name", back(), &both, &[(2, 6)], 4_000, 5),
            ("another one has the name of one that is gone since", back(), &[(1, 1), (12, 1)], &[(2, 3)], 4_000, 5),
            ("... and that was heard until then", back(), &[(1, 1), (2, 4), (12, 1)], &[(2, 3)], 4_000, 60),
            ("one has begun anew since", back(), &[(1, 1), (12, 1)], &[], 4_000, 5),
            ("nobody knows who was gone before", back(), &both, &[], 50, 5),
            ("it is new", heard(8, 5), &both[..1], &[(3, 7)], 4_000, 60),
            ("it has begun long ago", Heard { ran_before: true, ..heard(8, 70) }, &[], &[], 4_000, 60),
            ("one was removed", Heard { removed_ms_ago: Some(9_000), ..heard(8, 4_000) }, &both[..1], &[], 4_000, 9),
            ("nothing has happened", heard(8, 4_000), &[], &[(3, 30)], 4_000, 60),
        ] {
            assert_eq!(covered(young, proxies, departures, known_s), (expected, false), "{what}");
        }
        // All have begun at about the same time, for the first time.
        let merged = merged(60, 0, (heard(7, 30), Vec::new()), vec![Some((heard(8, 20), Vec::new()))]);
        assert_eq!((merged.covered_ms, merged.since_start), (30_000, true));
    }

    #[test]
    fn who_does_not_answer_or_does_not_understand_is_missing() {
        let own = || (heard(7, 4_000), vec![counts(60, 60, NOBODYS)]);
        let older = || Some((Heard::default(), vec![counts(60, 60, 0)]));
        let partial = merged(60, 1, own(), vec![None, older()]);
        assert_eq!((partial.answered, partial.asked, partial.outdated), (1, 3, 1));
        assert_eq!(partial.silent, [NodeId::from(9)]);
        assert_eq!(partial.traffic["web"].requests.success, 60);
        // What is older than an hour, they would leave out.
        assert_eq!(merged(7_200, 0, own(), vec![older()]).outdated, 1);
        let full = merged(60, 0, own(), vec![older()]);
        assert_eq!((full.answered, full.outdated, full.traffic["web"].requests.success), (2, 0, 120));
    }

    #[test]
    fn open_connections_of_a_proxy_are_those_that_it_has_told_last() {
        let open = |reporter, told_ms_ago, count| Open { reporter, told_ms_ago, count };
        let row = |open: Vec<Open>| {
            let tcp_open = open.iter().map(|open| open.count).sum();
            Counts { tcp_open, open, ..counts(0, 60, NOBODYS) }
        };
        let first = (heard(7, 90), vec![row(vec![open(1, 3_000, 5), open(2, 500, 7)])]);
        let second = (heard(8, 90), vec![row(vec![open(1, 100, 4), open(3, 900, 1)])]);
        let merged_open = merged(60, 1, first, vec![Some(second)]).traffic["web"].open();
        assert_eq!(merged_open, 4 + 7 + 1);
    }

    /// Three replicas that one proxy tells of ten requests a second, every two seconds.
    struct Replicas {
        start: Instant,
        replicas: [Telemetry; 3],
    }

    impl Replicas {
        fn at(&self, second: u64) -> Now {
            Now { monotonic: self.start + Duration::from_secs(second), unix_ms: 86_400_000 + second * 1000 }
        }

        /// Those whose numbers are `from` to `to`.
        fn tell(&mut self, to: usize, from: u64, until: u64, is_repeated: bool) {
            let pod = PodName::new("ns", "web").unwrap();
            let reporter = Reporter { pod, is_known: true, workload: None, identity: "web".into() };
            for sequence in from..=until {
                let requests =
                    RequestCounts { direction: Direction::Inbound.into(), success: 20, ..RequestCounts::default() };
                let (requests, interval_ms) = (vec![requests], 2_000);
                let report = ReportRequest {
                    incarnation: 7,
                    sequence,
                    interval_ms,
                    requests,
                    is_repeated,
                    ..ReportRequest::default()
                };
                self.replicas[to].report(self.at(sequence * 2), reporter.clone(), report);
            }
        }

        /// Requests a second in the last minute, the seconds that are covered, and whether that is all since the start.
        fn rate(&self, second: u64, answering: &[usize]) -> (f64, u32, bool) {
            let now = self.at(second);
            let answer = |replica: &usize| {
                let selector = ResourceSelection { kind: "pod".into(), ..ResourceSelection::default() };
                let stat = StatRequest { selector: Some(selector), ..StatRequest::default() };
                let Told { found, heard } = self.replicas[*replica].counted(now).stat(Duration::from_secs(60), &stat);
                let row = |((_, of), traffic): ((_, Of), Traffic)| Counts { name: "web".into(), ..traffic.to_wire(of) };
                (heard, found.into_iter().map(row).collect::<Vec<_>>())
            };
            let mut merged = Merged::at(now, Duration::from_secs(60), 0);
            let others =
                answering[1..].iter().map(|replica| Answer { node: NodeId::from(9), answer: Some(answer(replica)) });
            let (own, parts) = (answer(&answering[0]), |(heard, rows)| (Some(heard), rows));
            merged.add_all(own, others.collect(), parts, |counts: Counts| (counts.name.clone(), counts));
            let stats = merged.traffic["web"].stats().unwrap();
            let rate = stats.success_count as f64 * 1000.0 / f64::from(stats.window_ms);
            (rate, merged.covered_ms / 1000, merged.since_start)
        }
    }

    fn replicas() -> Replicas {
        let start = Instant::now();
        let now = Now { monotonic: start, unix_ms: 86_400_000 };
        Replicas { start, replicas: [7, 8, 9].map(|memory| Telemetry::new(now, memory)) }
    }

    #[test]
    fn a_proxy_that_moves_as_often_as_it_likes_has_the_rate_that_it_has() {
        let mut mesh = replicas();
        for (to, from, until) in [(0, 1, 80), (1, 81, 85), (2, 86, 90), (0, 91, 95), (1, 96, 100)] {
            mesh.tell(to, from, until, false);
        }
        assert_eq!(mesh.rate(201, &[0, 1, 2]), (10.0, 56, false));
        // Ten seconds are nobody's any more.
        assert_eq!(mesh.rate(201, &[0, 1]), (10.0, 46, false));
    }

    #[test]
    fn a_report_that_two_replicas_have_added_is_one() {
        let mut mesh = replicas();
        // The first has added the last of these, and could not say so.
        mesh.tell(0, 1, 90, false);
        mesh.tell(1, 90, 90, true);
        mesh.tell(1, 91, 100, false);
        assert_eq!(mesh.rate(201, &[0, 1]), (10.0, 56, false));
        assert_eq!(mesh.rate(201, &[1, 0]), (10.0, 56, false));
        // It has not.
        let mut mesh = replicas();
        mesh.tell(0, 1, 89, false);
        mesh.tell(1, 90, 90, true);
        mesh.tell(1, 91, 100, false);
        assert_eq!(mesh.rate(201, &[0, 1]), (10.0, 56, false));
    }

    #[test]
    fn a_young_mesh_knows_everything_since_it_began() {
        let mut mesh = replicas();
        mesh.tell(0, 1, 20, false);
        assert_eq!(mesh.rate(40, &[0, 1, 2]), (10.0, 40, true));
        // One whose replicas are all young, and whose proxies are not, does not.
        let mut mesh = replicas();
        mesh.tell(0, 5, 20, false);
        assert_eq!(mesh.rate(40, &[0, 1, 2]), (10.0, 32, false));
    }
}
