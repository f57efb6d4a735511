use conduit_api::{Pod, PodName};
use openraft::{
    Membership, RaftLogReader as _, RaftSnapshotBuilder as _, StorageError,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::CommittedLeaderIdOf,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    disk::{Fault, SECTOR_BYTES, SimulatedDisk},
    log::LogStore,
    machine::StateMachine,
    *,
};
use crate::{
    command::{Change, Command, Proposal},
    raft::{Entry, LogId, StoredMembership, TypeConfig, Vote},
    state::MeshState,
};

struct Production(fn() -> Disk);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Production {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, machine) = reopen_on(directory.path(), &self.0());
        Ok((directory, log, machine))
    }
}

fn reopen(directory: &Path) -> (LogStore, StateMachine) {
    reopen_on(directory, &Disk::File)
}

fn reopen_on(directory: &Path, disk: &Disk) -> (LogStore, StateMachine) {
    let (database, _) = open(directory, disk).unwrap();
    let machine = StateMachine::open(database.clone(), watch::channel(Arc::default()).0).unwrap();
    (LogStore::new(database, disk).unwrap(), machine)
}

fn log_id(index: u64) -> LogId {
    let leader = CommittedLeaderIdOf::<TypeConfig> { term: 1, node_id: NodeId::new(1) };
    LogId { leader_id: leader, index }
}

fn entry(index: u64) -> Entry {
    let pod = Pod {
        name: PodName::new("ns", &format!("p{index}")).unwrap(),
        ip: [10, 0, 0, index as u8].into(),
        workload: None,
        service_account: "default".into(),
        uid: None,
        ports: Default::default(),
        zone: None,
        meshed: true,
        ready: true,
        application_ended: false,
    };
    let command = Command::Batch(vec![Change::UpsertPod(pod)]);
    let proposal = Proposal::new("test", 0, command);
    Entry { log_id: log_id(index), payload: openraft::EntryPayload::Normal(proposal) }
}

/// openraft's own tests of what it needs of a store, on the one that production uses.
#[tokio::test]
async fn openraft_is_content_with_the_store() {
    Suite::test_all(Production(|| Disk::File)).await.unwrap();
    Suite::test_all(Production(|| Disk::Simulated(SimulatedDisk::default()))).await.unwrap();
}

#[tokio::test]
async fn what_was_purged_stays_purged() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (mut log, _machine) = reopen(directory.path());
        log.blocking_append((1..=10).map(entry)).await.unwrap();
        log.purge(log_id(7)).await.unwrap();
        log.save_committed(Some(log_id(9))).await.unwrap();
        log.blocking_append([entry(11)]).await.unwrap();
    }
    let (mut log, _machine) = reopen(directory.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(7)), Some(log_id(11))));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(9)));
}

#[tokio::test]
async fn a_snapshot_is_found_again_and_an_installed_one_as_well() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = {
        let (_log, mut machine) = reopen(first.path());
        let entries = (1..=5).map(|index| Ok((entry(index), None)));
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
    };
    let (_log, mut machine) = reopen(first.path());
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(5)));
    {
        let (_log, mut machine) = reopen(second.path());
        machine.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    }
    let (database, _) = open(second.path(), &Disk::File).unwrap();
    let (published, state) = watch::channel(Arc::<MeshState>::default());
    let mut machine = StateMachine::open(database, published).unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(5)));
    assert_eq!(state.borrow().pods().len(), 5, "the state is published when it is opened");
}

#[tokio::test]
async fn a_snapshot_that_is_none_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (_log, mut machine) = reopen(directory.path());
    machine.apply(futures::stream::iter([Ok((entry(1), None))])).await.unwrap();
    let membership = Membership::new_with_defaults(vec![[NodeId::new(1)].into()], [NodeId::new(1)]);
    let last_membership = StoredMembership::new(Some(log_id(1)), membership);
    let meta = crate::raft::SnapshotMeta { last_log_id: Some(log_id(9)), last_membership };
    for bad in [&b""[..], b"\x01not a state", b"\x63"] {
        assert!(machine.install_snapshot(&meta, bad.to_vec()).await.is_err());
    }
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(1)));
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
}

#[test]
fn the_id_lives_and_dies_with_the_directory() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = open(first.path(), &Disk::File).unwrap().1;
    assert_eq!(open(first.path(), &Disk::File).unwrap().1, id);
    assert_ne!(open(second.path(), &Disk::File).unwrap().1, id);
}

#[test]
fn one_replica_to_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _running = open(directory.path(), &Disk::File).unwrap();
    assert!(matches!(open(directory.path(), &Disk::File), Err(OpenError::InUse { .. })));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(open(&file, &Disk::File), Err(OpenError::Create { .. })));
}

#[test]
fn a_damaged_file_is_put_aside_and_its_replica_is_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let (file, aside) = (directory.path().join(FILE), directory.path().join(DAMAGED));
    let first = open(directory.path(), &Disk::File).unwrap().1;
    for damaged in [&b"this was a database once"[..], b"and again"] {
        fs::write(&file, damaged).unwrap();
        let id = open(directory.path(), &Disk::File).unwrap().1;
        assert_ne!(id, first);
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        assert_eq!(open(directory.path(), &Disk::File).unwrap().1, id);
    }
    // Not on top of what somebody keeps there.
    fs::remove_file(&aside).unwrap();
    fs::create_dir(&aside).unwrap();
    fs::write(&file, "damaged").unwrap();
    let error = open(directory.path(), &Disk::File).err().unwrap();
    assert!(error.to_string().contains("move the data directory away"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"damaged");
}

/// Nobody who goes back to an earlier release is to lose the data of a replica by that.
#[test]
fn what_a_later_release_has_written_is_not_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    drop(open(directory.path(), &Disk::File).unwrap());
    let mut content = fs::read(&file).unwrap();
    // Where each of redb's two commits says in which format it is.
    for version in [64, 192] {
        assert_eq!(content[version], 3);
        content[version] = 4;
    }
    fs::write(&file, &content).unwrap();
    let error = open(directory.path(), &Disk::File).err().unwrap();
    assert!(matches!(error, OpenError::Open { .. }), "{error}");
    assert!(fs::read(&file).unwrap() == content && !directory.path().join(DAMAGED).exists());
}

/// Bits rot, and sectors are lost: what is opened is what was closed, or it is damaged.
#[tokio::test]
async fn a_file_with_a_changed_byte_is_not_opened_as_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    let content = async || {
        // It may say of itself that it is of a later release.
        let database = undamaged(&file, &Disk::File).unwrap_or_default()?;
        let id = own_id(&database).unwrap();
        let mut log = LogStore::new(Arc::new(database), &Disk::File).unwrap();
        let entries = log.try_get_log_entries(..).await.map(|entries| format!("{entries:?}")).unwrap_or_default();
        Some((id, entries, log.read_vote().await.unwrap_or_default()))
    };
    {
        let (mut log, _machine) = reopen(directory.path());
        log.save_vote(&Vote::new_committed(3, NodeId::new(1))).await.unwrap();
        log.blocking_append((1..=40).map(entry)).await.unwrap();
    }
    let whole = content().await.unwrap();
    assert!(whole.1.len() > 1000 && whole.2.is_some());
    let good = fs::read(&file).unwrap();
    let mut refused = 0;
    // Every part of the file, and not every byte: each is opened once.
    for at in (0..good.len()).step_by(good.len() / 300) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        match content().await {
            Some(opened) => assert_eq!(opened, whole, "byte {at} of {}", good.len()),
            None => refused += 1,
        }
    }
    assert!(refused > 0, "some of the bytes mean something");
    for length in [0, 1, 100, good.len() / 2, good.len() - 1] {
        fs::write(&file, &good[..length]).unwrap();
        // Of an empty file nobody knows that it was not new.
        let whole = |opened| length == 0 || opened == whole;
        assert!(content().await.is_none_or(whole), "{length} of {} bytes", good.len());
    }
}

/// A replica is killed, and a sector of its disk is bad. Of the newest pages as well nobody may take that for a write that was under way:
/// what the file says was acknowledged is all there, or it is not opened.
#[tokio::test]
async fn what_was_acknowledged_is_there_or_said_to_be_damaged_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(FILE);
    let (mut log, _machine) = reopen(directory.path());
    log.save_vote(&Vote::new_committed(3, NodeId::new(1))).await.unwrap();
    log.blocking_append((1..=3).map(entry)).await.unwrap();
    let before = fs::read(&file).unwrap();
    log.blocking_append([entry(4)]).await.unwrap();
    // As it is when nobody closes it.
    let killed = fs::read(&file).unwrap();
    let newest: Vec<_> = (0..killed.len())
        .step_by(SECTOR_BYTES)
        .filter(|at| before.get(*at..at + SECTOR_BYTES) != killed.get(*at..at + SECTOR_BYTES))
        .collect();
    let mut refused = 0;
    for at in &newest {
        let mut bad = killed.clone();
        bad[*at..at + SECTOR_BYTES].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        fs::write(&elsewhere, &bad).unwrap();
        let Some(database) = undamaged(elsewhere.path(), &Disk::File).unwrap() else {
            refused += 1;
            continue;
        };
        let mut log = LogStore::new(Arc::new(database), &Disk::File).unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(4)), "sector at {at}");
    }
    assert!(refused > 0, "of {} sectors that are new, one means something", newest.len());
}

/// What a store was told, and has said that it holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Held {
    vote: Option<Vote>,
    purged: Option<LogId>,
    log: Vec<Entry>,
    snapshot: Option<LogId>,
}

/// Everything that Raft asks of a store, one after the other. Calls `before` with what is held once the next step is done, and
/// `after` when it is; ends when one fails.
async fn live(disk: &Disk, directory: &Path, held: &mut Held, next: &mut Held) -> io::Result<()> {
    let opened = open(directory, disk).map_err(io::Error::other)?;
    let mut log = LogStore::new(opened.0.clone(), disk)?;
    let mut machine = StateMachine::open(opened.0, watch::channel(Arc::default()).0)?;
    macro_rules! step {
        ($change:expr, $doing:expr) => {{
            $change(&mut *next);
            $doing.await?;
            held.clone_from(next);
        }};
    }
    let vote = |term| Vote::new_committed(term, NodeId::new(1));
    step!(|next: &mut Held| next.vote = Some(vote(1)), log.save_vote(&vote(1)));
    step!(|next: &mut Held| next.log.extend((1..=5).map(entry)), log.blocking_append((1..=5).map(entry)));
    log.save_committed(Some(log_id(5))).await?;
    step!(|next: &mut Held| next.log.extend((6..=10).map(entry)), log.blocking_append((6..=10).map(entry)));
    step!(|next: &mut Held| next.log.truncate(8), log.truncate_after(Some(log_id(8))));
    step!(|next: &mut Held| next.log.extend((9..=12).map(entry)), log.blocking_append((9..=12).map(entry)));
    let entries = (1..=7).map(|index| Ok((entry(index), None)));
    machine.apply(futures::stream::iter(entries)).await?;
    let mut builder = machine.get_snapshot_builder().await;
    step!(|next: &mut Held| next.snapshot = Some(log_id(7)), builder.build_snapshot());
    step!(
        |next: &mut Held| {
            next.purged = Some(log_id(6));
            next.log.drain(..6);
        },
        log.purge(log_id(6))
    );
    step!(|next: &mut Held| next.vote = Some(vote(2)), log.save_vote(&vote(2)));
    let (meta, installed) = leaders_snapshot().await;
    step!(|next: &mut Held| next.snapshot = Some(log_id(30)), machine.install_snapshot(&meta, installed.clone()));
    step!(
        |next: &mut Held| {
            next.purged = Some(log_id(30));
            next.log.clear();
        },
        log.purge(log_id(30))
    );
    step!(|next: &mut Held| next.log.extend((31..=33).map(entry)), log.blocking_append((31..=33).map(entry)));
    Ok(())
}

/// Of a leader that is at entry 30.
async fn leaders_snapshot() -> (crate::raft::SnapshotMeta, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let (_log, mut machine) = reopen_on(directory.path(), &Disk::Simulated(SimulatedDisk::default()));
    machine.apply(futures::stream::iter((1..=30).map(|index| Ok((entry(index), None))))).await.unwrap();
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    (snapshot.meta, snapshot.snapshot)
}

async fn found(disk: &Disk, directory: &Path) -> Held {
    let (mut log, mut machine) = reopen_on(directory, disk);
    Held {
        vote: log.read_vote().await.unwrap(),
        purged: log.get_log_state().await.unwrap().last_purged_log_id,
        log: log.try_get_log_entries(..).await.unwrap(),
        snapshot: machine.applied_state().await.unwrap().0,
    }
}

/// At every point of appending, truncating, purging, building a snapshot and installing one the power fails, and of what was not
/// synced any part is on the disk. What is found is what was held before the step that was under way, or after it: nothing that
/// was acknowledged is lost, and no half of anything is there.
#[tokio::test]
async fn the_power_may_fail_at_any_point() {
    let directory = tempfile::tempdir().unwrap();
    let whole = SimulatedDisk::default();
    live(&Disk::Simulated(whole.clone()), directory.path(), &mut Held::default(), &mut Held::default()).await.unwrap();
    // A file appears when it is complete: there the power may fail as it likes.
    let complete = SimulatedDisk::default();
    drop(open(directory.path(), &Disk::Simulated(complete.clone())).unwrap());
    let (complete, operations) = (complete.operations(), whole.operations());
    assert!(operations > complete + 50, "{complete}, {operations}");
    for point in complete..operations {
        for seed in 0..4 {
            let mut random = StdRng::seed_from_u64(seed);
            let (disk, mut held, mut next) = (SimulatedDisk::default(), Held::default(), Held::default());
            let on = Disk::Simulated(disk.clone());
            disk.fail_power_at(point);
            live(&on, directory.path(), &mut held, &mut next).await.unwrap_err();
            // All of it, nothing of it, or some of it.
            disk.restart(|| match seed {
                0 => true,
                1 => false,
                _ => random.random(),
            });
            let found = found(&on, directory.path()).await;
            assert!(found == held || found == next, "at {point}, seed {seed}: {found:?}\nnot {held:?}\nnor {next:?}");
        }
    }
}

/// A disk that fails says so to Raft, and has what it had before.
#[tokio::test]
async fn a_disk_that_fills_up_or_fails_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    for (fault, told) in [(Fault::Full, "no storage space"), (Fault::Sync, "fsync failed")] {
        let disk = SimulatedDisk::default();
        let on = Disk::Simulated(disk.clone());
        let (mut log, _machine) = reopen_on(directory.path(), &on);
        log.blocking_append((1..=5).map(entry)).await.unwrap();
        disk.fail(fault);
        let error = log.blocking_append((6..=9).map(entry)).await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        disk.restart(|| false);
        assert_eq!(found(&on, directory.path()).await.log, (1..=5).map(entry).collect::<Vec<_>>());
    }
}
