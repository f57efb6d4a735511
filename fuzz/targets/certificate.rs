//! Certificates: as a peer, as a replica, as a root to be trusted, and as one to be shown.

#![no_main]

use conduit_ca::{KeyPair, Standing, TrustBundle, WorkloadTls, describe, lifetime, peer_node};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let certificate = der.to_vec().into();
    let _ = lifetime(der);
    let _ = describe(der);
    let _ = peer_node(std::slice::from_ref(&certificate));
    let Ok(bundle) = TrustBundle::new(vec![certificate.clone()]) else { return };
    assert_eq!(TrustBundle::from_pem(&bundle.to_pem()).expect("what was written is read"), bundle);
    let tls = WorkloadTls::new("cluster.local".parse().expect("a domain"), bundle);
    let key = KeyPair::generate().expect("a key");
    assert!(tls.set_identity(&key, vec![certificate]).is_err(), "it is for another key");
    assert_eq!(tls.standing(), Standing::Worthless);
});
