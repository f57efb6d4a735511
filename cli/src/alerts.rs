//! `conduit alerts`: which objectives are not kept.

mod view;

use std::io::Write;

use conduit_api::{access::about, proto::public::ListAlertsRequest};

use crate::{
    control_plane::ControlPlane,
    global::Global,
    output::{TableOrJson, write_json},
    slo::note_missing,
};

/// Where, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Show what began and ended lately instead, the newest first
    #[arg(long)]
    history: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Asks, and writes a row for each alert; notes go to `notes`, so that they are in no pipe.
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
    let namespace = global.scope(args.all_namespaces)?.namespace().unwrap_or_default().to_owned();
    let history_only = args.history && args.output == TableOrJson::Table;
    let request = ListAlertsRequest { namespace, history_only };
    let answer = control_plane.ask(async |client| client.list_alerts(about(request.clone())).await).await?;
    if args.output == TableOrJson::Json {
        return Ok(write_json(out, &view::json(&answer))?);
    }
    if args.history {
        match answer.events.is_empty() {
            true => writeln!(notes, "No alerts are remembered.")?,
            false => out.write_all(view::history(&answer, args.all_namespaces).to_string().as_bytes())?,
        }
        return Ok(());
    }
    match answer.alerts.is_empty() {
        true => writeln!(notes, "No alerts found.")?,
        false => out.write_all(view::table(&answer, args.all_namespaces).to_string().as_bytes())?,
    }
    note_missing(answer.replicas_answered, answer.replicas_total, notes)
}
