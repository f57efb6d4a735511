//! `conduit routes`: which routes requests to services took, and how they fared.

mod view;

use std::io::Write;

use anyhow::bail;
use conduit_api::{
    access::about,
    proto::public::{
        StatRequest, StatResponse, StatRow,
        stat_request::{By, Other},
    },
    refusals::PATHS_ARE_COUNTED,
};

use super::{
    Coverage,
    labelled::{self, Labelled},
    note_partial, window_ms,
};
use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{Output, write_json},
    resource::{Kind, Selection},
};

/// Whose routes, and how they are shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME or TYPE/NAME, or several of them: of services, what they are asked for; of workloads and namespaces, what they get
    #[arg(required = true, num_args = 1.., value_name = "RESOURCE")]
    resource: Vec<String>,
    /// What they send to this resource, TYPE or TYPE/NAME, instead of what they get
    #[arg(long, value_name = "RESOURCE")]
    to: Option<String>,
    /// Namespace of the resource in --to
    #[arg(long, value_name = "NAMESPACE", requires = "to")]
    to_namespace: Option<String>,
    /// How far to look back: 15s to 6h
    #[arg(short, long, default_value = "1m", value_name = "DURATION")]
    time_window: String,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only of what has these labels, as kubectl selects it: app=web,tier!=cache
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    /// What to ask, before anybody is asked.
    fn requests(&self, global: &Global) -> anyhow::Result<Vec<StatRequest>> {
        let scope = global.scope(self.all_namespaces)?;
        let to = self.to.as_ref().map(|to| {
            let scope = scope.clone().or_given(self.to_namespace.as_deref())?;
            Selection::parse(&[to], &scope)
        });
        let to = to.transpose()?;
        let selections = Selection::parse_all(&self.resource, &scope)?;
        for selection in to.iter().chain(&selections) {
            if selection.kind == Kind::Authority {
                bail!("routes are of services: there are none by authority");
            }
        }
        for selection in &selections {
            if self.selector.is_some() {
                labelled::check(selection)?;
            }
            match (selection.kind, &to) {
                (Kind::Service, Some(_)) => bail!("a service sends nothing: leave --to out, or name who asks"),
                (Kind::Pod, None) => bail!(
                    "by which route something came is known of workloads, not of pods: name the workload, or, with --to, what the \
                     pod has sent"
                ),
                _ => {}
            }
        }
        if to.as_ref().is_some_and(|to| to.kind == Kind::Pod) {
            bail!("by which route something came is known of workloads, not of pods: name the workload in --to");
        }
        let window_ms = window_ms(&self.time_window)?;
        let request = |selection: Selection| StatRequest {
            selector: Some(selection.to_wire()),
            window_ms,
            other: to.as_ref().map(|to| Other::To(to.to_wire())),
            by: vec![By::Service.into(), By::Route.into()],
        };
        Ok(selections.into_iter().map(request).collect())
    }
}

/// Asks, and writes one row for each route; notes go to `notes`, so that they are in no pipe.
///
/// # Errors
/// When the arguments are wrong, no control plane answers, or `out` cannot be written.
pub async fn run(
    args: &Args,
    global: &Global,
    control_plane: &ControlPlane,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let (requests, mut answers) = (args.requests(global)?, Vec::new());
    let labelled = Labelled::new(args.selector.as_deref(), control_plane).await?;
    for request in requests {
        let kind: Kind =
            request.selector.as_ref().map(|selector| selector.kind.as_str()).unwrap_or_default().parse()?;
        let answer = control_plane.ask(async |client| client.stat(about(request.clone())).await).await;
        let mut answer = answer.map_err(explained)?;
        if let Some(labelled) = &labelled {
            labelled.retain(kind, request.selector.as_ref(), &mut answer.rows).await?;
        }
        answers.push((kind, answer));
    }
    if answers.iter().any(|(_, answer)| is_outdated(answer)) {
        bail!(OUTDATED);
    }
    let coverage = Coverage::of_stats(&answers);
    if args.output == Output::Json {
        write_json(out, &view::json(&answers, &coverage))?;
    } else {
        let text = view::text(&answers, args.output == Output::Wide, args.all_namespaces);
        if text.is_empty() {
            writeln!(notes, "No routes found.")?;
        }
        out.write_all(text.as_bytes())?;
    }
    note_partial(&coverage, notes)
}

/// What a control plane says of itself that does not know of routes.
const OUTDATED: &str = "the control plane is of an older release, which does not count by route: upgrade it first";

/// It leaves out what it does not know of a question, and so has answered another one.
fn is_outdated(answer: &StatResponse) -> bool {
    let is_by_route = |row: &StatRow| row.group.as_ref().is_some_and(|group| !group.service.is_empty());
    !answer.by().any(|by| by == By::Route) && !answer.rows.iter().any(is_by_route)
}

/// The same, where it refuses the rest of the question.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let is_of_rest = error.to_string().starts_with(PATHS_ARE_COUNTED);
    if is_of_rest { error.context(OUTDATED) } else { error }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn requests(args: &str) -> anyhow::Result<Vec<StatRequest>> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Command::Routes(args) = &cli.command else { panic!("{args} is another command") };
        args.requests(&cli.global)
    }

    #[test]
    fn what_is_asked_and_what_is_refused() {
        let of = |request: &StatRequest| {
            let selector = request.selector.clone().unwrap();
            let to = request.other.as_ref().map(|other| match other {
                Other::To(to) | Other::From(to) => format!(" to {}/{}/{}", to.kind, to.namespace, to.name),
            });
            let to = to.unwrap_or_default();
            format!("{}/{}/{}{to} {}", selector.kind, selector.namespace, selector.name, request.window_ms)
        };
        for (args, expected) in [
            ("conduit routes svc/web", vec!["service/default/web 60000"]),
            ("conduit -n shop routes deploy/a sts -t 5m", vec!["deployment/shop/a 300000", "statefulset/shop/ 300000"]),
            (
                "conduit routes po/bot-0 --to svc/web --to-namespace shop",
                vec!["pod/default/bot-0 to service/shop/web 60000"],
            ),
            ("conduit routes deploy -A --to deploy", vec!["deployment// to deployment// 60000"]),
        ] {
            let requests = requests(args).unwrap();
            assert_eq!(requests.iter().map(of).collect::<Vec<_>>(), expected, "{args}");
            assert!(requests.iter().all(|request| request.by().eq([By::Service, By::Route])));
        }
        for (args, says) in [
            ("conduit routes au", "there are none by authority"),
            ("conduit routes svc/web --to svc/db", "a service sends nothing"),
            ("conduit routes po", "name the workload, or, with --to"),
            ("conduit routes deploy --to po", "name the workload in --to"),
            ("conduit routes svc -t 1s", "at least 15s"),
        ] {
            let error = requests(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}
