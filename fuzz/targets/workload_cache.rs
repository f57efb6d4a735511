//! What a proxy finds on its disk: nothing opens that was not sealed, and what was sealed is taken over as a whole or not at all.

#![no_main]

use conduit_api::proto::cache::Cache;
use conduit_ca::cache;
use conduit_proxy::discovery::Directory;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    assert!(cache::open("token", bytes).is_none());
    let Ok(Cache { revision, targets, .. }) = Cache::decode(bytes) else { return };
    let mut directory = Directory::new("ns", "pod");
    directory.connect(None);
    match directory.restore(revision.into(), &targets) {
        Ok(requests) => {
            assert_eq!(directory.revision().as_u64(), revision);
            assert!(requests.len() <= targets.len());
        }
        Err(_) => assert_eq!(directory.revision().as_u64(), 0),
    }
});
