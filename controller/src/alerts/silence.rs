//! Since when replicas have not answered: for a while their proxies' counts are missing, and then they have no proxies. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use conduit_api::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Clones are the same.
#[derive(Clone, Default)]
pub struct Silence(Arc<Mutex<BTreeMap<NodeId, Instant>>>);

impl Silence {
    /// Takes over who has not answered now, and says who has not since `patience` ago. Who has answered meanwhile begins anew.
    pub fn gone(&self, now: Instant, silent: &BTreeSet<NodeId>, patience: Duration) -> BTreeSet<NodeId> {
        let mut since = self.0.lock();
        since.retain(|node, _| silent.contains(node));
        for node in silent {
            since.entry(*node).or_insert(now);
        }
        since.iter().filter(|(_, since)| now.duration_since(**since) >= patience).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_a_while_is_gone_until_it_answers() {
        let (silence, start, patience) = (Silence::default(), Instant::now(), Duration::from_secs(15));
        for (second, silent, gone) in [
            (0, &[1, 2][..], &[][..]),
            (14, &[1, 2], &[]),
            // The second one has answered once.
            (15, &[1], &[1]),
            (16, &[1, 2], &[1]),
            (31, &[1, 2], &[1, 2]),
            (32, &[], &[]),
            (33, &[1], &[]),
        ] {
            let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId::new(*id)).collect::<BTreeSet<_>>();
            let found = silence.gone(start + Duration::from_secs(second), &nodes(silent), patience);
            assert_eq!(found, nodes(gone), "{second}");
        }
    }
}
