//! HPACK (RFC 7541): fields as they are sent. Pure.

mod decode;
mod encode;
mod huffman;
mod table;

#[cfg(test)]
mod tests;

pub use self::{decode::Decoder, encode::Encoder, table::ENTRY_OVERHEAD};

/// RFC 7541's default for a table: what this side takes, and the most that it uses of what a peer takes.
pub const TABLE_BYTES: usize = 4096;

/// A block that is none: the tables of both sides are not the same any more, and the connection is over (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("a field block is malformed")]
pub struct CompressionError;
