//! What a workload keeps on a disk for the day when there is nobody to ask: sealed under the token that proves who it is.
//!
//! Whoever can open or forge it holds the token, and could have got that identity anyway: it gives nothing away, and needs no other
//! secret. A token that is renewed seals it anew.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf,
};
use zeroize::Zeroizing;

use crate::key::CryptoError;

/// The first byte: AES-256-GCM under HKDF-SHA256 of the token, then nonce, then ciphertext with its tag.
const FORMAT: u8 = 1;
/// HKDF's `info`, and bound to every ciphertext.
const PURPOSE: &[u8] = b"conduit workload cache v1";

/// Seals `content`.
///
/// # Errors
/// When the cryptographic library fails.
pub fn seal(token: &str, content: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut body = Zeroizing::new(content.to_vec());
    let nonce =
        key(token)?.seal_in_place_append_tag(Aad::from(PURPOSE), &mut *body).map_err(|_| CryptoError::Random)?;
    Ok([&[FORMAT], nonce.as_ref().as_slice(), &body].concat())
}

/// The reverse of [`seal`]; `None` when it was sealed under another token, or is not what was sealed.
pub fn open(token: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, body) = sealed.strip_prefix(&[FORMAT])?.split_at_checked(NONCE_LEN)?;
    let mut body = Zeroizing::new(body.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let opened = key(token).ok()?.open_in_place(nonce, Aad::from(PURPOSE), &mut body).ok()?.len();
    body.truncate(opened);
    Some(body)
}

/// A random nonce is safe here: a proxy seals its cache every few seconds at most under a token of some hours, far from the 2^32 of
/// NIST SP 800-38D section 8.3.
fn key(token: &str) -> Result<RandomizedNonceKey, CryptoError> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(token.trim().as_bytes())
        .expand(&[PURPOSE], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .map_err(|_| CryptoError::Key)?;
    RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| CryptoError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_it_and_only_as_it_was() {
        let sealed = seal("token", b"content").unwrap();
        assert_eq!(open("token\n", &sealed).unwrap().as_slice(), b"content");
        assert!(open("another", &sealed).is_none());
        assert!(!sealed.windows(7).any(|window| window == b"content"));
        for i in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[i] ^= 1;
            assert!(open("token", &damaged).is_none(), "byte {i}");
            assert!(open("token", &sealed[..i]).is_none(), "cut at {i}");
        }
    }
}
