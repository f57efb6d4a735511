//! Trust roots that follow each other while workloads speak with each other all the time.

use std::{path::Path, time::Duration};

use anyhow::bail;
use conduit_api::proto::public::{CaRotateRequest, CaStatusRequest};
use conduit_chaos::{cluster::Cluster, workloads};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use crate::{
    control_plane::line,
    load::{histogram, record},
};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Roots, one after the other
    #[arg(long, default_value_t = 1_000)]
    rotations: u32,
    /// Workloads, each with an identity of its own
    #[arg(long, default_value_t = 10)]
    workloads: u32,
    /// Pairs of them that speak with each other all the time
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

/// Between two looks at a rotation.
const POLL: Duration = Duration::from_millis(5);
/// A rotation that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or a rotation does not end.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    LocalSet::new().run_until(measure(programs, plan)).await
}

async fn measure(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let cluster = Cluster::start(programs, plan.replicas).await?;
    let seen = workloads::start(&cluster, plan.workloads, plan.pairs).await?;
    let mut took = histogram();
    let mut api = Cluster::api(cluster.socket(0)).await?;
    let began = Instant::now();
    for _ in 0..plan.rotations {
        let began = Instant::now();
        let root = api.ca_rotate(CaRotateRequest::default()).await?.into_inner().root;
        loop {
            let roots = api.ca_status(CaStatusRequest {}).await?.into_inner().roots;
            if roots.len() == 1 && roots[0].id == root {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("root {root} did not take over within {PATIENCE:?}");
            }
            sleep(POLL).await;
        }
        record(&mut took, began.elapsed());
    }
    let (exchanges, failures) = (seen.exchanges(), seen.failures());
    let failed: u64 = failures.values().sum();
    let mut text = format!(
        "{} workloads, {} replicas, {} rotations in {:.0}s\n{}{exchanges} connections with a handshake each meanwhile, {failed} failed\n",
        plan.workloads,
        plan.replicas,
        plan.rotations,
        began.elapsed().as_secs_f64(),
        line("one root in place of another", &took),
    );
    for (why, count) in failures {
        text += &format!("  {count} times: {why}\n");
    }
    Ok(text)
}
