use conduit_api::{Pod, PodName};
use openraft::{
    Membership, RaftLogReader as _, RaftSnapshotBuilder as _, StorageError,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::log::{StoreBuilder, Suite},
    type_config::alias::CommittedLeaderIdOf,
};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    log::{Flush, LogStore},
    machine::StateMachine,
    *,
};
use crate::{
    command::{Change, Command, Proposal},
    raft::{Entry, LogId, StoredMembership, TypeConfig, Vote},
    state::MeshState,
};

struct Production(Flush);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Production {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, machine) = reopen(directory.path(), self.0);
        Ok((directory, log, machine))
    }
}

fn reopen(directory: &Path, flush: Flush) -> (LogStore, StateMachine) {
    let (database, _) = open(directory).unwrap();
    let machine = StateMachine::open(database.clone(), watch::channel(Arc::default()).0).unwrap();
    (LogStore::new(database, flush).unwrap(), machine)
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
        meshed: true,
        ready: true,
    };
    let command = Command::Batch(vec![Change::UpsertPod(pod)]);
    let proposal = Proposal::new("test", 0, command);
    Entry { log_id: log_id(index), payload: openraft::EntryPayload::Normal(proposal) }
}

/// openraft's own tests of what it needs of a store, on the one that production uses.
#[tokio::test]
async fn openraft_is_content_with_the_store() {
    Suite::test_all(Production(Flush::Grouped)).await.unwrap();
    Suite::test_all(Production(Flush::Inline)).await.unwrap();
}

#[tokio::test]
async fn what_was_purged_stays_purged() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (mut log, _machine) = reopen(directory.path(), Flush::Grouped);
        log.blocking_append((1..=10).map(entry)).await.unwrap();
        log.purge(log_id(7)).await.unwrap();
        log.save_committed(Some(log_id(9))).await.unwrap();
        log.blocking_append([entry(11)]).await.unwrap();
    }
    let (mut log, _machine) = reopen(directory.path(), Flush::Grouped);
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(7)), Some(log_id(11))));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(9)));
}

#[tokio::test]
async fn a_snapshot_is_found_again_and_an_installed_one_as_well() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = {
        let (_log, mut machine) = reopen(first.path(), Flush::Grouped);
        let entries = (1..=5).map(|index| Ok((entry(index), None)));
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
    };
    let (_log, mut machine) = reopen(first.path(), Flush::Grouped);
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(5)));
    {
        let (_log, mut machine) = reopen(second.path(), Flush::Grouped);
        machine.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    }
    let (database, _) = open(second.path()).unwrap();
    let (published, state) = watch::channel(Arc::<MeshState>::default());
    let mut machine = StateMachine::open(database, published).unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(5)));
    assert_eq!(state.borrow().pods().len(), 5, "the state is published when it is opened");
}

#[tokio::test]
async fn a_snapshot_that_is_none_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (_log, mut machine) = reopen(directory.path(), Flush::Grouped);
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
    let id = open(first.path()).unwrap().1;
    assert_eq!(open(first.path()).unwrap().1, id);
    assert_ne!(open(second.path()).unwrap().1, id);
}

#[test]
fn one_replica_to_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let _running = open(directory.path()).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::InUse { .. })));
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(open(&file), Err(OpenError::Create { .. })));
}

#[test]
fn a_damaged_file_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), b"this was a database once").unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("move the data directory away"), "{error}");
}

/// Bits rot, and sectors are lost: what is opened is what was closed, or nothing is.
#[tokio::test]
async fn a_file_with_a_changed_byte_is_not_opened_as_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let content = async || {
        let (database, id) = open(directory.path())?;
        let mut log = LogStore::new(database, Flush::Inline).unwrap();
        let entries = log.try_get_log_entries(..).await.map(|entries| format!("{entries:?}")).unwrap_or_default();
        Ok::<_, OpenError>((id, entries, log.read_vote().await.unwrap_or_default()))
    };
    {
        let (mut log, _machine) = reopen(directory.path(), Flush::Inline);
        log.save_vote(&Vote::new_committed(3, NodeId::new(1))).await.unwrap();
        log.blocking_append((1..=40).map(entry)).await.unwrap();
    }
    let whole = content().await.unwrap();
    assert!(whole.1.len() > 1000 && whole.2.is_some());
    let file = directory.path().join(FILE);
    let good = fs::read(&file).unwrap();
    let mut refused = 0;
    // Every part of the file, and not every byte: each is opened once.
    for at in (0..good.len()).step_by(good.len() / 300) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        match content().await {
            Ok(opened) => assert_eq!(opened, whole, "byte {at} of {}", good.len()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "some of the bytes mean something");
    for length in [0, 1, 100, good.len() / 2, good.len() - 1] {
        fs::write(&file, &good[..length]).unwrap();
        match content().await {
            // Of an empty file nobody knows that it was not new.
            Ok(opened) => assert!(length == 0 || opened == whole, "{length} of {} bytes", good.len()),
            Err(error) => assert!(error.to_string().contains("data directory"), "{error}"),
        }
    }
}
