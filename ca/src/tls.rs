//! What all our TLS configurations have in common.
//!
//! TLS 1.3 only, and no session resumption. rustls takes a resumed peer's identity from the session without verifying
//! it again, and every resumed handshake mints the next ticket: a peer could go on for ever after its certificate
//! expired, its issuer was dropped from the bundle, or its key was replaced. What resumption would save is small here:
//! connections between proxies are pooled, TLS 1.3 resumes with a key exchange all the same (RFC 8446 section 2.2), and
//! without tickets neither side holds session caches or writes them after each handshake.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    version::TLS13,
};

/// aws-lc-rs, preferring X25519MLKEM768 by crate feature. Never the process's default, which others choose.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

pub(crate) fn server(
    verifier: impl ClientCertVerifier + 'static,
    certificate: impl ResolvesServerCert + 'static,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = owned(alpn);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

pub(crate) fn client(
    verifier: impl ServerCertVerifier + 'static,
    certificate: impl ResolvesClientCert + 'static,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous() // rustls' word for any verifier that is not its own
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    // Peers are known by their identities; a name would only tell observers who is called.
    config.enable_sni = false;
    Arc::new(config)
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
