//! Replicas in one process, over real TCP and mutual TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use conduit_api::{
    NodeId, Pod, PodName, TrustDomain,
    proto::peer::{RaftMessage, raft_client::RaftClient},
};
use conduit_ca::{ReplicaTls, Seed};
use conduit_consensus::{
    Change, Cluster, ClusterConfig, Command, Compaction, FEATURE_LEVEL, Fence, JoinError, MeshState, Outcome, Proposal,
    ProposeError, RaftStatus,
    peers::Peers,
    store::disk::{Disk, Fault, SimulatedDisk},
};
use futures::FutureExt as _;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::StreamExt as _;
use tonic::{
    Code,
    transport::{Server, server::Connected},
};

/// For what takes an election or two.
const SOON: Duration = Duration::from_secs(20);

/// Tells tonic nothing of the connection: Raft's service asks nobody who they are, TLS has.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A replica with a runtime of its own, so that it can be killed with all its tasks and connections.
struct Replica {
    cluster: Cluster,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

impl Replica {
    async fn start(name: &str, directory: &Path, seed: &Arc<Seed>, address: Option<SocketAddr>) -> Self {
        Self::start_as(name, directory, seed, address, |_| {}).await
    }

    async fn start_as(
        name: &str,
        directory: &Path,
        seed: &Arc<Seed>,
        address: Option<SocketAddr>,
        change: impl FnOnce(&mut ClusterConfig),
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind(address.unwrap_or(([127, 0, 0, 1], 0).into())).await.unwrap();
        // Registered with the replica's own runtime from here on.
        let listener = listener.into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = ClusterConfig::new(directory, name, &address.to_string());
        change(&mut config);
        let dial = {
            let seed = seed.clone();
            move |node| ReplicaTls::new(&seed, &trust_domain(), node)
        };
        let cluster = runtime.spawn(Cluster::start(config, dial.clone())).await.unwrap().unwrap();
        let tls = TlsAcceptor::from(dial(cluster.id()).unwrap().server_config());
        let service = cluster.raft_service();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let connections = tokio_stream::wrappers::TcpListenerStream::new(listener)
                .then(move |tcp| {
                    let tls = tls.clone();
                    async move { tls.accept(tcp?).await.map(Connection) }
                })
                .filter(Result::is_ok);
            Server::builder().add_service(service).serve_with_incoming(connections).await.unwrap();
        });
        Self { cluster, address, runtime: Some(runtime) }
    }

    /// As if its process were killed: nothing is handed over, every connection breaks, its files are free again.
    async fn kill(mut self) -> SocketAddr {
        let (runtime, address) = (self.runtime.take().unwrap(), self.address);
        drop(self);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SOON)).await.unwrap();
        address
    }

    async fn until(&self, what: &str, condition: impl FnMut(&RaftStatus) -> bool) -> RaftStatus {
        let mut status = self.cluster.status();
        let found = timeout(SOON, status.wait_for(condition)).await;
        found.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
    }

    async fn until_state(&self, what: &str, condition: impl FnMut(&Arc<MeshState>) -> bool) -> Arc<MeshState> {
        let mut state = self.cluster.state();
        let found = timeout(SOON, state.wait_for(condition)).await;
        found.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
    }

    async fn fence(&self) -> Fence {
        let mut leadership = self.cluster.leadership();
        timeout(SOON, leadership.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap()
    }
}

fn pod(name: &str) -> Proposal {
    let pod = Pod {
        name: PodName::new("ns", name).unwrap(),
        ip: [10, 0, 0, 1].into(),
        workload: None,
        service_account: "default".into(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    };
    Proposal::new("test", 1, Command::Batch(vec![Change::UpsertPod(pod)]))
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn three(seed: &Arc<Seed>) -> (Vec<TempDir>, Vec<Replica>) {
    three_as(seed, |_| {}).await
}

async fn three_as(seed: &Arc<Seed>, change: impl Fn(&mut ClusterConfig)) -> (Vec<TempDir>, Vec<Replica>) {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut replicas = Vec::new();
    for (i, directory) in directories.iter().enumerate() {
        replicas.push(Replica::start_as(&format!("controller-{i}"), directory.path(), seed, None, &change).await);
    }
    replicas[0].cluster.initialize().await.unwrap();
    let first = vec![replicas[0].address.to_string()];
    replicas[0].fence().await;
    // Both at once: each is admitted.
    let (a, b) = tokio::join!(replicas[1].cluster.join(&first), replicas[2].cluster.join(&first));
    a.and(b).unwrap();
    for replica in &replicas {
        replica
            .until("three voters", |status| status.members.values().filter(|member| member.voter).count() == 3)
            .await;
    }
    (directories, replicas)
}

fn pods(state: &MeshState) -> Vec<&str> {
    state.pods().keys().map(PodName::name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_agree_and_survive_their_leader() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;

    let applied = replicas[2].cluster.propose(pod("by-a-follower"), None).await.unwrap();
    assert_eq!(applied.outcome, Outcome::Done);
    let again = replicas[1].cluster.propose(pod("by-a-follower"), None).await.unwrap();
    assert_eq!((again.outcome, again.revision), (Outcome::Unchanged, applied.revision));
    for replica in &replicas {
        let state = replica.until_state("all have it", |state| state.revision() == applied.revision).await;
        assert_eq!(pods(&state), ["by-a-follower"]);
    }

    let leader = replicas[0].until("a leader", |status| status.leader.is_some()).await.leader.unwrap();
    let position = replicas.iter().position(|replica| replica.cluster.id() == leader).unwrap();
    let old_fence = replicas[position].fence().await;
    let killed = replicas.remove(position).kill().await;
    for replica in &replicas {
        replica.until("another leader", |status| status.leader.is_some_and(|new| new != leader)).await;
    }
    let after = replicas[0].cluster.propose(pod("after"), None).await.unwrap();
    assert!(after.revision > applied.revision);
    let fenced = replicas[0].cluster.propose(pod("late"), Some(old_fence)).await;
    assert!(matches!(fenced, Err(ProposeError::NotLeading)), "{fenced:?}");

    // It comes back with what it had, and gets what it missed.
    let name = format!("controller-{position}");
    let back = Replica::start(&name, directories[position].path(), &seed, Some(killed)).await;
    assert_eq!(back.cluster.id(), leader);
    assert!(back.cluster.is_initialized().await);
    let state = back.until_state("it catches up", |state| state.revision() == after.revision).await;
    assert_eq!(pods(&state), ["after", "by-a-follower"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_written_and_the_reason_is_given() {
    let seed = Arc::new(Seed::generate());
    let (_directories, mut replicas) = three(&seed).await;
    let last = replicas.remove(2);
    for replica in replicas {
        replica.kill().await;
    }
    let refused = last.cluster.propose(pod("never"), None).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoQuorum { .. }), "{refused}");
    assert!(last.cluster.state().borrow().pods().is_empty());
    // From then on nobody waits for it: it is known.
    assert!(!last.cluster.has_quorum());
    let refused = last.cluster.propose(pod("never"), None).now_or_never().expect("at once").unwrap_err();
    assert!(refused.to_string().contains("no majority has been in touch for"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let seed = Arc::new(Seed::generate());
    let (_directories, mut replicas) = three(&seed).await;
    let leader = replicas[0].until("a leader", |status| status.leader.is_some()).await.leader.unwrap();
    let term = replicas[0].cluster.status().borrow().term;
    let position = replicas.iter().position(|replica| replica.cluster.id() == leader).unwrap();
    let stopped = replicas.remove(position);
    stopped.cluster.clone().shutdown().await;
    let status = replicas[0].until("a successor", |status| status.leader.is_some_and(|new| new != leader)).await;
    assert_eq!(status.term, term + 1, "one election, by invitation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_disk_takes_its_own_place() {
    let seed = Arc::new(Seed::generate());
    let (_directories, mut replicas) = three(&seed).await;
    let applied = replicas[0].cluster.propose(pod("kept"), None).await.unwrap();
    let lost = replicas.remove(2);
    let lost_id = lost.cluster.id();
    lost.kill().await;
    let empty = tempfile::tempdir().unwrap();
    let fresh = Replica::start("controller-2", empty.path(), &seed, None).await;
    assert_ne!(fresh.cluster.id(), lost_id);
    let peers: Vec<_> = replicas.iter().map(|replica| replica.address.to_string()).collect();
    timeout(SOON, async {
        while fresh.cluster.join(&peers).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let status = replicas[0].until("the old one is gone", |s| !s.members.contains_key(&lost_id)).await;
    assert_eq!(status.members.values().filter(|member| member.voter).count(), 3);
    fresh.until_state("it has the state", |state| state.revision() == applied.revision).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_elsewhere_is_found_there() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;
    let leader = leader_of(&replicas).await;
    let killed = replicas.remove(leader);
    let id = killed.cluster.id();
    killed.kill().await;
    // At once: then it is elected again, by others that look for it where it was. Should they have elected one of them, it has to be found as well.
    let back = Replica::start(&format!("controller-{leader}"), directories[leader].path(), &seed, None).await;
    assert!(!back.cluster.is_known());
    let peers: Vec<_> = replicas.iter().map(|replica| replica.address.to_string()).collect();
    timeout(SOON, async {
        while back.cluster.join(&peers).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the members are told");
    let address = back.address.to_string();
    replicas.push(back);
    for replica in &replicas {
        replica.until("all know where it is", |status| status.members[&id].address == address).await;
        replica.cluster.propose(pod("by-a-follower"), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_comes_back_elsewhere_is_found_there() {
    for leader_stays in [true, false] {
        let seed = Arc::new(Seed::generate());
        let (directories, mut replicas) = three(&seed).await;
        let leader = leader_of(&replicas).await;
        let stays = if leader_stays { leader } else { (leader + 1) % 3 };
        let one = replicas.remove(stays);
        let staying = vec![one.address.to_string()];
        let places: Vec<_> = (0..3).filter(|place| *place != stays).collect();
        for replica in replicas {
            replica.kill().await;
        }
        let mut back = Vec::new();
        for place in places {
            back.push(Replica::start(&format!("controller-{place}"), directories[place].path(), &seed, None).await);
        }
        // They know of each other only where they were; so does the one that stays, and nothing can be agreed on until somebody is found.
        timeout(SOON, async {
            while !back.iter().all(|replica| replica.cluster.is_known()) {
                let (_, _) = tokio::join!(back[0].cluster.join(&staying), back[1].cluster.join(&staying));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("they are found where they are; the leader stays: {leader_stays}"));
        back.push(one);
        for replica in &back {
            replica.cluster.propose(pod("by-any"), None).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_misdirected_messages_are_refused() {
    let (seed, other) = (Arc::new(Seed::generate()), Arc::new(Seed::generate()));
    let (_directories, replicas) = three(&seed).await;
    let first = vec![replicas[0].address.to_string()];

    let empty = tempfile::tempdir().unwrap();
    let stranger = Replica::start("controller-9", empty.path(), &other, None).await;
    let refused = stranger.cluster.join(&first).await.unwrap_err();
    assert!(refused.to_string().contains(&first[0]), "{refused}");

    let tls = ReplicaTls::new(&seed, &trust_domain(), NodeId::new(7)).unwrap();
    let channel = Peers::new(tls).stranger(&first[0]);
    let message = RaftMessage { target: replicas[1].cluster.id().as_u64(), payload: Vec::new() };
    let refused = RaftClient::new(channel).vote(message).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&replicas[0].cluster.id().to_string()), "{refused}");
}

/// The position of the leader.
async fn leader_of(replicas: &[Replica]) -> usize {
    let leader = replicas[0].until("a leader", |status| status.leader.is_some()).await.leader.unwrap();
    replicas.iter().position(|replica| replica.cluster.id() == leader).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_what_was_purged_gets_a_snapshot() {
    let seed = Arc::new(Seed::generate());
    let small = |config: &mut ClusterConfig| {
        config.compaction = Compaction { snapshot_every: 50, keep: 20, lag: 40 };
    };
    let (directories, mut replicas) = three_as(&seed, small).await;
    let behind = replicas.remove(2).kill().await;
    let mut last = None;
    for i in 0..400 {
        last = Some(replicas[i % 2].cluster.propose(pod(&format!("pod-{}", i % 90)), None).await.unwrap());
    }
    // The first write of each name changed something; the others did not, and made the log longer all the same.
    let last = last.unwrap();
    let back = Replica::start_as("controller-2", directories[2].path(), &seed, Some(behind), small).await;
    let state = back.until_state("it has the state", |state| state.revision() == last.revision).await;
    assert_eq!(pods(&state).len(), 90);
    let index = replicas[0].until("the end of the log", |status| status.applied_index == status.last_log_index).await;
    for replica in replicas.iter().chain([&back]) {
        replica.until("all is applied", |status| status.applied_index >= index.applied_index).await;
    }
    assert_eq!(*back.cluster.state().borrow(), *replicas[0].cluster.state().borrow());
    // And it goes on from there, also as a leader.
    replicas[0].cluster.hand_over_to(back.cluster.id()).await.unwrap();
    let applied = back.cluster.propose(pod("after"), None).await.unwrap();
    replicas[1].until_state("it leads", |state| state.revision() == applied.revision).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_removed_for_good_and_leadership_is_moved() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;
    let leader = leader_of(&replicas).await;
    let other = replicas[(leader + 1) % 3].cluster.id();
    replicas[(leader + 2) % 3].cluster.hand_over_to(other).await.unwrap();
    replicas[leader].until("it has handed over", |status| status.leader == Some(other)).await;

    // The leader itself is removed, asked by the others; and then it may not come back.
    let removed = replicas.remove((leader + 1) % 3);
    let id = removed.cluster.id();
    replicas[0].cluster.remove(id, "test", 1).await.unwrap();
    for replica in &replicas {
        let status = replica.until("two are left", |status| status.members.len() == 2).await;
        assert!(!status.members.contains_key(&id));
    }
    let peers: Vec<_> = replicas.iter().map(|replica| replica.address.to_string()).collect();
    let refused = async {
        loop {
            match removed.cluster.join(&peers).await {
                Err(JoinError::Retired) => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(SOON, refused).await.unwrap();
    let applied = replicas[1].cluster.propose(pod("after"), None).await.unwrap();
    replicas[0].until_state("two go on", |state| state.revision() == applied.revision).await;

    // With an empty disk it is welcome.
    let address = removed.kill().await;
    let empty = tempfile::tempdir().unwrap();
    let fresh = Replica::start("controller-9", empty.path(), &seed, Some(address)).await;
    fresh.cluster.join(&peers).await.unwrap();
    fresh.until_state("it has the state", |state| state.revision() == applied.revision).await;

    // Down to one, and no further.
    for replica in [&fresh, &replicas[0]] {
        let id = replica.cluster.id();
        replicas[1].cluster.remove(id, "test", 1).await.unwrap();
    }
    let last = replicas[1].cluster.id();
    let refused = replicas[1].cluster.remove(last, "test", 1).await.unwrap_err();
    assert!(refused.to_string().contains("only voter"), "{refused}");
    assert_eq!(replicas[1].cluster.propose(pod("alone"), None).await.unwrap().outcome, Outcome::Done);
    drop(directories);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_majority_is_gone_for_good_one_goes_on_with_all_that_it_has() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;
    replicas[0].cluster.propose(pod("committed"), None).await.unwrap();
    let leader = leader_of(&replicas).await;
    let survivor = replicas.remove(leader);
    let mut gone = BTreeSet::new();
    for replica in replicas {
        gone.insert(replica.cluster.id());
        replica.kill().await;
    }
    // It is in this log and no other. Nobody can know that: it is kept.
    let fence = survivor.fence().await;
    let uncommitted = survivor.cluster.propose(pod("uncommitted"), Some(fence)).await;
    assert!(matches!(uncommitted, Err(ProposeError::NoQuorum { .. })), "{uncommitted:?}");

    let before = survivor.cluster.state().borrow().revision();
    let id = survivor.cluster.id();
    survivor.cluster.recover_alone(gone.clone(), "test", 1).unwrap();
    assert!(survivor.cluster.fatal().await.to_string().contains("a majority is gone for good"));
    let address = survivor.kill().await;
    let (name, directory) = (format!("controller-{leader}"), directories[leader].path());
    let survivor = Replica::start(&name, directory, &seed, Some(address)).await;
    assert_eq!(survivor.cluster.id(), id);
    survivor.until("it leads", |status| status.leader == Some(id) && status.members.len() == 1).await;
    let has = |state: &Arc<MeshState>, name: &str| state.pods().contains_key(&PodName::new("ns", name).unwrap());
    let state = survivor.until_state("it has all", |s| has(s, "committed") && has(s, "uncommitted")).await;
    // Higher than any that the lost ones can have told a proxy; and nothing has a version that may have meant something else.
    assert!(state.revision().as_u64() > before.as_u64() + (1 << 30));
    assert!(state.pods().values().all(|pod| pod.version == state.revision()));
    assert!(gone.iter().all(|node| state.is_retired(*node)));
    let written = survivor.cluster.propose(pod("later"), None).await.unwrap();
    assert!(written.revision > state.revision());

    // One of the lost comes back with its disk, and is not let in; with a fresh one it is.
    let (other, peers) = ((leader + 1) % 3, [address.to_string()]);
    let back = Replica::start(&format!("controller-{other}"), directories[other].path(), &seed, None).await;
    assert!(matches!(back.cluster.join(&peers).await, Err(JoinError::Retired)));
    back.kill().await;
    let fresh = tempfile::tempdir().unwrap();
    let replaced = Replica::start(&format!("controller-{other}"), fresh.path(), &seed, None).await;
    replaced.cluster.join(&peers).await.unwrap();
    replaced.until_state("it has all", |s| has(s, "uncommitted") && has(s, "later")).await;

    // The wish was carried out once.
    let address = survivor.kill().await;
    let survivor = Replica::start(&name, directory, &seed, Some(address)).await;
    survivor.until("both are members", |status| status.leader.is_some() && status.members.len() == 2).await;
}

/// The leader's, and then another's: it stops and says why, the others go on, and when the disk is mended it comes back and has
/// everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_disk_fails_stops_and_comes_back_when_it_is_mended() {
    let seed = Arc::new(Seed::generate());
    let disks: [SimulatedDisk; 3] = Default::default();
    let mut number = 0;
    let (directories, mut replicas) = three_as(&seed, |config| {
        config.disk =
            Disk::Simulated(disks[config.name.strip_prefix("controller-").unwrap().parse::<usize>().unwrap()].clone());
    })
    .await;
    for (fault, told, leads) in [
        (Fault::Full, "no storage space", true),
        (Fault::Sync, "fsync failed", true),
        (Fault::Full, "no storage space", false),
    ] {
        let leader = leader_of(&replicas).await;
        let victim = if leads { leader } else { (leader + 1) % 3 };
        let witness = (leader + 2) % 3;
        disks[victim].fail(fault);
        let mut acknowledged = Vec::new();
        let fatal = {
            let cluster = replicas[victim].cluster.clone();
            tokio::spawn(async move { cluster.fatal().await.to_string() })
        };
        while !fatal.is_finished() || acknowledged.len() < 3 {
            number += 1;
            let name = format!("p{number}");
            if replicas[witness].cluster.propose(pod(&name), None).await.is_ok() {
                acknowledged.push(PodName::new("ns", &name).unwrap());
            }
        }
        let why = fatal.await.unwrap();
        assert!(why.contains(told), "{why}");
        let address = replicas.remove(victim).kill().await;
        disks[victim].restart(|| false);
        let disk = Disk::Simulated(disks[victim].clone());
        let name = format!("controller-{victim}");
        let back = Replica::start_as(&name, directories[victim].path(), &seed, Some(address), |c| c.disk = disk).await;
        back.until_state("it has all", |state| acknowledged.iter().all(|pod| state.pods().contains_key(pod))).await;
        replicas.insert(victim, back);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_moved_is_found_at_its_new_address() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;
    let moved = (leader_of(&replicas).await + 1) % 3;
    let id = replicas[moved].cluster.id();
    replicas.remove(moved).kill().await;
    let back = Replica::start(&format!("controller-{moved}"), directories[moved].path(), &seed, None).await;
    assert!(!back.cluster.is_known());
    let peers: Vec<_> = replicas.iter().map(|replica| replica.address.to_string()).collect();
    back.cluster.join(&peers).await.unwrap();
    back.until("it is known again", |status| {
        status.members.get(&id).is_some_and(|known| known.address == back.address.to_string())
    })
    .await;
    assert!(back.cluster.is_known());
    let applied = replicas[0].cluster.propose(pod("kept"), None).await.unwrap();
    back.until_state("it has the state", |state| state.revision() == applied.revision).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_waits_until_all_members_understand_it() {
    let seed = Arc::new(Seed::generate());
    let (directories, mut replicas) = three(&seed).await;
    let old = (leader_of(&replicas).await + 1) % 3;
    let address = replicas.remove(old).kill().await;
    let peers: Vec<_> = replicas.iter().map(|replica| replica.address.to_string()).collect();
    let name = format!("controller-{old}");
    let older = |config: &mut ClusterConfig| config.feature_level = 0;
    let downgraded = Replica::start_as(&name, directories[old].path(), &seed, Some(address), older).await;
    downgraded.cluster.join(&peers).await.unwrap();
    for replica in &replicas {
        replica.until("it is known", |s| s.members.values().any(|member| member.feature_level == 0)).await;
        let refused = replica.cluster.propose(pod("new"), None).await.unwrap_err();
        assert!(matches!(&refused, ProposeError::Refused(why) if why.contains(&name)), "{refused}");
    }
    downgraded.kill().await;
    let upgraded = Replica::start(&name, directories[old].path(), &seed, Some(address)).await;
    upgraded.cluster.join(&peers).await.unwrap();
    upgraded.until("it is known", |s| s.members.values().all(|member| member.feature_level == FEATURE_LEVEL)).await;
    assert_eq!(upgraded.cluster.propose(pod("new"), None).await.unwrap().outcome, Outcome::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_release_has_sent_ends_a_replica() {
    let seed = Arc::new(Seed::generate());
    let (_directories, replicas) = three(&seed).await;
    let tls = ReplicaTls::new(&seed, &trust_domain(), NodeId::new(7)).unwrap();
    let channel = Peers::new(tls).stranger(&replicas[1].address.to_string());
    let message = RaftMessage { target: replicas[1].cluster.id().as_u64(), payload: b"of tomorrow".to_vec() };
    RaftClient::new(channel).append_entries(message).await.unwrap_err();
    let fatal = timeout(SOON, replicas[1].cluster.fatal()).await.unwrap();
    assert!(fatal.to_string().contains("upgrade this replica"), "{fatal}");
}

#[tokio::test]
async fn a_control_plane_starts_once() {
    let seed = Arc::new(Seed::generate());
    let directory = tempfile::tempdir().unwrap();
    let replica = Replica::start("controller-0", directory.path(), &seed, None).await;
    assert!(!replica.cluster.is_initialized().await);
    replica.cluster.initialize().await.unwrap();
    replica.fence().await;
    assert!(replica.cluster.initialize().await.is_err());
    assert!(replica.cluster.is_initialized().await);
}

/// openraft#2116: under load on few cores a purge may overtake an apply that is queued, and the core panics. Whatever ends a
/// replica, it is started again, as its supervisor does, and nothing that was acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_under_load_loses_nothing() {
    const WRITERS: usize = 64;
    const WRITES: usize = 150;
    let seed = Arc::new(Seed::generate());
    let disks: [SimulatedDisk; 3] = Default::default();
    // Production keeps ten thousand entries behind a snapshot; here the purge is at the heels of the apply.
    let configure = |config: &mut ClusterConfig| {
        let number: usize = config.name.strip_prefix("controller-").unwrap().parse().unwrap();
        config.disk = Disk::Simulated(disks[number].clone());
        config.compaction = Compaction { snapshot_every: 100, keep: 0, lag: 100 };
    };
    let (directories, mut replicas) = three_as(&seed, configure).await;
    let handles: Arc<Vec<_>> = Arc::new(replicas.iter().map(|r| Mutex::new(r.cluster.clone())).collect());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let handles = handles.clone();
            tokio::spawn(async move {
                for write in 0..WRITES {
                    loop {
                        let cluster = handles[(writer + write) % 3].lock().unwrap().clone();
                        if cluster.propose(pod(&format!("w{writer}-{write}")), None).await.is_ok() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let mut restarts = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        for number in 0..3 {
            let ended = timeout(Duration::from_millis(20), replicas[number].cluster.fatal()).await;
            if let Ok(fatal) = ended {
                eprintln!("controller-{number} ended: {fatal}");
                restarts += 1;
                let address = replicas.remove(number).kill().await;
                disks[number].restart(|| true);
                let (name, directory) = (format!("controller-{number}"), directories[number].path());
                let back = Replica::start_as(&name, directory, &seed, Some(address), configure).await;
                *handles[number].lock().unwrap() = back.cluster.clone();
                replicas.insert(number, back);
            }
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    eprintln!("{restarts} restarts");
    // What is purged is overwritten, however much comes: ten thousand writes have some megabytes, of which these are a fraction.
    for disk in &disks {
        assert!(disk.bytes() < 16 << 20, "{} bytes", disk.bytes());
    }
    for replica in &replicas {
        replica.until_state("it has all", |state| state.pods().len() == WRITERS * WRITES).await;
    }
}
