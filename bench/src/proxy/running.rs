//! Starting what is measured.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use super::{
    connection::Connection,
    mesh::Mesh,
    process::{LOAD_CORE, PROXY_CORE, Process, on_core},
    subject::{OURS, Part, Protocol, Proxy, SERVER, Shape},
};

/// A proxy that answers nothing by then does not work.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What everything is started with.
pub struct Place {
    /// Where peers find certificates, and everything writes.
    pub work: PathBuf,
    /// Ours.
    pub program: PathBuf,
    /// Another build of ours.
    pub other: Option<PathBuf>,
    /// Of the peers.
    pub configurations: PathBuf,
    /// The control plane of ours.
    pub mesh: Mesh,
}

/// How a proxy is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Connections that a peer must be able to hold; nginx has memory for all of them from the start.
    pub connections: usize,
    /// Under callgrind.
    pub counted: bool,
}

/// As they run unless something else is said.
pub const ORDINARY: Launch = Launch { connections: 4096, counted: false };

/// A proxy, or the two of a pair. Dropping it kills them.
pub struct Running {
    processes: Vec<Process>,
}

impl Place {
    /// Starts `proxy`; returns before it is ready.
    ///
    /// # Errors
    /// When its program is not there.
    pub fn start(&self, proxy: Proxy, shape: Shape, launch: Launch) -> anyhow::Result<Running> {
        let mut processes = Vec::new();
        for part in shape.parts() {
            if let Some(command) = self.command(proxy, *part, launch)? {
                processes.push(Process::start(command, &self.work)?);
            }
        }
        Ok(Running { processes })
    }

    /// Ours, as a client of the service with many endpoints.
    ///
    /// # Errors
    /// When its program is not there.
    pub fn start_with_many(&self, proxy: Proxy) -> anyhow::Result<Running> {
        let mut command = launcher(ORDINARY, self.build(proxy)?);
        self.mesh.configure_with_many(&mut command, proxy);
        Ok(Running { processes: vec![Process::start(command, &self.work)?] })
    }

    fn build(&self, proxy: Proxy) -> anyhow::Result<&Path> {
        match proxy {
            Proxy::Other => self.other.as_deref().context("name the other build with --other"),
            _ => Ok(&self.program),
        }
    }

    fn command(&self, proxy: Proxy, part: Part, launch: Launch) -> anyhow::Result<Option<Command>> {
        let mut command = match proxy {
            Proxy::Direct => return Ok(None),
            Proxy::Conduit | Proxy::Other => launcher(launch, self.build(proxy)?),
            Proxy::Envoy => launcher(launch, &self.work.join("envoy")),
            Proxy::Haproxy => launcher(launch, Path::new("haproxy")),
            Proxy::Nginx => launcher(launch, Path::new("nginx")),
        };
        match proxy {
            Proxy::Direct | Proxy::Conduit | Proxy::Other => self.mesh.configure(&mut command, proxy, part),
            Proxy::Envoy => {
                let file = self.configuration(&format!("envoy-{part}.yaml"), launch)?;
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(file);
            }
            Proxy::Haproxy => {
                let file = self.configuration(&format!("haproxy-{part}.cfg"), launch)?;
                command.args(["-db", "-q", "-f"]).arg(file);
            }
            Proxy::Nginx => {
                let file = self.configuration(&format!("nginx-{part}.conf"), launch)?;
                command.arg("-p").arg(&self.work).arg("-c").arg(file);
            }
        }
        Ok(Some(command))
    }

    fn configuration(&self, name: &str, launch: Launch) -> anyhow::Result<PathBuf> {
        let template = self.configurations.join(name);
        let text = fs::read_to_string(&template).with_context(|| format!("cannot read {}", template.display()))?;
        let file = self.work.join(name);
        fs::write(&file, text.replace("CONNECTIONS", &launch.connections.to_string()))?;
        Ok(file)
    }

    /// The server that all requests end at.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_server(&self) -> anyhow::Result<Process> {
        let mut command = on_core(LOAD_CORE, &env::current_exe()?);
        command.arg("serve");
        for address in [SocketAddr::from(SERVER)].into_iter().chain(OURS.map(Proxy::server_in_pod)) {
            command.args(["--listen", &address.to_string()]);
        }
        Process::start(command, &self.work)
    }
}

fn launcher(launch: Launch, program: &Path) -> Command {
    if !launch.counted {
        return on_core(PROXY_CORE, program);
    }
    let mut command = on_core(PROXY_CORE, Path::new("valgrind"));
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command
}

impl Running {
    /// Processor time of all of it.
    ///
    /// # Errors
    /// When some of it has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let all: io::Result<Duration> = self.processes.iter().map(Process::cpu).sum();
        all.context("a proxy has ended")
    }

    /// Resident memory of all of it, in bytes.
    ///
    /// # Errors
    /// When some of it has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        self.processes.iter().map(Process::resident).sum()
    }

    /// Returns when a request to `entrance` is answered.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn answers(&mut self, entrance: SocketAddr) -> anyhow::Result<()> {
        self.until("answer", entrance, async || Connection::answered(entrance).await).await
    }

    /// Returns when connections to `entrance` are accepted.
    ///
    /// # Errors
    /// When that does not happen.
    pub async fn listens(&mut self, entrance: SocketAddr) -> anyhow::Result<()> {
        self.until("accept connections", entrance, async || Connection::open(entrance).await.map(drop)).await
    }

    /// Returns when it works.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&mut self, proxy: Proxy, shape: Shape) -> anyhow::Result<()> {
        self.answers(proxy.entrance(shape, Protocol::Http1)).await
    }

    async fn until(
        &mut self,
        what: &str,
        entrance: SocketAddr,
        mut attempt: impl AsyncFnMut() -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while let Err(error) = attempt().await {
            if began.elapsed() > PATIENCE {
                bail!("{entrance} did not {what} within {PATIENCE:?}: {error}\n{}", self.said());
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// What all of it has said so far.
    pub fn said(&mut self) -> String {
        let said: Vec<_> = self.processes.iter_mut().filter_map(|process| process.said().ok()).collect();
        said.join("\n")
    }

    /// Tells it to end, and waits for that; what each process said.
    ///
    /// # Errors
    /// When some of it does not end.
    pub async fn end(self) -> anyhow::Result<Vec<String>> {
        let mut said = Vec::new();
        // The one that clients connect to has connections to the other.
        for process in self.processes.into_iter().rev() {
            said.push(process.end().await?);
        }
        Ok(said)
    }
}
