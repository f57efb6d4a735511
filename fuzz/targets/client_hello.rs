//! The beginning of a TLS connection: what was read of it stays so, however many bytes follow.

#![no_main]

use conduit_proxy::client_hello::{Read, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let half = read(&bytes[..bytes.len() / 2]);
    let whole = read(bytes);
    assert!(half == Read::Partial || half == whole, "{half:?}, then {whole:?}");
});
