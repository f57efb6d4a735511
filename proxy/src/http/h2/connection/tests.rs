//! Scripted frames, and the `h2` crate on the other side.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::Instant,
};

use super::*;
use crate::http::h2::{
    fields::Indexing,
    frame::{Head, PREFACE, flag},
};

type Machine = Connection<u32>;

/// A machine, and what its peer says to it.
struct Scripted {
    machine: Machine,
    encoder: Encoder,
    now: Instant,
}

impl Scripted {
    /// Whose peer has begun as it should.
    fn new(role: Role) -> Self {
        let now = Instant::now();
        let mut scripted = Self { machine: Machine::new(role, false, now), encoder: Encoder::default(), now };
        let preface = if role == Role::Server { PREFACE } else { b"" };
        scripted.says(preface).unwrap();
        scripted.frame(kind::SETTINGS, 0, 0, b"").unwrap();
        scripted.written();
        scripted
    }

    /// What comes of `bytes`, in short.
    fn says(&mut self, bytes: &[u8]) -> Result<Vec<String>, Broken> {
        let (mut rest, mut events) = (bytes, Vec::new());
        loop {
            let (used, event) = self.machine.input(rest, self.now)?;
            rest = &rest[used..];
            let Some(event) = event else {
                assert!(rest.len() < bytes.len().max(1), "what is whole is used");
                return Ok(events);
            };
            events.push(match event {
                Event::Request { stream, request, ends } => {
                    self.machine.own(stream, stream);
                    if ends {
                        self.machine.done(stream);
                    }
                    match request {
                        Ok(request) => format!("{stream} {} {} {ends}", request.method(), request.path()),
                        Err(refusal) => format!("{stream} {}", refusal.reason()),
                    }
                }
                Event::Response { stream, response, ends, .. } => format!("{stream} {} {ends}", response.status),
                Event::Data { stream, data, ends, .. } => format!("{stream} {} bytes {ends}", data.len()),
                Event::Trailers { stream, .. } => format!("{stream} trailers"),
                Event::Reset { owner, reason } => format!("{owner} reset {}", reason.0),
                Event::Stopped { owner } => format!("{owner} stopped"),
                Event::Malformed { owner, refusal } => format!("{owner} {}", refusal.reason()),
                Event::Unprocessed { owners } => format!("{owners:?} unprocessed"),
            });
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Vec<String>, Broken> {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind, flags, stream, payload);
        self.says(&bytes)
    }

    fn fields(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) -> Result<Vec<String>, Broken> {
        let mut block = Vec::new();
        self.encoder.encode(&list(fields), &mut block);
        self.frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block)
    }

    fn get(&mut self, stream: u32) -> Result<Vec<String>, Broken> {
        self.fields(flag::END_STREAM, stream, GET)
    }

    /// The frames that this side has written since: kind, flags, stream and length.
    fn written(&mut self) -> Vec<(u8, u8, u32, usize)> {
        let (mut bytes, mut frames) = (self.machine.unwritten().to_vec(), Vec::new());
        self.machine.wrote(bytes.len());
        if bytes.starts_with(PREFACE) {
            bytes.drain(..PREFACE.len());
        }
        let mut rest = &bytes[..];
        while let Some(head) = Head::read(rest) {
            frames.push((head.kind, head.flags, head.stream, head.length));
            rest = &rest[9 + head.length..];
        }
        frames
    }
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
const OK: &[(&str, &str)] = &[(":status", "200")];

fn list(fields: &[(&str, &str)]) -> Fields {
    let mut list = Fields::default();
    for (name, value) in fields {
        list.push(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
    }
    list
}

fn broken(result: Result<Vec<String>, Broken>) -> Option<Reason> {
    result.err().map(|broken| broken.reason)
}

#[test]
fn a_request_and_its_response() {
    let mut server = Scripted::new(Role::Server);
    assert_eq!(server.get(1).unwrap(), ["1 GET / true"]);
    server.machine.send_head(1, &list(OK), false, server.now);
    assert_eq!(server.machine.send_data(1, &[0; 20_000], true, server.now), 20_000);
    assert_eq!(
        server.written(),
        [
            (kind::HEADERS, flag::END_HEADERS, 1, 1),
            (kind::DATA, 0, 1, 16_384),
            (kind::DATA, flag::END_STREAM, 1, 3_616)
        ]
    );
    assert_eq!(server.machine.streams(), 0);
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut bytes = PREFACE.to_vec();
    frame::write(&mut bytes, kind::SETTINGS, 0, 0, b"");
    let mut block = Vec::new();
    Encoder::default().encode(&list(GET), &mut block);
    frame::write(&mut bytes, kind::HEADERS, 0, 1, &block[..3]);
    frame::write(&mut bytes, kind::CONTINUATION, flag::END_HEADERS, 1, &block[3..]);
    frame::write(&mut bytes, kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x02abc\0\0");
    let now = Instant::now();
    let mut machine = Machine::new(Role::Server, false, now);
    let (mut waiting, mut came, mut body) = (Vec::new(), 0, Vec::new());
    for byte in bytes {
        waiting.push(byte);
        loop {
            let (used, event) = machine.input(&waiting, now).unwrap();
            let is_event = event.is_some();
            match event {
                Some(Event::Request { stream, .. }) => machine.own(stream, stream),
                Some(Event::Data { data, .. }) => body.extend_from_slice(data),
                _ => {}
            }
            came += usize::from(is_event);
            waiting.drain(..used);
            if !is_event {
                break;
            }
        }
    }
    assert_eq!((body, waiting.len()), (b"abc".to_vec(), 0));
    assert!(came >= 4);
}

#[test]
fn requests_that_are_malformed_are_reset_and_others_go_on() {
    let with = |more: &[(&'static str, &'static str)]| [GET, more].concat();
    for (fields, reason) in [
        (with(&[("Upper", "x")]), "bad-field"),
        (with(&[("a b", "x")]), "bad-field"),
        (with(&[("a", "x\r\nb: y")]), "bad-field"),
        (with(&[("a", "x\0")]), "bad-field"),
        (with(&[("a", " x")]), "bad-field"),
        (with(&[("a", "x\t")]), "bad-field"),
        (with(&[("connection", "close")]), "connection-field"),
        (with(&[("transfer-encoding", "chunked")]), "connection-field"),
        (with(&[("te", "gzip")]), "connection-field"),
        (with(&[("a", "b"), (":path", "/")]), "bad-pseudo-field"),
        (with(&[(":path", "/")]), "bad-pseudo-field"),
        (with(&[(":status", "200")]), "bad-pseudo-field"),
        (with(&[(":what", "x")]), "bad-pseudo-field"),
        (with(&[(":protocol", "websocket")]), "bad-pseudo-field"),
        (with(&[("content-length", "1")]), "bad-body"),
        (with(&[("content-length", "+0")]), "bad-content-length"),
        (with(&[("content-length", "0"), ("content-length", "0")]), "bad-content-length"),
        (GET[1..].to_vec(), "bad-pseudo-field"),
        (GET[..3].to_vec(), "bad-pseudo-field"),
        ([&GET[..3], &[(":path", "x")]].concat(), "bad-pseudo-field"),
        ([&GET[..3], &[(":path", "/ x")]].concat(), "bad-pseudo-field"),
        ([&GET[..2], &[(":authority", "a/b"), (":path", "/")]].concat(), "bad-pseudo-field"),
        (vec![(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")], "bad-pseudo-field"),
        (vec![(":method", "CONNECT")], "bad-pseudo-field"),
        (vec![(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "a")], "bad-pseudo-field"),
    ] {
        let mut server = Scripted::new(Role::Server);
        assert_eq!(server.fields(flag::END_STREAM, 1, &fields).unwrap(), [format!("1 {reason}")], "{fields:?}");
        assert_eq!(server.get(3).unwrap(), ["3 GET / true"]);
    }
    let mut server = Scripted::new(Role::Server);
    let fine = [&GET[1..], &[("te", "trailers"), ("cookie", "a"), ("cookie", "b")]].concat();
    let fine = [&[(":method", "POST")], &fine[..], &[("content-length", "3")]].concat();
    assert_eq!(server.fields(0, 1, &fine).unwrap(), ["1 POST / false"]);
    assert_eq!(server.frame(kind::DATA, 0, 1, b"abc").unwrap(), ["1 3 bytes false"]);
    assert_eq!(server.frame(kind::DATA, 0, 1, b"d").unwrap(), ["1 bad-body"]);
    assert_eq!(server.written(), [(kind::RST_STREAM, 0, 1, 4)]);
}

#[test]
fn what_ends_a_connection() {
    let post = [&[(":method", "POST")], &GET[1..]].concat();
    type Frame = (u8, u8, u32, &'static [u8]);
    let cases: &[(&str, Reason, &[Frame])] = &[
        ("data of nothing", Reason::PROTOCOL_ERROR, &[(kind::DATA, 0, 3, b"x")]),
        ("a reset of nothing", Reason::PROTOCOL_ERROR, &[(kind::RST_STREAM, 0, 3, &[0; 4])]),
        ("room for nothing", Reason::PROTOCOL_ERROR, &[(kind::WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1])]),
        ("no room", Reason::PROTOCOL_ERROR, &[(kind::WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ("too much room", Reason::FLOW_CONTROL_ERROR, &[(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ("a window", Reason::FLOW_CONTROL_ERROR, &[(kind::SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        ("a frame size", Reason::PROTOCOL_ERROR, &[(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])]),
        ("a push", Reason::PROTOCOL_ERROR, &[(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])]),
        ("a pushed promise", Reason::PROTOCOL_ERROR, &[(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])]),
        ("more of nothing", Reason::PROTOCOL_ERROR, &[(kind::CONTINUATION, 4, 1, b"")]),
        ("another frame", Reason::PROTOCOL_ERROR, &[(kind::HEADERS, 0, 3, b"\x82"), (kind::PING, 0, 0, &[0; 8])]),
        ("no HPACK", Reason::COMPRESSION_ERROR, &[(kind::HEADERS, 4, 3, b"\x80")]),
        ("an even number", Reason::PROTOCOL_ERROR, &[(kind::HEADERS, 4, 2, b"\x82")]),
        ("too much padding", Reason::PROTOCOL_ERROR, &[(kind::DATA, flag::PADDED, 1, b"\x05ab")]),
    ];
    for (what, reason, frames) in cases {
        let mut server = Scripted::new(Role::Server);
        server.fields(0, 1, &post).unwrap();
        let (last, before) = frames.split_last().unwrap();
        for (kind, flags, stream, payload) in before {
            server.frame(*kind, *flags, *stream, payload).unwrap();
        }
        assert_eq!(broken(server.frame(last.0, last.1, last.2, last.3)), Some(*reason), "{what}");
    }
    let mut server = Scripted::new(Role::Server);
    server.get(1).unwrap();
    server.machine.send_head(1, &list(OK), true, server.now);
    assert_eq!(broken(server.get(1)), Some(Reason::STREAM_CLOSED));
}

#[test]
fn heads_and_trailers_always_have_room_and_interim_ones_do_not() {
    let mut server = Scripted::new(Role::Server);
    server.get(1).unwrap();
    let large = list(&[(":status", "103"), ("link", &"x".repeat(60_000))]);
    for _ in 0..100 {
        server.machine.send_interim(1, &large);
    }
    assert!(server.machine.unwritten().len() < OUTPUT_HEADS_MAX + 2 * HEAD_BYTES_MAX);
    server.machine.send_head(1, &list(OK), false, server.now);
    server.machine.send_head(1, &list(&[("grpc-status", "0")]), true, server.now);
    assert!(!server.machine.is_sending(1), "it has ended, and the client will know");
}

#[test]
fn floods_are_bounded() {
    for (kind, payload) in [(kind::PING, &[0_u8; 8][..]), (kind::SETTINGS, b""), (kind::PRIORITY, &[0; 5]), (99, b"")] {
        let mut server = Scripted::new(Role::Server);
        let stream = u32::from(kind == kind::PRIORITY);
        let flood = (0..=IDLE_FRAMES_PER_SECOND_MAX + 1).find_map(|_| server.frame(kind, 0, stream, payload).err());
        assert_eq!(flood.map(|broken| broken.refusal), Some(Refusal::TooManyFrames), "{kind}");
        let mut slowly = Scripted::new(Role::Server);
        for _ in 0..IDLE_FRAMES_PER_SECOND_MAX * 2 {
            slowly.now += Duration::from_millis(1);
            slowly.frame(kind, 0, stream, payload).unwrap();
            slowly.written();
        }
    }
    let mut server = Scripted::new(Role::Server);
    server.fields(0, 1, &[&[(":method", "POST")], &GET[1..]].concat()).unwrap();
    let empty = (0..=IDLE_FRAMES_PER_SECOND_MAX).find_map(|_| server.frame(kind::DATA, 0, 1, b"").err());
    assert_eq!(empty.map(|broken| broken.refusal), Some(Refusal::TooManyFrames));
    let mut server = Scripted::new(Role::Server);
    server.frame(kind::HEADERS, 0, 1, b"").unwrap();
    let endless = (0..100).find_map(|_| server.frame(kind::CONTINUATION, 0, 1, b"").err());
    assert_eq!(endless.map(|broken| broken.refusal), Some(Refusal::HeadTooLarge));
    let mut server = Scripted::new(Role::Server);
    while server.machine.may_read() {
        server.frame(kind::PING, 0, 0, &[0; 8]).unwrap();
        server.now += Duration::from_secs(1);
    }
    assert!(server.machine.unwritten().len() <= OUTPUT_MAX + 17);
}

#[test]
fn too_many_streams_and_too_many_fields_are_refused() {
    let mut server = Scripted::new(Role::Server);
    for nth in 0..STREAMS_MAX as u32 {
        server.get(1 + 2 * nth).unwrap();
    }
    assert_eq!(server.get(1001).unwrap(), [""; 0]);
    assert_eq!(server.written().last(), Some(&(kind::RST_STREAM, 0, 1001, 4)));
    let mut server = Scripted::new(Role::Server);
    let many = [GET, &[("a", "b"); 129]].concat();
    assert_eq!(server.fields(flag::END_STREAM, 1, &many).unwrap(), ["1 too-many-headers"]);
    let value = "x".repeat(4000);
    let long = [GET, &[("a", &value[..]); 17]].concat();
    let mut block = Vec::new();
    server.encoder.encode(&list(&long), &mut block);
    let parts: Vec<_> = block.chunks(16_384).collect();
    let mut events = server.frame(kind::HEADERS, flag::END_STREAM, 3, parts[0]).unwrap();
    for (nth, part) in parts.iter().enumerate().skip(1) {
        let flags = if nth + 1 == parts.len() { flag::END_HEADERS } else { 0 };
        events.extend(server.frame(kind::CONTINUATION, flags, 3, part).unwrap_or_default());
    }
    assert!(events.is_empty() || events == ["3 head-too-large"], "{events:?}");
}

#[test]
fn nobody_sends_more_than_there_is_room_for() {
    let mut server = Scripted::new(Role::Server);
    server.get(1).unwrap();
    server.get(3).unwrap();
    server.machine.send_head(1, &list(OK), false, server.now);
    assert_eq!(
        server.machine.send_data(1, &[0; 100_000], true, server.now),
        OUTPUT_DATA_MAX - 10,
        "the output is full"
    );
    assert_eq!(server.machine.next_blocked(), None);
    server.written();
    assert_eq!(server.machine.next_blocked(), Some(1), "the output is written");
    assert_eq!(server.machine.send_data(1, &[0; 100_000], true, server.now), 9, "the window is used up");
    server.machine.send_head(3, &list(OK), false, server.now);
    assert_eq!(server.machine.send_data(3, b"x", true, server.now), 0, "of the connection");
    server.written();
    assert_eq!(server.machine.next_blocked(), None);
    server.frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 100]).unwrap();
    assert_eq!(server.machine.next_blocked(), Some(3));
    assert_eq!(server.machine.send_data(3, b"x", true, server.now), 1);
    assert_eq!(server.machine.next_blocked(), None, "the other's own window is used up");
    server.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 7]).unwrap();
    assert_eq!(server.machine.next_blocked(), Some(1));
    assert_eq!(server.machine.send_data(1, &[0; 100], true, server.now), 7);
    // A smaller window than what was sent makes it negative.
    server.frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).unwrap();
    server.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 7]).unwrap();
    assert_eq!(server.machine.next_blocked(), None);
}

#[test]
fn a_peer_that_sends_more_than_its_window_is_reset() {
    let mut server = Scripted::new(Role::Server);
    server.fields(0, 1, &[&[(":method", "POST")], &GET[1..]].concat()).unwrap();
    for _ in 0..3 {
        server.frame(kind::DATA, 0, 1, &[0; 16_384]).unwrap();
        server.machine.hold(1, &[0; 16_384]);
    }
    assert_eq!(server.written(), [], "nothing has gone on");
    server.frame(kind::DATA, 0, 1, &[0; 16_383]).unwrap();
    assert_eq!(server.frame(kind::DATA, 0, 1, b"x").unwrap(), ["1 bad-body"]);
    assert_eq!(server.written(), [(kind::RST_STREAM, 0, 1, 4)]);
    assert_eq!(server.frame(kind::DATA, 0, 1, b"late").unwrap(), [""; 0], "what was on its way is ignored");
    assert_eq!(server.written(), []);
}

#[test]
fn what_is_held_goes_on_and_makes_room() {
    let mut server = Scripted::new(Role::Server);
    let mut client = Scripted::new(Role::Client);
    server.fields(0, 1, &[&[(":method", "POST")], &GET[1..]].concat()).unwrap();
    let stream = client.machine.open(&list(GET), Expects::Body, false, 7).unwrap();
    client.written();
    for _ in 0..2 {
        server.frame(kind::DATA, 0, 1, &[1; 16_384]).unwrap();
        server.machine.hold(1, &[1; 16_384]);
    }
    let passed = server.machine.pass(1, &mut client.machine, stream, server.now);
    assert_eq!(passed, Passed { bytes: 32_768, ..Passed::default() });
    assert_eq!(server.written(), [(kind::WINDOW_UPDATE, 0, 1, 4)]);
    assert_eq!(server.fields(flag::END_STREAM, 1, &[("grpc-status", "5")]).unwrap(), ["1 trailers"]);
    server.machine.hold_trailers(1, list(&[("grpc-status", "5")]));
    let passed = server.machine.pass(1, &mut client.machine, stream, server.now);
    assert_eq!(passed, Passed { bytes: 0, ended: Some(Some(5)), trailers: true });
    assert!(!client.machine.is_sending(stream));
    assert!(server.machine.has_passed(1));
}

#[test]
fn responses_are_interim_or_final_and_what_they_promise() {
    let respond = |expects, fields: &[(&str, &str)], flags| {
        let mut client = Scripted::new(Role::Client);
        client.machine.open(&list(GET), expects, true, 1);
        client.fields(flags, 1, &[(":status", "103")]).unwrap();
        let mut events = client.fields(flags, 1, fields).unwrap();
        events.extend(client.frame(kind::DATA, flag::END_STREAM, 1, b"abc").unwrap());
        events
    };
    let ok = |length| [(":status", "200"), ("content-length", length)];
    assert_eq!(respond(Expects::Body, OK, 0), ["1 200 false", "1 3 bytes true"]);
    assert_eq!(respond(Expects::Body, &ok("3"), 0), ["1 200 false", "1 3 bytes true"]);
    assert_eq!(respond(Expects::Body, &ok("4"), 0), ["1 200 false", "1 bad-body"]);
    assert_eq!(respond(Expects::NoBody, &ok("3"), 0), ["1 200 false", "1 bad-body"]);
    assert_eq!(respond(Expects::Tunnel, &ok("4"), 0), ["1 200 false", "1 3 bytes true"]);
    assert_eq!(respond(Expects::Body, &[(":status", "304"), ("content-length", "9")], 0)[0], "1 304 false");
    assert_eq!(respond(Expects::Body, &[(":status", "101")], 0), ["1 unasked-upgrade"]);
    assert_eq!(respond(Expects::Body, &[(":status", "20")], 0), ["1 bad-pseudo-field"]);
    assert_eq!(respond(Expects::Body, GET, 0), ["1 bad-pseudo-field"]);
}

#[test]
fn a_server_that_goes_says_what_it_has_not_begun() {
    let mut client = Scripted::new(Role::Client);
    for owner in 1..=3 {
        client.machine.open(&list(GET), Expects::Body, true, owner);
    }
    let go_away = [0, 0, 0, 3, 0, 0, 0, 0];
    assert_eq!(client.frame(kind::GOAWAY, 0, 0, &go_away).unwrap(), ["[3] unprocessed"]);
    assert_eq!(client.machine.open(&list(GET), Expects::Body, true, 4), None);
    assert_eq!(client.fields(flag::END_STREAM, 1, OK).unwrap(), ["1 200 true"]);
    assert_eq!(client.frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]).unwrap(), ["2 reset 8"]);
}

#[test]
fn a_client_that_is_to_leave_finishes_what_it_has_begun() {
    let mut server = Scripted::new(Role::Server);
    server.get(1).unwrap();
    server.machine.leave();
    assert_eq!(server.written(), [(kind::GOAWAY, 0, 0, 8), (kind::PING, 0, 0, 8)]);
    assert_eq!(server.get(3).unwrap(), ["3 GET / true"], "it may not know yet");
    server.frame(kind::PING, flag::ACK, 0, &LEAVING).unwrap();
    assert_eq!(server.written(), [(kind::GOAWAY, 0, 0, 8)]);
    assert_eq!(server.get(5).unwrap(), [""; 0]);
    server.machine.send_head(1, &list(OK), true, server.now);
    assert!(!server.machine.has_left());
    server.machine.send_head(3, &list(OK), true, server.now);
    assert!(server.machine.has_left());
}

/// Answers every request on `io` with what it is sent, trailers as well.
async fn echo(mut io: DuplexStream) {
    let now = Instant::now();
    let mut machine = Machine::new(Role::Server, false, now);
    let (mut input, mut chunk) = (Vec::new(), [0; 5000]);
    loop {
        let mut rest = &input[..];
        loop {
            let (used, event) = machine.input(rest, now).unwrap();
            rest = &rest[used..];
            match event {
                Some(Event::Request { stream, request, ends }) => {
                    machine.own(stream, stream);
                    if ends {
                        machine.done(stream);
                    }
                    let mut fields = list(OK);
                    for (name, value, indexing) in request.unwrap().fields.iter().filter(|(name, ..)| name[0] != b':') {
                        fields.push(name, value, indexing);
                    }
                    machine.send_head(stream, &fields, ends, now);
                }
                Some(Event::Data { stream, data, ends, .. }) => {
                    machine.passed(stream, data.len());
                    assert_eq!(machine.send_data(stream, data, ends, now), data.len());
                    machine.done(stream);
                }
                Some(Event::Trailers { stream, trailers, .. }) => {
                    machine.send_head(stream, &trailers, true, now);
                    machine.done(stream);
                }
                Some(_) => {}
                None => break,
            }
        }
        input = rest.to_vec();
        let out = machine.unwritten().to_vec();
        machine.wrote(out.len());
        if io.write_all(&out).await.is_err() {
            return;
        }
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => input.extend_from_slice(&chunk[..count]),
        }
    }
}

#[tokio::test]
async fn the_h2_crate_understands_it() {
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(echo(far));
    let (sender, connection) = ::h2::client::Builder::new()
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .handshake::<_, Bytes>(near)
        .await
        .unwrap();
    tokio::spawn(connection);
    for size in [0, 1, 16_384, 50_000] {
        let mut sender = sender.clone().ready().await.unwrap();
        let value = "v".repeat(size / 4);
        let request = http::Request::post("http://a.test/").header("x-long", &value).body(()).unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.reserve_capacity(size);
        body.send_data(vec![7; size].into(), false).unwrap();
        body.send_trailers([("x-last".parse().unwrap(), "yes".parse().unwrap())].into_iter().collect()).unwrap();
        let (head, mut back) = response.await.unwrap().into_parts();
        assert_eq!((head.status, head.headers["x-long"].len()), (http::StatusCode::OK, value.len()));
        let mut received = 0;
        while let Some(data) = back.data().await {
            let data: Bytes = data.unwrap();
            assert!(data.iter().all(|byte| *byte == 7));
            back.flow_control().release_capacity(data.len()).unwrap();
            received += data.len();
        }
        assert_eq!(received, size);
        assert_eq!(back.trailers().await.unwrap().unwrap()["x-last"], "yes");
    }
}
