//! `conduit`: the only thing a person types.

use std::{io::stderr, path::PathBuf, process::ExitCode};

use clap::{Parser as _, error::ErrorKind};
use conduit_cli::{
    address::Address,
    alerts,
    args::{Cli, Command},
    ca, check, completion,
    control_plane::ControlPlane,
    dashboard, diagnostics, edges, explain, failure, get,
    global::Global,
    history, identity, inject, install,
    local::directory::MeshDirectory,
    plugin, pods, profile, prune, raft, routes, slo, stat,
    stdout::{self, Stdout},
    tap, top, uninstall, upgrade, version, wait,
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// What a command ends with that was asked whether something is well, and it is not.
const NOT_WELL: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::InvalidSubcommand => match plugin::run() {
            None => return wrong_usage(&error),
            Some(error) => {
                eprintln!("{}", failure::line(&anyhow::Error::from(error).context("cannot start the plug-in")));
                return ExitCode::FAILURE;
            }
        },
        Err(error) => return wrong_usage(&error),
    };
    match run(&cli) {
        Ok(code) => code,
        Err(error) if stdout::was_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", failure::line(&error));
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage(error: &clap::Error) -> ExitCode {
    if let Some(line) = failure::usage_line(error) {
        eprintln!("{line}");
        return ExitCode::FAILURE;
    }
    // The help or the version: clap knows where it goes. That nobody reads it is no error.
    let _ = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    log_to_stderr(cli.global.verbose);
    cli.global.scope(false)?;
    if let Command::Local { command } = &cli.command {
        // It has its own ideas of threads: a process leaves the host's network while it has one only.
        command.run(cli.global.namespace.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    // These ask nobody.
    match &cli.command {
        Command::Install(args) => return install::run(args, &cli.global, &mut Stdout).map(|()| ExitCode::SUCCESS),
        Command::Inject(args) => {
            let is_well = inject::inject(args, &cli.global, &mut Stdout, &mut stderr())?;
            return Ok(if is_well { ExitCode::SUCCESS } else { NOT_WELL.into() });
        }
        Command::Uninject(args) => {
            return inject::uninject(args, &mut Stdout, &mut stderr()).map(|()| ExitCode::SUCCESS);
        }
        _ => {}
    }
    let control_plane = control_plane(&cli.global);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(cli, &control_plane))
}

/// Where the control plane is: what the command line says, or else the mesh on this machine, or else that of the cluster.
fn control_plane(global: &Global) -> ControlPlane {
    if !global.api_addr.is_empty() {
        return ControlPlane::at(global.api_addr.clone());
    }
    let given = std::env::var_os("CONDUIT_LOCAL_DIR").map(PathBuf::from);
    let local = MeshDirectory::resolve(given.as_deref()).map(|directory| directory.api_sockets()).unwrap_or_default();
    if global.names_a_cluster() || (local.is_empty() && given.is_none() && global.kubernetes.is_there()) {
        let (options, namespace) = (global.kubernetes.clone(), global.conduit_namespace().to_owned());
        return ControlPlane::Cluster { options, namespace };
    }
    ControlPlane::at(local.into_iter().map(Address::Unix).collect())
}

async fn ask(cli: &Cli, control_plane: &ControlPlane) -> anyhow::Result<ExitCode> {
    let (global, out, notes) = (&cli.global, &mut Stdout, &mut stderr());
    match &cli.command {
        Command::Alerts(args) => alerts::run(args, global, control_plane, out, notes).await?,
        Command::Apply(args) => routes::apply(args, global, control_plane, out).await?,
        Command::Delete(args) => routes::delete(args, global, control_plane, out).await?,
        Command::Diff(args) => routes::diff(args, control_plane, out).await?,
        Command::Rollback(args) => routes::rollback(args, control_plane, out).await?,
        Command::Ca { command } => ca::run(command, global, control_plane, out).await?,
        Command::Identity(args) => identity::run(args, global, control_plane, out).await?,
        Command::Check(args) => {
            if !check::run(args, global, control_plane, out).await? {
                return Ok(NOT_WELL.into());
            }
        }
        Command::Completion(args) => completion::run(args, out)?,
        Command::Diagnostics { command } => diagnostics::run(command, global, control_plane, out, notes).await?,
        Command::Edges(args) => edges::run(args, global, control_plane, out, notes).await?,
        Command::Dashboard(args) => {
            if !dashboard::run(args, global, control_plane, out, notes).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Explain(args) => explain::run(args, global, control_plane, out).await?,
        Command::Get(args) => get::run(args, global, control_plane, out, notes).await?,
        Command::Local { .. } | Command::Install(_) | Command::Inject(_) | Command::Uninject(_) => {}
        Command::Pods(args) => pods::run(args, global, control_plane, out, notes).await?,
        Command::Profile(args) => profile::run(args, global, control_plane, out, notes).await?,
        Command::Prune => prune::run(global, out).await?,
        Command::Raft { command } => raft::run(command, control_plane, global.api_addr.is_empty(), out).await?,
        Command::Routes(args) => stat::routes::run(args, global, control_plane, out, notes).await?,
        Command::Slo { command } => slo::run(command, global, control_plane, out, notes).await?,
        Command::Stat(args) => stat::run(args, global, control_plane, out, notes).await?,
        Command::Tap(args) => tap::run(args, global, control_plane, out, notes).await?,
        Command::Top(args) => top::run(args, global, control_plane, out, notes).await?,
        Command::History(args) => history::run(args, control_plane, out).await?,
        Command::Uninstall(args) => uninstall::run(args, global, out).await?,
        Command::Upgrade(args) => upgrade::run(args, global, control_plane, out).await?,
        Command::Wait(args) => wait::run(args, control_plane, out).await?,
        Command::Version(args) => version::run(args, global, control_plane, out).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(verbose: bool) {
    let (all, own) =
        if verbose { (LevelFilter::INFO, LevelFilter::DEBUG) } else { (LevelFilter::OFF, LevelFilter::OFF) };
    let filter = Targets::new().with_default(all).with_target("conduit_cli", own);
    tracing_subscriber::registry().with(filter).with(fmt::layer().with_writer(stderr)).init();
}
