//! Whom to trust, as controllers tell proxies: what is taken over goes on as it came.

#![no_main]

use conduit_api::proto::identity;
use conduit_ca::{Standing, TrustBundle, WorkloadTls};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(wire) = identity::TrustBundle::decode(bytes) else { return };
    let Ok(bundle) = TrustBundle::try_from(wire) else { return };
    let again = TrustBundle::try_from(identity::TrustBundle::from(&bundle)).expect("what was written is read");
    assert_eq!(again, bundle);
    let tls = WorkloadTls::new("cluster.local".parse().expect("a domain"), bundle);
    assert_eq!(tls.standing(), Standing::Worthless);
});
