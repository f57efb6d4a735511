//! The key that this replica signs tokens with: everybody knows it before it signs anything.
//!
//! ```text
//!   Create ──► Record ──(in the log, and SETTLE has passed)──► Use ──(most of its life is over, or it was revoked)──► Create ...
//! ```
//!
//! Signing needs neither leader nor quorum, but a new key does once. It has nothing to do with roots: tokens are verified by the key
//! itself.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use conduit_ca::{JwtIssuer, jwt::JWT_LIFETIME, renew_at};
use conduit_consensus::{CaState, Command};
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::{
    peer::server::Own,
    propose::{self, unix_ms},
};

/// From a key's being in the log to the first token by it: proxies have heard of it by then, however many there are
/// (`bench/control-plane.sh`: ten thousand within half a second).
const SETTLE: Duration = Duration::from_secs(2);
/// What was noted in the log is in the state by then, or is noted again.
const RECORD_RETRY: Duration = Duration::from_secs(5);
/// Before a replica whose clock is off looks again whether it is.
const MISTRUST_PAUSE: Duration = Duration::from_secs(5);
/// By as much clocks may be apart: a token by the key is believed for so much longer.
const SKEW: Duration = Duration::from_secs(60);
/// After a key could not be made.
const CREATE_RETRY: Duration = Duration::from_secs(1);

/// Once a signature by it can be verified by everybody.
pub type SharedJwtIssuer = Arc<ArcSwapOption<JwtIssuer>>;

/// A key, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of the key.
    pub id: String,
    /// When the next one is to be made.
    pub renew_at: SystemTime,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A key is to be made; [`Tokens::created`] is told of it.
    Create,
    /// The key that was made last is to be in the log.
    Record,
    /// It signs from now on.
    Use,
    /// Nothing until then.
    WaitUntil(SystemTime),
}

/// The key in use, and the one that is to follow it.
#[derive(Default)]
pub struct Tokens {
    current: Option<Held>,
    next: Option<Held>,
    /// When the next one was first seen in the log.
    known_since: Option<SystemTime>,
    record_at: Option<SystemTime>,
    create_at: Option<SystemTime>,
}

impl Tokens {
    /// A key was made.
    pub fn created(&mut self, key: Held) {
        (self.next, self.known_since, self.record_at) = (Some(key), None, None);
    }

    /// What to do at `now`; to be asked again until it says to wait.
    pub fn next(&mut self, now: SystemTime, ca: &CaState) -> Next {
        // Of a replica whose certificates were revoked.
        self.current.take_if(|key| !ca.jwt_keys.contains_key(&key.id));
        let Some(next) = &self.next else {
            return match (&self.current, self.create_at) {
                (Some(key), _) if now < key.renew_at => Next::WaitUntil(key.renew_at),
                (_, Some(at)) if now < at => Next::WaitUntil(at),
                _ => {
                    self.create_at = Some(now + CREATE_RETRY);
                    Next::Create
                }
            };
        };
        if !ca.jwt_keys.contains_key(&next.id) {
            if self.known_since.is_some() {
                // It was revoked before it was used.
                self.next = None;
                return self.next(now, ca);
            }
            return match self.record_at {
                Some(at) if now < at => Next::WaitUntil(at),
                _ => {
                    self.record_at = Some(now + RECORD_RETRY);
                    Next::Record
                }
            };
        }
        let usable_at = *self.known_since.get_or_insert(now) + SETTLE;
        if now < usable_at {
            return Next::WaitUntil(usable_at);
        }
        self.current = self.next.take();
        Next::Use
    }
}

/// Keeps this replica able to sign tokens, with keys of `lifetime`, until the process ends.
pub async fn keep(own: Own, lifetime: Duration) {
    let (mut tokens, mut made) = (Tokens::default(), None::<(JwtIssuer, SystemTime)>);
    let mut state = own.cluster.state();
    loop {
        let (now, ca) = (own.clock.now(), state.borrow_and_update().ca().cloned());
        // Whose clock is off says nothing of when a key ends.
        let next = match own.clock.mistrusted() {
            None => ca.map(|ca| tokens.next(now, &ca)),
            Some(_) => Some(Next::WaitUntil(now + MISTRUST_PAUSE)),
        };
        match next {
            Some(Next::Create) => match JwtIssuer::generate() {
                Ok(issuer) => {
                    let not_after = now + lifetime;
                    let id = issuer.id().to_owned();
                    tokens.created(Held { id, renew_at: renew_at(now, not_after, rand::random()) });
                    made = Some((issuer, not_after));
                }
                Err(error) => error!(%error, "this replica cannot make a key for tokens"),
            },
            Some(Next::Record) => {
                if let Some((issuer, not_after)) = &made {
                    record(&own, issuer, *not_after).await;
                }
            }
            Some(Next::Use) => {
                if let Some((issuer, _)) = made.take() {
                    info!(key = issuer.id(), "signing tokens");
                    own.jwt_issuer.store(Some(Arc::new(issuer)));
                }
            }
            Some(Next::WaitUntil(_)) | None => {
                let wait = match next {
                    Some(Next::WaitUntil(at)) => at.duration_since(now).unwrap_or_default(),
                    _ => Duration::MAX,
                };
                if let Ok(Err(_)) = timeout(wait, state.changed()).await {
                    return;
                }
            }
        }
    }
}

async fn record(own: &Own, issuer: &JwtIssuer, not_after: SystemTime) {
    let command = Command::AddJwtKey {
        node: own.cluster.id(),
        id: issuer.id().to_owned(),
        jwk: issuer.jwk().to_owned(),
        not_after_ms: unix_ms(not_after + JWT_LIFETIME + SKEW),
    };
    if let Err(error) = propose::fenced(&own.cluster, "ca", command, None).await {
        warn!(%error, "the key of this replica's tokens is not in the log yet; it signs none");
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::NodeId;
    use conduit_consensus::{Command, MeshState, Proposal};

    use super::*;
    use crate::authority::tests::{at, sealed};

    /// With these keys in the log.
    fn state(ids: &[&str]) -> MeshState {
        let mut state = MeshState::default();
        let mut commands = vec![Command::CaInit { root: Box::new(sealed(0)), after: None }];
        commands.extend(ids.iter().map(|id| Command::AddJwtKey {
            node: NodeId::new(1),
            id: (*id).to_owned(),
            jwk: "{}".to_owned(),
            not_after_ms: u64::MAX,
        }));
        for (index, command) in (1..).zip(commands) {
            state.apply(index, Proposal::new("test", 0, command));
        }
        state
    }

    fn key(id: &str, renew_at: u64) -> Held {
        Held { id: id.to_owned(), renew_at: at(renew_at) }
    }

    #[test]
    fn a_key_is_known_before_it_is_used() {
        let mut tokens = Tokens::default();
        let next = |tokens: &mut Tokens, now, ids: &[&str]| tokens.next(at(now), state(ids).ca().unwrap());
        assert_eq!(next(&mut tokens, 0, &[]), Next::Create);
        tokens.created(key("a", 100));
        assert_eq!(next(&mut tokens, 0, &[]), Next::Record);
        assert_eq!(next(&mut tokens, 1, &[]), Next::WaitUntil(at(0) + RECORD_RETRY));
        assert_eq!(next(&mut tokens, 5, &[]), Next::Record, "there was no leader");
        assert_eq!(next(&mut tokens, 6, &["a"]), Next::WaitUntil(at(6) + SETTLE));
        assert_eq!(next(&mut tokens, 8, &["a"]), Next::Use);
        assert_eq!(next(&mut tokens, 8, &["a"]), Next::WaitUntil(at(100)));
        assert_eq!(next(&mut tokens, 100, &["a"]), Next::Create, "while the old one is in use");
        assert_eq!(next(&mut tokens, 100, &["a"]), Next::WaitUntil(at(100) + CREATE_RETRY));
        tokens.created(key("b", 200));
        assert_eq!(next(&mut tokens, 101, &["a", "b"]), Next::WaitUntil(at(101) + SETTLE));
        assert_eq!(next(&mut tokens, 103, &["a", "b"]), Next::Use);
    }

    #[test]
    fn a_key_that_was_revoked_is_replaced_at_once() {
        let mut tokens = Tokens::default();
        tokens.created(key("a", 100));
        assert_eq!(tokens.next(at(0), state(&["a"]).ca().unwrap()), Next::WaitUntil(at(0) + SETTLE));
        assert_eq!(tokens.next(at(2), state(&["a"]).ca().unwrap()), Next::Use);
        assert_eq!(tokens.next(at(3), state(&[]).ca().unwrap()), Next::Create);
    }

    #[test]
    fn a_key_that_was_revoked_before_it_was_used_never_is() {
        let mut tokens = Tokens::default();
        tokens.created(key("a", 100));
        assert_eq!(tokens.next(at(0), state(&["a"]).ca().unwrap()), Next::WaitUntil(at(0) + SETTLE));
        assert_eq!(tokens.next(at(1), state(&[]).ca().unwrap()), Next::Create);
        tokens.created(key("b", 100));
        assert_eq!(tokens.next(at(1), state(&[]).ca().unwrap()), Next::Record);
    }
}
