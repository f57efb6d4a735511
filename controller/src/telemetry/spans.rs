//! When a proxy was heard, by the numbers of its reports: what several replicas know of that is laid upon each other. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use conduit_api::{proto::peer, window::WINDOW_MAX};
use tokio::time::Instant;

use super::slots::Now;

/// Times that one replica has heard a proxy in: it goes and comes back when controllers are restarted. Past it the oldest is forgotten: what was between
/// two of them is nothing that was heard here.
const SPANS_MAX: usize = 16;

/// Reports without a gap, and when they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    incarnation: u64,
    first: u64,
    last: u64,
    from: Instant,
    to: Instant,
}

/// When one replica has heard a proxy. The oldest first.
#[derive(Clone, Debug, Default)]
pub struct Spans(VecDeque<Span>);

impl Spans {
    /// Another report, of all that there was to tell in the last `interval`, and whether it follows the last one.
    pub fn add(&mut self, now: Now, (incarnation, sequence): (u64, u64), interval: Duration) -> bool {
        let to = now.monotonic;
        if let Some(span) = self.0.back_mut()
            && (span.incarnation, span.last.checked_add(1)) == (incarnation, Some(sequence))
        {
            (span.last, span.to) = (sequence, to);
            return true;
        }
        let from = to.checked_sub(interval).unwrap_or(to);
        self.0.retain(|span| now.since(span.to) < WINDOW_MAX);
        self.0.push_back(Span { incarnation, first: sequence, last: sequence, from, to });
        if self.0.len() > SPANS_MAX {
            self.0.pop_front();
        }
        false
    }

    /// What came before `from` is forgotten.
    pub fn forget(&mut self, from: Instant) {
        let newest = self.0.pop_back();
        self.0.retain(|span| span.to > from);
        self.0.extend(newest);
        for span in self.0.iter_mut().filter(|span| span.from < from) {
            // Of its numbers only the last one is sure to be known, and a first one has not begun here any more.
            span.last = span.last.max(2);
            (span.first, span.from) = (span.last, from.min(span.to));
        }
    }

    /// As replicas tell each other.
    pub fn to_wire(&self, now: Now) -> Vec<peer::Span> {
        let ms_ago = |at| now.since(at).as_millis() as u64;
        let span = |span: &Span| peer::Span {
            incarnation: span.incarnation,
            first: span.first,
            last: span.last,
            from_ms_ago: ms_ago(span.from),
            to_ms_ago: ms_ago(span.to),
        };
        self.0.iter().map(span).collect()
    }

    /// How much of the last `window` was heard here.
    pub fn covers(&self, now: Now, window: Duration) -> Duration {
        Duration::from_millis(covered_ms(self.to_wire(now), window.as_millis() as u64))
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        self.0.len() * size_of::<Span>()
    }
}

/// How many of the last `window_ms` a proxy was heard in by whoever has these of it.
///
/// Of a report that came nobody knows how long it was before the next one, if that came elsewhere; but there was nothing to tell in between. So what is
/// missing is what is between reports whose numbers do not follow each other, and what is before the first one, unless that is number one: whoever
/// has begun with it had nothing to tell before.
pub fn covered_ms(spans: Vec<peer::Span>, window_ms: u64) -> u64 {
    let (mut unknown, mut known_until) = (0, None::<u64>);
    for joined in by_process(spans) {
        for (at, span) in joined.iter().enumerate() {
            if at > 0 || span.first > 1 {
                unknown += known_until.unwrap_or(window_ms).min(window_ms).saturating_sub(span.from_ms_ago);
            }
            known_until = Some(known_until.map_or(span.to_ms_ago, |until| until.min(span.to_ms_ago)));
        }
    }
    window_ms.saturating_sub(unknown)
}

/// Those of each process of the proxy, the oldest process first; those whose numbers follow each other, or overlap, are one.
fn by_process(mut spans: Vec<peer::Span>) -> Vec<Vec<peer::Span>> {
    spans.sort_by_key(|span| (span.first, span.last));
    let mut processes: BTreeMap<u64, Vec<peer::Span>> = BTreeMap::new();
    for span in spans {
        let joined = processes.entry(span.incarnation).or_default();
        match joined.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last);
                before.from_ms_ago = before.from_ms_ago.max(span.from_ms_ago);
                before.to_ms_ago = before.to_ms_ago.min(span.to_ms_ago);
            }
            _ => joined.push(span),
        }
    }
    let mut processes: Vec<_> = processes.into_values().collect();
    processes.sort_by_key(|joined| std::cmp::Reverse(joined.iter().map(|span| span.from_ms_ago).max()));
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(incarnation: u64, numbers: (u64, u64), seconds_ago: (u64, u64)) -> peer::Span {
        let ((first, last), (from, to)) = (numbers, seconds_ago);
        peer::Span { incarnation, first, last, from_ms_ago: from * 1000, to_ms_ago: to * 1000 }
    }

    #[test]
    fn what_replicas_have_heard_is_laid_upon_each_other() {
        for (what, spans, covered) in [
            ("nobody", vec![], 60),
            ("since it has begun", vec![span(7, (1, 30), (200, 1))], 60),
            ("it has begun in the window", vec![span(7, (1, 5), (10, 1))], 60),
            ("somebody else has heard it before", vec![span(7, (40, 50), (20, 0))], 20),
            ("who has heard it before", vec![span(7, (40, 50), (20, 0)), span(7, (1, 39), (200, 20))], 60),
            // It has moved twice, and the replica in between is gone.
            ("of three, one is gone", vec![span(7, (1, 10), (200, 40)), span(7, (21, 30), (15, 0))], 35),
            ("of three, the last is gone", vec![span(7, (1, 10), (200, 40)), span(7, (11, 20), (40, 15))], 60),
            (
                "there and back again",
                vec![span(7, (1, 10), (90, 50)), span(7, (21, 30), (30, 0)), span(7, (11, 20), (50, 30))],
                60,
            ),
            ("it was silent in between", vec![span(7, (1, 10), (90, 50)), span(7, (11, 12), (4, 0))], 60),
            ("the same twice", vec![span(7, (5, 10), (30, 10)), span(7, (5, 10), (30, 10))], 30),
            ("it has begun anew", vec![span(9, (1, 5), (10, 0)), span(7, (1, 10), (90, 12))], 60),
            ("... and went elsewhere", vec![span(9, (6, 9), (10, 0)), span(7, (1, 10), (90, 30))], 40),
        ] {
            assert_eq!(covered_ms(spans, 60_000), covered * 1000, "{what}");
        }
    }

    #[test]
    fn reports_that_follow_each_other_are_one_span_and_others_are_few() {
        let start = Instant::now();
        let at = |second: u64| Now { monotonic: start + Duration::from_secs(second), unix_ms: second * 1000 };
        let mut spans = Spans::default();
        let second = Duration::from_secs(1);
        for number in 1..=10 {
            assert_eq!(spans.add(at(number), (7, number), second), number > 1);
        }
        assert_eq!(spans.to_wire(at(10)), [span(7, (1, 10), (10, 0))]);
        for times in 0..2 * SPANS_MAX as u64 {
            spans.add(at(20 + 10 * times), (7, 20 + 10 * times), second);
        }
        let told = spans.to_wire(at(400));
        assert_eq!(told.len(), SPANS_MAX);
        assert_eq!((told[0].first, told[0].last, told[0].from_ms_ago), (180, 180, 221_000));
        // Whatever a proxy says.
        let mut endless = spans.clone();
        (0..2).for_each(|_| assert!(!endless.add(at(400), (7, u64::MAX), second)));
        assert_eq!(endless.to_wire(at(400)).len(), SPANS_MAX);
        spans.forget(start + Duration::from_secs(275));
        assert_eq!(spans.covers(at(330), Duration::from_secs(60)), Duration::from_secs(6));
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let start = Instant::now();
        let at = |second: u64| Now { monotonic: start + Duration::from_secs(second), unix_ms: second * 1000 };
        let mut spans = Spans::default();
        for number in 1..=50 {
            spans.add(at(number), (7, number), Duration::from_secs(1));
        }
        assert_eq!(spans.covers(at(50), Duration::from_secs(60)), Duration::from_secs(60));
        spans.forget(start + Duration::from_secs(30));
        assert_eq!(spans.covers(at(50), Duration::from_secs(60)), Duration::from_secs(20));
    }
}
