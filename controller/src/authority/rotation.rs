//! One root follows another, and nobody meets a certificate that it cannot verify. Pure.
//!
//! ```text
//!   prepared ──(every proxy trusts it)──► active ──(every certificate is under it)──► the one before is dropped
//! ```
//!
//! Steps are taken by the leader. A proxy that cannot be asked holds them up, until no certificate under the old root can be valid
//! any more: `grace` after the step before. Whoever wants them sooner says `--force`.

use std::time::{Duration, SystemTime};

use conduit_ca::{KeyId, lifetime};
use conduit_consensus::{CaState, RootRecord};

/// The first pause between two looks at how far the others are, doubled each time ...
const MEASURE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// ... up to this: a pod that is away for hours must not cost anything.
const MEASURE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// An answer that has not come by then was lost.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(3);
/// A root of ours is followed by the next one when this much of its life is over.
const ROTATE_AT: f64 = 0.8;

/// What the leader knows of a rotation.
pub struct Rotation {
    grace: Duration,
    clock_is_trusted: bool,
    reached: Option<Reached>,
    measure_at: Option<SystemTime>,
    pause: Duration,
}

/// How many have not taken over what was decided last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// What it holds up: an answer may come when that was done already, and the same root is waited for in another way.
    pub step: Step,
    /// Proxies and replicas that are not there yet.
    pub missing: usize,
}

/// A step of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes a root that is to follow the active one.
    Prepare,
    /// Issues under it.
    Activate(KeyId),
    /// Trusts the old one no longer.
    Drop(KeyId),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A step can be taken.
    Propose(Step),
    /// It must be known how far the others are.
    Measure,
    /// Nothing until then; at all, if it is `None`.
    WaitUntil(Option<SystemTime>),
}

/// The step that roots are waiting for, and the root that must have reached everybody before it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending<'a> {
    /// The step.
    pub step: Step,
    /// Which.
    pub root: &'a RootRecord,
    /// Whether it must be what proxies are certified under; otherwise it must be what they trust.
    pub certified: bool,
}

/// What `ca` is in the middle of.
pub fn pending(ca: &CaState) -> Option<Pending<'_>> {
    if let Some(root) = ca.prepared() {
        return Some(Pending { step: Step::Activate(root.root.id.clone()), root, certified: false });
    }
    let (retired, root) = (ca.retired()?, ca.active()?);
    Some(Pending { step: Step::Drop(retired.root.id.clone()), root, certified: true })
}

impl Rotation {
    /// No certificate that was issued before a step is valid `grace` after it.
    pub fn new(grace: Duration) -> Self {
        Self { grace, clock_is_trusted: true, reached: None, measure_at: None, pause: MEASURE_PAUSE_MIN }
    }

    /// What was measured is of no use any more.
    pub fn changed(&mut self) {
        (self.reached, self.measure_at, self.pause) = (None, None, MEASURE_PAUSE_MIN);
    }

    /// The answer to [`Next::Measure`].
    pub fn measured(&mut self, now: SystemTime, reached: Reached) {
        self.reached = Some(reached);
        self.measure_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MEASURE_PAUSE_MAX);
    }

    /// Whether the clock is the others': otherwise nothing is done because of the time.
    pub fn trust_clock(&mut self, trusted: bool) {
        self.clock_is_trusted = trusted;
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: SystemTime, ca: &CaState) -> Next {
        let Some(pending) = pending(ca) else {
            return match rotate_at(ca) {
                Some(at) if now >= at && self.clock_is_trusted => Next::Propose(Step::Prepare),
                Some(at) if now >= at => Next::WaitUntil(Some(now + MEASURE_PAUSE_MAX)),
                at => Next::WaitUntil(at),
            };
        };
        let given_up_at = SystemTime::UNIX_EPOCH + Duration::from_millis(pending.root.since_ms) + self.grace;
        let is_given_up = now >= given_up_at && self.clock_is_trusted;
        let reached = self.reached.as_ref().filter(|reached| reached.step == pending.step);
        if reached.is_some_and(|reached| reached.missing == 0) || is_given_up {
            self.changed();
            return Next::Propose(pending.step);
        }
        match self.measure_at {
            Some(at) if now < at => Next::WaitUntil(Some(at)),
            _ => {
                self.measure_at = Some(now + MEASURE_TIMEOUT);
                Next::Measure
            }
        }
    }
}

/// When the active root is to be followed by the next one; `None` for a user's own, which only its user can follow.
pub fn rotate_at(ca: &CaState) -> Option<SystemTime> {
    let active = ca.active().filter(|active| !active.root.imported)?;
    let (not_before, not_after) = lifetime(&active.root.certificate)?;
    Some(not_before + not_after.duration_since(not_before).ok()?.mul_f64(ROTATE_AT))
}

#[cfg(test)]
mod tests {
    use conduit_consensus::{Command, Link, MeshState, Proposal};

    use super::*;
    use crate::authority::tests::{at, sealed};

    const GRACE: Duration = Duration::from_secs(1000);

    /// Times are seconds.
    fn state(commands: Vec<(u64, Command)>) -> MeshState {
        let mut state = MeshState::default();
        for (index, (time, command)) in (1..).zip(commands) {
            state.apply(index, Proposal::new("test", time * 1000, command));
        }
        state
    }

    fn init(root: &conduit_ca::SealedRoot) -> (u64, Command) {
        (0, Command::CaInit { root: Box::new(root.clone()), after: None })
    }

    #[test]
    fn each_step_waits_until_everybody_is_there() {
        let (old, new) = (sealed(0), sealed(0));
        let link = Some(Link { by: old.id.clone(), certificate: vec![] });
        let mut log = vec![init(&old), (10, Command::PrepareRoot { root: Box::new(new.clone()), link })];
        let mut rotation = Rotation::new(GRACE);
        let trusted = |missing| Reached { step: Step::Activate(new.id.clone()), missing };
        let prepared = state(log.clone());
        let next = |rotation: &mut Rotation, now, state: &MeshState| rotation.next(at(now), state.ca().unwrap());
        assert_eq!(next(&mut rotation, 10, &prepared), Next::Measure);
        assert_eq!(next(&mut rotation, 10, &prepared), Next::WaitUntil(Some(at(10) + MEASURE_TIMEOUT)));
        rotation.measured(at(10), trusted(3));
        assert_eq!(next(&mut rotation, 10, &prepared), Next::WaitUntil(Some(at(10) + MEASURE_PAUSE_MIN)));
        assert_eq!(next(&mut rotation, 11, &prepared), Next::Measure);
        rotation.measured(at(11), Reached { step: Step::Activate(old.id.clone()), missing: 0 });
        assert!(matches!(next(&mut rotation, 11, &prepared), Next::WaitUntil(_)), "of another root");
        rotation.measured(at(12), trusted(0));
        assert_eq!(next(&mut rotation, 12, &prepared), Next::Propose(Step::Activate(new.id.clone())));
        log.push((12, Command::ActivateRoot { root: new.id.clone() }));
        let active = state(log.clone());
        rotation.changed();
        assert_eq!(next(&mut rotation, 12, &active), Next::Measure, "what was measured before was something else");
        // An answer from before: everybody trusts it, which is not to hold a certificate under it.
        rotation.measured(at(12), trusted(0));
        assert!(matches!(next(&mut rotation, 12, &active), Next::WaitUntil(_)));
        rotation.measured(at(13), Reached { step: Step::Drop(old.id.clone()), missing: 0 });
        assert_eq!(next(&mut rotation, 13, &active), Next::Propose(Step::Drop(old.id.clone())));
        log.push((13, Command::DropRoot { root: old.id }));
        assert!(matches!(next(&mut rotation, 14, &state(log)), Next::WaitUntil(Some(_))), "the next one is years away");
    }

    #[test]
    fn nobody_holds_it_up_for_longer_than_a_certificate_lives() {
        let (old, new) = (sealed(0), sealed(0));
        let log = vec![init(&old), (10, Command::PrepareRoot { root: Box::new(new.clone()), link: None })];
        let (mut rotation, state) = (Rotation::new(GRACE), state(log));
        let ca = state.ca().unwrap();
        rotation.measured(
            at(10) + GRACE - Duration::from_secs(1),
            Reached { step: Step::Activate(new.id.clone()), missing: 1 },
        );
        assert!(matches!(rotation.next(at(10) + GRACE - Duration::from_secs(1), ca), Next::WaitUntil(_)));
        rotation.trust_clock(false);
        let next = rotation.next(at(10) + GRACE, ca);
        assert!(!matches!(next, Next::Propose(_)), "a clock that is off says nothing of that");
        rotation.trust_clock(true);
        assert_eq!(rotation.next(at(10) + GRACE, ca), Next::Propose(Step::Activate(new.id)));
    }

    #[test]
    fn pauses_between_looks_grow() {
        let (old, new) = (sealed(0), sealed(0));
        let log = vec![init(&old), (0, Command::PrepareRoot { root: Box::new(new.clone()), link: None })];
        let (mut rotation, state) = (Rotation::new(GRACE), state(log));
        let (mut now, mut looks) = (at(0), 0);
        while now < at(100) {
            match rotation.next(now, state.ca().unwrap()) {
                Next::Measure => {
                    looks += 1;
                    rotation.measured(now, Reached { step: Step::Activate(new.id.clone()), missing: 1 });
                }
                Next::WaitUntil(Some(at)) => now = at,
                other => panic!("{other:?}"),
            }
        }
        assert!((20..40).contains(&looks), "{looks}");
    }

    #[test]
    fn a_root_is_followed_before_it_expires_unless_it_is_the_users_own() {
        let own = sealed(0);
        let (not_before, not_after) = lifetime(&own.certificate).unwrap();
        let due = not_before + not_after.duration_since(not_before).unwrap().mul_f64(ROTATE_AT);
        let young = state(vec![init(&own)]);
        let mut rotation = Rotation::new(GRACE);
        assert_eq!(rotation.next(at(0), young.ca().unwrap()), Next::WaitUntil(Some(due)));
        assert_eq!(rotation.next(due, young.ca().unwrap()), Next::Propose(Step::Prepare));
        let imported = state(vec![init(&conduit_ca::SealedRoot { imported: true, ..own })]);
        assert_eq!(rotation.next(not_after, imported.ca().unwrap()), Next::WaitUntil(None));
    }
}
