//! `conduit local up`: starts the supervisor, and shows what it does.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use conduit_api::proto::local::{DownRequest, Progress, WatchRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::{signal, time::sleep};

use super::{
    DirectoryArgs, TRUST_DOMAIN, authority::AuthorityArgs, client, directory::MeshDirectory, manifest::Manifest,
    supervisor::already_running,
};

/// Between two looks whether the supervisor can be asked.
const POLL: Duration = Duration::from_millis(10);

/// What to start.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    directory: DirectoryArgs,
    /// Run the Deployments and Services of this file; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Run the demo application
    #[arg(long)]
    demo: bool,
    /// Return when everything is ready
    #[arg(long)]
    detach: bool,
    /// Replicas of the control plane
    #[arg(long, default_value_t = 3, value_parser = parse_controllers)]
    controllers: u32,
    #[command(flatten)]
    authority: AuthorityArgs,
    /// The port of this machine's loopback where the first LoadBalancer service is shown
    #[arg(long, default_value_t = 8080)]
    web_port: u16,
}

/// An even number tolerates no more failures than the odd one below it.
fn parse_controllers(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|count| [1, 3, 5].contains(count)).ok_or_else(|| "1, 3 or 5 is expected".to_owned())
}

/// Starts a mesh.
///
/// # Errors
/// In one line; nothing is left behind then.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.demo && args.file.is_empty() {
        bail!("nothing to run: say --demo, or give a file of Deployments and Services with -f");
    }
    let directory = args.directory.resolve()?;
    if directory.is_running() {
        return Err(already_running(&directory));
    }
    // Read here first: the supervisor has no terminal to complain on, and no standard input.
    let manifest = Manifest::read(&args.file, args.demo)?;
    for warning in &manifest.warnings {
        eprintln!("warning: {warning}");
    }
    args.authority.check(&TRUST_DOMAIN.parse()?)?;
    directory.create()?;
    let mut supervisor = supervise(args, &directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = runtime.block_on(show_start(&directory, &mut supervisor));
    if let Err(error) = started {
        // It takes everything with it, and knows best what was in the way.
        let _ = supervisor.child.wait();
        return Err(error);
    }
    next_steps(args, &manifest);
    if args.detach {
        return Ok(());
    }
    runtime.block_on(stay(&directory, &mut supervisor))
}

/// The supervisor's process, and what it writes.
struct Supervisor {
    child: Child,
    log: File,
}

fn supervise(args: &Args, directory: &MeshDirectory) -> anyhow::Result<Supervisor> {
    let path = directory.log("supervisor");
    let log = File::options().create(true).read(true).write(true).truncate(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["local", "supervise", "--verbose", "--dir"]).arg(directory.path());
    for file in &args.file {
        command.arg("-f").arg(fs::canonicalize(file).unwrap_or_else(|_| file.clone()));
    }
    if args.demo {
        command.arg("--demo");
    }
    command.arg("--controllers").arg(args.controllers.to_string()).arg("--web-port").arg(args.web_port.to_string());
    command.args(args.authority.to_flags());
    command.env("CONDUIT_LOCAL_DIR", directory.path());
    // In a process group of its own: Ctrl-C is for this command, which then ends the mesh in order.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0);
    let child = command.spawn().context("cannot start the supervisor")?;
    Ok(Supervisor { child, log })
}

impl Supervisor {
    /// What it said last, if it has ended.
    fn ended(&mut self) -> anyhow::Result<Option<anyhow::Error>> {
        if self.child.try_wait()?.is_none() {
            return Ok(None);
        }
        let mut log = String::new();
        self.log.rewind()?;
        self.log.read_to_string(&mut log)?;
        let last = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
        Ok(Some(anyhow!("{}", last.or(log.lines().last()).unwrap_or("the supervisor ended without a word"))))
    }
}

async fn show_start(directory: &MeshDirectory, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let mut client = loop {
        if let Some(error) = supervisor.ended()? {
            return Err(error);
        }
        match client::connect(directory).await {
            Ok(client) => break client,
            Err(_) => sleep(POLL).await,
        }
    };
    let mut shown = Shown::new();
    let mut progress = client.watch(WatchRequest {}).await?.into_inner();
    let interrupted = signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let update = tokio::select! {
            update = progress.message() => update,
            _ = &mut interrupted => {
                client.down(DownRequest {}).await?;
                bail!("interrupted; everything is taken down");
            }
        };
        match update {
            Ok(Some(update)) if !update.error.is_empty() => bail!("{}", update.error),
            Ok(Some(update)) => {
                shown.show(&update);
                if update.ready {
                    return Ok(());
                }
            }
            Ok(None) | Err(_) => {
                sleep(POLL).await;
                bail!(supervisor.ended()?.unwrap_or_else(|| anyhow!("the supervisor has gone")));
            }
        }
    }
}

/// Bars on a terminal, lines elsewhere.
struct Shown {
    bars: Option<MultiProgress>,
    steps: Vec<(String, ProgressBar, bool)>,
}

impl Shown {
    fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new), steps: Vec::new() }
    }

    fn show(&mut self, progress: &Progress) {
        for step in &progress.steps {
            let known = self.steps.iter().position(|(name, _, _)| *name == step.name);
            let index = known.unwrap_or_else(|| {
                let bar = self.bars.as_ref().map_or_else(ProgressBar::hidden, |bars| bars.add(bar(&step.name)));
                self.steps.push((step.name.clone(), bar, false));
                self.steps.len() - 1
            });
            let (name, bar, done) = &mut self.steps[index];
            bar.set_length(step.total.into());
            bar.set_position(step.done.into());
            if step.done == step.total && !*done {
                *done = true;
                bar.finish();
                if self.bars.is_none() {
                    eprintln!("{name}: {}/{}", step.done, step.total);
                }
            }
        }
    }
}

fn bar(name: &str) -> ProgressBar {
    // A template that is wrong would be wrong always.
    let style =
        ProgressStyle::with_template("{spinner} {prefix:<26} {bar:20} {pos}/{len}").expect("a constant template");
    let bar = ProgressBar::new(0).with_style(style).with_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn next_steps(args: &Args, manifest: &Manifest) {
    let namespace = manifest.deployments.keys().next().map_or("default", |(namespace, _)| namespace.as_str());
    println!("The mesh is ready. Try:");
    println!("  conduit -n {namespace} stat deployment");
    if let Some((_, deployment)) = manifest.deployments.keys().last() {
        println!("  conduit -n {namespace} tap deploy {deployment}");
    }
    println!("  conduit check");
    if manifest.services.iter().any(|service| service.load_balancer) {
        println!("  open http://127.0.0.1:{}/", args.web_port);
    }
    println!("Stop it with `conduit local down`.");
}

/// Until Ctrl-C, or until somebody else takes it down.
async fn stay(directory: &MeshDirectory, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let line = ProgressBar::new_spinner();
    line.enable_steady_tick(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = signal::ctrl_c() => {
                line.set_message("taking everything down; Ctrl-C again does it at once");
                let mut client = client::connect(directory).await?;
                tokio::select! {
                    // It may end before its answer is out.
                    _ = client.down(DownRequest {}) => {}
                    _ = signal::ctrl_c() => supervisor.child.kill()?,
                }
                supervisor.child.wait()?;
                line.finish_and_clear();
                return Ok(());
            }
            () = sleep(Duration::from_secs(1)) => {
                if let Some(_ended) = supervisor.ended()? {
                    line.finish_and_clear();
                    return Ok(());
                }
                line.set_message(live_state(directory).await);
            }
        }
    }
}

async fn live_state(directory: &MeshDirectory) -> String {
    let status = match client::connect(directory).await {
        Ok(mut client) => client.status(conduit_api::proto::local::StatusRequest {}).await.ok(),
        Err(_) => None,
    };
    let Some(status) = status.map(tonic::Response::into_inner) else {
        return "the supervisor does not answer".to_owned();
    };
    let running = status.processes.iter().filter(|process| process.state == "running").count();
    let restarts: u32 = status.processes.iter().map(|process| process.restarts).sum();
    let memory: u64 = status.processes.iter().map(|process| process.rss_bytes).sum();
    let total = status.processes.len();
    format!("{running}/{total} processes running, {restarts} restarts, {:.1}MB; Ctrl-C stops them", memory as f64 / 1e6)
}
