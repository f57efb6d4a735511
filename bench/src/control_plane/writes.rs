//! Committed writes per second, and how long one takes, with many writers at once.

use std::{path::Path, time::Duration};

use conduit_api::{Pod, PodName};
use conduit_chaos::{clients::Replicas, cluster::Cluster};
use conduit_consensus::{Change, Command, ProposalId};
use tokio::{task::JoinSet, time::Instant};

use super::{line, megabytes, memory};
use crate::load::{histogram, record};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Writers, each waiting for its write before the next
    #[arg(long, default_value_t = 64)]
    writers: u32,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or a write fails.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let cluster = Cluster::start(programs, plan.replicas).await?;
    let replicas = Replicas::of(&cluster)?;
    let (start, until) = (Instant::now(), Instant::now() + plan.duration);
    let mut writers = JoinSet::new();
    for writer in 0..plan.writers {
        let replicas = replicas.clone();
        writers.spawn(async move {
            let (mut latencies, mut known, session) = (histogram(), None, rand::random());
            for number in 1.. {
                let began = Instant::now();
                if began >= until {
                    break;
                }
                let id = ProposalId { session, number };
                replicas.commit(&mut known, id, pod(writer, number % 2 == 0)).await?;
                record(&mut latencies, began.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = histogram();
    while let Some(writer) = writers.join_next().await {
        latencies.add(writer??)?;
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    let name = format!("commit, {} writers, {} replicas", plan.writers, plan.replicas);
    let memory = megabytes(&memory(&cluster));
    Ok(format!("{}{rate:.0} committed writes/s; controllers hold {memory} MB\n", line(&name, &latencies)))
}

/// A change each time: nothing is committed faster for being nothing.
fn pod(writer: u32, ready: bool) -> Command {
    Command::Batch(vec![Change::UpsertPod(Pod {
        name: PodName::new("bench", &format!("pod-{writer}")).expect("a name"),
        ip: [11, 0, (writer >> 8) as u8, writer as u8].into(),
        workload: None,
        service_account: "default".to_owned(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready,
        application_ended: false,
    })])
}
