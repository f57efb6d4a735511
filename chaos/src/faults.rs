//! What is broken, and when: drawn from a seed. Pure.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// One thing that goes wrong, and is put right again after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of whoever leads.
    KillLeader,
    /// `kill -9` of a replica.
    Kill(usize),
    /// `kill -9` of all at the same moment: a power cut.
    KillAll,
    /// SIGSTOP of whoever leads: it holds its connections and says nothing.
    PauseLeader,
    /// SIGSTOP of a replica.
    Pause(usize),
    /// SIGTERM of whoever leads: a rolling upgrade.
    TerminateLeader,
    /// `kill -9` of a replica whose disk is gone then as well.
    LoseDisk(usize),
    /// A replica and all others do not reach each other; clients reach all.
    Isolate(usize),
    /// The same, of whoever leads.
    IsolateLeader,
    /// What the first sends does not reach the second; the other way it does.
    OneWay(usize, usize),
    /// Two do not reach each other; those between them reach both.
    Bridge(usize, usize),
    /// `kill -9` of a replica, in whose file then a few bytes are others: so many thousandths of the way through it.
    DamageDisk(usize, u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillLeader => f.write_str("kill -9 of the leader"),
            Self::Kill(replica) => write!(f, "kill -9 of controller-{replica}"),
            Self::KillAll => f.write_str("kill -9 of all"),
            Self::PauseLeader => f.write_str("SIGSTOP of the leader"),
            Self::Pause(replica) => write!(f, "SIGSTOP of controller-{replica}"),
            Self::TerminateLeader => f.write_str("SIGTERM of the leader"),
            Self::Isolate(replica) => write!(f, "controller-{replica} is cut off from the others"),
            Self::IsolateLeader => f.write_str("the leader is cut off from the others"),
            Self::OneWay(from, to) => write!(f, "controller-{from} does not reach controller-{to}"),
            Self::Bridge(a, b) => write!(f, "controller-{a} and controller-{b} do not reach each other"),
            Self::LoseDisk(replica) => write!(f, "controller-{replica} loses its disk"),
            Self::DamageDisk(replica, at) => write!(f, "controller-{replica} has a bad sector at {at}‰ of its disk"),
        }
    }
}

/// A fault, the quiet before it, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the previous one was put right.
    pub after: Duration,
    /// What.
    pub fault: Fault,
    /// Until it is put right.
    pub lasts: Duration,
}

/// Long enough for some writes, short enough for many faults.
const QUIET_MS: std::ops::Range<u64> = 100..1_500;
/// From less than a heartbeat to more than two elections.
const LASTS_MS: std::ops::Range<u64> = 20..3_500;

/// The steps of `seed` for so many replicas, without end; `cuts` is whether their connections can be cut.
pub fn steps(seed: u64, replicas: usize, cuts: bool) -> impl Iterator<Item = Step> {
    let mut random = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let replica = random.random_range(0..replicas);
        let other = (replica + random.random_range(1..replicas.max(2))) % replicas;
        let fault = match random.random_range(0..if cuts { 30 } else { 20 }) {
            0..5 => Fault::KillLeader,
            5..8 => Fault::Kill(replica),
            8..10 => Fault::KillAll,
            10..14 => Fault::PauseLeader,
            14..16 => Fault::Pause(replica),
            16..18 => Fault::TerminateLeader,
            18 => Fault::LoseDisk(replica),
            19 => Fault::DamageDisk(replica, random.random_range(0..1_000)),
            20..23 => Fault::IsolateLeader,
            23..25 => Fault::Isolate(replica),
            25..28 => Fault::OneWay(replica, other),
            _ => Fault::Bridge(replica, other),
        };
        let after = Duration::from_millis(random.random_range(QUIET_MS));
        Step { after, fault, lasts: Duration::from_millis(random.random_range(LASTS_MS)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let of = |seed| steps(seed, 3, true).take(300).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!(of(7).iter().any(|step| matches!(step.fault, Fault::DamageDisk(..))));
        assert!(of(7).iter().any(|step| matches!(step.fault, Fault::OneWay(from, to) if from != to)));
        let cut = |step: &Step| {
            matches!(step.fault, Fault::Isolate(_) | Fault::IsolateLeader | Fault::OneWay(..) | Fault::Bridge(..))
        };
        assert!(of(7).iter().any(cut) && !steps(7, 3, false).take(300).any(|step| cut(&step)));
        for fault in [Fault::KillLeader, Fault::KillAll, Fault::PauseLeader, Fault::TerminateLeader, Fault::LoseDisk(2)]
        {
            assert!(of(7).iter().any(|step| step.fault == fault), "{fault}");
        }
    }
}
