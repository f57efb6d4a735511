//! `conduit ca rotate-seed`: another secret in place of the one that the control plane's replicas share.
//!
//! ```text
//!   accepted ──(every replica does)──► current ──(roots, tokens and the backup are under it)──► the only one
//! ```
//!
//! The seed's file says which step is under way, so that a rotation that was interrupted goes on with the next call.

use std::{fs, io::Write, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::proto::public::{CaStatusResponse, Issuer};
use conduit_ca::{LaunchToken, SealedRoot, Seed, Turn};
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{POLL, spinner, status};
use crate::{control_plane::ControlPlane, local::directory::MeshDirectory, printable::printable};

/// How long it may take.
#[derive(Debug, clap::Args)]
pub struct RotateSeedArgs {
    /// How long to wait for each of the three steps
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// As the controllers keep it; the rest is theirs.
#[derive(Deserialize)]
struct Backup {
    trust_domain: conduit_api::TrustDomain,
    root: SealedRoot,
}

/// Takes the steps that are left, all of them if there are none under way.
///
/// # Errors
/// When a step is not finished in time; calling again goes on with it.
pub(super) async fn rotate(
    RotateSeedArgs { timeout }: &RotateSeedArgs,
    control_plane: &ControlPlane,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let given = std::env::var_os("CONDUIT_LOCAL_DIR").map(PathBuf::from);
    let directory = MeshDirectory::resolve(given.as_deref())?;
    let path = directory.seed();
    let lock = fs::File::open(directory.path());
    let lock = lock.with_context(|| format!("there is no local mesh in {}", directory.path().display()))?;
    let _alone = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| anyhow!("another `conduit ca rotate-seed` is under way: {error}"))?;
    let mut seed = Seed::load(&path).context("only the seed of a mesh on this machine can be replaced from here")?;
    let old = match seed.other() {
        Some((Turn::Previous, previous)) => previous,
        _ => seed.id(),
    };
    if seed.other().is_none() {
        // Nobody has heard of anything: what is not well now would only be in the way later.
        let missing = missing(&seed, &status(control_plane).await?, &directory);
        if let Some(first) = missing.first() {
            bail!("the seed is not replaced while {}", printable(first));
        }
        seed = seed.advance();
        seed.replace(&path)?;
    }
    while seed.other().is_some() {
        settled(&seed, *timeout, control_plane, &directory).await?;
        seed = seed.advance();
        seed.replace(&path)?;
    }
    settled(&seed, *timeout, control_plane, &directory).await?;
    writeln!(out, "seed {} has taken the place of {old}", seed.id())?;
    writeln!(out, "keep {} where you keep the one before; snapshots taken until now need that one", path.display())?;
    Ok(writeln!(
        out,
        "if the one before was stolen: `conduit ca rotate` as well, since it opens old copies of the root's key; and connections between \
         replicas last until they are started again"
    )?)
}

/// Waits until everything is as the file says.
async fn settled(
    seed: &Seed,
    timeout: Duration,
    control_plane: &ControlPlane,
    directory: &MeshDirectory,
) -> anyhow::Result<()> {
    let (began, progress) = (Instant::now(), spinner());
    loop {
        let answer = status(control_plane).await;
        let missing = match &answer {
            Ok(status) => missing(seed, status, directory),
            Err(error) => vec![format!("{error:#}")],
        };
        let Some(first) = missing.first().map(|first| printable(first).into_owned()) else {
            progress.finish_and_clear();
            return Ok(());
        };
        progress.set_message(format!("{}: {first}", step(seed)));
        if began.elapsed() >= timeout {
            progress.finish_and_clear();
            let then = match seed.other() {
                Some(_) => "say `conduit ca rotate-seed` again to go on",
                None => "the seed is replaced, and nothing more is to be said for this to follow",
            };
            bail!("{}: after {timeout:?} {first}; {then}", step(seed));
        }
        sleep(POLL).await;
    }
}

fn step(seed: &Seed) -> &'static str {
    match seed.other() {
        Some((Turn::Next, _)) => "the next seed is made known",
        Some((Turn::Previous, _)) => "the next seed takes over",
        None => "the old seed is forgotten",
    }
}

/// What is not as the file says.
fn missing(seed: &Seed, status: &CaStatusResponse, directory: &MeshDirectory) -> Vec<String> {
    let (current, other) = (seed.id(), seed.other().map(|(_, id)| id).unwrap_or_default());
    let is_behind = |issuer: &&Issuer| !issuer.reachable || issuer.seed != current || issuer.other_seed != other;
    let replicas = status.issuers.iter().filter(is_behind).map(|issuer| match issuer.reachable {
        true => format!("{} has not taken the seed over", issuer.replica),
        false => format!("{} cannot be asked", issuer.replica),
    });
    let mut missing: Vec<_> = replicas.collect();
    // Before the other one takes over, everything is under the one that was there.
    if !matches!(seed.other(), Some((Turn::Next, _))) {
        let alone = seed.alone();
        let roots = status.roots.iter().filter(|root| root.sealed_under != current);
        missing.extend(roots.map(|root| format!("root {} is sealed under the old seed", super::short(&root.id))));
        missing.extend(old_backup(&alone, directory));
        missing.extend(old_tokens(&alone, directory));
    }
    missing
}

fn old_backup(seed: &Seed, directory: &MeshDirectory) -> Option<String> {
    let kept: Backup = serde_json::from_slice(&fs::read(directory.root_backup()).ok()?).ok()?;
    let opened = kept.root.open(seed, &kept.trust_domain);
    opened
        .is_err()
        .then(|| "the root that is kept for the day when all disks are lost is under the old seed".to_owned())
}

fn old_tokens(seed: &Seed, directory: &MeshDirectory) -> Option<String> {
    let pods = fs::read_dir(directory.tokens()).ok()?.filter_map(Result::ok);
    let is_old = |token: &String| LaunchToken::verify(token, seed, std::time::SystemTime::now()).is_err();
    let old = pods.filter(|pod| fs::read_to_string(pod.path().join("token")).is_ok_and(|token| is_old(&token)));
    let mut names = old.filter_map(|pod| pod.file_name().into_string().ok());
    names.next().map(|pod| format!("the launch token of {pod} is under the old seed"))
}
