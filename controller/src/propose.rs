//! Commands with who and when, as the log keeps them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conduit_consensus::{Applied, Cluster, Command, Fence, Proposal, ProposeError};

/// Proposes `command` on behalf of `who`; with a fence, only as long as that leadership lasts.
///
/// # Errors
/// When it is not known to be committed.
pub async fn fenced(
    cluster: &Cluster,
    who: &str,
    command: Command,
    fence: Option<Fence>,
) -> Result<Applied, ProposeError> {
    let proposal = Proposal::new(who, unix_ms(SystemTime::now()), command);
    cluster.propose(proposal, fence).await
}

/// Milliseconds since the Unix epoch; 0 before it.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// As many as there is room for.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
