//! The handle to this replica: propose, read, join, leave.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use conduit_api::{
    NodeId,
    proto::peer::{
        JoinRequest, MemberRequest, RaftMessage, raft_client::RaftClient, raft_server, raft_server::RaftServer,
    },
};
use conduit_ca::CryptoError;
use futures::{FutureExt as _, future::BoxFuture};
use openraft::{
    Instant as _, LogIdOptionExt as _, RaftMetrics, ServerState,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, InitializeError, RaftError},
    impls::ProgressResponder,
    vote::RaftLeaderId as _,
};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::{
    command::{Applied, Command, FEATURE_LEVEL, Proposal, ProposalId},
    network::{Network, client},
    peers::{Dial, MESSAGE_BYTES_MAX, Peers, Purpose},
    raft::{Compaction, LeaderId, Member, Raft, Timing, TypeConfig},
    recovery, runtime,
    service::{LEADER_ADDRESS, RaftService},
    state::MeshState,
    store::{
        self, OpenError, decode,
        disk::Disk,
        encode,
        log::{LogRecord, LogStore},
        machine::StateMachine,
    },
};

/// Without a sign of a majority for so long there is none: an election takes half of it. Proposals are then refused at once.
const QUORUM_LOST: Duration = Duration::from_millis(2_600);
/// How long a proposal waits for a leader: three elections.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt at it; an entry is committed in milliseconds, or its leader is in trouble.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);
/// A leader that stops waits this long for its successor.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a replica keeps its data, and how others reach it.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// One to a replica; its id lives in it.
    pub data_dir: PathBuf,
    /// The name under which it comes back after it lost its disk.
    pub name: String,
    /// `host:port` of its peer port, for the others.
    pub address: String,
    /// The same on all replicas.
    pub timing: Timing,
    /// When the log is cut.
    pub compaction: Compaction,
    /// What this release understands; less than [`FEATURE_LEVEL`] only to play an older one.
    pub feature_level: u32,
    /// Other than [`Disk::File`] in tests only.
    pub disk: Disk,
}

impl ClusterConfig {
    /// With the timing and the disk of production.
    pub fn new(data_dir: &Path, name: &str, address: &str) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            name: name.to_owned(),
            address: address.to_owned(),
            timing: Timing::default(),
            compaction: Compaction::default(),
            feature_level: FEATURE_LEVEL,
            disk: Disk::File,
        }
    }
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log or the snapshot in it.
    #[error("cannot read the replica's state: move its data directory away, and the replica joins anew")]
    State(#[source] io::Error),
    /// No certificate could be made from the seed.
    #[error(transparent)]
    Tls(#[from] CryptoError),
    /// Raft itself.
    #[error("Raft does not start: {0}")]
    Raft(String),
}

/// Why a proposal is not known to be committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// A fenced proposal of a leadership that is over; nothing was changed.
    #[error("this replica no longer leads")]
    NotLeading,
    /// No leader with a quorum was found in time, or there has been none for a while. The proposal may still be committed if it
    /// was tried; all commands may be repeated.
    #[error("no quorum of controllers ({last}); start the missing ones, `conduit raft status` names them")]
    NoQuorum {
        /// What the last attempt met.
        last: String,
    },
    /// The leader refused it for good.
    #[error("the leader refused the change: {0}")]
    Refused(String),
    /// This replica is ending.
    #[error("this replica is shutting down: {0}")]
    Fatal(String),
}

/// Why this replica did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody who was asked could do it.
    #[error("no peer could admit this replica: {0}")]
    Refused(String),
    /// It was removed, and must not come back with the data that it had.
    #[error("this replica was removed from the control plane; to let it join anew, delete its data directory")]
    Retired,
    /// It is a member of something already.
    #[error("cannot start a control plane with this data directory: {0}")]
    Initialize(String),
}

/// Why a replica cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("Raft ended: {0}")]
pub struct Fatal(String);

/// Proof of a leadership. A write that carries it fails once that leadership is over, so that a deposed leader's decisions
/// do not reach the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence(LeaderId);

/// What this replica is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It decides.
    Leader,
    /// It follows and votes.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It follows, and does not vote yet.
    #[default]
    Learner,
    /// It is ending.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        })
    }
}

/// A member as this replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// e.g. `controller-0`
    pub name: String,
    /// `host:port`
    pub address: String,
    /// What its release understands.
    pub feature_level: u32,
    /// Its vote counts.
    pub voter: bool,
}

/// Raft as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// Its own role.
    pub role: Role,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// The latest term it knows.
    pub term: u64,
    /// The end of its log.
    pub last_log_index: u64,
    /// The end of what it has applied.
    pub applied_index: u64,
    /// All members, this replica included once it is one.
    pub members: BTreeMap<NodeId, MemberStatus>,
}

/// The handle to this replica. Clones are the same replica.
#[derive(Clone)]
pub struct Cluster {
    id: NodeId,
    member: Member,
    data_dir: Arc<Path>,
    log: LogStore,
    raft: Raft,
    peers: Peers,
    state: watch::Receiver<Arc<MeshState>>,
    status: watch::Receiver<RaftStatus>,
    leadership: watch::Receiver<Option<Fence>>,
    joining: Arc<Mutex<()>>,
    proposals: Arc<Proposals>,
    /// When it last heard of a leader, as a follower.
    heard: Arc<watch::Sender<Instant>>,
    /// Why this replica must not go on.
    ending: Arc<watch::Sender<Option<String>>>,
}

/// Numbers the proposals of this process.
struct Proposals {
    session: u64,
    given: AtomicU64,
}

impl Proposals {
    fn next(&self) -> ProposalId {
        ProposalId { session: self.session, number: self.given.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

/// The service of the leader, wherever that is.
enum Leader {
    Here(RaftService),
    There(RaftClient<Channel>),
}

impl Cluster {
    /// Opens the data directory and starts Raft over it; `dial` makes connections as the id found there.
    ///
    /// # Errors
    /// When the data directory is in use, damaged, or not writable.
    pub async fn start<D: Dial>(
        config: ClusterConfig,
        dial: impl FnOnce(NodeId) -> Result<D, CryptoError>,
    ) -> Result<Self, StartError> {
        let (database, id) = store::open(&config.data_dir, &config.disk)?;
        let member = Member { name: config.name, address: config.address, feature_level: config.feature_level };
        recovery::perform(&config.data_dir, &database, id, &member).map_err(StartError::State)?;
        let (published, state) = watch::channel(Arc::default());
        let log = LogStore::new(database.clone(), &config.disk).map_err(StartError::State)?;
        let machine = StateMachine::open(database, published).map_err(StartError::State)?;
        let own_log = log.clone();
        let peers = Peers::new(dial(id)?);
        let raft_config =
            config.timing.config(&config.compaction).validate().map_err(|error| StartError::Raft(error.to_string()))?;
        let network = Network { peers: peers.clone() };
        let raft = Raft::new(id, Arc::new(raft_config), network, log, machine)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;
        let heard = Arc::new(watch::channel(Instant::now()).0);
        let (status, leadership) = follow_metrics(&raft, peers.clone(), heard.clone());
        let proposals = Arc::new(Proposals { session: runtime::random(), given: AtomicU64::new(0) });
        let ending = Arc::new(watch::channel(None).0);
        let (data_dir, joining) = (config.data_dir.into(), Arc::default());
        Ok(Self {
            id,
            member,
            data_dir,
            log: own_log,
            raft,
            peers,
            state,
            status,
            leadership,
            joining,
            proposals,
            heard,
            ending,
        })
    }

    /// This replica.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What is in its log, by index: for those who compare logs.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> io::Result<BTreeMap<u64, LogRecord>> {
        self.log.records()
    }

    /// Term and index of the last entry of its log: who has the greater pair has more (Raft, section 5.4.1).
    pub fn last_log(&self) -> (u64, u64) {
        let last = self.raft.data_metrics().borrow_watched().last_log;
        last.map_or((0, 0), |last| (last.leader_id.term, last.index))
    }

    /// Whether it is, or ever was, part of a control plane.
    pub async fn is_initialized(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(false)
    }

    /// Starts a new control plane with this replica as its only member. Exactly one replica may ever do so: two that do
    /// are two control planes.
    ///
    /// # Errors
    /// When it is part of one already.
    pub async fn initialize(&self) -> Result<(), JoinError> {
        match self.raft.initialize(BTreeMap::from([(self.id, self.member.clone())])).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(error))) => {
                Err(JoinError::Initialize(error.to_string()))
            }
            Err(error) => Err(JoinError::Initialize(error.to_string())),
        }
    }

    /// Asks the replicas at `peers` to make this one a member, at the address that it has now. Returns when it votes.
    ///
    /// # Errors
    /// [`JoinError::Retired`] for good; otherwise none of them could, for instance because there is no leader yet: ask
    /// again.
    pub async fn join(&self, peers: &[String]) -> Result<(), JoinError> {
        let request = JoinRequest {
            node_id: self.id.as_u64(),
            name: self.member.name.clone(),
            address: self.member.address.clone(),
            feature_level: self.member.feature_level,
        };
        let mut refused = Vec::new();
        let mut is_done = |address: &str, answer: Result<_, Status>| match answer {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::PermissionDenied => Err(JoinError::Retired),
            Err(status) => {
                refused.push(format!("{address}: {}", status.message()));
                Ok(false)
            }
        };
        // A leader that is back elsewhere before anybody has missed it is elected again: the others cannot change where it is then, and
        // look for it where it was.
        if self.status.borrow().leader == Some(self.id) {
            let service = self.service();
            let asked = raft_server::Raft::join(&service, Request::new(request.clone()));
            // Without a majority it is not committed, and others may know a later leader.
            let answer = timeout(ATTEMPT_TIMEOUT, asked).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it is not committed")));
            if is_done("itself", answer)? {
                return Ok(());
            }
        }
        let (mut asking, mut asked) = (VecDeque::from_iter(peers.iter().cloned()), BTreeSet::new());
        while let Some(address) = asking.pop_front() {
            if !asked.insert(address.clone()) {
                continue;
            }
            let answer = client(self.peers.stranger(&address)).join(request.clone()).await;
            asking.extend(answer.as_ref().err().and_then(leader_address));
            if is_done(&address, answer)? {
                return Ok(());
            }
        }
        Err(JoinError::Refused(refused.join("; ")))
    }

    /// Whether the members know this replica as it is: a voter, at its address, of its release.
    pub fn is_known(&self) -> bool {
        let status = self.status.borrow();
        status.members.get(&self.id).is_some_and(|known| {
            known.voter && known.address == self.member.address && known.feature_level == self.member.feature_level
        })
    }

    /// Removes `node` for good: it is no member any more, and not admitted again with the data that it has. A leader that is
    /// removed hands over first. `proposer` and `time_ms` are for the audit.
    ///
    /// # Errors
    /// See [`ProposeError`]; refused for the last voter, and for who is no member.
    pub async fn remove(&self, node: NodeId, proposer: &str, time_ms: u64) -> Result<(), ProposeError> {
        let members = self.status.borrow().members.clone();
        let refused = |why: &str| Err(ProposeError::Refused(why.to_owned()));
        match members.get(&node) {
            None => return refused(&format!("{node} is not a member")),
            Some(member) if member.voter && members.values().filter(|member| member.voter).count() == 1 => {
                return refused("it is the only voter: nothing would be left of this control plane");
            }
            Some(_) => {}
        }
        self.propose(Proposal::new(proposer, time_ms, Command::Retire { node }), None).await?;
        let remove = |leader, target| {
            let request = Request::new(MemberRequest { target, node_id: node.as_u64() });
            let ask = async {
                match leader {
                    Leader::Here(service) => raft_server::Raft::remove(&service, request).await,
                    Leader::There(mut client) => client.remove(request).await,
                }
            };
            ask.boxed()
        };
        self.at_leader(remove).await.map(drop)
    }

    /// Makes `node`, a voter, the leader.
    ///
    /// # Errors
    /// See [`ProposeError`]; refused when it is no voter.
    pub async fn hand_over_to(&self, node: NodeId) -> Result<(), ProposeError> {
        let hand_over = |leader, target| {
            let request = Request::new(MemberRequest { target, node_id: node.as_u64() });
            let ask = async {
                match leader {
                    Leader::Here(service) => raft_server::Raft::hand_over(&service, request).await,
                    Leader::There(mut client) => client.hand_over(request).await,
                }
            };
            ask.boxed()
        };
        self.at_leader(hand_over).await.map(drop)
    }

    /// The latest state that this replica has applied. Whoever is slow skips some.
    pub fn state(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.clone()
    }

    /// Raft as this replica sees it.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// `Some` while this replica leads, from when its state holds everything that was committed before.
    pub fn leadership(&self) -> watch::Receiver<Option<Fence>> {
        self.leadership.clone()
    }

    /// Commits `proposal` and returns what became of it; the state of this replica may show it a moment later, unless it
    /// leads. With a fence it is only written by that leadership, without one by whichever leader there is.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, mut proposal: Proposal, fence: Option<Fence>) -> Result<Applied, ProposeError> {
        proposal.id = self.proposals.next();
        match fence {
            Some(fence) => self.write_fenced(proposal, fence).await,
            None => self.write_anywhere(proposal).await,
        }
    }

    /// What it answers to other replicas.
    pub fn service(&self) -> RaftService {
        RaftService { cluster: self.clone() }
    }

    /// The service to serve on the peer port, over the TLS of replicas.
    pub fn raft_service(&self) -> RaftServer<RaftService> {
        RaftServer::new(self.service())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A channel to another member's peer port.
    pub fn channel(&self, node: NodeId) -> Option<Channel> {
        let status = self.status.borrow();
        let member = status.members.get(&node)?;
        Some(self.peers.channel(node, &member.address, Purpose::Messages))
    }

    /// Resolves when Raft has ended without being asked to; the process must end then.
    pub async fn fatal(&self) -> Fatal {
        let mut metrics = self.raft.metrics();
        let mut ending = self.ending.subscribe();
        loop {
            let running = metrics.borrow_watched().running_state.clone();
            if let Err(fatal) = running {
                return Fatal(fatal.to_string());
            }
            if let Some(what) = ending.borrow().clone() {
                return Fatal(what);
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    return Fatal("its task is gone".to_owned());
                },
                _ = ending.changed() => {}
            }
        }
    }

    /// Ends this replica: a leader has sent what it cannot read. To go on would mean to miss a change that others have.
    pub(crate) fn cannot_read(&self, error: &io::Error) {
        self.end(&format!("the leader has sent what this release does not understand ({error}): upgrade this replica"));
    }

    /// How long this replica has not been in touch with a majority: as a leader, or by hearing of one. No more than the time between
    /// two signs of life while all is well.
    pub fn out_of_touch(&self) -> Duration {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return self.heard.borrow().elapsed();
        }
        let alone = metrics.membership_config.voter_ids().count() == 1;
        metrics.last_quorum_acked.filter(|_| !alone).map_or(Duration::ZERO, |acked| acked.elapsed())
    }

    /// Whether a proposal can be committed, as far as this replica can tell: elections are waited for, but not longer.
    pub fn has_quorum(&self) -> bool {
        self.out_of_touch() < QUORUM_LOST
    }

    /// A leader whose entries this replica takes has given a sign of life.
    pub(crate) fn heard_leader(&self) {
        self.heard.send_replace(Instant::now());
    }

    /// Makes [`Cluster::fatal`] resolve.
    pub(crate) fn end(&self, why: &str) {
        self.end_later()(why);
    }

    /// The same, for a time at which this handle, and with it the data directory, is not held any more.
    pub(crate) fn end_later(&self) -> impl FnOnce(&str) + Send + use<> {
        let ending = self.ending.clone();
        move |why| drop(ending.send_replace(Some(why.to_owned())))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What every member understands.
    pub fn feature_level(&self) -> u32 {
        let status = self.status.borrow();
        status.members.values().map(|member| member.feature_level).min().unwrap_or(self.member.feature_level)
    }

    /// Nothing, if every member understands `proposal`.
    pub(crate) fn understood_by_all(&self, proposal: &Proposal) -> Result<(), String> {
        let needed = proposal.command.feature_level();
        if needed <= self.feature_level() {
            return Ok(());
        }
        let status = self.status.borrow();
        let old = status.members.values().filter(|member| member.feature_level < needed);
        let old: Vec<_> = old.map(|member| member.name.as_str()).collect();
        Err(format!("{} of an older release do not understand it; upgrade them first", old.join(", ")))
    }

    /// Hands leadership over, if this replica leads. A successor that does not take over in time loses nothing: the others elect
    /// one.
    pub async fn step_down(&self) {
        if let Some(successor) = self.successor() {
            self.hand_over(successor).await;
        }
    }

    /// Hands leadership over, if this replica leads, and stops.
    pub async fn shutdown(self) {
        self.step_down().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
    }

    /// Whether `successor` leads now.
    pub(crate) async fn hand_over(&self, successor: NodeId) -> bool {
        if self.raft.trigger().transfer_leader(successor).await.is_err() {
            return false;
        }
        let mut status = self.status.clone();
        let followed = status.wait_for(|status| status.leader == Some(successor));
        timeout(HANDOVER_TIMEOUT, followed).await.is_ok()
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Held while the membership changes: Raft allows one change at a time.
    pub(crate) async fn joining(&self) -> MutexGuard<'_, ()> {
        self.joining.lock().await
    }

    async fn write_fenced(&self, proposal: Proposal, fence: Fence) -> Result<Applied, ProposeError> {
        self.understood_by_all(&proposal).map_err(ProposeError::Refused)?;
        let (responder, answer) = ProgressResponder::<TypeConfig, _>::complete_only();
        let sent = self.raft.write(proposal).with_leader(fence.0).responder(responder).await;
        sent.map_err(|fatal| ProposeError::Fatal(fatal.to_string()))?;
        let answer = timeout(PROPOSE_TIMEOUT, answer).await;
        match answer.map_err(|_| ProposeError::NoQuorum { last: "the entry was not committed".to_owned() })? {
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotLeading),
            // Another leader may have it, and may still commit it.
            Ok(Err(error @ ClientWriteError::LogEntryDiscarded(_))) => {
                Err(ProposeError::NoQuorum { last: error.to_string() })
            }
            Ok(Err(error)) => Err(ProposeError::Refused(error.to_string())),
            Err(_) => Err(ProposeError::Fatal("the core is gone".to_owned())),
        }
    }

    async fn write_anywhere(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        let payload = encode(&proposal).map_err(|error| ProposeError::Refused(error.to_string()))?;
        let propose = |leader, target| {
            let request = Request::new(RaftMessage { target, payload: payload.clone() });
            let ask = async {
                match leader {
                    Leader::Here(service) => raft_server::Raft::propose(&service, request).await,
                    Leader::There(mut client) => client.propose(request).await,
                }
            };
            ask.boxed()
        };
        let answer = self.at_leader(propose).await?;
        decode(&answer.payload).map_err(|error| ProposeError::Refused(error.to_string()))
    }

    /// Asks the leader, whoever that is at each attempt, until it answers or there has been none for too long.
    async fn at_leader<T>(
        &self,
        ask: impl Fn(Leader, u64) -> BoxFuture<'static, Result<Response<T>, Status>> + Send,
    ) -> Result<T, ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        loop {
            if !self.has_quorum() {
                let seconds = self.out_of_touch().as_secs();
                return Err(ProposeError::NoQuorum { last: format!("no majority has been in touch for {seconds}s") });
            }
            let attempt = async {
                let (leader, target) = self.leader()?;
                ask(leader, target).await
            };
            let answer = timeout(ATTEMPT_TIMEOUT, attempt).await;
            let last = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the leader does not commit"))) {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if status.code() == Code::Aborted => {
                    return Err(ProposeError::Refused(status.message().to_owned()));
                }
                Err(status) => status.message().to_owned(),
            };
            if Instant::now() + ATTEMPT_PAUSE >= deadline {
                return Err(ProposeError::NoQuorum { last });
            }
            sleep(ATTEMPT_PAUSE).await;
        }
    }

    /// A member says where it is. What the members know of it changes when a majority has agreed; if it was one of that majority, it has to be
    /// found first.
    pub(crate) fn has_moved(&self, node: NodeId, address: &str) {
        if self.status.borrow().members.contains_key(&node) {
            self.peers.moved(node, address);
        }
    }

    fn leader(&self) -> Result<(Leader, u64), Status> {
        let leader = self.status.borrow().leader.ok_or_else(|| Status::unavailable("no leader is known"))?;
        if leader == self.id {
            return Ok((Leader::Here(RaftService { cluster: self.clone() }), leader.as_u64()));
        }
        let channel = self.channel(leader).ok_or_else(|| Status::unavailable("the leader is not a member"))?;
        Ok((Leader::There(client(channel)), leader.as_u64()))
    }

    /// The voter to lead next, if this replica leads: the one whose log is the longest.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let replication = metrics.replication?;
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let others = replication.into_iter().filter(|(node, _)| *node != self.id && voters.contains(node));
        others.max_by_key(|(_, matched)| matched.index()).map(|(node, _)| node)
    }
}

/// Where a replica that refuses says that the leader is.
fn leader_address(refused: &Status) -> Option<String> {
    refused.metadata().get(LEADER_ADDRESS)?.to_str().ok().map(ToOwned::to_owned)
}

/// Turns openraft's metrics into what the rest of the controller looks at, for as long as Raft runs.
fn follow_metrics(
    raft: &Raft,
    peers: Peers,
    heard: Arc<watch::Sender<Instant>>,
) -> (watch::Receiver<RaftStatus>, watch::Receiver<Option<Fence>>) {
    let mut metrics = raft.metrics();
    let first = metrics.borrow_watched().clone();
    let (status_sender, status) = watch::channel(status_of(&first));
    let (leadership_sender, leadership) = watch::channel(fence_of(&first));
    let mut addresses = addresses_of(&first);
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            // Cloned at once: a borrow that is held across an await stops the core (openraft#1238).
            let latest = metrics.borrow_watched().clone();
            let before = std::mem::replace(&mut addresses, addresses_of(&latest));
            // Only what has changed: where the members look for a replica that has said itself where it is, is not where it is.
            for (node, address) in addresses.iter().filter(|(node, address)| before.get(node) != Some(address)) {
                peers.moved(*node, address);
            }
            // A leader hears of nobody: should it cease to lead, it was in touch until then.
            if let Some(acked) = latest.last_quorum_acked.filter(|_| latest.state == ServerState::Leader) {
                heard.send_replace(Instant::now() - acked.elapsed());
            }
            replace_if_new(&status_sender, status_of(&latest));
            replace_if_new(&leadership_sender, fence_of(&latest));
        }
        leadership_sender.send_replace(None);
    });
    (status, leadership)
}

fn addresses_of(metrics: &RaftMetrics<TypeConfig>) -> BTreeMap<NodeId, String> {
    metrics.membership_config.membership().nodes().map(|(node, member)| (*node, member.address.clone())).collect()
}

fn replace_if_new<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let new = *current != value;
        *current = value;
        new
    });
}

fn status_of(metrics: &RaftMetrics<TypeConfig>) -> RaftStatus {
    let membership = metrics.membership_config.membership();
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let member = |(node, member): (&NodeId, &Member)| {
        let Member { name, address, feature_level } = member.clone();
        (*node, MemberStatus { name, address, feature_level, voter: voters.contains(node) })
    };
    RaftStatus {
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        },
        leader: metrics.current_leader,
        term: metrics.current_term,
        last_log_index: metrics.last_log_index.unwrap_or_default(),
        applied_index: metrics.last_applied.index().unwrap_or_default(),
        members: membership.nodes().map(member).collect(),
    }
}

/// A leader is established when it has applied an entry of its own term: only then does its state hold everything that
/// earlier leaders committed (Raft, section 8).
fn fence_of(metrics: &RaftMetrics<TypeConfig>) -> Option<Fence> {
    if metrics.state != ServerState::Leader || metrics.running_state.is_err() {
        return None;
    }
    let leadership = metrics.vote.leader_id().to_committed();
    let established = metrics.last_applied.as_ref().is_some_and(|applied| applied.leader_id == leadership);
    established.then_some(Fence(leadership))
}
