//! Bodies of HTTP/1 messages: where they end. Pure.
//!
//! A chunked body (RFC 9112 section 7.1) goes on as it came, chunk by chunk, after each line that frames it was read and found to
//! mean one thing only; extensions of chunks, which nobody uses and which programs read differently, are taken out.

use memchr::memchr;

use super::{
    Refusal,
    head::{Framing, is_forbidden_in_trailers},
};
use crate::buffer::Buffer;

/// Of one line that frames a chunk, or of one trailer.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Of all trailers.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Of all extensions of a body's chunks: more is an attack on whoever counts them as nothing.
const EXTENSION_BYTES_MAX: usize = 1024;
/// Sixteen hexadecimal digits are any size that there could be.
const SIZE_DIGITS_MAX: usize = 15;

/// Follows one body.
#[derive(Clone, Debug)]
pub struct Body {
    state: State,
    extensions: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    UntilClose,
    /// A line with a size comes next.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of its line.
    ChunkEnd,
    Trailers,
    End,
}

/// What may go on now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passing {
    /// So many bytes from the front.
    pub bytes: usize,
    /// Of these, what the body consists of.
    pub payload: usize,
}

impl Body {
    /// Of a message whose head says so.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::End,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extensions: 0, trailers: 0 }
    }

    /// Everything has been seen.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// The connection has ended: whether that is the body's end as well.
    pub fn is_end_at_close(&self) -> bool {
        matches!(self.state, State::End | State::UntilClose)
    }

    /// Looks at what `input` has beyond what was passed before, and takes out what does not go on.
    ///
    /// # Errors
    /// When it is not what its head promised.
    pub fn advance(&mut self, input: &mut Buffer) -> Result<Passing, Refusal> {
        let mut passing = Passing::default();
        loop {
            let rest = &input.filled()[passing.bytes..];
            match self.state {
                State::End => return Ok(passing),
                _ if rest.is_empty() => return Ok(passing),
                State::UntilClose => {
                    passing.payload += rest.len();
                    passing.bytes += rest.len();
                }
                State::Length(left) | State::Chunk(left) => {
                    let now = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    passing.bytes += now;
                    passing.payload += now;
                    let left = left - now as u64;
                    self.state = match (self.state, left) {
                        (State::Length(_), 0) => State::End,
                        (State::Length(_), left) => State::Length(left),
                        (_, 0) => State::ChunkEnd,
                        (_, left) => State::Chunk(left),
                    };
                }
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        passing.bytes += 2;
                        self.state = State::ChunkSize;
                    }
                    [b'\r'] => return Ok(passing),
                    _ => return Err(Refusal::BadChunk),
                },
                State::ChunkSize => {
                    let Some(line) = line(rest, Refusal::BadChunk)? else { return Ok(passing) };
                    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                    let size = size(&line[..digits])?;
                    let extension = line.len() - digits;
                    if extension > 0 {
                        self.extension(&line[digits..])?;
                        input.remove(passing.bytes + digits, extension);
                    }
                    passing.bytes += digits + 2;
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Trailers => {
                    let Some(line) = line(rest, Refusal::BadTrailer)? else { return Ok(passing) };
                    passing.bytes += line.len() + 2;
                    self.trailers += line.len() + 2;
                    if line.is_empty() {
                        self.state = State::End;
                    } else {
                        is_trailer(line)?;
                    }
                    if self.trailers > TRAILER_BYTES_MAX {
                        return Err(Refusal::BadTrailer);
                    }
                }
            }
        }
    }

    /// Spaces and what follows a semicolon; nothing else.
    fn extension(&mut self, extension: &[u8]) -> Result<(), Refusal> {
        self.extensions += extension.len();
        let means_nothing = extension.trim_ascii_start().first().is_none_or(|first| *first == b';')
            && extension.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte) || *byte >= 0x80);
        if !means_nothing || self.extensions > EXTENSION_BYTES_MAX {
            return Err(Refusal::BadChunk);
        }
        Ok(())
    }
}

/// The first line, without its end; `None` as long as that has not come.
fn line(bytes: &[u8], refusal: Refusal) -> Result<Option<&[u8]>, Refusal> {
    match memchr(b'\n', bytes) {
        Some(end) => match bytes[..end].split_last() {
            // One that has another carriage return within is a line to some.
            Some((b'\r', line)) if end <= LINE_BYTES_MAX && memchr(b'\r', line).is_none() => Ok(Some(line)),
            _ => Err(refusal),
        },
        None if bytes.len() > LINE_BYTES_MAX => Err(refusal),
        None => Ok(None),
    }
}

fn size(digits: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(digits).map_err(|_| Refusal::BadChunk)?;
    if digits.len() > SIZE_DIGITS_MAX {
        return Err(Refusal::BadChunk);
    }
    u64::from_str_radix(digits, 16).map_err(|_| Refusal::BadChunk)
}

fn is_trailer(line: &[u8]) -> Result<(), Refusal> {
    // The line's end and an empty line make a list of one header of it.
    let mut headers = [httparse::EMPTY_HEADER; 1];
    let mut list = Vec::with_capacity(line.len() + 4);
    list.extend_from_slice(line);
    list.extend_from_slice(b"\r\n\r\n");
    match httparse::parse_headers(&list, &mut headers) {
        Ok(httparse::Status::Complete((_, [header]))) if !is_forbidden_in_trailers(header.name) => Ok(()),
        _ => Err(Refusal::BadTrailer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What goes on of `input`, which comes in pieces of `piece` bytes, and how much of it is payload.
    fn passed(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Refusal> {
        let (mut body, mut buffer, mut out, mut payload) = (Body::new(framing), Buffer::default(), Vec::new(), 0);
        for piece in input.chunks(piece.max(1)) {
            buffer.append_all(piece).unwrap();
            let passing = body.advance(&mut buffer)?;
            out.extend_from_slice(&buffer.filled()[..passing.bytes]);
            buffer.consume(passing.bytes);
            payload += passing.payload;
        }
        Ok((out, payload, body.is_end()))
    }

    #[test]
    fn bodies_end_where_their_heads_say() {
        for (framing, input, out, payload, end) in [
            (Framing::Length(0), &b"GET"[..], &b""[..], 0, true),
            (Framing::Length(5), b"helloGET", b"hello", 5, true),
            (Framing::Length(9), b"hello", b"hello", 5, false),
            (Framing::UntilClose, b"hello", b"hello", 5, false),
            (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\nGET", b"5\r\nhello\r\n0\r\n\r\n", 5, true),
            (Framing::Chunked, b"5;a=b\r\nhello\r\n0 ;x\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", 5, true),
            (Framing::Chunked, b"0005\r\nhello\r\n0\r\nA: b\r\n\r\n", b"0005\r\nhello\r\n0\r\nA: b\r\n\r\n", 5, true),
            (Framing::Chunked, b"A\r\nhello", b"A\r\nhello", 5, false),
        ] {
            for piece in 1..=input.len() {
                let expected = Ok((out.to_vec(), payload, end));
                assert_eq!(passed(framing, input, piece), expected, "{input:?} by {piece}");
            }
        }
        assert!(Body::new(Framing::UntilClose).is_end_at_close());
        assert!(!Body::new(Framing::Chunked).is_end_at_close());
    }

    #[test]
    fn what_could_be_read_differently_is_not_passed_on() {
        for input in [
            &b"5\nhello\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n",
            b"+5\r\nhello\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"5\rX\r\nhello\r\n",
            b"5;\n\r\nhello\r\n",
            b"5;\x00\r\nhello\r\n",
            b"10000000000000005\r\nhello\r\n",
            b"0\r\nContent-Length: 5\r\n\r\n",
            b"0\r\ntransfer-encoding: chunked\r\n\r\n",
            b"0\r\nConduit-Proxy-Error: x\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\na : b\r\n\r\n",
            b"0\r\n folded: b\r\n\r\n",
            b"0\r\na: b\n\r\n",
        ] {
            for piece in 1..=input.len() {
                assert!(passed(Framing::Chunked, input, piece).is_err(), "{:?}", input.escape_ascii().to_string());
            }
        }
        let long = [b"5;".as_slice(), &[b'x'; EXTENSION_BYTES_MAX], b"\r\nhello\r\n"].concat();
        assert_eq!(passed(Framing::Chunked, &long, 64), Err(Refusal::BadChunk));
        let many = b"1;ext\r\nx\r\n".repeat(300);
        assert_eq!(passed(Framing::Chunked, &many, 64), Err(Refusal::BadChunk));
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1)].concat();
        assert_eq!(passed(Framing::Chunked, &trailers, 64), Err(Refusal::BadTrailer));
    }

    proptest! {
        /// However a body is split, the same goes on; and what goes on is a body that goes on unchanged.
        #[test]
        fn pieces_make_no_difference(input in "[0-9a-f]{0,3}(;x)?\r\n[a-z]{0,20}(\r\n0\r\n)?\r\n", piece in 1usize..10) {
            let whole = passed(Framing::Chunked, input.as_bytes(), usize::MAX);
            let parts = passed(Framing::Chunked, input.as_bytes(), piece);
            match (whole, parts) {
                (Ok(whole), Ok(parts)) => {
                    prop_assert_eq!(&whole, &parts);
                    prop_assert_eq!(passed(Framing::Chunked, &whole.0, piece).unwrap().0, whole.0);
                }
                (whole, parts) => prop_assert_eq!(whole.is_err(), parts.is_err()),
            }
        }
    }
}
