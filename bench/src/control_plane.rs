//! Measurements of a control plane alone: real controllers, their disks and their mutual TLS, on this machine.

pub mod failover;
pub mod fanout;
pub mod restart;
pub mod writes;

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use conduit_api::{Endpoint, Service, ServiceName, ServicePort, mesh::Inventory};
use conduit_chaos::cluster::Cluster;
use hdrhistogram::Histogram;

use crate::memory::of_process;

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
            name: ServiceName::new("bench", &format!("service-{number}")).expect("a name"),
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
