//! One initialiser: of replicas that are started in any order on empty disks exactly one starts the control plane (openraft,
//! `Raft::initialize`: two that do are two clusters).

use std::collections::BTreeSet;

use super::world::Seen;

pub fn check(seen: &Seen, replicas: usize) {
    assert_eq!(seen.initialised.len(), 1, "started by replicas {:?}", seen.initialised);
    let members = seen.running.values().map(|cluster| cluster.status().borrow().members.keys().copied().collect());
    let members: BTreeSet<Vec<_>> = members.collect();
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(members.first().unwrap().len(), replicas, "{members:?}");
}
