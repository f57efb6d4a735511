//! One connection of HTTP/2, of either role (RFC 9113): what came of it, and what is to be written to it. Pure: in come bytes, and
//! the time; out come events, and bytes.
//!
//! A stream has an owner, which the machine does not look at. What comes of a stream and cannot go on yet is kept here, and room for
//! more is given to the peer when it has gone on: a stream holds as much as its window at most.

mod block;
mod receive;
mod send;
mod stream;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use foldhash::fast::FixedState;
use tokio::time::Instant;

use self::{
    receive::Reading,
    stream::{Remote, Stream},
};
pub use self::{send::Passed, stream::Window};
use super::{
    fields::{Fields, Request, Response},
    frame::{self, Reason, kind, setting},
    hpack::{Decoder, Encoder},
};
use crate::http::{HEAD_BYTES_MAX, Refusal};

/// Streams that one connection of a client may have open.
pub const STREAMS_MAX: usize = 250;
/// RFC 9113's default for a stream.
pub const STREAM_WINDOW: u32 = 65_535;
/// An application's connection has room for sixteen streams that it does not read: what that blocks is its own.
pub const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// One that many clients share has room for all of their streams: one that does not read must not block the others.
pub const SHARED_WINDOW: u32 = STREAMS_MAX as u32 * STREAM_WINDOW;
/// Before a server has said how many streams it allows.
const STREAMS_AT_FIRST: usize = 100;
/// Of data, as much is ready to be written as a socket takes at once; the rest stays with whoever sent it.
const OUTPUT_DATA_MAX: usize = 64 * 1024;
/// With heads: requests that have no room wait, and interim responses are left out. Those are the largest there may be, four times.
const OUTPUT_HEADS_MAX: usize = 4 * HEAD_BYTES_MAX;
/// With answers to what the peer sends: past it nothing is read until the peer has read what is there.
const OUTPUT_MAX: usize = 2 * OUTPUT_HEADS_MAX;
/// Frames in a second that neither ask nor answer anything. gRPC sends a PING for a few messages; a tenth of these is nobody's need.
const IDLE_FRAMES_PER_SECOND_MAX: u32 = 10_000;
/// Streams that this side has reset, whose frames may still be on their way: they are ignored.
const RESETS_REMEMBERED_MAX: usize = 1024;
/// What the PING says by which a client shows that it has seen that it is to leave.
const LEAVING: [u8; 8] = *b"conduit\0";

type Streams<T> = HashMap<u32, Stream<T>, FixedState>;

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Requests go out.
    Client,
    /// Requests come in.
    Server,
}

/// What a request's response will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    /// A body, perhaps.
    Body,
    /// None, whatever its head says: it is for HEAD.
    NoBody,
    /// Bytes in both directions, however long its head says that they are (RFC 9110 section 9.3.6).
    Tunnel,
}

/// What has come.
#[allow(missing_docs, reason = "a stream's number and owner, what it is, and whether it is the last of its stream")]
pub enum Event<'a, T> {
    /// A request: its stream is to be given an owner, or answered, or reset.
    Request { stream: u32, request: Result<Request, Refusal>, ends: bool },
    /// A response's head, interim or final.
    Response { stream: u32, owner: T, response: Response, ends: bool },
    /// Of a body. It is to be passed on, or held; either way room for it is taken until then.
    Data { stream: u32, owner: T, data: &'a [u8], ends: bool },
    /// The end of a body.
    Trailers { stream: u32, owner: T, trailers: Fields },
    /// The peer has given the stream up; there is none any more.
    Reset { owner: T, reason: Reason },
    /// The peer has sent all that it will, and takes no more.
    Stopped { owner: T },
    /// What came of the stream is not HTTP: it was reset.
    Malformed { owner: T, refusal: Refusal },
    /// The server will not process these.
    Unprocessed { owners: Vec<T> },
}

/// Why a connection ends: what the peer is told, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// For GOAWAY.
    pub reason: Reason,
    /// For metrics.
    pub refusal: Refusal,
}

impl From<Reason> for Broken {
    fn from(reason: Reason) -> Self {
        Self { reason, refusal: Refusal::BadFrame }
    }
}

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is not in sight.
    Not,
    /// The peer was told that it is to leave, and asked whether it knows (RFC 9113 section 6.8).
    Told,
    /// Streams beyond this one are not answered; it ends with the last of the others.
    After(u32),
}

/// A connection, as far as its bytes are concerned.
pub struct Connection<T> {
    role: Role,
    reading: Reading,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams<T>,
    /// The last that the peer has opened.
    last: u32,
    /// The next that this side opens.
    next: u32,
    /// Streams that the peer allows, and the window with which it begins them.
    streams_max: usize,
    takes_extended_connect: bool,
    initial_window: i64,
    send_window: i64,
    window: Window,
    out: Vec<u8>,
    written: usize,
    /// Streams that could send more than there was room for, in turn.
    blocked: VecDeque<u32>,
    resets: VecDeque<u32>,
    ending: Ending,
    /// No new streams: the server has said so, or their numbers are used up.
    is_closing: bool,
    idle_frames: u32,
    idle_since: Instant,
    cancelled: u32,
    cancelled_since: Instant,
    /// Memory for the next head.
    spare: Fields,
}

impl<T: Clone> Connection<T> {
    /// One that begins. `is_shared` is whether many clients use it.
    pub fn new(role: Role, is_shared: bool, now: Instant) -> Self {
        let window = if is_shared || role == Role::Client { SHARED_WINDOW } else { CONNECTION_WINDOW };
        let mut out = Vec::new();
        let list_max = (setting::MAX_HEADER_LIST_SIZE, HEAD_BYTES_MAX as u32);
        match role {
            Role::Client => {
                out.extend_from_slice(frame::PREFACE);
                frame::write_settings(&mut out, &[(setting::ENABLE_PUSH, 0), list_max]);
            }
            Role::Server => {
                let streams_max = (setting::MAX_CONCURRENT_STREAMS, STREAMS_MAX as u32);
                frame::write_settings(&mut out, &[streams_max, list_max, (setting::ENABLE_CONNECT_PROTOCOL, 1)]);
            }
        }
        frame::write(&mut out, kind::WINDOW_UPDATE, 0, 0, &(window - STREAM_WINDOW).to_be_bytes());
        Self {
            role,
            reading: Reading::new(role, now),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            streams: Streams::default(),
            last: 0,
            next: 1,
            streams_max: STREAMS_AT_FIRST,
            takes_extended_connect: false,
            initial_window: STREAM_WINDOW.into(),
            send_window: STREAM_WINDOW.into(),
            window: Window::new(window),
            out,
            written: 0,
            blocked: VecDeque::new(),
            resets: VecDeque::new(),
            ending: Ending::Not,
            is_closing: false,
            idle_frames: 0,
            idle_since: now,
            cancelled: 0,
            cancelled_since: now,
            spare: Fields::default(),
        }
    }

    /// Streams that are under way.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the server allows one more, now.
    pub fn has_room(&self) -> bool {
        self.streams.len() < self.streams_max && self.unwritten().len() < OUTPUT_HEADS_MAX
    }

    /// Whether the server takes CONNECT with a protocol; `None` before it has said what it takes.
    pub fn takes_extended_connect(&self) -> Option<bool> {
        self.reading.has_settings.then_some(self.takes_extended_connect)
    }

    /// How many the server allows.
    pub fn streams_max(&self) -> usize {
        self.streams_max
    }

    /// Whether streams can be opened on it, now or later.
    pub fn is_open(&self) -> bool {
        !self.is_closing
    }

    /// Nothing is opened on it any more.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    /// The connection is gone: the owners of what came to nothing by that. An answer that is here, whole, still goes on.
    pub fn abandon(&mut self) -> Vec<T> {
        self.is_closing = true;
        self.blocked.clear();
        let is_whole = |stream: &Stream<T>| self.role == Role::Client && stream.remote == Remote::Ended;
        let lost: Vec<_> = self.streams.extract_if(|_, stream| !is_whole(stream)).collect();
        self.streams.values_mut().for_each(|stream| stream.is_sending = false);
        lost.into_iter().filter_map(|(_, stream)| stream.owner).collect()
    }

    /// Whoever is to hear of `stream`.
    pub fn own(&mut self, stream: u32, owner: T) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.owner = Some(owner);
        }
    }

    /// Who that is.
    pub fn owner(&self, stream: u32) -> Option<T> {
        self.streams.get(&stream)?.owner.clone()
    }

    /// Whether the peer may still send something of `stream`.
    pub fn is_receiving(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(Stream::is_receiving)
    }

    /// Whether all that the peer has sent of `stream` has gone on.
    pub fn has_passed(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.remote == Remote::Done)
    }

    /// Whether something may still be sent on `stream`.
    pub fn is_sending(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.is_sending)
    }

    /// Memory for another head.
    pub fn reuse(&mut self, mut fields: Fields) {
        fields.clear();
        self.spare = fields;
    }

    /// Takes as little memory as it can, until something comes.
    pub fn rest(&mut self) {
        if self.streams.is_empty() {
            self.streams = Streams::default();
            self.blocked = VecDeque::new();
            self.spare = Fields::default();
            self.out = Vec::new();
        }
    }

    /// The peer is to know that it must leave, and may finish what it has begun.
    pub fn leave(&mut self) {
        if self.ending == Ending::Not {
            self.ending = Ending::Told;
            frame::write_go_away(&mut self.out, frame::WINDOW_MAX, Reason::NO_ERROR);
            self.ping(LEAVING);
        }
    }

    /// The last word.
    pub fn go_away(&mut self, reason: Reason) {
        // Never more than was said before (RFC 9113 section 6.8).
        let last = if let Ending::After(last) = self.ending { last } else { self.last };
        frame::write_go_away(&mut self.out, last, reason);
        self.is_closing = true;
    }

    /// Whether all that was begun before it left is done.
    pub fn has_left(&self) -> bool {
        matches!(self.ending, Ending::After(_)) && self.streams.is_empty()
    }

    /// Asks whether somebody is there.
    pub fn ping(&mut self, payload: [u8; 8]) {
        frame::write(&mut self.out, kind::PING, 0, 0, &payload);
    }

    /// The client did not wait for an answer, or made this side reset a stream: how many of those there are in this second.
    pub fn cancelled(&mut self, now: Instant) -> u32 {
        self.cancelled = if is_past(&mut self.cancelled_since, now) { 1 } else { self.cancelled.saturating_add(1) };
        self.cancelled
    }

    /// A frame that neither asks nor answers anything.
    fn idle_frame(&mut self, now: Instant) -> Result<(), Broken> {
        self.idle_frames += 1;
        if self.idle_frames <= IDLE_FRAMES_PER_SECOND_MAX {
            return Ok(());
        }
        self.idle_frames = 0;
        if is_past(&mut self.idle_since, now) {
            return Ok(());
        }
        Err(Broken { reason: Reason::ENHANCE_YOUR_CALM, refusal: Refusal::TooManyFrames })
    }

    /// What is to be written.
    pub fn unwritten(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So much of that was written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > OUTPUT_DATA_MAX {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Whether the peer reads what it makes this side write; until then nothing of it is to be read.
    pub fn may_read(&self) -> bool {
        self.unwritten().len() < OUTPUT_MAX
    }
}

/// Whether a second has passed `since`; then another one begins.
fn is_past(since: &mut Instant, now: Instant) -> bool {
    let is_past = now.saturating_duration_since(*since) >= Duration::from_secs(1);
    if is_past {
        *since = now;
    }
    is_past
}
