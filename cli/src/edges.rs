//! `conduit edges`: who speaks with whom, and whether nobody else can listen.

mod view;

use std::io::Write;

use anyhow::bail;
use conduit_api::{access::about, proto::public::EdgesRequest};

use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{Output, write_json},
    resource::Kind,
    stat::{Coverage, note_partial, window_ms},
};

/// Between what, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod, namespace, or a kind of workload as deployment
    #[arg(value_name = "TYPE")]
    kind: String,
    /// How far to look back: 15s to 6h
    #[arg(short, long, default_value = "1m", value_name = "DURATION")]
    time_window: String,
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    /// What to ask, before anybody is asked.
    fn request(&self, global: &Global) -> anyhow::Result<EdgesRequest> {
        let kind: Kind = self.kind.parse()?;
        if let Kind::Service | Kind::Authority = kind {
            bail!("edges are between workloads, pods or namespaces, not between {} and {0}", kind.as_str());
        }
        let namespace = global.scope(self.all_namespaces)?.namespace().unwrap_or_default().to_owned();
        Ok(EdgesRequest { kind: kind.as_str().to_owned(), namespace, window_ms: window_ms(&self.time_window)? })
    }
}

/// Asks, and writes one row for each edge; notes go to `notes`, so that they are in no pipe.
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
    let answer = control_plane.ask(async |client| client.edges(about(request.clone())).await).await?;
    if args.output == Output::Json {
        write_json(out, &view::json(&answer))?;
    } else if answer.edges.is_empty() {
        writeln!(notes, "No edges found.")?;
    } else {
        let table = view::table(&answer, &request.kind, args.output == Output::Wide);
        out.write_all(table.to_string().as_bytes())?;
    }
    note_partial(&Coverage::of_edges(&answer), notes)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn request(args: &str) -> anyhow::Result<EdgesRequest> {
        let cli = Cli::try_parse_from(args.split(' '))?;
        let Command::Edges(args) = &cli.command else { panic!("{args} is another command") };
        args.request(&cli.global)
    }

    #[test]
    fn what_is_asked_and_what_is_refused() {
        for (args, kind, namespace, window_ms) in [
            ("conduit edges deploy", "deployment", "default", 60_000),
            ("conduit -n emojivoto edges po -t 5m", "pod", "emojivoto", 300_000),
            ("conduit edges sts -A", "statefulset", "", 60_000),
        ] {
            let expected = EdgesRequest { kind: kind.into(), namespace: namespace.into(), window_ms };
            assert_eq!(request(args).unwrap(), expected, "{args}");
        }
        for (args, says) in [
            ("conduit edges svc", "not between service and service"),
            ("conduit edges deploy/web", "there is no resource type `deploy/web`"),
            ("conduit edges deploy -t 1s", "at least 15s"),
        ] {
            let error = request(args).unwrap_err().to_string();
            assert!(error.contains(says), "{args}: {error}");
        }
    }
}
