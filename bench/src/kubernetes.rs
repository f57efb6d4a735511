//! What Conduit costs in Kubernetes, and how soon what happens there is in force: a real API server, many pods, and the replicas of a
//! control plane as they are installed, in a network of their own (`bench/kubernetes.sh`).

mod changes;
mod cluster;
mod inject;
mod jobs;
mod objects;
mod pods;
mod replicas;
mod resync;
mod webhook;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::task::LocalSet;

use self::{cluster::Cluster, replicas::Replicas};

/// Of everything that is made to be measured.
const NAMESPACE: &str = "bench";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Where `tests/kubernetes/build` has put what it built
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Pods, spread over the services
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Services
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Leaders that are killed, one after the other
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// Endpoints that are added and removed again
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Jobs that end
    #[arg(long, default_value_t = 20)]
    jobs: usize,
    /// Pods per second that the webhook is asked about
    #[arg(long, default_value_t = 100)]
    reviews_per_second: u32,
    /// For how long
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    reviews_for: Duration,
}

/// Measures, and prints as it goes: it takes minutes.
///
/// # Errors
/// When something of it cannot be started, or does not do its work.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<()> {
    print!("{}", inject::run(programs)?);
    LocalSet::new().run_until(in_cluster(programs, plan)).await
}

async fn in_cluster(programs: &Path, plan: &Plan) -> anyhow::Result<()> {
    let cluster = Cluster::start(&plan.cluster).await?;
    objects::make(&cluster.client, plan.pods, plan.services).await?;
    println!("{} pods in {} services, {} replicas", plan.pods, plan.services, plan.replicas);
    let mut replicas = Replicas::start(&cluster, programs, plan.replicas).await?;
    print!("{}", resync::first(&replicas, plan.pods, plan.services).await?);
    print!("{}", changes::run(&cluster, &replicas, plan.changes).await?);
    print!("{}", jobs::run(&cluster, programs, &replicas, plan.jobs).await?);
    print!("{}", webhook::run(&cluster, &replicas, plan.reviews_per_second, plan.reviews_for).await?);
    print!("{}", resync::again(&mut replicas, plan.kills).await?);
    Ok(())
}
