//! Messages as they were before their senders compressed them. Pure.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use conduit_api::proto::tap::tap_event::Message;
use flate2::read::{GzDecoder, ZlibDecoder};

/// Of one message: a few kilobytes may be megabytes, and what is made of them many times that.
const INFLATED_BYTES_MAX: u64 = 256 * 1024;

/// A message, or its beginning.
pub(super) struct Plain<'a> {
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) is_whole: bool,
}

/// As it was; or why it cannot be told. The names are those of gRPC's `grpc-encoding`, and `deflate` is what HTTP calls so (RFC 9110, section 8.4.1.2).
pub(super) fn plain(message: &Message) -> Result<Plain<'_>, String> {
    let (bytes, length) = (message.bytes.as_slice(), message.length);
    let is_whole = bytes.len() == length as usize;
    let inflated = match message.encoding.as_str() {
        "" => return Ok(Plain { bytes: bytes.into(), is_whole }),
        "gzip" => inflate(GzDecoder::new(bytes)),
        "deflate" => inflate(ZlibDecoder::new(bytes)),
        other => return Err(format!("{length} bytes, compressed with {other}")),
    };
    match inflated {
        (bytes, Ok(())) => Ok(Plain { bytes: bytes.into(), is_whole }),
        // Of what is cut off as much is shown as there is.
        (bytes, Err(_)) if !is_whole => Ok(Plain { bytes: bytes.into(), is_whole }),
        (_, Err(error)) => Err(format!("{length} bytes, said to be compressed with {}: {error}", message.encoding)),
    }
}

fn inflate(decoder: impl Read) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let read = decoder.take(INFLATED_BYTES_MAX + 1).read_to_end(&mut bytes);
    let too_long = || io::Error::other(format!("it becomes more than {INFLATED_BYTES_MAX} bytes"));
    let is_within = bytes.len() as u64 <= INFLATED_BYTES_MAX;
    (bytes, read.and_then(|_| if is_within { Ok(()) } else { Err(too_long()) }))
}
