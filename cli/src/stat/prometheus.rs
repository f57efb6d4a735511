//! What a Prometheus says that scrapes the proxies, for windows that the control plane does not keep.
//!
//! The control plane is asked all the same: it knows what there is, and which pods of it are meshed.

mod coverage;
mod queries;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::proto::public::{StatRequest, StatResponse, StatRow};
use serde::Deserialize;
use tokio::{sync::OnceCell, task::spawn_blocking};
use ureq::Agent;

use self::{
    coverage::Search,
    queries::{Answers, Queries},
};
use super::view::resource;
use crate::fetch::agent;

/// It ends a query of its own after two minutes, unless told otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(130);
/// A hundred thousand series are far below it.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Below that there are too few scrapes in it for a rate.
const WINDOW_MIN: Duration = Duration::from_secs(60);
/// What fits into the milliseconds of an answer.
const WINDOW_MAX: Duration = Duration::from_secs(49 * 24 * 60 * 60);

/// A server, by its URL.
pub(super) struct Prometheus {
    url: String,
    agent: Agent,
    window: Duration,
    /// When it is asked, since 1970, and for how much of the window before that it has scraped: the same for all questions.
    covered: OnceCell<(Duration, Duration)>,
}

/// A series at one time, by its labels.
#[derive(Debug, Deserialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    /// When, and what.
    value: (f64, String),
}

impl Sample {
    fn number(&self) -> Option<f64> {
        self.value.1.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Sample>,
}

impl Prometheus {
    /// # Errors
    /// When `url` is none, or `window` none that it can be asked for.
    pub(super) fn new(url: &str, window: &str) -> anyhow::Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("`{url}` is not a URL, as in http://localhost:9090, for --prometheus-url");
        }
        let length = humantime::parse_duration(window)
            .with_context(|| format!("`{window}` is not a duration, as in 12h or 7d, for --time-window"))?;
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&length) {
            let days = WINDOW_MAX.as_secs() / (24 * 60 * 60);
            bail!("Prometheus is asked for at least 1m and at most {days}d, and {window} is not between them");
        }
        let agent = agent(ANSWER_TIMEOUT).http_status_as_error(false).build().new_agent();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), agent, window: length, covered: OnceCell::new() })
    }

    /// Puts the figures of its own window in the place of those that the control plane has, and adds what is there no more.
    ///
    /// # Errors
    /// When it does not answer, or not as Prometheus does.
    pub(super) async fn replace(&self, request: &StatRequest, answer: &mut StatResponse) -> anyhow::Result<()> {
        let Some(queries) = Queries::of(request, self.window) else { return Ok(()) };
        let (now, covered) = *self.covered.get_or_try_init(|| self.search()).await?;
        // One after another: others, and alerts, are to be answered meanwhile.
        let mut answers = Answers::default();
        for (what, query) in queries.all(covered) {
            answers.insert(what, self.ask(query, now).await?);
        }
        let mut found = queries.rows(&answers, covered);
        for row in &mut answer.rows {
            let (namespace, _, name) = resource(row);
            let (stats, tcp) = found.remove(&(namespace.to_owned(), name.to_owned())).unwrap_or_default();
            (row.stats, row.tcp) = (stats, tcp);
        }
        let gone = found.into_iter().map(|((namespace, name), (stats, tcp))| StatRow {
            resource: Some(queries.resource(namespace, name)),
            stats,
            tcp,
            ..StatRow::default()
        });
        answer.rows.extend(gone);
        answer.rows.sort_by(|a, b| resource(a).cmp(&resource(b)));
        answer.covered_ms = millis(covered);
        answer.window_ms = millis(self.window);
        answer.since_start = true;
        // Whoever has not answered was asked for nothing that is in the figures.
        answer.replicas_answered = answer.replicas_total;
        Ok(())
    }

    /// What time it is, and of the window before that, how long anything was scraped.
    async fn search(&self) -> anyhow::Result<(Duration, Duration)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut search = Search::new(now, self.window);
        loop {
            let (query, at) = search.question();
            let first = self.ask(query, at).await?.first().and_then(Sample::number);
            if let Some(covered) = search.answer(first) {
                return Ok((now, covered));
            }
        }
    }

    async fn ask(&self, query: String, at: Duration) -> anyhow::Result<Vec<Sample>> {
        let (url, agent) = (self.url.clone(), self.agent.clone());
        let asked = spawn_blocking(move || {
            let form = [("query", query), ("time", format!("{:.3}", at.as_secs_f64()))];
            let mut response = agent.post(format!("{url}/api/v1/query")).send_form(form)?;
            let status = response.status();
            let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
            read(&body).map_err(|error| anyhow!("{error} (HTTP status {status})"))
        });
        asked
            .await?
            .with_context(|| format!("the Prometheus at {} does not answer the question", without_password(&self.url)))
    }
}

fn read(body: &str) -> anyhow::Result<Vec<Sample>> {
    match serde_json::from_str(body) {
        Ok(Answer { data: Some(data), .. }) => Ok(data.result),
        Ok(Answer { error: Some(error), .. }) => bail!("it says: {error}"),
        Ok(Answer { data: None, error: None }) => bail!("it says neither what it has found nor what is wrong"),
        Err(_) => bail!("what answers is no Prometheus"),
    }
}

/// As it may be shown.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

fn millis(of: Duration) -> u32 {
    u32::try_from(of.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_can_be() {
        for (url, window, says) in [
            ("http://localhost:9090/", "7d", ""),
            ("https://example.org/prometheus", "1m", ""),
            ("localhost:9090", "7d", "is not a URL"),
            ("http://localhost:9090", "30s", "at least 1m and at most 49d, and 30s"),
            ("http://localhost:9090", "1y", "and 1y is not between them"),
            ("http://localhost:9090", "week", "`week` is not a duration"),
        ] {
            let error = Prometheus::new(url, window).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(says) && error.is_empty() == says.is_empty(), "{url} {window}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("https://me:secret@a.example/b"), "https://a.example/b");
        assert_eq!(without_password("http://localhost:9090"), "http://localhost:9090");
    }

    #[test]
    fn answers_are_read() {
        let good = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"NaN"]}]}}"#;
        let samples = read(good).unwrap();
        assert_eq!((samples[0].metric["a"].as_str(), samples[0].value.1.as_str()), ("b", "NaN"));
        for (body, says) in [
            (r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#, "it says: parse error"),
            ("{}", "neither"),
            ("<html>", "no Prometheus"),
        ] {
            assert!(read(body).unwrap_err().to_string().contains(says), "{body}");
        }
    }
}
