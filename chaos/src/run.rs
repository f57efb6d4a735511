//! A run: clients on one side, faults on the other, the verdict in the end.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::proto::public::{CaRotateRequest, CaStatusRequest};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_local},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    clients::{Log, Replicas},
    cluster::Cluster,
    faults::{Fault, Step, steps},
    history::{Fate, History, Violation},
    workloads,
};

const WRITERS: u32 = 4;
const READERS: u32 = 2;
/// After the last fault was put right, all replicas show the same within this.
const CONVERGENCE: Duration = Duration::from_secs(15);

const WORKLOADS: u32 = 6;
const PAIRS: usize = 3;
/// Renewed every few seconds, and expired soon after: what does not renew is seen. A certificate is valid from a minute before, too.
const CERTIFICATES_OF_SECONDS: [&str; 4] = ["--leaf-lifetime", "30s", "--intermediate-lifetime", "60s"];
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the faults.
    pub seed: u64,
    /// How long faults are injected.
    pub duration: Duration,
    /// 3 or 5.
    pub replicas: usize,
    /// Each in a network of its own, which is cut; see [`Cluster::start_apart`].
    pub apart: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What clients were told, the last reads included.
    pub history: History,
    /// The first thing that cannot have been.
    pub verdict: Result<(), Violation>,
    /// How many faults there were.
    pub faults: usize,
    /// Replicas that ended by themselves, and why; they were started again, as a supervisor does.
    pub ended: Vec<String>,
}

impl Outcome {
    /// Writes that were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.history.writes.iter().filter(|write| write.fate != Fate::Unknown).count()
    }
}

/// Runs it; `tell` is told of every fault as it happens.
///
/// # Errors
/// When the control plane does not start, or does not come back when everything was put right: that is a violation as well,
/// told with the logs.
pub async fn control_plane(programs: &Path, plan: Plan, tell: impl Fn(&str)) -> anyhow::Result<Outcome> {
    let mut cluster = start(programs, plan, &[]).await?;
    let clients = Clients::start(Replicas::of(&cluster)?);
    let (faults, mut ended) = break_things(&mut cluster, plan, tell).await?;
    let history = clients.stop(&mut cluster, &mut ended).await?;
    Ok(Outcome { verdict: history.check(), history, faults, ended })
}

async fn start(programs: &Path, plan: Plan, flags: &[&str]) -> anyhow::Result<Cluster> {
    match plan.apart {
        true => Cluster::start_apart(programs, plan.replicas, flags).await,
        false => Cluster::start_with(programs, plan.replicas, flags).await,
    }
}

/// How many faults there were, and who ended by itself.
async fn break_things(cluster: &mut Cluster, plan: Plan, tell: impl Fn(&str)) -> anyhow::Result<(usize, Vec<String>)> {
    let (start, until) = (Instant::now(), Instant::now() + plan.duration);
    let (mut faults, mut ended) = (0, Vec::new());
    for step in steps(plan.seed, plan.replicas, plan.apart) {
        if Instant::now() + step.after + step.lasts >= until {
            break;
        }
        sleep(step.after).await;
        tell(&format!("{:>6.2}s  {} for {:.2}s", start.elapsed().as_secs_f64(), step.fault, step.lasts.as_secs_f64()));
        inject(cluster, step, &mut ended).await?;
        ended.extend(cluster.tend()?);
        faults += 1;
    }
    sleep_until(until).await;
    Ok((faults, ended))
}

/// What came of a run in which trust roots were replaced all the time.
#[derive(Debug)]
pub struct IdentityOutcome {
    /// Roots that took over.
    pub rotations: usize,
    /// Connections between workloads, each with a handshake of its own.
    pub exchanges: u64,
    /// Those that failed, by why: there must be none.
    pub failures: BTreeMap<String, u64>,
    /// How many faults there were.
    pub faults: usize,
    /// Replicas that ended by themselves, and why.
    pub ended: Vec<String>,
}

/// Replaces the trust root over and over, while workloads whose certificates live for seconds speak with each other, and the control
/// plane is broken; `tell` is told of every fault as it happens. To be called in a [`LocalSet`](tokio::task::LocalSet).
///
/// # Errors
/// When the control plane does not start, or a rotation does not end when everything was put right.
pub async fn identity(programs: &Path, plan: Plan, tell: impl Fn(&str)) -> anyhow::Result<IdentityOutcome> {
    let mut cluster = start(programs, plan, &CERTIFICATES_OF_SECONDS).await?;
    let seen = workloads::start(&cluster, WORKLOADS, PAIRS).await?;
    let sockets: Vec<_> = (0..cluster.len()).map(|replica| cluster.socket(replica)).collect();
    let rotations = Rc::new(Cell::new(0));
    let rotating = spawn_local(rotate(sockets.clone(), rotations.clone()));
    let (faults, mut ended) = break_things(&mut cluster, plan, tell).await?;
    rotating.abort();
    // Everything is right again: what was begun ends, and another one goes through.
    let deadline = Instant::now() + CONVERGENCE;
    loop {
        ended.extend(cluster.tend()?);
        let left = timeout(deadline - Instant::now(), rotate_once(&sockets[0])).await;
        match left.map_err(anyhow::Error::from).flatten() {
            Ok(()) => break,
            Err(error) if Instant::now() >= deadline => {
                anyhow::bail!("no rotation ends within {CONVERGENCE:?}: {error:#}\n{}", cluster.logs());
            }
            Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
    let (exchanges, failures) = (seen.exchanges(), seen.failures());
    Ok(IdentityOutcome { rotations: rotations.get() + 1, exchanges, failures, faults, ended })
}

/// Whatever becomes of one attempt at one replica, there is another.
async fn rotate(sockets: Vec<PathBuf>, rotations: Rc<Cell<usize>>) {
    for socket in sockets.iter().cycle() {
        if let Ok(Ok(())) = timeout(CONVERGENCE, rotate_once(socket)).await {
            rotations.set(rotations.get() + 1);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Begins a rotation, or finds one begun, and waits until there is one root.
async fn rotate_once(socket: &Path) -> anyhow::Result<()> {
    let mut api = Cluster::api(socket.to_owned()).await?;
    match api.ca_rotate(CaRotateRequest::default()).await {
        Ok(_) => {}
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {}
        Err(status) => return Err(status.into()),
    }
    while api.ca_status(CaStatusRequest {}).await?.into_inner().roots.len() > 1 {
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Tells every replica in turn to stop, the leader last, and starts it again, so many times; `tell` is told of each.
///
/// # Errors
/// As [`control_plane`].
pub async fn rolling_restart(
    programs: &Path,
    replicas: usize,
    rounds: usize,
    tell: impl Fn(&str),
) -> anyhow::Result<Outcome> {
    let mut cluster = Cluster::start(programs, replicas).await?;
    let clients = Clients::start(Replicas::of(&cluster)?);
    let (start, mut ended) = (Instant::now(), Vec::new());
    for _ in 0..rounds {
        let leader = cluster.leader().await.context("no leader")?;
        for replica in (0..replicas).map(|i| (leader + 1 + i) % replicas) {
            tell(&format!("{:>6.2}s  restart of {}", start.elapsed().as_secs_f64(), Cluster::name(replica)));
            cluster.terminate(replica).await?;
            cluster.spawn(replica)?;
            cluster.all_vote().await?;
            ended.extend(cluster.tend()?);
        }
    }
    let history = clients.stop(&mut cluster, &mut ended).await?;
    Ok(Outcome { verdict: history.check(), history, faults: replicas * rounds, ended })
}

/// Those who write and read meanwhile.
struct Clients {
    replicas: Replicas,
    log: Arc<Log>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Clients {
    fn start(replicas: Replicas) -> Self {
        let (log, (stop, stopped), mut tasks) = (Arc::new(Log::default()), watch::channel(false), JoinSet::new());
        for client in 0..WRITERS {
            let (replicas, log, stopped) = (replicas.clone(), log.clone(), stopped.clone());
            tasks.spawn(async move { replicas.write(client, WRITERS, stopped, &log).await });
        }
        for _ in 0..READERS {
            let (replicas, log, stopped) = (replicas.clone(), log.clone(), stopped.clone());
            tasks.spawn(async move { replicas.read(stopped, &log).await });
        }
        Self { replicas, log, stop, tasks }
    }

    /// What they were told. Everything is right again: all replicas come to show the same, and every acknowledged write is in it.
    async fn stop(mut self, cluster: &mut Cluster, ended: &mut Vec<String>) -> anyhow::Result<History> {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.transpose()?.is_some() {}
        let mut history = self.log.history();
        let newest = history.writes.iter().filter_map(|write| match write.fate {
            Fate::Committed(revision) => Some(revision),
            Fate::CommittedBy(_) | Fate::Unknown => None,
        });
        let newest = newest.max().unwrap_or_default();
        let deadline = Instant::now() + CONVERGENCE;
        loop {
            ended.extend(cluster.tend()?);
            let mut reads = Vec::new();
            for replica in 0..cluster.len() {
                reads.extend(self.replicas.read_once(replica).await);
            }
            let same = reads.len() == cluster.len() && reads.iter().all(|read| read.revision == reads[0].revision);
            if same && reads[0].revision >= newest {
                history.reads.extend(reads);
                return Ok(history);
            }
            if Instant::now() > deadline {
                let at: Vec<_> = reads.iter().map(|read| (read.replica, read.revision)).collect();
                anyhow::bail!("no convergence on {newest} within {CONVERGENCE:?}: {at:?}\n{}", cluster.logs());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn inject(cluster: &mut Cluster, Step { fault, lasts, .. }: Step, ended: &mut Vec<String>) -> anyhow::Result<()> {
    ended.extend(cluster.tend()?);
    // Without a leader any replica will do.
    let leader = match fault {
        Fault::KillLeader | Fault::PauseLeader | Fault::TerminateLeader | Fault::IsolateLeader => {
            cluster.leader().await.unwrap_or(0)
        }
        _ => 0,
    };
    match fault {
        Fault::KillLeader | Fault::Kill(_) => {
            let replica = if let Fault::Kill(replica) = fault { replica } else { leader };
            cluster.kill(replica);
            sleep(lasts).await;
            cluster.spawn(replica)
        }
        Fault::KillAll => {
            for replica in 0..cluster.len() {
                cluster.kill(replica);
            }
            sleep(lasts).await;
            (0..cluster.len()).try_for_each(|replica| cluster.spawn(replica))
        }
        Fault::PauseLeader | Fault::Pause(_) => {
            let replica = if let Fault::Pause(replica) = fault { replica } else { leader };
            cluster.pause(replica);
            sleep(lasts).await;
            cluster.resume(replica);
            Ok(())
        }
        Fault::Isolate(_) | Fault::IsolateLeader | Fault::OneWay(..) | Fault::Bridge(..) => {
            let others = |replica| (0..cluster.len()).filter(move |other| *other != replica);
            let cuts: Vec<_> = match fault {
                Fault::OneWay(from, to) => vec![(from, to)],
                Fault::Bridge(a, b) => vec![(a, b), (b, a)],
                Fault::Isolate(replica) => {
                    others(replica).flat_map(|other| [(replica, other), (other, replica)]).collect()
                }
                _ => others(leader).flat_map(|other| [(leader, other), (other, leader)]).collect(),
            };
            for (from, to) in &cuts {
                cluster.cut(*from, *to).await?;
            }
            sleep(lasts).await;
            for (from, to) in &cuts {
                cluster.mend(*from, *to).await?;
            }
            Ok(())
        }
        Fault::TerminateLeader => {
            cluster.terminate(leader).await?;
            cluster.spawn(leader)
        }
        Fault::LoseDisk(replica) | Fault::DamageDisk(replica, _) => {
            // One disk at a time: with two gone a majority has forgotten, and nobody could know.
            let others_are_back = cluster.all_vote().await;
            others_are_back.context("the control plane is not whole again after the previous fault")?;
            cluster.kill(replica);
            match fault {
                // Nothing was there that mattered, or it is put aside.
                Fault::DamageDisk(_, per_mille) => cluster.damage(replica, per_mille)?,
                _ => cluster.wipe(replica)?,
            }
            cluster.spawn(replica)?;
            let replaced = cluster.all_vote().await;
            replaced.with_context(|| format!("controller-{replica} did not take its place again"))
        }
    }
}
