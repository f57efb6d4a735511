//! Who is accepted at the other end of a connection.
//!
//! First the chain: signatures up to a root of the current bundle, time, usage. Then the name: exactly one URI, and the
//! right one. Host names play no part; the name that a client connects to is never looked at.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use arc_swap::ArcSwap;
use conduit_api::{NodeId, SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::{
    bundle::TrustBundle, key_id::KeyId, refusal::Refusal, replica::ReplicaId, svid::Svid, tls, workload::ClientAuth,
};

/// Of everybody who verifies.
pub(crate) static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| tls::provider().signature_verification_algorithms);

/// Whom we are willing to speak with.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    AnyWorkload(TrustDomain),
    Workload(SpiffeId),
    AnyReplica(TrustDomain),
    Replica(TrustDomain, NodeId),
}

impl Expected {
    /// `federated` when the certificate is by an authority of another trust domain, which is that of `uri`.
    fn admit(&self, uri: &str, federated: bool) -> Result<(), Refusal> {
        let domain = self.trust_domain();
        let is_any = matches!(self, Self::AnyWorkload(_));
        if trust_domain(uri) != Some(domain.as_str()) && !(federated && is_any) {
            return Err(Refusal::TrustDomain { expected: domain.clone(), found: uri.to_owned() });
        }
        let admitted = match self {
            Self::AnyWorkload(_) => uri.parse::<SpiffeId>().is_ok(),
            Self::Workload(id) => uri.parse().is_ok_and(|found: SpiffeId| found == *id),
            Self::AnyReplica(_) => ReplicaId::parse(uri).is_some(),
            Self::Replica(_, node) => ReplicaId::parse(uri).is_some_and(|found| found.node == *node),
        };
        if admitted { Ok(()) } else { Err(Refusal::Identity { expected: self.to_string(), found: uri.to_owned() }) }
    }

    fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::AnyWorkload(domain) | Self::AnyReplica(domain) | Self::Replica(domain, _) => domain,
            Self::Workload(id) => id.trust_domain(),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyWorkload(_) => f.write_str("a workload"),
            Self::Workload(id) => write!(f, "`{id}`"),
            Self::AnyReplica(_) => f.write_str("a control-plane replica"),
            Self::Replica(_, node) => write!(f, "the control-plane replica {node}"),
        }
    }
}

/// Verifies servers for a client; what it reads from `roots` is current at each handshake.
#[derive(Clone, Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) roots: Arc<ArcSwap<TrustBundle>>,
    pub(crate) expected: Expected,
}

impl PeerVerifier {
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let bundle = self.roots.load();
        let svid = Svid::leaf(leaf);
        // An authority is believed of its own domain alone: whose it is to be, the name says, which is believed afterwards.
        let foreign = svid.as_ref().ok().and_then(|svid| bundle.federated.get(&trust_domain(&svid.uri)?.parse().ok()?));
        let anchors = foreign.unwrap_or(bundle.own()).anchors();
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        let path = certificate
            .verify_for_usage(ALGORITHMS.all, anchors, intermediates, now, usage, None, None)
            .map_err(chain_error)?;
        let policy = &bundle.policy;
        // By what those certificates say of themselves, which somebody trusted has signed. What a leaf says of its issuer, its
        // issuer has written.
        let is_revoked = |der: CertificateDer<'_>| KeyId::of(&der).is_some_and(|id| policy.revoked.contains(&id));
        if !policy.revoked.is_empty() && path.intermediate_certificates().any(|issuer| is_revoked(issuer.der())) {
            return Err(refused(Refusal::RevokedIssuer));
        }
        let svid = svid.map_err(|error| refused(Refusal::Malformed(error.to_string())))?;
        self.expected.admit(&svid.uri, foreign.is_some()).map_err(refused)?;
        // Only what is on the list is compared: replicas have identities of another shape.
        if !policy.denied.is_empty() && svid.uri.parse().is_ok_and(|id: SpiffeId| policy.denied.contains_key(&id)) {
            return Err(refused(Refusal::Denied(svid.uri)));
        }
        Ok(())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, KeyUsage::server_auth(), now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
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

/// Verifies clients for a server.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) peer: PeerVerifier,
    pub(crate) auth: ClientAuth,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    /// None: clients have one certificate, and the roots change while rustls wants a constant.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.peer.verify(leaf, intermediates, KeyUsage::client_auth(), now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peer.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.peer.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peer.supported_verify_schemes()
    }
}

fn trust_domain(uri: &str) -> Option<&str> {
    uri.strip_prefix("spiffe://")?.split('/').next()
}

fn refused(refusal: Refusal) -> Error {
    CertificateError::Other(OtherError(Arc::new(refusal))).into()
}

/// Where rustls has a word for it, that word is used: it decides which alert the peer is sent (RFC 8446 section 6.2).
fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as Chain;
    match error {
        Chain::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after }.into(),
        Chain::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before }.into(),
        // As unknown as any stranger: a root of the same name with another key, and a workload that plays issuer.
        Chain::UnknownIssuer
        | Chain::InvalidSignatureForPublicKey
        | Chain::EndEntityUsedAsCa
        | Chain::PathLenConstraintViolated => CertificateError::UnknownIssuer.into(),
        Chain::RequiredEkuNotFoundContext(_) | Chain::CaUsedAsEndEntity => CertificateError::InvalidPurpose.into(),
        Chain::BadDer | Chain::BadDerTime | Chain::TrailingData(_) => CertificateError::BadEncoding.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}
