//! Commands, the pure state machine, and the Raft that makes all replicas apply the same ones in the same order.
//!
//! ```text
//!   propose ─► (leader) ─► store::log on a quorum of disks ─► store::machine ─► MeshState::apply ─► watch::Receiver<Arc<MeshState>>
//!                 ▲
//!      peers, network (client) ◄──── mutual TLS ────► service (server)
//! ```
//!
//! [`state`] and [`command`] are pure. Everything else is openraft's shell, and small.

pub mod backup;
pub mod client;
pub mod cluster;
pub mod command;
mod network;
pub mod peers;
pub mod raft;
mod recovery;
pub mod runtime;
pub mod service;
pub mod state;
pub mod store;

pub use cluster::{Cluster, ClusterConfig, Fence, JoinError, MemberStatus, ProposeError, RaftStatus, Role};
pub use command::{
    Applied, Change, Command, DECLARATIONS_LEVEL, FEATURE_LEVEL, Link, OBJECTIVES_LEVEL, Outcome, Proposal, ProposalId,
};
pub use raft::{Compaction, Member, Timing};
pub use state::{
    AuditRecord, MeshState, Versioned,
    ca::{CaState, Denial, FederatedRecord, IssuerRecord, JwtKeyRecord, RootRecord, RootState, ServiceAccountKeys},
    learned::{Belief, Lesson},
    objectives::{AlertEvent, Delivery, Firing, OBJECTIVES_MAX, Severity, Transition},
};
