//! How long a change takes to be in force in many proxies, and what each of them costs a controller.
//!
//! The proxies are the proxy's own discovery client, each with its own connection over mutual TLS; they share one certificate,
//! and carry no traffic.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use conduit_api::Target;
use conduit_ca::WorkloadTls;
use conduit_chaos::cluster::Cluster;
use conduit_proxy::{
    cache::Cache,
    destination::Destination,
    discovery::{
        Directory, Watched,
        client::{Discovery, DiscoveryTask},
    },
};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet, spawn_local},
    time::{Instant, sleep, timeout},
};

use super::{NAMESPACE, addresses, certified, cluster_address, inventory, line, megabytes, memory, pod};
use crate::{
    identity,
    load::{histogram, record},
};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Proxies
    #[arg(long, default_value_t = 1_000)]
    proxies: u32,
    /// Services
    #[arg(long, default_value_t = 100)]
    services: u16,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    endpoints: u16,
    /// Services that each proxy follows, the one that changes among them
    #[arg(long, default_value_t = 5)]
    followed: u16,
    /// Changes
    #[arg(long, default_value_t = 20)]
    changes: u32,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

/// Proxies that connect at once.
const CONNECTING_MAX: usize = 64;
/// All proxies have a change within this, or something is wrong.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two changes.
const QUIET: Duration = Duration::from_millis(300);

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or a change does not reach every proxy.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    LocalSet::new().run_until(measure(programs, plan)).await
}

async fn measure(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let cluster = Cluster::start(programs, plan.replicas).await?;
    describe(&cluster, plan, false)?;
    let tls = certified(&cluster, "load").await?;
    let idle = memory(&cluster);

    let began = Instant::now();
    let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
    let mut starting = JoinSet::new();
    for number in 0..plan.proxies {
        let permit = connecting.clone().acquire_owned();
        let proxy = connect(&cluster, plan, tls.clone(), number)?;
        let permit = permit.await?;
        starting.spawn_local(async move {
            let watched = proxy.await;
            drop(permit);
            watched
        });
    }
    let mut proxies = Vec::new();
    while let Some(proxy) = starting.join_next().await {
        proxies.push(proxy??);
    }
    let connected = began.elapsed();
    let busy = memory(&cluster);

    let (mut each, mut last) = (histogram(), histogram());
    for change in 0..plan.changes {
        sleep(QUIET).await;
        let expected = usize::from(plan.endpoints) + usize::from(change % 2 == 0);
        let began = Instant::now();
        describe(&cluster, plan, change % 2 == 0)?;
        let mut waiting = JoinSet::new();
        for (watched, _) in &proxies {
            let mut watched = watched.clone();
            waiting.spawn_local(async move {
                let all = |known: &Option<Arc<Destination>>| {
                    matches!(known.as_deref(), Some(Destination::Service(found)) if found.endpoints.len() == expected)
                };
                let reached = timeout(CHANGE_TIMEOUT, watched.wait_for(all)).await.is_ok_and(|known| known.is_ok());
                reached.then(|| began.elapsed())
            });
        }
        let mut slowest = Duration::ZERO;
        while let Some(reached) = waiting.join_next().await {
            let Some(took) = reached? else { bail!("a change did not reach a proxy within {CHANGE_TIMEOUT:?}") };
            record(&mut each, took);
            slowest = slowest.max(took);
        }
        record(&mut last, slowest);
    }
    let grown: f64 = busy.iter().sum::<f64>() - idle.iter().sum::<f64>();
    let per_proxy = grown * 1000.0 / f64::from(plan.proxies);
    Ok(format!(
        "{} proxies, mutual TLS, {} services of {} endpoints, {} followed by each, {} replicas\n{}{}\
         connected and in step after {:.1}s; controllers hold {} MB, {} MB before: {per_proxy:.1} kB per proxy\n",
        plan.proxies,
        plan.services,
        plan.endpoints,
        plan.followed,
        plan.replicas,
        line("endpoint changed, in force in a proxy", &each),
        line("endpoint changed, in force in all", &last),
        connected.as_secs_f64(),
        megabytes(&busy),
        megabytes(&idle),
    ))
}

fn describe(cluster: &Cluster, plan: &Plan, flip: bool) -> std::io::Result<()> {
    let mut inventory = inventory(plan.services, plan.endpoints, flip);
    inventory.pods.push(pod("load", [11, 255, 255, 254], None));
    cluster.describe(&inventory)
}

/// A proxy that follows its services, when it knows the first of them; it ends with its handle.
fn connect(
    cluster: &Cluster,
    plan: &Plan,
    tls: WorkloadTls,
    number: u32,
) -> anyhow::Result<impl Future<Output = anyhow::Result<(Watched, Discovery)>> + 'static> {
    let controllers = identity::controllers(addresses(cluster), &Cluster::trust_domain(), &tls)?;
    let (followed, services) = (plan.followed.clamp(1, plan.services), plan.services);
    Ok(async move {
        let directory = Directory::new(NAMESPACE, &format!("proxy-{number}"));
        let (task, discovery, _) = DiscoveryTask::new(directory, controllers, tls, Cache::new(None, PathBuf::new()));
        spawn_local(task.run());
        // The first is the same for all, the others are spread.
        let mut first = None;
        for i in 0..followed {
            let service = if i == 0 { 0 } else { ((number as u16).wrapping_mul(7) + i) % services };
            let watched = discovery.follow(Target::Address(cluster_address(service))).await;
            first = first.or(watched);
        }
        let mut watched = first.context("a proxy does not follow what it asked for")?;
        watched.wait_for(Option::is_some).await?;
        Ok((watched, discovery))
    })
}
