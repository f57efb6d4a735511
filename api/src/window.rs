//! How far back people may ask what was counted, and how finely that is known.

use std::time::Duration;

/// What is counted within this is told together.
pub const SLOT: Duration = Duration::from_secs(5);
/// Proxies report every few seconds: less than this is not enough reports to say anything.
pub const WINDOW_MIN: Duration = Duration::from_secs(15);
/// As long as controllers remember: a morning that went wrong, as long as the Prometheus that comes with the control plane remembers.
pub const WINDOW_MAX: Duration = Duration::from_secs(6 * 3600);

/// How finely counts are kept up to some age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// What is told together, by the clock.
    pub length: Duration,
    /// From this age on the next one holds.
    pub until: Duration,
}

/// From the finest on; each length is a multiple of the one before. The last five minutes are what one watches, an hour is what a curve is
/// drawn of, with sixty points, and a morning is told well enough by ten minutes: so six hours are 145 slots and not 4 320.
pub const TIERS: [Tier; 3] = [
    Tier { length: SLOT, until: Duration::from_secs(300) },
    Tier { length: Duration::from_secs(60), until: Duration::from_secs(3600) },
    Tier { length: Duration::from_secs(600), until: WINDOW_MAX },
];

/// How finely all of a window is known.
pub fn resolution(window: Duration) -> Duration {
    let tier = TIERS.iter().find(|tier| window <= tier.until).or(TIERS.last());
    tier.map_or(SLOT, |tier| tier.length)
}

/// Whether there are counts over this long.
///
/// # Errors
/// What to tell the person who asked.
pub fn check(window: Duration) -> Result<(), String> {
    if (WINDOW_MIN..=WINDOW_MAX).contains(&window) {
        return Ok(());
    }
    let (least, most) = (WINDOW_MIN.as_secs(), WINDOW_MAX.as_secs() / 3600);
    Err(format!("the time window must be at least {least}s and at most {most}h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_known_as_finely_as_their_oldest_part() {
        for (seconds, finest) in [(15, 5), (300, 5), (301, 60), (3600, 60), (3601, 600), (21_600, 600), (99_999, 600)] {
            assert_eq!(resolution(Duration::from_secs(seconds)), Duration::from_secs(finest), "{seconds}");
        }
        for pair in TIERS.windows(2) {
            assert!(pair[1].length.as_secs().is_multiple_of(pair[0].length.as_secs()) && pair[0].until < pair[1].until);
            // What is merged has passed, all of it.
            assert!(pair[0].until.as_secs().is_multiple_of(pair[1].length.as_secs()));
        }
    }

    #[test]
    fn windows_that_nobody_answers() {
        for (seconds, ok) in [(14, false), (15, true), (21_600, true), (21_601, false)] {
            assert_eq!(check(Duration::from_secs(seconds)).is_ok(), ok, "{seconds}");
        }
        assert_eq!(check(Duration::ZERO).unwrap_err(), "the time window must be at least 15s and at most 6h");
    }
}
