//! Measurements of identity: certificates that a replica signs, and handshakes that they make.

pub mod handshakes;
pub mod issue;
pub mod rotations;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::TrustDomain;
use conduit_ca::{TrustBundle, WorkloadTls};
use conduit_proxy::{cache::Cache, connect::Connector, control::Controllers, identity::Certifier};
use tokio::{
    task::spawn_local,
    time::{sleep, timeout},
};

/// A proxy that has no certificate by then gets none.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A proxy's own certificate, which is renewed as long as the task's thread lives: from the controllers at `addresses`, by the token in a file, and by
/// the trust anchors in another one.
///
/// # Errors
/// When there is none in time.
pub(crate) async fn of_proxy(
    addresses: Vec<String>,
    domain: &TrustDomain,
    anchors: PathBuf,
    token: PathBuf,
) -> anyhow::Result<WorkloadTls> {
    let tls = WorkloadTls::new(domain.clone(), bundle(&anchors)?);
    let cache = Cache::new(None, token.clone());
    let controllers = controllers(addresses, domain, &tls)?;
    spawn_local(Certifier { controllers, token, anchors, tls: tls.clone(), cache }.run());
    let certified = async {
        while tls.identity().is_none() {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(PATIENCE, certified).await.with_context(|| format!("a proxy has no certificate within {PATIENCE:?}"))?;
    Ok(tls)
}

/// The controllers at `addresses`, as a proxy with `tls` asks them.
///
/// # Errors
/// When an address is none.
pub(crate) fn controllers(
    addresses: Vec<String>,
    domain: &TrustDomain,
    tls: &WorkloadTls,
) -> anyhow::Result<Controllers> {
    Ok(Controllers::new(addresses, domain, Connector::new(None, tls.clone()))?)
}

fn bundle(file: &Path) -> anyhow::Result<TrustBundle> {
    Ok(TrustBundle::from_pem(&fs::read_to_string(file)?)?)
}

/// ECDSA P-256 signatures a second of one core of this machine, as `openssl speed` measures them; `None` where there is no openssl.
pub(crate) fn openssl_signatures() -> Option<f64> {
    let output = Command::new("openssl").args(["speed", "-seconds", "2", "ecdsap256"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("256 bits ecdsa"))?;
    // The last two columns are signatures and verifications a second.
    line.split_whitespace().rev().nth(1)?.parse().ok()
}

/// Something that was done `count` times in `took`, by one core.
pub(crate) fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
