//! What differs between the places where a mesh runs: a cluster of Kubernetes, or one machine.
//!
//! ```text
//!   platform (what runs) ──► reconciler ──► Raft                  the leader alone
//!   platform (what it keeps) ◄──► seed, sealed root, trust bundle, and who has started this control plane
//! ```

pub mod actor;
pub mod failing;
pub mod kubernetes;
pub mod local;
pub mod metrics;
pub mod reconciler;
pub mod told;

use std::time::Duration;

use conduit_api::Revision;
use conduit_ca::Seed;
use futures::stream::BoxStream;
use tokio::sync::watch;

use self::told::Told;

/// One of them.
#[tonic::async_trait]
pub trait Platform: Send + Sync {
    /// What runs: all of it at first, and then whenever it has changed. It is looked at as long as the stream is kept; while it cannot be, the
    /// stream says nothing. `level` is the feature level that all members understand.
    fn told(&self, level: watch::Receiver<u32>) -> BoxStream<'static, Told>;

    /// Whether it is the platform that people tell their routes, and not this control plane: what is said here it would undo.
    fn keeps_routes(&self) -> bool;

    /// The secret that all replicas of this control plane share.
    ///
    /// # Errors
    /// When it cannot be had; no other one is made in its place.
    async fn seed(&self) -> anyhow::Result<Seed>;

    /// Between two looks whether the seed is another one.
    fn seed_poll(&self) -> Duration;

    /// Whether `node` is the replica that starts the control plane. Exactly one ever is, also when it died in between and comes back to
    /// finish. One that is `alone`, and has lost its disk, may do it again.
    ///
    /// # Errors
    /// When nobody can say now.
    async fn pass_gate(&self, node: &str, alone: bool) -> anyhow::Result<bool>;

    /// Whether a person has said that `node`, which did not pass, starts the control plane anew. Nothing is changed by asking.
    ///
    /// # Errors
    /// When nobody can say now.
    async fn is_let_through(&self, _node: &str) -> anyhow::Result<bool> {
        Ok(false)
    }

    /// How a person says so; nothing, where nobody can.
    fn begin_anew_advice(&self, _node: &str) -> Option<String> {
        None
    }

    /// The sealed root as [`Platform::keep_root`] was given it last, by whichever replica.
    ///
    /// # Errors
    /// When it cannot be read; that there is none is no error.
    async fn kept_root(&self) -> anyhow::Result<Option<Vec<u8>>>;

    /// Keeps the sealed root of `revision` for the day on which the disks of all replicas are lost.
    ///
    /// # Errors
    /// When it is not kept.
    async fn keep_root(&self, sealed: &[u8], revision: Revision) -> anyhow::Result<()>;

    /// Puts the trust bundle of `revision`, in PEM, where every proxy finds it at its start.
    ///
    /// # Errors
    /// When nobody knows whether they would. A place that does not take it is tried again later.
    async fn publish_trust_bundle(&self, pem: &str, revision: Revision) -> anyhow::Result<()>;
}
