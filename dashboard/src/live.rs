//! What a page shows, as questions to the control plane. Pure; [`server`] asks them again and again.

mod server;

use std::time::Duration;

use conduit_api::{
    access::METHODS,
    window::{self, resolution},
};
use serde_json::{Value, json};

pub(crate) use self::server::{Places, serve};

/// As often as proxies report.
const PERIOD: Duration = Duration::from_secs(2);

const WINDOW_DEFAULT_MS: u32 = 60_000;

/// The newest changes are what one looks for.
const CHANGES_MAX: u32 = 200;

/// A point of a time series for every so much of the window: as many as there are pixels for them.
const STEPS: u32 = 60;

/// `?view=…` and its parameters.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct View {
    pub(crate) view: String,
    /// "deployment", "pod", "namespace" or "authority", for `table` and `resource`.
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    /// Nothing but what is in this namespace; in all of them, if it is empty.
    #[serde(default)]
    within: String,
    window_ms: Option<u32>,
}

/// One of the things that a page shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    /// What the page calls the answer.
    pub(crate) part: &'static str,
    pub(crate) method: &'static str,
    pub(crate) request: Value,
    /// It is asked at each so many-th time.
    pub(crate) every: u64,
}

/// How often promises are looked at: that is to add up four windows of everything, as the leader does it as often.
const PROMISES: Duration = Duration::from_secs(15);

impl Question {
    /// Whether it is asked at that time. What has no answer is asked each time, so that a page says as long as that is so.
    pub(crate) fn is_asked(&self, tick: u64, is_answered: bool) -> bool {
        !is_answered || tick.is_multiple_of(self.every)
    }
}

impl View {
    /// Each that there is, of each kind that it is of.
    pub(crate) fn all() -> Vec<Self> {
        let view = |view: &str, kind: &str, name: &str| Self {
            view: view.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..Self::default()
        };
        let tables = ["deployment", "pod", "namespace", "authority"].map(|kind| view("table", kind, ""));
        let resources = ["deployment", "pod", "namespace"].map(|kind| view("resource", kind, "web"));
        let others = ["overview", "routes", "control", "events"].map(|name| view(name, "", ""));
        tables.into_iter().chain(resources).chain(others).collect()
    }

    /// What there is to ask for it.
    ///
    /// # Errors
    /// When there is no such view, or a parameter is none.
    pub(crate) fn questions(&self) -> Result<Vec<Question>, String> {
        let window = self.window_ms.unwrap_or(WINDOW_DEFAULT_MS);
        window::check(Duration::from_millis(window.into()))?;
        let ask = |part, method, request| Question { part, method, request, every: 1 };
        let within = self.within.as_str();
        let all = |kind: &str| self.all_of(kind);
        let pods = |namespace: &str| ask("pods", "Pods", json!({ "namespace": namespace }));
        let stat = |kind: &str| ask("stat", "Stat", json!({ "selector": all(kind), "windowMs": window }));
        let raft = || ask("raft", "RaftStatus", json!({}));
        let edges = |namespace: &str| {
            ask("edges", "Edges", json!({ "kind": "deployment", "namespace": namespace, "windowMs": window }))
        };
        let mut questions = match self.view.as_str() {
            "overview" => vec![
                ask("version", "Version", json!({})),
                raft(),
                ask("ca", "CaStatus", json!({})),
                stat("deployment"),
                // Of everything: deployments are not all that gets requests.
                ask("totals", "Stat", json!({ "selector": all("namespace"), "windowMs": window })),
                pods(within),
                edges(within),
                Question {
                    every: PROMISES.as_secs() / PERIOD.as_secs(),
                    ..ask("objectives", "ListObjectives", json!({ "namespace": within }))
                },
            ],
            "table" => match self.kind.as_str() {
                "pod" | "deployment" | "namespace" => vec![stat(&self.kind), pods(within)],
                "authority" => vec![stat("authority")],
                kind => return Err(format!("there is no table of `{kind}`")),
            },
            "resource" => self.about_one(window)?,
            "routes" => vec![
                ask("routes", "Routes", json!({})),
                ask(
                    "stat",
                    "Stat",
                    json!({ "selector": all("service"), "windowMs": window, "by": ["BY_SERVICE", "BY_ROUTE"] }),
                ),
            ],
            "control" => vec![raft(), ask("ca", "CaStatus", json!({})), pods(within)],
            "events" => vec![
                ask("history", "History", json!({ "limit": CHANGES_MAX })),
                ask("alerts", "ListAlerts", json!({ "namespace": within, "historyOnly": true })),
                raft(),
            ],
            view => return Err(format!("there is no view `{view}`")),
        };
        if !within.is_empty() {
            // Whoever may look at one namespace may not ask the others.
            questions
                .retain(|question| METHODS.iter().any(|method| method.name == question.method && method.namespaced));
        }
        Ok(questions)
    }

    /// All of a kind that the page may show.
    fn all_of(&self, kind: &str) -> Value {
        match kind {
            // Namespaces are in none.
            "namespace" => json!({ "kind": kind, "name": self.within }),
            kind => json!({ "kind": kind, "namespace": self.within }),
        }
    }

    /// One resource, who calls it, and whom it calls.
    fn about_one(&self, window: u32) -> Result<Vec<Question>, String> {
        let kind = self.kind.as_str();
        if !matches!(kind, "pod" | "deployment" | "namespace") || self.name.is_empty() {
            return Err("a resource is a pod, a deployment or a namespace, with its name".to_owned());
        }
        // A namespace is in none.
        let namespace = if kind == "namespace" { "" } else { self.namespace.as_str() };
        let this = json!({ "kind": kind, "namespace": namespace, "name": self.name });
        let others = self.all_of(kind);
        let home = if kind == "namespace" { self.name.as_str() } else { namespace };
        let (curve, step) = curve(window);
        let ask = |part, method, request| Question { part, method, request, every: 1 };
        Ok(vec![
            ask("stat", "Stat", json!({ "selector": this, "windowMs": window })),
            ask("callers", "Stat", json!({ "selector": others, "to": this, "windowMs": window })),
            ask("callees", "Stat", json!({ "selector": others, "from": this, "windowMs": window })),
            ask("pods", "Pods", json!({ "namespace": home })),
            ask("edges", "Edges", json!({ "kind": kind, "namespace": home, "windowMs": window })),
            ask("series", "Series", json!({ "selector": this, "windowMs": curve, "stepMs": step })),
        ])
    }
}

/// A shorter curve has nothing to show.
const SERIES_MIN_MS: u32 = 300_000;

/// How long the curve of a window is, and each of its steps: whole slots of what controllers count.
fn curve(window_ms: u32) -> (u32, u32) {
    let curve = window_ms.max(SERIES_MIN_MS);
    let finest = resolution(Duration::from_millis(curve.into())).as_millis() as u32;
    let step = (curve / STEPS / finest * finest).max(finest);
    (curve.next_multiple_of(step).min(window::WINDOW_MAX.as_millis() as u32), step)
}

#[cfg(test)]
mod tests {
    use conduit_api::access::{about_encoded, said_namespace};

    use super::*;
    use crate::{methods::Methods, transcode};

    fn view(view: &str, kind: &str, name: &str) -> View {
        View { view: view.into(), kind: kind.into(), namespace: "shop".into(), name: name.into(), ..View::default() }
    }

    #[test]
    fn every_question_can_be_asked() {
        let methods = Methods::new(false);
        for view in View::all() {
            let questions = view.questions().unwrap();
            assert!(!questions.is_empty(), "{view:?}");
            for question in questions {
                let method = methods.find(question.method).unwrap();
                let json = question.request.to_string();
                let message = transcode::to_message(json.as_bytes(), method.descriptor.input());
                assert!(message.is_ok(), "{question:?}: {}", message.unwrap_err().message());
                assert!(!method.descriptor.is_server_streaming(), "{question:?}");
            }
        }
    }

    /// Whoever may look at one namespace alone is refused what is about another, or about all of them.
    #[test]
    fn within_a_namespace_all_is_about_that() {
        let methods = Methods::new(false);
        for view in View::all().into_iter().map(|view| View { within: "shop".into(), namespace: "shop".into(), ..view })
        {
            let view = if view.kind == "namespace" { View { name: "shop".into(), ..view } } else { view };
            for question in view.questions().unwrap() {
                let method = methods.find(question.method).unwrap();
                let message = transcode::to_message(question.request.to_string().as_bytes(), method.descriptor.input());
                let asked = about_encoded(question.method, message.unwrap());
                assert_eq!(said_namespace(asked.extensions()).as_deref(), Some("shop"), "{question:?}");
            }
        }
    }

    #[test]
    fn what_is_long_to_add_up_is_asked_less_often() {
        for question in view("overview", "", "").questions().unwrap() {
            let expected = if question.part == "objectives" { 7 } else { 1 };
            assert_eq!(question.every, expected, "{question:?}");
            let times = (0..70).filter(|tick| question.is_asked(*tick, true)).count() as u64;
            assert_eq!(times, 70 / expected, "{question:?}");
            assert!(question.is_asked(1, false), "until there is an answer: {question:?}");
        }
    }

    #[test]
    fn a_namespace_is_in_none() {
        let questions = view("resource", "namespace", "web").questions().unwrap();
        assert_eq!(questions[0].request["selector"], json!({ "kind": "namespace", "namespace": "", "name": "web" }));
        assert_eq!(questions[3].request["namespace"], "web");
    }

    #[test]
    fn steps_are_multiples_of_what_is_counted_in() {
        for (window_ms, step) in
            [(15_000, 5_000), (300_000, 5_000), (600_000, 60_000), (3_600_000, 60_000), (21_600_000, 600_000)]
        {
            let view = View { window_ms: Some(window_ms), ..view("resource", "pod", "web-0") };
            assert_eq!(view.questions().unwrap()[5].request["stepMs"], step);
        }
    }

    #[test]
    fn what_there_is_no_view_of() {
        for view in [
            view("everything", "", ""),
            view("table", "secret", ""),
            view("resource", "authority", "web"),
            view("resource", "pod", ""),
            View { window_ms: Some(14_999), ..view("overview", "", "") },
            View { window_ms: Some(21_600_001), ..view("overview", "", "") },
        ] {
            assert!(view.questions().is_err(), "{view:?}");
        }
    }
}
