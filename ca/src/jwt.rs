//! JWT-SVIDs: identities for where there is no TLS to carry one.
//! <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md>
//!
//! A replica signs with a key that exists in its memory only, as its certificates' issuer does. The public half is in the trust bundle
//! before it signs anything, and stays there as long as a token by it can be valid.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conduit_api::{
    SpiffeId, TrustDomain,
    spiffe::{SPIFFE_ID_BYTES_MAX, is_path_segment},
};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation,
    dangerous::insecure_decode_claims,
    errors::ErrorKind,
    jwk::{Jwk, PublicKeyUse, ThumbprintHash},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::key::{CryptoError, KeyPair};

/// How long a token is valid: whoever steals one has little of it, and whoever needs one asks for the next.
pub const JWT_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Audiences of one token.
pub const AUDIENCES_MAX: usize = 16;
/// Bytes of an audience: it is a name or a URL.
const AUDIENCE_BYTES_MAX: usize = 1024;
/// The longest token read: all audiences that there may be, in base64, and other people's claims.
const TOKEN_BYTES_MAX: usize = 32 * 1024;
/// Peers' clocks may be off by this much.
const SKEW: Duration = Duration::from_secs(60);
/// What a key of a bundle says that it is for (SPIFFE Trust Domain and Bundle, section 4.2.2).
pub(crate) const KEY_USE: &str = "jwt-svid";
/// Section 3 of JWT-SVID: signatures by public keys, and nothing else.
const FAMILIES: [AlgorithmFamily; 2] = [AlgorithmFamily::Rsa, AlgorithmFamily::Ec];

/// Of a public key (RFC 7517 section 4, RFC 7518 section 6). Whoever publishes more, by mistake, need not have it spread.
const PUBLIC_MEMBERS: [&str; 9] = ["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg"];

/// Public keys that tokens of one trust domain are verified with, as JSON Web Keys (RFC 7517), by their ids.
pub type JwtKeys = BTreeMap<String, String>;

/// Why a token proves nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not a JWT, or not one that is an SVID.
    #[error("this is not a JWT-SVID: {0}")]
    Malformed(String),
    /// Of a trust domain whose keys we do not have.
    #[error("the token is of trust domain `{0}`, which is not trusted here")]
    TrustDomain(TrustDomain),
    /// By a key that its trust domain does not have, or no longer.
    #[error("the token is signed by a key that is not among those of trust domain `{0}`")]
    Key(TrustDomain),
    /// Altered.
    #[error("the token's signature is not that of its content")]
    Signature,
    /// For somebody else.
    #[error("the token is not for the audience `{0}`")]
    Audience(String),
    /// Too old.
    #[error("the token expired {}s ago", .0.as_secs())]
    Expired(Duration),
}

/// Why no token was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// For nobody, for too many, or for one whose name is none.
    #[error("a token is for 1 to {AUDIENCES_MAX} audiences, each of 1 to {AUDIENCE_BYTES_MAX} bytes")]
    Audience,
    /// Our own side.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Signs tokens; its key is erased when it is dropped.
pub struct JwtIssuer {
    id: String,
    jwk: String,
    key: EncodingKey,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvid {
    /// As it is sent, in the compact form (RFC 7515 section 7.1).
    pub token: String,
    /// The last second in which it is valid.
    pub not_after: SystemTime,
}

/// What a token has proved.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Who it is: a SPIFFE id, of whatever shape its trust domain gives them.
    pub subject: String,
    /// Everything that it says.
    pub claims: Map<String, Value>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    aud: &'a [String],
    /// Seconds since the Unix epoch, both.
    iat: u64,
    exp: u64,
}

impl JwtIssuer {
    /// One with a new key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, CryptoError> {
        let key = EncodingKey::from_ec_der(&KeyPair::generate()?.to_pkcs8()?);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(|_| CryptoError::Key)?;
        // RFC 7638: no two keys have the same.
        let id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| CryptoError::Key)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Other(KEY_USE.to_owned()));
        let jwk = serde_json::to_string(&jwk).map_err(|_| CryptoError::Key)?;
        Ok(Self { id, jwk, key })
    }

    /// Of its key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half (RFC 7517), for bundles.
    pub fn jwk(&self) -> &str {
        &self.jwk
    }

    /// A token that proves `id` to `audience` for [`JWT_LIFETIME`] from `now`. It is the caller who has established that the requester
    /// is `id`.
    ///
    /// # Errors
    /// For audiences that are none.
    pub fn issue(&self, id: &SpiffeId, audience: &[String], now: SystemTime) -> Result<JwtSvid, SignError> {
        let is_name = |audience: &String| (1..=AUDIENCE_BYTES_MAX).contains(&audience.len());
        if !(1..=AUDIENCES_MAX).contains(&audience.len()) || !audience.iter().all(is_name) {
            return Err(SignError::Audience);
        }
        let (iat, exp) = (unix_seconds(now), unix_seconds(now + JWT_LIFETIME));
        let claims = Claims { sub: id.to_string(), aud: audience, iat, exp };
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        let token = jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| CryptoError::Key)?;
        Ok(JwtSvid { token, not_after: UNIX_EPOCH + Duration::from_secs(exp) })
    }
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who has sent `token` to `audience`; `keys` has those of a trust domain.
///
/// # Errors
/// When it proves nothing to this audience now.
pub fn verify<'a>(
    token: &str,
    audience: &str,
    now: SystemTime,
    keys: impl FnOnce(&TrustDomain) -> Option<&'a JwtKeys>,
) -> Result<Verified, JwtError> {
    // Whose it claims to be says whose keys must have signed it.
    let claimed = unverified(token)?;
    let domain = trust_domain(subject(&claimed)?)?;
    let keys = keys(&domain).ok_or_else(|| JwtError::TrustDomain(domain.clone()))?;
    let claims = signed_by_one_of(keys, token)?.ok_or(JwtError::Key(domain))?;
    in_force(&claims, audience, now)?;
    Ok(Verified { subject: subject(&claims)?.to_owned(), claims })
}

/// What `token` says, whoever has written it: to be believed by nobody.
///
/// # Errors
/// When it is no token.
pub fn unverified(token: &str) -> Result<Map<String, Value>, JwtError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    insecure_decode_claims(token).map_err(malformed)
}

/// What `token` says, if it is signed by one of these keys: the one that it names. `None` when it names another one.
///
/// When and for whom it is valid is for the caller to see ([`in_force`]), and who may have such keys.
///
/// # Errors
/// When it is not a token that a public key has signed, or was altered.
pub fn signed_by_one_of(keys: &JwtKeys, token: &str) -> Result<Option<Map<String, Value>>, JwtError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(malformed)?;
    if !FAMILIES.contains(&header.alg.family()) {
        return Err(malformed(format_args!("its algorithm {:?} is not allowed", header.alg)));
    }
    if header.typ.as_deref().is_some_and(|typ| !matches!(typ, "JWT" | "JOSE")) || header.crit.is_some() {
        return Err(malformed("its header says that it is something else"));
    }
    match header.kid.as_ref().and_then(|id| keys.get(id)) {
        Some(key) => signed_by(key, header.alg, token).map(Some),
        None => Ok(None),
    }
}

/// The key that `token` says it is signed by.
pub fn key_id(token: &str) -> Option<String> {
    jsonwebtoken::decode_header(token).ok()?.kid
}

/// Whether what a token claims holds for `audience` at `now`.
///
/// # Errors
/// When it is for others, or another time.
pub fn in_force(claims: &Map<String, Value>, audience: &str, now: SystemTime) -> Result<(), JwtError> {
    let is_for = |aud: &Value| match aud {
        Value::String(one) => one == audience,
        Value::Array(all) => all.iter().any(|one| one == audience),
        _ => false,
    };
    if !claims.get("aud").is_some_and(is_for) {
        return Err(JwtError::Audience(audience.to_owned()));
    }
    let time = |claim| match claims.get(claim).and_then(Value::as_f64) {
        // Seconds, of which other people's may have fractions, and any number of digits.
        Some(seconds) => match UNIX_EPOCH.checked_add(Duration::from_secs(seconds as u64)) {
            Some(time) => Ok(Some(time)),
            None => Err(malformed(format_args!("its `{claim}` is no time"))),
        },
        None => Ok(None),
    };
    let expires = time("exp")?.ok_or_else(|| malformed("it never expires"))?;
    match now.duration_since(expires) {
        Ok(since) if since > SKEW => return Err(JwtError::Expired(since)),
        _ => {}
    }
    if time("nbf")?.is_some_and(|begins| begins > now + SKEW) {
        return Err(malformed("it is not valid yet"));
    }
    Ok(())
}

/// What `token` says, if it is signed by this JSON Web Key. When and for whom it is valid is for the caller to see.
fn signed_by(key: &str, algorithm: Algorithm, token: &str) -> Result<Map<String, Value>, JwtError> {
    let key: Jwk = serde_json::from_str(key).map_err(malformed)?;
    let key = DecodingKey::from_jwk(&key).map_err(malformed)?;
    let mut validation = Validation::new(algorithm);
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    let verified = jsonwebtoken::decode(token, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => JwtError::Signature,
        _ => malformed(error),
    })?;
    Ok(verified.claims)
}

/// The keys of a JSON Web Key Set (RFC 7517 section 5) that tokens can be verified with; others are left out.
///
/// # Errors
/// When it is not such a set.
pub fn keys_of_set(text: &str) -> Result<JwtKeys, JwtError> {
    let set: Value = serde_json::from_str(text).map_err(malformed)?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or_else(|| malformed("it is not a JSON Web Key Set"))?;
    let usable = keys.iter().filter_map(|key| usable(key).ok());
    Ok(usable.filter_map(|key| Some((key.get("kid")?.as_str()?.to_owned(), key.to_string()))).collect())
}

/// A JSON Web Key that tokens can be verified with, without anything that is not for everybody; or why it is none.
pub(crate) fn usable(jwk: &Value) -> Result<Value, String> {
    let mut public = jwk.as_object().cloned().unwrap_or_default();
    public.retain(|name, _| PUBLIC_MEMBERS.contains(&name.as_str()));
    let public = Value::from(public);
    let key: Jwk = serde_json::from_value(public.clone()).map_err(|error| error.to_string())?;
    let key = DecodingKey::from_jwk(&key).map_err(|error| error.to_string())?;
    match FAMILIES.contains(&key.family()) {
        true => Ok(public),
        false => Err("it is not a public key of RSA or ECDSA".to_owned()),
    }
}

fn subject(claims: &Map<String, Value>) -> Result<&str, JwtError> {
    claims.get("sub").and_then(Value::as_str).ok_or_else(|| malformed("it names nobody"))
}

/// Whose a SPIFFE id is. Other domains' need not have the shape of ours.
fn trust_domain(id: &str) -> Result<TrustDomain, JwtError> {
    let (domain, path) = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).unwrap_or_default();
    if id.len() > SPIFFE_ID_BYTES_MAX || !path.split('/').all(is_path_segment) {
        return Err(malformed("its subject is no SPIFFE id of a workload"));
    }
    domain.parse().map_err(malformed)
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn malformed(why: impl fmt::Display) -> JwtError {
    JwtError::Malformed(why.to_string())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    fn web() -> SpiffeId {
        "spiffe://cluster.local/ns/emojivoto/sa/web".parse().unwrap()
    }

    fn keys(issuers: &[&JwtIssuer]) -> JwtKeys {
        issuers.iter().map(|issuer| (issuer.id().to_owned(), issuer.jwk().to_owned())).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn check(token: &str, keys: &JwtKeys, now: SystemTime) -> Result<Verified, JwtError> {
        verify(token, "voting", now, |domain| (domain.as_str() == "cluster.local").then_some(keys))
    }

    #[test]
    fn proves_who_it_is_to_its_audience_for_a_while() {
        let issuer = JwtIssuer::generate().unwrap();
        let keys = keys(&[&JwtIssuer::generate().unwrap(), &issuer]);
        let audience = ["emoji".to_owned(), "voting".to_owned()];
        let JwtSvid { token, not_after } = issuer.issue(&web(), &audience, at(1000)).unwrap();
        assert_eq!(not_after, at(1000) + JWT_LIFETIME);
        let verified = check(&token, &keys, at(1000)).unwrap();
        assert_eq!(verified.subject, web().to_string());
        assert_eq!(verified.claims["aud"], json!(audience));
        assert!(check(&token, &keys, not_after + SKEW).is_ok());
        let late = Duration::from_secs(1) + SKEW;
        assert_eq!(check(&token, &keys, not_after + late), Err(JwtError::Expired(late)));
        let other = issuer.issue(&web(), &audience[..1], at(1000)).unwrap().token;
        assert_eq!(check(&other, &keys, at(1000)), Err(JwtError::Audience("voting".to_owned())));
        assert!(!issuer.jwk().contains("\"d\""), "{}", issuer.jwk());
    }

    #[test]
    fn strangers_and_forgeries_prove_nothing() {
        let (issuer, stranger) = (JwtIssuer::generate().unwrap(), JwtIssuer::generate().unwrap());
        let (audience, now) = (["voting".to_owned()], at(1000));
        let keys = keys(&[&issuer]);
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let by_stranger = stranger.issue(&web(), &audience, now).unwrap().token;
        assert_eq!(check(&by_stranger, &keys, now), Err(JwtError::Key(domain)));
        let theirs = issuer.issue(&"spiffe://example.org/ns/a/sa/b".parse().unwrap(), &audience, now).unwrap().token;
        assert!(matches!(check(&theirs, &keys, now), Err(JwtError::TrustDomain(_))));
        let token = issuer.issue(&web(), &audience, now).unwrap().token;
        let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let claims =
            json!({"sub": web().to_string().replace("web", "root"), "aud": "voting", "exp": 9_999_999_999_u64});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let altered = format!("{header}.{}.{signature}", encode(&claims));
        assert_eq!(check(&altered, &keys, now), Err(JwtError::Signature));
        // The two ways in which verifiers were talked into believing anybody (RFC 8725 section 2.1).
        for alg in ["none", "HS256"] {
            let header = encode(&json!({"alg": alg, "typ": "JWT", "kid": issuer.id()}));
            let forged = format!("{header}.{}.{signature}", encode(&claims));
            assert!(matches!(check(&forged, &keys, now), Err(JwtError::Malformed(_))), "{alg}");
        }
        for junk in ["", ".", "..", "a.b.c", "\u{fc}", &"a".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(matches!(check(junk, &keys, now), Err(JwtError::Malformed(_))), "{junk}");
        }
    }

    #[test]
    fn times_are_times() {
        let in_force = |claims: Value| in_force(claims.as_object().unwrap(), "voting", at(1000));
        assert_eq!(in_force(json!({"aud": "voting", "exp": 1000.5})), Ok(()));
        for no_time in [json!(1e30), json!(u64::MAX), json!("1000"), Value::Null] {
            let refused = in_force(json!({"aud": "voting", "exp": no_time}));
            assert!(matches!(refused, Err(JwtError::Malformed(_))), "{no_time}");
        }
        assert!(matches!(in_force(json!({"aud": "voting", "exp": 2000, "nbf": 1e30})), Err(JwtError::Malformed(_))));
        assert!(matches!(in_force(json!({"aud": "voting", "exp": 2000, "nbf": 1500})), Err(JwtError::Malformed(_))));
        assert_eq!(in_force(json!({"aud": "voting", "exp": -1})), Err(JwtError::Expired(Duration::from_secs(1000))));
    }

    #[test]
    fn is_for_somebody() {
        let issuer = JwtIssuer::generate().unwrap();
        let refused = |audience: &[String]| issuer.issue(&web(), audience, at(0)).is_err();
        assert!(refused(&[]) && refused(&[String::new()]) && refused(&["a".repeat(AUDIENCE_BYTES_MAX + 1)]));
        assert!(refused(&vec!["a".to_owned(); AUDIENCES_MAX + 1]));
    }
}
