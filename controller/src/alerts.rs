//! Which promises are kept, judged by how fast their budgets are used up. Pure.
//!
//! ```text
//!   telemetry of all replicas ──► measured ──► readings, by window ──► judge() ──► Command::RecordAlert ──► the log
//!                                                                                          the leader ──► webhook
//! ```
//!
//! An alert needs a long window, so that it means something, and a short one, so that it ends when that does
//! (<https://sre.google/workbook/alerting-on-slos/>). A long one is here two short ones, and not twelve: whatever lasts is seen within two
//! short windows, however little it is over the limit. Proxies tell of all requests every two seconds, so that a short
//! window is enough of them.

pub mod actor;
pub mod delivery;
pub mod measured;
pub mod message;
pub mod metrics;
pub mod sender;
pub mod silence;

use std::{str::FromStr, time::Duration};

use conduit_api::{
    Goal,
    window::{WINDOW_MAX, WINDOW_MIN},
};
use conduit_consensus::Severity;

/// A budget of thirty days is gone in two days; and in five.
const BURNS_FAST: f64 = 14.4;
const BURNS_SLOWLY: f64 = 6.0;
/// Fewer requests than this say nothing about a share of them.
const REQUESTS_MIN: u64 = 20;
/// Nobody is woken for a request or two, however small the budget.
const BAD_MIN: u64 = 3;
/// What fires is over when the share has fallen to so much of the limit, so that one at the limit does not come and go; but what is within its
/// budget is over.
const RELEASE: f64 = 0.8;
/// The longest window, in short ones.
const LONGEST: u32 = 12;
/// In short windows: those of fast burning, and those of slow burning.
const LENGTHS: [u32; WINDOWS] = [1, 2, 6, LONGEST];

/// How many windows are looked at.
pub const WINDOWS: usize = 4;

/// Over how long promises are judged; all windows are multiples of the shortest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows(Duration);

impl Windows {
    /// How long each is, the shortest one first.
    pub fn lengths(self) -> [Duration; WINDOWS] {
        LENGTHS.map(|times| self.0 * times)
    }

    /// Between two looks: a twentieth of what is looked at, so that what is seen is seen within two of it.
    pub fn interval(self) -> Duration {
        (self.0 / 20).max(Duration::from_secs(1))
    }
}

impl FromStr for Windows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shortest = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        let most = WINDOW_MAX / LONGEST;
        if !(WINDOW_MIN..=most).contains(&shortest) {
            let (least, most) = (WINDOW_MIN.as_secs(), most.as_secs() / 60);
            return Err(format!(
                "the shortest window must be at least {least}s and at most {most}m: the longest is {LONGEST} times as long"
            ));
        }
        Ok(Self(shortest))
    }
}

/// What is known of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How long it is, in whole slots.
    pub whole: Duration,
    /// How much of that is known.
    pub covered: Duration,
    /// In it.
    pub requests: u64,
    /// Those that were not as promised.
    pub bad: u64,
}

/// Of all windows, the shortest one first.
pub type Readings = [Reading; WINDOWS];

impl Reading {
    fn is_whole(self) -> bool {
        self.covered >= self.whole && !self.whole.is_zero()
    }

    /// Whether some of it is not known.
    pub fn is_partial(self) -> bool {
        !self.is_whole()
    }

    /// The share of requests that were not as promised; none when there are too few to say.
    fn share(self) -> Option<f64> {
        (self.requests >= REQUESTS_MIN).then(|| self.bad as f64 / self.requests as f64)
    }

    /// How often as much as the budget that is.
    pub fn burn_rate(self, goal: Goal) -> Option<f64> {
        Some(self.share()? / goal.budget())
    }
}

/// How a promise is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too little is known.
    Unknown,
    /// It is.
    Met,
    /// It is not, as far as is known; it fires if that is so when the whole window is.
    Pending(Severity),
    /// It is not.
    Firing(Severity),
}

/// A short window and a long one, and how much is too much in both.
struct Pair {
    severity: Severity,
    short: Reading,
    long: Reading,
    limit: f64,
    /// What fires is over below this.
    release: f64,
    /// The least that has to be known of a window.
    least: Duration,
}

impl Pair {
    fn exceeds(&self, reading: Reading, limit: f64) -> bool {
        reading.bad >= BAD_MIN && reading.share().is_some_and(|share| share >= limit)
    }

    fn is_exceeded(&self) -> bool {
        self.exceeds(self.short, self.limit) && self.exceeds(self.long, self.limit)
    }

    fn is_settled(&self) -> bool {
        self.short.is_whole() && self.long.covered >= self.short.whole
    }

    /// Of what fires: the same with a lower limit is not so any more, or there has been nothing to judge by for all of the long window.
    fn is_over(&self) -> bool {
        let is_below = |reading: Reading| {
            reading.covered >= self.least && reading.share().is_some_and(|share| share < self.release)
        };
        let is_silent = self.long.is_whole() && self.long.share().is_none();
        is_below(self.short) || is_below(self.long) || is_silent
    }
}

/// A large budget cannot be used up many times as fast: half of what is not in it is too much as well.
fn limit(goal: Goal, factor: f64) -> f64 {
    let budget = goal.budget();
    (factor * budget).min(budget + (1.0 - budget) / 2.0)
}

/// The most severe one first.
fn pairs(goal: Goal, [shortest, short, long, longest]: Readings) -> [Pair; 2] {
    let pair = |severity, short, long, factor| {
        let limit = limit(goal, factor);
        Pair { severity, short, long, limit, release: (RELEASE * limit).max(goal.budget()), least: shortest.whole }
    };
    [pair(Severity::Critical, shortest, short, BURNS_FAST), pair(Severity::Warning, long, longest, BURNS_SLOWLY)]
}

impl Pair {
    /// Whether it fires, of a promise that `fires`. One that fires goes on until it is over; one less severe than that takes over if it is exceeded
    /// as far as is known, since somebody was woken already.
    fn is_firing(&self, fires: Option<Severity>) -> bool {
        match fires {
            Some(known) if known == self.severity => self.is_settled_and_exceeded() || !self.is_over(),
            Some(known) if known > self.severity => self.is_exceeded(),
            _ => self.is_settled_and_exceeded(),
        }
    }

    fn is_settled_and_exceeded(&self) -> bool {
        self.is_exceeded() && self.is_settled()
    }
}

/// What the readings say of a promise that `fires` already, or does not.
pub fn judge(goal: Goal, readings: Readings, fires: Option<Severity>) -> Verdict {
    let pairs = pairs(goal, readings);
    if let Some(pair) = pairs.iter().find(|pair| pair.is_firing(fires)) {
        return Verdict::Firing(pair.severity);
    }
    match pairs.iter().find(|pair| pair.is_exceeded()) {
        Some(pair) => Verdict::Pending(pair.severity),
        None if readings.iter().any(|reading| reading.share().is_some()) => Verdict::Met,
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests;
