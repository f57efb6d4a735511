//! The shell of the [`Authority`]: makes keys and certificates, proposes, publishes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::{Actor, AsyncContext as _, Context, Handler, Message, SpawnHandle, WrapFuture as _};
use arc_swap::ArcSwapOption;
use conduit_api::{NodeId, SpiffeId, TrustDomain};
use conduit_ca::{Issuer, KeyPair, Root, Seed, TrustBundle, WorkloadTls, renewal::renew_at};
use conduit_consensus::{CaState, Cluster, Command, Fence, MeshState};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Authority, Effect, Input, IssuerValidity};
use crate::propose;

/// Roots, leadership, one proposal, one timer.
const MAILBOX: usize = 64;

/// The issuer in use, for whoever signs; none until there is a root.
pub type SharedIssuer = Arc<ArcSwapOption<Issuer>>;

/// The TLS that proxies meet, once there is a certificate for it.
pub type ServingTls = watch::Sender<Option<WorkloadTls>>;

/// What an [`AuthorityActor`] is given.
pub struct Setup {
    /// Opens the sealed root.
    pub seed: Arc<Seed>,
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// Of issuing certificates.
    pub intermediate_lifetime: Duration,
    /// Where proxies find the roots at their first start.
    pub trust_bundle_file: Option<PathBuf>,
    /// Filled with this replica's issuer.
    pub issuer: SharedIssuer,
    /// Filled with this replica's serving side.
    pub serving: ServingTls,
}

/// Keeps this replica able to sign.
pub struct AuthorityActor {
    authority: Authority,
    setup: Setup,
    cluster: Cluster,
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
struct RootProposed(bool);

impl AuthorityActor {
    /// Starts it.
    pub fn start(setup: Setup, cluster: Cluster) {
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
            Self { authority: Authority::default(), setup, cluster, state, fence: None, timer: None }
        });
    }

    fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        for effect in self.authority.handle(SystemTime::now(), input) {
            self.perform(effect, ctx);
        }
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::CreateRoot => self.create_root(ctx),
            Effect::CreateIssuer => {
                let input = match self.create_issuer() {
                    Ok(validity) => Input::IssuerCreated(validity),
                    Err(error) => {
                        error!(error = &*error, "this replica cannot issue certificates");
                        Input::IssuerFailed
                    }
                };
                self.step(input, ctx);
            }
            Effect::PublishBundle(roots) => {
                if let Err(error) = self.publish(roots) {
                    error!(error = &*error, "the trust bundle cannot be published");
                }
            }
            Effect::WakeAt(at) => {
                if let Some(timer) = self.timer.take() {
                    ctx.cancel_future(timer);
                }
                let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
                self.timer = Some(ctx.run_later(wait, |actor, ctx| actor.step(Input::Timer, ctx)));
            }
        }
    }

    fn create_root(&mut self, ctx: &mut Context<Self>) {
        let sealed = Root::generate(&self.setup.trust_domain, SystemTime::now())
            .and_then(|root| Ok((root.certificate().to_vec(), root.seal(&self.setup.seed)?)));
        let (cluster, fence, addr) = (self.cluster.clone(), self.fence.clone(), ctx.address());
        let proposal = async move {
            let committed = match sealed {
                Ok((certificate, sealed_key)) => {
                    let command = Command::CaInit { certificate, sealed_key };
                    let outcome = propose::fenced(&cluster, "ca", command, fence).await;
                    outcome.map_err(|error| warn!(%error, "the root was not committed")).is_ok()
                }
                Err(error) => {
                    error!(%error, "cannot make a root");
                    false
                }
            };
            // Closed only when the process ends.
            let _ = addr.send(RootProposed(committed)).await;
        };
        ctx.spawn(proposal.into_actor(self));
    }

    /// Makes an issuer under the newest root, and this replica's own serving certificate with it.
    fn create_issuer(&self) -> anyhow::Result<IssuerValidity> {
        let state = self.state.borrow().clone();
        let ca = state.ca().ok_or_else(|| anyhow::anyhow!("there is no root"))?;
        let record = ca.roots.last().ok_or_else(|| anyhow::anyhow!("there is no root"))?;
        let certificate = CertificateDer::from(record.certificate.to_vec());
        let root = Root::open(certificate, &record.sealed_key, &self.setup.seed)?;
        let now = SystemTime::now();
        let issuer =
            Issuer::new(&root, &self.setup.trust_domain, self.cluster.id(), now, self.setup.intermediate_lifetime)?;
        let not_after = issuer.not_after();
        self.serve_under(&issuer, ca, now)?;
        self.record(&issuer);
        self.setup.issuer.store(Some(Arc::new(issuer)));
        let renew_at = renew_at(now, not_after, rand::random());
        info!(node = %self.cluster.id(), "issuing certificates");
        Ok(IssuerValidity { root: record.certificate.to_vec(), renew_at })
    }

    /// The certificate that proxies meet lives as long as its issuer, and is renewed with it.
    fn serve_under(&self, issuer: &Issuer, ca: &CaState, now: SystemTime) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let id = controller_id(&self.setup.trust_domain)?;
        let issued = issuer.issue(&key.csr()?, &id, now, self.setup.intermediate_lifetime)?;
        let tls = match &*self.setup.serving.borrow() {
            Some(tls) => tls.clone(),
            None => WorkloadTls::new(self.setup.trust_domain.clone(), bundle(ca)?),
        };
        tls.set_identity(&key, issued.chain)?;
        self.setup.serving.send_if_modified(|serving| {
            let first = serving.is_none();
            serving.get_or_insert(tls);
            first
        });
        Ok(())
    }

    /// Notes the issuer in the log, for those who ask who can sign. Signing does not wait for it.
    fn record(&self, issuer: &Issuer) {
        let (cluster, node) = (self.cluster.clone(), self.cluster.id());
        let certificate = issuer.certificate().to_vec();
        tokio::spawn(record_issuer(cluster, node, certificate));
    }

    fn publish(&self, roots: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let bundle = TrustBundle::new(roots.into_iter().map(CertificateDer::from).collect())?;
        if let Some(path) = &self.setup.trust_bundle_file {
            replace_file(path, bundle.to_pem().as_bytes())?;
        }
        if let Some(tls) = &*self.setup.serving.borrow() {
            tls.set_bundle(bundle);
        }
        Ok(())
    }
}

/// The identity that every replica serves proxies under.
///
/// # Errors
/// Never for a valid trust domain.
pub fn controller_id(trust_domain: &TrustDomain) -> Result<SpiffeId, conduit_api::spiffe::ParseSpiffeError> {
    SpiffeId::new(trust_domain, "conduit", "controller")
}

fn bundle(ca: &CaState) -> anyhow::Result<TrustBundle> {
    let roots = ca.roots.iter().map(|root| CertificateDer::from(root.certificate.to_vec())).collect();
    Ok(TrustBundle::new(roots)?)
}

async fn record_issuer(cluster: Cluster, node: NodeId, certificate: Vec<u8>) {
    let command = Command::AddIssuer { node, certificate };
    if let Err(error) = propose::fenced(&cluster, "ca", command, None).await {
        warn!(%error, "this replica's issuer is not in the log yet; `conduit ca status` will not show it");
    }
}

/// Readers see the old content or the new one. Each replica writes through a name of its own.
fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = std::fs::write(&temporary, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // On a full disk every byte counts.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

impl Actor for AuthorityActor {
    type Context = Context<Self>;
}

impl Handler<StateChanged> for AuthorityActor {
    type Result = ();

    fn handle(&mut self, _: StateChanged, ctx: &mut Context<Self>) {
        let state = self.state.borrow().clone();
        let roots = state.ca().map(|ca| ca.roots.iter().map(|root| root.certificate.to_vec()).collect());
        self.step(Input::Roots(roots.unwrap_or_default()), ctx);
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

impl Handler<RootProposed> for AuthorityActor {
    type Result = ();

    fn handle(&mut self, RootProposed(committed): RootProposed, ctx: &mut Context<Self>) {
        self.step(Input::RootProposed(committed), ctx);
    }
}
