//! JSON of what strangers have sent, with a bound. Pure.
//!
//! Who describes a message may be who sent it: names may be longer than values, and what is packed in `google.protobuf.Any` may be packed again.

use std::io::{self, Write};

use prost_reflect::DynamicMessage;
use serde_json::Value;

/// Of one message.
const JSON_BYTES_MAX: usize = 1024 * 1024;
/// Objects and lists in each other: as deep as protobuf's own implementations read messages.
const DEPTH_MAX: usize = 100;

/// A message as JSON.
///
/// # Errors
/// When it cannot be written as JSON, or is too much.
pub(super) fn json(message: &DynamicMessage) -> serde_json::Result<Value> {
    let mut text = Bounded::default();
    serde_json::to_writer(&mut text, message)?;
    serde_json::from_slice(&text.bytes)
}

/// Refuses more than that. What is nested is refused where it begins, before anybody has gone down into it.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    depth: usize,
    is_string: bool,
    is_escaped: bool,
}

impl Bounded {
    fn follow(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = self.is_string,
            b'"' => self.is_string = !self.is_string,
            b'{' | b'[' if !self.is_string => self.depth += 1,
            b'}' | b']' if !self.is_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, written: &[u8]) -> io::Result<usize> {
        written.iter().for_each(|byte| self.follow(*byte));
        if self.bytes.len() + written.len() > JSON_BYTES_MAX {
            return Err(io::Error::other(format!("it is more than {JSON_BYTES_MAX} bytes")));
        }
        if self.depth > DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} messages are in each other")));
        }
        self.bytes.extend_from_slice(written);
        Ok(written.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
