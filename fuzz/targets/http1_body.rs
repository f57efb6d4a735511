//! Bodies of HTTP/1: they end at the same place however they are split, and what goes on does so unchanged the next time.

#![no_main]

use conduit_proxy::{
    buffer::Buffer,
    http::{body::Body, head::Framing},
};
use libfuzzer_sys::fuzz_target;

/// What goes on of a body that comes in pieces of this size, and whether that has ended; `None` when it is refused.
fn passed(framing: Framing, bytes: &[u8], piece: usize) -> Option<(Vec<u8>, bool)> {
    let (mut body, mut buffer, mut out) = (Body::new(framing), Buffer::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.append_all(piece).ok()?;
        let passing = body.advance(&mut buffer).ok()?;
        assert!(passing.payload <= passing.bytes);
        out.extend_from_slice(&buffer.filled()[..passing.bytes]);
        buffer.consume(passing.bytes);
    }
    Some((out, body.is_end()))
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, bytes) = input;
    let whole = passed(Framing::Chunked, &bytes, bytes.len().max(1));
    let parts = passed(Framing::Chunked, &bytes, usize::from(piece).max(1));
    assert_eq!(whole.is_some(), parts.is_some());
    let (Some(whole), Some(parts)) = (whole, parts) else { return };
    assert_eq!(whole, parts);
    let again = passed(Framing::Chunked, &whole.0, usize::from(piece).max(1)).expect("what goes on is in order");
    assert_eq!(again, whole);
});
