//! What a replica writes on: a file, or in tests a disk that does on purpose what disks do.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redb::StorageBackend;

/// What a replica writes on.
#[derive(Clone, Debug, Default)]
pub enum Disk {
    /// A file in the data directory.
    #[default]
    File,
    /// Memory, for tests.
    Simulated(SimulatedDisk),
}

/// The unit in which a disk writes: half of what was being written when the power went may be there, and half of this never is.
pub(super) const SECTOR_BYTES: usize = 512;

/// A disk that is slow, fills up, fails to sync, or loses power between any two of its operations. Clones are the same disk.
///
/// What was written and not synced before the power went is there or not, sector by sector (Pillai et al., "All File Systems Are Not
/// Created Equal", 2014, section 2).
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// As it would be read now.
    current: Vec<u8>,
    /// As it was when it was last synced.
    durable: Vec<u8>,
    /// Since then, in order.
    unsynced: Vec<Unsynced>,
    /// Writes, changes of length, and syncs.
    operations: u64,
    /// After that many.
    power_fails_at: Option<u64>,
    fault: Option<Fault>,
    latency: Duration,
    /// How often it was started: who opened it before that has lost it.
    starts: u64,
}

#[derive(Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// What a disk answers from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// To writes: that there is no space left (ENOSPC).
    Full,
    /// To syncs: that they failed (EIO). What was not synced by then never will be.
    Sync,
    /// To everything: nothing.
    Power,
}

impl SimulatedDisk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What a panicking test leaves behind is bytes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, changes of length, and syncs so far.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.inner().current.len()
    }

    /// The power fails before operation number `operation`.
    pub fn fail_power_at(&self, operation: u64) {
        self.inner().power_fails_at = Some(operation);
    }

    /// Something goes wrong from now on.
    pub fn fail(&self, fault: Fault) {
        self.inner().fault = Some(fault);
    }

    /// A sync takes so long from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.inner().latency = latency;
    }

    pub(crate) fn latency(&self) -> Duration {
        self.inner().latency
    }

    /// The power is back and nothing is wrong any more. Of what was not synced, `survives` says of each sector whether it is there.
    pub fn restart(&self, mut survives: impl FnMut() -> bool) {
        let mut inner = self.inner();
        let mut content = std::mem::take(&mut inner.durable);
        for operation in std::mem::take(&mut inner.unsynced) {
            match operation {
                Unsynced::SetLen(length) if survives() => content.resize(length, 0),
                Unsynced::SetLen(_) => {}
                Unsynced::Write(offset, data) => {
                    for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        let start = offset + i * SECTOR_BYTES;
                        // A sector beyond an end that was not moved has no place.
                        if survives() && start + sector.len() <= content.len() {
                            content[start..start + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        inner.current.clone_from(&content);
        inner.durable = content;
        (inner.fault, inner.power_fails_at) = (None, None);
        inner.starts += 1;
    }

    pub(crate) fn backend(&self) -> impl StorageBackend + use<> {
        Backend { disk: self.clone(), start: self.inner().starts }
    }
}

/// The disk as one process has opened it.
#[derive(Debug)]
struct Backend {
    disk: SimulatedDisk,
    start: u64,
}

impl Backend {
    fn on(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.inner();
        if inner.starts != self.start || inner.fault == Some(Fault::Power) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the disk has no power"));
        }
        Ok(inner)
    }

    /// One operation that changes something.
    fn changing(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.on()?;
        if inner.power_fails_at.is_some_and(|at| inner.operations >= at) {
            inner.fault = Some(Fault::Power);
            drop(inner);
            return self.on();
        }
        inner.operations += 1;
        Ok(inner)
    }

    fn with_space(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.changing()?;
        if inner.fault == Some(Fault::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(inner)
    }
}

fn range(offset: u64, length: usize, of: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok().filter(|start| start.checked_add(length).is_some_and(|end| end <= of));
    start.map(|start| start..start + length).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.on()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.on()?;
        out.copy_from_slice(&inner.current[range(offset, out.len(), inner.current.len())?]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut inner = self.with_space()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        inner.current.resize(length, 0);
        inner.unsynced.push(Unsynced::SetLen(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.changing()?;
        if inner.fault == Some(Fault::Sync) {
            inner.unsynced.clear();
            return Err(io::Error::other("fsync failed: input/output error"));
        }
        for operation in std::mem::take(&mut inner.unsynced) {
            match operation {
                Unsynced::SetLen(length) => inner.durable.resize(length, 0),
                Unsynced::Write(offset, data) => inner.durable[offset..offset + data.len()].copy_from_slice(&data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.with_space()?;
        let range = range(offset, data.len(), inner.current.len())?;
        inner.current[range.clone()].copy_from_slice(data);
        inner.unsynced.push(Unsynced::Write(range.start, data.to_vec()));
        Ok(())
    }
}
