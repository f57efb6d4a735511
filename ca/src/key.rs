//! A workload's key: made where it is used, and never leaving that process but sealed.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    pkcs8,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// The cryptographic library refused or failed: no memory or no entropy. Never a peer's doing.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// No random bytes.
    #[error("the system's random source failed")]
    Random,
    /// No key.
    #[error("making a key failed")]
    Key,
    /// No certificate or request.
    #[error("signing a certificate or a request for one failed")]
    Sign(#[source] rcgen::Error),
}

/// An ECDSA P-256 key. Its memory is erased when it is dropped.
pub struct KeyPair(EcdsaKeyPair);

impl KeyPair {
    /// A new one.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, CryptoError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self).map_err(|_| CryptoError::Key)
    }

    /// A certificate signing request (PKCS#10, RFC 2986) in DER, proving that we hold this key.
    ///
    /// It asks for nothing: what the certificate says is the issuer's decision alone.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn csr(&self) -> Result<Vec<u8>, CryptoError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(self).map(|csr| csr.der().to_vec()).map_err(CryptoError::Sign)
    }

    /// The private key in clear, for sealing it at once.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.pkcs8().map(|document| Zeroizing::new(document.as_ref().to_vec()))
    }

    /// From what [`KeyPair::to_pkcs8`] gave.
    ///
    /// # Errors
    /// When it is no such key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, CryptoError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map(Self).map_err(|_| CryptoError::Key)
    }

    /// From the older form of the same (RFC 5915).
    pub(crate) fn from_sec1(sec1: &[u8]) -> Result<Self, CryptoError> {
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, sec1)
            .map(Self)
            .map_err(|_| CryptoError::Key)
    }

    /// The private key in clear; the document erases itself when dropped.
    pub(crate) fn pkcs8(&self) -> Result<pkcs8::Document, CryptoError> {
        self.0.to_pkcs8v1().map_err(|_| CryptoError::Key)
    }

    /// The key as rustls signs handshakes with it.
    pub(crate) fn tls_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, CryptoError> {
        let pkcs8 = self.pkcs8()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.as_ref()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|_| CryptoError::Key)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Uses the cryptographic library once.
///
/// Its first use in a process costs tens of milliseconds (the random source collects entropy, tables are built). Call
/// it before announcing readiness, so that no connection pays.
///
/// # Errors
/// When the cryptographic library fails; nothing will work then.
pub fn warm() -> Result<(), CryptoError> {
    aws_lc_rs::rand::fill(&mut [0; 1]).map_err(|_| CryptoError::Random)?;
    KeyPair::generate()?.sign(b"warm").map_err(CryptoError::Sign).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_new_each_time_and_print_nothing() {
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        assert_ne!(one.der_bytes(), two.der_bytes());
        assert_eq!(format!("{one:?}"), "KeyPair(..)");
        warm().unwrap();
    }
}
