//! The certificate authority of this replica: decides what to make, and when. Pure.
//!
//! ```text
//!   no root in the log, and leading ──► CreateRoot ──► CaInit (compare-and-set) ──► root in the log
//!   a root, and no issuer of one's own (or an old one) ──► CreateIssuer, with a serving certificate
//!   the roots changed ──► PublishBundle
//! ```
//!
//! The issuer's key never leaves memory, so a replica that starts makes a new one. It needs neither leader nor quorum for
//! that: the root's key is sealed in the state that the replica already has, and the seed opens it.

pub mod actor;

use std::time::{Duration, SystemTime};

/// Pause after something failed, such as a proposal while there is no quorum.
const RETRY: Duration = Duration::from_millis(500);

/// What this replica's authority holds, and what it is waiting for.
#[derive(Default)]
pub struct Authority {
    leading: bool,
    /// The newest root's certificate; the one to issue under.
    root: Option<Vec<u8>>,
    issuer: Option<IssuerValidity>,
    creating_root: bool,
    published: Vec<Vec<u8>>,
    retry_at: Option<SystemTime>,
}

/// Of the issuer in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerValidity {
    /// The root that signed it.
    pub root: Vec<u8>,
    /// When a new one is to be made: well before it expires.
    pub renew_at: SystemTime,
}

/// What happens around an [`Authority`].
pub enum Input {
    /// This replica became the leader, or ceased to be.
    Leading(bool),
    /// The roots in the replicated state, oldest first.
    Roots(Vec<Vec<u8>>),
    /// A root was proposed; whether the proposal came through (the state then tells whose root it is).
    RootProposed(bool),
    /// An issuer is in use.
    IssuerCreated(IssuerValidity),
    /// The issuer could not be made.
    IssuerFailed,
    /// The time it asked to be woken at, or any other.
    Timer,
}

/// What its shell does for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Makes a root and proposes it; answers with [`Input::RootProposed`].
    CreateRoot,
    /// Makes an issuer under the newest root; answers with [`Input::IssuerCreated`] or [`Input::IssuerFailed`].
    CreateIssuer,
    /// Tells everybody what to trust.
    PublishBundle(Vec<Vec<u8>>),
    /// Comes back with [`Input::Timer`] at this time; replaces an earlier one.
    WakeAt(SystemTime),
}

impl Authority {
    /// Takes `input` at `now`.
    pub fn handle(&mut self, now: SystemTime, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Leading(leading) => self.leading = leading,
            Input::Roots(roots) => {
                self.root = roots.last().cloned();
                if roots != self.published && !roots.is_empty() {
                    self.published.clone_from(&roots);
                    effects.push(Effect::PublishBundle(roots));
                }
            }
            Input::RootProposed(committed) => {
                self.creating_root = false;
                if !committed {
                    self.retry_at = Some(now + RETRY);
                }
            }
            Input::IssuerCreated(validity) => self.issuer = Some(validity),
            Input::IssuerFailed => self.retry_at = Some(now + RETRY),
            Input::Timer => {}
        }
        self.act(now, &mut effects);
        effects
    }

    fn act(&mut self, now: SystemTime, effects: &mut Vec<Effect>) {
        if let Some(at) = self.retry_at.filter(|at| now < *at) {
            effects.push(Effect::WakeAt(at));
            return;
        }
        self.retry_at = None;
        match (&self.root, &self.issuer) {
            (None, _) if self.leading && !self.creating_root => {
                self.creating_root = true;
                effects.push(Effect::CreateRoot);
            }
            (None, _) => {}
            (Some(root), Some(issuer)) if issuer.root == *root && now < issuer.renew_at => {
                effects.push(Effect::WakeAt(issuer.renew_at));
            }
            (Some(_), _) => effects.push(Effect::CreateIssuer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn issuer(root: u8, renew_at: u64) -> IssuerValidity {
        IssuerValidity { root: vec![root], renew_at: at(renew_at) }
    }

    #[test]
    fn the_leader_makes_the_root_once() {
        let mut authority = Authority::default();
        assert_eq!(authority.handle(at(0), Input::Roots(vec![])), []);
        assert_eq!(authority.handle(at(0), Input::Leading(true)), [Effect::CreateRoot]);
        assert_eq!(authority.handle(at(1), Input::Timer), [], "one proposal at a time");
        assert_eq!(authority.handle(at(1), Input::RootProposed(false)), [Effect::WakeAt(at(1) + RETRY)]);
        assert_eq!(authority.handle(at(1), Input::Leading(true)), [Effect::WakeAt(at(1) + RETRY)]);
        assert_eq!(authority.handle(at(2), Input::Timer), [Effect::CreateRoot]);
    }

    #[test]
    fn a_follower_never_makes_a_root_but_issues_under_it() {
        let mut authority = Authority::default();
        assert_eq!(authority.handle(at(0), Input::Leading(false)), []);
        let effects = authority.handle(at(1), Input::Roots(vec![vec![1]]));
        assert_eq!(effects, [Effect::PublishBundle(vec![vec![1]]), Effect::CreateIssuer]);
        assert_eq!(authority.handle(at(1), Input::IssuerCreated(issuer(1, 70))), [Effect::WakeAt(at(70))]);
        assert_eq!(authority.handle(at(70), Input::Timer), [Effect::CreateIssuer]);
    }

    #[test]
    fn a_new_root_means_a_new_issuer_and_is_published() {
        let mut authority = Authority::default();
        authority.handle(at(0), Input::Roots(vec![vec![1]]));
        authority.handle(at(0), Input::IssuerCreated(issuer(1, 70)));
        let effects = authority.handle(at(1), Input::Roots(vec![vec![1], vec![2]]));
        assert_eq!(effects, [Effect::PublishBundle(vec![vec![1], vec![2]]), Effect::CreateIssuer]);
        let effects = authority.handle(at(1), Input::IssuerCreated(issuer(2, 71)));
        assert_eq!(effects, [Effect::WakeAt(at(71))]);
        assert_eq!(authority.handle(at(2), Input::Roots(vec![vec![1], vec![2]])), [Effect::WakeAt(at(71))]);
    }

    #[test]
    fn a_failed_issuer_is_tried_again() {
        let mut authority = Authority::default();
        authority.handle(at(0), Input::Roots(vec![vec![1]]));
        assert_eq!(authority.handle(at(1), Input::IssuerFailed), [Effect::WakeAt(at(1) + RETRY)]);
        assert_eq!(authority.handle(at(2), Input::Timer), [Effect::CreateIssuer]);
    }
}
