//! How long a replica takes to come back with a large state.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use anyhow::bail;
use conduit_api::{Endpoint, Pod, PodName, Service, ServiceName, ServicePort, SpiffeId, WorkloadRef, mesh::Inventory};
use conduit_chaos::cluster::Cluster;
use tokio::time::{Instant, sleep};

use super::{line, megabytes, memory};
use crate::load::{histogram, record};

/// Endpoints of one service.
const PER_SERVICE: u32 = 50;
/// The platform tells of tens of thousands of pods within this.
const TOLD: Duration = Duration::from_secs(120);
/// A replica is back within this, or never.
const BACK: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Endpoints in the state, each of a pod of its own
    #[arg(long, default_value_t = 50_000)]
    endpoints: u32,
    /// Replicas that are killed and started again, one after the other
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Controllers
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

/// Measures, and says what it measured: from starting the process until it answers with all of the state.
///
/// # Errors
/// When the control plane cannot be started, or does not come back.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    let mut cluster = Cluster::start(programs, plan.replicas).await?;
    let began = Instant::now();
    let before = cluster.status(0).await?.revision;
    cluster.describe(&inventory(plan.endpoints))?;
    let mut revision = before;
    // It may come in several parts; the last of them has been when nothing more comes.
    let mut changed = Instant::now();
    while revision == before || changed.elapsed() < Duration::from_secs(2) {
        if began.elapsed() > TOLD {
            bail!("the inventory is not committed within {TOLD:?}");
        }
        sleep(LOOK_AGAIN).await;
        let now = cluster.status(0).await.map_or(revision, |status| status.revision);
        if now != revision {
            (revision, changed) = (now, Instant::now());
        }
    }
    let told = changed - began;
    let resident = megabytes(&memory(&cluster));
    let mut times = histogram();
    for round in 0..plan.rounds {
        let replica = round % plan.replicas;
        cluster.kill(replica);
        // The others have a leader: it is not waited for in what is measured.
        cluster
            .wait("there is a leader", async || cluster.leader().await.is_some_and(|leader| leader != replica))
            .await?;
        let began = Instant::now();
        cluster.spawn(replica)?;
        while cluster.status(replica).await.map_or(true, |status| status.revision < revision) {
            if began.elapsed() > BACK {
                bail!("replica {replica} is not back within {BACK:?}");
            }
            sleep(LOOK_AGAIN).await;
        }
        record(&mut times, began.elapsed());
    }
    Ok(format!(
        "{} endpoints of {} services, and as many pods: committed {:.1}s after the platform told of them; controllers have \
         {resident} MB\n{}",
        plan.endpoints,
        plan.endpoints.div_ceil(PER_SERVICE),
        told.as_secs_f64(),
        line("killed, started again, answers with all of it", &times)
    ))
}

fn inventory(endpoints: u32) -> Inventory {
    let name = |number: u32| PodName::new("bench", &format!("server-{number}")).expect("a name");
    let ip = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        [11, a, b, c].into()
    };
    let workload =
        |number: u32| WorkloadRef { kind: "deployment".into(), name: format!("server-{}", number / PER_SERVICE) };
    let pod = |number| Pod {
        name: name(number),
        ip: ip(number),
        workload: Some(workload(number)),
        service_account: "server".into(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    };
    let identity = SpiffeId::new(&Cluster::trust_domain(), "bench", "server").expect("a name");
    let endpoint = |number| {
        let address = SocketAddr::new(ip(number), 8080);
        let (pod, workload) = (Some(name(number)), Some(workload(number)));
        (address, Endpoint { address, pod, workload, identity: Some(identity.clone()), zone: None })
    };
    let service = |number: u32| {
        let last = endpoints.min((number + 1) * PER_SERVICE);
        let endpoints: BTreeMap<_, _> = (number * PER_SERVICE..last).map(endpoint).collect();
        let [_, _, high, low] = number.to_be_bytes();
        Service {
            name: ServiceName::new("bench", &format!("service-{number}")).expect("a name"),
            cluster_ips: [[10, 96, high, low].into()].into(),
            ports: [(80, ServicePort { endpoints, ..ServicePort::default() })].into(),
            balancing: Default::default(),
        }
    };
    Inventory {
        services: (0..endpoints.div_ceil(PER_SERVICE)).map(service).collect(),
        pods: (0..endpoints).map(pod).collect(),
        ..Inventory::default()
    }
}
