//! Election safety and leader completeness (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014,
//! figure 3; sections 5.2 and 5.4).
//!
//! openraft's leadership is a term and a node, so that there is one leader to a leadership by its very name, and two nodes may
//! follow each other in one term. What must hold is what elections are for: whoever is established as a leader has everything
//! that was acknowledged before.

use std::collections::BTreeSet;

use conduit_api::NodeId;

use super::world::Seen;

#[derive(Default)]
pub struct ElectionSafety {
    established: BTreeSet<(u64, NodeId)>,
    /// Acknowledged by the end of the last step.
    acknowledged: usize,
}

impl ElectionSafety {
    pub fn look(&mut self, seen: &Seen) {
        for (replica, cluster) in &seen.running {
            let leads = cluster.leadership().borrow().is_some();
            let term = cluster.status().borrow().term;
            if leads && self.established.insert((term, cluster.id())) {
                let revision = cluster.state().borrow().revision().as_u64();
                let missing = seen.acknowledged[..self.acknowledged].iter().find(|at| **at > revision);
                assert!(missing.is_none(), "replica {replica} leads in term {term} at {revision} without {missing:?}");
            }
        }
        self.acknowledged = seen.acknowledged.len();
    }
}
