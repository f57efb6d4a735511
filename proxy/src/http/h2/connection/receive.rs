//! What a connection receives.

use tokio::time::Instant;

use super::{Broken, Connection, Ending, Event, LEAVING, Role, STREAMS_MAX, block::Block, stream::Remote};
use crate::http::{
    Refusal,
    h2::{
        frame::{self, HEAD_BYTES, Head, PREFACE, Reason, WINDOW_MAX, flag, kind, setting},
        hpack::TABLE_BYTES,
    },
};

/// Where in the stream of frames a connection is.
pub(super) struct Reading {
    /// What is to come before the first frame.
    preface: &'static [u8],
    pub(super) has_settings: bool,
    data: Option<Data>,
    pub(super) block: Option<Block>,
    /// When what is not whole yet began: a preface, a block of fields, or a frame that is no data.
    pub(super) since: Option<Instant>,
}

/// A frame of data that is coming.
#[derive(Clone, Copy)]
struct Data {
    stream: u32,
    left: usize,
    padding: usize,
    ends: bool,
}

impl Reading {
    pub(super) fn new(role: Role, now: Instant) -> Self {
        let (preface, since) = match role {
            Role::Server => (PREFACE, Some(now)),
            // A server may be slow.
            Role::Client => (&b""[..], None),
        };
        Self { preface, has_settings: false, data: None, block: None, since }
    }
}

/// An event, and how many bytes made it.
type Read<'a, T> = (usize, Option<Event<'a, T>>);

impl<T: Clone> Connection<T> {
    /// Since when something is coming whose end must come in time.
    pub fn unfinished(&self) -> Option<Instant> {
        self.reading.since
    }

    /// Reads from `bytes` until something has come; how many have been used. Without an event it needs more of them.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn input<'a>(&mut self, bytes: &'a [u8], now: Instant) -> Result<Read<'a, T>, Broken> {
        let mut used = 0;
        while !self.reading.preface.is_empty() {
            let count = self.reading.preface.len().min(bytes.len() - used);
            if count == 0 {
                return Ok((used, None));
            }
            let (expected, rest) = self.reading.preface.split_at(count);
            if expected != &bytes[used..used + count] {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
            self.reading.preface = rest;
            used += count;
        }
        loop {
            let rest = &bytes[used..];
            if let Some(data) = self.reading.data {
                if rest.is_empty() && data.left + data.padding > 0 {
                    return Ok((used, None));
                }
                let (count, event) = self.data(data, rest);
                used += count;
                if event.is_some() {
                    return Ok((used, event));
                }
                continue;
            }
            let Some(head) = Head::read(rest) else {
                if !rest.is_empty() {
                    self.reading.since.get_or_insert(now);
                }
                return Ok((used, None));
            };
            self.check(head)?;
            if head.kind == kind::DATA {
                let is_padded = head.has(flag::PADDED);
                let Some(padding) = rest.get(HEAD_BYTES).filter(|_| is_padded).or((!is_padded).then_some(&0)) else {
                    return Ok((used, None));
                };
                self.begin_data(head, usize::from(*padding), now)?;
                used += HEAD_BYTES + usize::from(is_padded);
                continue;
            }
            let Some(payload) = rest.get(HEAD_BYTES..HEAD_BYTES + head.length) else {
                self.reading.since.get_or_insert(now);
                return Ok((used, None));
            };
            if self.reading.has_settings && self.reading.block.is_none() {
                self.reading.since = None;
            }
            used += HEAD_BYTES + head.length;
            let event = self.frame(head, payload, now)?;
            if event.is_some() {
                return Ok((used, event));
            }
        }
    }

    /// Whether such a frame may come now.
    fn check(&mut self, head: Head) -> Result<(), Broken> {
        head.check()?;
        let is_continuation = head.kind == kind::CONTINUATION;
        let is_expected = match &self.reading.block {
            Some(block) => is_continuation && block.stream == head.stream,
            None if self.reading.has_settings => !is_continuation,
            None => head.kind == kind::SETTINGS && !head.has(flag::ACK),
        };
        if is_expected { Ok(()) } else { Err(Reason::PROTOCOL_ERROR.into()) }
    }

    /// Whether nobody has ever opened the stream.
    pub(super) fn is_idle(&self, stream: u32) -> bool {
        match (self.role, stream % 2) {
            (Role::Server, 1) => stream > self.last,
            (Role::Client, 1) => stream >= self.next,
            _ => true,
        }
    }

    fn begin_data(&mut self, head: Head, padding: usize, now: Instant) -> Result<(), Broken> {
        self.reading.since = None;
        let overhead = if head.has(flag::PADDED) { 1 + padding } else { 0 };
        let left = head.length.checked_sub(overhead).ok_or(Reason::PROTOCOL_ERROR)?;
        let ends = head.has(flag::END_STREAM);
        if self.is_idle(head.stream) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if !self.window.take(head.length) {
            return Err(Reason::FLOW_CONTROL_ERROR.into());
        }
        if left == 0 && !ends {
            self.idle_frame(now)?;
        }
        let verdict = match self.streams.get_mut(&head.stream) {
            None if self.role == Role::Client || self.resets.contains(&head.stream) => None,
            Some(stream) if !stream.is_receiving() => Some(Reason::STREAM_CLOSED),
            Some(stream) if stream.awaits_head => Some(Reason::PROTOCOL_ERROR),
            Some(stream) => (!stream.window.take(head.length)).then_some(Reason::FLOW_CONTROL_ERROR),
            None => Some(Reason::STREAM_CLOSED),
        };
        self.reading.data = Some(Data { stream: head.stream, left, padding, ends });
        if let Some(reason) = verdict {
            self.violated(head.stream, reason, now)?;
        }
        self.passed(head.stream, overhead);
        Ok(())
    }

    /// A stream ends because of what its peer does: that costs the peer as much as if it had cancelled it (CVE-2025-8671).
    fn violated(&mut self, id: u32, reason: Reason, now: Instant) -> Result<(), Broken> {
        self.idle_frame(now)?;
        match self.streams.get_mut(&id) {
            // Its owner is told by what comes next of it.
            Some(stream) => stream.violation = Some(reason),
            None => self.write_reset(id, reason),
        }
        Ok(())
    }

    /// What there is of a frame of data.
    fn data<'a>(&mut self, mut data: Data, bytes: &'a [u8]) -> Read<'a, T> {
        let count = data.left.min(bytes.len());
        let padding = data.padding.min(bytes.len() - count);
        data.left -= count;
        data.padding -= padding;
        let is_last = data.left + data.padding == 0;
        self.reading.data = (!is_last).then_some(data);
        let ends = data.ends && is_last;
        let used = count + padding;
        let Some(stream) = self.streams.get_mut(&data.stream) else {
            // It was reset: nobody waits for it.
            self.give_back(count);
            return (used, None);
        };
        let violation = stream.violation.or((!stream.count(count, ends)).then_some(Reason::PROTOCOL_ERROR));
        if let Some(reason) = violation {
            self.give_back(count);
            return (used, self.malformed(data.stream, reason, Refusal::BadBody));
        }
        if ends {
            stream.remote = Remote::Ended;
        }
        let owner = stream.owner.clone().filter(|_| count > 0 || ends);
        if owner.is_none() {
            self.passed(data.stream, count);
        }
        let event = owner.map(|owner| Event::Data { stream: data.stream, owner, data: &bytes[..count], ends });
        (used, event)
    }

    /// Resets a stream whose peer does not keep to the rules.
    pub(super) fn malformed(&mut self, id: u32, reason: Reason, refusal: Refusal) -> Option<Event<'static, T>> {
        let stream = self.streams.remove(&id)?;
        self.give_back(stream.held.len());
        // Also if both sides have said all that they will: the peer is to know.
        self.write_reset(id, reason);
        stream.owner.map(|owner| Event::Malformed { owner, refusal })
    }

    fn frame(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<Option<Event<'static, T>>, Broken> {
        match head.kind {
            kind::HEADERS => return self.headers(head, payload, now),
            kind::CONTINUATION => return self.continuation(head, payload, now),
            kind::SETTINGS if !head.has(flag::ACK) => self.settings(payload, now)?,
            kind::WINDOW_UPDATE => return self.window_update(head.stream, frame::number(payload) & WINDOW_MAX),
            kind::RST_STREAM => return self.reset_by_peer(head.stream, Reason(frame::number(payload)), now),
            kind::PING if !head.has(flag::ACK) => {
                self.idle_frame(now)?;
                frame::write(&mut self.out, kind::PING, flag::ACK, 0, payload);
            }
            kind::PING if self.ending == Ending::Told && payload == LEAVING => {
                self.ending = Ending::After(self.last);
                frame::write_go_away(&mut self.out, self.last, Reason::NO_ERROR);
            }
            kind::GOAWAY if self.role == Role::Client => {
                self.is_closing = true;
                return Ok(self.unprocessed(frame::number(payload) & WINDOW_MAX));
            }
            // This side has said that it takes none, or is not one to be pushed to.
            kind::PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR.into()),
            kind::PRIORITY if head.length != 5 => {
                return Ok(self.malformed(head.stream, Reason::FRAME_SIZE_ERROR, Refusal::BadFrame));
            }
            _ => self.idle_frame(now)?,
        }
        Ok(None)
    }

    /// Streams above `last` were not begun.
    fn unprocessed(&mut self, last: u32) -> Option<Event<'static, T>> {
        let mut lost: Vec<_> = self.streams.extract_if(|id, _| *id > last).collect();
        // As they were sent.
        lost.sort_unstable_by_key(|(id, _)| *id);
        let held: usize = lost.iter().map(|(_, stream)| stream.held.len()).sum();
        self.give_back(held);
        let owners: Vec<_> = lost.into_iter().filter_map(|(_, stream)| stream.owner).collect();
        (!owners.is_empty()).then_some(Event::Unprocessed { owners })
    }

    fn settings(&mut self, payload: &[u8], now: Instant) -> Result<(), Broken> {
        if self.reading.has_settings {
            self.idle_frame(now)?;
        } else {
            self.reading.has_settings = true;
            self.reading.since = None;
            if self.role == Role::Client {
                // A server that does not say allows any number; the window of the connection does not.
                self.streams_max = STREAMS_MAX;
            }
        }
        let mut window = None;
        for (id, value) in frame::settings(payload) {
            match id {
                setting::HEADER_TABLE_SIZE => self.encoder.resize((value as usize).min(TABLE_BYTES)),
                setting::MAX_CONCURRENT_STREAMS => self.streams_max = STREAMS_MAX.min(value as usize),
                setting::INITIAL_WINDOW_SIZE if value > WINDOW_MAX => return Err(Reason::FLOW_CONTROL_ERROR.into()),
                setting::INITIAL_WINDOW_SIZE => window = Some(value),
                setting::MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR.into());
                }
                setting::ENABLE_PUSH if value > u32::from(self.role == Role::Server) => {
                    return Err(Reason::PROTOCOL_ERROR.into());
                }
                setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Reason::PROTOCOL_ERROR.into()),
                // It may be said later, and not taken back (RFC 8441 section 3).
                setting::ENABLE_CONNECT_PROTOCOL => self.takes_extended_connect |= value == 1,
                _ => {}
            }
        }
        // Once, however often it is in there: it concerns all streams.
        if let Some(window) = window {
            self.set_initial_window(window.into())?;
        }
        frame::write(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    /// Of all streams (RFC 9113 section 6.9.2).
    fn set_initial_window(&mut self, window: i64) -> Result<(), Broken> {
        let more = window - std::mem::replace(&mut self.initial_window, window);
        for (id, stream) in &mut self.streams {
            if !stream.widen(more) {
                return Err(Reason::FLOW_CONTROL_ERROR.into());
            }
            stream.queue(*id, &mut self.blocked);
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, more: u32) -> Result<Option<Event<'static, T>>, Broken> {
        if id == 0 {
            self.send_window += i64::from(more);
            return match more {
                0 => Err(Reason::PROTOCOL_ERROR.into()),
                _ if self.send_window > i64::from(WINDOW_MAX) => Err(Reason::FLOW_CONTROL_ERROR.into()),
                _ => Ok(None),
            };
        }
        if self.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(None) };
        if more == 0 {
            return Ok(self.malformed(id, Reason::PROTOCOL_ERROR, Refusal::BadFrame));
        }
        if !stream.widen(more.into()) {
            return Ok(self.malformed(id, Reason::FLOW_CONTROL_ERROR, Refusal::BadFrame));
        }
        stream.queue(id, &mut self.blocked);
        Ok(None)
    }

    fn reset_by_peer(&mut self, id: u32, reason: Reason, now: Instant) -> Result<Option<Event<'static, T>>, Broken> {
        if self.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            self.idle_frame(now)?;
            return Ok(None);
        };
        if self.role == Role::Client && stream.remote == Remote::Ended {
            // It has answered: what is still here goes on.
            stream.is_sending = false;
            stream.wants = false;
            return Ok(stream.owner.clone().map(|owner| Event::Stopped { owner }));
        }
        let Some(stream) = self.streams.remove(&id) else { return Ok(None) };
        self.give_back(stream.held.len());
        Ok(stream.owner.map(|owner| Event::Reset { owner, reason }))
    }
}
