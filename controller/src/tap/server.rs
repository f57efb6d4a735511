//! The tap service for proxies, and the replica's end of a running tap.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use conduit_api::{
    PodName, grpc,
    proto::{
        common::{Direction, ResourceRef},
        public::TapRequest,
        tap::{AttachRequest, AttachResponse, TapEvent, attach_request, attach_response, tap_event, tap_server},
    },
};
use conduit_consensus::MeshState;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use super::{Broker, Tap, waiting::Waiting};
use crate::serve::peer_of;

/// Of one message of a proxy: a schema, which has half of a megabyte at most, and what is around it.
pub const ATTACH_BYTES_MAX: usize = 1024 * 1024;
/// Starts and stops that may wait for one proxy: all taps that can run, both ways.
const ORDERS_WAITING_MAX: usize = 2 * super::TAPS_MAX;

type ToProxy = mpsc::Sender<Result<AttachResponse, Status>>;
/// Where events go.
#[derive(Clone, Default)]
struct ToWatcher(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    waiting: Waiting,
    reader: Option<Waker>,
}

impl ToWatcher {
    /// Never waits: what is not taken is counted, with what `event` says was lost before it.
    fn tell(&self, event: TapEvent) -> bool {
        self.change(|waiting| waiting.push(event))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Waiting) -> R) -> R {
        let mut watched = self.0.lock();
        let changed = change(&mut watched.waiting);
        let reader = watched.reader.take();
        drop(watched);
        if let Some(reader) = reader {
            reader.wake();
        }
        changed
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<TapEvent> {
        let mut watched = self.0.lock();
        let next = watched.waiting.pop();
        if next.is_none() {
            watched.reader = Some(cx.waker().clone());
        }
        next.map_or(Poll::Pending, Poll::Ready)
    }
}

/// The taps of this replica. Cloned handles share it; the lock is held for look-ups only.
#[derive(Clone)]
pub struct TapServer {
    broker: Arc<Mutex<Broker<ToProxy, ToWatcher>>>,
    state: watch::Receiver<Arc<MeshState>>,
    /// Attached proxies of releases that copy no messages.
    old: Arc<Mutex<BTreeMap<u64, PodName>>>,
}

impl TapServer {
    /// No taps yet; `state` says which pods a tap concerns.
    pub fn new(state: watch::Receiver<Arc<MeshState>>) -> Self {
        Self { broker: Arc::default(), state, old: Arc::default() }
    }

    /// Taps the proxies attached to this replica, also those that attach later, until the stream is dropped; `payloads` as well, of those
    /// that allow it.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when too many taps are running.
    pub fn watch(&self, request: TapRequest, payloads: bool) -> Result<TapStream, Status> {
        let target = request.target.ok_or_else(|| Status::invalid_argument("tap without a target"))?;
        let (matches, max_rps, headers) = (request.r#match.unwrap_or_default(), request.max_rps, request.headers);
        let tap = Tap { target, matches, max_rps, payloads, headers };
        let watcher = ToWatcher::default();
        let state = self.state.borrow().clone();
        let (start, concerned) = self
            .broker
            .lock()
            .start(rand::random(), tap, watcher.clone(), &state)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let id = start.tap;
        for proxy in concerned {
            tell(&proxy, attach_response::Kind::Start(start.clone()));
        }
        if payloads {
            let old: Vec<_> = self.old.lock().values().cloned().collect();
            old.iter().for_each(|pod| self.tell_of_old(id, pod, &state));
        }
        Ok(TapStream { watcher, _running: Running { broker: self.broker.clone(), id } })
    }
}

/// What a tap observes; the tap ends when this is dropped.
pub struct TapStream {
    watcher: ToWatcher,
    _running: Running,
}

struct Running {
    broker: Arc<Mutex<Broker<ToProxy, ToWatcher>>>,
    id: u64,
}

impl Stream for TapStream {
    type Item = Result<TapEvent, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.watcher.poll(cx).map(|event| Some(Ok(event)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let proxies = self.broker.lock().stop(self.id);
        for proxy in proxies {
            tell(&proxy, attach_response::Kind::Stop(self.id));
        }
    }
}

/// A proxy that does not take its orders is about to be disconnected, and is told everything when it attaches again.
fn tell(proxy: &ToProxy, kind: attach_response::Kind) {
    if proxy.try_send(Ok(AttachResponse { kind: Some(kind) })).is_err() {
        debug!("a proxy does not take tap orders");
    }
}

#[tonic::async_trait]
impl tap_server::Tap for TapServer {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = peer_of(&request)?;
        let mut requests = request.into_inner();
        let hello = match requests.message().await?.and_then(|request| request.kind) {
            Some(attach_request::Kind::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message of a tap stream must be hello")),
        };
        if hello.namespace != peer.id().namespace() {
            let message = format!("{} may not speak for a pod in namespace `{}`", peer.id(), hello.namespace);
            return Err(Status::permission_denied(message));
        }
        let pod = PodName::new(&hello.namespace, &hello.pod).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (orders, stream) = mpsc::channel(ORDERS_WAITING_MAX);
        let state = self.state.borrow().clone();
        let (id, starts) = self.broker.lock().attach(pod.clone(), orders.clone(), &state);
        if !hello.payloads {
            self.old.lock().insert(id, pod.clone());
        }
        for start in starts {
            if start.payloads && !hello.payloads {
                self.tell_of_old(start.tap, &pod, &state);
            }
            tell(&orders, attach_response::Kind::Start(start));
        }
        tokio::spawn(self.clone().relay(id, pod, requests));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl TapServer {
    /// A proxy that does not know of messages says nothing of them itself.
    fn tell_of_old(&self, tap: u64, pod: &PodName, state: &MeshState) {
        let kind = tap_event::Kind::PayloadsDisabled(tap_event::PayloadsDisabled { is_old: true });
        let mut event = TapEvent { kind: Some(kind), ..TapEvent::default() };
        complete(&mut event, pod, state);
        let watcher = self.broker.lock().watcher(tap, pod, true, state);
        if let Some(watcher) = watcher {
            watcher.tell(event);
        }
    }

    /// Passes on what a proxy observes, until it detaches.
    async fn relay(self, id: u64, pod: PodName, mut requests: Streaming<AttachRequest>) {
        while let Ok(Some(request)) = requests.message().await {
            let Some(attach_request::Kind::Event(observed)) = request.kind else { continue };
            let state = self.state.borrow().clone();
            let of_messages = observed.event.as_ref().is_some_and(is_of_messages);
            let watcher = self.broker.lock().watcher(observed.tap, &pod, of_messages, &state);
            let Some(watcher) = watcher else { continue };
            let Some(mut event) = observed.event else {
                watcher.change(|waiting| waiting.lost(observed.dropped));
                continue;
            };
            complete(&mut event, &pod, &state);
            event.dropped = observed.dropped;
            if !watcher.tell(event) {
                debug!(tap = observed.tap, "an event was lost: the one who watches is slow");
            }
        }
        self.broker.lock().detach(id);
        self.old.lock().remove(&id);
    }
}

/// Whether it is only for those who may see messages.
fn is_of_messages(event: &TapEvent) -> bool {
    use tap_event::Kind;
    matches!(event.kind, Some(Kind::Message(_) | Kind::Schema(_) | Kind::PayloadsDisabled(_)))
}

/// Adds what the proxy could not know: which pod it is itself, and who is behind an address. What it says of messages is always of its own pod,
/// whatever else it says: nobody describes those of others.
fn complete(event: &mut TapEvent, pod: &PodName, state: &MeshState) {
    if let Some(tap_event::Kind::Schema(schema)) = &mut event.kind {
        schema.error = grpc::short_reason(std::mem::take(&mut schema.error));
    }
    if is_of_messages(event) {
        event.set_direction(Direction::Inbound);
        event.destination.get_or_insert_default();
    }
    let inbound = event.direction() == Direction::Inbound;
    let (own, other) =
        if inbound { (&mut event.destination, &mut event.source) } else { (&mut event.source, &mut event.destination) };
    if let Some(own) = own {
        describe(own, Some(pod), state);
    }
    if let Some(other) = other.as_mut().filter(|other| other.pod.is_none()) {
        let address = other.address.as_ref().and_then(|address| std::net::SocketAddr::try_from(address).ok());
        let known = address.and_then(|address| state.pod_by_ip(address.ip()));
        describe(other, known.map(|pod| &pod.value.name), state);
    }
}

fn describe(peer: &mut tap_event::Peer, pod: Option<&PodName>, state: &MeshState) {
    let Some(pod) = pod else { return };
    peer.pod = Some(ResourceRef::from(pod));
    let workload = state.pods().get(pod).and_then(|pod| pod.value.workload.as_ref());
    peer.workload = workload.map(|workload| workload.to_wire(pod.namespace()));
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::public::ResourceSelection;

    use super::*;

    #[test]
    fn of_a_proxy_that_copies_no_messages_it_is_told() {
        let state = watch::channel(Arc::new(MeshState::default())).1;
        let server = TapServer::new(state);
        let pod = PodName::new("shop", "web-0").unwrap();
        server.old.lock().insert(1, pod.clone());
        let target = ResourceSelection { kind: "namespace".into(), namespace: String::new(), name: "shop".into() };
        let request = TapRequest { target: Some(target), ..TapRequest::default() };
        let noop = Context::from_waker(Waker::noop());
        let messages = server.watch(request.clone(), true).unwrap();
        let Poll::Ready(event) = messages.watcher.poll(&noop) else { panic!("nothing is told") };
        assert!(matches!(event.kind, Some(tap_event::Kind::PayloadsDisabled(disabled)) if disabled.is_old));
        assert_eq!(event.destination.unwrap().pod, Some(ResourceRef::from(&pod)));
        let requests = server.watch(request, false).unwrap();
        assert!(requests.watcher.poll(&noop).is_pending());
    }

    #[test]
    fn a_proxy_speaks_of_its_own_messages_alone() {
        let own = PodName::new("shop", "web-0").unwrap();
        let other = ResourceRef { kind: "pod".into(), namespace: "shop".into(), name: "pay-0".into() };
        let kind = tap_event::Kind::Schema(tap_event::Schema::default());
        let forged = tap_event::Peer { pod: Some(other), ..tap_event::Peer::default() };
        for destination in [None, Some(forged)] {
            let direction = Direction::Outbound.into();
            let mut event = TapEvent { direction, destination, kind: Some(kind.clone()), ..TapEvent::default() };
            complete(&mut event, &own, &MeshState::default());
            assert_eq!(event.direction(), Direction::Inbound);
            assert_eq!(event.destination.unwrap().pod, Some(ResourceRef::from(&own)));
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_next_event() {
        let watcher = ToWatcher::default();
        let (teller, event) = (watcher.clone(), TapEvent { dropped: 1, ..TapEvent::default() });
        let told = event.clone();
        let next = std::future::poll_fn(move |cx| watcher.poll(cx));
        let (next, is_taken) = tokio::join!(next, async move { teller.tell(told) });
        assert!(is_taken);
        assert_eq!(next, event);
    }
}
