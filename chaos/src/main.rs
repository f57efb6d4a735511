//! `conduit-chaos`: see the crate's documentation.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use conduit_chaos::{
    cluster,
    drills::{self, Drill},
    run::{self, Plan},
};
use tokio::{
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    task::LocalSet,
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
    ControlPlane(Args),
    /// The same, while the trust root is replaced over and over, and workloads speak with each other
    Identity(Args),
    /// What takes meshes down, by name, each once; all of them when none is named
    Drill {
        /// Which
        drills: Vec<Drill>,
    },
}

#[derive(clap::Args)]
struct Args {
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
}

fn main() -> anyhow::Result<ExitCode> {
    let command = Cli::parse().command;
    let args = match &command {
        Command::ControlPlane(args) | Command::Identity(args) => args,
        Command::Drill { drills } => return hold(drills),
    };
    let Args { seed, duration, replicas, no_partitions } = *args;
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
    runtime.block_on(async {
        match command {
            Command::Identity(_) => LocalSet::new().run_until(unless_ended(break_identity(&programs, plan))).await,
            _ => unless_ended(break_control_plane(&programs, plan)).await,
        }
    })
}

/// One drill after the other; they need no namespaces.
fn hold(drills: &[Drill]) -> anyhow::Result<ExitCode> {
    let programs = cluster::programs()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let all = if drills.is_empty() { &Drill::ALL } else { drills };
    for drill in all {
        println!("drill {drill}");
        let held = drills::run(&programs, *drill, |line| println!("  {line}"));
        let held = async { held.await.map(|()| ExitCode::SUCCESS) };
        if let Err(error) = runtime.block_on(LocalSet::new().run_until(unless_ended(held))) {
            println!("verdict: VIOLATION in {drill}: {error:#}");
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("verdict: {} of {} drills were passed", all.len(), all.len());
    Ok(ExitCode::SUCCESS)
}

/// What was started ends with it.
async fn unless_ended(run: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        code = run => code,
        _ = terminated.recv() => bail!("ended before the verdict"),
        interrupted = ctrl_c() => {
            interrupted?;
            bail!("ended before the verdict")
        }
    }
}

async fn break_identity(programs: &Path, plan: Plan) -> anyhow::Result<ExitCode> {
    let seed = plan.seed;
    let outcome = run::identity(programs, plan, |line| println!("{line}")).await?;
    let (faults, rotations, exchanges) = (outcome.faults, outcome.rotations, outcome.exchanges);
    println!("{faults} faults; {rotations} trust roots took over; {exchanges} connections between workloads");
    for ended in &outcome.ended {
        println!("{ended}");
    }
    if outcome.failures.is_empty() {
        println!("verdict: no connection failed (seed {seed})");
        return Ok(ExitCode::SUCCESS);
    }
    println!("verdict: VIOLATION (seed {seed}): connections between workloads failed");
    for (why, count) in &outcome.failures {
        println!("  {count} times: {why}");
    }
    Ok(ExitCode::FAILURE)
}

async fn break_control_plane(programs: &Path, plan: Plan) -> anyhow::Result<ExitCode> {
    let seed = plan.seed;
    let outcome = run::control_plane(programs, plan, |line| println!("{line}")).await?;
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
