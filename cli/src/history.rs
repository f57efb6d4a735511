//! `conduit history`: who changed what, and when.

use std::io::Write;

use conduit_api::proto::public::{Change, HistoryRequest};
use serde_json::json;

use crate::{
    control_plane::ControlPlane,
    output::{TableOrJson, write_json},
    table::{Align, Table},
    time::rfc3339,
};

/// How much of it, and how it is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show at most so many changes; 0 for all that are kept
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// How to write it
    #[arg(short, long, value_enum, default_value_t)]
    output: TableOrJson,
}

/// Asks, and writes a line for each change, the newest first.
///
/// # Errors
/// When no control plane answers, or `out` cannot be written.
pub async fn run(args: &Args, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let request = HistoryRequest { limit: args.limit };
    let changes = control_plane.ask(async |client| client.history(request).await).await?.changes;
    match args.output {
        TableOrJson::Json => {
            let change = |change: &Change| {
                json!({
                    "revision": change.index,
                    "time": rfc3339(change.time_ms),
                    "who": change.proposer,
                    "what": change.summary,
                })
            };
            write_json(out, &changes.iter().map(change).collect::<Vec<_>>())?;
        }
        TableOrJson::Table => {
            let columns = ["REVISION", "TIME", "WHO", "WHAT"];
            let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
            for change in &changes {
                table.row([
                    change.index.to_string(),
                    rfc3339(change.time_ms),
                    change.proposer.clone(),
                    change.summary.clone(),
                ]);
            }
            out.write_all(table.to_string().as_bytes())?;
        }
    }
    Ok(())
}
