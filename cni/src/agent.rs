//! The agent on each node.

mod install;
mod pods;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use self::{install::Installed, pods::Pods};
use crate::{
    conf,
    question::{Answer, LINE_BYTES_MAX, Question},
};

/// Between two looks at what the network's own programs have written. Pods that start in between are found by their own check.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Plugins that are answered at once: a node starts some pods at a time.
const QUESTIONS_MAX: usize = 64;
/// A plugin asks as soon as it has connected.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Then there is none to connect to, or no file to be had: it may be otherwise soon.
const PAUSE: Duration = Duration::from_millis(100);
/// Of the API server: less than a plugin waits.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// What the agent needs to know.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Directory of the node's CNI plugins
    #[arg(long, default_value = "/opt/cni/bin")]
    pub bin_directory: PathBuf,
    /// Directory of the node's CNI configuration
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub conf_directory: PathBuf,
    /// Where plugins ask, by the same path here and on the node
    #[arg(long, default_value = "/var/run/conduit-cni/agent.sock")]
    pub socket: PathBuf,
    /// Namespaces whose pods are never redirected, and start also while no agent runs
    #[arg(long, value_delimiter = ',', default_value = "kube-system")]
    pub exclude_namespaces: Vec<String>,
    /// The DaemonSet that this belongs to, as NAMESPACE/NAME: the agent leaves the node when it is deleted, and not when it is changed
    #[arg(long, value_parser = parse_name)]
    pub daemon_set: Option<(String, String)>,
    /// Kubeconfig file, outside a cluster
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("NAMESPACE/NAME is expected")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Runs until `stop`, as soon as no other agent runs on this node.
///
/// # Errors
/// When the cluster cannot be found, or the socket cannot be made.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(stop);
    let pods = Arc::new(Pods::new(client(options.kubeconfig.as_deref()).await?));
    let _alone = tokio::select! {
        alone = alone(&options.socket) => alone?,
        () = &mut stop => return Ok(()),
    };
    let listener = listen(&options.socket)?;
    let socket = options.socket.to_str().context("the socket's path has to be UTF-8")?;
    let entry = conf::entry(socket, &options.exclude_namespaces);
    let installed = Installed::new(&options.bin_directory, &options.conf_directory, entry);
    info!(socket, "plugins are answered");
    tokio::select! {
        () = answer_all(&listener, pods.clone()) => {}
        () = keep(&installed, &options.socket) => {}
        () = stop => {}
    }
    let Some((namespace, name)) = options.daemon_set else { return Ok(()) };
    if pods.is_deleted(&namespace, &name).await {
        installed.remove().context("cannot take the plugin out of the node's CNI configuration")?;
        for file in [options.socket.clone(), ready_file(&options.socket)] {
            fs::remove_file(file).or_else(unless_missing)?;
        }
        info!("the plugin was taken out of the node's CNI configuration, since {namespace}/{name} was deleted");
    } else {
        info!("the plugin stays: pods with proxies do not start until the next agent runs");
    }
    Ok(())
}

/// Whether there is an agent at `socket`, and its node is as it should be.
///
/// # Errors
/// When there is none, or it is not.
pub fn is_ready(socket: &Path) -> anyhow::Result<()> {
    let answers = std::os::unix::net::UnixStream::connect(socket);
    answers.map(drop).with_context(|| format!("no agent answers at {}", socket.display()))?;
    ensure!(
        ready_file(socket).exists(),
        "the plugin is not in this node's CNI configuration yet; the agent's log says why"
    );
    Ok(())
}

/// It is there as long as the plugin is where it should be.
fn ready_file(socket: &Path) -> PathBuf {
    socket.with_extension("ready")
}

/// When there is no other agent on this node any more: two would take each other's socket away, and one that goes the other's plugin.
async fn alone(socket: &Path) -> anyhow::Result<Flock<File>> {
    let path = socket.with_extension("lock");
    let cannot = || format!("cannot lock {}", path.display());
    fs::create_dir_all(socket.parent().unwrap_or(Path::new("/"))).with_context(cannot)?;
    let mut file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).with_context(cannot)?;
    let mut is_told = false;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => return Ok(alone),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, error)) => return Err(error).with_context(cannot),
        };
        if !std::mem::replace(&mut is_told, true) {
            warn!("another agent runs on this node: this one waits until that has gone");
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::incluster().context("this is no pod of a cluster, and there is no --kubeconfig")?,
    };
    (config.connect_timeout, config.read_timeout) = (Some(API_TIMEOUT), Some(API_TIMEOUT));
    Ok(Client::try_from(config)?)
}

/// In place of what an agent of before has left. For root alone, as is the directory of plugins.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        fs::create_dir_all(socket.parent().unwrap_or(Path::new("/")))?;
        fs::remove_file(socket).or_else(unless_missing)?;
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().with_context(|| format!("cannot listen at {}", socket.display()))
}

fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Looks again and again whether the plugin is where it should be, and says so.
async fn keep(installed: &Installed, socket: &Path) {
    let mut last = String::new();
    let ready = ready_file(socket);
    loop {
        let (said, is_kept) = match installed.keep() {
            Ok(done) => (done.unwrap_or_default(), true),
            Err(error) => (format!("the plugin cannot be kept on this node: {error:#}"), false),
        };
        let marked = match is_kept {
            _ if is_kept == ready.exists() => Ok(()),
            true => fs::write(&ready, ""),
            false => fs::remove_file(&ready),
        };
        if let Err(error) = marked {
            warn!("cannot say in {} whether the plugin is kept: {error}", ready.display());
        }
        // Once, and not every second.
        if !said.is_empty() && said != last {
            warn!("{said}");
        }
        last = said;
        sleep(LOOK_AGAIN).await;
    }
}

async fn answer_all(listener: &UnixListener, pods: Arc<Pods>) {
    let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let pods = pods.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &pods).await {
                        warn!("a plugin was not answered: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                error!("plugins cannot be answered: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, pods: &Pods) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(QUESTION_TIMEOUT, BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line)).await??;
    if line.is_empty() {
        // Somebody has looked whether the agent is there.
        return Ok(());
    }
    let question: Question = serde_json::from_str(&line)?;
    let Question { namespace, name, .. } = &question;
    let answer = match timeout(API_TIMEOUT, pods.answer(&question)).await {
        Ok(answer) => answer,
        Err(_) => {
            Answer::Unknown(format!("the API server has not said within {API_TIMEOUT:?} what {namespace}/{name} is"))
        }
    };
    match &answer {
        Answer::Unknown(reason) => warn!("{namespace}/{name} does not start: {reason}"),
        Answer::Redirect(_) => info!("{namespace}/{name} is redirected"),
        Answer::Leave => {}
    }
    let line = serde_json::to_string(&answer)? + "\n";
    timeout(QUESTION_TIMEOUT, write.write_all(line.as_bytes())).await?
}
