//! What a workload keeps on a disk for the day when there is nobody to ask: sealed under the token that proves who it is.
//!
//! Whoever can open or forge it holds the token, and could have got that identity anyway: it gives nothing away, and needs no other
//! secret. A token that is renewed seals it anew.

use zeroize::Zeroizing;

use crate::{key::CryptoError, seal, seed::derive};

/// HKDF's `info`, and bound to every ciphertext.
const PURPOSE: &[u8] = b"conduit workload cache v1";

/// Seals `content`. Every few seconds at most, under a token of some hours.
///
/// # Errors
/// When the cryptographic library fails.
pub fn seal(token: &str, content: &[u8]) -> Result<Vec<u8>, CryptoError> {
    seal::seal(&derive(token.trim().as_bytes(), PURPOSE), PURPOSE, content)
}

/// The reverse of [`seal`]; `None` when it was sealed under another token, or is not what was sealed.
pub fn open(token: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    seal::open(&derive(token.trim().as_bytes(), PURPOSE), PURPOSE, sealed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_it_and_only_as_it_was() {
        let sealed = seal("token", b"content").unwrap();
        assert_eq!(open("token\n", &sealed).unwrap().as_slice(), b"content");
        assert!(open("another", &sealed).is_none());
    }
}
