//! Traffic as it passes, step by step, judged at every step.

use conduit_api::objective::{Percentile, Threshold};
use proptest::prelude::*;

use super::*;

/// A twentieth of the shortest window, as promises are looked at.
const STEPS: usize = 20;

/// Requests and those that went wrong, a step each.
#[derive(Default)]
struct Mesh {
    steps: Vec<(u64, u64)>,
    fires: Option<Severity>,
    transitions: Vec<(usize, Option<Severity>)>,
}

fn success(percent: &str) -> Goal {
    Goal::Success(percent.parse().unwrap())
}

fn shortest() -> Duration {
    Duration::from_secs(300)
}

impl Mesh {
    /// One that was well for longer than anybody looks back.
    fn old(rate: u64) -> Self {
        Self { steps: vec![(rate, 0); 2 * STEPS * LONGEST as usize], ..Self::default() }
    }

    fn readings(&self) -> Readings {
        LENGTHS.map(|times| {
            let count = STEPS * times as usize;
            let known = self.steps.iter().rev().take(count);
            let (requests, bad) = known.clone().fold((0, 0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
            let whole = shortest() * times;
            Reading { whole, covered: whole * known.len() as u32 / count as u32, requests, bad }
        })
    }

    fn verdict(&self, goal: Goal) -> Verdict {
        judge(goal, self.readings(), self.fires)
    }

    /// The leader's loop.
    fn step(&mut self, goal: Goal, requests: u64, bad: u64) {
        self.steps.push((requests, bad));
        let fires = match self.verdict(goal) {
            Verdict::Firing(severity) => Some(severity),
            _ => None,
        };
        if fires != self.fires {
            self.fires = fires;
            self.transitions.push((self.steps.len(), fires));
        }
    }

    /// How many steps it takes until it fires, or does not.
    fn until(&mut self, goal: Goal, fires: bool, requests: u64, bad: u64) -> usize {
        let began = self.steps.len();
        while self.fires.is_some() != fires {
            self.step(goal, requests, bad);
            assert!(self.steps.len() < began + 100 * STEPS, "never");
        }
        self.steps.len() - began
    }
}

#[test]
fn what_is_bad_is_seen_within_two_short_windows_and_over_when_it_is_over() {
    for (goal, bad) in [(success("99"), 145), (success("99"), 1_000), (success("99.9"), 15), (success("90"), 560)] {
        let mut mesh = Mesh::old(1_000);
        let seen = mesh.until(goal, true, 1_000, bad);
        assert!(seen <= 2 * STEPS, "{goal} {bad}: {seen}");
        assert_eq!(mesh.fires, Some(Severity::Critical));
        // It has lasted for so short that a longer look does not find it worth a word.
        let over = mesh.until(goal, false, 1_000, 0);
        assert!(over <= if bad == 1_000 { 7 * STEPS } else { STEPS }, "{goal} {bad}: {over}");
    }
}

#[test]
fn what_is_less_bad_is_seen_within_two_longer_ones() {
    let goal = success("99");
    let mut mesh = Mesh::old(1_000);
    let seen = mesh.until(goal, true, 1_000, 60);
    assert!(seen > 2 * STEPS && seen <= 12 * STEPS, "{seen}");
    assert_eq!(mesh.fires, Some(Severity::Warning));
    let seen = mesh.until(goal, false, 1_000, 0);
    assert!(seen <= 6 * STEPS, "{seen}");
}

#[test]
fn a_warning_becomes_critical_and_is_one_again() {
    let goal = success("99");
    let mut mesh = Mesh::old(1_000);
    mesh.until(goal, true, 1_000, 70);
    for _ in 0..2 * STEPS {
        mesh.step(goal, 1_000, 500);
    }
    for _ in 0..STEPS {
        mesh.step(goal, 1_000, 70);
    }
    let severities: Vec<_> = mesh.transitions.iter().map(|(_, severity)| *severity).collect();
    assert_eq!(severities, [Some(Severity::Warning), Some(Severity::Critical), Some(Severity::Warning)]);
}

#[test]
fn what_was_critical_is_so_no_longer_than_a_short_window_and_a_warning_goes_on() {
    let goal = success("99");
    let mut mesh = Mesh::old(1_000);
    // All of it fails, for five minutes.
    (0..STEPS).for_each(|_| mesh.step(goal, 1_000, 1_000));
    mesh.transitions.clear();
    let began = mesh.steps.len();
    mesh.until(goal, false, 1_000, 0);
    let changes: Vec<_> = mesh.transitions.iter().map(|(step, severity)| (step - began, *severity)).collect();
    let [(fell, Some(Severity::Warning)), (over, None)] = changes[..] else { panic!("{changes:?}") };
    assert!(fell <= STEPS && over <= 6 * STEPS, "{changes:?}");
}

#[test]
fn what_is_within_its_budget_is_over() {
    // Four fifths of the limit, which is halfway between budget and all, is less than that budget.
    let goal = success("10");
    let mut mesh = Mesh::old(1_000);
    mesh.until(goal, true, 1_000, 990);
    let over = mesh.until(goal, false, 1_000, 880);
    assert!(over <= 6 * STEPS, "{over}");
    assert_eq!(mesh.verdict(goal), Verdict::Met);
}

#[test]
fn a_young_mesh_is_judged_when_a_window_is_known() {
    let (goal, mut mesh) = (success("99"), Mesh::default());
    assert_eq!(mesh.verdict(goal), Verdict::Unknown);
    mesh.step(goal, 100, 20);
    assert_eq!(mesh.verdict(goal), Verdict::Pending(Severity::Critical));
    let seen = mesh.until(goal, true, 100, 20);
    assert_eq!(seen + 1, STEPS);
    assert!(mesh.until(goal, false, 100, 0) <= 6 * STEPS);
    assert_eq!(mesh.verdict(goal), Verdict::Met);
}

#[test]
fn what_fires_goes_on_while_too_little_is_known_and_ends_when_nobody_asks_any_more() {
    let (goal, mut mesh) = (success("99"), Mesh::old(100));
    mesh.until(goal, true, 100, 50);
    let fires = mesh.fires;
    // A replica has died with what it knew: the rest looks well, and is not enough to say so.
    let mut readings = mesh.readings();
    for reading in &mut readings {
        (reading.covered, reading.bad) = (shortest() / 2, 0);
    }
    assert_eq!(judge(goal, readings, fires), Verdict::Firing(Severity::Critical));
    assert_eq!(judge(goal, [Reading::default(); WINDOWS], fires), Verdict::Firing(Severity::Critical));
    let silent = mesh.until(goal, false, 0, 0);
    assert!(silent <= (LONGEST as usize + 1) * STEPS, "{silent}");
}

#[test]
fn latencies_have_budgets_as_well_and_large_ones_have_limits() {
    let threshold = Threshold::try_from(100).unwrap();
    for (percentile, least) in [(Percentile::P99, 145), (Percentile::P95, 530), (Percentile::P50, 750)] {
        let goal = Goal::Latency(percentile, threshold);
        let mut mesh = Mesh::old(1_000);
        assert!(mesh.until(goal, true, 1_000, least) <= 2 * STEPS, "{goal}");
        let mut mesh = Mesh::old(1_000);
        (0..4 * STEPS).for_each(|_| mesh.step(goal, 1_000, least - 6));
        assert_ne!(mesh.fires, Some(Severity::Critical), "{goal}");
    }
}

#[test]
fn windows_are_what_is_kept_of_counts() {
    let windows: Windows = "5m".parse().unwrap();
    assert_eq!(windows.lengths().map(|length| length.as_secs()), [300, 600, 1_800, 3_600]);
    assert_eq!((windows.interval().as_secs(), "15s".parse::<Windows>().unwrap().interval().as_secs()), (15, 1));
    for bad in ["14s", "31m", "", "5"] {
        assert!(bad.parse::<Windows>().is_err(), "{bad}");
    }
    assert!("30m".parse::<Windows>().is_ok());
}

proptest! {
    /// A request or two, and a few of which all fail, wake nobody.
    #[test]
    fn nothing_fires_without_requests(
        bad in proptest::collection::vec(any::<bool>(), 1..200), few in 0..2_u64, percent in 1..1_000_000_u32,
    ) {
        let goal = Goal::Success(percent.try_into().unwrap());
        let mut mesh = Mesh::default();
        // Two in a window that is the longest but one, and its double: fewer than are looked at.
        for (i, bad) in bad.iter().enumerate() {
            let requests = if i % (6 * STEPS) == 0 { few } else { 0 };
            mesh.step(goal, requests, if *bad { requests } else { 0 });
            prop_assert!(matches!(mesh.verdict(goal), Verdict::Unknown));
        }
    }

    /// Whatever passes: what fires has both windows of a pair over the limit, all of the short one known.
    #[test]
    fn nothing_fires_that_is_not_bad(
        steps in proptest::collection::vec((0..200_u64, 0..100_u64), 1..400), percent in 500_000..999_999_u32,
    ) {
        let goal = Goal::Success(percent.try_into().unwrap());
        let mut mesh = Mesh::default();
        for (requests, bad) in steps {
            let fires = mesh.fires;
            mesh.step(goal, requests, requests * bad / 100);
            if mesh.fires > fires {
                let found = pairs(goal, mesh.readings()).iter().any(|pair| {
                    let over = |r: Reading| r.requests >= 20 && r.bad as f64 >= pair.limit * r.requests as f64 * 0.999_999;
                    over(pair.short) && over(pair.long) && pair.short.covered == pair.short.whole
                });
                prop_assert!(found);
            }
        }
    }

    /// At the limit, by chance above and below it: it begins once.
    #[test]
    fn what_is_at_the_limit_does_not_come_and_go(noise in proptest::collection::vec(0..9_u64, 400)) {
        let goal = success("99");
        let mut mesh = Mesh::old(100);
        noise.iter().for_each(|noise| mesh.step(goal, 100, 11 + noise));
        prop_assert!(mesh.transitions.iter().all(|(_, severity)| severity.is_some()), "{:?}", mesh.transitions);
    }

    /// However much is bad, and for however long: it is over within a short window of those that found it.
    #[test]
    fn what_is_over_is_seen(lasts in 1..300_usize, bad in 10..100_u64) {
        let goal = success("99");
        let mut mesh = Mesh::old(100);
        (0..lasts).for_each(|_| mesh.step(goal, 100, bad));
        prop_assert!(mesh.until(goal, false, 100, 0) <= 6 * STEPS);
    }
}
