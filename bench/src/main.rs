//! `conduit-bench`: see `bench/README.md`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::{Parser, Subcommand, ValueEnum};
use conduit_bench::{
    control_plane, identity, kubernetes, load,
    memory::Memory,
    proxy,
    report::{Report, comparison},
    serve, train,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{net::TcpListener, signal::unix, task::JoinSet};

/// Measurements of Conduit
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every request with the same body, HTTP/1.1 or HTTP/2
    Serve {
        /// Where to listen
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Listen at these addresses instead
        #[arg(long, value_name = "ADDRESS", conflicts_with = "port")]
        listen: Vec<SocketAddr>,
        /// Size of the body
        #[arg(long, default_value_t = 1024)]
        body_bytes: usize,
    },
    /// Send requests at a constant rate and report how long they took
    Load {
        #[command(flatten)]
        plan: load::Plan,
        /// Wait for this file before starting: the report of a measurement that must not be disturbed
        #[arg(long, value_name = "FILE")]
        after: Option<PathBuf>,
        /// Write the report to this file, too
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
        /// Do not end after the report, for a Deployment, whose processes are started again when they end
        #[arg(long)]
        stay: bool,
    },
    /// Put two reports beside each other
    Compare {
        /// The one to compare with
        base: PathBuf,
        /// The one that is compared
        other: PathBuf,
    },
    /// Sum up `conduit local status -o json` from standard input
    Memory,
    /// Measure a proxy, and others beside it
    Proxy(proxy::Plan),
    /// Put proxies to all of their work, so that programs which profile themselves have something to write: `deploy/images/profile`
    Train(train::Plan),
    /// Measure certificates and what they are for
    Identity {
        #[command(subcommand)]
        command: Identity,
    },
    /// Measure a control plane of its own
    ControlPlane {
        #[command(subcommand)]
        command: ControlPlane,
    },
    /// Measure it in Kubernetes, in a network of its own: `bench/kubernetes.sh`
    Kubernetes(kubernetes::Plan),
}

#[derive(Subcommand)]
enum Identity {
    /// Certificates that a replica signs
    Issue(identity::issue::Plan),
    /// Handshakes, full and resumed
    Handshakes(identity::handshakes::Plan),
    /// Trust roots that follow each other under load
    Rotations(identity::rotations::Plan),
}

#[derive(Subcommand)]
enum ControlPlane {
    /// Committed writes per second
    Writes(control_plane::writes::Plan),
    /// From the loss of a leader to the first commit under another
    Failover(control_plane::failover::Plan),
    /// From starting a replica with a large state until it answers with all of it
    Restart(control_plane::restart::Plan),
    /// From a change to its being in force in many proxies
    Fanout(control_plane::fanout::Plan),
    /// What counting requests and telling of them costs, and how soon `conduit stat` answers
    Telemetry(control_plane::telemetry::Plan),
}

/// `-o` of `load`.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For programs, as `--report` writes it
    Json,
}

// One thread, as the load is on two machines of one: what it does not use is left to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    let mut terminated = unix::signal(unix::SignalKind::terminate())?;
    tokio::select! {
        result = run(command) => result,
        _ = terminated.recv() => Ok(()),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { port, mut listen, body_bytes } => {
            if listen.is_empty() {
                listen.push((Ipv4Addr::UNSPECIFIED, port).into());
            }
            let mut servers = JoinSet::new();
            for address in listen {
                servers.spawn(serve::serve(TcpListener::bind(address).await?, body_bytes));
            }
            servers.join_next().await.unwrap_or(Ok(Ok(())))?
        }
        Command::Proxy(plan) => {
            open_many_files()?;
            print!("{}", proxy::run(&conduit_chaos::cluster::programs()?, &plan).await?);
            Ok(())
        }
        Command::Kubernetes(plan) => kubernetes::run(&conduit_chaos::cluster::programs()?, &plan).await,
        Command::Train(plan) => train::run(&conduit_chaos::cluster::programs()?, &plan).await,
        Command::Load { plan, after, report, output, stay } => {
            if let Some(file) = after {
                load::wait_for(&file).await;
            }
            let measured = load::run(&plan).await?;
            match output {
                Output::Table => print!("{}", measured.text()),
                Output::Json => println!("{}", measured.json()?),
            }
            if let Some(file) = report {
                measured.write(&file)?;
            }
            if stay {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
        Command::Compare { base, other } => {
            print!("{}", comparison(&Report::read(&base)?, &Report::read(&other)?));
            Ok(())
        }
        Command::ControlPlane { command } => {
            open_many_files()?;
            let programs = conduit_chaos::cluster::programs()?;
            let measured = match command {
                ControlPlane::Writes(plan) => control_plane::writes::run(&programs, &plan).await?,
                ControlPlane::Restart(plan) => control_plane::restart::run(&programs, &plan).await?,
                ControlPlane::Failover(plan) => control_plane::failover::run(&programs, &plan).await?,
                ControlPlane::Fanout(plan) => control_plane::fanout::run(&programs, &plan).await?,
                ControlPlane::Telemetry(plan) => control_plane::telemetry::run(&programs, &plan).await?,
            };
            print!("{measured}");
            Ok(())
        }
        Command::Identity { command } => {
            open_many_files()?;
            let programs = conduit_chaos::cluster::programs()?;
            let measured = match command {
                Identity::Issue(plan) => identity::issue::run(&programs, &plan).await?,
                Identity::Handshakes(plan) => identity::handshakes::run(&plan)?,
                Identity::Rotations(plan) => identity::rotations::run(&programs, &plan).await?,
            };
            print!("{measured}");
            Ok(())
        }
        Command::Memory => {
            print!("{}", Memory::of_status(&std::io::read_to_string(std::io::stdin())?)?);
            Ok(())
        }
    }
}

/// A proxy is a connection, on both sides: as many as the system allows at all.
fn open_many_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
