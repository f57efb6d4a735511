//! The supervisor of a local mesh: makes networks, starts processes, starts them again, and tells the control plane what runs.
//!
//! Everything happens on one thread, so that the state needs no lock, and that the processes end with it (`PR_SET_PDEATHSIG`
//! watches the thread that started them).

mod controllers;
mod pods;
mod start;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::{
    PodName, ServiceName, TrustDomain,
    mesh::Inventory,
    proto::local::{Process, Progress, StatusResponse, local_server::LocalServer as LocalService},
};
use conduit_ca::Seed;
use conduit_netns::{Namespace, Network};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{LocalSet, spawn_local},
    time::{Instant, interval, sleep, timeout},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::{error, info, warn};

use super::{
    DirectoryArgs, TRUST_DOMAIN,
    authority::AuthorityArgs,
    directory::{MeshDirectory, replace_file},
    inventory::{Instance, assign_cluster_ips, inventory},
    manifest::Manifest,
    process::{Restarts, Spec},
    server::{LocalServer, Order},
};
use crate::{address::Address, control_plane::ControlPlane};

/// Orders that wait for each other.
const ORDERS_MAX: usize = 16;
/// A process that was told to end, and has not, is killed.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks at the logs' sizes.
const ROTATE: Duration = Duration::from_secs(10);

/// What `up` tells the supervisor.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    directory: DirectoryArgs,
    #[arg(short, long)]
    file: Vec<PathBuf>,
    #[arg(long)]
    demo: bool,
    #[arg(long)]
    controllers: u32,
    #[arg(long)]
    web_port: u16,
    #[command(flatten)]
    authority: AuthorityArgs,
}

/// Runs a mesh until it is taken down.
///
/// # Errors
/// When it cannot be started. Nothing of it is left then.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let directory = args.directory.resolve()?;
    let manifest = Manifest::read(&args.file, args.demo)?;
    directory.create()?;
    let _lock = lock(&directory)?;
    // Bound before the host's network is left: a socket stays in the network that it was made in.
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, args.web_port)).map_err(|error| {
        anyhow!(
            "cannot listen on 127.0.0.1:{} for the web page ({error}); choose another port with --web-port",
            args.web_port
        )
    })?;
    web.set_nonblocking(true)?;
    let is_root = geteuid().is_root();
    conduit_netns::leave_host()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let supervisor = Supervisor::new(directory, manifest, is_root, args).await?;
        supervisor.run(web).await
    })
}

/// One supervisor to a directory.
fn lock(directory: &MeshDirectory) -> anyhow::Result<File> {
    let path = directory.lock();
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(already_running(directory)),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// For whoever wants to start a second one.
pub fn already_running(directory: &MeshDirectory) -> anyhow::Error {
    anyhow!("a local mesh is already running in {}; stop it with `conduit local down`", directory.path().display())
}

/// The mesh. Shared by the tasks of one thread.
struct Supervisor {
    directory: MeshDirectory,
    is_root: bool,
    /// No control plane was ever started in the directory.
    is_new: bool,
    /// The numbers of those that are to run.
    controllers: RefCell<BTreeSet<u32>>,
    web_port: u16,
    /// What controllers are told of certificates.
    authority: Vec<String>,
    trust_domain: TrustDomain,
    network: Network,
    cluster_ips: BTreeMap<ServiceName, Ipv4Addr>,
    manifest: RefCell<Manifest>,
    state: RefCell<State>,
    next_pod_ip: Cell<u32>,
    inventory: watch::Sender<Rc<Inventory>>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    processes: BTreeMap<String, Running>,
    pods: BTreeMap<PodName, Pod>,
    controllers: BTreeMap<u32, Controller>,
}

/// A replica's network, and how to end it.
struct Controller {
    stop: watch::Sender<bool>,
    _namespace: Rc<Namespace>,
}

/// A process, as far as it is known.
struct Running {
    spec: Spec,
    pid: Option<u32>,
    state: &'static str,
    restarts: Restarts,
}

/// An instance, its network, and how to end it.
struct Pod {
    instance: Instance,
    stop: watch::Sender<bool>,
    _namespace: Rc<Namespace>,
}

impl Supervisor {
    async fn new(directory: MeshDirectory, manifest: Manifest, is_root: bool, args: &Args) -> anyhow::Result<Rc<Self>> {
        let is_new = !directory.bootstrap_gate().exists();
        if !directory.has_control_plane() {
            // All disks are lost, or there never were any. Nobody is left whom the gate could let through.
            let _ = fs::remove_file(directory.bootstrap_gate());
        }
        if directory.seed().exists() {
            // What is wrong with it is said now, and not by every controller later.
            Seed::load(&directory.seed())?;
        } else {
            Seed::generate().save_new(&directory.seed())?;
        }
        let mut cluster_ips = match fs::read(directory.cluster_ips()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("cannot understand {}", directory.cluster_ips().display()))?,
            Err(_) => BTreeMap::new(),
        };
        assign_cluster_ips(&manifest, &mut cluster_ips);
        replace_file(&directory.cluster_ips(), &serde_json::to_vec_pretty(&cluster_ips)?, 0o600)?;
        let network = Network::create().await?;
        let controllers = RefCell::new(controllers::numbers(&directory, args.controllers));
        Ok(Rc::new(Self {
            directory,
            is_root,
            is_new,
            controllers,
            web_port: args.web_port,
            authority: args.authority.to_flags(),
            trust_domain: TRUST_DOMAIN.parse()?,
            network,
            cluster_ips,
            manifest: RefCell::new(manifest),
            state: RefCell::default(),
            next_pod_ip: Cell::new(0),
            inventory: watch::channel(Rc::default()).0,
            progress: watch::channel(Progress::default()).0,
        }))
    }

    /// Until it is taken down, or cannot be started.
    async fn run(self: Rc<Self>, web: TcpListener) -> anyhow::Result<()> {
        let mut orders = self.listen()?;
        spawn_local(self.clone().forward_web(tokio::net::TcpListener::from_std(web)?));
        spawn_local(self.clone().rotate_logs());
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let starting = self.start();
        tokio::pin!(starting);
        let mut started = false;
        let mut asked_to_end = None;
        let outcome = loop {
            tokio::select! {
                result = &mut starting, if !started => match result {
                    Ok(()) => started = true,
                    Err(error) => break Err(error),
                },
                Some(order) = orders.recv() => match order {
                    Order::Status(answer) => drop(answer.send(self.status())),
                    Order::Scale(request, answer) => drop(spawn_local({
                        let supervisor = self.clone();
                        async move {
                            let scaled = supervisor.scale(&request.namespace, &request.deployment, request.replicas);
                            // The one who asked has gone.
                            let _ = answer.send(scaled.await);
                        }
                    })),
                    Order::AddController(answer) => drop(spawn_local({
                        let supervisor = self.clone();
                        async move { drop(answer.send(supervisor.add_controller().await)) }
                    })),
                    Order::RemoveController(member, answer) => drop(spawn_local({
                        let supervisor = self.clone();
                        async move { drop(answer.send(supervisor.remove_controller(&member).await)) }
                    })),
                    Order::Down(answer) => {
                        asked_to_end = Some(answer);
                        break Ok(());
                    }
                },
                _ = terminate.recv() => break Ok(()),
            }
        };
        if let Err(error) = &outcome {
            error!("{error:#}");
            self.progress.send_modify(|progress| progress.error = format!("{error:#}"));
        }
        self.end_all().await;
        if !started && self.is_new {
            // Half a control plane is worse than none; the logs stay, since the error may name one.
            self.directory.forget_state();
        }
        let _ = fs::remove_file(self.directory.supervisor_socket());
        if let Some(answer) = asked_to_end {
            let _ = answer.send(());
        }
        // The answers leave before this process does.
        sleep(Duration::from_millis(50)).await;
        outcome
    }

    fn listen(&self) -> anyhow::Result<mpsc::Receiver<Order>> {
        let path = self.directory.supervisor_socket();
        // Left behind by one that was killed: the lock says that nobody uses it.
        let _ = fs::remove_file(&path);
        for stale in self.directory.api_sockets() {
            let _ = fs::remove_file(stale);
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let service = LocalService::new(LocalServer { orders: sender, progress: self.progress.subscribe() });
        spawn_local(async move {
            let server = Server::builder().add_service(service);
            if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
                error!(%error, "the supervisor cannot be asked any longer");
            }
        });
        Ok(orders)
    }

    /// Runs `spec` until `stop`, and again whenever it ends before. `ended` is told each time.
    async fn keep(self: Rc<Self>, spec: Spec, mut stop: watch::Receiver<bool>, ended: impl Fn()) {
        let name = spec.name.clone();
        let running = Running { spec: spec.clone(), pid: None, state: "starting", restarts: Restarts::default() };
        self.state.borrow_mut().processes.insert(name.clone(), running);
        loop {
            let began = Instant::now();
            match spec.spawn() {
                Ok(mut child) => {
                    self.set(&name, child.id(), "running");
                    tokio::select! {
                        status = child.wait() => {
                            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                            warn!(process = %name, %status, "ended; it is started again");
                        }
                        _ = stop.wait_for(|stop| *stop) => {
                            end(&mut child).await;
                            break;
                        }
                    }
                }
                Err(error) => error!(process = %name, "{error:#}"),
            }
            self.set(&name, None, "restarting");
            ended();
            let pause =
                self.state.borrow_mut().processes.get_mut(&name).map(|running| running.restarts.ended(began.elapsed()));
            let Some(pause) = pause else { return };
            if timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
        }
        self.state.borrow_mut().processes.remove(&name);
    }

    fn set(&self, name: &str, pid: Option<u32>, state: &'static str) {
        if let Some(running) = self.state.borrow_mut().processes.get_mut(name) {
            (running.pid, running.state) = (pid, state);
        }
    }

    /// Tells the control plane what runs, if that has changed.
    fn publish(&self) {
        let instances: Vec<_> = self.state.borrow().pods.values().map(|pod| pod.instance.clone()).collect();
        let latest = inventory(&self.manifest.borrow(), &instances, &self.cluster_ips, &self.trust_domain);
        if **self.inventory.borrow() == latest && self.directory.platform_file().exists() {
            return;
        }
        let written = serde_json::to_vec(&latest)
            .map_err(Into::into)
            .and_then(|bytes| replace_file(&self.directory.platform_file(), &bytes, 0o600));
        if let Err(error) = written {
            error!("the control plane cannot be told what runs: {error:#}");
        }
        self.inventory.send_replace(Rc::new(latest));
    }

    fn control_plane(&self) -> ControlPlane {
        ControlPlane::at(self.directory.api_sockets().into_iter().map(Address::Unix).collect())
    }

    fn status(&self) -> StatusResponse {
        let state = self.state.borrow();
        let processes = state.processes.values().map(|running| Process {
            name: running.spec.name.clone(),
            role: running.spec.role.to_owned(),
            pid: running.pid.unwrap_or_default(),
            address: running.spec.ip.to_string(),
            state: running.state.to_owned(),
            restarts: running.restarts.count,
            rss_bytes: running.pid.map_or(0, resident_bytes),
            namespace: running.spec.pod.as_ref().map(|pod| pod.namespace().to_owned()).unwrap_or_default(),
            pod: running.spec.pod.as_ref().map(|pod| pod.name().to_owned()).unwrap_or_default(),
            log_file: running.spec.log.display().to_string(),
        });
        let has_web = self.manifest.borrow().services.iter().any(|service| service.load_balancer);
        let web_address = if has_web { format!("127.0.0.1:{}", self.web_port) } else { String::new() };
        StatusResponse { processes: processes.collect(), ready: self.progress.borrow().ready, web_address }
    }

    /// Connections to the host's loopback go to the first service that is meant to be reached from outside.
    async fn forward_web(self: Rc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let supervisor = self.clone();
            spawn_local(async move {
                for address in supervisor.web_endpoints() {
                    if let Ok(Ok(mut server)) =
                        timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(address)).await
                    {
                        // Small answers must not wait for acknowledgements; and either side may go away.
                        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                        return;
                    }
                }
            });
        }
    }

    fn web_endpoints(&self) -> Vec<SocketAddr> {
        let manifest = self.manifest.borrow();
        let Some(web) = manifest.services.iter().find(|service| service.load_balancer) else { return Vec::new() };
        let inventory = self.inventory.borrow().clone();
        let service = inventory.services.iter().find(|service| service.name == web.name);
        let mut endpoints: Vec<_> = service
            .into_iter()
            .flat_map(|s| s.ports.values().take(1))
            .flat_map(|p| p.endpoints.keys().copied())
            .collect();
        let first = rand::random_range(0..endpoints.len().max(1));
        let count = endpoints.len();
        endpoints.rotate_left(first.min(count));
        endpoints
    }

    async fn rotate_logs(self: Rc<Self>) {
        let mut ticks = interval(ROTATE);
        loop {
            ticks.tick().await;
            for running in self.state.borrow().processes.values() {
                if let Err(error) = running.spec.rotate_log() {
                    warn!(process = %running.spec.name, %error, "its log cannot be kept within its bound");
                }
            }
        }
    }

    /// Ends every process, and returns when all have ended.
    async fn end_all(&self) {
        info!("ending");
        // Applications first: what they still answer needs no controller.
        let stops: Vec<_> = {
            let state = self.state.borrow();
            let pods = state.pods.values().map(|pod| pod.stop.clone());
            pods.chain(state.controllers.values().map(|controller| controller.stop.clone())).collect()
        };
        for stop in stops {
            stop.send_replace(true);
        }
        let all_ended = async {
            while !self.state.borrow().processes.is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(END_TIMEOUT * 2, all_ended).await.is_err() {
            warn!("some processes end with this one");
        }
    }
}

/// By asking first.
async fn end(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id() {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    }
    if timeout(END_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// From the kernel's own account (proc(5)); 0 when there is no such process any more.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
