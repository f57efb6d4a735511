//! A replica's components, in the order in which they start.
//!
//! ```text
//!   cluster (Raft) ── peer port ── bootstrap or join ── actors (authority, platform, learning) ── admin ── api ── proxy-api
//! ```

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use conduit_api::proto::{
    self, discovery::discovery_server::DiscoveryServer as DiscoveryService,
    identity::identity_server::IdentityServer as IdentityService, peer::peer_server::PeerServer,
    public::api_server::ApiServer as ApiService, tap::tap_server::TapServer as TapService,
    telemetry::telemetry_server::TelemetryServer as TelemetryService,
};
use conduit_ca::{ClientAuth, ReplicaTls, Seed, WorkloadTls};
use conduit_consensus::{Cluster, ClusterConfig, JoinError};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    net::UnixListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Server, server::Router};
use tracing::{debug, error, info, warn};

use crate::{
    admin,
    api::{ApiServer, check::Lifetimes},
    authority::{
        actor::{AuthorityActor, Setup},
        roots::Roots,
    },
    clock::{self, Clock},
    config::{ADMIN_PORT, API_PORT, Config, PEER_PORT, PROXY_API_PORT},
    discovery::{registry::Registry, server::DiscoveryServer},
    identity::{
        attest::{Attestor, LaunchTokens},
        limits::{Limits, Rates},
        metrics::IdentityMetrics,
        server::IdentityServer,
        service_accounts::ServiceAccountTokens,
        tokens,
    },
    learning::actor::{LearningActor, Observations},
    peer::server::Own,
    platform::actor::PlatformActor,
    seed,
    serve::{self, Connections, Refusals},
    tap::server::TapServer,
    telemetry::{Telemetry, server::TelemetryServer},
};

/// Between attempts to join, while no peer answers yet or there is no leader.
const JOIN_RETRY: Duration = Duration::from_millis(200);
/// Between two looks whether the others know this replica as it is: longer than any election.
const MEMBERSHIP_CHECK: Duration = Duration::from_secs(5);
/// A peer that says nothing for this long is probed, so that streams do not sit on a dead connection (grpc-rust#2746).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Each stream's window is small beside the connection's, so that one slow stream does not stall the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A running replica.
pub struct App {
    cluster: Cluster,
    registry: Registry,
    /// Ends when this replica was removed from the control plane.
    membership: JoinHandle<JoinError>,
    api_socket: Option<std::path::PathBuf>,
}

impl App {
    /// Starts everything; returns when this replica is a member and its actors run. Certificates and with them the proxies'
    /// port follow by themselves, as soon as the control plane has a root.
    ///
    /// # Errors
    /// When something that only a person can mend is in the way.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let (seed_sender, shared_seed) = watch::channel(Arc::new(Seed::load(&config.seed_file)?));
        let (cluster, replica_tls) = start_cluster(&config, &shared_seed.borrow().clone()).await?;
        let issuer = Arc::new(ArcSwapOption::empty());
        let telemetry = Arc::new(Mutex::new(Telemetry::new(Instant::now())));
        let own = Own {
            cluster: cluster.clone(),
            registry: Registry::default(),
            telemetry,
            taps: TapServer::new(cluster.state()),
            issuer,
            jwt_issuer: Arc::default(),
            seed: shared_seed.clone(),
            clock: Clock::shifted(config.clock_shift_seconds),
            refusals: Refusals::default(),
            identity_metrics: IdentityMetrics::default(),
        };
        serve_peers(&config, &replica_tls, &own).await?;
        tokio::spawn(seed::follow(config.seed_file.clone(), seed_sender, replica_tls));
        become_member(&config, &cluster).await?;

        let roots = Arc::new(Roots {
            seed: shared_seed.clone(),
            trust_domain: config.trust_domain.clone(),
            lifetime: config.root_lifetime,
            own: config.own_issuer(),
            backup: config.root_backup_file.clone(),
            trust_bundle: config.trust_bundle_file.clone(),
        });
        let (serving, served) = watch::channel(None);
        let setup = Setup {
            roots: roots.clone(),
            intermediate_lifetime: config.intermediate_lifetime,
            leaf_lifetime: config.leaf_lifetime,
            serving,
        };
        AuthorityActor::start(setup, own.clone());
        tokio::spawn(clock::keep_comparing(own.clone()));
        tokio::spawn(tokens::keep(own.clone(), config.intermediate_lifetime));
        tokio::spawn(seed::reseal(own.clone(), roots.clone()));
        PlatformActor::start(config.platform_file.clone(), cluster.clone())?;
        let observations = LearningActor::start(cluster.clone(), own.clock.clone());

        let ready = {
            let served = served.clone();
            move || served.borrow().is_some()
        };
        let admin = config.listen(ADMIN_PORT);
        admin::serve(admin, own.clone(), ready).await.with_context(|| format!("cannot listen on {admin}"))?;
        let lifetimes = Lifetimes { intermediate: config.intermediate_lifetime, leaf: config.leaf_lifetime };
        let api = || ApiService::new(ApiServer { own: own.clone(), roots: roots.clone(), lifetimes });
        if let Some(socket) = &config.api_socket {
            serve_socket(socket, reflected(api())?)?;
        }
        let identity = IdentityServer {
            attestor: attestor(&config, &own).await?,
            trust_domain: config.trust_domain.clone(),
            own: own.clone(),
            serving: served.clone(),
            leaf_lifetime: config.leaf_lifetime,
            limits: Limits::new(Rates {
                per_identity: config.certify_rate_per_identity,
                per_core: config.certify_rate_per_core,
            }),
        };
        let served_api = reflected(api())?;
        tokio::spawn(serve_workloads(config.clone(), own.clone(), identity, served_api, observations, served));
        let membership = tokio::spawn(stay_member(cluster.clone(), config.other_addresses()));
        Ok(Self { cluster, registry: own.registry, membership, api_socket: config.api_socket })
    }

    /// Resolves when this replica can no longer take part, with the reason; the process must then end.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            fatal = self.cluster.fatal() => fatal.into(),
            removed = &mut self.membership => removed.map_or_else(Into::into, Into::into),
        }
    }

    /// Hands leadership over, sends the proxies to other replicas, and stops.
    pub async fn stop(self) {
        self.cluster.step_down().await;
        self.registry.close().await;
        self.cluster.shutdown().await;
        if let Some(socket) = self.api_socket {
            // Whoever looks for it finds another replica's.
            let _ = fs::remove_file(socket);
        }
    }
}

/// Who says who asks for a certificate: the platform.
async fn attestor(config: &Config, own: &Own) -> anyhow::Result<Box<dyn Attestor>> {
    let Some(audience) = &config.service_account_audience else {
        return Ok(Box::new(LaunchTokens { seed: own.seed.clone() }));
    };
    let tokens = ServiceAccountTokens::new(audience, config.kubeconfig.as_deref(), own.clone()).await?;
    tokio::spawn(ServiceAccountTokens::keep_keys(tokens.client(), own.clone()));
    Ok(Box::new(tokens))
}

/// Raft, and how replicas know each other.
async fn start_cluster(config: &Config, seed: &Seed) -> anyhow::Result<(Cluster, ReplicaTls)> {
    let cluster_config = ClusterConfig::new(&config.data_dir, &config.name, config.own_address()?);
    let trust_domain = config.trust_domain.clone();
    let mut replica_tls = None;
    let cluster = Cluster::start(cluster_config, |node| {
        ReplicaTls::new(seed, &trust_domain, node).inspect(|tls| replica_tls = Some(tls.clone()))
    });
    let cluster = cluster.await?;
    info!(node = %cluster.id(), name = %config.name, "started");
    let replica_tls = replica_tls.context("Raft has started without TLS")?;
    Ok((cluster, replica_tls))
}

/// Raft, and what replicas ask of each other.
async fn serve_peers(config: &Config, replica_tls: &ReplicaTls, own: &Own) -> anyhow::Result<()> {
    let address = config.listen(PEER_PORT);
    let tls = replica_tls.server_config();
    let connections = serve::listen(address, move || tls.clone(), "peer", own.refusals.clone())
        .await
        .with_context(|| format!("cannot listen on {address} for other replicas"))?;
    let services = server().add_service(own.cluster.raft_service()).add_service(PeerServer::new(own.clone()));
    tokio::spawn(services.serve_with_incoming(connections).map(ended("peer")));
    Ok(())
}

/// Starts the control plane if nobody ever has, joins it otherwise; nothing, if this replica is a member already.
async fn become_member(config: &Config, cluster: &Cluster) -> anyhow::Result<()> {
    if cluster.is_initialized().await {
        return Ok(());
    }
    if pass_gate(&config.bootstrap_gate, &cluster.id().to_string())
        .with_context(|| format!("cannot use the bootstrap gate {}", config.bootstrap_gate.display()))?
    {
        cluster.initialize().await?;
        info!(node = %cluster.id(), "started a new control plane");
        return Ok(());
    }
    let peers = config.other_addresses();
    let mut waiting = false;
    while let Err(error) = cluster.join(&peers).await {
        if matches!(error, JoinError::Retired) {
            return Err(error.into());
        }
        if !waiting {
            info!(%error, "waiting to join the control plane");
            waiting = true;
        }
        sleep(JOIN_RETRY).await;
    }
    info!(node = %cluster.id(), "joined the control plane");
    Ok(())
}

/// Tells the others whenever they know this replica by another address or release than it has, and asks them when there is
/// no leader for it. Returns when they say that it was removed: nobody would tell it otherwise.
async fn stay_member(cluster: Cluster, peers: Vec<String>) -> JoinError {
    loop {
        let status = cluster.status().borrow().clone();
        if !cluster.is_known() || status.leader.is_none() {
            let own = cluster.id();
            let known = status.members.into_iter().filter(|(id, _)| *id != own).map(|(_, member)| member.address);
            let all: BTreeSet<String> = known.chain(peers.iter().cloned()).collect();
            match cluster.join(&all.into_iter().collect::<Vec<_>>()).await {
                Ok(()) => {}
                Err(error @ JoinError::Retired) => return error,
                Err(error) => debug!(%error, "the members do not know this replica as it is"),
            }
        }
        sleep(MEMBERSHIP_CHECK).await;
    }
}

/// Whether this replica, by its id, is the one that starts the control plane. Exactly one id ever is, also when its replica
/// died in between and comes back to finish.
fn pass_gate(gate: &Path, node: &str) -> io::Result<bool> {
    // The file appears with its content or not at all: an empty one would let nobody pass, ever.
    let own = gate.with_extension(node);
    let write = || {
        let mut file = fs::File::create(&own)?;
        file.write_all(node.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&own, gate)
    };
    let linked = write();
    let _ = fs::remove_file(&own);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(fs::read_to_string(gate)? == node),
        Err(error) => Err(error),
    }
}

/// The public API for callers on this machine: the directory's permissions say who may.
fn serve_socket(path: &Path, api: Router) -> anyhow::Result<()> {
    // Left behind by a process that was killed; the lock on the data directory tells that it is gone.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace the socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    tokio::spawn(api.serve_with_incoming(UnixListenerStream::new(listener)).map(ended("api socket")));
    Ok(())
}

/// `proxy-api` and `api`, as soon as there is a certificate to serve them with.
async fn serve_workloads(
    config: Config,
    own: Own,
    identity: IdentityServer,
    api: Router,
    observations: Observations,
    mut served: watch::Receiver<Option<WorkloadTls>>,
) {
    let tls = match served.wait_for(Option::is_some).await {
        Ok(tls) => tls.clone().expect("waited for"),
        Err(_) => return,
    };
    let telemetry = TelemetryServer { telemetry: own.telemetry.clone(), state: own.cluster.state() };
    let (state, registry) = (own.cluster.state(), own.registry.clone());
    let discovery = DiscoveryServer::new(config.trust_domain.clone(), state, registry, observations);
    let proxies = server()
        .add_service(IdentityService::new(identity))
        .add_service(DiscoveryService::new(discovery))
        .add_service(TelemetryService::new(telemetry))
        .add_service(TapService::new(own.taps.clone()));
    let listen = |server, port, client| {
        let address = config.listen(port);
        let tls = tls.clone();
        let config = move || tls.server_config(&[b"h2"], client);
        (address, serve::listen(address, config, server, own.refusals.clone()))
    };
    let proxy_api = serve_tls(listen("proxy-api", PROXY_API_PORT, ClientAuth::Optional), proxies);
    let public = serve_tls(listen("api", API_PORT, ClientAuth::Required), api);
    tokio::join!(proxy_api, public);
}

async fn serve_tls(
    (address, listening): (SocketAddr, impl Future<Output = io::Result<Connections>>),
    services: Router,
) {
    match listening.await {
        Ok(connections) => ended("workloads")(services.serve_with_incoming(connections).await),
        Err(error) => {
            error!(%address, %error, "cannot listen");
            std::process::exit(1);
        }
    }
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The public API with gRPC reflection, so that any gRPC tool can be pointed at it.
fn reflected(api: ApiService<ApiServer>) -> anyhow::Result<Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()?;
    Ok(server().add_service(api).add_service(reflection))
}

fn ended(what: &'static str) -> impl FnOnce(Result<(), tonic::transport::Error>) {
    move |outcome| match outcome {
        Ok(()) => info!(server = what, "stopped serving"),
        Err(error) => warn!(server = what, %error, "stopped serving"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_passes_the_gate_and_passes_it_again() {
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("gate");
        assert!(pass_gate(&gate, "00000000000000aa").unwrap());
        assert!(!pass_gate(&gate, "00000000000000bb").unwrap());
        assert!(pass_gate(&gate, "00000000000000aa").unwrap());
        assert!(pass_gate(&directory.path().join("no/such/directory"), "x").is_err());
    }
}
