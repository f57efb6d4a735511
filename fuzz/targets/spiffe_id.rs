//! SPIFFE ids: what is accepted is what is printed.

#![no_main]

use conduit_api::{SpiffeId, TrustDomain, spiffe::SPIFFE_ID_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= SPIFFE_ID_BYTES_MAX);
        let again = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account()).expect("from its parts");
        assert_eq!(again, id);
    }
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
    }
});
