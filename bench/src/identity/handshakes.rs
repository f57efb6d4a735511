//! Handshakes between workloads, full and resumed, in memory: what they cost, without a network.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::{NodeId, SpiffeId};
use conduit_ca::{ClientAuth, Issuer, KeyPair, ROOT_LIFETIME, Root, TrustBundle, WorkloadTls};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, pki_types::ServerName};
use tokio::time::Instant;

use super::rate;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// How long to measure each kind
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

/// As proxies speak.
const ALPN: &[&[u8]] = &[b"conduit/h1"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Measures, and says what it measured.
///
/// # Errors
/// When a handshake fails.
pub fn run(plan: &Plan) -> anyhow::Result<String> {
    let (domain, now) = (conduit_chaos::cluster::Cluster::trust_domain(), SystemTime::now());
    let root = Root::generate(&domain, now, ROOT_LIFETIME)?;
    let issuer = Issuer::new(&root, None, NodeId::new(1), now, DAY)?;
    let bundle = TrustBundle::new(vec![root.anchor().clone()])?;
    let workload = |name: &str| -> anyhow::Result<(SpiffeId, WorkloadTls)> {
        let (id, key) = (SpiffeId::new(&domain, "bench", name)?, KeyPair::generate()?);
        let tls = WorkloadTls::new(domain.clone(), bundle.clone());
        tls.set_identity(&key, issuer.issue(&key.csr()?, &id, now, DAY)?.chain)?;
        Ok((id, tls))
    };
    let ((_, web), (voting, server)) = (workload("web")?, workload("voting")?);
    let server = server.server_config(ALPN, ClientAuth::Required);
    let resuming = web.client_config(ALPN, &voting);
    let mut full = ClientConfig::clone(&resuming);
    full.resumption = rustls::client::Resumption::disabled();
    let mut text = String::new();
    for (name, client, kind) in
        [("full", Arc::new(full), HandshakeKind::Full), ("resumed", resuming, HandshakeKind::Resumed)]
    {
        // The first one has nothing to resume.
        handshake(&client, &server)?;
        let (mut count, mut spent) = (0, [Duration::ZERO; 2]);
        let began = Instant::now();
        while began.elapsed() < plan.duration {
            let (done, sides) = handshake(&client, &server)?;
            anyhow::ensure!(done == kind, "a {done:?} handshake where a {name} one is measured");
            count += 1;
            spent = [spent[0] + sides[0], spent[1] + sides[1]];
        }
        let both = rate(count, began.elapsed());
        let [client, server] = spent.map(|side| rate(count, side));
        text += &format!(
            "{name:<8} {both:>6.0}/s for both sides on one core, {server:>6.0}/s for the server, {client:>6.0}/s for the client\n"
        );
    }
    Ok(text)
}

/// One handshake, and the time that the client and the server took for it.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> anyhow::Result<(HandshakeKind, [Duration; 2])> {
    let mut spent = [Duration::ZERO; 2];
    let mut timed = |side: usize, began: Instant| spent[side] += began.elapsed();
    let began = Instant::now();
    let mut client = ClientConnection::new(client.clone(), ServerName::from(std::net::IpAddr::from([10, 244, 1, 7])))?;
    timed(0, began);
    let began = Instant::now();
    let mut server = ServerConnection::new(server.clone())?;
    timed(1, began);
    loop {
        let mut bytes = Vec::new();
        let began = Instant::now();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        timed(0, began);
        let mut to_server = &bytes[..];
        let began = Instant::now();
        while !to_server.is_empty() {
            server.read_tls(&mut to_server)?;
            server.process_new_packets()?;
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer)?;
        }
        timed(1, began);
        let mut to_client = &answer[..];
        let began = Instant::now();
        while !to_client.is_empty() {
            client.read_tls(&mut to_client)?;
            client.process_new_packets()?;
        }
        timed(0, began);
        if bytes.is_empty() && answer.is_empty() {
            return Ok((client.handshake_kind().context("the handshake did not end")?, spent));
        }
    }
}
