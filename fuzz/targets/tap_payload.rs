//! Bodies of gRPC, as a proxy copies their messages: however they are split, the same messages, none longer and none more than is allowed.

#![no_main]

use conduit_api::proto::tap::tap_event::Message;
use conduit_proxy::tap::payload::{Frames, MESSAGE_BYTES_MAX, MESSAGES_MAX, is_protobuf};
use libfuzzer_sys::fuzz_target;

fn copied<'a>(pieces: impl Iterator<Item = &'a [u8]>, encoding: &[u8]) -> Vec<Message> {
    let mut frames = Frames::new(false);
    frames.compressed_with(encoding);
    let mut messages = Vec::new();
    for piece in pieces {
        frames.push(piece, |message| messages.push(message));
        assert!(frames.held() <= MESSAGE_BYTES_MAX);
    }
    messages
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let encoding = &body[..body.len().min(20)];
    let whole = copied(std::iter::once(body), encoding);
    assert_eq!(copied(body.chunks(usize::from(*first).max(1)), encoding), whole);
    assert!(whole.len() <= MESSAGES_MAX as usize + 1);
    for (index, message) in whole.iter().enumerate() {
        assert_eq!(message.number as usize, index + 1);
        assert!(message.bytes.len() <= MESSAGE_BYTES_MAX && message.bytes.len() <= message.length as usize);
        assert_eq!(message.is_last, message.number > MESSAGES_MAX);
    }
    is_protobuf(body);
});
