//! What a proxy asks the control plane about.

use std::net::SocketAddr;

use crate::{
    mesh::ServiceName,
    proto::{
        common,
        discovery::{self, target},
    },
    wire::{self, WireError},
};

/// What a proxy wants to know of, and is told of from then on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The original destination of a connection.
    Address(SocketAddr),
    /// A service port by name.
    Service(ServiceName, u16),
}

impl From<&Target> for discovery::Target {
    fn from(target: &Target) -> Self {
        let kind = match target {
            Target::Address(address) => target::Kind::Address(common::SocketAddress::from(*address)),
            Target::Service(name, port) => target::Kind::Service(to_service_port(name, *port)),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<&discovery::Target> for Target {
    type Error = WireError;

    fn try_from(wire: &discovery::Target) -> Result<Self, WireError> {
        match wire.kind.as_ref().ok_or(WireError::Missing("target.kind"))? {
            target::Kind::Address(address) => Ok(Self::Address(address.try_into()?)),
            target::Kind::Service(service) => {
                let (name, port) = service_port(service)?;
                Ok(Self::Service(name, port))
            }
        }
    }
}

/// A service port, as it goes over the wire.
pub fn to_service_port(name: &ServiceName, port: u16) -> discovery::ServicePortRef {
    let (namespace, name) = (name.namespace().to_owned(), name.name().to_owned());
    discovery::ServicePortRef { namespace, name, port: port.into() }
}

/// The reverse of [`to_service_port`].
///
/// # Errors
/// When it is none.
pub fn service_port(wire: &discovery::ServicePortRef) -> Result<(ServiceName, u16), WireError> {
    Ok((ServiceName::new(&wire.namespace, &wire.name)?, wire::port(wire.port)?))
}
