//! `conduit stat`: what traffic the workloads of the mesh get.

mod figures;
mod view;

use std::{io::Write, time::Duration};

use anyhow::{Context as _, ensure};
use conduit_api::{
    access::about,
    proto::public::{StatRequest, StatResponse, stat_request::Other},
};

use self::view::Columns;
use crate::{
    args::Global,
    control_plane::ControlPlane,
    output::{Output, write_json},
    resource::{Kind, Scope, Selection},
};

/// Proxies report every few seconds: less than this is not enough reports to say anything.
const WINDOW_MIN: Duration = Duration::from_secs(15);
/// As long as controllers remember.
const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// Which traffic, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME, TYPE/NAME or TYPE NAMESPACE/NAME; TYPE is deployment, pod, namespace or authority
    #[arg(required = true, num_args = 1.., value_name = "RESOURCE")]
    resource: Vec<String>,
    /// How far to look back: 15s to 1h
    #[arg(short, long, default_value = "1m", value_name = "DURATION")]
    time_window: String,
    /// Only traffic that they send to this resource: TYPE or TYPE/NAME
    #[arg(long, value_name = "RESOURCE", conflicts_with = "from")]
    to: Option<String>,
    /// Namespace of the resource in --to
    #[arg(long, value_name = "NAMESPACE", requires = "to")]
    to_namespace: Option<String>,
    /// Only traffic that they get from this resource: TYPE or TYPE/NAME
    #[arg(long, value_name = "RESOURCE")]
    from: Option<String>,
    /// Namespace of the resource in --from
    #[arg(long, value_name = "NAMESPACE", requires = "from")]
    from_namespace: Option<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    /// What to ask, before anybody is asked.
    fn request(&self, global: &Global) -> anyhow::Result<StatRequest> {
        let scope = global.scope(self.all_namespaces)?;
        let selector = Selection::parse(&self.resource, &scope)?;
        let other = |words: &str, namespace: &Option<String>| {
            let scope = namespace.as_deref().map_or(Ok(scope.clone()), |given| Scope::new(Some(given), false))?;
            anyhow::Ok(Selection::parse(&[words], &scope)?.to_wire())
        };
        let to = self.to.as_ref().map(|to| other(to, &self.to_namespace).map(Other::To));
        let from = self.from.as_ref().map(|from| other(from, &self.from_namespace).map(Other::From));
        let window = window(&self.time_window)?;
        let window_ms = u32::try_from(window.as_millis()).context("the time window is bounded")?;
        Ok(StatRequest {
            selector: Some(selector.to_wire()),
            window_ms,
            other: to.or(from).transpose()?,
            by: Vec::new(),
        })
    }

    fn columns(&self, request: &StatRequest) -> Columns {
        // A namespace is its own name.
        let in_namespaces = request.selector.as_ref().is_some_and(|selector| selector.kind != Kind::Namespace.as_str());
        Columns { namespace: self.all_namespaces && in_namespaces, exact_latencies: self.output == Output::Wide }
    }
}

fn window(text: &str) -> anyhow::Result<Duration> {
    let window = humantime::parse_duration(text)
        .with_context(|| format!("`{text}` is not a duration, as in 30s or 5m, for --time-window"))?;
    ensure!(
        (WINDOW_MIN..=WINDOW_MAX).contains(&window),
        "the time window must be at least 15s and at most 1h, and {text} is not"
    );
    Ok(window)
}

/// Asks, and writes one row for each resource; notes go to `notes`, so that they are in no pipe.
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
    let request = args.request(global)?;
    let answer = control_plane.ask(async |client| client.stat(about(request.clone())).await).await?;
    if args.output == Output::Json {
        write_json(out, &view::json(&answer))?;
    } else if answer.rows.is_empty() {
        writeln!(notes, "No traffic found.")?;
    } else {
        out.write_all(view::table(&answer, args.columns(&request)).to_string().as_bytes())?;
    }
    note_partial(&answer, notes)
}

fn note_partial(answer: &StatResponse, notes: &mut impl Write) -> anyhow::Result<()> {
    if view::is_partial(answer) {
        let StatResponse { replicas_answered: answered, replicas_total: total, .. } = answer;
        writeln!(notes, "note: {answered} of {total} controllers answered: the figures are partial")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use conduit_api::proto::public::ResourceSelection;

    use super::*;
    use crate::args::{Cli, Command};

    fn request(args: &str) -> anyhow::Result<StatRequest> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Command::Stat(args) = &cli.command else { panic!("{args} is another command") };
        args.request(&cli.global)
    }

    fn selection(kind: &str, namespace: &str, name: &str) -> ResourceSelection {
        ResourceSelection { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn what_is_asked() {
        let plain = request("conduit -n emojivoto stat deploy").unwrap();
        assert_eq!(plain.selector, Some(selection("deployment", "emojivoto", "")));
        assert_eq!((plain.window_ms, plain.other), (60_000, None));

        let to =
            request("conduit stat deploy emojivoto/web --to deploy/voting --to-namespace emojivoto -t 5m").unwrap();
        assert_eq!(to.window_ms, 300_000);
        assert_eq!(to.other, Some(Other::To(selection("deployment", "emojivoto", "voting"))));

        let from = request("conduit stat po -A --from deploy/web").unwrap();
        assert_eq!(from.selector, Some(selection("pod", "", "")));
        assert_eq!(from.other, Some(Other::From(selection("deployment", "", "web"))));
    }

    #[test]
    fn what_is_refused() {
        for (args, says) in [
            ("conduit stat deploy -t 14s", "at least 15s"),
            ("conduit stat deploy -t 2h", "at most 1h"),
            ("conduit stat deploy -t soon", "`soon` is not a duration"),
            ("conduit stat deploy --to nothing", "no resource type `nothing`"),
            ("conduit -n not_valid stat deploy", "not_valid is not a valid namespace"),
            ("conduit stat deploy --to svc/a --from svc/b", "cannot be used with"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}
