//! Which replica of the controller.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Identifies a replica's data directory: random, made with the directory, and never used again.
///
/// It is never derived from a replica's name: a replica that comes back under an old id with an empty disk has
/// forgotten its votes, and may split the cluster in two quorums (openraft FAQ, "What happens if a node's data is lost").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u64);

impl NodeId {
    /// From its number; a caller that makes a new one takes it from a random source.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// As it goes over the wire.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for NodeId {
    fn from(wire: u64) -> Self {
        Self(wire)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Not 16 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a node id: 16 hexadecimal digits are expected")]
pub struct ParseNodeIdError(String);

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ParseNodeIdError(s.to_owned()));
        }
        u64::from_str_radix(s, 16).map(Self).map_err(|_| ParseNodeIdError(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let id = NodeId::new(0x00ab_cdef);
        assert_eq!(id.to_string(), "0000000000abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "abc", "+000000000abcdef", "0000000000abcdeg", "00000000000abcdef"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
