//! What the control plane sends: taken over as a whole, or not at all, and never older than what is in force.

#![no_main]

use conduit_api::{Target, proto::discovery::WatchResponse};
use conduit_proxy::discovery::Directory;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let mut directory = Directory::new("ns", "pod");
    directory.connect(None);
    let (watched, _) = directory.want(Target::Address(([10, 96, 0, 1], 80).into()));
    let Some(watched) = watched else { return };
    let Ok(response) = WatchResponse::decode(bytes) else { return };
    match directory.update(&response) {
        Ok(_) => assert_eq!(directory.revision().as_u64(), response.revision),
        Err(_) => assert!(watched.borrow().is_none()),
    }
});
