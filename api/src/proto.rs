//! Generated messages, clients and servers; the comments are in `proto/*.proto`.

#![allow(missing_docs, reason = "generated code")]
#![allow(clippy::all, reason = "generated code")]

/// The packages as the generated code refers to each other: `conduit.<service>.v1`.
mod conduit {
    macro_rules! packages {
        ($($name:ident $package:literal),* $(,)?) => {
            $(pub mod $name {
                pub mod v1 {
                    tonic::include_proto!($package);
                }
            })*
        };
    }

    packages! {
        cache "conduit.cache.v1",
        common "conduit.common.v1",
        discovery "conduit.discovery.v1",
        identity "conduit.identity.v1",
        local "conduit.local.v1",
        peer "conduit.peer.v1",
        public "conduit.public.v1",
        route "conduit.route.v1",
        tap "conduit.tap.v1",
        telemetry "conduit.telemetry.v1",
    }
}

/// SPIFFE's own, which has no package.
pub mod workload {
    tonic::include_proto!("_");
}

/// OpenTelemetry's own.
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

pub use conduit::cache::v1 as cache;
pub use conduit::common::v1 as common;
pub use conduit::discovery::v1 as discovery;
pub use conduit::identity::v1 as identity;
pub use conduit::local::v1 as local;
pub use conduit::peer::v1 as peer;
pub use conduit::public::v1 as public;
pub use conduit::route::v1 as route;
pub use conduit::tap::v1 as tap;
pub use conduit::telemetry::v1 as telemetry;

/// All of the above as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
