//! What runs, as the control plane is told. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use conduit_api::{
    Endpoint, Pod, PodName, PortRange, Service, ServiceName, ServicePort, SpiffeId, TrustDomain, WorkloadRef,
    mesh::Inventory,
};

use super::manifest::{Deployment, Manifest, TargetPort};

/// The first address of services; there are 65 534.
const CLUSTER_IPS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
const CLUSTER_IPS_MAX: u32 = 65_534;

/// An instance that runs, or is being started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// `namespace/deployment-number`
    pub name: PodName,
    /// The deployment's name.
    pub deployment: String,
    /// Its own address.
    pub ip: IpAddr,
    /// Proxy and program are up.
    pub ready: bool,
}

/// Gives every service that has none an address, and keeps those that have one, so that clients may remember it.
pub fn assign_cluster_ips(manifest: &Manifest, assigned: &mut BTreeMap<ServiceName, Ipv4Addr>) {
    let mut used: BTreeSet<Ipv4Addr> = assigned.values().copied().collect();
    for service in manifest.services.iter().filter(|service| !service.headless) {
        if assigned.contains_key(&service.name) {
            continue;
        }
        let mut free = (1..=CLUSTER_IPS_MAX).map(|i| Ipv4Addr::from(u32::from(CLUSTER_IPS) + i));
        if let Some(ip) = free.find(|ip| !used.contains(ip)) {
            used.insert(ip);
            assigned.insert(service.name.clone(), ip);
        }
    }
}

/// What the control plane is to know.
pub fn inventory(
    manifest: &Manifest,
    instances: &[Instance],
    cluster_ips: &BTreeMap<ServiceName, Ipv4Addr>,
    trust_domain: &TrustDomain,
) -> Inventory {
    let running: Vec<_> = instances
        .iter()
        .filter_map(|instance| {
            let key = (instance.name.namespace().to_owned(), instance.deployment.clone());
            Some((instance, manifest.deployments.get(&key)?))
        })
        .collect();
    let services = manifest.services.iter().map(|service| {
        let selected = running.iter().filter(|(instance, deployment)| {
            instance.name.namespace() == service.name.namespace()
                && !service.selector.is_empty()
                && service.selector.iter().all(|(key, value)| deployment.labels.get(key) == Some(value))
        });
        let ports = service.ports.iter().map(|(number, name, target)| {
            let opaque = PortRange::any_contains(&service.opaque_ports, *number);
            let mut described = ServicePort { name: name.clone(), opaque, ..ServicePort::default() };
            for (instance, deployment) in selected.clone() {
                let Some(target) = port(target, deployment) else { continue };
                let address = SocketAddr::new(instance.ip, target);
                described.opaque |= PortRange::any_contains(&deployment.pod_ports.opaque, target);
                if instance.ready {
                    described.endpoints.insert(address, endpoint(instance, deployment, address, trust_domain));
                } else {
                    described.not_ready.insert(address);
                }
            }
            (*number, described)
        });
        Service {
            name: service.name.clone(),
            cluster_ips: cluster_ips.get(&service.name).map(|ip| IpAddr::from(*ip)).into_iter().collect(),
            ports: ports.collect(),
            balancing: service.balancing,
        }
    });
    let pods = running.iter().map(|(instance, deployment)| Pod {
        name: instance.name.clone(),
        ip: instance.ip,
        workload: Some(workload(instance)),
        service_account: deployment.service_account.clone(),
        uid: None,
        ports: deployment.pod_ports.clone(),
        zone: deployment.zone().cloned(),
        meshed: deployment.meshed,
        ready: instance.ready,
        application_ended: false,
    });
    Inventory { services: services.collect(), pods: pods.collect(), ..Inventory::default() }
}

fn endpoint(instance: &Instance, deployment: &Deployment, address: SocketAddr, trust_domain: &TrustDomain) -> Endpoint {
    let skipped = PortRange::any_contains(&deployment.pod_ports.skip_inbound, address.port());
    let identity = || SpiffeId::new(trust_domain, instance.name.namespace(), &deployment.service_account).ok();
    Endpoint {
        address,
        pod: Some(instance.name.clone()),
        workload: Some(workload(instance)),
        // What is not redirected meets no proxy that could prove anything.
        identity: (deployment.meshed && !skipped).then(identity).flatten(),
        zone: deployment.zone().cloned(),
    }
}

fn workload(instance: &Instance) -> WorkloadRef {
    WorkloadRef { kind: "deployment".to_owned(), name: instance.deployment.clone() }
}

fn port(target: &TargetPort, deployment: &Deployment) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            deployment.ports.iter().find(|(known, _)| known.as_ref() == Some(name)).map(|(_, number)| *number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(deployment: &str, number: u8, ready: bool) -> Instance {
        Instance {
            name: PodName::new("emojivoto", &format!("{deployment}-{number}")).unwrap(),
            deployment: deployment.to_owned(),
            ip: [10, 244, 1, number].into(),
            ready,
        }
    }

    #[test]
    fn services_lead_to_what_they_select_and_is_ready() {
        let manifest = Manifest::read(&[], true).unwrap();
        let mut cluster_ips = BTreeMap::new();
        assign_cluster_ips(&manifest, &mut cluster_ips);
        let instances = [instance("web", 1, true), instance("web", 2, false), instance("voting", 3, true)];
        let found = inventory(&manifest, &instances, &cluster_ips, &"cluster.local".parse().unwrap());
        assert_eq!(found.pods.len(), 3);
        let service = |name: &str| found.services.iter().find(|service| service.name.name() == name).unwrap();
        let web = service("web-svc");
        assert_eq!(web.cluster_ips, [IpAddr::from([10, 96, 0, 1])].into());
        let endpoints: Vec<_> = web.ports[&80].endpoints.values().collect();
        assert_eq!(endpoints.len(), 1, "only what is ready");
        assert_eq!(web.ports[&80].not_ready.len(), 1);
        assert_eq!(endpoints[0].address.ip(), IpAddr::from([10, 244, 1, 1]));
        let identity = endpoints[0].identity.as_ref().unwrap();
        assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/emojivoto/sa/web");
        assert!(service("voting-svc").is_headless());
        assert_eq!(service("emoji-svc").ports[&8080].endpoints.len(), 0);
    }

    #[test]
    fn services_keep_their_address() {
        let manifest = Manifest::read(&[], true).unwrap();
        let web = ServiceName::new("emojivoto", "web-svc").unwrap();
        let mut assigned = BTreeMap::from([(web.clone(), Ipv4Addr::new(10, 96, 0, 7))]);
        assign_cluster_ips(&manifest, &mut assigned);
        assert_eq!(assigned, BTreeMap::from([(web, Ipv4Addr::new(10, 96, 0, 7))]));
    }
}
