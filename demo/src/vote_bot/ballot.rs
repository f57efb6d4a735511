//! What the bot votes for.

use rand::{Rng, RngExt as _};

use crate::catalog;

/// Of so many votes exactly one is for the emoji that fails, so that voting succeeds in 80 % of all calls, and `web`,
/// which is also asked for a list before each vote, in 90 %, in any minute that one looks at.
const ROUND: usize = 5;

/// Chooses at random, but in each round of [`ROUND`] votes once for the faulty emoji.
#[derive(Debug, Default)]
pub(super) struct Ballot {
    cast: usize,
    faulty_at: usize,
}

impl Ballot {
    /// The next vote; `choices` is not empty.
    pub(super) fn choose<'a>(&mut self, choices: &'a [String], rng: &mut impl Rng) -> &'a str {
        let at = self.cast % ROUND;
        if at == 0 {
            self.faulty_at = rng.random_range(0..ROUND);
        }
        self.cast = at + 1;
        let faulty = |choice: &&String| choice.as_str() == catalog::FAULTY;
        match choices.iter().find(faulty) {
            Some(choice) if at == self.faulty_at => choice,
            _ => random_but_faulty(choices, rng),
        }
    }
}

fn random_but_faulty<'a>(choices: &'a [String], rng: &mut impl Rng) -> &'a str {
    let index = rng.random_range(0..choices.len());
    if choices[index] != catalog::FAULTY {
        return &choices[index];
    }
    // Its neighbour instead, which is the faulty one again only if there is no other.
    &choices[(index + 1) % choices.len()]
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn one_vote_in_each_round_is_for_the_faulty_one() {
        let choices: Vec<_> = catalog::ALL.iter().map(|entry| entry.shortcode.to_owned()).collect();
        let (mut ballot, mut rng) = (Ballot::default(), StdRng::seed_from_u64(1));
        let votes: Vec<_> = (0..100 * ROUND).map(|_| ballot.choose(&choices, &mut rng)).collect();
        for round in votes.chunks(ROUND) {
            assert_eq!(round.iter().filter(|vote| **vote == catalog::FAULTY).count(), 1, "{round:?}");
        }
        let mut seen = votes;
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), catalog::ALL.len(), "every emoji is voted for at some time");
    }

    #[test]
    fn votes_for_what_there_is() {
        let (mut ballot, mut rng) = (Ballot::default(), StdRng::seed_from_u64(1));
        let only_good = [":dog:".to_owned()];
        let only_faulty = [catalog::FAULTY.to_owned()];
        for _ in 0..2 * ROUND {
            assert_eq!(ballot.choose(&only_good, &mut rng), ":dog:");
            assert_eq!(ballot.choose(&only_faulty, &mut rng), catalog::FAULTY);
        }
    }
}
