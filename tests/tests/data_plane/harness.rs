//! A controller, real and alone, and proxies in this process: on loopback addresses, without namespaces or redirection.
//!
//! A pod has an address of its own. Its proxy's inbound listener is where redirection would have led its peers, and the
//! application is behind it at [`APP_PORT`]; its clients connect to the outbound listener at an address that stands for
//! the original destination.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use conduit_api::journal::{AccessLog, Sampling};
use conduit_api::proto::{
    cache::Cache,
    public::{
        ApplyRequest, ExplainRequest, PodsRequest, ResourceSelection, WaitRequest, api_client::ApiClient,
        explain_request,
    },
    route,
};
use conduit_api::{
    Balancing, Endpoint, Pod, PodName, PodPorts, Service, ServiceName, ServicePort, SpiffeId, TrustDomain, WorkloadRef,
    mesh::Inventory,
};
use conduit_ca::{LaunchToken, Seed};
use conduit_proxy::{app, config::Config, original::OriginalDestination};
use http::{Response, Uri};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::oneshot,
    time::{Instant, sleep},
};
use tonic::transport::Channel;
use tower::service_fn;

/// Where applications listen.
pub const APP_PORT: u16 = 8080;
const INBOUND_PORT: u16 = 4143;
const METRICS_PORT: u16 = 4191;
/// Outbound listeners, one to a pod: below the ports that the kernel gives to clients.
const FIRST_OUTBOUND_PORT: u16 = 24_140;
const PODS_MAX: u8 = 8;
const SERVICES_MAX: u8 = 8;
/// Whatever is waited for is there by then, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// One control plane and its pods.
pub struct Mesh {
    number: u8,
    directory: TempDir,
    command: Command,
    controller: Child,
    seed: Seed,
    inventory: Inventory,
    published: u32,
    pods: u8,
}

/// A pod with a proxy.
pub struct Meshed {
    pub name: PodName,
    pub ip: IpAddr,
    number: u8,
    mesh: u8,
    config: Config,
    stop: Option<oneshot::Sender<()>>,
    proxy: Option<JoinHandle<anyhow::Result<()>>>,
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// The identity of what runs as `service_account`.
pub fn identity(service_account: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), "test", service_account).unwrap()
}

impl Mesh {
    /// A control plane that knows of nothing yet.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more flags for the controller.
    pub fn start_with(flags: &[&str]) -> Self {
        static MESHES: AtomicU8 = AtomicU8::new(1);
        let number = MESHES.fetch_add(1, Ordering::Relaxed);
        let directory = TempDir::with_prefix("conduit-data-plane-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let seed = Seed::generate();
        seed.save_new(&path("seed")).unwrap();
        let ip = IpAddr::from([127, 77, number, 200]);
        let log = fs::File::create(path("controller.log")).unwrap();
        fs::write(path("platform.json"), r#"{"services":[],"pods":[]}"#).unwrap();
        let mut command = Command::new(programs().join("conduit-controller"));
        command
            .args(["--name", "controller-0", "--peers", &format!("controller-0={ip}:8300")])
            .args(["--listen-ip", &ip.to_string()])
            .args(["--data-dir".into(), path("data")])
            .args(["--seed-file".into(), path("seed")])
            .args(["--platform-file".into(), path("platform.json")])
            .args(["--bootstrap-gate".into(), path("gate")])
            .args(["--trust-bundle-file".into(), path("anchors.pem")])
            .args(["--api-socket".into(), path("api.sock")])
            .args(flags)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null());
        let controller = command.spawn().unwrap();
        Self { number, directory, command, controller, seed, inventory: Inventory::default(), published: 0, pods: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The only replica is gone at once.
    pub fn kill_controller(&mut self) {
        self.controller.kill().unwrap();
        self.controller.wait().unwrap();
    }

    /// It is back, with the disk that it had.
    pub fn start_controller(&mut self) {
        self.controller = self.command.spawn().unwrap();
    }

    /// Nobody is answered for a while.
    pub async fn pause_controller(&self, pause: Duration) {
        let pid = Pid::from_raw(self.controller.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        sleep(pause).await;
        kill(pid, Signal::SIGCONT).unwrap();
    }

    /// A pod that runs as `name`, with its proxy, which is ready.
    pub async fn pod(&mut self, name: &str) -> Meshed {
        self.pod_with(name, |_| {}).await
    }

    /// The same, with a proxy that is told something else.
    pub async fn pod_with(&mut self, name: &str, change: impl FnOnce(&mut Config)) -> Meshed {
        let number = self.pods;
        self.pods += 1;
        assert!(number < PODS_MAX);
        let pod = PodName::new("test", &format!("{name}-{number}")).unwrap();
        let ip = IpAddr::from([127, 77, self.number, number + 1]);
        let running = Pod {
            name: pod.clone(),
            ip,
            workload: Some(WorkloadRef { kind: "deployment".into(), name: name.into() }),
            service_account: name.into(),
            uid: None,
            ports: PodPorts::default(),
            zone: None,
            meshed: true,
            ready: true,
            application_ended: false,
        };
        self.inventory.pods.push(running);
        self.publish().await;
        let token = LaunchToken { namespace: "test".into(), service_account: name.into(), pod: pod.name().to_owned() };
        let token_file = self.path(&format!("{}.token", pod.name()));
        fs::write(&token_file, token.mint(&self.seed, SystemTime::now() + Duration::from_secs(3600))).unwrap();
        let outbound = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), outbound_port(self.number, number));
        let mut config = Config {
            pod,
            pod_ip: ip,
            controllers: vec![format!("127.77.{}.200:8086", self.number)],
            trust_domain: trust_domain(),
            trust_anchors: self.path("anchors.pem"),
            token: token_file,
            outbound,
            inbound: (ip, INBOUND_PORT).into(),
            metrics: (ip, METRICS_PORT).into(),
            // Known when the services are.
            original: OriginalDestination::Kernel,
            socket_mark: None,
            workload_api: None,
            opaque_ports: Vec::new(),
            cache: Some(self.path(&format!("{name}-{number}.cache"))),
            access_log: AccessLog::None,
            access_log_file: None,
            payloads: Default::default(),
            trace_collector: None,
            trace_sampling: Sampling::default(),
            workload: Some(name.to_owned()),
            cores: 2,
        };
        change(&mut config);
        let mut meshed =
            Meshed { name: config.pod.clone(), ip, number, mesh: self.number, config, stop: None, proxy: None };
        self.start_proxy(&mut meshed).await;
        meshed
    }

    /// Starts the proxy, which is not running, and waits until it is ready.
    pub async fn start_proxy(&self, meshed: &mut Meshed) {
        let original = OriginalDestination::Table(Arc::new(meshed.originals()));
        let config = Config { original, ..meshed.config.clone() };
        let (stop, stopped) = oneshot::channel();
        meshed.stop = Some(stop);
        meshed.proxy = Some(thread::spawn(move || {
            app::runtime().unwrap().block_on(app::run(config, async {
                // Dropped or sent: it is told to stop.
                let _ = stopped.await;
            }))
        }));
        self.wait("the proxy is ready", async || meshed.admin("/ready").await.is_some_and(|a| a.contains("200 OK")))
            .await;
    }

    /// Makes `service` number `number` known, with these endpoints, each a pod and the identity it is said to have.
    pub async fn service(&mut self, number: u8, endpoints: &[(&Meshed, SpiffeId)]) {
        assert!(number < SERVICES_MAX);
        let endpoint = |(pod, identity): &(&Meshed, SpiffeId)| {
            let address = pod.inbound();
            let workload = WorkloadRef { kind: "deployment".into(), name: "server".into() };
            let (pod, workload, identity) = (Some(pod.name.clone()), Some(workload), Some(identity.clone()));
            let zone = self.inventory.pods.iter().find(|known| Some(&known.name) == pod.as_ref());
            let zone = zone.and_then(|pod| pod.zone.clone());
            (address, Endpoint { address, pod, workload, identity, zone })
        };
        let port = ServicePort { endpoints: endpoints.iter().map(endpoint).collect(), ..ServicePort::default() };
        let name = ServiceName::new("test", &format!("service-{number}")).unwrap();
        self.inventory.services.retain(|service| service.name != name);
        let cluster_ips = [service_address(number).ip()].into();
        self.inventory.services.push(Service {
            name,
            cluster_ips,
            ports: [(80, port)].into(),
            balancing: Balancing { prefer_own_zone: true, ..Balancing::default() },
        });
        self.publish().await;
    }

    /// Returns when the control plane has committed it: all of an inventory becomes visible at once, so that the pod which
    /// is different in each tells which one it is.
    async fn publish(&mut self) {
        self.published += 1;
        let marker = PodName::new("test", &format!("inventory-{}", self.published)).unwrap();
        self.inventory.pods.retain(|pod| pod.meshed);
        self.inventory.pods.push(Pod {
            name: marker.clone(),
            ip: [127, 77, self.number, 250].into(),
            workload: None,
            service_account: "default".into(),
            uid: None,
            ports: PodPorts::default(),
            zone: None,
            meshed: false,
            ready: false,
            application_ended: false,
        });
        let new = self.path("platform.json.new");
        fs::write(&new, serde_json::to_vec(&self.inventory).unwrap()).unwrap();
        fs::rename(new, self.path("platform.json")).unwrap();
        self.wait("the change is committed", async || self.knows(&marker).await).await;
    }

    /// The control plane, as people reach it.
    pub async fn api(&self) -> Option<ApiClient<Channel>> {
        let socket = self.path("api.sock");
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let uri = Uri::from_static("http://controller");
        Channel::builder(uri).connect_with_connector(connect).await.ok().map(ApiClient::new)
    }

    async fn knows(&self, pod: &PodName) -> bool {
        let Some(mut api) = self.api().await else { return false };
        let known = api.pods(PodsRequest { namespace: "test".into(), skip_connected: false }).await;
        known.is_ok_and(|known| known.into_inner().pods.iter().any(|known| known.name == pod.name()))
    }

    /// What the control plane says of connections from `from` to service `number`, about `about`.
    pub async fn explained(&self, from: &Meshed, number: u8, about: &str) -> String {
        let from = ResourceSelection {
            kind: "pod".into(),
            namespace: from.name.namespace().into(),
            name: from.name.name().into(),
        };
        let to = Some(explain_request::To::Host(format!("service-{number}")));
        let request = ExplainRequest { from: Some(from), to, port: 80, ..ExplainRequest::default() };
        let answer = self.api().await.unwrap().explain(request).await.unwrap().into_inner();
        answer.steps.into_iter().find(|step| step.about == about).map(|step| step.reason).unwrap_or_default()
    }

    /// Makes service 0 known, with `pod` as its endpoint, which is reached at `address`.
    pub async fn service_at(&mut self, address: SocketAddr, pod: &Meshed, identity: SpiffeId) {
        let endpoint =
            Endpoint { address, pod: Some(pod.name.clone()), workload: None, identity: Some(identity), zone: None };
        let port = ServicePort { endpoints: [(address, endpoint)].into(), ..ServicePort::default() };
        self.inventory.services.push(Service {
            name: ServiceName::new("test", "service-0").unwrap(),
            cluster_ips: [service_address(0).ip()].into(),
            ports: [(80, port)].into(),
            balancing: Balancing::default(),
        });
        self.publish().await;
    }

    /// Makes service 0 known, with one endpoint that is nowhere in the mesh; it has an address of IPv6 as well.
    pub async fn foreign_service(&mut self, address: SocketAddr) {
        let endpoint = Endpoint { address, pod: None, workload: None, identity: None, zone: None };
        let port = ServicePort { endpoints: [(address, endpoint)].into(), ..ServicePort::default() };
        self.inventory.services.push(Service {
            name: ServiceName::new("test", "service-0").unwrap(),
            cluster_ips: [service_address(0).ip(), SERVICE_IPV6.into()].into(),
            ports: [(80, port)].into(),
            balancing: Balancing::default(),
        });
        self.publish().await;
    }

    /// Says where a pod runs; services that are described from then on say so too.
    pub async fn runs_in(&mut self, pod: &Meshed, zone: &str) {
        let known = self.inventory.pods.iter_mut().find(|known| known.name == pod.name).unwrap();
        known.zone = Some(zone.to_owned());
        self.publish().await;
    }

    /// Says that connections to service `number` carry bytes.
    pub async fn opaque(&mut self, number: u8) {
        let name = ServiceName::new("test", &format!("service-{number}")).unwrap();
        let service = self.inventory.services.iter_mut().find(|service| service.name == name).unwrap();
        service.ports.get_mut(&80).unwrap().opaque = true;
        self.publish().await;
    }

    /// Routes the requests of service 0 by `rules`, and returns when that is in force everywhere; the revision.
    pub async fn route(&self, rules: Vec<route::Rule>) -> u64 {
        let parents = vec![route::Parent { service: "service-0".into(), port: None }];
        let route = route::HttpRoute { namespace: "test".into(), name: "route".into(), parents, rules };
        let request = ApplyRequest { routes: vec![route], removals: Vec::new() };
        let applied = self.api().await.unwrap().apply(request).await.unwrap().into_inner();
        self.in_force(applied.revision).await;
        applied.revision
    }

    /// Returns when `revision` is in force in every proxy.
    pub async fn in_force(&self, revision: u64) {
        let request = WaitRequest { revision, acknowledged: true };
        self.wait("every proxy has acknowledged it", async || {
            self.api().await.unwrap().wait(request).await.unwrap().into_inner().done
        })
        .await;
    }

    /// Until `look` says so.
    pub async fn wait(&self, what: &str, mut look: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !look().await {
            let log = || fs::read_to_string(self.path("controller.log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", log());
            sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // It was started here and nobody else knows it.
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

/// Of service 0.
const SERVICE_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 77, 0, 0, 0, 0, 0, 1);

fn outbound_port(mesh: u8, pod: u8) -> u16 {
    FIRST_OUTBOUND_PORT + u16::from(mesh) * u16::from(PODS_MAX) + u16::from(pod)
}

fn service_address(number: u8) -> SocketAddr {
    ([10, 96, 77, number + 1], 80).into()
}

impl Meshed {
    /// Where its peers reach it.
    pub fn inbound(&self) -> SocketAddr {
        (self.ip, INBOUND_PORT).into()
    }

    /// Where its clients connect to when they mean a service.
    pub fn towards(&self, service: u8) -> SocketAddr {
        ([127, 78, self.mesh, service + 1], outbound_port(self.mesh, self.number)).into()
    }

    /// ... and service 0, over IPv6.
    pub fn towards_over_ipv6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, outbound_port(self.mesh, self.number)).into()
    }

    /// ... and when they mean the proxy itself.
    pub fn towards_itself(&self) -> SocketAddr {
        ([127, 78, self.mesh, 100], outbound_port(self.mesh, self.number)).into()
    }

    fn originals(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        let services = (0..SERVICES_MAX).map(|number| (self.towards(number), service_address(number)));
        let own = [(self.inbound(), (self.ip, APP_PORT).into()), (self.towards_itself(), self.inbound())];
        let over_ipv6 = (self.towards_over_ipv6(), (SERVICE_IPV6, 80).into());
        services.chain(own).chain([over_ipv6]).collect()
    }

    /// What the proxy says of itself.
    pub async fn admin(&self, path: &str) -> Option<String> {
        self.ask("GET", path).await
    }

    /// The proxy's answer to whoever is beside it.
    pub async fn ask(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((self.ip, METRICS_PORT)).await.ok()?;
        stream
            .write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// Sum of a metric's samples whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").await.expect("the proxy runs");
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Whether the revision that is in force is on its disk: nothing of that can be read without its token.
    pub async fn has_kept_what_it_knows(&self) -> bool {
        let (cache, token) = (self.config.cache.clone().unwrap(), fs::read_to_string(&self.config.token).unwrap());
        let Ok(sealed) = fs::read(cache) else { return false };
        let kept = Cache::decode(conduit_ca::cache::open(&token, &sealed).unwrap().as_slice()).unwrap();
        kept.revision as f64 == self.metric("conduit_proxy_discovery_revision", &[]).await
    }

    /// Whether the proxy has stopped by itself.
    pub fn has_ended(&self) -> bool {
        self.proxy.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells the proxy to stop.
    pub fn terminate(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped; it can be started again.
    pub fn stopped(&mut self) {
        self.terminate();
        self.proxy.take().unwrap().join().unwrap().unwrap();
    }

    /// The application beside it, if it is to have one: each connection is given to `serve`.
    pub async fn app<F: Future<Output = ()> + Send + 'static>(
        &self,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let listener = TcpListener::bind((self.ip, APP_PORT)).await.unwrap();
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        })
    }
}

/// A response of an application.
pub fn text(body: &str) -> Response<http_body_util::Full<bytes::Bytes>> {
    Response::new(body.to_owned().into())
}

fn programs() -> PathBuf {
    crate::programs::built()
}
