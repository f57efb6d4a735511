//! Routes that clients of the API send: what is accepted goes on as it came.

#![no_main]

use conduit_api::{HttpRoute, RouteTable, proto::route};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(wire) = route::HttpRoute::decode(bytes) else { return };
    let Ok(accepted) = HttpRoute::try_from(&wire) else { return };
    assert_eq!(HttpRoute::try_from(&route::HttpRoute::from(&accepted)).as_ref(), Ok(&accepted));
    for parent in &accepted.parents {
        let table = RouteTable::new(&parent.service, [&accepted].into_iter());
        let port = parent.port.unwrap_or(80);
        let choices =
            table.of_port(port).filter(|choice| choice.accepted.accepts("GET", "/a/b", "a=b", |_| Some(b"x")));
        assert!(choices.count() <= table.of_port(port).count());
    }
});
