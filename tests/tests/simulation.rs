//! Three and five replicas in a simulated network (turmoil) and on simulated disks: cut apart, delayed, answered twice, slowed down,
//! and without power by chance, all of it from one seed. Clocks say what they like.
//!
//! Safety is looked at all the time, liveness after everything was healed; each invariant is a file in `simulation/`.
//!
//! Every seed that ever failed is run (`simulation/seeds.txt`), and new ones for [`NEW_SEEDS_FOR`]. A failure prints its seed;
//! `CONDUIT_SIM_SEED=<seed>` runs that one alone, `CONDUIT_SIM_SECONDS=<n>` goes on for longer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod simulation {
    pub mod convergence;
    pub mod election_safety;
    pub mod log_matching;
    pub mod monotonic_revisions;
    pub mod network;
    pub mod no_lost_write;
    pub mod one_initialiser;
    pub mod state_machine_safety;
    pub mod world;
}

use std::{
    env,
    panic::{catch_unwind, resume_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use simulation::world::World;
use tokio::time::Instant;

/// In the simulation's runs of CI.
const NEW_SEEDS_FOR: Duration = Duration::from_secs(60);
/// One to a line, and after it why it failed.
const FAILED_SEEDS: &str = include_str!("simulation/seeds.txt");

/// One simulation at a time: tokio numbers tasks for the whole process, and drops them in an order that their numbers decide.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn replicas_agree_whatever_the_network_and_the_disks_do() {
    let _turn = turn();
    let number = |name| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    if let Some(seed) = number("CONDUIT_SIM_SEED") {
        World::new(seed).run();
        return;
    }
    let failed = FAILED_SEEDS.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    for seed in failed {
        run(seed);
    }
    let (start, time) = (Instant::now(), number("CONDUIT_SIM_SECONDS").map_or(NEW_SEEDS_FOR, Duration::from_secs));
    let mut seeds = Vec::new();
    while start.elapsed() < time {
        seeds.push(u64::from(rand::random::<u32>()));
        run(*seeds.last().unwrap());
    }
    eprintln!("new seeds: {seeds:?}");
}

/// Otherwise a seed that has failed would say nothing.
#[test]
fn a_seed_does_the_same_again() {
    if cfg!(not(tokio_unstable)) {
        eprintln!("not tested: RUSTFLAGS has taken away what .cargo/config.toml sets");
        return;
    }
    let _turn = turn();
    let [once, again] = [7, 7].map(|seed| World::new(seed).run());
    assert!(once == again, "{} writes, then {}", once.writes.len(), again.writes.len());
}

fn run(seed: u64) {
    if let Err(panic) = catch_unwind(|| World::new(seed).run()) {
        eprintln!("CONDUIT_SIM_SEED={seed} fails; add it to simulation/seeds.txt when it is mended");
        resume_unwind(panic);
    }
}
