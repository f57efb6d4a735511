//! Messages of gRPC, copied as they pass. Pure.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::str::FromStr;

use conduit_api::{proto::tap::tap_event::Message, redaction::Redacted};

/// Of each message: more than a person reads.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Of each request, each way: of a stream that goes on for hours its beginning is seen.
pub const MESSAGES_MAX: u32 = 32;
/// What a name of a compression is cut to.
const ENCODING_BYTES_MAX: usize = 16;
/// Of a message that says that it is compressed, while nobody has said how.
const UNKNOWN_ENCODING: &str = "unknown";
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// What a workload allows to be seen of its messages. Nothing, if it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payloads {
    is_enabled: bool,
    redact: Redacted,
}

impl Payloads {
    /// Whether anything.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// These, without the values of the fields that `redact` names: whoever shows messages leaves them out.
    pub fn redacting(self, redact: Redacted) -> Self {
        Self { redact, ..self }
    }

    /// Which these are.
    pub fn redact(&self) -> &[String] {
        self.redact.names()
    }
}

impl FromStr for Payloads {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        match s {
            "enabled" => Ok(Self { is_enabled: true, redact: Redacted::default() }),
            "disabled" => Ok(Self::default()),
            _ => Err(()),
        }
    }
}

/// Whether what a request carries is messages of protobuf, by its `content-type`.
pub fn is_protobuf(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    matches!(media_type.trim_ascii(), b"application/grpc" | b"application/grpc+proto")
}

/// The messages that go one way.
#[derive(Debug, Default)]
pub struct Frames {
    is_response: bool,
    /// What compressed ones are compressed with.
    encoding: String,
    prefix: [u8; PREFIX_BYTES],
    /// Of the prefix.
    filled: usize,
    /// Of the message, still to come.
    left: usize,
    copied: Vec<u8>,
    number: u32,
}

impl Frames {
    /// None yet.
    pub fn new(is_response: bool) -> Self {
        Self { is_response, ..Self::default() }
    }

    /// Their head says `grpc-encoding`.
    pub fn compressed_with(&mut self, encoding: &[u8]) {
        let encoding = &encoding[..encoding.len().min(ENCODING_BYTES_MAX)];
        self.encoding = String::from_utf8_lossy(encoding).into_owned();
    }

    /// What passes next, split anywhere; `each` gets the messages that are whole with it.
    pub fn push(&mut self, mut data: &[u8], mut each: impl FnMut(Message)) {
        while !data.is_empty() && self.number <= MESSAGES_MAX {
            if self.filled < PREFIX_BYTES {
                let count = data.len().min(PREFIX_BYTES - self.filled);
                self.prefix[self.filled..self.filled + count].copy_from_slice(&data[..count]);
                self.filled += count;
                data = &data[count..];
                if self.filled < PREFIX_BYTES {
                    return;
                }
                self.left = self.length() as usize;
                self.number += 1;
            }
            let count = data.len().min(self.left);
            let copied = count.min(self.room());
            self.copied.extend_from_slice(&data[..copied]);
            self.left -= count;
            data = &data[count..];
            if self.left == 0 || self.number > MESSAGES_MAX {
                each(self.message());
                self.filled = 0;
            }
        }
    }

    /// Bytes of a message that is not whole yet.
    pub fn held(&self) -> usize {
        self.copied.len()
    }

    fn length(&self) -> u32 {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length)
    }

    fn room(&self) -> usize {
        if self.number > MESSAGES_MAX { 0 } else { MESSAGE_BYTES_MAX - self.copied.len() }
    }

    fn message(&mut self) -> Message {
        let is_compressed = self.prefix[0] & 1 != 0;
        Message {
            is_response: self.is_response,
            number: self.number,
            length: self.length(),
            bytes: std::mem::take(&mut self.copied),
            encoding: match (is_compressed, self.encoding.as_str()) {
                (false, _) => String::new(),
                (true, "" | "identity") => UNKNOWN_ENCODING.to_owned(),
                (true, encoding) => encoding.to_owned(),
            },
            is_last: self.number > MESSAGES_MAX,
            ..Message::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut framed = vec![flag];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        framed
    }

    fn collect(frames: &mut Frames, parts: &[&[u8]]) -> Vec<Message> {
        let mut messages = Vec::new();
        for part in parts {
            frames.push(part, |message| messages.push(message));
        }
        messages
    }

    #[test]
    fn messages_are_whole_wherever_they_are_split() {
        let stream = [framed(0, b"first"), framed(1, b""), framed(1, b"third")].concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut frames = Frames::new(true);
                frames.compressed_with(b"gzip");
                let parts = [&stream[..first], &stream[first..second], &stream[second..]];
                let messages = collect(&mut frames, &parts);
                let seen: Vec<_> =
                    messages.iter().map(|m| (m.number, m.length, m.bytes.as_slice(), m.encoding.as_str())).collect();
                assert_eq!(seen, [(1, 5, &b"first"[..], ""), (2, 0, b"", "gzip"), (3, 5, b"third", "gzip")]);
                assert!(messages.iter().all(|message| message.is_response && !message.is_last));
                assert_eq!(frames.held(), 0);
            }
        }
    }

    #[test]
    fn what_is_compressed_somehow_is_not_taken_for_what_it_is_not() {
        for (said, encoding) in [(None, "unknown"), (Some("identity"), "unknown"), (Some("gzip"), "gzip")] {
            let mut frames = Frames::new(false);
            said.iter().for_each(|said| frames.compressed_with(said.as_bytes()));
            assert_eq!(collect(&mut frames, &[&framed(1, b"x")])[0].encoding, encoding);
        }
    }

    #[test]
    fn what_is_long_is_cut_off_and_what_follows_is_found() {
        let long = vec![7; MESSAGE_BYTES_MAX + 100];
        let stream = [framed(0, &long), framed(0, b"next")].concat();
        let parts: Vec<_> = stream.chunks(1000).collect();
        let messages = collect(&mut Frames::new(false), &parts);
        assert_eq!((messages[0].bytes.len(), messages[0].length as usize), (MESSAGE_BYTES_MAX, long.len()));
        assert_eq!(messages[1].bytes, b"next");
    }

    #[test]
    fn of_many_the_first_are_copied() {
        let stream = framed(0, b"x").repeat(100);
        let messages = collect(&mut Frames::new(false), &[&stream]);
        assert_eq!(messages.len(), MESSAGES_MAX as usize + 1);
        let [.., before, last] = messages.as_slice() else { panic!("there are more") };
        assert!(!before.is_last && before.bytes == b"x");
        assert!(last.is_last && last.bytes.is_empty());
    }

    #[test]
    fn what_is_not_whole_is_not_told() {
        let mut stream = framed(0, b"cut");
        stream.truncate(7);
        assert_eq!(collect(&mut Frames::new(false), &[&stream]), []);
    }

    #[test]
    fn only_protobuf_is_copied() {
        for (content_type, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc+json", false),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_protobuf(content_type.as_bytes()), is, "{content_type}");
        }
    }
}
