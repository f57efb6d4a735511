//! What a replica keeps on its disk: one redb file with its id, its vote, its log and its last snapshot.
//!
//! One file and one writer, so that nothing can reach the disk in another order than it was written in: a vote after an entry
//! that was appended under it loses committed data (openraft, "Guide for Implementing Storage"). redb has a checksum of every
//! page, all of which are checked when the file is opened, and locks it against a second process.
//!
//! What is acknowledged to others was written in two phases ([`commit`]): with one, a damaged page cannot be told from a page that the
//! power ended in the middle of (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", 2018, section 3.3), and
//! redb would go back to the commit before, and the replica vote without an entry that counts as committed with it.

pub mod disk;
pub mod log;
pub mod machine;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use conduit_api::NodeId;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use self::disk::Disk;
use crate::runtime;

/// The log, MessagePack by index.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything else by name, MessagePack but for the snapshot.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

pub(crate) const NODE_ID: &str = "node-id";
pub(crate) const VOTE: &str = "vote";
pub(crate) const COMMITTED: &str = "committed";
pub(crate) const PURGED: &str = "purged";
pub(crate) const SNAPSHOT_META: &str = "snapshot-meta";
pub(crate) const SNAPSHOT: &str = "snapshot";

/// The thread that opens a database: a panic there says that the file is damaged, and nothing of this program.
pub const CHECKER: &str = "raft-check";

const FILE: &str = "raft.redb";
/// Where a damaged one is kept, for whoever wants to know what has become of it. There is one: the next takes its place.
const DAMAGED: &str = "raft.redb.damaged";
/// Pages kept in memory. The log is read back only by followers that are behind; redb's own default is a gigabyte.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Whether `directory` has the data of a replica.
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).exists()
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be made.
    #[error("cannot create the data directory {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another replica runs on it.
    #[error("{} is in use by another process: one replica to a data directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// What is in it is not what was written, and it stays where it is.
    #[error("{} is damaged, and cannot be put aside: move the data directory away; the replica then joins anew", path.display())]
    PutAside {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that was made a moment ago is damaged as well.
    #[error("what was written to {} a moment ago is not what is read: the disk is broken; give this replica another", path.display())]
    BrokenDisk {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read, or only by a later release.
    #[error("cannot open {}; give this replica another data directory, and it joins anew with what the others have", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Opens the database in `directory`, or makes a new one; with it, a new id. One that is damaged is put aside: its replica has lost its
/// disk, and joins anew with what the others have.
///
/// # Errors
/// When the directory cannot be used.
pub fn open(directory: &Path, disk: &Disk) -> Result<(Arc<Database>, NodeId), OpenError> {
    fs::create_dir_all(directory).map_err(|source| OpenError::Create { path: directory.to_owned(), source })?;
    let path = directory.join(FILE);
    let database = match undamaged(&path, disk)? {
        Some(database) => database,
        None => {
            let aside = directory.join(DAMAGED);
            fs::rename(&path, &aside).map_err(|source| OpenError::PutAside { path: path.clone(), source })?;
            let (was, is) = (path.display(), aside.display());
            tracing::error!(%was, %is, "what this replica had on its disk is damaged: it is put aside, and the replica joins anew");
            match undamaged(&path, disk)? {
                Some(database) => database,
                None => {
                    // Nothing is in it, and the next start must not put it in the place of what was put aside.
                    let _ = fs::remove_file(&path);
                    return Err(OpenError::BrokenDisk { path });
                }
            }
        }
    };
    let node = own_id(&database).map_err(|source| OpenError::Open { path, source: Box::new(source) })?;
    Ok((Arc::new(database), node))
}

/// The database at `path`, unless it is damaged. That is found now or never: later it would be a vote or an entry that is not what it was.
fn undamaged(path: &Path, disk: &Disk) -> Result<Option<Database>, OpenError> {
    // At some kinds of damage redb panics: in a thread of that name, where it is an answer like others.
    let checked = thread::scope(|scope| {
        let check = thread::Builder::new().name(CHECKER.to_owned()).spawn_scoped(scope, || checked(path, disk))?;
        Ok(check.join())
    });
    match checked.map_err(|source| OpenError::Create { path: path.to_owned(), source })? {
        Ok(Ok((true, database))) => Ok(Some(database)),
        Ok(Ok((false, _))) | Err(_) => Ok(None),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(OpenError::InUse { path: path.to_owned() }),
        Ok(Err(DatabaseError::Storage(error))) if is_damage(&error) => Ok(None),
        Ok(Err(error)) => Err(OpenError::Open { path: path.to_owned(), source: Box::new(error.into()) }),
    }
}

/// Whether what was read is not what was written; a disk that does not answer may do so later.
fn is_damage(error: &StorageError) -> bool {
    match error {
        // What a later release has written is all there.
        StorageError::Corrupted(why) => !why.starts_with("Expected file format version"),
        StorageError::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        _ => false,
    }
}

/// The database, and whether it is as it was closed.
fn checked(path: &Path, disk: &Disk) -> Result<(bool, Database), DatabaseError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let mut database = match disk {
        Disk::File => create(&builder, path).and_then(|()| builder.open(path)),
        Disk::Simulated(disk) => builder.create_with_backend(disk.backend()),
    }?;
    Ok((database.check_integrity()?, database))
}

/// Makes a database at `path`, if there is none. It appears when it is complete: one that lost power while it was made cannot be
/// opened, and would have to be moved away by a person.
fn create(builder: &Builder, path: &Path) -> Result<(), DatabaseError> {
    let new = path.with_extension("redb.new");
    let io = |error: io::Error| DatabaseError::Storage(error.into());
    if path.try_exists().map_err(io)? {
        return Ok(());
    }
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    drop(builder.create(&new)?);
    fs::rename(new, path).map_err(io)?;
    let directory = path.parent().map(fs::File::open).transpose().map_err(io)?;
    directory.map_or(Ok(()), |directory| directory.sync_all()).map_err(io)
}

/// The id in the database; a random one is put there first if it has none.
fn own_id(database: &Database) -> Result<NodeId, redb::Error> {
    commit(database, |transaction| {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(LOG)?;
        let known: Option<u64> =
            meta.get(NODE_ID)?.and_then(|id| Some(u64::from_be_bytes(id.value().try_into().ok()?)));
        let id = match known {
            Some(id) => id,
            None => {
                let id = runtime::random();
                meta.insert(NODE_ID, id.to_be_bytes().as_slice())?;
                id
            }
        };
        Ok(NodeId::new(id))
    })
}

/// Makes one change, which is on the disk when this returns, with all that was written before. There is all of it or nothing, and once it is
/// there the file is never opened as it was before.
pub(crate) fn commit<T>(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    let done = change(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

pub(crate) fn read_meta<T: DeserializeOwned>(database: &Database, name: &str) -> io::Result<Option<T>> {
    read_raw(database, name)?.map(|bytes| decode(&bytes)).transpose()
}

pub(crate) fn read_raw(database: &Database, name: &str) -> io::Result<Option<Vec<u8>>> {
    let transaction = database.begin_read().map_err(io::Error::other)?;
    let meta = transaction.open_table(META).map_err(io::Error::other)?;
    let value = meta.get(name).map_err(io::Error::other)?;
    Ok(value.map(|bytes| bytes.value().to_vec()))
}

pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests;
