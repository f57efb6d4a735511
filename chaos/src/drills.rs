//! What takes meshes down, by name: each happens once, on purpose, while workloads speak with each other.

use std::{cell::Cell, fmt, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use conduit_api::proto::public::{
    CaDenyRequest, CaRotateRequest, CaStatusRequest, CaStatusResponse, api_client::ApiClient,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, transport::Channel};

use crate::{
    cluster::Cluster,
    workloads::{self, Seen},
};

const REPLICAS: usize = 3;
const WORKLOADS: u32 = 6;
const PAIRS: usize = 3;
/// So long everything is looked at after something has happened.
const WATCHED: Duration = Duration::from_secs(2);
/// So many connections must have been made in it, or nothing was seen.
const EXCHANGES_MIN: u64 = 20;
/// Of certificates that are to expire, in the drill about that.
const SHORT_LIFE: Duration = Duration::from_secs(12);
/// Rotations that may pass before one was met at the step that was meant: each takes a fifth of a second.
const ATTEMPTS: usize = 50;
/// Between two looks at a rotation: a step of it is some tens of milliseconds.
const GLANCE: Duration = Duration::from_millis(2);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Drill {
    /// No controller answers until every certificate has expired; then they are back
    CertificateExpiry,
    /// A controller's clock jumps an hour ahead, another one's an hour back, while the root is replaced
    ClockJump,
    /// All controllers are killed, and their disks are gone
    RootLoss,
    /// A majority is gone in the middle of a rotation
    QuorumLossDuringRotation,
    /// The leader is killed while a rotation waits, at each of its steps
    LeaderKilledAtEachStep,
}

impl Drill {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::CertificateExpiry,
        Self::ClockJump,
        Self::RootLoss,
        Self::QuorumLossDuringRotation,
        Self::LeaderKilledAtEachStep,
    ];
}

impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CertificateExpiry => "certificate-expiry",
            Self::ClockJump => "clock-jump",
            Self::RootLoss => "root-loss",
            Self::QuorumLossDuringRotation => "quorum-loss-during-rotation",
            Self::LeaderKilledAtEachStep => "leader-killed-at-each-step",
        })
    }
}

/// Does it; `tell` is told of what happens. To be called in a [`LocalSet`](tokio::task::LocalSet).
///
/// # Errors
/// What went wrong: a connection that failed and should not have, a rotation that does not end, a root that is another one.
pub async fn run(programs: &Path, drill: Drill, tell: impl Fn(&str)) -> anyhow::Result<()> {
    let life = humantime::format_duration(SHORT_LIFE).to_string();
    let flags: &[&str] = match drill {
        Drill::CertificateExpiry => &["--leaf-lifetime", &life],
        _ => &[],
    };
    let mut cluster = Cluster::start_with(programs, REPLICAS, flags).await?;
    let seen = workloads::start(&cluster, WORKLOADS, PAIRS).await?;
    cluster.wait("workloads speak with each other", async || seen.exchanges() > EXCHANGES_MIN).await?;
    match drill {
        Drill::CertificateExpiry => certificate_expiry(&mut cluster, &seen, tell).await,
        Drill::ClockJump => clock_jump(&mut cluster, &seen, tell).await,
        Drill::RootLoss => root_loss(&mut cluster, &seen, tell).await,
        Drill::QuorumLossDuringRotation => quorum_loss_during_rotation(&mut cluster, &seen, tell).await,
        Drill::LeaderKilledAtEachStep => leader_killed_at_each_step(&mut cluster, &seen, tell).await,
    }
}

/// The one drill in which connections must fail: an expired certificate is worth nothing.
async fn certificate_expiry(cluster: &mut Cluster, seen: &Seen, tell: impl Fn(&str)) -> anyhow::Result<()> {
    well(seen).await?;
    for replica in 0..cluster.len() {
        cluster.pause(replica);
    }
    tell("no controller answers any more");
    cluster.wait("certificates expire", async || !seen.failures().is_empty()).await?;
    // All of them, not only the first.
    sleep(SHORT_LIFE).await;
    let before = seen.exchanges();
    sleep(WATCHED).await;
    ensure!(seen.exchanges() == before, "connections are made with certificates that have expired");
    tell("every certificate has expired");
    for replica in 0..cluster.len() {
        cluster.resume(replica);
    }
    // By attestation: nobody believes what they have.
    let quiet = async || {
        let (failures, exchanges) = (seen.failures(), seen.exchanges());
        sleep(WATCHED).await;
        seen.failures() == failures && seen.exchanges() > exchanges + EXCHANGES_MIN
    };
    cluster.wait("workloads have certificates again, and speak with each other", quiet).await?;
    tell("they have new ones");
    Ok(())
}

async fn clock_jump(cluster: &mut Cluster, seen: &Seen, tell: impl Fn(&str)) -> anyhow::Result<()> {
    for shift in ["3600", "-3600"] {
        let leader = cluster.leader().await.context("there is no leader")?;
        cluster.kill(leader);
        cluster.set_flags(leader, &["--clock-shift-seconds", shift]);
        cluster.spawn(leader)?;
        cluster.all_vote().await?;
        tell(&format!("the clock of {} is {shift}s off", Cluster::name(leader)));
        let other = (leader + 1) % cluster.len();
        let is_seen = async || match status(cluster, other).await {
            Ok(status) => status.clock_skew_ms > 3_000_000,
            Err(_) => false,
        };
        cluster.wait("the others have noticed", is_seen).await?;
        rotate(cluster, other).await?;
        well(seen).await?;
        cluster.kill(leader);
        cluster.set_flags(leader, &[]);
        cluster.spawn(leader)?;
        cluster.all_vote().await?;
        let is_over = async || status(cluster, other).await.is_ok_and(|status| status.clock_skew_ms < 5_000);
        cluster.wait("the clocks agree again", is_over).await?;
    }
    rotate(cluster, 0).await?;
    well(seen).await
}

async fn root_loss(cluster: &mut Cluster, seen: &Seen, tell: impl Fn(&str)) -> anyhow::Result<()> {
    rotate(cluster, 0).await?;
    let before = only_root(&status(cluster, 0).await?).context("a rotation is in progress")?;
    cluster.lose_everything()?;
    tell("every controller is killed, and every disk is lost");
    well(seen).await?;
    for replica in 0..cluster.len() {
        cluster.spawn(replica)?;
    }
    cluster.all_vote().await?;
    let is_back = async || status(cluster, 0).await.is_ok_and(|status| only_root(&status).as_ref() == Some(&before));
    cluster.wait("the root is what it was", is_back).await?;
    tell("the root is what it was");
    rotate(cluster, 0).await?;
    well(seen).await
}

async fn quorum_loss_during_rotation(cluster: &mut Cluster, seen: &Seen, tell: impl Fn(&str)) -> anyhow::Result<()> {
    for step in ["activate", "drop"] {
        let left = loop {
            let left = reach(cluster, step).await?;
            for replica in (0..cluster.len()).filter(|replica| *replica != left) {
                cluster.kill(replica);
            }
            if is_about_to(cluster, left, step).await? {
                break left;
            }
            // It was faster.
            for replica in (0..cluster.len()).filter(|replica| *replica != left) {
                cluster.spawn(replica)?;
            }
            settled(cluster).await?;
        };
        tell(&format!("a majority is gone while a rotation is about to {step} a root"));
        well(seen).await?;
        // What is left says so at once, and goes on with what needs no majority.
        let deny = CaDenyRequest {
            spiffe_id: "spiffe://cluster.local/ns/chaos/sa/nobody".to_owned(),
            ..CaDenyRequest::default()
        };
        let began = Instant::now();
        let refused = api(cluster, left).await?.ca_deny(deny).await.err().context("a write without a majority")?;
        ensure!(refused.code() == Code::Unavailable, "{refused}");
        ensure!(began.elapsed() < Duration::from_secs(3), "refused after {:?}", began.elapsed());
        for replica in (0..cluster.len()).filter(|replica| *replica != left) {
            cluster.spawn(replica)?;
        }
        cluster.all_vote().await?;
        ended(cluster, left).await?;
        tell("the rotation has ended");
        well(seen).await?;
    }
    Ok(())
}

async fn leader_killed_at_each_step(cluster: &mut Cluster, seen: &Seen, tell: impl Fn(&str)) -> anyhow::Result<()> {
    for step in ["activate", "drop"] {
        let (leader, other) = loop {
            let other = reach(cluster, step).await?;
            let Some(leader) = cluster.leader().await.filter(|leader| *leader != other) else { continue };
            cluster.kill(leader);
            if is_about_to(cluster, other, step).await? {
                break (leader, other);
            }
            cluster.spawn(leader)?;
            settled(cluster).await?;
        };
        tell(&format!("the leader is gone while a rotation is about to {step} a root"));
        well(seen).await?;
        // It may have issued under a root that is about to be dropped: what it says now is waited for.
        cluster.spawn(leader)?;
        cluster.all_vote().await?;
        ended(cluster, other).await?;
        tell("the rotation has ended, under another leader");
        well(seen).await?;
    }
    Ok(())
}

/// Begins rotations until one was met when it was about to do this; a replica that does not lead, and that has seen it.
async fn reach(cluster: &Cluster, step: &str) -> anyhow::Result<usize> {
    let leader = settled(cluster).await?;
    let other = (leader + 1) % cluster.len();
    let mut api = api(cluster, other).await?;
    for _ in 0..ATTEMPTS {
        match api.ca_rotate(CaRotateRequest::default()).await {
            Ok(_) => {}
            // This replica has not heard of the one before yet, or not of its end.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status.into()),
        }
        loop {
            let status = api.ca_status(CaStatusRequest {}).await?.into_inner();
            match status.rotation {
                Some(rotation) if rotation.step == step => return Ok(other),
                None if status.roots.len() == 1 => break,
                _ => sleep(GLANCE).await,
            }
        }
    }
    anyhow::bail!("no rotation was met when it was about to {step} a root, of {ATTEMPTS}")
}

/// All replicas vote, and one of them says itself that it leads; which.
async fn settled(cluster: &Cluster) -> anyhow::Result<usize> {
    cluster.all_vote().await?;
    let found = Cell::new(None);
    let leads = async || {
        for replica in 0..cluster.len() {
            let says = cluster.status(replica).await;
            let role =
                says.map(|says| says.members.into_iter().find(|m| m.name == Cluster::name(replica)).map(|m| m.role));
            if matches!(&role, Ok(Some(role)) if role == "leader") {
                found.set(Some(replica));
            }
        }
        found.get().is_some()
    };
    cluster.wait("a replica leads", leads).await?;
    found.get().context("there is no leader")
}

async fn is_about_to(cluster: &Cluster, replica: usize, step: &str) -> anyhow::Result<bool> {
    Ok(status(cluster, replica).await?.rotation.is_some_and(|rotation| rotation.step == step))
}

/// Replaces the only root. What a replica says may be a moment old, so another root is what is waited for.
async fn rotate(cluster: &Cluster, replica: usize) -> anyhow::Result<()> {
    let before = ended(cluster, replica).await?;
    let began = async || match api(cluster, replica).await {
        Ok(mut api) => match api.ca_rotate(CaRotateRequest::default()).await {
            Ok(_) => true,
            // Of an attempt whose answer was lost.
            Err(status) => status.code() == Code::FailedPrecondition,
        },
        Err(_) => false,
    };
    cluster.wait("a rotation begins", began).await?;
    let is_replaced = async || {
        let root = status(cluster, replica).await.ok().and_then(|status| only_root(&status));
        root.is_some_and(|root| root != before)
    };
    cluster.wait("the rotation ends", is_replaced).await
}

/// The root that is left when a rotation has ended.
async fn ended(cluster: &Cluster, replica: usize) -> anyhow::Result<String> {
    let left = Cell::new(None);
    let is_over = async || {
        let root = status(cluster, replica).await.ok().and_then(|status| only_root(&status));
        let is_over = root.is_some();
        left.set(root);
        is_over
    };
    cluster.wait("the rotation ends", is_over).await?;
    left.into_inner().context("there is no root")
}

/// No connection has failed, and more are made.
async fn well(seen: &Seen) -> anyhow::Result<()> {
    let before = seen.exchanges();
    sleep(WATCHED).await;
    let (exchanges, failures) = (seen.exchanges() - before, seen.failures());
    ensure!(failures.is_empty(), "connections failed: {failures:?}");
    ensure!(exchanges >= EXCHANGES_MIN, "only {exchanges} connections in {WATCHED:?}");
    Ok(())
}

fn only_root(status: &CaStatusResponse) -> Option<String> {
    match &status.roots[..] {
        [root] => Some(root.id.clone()),
        _ => None,
    }
}

async fn status(cluster: &Cluster, replica: usize) -> anyhow::Result<CaStatusResponse> {
    Ok(api(cluster, replica).await?.ca_status(CaStatusRequest {}).await?.into_inner())
}

async fn api(cluster: &Cluster, replica: usize) -> anyhow::Result<ApiClient<Channel>> {
    Cluster::api(cluster.socket(replica)).await
}
