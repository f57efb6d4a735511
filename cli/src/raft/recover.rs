//! `conduit raft recover`: for the day on which a majority of the replicas is gone for good.

use std::{io::Write, time::Duration};

use anyhow::bail;
use conduit_api::proto::public::{RaftStatusRequest, RecoverRequest, RecoverResponse};
use tokio::time::{Instant, sleep};

use super::snapshot::confirm;
use crate::{control_plane::ControlPlane, printable::printable};

/// It starts again, and elects itself.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whether to ask.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Says what may be lost, asks, and does it.
///
/// # Errors
/// When there is a majority, nobody answers, or the person says no.
pub async fn run(args: &Args, control_plane: &ControlPlane, out: &mut impl Write) -> anyhow::Result<()> {
    let ask =
        async |confirmed| control_plane.ask(async |client| client.recover(RecoverRequest { confirmed }).await).await;
    let plan = ask(false).await?;
    if !args.yes {
        confirm(&warning(&plan))?;
    }
    let survivor = printable(&ask(true).await?.survivor).into_owned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        sleep(LOOK_AGAIN).await;
        let status = control_plane.ask(async |client| client.raft_status(RaftStatusRequest {}).await).await;
        if let Some(status) = status.ok().filter(|status| !status.leader_id.is_empty()) {
            return Ok(writeln!(
                out,
                "{survivor} goes on at revision {}; replicas that are started with empty disks join by themselves",
                status.revision
            )?);
        }
        if Instant::now() >= deadline {
            bail!("{survivor} was told to go on alone, and does not lead within {PATIENCE:?}: its log says why");
        }
    }
}

fn warning(plan: &RecoverResponse) -> String {
    let names = |names: &[String]| names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    let RecoverResponse { survivor, revision, last_log_index, gone, left } = plan;
    let survivor = printable(survivor);
    let mut text = format!(
        "Of the control plane's replicas, {} do not answer, and without them there is no majority. \
         {survivor} would go on with what it has: its log up to {last_log_index}, revision {revision}. What the others \
         acknowledged without it is lost. ",
        names(gone)
    );
    if !left.is_empty() {
        text += &format!("{} would take over what it has. ", names(left));
    }
    text + "Should one of those that do not answer still run, end it and delete its data first: together they could go on as a \
            second control plane with the same trust root."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost_is_said_first() {
        let plan = RecoverResponse {
            survivor: "controller-0".into(),
            revision: 55,
            last_log_index: 57,
            gone: vec!["controller-1".into(), "controller-2".into()],
            left: Vec::new(),
        };
        let text = warning(&plan);
        for said in ["controller-1, controller-2 do not answer", "its log up to 57, revision 55", "is lost"] {
            assert!(text.contains(said), "{text}");
        }
    }
}
