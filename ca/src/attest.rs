//! Attestation in a local mesh: the supervisor vouches for what it starts, with a token that only a replica can verify.
//!
//! A token is `conduit-launch-v1.<claims>.<tag>`: claims as JSON, tag an HMAC-SHA256 over everything before it under a key
//! derived from the seed, both in base64url.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::seed::{Purpose, Seed};

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
        let tag = hmac::sign(&hmac_key(seed), signed.as_bytes());
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
        hmac::verify(&hmac_key(seed), signed.as_bytes(), &tag).map_err(|_| AttestError::Forged)?;

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

fn hmac_key(seed: &Seed) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, seed.derive(Purpose::LaunchTokens).as_ref())
}
