//! `conduit-chaos`: see the crate's documentation.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use conduit_chaos::{
    cluster,
    run::{self, Plan},
};
use tokio::signal::{
    ctrl_c,
    unix::{SignalKind, signal},
};

/// Breaks Conduit on purpose, and tells whether it kept its promises
#[derive(Parser)]
#[command(name = "conduit-chaos", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Controllers are killed, stopped, wiped and cut off, while clients write and read
    ControlPlane {
        /// The same seed breaks the same things [default: a random one, which is printed]
        #[arg(long)]
        seed: Option<u64>,
        /// How long
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// How many controllers
        #[arg(long, default_value_t = 3)]
        replicas: usize,
        /// Leave their connections alone: needs no namespaces
        #[arg(long)]
        no_partitions: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Command::ControlPlane { seed, duration, replicas, no_partitions } = Cli::parse().command;
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed {seed}, {replicas} replicas, {}", humantime::format_duration(duration));
    let plan = Plan { seed, duration, replicas, apart: !no_partitions };
    let programs = cluster::programs()?;
    if plan.apart {
        // While there is one thread only.
        conduit_netns::leave_host().context("--no-partitions goes without")?;
    }
    // Replicas end with the thread that has started them: this one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(break_control_plane(&programs, plan))
}

async fn break_control_plane(programs: &Path, plan: Plan) -> anyhow::Result<ExitCode> {
    let seed = plan.seed;
    let mut terminated = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = run::control_plane(programs, plan, |line| println!("{line}")) => outcome?,
        // What was started ends with it.
        _ = terminated.recv() => bail!("ended before the verdict"),
        interrupted = ctrl_c() => {
            interrupted?;
            bail!("ended before the verdict")
        }
    };
    let (writes, reads) = (outcome.history.writes.len(), outcome.history.reads.len());
    let acknowledged = outcome.acknowledged();
    println!("{} faults; {writes} writes, {acknowledged} of them acknowledged; {reads} reads", outcome.faults);
    for ended in &outcome.ended {
        println!("{ended}");
    }
    match outcome.verdict {
        Ok(()) => {
            println!("verdict: every answer can be explained by one history (seed {seed})");
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => {
            println!("verdict: VIOLATION (seed {seed}): {violation}");
            Ok(ExitCode::FAILURE)
        }
    }
}
