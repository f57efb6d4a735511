//! The shell of the [`Reconciler`]: watches the platform, proposes, keeps its timer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message, SpawnHandle, WrapFuture as _};
use conduit_consensus::{Cluster, Command, Fence, MeshState};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    Effect, Input, Reconciler,
    file::{self, FileWatch},
};
use crate::propose;

/// Decisions wait for each other only: one file, one leadership, one proposal at a time.
const MAILBOX: usize = 64;

/// Between two looks whether all members have become of this release: then the platform is described to them as it is.
const LEVEL_CHECK: Duration = Duration::from_secs(5);
/// From which on they keep all that is said of ports, zones and balancing.
const LEVEL_OF_ALL: u32 = 5;

/// Writes what the platform says into the replicated state, while this replica leads.
pub struct PlatformActor {
    reconciler: Reconciler,
    path: PathBuf,
    cluster: Cluster,
    state: watch::Receiver<Arc<MeshState>>,
    fence: Option<Fence>,
    timer: Option<SpawnHandle>,
    /// What was read last was told as far as all members understand it, and that was not all.
    is_simplified: bool,
}

#[derive(Message)]
#[rtype(result = "()")]
struct FileChanged;

#[derive(Message)]
#[rtype(result = "()")]
struct Leadership(Option<Fence>);

#[derive(Message)]
#[rtype(result = "()")]
struct Proposed(bool);

impl PlatformActor {
    /// Starts it over the platform file at `path`.
    ///
    /// # Errors
    /// When the file's directory cannot be watched.
    pub fn start(path: PathBuf, cluster: Cluster) -> Result<(), file::FileError> {
        let watch = FileWatch::new(&path)?;
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let mut leadership = cluster.leadership();
            leadership.mark_changed();
            let leadership = futures::stream::unfold(leadership, |mut leadership| async move {
                leadership.changed().await.ok()?;
                let fence = leadership.borrow_and_update().clone();
                Some((Leadership(fence), leadership))
            });
            ctx.add_message_stream(leadership);
            let mut watch = watch;
            watch.changed.mark_changed();
            ctx.add_message_stream(futures::stream::unfold(watch, |mut watch| async move {
                watch.changed.changed().await.ok()?;
                watch.changed.mark_unchanged();
                Some((FileChanged, watch))
            }));
            let state = cluster.state();
            ctx.run_interval(LEVEL_CHECK, |actor, ctx| {
                if actor.is_simplified && actor.cluster.feature_level() >= LEVEL_OF_ALL {
                    ctx.notify(FileChanged);
                }
            });
            let reconciler = Reconciler::default();
            Self { reconciler, path, cluster, state, fence: None, timer: None, is_simplified: false }
        });
        Ok(())
    }

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        for effect in self.reconciler.handle(Instant::now(), &state, input) {
            self.perform(effect, ctx);
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::WakeAt(at) => {
                if let Some(timer) = self.timer.take() {
                    ctx.cancel_future(timer);
                }
                let wait = at.saturating_duration_since(Instant::now());
                self.timer = Some(ctx.run_later(wait, |actor, ctx| actor.step(Input::Timer, ctx)));
            }
            Effect::Propose(changes) => {
                let (cluster, fence, addr) = (self.cluster.clone(), self.fence.clone(), ctx.address());
                let count = changes.len();
                let proposal = async move {
                    let outcome = propose::fenced(&cluster, "platform", Command::Batch(changes), fence).await;
                    match &outcome {
                        Ok(applied) => info!(changes = count, revision = %applied.revision, "reconciled"),
                        Err(error) => warn!(changes = count, %error, "the platform's changes were not committed"),
                    }
                    // Closed only when the process ends.
                    let _ = addr.send(Proposed(outcome.is_ok())).await;
                };
                ctx.spawn(proposal.into_actor(self));
            }
        }
    }
}

impl Actor for PlatformActor {
    type Context = Context<Self>;
}

impl Handler<FileChanged> for PlatformActor {
    type Result = ();

    fn handle(&mut self, _: FileChanged, ctx: &mut Context<Self>) {
        match file::read(&self.path) {
            Ok(mut inventory) => {
                self.is_simplified = self.cluster.feature_level() < LEVEL_OF_ALL;
                if self.is_simplified {
                    inventory.simplify();
                }
                self.step(Input::Inventory(inventory), ctx);
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the platform cannot be read; its last state stays in force"
                );
            }
        }
    }
}

impl Handler<Leadership> for PlatformActor {
    type Result = ();

    fn handle(&mut self, Leadership(fence): Leadership, ctx: &mut Context<Self>) {
        let leading = fence.is_some();
        self.fence = fence;
        self.step(Input::Leading(leading), ctx);
    }
}

impl Handler<Proposed> for PlatformActor {
    type Result = ();

    fn handle(&mut self, Proposed(committed): Proposed, ctx: &mut Context<Self>) {
        self.step(Input::Proposed(committed), ctx);
        if self.state.has_changed().is_err() {
            ctx.stop();
        }
    }
}
