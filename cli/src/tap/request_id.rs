//! Which events are of the same request. Pure.

use std::net::SocketAddr;

use conduit_api::proto::{
    common::Direction,
    tap::{TapEvent, tap_event::Id},
};

use super::line::socket_address;

/// A number is one connection's, and a connection's numbers are one proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestId {
    base: u32,
    stream: u64,
    direction: Direction,
    ends: [Option<SocketAddr>; 2],
}

impl RequestId {
    /// Of the request that `event` is about.
    pub(crate) fn of(event: &TapEvent) -> Self {
        let Id { base, stream } = event.id.unwrap_or_default();
        let ends = [&event.source, &event.destination].map(|peer| socket_address(peer.as_ref()?.address.as_ref()));
        Self { base, stream, direction: event.direction(), ends }
    }
}
