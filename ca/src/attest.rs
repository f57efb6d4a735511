//! Attestation in a local mesh: the supervisor vouches for what it starts, with a token that only a replica can verify.
//!
//! A token is `conduit-launch-v1.<claims>.<tag>`: claims as JSON, tag an HMAC-SHA256 over everything before it under a
//! key derived from the seed, both in base64url.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::seed::{KEY_BYTES, Purpose, Seed};

/// What every token of this format starts with. Part of what is authenticated.
const PREFIX: &str = "conduit-launch-v1.";

/// The longest token read: three names of at most 253 bytes and some frame, in base64.
const TOKEN_BYTES_MAX: usize = 2 * 1024;

/// Why a token proves nothing.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AttestError {
    /// Not a token of ours.
    #[error("this is not a launch token")]
    Malformed,
    /// Made under another seed, or altered.
    #[error("the launch token is not one of this mesh: it was made under another seed, or altered")]
    Forged,
    /// Too old.
    #[error("the launch token expired {}s ago; whoever started the workload must write a new one", .0.as_secs())]
    Expired(Duration),
}

/// Which instance of which workload someone has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchToken {
    /// The pod's namespace.
    pub namespace: String,
    /// What it runs as: the last part of its identity.
    pub service_account: String,
    /// The pod's name.
    pub pod: String,
}

/// The claims as they are in the token, in the names that JWTs give them where there is one.
#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(rename = "ns")]
    namespace: String,
    #[serde(rename = "sa")]
    service_account: String,
    pod: String,
    /// Seconds since the Unix epoch.
    exp: u64,
}

impl LaunchToken {
    /// A token that proves this until `expires` to whoever holds `seed`.
    pub fn mint(&self, seed: &Seed, expires: SystemTime) -> String {
        let claims = Claims {
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
            pod: self.pod.clone(),
            exp: expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        let json = serde_json::to_vec(&claims).expect("strings and a number are JSON");
        let signed = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
        let tag = hmac::sign(&hmac_key(seed.derive(Purpose::LaunchTokens)), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// What `token` proves at `now`. White space around it, as files have it, is ignored.
    ///
    /// # Errors
    /// When it is not a token, not made under `seed`, or expired.
    pub fn verify(token: &str, seed: &Seed, now: SystemTime) -> Result<Self, AttestError> {
        let token = token.trim_ascii();
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AttestError::Malformed);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(AttestError::Malformed)?;
        let claims = signed.strip_prefix(PREFIX).ok_or(AttestError::Malformed)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| AttestError::Malformed)?;
        let is_tag = |key: Zeroizing<[u8; KEY_BYTES]>| hmac::verify(&hmac_key(key), signed.as_bytes(), &tag).is_ok();
        if !seed.derive_all(Purpose::LaunchTokens).any(is_tag) {
            return Err(AttestError::Forged);
        }

        // From here on it is our own writing.
        let json = URL_SAFE_NO_PAD.decode(claims).map_err(|_| AttestError::Malformed)?;
        let claims: Claims = serde_json::from_slice(&json).map_err(|_| AttestError::Malformed)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        match now.checked_sub(Duration::from_secs(claims.exp)) {
            Some(ago) => Err(AttestError::Expired(ago)),
            None => Ok(Self { namespace: claims.namespace, service_account: claims.service_account, pod: claims.pod }),
        }
    }
}

fn hmac_key(key: Zeroizing<[u8; KEY_BYTES]>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn launch() -> LaunchToken {
        LaunchToken { namespace: "emojivoto".into(), service_account: "web".into(), pod: "web-0".into() }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn verifies_what_it_minted() {
        let seed = Seed::generate();
        let token = launch().mint(&seed, at(1000));
        assert_eq!(LaunchToken::verify(&token, &seed, at(999)), Ok(launch()));
        assert_eq!(LaunchToken::verify(&format!("{token}\n"), &seed, at(0)), Ok(launch()));
    }

    #[test]
    fn refuses_the_old_and_the_foreign() {
        let seed = Seed::generate();
        let token = launch().mint(&seed, at(1000));
        let verify = |token: &str, now| LaunchToken::verify(token, &seed, at(now));
        assert_eq!(verify(&token, 1000), Err(AttestError::Expired(Duration::ZERO)));
        assert_eq!(verify(&token, 1060), Err(AttestError::Expired(Duration::from_secs(60))));
        assert_eq!(LaunchToken::verify(&token, &Seed::generate(), at(0)), Err(AttestError::Forged));
        // Whether it is expired is told to nobody who could not have made it.
        assert_eq!(LaunchToken::verify(&token, &Seed::generate(), at(2000)), Err(AttestError::Forged));
        assert_eq!(verify(&token.replace("v1", "v2"), 0), Err(AttestError::Malformed));
        assert_eq!(verify("", 0), Err(AttestError::Malformed));
        assert_eq!(verify(PREFIX, 0), Err(AttestError::Malformed));
        assert_eq!(verify(&format!("{token}{}", " x".repeat(TOKEN_BYTES_MAX)), 0), Err(AttestError::Malformed));
    }

    #[test]
    fn verifies_under_both_seeds_while_one_follows_the_other() {
        let announced = Seed::generate().advance();
        let by_old = launch().mint(&announced, at(1000));
        let replaced = announced.advance();
        assert_eq!(LaunchToken::verify(&by_old, &replaced, at(0)), Ok(launch()));
        let by_new = launch().mint(&replaced, at(1000));
        assert_eq!(LaunchToken::verify(&by_new, &announced, at(0)), Ok(launch()), "by a replica that is behind");
        let settled = replaced.advance();
        assert_eq!(LaunchToken::verify(&by_new, &settled, at(0)), Ok(launch()));
        assert_eq!(LaunchToken::verify(&by_old, &settled, at(0)), Err(AttestError::Forged));
    }

    #[test]
    fn refuses_other_claims_under_the_same_tag() {
        let seed = Seed::generate();
        let (mine, other) = (launch().mint(&seed, at(10)), launch().mint(&seed, at(1000)));
        let (_, tag) = mine.rsplit_once('.').unwrap();
        let (signed, _) = other.rsplit_once('.').unwrap();
        assert_eq!(LaunchToken::verify(&format!("{signed}.{tag}"), &seed, at(500)), Err(AttestError::Forged));
    }

    proptest! {
        #[test]
        fn a_changed_character_is_noticed(at_byte in 0..200_usize, to in "[A-Za-z0-9_.-]") {
            let seed = Seed::generate();
            let token = launch().mint(&seed, at(1000));
            let at_byte = at_byte % token.len();
            let mut changed = token.clone();
            changed.replace_range(at_byte..=at_byte, &to);
            // The last character carries bits that mean nothing, but decoding is strict about them.
            prop_assert_eq!(LaunchToken::verify(&changed, &seed, at(0)).is_ok(), changed == token);
        }

        #[test]
        fn garbage_is_refused(token in "(conduit-launch-v1\\.)?[A-Za-z0-9_.=-]{0,100}|\\PC{0,50}") {
            prop_assert!(LaunchToken::verify(&token, &Seed::generate(), at(0)).is_err());
        }
    }
}
