//! The mesh's one secret. Who holds it is a control-plane replica.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

/// Bytes of a seed, and of every key derived from it.
pub(crate) const KEY_BYTES: usize = 32;

/// Hexadecimal digits of a seed in its file.
const HEX_DIGITS: usize = 2 * KEY_BYTES;

/// More than this is not read from a seed's file: the digits and some white space around them.
const FILE_BYTES_MAX: u64 = 256;

/// 32 random bytes, erased when dropped; and, while they are being replaced, those that follow or were before them.
///
/// It encrypts and authenticates nothing itself: keys derived from it do, one for each purpose. What is made is made under the current
/// one; what was made under the other one is accepted.
///
/// ```text
///   old ──► old, next new ──► new, previous old ──► new         each step when everybody has taken the one before
/// ```
pub struct Seed {
    current: Secret,
    other: Option<(Turn, Secret)>,
}

type Secret = Zeroizing<[u8; KEY_BYTES]>;

/// When the other one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It follows the current one.
    Next,
    /// It was before the current one.
    Previous,
}

impl Turn {
    /// The word before it in the file.
    fn word(self) -> &'static str {
        match self {
            Self::Next => "next ",
            Self::Previous => "previous ",
        }
    }
}

/// What a derived key is for. Keys of different purposes say nothing about each other (RFC 5869 section 3.2).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The Ed25519 authority that signs replicas' certificates.
    Membership,
    /// AES-256-GCM over the root's private key.
    RootSealing,
    /// HMAC-SHA256 over launch tokens.
    LaunchTokens,
    /// Tells it from others, in the open.
    Id,
}

impl Purpose {
    /// HKDF's `info`. Changing one makes every replica with the old one a stranger.
    fn info(self) -> &'static [u8] {
        match self {
            Self::Membership => b"conduit control-plane membership v1",
            Self::RootSealing => b"conduit root key sealing v1",
            Self::LaunchTokens => b"conduit launch tokens v1",
            Self::Id => b"conduit seed id v1",
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
    #[error(
        "the seed file {0} does not hold a seed: 64 hexadecimal digits are expected, and, while it is being replaced, a line of `next` \
         or `previous` with 64 others"
    )]
    Malformed(PathBuf),
}

impl Seed {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no randomness to give, which it only lacks when it is broken.
    pub fn generate() -> Self {
        Self { current: random(), other: None }
    }

    /// Tells it from others, in the open: 16 hexadecimal digits.
    pub fn id(&self) -> String {
        id(&self.current)
    }

    /// The other one that is accepted.
    pub fn other(&self) -> Option<(Turn, String)> {
        self.other.as_ref().map(|(turn, secret)| (*turn, id(secret)))
    }

    /// The current one, and no other.
    pub fn alone(&self) -> Self {
        Self { current: self.current.clone(), other: None }
    }

    /// The next step of its replacement: another one is accepted; is the current one; is the only one.
    ///
    /// # Panics
    /// As [`Seed::generate`].
    pub fn advance(&self) -> Self {
        let current = self.current.clone();
        match &self.other {
            None => Self { current, other: Some((Turn::Next, random())) },
            Some((Turn::Next, next)) => Self { current: next.clone(), other: Some((Turn::Previous, current)) },
            Some((Turn::Previous, _)) => Self { current, other: None },
        }
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
        parse(&text).ok_or_else(|| SeedError::Malformed(path.to_owned()))
    }

    /// From what [`Seed::to_text`] has written, wherever that was kept.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        parse(text)
    }

    /// As a file has it, for those who keep it elsewhere.
    pub fn to_text(&self) -> Zeroizing<Vec<u8>> {
        let mut lines = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
        write_hex(&mut lines, &self.current);
        if let Some((turn, secret)) = &self.other {
            lines.extend(turn.word().bytes());
            write_hex(&mut lines, secret);
        }
        lines
    }

    /// Writes the seed in place of the one that a file holds. Readers see the old one or the new one, whole.
    ///
    /// # Errors
    /// When it cannot be written; then the file is what it was.
    pub fn replace(&self, path: &Path) -> Result<(), SeedError> {
        let new = path.with_extension("new");
        // Left behind by one that was interrupted.
        let _ = fs::remove_file(&new);
        self.save_new(&new)?;
        let renamed = fs::rename(&new, path).and_then(|()| sync_parent(path));
        renamed.map_err(|source| SeedError::Write { path: path.to_owned(), source })
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
        let written = file.write_all(&self.to_text()).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
        written.map_err(|source| {
            // Half a seed would be refused as malformed for ever; the error at hand is the one to report.
            let _ = fs::remove_file(path);
            SeedError::Write { path: path.to_owned(), source }
        })
    }

    /// The key for one purpose (HKDF-SHA256, RFC 5869).
    pub(crate) fn derive(&self, purpose: Purpose) -> Secret {
        derive(self.current.as_ref(), purpose.info())
    }

    /// The same, and then that of the other one that is accepted.
    pub(crate) fn derive_all(&self, purpose: Purpose) -> impl Iterator<Item = Secret> {
        let other = self.other.as_ref().map(|(_, secret)| secret);
        [&self.current].into_iter().chain(other).map(move |secret| derive(secret.as_ref(), purpose.info()))
    }
}

/// A line of digits.
fn write_hex(lines: &mut Vec<u8>, secret: &Secret) {
    for byte in secret.iter() {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        lines.extend([digit(byte >> 4), digit(byte & 0xf)]);
    }
    lines.push(b'\n');
}

fn random() -> Secret {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(bytes.as_mut()).expect("the system's random source works");
    bytes
}

fn id(secret: &Secret) -> String {
    let derived = derive(secret.as_ref(), Purpose::Id.info());
    derived[..8].iter().map(|byte| format!("{byte:02x}")).collect()
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

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// A seed, and the other one if there is a second line.
fn parse(text: &[u8]) -> Option<Seed> {
    let text = text.trim_ascii();
    let (first, second) = match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], Some(text[end..].trim_ascii())),
        None => (text, None),
    };
    let other = match second {
        Some(line) => {
            let after = |turn: Turn| Some((turn, line.strip_prefix(turn.word().as_bytes())?));
            let (turn, digits) = after(Turn::Next).or_else(|| after(Turn::Previous))?;
            Some((turn, parse_hex(digits.trim_ascii())?))
        }
        None => None,
    };
    Some(Seed { current: parse_hex(first.trim_ascii())?, other })
}

fn parse_hex(text: &[u8]) -> Option<Secret> {
    if text.len() != HEX_DIGITS {
        return None;
    }
    let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
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

    fn seed(byte: u8) -> Seed {
        Seed { current: Zeroizing::new([byte; KEY_BYTES]), other: None }
    }

    #[test]
    fn is_replaced_in_three_steps_which_a_file_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let old = Seed::generate();
        old.save_new(&path).unwrap();
        let step = || {
            Seed::load(&path).unwrap().advance().replace(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            Seed::load(&path).unwrap()
        };
        let announced = step();
        let (turn, new) = announced.other().unwrap();
        assert_eq!((announced.id(), turn), (old.id(), Turn::Next));
        assert_ne!(new, old.id());
        let replaced = step();
        assert_eq!((replaced.id(), replaced.other()), (new.clone(), Some((Turn::Previous, old.id()))));
        assert_eq!(replaced.alone().other(), None);
        let settled = step();
        assert_eq!((settled.id(), settled.other()), (new, None));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
        let keys = |seed: &Seed| seed.derive_all(Purpose::Membership).collect::<Vec<_>>();
        assert_eq!(keys(&announced).len(), 2);
        assert_eq!(keys(&announced)[0], keys(&replaced)[1]);
    }

    #[test]
    fn loads_what_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let seed = Seed::generate();
        seed.save_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Seed::load(&path).unwrap().current, seed.current);
    }

    #[test]
    fn never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let first = Seed::generate();
        first.save_new(&path).unwrap();
        assert!(matches!(Seed::generate().save_new(&path), Err(SeedError::Exists(_))));
        assert_eq!(Seed::load(&path).unwrap().current, first.current);
        let nowhere = dir.path().join("no such directory/seed");
        assert!(matches!(first.save_new(&nowhere), Err(SeedError::Write { .. })));
    }

    #[test]
    fn refuses_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        assert!(matches!(Seed::load(&path), Err(SeedError::Read { .. })));
        let digits = "ab".repeat(KEY_BYTES);
        let without = |word: &str| format!("{digits}\n{word}{digits}\n");
        for bad in [&without(""), &without("after "), &format!("{digits}\nnext {digits}\nnext {digits}")] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(Seed::load(&path), Err(SeedError::Malformed(_))), "{bad}");
        }
        for bad in ["", "ab", &digits[1..], &format!("{digits}0"), &digits.replace('a', "g"), &digits.repeat(1000)] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(Seed::load(&path), Err(SeedError::Malformed(_))), "{bad}");
        }
        fs::write(&path, format!(" {}\r\n", digits.to_uppercase())).unwrap();
        assert_eq!(*Seed::load(&path).unwrap().current, [0xab; KEY_BYTES]);
    }

    #[test]
    fn derives_the_same_key_for_the_same_purpose_only() {
        let derived = |byte, purpose| seed(byte).derive(purpose);
        assert_eq!(derived(7, Purpose::Membership), derived(7, Purpose::Membership));
        assert_ne!(derived(7, Purpose::Membership), derived(7, Purpose::RootSealing));
        assert_ne!(derived(7, Purpose::Membership), derived(8, Purpose::Membership));
    }

    #[test]
    fn prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", seed(7)), "Seed(..)");
    }
}
