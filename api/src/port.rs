//! What is said of ports: which ones, and what to expect of their connections.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::proto::discovery;

/// One port, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Neither a port nor a range of ports.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ParsePortsError {
    /// Not a number from 1 to 65535.
    #[error("`{0}` is not a port; ports are 1 to 65535, a range is two of them: 7000-7100")]
    NotAPort(String),
    /// The first is above the last.
    #[error("the range `{0}` ends before it begins")]
    Backwards(String),
}

impl PortRange {
    /// The lowest.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether `port` is one of those in `ranges`.
    pub fn any_contains(ranges: &[Self], port: u16) -> bool {
        ranges.iter().any(|range| range.contains(port))
    }

    /// Reads a list, as annotations have them: `25,3306,7000-7100`.
    ///
    /// # Errors
    /// For the first part that is neither a port nor a range.
    pub fn list(text: &str) -> Result<Vec<Self>, ParsePortsError> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for PortRange {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| match text.trim().parse() {
            Ok(0) | Err(_) => Err(ParsePortsError::NotAPort(text.to_owned())),
            Ok(port) => Ok(port),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(ParsePortsError::Backwards(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = ParsePortsError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// What a proxy is to expect of connections to a port, before anybody has said anything on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtocolHint {
    /// Nothing: the first bytes tell.
    #[default]
    None,
    /// Its servers have been seen to speak first. They are connected to at once, so that nobody waits for a greeting; whoever
    /// speaks first still tells what it is, so that a wrong hint costs a connection and no more.
    ServerFirst,
    /// Bytes, whatever they look like, because somebody has said so.
    Opaque,
}

impl From<ProtocolHint> for discovery::ProtocolHint {
    fn from(hint: ProtocolHint) -> Self {
        match hint {
            ProtocolHint::None => Self::None,
            ProtocolHint::ServerFirst => Self::ServerFirst,
            ProtocolHint::Opaque => Self::Opaque,
        }
    }
}

/// A hint that a later release has thought of is none to this one.
impl From<i32> for ProtocolHint {
    fn from(wire: i32) -> Self {
        match discovery::ProtocolHint::try_from(wire) {
            Ok(discovery::ProtocolHint::ServerFirst) => Self::ServerFirst,
            Ok(discovery::ProtocolHint::Opaque) => Self::Opaque,
            Ok(discovery::ProtocolHint::None) | Err(_) => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_single_or_ranges() {
        assert_eq!("80".parse(), Ok(PortRange { first: 80, last: 80 }));
        assert_eq!("7000-7100".parse(), Ok(PortRange { first: 7000, last: 7100 }));
        for wrong in ["", "0", "65536", "http", "1-", "-1", "20-10", "1-2-3"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
        let list = PortRange::list("25, 7000-7100,").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["25", "7000-7100"]);
        assert!(list[1].contains(7100) && !list[1].contains(7101));
        assert!(PortRange::list("25;26").is_err());
    }
}
