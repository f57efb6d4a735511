//! Convergence after heal: with a majority in touch, proposals are committed again (Raft, section 5.6), and all replicas come to show
//! the same state, with everything in it that was acknowledged.

use super::world::Seen;

pub fn reached(seen: &Seen, replicas: usize) -> bool {
    let states: Vec<_> = seen.running.values().map(|cluster| cluster.state().borrow().clone()).collect();
    let last = seen.acknowledged.iter().max().copied().unwrap_or_default();
    states.len() == replicas
        && states.windows(2).all(|pair| pair[0] == pair[1])
        && states.iter().all(|state| state.revision().as_u64() >= last)
}
