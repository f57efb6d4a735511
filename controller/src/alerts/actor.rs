//! The shell: the leader looks, writes down what has changed, and tells the webhook.

use std::{sync::Arc, time::Duration};

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use conduit_api::TrustDomain;
use conduit_consensus::{AlertEvent, Command, Delivery, Fence, MeshState, OBJECTIVES_LEVEL, Outcome, Transition};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    Windows,
    delivery::{Deliveries, Task, is_current, key},
    measured::{Assessed, measure},
    message::{body, id},
    sender::Webhook,
};
use crate::{
    peer::server::Own,
    propose::{self, unix_ms},
};

/// Between two looks whether there is somebody to be told something.
const DELIVERY_CHECK: Duration = Duration::from_secs(1);
/// For the log's own sake: alerts are no changes that somebody has made.
const WHO: &str = "alerts";

/// Looks after promises while this replica leads.
pub struct AlertsActor {
    own: Own,
    windows: Windows,
    webhook: Option<Arc<Webhook>>,
    trust_domain: TrustDomain,
    state: watch::Receiver<Arc<MeshState>>,
    deliveries: Deliveries,
    /// Events that were forgotten before they were told, as far as it was said.
    dropped: u64,
    /// One of each at a time.
    is_looking: bool,
    is_telling: bool,
}

impl AlertsActor {
    /// Starts it.
    pub fn start(own: Own, windows: Windows, webhook: Option<Webhook>, trust_domain: TrustDomain) {
        Self::create(|ctx| {
            ctx.run_interval(windows.interval(), Self::look);
            ctx.run_interval(DELIVERY_CHECK, Self::tell);
            let (state, webhook) = (own.cluster.state(), webhook.map(Arc::new));
            let deliveries = Deliveries::default();
            let dropped = state.borrow().alert_events_dropped();
            let (is_looking, is_telling) = (false, false);
            Self { own, windows, webhook, trust_domain, state, deliveries, dropped, is_looking, is_telling }
        });
    }

    /// This leadership, as long as there is somebody to lead: who is deposed and does not know it must tell nobody anything. Nor must who could
    /// not write down that it has.
    fn fence(&self) -> Option<Fence> {
        let cluster = &self.own.cluster;
        let can_write = cluster.has_quorum() && cluster.feature_level() >= OBJECTIVES_LEVEL;
        cluster.leadership().borrow().clone().filter(|_| can_write)
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        let Some(fence) = self.fence().filter(|_| !state.objectives().is_empty()) else {
            return self.own.alerts.assessed(&[]);
        };
        if std::mem::replace(&mut self.is_looking, true) {
            return;
        }
        let (own, windows, tell) = (self.own.clone(), self.windows, self.webhook.is_some());
        let look = async move {
            let measured = measure(&own, windows, state.objectives()).await;
            // What was changed meanwhile is looked at as it is now.
            let state = own.cluster.state().borrow().clone();
            let assessed = measured.assess(state.objectives(), state.firing());
            for assessed in &assessed {
                record(&own, fence.clone(), assessed, tell).await;
            }
            own.alerts.assessed(&assessed);
        };
        ctx.spawn(look.into_actor(self).map(|(), actor, _| actor.is_looking = false));
    }

    fn tell(&mut self, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        self.note_dropped(state.alert_events_dropped());
        let (Some(fence), false) = (self.fence(), self.is_telling) else { return };
        match self.deliveries.next(Instant::now(), state.alert_events()) {
            Some(Task::Tell(event)) => self.tell_of(event, fence, ctx),
            Some(Task::WriteDown(event, delivery)) => self.write_down(event, delivery, fence, ctx),
            None => {}
        }
    }

    /// Every replica says so, once.
    fn note_dropped(&mut self, dropped: u64) {
        let was = std::mem::replace(&mut self.dropped, dropped);
        if dropped > was {
            let count = dropped - was;
            warn!(count, "alerts were forgotten before the webhook was told of them: see why it does not take any");
        }
    }

    fn tell_of(&mut self, event: AlertEvent, fence: Fence, ctx: &mut Context<Self>) {
        self.is_telling = true;
        let (own, webhook, trust_domain) = (self.own.clone(), self.webhook.clone(), self.trust_domain.clone());
        let told = {
            let event = event.clone();
            async move {
                // Another replica has one, or this one gets it back.
                let Some(webhook) = webhook else { return false };
                let seconds = unix_ms(own.clock.now()) / 1_000;
                let told = webhook.tell(body(&event, &trust_domain), seconds).await;
                own.alerts.attempted(told.is_ok());
                if let Err(error) = &told {
                    let error = format!("{error:#}");
                    warn!(alert = id(&event), error, "the webhook was not told of an alert");
                }
                told.is_ok()
            }
        };
        let attempted = move |taken: bool, actor: &mut Self, ctx: &mut Context<Self>| {
            actor.is_telling = false;
            let key = key(&event);
            // As it is now.
            let state = actor.state.borrow().clone();
            actor.deliveries.attempted(Instant::now(), key, taken, is_current(key, state.alert_events()));
            if taken {
                actor.write_down(event, Delivery::Told, fence, ctx);
            }
        };
        ctx.spawn(told.into_actor(self).map(attempted));
    }

    /// Until it is written down nothing else is told of that alert.
    fn write_down(&mut self, event: AlertEvent, delivery: Delivery, fence: Fence, ctx: &mut Context<Self>) {
        let key = key(&event);
        let command = Command::AlertTold { id: event.id, indicator: event.indicator, delivery };
        let cluster = self.own.cluster.clone();
        let proposal = async move { propose::fenced(&cluster, WHO, command, Some(fence)).await };
        self.is_telling = true;
        let done = move |written: Result<_, _>, actor: &mut Self, _: &mut Context<Self>| {
            actor.is_telling = false;
            if let Err(error) = written {
                actor.deliveries.not_written(Instant::now(), key);
                warn!(alert = id(&event), %error, "what became of telling the webhook was not committed; that is tried again");
            }
        };
        ctx.spawn(proposal.into_actor(self).map(done));
    }
}

/// Writes down what has changed, if this replica leads still.
async fn record(own: &Own, fence: Fence, assessed: &Assessed, tell: bool) {
    let Some(severity) = assessed.transition() else { return };
    let (resource, indicator, version) = (assessed.resource.clone(), assessed.goal.indicator(), assessed.version);
    let command = Command::RecordAlert(Transition { resource, indicator, version, severity, tell });
    let what = command.to_string();
    match propose::fenced(&own.cluster, WHO, command, Some(fence)).await {
        Ok(applied) if applied.outcome == Outcome::Done => info!(what, "an objective"),
        // Somebody has changed it meanwhile.
        Ok(_) => {}
        Err(error) => warn!(%error, what, "an alert was not committed"),
    }
}

impl Actor for AlertsActor {
    type Context = Context<Self>;
}
