//! The shell of [`lessons`]: proposes, one lesson after the other.

use std::{sync::Arc, time::Duration};

use actix::{Actor, AsyncContext as _, Context, Handler, Message, WrapFuture as _};
use conduit_consensus::{Cluster, Command, Fence, MeshState};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tracing::{debug, warn};

use super::{Observation, expired, lessons};
use crate::{clock::Clock, propose};

/// Observations that wait for an earlier one to be committed. Past it they are dropped: proxies see the same again.
const OBSERVATIONS_MAX: usize = 256;
/// Between two looks of the leader for what is to be forgotten.
const SWEEP: Duration = Duration::from_secs(60);
/// For the audit.
const WHO: &str = "learning";

/// Where what proxies have seen is handed in.
#[derive(Clone)]
pub struct Observations(mpsc::Sender<Observation>);

impl Observations {
    /// With nobody behind it who would learn.
    pub fn ignored() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Takes `observation` on, if there is room.
    pub fn tell(&self, observation: Observation) {
        if self.0.try_send(observation).is_err() {
            debug!("there is more to learn than is learned; it will be seen again");
        }
    }
}

/// Writes what is learned into the replicated state.
pub struct LearningActor {
    cluster: Cluster,
    clock: Clock,
    state: watch::Receiver<Arc<MeshState>>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Seen(Observation);

impl LearningActor {
    /// Starts it.
    pub fn start(cluster: Cluster, clock: Clock) -> Observations {
        let (sender, observations) = mpsc::channel(OBSERVATIONS_MAX);
        Self::create(|ctx| {
            ctx.add_message_stream(ReceiverStream::new(observations).map(Seen));
            ctx.run_interval(SWEEP, Self::sweep);
            let state = cluster.state();
            Self { cluster, clock, state }
        });
        Observations(sender)
    }

    fn now_ms(&self) -> u64 {
        propose::unix_ms(self.clock.now())
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let Some(fence) = self.cluster.leadership().borrow().clone() else { return };
        let forget = expired(&self.state.borrow(), self.now_ms());
        if let Some(command) = forget {
            self.propose(vec![command], Some(fence), ctx);
        }
    }

    /// Nothing else is handled before they are committed, or known not to be.
    fn propose(&self, commands: Vec<Command>, fence: Option<Fence>, ctx: &mut Context<Self>) {
        let cluster = self.cluster.clone();
        let proposals = async move {
            for command in commands {
                let what = command.to_string();
                if let Err(error) = propose::fenced(&cluster, WHO, command, fence.clone()).await {
                    warn!(%error, what, "what proxies have seen was not committed");
                }
            }
        };
        ctx.wait(proposals.into_actor(self));
    }
}

impl Actor for LearningActor {
    type Context = Context<Self>;
}

impl Handler<Seen> for LearningActor {
    type Result = ();

    fn handle(&mut self, Seen(observation): Seen, ctx: &mut Context<Self>) {
        let commands = lessons(&self.state.borrow(), &observation, self.now_ms());
        if !commands.is_empty() {
            self.propose(commands, None, ctx);
        }
    }
}
