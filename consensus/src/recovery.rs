//! For the day on which a majority is gone for good: one replica that is left becomes the only member, with all that it has.
//!
//! ```text
//!   request (while it runs) ─► a file beside the database ─► the process ends, and is started again ─► perform, before Raft starts
//! ```
//!
//! What it has in its log and cannot know to be committed is kept: it may have been acknowledged. What only the lost ones had is
//! lost. They are retired, so that one of them that comes back with its disk is not admitted; a majority of them that comes back
//! together would go on as the old control plane, which no replica can prevent: that is for the person to know who asks for this.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use conduit_api::NodeId;
use openraft::{Membership, vote::RaftLeaderId as _};
use redb::{Database, ReadableDatabase as _};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use crate::{
    cluster::Cluster,
    command::{Command, Proposal},
    raft::{Entry, LeaderId, LogId, Member, SnapshotMeta, StoredMembership, Vote},
    store::{
        COMMITTED, LOG, META, PURGED, SNAPSHOT, SNAPSHOT_META, VOTE, commit, decode, encode,
        machine::{StateMachine, encode_snapshot},
        read_meta,
    },
};

const FILE: &str = "recover.json";
/// Whoever asked for it is told first.
const ANSWERED: Duration = Duration::from_millis(100);

/// What was asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    /// By whom: the file has no effect beside another database.
    replica: NodeId,
    /// Who is gone.
    gone: BTreeSet<NodeId>,
    /// For the audit.
    proposer: String,
    time_ms: u64,
}

impl Cluster {
    /// Ends this process, so that it becomes the only member when it is started again; `gone` never come back. The caller has
    /// made sure that there is no majority, and that a person wants it.
    ///
    /// # Errors
    /// When the wish cannot be written down; then nothing happens.
    pub fn recover_alone(&self, gone: BTreeSet<NodeId>, proposer: &str, time_ms: u64) -> io::Result<()> {
        let wanted = Wanted { replica: self.id(), gone, proposer: proposer.to_owned(), time_ms };
        let (path, new) = (file(self.data_dir()), self.data_dir().join("recover.json.new"));
        fs::write(&new, serde_json::to_vec(&wanted)?)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(new, path)?;
        fs::File::open(self.data_dir())?.sync_all()?;
        let end = self.end_later();
        tokio::spawn(async move {
            sleep(ANSWERED).await;
            end("a majority is gone for good; it goes on alone when it is started again");
        });
        Ok(())
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// Does what was asked for, if anything was. To be called before Raft starts. One change of the database: it is done, or not.
pub(crate) fn perform(data_dir: &Path, database: &Arc<Database>, id: NodeId, member: &Member) -> io::Result<()> {
    let path = file(data_dir);
    let wanted: Wanted = match fs::read(&path) {
        Ok(wanted) => serde_json::from_slice(&wanted)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if wanted.replica == id {
        go_on_alone(database, id, member, &wanted)?;
        tracing::warn!(gone = ?wanted.gone, "this replica is the only member from now on, with all that it has");
    }
    // For good: should it be there again, members that have joined since would be forgotten.
    fs::remove_file(path)?;
    fs::File::open(data_dir)?.sync_all()
}

fn go_on_alone(database: &Arc<Database>, id: NodeId, member: &Member, wanted: &Wanted) -> io::Result<()> {
    let mut machine = StateMachine::open(database.clone(), watch::channel(Arc::default()).0)?;
    for entry in entries_after(database, machine.last_applied())? {
        machine.step(entry);
    }
    let vote: Option<Vote> = read_meta(database, VOTE)?;
    let term = vote.map_or(0, |vote| vote.leader_id.term) + 1;
    let leader = LeaderId::new(term, id);
    let mut index = machine.last_applied().map_or(0, |last| last.index);
    for node in &wanted.gone {
        index += 1;
        let command = Command::Retire { node: *node };
        machine.state_mut().apply(index, Proposal::new(&wanted.proposer, wanted.time_ms, command));
    }
    let last = LogId::new(leader.to_committed(), index + 1);
    machine.state_mut().go_on_alone(last.index);
    let members = BTreeMap::from([(id, member.clone())]);
    let membership = Membership::new(vec![[id].into()], members).map_err(io::Error::other)?;
    let meta = SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) };
    let snapshot = encode_snapshot(machine.state_mut())?;
    let written = [
        (VOTE, encode(&Vote::new(term, id))?),
        (PURGED, encode(&last)?),
        (COMMITTED, encode(&Some(last))?),
        (SNAPSHOT_META, encode(&meta)?),
        (SNAPSHOT, snapshot),
    ];
    let committed = commit(database, |transaction| {
        transaction.open_table(LOG)?.retain(|_, _| false)?;
        let mut table = transaction.open_table(META)?;
        for (name, value) in &written {
            table.insert(*name, value.as_slice())?;
        }
        Ok(())
    });
    committed.map_err(io::Error::other)
}

fn entries_after(database: &Database, last: Option<LogId>) -> io::Result<Vec<Entry>> {
    let transaction = database.begin_read().map_err(io::Error::other)?;
    let log = transaction.open_table(LOG).map_err(io::Error::other)?;
    let first = last.map_or(0, |last| last.index + 1);
    let found = log.range(first..).map_err(io::Error::other)?;
    found.map(|entry| decode(entry.map_err(io::Error::other)?.1.value())).collect()
}
