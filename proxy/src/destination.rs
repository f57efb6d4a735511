//! What a connection was made to, as the control plane knows it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use conduit_api::{
    Balancing, Endpoint, ProtocolHint, ServiceName,
    proto::discovery::{self, destination},
    target::{service_port, to_service_port},
    wire::{self, WireError},
};

use crate::route::Routes;

/// What the control plane says of a [`Target`](conduit_api::Target).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A service.
    Service(Service),
    /// One pod.
    Pod(Pod),
    /// Not of this mesh.
    Unknown,
}

/// One port of a service: requests are balanced over its endpoints, and fail when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`
    pub name: ServiceName,
    /// That its clients connect to.
    pub port: u16,
    /// The ready ones, by address.
    pub endpoints: BTreeMap<SocketAddr, Arc<Endpoint>>,
    /// Which of its requests go elsewhere.
    pub routes: Routes,
    /// What to expect of connections to it.
    pub hint: ProtocolHint,
    /// How its requests are shared out.
    pub balancing: Balancing,
}

/// One port of a pod, addressed directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The only one.
    pub endpoint: Arc<Endpoint>,
    /// Services whose clients may mean the whole service by its address.
    pub headless: Vec<(ServiceName, u16)>,
    /// What to expect of connections to it.
    pub hint: ProtocolHint,
}

impl Destination {
    /// The service that `authority`, the one of a request to this address, names, if the address is part of it.
    ///
    /// A client of a headless service has resolved its name to one pod; what it means is the service. A name that the address
    /// is not part of is not believed: a request never leaves its original destination because of a header.
    pub fn headless(&self, authority: &str) -> Option<&(ServiceName, u16)> {
        let Self::Pod(pod) = self else { return None };
        pod.headless.iter().find(|(name, port)| names(authority, name, *port))
    }

    /// The service that it is.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(service) => Some(&service.name),
            Self::Pod(_) | Self::Unknown => None,
        }
    }

    /// What to expect of connections to it.
    pub fn hint(&self) -> ProtocolHint {
        match self {
            Self::Service(service) => service.hint,
            Self::Pod(pod) => pod.hint,
            Self::Unknown => ProtocolHint::None,
        }
    }
}

/// Whether `authority` is one of the names that DNS has for a service: `svc`, `svc.ns`, `svc.ns.svc`, `svc.ns.svc.<domain>`.
fn names(authority: &str, service: &ServiceName, port: u16) -> bool {
    let (host, named_port) =
        authority.rsplit_once(':').map_or((authority, 80), |(host, port)| (host, port.parse().unwrap_or(0)));
    let host = host.trim_end_matches('.');
    let mut labels = host.splitn(4, '.');
    let matches = |label: Option<&str>, expected: &str| label.is_none_or(|l| l.eq_ignore_ascii_case(expected));
    named_port == port
        && labels.next().is_some_and(|name| name.eq_ignore_ascii_case(service.name()))
        && matches(labels.next(), service.namespace())
        && matches(labels.next(), "svc")
}

impl TryFrom<&discovery::Destination> for Destination {
    type Error = WireError;

    fn try_from(wire: &discovery::Destination) -> Result<Self, WireError> {
        match wire.kind.as_ref().ok_or(WireError::Missing("destination.kind"))? {
            destination::Kind::Service(service) => {
                let name = ServiceName::new(&service.namespace, &service.name)?;
                let endpoints = service.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?;
                let port = wire::port(service.port)?;
                let routes = Routes::new(&name, port, service.routes.as_ref())?;
                let hint = service.hint.into();
                let balancing = service.balancing.as_ref().map(Balancing::from).unwrap_or_default();
                Ok(Self::Service(Service { name, port, endpoints, routes, hint, balancing }))
            }
            destination::Kind::Pod(pod) => {
                let found = pod.endpoint.as_ref().ok_or(WireError::Missing("pod.endpoint"))?;
                let headless = pod.headless.iter().map(service_port).collect::<Result<_, _>>()?;
                Ok(Self::Pod(Pod { endpoint: endpoint(found)?.1, headless, hint: pod.hint.into() }))
            }
            destination::Kind::Unknown(_) => Ok(Self::Unknown),
        }
    }
}

impl From<&Destination> for discovery::Destination {
    fn from(destination: &Destination) -> Self {
        let kind = match destination {
            Destination::Service(service) => destination::Kind::Service(discovery::Service {
                namespace: service.name.namespace().to_owned(),
                name: service.name.name().to_owned(),
                port: service.port.into(),
                endpoints: service.endpoints.values().map(|endpoint| (&**endpoint).into()).collect(),
                routes: Some(service.routes.to_wire(&service.name, service.port)),
                hint: discovery::ProtocolHint::from(service.hint).into(),
                balancing: Some(service.balancing.into()),
            }),
            Destination::Pod(pod) => destination::Kind::Pod(discovery::Pod {
                endpoint: Some((&*pod.endpoint).into()),
                headless: pod.headless.iter().map(|(name, port)| to_service_port(name, *port)).collect(),
                hint: discovery::ProtocolHint::from(pod.hint).into(),
            }),
            Destination::Unknown => destination::Kind::Unknown(discovery::Unknown {}),
        };
        Self { kind: Some(kind) }
    }
}

/// An endpoint, by its address.
///
/// # Errors
/// When it is not one.
pub fn endpoint(wire: &discovery::Endpoint) -> Result<(SocketAddr, Arc<Endpoint>), WireError> {
    let endpoint = Endpoint::try_from(wire)?;
    Ok((endpoint.address, Arc::new(endpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headless_service_is_known_by_the_names_that_dns_has_for_it() {
        let service = ServiceName::new("emojivoto", "voting-svc").unwrap();
        let endpoint =
            Endpoint { address: ([10, 244, 1, 1], 8080).into(), pod: None, workload: None, identity: None, zone: None };
        let (endpoint, headless) = (Arc::new(endpoint), vec![(service, 8080)]);
        let pod = Destination::Pod(Pod { endpoint, headless, hint: ProtocolHint::None });
        for (authority, known) in [
            ("voting-svc:8080", true),
            ("voting-svc.emojivoto:8080", true),
            ("Voting-Svc.emojivoto.svc:8080", true),
            ("voting-svc.emojivoto.svc.cluster.local:8080", true),
            ("voting-svc.emojivoto.svc.cluster.local.:8080", true),
            ("voting-svc.emojivoto", false),
            ("voting-svc.emojivoto:8081", false),
            ("voting-svc.other:8080", false),
            ("voting-svc.emojivoto.com:8080", false),
            ("evil.example:8080", false),
            ("10.244.1.1:8080", false),
            ("", false),
        ] {
            assert_eq!(pod.headless(authority).is_some(), known, "{authority}");
        }
        assert_eq!(Destination::Unknown.headless("voting-svc:8080"), None);
    }
}
