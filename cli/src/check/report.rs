//! The results of all checks, as Conduit has always printed them. Pure.

use serde::Serialize;

use crate::printable::printable;

/// `[ok]` ends in this column.
const WIDTH: usize = 79;

/// How a check ended. Ordered: the worst of all is the result of the report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Ok,
    /// It works, and will not for ever: what is wrong, and what to do.
    Warning(String),
    /// It was checked, and is not well: what is wrong, and what to do.
    Fail(String),
    /// It could not be checked, and why.
    Error(String),
}

#[derive(Clone, Debug)]
pub(super) struct Check {
    subsystem: String,
    description: String,
    outcome: Outcome,
}

/// All checks, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Report(Vec<Check>);

#[derive(Serialize)]
pub(super) struct Json<'a> {
    success: bool,
    categories: Vec<JsonCategory<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonCategory<'a> {
    category_name: &'a str,
    checks: Vec<JsonCheck<'a>>,
}

#[derive(Serialize)]
struct JsonCheck<'a> {
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    result: &'static str,
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning(_) => "WARN",
            Self::Fail(_) => "FAIL",
            Self::Error(_) => "ERROR",
        }
    }

    fn mark(&self) -> char {
        match self {
            Self::Ok => '√',
            Self::Warning(_) => '‼',
            Self::Fail(_) | Self::Error(_) => '×',
        }
    }

    fn message(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Warning(message) | Self::Fail(message) | Self::Error(message) => Some(message),
        }
    }
}

impl Check {
    pub(super) fn new(subsystem: &str, description: &str, outcome: Outcome) -> Self {
        Self { subsystem: subsystem.to_owned(), description: description.to_owned(), outcome }
    }

    /// With what to do below it.
    fn marked(&self) -> String {
        let message = self.outcome.message().map_or(String::new(), |message| format!("    {}\n", printable(message)));
        format!("{} {}\n{message}", self.outcome.mark(), printable(&self.description))
    }

    fn line(&self) -> String {
        let label = format!("{}: {}", self.subsystem, self.description);
        let dots = (WIDTH - "[ok]".len()).saturating_sub(label.chars().count());
        let result = match &self.outcome {
            Outcome::Ok => "[ok]".to_owned(),
            // The messages of both stand in the same column.
            Outcome::Warning(message) => format!("[WARN]  -- {message}"),
            Outcome::Fail(message) => format!("[FAIL]  -- {message}"),
            Outcome::Error(message) => format!("[ERROR] -- {message}"),
        };
        printable(&format!("{label}{}{result}", ".".repeat(dots))).into_owned() + "\n"
    }
}

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        Self(checks)
    }

    /// The worst of all.
    pub(super) fn outcome(&self) -> &Outcome {
        self.0.iter().map(|check| &check.outcome).max().unwrap_or(&Outcome::Ok)
    }

    pub(super) fn text(&self) -> String {
        let lines: String = self.0.iter().map(Check::line).collect();
        format!("{lines}\nStatus check results are [{}]\n", self.outcome().word())
    }

    pub(super) fn json(&self) -> Json<'_> {
        let mut categories: Vec<JsonCategory<'_>> = Vec::new();
        for check in &self.0 {
            let known = categories.iter_mut().find(|category| category.category_name == check.subsystem);
            let entry = JsonCheck {
                description: &check.description,
                error: check.outcome.message(),
                result: match check.outcome {
                    Outcome::Ok => "success",
                    Outcome::Warning(_) => "warning",
                    Outcome::Fail(_) => "fail",
                    Outcome::Error(_) => "error",
                },
            };
            match known {
                Some(category) => category.checks.push(entry),
                None => categories.push(JsonCategory { category_name: &check.subsystem, checks: vec![entry] }),
            }
        }
        Json { success: self.is_well(), categories }
    }

    /// Nothing failed; warnings do not count.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.outcome(), Outcome::Ok | Outcome::Warning(_))
    }

    /// By subsystem, as users of Linkerd know it.
    pub(super) fn grouped(&self) -> String {
        let mut text = String::new();
        for subsystem in self.subsystems() {
            text += &format!("{subsystem}\n{}\n", "-".repeat(subsystem.chars().count()));
            for check in self.0.iter().filter(|check| check.subsystem == subsystem) {
                text += &check.marked();
            }
            text += "\n";
        }
        format!("{text}Status check results are {}\n", self.outcome().mark())
    }

    /// Only what is not well.
    pub(super) fn short(&self) -> String {
        let unwell = self.0.iter().filter(|check| check.outcome != Outcome::Ok);
        let lines: String = unwell.map(Check::marked).collect();
        format!("{lines}Status check results are {}\n", self.outcome().mark())
    }

    /// In the order in which they come first.
    fn subsystems(&self) -> Vec<&str> {
        let mut subsystems: Vec<&str> = Vec::new();
        for check in &self.0 {
            if !subsystems.contains(&check.subsystem.as_str()) {
                subsystems.push(&check.subsystem);
            }
        }
        subsystems
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn as_conduit_has_always_printed_it() {
        let ok = |subsystem, description| Check::new(subsystem, description, Outcome::Ok);
        let report = Report::new(vec![
            ok("kubernetes-api", "can initialize the client"),
            ok("kubernetes-api", "is running the minimum Kubernetes API version"),
            ok("conduit-api[prometheus]", "control plane can talk to Prometheus"),
            ok("conduit-version", "control plane is up-to-date"),
        ]);
        expect![[r"
            kubernetes-api: can initialize the client..................................[ok]
            kubernetes-api: is running the minimum Kubernetes API version..............[ok]
            conduit-api[prometheus]: control plane can talk to Prometheus..............[ok]
            conduit-version: control plane is up-to-date...............................[ok]

            Status check results are [ok]
        "]]
        .assert_eq(&report.text());
    }

    fn broken() -> Report {
        Report::new(vec![
            Check::new("conduit-api", "can query the Conduit API", Outcome::Fail("connection\nrefused".into())),
            Check::new("conduit-version", "cli is up-to-date", Outcome::Ok),
            Check::new("conduit-api", &"x".repeat(80), Outcome::Error("not known".into())),
        ])
    }

    #[test]
    fn what_is_wrong_stands_behind() {
        expect![[r#"
            conduit-api: can query the Conduit API.....................................[FAIL]  -- connection\nrefused
            conduit-version: cli is up-to-date.........................................[ok]
            conduit-api: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx[ERROR] -- not known

            Status check results are [ERROR]
        "#]].assert_eq(&broken().text());
        assert_eq!(Report::new(vec![]).outcome(), &Outcome::Ok);
    }

    #[test]
    fn by_subsystem_and_in_short() {
        let mut report = broken();
        report
            .0
            .insert(1, Check::new("conduit-version", "proxies are up-to-date", Outcome::Warning("one is old".into())));
        expect![[r"
            conduit-api
            -----------
            × can query the Conduit API
                connection\nrefused
            × xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
                not known

            conduit-version
            ---------------
            ‼ proxies are up-to-date
                one is old
            √ cli is up-to-date

            Status check results are ×
        "]]
        .assert_eq(&report.grouped());
        report.0.retain(|check| matches!(check.outcome, Outcome::Ok | Outcome::Warning(_)));
        assert!(report.is_well());
        expect![[r"
            ‼ proxies are up-to-date
                one is old
            Status check results are ‼
        "]]
        .assert_eq(&report.short());
    }

    #[test]
    fn for_programs() {
        expect![[r#"{"success":false,"categories":[{"categoryName":"conduit-api","checks":[{"description":"can query the Conduit API","error":"connection\nrefused","result":"fail"},{"description":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","error":"not known","result":"error"}]},{"categoryName":"conduit-version","checks":[{"description":"cli is up-to-date","result":"success"}]}]}"#]].assert_eq(&serde_json::to_string(&broken().json()).unwrap());
    }
}
