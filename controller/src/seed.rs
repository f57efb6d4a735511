//! The seed as the platform has it: one follows another while this replica runs.
//!
//! What replicas, launch tokens and sealed roots are recognised by, both seeds are good for while one follows the other; so it does not matter
//! who sees it change first. Who changes it, and when it may be changed again, is the platform's affair (`conduit ca rotate-seed`).

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use conduit_ca::{ReplicaTls, Seed};
use conduit_consensus::{CaState, Command, Fence, RootRecord};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use crate::{authority::roots::Roots, peer::server::Own, platform::Platform, propose};

/// Before what was not committed is proposed again.
const RESEAL_RETRY: Duration = Duration::from_secs(5);

/// The seed now, and whenever it changes.
pub type SharedSeed = watch::Receiver<Arc<Seed>>;

/// Takes over what the platform has, until the process ends. One that cannot be read changes nothing.
pub async fn follow(platform: Arc<dyn Platform>, seed: watch::Sender<Arc<Seed>>, tls: ReplicaTls) {
    let mut complained = false;
    loop {
        sleep(platform.seed_poll()).await;
        let taken = platform.seed().await.context("the seed stays what it was").and_then(|read| {
            let known = seed.borrow().clone();
            if (read.id(), read.other()) == (known.id(), known.other()) {
                return Ok(());
            }
            if !follows(&read, &known) {
                bail!(
                    "the seed that the platform has is another mesh's: what is sealed here opens under seed {}",
                    known.id()
                );
            }
            tls.replace_seed(&read)?;
            info!(current = read.id(), other = ?read.other(), "the seed was replaced");
            seed.send_replace(Arc::new(read));
            Ok(())
        });
        match taken {
            Ok(()) => complained = false,
            Err(error) if !std::mem::replace(&mut complained, true) => error!(error = %format_args!("{error:#}")),
            Err(_) => {}
        }
    }
}

/// Whether one can have come of the other by the steps of a replacement, of which some may have been missed.
fn follows(read: &Seed, known: &Seed) -> bool {
    let ids = |seed: &Seed| [Some(seed.id()), seed.other().map(|(_, id)| id)];
    let known = ids(known);
    ids(read).into_iter().flatten().any(|id| known.contains(&Some(id)))
}

/// Has all roots sealed under the current seed, as long as this replica leads; until the process ends.
pub async fn reseal(own: Own, roots: Arc<Roots>) {
    let (mut state, mut leadership, mut seed) = (own.cluster.state(), own.cluster.leadership(), roots.seed.clone());
    let mut done: Option<(Arc<CaState>, Arc<Seed>)> = None;
    loop {
        let current = seed.borrow_and_update().clone();
        let (fence, ca) = (leadership.borrow_and_update().clone(), state.borrow_and_update().ca().cloned());
        let mut failed = false;
        if let (Some(fence), Some(ca)) = (fence, ca) {
            // To open a root costs more than to see that nothing has changed.
            let is_done =
                |(known, under): &(Arc<CaState>, Arc<Seed>)| Arc::ptr_eq(known, &ca) && Arc::ptr_eq(under, &current);
            if !done.as_ref().is_some_and(is_done) {
                failed = reseal_all(&own, &roots, &ca, &current, &fence).await.is_err();
                done = (!failed).then_some((ca, current));
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            changed = seed.changed() => if changed.is_err() { return },
            () = sleep(RESEAL_RETRY), if failed => {}
        }
    }
}

/// One that cannot be opened keeps no other one from it.
async fn reseal_all(own: &Own, roots: &Roots, ca: &CaState, seed: &Seed, fence: &Fence) -> Result<(), ()> {
    let mut all = Ok(());
    for record in ca.roots.iter().filter(|record| record.root.open(&seed.alone(), &roots.trust_domain).is_err()) {
        let proposed = async {
            let command = resealed(record, roots, seed)?;
            propose::fenced(&own.cluster, "ca", command, Some(fence.clone())).await?;
            anyhow::Ok(())
        };
        if let Err(error) = proposed.await {
            warn!(root = %record.root.id, error = %format_args!("{error:#}"), "not sealed under the current seed yet");
            all = Err(());
        }
    }
    all
}

fn resealed(record: &RootRecord, roots: &Roots, seed: &Seed) -> anyhow::Result<Command> {
    let sealed = record.root.open(seed, &roots.trust_domain)?.seal(seed)?;
    Ok(Command::ResealRoot { root: record.root.id.clone(), key: sealed.key })
}
