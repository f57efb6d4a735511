//! State machine safety (Raft, figure 3 and section 5.4.3): replicas that are at one revision show the same.

use std::{collections::BTreeMap, sync::Arc};

use conduit_api::Revision;
use conduit_consensus::MeshState;

use super::world::Seen;

#[derive(Default)]
pub struct StateMachineSafety {
    /// By whoever showed it first.
    shown: BTreeMap<Revision, Arc<MeshState>>,
    looked: BTreeMap<usize, Revision>,
}

impl StateMachineSafety {
    pub fn look(&mut self, seen: &Seen) {
        for (replica, cluster) in &seen.running {
            let state = cluster.state().borrow().clone();
            let revision = state.revision();
            if self.looked.insert(*replica, revision) != Some(revision) {
                let first = self.shown.entry(revision).or_insert_with(|| state.clone());
                let same = first.pods() == state.pods() && first.services() == state.services();
                assert!(same, "replica {replica} shows something else at revision {revision}");
            }
        }
    }
}
