//! A message without a schema: its fields by number. Pure.
//!
//! <https://protobuf.dev/programming-guides/encoding/>

use serde_json::{Map, Value};

/// Messages within messages.
const DEPTH_MAX: usize = 16;

/// The fields of `bytes`; of those that are `cut` off the ones that are whole. None if they are no message.
pub(super) fn fields(bytes: &[u8], cut: bool) -> Option<Value> {
    read(bytes, cut, DEPTH_MAX)
}

fn read(mut bytes: &[u8], cut: bool, depth: usize) -> Option<Value> {
    let mut fields = Map::new();
    while !bytes.is_empty() {
        match field(&mut bytes, depth) {
            Some((number, value)) => add(&mut fields, number, value),
            None if cut => break,
            None => return None,
        }
    }
    Some(Value::Object(fields))
}

/// One that comes again is a list.
fn add(fields: &mut Map<String, Value>, number: u64, value: Value) {
    match fields.entry(number.to_string()) {
        serde_json::map::Entry::Vacant(entry) => drop(entry.insert(value)),
        serde_json::map::Entry::Occupied(mut entry) => match entry.get_mut() {
            Value::Array(values) => values.push(value),
            first => *first = Value::Array(vec![first.take(), value]),
        },
    }
}

fn field(bytes: &mut &[u8], depth: usize) -> Option<(u64, Value)> {
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => varint(bytes)?.into(),
        1 => u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?).into(),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            delimited(take(bytes, length)?, depth)
        }
        5 => u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?).into(),
        _ => return None,
    };
    (tag >> 3 > 0).then_some((tag >> 3, value))
}

/// Text, a message, or something else: it could be any of them.
fn delimited(bytes: &[u8], depth: usize) -> Value {
    let is_text = |text: &&str| !text.contains(|c: char| c.is_control() && !c.is_whitespace());
    if let Some(text) = std::str::from_utf8(bytes).ok().filter(is_text) {
        return text.into();
    }
    let message = depth.checked_sub(1).and_then(|depth| read(bytes, false, depth));
    message.unwrap_or_else(|| format!("<{} bytes>", bytes.len()).into())
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_by_number() {
        for (bytes, expected) in [
            (&b""[..], Some(json!({}))),
            (b"\x08\x96\x01", Some(json!({"1": 150}))),
            (b"\x12\x07testing", Some(json!({"2": "testing"}))),
            (b"\x08\x01\x08\x02\x08\x03", Some(json!({"1": [1, 2, 3]}))),
            (b"\x1a\x03\x08\x96\x01", Some(json!({"3": {"1": 150}}))),
            (b"\x0a\x02\xff\xff", Some(json!({"1": "<2 bytes>"}))),
            (b"\x0d\x01\x00\x00\x00", Some(json!({"1": 1}))),
            (b"\x09\x01\x00\x00\x00\x00\x00\x00\x00", Some(json!({"1": 1}))),
            (b"\x12\x07test", None),
            (b"\x00\x00", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(fields(bytes, false), expected, "{bytes:?}");
        }
        assert_eq!(fields(b"\x08\x01\x12\x07test", true), Some(json!({"1": 1})));
    }

    #[test]
    fn nesting_ends() {
        let mut bytes = vec![0x08, 0x01, 0xff, 0xff, 0xff];
        for _ in 0..40 {
            let length = u8::try_from(bytes.len()).unwrap();
            bytes = [&[0x0a, length][..], &bytes].concat();
        }
        assert!(fields(&bytes, false).is_some());
    }
}
