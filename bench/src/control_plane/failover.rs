//! How long nothing is committed after the leader was killed, or was told to stop.

use std::{path::Path, time::Duration};

use conduit_chaos::{
    clients::{Replicas, register},
    cluster::Cluster,
};
use conduit_consensus::ProposalId;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep};

use super::line;
use crate::load::{histogram, record};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Leaders that are killed, and as many that are told to stop
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

/// Between two rounds: everybody has caught up, and nobody remembers the last election.
const QUIET: Duration = Duration::from_millis(1_500);

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or does not come back.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let mut cluster = Cluster::start(programs, plan.replicas).await?;
    let mut writer = Writer { replicas: Replicas::of(&cluster)?, session: rand::random(), number: 0 };
    let (mut killed, mut stopped) = (histogram(), histogram());
    for round in 0..plan.rounds * 2 {
        cluster.all_vote().await?;
        sleep(QUIET).await;
        writer.write().await?;
        let leader = cluster.leader().await.ok_or_else(|| anyhow::anyhow!("no leader"))?;
        let began = Instant::now();
        if round % 2 == 0 {
            cluster.kill(leader);
            first_commit(&mut writer, began, &mut killed).await?;
        } else {
            cluster.ask_to_stop(leader);
            first_commit(&mut writer, began, &mut stopped).await?;
            cluster.terminate(leader).await?;
        }
        cluster.spawn(leader)?;
    }
    Ok(line("leader killed -9, first new commit", &killed) + &line("leader told to stop, first new commit", &stopped))
}

async fn first_commit(writer: &mut Writer, began: Instant, times: &mut Histogram<u64>) -> anyhow::Result<()> {
    writer.write().await?;
    record(times, began.elapsed());
    Ok(())
}

struct Writer {
    replicas: Replicas,
    session: u64,
    number: u32,
}

impl Writer {
    async fn write(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        let id = ProposalId { session: self.session, number: self.number.into() };
        // Whoever led may not lead any more: it is looked for anew.
        self.replicas.commit(&mut None, id, register(1, self.number)).await?;
        Ok(())
    }
}
