//! Which proxies are connected to this replica, and what they have acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use conduit_api::{PodName, Revision};
use parking_lot::Mutex;

/// The streams of this replica. Cloned handles share it.
///
/// The lock is taken when a stream opens, when it closes, and when somebody asks; acknowledgements only store an atomic.
#[derive(Clone, Default)]
pub struct Registry {
    streams: Arc<Mutex<BTreeMap<u64, Arc<Stream>>>>,
    next: Arc<AtomicU64>,
}

struct Stream {
    pod: PodName,
    acked: AtomicU64,
}

/// One open stream; it leaves the registry when this is dropped.
pub struct Registration {
    registry: Registry,
    id: u64,
    stream: Arc<Stream>,
}

impl Registry {
    /// Adds the stream of the proxy beside `pod`. A pod may have two for a moment, while its proxy reconnects.
    pub fn open(&self, pod: PodName) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream { pod, acked: AtomicU64::new(0) });
        self.streams.lock().insert(id, stream.clone());
        Registration { registry: self.clone(), id, stream }
    }

    /// The connected proxies, with the revision that each holds.
    pub fn connected(&self) -> BTreeMap<PodName, Revision> {
        let mut connected = BTreeMap::new();
        for stream in self.streams.lock().values() {
            let acked = Revision::from(stream.acked.load(Ordering::Relaxed));
            let known = connected.entry(stream.pod.clone()).or_insert(acked);
            *known = acked.max(*known);
        }
        connected
    }

    /// How many streams are open.
    pub fn len(&self) -> usize {
        self.streams.lock().len()
    }

    /// No stream is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Registration {
    /// The proxy holds everything up to `revision`. Late and repeated ones do no harm.
    pub fn holds(&self, revision: Revision) {
        self.stream.acked.fetch_max(revision.as_u64(), Ordering::Relaxed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.streams.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_counts_once_and_leaves_with_its_last_stream() {
        let registry = Registry::default();
        let web: PodName = "emojivoto/web-0".parse().unwrap();
        let (first, second) = (registry.open(web.clone()), registry.open(web.clone()));
        first.holds(7.into());
        first.holds(5.into());
        second.holds(6.into());
        assert_eq!(registry.connected(), [(web.clone(), Revision::from(7))].into());
        drop(first);
        assert_eq!(registry.connected(), [(web, Revision::from(6))].into());
        drop(second);
        assert!(registry.is_empty());
    }
}
