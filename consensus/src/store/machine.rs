//! The state machine: applies committed entries in memory, and keeps a snapshot of the state on the disk.

use std::{io, sync::Arc};

use futures::{Stream, TryStreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use redb::Database;
use tokio::sync::watch;

use super::{META, SNAPSHOT, SNAPSHOT_META, commit, decode, encode, read_meta, read_raw};
use crate::{
    command::{Applied, Outcome},
    raft::{Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
    state::{LAYOUT, MeshState},
};

/// The state of one replica, and where it is published.
pub struct StateMachine {
    database: Arc<Database>,
    state: MeshState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Arc<MeshState>>,
}

impl StateMachine {
    /// The state of the last snapshot; openraft replays what was committed since. It is published there and then, and
    /// after every entry from then on.
    ///
    /// # Errors
    /// When the snapshot cannot be read.
    pub fn open(database: Arc<Database>, published: watch::Sender<Arc<MeshState>>) -> io::Result<Self> {
        let mut machine = Self {
            database,
            state: MeshState::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            published,
        };
        if let Some(meta) = read_meta::<SnapshotMeta>(&machine.database, SNAPSHOT_META)? {
            let data = read_raw(&machine.database, SNAPSHOT)?
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a snapshot without its content"))?;
            machine.restore(&meta, &data)?;
        }
        Ok(machine)
    }

    fn restore(&mut self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
        self.state = decode_snapshot(data)?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.last_applied
    }

    pub(crate) fn state_mut(&mut self) -> &mut MeshState {
        &mut self.state
    }

    /// Applies one entry, without publishing it.
    pub(crate) fn step(&mut self, entry: Entry) -> Applied {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Applied { revision: self.state.revision(), outcome: Outcome::Unchanged },
            EntryPayload::Normal(proposal) => self.state.apply(entry.log_id.index, proposal),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied { revision: self.state.revision(), outcome: Outcome::Done }
            }
        }
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(self.state.clone()));
    }
}

pub(crate) fn encode_snapshot(state: &MeshState) -> io::Result<Vec<u8>> {
    let mut data = vec![state.layout()];
    data.extend(encode(state)?);
    Ok(data)
}

fn decode_snapshot(data: &[u8]) -> io::Result<MeshState> {
    match data.split_first() {
        Some((1..=LAYOUT, state)) => decode(state),
        Some((version, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a snapshot of version {version}; this release understands {LAYOUT}: upgrade it"),
        )),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "an empty snapshot")),
    }
}

/// One change: there is the old snapshot, or the new one.
fn save(database: &Database, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
    let meta = encode(meta)?;
    let saved = commit(database, |transaction| {
        let mut table = transaction.open_table(META)?;
        table.insert(SNAPSHOT_META, meta.as_slice())?;
        table.insert(SNAPSHOT, data)?;
        Ok(())
    });
    saved.map_err(io::Error::other)
}

/// A state that waits to be written down.
pub struct SnapshotBuilder {
    database: Arc<Database>,
    state: MeshState,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let data = encode_snapshot(&self.state)?;
        save(&self.database, &self.meta, &data)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: data })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    /// Publishes before it answers, so that whoever gets an answer finds its change in the state.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let applied = self.step(entry);
            answers.extend(responder.map(|responder| (responder, applied)));
        }
        self.publish();
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() };
        SnapshotBuilder { database: self.database.clone(), state: self.state.clone(), meta }
    }

    /// Taken over when it is on the disk, and not when it is not what it should be.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> Result<(), io::Error> {
        decode_snapshot(&snapshot)?;
        save(&self.database, meta, &snapshot)?;
        self.restore(meta, &snapshot)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(meta) = read_meta::<SnapshotMeta>(&self.database, SNAPSHOT_META)? else { return Ok(None) };
        let data = read_raw(&self.database, SNAPSHOT)?;
        Ok(data.map(|snapshot| Snapshot { meta, snapshot }))
    }
}
