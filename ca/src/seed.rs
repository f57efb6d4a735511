//! The mesh's one secret. Who holds it is a control-plane replica.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{hkdf, rand};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a seed, and of every key derived from it.
pub(crate) const KEY_BYTES: usize = 32;

/// Hexadecimal digits in a seed's file.
const HEX_DIGITS: usize = 2 * KEY_BYTES;

/// More than this is not read from a seed's file: the digits and some white space around them.
const FILE_BYTES_MAX: u64 = 256;

/// 32 random bytes, erased when dropped.
///
/// It encrypts and authenticates nothing itself: keys derived from it do, one for each purpose.
pub struct Seed([u8; KEY_BYTES]);

/// What a derived key is for. Keys of different purposes say nothing about each other (RFC 5869 section 3.2).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The Ed25519 authority that signs replicas' certificates.
    Membership,
    /// AES-256-GCM over the root's private key.
    RootSealing,
    /// HMAC-SHA256 over launch tokens.
    LaunchTokens,
}

impl Purpose {
    /// HKDF's `info`. Changing one makes every replica with the old one a stranger.
    fn info(self) -> &'static [u8] {
        match self {
            Self::Membership => b"conduit control-plane membership v1",
            Self::RootSealing => b"conduit root key sealing v1",
            Self::LaunchTokens => b"conduit launch tokens v1",
        }
    }
}

/// Why a seed's file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It could not be read.
    #[error("cannot read the seed file {path}: {source}")]
    Read {
        /// The seed's file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It could not be written. Nothing is left behind.
    #[error("cannot write the seed file {path}: {source}")]
    Write {
        /// The seed's file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A mesh that lost its seed can never open its root key again, so nothing overwrites one.
    #[error("the seed file {0} exists already and is not overwritten; move it away if its mesh is gone for good")]
    Exists(PathBuf),
    /// It holds something else.
    #[error("the seed file {0} does not hold a seed: 64 hexadecimal digits are expected")]
    Malformed(PathBuf),
}

impl Seed {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no randomness to give, which it only lacks when it is broken.
    pub fn generate() -> Self {
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes).expect("the system's random source works");
        Self(bytes)
    }

    /// Reads the file that [`Seed::save_new`] wrote; white space around the digits is ignored.
    ///
    /// # Errors
    /// When the file cannot be read or does not hold exactly one seed.
    pub fn load(path: &Path) -> Result<Self, SeedError> {
        let read = || {
            // Allocated at full size at once: growing would leave copies of the secret behind.
            let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
            File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text).map(|_| text)
        };
        let text = read().map_err(|source| SeedError::Read { path: path.to_owned(), source })?;
        parse_hex(text.trim_ascii()).map(Self).ok_or_else(|| SeedError::Malformed(path.to_owned()))
    }

    /// Writes the seed to a new file that only its owner can read, and returns when it is on the disk.
    ///
    /// # Errors
    /// When the file exists, or cannot be written; then there is no file.
    pub fn save_new(&self, path: &Path) -> Result<(), SeedError> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
            match source.kind() {
                io::ErrorKind::AlreadyExists => SeedError::Exists(path.to_owned()),
                _ => SeedError::Write { path: path.to_owned(), source },
            }
        })?;
        let written =
            file.write_all(&self.to_hex_line()).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
        written.map_err(|source| {
            // Half a seed would be refused as malformed for ever; the error at hand is the one to report.
            let _ = fs::remove_file(path);
            SeedError::Write { path: path.to_owned(), source }
        })
    }

    /// The key for one purpose (HKDF-SHA256, RFC 5869).
    pub(crate) fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; KEY_BYTES]> {
        derive(&self.0, purpose.info())
    }

    fn to_hex_line(&self) -> Zeroizing<Vec<u8>> {
        let mut line = Zeroizing::new(Vec::with_capacity(HEX_DIGITS + 1));
        for byte in self.0 {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            line.extend([digit(byte >> 4), digit(byte & 0xf)]);
        }
        line.push(b'\n');
        line
    }
}

/// A key from a secret (HKDF-SHA256, RFC 5869). Keys of different `info` say nothing about each other.
pub(crate) fn derive(secret: &[u8], info: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .expect("one block is within the 255 that HKDF can make (RFC 5869 section 2.3)");
    key
}

impl Drop for Seed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

fn parse_hex(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    if text.len() != HEX_DIGITS {
        return None;
    }
    let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// A new file's name is safe on the disk only once its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn loads_what_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let seed = Seed::generate();
        seed.save_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Seed::load(&path).unwrap().0, seed.0);
    }

    #[test]
    fn never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let first = Seed::generate();
        first.save_new(&path).unwrap();
        assert!(matches!(Seed::generate().save_new(&path), Err(SeedError::Exists(_))));
        assert_eq!(Seed::load(&path).unwrap().0, first.0);
        let nowhere = dir.path().join("no such directory/seed");
        assert!(matches!(first.save_new(&nowhere), Err(SeedError::Write { .. })));
    }

    #[test]
    fn refuses_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        assert!(matches!(Seed::load(&path), Err(SeedError::Read { .. })));
        let digits = "ab".repeat(KEY_BYTES);
        for bad in ["", "ab", &digits[1..], &format!("{digits}0"), &digits.replace('a', "g"), &digits.repeat(1000)] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(Seed::load(&path), Err(SeedError::Malformed(_))), "{bad}");
        }
        fs::write(&path, format!(" {}\r\n", digits.to_uppercase())).unwrap();
        assert_eq!(Seed::load(&path).unwrap().0, [0xab; KEY_BYTES]);
    }

    #[test]
    fn derives_the_same_key_for_the_same_purpose_only() {
        let seed = Seed([7; KEY_BYTES]);
        assert_eq!(*seed.derive(Purpose::Membership), *Seed([7; KEY_BYTES]).derive(Purpose::Membership));
        assert_ne!(*seed.derive(Purpose::Membership), *seed.derive(Purpose::RootSealing));
        assert_ne!(*seed.derive(Purpose::Membership), *Seed([8; KEY_BYTES]).derive(Purpose::Membership));
    }

    #[test]
    fn prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", Seed([7; KEY_BYTES])), "Seed(..)");
    }
}
