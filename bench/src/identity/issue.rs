//! Certificates a second, asked for over TLS as proxies do, and what each costs the replica that signs it.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use conduit_api::proto::identity::{CertifyRequest, identity_client::IdentityClient};
use conduit_ca::{KeyPair, LaunchToken, TrustBundle, WorkloadTls};
use conduit_chaos::cluster::Cluster;
use conduit_proxy::{
    connect::{Connector, Who},
    control::Controllers,
};
use tokio::{
    task::{JoinSet, LocalSet},
    time::Instant,
};

use super::{openssl_signatures, rate};
use crate::{
    control_plane::line,
    load::{histogram, record},
    memory::processor_time,
};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// Connections, each of which asks again and again
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Questions under way on each
    #[arg(long, default_value_t = 8)]
    in_flight: u32,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

/// Signing requests, made before: their making is the proxies' cost.
const REQUESTS: usize = 64;

/// Measures, and says what it measured.
///
/// # Errors
/// When the control plane cannot be started, or a certificate is refused.
pub async fn run(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    LocalSet::new().run_until(measure(programs, plan)).await
}

async fn measure(programs: &Path, plan: &Plan) -> anyhow::Result<String> {
    // What is measured is what can be signed, not what is allowed to be.
    let flags = ["--certify-rate-per-core", "1000000", "--certify-rate-per-identity", "1000000"];
    let cluster = Cluster::start_with(programs, 1, &flags).await?;
    cluster.wait("there are trust anchors", async || cluster.trust_anchors().exists()).await?;
    let anchors = TrustBundle::from_pem(&fs::read_to_string(cluster.trust_anchors())?)?;
    let tls = WorkloadTls::new(Cluster::trust_domain(), anchors);
    let controllers =
        Controllers::new(vec![format!("{}:8086", cluster.ip(0))], &Cluster::trust_domain(), Connector::new(None, tls))?;
    let token = LaunchToken { namespace: "bench".into(), service_account: "load".into(), pod: "load".into() };
    let token = token.mint(cluster.seed(), SystemTime::now() + Duration::from_secs(3_600));
    let csrs = (0..REQUESTS).map(|_| Ok(KeyPair::generate()?.csr()?)).collect::<anyhow::Result<Vec<_>>>()?;
    let pid = cluster.pid(0).context("the controller runs")?;
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(controllers.connect(Who::Nobody).await?);
    }

    let (began, cpu) = (Instant::now(), processor_time(pid)?);
    let until = began + plan.duration;
    let mut asking = JoinSet::new();
    for (number, channel) in connections.iter().cycle().take((plan.connections * plan.in_flight) as usize).enumerate() {
        let (mut client, csrs, token) = (IdentityClient::new(channel.clone()), csrs.clone(), token.clone());
        asking.spawn_local(async move {
            let mut latencies = histogram();
            for csr in csrs.iter().cycle().skip(number) {
                let asked = Instant::now();
                if asked >= until {
                    break;
                }
                client.certify(CertifyRequest { csr: csr.clone(), token: token.clone() }).await?;
                record(&mut latencies, asked.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = histogram();
    while let Some(asked) = asking.join_next().await {
        latencies.add(asked??)?;
    }
    let (took, cpu) = (began.elapsed(), processor_time(pid)? - cpu);
    let per_core = rate(latencies.len(), cpu);
    let share = openssl_signatures().map(|signatures| {
        format!(
            "; `openssl speed ecdsap256` signs {signatures:.0}/s on one, of which that is {:.0} %",
            100.0 * per_core / signatures
        )
    });
    Ok(format!(
        "{}{:.0} certificates/s, {per_core:.0} for each second of a core that the replica used{}\n",
        line("certificate, from the question to the answer", &latencies),
        rate(latencies.len(), took),
        share.unwrap_or_default(),
    ))
}
