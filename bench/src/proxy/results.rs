//! What was measured, for people and for programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use super::subject::Proxy;

/// Of all rounds.
#[derive(Default)]
pub struct Results {
    rows: Vec<Row>,
    problems: Vec<String>,
}

/// One figure of every proxy.
struct Row {
    group: String,
    measure: String,
    /// By round.
    samples: BTreeMap<Proxy, BTreeMap<u32, f64>>,
}

/// Of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

impl Results {
    /// Adds what one round has measured; rows are in the order in which they are first heard of.
    pub fn add(&mut self, group: &str, measure: &str, proxy: Proxy, round: u32, value: f64) {
        let known = self.rows.iter().position(|row| row.group == group && row.measure == measure);
        let at = known.unwrap_or(self.rows.len());
        if known.is_none() {
            let (group, measure) = (group.to_owned(), measure.to_owned());
            self.rows.push(Row { group, measure, samples: BTreeMap::new() });
        }
        self.rows[at].samples.entry(proxy).or_default().insert(round, value);
    }

    /// Something could not be measured.
    pub fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// For people: median, least and most, and how many times that of ours it is.
    pub fn text(&self) -> String {
        let proxies: BTreeSet<_> = self.rows.iter().flat_map(|row| row.samples.keys().copied()).collect();
        let mut text = String::new();
        let mut group = None;
        for row in &self.rows {
            if group.replace(&row.group) != Some(&row.group) {
                let _ = write!(text, "\n{:<46}", row.group);
                for proxy in &proxies {
                    let _ = write!(text, "{:<28}", proxy.to_string());
                }
                text.truncate(text.trim_end().len());
                text.push('\n');
            }
            let _ = write!(text, "  {:<44}", row.measure);
            for proxy in &proxies {
                let _ = write!(text, "{:<28}", row.cell(*proxy));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for problem in &self.problems {
            let _ = writeln!(text, "\nnot measured: {problem}");
        }
        text
    }

    /// For programs: every sample, and what each proxy's median is of each other's, round by round.
    pub fn json(&self) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        json!({ "rows": rows, "not_measured": self.problems })
    }
}

impl Row {
    fn cell(&self, proxy: Proxy) -> String {
        let Some(Summary { median, min, max }) = self.summary(proxy) else { return "-".to_owned() };
        let mut cell = format!("{} ({}-{})", figure(median), figure(min), figure(max));
        if proxy != Proxy::Conduit
            && let Some(ratio) = self.ratio(proxy, Proxy::Conduit)
        {
            let _ = write!(cell, " ×{ratio:.2}");
        }
        cell
    }

    fn summary(&self, proxy: Proxy) -> Option<Summary> {
        summary(self.samples.get(&proxy)?.values().copied())
    }

    /// Of the same rounds only: what the machine did meanwhile, it did to both.
    fn ratio(&self, of: Proxy, to: Proxy) -> Option<f64> {
        let (of, to) = (self.samples.get(&of)?, self.samples.get(&to)?);
        let both = of.iter().filter_map(|(round, of)| Some((of, to.get(round)?)));
        // Of what is less than nothing nobody can be a multiple.
        let ratios = both.filter(|(of, to)| **of > 0.0 && **to > 0.0).map(|(of, to)| of / to);
        summary(ratios).map(|ratios| ratios.median)
    }

    fn json(&self) -> Value {
        let proxies: BTreeMap<_, _> = self.samples.keys().map(|proxy| (proxy.to_string(), self.of(*proxy))).collect();
        json!({ "group": self.group, "measure": self.measure, "proxies": proxies })
    }

    fn of(&self, proxy: Proxy) -> Value {
        let others = self.samples.keys().filter(|other| **other != proxy);
        let ratios: BTreeMap<_, _> = others.map(|other| (other.to_string(), self.ratio(proxy, *other))).collect();
        let summary = self.summary(proxy);
        let samples: Vec<_> = self.samples.get(&proxy).into_iter().flat_map(BTreeMap::values).collect();
        json!({
            "median": summary.map(|s| s.median), "min": summary.map(|s| s.min), "max": summary.map(|s| s.max),
            "samples": samples, "times": ratios,
        })
    }
}

fn summary(samples: impl Iterator<Item = f64>) -> Option<Summary> {
    let mut samples: Vec<_> = samples.collect();
    samples.sort_by(f64::total_cmp);
    let (min, max) = (*samples.first()?, *samples.last()?);
    let (low, high) = (samples[(samples.len() - 1) / 2], samples[samples.len() / 2]);
    Some(Summary { median: f64::midpoint(low, high), min, max })
}

/// To three digits or so.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn for_people_and_programs() {
        let mut results = Results::default();
        for (round, factor) in [(0, 1.0), (1, 3.0), (2, 1.1)] {
            results.add("one hop", "CPU µs/request", Proxy::Conduit, round, 10.0 * factor);
            results.add("one hop", "CPU µs/request", Proxy::Envoy, round, 31.0 * factor);
            results.add("one hop", "requests/s", Proxy::Direct, round, 90_000.0 / factor);
        }
        results.problem("nginx, pair: no answer".to_owned());
        expect![[r#"

            one hop                                       direct                      Conduit                     Envoy
              CPU µs/request                              -                           11.0 (10.0-30.0)            34.1 (31.0-93.0) ×3.10
              requests/s                                  81818 (30000-90000)         -                           -

            not measured: nginx, pair: no answer
        "#]]
        .assert_eq(&results.text());
        let envoy = &results.json()["rows"][0]["proxies"]["Envoy"];
        assert_eq!((&envoy["median"], &envoy["times"]["Conduit"]), (&json!(34.1), &json!(3.1)));
    }
}
