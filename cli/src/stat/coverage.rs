//! What an answer covers, and what is said when that is not all. Pure.

use std::{io::Write, time::Duration};

use conduit_api::proto::public::{EdgesResponse, StatResponse};
use serde::Serialize;

use crate::resource::Kind;

/// Of which replicas, of how long, and whether of all that there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    answered: u32,
    total: u32,
    outdated: u32,
    covered_ms: u32,
    window_ms: u32,
    /// That percentiles are of; 0 is all of the window.
    latency_window_ms: u32,
    /// Nobody has been counting for longer.
    since_start: bool,
    truncated: bool,
    /// The figures are not the control plane's.
    by_prometheus: bool,
}

/// For programs.
#[derive(Serialize)]
pub(crate) struct JsonCoverage {
    replicas_answered: u32,
    replicas_total: u32,
    /// Some counts are missing: of replicas, of proxies, or of a part of the window.
    partial: bool,
    /// That percentiles are of, if that is not all of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_window_ms: Option<u32>,
}

impl From<&Coverage> for JsonCoverage {
    fn from(of: &Coverage) -> Self {
        Self {
            replicas_answered: of.answered,
            replicas_total: of.total,
            partial: of.is_partial(),
            latency_window_ms: of.has_short_latencies().then_some(of.latency_window_ms),
        }
    }
}

impl Coverage {
    /// Of several questions: what holds for all of them.
    pub(crate) fn of_stats(answers: &[(Kind, StatResponse)]) -> Self {
        let answers = || answers.iter().map(|(_, answer)| answer);
        Self {
            answered: answers().map(|answer| answer.replicas_answered).min().unwrap_or_default(),
            total: answers().map(|answer| answer.replicas_total).max().unwrap_or_default(),
            outdated: answers().map(|answer| answer.replicas_outdated).max().unwrap_or_default(),
            covered_ms: answers().map(|answer| answer.covered_ms).min().unwrap_or_default(),
            window_ms: answers().map(|answer| answer.window_ms).max().unwrap_or_default(),
            latency_window_ms: answers().map(|answer| answer.latency_window_ms).max().unwrap_or_default(),
            // Of those that cover less than they were asked for.
            since_start: answers().all(|answer| answer.since_start || answer.covered_ms >= answer.window_ms),
            truncated: answers().any(|answer| answer.truncated),
            by_prometheus: false,
        }
    }

    pub(crate) fn of_edges(answer: &EdgesResponse) -> Self {
        Self {
            answered: answer.replicas_answered,
            total: answer.replicas_total,
            outdated: answer.replicas_outdated,
            covered_ms: answer.covered_ms,
            window_ms: answer.window_ms,
            latency_window_ms: answer.latency_window_ms,
            since_start: answer.since_start,
            truncated: answer.truncated,
            by_prometheus: false,
        }
    }

    /// The same of figures that Prometheus has.
    pub(super) fn of_prometheus(self) -> Self {
        Self { by_prometheus: true, latency_window_ms: 0, ..self }
    }

    fn has_short_latencies(&self) -> bool {
        (1..self.covered_ms).contains(&self.latency_window_ms)
    }

    fn is_short(&self) -> bool {
        self.covered_ms < self.window_ms
    }

    /// Something is missing.
    pub(crate) fn is_partial(&self) -> bool {
        self.answered < self.total || self.truncated || self.is_short() && !self.since_start
    }
}

/// Says so when figures are not those of all replicas, not of all the time, or not all of them.
pub(crate) fn note_partial(coverage: &Coverage, notes: &mut impl Write) -> anyhow::Result<()> {
    let Coverage { answered, total, outdated, .. } = coverage;
    if answered < total {
        let why = match outdated {
            0 => String::new(),
            outdated => format!(", {outdated} of an older release cannot"),
        };
        writeln!(notes, "note: {answered} of {total} controllers answered{why}: the figures are partial")?;
    }
    if coverage.is_short() {
        let known = humantime::format_duration(Duration::from_secs((coverage.covered_ms / 1000).into()));
        if coverage.since_start {
            let why = if coverage.by_prometheus {
                "Prometheus has nothing older of any proxy (what is bundled keeps prometheus.retention)"
            } else {
                "the control plane has not been counting for longer"
            };
            writeln!(notes, "note: the figures are of the last {known}: {why}")?;
        } else {
            writeln!(notes, "note: of some traffic no more than {known} is known: the figures are partial")?;
        }
    }
    // What is not known at all has been said.
    if coverage.has_short_latencies() {
        let known = humantime::format_duration(Duration::from_secs((coverage.latency_window_ms / 1000).into()));
        writeln!(
            notes,
            "note: percentiles are of the last {known}: between two pods those of older requests are not kept"
        )?;
    }
    if coverage.truncated {
        writeln!(notes, "note: there is more than is shown: what has the least traffic is left out")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let all = Coverage { answered: 3, total: 3, covered_ms: 56_000, window_ms: 56_000, ..Coverage::default() };
        let young = Coverage { window_ms: 298_000, since_start: true, ..all.clone() };
        let mut notes = Vec::new();
        note_partial(&young, &mut notes).unwrap();
        let says = "note: the figures are of the last 56s: the control plane has not been counting for longer\n";
        assert_eq!((String::from_utf8(notes).unwrap().as_str(), young.is_partial()), (says, false));
        let mut notes = Vec::new();
        note_partial(&Coverage { latency_window_ms: 30_000, ..all.clone() }, &mut notes).unwrap();
        let says = "note: percentiles are of the last 30s: between two pods those of older requests are not kept\n";
        assert_eq!(String::from_utf8(notes).unwrap(), says);
        for (coverage, says) in [
            (all.clone(), ""),
            (Coverage::default(), ""),
            (Coverage { window_ms: 298_000, ..all.clone() }, "no more than 56s is known: the figures are partial"),
            (Coverage { answered: 2, ..all.clone() }, "2 of 3 controllers answered: the figures are partial"),
            (
                Coverage { answered: 2, outdated: 1, ..all.clone() },
                "2 of 3 controllers answered, 1 of an older release cannot: the figures are partial",
            ),
            (Coverage { truncated: true, ..all.clone() }, "the least traffic is left out"),
            (Coverage { latency_window_ms: 56_000, ..all.clone() }, ""),
        ] {
            let mut notes = Vec::new();
            note_partial(&coverage, &mut notes).unwrap();
            let notes = String::from_utf8(notes).unwrap();
            assert_eq!(coverage.is_partial(), !says.is_empty(), "{coverage:?}");
            assert_eq!(notes.is_empty(), says.is_empty(), "{coverage:?}: {notes}");
            assert!(notes.contains(says), "{coverage:?}: {notes}");
        }
    }
}
