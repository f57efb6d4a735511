//! What time it is, and whether the other replicas think so too: a certificate that is valid from tomorrow on helps nobody.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use conduit_api::NodeId;
use tokio::time::sleep;
use tracing::warn;

use crate::{
    api::members::{Answers, ask_all},
    peer::server::Own,
    propose::unix_ms,
};

/// A replica whose clock is further from the one in the middle than this signs nothing: half of what peers forgive.
const OFFSET_MAX: Duration = Duration::from_secs(30);
/// Fewer clocks cannot say which of them is wrong.
const CLOCKS_MIN: usize = 3;
/// Between two comparisons: an operator who sets a clock notices before anybody else does.
const COMPARE: Duration = Duration::from_secs(10);
/// The same while there are too few to compare with, as after a start.
const COMPARE_SOON: Duration = Duration::from_secs(1);

/// This replica's clock. Cloned handles share what is known of it.
#[derive(Clone, Default)]
pub struct Clock {
    /// Seconds that it is made to be off by, to see what comes of it.
    shift_seconds: i64,
    offset_ms: Arc<AtomicI64>,
}

/// Replicas' clocks, in milliseconds since the Unix epoch, each against the one in the middle.
pub fn offsets(times: &BTreeMap<NodeId, u64>) -> BTreeMap<NodeId, i64> {
    let mut sorted: Vec<_> = times.values().copied().collect();
    sorted.sort_unstable();
    let Some(middle) = sorted.get(sorted.len().saturating_sub(1) / 2).copied() else { return BTreeMap::new() };
    times.iter().map(|(node, time)| (*node, time.cast_signed().wrapping_sub(middle.cast_signed()))).collect()
}

impl Clock {
    /// The machine's, off by `shift_seconds`.
    pub fn shifted(shift_seconds: i64) -> Self {
        Self { shift_seconds, offset_ms: Arc::default() }
    }

    /// What time it is here.
    pub fn now(&self) -> SystemTime {
        let shift = Duration::from_secs(self.shift_seconds.unsigned_abs());
        if self.shift_seconds < 0 { SystemTime::now() - shift } else { SystemTime::now() + shift }
    }

    /// How far it is from the one in the middle; `None` while that is no reason to mistrust it.
    pub fn mistrusted(&self) -> Option<Duration> {
        let offset = Duration::from_millis(self.offset_ms.load(Ordering::Relaxed).unsigned_abs());
        (offset > OFFSET_MAX).then_some(offset)
    }

    /// In milliseconds, as last compared; ahead is positive.
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    fn compared(&self, own: NodeId, times: &BTreeMap<NodeId, u64>) {
        // What was found by more of them stays true when some are down.
        if times.len() < CLOCKS_MIN {
            return;
        }
        let offset = offsets(times).get(&own).copied().unwrap_or_default();
        let was = self.mistrusted();
        self.offset_ms.store(offset, Ordering::Relaxed);
        if let (None, Some(offset)) = (was, self.mistrusted()) {
            warn!(?offset, "this replica's clock is not the others'; it signs no certificates until it is set right");
        }
    }
}

/// What each replica says that the time is.
pub fn times(answers: &Answers) -> BTreeMap<NodeId, u64> {
    answers.iter().filter_map(|(node, answer)| Some((*node, answer.as_ref()?.time_ms))).collect()
}

/// Compares for ever.
pub async fn keep_comparing(own: Own) {
    loop {
        let mut times = times(&ask_all(&own, false).await);
        // The others' answers took until now.
        times.insert(own.cluster.id(), unix_ms(own.clock.now()));
        own.clock.compared(own.cluster.id(), &times);
        sleep(if times.len() < CLOCKS_MIN { COMPARE_SOON } else { COMPARE }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(times: &[u64]) -> BTreeMap<NodeId, u64> {
        (1..).map(NodeId::new).zip(times.iter().map(|seconds| seconds * 1000)).collect()
    }

    #[test]
    fn the_one_in_the_middle_is_right() {
        let offsets = |seconds: &[u64]| offsets(&times(seconds)).into_values().map(|ms| ms / 1000).collect::<Vec<_>>();
        assert_eq!(offsets(&[100, 101, 500]), [-1, 0, 399]);
        assert_eq!(offsets(&[100, 101]), [0, 1]);
        assert_eq!(offsets(&[]), [0; 0]);
    }

    #[test]
    fn a_clock_is_mistrusted_when_two_others_agree_against_it() {
        let (clock, node) = (Clock::default(), NodeId::new(1));
        for (seconds, mistrusted) in [
            (&[200, 100, 101][..], true),
            (&[131, 100, 101], false),
            (&[20, 100, 101], true),
            (&[200, 100], true),
            (&[101, 100, 101], false),
            (&[200, 100], false),
            (&[200], false),
        ] {
            clock.compared(node, &times(seconds));
            assert_eq!(clock.mistrusted().is_some(), mistrusted, "{seconds:?}");
        }
    }
}
