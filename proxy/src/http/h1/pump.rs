//! A message of HTTP/1 on its way from one connection to another.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use conduit_api::filters::HeaderEdits;

use crate::{
    buffer::{Buffer, TooLarge},
    buffered::Buffered,
    http::{
        Refusal,
        body::{Body, Passing},
    },
    journal::Entry,
    policy::edit_lines,
};

/// A message on its way: its head, and the body behind it.
pub(super) struct Pump<'a> {
    /// The head as it goes on, with the beginning of the body.
    lead: &'a Buffer,
    /// So much of it is the head.
    head_length: usize,
    /// Goes first in its place.
    edited: Option<Buffer>,
    /// So much of it was sent.
    pub(super) sent: usize,
    pub(super) body: Body,
    /// So much of what the sender's connection has read may be sent.
    pub(super) passing: usize,
    /// Of the body, what was passed since that was last asked.
    pub(super) payload: usize,
    /// All of it was here with the head.
    pub(super) is_whole: bool,
    /// The last read has filled the sender's buffer.
    was_full: bool,
    /// Of a request: told of its payload when it goes no further, for whatever reason.
    pub(super) entry: Option<Rc<Entry>>,
}

/// Which of the two sides has broken.
pub(super) enum Side {
    /// The sender.
    From(io::Error),
    /// The receiver.
    To(io::Error),
    /// What the sender sends is not what its head promised.
    Refused(Refusal),
}

/// Puts as much of a body as there is, and as there is room for, behind its head; what is left of it may pass.
pub(super) fn take(body: &mut Body, input: &mut Buffer, head: &mut Buffer) -> Result<Passing, Refusal> {
    if body.is_end() || input.is_empty() {
        return Ok(Passing::default());
    }
    let passing = body.advance(input)?;
    let taken = head.append(&input.filled()[..passing.bytes]);
    input.consume(taken);
    Ok(Passing { bytes: passing.bytes - taken, ..passing })
}

impl<'a> Pump<'a> {
    /// `lead`, which begins with a head of that length, goes first, then what may pass of what was read already, and then the rest of `body`.
    pub(super) fn new(lead: &'a Buffer, head_length: usize, body: Body, passing: Passing) -> Self {
        let is_whole = body.is_end() && passing.bytes == 0;
        let Passing { bytes: passing, payload } = passing;
        Self {
            lead,
            head_length,
            edited: None,
            sent: 0,
            body,
            passing,
            payload,
            is_whole,
            was_full: false,
            entry: None,
        }
    }

    /// The head as it goes on, and what of the body is behind it.
    pub(super) fn head(&self) -> &'a [u8] {
        self.lead.filled()
    }

    /// What is sent first has these edits made to its head; nothing of it was sent yet.
    pub(super) fn edit(&mut self, edits: &HeaderEdits) -> Result<(), TooLarge> {
        let mut edited = Buffer::small();
        let (lines, body) = self.lead.filled().split_at(self.head_length);
        edit_lines(edits, lines, &mut edited)?;
        edited.append_all(body)?;
        self.edited = Some(edited);
        Ok(())
    }

    fn first(&self) -> &[u8] {
        self.edited.as_ref().unwrap_or(self.lead).filled()
    }

    /// Nothing of it was sent yet.
    pub(super) fn again(&mut self) {
        self.sent = 0;
    }

    /// Sends what there is, until the body has ended.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered,
        to: &mut Buffered,
    ) -> Poll<Result<(), Side>> {
        while self.sent < self.first().len() {
            self.sent += ready!(to.poll_write(cx, &self.first()[self.sent..])).map_err(Side::To)?;
        }
        loop {
            while self.passing > 0 {
                let written = ready!(to.poll_write(cx, &from.input.filled()[..self.passing])).map_err(Side::To)?;
                from.input.consume(written);
                self.passing -= written;
            }
            if self.body.is_end() {
                return to.poll_flush(cx).map_err(Side::To);
            }
            let passing = self.body.advance(&mut from.input).map_err(Side::Refused)?;
            (self.passing, self.payload) = (passing.bytes, self.payload + passing.payload);
            if self.passing > 0 || self.body.is_end() {
                continue;
            }
            ready!(to.poll_flush(cx)).map_err(Side::To)?;
            if self.was_full {
                from.input.widen();
            }
            match ready!(from.poll_fill(cx)).map_err(Side::From)? {
                0 if self.body.is_end_at_close() => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(Side::From(io::ErrorKind::UnexpectedEof.into()))),
                _ => self.was_full = from.input.is_full(),
            }
        }
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            entry.received(self.payload);
        }
    }
}
