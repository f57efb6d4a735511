//! Signing requests: what is signed is for the key in the request, and for nobody but the one it was to be for.

#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use conduit_api::{NodeId, SpiffeId};
use conduit_ca::{Issuer, ROOT_LIFETIME, Root, describe};
use libfuzzer_sys::fuzz_target;

const WEB: &str = "spiffe://cluster.local/ns/emojivoto/sa/web";
const LIFETIME: Duration = Duration::from_secs(3600);

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let now = SystemTime::now();
    let root = Root::generate(&"cluster.local".parse().expect("a domain"), now, ROOT_LIFETIME).expect("a root");
    Issuer::new(&root, None, NodeId::new(1), now, LIFETIME).expect("an issuer")
});

fuzz_target!(|csr: &[u8]| {
    let id: SpiffeId = WEB.parse().expect("an id");
    if let Ok(issued) = ISSUER.issue(csr, &id, SystemTime::now(), LIFETIME) {
        let text = describe(&issued.chain[0]).expect("a certificate");
        assert!(text.contains(WEB), "{text}");
    }
});
