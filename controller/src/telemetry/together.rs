//! What several replicas have heard of the same proxies, so that nothing is counted twice and rates are over all of the time. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry};

use conduit_api::proto::peer::{Counts, Heard, HeardProxy, ReportId, Span};

use super::spans;

/// From it on replicas say when they have heard each proxy.
const SPANS_LEVEL: u32 = 2;

/// A report: of which proxy, of which of its processes, and its number.
type Report = (u64, u64, u64);

/// Made of what all replicas say with their answers.
pub struct Together {
    whole_ms: u32,
    /// By proxy: how long it was heard by all of them together.
    over_ms: BTreeMap<u64, u32>,
    /// The same proxies: when each of their processes was heard, as each of the answers says.
    spans: BTreeMap<u64, Vec<Span>>,
    /// In which of the answers a report counts that several replicas may have added; in none if one has added it that knows of no other.
    repeated: BTreeMap<Report, Option<usize>>,
    memories: Vec<u64>,
}

impl Together {
    /// Of answers in their order, about the last `whole_ms`.
    pub fn of(answers: &[&Heard], whole_ms: u32) -> Self {
        let (mut by_proxy, mut repeated) = (BTreeMap::<u64, Vec<_>>::new(), BTreeMap::new());
        // They do not say when they have heard a proxy, but they have what they have heard.
        let older = answers.iter().filter(|heard| heard.level < SPANS_LEVEL && heard.memory > 0);
        let older: Vec<_> = older.map(|heard| heard.memory).collect();
        let mut is_with_older = BTreeSet::new();
        for (at, proxy) in answers.iter().enumerate().flat_map(|(at, heard)| heard.proxies.iter().map(move |p| (at, p)))
        {
            by_proxy.entry(proxy.reporter).or_default().extend(proxy.spans.iter().copied());
            if older.contains(&proxy.kept_by) {
                is_with_older.insert(proxy.reporter);
            }
            for ReportId { incarnation, sequence } in &proxy.repeated_reports {
                if let Entry::Vacant(new) = repeated.entry((proxy.reporter, *incarnation, *sequence)) {
                    new.insert(Some(at));
                }
            }
        }
        let over = |(proxy, spans): (&u64, &Vec<Span>)| {
            let is_whole = is_with_older.contains(proxy);
            (*proxy, if is_whole { whole_ms } else { spans::covered_ms(spans.clone(), whole_ms.into()) as u32 })
        };
        let over_ms = by_proxy.iter().map(over).collect();
        // Of twenty thousand proxies each has some: they are looked for by their numbers.
        let by_number: Vec<_> = answers.iter().map(|heard| by_number(heard)).collect();
        for (report, counts) in &mut repeated {
            let of = |proxies: &HashMap<u64, Vec<&HeardProxy>>| {
                proxies.get(&report.0).is_some_and(|proxies| proxies.iter().any(|proxy| has_added(proxy, *report)))
            };
            if by_number.iter().any(of) {
                *counts = None;
            }
        }
        let memories = answers.iter().map(|heard| heard.memory).collect();
        Self { whole_ms, over_ms, spans: by_proxy, repeated, memories }
    }

    /// Whether a row of answer number `at` counts: all but those of reports that are counted elsewhere.
    pub fn takes(&self, at: usize, counts: &Counts) -> bool {
        counts.report.is_none_or(|ReportId { incarnation, sequence }| {
            let counted = self.repeated.get(&(counts.reporter, incarnation, sequence));
            counted.is_none_or(|counted| *counted == Some(at))
        })
    }

    /// Over how long a row of a replica of `level` was counted; none where only the row says so.
    pub fn over_ms(&self, level: u32, counts: &Counts) -> Option<u32> {
        match level {
            0 => None,
            // It says of rows whose memory has the rest.
            1 => (counts.kept_by == 0 || self.memories.contains(&counts.kept_by)).then_some(self.whole_ms),
            _ if counts.reporter == 0 => Some(self.whole_ms),
            _ => self.over_ms.get(&counts.reporter).copied(),
        }
    }

    /// Whether the process of this proxy that was there `ms_ago` has been heard since, by some replica and more than `until_ms_ago`: then the numbers of
    /// its reports say whether any from before are missing. One that has begun since knows nothing of the one that was there.
    pub fn has_heard(&self, proxy: u64, ms_ago: u64, until_ms_ago: u64) -> bool {
        let was_there = |span: &Span| span.first > 1 || span.from_ms_ago >= ms_ago;
        let is_in_time = |span: &Span| (until_ms_ago..ms_ago).contains(&span.to_ms_ago);
        self.spans.get(&proxy).is_some_and(|spans| spans.iter().any(|span| was_there(span) && is_in_time(span)))
    }

    /// How long the proxy was heard that was heard for the least time.
    pub fn least_ms(&self) -> u32 {
        self.over_ms.values().copied().min().unwrap_or(self.whole_ms)
    }
}

/// What a replica has heard, by whom; several have the same number if their identities differ.
fn by_number(heard: &Heard) -> HashMap<u64, Vec<&HeardProxy>> {
    let mut proxies = HashMap::<_, Vec<_>>::new();
    heard.proxies.iter().for_each(|proxy| proxies.entry(proxy.reporter).or_default().push(proxy));
    proxies
}

/// Whether a replica has a report of a proxy among those of which it knows no other that could have it.
fn has_added(proxy: &HeardProxy, (_, incarnation, sequence): Report) -> bool {
    let is_in = |span: &Span| span.incarnation == incarnation && (span.first..=span.last).contains(&sequence);
    proxy.spans.iter().any(is_in) && !proxy.repeated_reports.contains(&ReportId { incarnation, sequence })
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::peer::{HeardProxy, Span};

    use super::*;

    fn heard(spans: &[(u64, u64, u64, u64)], repeated: &[u64]) -> Heard {
        let span = |&(first, last, from, to): &(u64, u64, u64, u64)| Span {
            incarnation: 7,
            first,
            last,
            from_ms_ago: from * 1000,
            to_ms_ago: to * 1000,
        };
        let repeated_reports = repeated.iter().map(|sequence| ReportId { incarnation: 7, sequence: *sequence });
        let proxy = HeardProxy {
            reporter: 5,
            spans: spans.iter().map(span).collect(),
            repeated_reports: repeated_reports.collect(),
            kept_by: 0,
        };
        Heard { level: 2, proxies: vec![proxy], ..Heard::default() }
    }

    fn repeated(sequence: u64) -> Counts {
        let report = Some(ReportId { incarnation: 7, sequence });
        Counts { reporter: 5, report, ..Counts::default() }
    }

    #[test]
    fn a_report_that_two_replicas_have_counts_once() {
        // The first has added report 10 and could not say so; the second got it again.
        let (first, second) = (heard(&[(1, 10, 90, 30)], &[]), heard(&[(10, 40, 30, 0)], &[10]));
        let both = Together::of(&[&first, &second], 60_000);
        assert!(!both.takes(1, &repeated(10)));
        // The first never got it.
        let first = heard(&[(1, 9, 90, 32)], &[]);
        assert!(Together::of(&[&first, &second], 60_000).takes(1, &repeated(10)));
        // Its second try got lost as well, and a third replica has it from the third one.
        let third = heard(&[(10, 11, 28, 25)], &[10]);
        let all = Together::of(&[&first, &second, &third], 60_000);
        assert_eq!([1, 2].map(|at| all.takes(at, &repeated(10))), [true, false]);
        assert!(all.takes(2, &Counts { reporter: 5, ..Counts::default() }), "all else counts");
    }

    #[test]
    fn what_an_older_replica_has_counts_as_heard_as_long_as_it_answers() {
        let mut moved = Heard { level: 2, ..heard(&[(11, 20, 20, 0)], &[]) };
        moved.proxies[0].kept_by = 77;
        let row = Counts { reporter: 5, covered_ms: 20_000, kept_by: 77, ..Counts::default() };
        for (level, memory, over_ms) in [(1, 77, 60_000), (1, 78, 20_000), (2, 77, 20_000)] {
            let older = Heard { level, memory, ..Heard::default() };
            let together = Together::of(&[&moved, &older], 60_000);
            assert_eq!((together.over_ms(2, &row), together.least_ms()), (Some(over_ms), over_ms), "{level} {memory}");
        }
    }

    #[test]
    fn a_rate_is_over_the_time_in_which_any_replica_has_heard_the_proxy() {
        let (first, last) = (heard(&[(1, 10, 90, 40)], &[]), heard(&[(21, 30, 15, 0)], &[]));
        let lost = Together::of(&[&first, &last], 60_000);
        let row = Counts { reporter: 5, covered_ms: 15_000, ..Counts::default() };
        assert_eq!((lost.over_ms(2, &row), lost.least_ms()), (Some(35_000), 35_000));
        let second = heard(&[(11, 20, 40, 15)], &[]);
        let known = Together::of(&[&first, &second, &last], 60_000);
        assert_eq!((known.over_ms(2, &row), known.least_ms()), (Some(60_000), 60_000));
        assert_eq!(known.over_ms(2, &Counts::default()), Some(60_000));
    }
}
