//! The shell of the [`Authority`]: makes keys and certificates, proposes, publishes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{Actor, AsyncContext as _, Context, Handler, Message, SpawnHandle, WrapFuture as _};
use arc_swap::ArcSwapOption;
use conduit_api::{SpiffeId, TrustDomain};
use conduit_ca::{Issuer, KeyId, KeyPair, TrustBundle, WorkloadTls, renewal::renew_at};
use conduit_consensus::{Command, Fence, MeshState};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Authority, Effect, Input, Issuing, reach, roots::Roots, rotation::Step};
use crate::{discovery::bundle_of, peer::server::Own, propose};

/// Roots, leadership, one proposal, one timer.
const MAILBOX: usize = 64;

/// A certificate that was valid for this long after it should not be is one of a clock that is off.
const GRACE: Duration = Duration::from_secs(3600);

/// The issuer in use, for whoever signs; none until there is a root.
pub type SharedIssuer = Arc<ArcSwapOption<Issuer>>;

/// The TLS that proxies meet, once there is a certificate for it.
pub type ServingTls = watch::Sender<Option<WorkloadTls>>;

/// What an [`AuthorityActor`] is given.
pub struct Setup {
    /// Makes, opens and keeps roots.
    pub roots: Arc<Roots>,
    /// Of issuing certificates.
    pub intermediate_lifetime: Duration,
    /// Of workloads' certificates: a rotation waits for no proxy longer.
    pub leaf_lifetime: Duration,
    /// By which clients outside of the mesh know this replica.
    pub dns_names: Vec<String>,
    /// Filled with this replica's serving side.
    pub serving: ServingTls,
}

/// Keeps this replica able to sign.
pub struct AuthorityActor {
    authority: Authority,
    setup: Setup,
    own: Own,
    state: watch::Receiver<Arc<MeshState>>,
    fence: Option<Fence>,
    timer: Option<SpawnHandle>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct StateChanged;

#[derive(Message)]
#[rtype(result = "()")]
struct Leadership(Option<Fence>);

#[derive(Message)]
#[rtype(result = "()")]
struct Answered(Input);

impl AuthorityActor {
    /// Starts it.
    pub fn start(setup: Setup, own: Own) {
        let cluster = own.cluster.clone();
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let mut state = cluster.state();
            state.mark_changed();
            ctx.add_message_stream(futures::stream::unfold(state, |mut state| async move {
                state.changed().await.ok()?;
                state.mark_unchanged();
                Some((StateChanged, state))
            }));
            let mut leadership = cluster.leadership();
            leadership.mark_changed();
            ctx.add_message_stream(futures::stream::unfold(leadership, |mut leadership| async move {
                leadership.changed().await.ok()?;
                let fence = leadership.borrow_and_update().clone();
                Some((Leadership(fence), leadership))
            }));
            let state = cluster.state();
            let authority = Authority::new(cluster.id(), setup.leaf_lifetime + GRACE);
            Self { authority, setup, own, state, fence: None, timer: None }
        });
    }

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.authority.trust_clock(self.own.clock.mistrusted().is_none());
        for effect in self.authority.handle(self.own.clock.now(), input) {
            self.perform(effect, ctx);
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::CreateRoot => self.create_root(ctx),
            Effect::CreateIssuer => {
                let input = match self.create_issuer() {
                    Ok(issuing) => Input::IssuerCreated(issuing),
                    Err(error) => {
                        error!(error = &*error, "this replica cannot issue certificates");
                        Input::IssuerFailed
                    }
                };
                answer(input, ctx);
            }
            Effect::RecordIssuer => self.record_issuer(),
            Effect::Publish(_) => {
                if let Err(error) = self.publish() {
                    error!(error = &*error, "the trust bundle cannot be published");
                }
            }
            Effect::Keep(ca) => {
                let (roots, addr) = (self.setup.roots.clone(), ctx.address());
                let keep = async move {
                    let input = match roots.keep(&ca).await {
                        Ok(()) => Input::Kept(ca),
                        Err(error) => {
                            error!(error = %format_args!("{error:#}"), "the platform does not have the latest trust root yet");
                            Input::NotKept
                        }
                    };
                    // Closed only when the process ends.
                    let _ = addr.send(Answered(input)).await;
                };
                ctx.spawn(keep.into_actor(self));
            }
            Effect::Measure => self.measure(ctx),
            Effect::Rotate(step) => self.rotate(step, ctx),
            Effect::WakeAt(at) => {
                if let Some(timer) = self.timer.take() {
                    ctx.cancel_future(timer);
                }
                let wait = at.duration_since(self.own.clock.now()).unwrap_or_default();
                self.timer = Some(ctx.run_later(wait, |actor, ctx| actor.step(Input::Timer, ctx)));
            }
        }
    }

    fn create_root(&self, ctx: &mut Context<Self>) {
        let (roots, now) = (self.setup.roots.clone(), self.own.clock.now());
        self.propose(async move { roots.first(now).await }, ctx);
    }

    fn rotate(&self, step: Step, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        let command = match step {
            Step::Prepare => match state.ca() {
                Some(ca) => self.setup.roots.prepare(ca, None, self.own.clock.now()).map_err(Into::into),
                None => Err(anyhow::anyhow!("there is no root to follow")),
            },
            Step::Activate(root) => Ok(Command::ActivateRoot { root }),
            Step::Drop(root) => Ok(Command::DropRoot { root }),
        };
        self.propose(std::future::ready(command), ctx);
    }

    /// On behalf of the present leadership.
    fn propose(&self, command: impl Future<Output = anyhow::Result<Command>> + 'static, ctx: &mut Context<Self>) {
        let (cluster, fence, addr) = (self.own.cluster.clone(), self.fence.clone(), ctx.address());
        let proposal = async move {
            let committed = match command.await {
                Ok(command) => {
                    let what = command.to_string();
                    let outcome = propose::fenced(&cluster, "ca", command, fence).await;
                    outcome.map_err(|error| warn!(%error, what, "not committed")).is_ok()
                }
                Err(error) => {
                    error!(error = %format_args!("{error:#}"), "there is no trust root");
                    false
                }
            };
            // Closed only when the process ends.
            let _ = addr.send(Answered(Input::Proposed(committed))).await;
        };
        ctx.spawn(proposal.into_actor(self));
    }

    fn measure(&self, ctx: &mut Context<Self>) {
        let (own, state, addr) = (self.own.clone(), self.state.borrow().clone(), ctx.address());
        // Other replicas are asked: not on the actors' thread.
        let measured = tokio::spawn(async move {
            if let Some(ca) = state.ca()
                && let Some(reached) = reach::reached(&own, ca).await
            {
                let _ = addr.send(Answered(Input::Measured(reached))).await;
            }
        });
        drop(measured);
    }

    /// Makes an issuer under the active root, and this replica's own serving certificate with it.
    fn create_issuer(&self) -> anyhow::Result<Issuing> {
        let state = self.state.borrow().clone();
        let ca = state.ca().ok_or_else(|| anyhow::anyhow!("there is no root"))?;
        let record = ca.active().ok_or_else(|| anyhow::anyhow!("there is no root"))?;
        let root = self.setup.roots.open(record)?;
        let link = record.link.as_ref().map(|link| CertificateDer::from(link.certificate.clone()));
        let linked = link.is_some();
        let now = self.own.clock.now();
        let issuer = Issuer::new(&root, link, self.own.cluster.id(), now, self.setup.intermediate_lifetime)?;
        let not_after = issuer.not_after();
        let id = KeyId::of(issuer.certificate()).ok_or_else(|| anyhow::anyhow!("the issuer has no key identifier"))?;
        self.serve_under(&issuer, &state, now)?;
        let renew_at = renew_at(now, not_after, rand::random());
        let issuing = Issuing { id, root: issuer.root().clone(), linked, renew_at };
        self.own.issuer.store(Some(Arc::new(issuer)));
        info!(node = %self.own.cluster.id(), root = %issuing.root, "issuing certificates");
        Ok(issuing)
    }

    /// The certificate that proxies meet lives as long as its issuer, and is renewed with it.
    fn serve_under(&self, issuer: &Issuer, state: &MeshState, now: SystemTime) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let trust_domain = &self.setup.roots.trust_domain;
        let id = controller_id(trust_domain)?;
        let lifetime = self.setup.intermediate_lifetime;
        let issued = issuer.issue_named(&key.csr()?, &id, &self.setup.dns_names, now, lifetime)?;
        let tls = match &*self.setup.serving.borrow() {
            Some(tls) => tls.clone(),
            None => WorkloadTls::new(trust_domain.clone(), bundle(state)?),
        };
        tls.set_identity(&key, issued.chain)?;
        self.setup.serving.send_if_modified(|serving| {
            let first = serving.is_none();
            serving.get_or_insert(tls);
            first
        });
        Ok(())
    }

    /// Signing does not wait for it.
    fn record_issuer(&self) {
        let Some(issuer) = self.own.issuer.load_full() else { return };
        let certificate = issuer.certificate();
        let id = KeyId::of(certificate).unwrap_or_default();
        let command = Command::AddIssuer { node: self.own.cluster.id(), id, certificate: certificate.to_vec() };
        let cluster = self.own.cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = propose::fenced(&cluster, "ca", command, None).await {
                warn!(%error, "this replica's issuer is not in the log yet; it could not be revoked");
            }
        });
    }

    /// To whoever connects from now on; proxies are told by discovery.
    fn publish(&self) -> anyhow::Result<()> {
        if let Some(tls) = &*self.setup.serving.borrow() {
            tls.set_bundle(bundle(&self.state.borrow())?);
        }
        Ok(())
    }
}

/// When all effects of this step are done: the time to be woken at is the one that the answer's step says.
fn answer(input: Input, ctx: &mut Context<AuthorityActor>) {
    ctx.notify(Answered(input));
}

/// The identity that every replica serves proxies under.
///
/// # Errors
/// Never for a valid trust domain.
pub fn controller_id(trust_domain: &TrustDomain) -> Result<SpiffeId, conduit_api::spiffe::ParseSpiffeError> {
    SpiffeId::new(trust_domain, "conduit", "controller")
}

/// Whom this replica lets in. Other trust domains' workloads are peers of our workloads, and nobody to the control plane.
fn bundle(state: &MeshState) -> anyhow::Result<TrustBundle> {
    let mut bundle = TrustBundle::try_from(bundle_of(state).ok_or_else(|| anyhow::anyhow!("there is no root"))?)?;
    bundle.federated.clear();
    Ok(bundle)
}

impl Actor for AuthorityActor {
    type Context = Context<Self>;
}

impl Handler<StateChanged> for AuthorityActor {
    type Result = ();

    fn handle(&mut self, _: StateChanged, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        self.step(Input::Ca(state.ca().cloned()), ctx);
    }
}

impl Handler<Leadership> for AuthorityActor {
    type Result = ();

    fn handle(&mut self, Leadership(fence): Leadership, ctx: &mut Context<Self>) {
        let leading = fence.is_some();
        self.fence = fence;
        self.step(Input::Leading(leading), ctx);
    }
}

impl Handler<Answered> for AuthorityActor {
    type Result = ();

    fn handle(&mut self, Answered(input): Answered, ctx: &mut Context<Self>) {
        self.step(input, ctx);
    }
}
