//! When the mesh's state changed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The index of the log entry that last changed the discovery state. Only ever grows; 0 is "nothing yet".
///
/// Every update to a proxy carries it and every proxy acknowledges it, so that "applied" can be asked and waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(u64);

impl Revision {
    /// As it goes over the wire.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for Revision {
    fn from(wire: u64) -> Self {
        Self(wire)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
