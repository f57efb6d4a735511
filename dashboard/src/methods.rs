//! Which methods of the public API are served, by name.

use std::collections::BTreeMap;

use conduit_api::{access::METHODS, proto::DESCRIPTORS};
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// The service that is served.
const SERVICE: &str = "conduit.public.v1.Api";

/// Those that change something. The ones for the day on which a majority is gone, and those that move the whole state, are
/// for the command line alone.
const WRITES: &[&str] = &[
    "Apply",
    "CaDeny",
    "CaFederate",
    "CaRevoke",
    "CaRotate",
    "RemoveMember",
    "RemoveObjective",
    "Rollback",
    "SetObjective",
    "TransferLeader",
];

/// Looks, but at what applications send: for the command line alone, which somebody asks on purpose.
const PAYLOADS: &str = "TapPayload";

/// The methods of a router.
pub(crate) struct Methods {
    by_name: BTreeMap<&'static str, Method>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Method {
    pub(crate) descriptor: MethodDescriptor,
    /// As gRPC calls it: `/package.Service/Method`.
    pub(crate) path: http::uri::PathAndQuery,
    /// Asking twice is as good as asking once.
    pub(crate) reads: bool,
}

impl Methods {
    pub(crate) fn new(writes: bool) -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the contract was compiled when this was");
        let service = pool.get_service_by_name(SERVICE).expect("the contract has the public API");
        let served = METHODS.iter().filter(|method| method.looks && method.name != PAYLOADS);
        let served = served.map(|method| (method.name, true));
        let served = served.chain(WRITES.iter().filter(|_| writes).map(|name| (*name, false)));
        let by_name = served.filter_map(|(name, reads)| {
            // A method of this list that the contract does not have is tested for below.
            let descriptor = service.methods().find(|method| method.name() == name)?;
            let path = format!("/{SERVICE}/{name}").parse().expect("names are path segments");
            Some((name, Method { descriptor, path, reads }))
        });
        Self { by_name: by_name.collect() }
    }

    /// By their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Method)> {
        self.by_name.iter().map(|(name, method)| (*name, method))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Method> {
        self.by_name.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_listed_is_in_the_contract() {
        let methods = Methods::new(true);
        for name in WRITES {
            let method = methods.find(name).unwrap_or_else(|| panic!("{name} is no method"));
            assert!(!method.reads && !method.descriptor.is_client_streaming(), "{name}");
        }
    }

    #[test]
    fn what_changes_something_must_be_allowed() {
        for (writes, name, is_served) in [
            (false, "Stat", true),
            (false, "CaRotate", false),
            (true, "CaRotate", true),
            (true, "Recover", false),
            (true, "SaveSnapshot", false),
            (true, "RestoreSnapshot", false),
            (true, "TapPayload", false),
        ] {
            assert_eq!(Methods::new(writes).find(name).is_some(), is_served, "{name}, writes: {writes}");
        }
    }
}
