//! Monotonic revisions per stream: what a replica shows never goes back while it runs, and a proxy that goes from replica to replica,
//! and refuses whoever is behind as the protocol says (`api/proto/conduit/discovery.proto`), sees all of them in order.

use std::collections::BTreeMap;

use conduit_api::Revision;
use rand::{RngExt as _, rngs::StdRng};

use super::world::Seen;

#[derive(Default)]
pub struct MonotonicRevisions {
    shown: BTreeMap<usize, Revision>,
    proxy: Revision,
    /// How often the proxy has met a replica that was behind: if never, nothing was tested.
    pub refused: u32,
}

impl MonotonicRevisions {
    pub fn look(&mut self, seen: &Seen, random: &mut StdRng) {
        // One that was started again begins with its snapshot.
        self.shown.retain(|replica, _| seen.running.contains_key(replica));
        for (replica, cluster) in &seen.running {
            let revision = cluster.state().borrow().revision();
            let before = self.shown.insert(*replica, revision).unwrap_or_default();
            assert!(revision >= before, "replica {replica} went back from {before} to {revision}");
        }
        let replicas: Vec<_> = self.shown.values().copied().collect();
        if !replicas.is_empty() {
            let asked = replicas[random.random_range(0..replicas.len())];
            if asked < self.proxy {
                self.refused += 1;
            }
            self.proxy = self.proxy.max(asked);
        }
    }
}
