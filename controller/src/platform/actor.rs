//! The shell of the [`Reconciler`]: watches the platform, proposes, keeps its timer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{
    Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message, SpawnHandle, StreamHandler, WrapFuture as _,
};
use conduit_api::Revision;
use conduit_consensus::{Cluster, Command, Fence, MeshState};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    Platform,
    metrics::PlatformMetrics,
    reconciler::{Effect, Input, Reconciler},
    told::Told,
};
use crate::propose;

/// Decisions wait for each other only: one leadership, one proposal at a time.
const MAILBOX: usize = 64;

/// Between two looks whether the state has become another one without the platform, and whether all members have become of this release:
/// then the platform is described to them as it is.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Writes what the platform says into the replicated state, while this replica leads.
pub struct PlatformActor {
    reconciler: Reconciler,
    platform: Arc<dyn Platform>,
    /// What the platform says, as long as this replica leads.
    described: Option<SpawnHandle>,
    cluster: Cluster,
    state: watch::Receiver<Arc<MeshState>>,
    fence: Option<Fence>,
    timer: Option<SpawnHandle>,
    metrics: PlatformMetrics,
    /// What all members understand.
    level: watch::Sender<u32>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Leadership(Option<Fence>);

#[derive(Message)]
#[rtype(result = "()")]
struct Proposed(bool);

impl PlatformActor {
    /// Starts it.
    pub fn start(platform: Arc<dyn Platform>, cluster: Cluster, metrics: PlatformMetrics) {
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
            let state = cluster.state();
            let mut seen = (Revision::default(), 0);
            ctx.run_interval(LOOK_AGAIN, move |actor, ctx| {
                let now = (actor.state.borrow().revision(), actor.cluster.feature_level());
                if std::mem::replace(&mut seen, now) != now {
                    // What a snapshot has brought back is not what runs; and members of a later release understand more of that.
                    actor.step(Input::Timer, ctx);
                }
            });
            Self {
                reconciler: Reconciler::default(),
                platform,
                described: None,
                cluster,
                state,
                fence: None,
                timer: None,
                metrics,
                level: watch::channel(0).0,
            }
        });
    }

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        let level = self.cluster.feature_level();
        self.level.send_if_modified(|known| std::mem::replace(known, level) != level);
        self.reconciler.understood(level);
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

impl StreamHandler<Told> for PlatformActor {
    fn handle(&mut self, told: Told, ctx: &mut Context<Self>) {
        self.metrics.described(SystemTime::now());
        self.step(Input::Told(told), ctx);
    }

    /// What it cannot tell any more stays as it was.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Handler<Leadership> for PlatformActor {
    type Result = ();

    fn handle(&mut self, Leadership(fence): Leadership, ctx: &mut Context<Self>) {
        let leading = fence.is_some();
        self.fence = fence;
        if let Some(described) = self.described.take() {
            ctx.cancel_future(described);
        }
        // Also from one leadership to the next: in between, another replica may have said what runs.
        self.step(Input::Leading(false), ctx);
        if leading {
            self.described = Some(ctx.add_stream(self.platform.told(self.level.subscribe())));
            self.step(Input::Leading(true), ctx);
        }
    }
}

impl Handler<Proposed> for PlatformActor {
    type Result = ();

    fn handle(&mut self, Proposed(committed): Proposed, ctx: &mut Context<Self>) {
        self.metrics.proposed(committed);
        self.step(Input::Proposed(committed), ctx);
        if self.state.has_changed().is_err() {
            ctx.stop();
        }
    }
}
