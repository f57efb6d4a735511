//! Who is at an address: look-ups derived from the state, kept up as it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use conduit_api::{Pod, PodName, RouteTable, Service, ServiceName};

use super::{Versioned, routes::Routes};

/// An address that two services or pods claim for a moment, while one takes over from the other, belongs to the first by name
/// until the claim is settled: the same on every replica, whatever order the changes came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    services: Arc<BTreeMap<IpAddr, BTreeSet<ServiceName>>>,
    pods: Arc<BTreeMap<IpAddr, BTreeSet<PodName>>>,
    headless: Arc<BTreeMap<SocketAddr, BTreeSet<(ServiceName, u16)>>>,
    routes: Arc<BTreeMap<ServiceName, Arc<RouteTable>>>,
}

impl Index {
    pub(super) fn build<'a>(
        services: impl Iterator<Item = &'a Arc<Versioned<Service>>>,
        pods: impl Iterator<Item = &'a Arc<Versioned<Pod>>>,
        routes: &Routes,
    ) -> Self {
        let mut index = Self { routes: Arc::new(routes.tables()), ..Self::default() };
        services.for_each(|service| index.replace_service(None, Some(service)));
        pods.for_each(|pod| index.replace_pod(None, Some(pod)));
        index
    }

    pub(super) fn service_of_cluster_ip(&self, ip: IpAddr) -> Option<&ServiceName> {
        self.services.get(&ip)?.first()
    }

    pub(super) fn pod_of_ip(&self, ip: IpAddr) -> Option<&PodName> {
        self.pods.get(&ip)?.first()
    }

    pub(super) fn headless_services_of(&self, address: SocketAddr) -> Vec<(ServiceName, u16)> {
        self.headless.get(&address).into_iter().flatten().cloned().collect()
    }

    pub(super) fn routes_of(&self, service: &ServiceName) -> Option<&Arc<RouteTable>> {
        self.routes.get(service)
    }

    pub(super) fn replace_routes(&mut self, service: ServiceName, table: Option<Arc<RouteTable>>) {
        let routes = Arc::make_mut(&mut self.routes);
        match table {
            Some(table) => drop(routes.insert(service, table)),
            None => drop(routes.remove(&service)),
        }
    }

    pub(super) fn replace_service(&mut self, before: Option<&Versioned<Service>>, after: Option<&Versioned<Service>>) {
        let services = Arc::make_mut(&mut self.services);
        let headless = Arc::make_mut(&mut self.headless);
        if let Some(before) = before.map(|before| &before.value) {
            for ip in &before.cluster_ips {
                remove(services, ip, &before.name);
            }
            for (address, port) in headless_addresses(before) {
                remove(headless, &address, &(before.name.clone(), port));
            }
        }
        if let Some(after) = after.map(|after| &after.value) {
            for ip in &after.cluster_ips {
                services.entry(*ip).or_default().insert(after.name.clone());
            }
            for (address, port) in headless_addresses(after) {
                headless.entry(address).or_default().insert((after.name.clone(), port));
            }
        }
    }

    pub(super) fn replace_pod(&mut self, before: Option<&Versioned<Pod>>, after: Option<&Versioned<Pod>>) {
        let pods = Arc::make_mut(&mut self.pods);
        if let Some(before) = before.map(|before| &before.value) {
            remove(pods, &before.ip, &before.name);
        }
        if let Some(after) = after.map(|after| &after.value) {
            pods.entry(after.ip).or_default().insert(after.name.clone());
        }
    }
}

/// Where clients of a headless service connect to, and the port of the service that they mean by it.
fn headless_addresses(service: &Service) -> impl Iterator<Item = (SocketAddr, u16)> + '_ {
    let ports = service.ports.iter().filter(|_| service.is_headless());
    ports.flat_map(|(number, port)| {
        // DNS gives only the pod's address: a client that means port 80 of the service connects to port 80 of the pod.
        port.endpoints.keys().chain(&port.not_ready).flat_map(|address| {
            let direct = SocketAddr::new(address.ip(), *number);
            [*address].into_iter().chain((direct != *address).then_some(direct)).map(|address| (address, *number))
        })
    })
}

fn remove<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}
