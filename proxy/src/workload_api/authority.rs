//! The names by which gRPC clients call a unix socket.
//!
//! gRPC's C core (Python, Ruby, C++) sends the socket's path, percent-encoded, as `:authority`, and Java sends it as it is. Neither is
//! an authority (RFC 3986 section 3.2), and h2 resets the stream: <https://github.com/hyperium/h2/pull/487>. So the bytes that may
//! not be in one are exchanged, one for one, on their way in: no length changes, neither of a frame nor of what HPACK remembers. What
//! is not understood goes through as it is, for h2 to judge.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// What a connection begins with (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
/// Of a frame (section 4.1).
const HEADER_BYTES: usize = 9;
/// The largest that a client may send, as long as it is not told otherwise (section 6.5.2).
const FRAME_BYTES_MAX: usize = 16_384;
/// HEADERS, and its flags (section 6.2).
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The name's place in HPACK's static table (RFC 7541 appendix A), and the name.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";

/// What a client sends, with authorities in its requests.
pub struct WithAuthority<S> {
    stream: S,
    /// What was read and not given on; whole frames' worth of it is [`WithAuthority::passed`].
    read: Vec<u8>,
    /// So much of it may be given on.
    passed: usize,
    /// So much of what comes is none of ours.
    skip: usize,
}

impl<S> WithAuthority<S> {
    /// Over `stream`, at its beginning.
    pub fn new(stream: S) -> Self {
        Self { stream, read: Vec::new(), passed: 0, skip: PREFACE_BYTES }
    }

    /// Looks at what has come, as far as it is whole.
    fn look(&mut self) {
        loop {
            let waiting = &mut self.read[self.passed..];
            let skipped = self.skip.min(waiting.len());
            (self.passed, self.skip) = (self.passed + skipped, self.skip - skipped);
            let waiting = &mut waiting[skipped..];
            let Some((&mut [a, b, c, kind, flags, ..], rest)) = waiting.split_first_chunk_mut::<HEADER_BYTES>() else {
                return;
            };
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && length <= FRAME_BYTES_MAX {
                let Some(payload) = rest.get_mut(..length) else { return };
                let _ = mend(payload, flags);
            }
            self.skip = HEADER_BYTES + length;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.passed == 0 {
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The rest of a frame will not come.
                this.passed = this.read.len();
                break;
            }
            this.read.extend_from_slice(chunk.filled());
            this.look();
        }
        let given = this.passed.min(buf.remaining());
        buf.put_slice(&this.read[..given]);
        this.read.drain(..given);
        this.passed -= given;
        Poll::Ready(Ok(()))
    }
}

/// Exchanges what may not be in an authority, in the fields of a HEADERS frame (RFC 7541 section 6). `None` where they are not understood.
fn mend(payload: &mut [u8], flags: u8) -> Option<()> {
    let padding = if flags & PADDED == 0 { 0 } else { usize::from(*payload.first()?) };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding)?;
    let mut fields = payload.get_mut(before..end)?;
    while let Some(first) = fields.first().copied() {
        let is_literal = first & 0x80 == 0 && first & 0xe0 != 0x20;
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(&mut fields, prefix)?;
        if !is_literal {
            continue;
        }
        let is_authority = match index {
            0 => *string(&mut fields)?.0 == *AUTHORITY,
            index => index == AUTHORITY_INDEX,
        };
        let (value, is_huffman) = string(&mut fields)?;
        if is_authority && !is_huffman {
            let wrong = |byte: &&mut u8| !(byte.is_ascii_alphanumeric() || b"-._~:[]@".contains(byte));
            value.iter_mut().filter(wrong).for_each(|byte| *byte = b'-');
        }
    }
    Some(())
}

/// Section 5.1, of what fits into a frame.
fn integer(fields: &mut &mut [u8], prefix: u32) -> Option<usize> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(take(fields, 1)?[0]) & mask;
    let mut shift = 0;
    let mut more = value == mask;
    while more {
        let byte = take(fields, 1)?[0];
        value += usize::from(byte & 0x7f) << shift;
        more = byte & 0x80 != 0;
        shift += 7;
        if shift > 21 {
            return None;
        }
    }
    Some(value)
}

/// Section 5.2, and whether it is compressed.
fn string<'a>(fields: &mut &'a mut [u8]) -> Option<(&'a mut [u8], bool)> {
    let is_huffman = fields.first()? & 0x80 != 0;
    let length = integer(fields, 7)?;
    Some((take(fields, length)?, is_huffman))
}

fn take<'a>(fields: &mut &'a mut [u8], length: usize) -> Option<&'a mut [u8]> {
    if length > fields.len() {
        return None;
    }
    let (taken, rest) = std::mem::take(fields).split_at_mut(length);
    *fields = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, `:authority` as gRPC's C core writes it, and a field that may say anything.
    fn fields(authority: &str) -> Vec<u8> {
        let literal = |value: &str| [&[value.len() as u8], value.as_bytes()].concat();
        [&[0x83, 0x41][..], &literal(authority), &[0x00], &literal("x-path"), &literal("a%2Fb/c")].concat()
    }

    /// What comes in chunks, read to the end.
    async fn passed(sent: &[u8], chunk: usize) -> Vec<u8> {
        struct Chunks(std::vec::IntoIter<Vec<u8>>);
        impl AsyncRead for Chunks {
            fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                buf.put_slice(&self.0.next().unwrap_or_default());
                Poll::Ready(Ok(()))
            }
        }
        let chunks: Vec<_> = sent.chunks(chunk).map(<[u8]>::to_vec).collect();
        let mut passed = Vec::new();
        WithAuthority::new(Chunks(chunks.into_iter())).read_to_end(&mut passed).await.unwrap();
        passed
    }

    #[tokio::test]
    async fn a_path_becomes_an_authority_and_nothing_else_changes() {
        let data = frame(0, 0, b"/%/%");
        let sent = |authority: &str| {
            let padded = [&[2][..], &fields(authority), &[0, 0]].concat();
            let after_priority = [&[0, 0, 0, 0, 16][..], &fields(authority)].concat();
            let headers = [
                frame(HEADERS, 4, &fields(authority)),
                frame(HEADERS, 4 | PADDED, &padded),
                frame(HEADERS, 4 | PRIORITY, &after_priority),
            ];
            [PREFACE, &headers[0], &data, &headers[1], &headers[2], &data].concat()
        };
        for (given, taken) in [
            ("tmp%2Fm%2Fworkload.sock", "tmp-2Fm-2Fworkload.sock"),
            ("/var/run/workload.sock", "-var-run-workload.sock"),
            ("localhost:80", "localhost:80"),
            ("", ""),
        ] {
            for chunk in [1, 7, 4096] {
                assert_eq!(passed(&sent(given), chunk).await, sent(taken), "{given} in chunks of {chunk}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_goes_through(junk in prop::collection::vec(any::<u8>(), 0..200), flags: u8, chunk in 1..64_usize) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent = [PREFACE, &frame(HEADERS, flags, &junk), &junk].concat();
            let passed = runtime.block_on(passed(&sent, chunk));
            prop_assert_eq!(passed.len(), sent.len());
        }
    }
}
