//! `conduit-cni`: a CNI plugin when a container runtime runs it, and the plugin's agent on its node by command.

use std::{env, io, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use conduit_cni::{agent, plugin};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

/// Redirects pods' traffic to their proxies from outside. Container runtimes run it without a command, as a CNI plugin.
#[derive(Parser)]
#[command(name = "conduit-cni", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers plugins of this node, and keeps the plugin in its CNI configuration.
    Agent(Box<agent::Options>),
    /// Whether there is an agent on this node.
    Ready {
        /// Where it listens
        #[arg(long, default_value = "/var/run/conduit-cni/agent.sock")]
        socket: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    if env::var_os("CNI_COMMAND").is_some() {
        let (output, success) = plugin::run(|name| env::var(name).ok(), io::stdin());
        println!("{output}");
        return if success { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let result = match Args::parse().command {
        Command::Agent(options) => run(*options),
        Command::Ready { socket } => agent::is_ready(&socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: agent::Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_max_level(LevelFilter::INFO).with_writer(io::stderr).init();
    // There is only one: nobody has installed another.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        agent::run(options, async move {
            terminate.recv().await;
        })
        .await
    })
}
