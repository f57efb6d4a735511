//! Who speaks for people: the API server of the cluster that a control plane is in, when it hands a call of theirs on.
//!
//! It proves itself by a certificate of an authority of its own, which it publishes, and is then believed whatever it says of who calls.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/#kubernetes-apiserver-client-authentication>

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::verify_tls13_signature,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

use crate::{tls, verifier::ALGORITHMS};

/// Why what the API server says of itself is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FrontProxyError {
    /// Not certificates, or none.
    #[error("the authority of those who speak for people is no certificate in PEM")]
    Malformed,
    /// rustls cannot use them.
    #[error("the authority of those who speak for people is of no use: {0}")]
    Unusable(String),
}

/// Those that may speak for people, as it was last published. Before it was, nobody may. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct FrontProxies(Arc<ArcSwapOption<Published>>);

#[derive(Debug)]
struct Published {
    chain: Arc<dyn ClientCertVerifier>,
    /// Common names; any if there is none.
    names: Vec<String>,
}

impl FrontProxies {
    /// From now on those with a certificate under `authorities`, in PEM, that has one of these common names; with any name if there is
    /// none. Connections that were made go on.
    ///
    /// # Errors
    /// Then nothing has changed.
    pub fn publish(&self, authorities: &str, names: Vec<String>) -> Result<(), FrontProxyError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let authority = authority.map_err(|_| FrontProxyError::Malformed)?;
            roots.add(authority).map_err(|error| FrontProxyError::Unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(FrontProxyError::Malformed);
        }
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider().clone()).build();
        let chain = chain.map_err(|error| FrontProxyError::Unusable(error.to_string()))?;
        self.0.store(Some(Arc::new(Published { chain, names })));
        Ok(())
    }
}

impl Published {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let name = common_name(leaf);
        let is_known = self.names.is_empty() || name.is_some_and(|name| self.names.contains(&name));
        if is_known { Ok(verified) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }
}

fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

impl ClientCertVerifier for FrontProxies {
    /// None: the authorities change while rustls wants a constant, and whoever asks has one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let published = self.0.load();
        published.as_ref().ok_or(CertificateError::UnknownIssuer)?.verify(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// An authority in PEM, and a client's certificate of it.
    fn issued(name: &str) -> (String, CertificateDer<'static>) {
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = params("front-proxy-ca");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&authority_key).unwrap().pem();
        let mut client = params(name);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = client.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        (pem, client.into())
    }

    #[test]
    fn who_speaks_for_people_is_known_by_authority_and_name() {
        let (authority, client) = issued("front-proxy-client");
        let (stranger, _) = issued("front-proxy-client");
        let proxies = FrontProxies::default();
        let accepts = || proxies.verify_client_cert(&client, &[], UnixTime::now()).is_ok();
        assert!(!accepts(), "nothing was published yet");
        for (authorities, names, accepted) in [
            (&authority, vec![], true),
            (&authority, vec!["front-proxy-client"], true),
            (&authority, vec!["somebody-else"], false),
            (&stranger, vec![], false),
        ] {
            proxies.publish(authorities, names.iter().map(ToString::to_string).collect()).unwrap();
            assert_eq!(accepts(), accepted, "{names:?}");
        }
        proxies.publish(&authority, vec![]).unwrap();
        for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(proxies.publish(bad, vec![]).is_err());
        }
        assert!(accepts(), "what cannot be read changes nothing");
    }
}
