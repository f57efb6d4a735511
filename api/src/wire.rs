//! Between the vocabulary and the messages. Parsing happens here, once; what comes out is held as it is.

use std::net::{IpAddr, SocketAddr};

use crate::{
    mesh::{self, ParseNameError},
    proto::{common, discovery},
    route::RouteError,
    spiffe::ParseSpiffeError,
};

/// A message that a well-behaved peer does not send.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A field that the protocol requires.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// Neither 4 nor 16 bytes.
    #[error("an IP address has 4 or 16 bytes, not {0}")]
    IpLength(usize),
    /// Above 65535.
    #[error("{0} is not a port")]
    Port(u32),
    /// A name that is not one.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// An identity that is not one.
    #[error(transparent)]
    Spiffe(#[from] ParseSpiffeError),
    /// A route that is not allowed.
    #[error(transparent)]
    Route(#[from] RouteError),
}

impl From<SocketAddr> for common::SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: octets(address.ip()), port: address.port().into() }
    }
}

impl TryFrom<&common::SocketAddress> for SocketAddr {
    type Error = WireError;

    fn try_from(wire: &common::SocketAddress) -> Result<Self, WireError> {
        Ok(Self::new(ip(&wire.ip)?, port(wire.port)?))
    }
}

/// An IP address in network order.
///
/// # Errors
/// When it has neither 4 nor 16 bytes.
pub fn ip(bytes: &[u8]) -> Result<IpAddr, WireError> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| WireError::IpLength(bytes.len()))
}

/// The same, as it is sent.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A port that came as an `uint32`.
///
/// # Errors
/// When it is above 65535.
pub fn port(wire: u32) -> Result<u16, WireError> {
    u16::try_from(wire).map_err(|_| WireError::Port(wire))
}

impl From<&mesh::PodName> for common::ResourceRef {
    fn from(pod: &mesh::PodName) -> Self {
        Self { kind: "pod".to_owned(), namespace: pod.namespace().to_owned(), name: pod.name().to_owned() }
    }
}

impl mesh::WorkloadRef {
    /// As the wire names it; a workload is in its pod's namespace.
    pub fn to_wire(&self, namespace: &str) -> common::ResourceRef {
        common::ResourceRef { kind: self.kind.clone(), namespace: namespace.to_owned(), name: self.name.clone() }
    }
}

impl From<&mesh::Endpoint> for discovery::Endpoint {
    fn from(endpoint: &mesh::Endpoint) -> Self {
        let workload = endpoint.pod.as_ref().zip(endpoint.workload.as_ref());
        Self {
            address: Some(endpoint.address.into()),
            pod: endpoint.pod.as_ref().map(Into::into),
            workload: workload.map(|(pod, workload)| workload.to_wire(pod.namespace())),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            zone: endpoint.zone.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<&discovery::Endpoint> for mesh::Endpoint {
    type Error = WireError;

    fn try_from(wire: &discovery::Endpoint) -> Result<Self, WireError> {
        let address = wire.address.as_ref().ok_or(WireError::Missing("endpoint.address"))?;
        let pod = wire.pod.as_ref().map(|pod| mesh::PodName::new(&pod.namespace, &pod.name)).transpose()?;
        let workload = wire.workload.as_ref();
        Ok(Self {
            address: address.try_into()?,
            pod,
            workload: workload.map(|w| mesh::WorkloadRef { kind: w.kind.clone(), name: w.name.clone() }),
            identity: (!wire.identity.is_empty()).then(|| wire.identity.parse()).transpose()?,
            zone: (!wire.zone.is_empty()).then(|| wire.zone.clone()),
        })
    }
}

impl From<mesh::Balancing> for discovery::Balancing {
    fn from(mesh::Balancing { strategy, prefer_own_zone }: mesh::Balancing) -> Self {
        let strategy = match strategy {
            mesh::Strategy::PeakEwma => discovery::balancing::Strategy::PeakEwma,
            mesh::Strategy::LeastRequest => discovery::balancing::Strategy::LeastRequest,
        };
        Self { strategy: strategy.into(), prefer_own_zone }
    }
}

/// A strategy that a later release has thought of is the usual one to this one.
impl From<&discovery::Balancing> for mesh::Balancing {
    fn from(wire: &discovery::Balancing) -> Self {
        let strategy = match wire.strategy() {
            discovery::balancing::Strategy::PeakEwma => mesh::Strategy::PeakEwma,
            discovery::balancing::Strategy::LeastRequest => mesh::Strategy::LeastRequest,
        };
        Self { strategy, prefer_own_zone: wire.prefer_own_zone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_wire() {
        for text in ["10.244.0.7:8080", "[fd00::7]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::try_from(&common::SocketAddress::from(address)), Ok(address));
        }
        let bad = common::SocketAddress { ip: vec![1, 2, 3], port: 80 };
        assert_eq!(SocketAddr::try_from(&bad), Err(WireError::IpLength(3)));
        let bad = common::SocketAddress { ip: vec![10, 0, 0, 1], port: 65_536 };
        assert_eq!(SocketAddr::try_from(&bad), Err(WireError::Port(65_536)));
    }

    #[test]
    fn endpoints_survive_the_wire() {
        let endpoint = mesh::Endpoint {
            address: "10.244.0.7:8080".parse().unwrap(),
            pod: Some(mesh::PodName::new("emojivoto", "voting-0").unwrap()),
            workload: Some(mesh::WorkloadRef { kind: "deployment".into(), name: "voting".into() }),
            identity: Some("spiffe://cluster.local/ns/emojivoto/sa/voting".parse().unwrap()),
            zone: Some("eu-1a".into()),
        };
        assert_eq!(mesh::Endpoint::try_from(&discovery::Endpoint::from(&endpoint)), Ok(endpoint));
    }
}
