//! Replicas with their network, disks and clocks, and what goes wrong with them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use conduit_api::proto::peer::raft_server::RaftServer;
use conduit_ca::CryptoError;
use conduit_chaos::{
    clients::{KEYS, register, register_at},
    history::{Fate, History, Read, Write},
};
use conduit_consensus::{
    Applied, Cluster, ClusterConfig, Compaction, MeshState, Outcome, Proposal,
    runtime::seed_thread,
    store::disk::{Disk, Fault, SimulatedDisk},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::Server;
use turmoil::{Sim, net::TcpListener};

use super::{
    convergence,
    election_safety::ElectionSafety,
    log_matching,
    monotonic_revisions::MonotonicRevisions,
    network::{Connection, Repeating, SimulatedNetwork},
    no_lost_write, one_initialiser,
    state_machine_safety::StateMachineSafety,
};

/// Of even and of odd seeds.
const REPLICAS: [usize; 2] = [3, 5];
/// The log is cut often, so that replicas which come back need snapshots.
const COMPACTION: Compaction = Compaction { snapshot_every: 40, keep: 40, lag: 60 };
/// Simulated time under faults, and then to become whole again.
const FAULTS: Duration = Duration::from_secs(40);
const HEALING: Duration = Duration::from_secs(60);
/// Between two faults.
const QUIET: Duration = Duration::from_secs(3);
/// What a sync takes on a disk that is well, at most; and on a slow one.
const SYNC_MAX: Duration = Duration::from_millis(10);
const SLOW_SYNC: Duration = Duration::from_millis(400);
/// Steps between two looks at the logs, and between two reads of a client.
const STEPS_PER_LOOK: u32 = 100;
const STEPS_PER_READ: u32 = 8;

/// One run.
pub struct World {
    sim: Sim<'static>,
    replicas: usize,
    random: StdRng,
    disks: Vec<SimulatedDisk>,
    seen: Rc<RefCell<Seen>>,
    elections: ElectionSafety,
    states: StateMachineSafety,
    revisions: MonotonicRevisions,
    steps: u32,
    /// For what is not simulated: nothing.
    _directory: tempfile::TempDir,
}

/// What is known of the replicas from outside.
#[derive(Default)]
pub struct Seen {
    pub running: BTreeMap<usize, Cluster>,
    pub initialised: Vec<usize>,
    pub history: History,
    /// Revisions of acknowledged writes, in the order in which their clients learned of them.
    pub acknowledged: Vec<u64>,
    proposed: u32,
}

fn name(replica: usize) -> String {
    format!("controller-{replica}")
}

impl World {
    pub fn new(seed: u64) -> Self {
        seed_thread(seed);
        align_task_ids();
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(600))
            .tick_duration(Duration::from_millis(5))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .build();
        let (replicas, mut random) = (REPLICAS[(seed % 2) as usize], StdRng::seed_from_u64(seed));
        let (directory, seen) = (tempfile::tempdir().unwrap(), Rc::new(RefCell::new(Seen::default())));
        let disks: Vec<SimulatedDisk> = (0..replicas).map(|_| SimulatedDisk::default()).collect();
        for (number, disk) in disks.iter().enumerate() {
            disk.set_latency(random.random_range(Duration::ZERO..SYNC_MAX));
            let replica = Replica {
                number,
                replicas,
                directory: directory.path().join(name(number)),
                disk: disk.clone(),
                delay: random.random_range(Duration::ZERO..QUIET),
                random: Arc::new(Mutex::new(StdRng::seed_from_u64(random.random()))),
                seen: seen.clone(),
            };
            sim.host(name(number), move || replica.clone().run());
        }
        Self {
            sim,
            replicas,
            random,
            disks,
            seen,
            elections: ElectionSafety::default(),
            states: StateMachineSafety::default(),
            revisions: MonotonicRevisions::default(),
            steps: 0,
            _directory: directory,
        }
    }

    /// What its clients were told.
    pub fn run(mut self) -> History {
        let replicas = self.replicas;
        self.until("all replicas vote", HEALING, |seen| {
            let voters = |cluster: &Cluster| cluster.status().borrow().members.values().filter(|m| m.voter).count();
            seen.running.len() == replicas && seen.running.values().all(|cluster| voters(cluster) == replicas)
        });
        one_initialiser::check(&self.seen.borrow(), replicas);
        let end = self.sim.elapsed() + FAULTS;
        while self.sim.elapsed() < end {
            self.fault();
        }
        let before = self.seen.borrow().acknowledged.len();
        assert!(before > 0, "nothing was acknowledged under faults");
        self.until("proposals are acknowledged again", HEALING, |seen| seen.acknowledged.len() > before);
        self.until("all show the same", HEALING, |seen| convergence::reached(seen, replicas));
        for replica in 0..replicas {
            self.read(replica);
        }
        one_initialiser::check(&self.seen.borrow(), replicas);
        let history = std::mem::take(&mut self.seen.borrow_mut().history);
        no_lost_write::check(&history);
        history
    }

    /// One thing goes wrong, and is mended after a while.
    fn fault(&mut self) {
        let victim = self.random.random_range(0..self.replicas);
        let other = (victim + self.random.random_range(1..self.replicas)) % self.replicas;
        match self.random.random_range(0..7) {
            // Alone against the others.
            0 => {
                self.between(victim, |sim, a, b| sim.partition(a, b));
                self.pass(QUIET);
                self.between(victim, |sim, a, b| sim.repair(a, b));
            }
            // It does not reach one of the others: those between them are a bridge.
            1 => {
                self.sim.partition(name(victim), name(other));
                self.pass(QUIET);
                self.sim.repair(name(victim), name(other));
            }
            // It hears another one, which does not hear it.
            2 => {
                self.sim.partition_oneway(name(victim), name(other));
                self.pass(QUIET);
                self.sim.repair_oneway(name(victim), name(other));
            }
            // What it is sent is late.
            3 => {
                self.between(victim, |sim, a, b| sim.hold(a, b));
                self.pass(QUIET / 2);
                self.between(victim, |sim, a, b| sim.release(a, b));
            }
            // Its disk is slow.
            4 => {
                self.disks[victim].set_latency(SLOW_SYNC);
                self.pass(QUIET);
                self.disks[victim].set_latency(SYNC_MAX);
            }
            // Its process is killed: what it wrote is written.
            5 => self.stop(&[victim], true),
            // The power of some goes, with what was not synced.
            _ => {
                let all: Vec<_> = (0..self.replicas).filter(|_| self.random.random()).collect();
                self.stop(&all, false);
            }
        }
        self.pass(QUIET);
    }

    /// Replicas end at one moment, and start again. `written` is whether everything that they wrote is on their disks.
    fn stop(&mut self, victims: &[usize], written: bool) {
        for victim in victims {
            // First, so that what its process does while it ends has no effect.
            self.disks[*victim].fail(Fault::Power);
            self.sim.crash(name(*victim));
            self.seen.borrow_mut().running.remove(victim);
            let random = &mut self.random;
            self.disks[*victim].restart(|| written || random.random());
        }
        self.pass(QUIET);
        for victim in victims {
            self.sim.bounce(name(*victim));
        }
    }

    fn between(&mut self, victim: usize, cut: impl Fn(&Sim<'static>, String, String)) {
        for other in (0..self.replicas).filter(|other| *other != victim) {
            cut(&self.sim, name(victim), name(other));
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    fn until(&mut self, what: &str, within: Duration, condition: impl Fn(&Seen) -> bool) {
        let end = self.sim.elapsed() + within;
        while !condition(&self.seen.borrow()) {
            assert!(self.sim.elapsed() < end, "not within {within:?}: {what}");
            self.step();
        }
    }

    /// A little time passes; then safety holds.
    fn step(&mut self) {
        self.sim.step().unwrap();
        self.steps += 1;
        {
            let seen = self.seen.borrow();
            self.elections.look(&seen);
            self.states.look(&seen);
            self.revisions.look(&seen, &mut self.random);
            if self.steps.is_multiple_of(STEPS_PER_LOOK) {
                log_matching::look(&seen);
            }
        }
        if self.steps.is_multiple_of(STEPS_PER_READ) {
            let replica = self.random.random_range(0..self.replicas);
            self.read(replica);
        }
    }

    /// A client looks at what a replica shows.
    fn read(&mut self, replica: usize) {
        let now = self.sim.elapsed();
        let mut seen = self.seen.borrow_mut();
        let Some(state) = seen.running.get(&replica).map(|cluster| cluster.state().borrow().clone()) else { return };
        let (revision, registers) = (state.revision().as_u64(), registers(&state));
        seen.history.reads.push(Read { replica, began: now, ended: now, revision, registers });
    }
}

fn registers(state: &MeshState) -> BTreeMap<u32, u32> {
    let registers = state.pods().values().filter_map(|pod| match pod.value.ip {
        IpAddr::V4(ip) => register_at(pod.value.name.name(), ip),
        IpAddr::V6(_) => None,
    });
    registers.collect()
}

/// When a process of the simulation ends, tokio drops its tasks in an order that follows from their ids modulo this (`ShardedList`); their
/// connections tell the others in that order.
const TASK_SHARDS: u64 = 4;

/// Lets the next task be the first of a round of [`TASK_SHARDS`]. Ids count all tasks of this process, so that a seed would do something else
/// after other seeds.
fn align_task_ids() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let spawned = || runtime.block_on(async { tokio::spawn(async { tokio::task::id() }).await.unwrap() });
    let id = || spawned().to_string().parse::<u64>().unwrap();
    while !(id() + 1).is_multiple_of(TASK_SHARDS) {}
}

/// One replica, and the client beside it.
#[derive(Clone)]
struct Replica {
    number: usize,
    replicas: usize,
    directory: PathBuf,
    disk: SimulatedDisk,
    /// When it is started for the first time.
    delay: Duration,
    random: Arc<Mutex<StdRng>>,
    seen: Rc<RefCell<Seen>>,
}

impl Replica {
    async fn run(self) -> turmoil::Result {
        tokio::time::sleep(self.delay).await;
        let address = format!("{}:8300", name(self.number));
        let config = ClusterConfig {
            disk: Disk::Simulated(self.disk.clone()),
            compaction: COMPACTION,
            ..ClusterConfig::new(&self.directory, &name(self.number), &address)
        };
        let cluster = Cluster::start(config, |_| Ok::<_, CryptoError>(SimulatedNetwork)).await?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8300)).await?;
        let connections = futures::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| Connection(stream));
            Some((accepted, listener))
        });
        let service = Repeating { service: cluster.service(), random: self.random.clone() };
        let server = Server::builder().add_service(RaftServer::new(service)).serve_with_incoming(Box::pin(connections));
        tokio::spawn(server);
        if !cluster.is_initialized().await {
            self.become_member(&cluster).await?;
        }
        self.seen.borrow_mut().running.insert(self.number, cluster.clone());
        self.write(&cluster).await
    }

    /// The first one to come starts the control plane, as with a gate that one file system call opens.
    async fn become_member(&self, cluster: &Cluster) -> turmoil::Result {
        if self.seen.borrow().initialised.is_empty() {
            self.seen.borrow_mut().initialised.push(self.number);
            cluster.initialize().await?;
            return Ok(());
        }
        let others = (0..self.replicas).filter(|other| *other != self.number);
        let peers: Vec<_> = others.map(|other| format!("{}:8300", name(other))).collect();
        while cluster.join(&peers).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn write(&self, cluster: &Cluster) -> turmoil::Result {
        loop {
            let (key, time_ms) = {
                let mut random = self.random.lock().unwrap();
                // Its clock goes as it likes.
                (random.random_range(0..KEYS), random.random())
            };
            let began = turmoil::sim_elapsed().unwrap_or_default();
            let (value, place) = {
                let mut seen = self.seen.borrow_mut();
                seen.proposed += 1;
                let value = seen.proposed;
                // Should it not live to learn its fate.
                seen.history.writes.push(Write { began, ended: Duration::MAX, key, value, fate: Fate::Unknown });
                (value, seen.history.writes.len() - 1)
            };
            let proposed = cluster.propose(Proposal::new("simulation", time_ms, register(key, value)), None).await;
            let fate = match proposed {
                Ok(Applied { revision, outcome: Outcome::Done }) => Fate::Committed(revision.as_u64()),
                Ok(Applied { revision, .. }) => Fate::CommittedBy(revision.as_u64()),
                Err(_) => Fate::Unknown,
            };
            if fate != Fate::Unknown {
                let mut seen = self.seen.borrow_mut();
                let write = &mut seen.history.writes[place];
                (write.fate, write.ended) = (fate, turmoil::sim_elapsed().unwrap_or_default());
                if let Fate::Committed(revision) = fate {
                    seen.acknowledged.push(revision);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
