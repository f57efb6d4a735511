//! No acknowledged write is lost, and clients were told one history (linearizability; `conduit_chaos::history` says how it is
//! checked, and by whom it was defined).

use conduit_chaos::history::History;

pub fn check(history: &History) {
    if let Err(violation) = history.check() {
        panic!("{violation}");
    }
    assert!(history.reads.len() > 100, "{} reads", history.reads.len());
}
