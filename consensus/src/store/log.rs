//! The log on redb.
//!
//! ```text
//!   append ──► commit without fsync (readable at once) ──► flusher ──► one durable commit for all that waits ──► callbacks
//! ```

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, mpsc},
    thread,
};

use conduit_api::NodeId;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use tokio::{
    sync::{mpsc as async_mpsc, oneshot},
    time::sleep,
};

use super::{
    COMMITTED, LOG, META, PURGED, VOTE, commit, decode,
    disk::{Disk, SimulatedDisk},
    encode, read_meta,
};
use crate::raft::{Entry, LogId, TypeConfig, Vote};

/// Flushes that wait for the one under way; then appends wait as well. The core never has this many under way.
const FLUSHES_WAITING_MAX: usize = 1024;

/// Of the pages, and of the header that says they are there; see [`commit`].
const SYNCS_PER_COMMIT: u32 = 2;

/// The log of one replica. Clones are readers of it.
#[derive(Clone)]
pub struct LogStore {
    database: Arc<Database>,
    flusher: Flusher,
}

/// Who makes writes durable.
#[derive(Clone)]
enum Flusher {
    /// A thread, so that entries which come while one commit is made durable share the next.
    Thread(Arc<Thread>),
    /// A task: other threads would bring the real clock into a simulation.
    Task(async_mpsc::Sender<Waiting>),
}

/// Dropping the last handle waits for it, so that the database is free afterwards.
struct Thread {
    waiting: Option<mpsc::SyncSender<Waiting>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.waiting = None;
        if let Some(thread) = self.thread.take() {
            // It only panics if redb does, and then there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

/// Whoever waits for what was written before to be on the disk.
enum Waiting {
    Core(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn flushed(self, result: io::Result<()>) {
        match self {
            Self::Core(callback) => callback.io_completed(result),
            // The caller gave up waiting.
            Self::Caller(caller) => drop(caller.send(result)),
        }
    }
}

/// An entry, for comparing it with another replica's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Term and node of the leader that made it.
    pub leadership: (u64, NodeId),
    /// All of it, as it is stored.
    pub content: Vec<u8>,
}

impl LogStore {
    /// The log in `database`.
    ///
    /// # Errors
    /// When the flusher's thread cannot be started.
    pub fn new(database: Arc<Database>, disk: &Disk) -> io::Result<Self> {
        let flusher = match disk {
            Disk::Simulated(disk) => {
                let (sender, receiver) = async_mpsc::channel(FLUSHES_WAITING_MAX);
                tokio::spawn(flush_slowly(database.clone(), disk.clone(), receiver));
                Flusher::Task(sender)
            }
            Disk::File => {
                let (sender, receiver) = mpsc::sync_channel(FLUSHES_WAITING_MAX);
                let flushed = database.clone();
                let thread = thread::Builder::new().name("raft-log".to_owned());
                let thread = thread.spawn(move || flush_all(&flushed, &receiver))?;
                Flusher::Thread(Arc::new(Thread { waiting: Some(sender), thread: Some(thread) }))
            }
        };
        Ok(Self { database, flusher })
    }

    pub(crate) fn records(&self) -> io::Result<BTreeMap<u64, LogRecord>> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let all = log.range::<u64>(..).map_err(io::Error::other)?;
        let record = all.map(|found| {
            let (index, content) = found.map_err(io::Error::other)?;
            let leader = decode::<Entry>(content.value())?.log_id.leader_id;
            Ok((
                index.value(),
                LogRecord { leadership: (leader.term, leader.node_id), content: content.value().to_vec() },
            ))
        });
        record.collect()
    }

    /// Writes without waiting for the disk; readable at once.
    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> io::Result<()> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(io::Error::other)
    }

    fn write_meta(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.write(|transaction| {
            transaction.open_table(META)?.insert(name, value)?;
            Ok(())
        })
    }

    fn flush_then(&self, waiting: Waiting) -> io::Result<()> {
        let sent = match &self.flusher {
            Flusher::Thread(thread) => thread.waiting.as_ref().and_then(|sender| sender.send(waiting).ok()),
            Flusher::Task(sender) => sender.try_send(waiting).ok(),
        };
        sent.ok_or_else(|| io::Error::other("the thread that writes the log has ended"))
    }

    async fn flush(&self) -> io::Result<()> {
        let (sender, flushed) = oneshot::channel();
        self.flush_then(Waiting::Caller(sender))?;
        flushed.await.map_err(|_| io::Error::other("the thread that writes the log has ended"))?
    }
}

/// Ends with the last sender.
fn flush_all(database: &Database, waiting: &mpsc::Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = [first].into_iter().chain(waiting.try_iter()).collect();
        flush_together(database, all);
    }
}

/// The same, on a disk of which each sync takes as long as it says.
async fn flush_slowly(database: Arc<Database>, disk: SimulatedDisk, mut waiting: async_mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut all = vec![first];
        all.extend(std::iter::from_fn(|| waiting.try_recv().ok()));
        sleep(disk.latency() * SYNCS_PER_COMMIT).await;
        flush_together(&database, all);
    }
}

fn flush_together(database: &Database, all: Vec<Waiting>) {
    let result = make_durable(database);
    for waiting in all {
        // An error is told to each; its kind and text are all that can be copied.
        waiting.flushed(result.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
    }
}

/// An empty durable commit makes all commits before it durable.
fn make_durable(database: &Database) -> io::Result<()> {
    commit(database, |_| Ok(())).map_err(io::Error::other)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let found = log.range((range.start_bound().cloned(), range.end_bound().cloned())).map_err(io::Error::other)?;
        found.map(|entry| decode(entry.map_err(io::Error::other)?.1.value())).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        read_meta(&self.database, VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id: Option<LogId> = read_meta(&self.database, PURGED)?;
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        let log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let last = log.last().map_err(io::Error::other)?;
        let last = last.map(|(_, entry)| decode::<Entry>(entry.value())).transpose()?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_meta(VOTE, &encode(vote)?)?;
        self.flush().await
    }

    /// Not flushed: it only saves time at the next start, and the next append's flush takes it along.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.write_meta(COMMITTED, &encode(&committed)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(read_meta::<Option<LogId>>(&self.database, COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| Ok((entry.log_id.index, encode(&entry)?)));
        let entries = entries.collect::<io::Result<Vec<_>>>()?;
        self.write(|transaction| {
            let mut log = transaction.open_table(LOG)?;
            for (index, entry) in &entries {
                log.insert(index, entry.as_slice())?;
            }
            Ok(())
        })?;
        self.flush_then(Waiting::Core(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let after = last.map_or(Bound::Unbounded, |last| Bound::Excluded(last.index));
        self.write(|transaction| {
            transaction.open_table(LOG)?.retain_in((after, Bound::Unbounded), |_, _| false)?;
            Ok(())
        })?;
        self.flush().await
    }

    /// What is purged and that it is are one change: a log that begins later than it says it does ends the core.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let purged = encode(&upto)?;
        self.write(|transaction| {
            transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            transaction.open_table(META)?.insert(PURGED, purged.as_slice())?;
            Ok(())
        })?;
        self.flush().await
    }
}
