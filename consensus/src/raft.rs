//! openraft, with this crate's types filled in.

use std::time::Duration;

use conduit_api::NodeId;
use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};

use crate::{
    command::{Applied, Proposal},
    runtime::Runtime,
    store::machine::StateMachine,
};

openraft::declare_raft_types!(
    /// Log entries are [`Proposal`]s, members are [`Member`]s.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// A replica's core.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
/// A leadership, as entries carry it: term and node.
pub(crate) type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;

/// What the members know of each other. The address is data, never identity: it may be another one tomorrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The replica's stable name, e.g. `controller-0`. A replica that lost its disk comes back under the same name and
    /// another id.
    pub name: String,
    /// `host:port` of its peer port; the host is resolved at every connection.
    pub address: String,
    /// The highest kind of command that its release understands; see [`FEATURE_LEVEL`](crate::command::FEATURE_LEVEL).
    pub feature_level: u32,
}

/// How often replicas speak, and for how long one may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two signs of life of the leader.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for a random time between these two asks for votes.
    pub election_min: Duration,
    /// See `election_min`; also how long a leader without a quorum still accepts proposals.
    pub election_max: Duration,
}

impl Default for Timing {
    /// After the loss of a leader the first commit of the next one comes after 1.2 s on average, 1.4 s at most; and an fsync
    /// that takes 40 ms, as they do on a busy disk, is no reason for an election.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(650),
        }
    }
}

/// When the log is cut.
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub keep: u64,
    /// A follower further behind than this gets a snapshot rather than entries.
    pub lag: u64,
}

impl Default for Compaction {
    /// `keep` must not be small: a purge that overtakes a queued apply ends the core (openraft#2116).
    fn default() -> Self {
        Self { snapshot_every: 5_000, keep: 10_000, lag: 20_000 }
    }
}

/// A snapshot is sent, written and taken over within this. Ten thousands of endpoints are some megabytes; what openraft
/// allows by default, 200 ms, is less than one busy disk's fsync, and a follower that needs longer would never get there.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

impl Timing {
    pub(crate) fn config(&self, compaction: &Compaction) -> Config {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: "conduit".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // A replica that was cut off does not come back with a higher term and unseat a healthy leader.
            enable_pre_vote: Some(true),
            // Ends the deadlock of a leader that reaches one follower but no quorum (openraft#2080).
            quorum_loss_probe_interval: Some(ms(self.election_max * 2)),
            // A leader that restarts asks for votes like everybody: its leadership ended with its process.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.snapshot_every),
            max_in_snapshot_log_to_keep: compaction.keep,
            replication_lag_threshold: compaction.lag,
            install_snapshot_timeout: ms(SNAPSHOT_TIMEOUT),
            ..Config::default()
        }
    }
}
