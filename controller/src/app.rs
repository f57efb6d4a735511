//! A replica's components, in the order in which they start.
//!
//! ```text
//!   cluster (Raft) ── peer port ── bootstrap or join ── actors (authority, platform, learning, alerts) ── admin ── api ── proxy-api
//! ```

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use conduit_api::proto::{
    self, discovery::discovery_server::DiscoveryServer as DiscoveryService,
    identity::identity_server::IdentityServer as IdentityService, peer::peer_server::PeerServer,
    public::api_server::ApiServer as ApiService, tap::tap_server::TapServer as TapService,
    telemetry::telemetry_server::TelemetryServer as TelemetryService,
};
use conduit_ca::{ClientAuth, FrontProxies, ReplicaTls, Seed, WorkloadTls};
use conduit_consensus::{Cluster, ClusterConfig, JoinError, store};
use futures::FutureExt as _;
use kube::Client;
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
    alerts::{actor::AlertsActor, metrics::AlertMetrics, silence::Silence},
    api::{
        ApiServer,
        aggregated::{self, Aggregation},
        check::Lifetimes,
    },
    authority::{
        actor::{AuthorityActor, Setup},
        roots::Roots,
    },
    clock::{self, Clock},
    config::{ADMIN_PORT, API_PORT, Config, PEER_PORT, PROXY_API_PORT, WEB_PORT, WEBHOOK_PORT},
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
    platform::{Platform, actor::PlatformActor, failing::Failing, kubernetes::client_config, metrics::PlatformMetrics},
    seed,
    serve::{self, Connections, Refusals},
    tap::server::{ATTACH_BYTES_MAX, TapServer},
    telemetry::{
        self, Telemetry,
        server::{TelemetryServer, keep_departures},
    },
    web,
    webhook::server::Webhook,
};

/// Between attempts to join, while no peer answers yet or there is no leader.
const JOIN_RETRY: Duration = Duration::from_millis(200);
/// Between two looks whether somebody lets this replica start the control plane anew, and before it says how: longer than an election takes.
const LET_THROUGH_CHECK: Duration = Duration::from_secs(5);
/// Between two looks whether the others know this replica as it is: longer than any election.
const MEMBERSHIP_CHECK: Duration = Duration::from_secs(5);
/// Until it is known as it is: if it leads, the others look for it where it was.
const MEMBERSHIP_RETRY: Duration = Duration::from_secs(1);
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
        let platform_metrics = PlatformMetrics::default();
        let failing = Failing::default();
        let platform = config.platform(&platform_metrics, &failing).await?;
        let (seed_sender, shared_seed) = watch::channel(Arc::new(platform.seed().await?));
        let ran_before = store::exists(&config.data_dir);
        let (cluster, replica_tls) = start_cluster(&config, &shared_seed.borrow().clone()).await?;
        let issuer = Arc::new(ArcSwapOption::empty());
        let clock = Clock::shifted(config.clock_shift_seconds);
        let telemetry = Arc::new(Mutex::new(
            Telemetry::new(telemetry::server::now(&clock), rand::random()).after_another(ran_before),
        ));
        let own = Own {
            cluster: cluster.clone(),
            registry: Registry::default(),
            telemetry,
            taps: TapServer::new(cluster.state()),
            issuer,
            jwt_issuer: Arc::default(),
            seed: shared_seed.clone(),
            clock,
            refusals: Refusals::default(),
            identity_metrics: IdentityMetrics::default(),
            platform_metrics,
            failing,
            alerts: AlertMetrics::default(),
            silence: Silence::default(),
            started: SystemTime::now(),
        };
        serve_peers(&config, &replica_tls, &own).await?;
        tokio::spawn(seed::follow(platform.clone(), seed_sender, replica_tls));
        let (serving, served) = watch::channel(None);
        let admin = config.listen(ADMIN_PORT);
        let ready = ready(&config, &cluster, served.clone());
        admin::serve(admin, own.clone(), ready).await.with_context(|| format!("cannot listen on {admin}"))?;
        become_member(&config, &*platform, &cluster).await?;

        let roots = Arc::new(Roots {
            seed: shared_seed.clone(),
            trust_domain: config.trust_domain.clone(),
            lifetime: config.root_lifetime,
            own: config.own_issuer(),
            platform: platform.clone(),
            keeping: Default::default(),
        });
        let setup = Setup {
            roots: roots.clone(),
            intermediate_lifetime: config.intermediate_lifetime,
            leaf_lifetime: config.leaf_lifetime,
            dns_names: config.dns_names(),
            serving,
        };
        AuthorityActor::start(setup, own.clone());
        tokio::spawn(clock::keep_comparing(own.clone()));
        tokio::spawn(keep_departures(own.telemetry.clone(), own.cluster.clone(), own.clock.clone()));
        tokio::spawn(tokens::keep(own.clone(), config.intermediate_lifetime));
        tokio::spawn(seed::reseal(own.clone(), roots.clone()));
        let platform_keeps_routes = platform.keeps_routes();
        PlatformActor::start(platform, cluster.clone(), own.platform_metrics.clone());
        let observations = LearningActor::start(cluster.clone(), own.clock.clone());

        let (alert_windows, webhook) = (config.alert_window, config.alert_webhook());
        AlertsActor::start(own.clone(), alert_windows, webhook, config.trust_domain.clone());

        let lifetimes = Lifetimes { intermediate: config.intermediate_lifetime, leaf: config.leaf_lifetime };
        let api = || {
            let (own, roots) = (own.clone(), roots.clone());
            ApiService::new(ApiServer { own, roots, lifetimes, platform_keeps_routes, alert_windows })
        };
        if let Some(socket) = &config.api_socket {
            serve_socket(socket, reflected(api()))?;
        }
        if config.kubernetes {
            let address = config.listen(WEB_PORT);
            web::serve(address, &config.namespace)
                .await
                .with_context(|| format!("cannot listen on {address} for browsers"))?;
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
        tokio::spawn(serve_workloads(config.clone(), own.clone(), identity, api(), observations, served));
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

/// Whether this replica is of use: it has a certificate to serve with. In a cluster it has heard of a leader since it started as well, once: a
/// new release that does not find the others must not take the place of one that does.
fn ready(
    config: &Config,
    cluster: &Cluster,
    served: watch::Receiver<Option<WorkloadTls>>,
) -> impl Fn() -> bool + Send + Sync + 'static {
    let (status, heard) = (cluster.status(), AtomicBool::new(!config.kubernetes));
    move || {
        if status.borrow().leader.is_some() {
            heard.store(true, Ordering::Relaxed);
        }
        heard.load(Ordering::Relaxed) && served.borrow().is_some()
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
async fn become_member(config: &Config, platform: &dyn Platform, cluster: &Cluster) -> anyhow::Result<()> {
    if cluster.is_initialized().await {
        return Ok(());
    }
    let peers = config.other_addresses();
    // Whoever may have forgotten, these have not.
    if config.kubernetes && cluster.join(&peers).await.is_ok() {
        info!(node = %cluster.id(), "joined the control plane");
        return Ok(());
    }
    if platform.pass_gate(&cluster.id().to_string(), peers.is_empty()).await? {
        cluster.initialize().await?;
        info!(node = %cluster.id(), "started a new control plane");
        return Ok(());
    }
    let (mut waiting, mut told, mut looked) = (false, false, Instant::now());
    while let Err(error) = cluster.join(&peers).await {
        if matches!(error, JoinError::Retired) {
            return Err(error.into());
        }
        if !waiting {
            info!(%error, "waiting to join the control plane");
            waiting = true;
        }
        if looked.elapsed() >= LET_THROUGH_CHECK {
            looked = Instant::now();
            if begins_anew(platform, cluster, &mut told).await {
                cluster.initialize().await?;
                warn!(node = %cluster.id(), "somebody has said so: started the control plane anew, with the root that was kept");
                return Ok(());
            }
        }
        sleep(JOIN_RETRY).await;
    }
    info!(node = %cluster.id(), "joined the control plane");
    Ok(())
}

/// Whether a person has said that this replica starts the control plane though another one has before; how to say so, if `told` is not set yet.
async fn begins_anew(platform: &dyn Platform, cluster: &Cluster, told: &mut bool) -> bool {
    let node = cluster.id().to_string();
    if !std::mem::replace(told, true)
        && let Some(advice) = platform.begin_anew_advice(&node)
    {
        warn!(node, advice, "another replica has started the control plane, and none lets this one join");
    }
    let is_let_through = platform.is_let_through(&node).await;
    is_let_through.inspect_err(|error| debug!(%error, "nobody says who starts this control plane")).unwrap_or(false)
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
        sleep(if cluster.is_known() { MEMBERSHIP_CHECK } else { MEMBERSHIP_RETRY }).await;
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
    api: ApiService<ApiServer>,
    observations: Observations,
    mut served: watch::Receiver<Option<WorkloadTls>>,
) {
    let tls = match served.wait_for(Option::is_some).await {
        Ok(tls) => tls.clone().expect("waited for"),
        Err(_) => return,
    };
    let (counts, clock) = (own.telemetry.clone(), own.clock.clone());
    let telemetry = TelemetryServer { telemetry: counts, state: own.cluster.state(), clock };
    let (state, registry) = (own.cluster.state(), own.registry.clone());
    let discovery = DiscoveryServer::new(config.trust_domain.clone(), state, registry, observations);
    let proxies = server()
        .add_service(IdentityService::new(identity))
        .add_service(DiscoveryService::new(discovery))
        .add_service(TelemetryService::new(telemetry))
        .add_service(TapService::new(own.taps.clone()).max_decoding_message_size(ATTACH_BYTES_MAX));
    let listen = |server, port, client| {
        let address = config.listen(port);
        let tls = tls.clone();
        let config = move || tls.server_config(&[b"h2"], client);
        (address, serve::listen(address, config, server, own.refusals.clone()))
    };
    let proxy_api = serve_tls(listen("proxy-api", PROXY_API_PORT, ClientAuth::Optional), proxies);
    let public = async {
        match config.kubernetes {
            // Everybody in a cluster has some certificate, and not everybody may change a mesh.
            true => serve_aggregated(&config, &own, tls.clone(), api).await,
            false => serve_tls(listen("api", API_PORT, ClientAuth::Required), reflected(api)).await,
        }
    };
    tokio::join!(proxy_api, public, serve_webhook(&config, &own, tls.clone()));
}

/// What people ask in Kubernetes, who come by way of the API server, and by no other.
async fn serve_aggregated(config: &Config, own: &Own, tls: WorkloadTls, api: ApiService<ApiServer>) {
    let (proxies, kubeconfig) = (FrontProxies::default(), config.kubeconfig.clone());
    let followed = proxies.clone();
    tokio::spawn(async move {
        if let Err(error) = aggregated::follow(kubeconfig.as_deref(), followed).await {
            error!(error = %format_args!("{error:#}"), "nobody can ask this control plane through the API server");
        }
    });
    let tls = move || tls.server_config_for_front_proxies(&[b"h2", b"http/1.1"], &proxies);
    let aggregation = Aggregation { namespace: config.namespace.as_str().into() };
    let services = server().accept_http1(true).layer(aggregation).add_service(api);
    let address = config.listen(API_PORT);
    match serve::listen(address, tls, "api", own.refusals.clone()).await {
        Ok(connections) => ended("api")(services.serve_with_incoming(connections).await),
        Err(error) => cannot_listen(address, &error),
    }
}

/// In Kubernetes, and where proxies are to be added.
async fn serve_webhook(config: &Config, own: &Own, tls: WorkloadTls) {
    let Some(settings) = &config.injection_file else { return };
    let client =
        match client_config(config.kubeconfig.as_deref()).await.and_then(|config| Ok(Client::try_from(config)?)) {
            Ok(client) => client,
            Err(error) => return error!(error = %format_args!("{error:#}"), "no proxies are added to pods"),
        };
    let address = config.listen(WEBHOOK_PORT);
    let tls = move || tls.server_config(&[b"http/1.1"], ClientAuth::Optional);
    match serve::listen(address, tls, "webhook", own.refusals.clone()).await {
        Ok(connections) => Webhook::new(client, settings).serve(connections).await,
        Err(error) => cannot_listen(address, &error),
    }
}

fn cannot_listen(address: SocketAddr, error: &io::Error) {
    error!(%address, %error, "cannot listen");
    std::process::exit(1);
}

async fn serve_tls(
    (address, listening): (SocketAddr, impl Future<Output = io::Result<Connections>>),
    services: Router,
) {
    match listening.await {
        Ok(connections) => ended("workloads")(services.serve_with_incoming(connections).await),
        Err(error) => cannot_listen(address, &error),
    }
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The public API with gRPC reflection, so that any gRPC tool can be pointed at it: those that know v1, and older ones, which ask for
/// v1alpha.
fn reflected(api: ApiService<ApiServer>) -> Router {
    use tonic_reflection::{pb, server::Builder};

    const OURS: &str = "they are our own, and whole";
    // The descriptors are of all services, and these are the ones that are here.
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(pb::v1alpha::FILE_DESCRIPTOR_SET)
            .with_service_name(proto::public::api_server::SERVICE_NAME)
            .with_service_name(pb::v1::server_reflection_server::SERVICE_NAME)
            .with_service_name(pb::v1alpha::server_reflection_server::SERVICE_NAME)
    };
    server()
        .add_service(api)
        .add_service(reflection().build_v1().expect(OURS))
        .add_service(reflection().build_v1alpha().expect(OURS))
}

fn ended(what: &'static str) -> impl FnOnce(Result<(), tonic::transport::Error>) {
    move |outcome| match outcome {
        Ok(()) => info!(server = what, "stopped serving"),
        Err(error) => warn!(server = what, %error, "stopped serving"),
    }
}
