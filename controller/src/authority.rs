//! The certificate authority of this replica: decides what to make, and when. Pure.
//!
//! ```text
//!   no root in the log, and leading ──► CreateRoot ──► CaInit (compare-and-set) ──► root in the log
//!   a root, and no issuer of one's own (or an old one) ──► CreateIssuer, with a serving certificate ──► RecordIssuer
//!   what is trusted has changed ──► Publish
//!   leading, and roots follow each other ──► Measure, Rotate (see [`rotation`])
//! ```
//!
//! The issuer's key never leaves memory, so a replica that starts makes a new one. It needs neither leader nor quorum for
//! that: the root's key is sealed in the state that the replica already has, and the seed opens it.

pub mod actor;
pub mod reach;
pub mod roots;
pub mod rotation;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::NodeId;
use conduit_ca::KeyId;
use conduit_consensus::CaState;

use self::rotation::{Reached, Rotation, Step};

/// Pause after something failed, such as a proposal while there is no quorum.
const RETRY: Duration = Duration::from_millis(500);
/// What was noted in the log is in the state by then, or is noted again.
const RECORD_RETRY: Duration = Duration::from_secs(5);
/// Also when the clock is set back in between.
const AT_ONCE: SystemTime = SystemTime::UNIX_EPOCH;
/// Before what the platform did not take is given to it again.
const KEEP_RETRY: Duration = Duration::from_secs(5);

/// What this replica's authority holds, and what it is waiting for.
pub struct Authority {
    node: NodeId,
    leading: bool,
    ca: Option<Arc<CaState>>,
    issuer: Option<Issuing>,
    /// One is being made.
    issuing: bool,
    /// One proposal at a time.
    proposing: bool,
    rotation: Rotation,
    /// After something failed.
    propose_at: Option<SystemTime>,
    issue_at: Option<SystemTime>,
    record_at: Option<SystemTime>,
    /// When the platform is to be given what it keeps.
    keep_at: Option<SystemTime>,
    /// What it has.
    kept: Option<Arc<CaState>>,
}

/// The issuer in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuing {
    /// Of its key.
    pub id: KeyId,
    /// The root that signed it.
    pub root: KeyId,
    /// Whether its chains lead to the root before as well.
    pub linked: bool,
    /// When a new one is to be made: well before it expires.
    pub renew_at: SystemTime,
}

/// What happens around an [`Authority`].
pub enum Input {
    /// This replica became the leader, or ceased to be.
    Leading(bool),
    /// The authority in the replicated state.
    Ca(Option<Arc<CaState>>),
    /// Something was proposed; whether the proposal came through (the state then tells what became of it).
    Proposed(bool),
    /// An issuer is in use.
    IssuerCreated(Issuing),
    /// The issuer could not be made.
    IssuerFailed,
    /// How far the others are.
    Measured(Reached),
    /// The platform has this.
    Kept(Arc<CaState>),
    /// The platform has not taken what it was to keep.
    NotKept,
    /// The time it asked to be woken at, or any other.
    Timer,
}

/// What its shell does for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Makes the first root and proposes it; answers with [`Input::Proposed`].
    CreateRoot,
    /// Makes an issuer under the active root; answers with [`Input::IssuerCreated`] or [`Input::IssuerFailed`].
    CreateIssuer,
    /// Notes the issuer in the log, for those who ask who can sign.
    RecordIssuer,
    /// Tells everybody who asks this replica whom to trust.
    Publish(Arc<CaState>),
    /// Has the platform keep it, which one replica at a time does: one that is behind would undo what others have written.
    /// Answers with [`Input::Kept`] or [`Input::NotKept`].
    Keep(Arc<CaState>),
    /// Finds out how far the others are; answers with [`Input::Measured`].
    Measure,
    /// Proposes the next step of a rotation; answers with [`Input::Proposed`].
    Rotate(Step),
    /// Comes back with [`Input::Timer`] at this time; replaces an earlier one.
    WakeAt(SystemTime),
}

impl Authority {
    /// Of the replica `node`. A proxy that was not heard of for `grace` holds no certificate any more.
    pub fn new(node: NodeId, grace: Duration) -> Self {
        Self {
            node,
            leading: false,
            ca: None,
            issuer: None,
            issuing: false,
            proposing: false,
            rotation: Rotation::new(grace),
            propose_at: None,
            issue_at: None,
            record_at: None,
            keep_at: None,
            kept: None,
        }
    }

    /// Whether this replica's clock is the others'.
    pub fn trust_clock(&mut self, trusted: bool) {
        self.rotation.trust_clock(trusted);
    }

    /// Takes `input` at `now`.
    pub fn handle(&mut self, now: SystemTime, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Leading(leading) => {
                let led = std::mem::replace(&mut self.leading, leading);
                if leading && !led {
                    self.keep_at = Some(AT_ONCE);
                }
            }
            Input::Ca(ca) => {
                if let Some(ca) = ca.filter(|ca| !self.ca.as_ref().is_some_and(|known| Arc::ptr_eq(known, ca))) {
                    self.ca = Some(ca.clone());
                    self.rotation.changed();
                    effects.push(Effect::Publish(ca));
                    self.keep_at = Some(AT_ONCE);
                }
            }
            Input::Proposed(committed) => {
                self.proposing = false;
                self.propose_at = (!committed).then_some(now + RETRY);
            }
            Input::IssuerCreated(issuing) => {
                self.issuing = false;
                self.issuer = Some(issuing);
                self.record_at = None;
            }
            Input::IssuerFailed => {
                self.issuing = false;
                self.issue_at = Some(now + RETRY);
            }
            // Answers need not come in the order of what was asked for: of an earlier one nothing follows.
            Input::Kept(ca) => {
                if self.ca.as_ref().is_some_and(|known| Arc::ptr_eq(known, &ca)) {
                    self.kept = Some(ca);
                }
            }
            Input::NotKept => self.keep_at = Some(now + KEEP_RETRY),
            Input::Measured(reached) => self.rotation.measured(now, reached),
            Input::Timer => {}
        }
        self.act(now, &mut effects);
        effects
    }

    fn act(&mut self, now: SystemTime, effects: &mut Vec<Effect>) {
        let Some(ca) = self.ca.clone() else {
            if self.leading && !self.proposing {
                match self.propose_at.filter(|at| now < *at) {
                    Some(at) => effects.push(Effect::WakeAt(at)),
                    None => {
                        self.proposing = true;
                        effects.push(Effect::CreateRoot);
                    }
                }
            }
            return;
        };
        let keep_at = if self.leading { self.keep(now, &ca, effects) } else { None };
        // One that cannot be made is no reason to leave a rotation where it is: another root may be what is missing.
        let renew_at = self.renew_issuer_at(now, &ca);
        let (issuer_at, record_at) = match renew_at {
            Some(_) => (renew_at, self.record(now, &ca, effects)),
            // One that is about to be replaced is not worth noting.
            None => (self.issue(now, effects), None),
        };
        // What the platform keeps is to be what somebody still trusts, when it is needed.
        let is_kept = self.kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &ca));
        let may_rotate = self.leading && !self.proposing && is_kept;
        let rotate_at = if may_rotate { self.rotate(now, &ca, effects) } else { None };
        let next = [keep_at, issuer_at, record_at, rotate_at].into_iter().flatten().min();
        effects.extend(next.map(Effect::WakeAt));
    }

    /// When to try again; `None` when the platform has it, or is given it now, which comes back here.
    fn keep(&mut self, now: SystemTime, ca: &Arc<CaState>, effects: &mut Vec<Effect>) -> Option<SystemTime> {
        if self.keep_at.is_some_and(|at| now >= at) {
            self.keep_at = None;
            effects.push(Effect::Keep(ca.clone()));
        }
        self.keep_at
    }

    /// When to try again to make an issuer; `None` when it is made now, which comes back here.
    fn issue(&mut self, now: SystemTime, effects: &mut Vec<Effect>) -> Option<SystemTime> {
        let retry_at = self.issue_at.filter(|at| now < *at);
        if retry_at.is_none() && !std::mem::replace(&mut self.issuing, true) {
            effects.push(Effect::CreateIssuer);
        }
        retry_at
    }

    /// `None` when one is to be made now.
    fn renew_issuer_at(&self, now: SystemTime, ca: &CaState) -> Option<SystemTime> {
        let (issuing, active) = (self.issuer.as_ref()?, ca.active()?);
        let is_current = issuing.root == active.root.id && issuing.linked == active.link.is_some();
        let is_good = is_current && !ca.revoked.contains(&issuing.id) && now < issuing.renew_at;
        is_good.then_some(issuing.renew_at)
    }

    /// When to look again whether the log knows the issuer; `None` when it does.
    fn record(&mut self, now: SystemTime, ca: &CaState, effects: &mut Vec<Effect>) -> Option<SystemTime> {
        let recorded = ca.issuers.get(&self.node).map(|issuer| &issuer.id);
        if recorded == self.issuer.as_ref().map(|issuing| &issuing.id) {
            return None;
        }
        if self.record_at.is_none_or(|at| now >= at) {
            effects.push(Effect::RecordIssuer);
            self.record_at = Some(now + RECORD_RETRY);
        }
        self.record_at
    }

    /// When to look again.
    fn rotate(&mut self, now: SystemTime, ca: &CaState, effects: &mut Vec<Effect>) -> Option<SystemTime> {
        if let Some(at) = self.propose_at.filter(|at| now < *at) {
            return Some(at);
        }
        match self.rotation.next(now, ca) {
            rotation::Next::Propose(step) => {
                self.proposing = true;
                effects.push(Effect::Rotate(step));
                None
            }
            rotation::Next::Measure => {
                effects.push(Effect::Measure);
                None
            }
            rotation::Next::WaitUntil(at) => at,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
