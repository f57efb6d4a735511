//! Launch tokens and JWT-SVIDs: nothing that was not signed is believed.

#![no_main]

use std::{collections::BTreeMap, sync::LazyLock, time::SystemTime};

use conduit_ca::{JwtIssuer, JwtKeys, LaunchToken, Seed, jwt};
use libfuzzer_sys::fuzz_target;

static SEED: LazyLock<Seed> = LazyLock::new(Seed::generate);
static KEYS: LazyLock<JwtKeys> = LazyLock::new(|| {
    let issuer = JwtIssuer::generate().expect("a key");
    // Under an id that a token can guess.
    BTreeMap::from([("key".to_owned(), issuer.jwk().to_owned())])
});

fuzz_target!(|token: &str| {
    assert!(LaunchToken::verify(token, &SEED, SystemTime::now()).is_err());
    // Whoever has the key may claim anything.
    if let Ok(claims) = serde_json::from_str(token) {
        let _ = jwt::in_force(&claims, "audience", SystemTime::now());
    }
    assert!(jwt::verify(token, "audience", SystemTime::now(), |_| Some(&KEYS)).is_err());
    assert!(!matches!(jwt::signed_by_one_of(&KEYS, token), Ok(Some(_))));
    if let Ok(claims) = jwt::unverified(token) {
        let _ = jwt::in_force(&claims, "audience", SystemTime::now());
    }
});
