//! Controllers as real processes, each with a disk, which can be killed, stopped and wiped: on loopback addresses, or each in a
//! network of its own, which can be cut as well.

use std::{
    env, fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use conduit_api::{
    TrustDomain,
    mesh::Inventory,
    proto::public::{RaftStatusRequest, RaftStatusResponse, api_client::ApiClient},
};
use conduit_ca::Seed;
use conduit_netns::{Namespace, Network};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Uri};
use tower::service_fn;

/// A disk forgets no less at a time.
const DAMAGED_BYTES: usize = 512;
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Whatever is waited for is there by then, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(30);
/// One question to a replica.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Replicas of one cluster: their addresses are consecutive.
const REPLICAS_MAX: usize = 7;

/// A control plane. Dropping it ends its processes and removes its files.
pub struct Cluster {
    programs: PathBuf,
    directory: TempDir,
    place: Place,
    replicas: Vec<Replica>,
    seed: Seed,
}

/// Where replicas run.
enum Place {
    /// 127.88.x.y: two of them on one machine must not meet.
    Loopback(u8),
    /// Each in one of these, on a link that they share.
    Apart(Vec<Namespace>),
}

fn apart(replica: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, 10 + replica as u8)
}

struct Replica {
    process: Option<Child>,
    stopped: bool,
    /// What it is told besides where it is.
    flags: Vec<String>,
}

/// Where the programs are: beside this one. They are built there, if they are missing and this runs under cargo.
///
/// # Errors
/// When there are none.
pub fn programs() -> anyhow::Result<PathBuf> {
    let own = env::current_exe()?;
    let directory = own.parent().context("this program is in no directory")?.to_owned();
    if directory.join("conduit-controller").exists() {
        return Ok(directory);
    }
    let Some(cargo) = env::var_os("CARGO") else {
        bail!("{} has no conduit-controller; build it with `cargo build --workspace --bins`", directory.display());
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--workspace", "--bins", "--quiet"]);
    if directory.ends_with("release") {
        build.arg("--release");
    }
    if !build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success() {
        bail!("conduit-controller does not build");
    }
    Ok(directory)
}

impl Cluster {
    /// Starts `replicas` of the programs in `programs`, and returns when all of them vote.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start(programs: &Path, replicas: usize) -> anyhow::Result<Self> {
        Self::start_with(programs, replicas, &[]).await
    }

    /// The same, with more flags.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start_with(programs: &Path, replicas: usize, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_at(programs, replicas, Place::Loopback((std::process::id() % 250) as u8 + 1), flags).await
    }

    /// The same, each replica in a network of its own. This process has left the host's network
    /// ([`leave_host`](conduit_netns::leave_host)), and the thread that calls this lives as long as the replicas.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start_apart(programs: &Path, replicas: usize, flags: &[&str]) -> anyhow::Result<Self> {
        let network = Network::create().await?;
        let mut namespaces = Vec::new();
        for replica in 0..replicas {
            namespaces.push(network.namespace(apart(replica).into()).await?);
        }
        Self::start_at(programs, replicas, Place::Apart(namespaces), flags).await
    }

    async fn start_at(programs: &Path, replicas: usize, place: Place, flags: &[&str]) -> anyhow::Result<Self> {
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            bail!("1 to {REPLICAS_MAX} replicas are possible, not {replicas}");
        }
        let directory = TempDir::with_prefix("conduit-chaos-")?;
        let seed = Seed::generate();
        seed.save_new(&directory.path().join("seed"))?;
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let replica = |_| Replica { process: None, stopped: false, flags: flags.clone() };
        let replicas: Vec<_> = (0..replicas).map(replica).collect();
        let mut cluster = Self { programs: programs.to_owned(), directory, place, replicas, seed };
        cluster.describe(&Inventory::default())?;
        for replica in 0..cluster.len() {
            cluster.spawn(replica)?;
        }
        cluster.all_vote().await?;
        Ok(cluster)
    }

    /// How many replicas there are, running or not.
    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// What all replicas share; with it, this process can speak as one of them.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Of all identities.
    pub fn trust_domain() -> TrustDomain {
        "cluster.local".parse().expect("a trust domain")
    }

    /// e.g. `controller-0`
    pub fn name(replica: usize) -> String {
        format!("controller-{replica}")
    }

    /// Where a replica listens.
    pub fn ip(&self, replica: usize) -> Ipv4Addr {
        match &self.place {
            Place::Loopback(network) => Ipv4Addr::new(127, 88, *network, 10 + replica as u8),
            Place::Apart(_) => apart(replica),
        }
    }

    /// Whether their connections can be cut.
    pub fn is_apart(&self) -> bool {
        matches!(self.place, Place::Apart(_))
    }

    /// Nothing that replica `from` sends reaches replica `to` any more.
    ///
    /// # Errors
    /// When it is so already, or they are not apart.
    pub async fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.namespace(from)?.block(self.ip(to)).await
    }

    /// It does again.
    ///
    /// # Errors
    /// When it was not cut.
    pub async fn mend(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.namespace(from)?.unblock(self.ip(to)).await
    }

    fn namespace(&self, replica: usize) -> anyhow::Result<&Namespace> {
        match &self.place {
            Place::Apart(namespaces) => Ok(&namespaces[replica]),
            Place::Loopback(_) => bail!("replicas on loopback addresses cannot be cut off"),
        }
    }

    /// `host:port` of its Raft port.
    pub fn peer_address(&self, replica: usize) -> String {
        format!("{}:8300", self.ip(replica))
    }

    /// Tells the platform's truth, at once and as a whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn describe(&self, inventory: &Inventory) -> io::Result<()> {
        let path = self.path("platform.json");
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(inventory)?)?;
        fs::rename(new, path)
    }

    /// The roots that proxies trust at first.
    pub fn trust_anchors(&self) -> PathBuf {
        self.path("anchors.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A replica's public API on this machine.
    pub fn socket(&self, replica: usize) -> PathBuf {
        self.path(&format!("{}.sock", Self::name(replica)))
    }

    /// Starts a replica, on the disk that it has.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&mut self, replica: usize) -> anyhow::Result<()> {
        let name = Self::name(replica);
        let peers: Vec<_> =
            (0..self.len()).map(|other| format!("{}={}", Self::name(other), self.peer_address(other))).collect();
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        let program = self.programs.join("conduit-controller");
        let mut command = match &self.place {
            Place::Loopback(_) => Command::new(&program),
            Place::Apart(namespaces) => {
                let mut enter = Command::new(self.programs.join("conduit"));
                enter.args(["local", "enter", "--netns", &namespaces[replica].path(), "--"]).arg(&program);
                enter
            }
        };
        let process = command
            .args(["--name", &name, "--peers", &peers.join(","), "--listen-ip", &self.ip(replica).to_string()])
            .args(["--data-dir".into(), self.path(&name)])
            .args(["--seed-file".into(), self.path("seed")])
            .args(["--platform-file".into(), self.path("platform.json")])
            .args(["--bootstrap-gate".into(), self.path("gate")])
            .args(["--trust-bundle-file".into(), self.trust_anchors()])
            .args(["--root-backup-file".into(), self.path("trust-root.json")])
            .args(["--api-socket".into(), self.socket(replica)])
            .args(&self.replicas[replica].flags)
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        self.replicas[replica].process = Some(process);
        self.replicas[replica].stopped = false;
        Ok(())
    }

    /// What a replica is told when it is started the next time, besides where it is.
    pub fn set_flags(&mut self, replica: usize, flags: &[&str]) {
        self.replicas[replica].flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// All replicas are killed, and their disks are gone: what is left is the seed, and what the platform keeps.
    ///
    /// # Errors
    /// When a disk cannot be removed.
    pub fn lose_everything(&mut self) -> io::Result<()> {
        for replica in 0..self.len() {
            self.kill(replica);
            self.wipe(replica)?;
        }
        // Nobody is left whom it could let through.
        fs::remove_file(self.path("gate"))
    }

    /// The process of a replica that runs.
    pub fn pid(&self, replica: usize) -> Option<u32> {
        self.replicas[replica].process.as_ref().map(Child::id)
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self, replica: usize) {
        if let Some(process) = &self.replicas[replica].process {
            signal(process, Signal::SIGTERM);
        }
    }

    /// Does what a supervisor does: starts those again that have ended by themselves, and says what their last words were.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn tend(&mut self) -> anyhow::Result<Vec<String>> {
        let mut ended = Vec::new();
        for replica in 0..self.len() {
            let process = self.replicas[replica].process.as_mut();
            if process.is_some_and(|process| matches!(process.try_wait(), Ok(Some(_)))) {
                ended.push(format!("{} ended by itself: {}", Self::name(replica), self.last_words(replica)));
                self.spawn(replica)?;
            }
        }
        Ok(ended)
    }

    fn last_words(&self, replica: usize) -> String {
        let log = fs::read_to_string(self.path(&format!("{}.log", Self::name(replica)))).unwrap_or_default();
        let mut lines = log.lines().rev();
        // A panic says where it was, and why in the next line.
        let panicked = log.lines().rev().take(300).position(|line| line.contains("panicked at"));
        match panicked {
            Some(at) => log.lines().rev().take(at + 1).skip(at.saturating_sub(1)).collect::<Vec<_>>().join(" <- "),
            None => lines.next().unwrap_or("nothing").to_owned(),
        }
    }

    /// It runs, and is not stopped.
    pub fn is_up(&self, replica: usize) -> bool {
        let replica = &self.replicas[replica];
        replica.process.is_some() && !replica.stopped
    }

    /// `kill -9`.
    pub fn kill(&mut self, replica: usize) {
        if let Some(mut process) = self.replicas[replica].process.take() {
            // It is a child that was not waited for: its number is still its own.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn terminate(&mut self, replica: usize) -> anyhow::Result<()> {
        let Some(mut process) = self.replicas[replica].process.take() else { return Ok(()) };
        signal(&process, Signal::SIGTERM);
        let ended = async {
            while process.try_wait()?.is_none() {
                sleep(LOOK_AGAIN).await;
            }
            io::Result::Ok(())
        };
        if let Ok(ended) = timeout(PATIENCE, ended).await {
            return Ok(ended?);
        }
        process.kill()?;
        process.wait()?;
        bail!("{} did not end within {PATIENCE:?} of SIGTERM", Self::name(replica))
    }

    /// SIGSTOP: it holds its connections and says nothing.
    pub fn pause(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        if let Some(process) = &replica.process {
            signal(process, Signal::SIGSTOP);
            replica.stopped = true;
        }
    }

    /// SIGCONT.
    pub fn resume(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        if let Some(process) = &replica.process {
            signal(process, Signal::SIGCONT);
            replica.stopped = false;
        }
    }

    /// Takes the disk of a replica that does not run.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&mut self, replica: usize) -> io::Result<()> {
        assert!(self.replicas[replica].process.is_none(), "a running replica has its disk in its hands");
        fs::remove_dir_all(self.path(&Self::name(replica)))
    }

    /// Changes a few bytes of the file of a replica that does not run, so many thousandths of the way through it.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub fn damage(&mut self, replica: usize, per_mille: u32) -> io::Result<()> {
        assert!(self.replicas[replica].process.is_none(), "a running replica has its disk in its hands");
        let path = self.path(&Self::name(replica)).join("raft.redb");
        let mut content = fs::read(&path)?;
        let at = content.len() * per_mille as usize / 1_000;
        content.iter_mut().skip(at).take(DAMAGED_BYTES).for_each(|byte| *byte = !*byte);
        fs::write(path, content)
    }

    /// The public API of a replica.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn api(socket: PathBuf) -> anyhow::Result<ApiClient<Channel>> {
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Channel::from_static("http://controller");
        Ok(ApiClient::new(timeout(ANSWER_TIMEOUT, endpoint.connect_with_connector(connect)).await??))
    }

    /// Raft, as a replica sees it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, replica: usize) -> anyhow::Result<RaftStatusResponse> {
        let mut api = Self::api(self.socket(replica)).await?;
        Ok(timeout(ANSWER_TIMEOUT, api.raft_status(RaftStatusRequest {})).await??.into_inner())
    }

    /// The replica that leads, according to one that runs.
    pub async fn leader(&self) -> Option<usize> {
        for replica in (0..self.len()).filter(|replica| self.is_up(*replica)) {
            if let Ok(status) = self.status(replica).await
                && let Some(leader) = leader_in(&status)
            {
                return Some(leader);
            }
        }
        None
    }

    /// Until every replica votes, knows it, and knows a leader: one that was just admitted may not have heard of it yet.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn all_vote(&self) -> anyhow::Result<()> {
        let all = self.len();
        self.wait("all replicas vote", async || {
            for replica in 0..all {
                let Ok(status) = self.status(replica).await else { return false };
                let vote = status.members.iter().all(|m| m.voter && m.role != "unreachable");
                if !vote || status.members.len() != all || leader_in(&status).is_none() {
                    return false;
                }
            }
            true
        })
        .await
    }

    /// Until `look` says so.
    ///
    /// # Errors
    /// When that takes too long, with the ends of the logs.
    pub async fn wait(&self, what: &str, mut look: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        while !look().await {
            if start.elapsed() > PATIENCE {
                bail!("not within {PATIENCE:?}: {what}\n{}", self.logs());
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// The end of every log, for the one who has to find out what happened.
    pub fn logs(&self) -> String {
        let tail = |replica| {
            let name = Self::name(replica);
            let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            // A panic's reason, not its way there.
            let is_frame = |line: &&str| line.starts_with("   ");
            let lines: Vec<_> = log.lines().filter(|line| !is_frame(line)).collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
        };
        (0..self.len()).map(tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in 0..self.len() {
            self.resume(replica);
            self.kill(replica);
        }
    }
}

/// The number of the replica that leads, according to `status`.
pub fn leader_in(status: &RaftStatusResponse) -> Option<usize> {
    let leader = status.members.iter().find(|member| member.id == status.leader_id)?;
    leader.name.rsplit('-').next()?.parse().ok()
}

fn signal(process: &Child, signal: Signal) {
    // A child that was not waited for: its number is still its own.
    let _ = kill(Pid::from_raw(process.id() as i32), signal);
}
