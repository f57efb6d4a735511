//! The first bytes of a connection: what was decided stays decided, however many follow.

#![no_main]

use conduit_proxy::detect::{Detected, detect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut decided = Detected::Undecided;
    for length in 0..=bytes.len().min(64) {
        let now = detect(&bytes[..length]);
        assert!(decided == Detected::Undecided || decided == now, "{decided:?}, then {now:?}");
        decided = now;
    }
    let whole = detect(bytes);
    assert!(decided == Detected::Undecided || decided == whole);
});
