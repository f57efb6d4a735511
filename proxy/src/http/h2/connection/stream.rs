//! One stream, as its connection knows it.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::STREAM_WINDOW;
use crate::http::h2::{
    fields::Fields,
    frame::{Reason, WINDOW_MAX},
};

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    left: i64,
    /// What has gone on, and was not told the peer yet.
    owed: u32,
    size: u32,
}

impl Window {
    /// Of `size` bytes.
    pub fn new(size: u32) -> Self {
        Self { left: size.into(), owed: 0, size }
    }

    /// The peer has sent so much; whether it might.
    pub fn take(&mut self, bytes: usize) -> bool {
        self.left -= bytes as i64;
        self.left >= 0
    }

    /// So much has gone on; what the peer is to be told now, half a window at a time.
    pub fn give(&mut self, bytes: usize) -> Option<u32> {
        self.owed += bytes as u32;
        (self.owed >= self.size / 2).then(|| {
            self.left += i64::from(self.owed);
            std::mem::take(&mut self.owed)
        })
    }
}

/// What the peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    /// More.
    Open,
    /// Nothing more; not all of it has gone on.
    Ended,
    /// Nothing more, and all has.
    Done,
}

pub(super) struct Stream<T> {
    pub(super) owner: Option<T>,
    pub(super) remote: Remote,
    pub(super) is_sending: bool,
    /// What the peer takes. It may be negative (RFC 9113 section 6.9.2).
    pub(super) send_window: i64,
    pub(super) window: Window,
    /// There was more to send than there was room for, and it is in turn for it.
    pub(super) wants: bool,
    pub(super) is_queued: bool,
    /// No final head has come yet.
    pub(super) awaits_head: bool,
    /// What comes has no body, whatever its head says.
    pub(super) is_bodiless: bool,
    /// ... or whatever length that says.
    pub(super) is_tunnel: bool,
    /// Of the body, as its head has promised.
    pub(super) length_left: Option<u64>,
    /// What came, and has not gone on.
    pub(super) held: Vec<u8>,
    pub(super) trailers: Option<Box<Fields>>,
    /// What the peer has done that it must not.
    pub(super) violation: Option<Reason>,
    /// Nothing is sent any more, and the peer goes on sending since then.
    pub(super) outlasts: Option<Instant>,
}

impl<T> Stream<T> {
    pub(super) fn new(send_window: i64) -> Self {
        Self {
            owner: None,
            remote: Remote::Open,
            is_sending: true,
            send_window,
            window: Window::new(STREAM_WINDOW),
            wants: false,
            is_queued: false,
            awaits_head: false,
            is_bodiless: false,
            is_tunnel: false,
            length_left: None,
            held: Vec::new(),
            trailers: None,
            violation: None,
            outlasts: None,
        }
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.remote == Remote::Open
    }

    /// The peer takes so much more; `false` when that is more than a window may have.
    pub(super) fn widen(&mut self, bytes: i64) -> bool {
        self.send_window += bytes;
        self.send_window <= i64::from(WINDOW_MAX)
    }

    /// It is in turn for the room that there is now, if it waits for it.
    pub(super) fn queue(&mut self, id: u32, blocked: &mut VecDeque<u32>) {
        if self.wants && !self.is_queued && self.send_window > 0 {
            self.is_queued = true;
            blocked.push_back(id);
        }
    }

    /// So many bytes of the body came, and perhaps its end: whether that is what the head has promised.
    pub(super) fn count(&mut self, bytes: usize, ends: bool) -> bool {
        if self.is_bodiless {
            return bytes == 0;
        }
        let Some(left) = self.length_left else { return true };
        let Some(left) = left.checked_sub(bytes as u64) else { return false };
        self.length_left = Some(left);
        !ends || left == 0
    }
}
