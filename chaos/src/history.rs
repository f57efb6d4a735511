//! What clients did and were told, and whether a control plane whose replicas agree could have told them that. Pure.
//!
//! The replicated state is a set of registers, and every committed write has a revision: its place in the log. That place is
//! the witness which a search for a linearization (Herlihy and Wing, "Linearizability", 1990) would have to find, so that
//! checking takes a sort instead of a search:
//!
//! - **Order**: a write that began after another had been acknowledged has the higher revision.
//! - **Nothing lost, nothing made up, prefix**: what a replica shows at revision R is, register by register, the last
//!   acknowledged write up to R, or one whose fate its client never learned and that had begun.
//! - **Agreement** (state machine safety; Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014,
//!   figure 3): two replicas that are at one revision show the same.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

/// A register.
pub type Key = u32;
/// What is written to it; every write has its own.
pub type Value = u32;
/// A place in the log.
pub type Revision = u64;

/// A write to a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When it was asked for, since the run began.
    pub began: Duration,
    /// When its client learned its fate, or gave it up.
    pub ended: Duration,
    /// Which register.
    pub key: Key,
    /// What.
    pub value: Value,
    /// What the client was told.
    pub fate: Fate,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Committed, at this revision.
    Committed(Revision),
    /// Committed by an earlier attempt whose answer was lost, at this revision or an earlier one.
    CommittedBy(Revision),
    /// Perhaps.
    Unknown,
}

/// What a replica showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which replica.
    pub replica: usize,
    /// When it was asked, since the run began.
    pub began: Duration,
    /// When it answered.
    pub ended: Duration,
    /// How far it was.
    pub revision: Revision,
    /// All registers that were ever written.
    pub registers: BTreeMap<Key, Value>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In any order.
    pub writes: Vec<Write>,
    /// In any order.
    pub reads: Vec<Read>,
}

/// What cannot have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two writes at one place.
    SameRevision(Box<(Write, Write)>),
    /// The second began after the first was acknowledged, and has the lower revision.
    Reordered(Box<(Write, Write)>),
    /// A replica shows a value that nobody wrote, or that somebody wrote later.
    MadeUp(Box<Read>, Key, Value),
    /// A replica does not show an acknowledged write that it must have had.
    Lost(Box<Read>, Box<Write>, Option<Value>),
    /// Two replicas at one revision show different states.
    Disagreement(Box<(Read, Read)>),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameRevision(both) => write!(f, "one revision for two writes: {:?} and {:?}", both.0, both.1),
            Self::Reordered(both) => write!(f, "reordered: {:?} was acknowledged before {:?} began", both.0, both.1),
            Self::MadeUp(read, key, value) => write!(
                f,
                "replica {} at revision {} shows {value} in register {key}, which nobody had written by then",
                read.replica, read.revision
            ),
            Self::Lost(read, written, shown) => write!(
                f,
                "replica {} at revision {} shows {shown:?} in register {}, and has lost {written:?}",
                read.replica, read.revision, written.key
            ),
            Self::Disagreement(both) => write!(
                f,
                "at revision {} replica {} shows {:?} and replica {} shows {:?}",
                both.0.revision, both.0.replica, both.0.registers, both.1.replica, both.1.registers
            ),
        }
    }
}

impl History {
    /// The first thing that cannot have been.
    ///
    /// # Errors
    /// With that.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_order()?;
        self.check_reads()?;
        self.check_agreement()
    }

    fn committed(&self) -> Vec<(Revision, &Write)> {
        let committed = self.writes.iter().filter_map(|write| match write.fate {
            Fate::Committed(revision) => Some((revision, write)),
            Fate::CommittedBy(_) | Fate::Unknown => None,
        });
        let mut committed: Vec<_> = committed.collect();
        committed.sort_by_key(|(revision, _)| *revision);
        committed
    }

    fn check_order(&self) -> Result<(), Violation> {
        let committed = self.committed();
        for pair in committed.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(Violation::SameRevision(Box::new((pair[0].1.clone(), pair[1].1.clone()))));
            }
        }
        // Of all writes with a higher revision, the one that was acknowledged first.
        let mut first_ended: Option<&Write> = None;
        for (_, write) in committed.iter().rev() {
            if let Some(later) = first_ended.filter(|later| later.ended < write.began) {
                return Err(Violation::Reordered(Box::new((later.clone(), (*write).clone()))));
            }
            if first_ended.is_none_or(|first| write.ended < first.ended) {
                first_ended = Some(write);
            }
        }
        Ok(())
    }

    fn check_reads(&self) -> Result<(), Violation> {
        let by_value: HashMap<Value, &Write> = self.writes.iter().map(|write| (write.value, write)).collect();
        let mut by_key: BTreeMap<Key, Vec<(Revision, &Write)>> = BTreeMap::new();
        for (revision, write) in self.committed() {
            by_key.entry(write.key).or_default().push((revision, write));
        }
        for read in &self.reads {
            for (key, value) in &read.registers {
                let written = by_value.get(value).filter(|write| write.key == *key && write.began <= read.ended);
                let in_time = written.is_some_and(|write| match write.fate {
                    Fate::Committed(revision) => revision <= read.revision,
                    Fate::CommittedBy(_) | Fate::Unknown => true,
                });
                if !in_time {
                    return Err(Violation::MadeUp(Box::new(read.clone()), *key, *value));
                }
            }
            for (key, writes) in &by_key {
                let last = writes.partition_point(|(revision, _)| *revision <= read.revision);
                let Some((_, last)) = last.checked_sub(1).map(|last| writes[last]) else { continue };
                let shown = read.registers.get(key).copied();
                // One of unknown fate may have come after it.
                let allowed = shown.is_some_and(|shown| {
                    shown == last.value || by_value.get(&shown).is_some_and(|w| !matches!(w.fate, Fate::Committed(_)))
                });
                if !allowed {
                    return Err(Violation::Lost(Box::new(read.clone()), Box::new(last.clone()), shown));
                }
            }
        }
        Ok(())
    }

    fn check_agreement(&self) -> Result<(), Violation> {
        let mut at: HashMap<Revision, &Read> = HashMap::new();
        for read in &self.reads {
            let other = at.entry(read.revision).or_insert(read);
            if other.registers != read.registers {
                return Err(Violation::Disagreement(Box::new(((*other).clone(), read.clone()))));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(began: u64, ended: u64, key: Key, value: Value, fate: Fate) -> Write {
        Write { began: ms(began), ended: ms(ended), key, value, fate }
    }

    fn read(at: u64, revision: Revision, registers: &[(Key, Value)]) -> Read {
        let registers = registers.iter().copied().collect();
        Read { replica: 0, began: ms(at), ended: ms(at), revision, registers }
    }

    fn check(writes: &[Write], reads: &[Read]) -> Result<(), Violation> {
        History { writes: writes.to_vec(), reads: reads.to_vec() }.check()
    }

    #[test]
    fn what_can_have_been() {
        let writes = [
            write(0, 2, 1, 10, Fate::Committed(5)),
            // Beside the first, in either order.
            write(1, 3, 1, 11, Fate::Committed(4)),
            write(4, 9, 1, 12, Fate::Unknown),
            write(4, 9, 2, 13, Fate::CommittedBy(8)),
        ];
        let reads = [
            read(3, 3, &[]),
            read(3, 4, &[(1, 11)]),
            read(3, 5, &[(1, 10)]),
            read(5, 6, &[(1, 12)]),
            read(9, 8, &[(1, 12), (2, 13)]),
        ];
        assert_eq!(check(&writes, &reads), Ok(()));
    }

    #[test]
    fn what_cannot_have_been() {
        let (first, second) = (write(0, 2, 1, 10, Fate::Committed(5)), write(3, 4, 1, 11, Fate::Committed(4)));
        assert!(matches!(check(&[first.clone(), second], &[]), Err(Violation::Reordered(_))));
        let same = write(1, 4, 2, 11, Fate::Committed(5));
        assert!(matches!(check(&[first.clone(), same], &[]), Err(Violation::SameRevision(_))));
        for (revision, shown) in [(5, &[][..]), (7, &[]), (7, &[(2, 10)])] {
            let violation = check(std::slice::from_ref(&first), &[read(9, revision, shown)]).unwrap_err();
            assert!(matches!(violation, Violation::Lost(..) | Violation::MadeUp(..)), "{violation}");
        }
        let early = check(std::slice::from_ref(&first), &[read(9, 4, &[(1, 10)])]);
        assert!(matches!(early, Err(Violation::MadeUp(..))), "shown before its revision");
        let future = write(20, 21, 1, 12, Fate::Unknown);
        let shown = check(&[first.clone(), future], &[read(9, 6, &[(1, 12)])]);
        assert!(matches!(shown, Err(Violation::MadeUp(..))), "shown before it began");
        let overwritten = write(3, 4, 1, 11, Fate::Committed(6));
        let stale = check(&[first.clone(), overwritten], &[read(9, 6, &[(1, 10)])]);
        assert!(matches!(stale, Err(Violation::Lost(..))), "overwritten, and shown again");
        let maybe = write(3, 4, 1, 11, Fate::Unknown);
        let reads = [read(9, 6, &[(1, 10)]), Read { replica: 1, ..read(9, 6, &[(1, 11)]) }];
        assert!(matches!(check(&[first, maybe], &reads), Err(Violation::Disagreement(_))));
    }

    proptest! {
        /// Whatever one register machine does, seen by readers who are late by any amount, is accepted; and with two of its
        /// values exchanged it is not.
        #[test]
        fn a_log_is_accepted_and_a_forged_one_is_not(
            ops in proptest::collection::vec((0_u32..4, 1_u64..5), 2..40),
            lag in proptest::collection::vec(0_usize..5, 40),
        ) {
            let mut history = History::default();
            let (mut states, mut state, mut now) = (Vec::new(), BTreeMap::new(), 0);
            for (i, (key, took)) in ops.iter().enumerate() {
                let (value, revision) = (i as u32 + 100, i as u64 + 1);
                history.writes.push(write(now, now + took, *key, value, Fate::Committed(revision)));
                now += took + 1;
                state.insert(*key, value);
                states.push((revision, state.clone()));
                let (revision, registers) = states[i.saturating_sub(lag[i])].clone();
                history.reads.push(Read { replica: 0, began: ms(now), ended: ms(now), revision, registers });
            }
            prop_assert_eq!(history.check(), Ok(()));
            let last = history.writes.len() - 1;
            let (a, b) = (history.writes[0].fate, history.writes[last].fate);
            (history.writes[0].fate, history.writes[last].fate) = (b, a);
            prop_assert!(history.check().is_err());
        }
    }
}
