//! Reading blocks of fields.

use super::{
    CompressionError, TABLE_BYTES, huffman,
    table::{Dynamic, ENTRY_OVERHEAD, STATIC},
};
use crate::http::h2::fields::{Fields, Indexing};

/// A number has no more bytes behind its prefix: that is more than any has use for.
const NUMBER_BYTES_MAX: u32 = 4;

/// A list that is so many times as long as it may be is nobody's mistake: it was made of very little (an HPACK bomb).
const BOMB_FACTOR: usize = 4;

/// What a peer has told of its fields.
#[derive(Debug)]
pub struct Decoder {
    table: Dynamic,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Dynamic::new(TABLE_BYTES) }
    }
}

impl Decoder {
    /// Appends the fields of `block` to `fields`, as long as they are no more than `size_max` bytes, counted as RFC 9113 section
    /// 10.5.1 does; how many they are in all.
    ///
    /// # Errors
    /// When the block is malformed, or is so many times too long that reading on would be work for nothing. A list that is only too long
    /// is none: the table is to know of what came.
    pub fn decode(&mut self, block: &[u8], fields: &mut Fields, size_max: usize) -> Result<usize, CompressionError> {
        let mut input = block;
        let (mut size, mut is_first) = (0, true);
        while let Some(first) = input.first().copied() {
            let before = fields.bytes.len();
            let (name, indexing) = match first {
                0x80.. => (self.indexed(number(&mut input, 7)?, fields)?, Indexing::Incremental),
                0x40.. => (self.literal(6, &mut input, fields)?, Indexing::Incremental),
                0x20.. if is_first => {
                    let size_max = number(&mut input, 5)?;
                    if size_max > TABLE_BYTES {
                        return Err(CompressionError);
                    }
                    self.table.resize(size_max);
                    continue;
                }
                0x20.. => return Err(CompressionError),
                0x10.. => (self.literal(4, &mut input, fields)?, Indexing::Never),
                _ => (self.literal(4, &mut input, fields)?, Indexing::Without),
            };
            is_first = false;
            let (name_and_value, name_end) = (fields.bytes.len() - before, before + name);
            if first & 0xc0 == 0x40 {
                self.table.add(&fields.bytes[before..name_end], &fields.bytes[name_end..]);
            }
            size += name_and_value + ENTRY_OVERHEAD;
            if size <= size_max {
                fields.added(name, indexing);
            } else {
                fields.bytes.truncate(before);
            }
            if size > size_max.saturating_mul(BOMB_FACTOR) {
                return Err(CompressionError);
            }
        }
        Ok(size)
    }

    /// Appends the name and the value of an entry; the length of the name.
    fn indexed(&self, index: usize, fields: &mut Fields) -> Result<usize, CompressionError> {
        let (name, value) = self.entry(index)?;
        fields.bytes.extend_from_slice(name);
        fields.bytes.extend_from_slice(value);
        Ok(name.len())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), CompressionError> {
        match index.checked_sub(1).ok_or(CompressionError)? {
            at if at < STATIC.len() => Ok((STATIC[at].0.as_bytes(), STATIC[at].1.as_bytes())),
            at => {
                let entry = self.table.get(at - STATIC.len()).ok_or(CompressionError)?;
                Ok((entry.name(), entry.value()))
            }
        }
    }

    fn literal(&self, prefix: u32, input: &mut &[u8], fields: &mut Fields) -> Result<usize, CompressionError> {
        let before = fields.bytes.len();
        match number(input, prefix)? {
            0 => string(input, &mut fields.bytes)?,
            index => fields.bytes.extend_from_slice(self.entry(index)?.0),
        }
        let name = fields.bytes.len() - before;
        string(input, &mut fields.bytes)?;
        Ok(name)
    }
}

/// A number, of which the first byte has the lowest `prefix` bits (RFC 7541 section 5.1).
fn number(input: &mut &[u8], prefix: u32) -> Result<usize, CompressionError> {
    let (first, rest) = input.split_first().ok_or(CompressionError)?;
    *input = rest;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Ok(value);
    }
    for nth in 0..NUMBER_BYTES_MAX {
        let (byte, rest) = input.split_first().ok_or(CompressionError)?;
        *input = rest;
        value += usize::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CompressionError)
}

fn string(input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let is_coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(input, 7)?;
    let (string, rest) = input.split_at_checked(length).ok_or(CompressionError)?;
    *input = rest;
    if is_coded {
        return huffman::decode(string, out);
    }
    out.extend_from_slice(string);
    Ok(())
}
