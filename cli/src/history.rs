//! `conduit history`: who changed what, and when.

use std::{
    io::Write,
    time::{Duration, UNIX_EPOCH},
};

use conduit_api::proto::public::{Change, HistoryRequest};
use serde_json::json;

use crate::{
    control_plane::ControlPlane,
    output::{TableOrJson, write_json},
    table::{Align, Table},
};

/// The last moment that RFC 3339 can write.
const TIME_MS_MAX: u64 = 253_402_300_799_000;

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
                    "time": time(change),
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
                table.row([change.index.to_string(), time(change), change.proposer.clone(), change.summary.clone()]);
            }
            out.write_all(table.to_string().as_bytes())?;
        }
    }
    Ok(())
}

/// RFC 3339, in UTC: history is read by people in several places.
fn time(change: &Change) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(change.time_ms.min(TIME_MS_MAX));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_and_never_panic() {
        let at = |time_ms| time(&Change { time_ms, ..Change::default() });
        assert_eq!(at(1_525_000_000_000), "2018-04-29T11:06:40Z");
        assert_eq!(at(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
