//! What a measurement came to.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::Plan;

/// How long requests took, and what makes the figures believable: whether all were sent, and in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub name: String,
    /// Requests per second that were due.
    pub rate: f64,
    /// Requests per second that were answered.
    pub achieved: f64,
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that were not.
    pub errors: u64,
    /// From the moment at which a request was due to the end of its answer, microseconds.
    pub latency_us: Percentiles,
    /// How late the load itself was, which is in all latencies, microseconds.
    pub pacing_us: Percentiles,
}

/// Of some durations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say all")]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Percentiles {
    /// From nanoseconds to microseconds.
    fn new(nanoseconds: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        let quantile = |q| us(nanoseconds.value_at_quantile(q));
        let max = us(nanoseconds.max());
        Self { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99), p999: quantile(0.999), max }
    }

    fn named(&self) -> [(&'static str, f64); 5] {
        [("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("p99.9", self.p999), ("max", self.max)]
    }
}

impl Report {
    /// Of a plan that was carried out: answers came in for `took`.
    pub(crate) fn new(
        plan: &Plan,
        took: Duration,
        latencies: &Histogram<u64>,
        errors: u64,
        lateness: &Histogram<u64>,
    ) -> Self {
        Self {
            name: plan.name.clone(),
            rate: plan.rate,
            achieved: latencies.len() as f64 / took.as_secs_f64(),
            requests: latencies.len(),
            errors,
            latency_us: Percentiles::new(latencies),
            pacing_us: Percentiles::new(lateness),
        }
    }

    /// Reads what [`Report::write`] wrote.
    ///
    /// # Errors
    /// When the file is not a report.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a report", file.display()))
    }

    /// Writes it as JSON, at once, so that whoever waits for the file finds all of it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let unfinished = file.with_extension("unfinished");
        let write = || fs::write(&unfinished, self.json()?).and_then(|()| fs::rename(&unfinished, file));
        write().with_context(|| format!("cannot write {}", file.display()))
    }

    /// For programs; no line end at its end.
    ///
    /// # Errors
    /// When a figure is one that JSON cannot hold.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {} requests at {:.1} of {:.1} requests/s, {} errors\n",
            self.name, self.requests, self.achieved, self.rate, self.errors
        );
        for (name, us) in self.latency_us.named() {
            writeln!(text, "  {name:<6}{us:>10.0}µs").expect("a string can be written");
        }
        let Percentiles { p50, p99, .. } = self.pacing_us;
        writeln!(text, "  (the load itself was late by {p50:.0}µs, p99 {p99:.0}µs)").expect("a string can be written");
        text
    }
}

/// Two reports beside each other, and what `other` adds to `base`.
pub fn comparison(base: &Report, other: &Report) -> String {
    let mut text = format!("{:<8}{:>12}{:>12}{:>12}\n", "", base.name, other.name, "added");
    for ((name, base_us), (_, other_us)) in base.latency_us.named().into_iter().zip(other.latency_us.named()) {
        let added = other_us - base_us;
        writeln!(text, "{name:<8}{base_us:>10.0}µs{other_us:>10.0}µs{added:>+10.0}µs")
            .expect("a string can be written");
    }
    let (rates, errors) = ([base.achieved, other.achieved], [base.errors, other.errors]);
    writeln!(text, "{:<8}{:>10.1}/s{:>10.1}/s", "rate", rates[0], rates[1]).expect("a string can be written");
    writeln!(text, "{:<8}{:>12}{:>12}", "errors", errors[0], errors[1]).expect("a string can be written");
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn report(name: &str, factor: u64) -> Report {
        let mut latencies = Histogram::new(3).unwrap();
        for us in 1..=1000 {
            latencies.record(us * factor * 1000).unwrap();
        }
        let latency_us = Percentiles::new(&latencies);
        let pacing_us = Percentiles { p50: 55.0, p95: 60.0, p99: 70.0, p999: 90.0, max: 100.0 };
        Report { name: name.into(), rate: 1000.0, achieved: 999.9, requests: 1000, errors: 0, latency_us, pacing_us }
    }

    #[test]
    fn for_people() {
        expect![[r#"
            direct: 1000 requests at 999.9 of 1000.0 requests/s, 0 errors
              p50          500µs
              p95          950µs
              p99          990µs
              p99.9        999µs
              max         1000µs
              (the load itself was late by 55µs, p99 70µs)
        "#]]
        .assert_eq(&report("direct", 1).text());
        expect![[r#"
                          direct      meshed       added
            p50            500µs      1000µs      +500µs
            p95            950µs      1901µs      +950µs
            p99            990µs      1980µs      +990µs
            p99.9          999µs      1999µs      +999µs
            max           1000µs      2001µs     +1000µs
            rate         999.9/s     999.9/s
            errors             0           0
        "#]]
        .assert_eq(&comparison(&report("direct", 1), &report("meshed", 2)));
    }

    #[test]
    fn reads_what_it_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("direct.json");
        report("direct", 1).write(&file).unwrap();
        assert_eq!(Report::read(&file).unwrap(), report("direct", 1));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(Report::read(&directory.path().join("none")).is_err());
    }
}
