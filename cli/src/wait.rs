//! `conduit wait`: until a change is in force everywhere.

use std::{io::Write, time::Duration};

use anyhow::bail;
use conduit_api::proto::public::WaitRequest;
use tokio::time::{Instant, sleep};

use crate::{control_plane::ControlPlane, printable::printable};

/// For what, and for how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to wait for [default: the latest]
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    /// Who must have it
    #[arg(long = "for", value_enum, default_value_t)]
    by: By,
    /// How long to wait
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Who must have a revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Every replica of the control plane that can be reached
    Applied,
    /// Every connected proxy: no request sees anything older
    #[default]
    Ack,
}

/// Between two attempts to reach the control plane.
const RETRY: Duration = Duration::from_millis(200);

/// Asks until everybody has it.
///
/// # Errors
/// When the time is over, with who is behind; or when no control plane answers by then.
pub async fn run(args: &Args, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    until(args.revision.unwrap_or_default(), args.by, args.timeout, control_plane, out).await
}

/// Waits for `revision`, 0 for the latest, for at most `limit`.
///
/// # Errors
/// As [`run`].
pub async fn until(
    mut revision: u64,
    by: By,
    limit: Duration,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let acknowledged = by == By::Ack;
    let whose = if acknowledged { "proxies" } else { "replicas" };
    loop {
        let request = WaitRequest { revision, acknowledged };
        let answer = control_plane.ask(async |client| client.wait(request).await).await;
        match answer {
            Ok(answer) if answer.done => {
                return Ok(writeln!(out, "revision {} is in force in {} {whose}", answer.revision, answer.total)?);
            }
            Ok(answer) if Instant::now() >= deadline => {
                let examples: Vec<_> = answer.examples.iter().map(|name| printable(name)).collect();
                let examples =
                    if examples.is_empty() { "there is no such revision".into() } else { examples.join(", ") };
                let (revision, behind, total) = (answer.revision, answer.behind, answer.total);
                bail!("revision {revision} is not in force in {behind} of {total} {whose}: {examples}");
            }
            // The same one at the next attempt, whatever is committed meanwhile.
            Ok(answer) => revision = answer.revision,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(RETRY).await,
        }
    }
}
