//! A connection of HTTP/2, in either role, whatever its peer sends: what this side writes is frames, and not without bound.

#![no_main]

use conduit_proxy::http::h2::{
    connection::{Connection, Event, Expects, Role},
    fields::{Fields, Indexing},
    frame::{HEAD_BYTES, Head, PREFACE, Reason},
};
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

/// More than any number of answers to what a peer sends may take, before it is not read any more.
const OUTPUT_BYTES_MAX: usize = 2 * 1024 * 1024;

fn list(fields: &[(&str, &str)]) -> Fields {
    let mut list = Fields::default();
    for (name, value) in fields {
        list.push(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
    }
    list
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let now = Instant::now();
    let role = if first % 2 == 0 { Role::Server } else { Role::Client };
    let mut machine = Connection::new(role, first & 2 != 0, now);
    let request = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    if role == Role::Client {
        for owner in 0..3 {
            machine.open(&list(&request), Expects::Body, owner == 0, owner);
        }
    }
    // All at once, or as small parts as its first byte says.
    let part = (usize::from(*first) / 4).max(1);
    let mut waiting = Vec::new();
    for bytes in rest.chunks(if part > 32 { rest.len().max(1) } else { part }) {
        waiting.extend_from_slice(bytes);
        loop {
            let Ok((used, event)) = machine.input(&waiting, now) else { return };
            match event {
                Some(Event::Request { stream, request: Ok(request), ends }) => {
                    machine.own(stream, stream);
                    assert!(request.path().starts_with('/') || request.path() == "*");
                    if ends {
                        machine.done(stream);
                    }
                    machine.send_head(stream, &list(&[(":status", "200")]), ends, now);
                }
                Some(Event::Request { stream, .. }) => machine.reset(stream, Reason::PROTOCOL_ERROR),
                Some(Event::Data { stream, data, ends, .. }) => {
                    if data.len().is_multiple_of(2) {
                        machine.passed(stream, data.len());
                        machine.send_data(stream, data, ends, now);
                        machine.done(stream);
                    } else {
                        machine.hold(stream, data);
                    }
                }
                Some(_) => {}
                None => {
                    waiting.drain(..used);
                    break;
                }
            }
            waiting.drain(..used);
        }
        assert!(machine.unwritten().len() <= OUTPUT_BYTES_MAX);
    }
    let written = machine.unwritten();
    let mut frames = written.strip_prefix(PREFACE).unwrap_or(written);
    while let Some(head) = Head::read(frames) {
        head.check().expect("what is written is in order");
        frames = &frames[HEAD_BYTES + head.length..];
    }
    assert!(frames.is_empty());
});
