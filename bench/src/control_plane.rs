//! Measurements of a control plane alone: real controllers, their disks and their mutual TLS, on this machine.

pub mod failover;
pub mod fanout;
pub mod restart;
pub mod telemetry;
pub mod writes;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use conduit_api::{
    Endpoint, Pod, PodName, Service, ServiceName, ServicePort,
    mesh::{Inventory, WorkloadRef},
};
use conduit_ca::{LaunchToken, WorkloadTls};
use conduit_chaos::cluster::Cluster;
use hdrhistogram::Histogram;

use crate::{identity, memory::of_process};

/// Of everything that is made up.
pub(crate) const NAMESPACE: &str = "bench";
/// Whom all proxies are.
pub(crate) const SERVICE_ACCOUNT: &str = "load";

/// A distribution in one line.
pub(crate) fn line(name: &str, durations: &Histogram<u64>) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    let quantile = |q| ms(durations.value_at_quantile(q));
    format!(
        "{name:<44} n {:>6}   p50 {:>8.1}ms   p99 {:>8.1}ms   max {:>8.1}ms\n",
        durations.len(),
        quantile(0.5),
        quantile(0.99),
        ms(durations.max())
    )
}

/// Resident memory of each controller, in megabytes.
pub(crate) fn memory(cluster: &Cluster) -> Vec<f64> {
    let resident = |pid| of_process(pid, "VmRSS").unwrap_or_default() as f64 / 1e6;
    (0..cluster.len()).filter_map(|replica| cluster.pid(replica)).map(resident).collect()
}

pub(crate) fn megabytes(memory: &[f64]) -> String {
    let mut text = String::new();
    for one in memory {
        let _ = write!(text, "{one:.1} ");
    }
    text.trim_end().to_owned()
}

/// Where proxies find them.
pub(crate) fn addresses(cluster: &Cluster) -> Vec<String> {
    (0..cluster.len()).map(|replica| format!("{}:8086", cluster.ip(replica))).collect()
}

/// The certificate that all proxies show: that of the [`SERVICE_ACCOUNT`] that `pod`, which has to be known by then, runs as.
pub(crate) async fn certified(cluster: &Cluster, pod: &str) -> anyhow::Result<WorkloadTls> {
    cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await?;
    let token = LaunchToken { namespace: NAMESPACE.into(), service_account: SERVICE_ACCOUNT.into(), pod: pod.into() };
    let file = cluster.trust_anchors().with_extension("token");
    let expires = SystemTime::now() + Duration::from_secs(3_600);
    fs::write(&file, token.mint(cluster.seed(), expires))?;
    identity::of_proxy(addresses(cluster), &Cluster::trust_domain(), cluster.trust_anchors(), file).await
}

/// One that all proxies may be of.
pub(crate) fn pod(name: &str, ip: [u8; 4], workload: Option<WorkloadRef>) -> Pod {
    Pod {
        name: PodName::new(NAMESPACE, name).expect("a name"),
        ip: ip.into(),
        workload,
        service_account: SERVICE_ACCOUNT.to_owned(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    }
}

/// So many services with so many endpoints each; `flip` is one more endpoint of the first service, or none.
pub(crate) fn inventory(services: u16, endpoints: u16, flip: bool) -> Inventory {
    let service = |number: u16| {
        let more = u16::from(flip && number == 0);
        let endpoint = |i: u16| {
            let [high, low] = number.to_be_bytes();
            let address = SocketAddr::from(([11, high, low, 1], 1_000 + i));
            (address, Endpoint { address, pod: None, workload: None, identity: None, zone: None })
        };
        let endpoints: BTreeMap<_, _> = (0..endpoints + more).map(endpoint).collect();
        Service {
            name: ServiceName::new(NAMESPACE, &format!("service-{number}")).expect("a name"),
            cluster_ips: [cluster_address(number).ip()].into(),
            ports: [(80, ServicePort { endpoints, ..ServicePort::default() })].into(),
            balancing: Default::default(),
        }
    };
    Inventory { services: (0..services).map(service).collect(), ..Inventory::default() }
}

/// Where clients of a service connect to.
pub(crate) fn cluster_address(service: u16) -> SocketAddr {
    let [high, low] = service.to_be_bytes();
    SocketAddr::from(([10, 96, high, low], 80))
}
