//! Encryption of what is kept: one format for everything that is sealed.
//!
//! A version byte, a nonce, then AES-256-GCM's ciphertext with its tag.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::key::CryptoError;

/// The first byte.
const FORMAT: u8 = 1;

/// Why nothing was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// Not what [`seal`] of this release makes.
    Format,
    /// Another key, another context, or damage.
    Key,
}

/// Seals `content`, and binds it to `context`. Each call gives different bytes.
///
/// Nonces are random: safe as long as a key seals far less than 2^32 times (NIST SP 800-38D section 8.3).
pub(crate) fn seal(key: &[u8; 32], context: &[u8], content: &[u8]) -> Result<Vec<u8>, CryptoError> {
    // Room for the tag at once: growing would leave the content in clear in the memory given back.
    let mut body = Zeroizing::new(Vec::with_capacity(content.len() + AES_256_GCM.tag_len()));
    body.extend_from_slice(content);
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| CryptoError::Key)?;
    let nonce = key.seal_in_place_append_tag(Aad::from(context), &mut *body).map_err(|_| CryptoError::Random)?;
    Ok([&[FORMAT], nonce.as_ref().as_slice(), &body].concat())
}

/// The reverse of [`seal`].
pub(crate) fn open(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
    let rest = sealed.strip_prefix(&[FORMAT]).ok_or(Unopened::Format)?;
    let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or(Unopened::Format)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened::Format)?;
    let mut body = Zeroizing::new(body.to_vec());
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Unopened::Key)?;
    let opened = key.open_in_place(nonce, Aad::from(context), &mut body).map_err(|_| Unopened::Key)?.len();
    body.truncate(opened);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_with_its_key_and_context_only_and_only_as_it_was() {
        let (key, context) = ([7; 32], b"context");
        let sealed = seal(&key, context, b"content").unwrap();
        assert_eq!(open(&key, context, &sealed).unwrap().as_slice(), b"content");
        assert_ne!(seal(&key, context, b"content").unwrap(), sealed, "a nonce was used twice");
        assert!(!sealed.windows(7).any(|window| window == b"content"));
        assert_eq!(open(&[8; 32], context, &sealed), Err(Unopened::Key));
        assert_eq!(open(&key, b"another", &sealed), Err(Unopened::Key));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, context, &changed).is_err(), "byte {at} was changed");
            assert!(open(&key, context, &sealed[..at]).is_err(), "cut to {at} bytes");
        }
    }
}
