//! The replicated state in a file, for the day when every disk is gone. Pure.
//!
//! ```text
//!   "CONDUIT" | version, 1 byte | SHA-256 of what follows, 32 bytes | state, MessagePack
//! ```
//!
//! The trust root's key is in it as it is in the log: sealed, so that only the seed opens it.

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    state::{LAYOUT, MeshState},
    store::{decode as parse, encode as write},
};

const MAGIC: &[u8; 7] = b"CONDUIT";
const DIGEST_BYTES: usize = 32;
/// The largest one that is taken: a hundred thousand endpoints are a tenth of it.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a file is not taken for a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It begins with something else.
    #[error("this is not a snapshot of a Conduit control plane")]
    Foreign,
    /// It was written by a later release.
    #[error("this snapshot has version {0}, and this release understands {LAYOUT}: upgrade it first")]
    Version(u8),
    /// Some of it is missing, or is not what was written.
    #[error("this snapshot is damaged: its checksum is wrong; use another one")]
    Damaged,
    /// Its checksum is right, and its content is not.
    #[error("this snapshot cannot be read: {0}")]
    Content(#[source] std::io::Error),
    /// It cannot be written.
    #[error("the state cannot be written: {0}")]
    Write(#[source] std::io::Error),
}

/// `state` as a file.
///
/// # Errors
/// Never for a state that was applied.
pub fn encode(state: &MeshState) -> Result<Vec<u8>, BackupError> {
    let content = write(state).map_err(BackupError::Write)?;
    let digest = digest(&SHA256, &content);
    Ok([MAGIC.as_slice(), &[state.layout()], digest.as_ref(), &content].concat())
}

/// The state in `file`.
///
/// # Errors
/// When there is none.
pub fn decode(file: &[u8]) -> Result<MeshState, BackupError> {
    let rest = file.strip_prefix(MAGIC).ok_or(BackupError::Foreign)?;
    let (version, rest) = rest.split_first().ok_or(BackupError::Damaged)?;
    if !(1..=LAYOUT).contains(version) {
        return Err(BackupError::Version(*version));
    }
    let (expected, content) = rest.split_at_checked(DIGEST_BYTES).ok_or(BackupError::Damaged)?;
    if digest(&SHA256, content).as_ref() != expected {
        return Err(BackupError::Damaged);
    }
    parse(content).map_err(BackupError::Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_whole_or_refused() {
        let state = MeshState::default();
        let file = encode(&state).unwrap();
        assert_eq!(decode(&file).unwrap(), state);
        for length in 0..file.len() {
            assert!(decode(&file[..length]).is_err(), "{length} of {} bytes", file.len());
        }
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(decode(&changed).is_err(), "byte {at}");
        }
        assert!(matches!(decode(b"PK\x03\x04"), Err(BackupError::Foreign)));
        assert!(matches!(decode(b"CONDUIT\x04"), Err(BackupError::Version(4))));
    }
}
