//! Bundles of other trust domains: what is taken can be told on.

#![no_main]

use conduit_ca::federation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(authorities) = federation::parse(text)
        && let Ok(exported) = federation::export(&authorities, 1)
    {
        let again = federation::parse(&exported).expect("what was exported is imported");
        assert_eq!(again.roots(), authorities.roots());
        assert!(again.jwt.keys().eq(authorities.jwt.keys()));
    }
});
