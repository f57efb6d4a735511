//! Instances of deployments: started, watched, added and taken away.

use std::{os::unix::fs::PermissionsExt as _, time::SystemTime};

use conduit_api::PortRange;
use conduit_ca::LaunchToken;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    start::{POLL, program},
    *,
};
use conduit_netns::NODE_IP;

use crate::local::{directory::SOCKET_PATH_BYTES_MAX, enter::POD_FILES, manifest::Deployment};

/// The proxy's user, where it can have one of its own.
const PROXY_UID: u32 = 2102;
/// How its connections are told from the program's, where there is only one user.
const SOCKET_MARK: &str = "0x2102";
/// In a pod's files, what proves who it is.
const TOKEN_FILE: &str = "token";
/// In a pod's files, what is its proxy's alone.
const PROXY_FILES: &str = "proxy";
/// In a pod's files, where its proxy hands out its identity.
const SPIFFE_FILES: &str = "spiffe";
const WORKLOAD_API_SOCKET: &str = "workload.sock";
/// A launch token is written anew long before it ends.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const TOKEN_RENEWAL: Duration = Duration::from_secs(3600);
/// Pods are at the addresses after this one.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
const PODS_MAX: u32 = 60_000;
/// Between two looks at a pod that is ready: its processes' ends are noticed at once anyway.
const WATCH: Duration = Duration::from_millis(500);
/// A proxy that does not say whether it is ready within this is not.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Scaling is done within this, or has failed.
const SCALE_TIMEOUT: Duration = Duration::from_secs(30);
/// Ports of the proxy's own, which nothing redirects.
const PROXY_PORTS: &str = "4190,4191";
/// The proxy's metrics, where it also says whether it is ready.
const PROXY_ADMIN_PORT: u16 = 4191;

impl Supervisor {
    pub(super) async fn start_pods(self: &Rc<Self>) -> anyhow::Result<()> {
        let dns = SocketAddr::from((NODE_IP, 53));
        super::super::dns::serve(dns, self.inventory.subscribe()).await.context("cannot answer DNS questions")?;
        let wanted: Vec<_> = self
            .manifest
            .borrow()
            .deployments
            .iter()
            .map(|(key, deployment)| (key.clone(), deployment.clone()))
            .collect();
        for ((namespace, name), deployment) in wanted {
            for number in 0..deployment.replicas {
                self.start_pod(&namespace, &name, number, &deployment).await?;
            }
        }
        self.publish();
        Ok(())
    }

    /// Sets the number of instances of a deployment; how many are ready then.
    pub(super) async fn scale(self: &Rc<Self>, namespace: &str, name: &str, replicas: u32) -> anyhow::Result<u32> {
        let deployment = {
            let mut manifest = self.manifest.borrow_mut();
            let known: Vec<_> = manifest.deployments.keys().map(|(ns, name)| format!("{ns}/{name}")).collect();
            let deployment = manifest.deployments.get_mut(&(namespace.to_owned(), name.to_owned()));
            let deployment = deployment.with_context(|| {
                format!("there is no deployment {namespace}/{name}; there are {}", known.join(", "))
            })?;
            deployment.clone()
        };
        let pod = |number: u32| PodName::new(namespace, &format!("{name}-{number}"));
        let mut started = Vec::new();
        for number in 0..replicas {
            if self.state.borrow().pods.contains_key(&pod(number)?) {
                continue;
            }
            started.push(pod(number)?);
            if let Err(error) = self.start_pod(namespace, name, number, &deployment).await {
                // All of them or none: a deployment that is half scaled is nobody's wish.
                self.end_pods(&started);
                return Err(error);
            }
        }
        if let Some(known) = self.manifest.borrow_mut().deployments.get_mut(&(namespace.to_owned(), name.to_owned())) {
            known.replicas = replicas;
        }
        let surplus: Vec<_> = {
            let state = self.state.borrow();
            let of_it = |pod: &&Pod| pod.instance.name.namespace() == namespace && pod.instance.deployment == name;
            let names = state.pods.values().filter(of_it).map(|pod| pod.instance.name.clone());
            let number = |pod: &PodName| pod.name().rsplit_once('-').and_then(|(_, n)| n.parse::<u32>().ok());
            names.filter(|pod| number(pod).is_some_and(|number| number >= replicas)).collect()
        };
        for pod in &surplus {
            self.set_ready(pod, false);
        }
        let ready = || {
            let state = self.state.borrow();
            (0..replicas).all(|n| pod(n).is_ok_and(|pod| state.pods.get(&pod).is_some_and(|pod| pod.instance.ready)))
        };
        let done = async {
            loop {
                let wanted = self.state.borrow().pods.values().filter(|pod| pod.instance.ready).count() as u32;
                if ready() && self.known_ready().await == wanted {
                    return;
                }
                sleep(POLL).await;
            }
        };
        let scaled = timeout(SCALE_TIMEOUT, done).await;
        // Nobody sends to them any more: now they may end.
        self.end_pods(&surplus);
        scaled.map_err(|_| {
            anyhow!(
                "{namespace}/{name} has not {replicas} ready instances within {}s; see `conduit local status`",
                SCALE_TIMEOUT.as_secs()
            )
        })?;
        Ok(replicas)
    }

    fn end_pods(&self, pods: &[PodName]) {
        for pod in pods {
            if let Some(gone) = self.state.borrow_mut().pods.remove(pod) {
                gone.stop.send_replace(true);
                // It proves nobody any more. What carries the pod's last requests has its certificate.
                let _ = fs::remove_file(self.files_of(pod).join(TOKEN_FILE));
            }
        }
        self.publish();
    }

    async fn start_pod(
        self: &Rc<Self>,
        namespace: &str,
        deployment_name: &str,
        number: u32,
        deployment: &Deployment,
    ) -> anyhow::Result<()> {
        let name = PodName::new(namespace, &format!("{deployment_name}-{number}"))?;
        let next = self.next_pod_ip.get() + 1;
        if next > PODS_MAX {
            bail!("this mesh has had {PODS_MAX} pods; start it again");
        }
        self.next_pod_ip.set(next);
        let ip = IpAddr::from(Ipv4Addr::from(u32::from(PODS) + next));
        let network = Rc::new(self.network.namespace(ip).await?);
        let (stop, stopped) = watch::channel(false);
        let instance = Instance { name: name.clone(), deployment: deployment_name.to_owned(), ip, ready: false };
        let pod = Pod { instance, stop, _namespace: network.clone() };
        self.state.borrow_mut().pods.insert(name.clone(), pod);

        let files = self.pod_files(&name, deployment)?;
        let ended = {
            let (supervisor, name) = (self.clone(), name.clone());
            move || supervisor.set_ready(&name, false)
        };
        if deployment.meshed {
            self.redirect(&network, deployment)
                .await
                .with_context(|| format!("cannot redirect the traffic of {name}"))?;
            let proxy = self.proxy(&name, ip, &network, &files, deployment)?;
            spawn_local(self.clone().keep(proxy, stopped.clone(), ended.clone()));
        }
        let program = self.application(&name, ip, &network, &files, deployment);
        spawn_local(self.clone().keep(program, stopped.clone(), ended));
        spawn_local(self.clone().watch_pod(name, ip, deployment.clone(), files, stopped));
        Ok(())
    }

    fn files_of(&self, pod: &PodName) -> PathBuf {
        self.directory.tokens().join(format!("{}.{}", pod.namespace(), pod.name()))
    }

    /// A directory with what belongs to one pod alone.
    fn pod_files(&self, pod: &PodName, deployment: &Deployment) -> anyhow::Result<PathBuf> {
        let files = self.files_of(pod);
        fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;
        self.write_token(pod, deployment, &files)?;
        self.copy_trust_bundle(&files, &mut None)?;
        let search = format!("search {0}.svc.cluster.local svc.cluster.local cluster.local", pod.namespace());
        let resolv = format!("nameserver {NODE_IP}\n{search}\noptions ndots:5\n");
        replace_file(&files.join("resolv.conf"), resolv.as_bytes(), 0o644)?;
        replace_file(&files.join("nsswitch.conf"), b"hosts: files dns\n", 0o644)?;
        fs::set_permissions(&files, fs::Permissions::from_mode(0o755))?;
        self.proxy_directory(&files.join(PROXY_FILES))?;
        // For the application, which runs as the user of the mesh; and for nobody else on this machine.
        self.proxy_directory(&files.join(SPIFFE_FILES))?;
        Ok(files)
    }

    /// One for its proxy, and for the user of the mesh.
    fn proxy_directory(&self, path: &std::path::Path) -> anyhow::Result<()> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        if self.is_root {
            nix::unistd::chown(path, Some(PROXY_UID.into()), Some(PROXY_UID.into()))?;
        }
        Ok(())
    }

    /// Roots follow each other while a proxy runs; one that starts again trusts those that are there then.
    fn copy_trust_bundle(&self, files: &std::path::Path, copied: &mut Option<SystemTime>) -> anyhow::Result<()> {
        let bundle = self.directory.trust_bundle();
        let modified = fs::metadata(&bundle).and_then(|metadata| metadata.modified());
        let modified = modified.with_context(|| format!("cannot read {}", bundle.display()))?;
        if copied.replace(modified) == Some(modified) {
            return Ok(());
        }
        let content = fs::read(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
        replace_file(&files.join("trust-anchors.pem"), &content, 0o644)
    }

    /// When the seed was last replaced: tokens are written anew then.
    fn seed_written(&self) -> Option<SystemTime> {
        fs::metadata(self.directory.seed()).and_then(|metadata| metadata.modified()).ok()
    }

    fn write_token(&self, pod: &PodName, deployment: &Deployment, files: &std::path::Path) -> anyhow::Result<()> {
        // Read anew: one seed follows another.
        let seed = Seed::load(&self.directory.seed())?;
        let token = LaunchToken {
            namespace: pod.namespace().to_owned(),
            service_account: deployment.service_account.clone(),
            pod: pod.name().to_owned(),
        };
        let path = files.join(TOKEN_FILE);
        replace_file(&path, token.mint(&seed, SystemTime::now() + TOKEN_LIFETIME).as_bytes(), 0o600)?;
        if self.is_root {
            nix::unistd::chown(&path, Some(PROXY_UID.into()), Some(PROXY_UID.into()))?;
        }
        Ok(())
    }

    /// The rules are there before anything that they are for, and outlive the proxy.
    async fn redirect(&self, network: &Namespace, deployment: &Deployment) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["local", "enter", "--netns", &network.path(), "--", &program("conduit-proxy")?, "init"]);
        if !self.is_root {
            command.args(["--proxy-mark", SOCKET_MARK]);
        }
        let inbound = format!("{PROXY_PORTS},{}", port_list(&deployment.pod_ports.skip_inbound));
        command.args(["--inbound-ports-to-ignore", inbound.trim_end_matches(',')]);
        if !deployment.pod_ports.skip_outbound.is_empty() {
            command.args(["--outbound-ports-to-ignore", &port_list(&deployment.pod_ports.skip_outbound)]);
        }
        let output = command.output().await?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn proxy(
        &self,
        pod: &PodName,
        ip: IpAddr,
        network: &Namespace,
        files: &std::path::Path,
        deployment: &Deployment,
    ) -> anyhow::Result<Spec> {
        let mut enter = vec!["--netns".to_owned(), network.path(), "--files".to_owned(), files.display().to_string()];
        let state = self.state.borrow();
        let controllers = state.processes.values().filter(|running| running.spec.role == "controller");
        let controllers: Vec<_> = controllers.map(|running| format!("https://{}:8086", running.spec.ip)).collect();
        let mut env: Vec<(String, String)> = [
            ("POD_NAMESPACE", pod.namespace().to_owned()),
            ("POD_NAME", pod.name().to_owned()),
            ("POD_IP", ip.to_string()),
            ("CONTROL_URL", controllers.join(",")),
            ("TRUST_DOMAIN", self.trust_domain.to_string()),
            ("TRUST_ANCHORS_FILE", format!("{POD_FILES}/trust-anchors.pem")),
            ("IDENTITY_TOKEN_FILE", format!("{POD_FILES}/{TOKEN_FILE}")),
            ("CACHE_FILE", format!("{POD_FILES}/{PROXY_FILES}/cache")),
            ("OPAQUE_PORTS", port_list(&deployment.pod_ports.opaque)),
            ("WORKLOAD_API_SOCKET", format!("{POD_FILES}/{SPIFFE_FILES}/{WORKLOAD_API_SOCKET}")),
        ]
        .map(|(name, value)| (format!("CONDUIT_PROXY_{name}"), value))
        .into();
        let records = deployment.records.journal(Some(name_of(pod)));
        env.extend(records.into_iter().map(|(name, value)| (format!("CONDUIT_PROXY_{name}"), value)));
        if deployment.records.trace_collector.is_some() {
            // A collector may be one of the mesh's services.
            enter.extend(replaced_files(files));
        }
        if self.is_root {
            enter.extend(["--uid".to_owned(), PROXY_UID.to_string()]);
        } else {
            env.push(("CONDUIT_PROXY_SOCKET_MARK".to_owned(), SOCKET_MARK.to_owned()));
        }
        enter.extend(["--".to_owned(), program("conduit-proxy")?]);
        Ok(self.spec(pod, "proxy", ip, enter, env))
    }

    fn application(
        &self,
        pod: &PodName,
        ip: IpAddr,
        network: &Namespace,
        files: &std::path::Path,
        deployment: &Deployment,
    ) -> Spec {
        let mut enter = vec!["--netns".to_owned(), network.path()];
        enter.extend(replaced_files(files));
        enter.push("--".to_owned());
        // A program of this mesh is beside this one; any other is where the shell finds it.
        let (first, rest) = deployment.command.split_first().map_or(("", [].as_slice()), |(f, r)| (f.as_str(), r));
        enter.push(program(first).unwrap_or_else(|_| first.to_owned()));
        enter.extend(rest.iter().cloned());
        let mut env = deployment.env.clone();
        let socket = files.join(SPIFFE_FILES).join(WORKLOAD_API_SOCKET);
        // Where the directory of the mesh is too deep for a socket, an application that wants it says so itself.
        if deployment.meshed && socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            env.push(("SPIFFE_ENDPOINT_SOCKET".to_owned(), format!("unix://{}", socket.display())));
        }
        self.spec(pod, "app", ip, enter, env)
    }

    fn spec(
        &self,
        pod: &PodName,
        role: &'static str,
        ip: IpAddr,
        enter: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Spec {
        let name = format!("{}/{role}", pod.name());
        let log = self.directory.log(&format!("{}.{}.{role}", pod.namespace(), pod.name()));
        Spec { name, role, pod: Some(pod.clone()), ip, enter, env, log }
    }

    /// Notices when a pod becomes ready, and keeps its token fresh.
    async fn watch_pod(
        self: Rc<Self>,
        pod: PodName,
        ip: IpAddr,
        deployment: Deployment,
        files: PathBuf,
        mut stopped: watch::Receiver<bool>,
    ) {
        let (mut written, mut under, mut trusted) = (Instant::now(), None, None);
        loop {
            let ready = self.is_ready(&pod, ip, &deployment).await;
            if *stopped.borrow() {
                return;
            }
            self.set_ready(&pod, ready);
            let seed = self.seed_written();
            if written.elapsed() > TOKEN_RENEWAL || seed != under {
                match self.write_token(&pod, &deployment, &files) {
                    Ok(()) => (written, under) = (Instant::now(), seed),
                    Err(error) => error!(%pod, "its launch token cannot be renewed: {error:#}"),
                }
            }
            if let Err(error) = self.copy_trust_bundle(&files, &mut trusted) {
                error!(%pod, "what it is to trust at its next start cannot be kept: {error:#}");
            }
            let pause = if ready { WATCH } else { POLL };
            if timeout(pause, stopped.wait_for(|stop| *stop)).await.is_ok() {
                return;
            }
        }
    }

    async fn is_ready(&self, pod: &PodName, ip: IpAddr, deployment: &Deployment) -> bool {
        let pid = |role| {
            let state = self.state.borrow();
            let running = state.processes.get(&format!("{}/{role}", pod.name()))?;
            running.pid.filter(|_| running.state == "running")
        };
        let Some(program) = pid("app") else { return false };
        if deployment.meshed && (pid("proxy").is_none() || !proxy_is_ready(ip).await) {
            return false;
        }
        // A program that listens goes on listening until it ends, and that is noticed by itself. To look again would cost
        // milliseconds of the kernel's time: the table is read bucket by bucket, and has hundreds of thousands.
        if self.state.borrow().pods.get(pod).is_some_and(|known| known.instance.ready) {
            return true;
        }
        let listening = listening_ports(program);
        deployment.ports.iter().all(|(_, port)| listening.contains(port))
    }

    fn set_ready(&self, pod: &PodName, ready: bool) {
        let changed = match self.state.borrow_mut().pods.get_mut(pod) {
            Some(known) if known.instance.ready != ready => {
                known.instance.ready = ready;
                true
            }
            _ => false,
        };
        if changed {
            info!(%pod, ready, "a pod changed");
            self.publish();
        }
    }
}

/// What has a program ask the mesh's own DNS.
fn replaced_files(files: &std::path::Path) -> impl Iterator<Item = String> {
    let replaced = |file| ["--replace".to_owned(), format!("/etc/{file}={}", files.join(file).display())];
    ["resolv.conf", "nsswitch.conf"].into_iter().flat_map(replaced)
}

/// The deployment that a pod is one of: names of pods are its name and a number.
fn name_of(pod: &PodName) -> &str {
    pod.name().rsplit_once('-').map_or(pod.name(), |(name, _)| name)
}

async fn proxy_is_ready(ip: IpAddr) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((ip, PROXY_ADMIN_PORT)).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == b"HTTP/1.1 200")
    };
    matches!(timeout(PROBE_TIMEOUT, ask).await, Ok(Ok(true)))
}

/// The TCP ports that something listens on in the network of a process (proc(5), net/tcp): asking them would be traffic.
fn listening_ports(pid: u32) -> Vec<u16> {
    const LISTEN: &str = "0A";
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let ports = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (state == LISTEN).then_some(port)
    });
    ports.collect()
}

fn port_list(ports: &[PortRange]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
