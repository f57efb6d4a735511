//! Which schemas somebody is to be told, of what passes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use conduit_api::proto::{
    common::Direction,
    tap::{
        AttachRequest, Observed, TapEvent, attach_request,
        tap_event::{Kind, Message, Peer, Schema},
    },
};

/// Of one tap. Paths are what clients send; those past it are told to be of no schema by nobody, and shown as they are.
const SERVICES_MAX: usize = 64;

/// What was asked already.
#[derive(Default)]
pub(super) struct Schemas(BTreeMap<u64, BTreeSet<String>>);

/// A schema that somebody needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) tap: u64,
    pub(super) service: String,
    /// The application, if it is beside this proxy.
    pub(super) application: Option<SocketAddr>,
}

impl Schemas {
    /// What is wanted now that `request` is told.
    pub(super) fn wanted(&mut self, request: &AttachRequest) -> Option<Wanted> {
        let Some(attach_request::Kind::Event(Observed { tap, event: Some(event), .. })) = &request.kind else {
            return None;
        };
        let Some(Kind::Message(Message { path, .. })) = &event.kind else { return None };
        let (service, _) = path.strip_prefix('/')?.rsplit_once('/')?;
        let asked = self.0.entry(*tap).or_default();
        if asked.len() >= SERVICES_MAX || !asked.insert(service.to_owned()) {
            return None;
        }
        let address = event.destination.as_ref().and_then(|peer| peer.address.as_ref());
        let application = address.filter(|_| event.direction() == Direction::Inbound);
        let application = application.and_then(|address| address.try_into().ok());
        Some(Wanted { tap: *tap, service: service.to_owned(), application })
    }

    /// A tap begins, or ends.
    pub(super) fn forget(&mut self, tap: u64) {
        self.0.remove(&tap);
    }
}

impl Wanted {
    /// What is told: `files`, or why there are none.
    pub(super) fn told(self, files: Result<Vec<Vec<u8>>, String>) -> AttachRequest {
        let (files, error) = files.map_or_else(|error| (Vec::new(), error), |files| (files, String::new()));
        let kind = Kind::Schema(Schema { service: self.service, files, error });
        let direction = if self.application.is_some() { Direction::Inbound } else { Direction::Outbound };
        let (direction, destination) = (direction.into(), Some(Peer::default()));
        event(self.tap, TapEvent { direction, destination, kind: Some(kind), ..TapEvent::default() })
    }
}

/// For `tap` alone.
pub(super) fn event(tap: u64, event: TapEvent) -> AttachRequest {
    AttachRequest { kind: Some(attach_request::Kind::Event(Observed { tap, event: Some(event), dropped: 0 })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tap: u64, direction: Direction, path: &str) -> AttachRequest {
        let kind = Kind::Message(Message { path: path.to_owned(), ..Message::default() });
        let address = SocketAddr::from(([10, 0, 0, 1], 8080));
        let destination = Some(Peer { address: Some(address.into()), ..Peer::default() });
        let direction = direction.into();
        event(tap, TapEvent { direction, destination, kind: Some(kind), ..TapEvent::default() })
    }

    #[test]
    fn each_service_is_asked_for_once_and_only_beside() {
        let mut schemas = Schemas::default();
        let mut wanted = |tap, direction, path: &str| schemas.wanted(&message(tap, direction, path));
        let first = wanted(1, Direction::Inbound, "/a.B/C").unwrap();
        assert_eq!((first.service.as_str(), first.application.map(|a| a.port())), ("a.B", Some(8080)));
        assert_eq!(wanted(1, Direction::Inbound, "/a.B/D"), None);
        assert!(wanted(2, Direction::Inbound, "/a.B/D").is_some(), "another tap has not been told");
        assert_eq!(wanted(1, Direction::Outbound, "/a.X/C").unwrap().application, None);
        assert_eq!(wanted(1, Direction::Inbound, "nonsense"), None);
        for other in 0..100 {
            wanted(1, Direction::Inbound, &format!("/s{other}/m"));
        }
        assert_eq!(wanted(1, Direction::Inbound, "/one.more/m"), None);
        schemas.forget(1);
        assert!(schemas.wanted(&message(1, Direction::Inbound, "/a.B/C")).is_some());
    }
}
