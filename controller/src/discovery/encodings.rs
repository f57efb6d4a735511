//! What proxies are told of services, encoded once however many streams are to be sent it.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use conduit_api::{
    Endpoint, ProtocolHint, Revision, RouteTable, Service, ServiceName,
    proto::discovery::{self, destination},
};
use conduit_consensus::Versioned;
use parking_lot::Mutex;
use prost::Message as _;

use super::levels;

/// Ports of services that are remembered. What a replica's proxies follow changes slowly; beyond it, all is encoded anew.
const PORTS_MAX: usize = 1024;
/// Versions before the latest from which a service is led to it. Streams that are further behind than others are few.
const DELTAS_MAX: usize = 8;

/// A service at one version, and what holds for its requests and connections.
#[derive(Clone, Copy)]
pub struct Routed<'a> {
    /// Its version is that of its routes and hints as well: they change together, and so identify what is encoded.
    pub service: &'a Versioned<Service>,
    /// None when no route is about it.
    pub routes: Option<&'a RouteTable>,
    /// What connections to the port may be expected to carry.
    pub hint: ProtocolHint,
    /// How much of the routes whoever is told understands.
    pub level: u32,
}

/// The encodings of the latest version that was asked for, of each port of each service.
#[derive(Default)]
pub struct Encodings(Mutex<BTreeMap<Key, Latest>>);

/// A port of a service, and how much of its routes is understood.
type Key = (ServiceName, u16, u32);

#[derive(Default)]
struct Latest {
    version: Revision,
    full: Option<Bytes>,
    /// By the version before; none where the port is the same in both.
    deltas: Vec<(Revision, Option<Bytes>)>,
}

impl Encodings {
    /// An encoded `Destination`.
    pub fn full(&self, now: Routed<'_>, port: u16) -> Bytes {
        let mut ports = self.0.lock();
        let Some(latest) = latest(&mut ports, now, port) else { return full(now, port) };
        latest.full.get_or_insert_with(|| full(now, port)).clone()
    }

    /// An encoded `EndpointDelta`; `None` when the endpoints of this port, and its routes, are the same.
    pub fn delta(&self, before: Routed<'_>, now: Routed<'_>, port: u16) -> Option<Bytes> {
        let mut ports = self.0.lock();
        let Some(latest) = latest(&mut ports, now, port) else { return delta(before, now, port) };
        let from = before.service.version;
        if let Some((_, known)) = latest.deltas.iter().find(|(version, _)| *version == from) {
            return known.clone();
        }
        let delta = delta(before, now, port);
        if latest.deltas.len() < DELTAS_MAX {
            latest.deltas.push((from, delta.clone()));
        }
        delta
    }
}

/// Where this version is remembered; `None` for one that others have left behind.
fn latest<'a>(ports: &'a mut BTreeMap<Key, Latest>, now: Routed<'_>, port: u16) -> Option<&'a mut Latest> {
    let (key, version) = ((now.service.value.name.clone(), port, now.level), now.service.version);
    if ports.len() >= PORTS_MAX && !ports.contains_key(&key) {
        ports.clear();
    }
    let latest = ports.entry(key).or_default();
    if latest.version < version {
        *latest = Latest { version, ..Latest::default() };
    }
    (latest.version == version).then_some(latest)
}

fn full(now: Routed<'_>, port: u16) -> Bytes {
    let service = &now.service.value;
    let service = discovery::Service {
        namespace: service.name.namespace().to_owned(),
        name: service.name.name().to_owned(),
        port: port.into(),
        endpoints: endpoints_of(service, port).values().map(Into::into).collect(),
        routes: Some(routes_of(now, port)),
        hint: discovery::ProtocolHint::from(now.hint).into(),
        balancing: Some(service.balancing.into()),
    };
    discovery::Destination { kind: Some(destination::Kind::Service(service)) }.encode_to_vec().into()
}

fn delta(before: Routed<'_>, now: Routed<'_>, port: u16) -> Option<Bytes> {
    let routes = (before.routes != now.routes).then(|| routes_of(now, port));
    let hint = (before.hint != now.hint).then(|| discovery::ProtocolHint::from(now.hint).into());
    let balancing = now.service.value.balancing;
    let balancing = (before.service.value.balancing != balancing).then(|| balancing.into());
    let (before, after) = (endpoints_of(&before.service.value, port), endpoints_of(&now.service.value, port));
    let upserts: Vec<_> =
        after.values().filter(|e| before.get(&e.address) != Some(e)).map(discovery::Endpoint::from).collect();
    let removals: Vec<_> =
        before.keys().filter(|address| !after.contains_key(address)).map(|address| (*address).into()).collect();
    let changed =
        !upserts.is_empty() || !removals.is_empty() || routes.is_some() || hint.is_some() || balancing.is_some();
    changed.then(|| discovery::EndpointDelta { upserts, removals, routes, hint, balancing }.encode_to_vec().into())
}

fn routes_of(now: Routed<'_>, port: u16) -> discovery::RouteTable {
    now.routes.map(|routes| levels::table(routes, port, now.level)).unwrap_or_default()
}

fn endpoints_of(service: &Service, port: u16) -> &BTreeMap<SocketAddr, Endpoint> {
    static NONE: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    service.ports.get(&port).map_or(&NONE, |port| &port.endpoints)
}

#[cfg(test)]
mod tests {
    use conduit_api::{ServicePort, route::PROXY_LEVEL};

    use super::*;

    fn service(version: u64, endpoints: &[&str]) -> Versioned<Service> {
        let endpoint = |address: &&str| {
            let address = address.parse().unwrap();
            (address, Endpoint { address, pod: None, workload: None, identity: None, zone: None })
        };
        let endpoints = endpoints.iter().map(endpoint).collect();
        let value = Service {
            name: ServiceName::new("ns", "web").unwrap(),
            cluster_ips: [].into(),
            ports: [(80, ServicePort { endpoints, ..ServicePort::default() })].into(),
            balancing: Default::default(),
        };
        Versioned { version: version.into(), value }
    }

    fn plain(service: &Versioned<Service>) -> Routed<'_> {
        Routed { service, routes: None, hint: ProtocolHint::None, level: PROXY_LEVEL }
    }

    fn is_shared(a: &Bytes, b: &Bytes) -> bool {
        a.as_ptr() == b.as_ptr()
    }

    #[test]
    fn streams_share_what_is_the_same_and_nothing_else() {
        let encodings = Encodings::default();
        let (one, two) = (service(1, &["10.0.0.1:80"]), service(2, &["10.0.0.2:80"]));
        let first = encodings.full(plain(&one), 80);
        assert!(is_shared(&first, &encodings.full(plain(&one), 80)));
        let delta = encodings.delta(plain(&one), plain(&two), 80).unwrap();
        assert!(is_shared(&delta, &encodings.delta(plain(&one), plain(&two), 80).unwrap()));
        let later = encodings.full(plain(&two), 80);
        assert_ne!(first, later);
        // Another stream is still at the version before: it gets what it asks for, and the latest stays remembered.
        assert_eq!(encodings.full(plain(&one), 80), first);
        assert!(is_shared(&later, &encodings.full(plain(&two), 80)));
        // Other versions before lead to it by other differences.
        let same = service(1, &["10.0.0.2:80"]);
        assert_eq!(encodings.delta(plain(&Versioned { version: 0.into(), ..same }), plain(&two), 80), None);
        assert_ne!(encodings.full(plain(&two), 81), later, "another port");
    }

    #[test]
    fn memory_is_bounded() {
        let encodings = Encodings::default();
        let now = service(1_000, &["10.0.0.1:80"]);
        for port in 1..3 * PORTS_MAX as u16 {
            encodings.full(plain(&now), port);
        }
        assert!(encodings.0.lock().len() <= PORTS_MAX);
        for version in 1..100 {
            assert!(encodings.delta(plain(&service(version, &[])), plain(&now), 80).is_some());
        }
        let key = (now.value.name.clone(), 80, PROXY_LEVEL);
        assert_eq!(encodings.0.lock()[&key].deltas.len(), DELTAS_MAX);
    }
}
