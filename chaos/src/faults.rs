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

/// The steps of `seed` for so many replicas, without end.
pub fn steps(seed: u64, replicas: usize) -> impl Iterator<Item = Step> {
    let mut random = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let replica = random.random_range(0..replicas);
        let fault = match random.random_range(0..20) {
            0..5 => Fault::KillLeader,
            5..8 => Fault::Kill(replica),
            8..10 => Fault::KillAll,
            10..14 => Fault::PauseLeader,
            14..16 => Fault::Pause(replica),
            16..18 => Fault::TerminateLeader,
            18 => Fault::LoseDisk(replica),
            _ => Fault::DamageDisk(replica, random.random_range(0..1_000)),
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
        let of = |seed| steps(seed, 3).take(200).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert!(of(7).iter().any(|step| matches!(step.fault, Fault::DamageDisk(..))));
        for fault in [Fault::KillLeader, Fault::KillAll, Fault::PauseLeader, Fault::TerminateLeader, Fault::LoseDisk(2)]
        {
            assert!(of(7).iter().any(|step| step.fault == fault), "{fault}");
        }
    }
}
