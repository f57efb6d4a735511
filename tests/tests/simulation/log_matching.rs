//! Log matching (Raft, figure 3 and section 5.3): if two logs have an entry of the same leadership at one index, they are the same up
//! to there, as far as they both go back.

use super::world::Seen;

pub fn look(seen: &Seen) {
    let logs: Vec<_> = seen.running.iter().map(|(replica, cluster)| (replica, cluster.log().unwrap())).collect();
    for (i, (a, log_a)) in logs.iter().enumerate() {
        for (b, log_b) in &logs[..i] {
            let mut matched = false;
            for (index, entry) in log_a.iter().rev() {
                let Some(other) = log_b.get(index) else { continue };
                matched |= entry.leadership == other.leadership;
                let same = !matched || entry == other;
                assert!(same, "replicas {a} and {b} agree on a later entry, and not on {index}: {entry:?}, {other:?}");
            }
        }
    }
}
