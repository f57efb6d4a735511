//! What all our TLS configurations have in common.
//!
//! TLS 1.3 only. Sessions between workloads are resumed (see [`sessions`](crate::sessions)), those between replicas, which are few,
//! are not.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption, Tls12Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    version::TLS13,
};

use crate::sessions::{Sessions, Tickets};

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
    tickets: Option<Tickets>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = owned(alpn);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = Arc::new(tickets);
    }
    Arc::new(config)
}

pub(crate) fn client(
    verifier: impl ServerCertVerifier + 'static,
    certificate: impl ResolvesClientCert + 'static,
    alpn: &[&[u8]],
    sessions: Option<Sessions>,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous() // rustls' word for any verifier that is not its own
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = owned(alpn);
    config.resumption = match sessions {
        Some(sessions) => Resumption::store(Arc::new(sessions)).tls12_resumption(Tls12Resumption::Disabled),
        None => Resumption::disabled(),
    };
    // Peers are known by their identities; a name would only tell observers who is called.
    config.enable_sni = false;
    Arc::new(config)
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
