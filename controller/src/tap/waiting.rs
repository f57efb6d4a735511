//! What waits for one who watches. Pure.
//!
//! Watching never slows the watched: what there is no room for is lost, and counted. Schemas have room of their own, since without them nothing
//! that comes later can be read.

use std::collections::{BTreeSet, VecDeque};

use aws_lc_rs::digest::{Context, SHA256};
use conduit_api::proto::tap::{
    TapEvent,
    tap_event::{Kind, Schema},
};
use prost::Message as _;

/// Past it they are lost.
const EVENTS_MAX: usize = 1024;
/// Of these, encoded.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Of schemas, which a proxy bounds to half of a megabyte each.
const SCHEMA_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Schemas that were told with their files; past it they are told with them again.
const DIGESTS_MAX: usize = 1024;

/// A queue.
#[derive(Default)]
pub(super) struct Waiting {
    events: Bounded,
    schemas: Bounded,
    /// Of files that are known: many pods have the same.
    told: BTreeSet<Vec<u8>>,
    /// Since the last event that was taken out.
    dropped: u64,
}

#[derive(Default)]
struct Bounded {
    events: VecDeque<(TapEvent, usize)>,
    bytes: usize,
}

impl Waiting {
    /// Takes an event, if there is room: otherwise it is lost, with what it says was lost before it.
    pub(super) fn push(&mut self, mut event: TapEvent) -> bool {
        let lost = event.dropped.saturating_add(1);
        let is_taken = if let Some(Kind::Schema(schema)) = &mut event.kind {
            let new = mark(schema).filter(|digest| !self.told.contains(digest));
            if new.is_none() {
                schema.files.clear();
            }
            let is_taken = self.schemas.push(event, EVENTS_MAX, SCHEMA_BYTES_MAX);
            if let Some(digest) = new
                && is_taken
                && self.told.len() < DIGESTS_MAX
            {
                self.told.insert(digest);
            }
            is_taken
        } else {
            self.events.push(event, EVENTS_MAX, EVENT_BYTES_MAX)
        };
        if !is_taken {
            self.dropped = self.dropped.saturating_add(lost);
        }
        is_taken
    }

    /// So many were lost elsewhere; who watches is told so even if nothing follows.
    pub(super) fn lost(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// The next, with what was lost before it; if there is none, what was lost.
    pub(super) fn pop(&mut self) -> Option<TapEvent> {
        let next = self.schemas.pop().or_else(|| self.events.pop());
        let mut next = next.or_else(|| (self.dropped > 0).then(TapEvent::default))?;
        next.dropped = next.dropped.saturating_add(std::mem::take(&mut self.dropped));
        Some(next)
    }
}

impl Bounded {
    fn push(&mut self, event: TapEvent, events_max: usize, bytes_max: usize) -> bool {
        let bytes = event.encoded_len();
        let has_room = self.events.len() < events_max && self.bytes + bytes <= bytes_max;
        if has_room {
            self.bytes += bytes;
            self.events.push_back((event, bytes));
        }
        has_room
    }

    fn pop(&mut self) -> Option<TapEvent> {
        let (event, bytes) = self.events.pop_front()?;
        self.bytes -= bytes;
        Some(event)
    }
}

/// Gives a schema the digest of its files; none if it has no files. A proxy that gives one itself is not believed.
fn mark(schema: &mut Schema) -> Option<Vec<u8>> {
    schema.digest.clear();
    if schema.files.is_empty() {
        return None;
    }
    let mut digest = Context::new(&SHA256);
    for file in &schema.files {
        digest.update(&(file.len() as u64).to_be_bytes());
        digest.update(file);
    }
    schema.digest = digest.finish().as_ref().to_vec();
    Some(schema.digest.clone())
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::tap::tap_event::{Message, ResponseInit};

    use super::*;

    fn event(dropped: u64) -> TapEvent {
        let kind = Some(Kind::ResponseInit(ResponseInit::default()));
        TapEvent { kind, dropped, ..TapEvent::default() }
    }

    fn schema(file: &[u8]) -> TapEvent {
        let schema = Schema { service: "a.B".into(), files: vec![file.to_vec()], ..Schema::default() };
        TapEvent { kind: Some(Kind::Schema(schema)), ..TapEvent::default() }
    }

    fn files(event: Option<TapEvent>) -> (Vec<u8>, usize) {
        let Some(Kind::Schema(schema)) = event.unwrap().kind else { panic!("it is no schema") };
        (schema.digest, schema.files.len())
    }

    #[test]
    fn what_a_slow_reader_loses_is_counted() {
        let mut waiting = Waiting::default();
        assert!(waiting.push(event(3)));
        for _ in 1..EVENTS_MAX {
            assert!(waiting.push(event(0)));
        }
        assert!(!waiting.push(event(0)) && !waiting.push(event(5)));
        assert_eq!(waiting.pop().unwrap().dropped, 3 + 1 + 6);
        assert_eq!(waiting.pop().unwrap().dropped, 0);
        assert!(waiting.push(event(0)));
    }

    #[test]
    fn what_is_lost_is_told_when_nothing_follows() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.pop(), None);
        waiting.lost(7);
        assert_eq!(waiting.pop(), Some(TapEvent { dropped: 7, ..TapEvent::default() }));
        assert_eq!(waiting.pop(), None);
    }

    #[test]
    fn messages_have_a_bound_of_bytes_and_schemas_room_beside_them() {
        let mut waiting = Waiting::default();
        let bytes = vec![0; EVENT_BYTES_MAX / 4];
        let message = Kind::Message(Message { bytes, ..Message::default() });
        let message = TapEvent { kind: Some(message), ..TapEvent::default() };
        let taken = (0..10).filter(|_| waiting.push(message.clone())).count();
        assert_eq!(taken, 3, "each is somewhat more than a quarter");
        assert!(waiting.push(schema(b"file")));
        assert_eq!(files(waiting.pop()).1, 1);
        assert!((0..3).all(|_| waiting.pop().is_some_and(|event| event.kind.is_some())));
        assert!(waiting.push(message), "there is room again");
    }

    #[test]
    fn the_same_files_are_told_once() {
        let mut waiting = Waiting::default();
        for file in [b"one", b"two", b"one"] {
            assert!(waiting.push(schema(file)));
        }
        let [one, two, again] = [(); 3].map(|()| files(waiting.pop()));
        assert_eq!((one.1, two.1, again.1), (1, 1, 0));
        assert!(one.0 == again.0 && one.0 != two.0 && !one.0.is_empty());
        let large = vec![0; SCHEMA_BYTES_MAX];
        assert!(!waiting.push(schema(&large)), "there is no room for it");
        assert!(!waiting.push(schema(&large)), "and so it is not known");
        let forged = Schema { digest: one.0, ..Schema::default() };
        assert!(waiting.push(TapEvent { kind: Some(Kind::Schema(forged)), ..TapEvent::default() }));
        assert_eq!(files(waiting.pop()), (Vec::new(), 0));
    }
}
