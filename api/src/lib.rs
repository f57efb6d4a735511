//! The wire contract and the shared vocabulary of Conduit. No I/O.
//!
//! - [`proto`]: the gRPC services, generated from `proto/`.
//! - [`spiffe`]: who a workload is. [`mesh`]: what runs, and where. [`revision`]: when it changed. [`node`]: which replica.
//!   [`target`]: what proxies ask about. [`port`]: what to expect there. [`route`]: which requests go where; [`filters`]: what else
//!   becomes of them; [`gateway`]: how people say it.
//! - [`objective`]: what people promise of their services.
//! - [`journal`]: what proxies write down of requests one by one; [`redaction`]: what nobody is shown of messages. [`tap`]: whose are shown.
//! - [`latency`]: the buckets in which proxies count and controllers take percentiles. [`window`]: over how long.
//! - [`access`]: which of its methods people may call in Kubernetes.
//! - [`codec`]: how much memory a call takes. [`process`]: how much of a machine a process takes.
//! - [`exposition`]: in which text metrics are told. [`grpc`]: its status codes. [`failover`]: which errors are those of one replica. [`refusals`]: what commands know again.
//! - [`text`]: how much of it is kept. [`duration`]: as people write it.
//! - [`wire`]: between the vocabulary and the messages, so that everything else holds parsed types.

pub mod access;
pub mod codec;
pub mod duration;
pub mod exposition;
pub mod failover;
pub mod filters;
pub mod gateway;
pub mod grpc;
pub mod journal;
pub mod latency;
pub mod mesh;
pub mod node;
pub mod objective;
pub mod port;
pub mod process;
pub mod proto;
pub mod redaction;
pub mod refusals;
pub mod revision;
pub mod route;
pub mod spiffe;
pub mod tap;
pub mod target;
pub mod text;
pub mod window;
pub mod wire;

pub use mesh::{
    Balancing, Endpoint, Pod, PodName, PodPorts, RouteName, Service, ServiceName, ServicePort, WorkloadRef,
};
pub use node::NodeId;
pub use objective::{Goal, Indicator, Objective, ResourceName};
pub use port::{PortRange, ProtocolHint};
pub use revision::Revision;
pub use route::{HttpRoute, RouteTable};
pub use spiffe::{SpiffeId, TrustDomain};
pub use target::Target;

/// The version of this release, as every component prints it: `v0.1.0`.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
