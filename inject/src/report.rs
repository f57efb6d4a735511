//! What a person is told on standard error, while the manifests go to standard output.

use std::fmt::Write as _;

use crate::{
    injection::{Skip, Warning},
    settings::annotations::INJECT,
};

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// As it says: `Deployment`. Empty if it does not.
    pub kind: String,
    /// As it says.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What somebody should know.
    pub warnings: Vec<Warning>,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a proxy now.
    Injected,
    /// It has none any more.
    Uninjected,
    /// Nothing, for this reason.
    Skipped(Skip),
}

impl Outcome {
    /// The object is not what it was.
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Skipped(_))
    }
}

const OK: &str = "√";
const WARNING: &str = "‼";

impl Report {
    /// `deployment/web`
    fn resource(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    fn skipped_for(&self, reason: impl Fn(&Skip) -> bool) -> bool {
        matches!(&self.outcome, Outcome::Skipped(skip) if reason(skip))
    }

    fn summary(&self) -> String {
        let what = match self.outcome {
            Outcome::Injected => "injected",
            Outcome::Uninjected => "uninjected",
            Outcome::Skipped(_) if self.kind.is_empty() => {
                return "document missing \"kind\" field, skipped".to_owned();
            }
            Outcome::Skipped(_) => "skipped",
        };
        format!("{} \"{}\" {what}", self.kind.to_lowercase(), self.name)
    }
}

/// What `conduit inject` tells: warnings, what is in order if it is to be `verbose`, and a line for each object. It begins and ends
/// with a blank line, so that it stands apart on a terminal.
pub fn injected(reports: &[Report], verbose: bool) -> String {
    let mut lines = findings(reports, verbose);
    for report in reports {
        let own = report.warnings.iter().filter(|warning| **warning != Warning::Udp);
        lines.extend(own.map(|warning| format!("{WARNING} {} {warning}", report.resource())));
    }
    let summary = reports.iter().map(Report::summary).collect::<Vec<_>>();
    sections(&[lines, summary])
}

/// What `conduit uninject` tells.
pub fn uninjected(reports: &[Report]) -> String {
    let warnings = reports.iter().flat_map(|report| {
        report.warnings.iter().map(move |warning| format!("{WARNING} {} {warning}", report.resource()))
    });
    sections(&[warnings.collect(), reports.iter().map(Report::summary).collect()])
}

/// What is looked for in all pods, and where it was found.
fn findings(reports: &[Report], verbose: bool) -> Vec<String> {
    let resources = |found: &dyn Fn(&Report) -> bool| {
        let found = reports.iter().filter(|report| found(report));
        found.map(Report::resource).collect::<Vec<_>>().join(", ")
    };
    let skipped = |reason: fn(&Skip) -> bool| resources(&move |report: &Report| report.skipped_for(reason));
    let udp = resources(&|report: &Report| report.warnings.contains(&Warning::Udp));
    let uses = if udp.contains(", ") { "use" } else { "uses" };
    let host_network = skipped(|skip| *skip == Skip::HostNetwork);
    let sidecar = skipped(|skip| matches!(skip, Skip::ForeignSidecar(_)));
    let injected = skipped(|skip| *skip == Skip::AlreadyInjected);
    let disabled = skipped(|skip| *skip == Skip::Disabled);
    let windows = skipped(|skip| *skip == Skip::Windows);
    let empty = skipped(|skip| *skip == Skip::NoContainers);
    let none = if reports.iter().any(|report| report.outcome.is_change()) { "" } else { "no supported objects found" };
    let found = |found: &str, text: String| if found.is_empty() { String::new() } else { text };
    let checks = [
        (
            found(&host_network, format!("\"hostNetwork: true\" detected in {host_network}")),
            "pods do not use host networking",
        ),
        (
            found(&sidecar, format!("known 3rd party sidecar detected in {sidecar}")),
            "pods do not have a 3rd party proxy or initContainer already injected",
        ),
        (found(&injected, format!("conduit-proxy already present in {injected}")), ""),
        (found(&windows, format!("Windows pods detected in {windows}")), ""),
        (found(&empty, format!("no containers described in {empty}")), ""),
        (
            found(&disabled, format!("\"{INJECT}: disabled\" annotation set on {disabled}")),
            "pods are not annotated to disable injection",
        ),
        (none.to_owned(), "at least one resource can be injected or annotated"),
        (found(&udp, format!("{udp} {uses} \"protocol: UDP\"")), "pod specs do not include UDP ports"),
        // The proxy has a token of its own, whatever the pod says of the one that it would get.
        (
            String::new(),
            "pods do not have automountServiceAccountToken set to \"false\" or service account token projection is enabled",
        ),
    ];
    let line = |(found, fine): (String, &str)| match found.is_empty() {
        true => (verbose && !fine.is_empty()).then(|| format!("{OK} {fine}")),
        false => Some(format!("{WARNING} {found}")),
    };
    checks.into_iter().filter_map(line).collect()
}

/// With blank lines around each that has lines.
fn sections(sections: &[Vec<String>]) -> String {
    let mut text = String::from("\n");
    for section in sections.iter().filter(|section| !section.is_empty()) {
        for line in section {
            let _ = writeln!(text, "{line}");
        }
        text.push('\n');
    }
    text
}
