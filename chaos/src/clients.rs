//! Clients that write registers and read them, and remember what they were told.
//!
//! A register is a pod, its value the pod's address: what a control plane is for, and nothing made for the test.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use anyhow::Context as _;
use conduit_api::{
    NodeId, Pod, PodName,
    proto::public::{PodsRequest, RaftStatusRequest},
};
use conduit_ca::ReplicaTls;
use conduit_consensus::{Applied, Change, Command, Outcome, Proposal, ProposalId, client::Proposer};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Code;

use crate::{
    cluster::{Cluster, leader_in},
    history::{Fate, History, Key, Read, Revision, Value, Write},
};

/// One attempt at a write.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// A write that has not been acknowledged by then is given up, and its fate not known.
const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(20);
/// One read.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two reads of one client; each reads all registers.
const READ_PAUSE: Duration = Duration::from_millis(15);
/// Registers: few, so that writes meet.
pub const KEYS: u32 = 8;
/// Values are addresses in 10.0.0.0/8.
const VALUES_MAX: u32 = 1 << 24;

/// Where the replicas are, for those who have no hand on their processes.
#[derive(Clone)]
pub struct Replicas {
    began: Instant,
    proposers: Vec<Proposer>,
    sockets: Vec<PathBuf>,
}

/// What all clients were told.
#[derive(Default)]
pub struct Log(Mutex<History>);

impl Log {
    fn write(&self, write: Write) {
        self.0.lock().expect("nobody panics while holding it").writes.push(write);
    }

    fn read(&self, read: Read) {
        self.0.lock().expect("nobody panics while holding it").reads.push(read);
    }

    /// All of it so far.
    pub fn history(&self) -> History {
        self.0.lock().expect("nobody panics while holding it").clone()
    }
}

impl Replicas {
    /// Of `cluster`.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        // A client has no node of its own; replicas look only whether it has the seed.
        let tls = ReplicaTls::new(cluster.seed(), &Cluster::trust_domain(), NodeId::new(0))?;
        let proposers = (0..cluster.len()).map(|replica| Proposer::new(tls.clone(), &cluster.peer_address(replica)));
        let sockets = (0..cluster.len()).map(|replica| cluster.socket(replica));
        Ok(Self { began: Instant::now(), proposers: proposers.collect(), sockets: sockets.collect() })
    }

    /// The leader's number and id, as any replica knows them that answers.
    async fn leader(&self) -> Option<(usize, NodeId)> {
        for socket in &self.sockets {
            let ask = async {
                let mut api = Cluster::api(socket.clone()).await?;
                anyhow::Ok(api.raft_status(RaftStatusRequest {}).await?.into_inner())
            };
            let Ok(Ok(status)) = timeout(READ_TIMEOUT, ask).await else { continue };
            if let (Some(number), Ok(id)) = (leader_in(&status), status.leader_id.parse()) {
                return Some((number, id));
            }
        }
        None
    }

    /// Commits `command` under the id `id`, at whichever replica leads, again and again until it is acknowledged.
    ///
    /// # Errors
    /// With the last answer, when there is none within [`WRITE_TIMEOUT`]: it may be committed all the same.
    pub async fn commit(
        &self,
        known: &mut Option<(usize, NodeId)>,
        id: ProposalId,
        command: Command,
    ) -> anyhow::Result<Applied> {
        let proposal = Proposal { id, ..Proposal::new("chaos", 0, command) };
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut last = anyhow::anyhow!("no leader");
        while Instant::now() < deadline {
            if known.is_none() {
                *known = self.leader().await;
            }
            if let Some((number, leader)) = *known {
                match timeout(ATTEMPT_TIMEOUT, self.proposers[number].propose(leader, &proposal)).await {
                    Ok(Ok(applied)) => return Ok(applied),
                    Ok(Err(status)) if status.code() == Code::Aborted => {
                        return Err(status).context("the leader refuses for good");
                    }
                    Ok(Err(status)) => last = status.into(),
                    Err(late) => last = late.into(),
                }
                *known = None;
            }
            sleep(RETRY).await;
        }
        Err(last)
    }

    /// Writes until it is told to stop, as client number `client` of `clients`.
    pub async fn write(self, client: u32, clients: u32, stopped: watch::Receiver<bool>, log: &Log) {
        let session = rand::random();
        let mut known = None;
        for number in 1_u32.. {
            // Every write has a value of its own.
            let value: Value = number * clients + client;
            if *stopped.borrow() || value >= VALUES_MAX {
                return;
            }
            let key: Key = rand::random_range(0..KEYS);
            let began = self.began.elapsed();
            let id = ProposalId { session, number: number.into() };
            let fate = match self.commit(&mut known, id, register(key, value)).await {
                Ok(Applied { revision, outcome: Outcome::Done }) => Fate::Committed(revision.as_u64()),
                Ok(Applied { revision, .. }) => Fate::CommittedBy(revision.as_u64()),
                Err(_) => Fate::Unknown,
            };
            log.write(Write { began, ended: self.began.elapsed(), key, value, fate });
        }
    }

    /// Reads until it is told to stop, at one replica after the other.
    pub async fn read(self, stopped: watch::Receiver<bool>, log: &Log) {
        let mut replica = 0;
        while !*stopped.borrow() {
            replica = (replica + 1) % self.sockets.len();
            if let Ok(read) = self.read_once(replica).await {
                log.read(read);
            }
            sleep(READ_PAUSE).await;
        }
    }

    /// What a replica shows now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn read_once(&self, replica: usize) -> anyhow::Result<Read> {
        let began = self.began.elapsed();
        let ask = async {
            let mut api = Cluster::api(self.sockets[replica].clone()).await?;
            let request = PodsRequest { namespace: "chaos".to_owned(), skip_connected: true };
            anyhow::Ok(api.pods(request).await?.into_inner())
        };
        let answer = timeout(READ_TIMEOUT, ask).await??;
        let revision: Revision = answer.revision;
        let registers = answer.pods.iter().map(|pod| {
            let register = pod.ip.parse().ok().and_then(|ip| register_at(&pod.name, ip));
            register.with_context(|| format!("{} at {} is no register", pod.name, pod.ip))
        });
        let registers = registers.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        Ok(Read { replica, began, ended: self.began.elapsed(), revision, registers })
    }
}

/// The register that a pod of [`register`] stands for, and its value.
pub fn register_at(pod: &str, ip: Ipv4Addr) -> Option<(Key, Value)> {
    let key = pod.strip_prefix("register-")?.parse().ok()?;
    Some((key, u32::from(ip) & (VALUES_MAX - 1)))
}

/// Sets the register `key` to `value`.
pub fn register(key: Key, value: Value) -> Command {
    let pod = Pod {
        name: PodName::new("chaos", &format!("register-{key}")).expect("a name"),
        ip: IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) | value)),
        workload: None,
        service_account: "default".to_owned(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: false,
        ready: true,
        application_ended: false,
    };
    Command::Batch(vec![Change::UpsertPod(pod)])
}
