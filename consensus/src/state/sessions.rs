//! Which proposals have been applied, so that one which reaches the log twice is applied once.
//!
//! A proposal whose answer is lost is proposed again, perhaps to another leader, while the first attempt may still reach the
//! log. Applied twice, with somebody else's change in between, it would undo that change. (Ongaro, "Consensus: Bridging
//! Theory and Practice", section 6.3.)

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::command::ProposalId;

/// Processes that are remembered, the ones whose last proposal is longest ago are forgotten first: every replica of a large
/// control plane, and its last ten restarts.
const SESSIONS_MAX: usize = 64;
/// Numbers of one session that are told apart, counted back from the highest. A process proposes at most some thousand a
/// second, and gives one up after five seconds.
const WINDOW: u64 = 65_536;
const WORD_BITS: u64 = u64::BITS as u64;

/// One window to a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    windows: Arc<BTreeMap<u64, Arc<Window>>>,
    /// Counts proposals, for the order in which sessions were last used.
    applied: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    used: u64,
    highest: u64,
    /// Whether each of the last numbers was applied, by number modulo [`WINDOW`]. Only as long as it has to be.
    applied: Vec<u64>,
}

impl Sessions {
    /// Whether `id` was not applied before; from now on it was. One that is older than the window counts as applied.
    pub fn is_new(&mut self, id: ProposalId) -> bool {
        if id.number == 0 {
            return true;
        }
        self.applied = self.applied.saturating_add(1);
        let windows = Arc::make_mut(&mut self.windows);
        if !windows.contains_key(&id.session) && windows.len() >= SESSIONS_MAX {
            let oldest = windows.iter().min_by_key(|(_, window)| window.used).map(|(session, _)| *session);
            oldest.and_then(|session| windows.remove(&session));
        }
        let window = Arc::make_mut(windows.entry(id.session).or_default());
        window.used = self.applied;
        window.is_new(id.number)
    }
}

impl Window {
    fn is_new(&mut self, number: u64) -> bool {
        if self.highest.checked_sub(WINDOW).is_some_and(|oldest| number <= oldest) {
            return false;
        }
        // What lies between was not applied, whatever stood in its place a window ago.
        for skipped in (self.highest.saturating_add(1)..number).rev().take(WINDOW as usize) {
            self.set(skipped, false);
        }
        let is_new = number > self.highest || !self.get(number);
        self.highest = self.highest.max(number);
        self.set(number, true);
        is_new
    }

    fn get(&self, number: u64) -> bool {
        let (word, bit) = position(number);
        self.applied.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set(&mut self, number: u64, applied: bool) {
        let (word, bit) = position(number);
        if word >= self.applied.len() {
            if !applied {
                return;
            }
            self.applied.resize(word + 1, 0);
        }
        if applied {
            self.applied[word] |= bit;
        } else {
            self.applied[word] &= !bit;
        }
    }
}

fn position(number: u64) -> (usize, u64) {
    let place = number % WINDOW;
    ((place / WORD_BITS) as usize, 1 << (place % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id(session: u64, number: u64) -> ProposalId {
        ProposalId { session, number }
    }

    #[test]
    fn each_is_new_once() {
        let mut sessions = Sessions::default();
        assert!(sessions.is_new(id(1, 1)) && sessions.is_new(id(1, 3)) && sessions.is_new(id(2, 1)));
        assert!(!sessions.is_new(id(1, 1)) && !sessions.is_new(id(1, 3)));
        assert!(sessions.is_new(id(1, 2)) && !sessions.is_new(id(1, 2)));
        assert!(sessions.is_new(id(1, 0)) && sessions.is_new(id(1, 0)), "what has no number is not remembered");
        assert!(sessions.is_new(id(3, u64::MAX)) && !sessions.is_new(id(3, u64::MAX)));
        assert!(sessions.is_new(id(3, u64::MAX - 1)) && !sessions.is_new(id(3, 1)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut sessions = Sessions::default();
        for session in 0..10 * SESSIONS_MAX as u64 {
            assert!(sessions.is_new(id(session, 7)));
        }
        assert_eq!(sessions.windows.len(), SESSIONS_MAX);
        assert!(!sessions.is_new(id(10 * SESSIONS_MAX as u64 - 1, 7)), "the latest are the ones that are kept");
        for number in 1..3 * WINDOW {
            assert!(sessions.is_new(id(1, number)));
        }
        assert_eq!(sessions.windows[&1].applied.len() as u64, WINDOW / WORD_BITS);
        assert!(!sessions.is_new(id(1, 1)), "older than the window is not new");
    }

    proptest! {
        /// Numbers near each other, as a process gives them out, in any order and with repetitions and gaps.
        #[test]
        fn it_remembers_what_a_set_remembers(steps in proptest::collection::vec((0_u64..300, 0_u64..2000), 1..200)) {
            let (mut sessions, mut set, mut base) = (Sessions::default(), HashSet::new(), 1000);
            for (forward, back) in steps {
                base += forward * 50;
                let number = base - back.min(base - 1);
                prop_assert_eq!(sessions.is_new(id(1, number)), set.insert(number));
            }
        }
    }
}
