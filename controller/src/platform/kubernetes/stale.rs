//! Of which services and pods something else is to be told than was told last. Pure.
//!
//! What is told of a service or a pod is made of several objects: a pod's ports of its namespace's annotations, its zone of its node, a service's
//! endpoints of slices and pods. Here is what follows from what; that there is rather too much of it costs a comparison.

use std::{collections::BTreeSet, net::IpAddr};

use conduit_api::{PodName, ServiceName};

/// Collects it from one time that something is told to the next.
#[derive(Default)]
pub struct Stale {
    /// Services of which something has changed themselves, or their slices.
    services: BTreeSet<ServiceName>,
    /// Pods that have changed themselves.
    pods: BTreeSet<PodName>,
    /// That pods have, or had: there is one pod to an address.
    addresses: BTreeSet<IpAddr>,
    /// Whose annotations have changed.
    namespaces: BTreeSet<String>,
    /// Whose zones have changed.
    nodes: BTreeSet<String>,
}

impl Stale {
    /// It has changed, or one of its slices has.
    pub fn service(&mut self, name: ServiceName) {
        self.services.insert(name);
    }

    /// It has changed; it has, and had, these addresses.
    pub fn pod(&mut self, name: PodName, addresses: impl IntoIterator<Item = IpAddr>) {
        self.pods.insert(name);
        self.addresses.extend(addresses);
    }

    /// Its annotations have changed.
    pub fn namespace(&mut self, name: String) {
        self.namespaces.insert(name);
    }

    /// Its zone has changed.
    pub fn node(&mut self, name: String) {
        self.nodes.insert(name);
    }

    /// The pods that this comes to. `known` tells of all that there are the addresses and the nodes.
    pub fn pods<'a>(
        &self,
        known: impl Iterator<Item = (&'a PodName, Option<IpAddr>, Option<&'a str>)>,
    ) -> BTreeSet<PodName> {
        let mut pods = self.pods.clone();
        if !self.addresses.is_empty() || !self.namespaces.is_empty() || !self.nodes.is_empty() {
            let is_stale = |(name, address, node): &(&PodName, Option<IpAddr>, Option<&str>)| {
                address.is_some_and(|address| self.addresses.contains(&address))
                    || node.is_some_and(|node| self.nodes.contains(node))
                    || self.namespaces.contains(name.namespace())
            };
            pods.extend(known.filter(is_stale).map(|(name, ..)| name.clone()));
        }
        pods
    }

    /// The services that this comes to, given the pods that it comes to. `known` tells of all that there are, and `endpoints` of all slices whose they are
    /// and the pods in them.
    pub fn services<'a>(
        &self,
        pods: &BTreeSet<PodName>,
        known: impl Iterator<Item = &'a ServiceName>,
        endpoints: impl Iterator<Item = (&'a ServiceName, &'a PodName)>,
    ) -> BTreeSet<ServiceName> {
        let mut services = self.services.clone();
        if !self.namespaces.is_empty() {
            services.extend(known.filter(|name| self.namespaces.contains(name.namespace())).cloned());
        }
        if !pods.is_empty() {
            services.extend(endpoints.filter(|(_, pod)| pods.contains(pod)).map(|(service, _)| service.clone()));
        }
        services
    }
}
