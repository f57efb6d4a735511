//! Blocks of fields that a connection receives: heads, and trailers.

use tokio::time::Instant;

use super::{
    Broken, Connection, Ending, Event, Role, STREAMS_MAX,
    stream::{Remote, Stream},
};
use crate::http::{
    HEAD_BYTES_MAX, Refusal,
    h2::{
        fields::{Fields, Request, Response, trailers},
        frame::{self, Head, Reason, flag},
    },
};

/// Frames that one block may be in: more are a flood (CVE-2024-27316), since it has [`HEAD_BYTES_MAX`] bytes at most.
const BLOCK_FRAMES_MAX: usize = 64;

/// A block of fields that is coming.
pub(super) struct Block {
    pub(super) stream: u32,
    ends: bool,
    bytes: Vec<u8>,
    frames: usize,
}

impl<T: Clone> Connection<T> {
    pub(super) fn headers(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Broken> {
        let block = frame::unpadded(head, payload)?;
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(head.stream, block, ends, now);
        }
        self.reading.block = Some(Block { stream: head.stream, ends, bytes: block.to_vec(), frames: 1 });
        self.reading.since = Some(now);
        Ok(None)
    }

    pub(super) fn continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Broken> {
        let Some(mut block) = self.reading.block.take() else { return Err(Reason::PROTOCOL_ERROR.into()) };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if block.bytes.len() > HEAD_BYTES_MAX || block.frames > BLOCK_FRAMES_MAX {
            return Err(Broken { reason: Reason::ENHANCE_YOUR_CALM, refusal: Refusal::HeadTooLarge });
        }
        if head.has(flag::END_HEADERS) {
            self.reading.since = None;
            return self.block(block.stream, &block.bytes, block.ends, now);
        }
        self.reading.block = Some(block);
        Ok(None)
    }

    /// A block of fields is here, whole.
    fn block(&mut self, id: u32, block: &[u8], ends: bool, now: Instant) -> Result<Option<Event<'static, T>>, Broken> {
        let mut fields = std::mem::take(&mut self.spare);
        // All of it is read, whatever becomes of it: the table is the connection's.
        let size = self.decoder.decode(block, &mut fields, HEAD_BYTES_MAX).map_err(|_| Reason::COMPRESSION_ERROR)?;
        let fields = if size > HEAD_BYTES_MAX { Err(Refusal::HeadTooLarge) } else { Ok(fields) };
        let Some(stream) = self.streams.get_mut(&id) else {
            return match self.role {
                Role::Server => self.request(id, fields, ends, now),
                Role::Client if self.is_idle(id) => Err(Reason::PROTOCOL_ERROR.into()),
                Role::Client => Ok(None),
            };
        };
        if !stream.is_receiving() {
            self.idle_frame(now)?;
            return Ok(self.malformed(id, Reason::STREAM_CLOSED, Refusal::BadFrame));
        }
        let event = match (fields, stream.awaits_head) {
            (Ok(fields), true) => Self::response(id, stream, fields, ends),
            (Ok(fields), false) => Self::trailers(id, stream, fields, ends),
            (Err(refusal), _) => Err(refusal),
        };
        Ok(event.unwrap_or_else(|refusal| self.malformed(id, refusal.of_stream(), refusal)))
    }

    fn request(
        &mut self,
        id: u32,
        fields: Result<Fields, Refusal>,
        ends: bool,
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Broken> {
        if id.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if id <= self.last {
            // What was reset on this side may not be known on the other.
            let is_known = self.resets.contains(&id);
            return if is_known { Ok(None) } else { Err(Reason::STREAM_CLOSED.into()) };
        }
        self.last = id;
        if matches!(self.ending, Ending::After(_)) || self.streams.len() >= STREAMS_MAX {
            self.idle_frame(now)?;
            self.write_reset(id, Reason::REFUSED_STREAM);
            return Ok(None);
        }
        let mut stream = Stream::new(self.initial_window);
        let request = fields.and_then(Request::read).and_then(|request| {
            stream.length_left = request.content_length();
            if ends {
                stream.remote = Remote::Ended
            };
            if stream.count(0, ends) { Ok(request) } else { Err(Refusal::BadBody) }
        });
        self.streams.insert(id, stream);
        Ok(Some(Event::Request { stream: id, request, ends }))
    }

    fn response(
        id: u32,
        stream: &mut Stream<T>,
        fields: Fields,
        ends: bool,
    ) -> Result<Option<Event<'static, T>>, Refusal> {
        let response = Response::read(fields)?;
        if response.is_interim() {
            if ends {
                return Err(Refusal::BadFrame);
            }
        } else {
            stream.awaits_head = false;
            stream.is_bodiless |= matches!(response.status, 204 | 304);
            let is_tunnel = stream.is_tunnel && response.status < 300;
            stream.length_left = response.content_length.filter(|_| !is_tunnel);
            if ends {
                stream.remote = Remote::Ended;
            }
            if !stream.count(0, ends) {
                return Err(Refusal::BadBody);
            }
        }
        let owner = stream.owner.clone();
        Ok(owner.map(|owner| Event::Response { stream: id, owner, response, ends }))
    }

    fn trailers(
        id: u32,
        stream: &mut Stream<T>,
        fields: Fields,
        ends: bool,
    ) -> Result<Option<Event<'static, T>>, Refusal> {
        if !ends {
            return Err(Refusal::BadTrailer);
        }
        trailers(&fields)?;
        if !stream.count(0, true) {
            return Err(Refusal::BadBody);
        }
        stream.remote = Remote::Ended;
        let owner = stream.owner.clone();
        Ok(owner.map(|owner| Event::Trailers { stream: id, owner, trailers: fields }))
    }
}
