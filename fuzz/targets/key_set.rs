//! The keys of a Kubernetes API server: those that are taken are taken again.

#![no_main]

use conduit_ca::jwt::{keys_of_set, signed_by_one_of};
use libfuzzer_sys::fuzz_target;

/// `{"alg":"ES256","kid":"key"}` and `{}`, signed by nobody.
const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleSJ9.e30.AAAA";

fuzz_target!(|text: &str| {
    let Ok(keys) = keys_of_set(text) else { return };
    let jwks: Vec<_> = keys.values().map(String::as_str).collect();
    let again = keys_of_set(&format!(r#"{{"keys":[{}]}}"#, jwks.join(","))).expect("a set");
    assert_eq!(again, keys);
    assert!(!matches!(signed_by_one_of(&keys, TOKEN), Ok(Some(_))));
});
