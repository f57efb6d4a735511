//! Which requests a tap wants by the addresses of their ends. Proxies decide that; whoever hands their events on makes sure of it, since a proxy
//! or a replica of a release before does not know what was asked for.

use std::net::{IpAddr, SocketAddr};

use crate::{
    proto::{
        common,
        tap::{
            Match, TapEvent,
            tap_event::{Kind, Peer},
        },
    },
    wire::{WireError, ip, port},
};

/// Where requests come from, and where they go, as their events show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    from: End,
    to: End,
}

/// Anything, if nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

impl Ends {
    /// Whether a request is one that is wanted.
    pub fn hold(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.from.is(Some(from)) && self.to.is(Some(to))
    }

    /// `event`, if it is of a request that is wanted, or of none. Otherwise what it says was lost before it.
    pub fn keep(&self, event: TapEvent) -> Option<TapEvent> {
        let is_wanted = match &event.kind {
            Some(Kind::RequestInit(_) | Kind::ResponseInit(_) | Kind::ResponseEnd(_) | Kind::Message(_)) => {
                self.from.is(address(event.source.as_ref())) && self.to.is(address(event.destination.as_ref()))
            }
            Some(Kind::Schema(_) | Kind::PayloadsDisabled(_)) | None => true,
        };
        if is_wanted {
            return Some(event);
        }
        (event.dropped > 0).then(|| TapEvent { dropped: event.dropped, ..TapEvent::default() })
    }
}

impl TryFrom<&Match> for Ends {
    type Error = WireError;

    fn try_from(wire: &Match) -> Result<Self, WireError> {
        let end = |end: &Option<_>| end.as_ref().map_or(Ok(End::default()), End::try_from);
        Ok(Self { from: end(&wire.from_address)?, to: end(&wire.to_address)? })
    }
}

impl TryFrom<&common::SocketAddress> for End {
    type Error = WireError;

    fn try_from(wire: &common::SocketAddress) -> Result<Self, WireError> {
        let ip = if wire.ip.is_empty() { None } else { Some(ip(&wire.ip)?.to_canonical()) };
        Ok(Self { ip, port: Some(port(wire.port)?).filter(|port| *port > 0) })
    }
}

impl End {
    fn is(&self, address: Option<SocketAddr>) -> bool {
        let Some(address) = address else { return *self == Self::default() };
        self.port.is_none_or(|port| port == address.port())
            && self.ip.is_none_or(|ip| ip == address.ip().to_canonical())
    }
}

fn address(peer: Option<&Peer>) -> Option<SocketAddr> {
    peer.and_then(|peer| peer.address.as_ref()).and_then(|address| address.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tap::tap_event::{PayloadsDisabled, ResponseEnd};

    fn ends(from: (&[u8], u32), to: (&[u8], u32)) -> Result<Ends, WireError> {
        let end = |(ip, port): (&[u8], u32)| Some(common::SocketAddress { ip: ip.to_vec(), port });
        Ends::try_from(&Match { from_address: end(from), to_address: end(to), ..Match::default() })
    }

    const ANY: (&[u8], u32) = (&[], 0);

    #[test]
    fn all_that_is_said_of_both_ends_must_hold() {
        let (from, to) = ("10.0.0.1:40000".parse().unwrap(), "[::ffff:10.0.0.2]:8080".parse().unwrap());
        assert!(Ends::try_from(&Match::default()).unwrap().hold(from, to));
        for (wanted_from, wanted_to, holds) in [
            (ANY, ANY, true),
            (ANY, (&[][..], 8080), true),
            (ANY, (&[][..], 8081), false),
            (ANY, (&[10, 0, 0, 2][..], 0), true),
            (ANY, (&[10, 0, 0, 2][..], 8080), true),
            (ANY, (&[10, 0, 0, 1][..], 8080), false),
            ((&[10, 0, 0, 1], 0), ANY, true),
            ((&[10, 0, 0, 1], 40000), ANY, true),
            ((&[], 40001), ANY, false),
            ((&[10, 0, 0, 2], 0), ANY, false),
            ((&[10, 0, 0, 1], 0), (&[], 8081), false),
        ] {
            let ends = ends(wanted_from, wanted_to).unwrap();
            assert_eq!(ends.hold(from, to), holds, "{wanted_from:?} {wanted_to:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        assert_eq!(ends(ANY, (&[1, 2, 3], 0)), Err(WireError::IpLength(3)));
        assert_eq!(ends((&[], 65536), ANY), Err(WireError::Port(65536)));
    }

    #[test]
    fn of_what_was_not_asked_for_only_the_losses_are_kept() {
        let peer = |address: &str| {
            Some(Peer { address: Some(address.parse::<SocketAddr>().unwrap().into()), ..Peer::default() })
        };
        let event = |dropped| TapEvent {
            source: peer("10.0.0.1:40000"),
            destination: peer("10.0.0.2:8080"),
            kind: Some(Kind::ResponseEnd(ResponseEnd::default())),
            dropped,
            ..TapEvent::default()
        };
        let (wanted, other) = (ends(ANY, (&[], 8080)).unwrap(), ends(ANY, (&[], 80)).unwrap());
        assert_eq!(wanted.keep(event(2)), Some(event(2)));
        assert_eq!(other.keep(event(0)), None);
        assert_eq!(other.keep(event(2)), Some(TapEvent { dropped: 2, ..TapEvent::default() }));
        assert_eq!(wanted.keep(TapEvent { destination: None, ..event(0) }), None, "nobody says where it goes");
        let of_no_request = TapEvent { kind: Some(Kind::PayloadsDisabled(PayloadsDisabled::default())), ..event(0) };
        assert_eq!(other.keep(of_no_request.clone()), Some(of_no_request));
        assert_eq!(other.keep(TapEvent::default()), Some(TapEvent::default()), "nothing but a heartbeat");
    }
}
