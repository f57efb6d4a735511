//! Requests that were never sent, as proxies count them.

use std::time::Duration;

use conduit_api::{Endpoint, Service, ServiceName, ServicePort, SpiffeId, mesh::Inventory};
use conduit_proxy::telemetry::{Direction, End, Labels, Meant, Peer, Telemetry, ThreadTelemetry, Tls};

use crate::control_plane::NAMESPACE;

/// Whom a proxy's application asks, and who ask it.
const PEERS: u32 = 3;
/// What an application is asked for.
const PATHS: [&str; 5] = ["/", "/api/list", "/api/vote", "/leaderboard", "/items/4711"];
/// Every so many requests fail.
const FAILS: u64 = 20;

/// The traffic of one proxy, as its data threads count it.
pub(super) struct Traffic {
    thread: ThreadTelemetry,
    inbound: Vec<Labels>,
    outbound: Vec<Labels>,
    made: u64,
}

impl Traffic {
    /// Of the proxy of a pod of deployment `number`, of so many.
    pub(super) fn of(telemetry: &Telemetry, identity: &SpiffeId, number: u32, deployments: u32) -> Self {
        let tls = Tls::Mutual(identity.clone());
        let labels = |direction, to: u32| {
            let service = format!("app-{to}");
            let outbound = direction == Direction::Outbound;
            let peer = || Peer {
                namespace: NAMESPACE.to_owned(),
                pod: format!("app-{to}-0"),
                workload: Some(("deployment".to_owned(), service.clone())),
                service: Some(service.clone()),
            };
            let meant =
                || Meant { namespace: NAMESPACE.to_owned(), name: service.clone(), port: 80, route: String::new() };
            Labels {
                direction,
                authority: format!("{service}.{NAMESPACE}"),
                tls: tls.clone(),
                destination: outbound.then(|| peer().into()),
                meant: outbound.then(|| meant().into()),
                backend: outbound.then(|| (NAMESPACE.to_owned(), service.clone())),
            }
        };
        let asked = (1..=PEERS).map(|step| labels(Direction::Outbound, (number + step * 7) % deployments)).collect();
        let inbound = vec![labels(Direction::Inbound, number % deployments)];
        Self { thread: telemetry.thread(), inbound, outbound: asked, made: 0 }
    }

    /// So many requests more, half of them to the application and half of them by it.
    pub(super) fn requests(&mut self, count: u64) {
        for _ in 0..count {
            self.made += 1;
            let is_inbound = self.made.is_multiple_of(2);
            let known = if is_inbound { &self.inbound } else { &self.outbound };
            let labels = &known[(self.made / 2) as usize % known.len()];
            let end = if self.made.is_multiple_of(FAILS) { End::Http(503) } else { End::Http(200) };
            // From half a millisecond to some eight, so that there are a dozen buckets.
            let latency = Duration::from_micros(500 + self.made * 7_919 % 7_500);
            let counters = self.thread.requests(labels);
            counters.requests.add(1);
            counters.latency(latency);
            counters.end(end);
            if is_inbound {
                let path = PATHS[(self.made / 2) as usize % PATHS.len()];
                self.thread.paths.row(true, "GET", path).end(end, Some(latency));
            }
        }
    }
}

/// A service for each deployment.
pub(super) fn services(deployments: u32) -> Inventory {
    let service = |number: u32| {
        let [_, high, middle, low] = number.to_be_bytes();
        let address = std::net::SocketAddr::from(([11, high, middle, low], 8080));
        let endpoint = Endpoint { address, pod: None, workload: None, identity: None, zone: None };
        let port = ServicePort { endpoints: [(address, endpoint)].into(), ..ServicePort::default() };
        Service {
            name: ServiceName::new(NAMESPACE, &format!("app-{number}")).expect("a name"),
            cluster_ips: [[10, 96 | high, middle, low].into()].into(),
            ports: [(80, port)].into(),
            balancing: Default::default(),
        }
    };
    Inventory { services: (0..deployments).map(service).collect(), ..Inventory::default() }
}
