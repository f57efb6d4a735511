//! Which proxies are connected to this replica, and what they have acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use conduit_api::{PodName, Revision};
use conduit_ca::KeyId;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// Between the ends of two streams, on average, when this replica ends ...
const CLOSE_PAUSE: Duration = Duration::from_millis(1);
/// ... but all have ended within this, however many there are: whoever ended this replica waits.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// For the last ones to be told.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// The streams of this replica. Cloned handles share it.
///
/// The lock is taken when a stream opens, when it closes, and when somebody asks; acknowledgements only store an atomic.
#[derive(Clone, Default)]
pub struct Registry {
    streams: Arc<Mutex<BTreeMap<u64, Arc<Stream>>>>,
    next: Arc<AtomicU64>,
    /// Within which all streams are to end; none while this replica serves.
    closing: Arc<watch::Sender<Option<Duration>>>,
}

struct Stream {
    pod: PodName,
    acked: AtomicU64,
    certified: Mutex<Option<Certified>>,
}

/// What a connected proxy has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// That it holds.
    pub revision: Revision,
    /// None of one that has not told yet.
    pub certified: Option<Certified>,
}

/// The certificate that a proxy presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The root that it was issued under.
    pub root: KeyId,
    /// Milliseconds since the Unix epoch.
    pub not_after_ms: u64,
}

/// One more stream of a proxy that has others already: what it says last counts.
pub fn merge(connected: &mut BTreeMap<PodName, Connected>, pod: PodName, more: Connected) {
    let known = connected.entry(pod).or_default();
    if more.revision >= known.revision {
        known.certified = more.certified.or(known.certified.take());
    }
    known.revision = known.revision.max(more.revision);
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
        let stream = Arc::new(Stream { pod, acked: AtomicU64::new(0), certified: Mutex::default() });
        self.streams.lock().insert(id, stream.clone());
        Registration { registry: self.clone(), id, stream }
    }

    /// The connected proxies, with what each has.
    pub fn connected(&self) -> BTreeMap<PodName, Connected> {
        let mut connected = BTreeMap::new();
        for stream in self.streams.lock().values() {
            let revision = Revision::from(stream.acked.load(Ordering::Relaxed));
            let certified = stream.certified.lock().clone();
            merge(&mut connected, stream.pod.clone(), Connected { revision, certified });
        }
        connected
    }

    /// Ends all streams, one by one, so that other replicas are not met by all proxies at once. Returns when none is left, or it
    /// takes too long.
    pub async fn close(&self) {
        let window = (CLOSE_PAUSE * u32::try_from(self.len()).unwrap_or(u32::MAX)).min(CLOSE_MAX);
        self.closing.send_replace(Some(window));
        let deadline = Instant::now() + window + CLOSE_GRACE;
        while !self.is_empty() && Instant::now() < deadline {
            sleep(CLOSE_PAUSE).await;
        }
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
    /// Resolves when it is this stream's turn to end, because this replica is about to.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closing = self.registry.closing.subscribe();
        async move {
            let window = closing.wait_for(Option::is_some).await.ok().and_then(|window| *window).unwrap_or_default();
            sleep(window.mul_f64(rand::random())).await;
        }
    }

    /// The proxy presents another certificate than before.
    pub fn certified(&self, certified: Certified) {
        *self.stream.certified.lock() = Some(certified);
    }

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

    #[tokio::test(start_paused = true)]
    async fn streams_end_one_by_one_when_the_replica_does() {
        let registry = Registry::default();
        let start = Instant::now();
        let streams = (0..1_000).map(|i| {
            let stream = registry.open(PodName::new("ns", &format!("p{i}")).unwrap());
            tokio::spawn(async move {
                stream.closing().await;
                start.elapsed()
            })
        });
        let streams: Vec<_> = streams.collect();
        sleep(Duration::from_secs(60)).await;
        assert_eq!(registry.len(), 1_000);
        registry.close().await;
        assert!(registry.is_empty());
        let mut ended = Vec::new();
        for stream in streams {
            ended.push(stream.await.unwrap() - Duration::from_secs(60));
        }
        let early = ended.iter().filter(|at| **at < Duration::from_millis(500)).count();
        assert!((400..600).contains(&early), "{early} of a thousand in the first half of a second");
        assert!(ended.iter().all(|at| *at <= Duration::from_millis(1_001)));
    }

    #[test]
    fn a_pod_counts_once_and_leaves_with_its_last_stream() {
        let registry = Registry::default();
        let web: PodName = "emojivoto/web-0".parse().unwrap();
        let (first, second) = (registry.open(web.clone()), registry.open(web.clone()));
        first.holds(7.into());
        first.holds(5.into());
        second.holds(6.into());
        let revisions = || registry.connected().into_iter().map(|(pod, has)| (pod, has.revision)).collect::<Vec<_>>();
        assert_eq!(revisions(), [(web.clone(), Revision::from(7))]);
        drop(first);
        assert_eq!(revisions(), [(web, Revision::from(6))]);
        drop(second);
        assert!(registry.is_empty());
    }
}
