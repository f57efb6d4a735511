//! Taps that controllers start in a proxy: no rate and no match is too odd.

#![no_main]

use conduit_api::proto::{common::Direction, tap::Start};
use conduit_proxy::tap::{Request, Taps};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(start) = Start::decode(bytes) else { return };
    let (taps, _events) = Taps::new(Default::default());
    let id = start.tap;
    taps.start(start);
    let direction = Direction::Inbound;
    let (method, scheme, authority, path) = ("GET", "http", "web:80", "/a");
    let (source, destination) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:8080".parse().unwrap());
    let request =
        Request { direction, method, scheme, authority, path, source, destination, workload: None, pod: None };
    for _ in 0..3 {
        assert!(taps.watching(&request).len() <= 1);
    }
    taps.stop(id);
    assert!(taps.is_idle());
});
