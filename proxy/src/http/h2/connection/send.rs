//! What a connection sends.

use tokio::time::Instant;

use super::{
    Connection, Expects, OUTPUT_DATA_MAX, OUTPUT_HEADS_MAX, RESETS_REMEMBERED_MAX, Role,
    stream::{Remote, Stream},
};
use crate::http::h2::{
    fields::Fields,
    frame::{self, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, Reason, WINDOW_MAX, flag, kind},
};

/// What went from one stream to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Of the body.
    pub bytes: usize,
    /// All of it went, and its end; perhaps with a gRPC status.
    pub ended: Option<Option<u32>>,
    /// ... and trailers.
    pub trailers: bool,
}

impl<T: Clone> Connection<T> {
    /// Opens a stream for a request, and sends its head; its number, unless there are no more.
    pub fn open(&mut self, fields: &Fields, expects: Expects, ends: bool, owner: T) -> Option<u32> {
        let id = self.next;
        if self.is_closing || id > WINDOW_MAX {
            self.is_closing = true;
            return None;
        }
        self.next += 2;
        let mut stream = Stream::new(self.initial_window);
        stream.owner = Some(owner);
        stream.awaits_head = true;
        stream.is_bodiless = expects == Expects::NoBody;
        stream.is_tunnel = expects == Expects::Tunnel;
        stream.is_sending = !ends;
        self.streams.insert(id, stream);
        self.write_head(id, fields, ends);
        Some(id)
    }

    /// Sends a head, or trailers if it `ends` what was sent. There is always room for these: a stream has two at most, and whoever does
    /// not read what there is to read opens no more streams.
    pub fn send_head(&mut self, id: u32, fields: &Fields, ends: bool, now: Instant) {
        if self.is_sending(id) {
            self.write_head(id, fields, ends);
            if ends {
                self.end_sending(id, now);
            }
        }
    }

    /// Sends an interim head, of which a stream may have many: to a peer that does not read, none.
    pub fn send_interim(&mut self, id: u32, fields: &Fields) {
        if self.is_sending(id) && self.unwritten().len() < OUTPUT_HEADS_MAX {
            self.write_head(id, fields, false);
        }
    }

    fn write_head(&mut self, id: u32, fields: &Fields, ends: bool) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        self.encoder.encode(fields, &mut self.out);
        let length = self.out.len() - start - HEAD_BYTES;
        let end_stream = if ends { flag::END_STREAM } else { 0 };
        if length <= PAYLOAD_BYTES_MAX {
            let head = Head { length, kind: kind::HEADERS, flags: end_stream | flag::END_HEADERS, stream: id };
            self.out[start..start + HEAD_BYTES].copy_from_slice(&head.bytes());
            return;
        }
        let block = self.out.split_off(start + HEAD_BYTES);
        self.out.truncate(start);
        let mut parts = block.chunks(PAYLOAD_BYTES_MAX).peekable();
        let (mut kind, mut flags) = (kind::HEADERS, end_stream);
        while let Some(part) = parts.next() {
            let end_headers = if parts.peek().is_none() { flag::END_HEADERS } else { 0 };
            frame::write(&mut self.out, kind, flags | end_headers, id, part);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Sends of `data` what there is room for, and its end if all of it went and it `ends`; how much went. If that is not all, the
    /// stream is among those that [`Connection::next_blocked`] tells.
    pub fn send_data(&mut self, id: u32, data: &[u8], ends: bool, now: Instant) -> usize {
        let room = OUTPUT_DATA_MAX.saturating_sub(self.unwritten().len());
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_sending) else { return data.len() };
        let window = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
        let count = data.len().min(window).min(room);
        let is_all = count == data.len();
        stream.send_window -= count as i64;
        self.send_window -= count as i64;
        stream.wants = !is_all;
        stream.queue(id, &mut self.blocked);
        let is_end = is_all && ends;
        let mut parts = data[..count].chunks(PAYLOAD_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            let flags = if is_end && parts.peek().is_none() { flag::END_STREAM } else { 0 };
            frame::write(&mut self.out, kind::DATA, flags, id, part);
        }
        if is_end {
            if count == 0 {
                frame::write(&mut self.out, kind::DATA, flag::END_STREAM, id, &[]);
            }
            self.end_sending(id, now);
        }
        count
    }

    fn end_sending(&mut self, id: u32, now: Instant) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_sending = false;
            stream.wants = false;
            stream.outlasts = Some(now);
        }
        self.settle(id);
    }

    /// The next stream that could send more, now that there is room; it is asked for once.
    pub fn next_blocked(&mut self) -> Option<u32> {
        while self.send_window > 0 && self.unwritten().len() < OUTPUT_DATA_MAX {
            let id = self.blocked.pop_front()?;
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_queued = false;
                if stream.wants && stream.is_sending {
                    return Some(id);
                }
            }
        }
        None
    }

    /// Gives a stream up, unless it has ended; what is held of it is gone.
    pub fn reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.give_back(stream.held.len());
        if stream.is_sending || stream.remote == Remote::Open {
            self.write_reset(id, reason);
        }
    }

    pub(super) fn write_reset(&mut self, id: u32, reason: Reason) {
        frame::write(&mut self.out, kind::RST_STREAM, 0, id, &reason.0.to_be_bytes());
        if self.role == Role::Server {
            if self.resets.len() >= RESETS_REMEMBERED_MAX {
                self.resets.pop_front();
            }
            self.resets.push_back(id);
        }
    }

    /// What came of `id` cannot go on yet.
    pub fn hold(&mut self, id: u32, data: &[u8]) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.held.extend_from_slice(data);
        }
    }

    /// The same, of trailers.
    pub fn hold_trailers(&mut self, id: u32, trailers: Fields) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.trailers = Some(Box::new(trailers));
        }
    }

    /// What is held of `id`, without trailers.
    pub fn held(&self, id: u32) -> &[u8] {
        self.streams.get(&id).map_or(&[], |stream| &stream.held)
    }

    /// Whether something of `id` is held: what comes then is behind it.
    pub fn is_holding(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|stream| !stream.held.is_empty() || stream.trailers.is_some())
    }

    /// Passes on what is held of `id`, to the stream `to` of another connection, as far as that has room.
    pub fn pass<U: Clone>(&mut self, id: u32, other: &mut Connection<U>, to: u32, now: Instant) -> Passed {
        let Some(stream) = self.streams.get_mut(&id) else { return Passed::default() };
        let is_ended = stream.remote == Remote::Ended;
        let ends = is_ended && stream.trailers.is_none();
        let bytes = if stream.held.is_empty() && !ends { 0 } else { other.send_data(to, &stream.held, ends, now) };
        if bytes == stream.held.len() {
            stream.held = Vec::new();
        } else {
            stream.held.drain(..bytes);
        }
        let is_all = stream.held.is_empty();
        let trailers = stream.trailers.take_if(|_| is_all);
        self.passed(id, bytes);
        if !is_all || !is_ended {
            return Passed { bytes, ..Passed::default() };
        }
        let has_trailers = trailers.is_some();
        let status = trailers.and_then(|trailers| {
            other.send_head(to, &trailers, true, now);
            crate::http::h2::fields::trailers(&trailers).ok().flatten()
        });
        self.done(id);
        Passed { bytes, ended: Some(status), trailers: has_trailers }
    }

    /// So many bytes of what came of `id` have gone on: its peer may send as many again.
    pub fn passed(&mut self, id: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.remote == Remote::Open
            && let Some(more) = stream.window.give(bytes)
        {
            frame::write(&mut self.out, kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
        }
        self.give_back(bytes);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        if let Some(more) = self.window.give(bytes) {
            frame::write(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    /// The end of what came of `id` has gone on as well.
    pub fn done(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.remote == Remote::Ended
        {
            stream.remote = Remote::Done;
            self.settle(id);
        }
    }

    /// A stream that both sides have ended is none any more.
    fn settle(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.is_sending && stream.remote == Remote::Done) {
            self.streams.remove(&id);
        }
    }

    /// Streams on which nothing is sent any more since before `then`, and the peer goes on.
    pub fn outlasting(&self, then: Instant) -> Vec<u32> {
        let is_old = |stream: &Stream<T>| stream.outlasts.is_some_and(|since| since < then);
        self.streams.iter().filter(|(_, stream)| is_old(stream)).map(|(id, _)| *id).collect()
    }

    /// Whether there are such streams, however young.
    pub fn has_outlasting(&self) -> bool {
        self.streams.values().any(|stream| stream.outlasts.is_some())
    }
}
