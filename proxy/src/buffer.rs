//! What was read of a connection and not used yet.
//!
//! A connection owns memory only as long as there is something in it: each data thread keeps a few buffers that go from one
//! connection to the next. They are written once when they are made, and so never need memory that is not initialised.

use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

/// For a head that is kept until it is answered, and the beginning of its body.
const SMALL_BYTES: usize = 4 * 1024;
/// What is read at once, usually.
const USUAL_BYTES: usize = 16 * 1024;
/// For a body, or bytes, of which a whole usual buffer was there at once; and the longest head that there may be.
pub const LARGE_BYTES: usize = 64 * 1024;
/// A thread keeps so many of each: 2 MB in all, for as long as they are used. To make one costs as much as to read a head.
const KEPT_MAX: [(usize, usize); 3] = [(SMALL_BYTES, 256), (USUAL_BYTES, 32), (LARGE_BYTES, 8)];

thread_local! {
    /// A thread's buffers that nobody uses, by size.
    static KEPT: RefCell<[Vec<Box<[u8]>>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// Bytes that came first are first.
#[derive(Default)]
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
    is_small: bool,
}

/// The size that has room for `bytes`.
fn size_for(bytes: usize) -> usize {
    KEPT_MAX.iter().position(|(size, _)| bytes <= *size).unwrap_or(KEPT_MAX.len() - 1)
}

fn take(bytes: usize) -> Box<[u8]> {
    let size = size_for(bytes);
    let kept = KEPT.with_borrow_mut(|kept| kept[size].pop());
    kept.unwrap_or_else(|| vec![0; KEPT_MAX[size].0].into_boxed_slice())
}

fn give_back(memory: Box<[u8]>) {
    let size = size_for(memory.len());
    // A thread that is ending keeps nothing.
    let _ = KEPT.try_with(|kept| {
        let same = &mut kept.borrow_mut()[size];
        if same.len() < KEPT_MAX[size].1 {
            same.push(memory);
        }
    });
}

/// Gives half of what this thread keeps back to the system. To be called now and then: what is used is made again.
pub fn trim() {
    KEPT.with_borrow_mut(|kept| kept.iter_mut().for_each(|same| same.truncate(same.len() / 2)));
}

impl Buffer {
    /// For a head.
    pub fn small() -> Self {
        Self { memory: Box::default(), start: 0, end: 0, is_small: true }
    }

    /// What is in it.
    pub fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `count` bytes have been used.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.consume(self.end - self.start);
    }

    /// Takes out `count` bytes after the first `at`.
    pub fn remove(&mut self, at: usize, count: usize) {
        let from = self.start + at;
        self.memory.copy_within(from + count..self.end, from);
        self.end -= count;
    }

    /// Adds as much of `bytes` as there is room for; how much that is.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let space = self.space();
        let count = bytes.len().min(space.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// Adds all of `bytes`.
    ///
    /// # Errors
    /// When that is more than the largest head: it is then as before.
    pub fn append_all(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        while self.space().len() < bytes.len() {
            self.grow()?;
        }
        self.append(bytes);
        Ok(())
    }

    /// Makes room for more than there is.
    ///
    /// # Errors
    /// When it is large already, and full.
    pub fn grow(&mut self) -> Result<(), TooLarge> {
        if self.memory.len() >= LARGE_BYTES {
            return Err(TooLarge);
        }
        let mut larger = take(if self.memory.len() < USUAL_BYTES { USUAL_BYTES } else { LARGE_BYTES });
        let filled = self.end - self.start;
        larger[..filled].copy_from_slice(self.filled());
        give_back(mem::replace(&mut self.memory, larger));
        (self.start, self.end) = (0, filled);
        Ok(())
    }

    /// Gives its memory back, if there is nothing in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.memory.is_empty() {
            give_back(mem::take(&mut self.memory));
            (self.start, self.end) = (0, 0);
        }
    }

    /// Where the next bytes go; nothing when it is full.
    fn space(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = take(if self.is_small { SMALL_BYTES } else { USUAL_BYTES });
        }
        if self.end == self.memory.len() && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.memory[self.end..]
    }

    /// Reads what there is, behind what is in it; how much that was, 0 at the end of `stream`. While nothing comes, an empty
    /// buffer has no memory.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(self.space());
        if space.capacity() == 0 {
            return Poll::Ready(Err(TooLarge.into()));
        }
        let polled = Pin::new(stream).poll_read(cx, &mut space);
        let read = space.filled().len();
        self.end += read;
        match polled {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.release();
                return Poll::Pending;
            }
        }
        if read == 0 {
            self.release();
        }
        Poll::Ready(Ok(read))
    }

    /// Moves to `out` what it has room for. A connection may be idle for hours after that: what is empty has no memory.
    pub fn drain_to(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.filled().len().min(out.remaining());
        out.put_slice(&self.filled()[..count]);
        self.consume(count);
        self.release();
    }

    /// Whether the last read has filled it: there is probably more.
    pub fn is_full(&self) -> bool {
        !self.memory.is_empty() && self.start == 0 && self.end == self.memory.len()
    }

    /// Is large from the next byte on, if it is empty.
    pub fn widen(&mut self) {
        if self.is_empty() && self.memory.len() < LARGE_BYTES {
            let usual = mem::replace(&mut self.memory, take(LARGE_BYTES));
            if !usual.is_empty() {
                give_back(usual);
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.memory.is_empty() {
            give_back(mem::take(&mut self.memory));
        }
    }
}

/// A head or a line of more than [`LARGE_BYTES`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("more than {LARGE_BYTES} bytes without an end")]
pub struct TooLarge;

impl From<TooLarge> for io::Error {
    fn from(error: TooLarge) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[test]
    fn what_comes_first_is_first_however_it_is_used() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty() && !buffer.is_full());
        assert_eq!(buffer.append(b"hello world"), 11);
        buffer.consume(6);
        assert_eq!(buffer.filled(), b"world");
        buffer.remove(1, 3);
        assert_eq!(buffer.filled(), b"wd");
        assert_eq!(buffer.append(&[b'x'; USUAL_BYTES]), USUAL_BYTES - 8, "behind what was used there is less room");
        buffer.consume(2);
        assert_eq!(buffer.append(&[b'y'; 10]), 8, "what is in it moves to the front");
        assert_eq!(buffer.filled().last(), Some(&b'y'));
    }

    #[test]
    fn it_grows_as_far_as_a_head_may() {
        let mut buffer = Buffer::small();
        buffer.append_all(b"head").unwrap();
        assert_eq!(buffer.memory.len(), SMALL_BYTES);
        buffer.append_all(&[b'x'; 60_000]).unwrap();
        assert_eq!((&buffer.filled()[..5], buffer.filled().len()), (&b"headx"[..], 60_004));
        assert_eq!(buffer.append_all(&[b'x'; 10_000]), Err(TooLarge));
        assert_eq!(buffer.filled().len(), 60_004);
    }

    #[tokio::test]
    async fn memory_is_there_as_long_as_it_is_needed() {
        let (mut near, mut far) = duplex(100_000);
        let mut buffer = Buffer::default();
        let mut waiting = Context::from_waker(Waker::noop());
        assert!(buffer.poll_fill(&mut waiting, &mut far).is_pending());
        assert!(buffer.memory.is_empty(), "nothing has come");
        near.write_all(&[b'z'; USUAL_BYTES]).await.unwrap();
        assert_eq!(poll_fn(|cx| buffer.poll_fill(cx, &mut far)).await.unwrap(), USUAL_BYTES);
        assert!(buffer.is_full());
        buffer.consume(USUAL_BYTES);
        buffer.widen();
        assert_eq!(buffer.memory.len(), LARGE_BYTES);
        buffer.release();
        assert!(buffer.memory.is_empty());
        drop(near);
        assert_eq!(poll_fn(|cx| buffer.poll_fill(cx, &mut far)).await.unwrap(), 0);
    }
}
