//! The discovery service: a stream's shell around [`Subscriptions`].

use std::{pin::Pin, sync::Arc, time::Duration};

use conduit_api::{
    PodName, Revision, SpiffeId, Target, TrustDomain,
    proto::discovery::{self, Hello, WatchRequest, WatchResponse, discovery_server, watch_request},
};
use conduit_ca::KeyId;
use conduit_consensus::MeshState;
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::{
    Subscriptions,
    encodings::Encodings,
    registry::{Certified, Registration, Registry},
};
use crate::{
    learning::{Observation, actor::Observations},
    serve::peer_of,
};

/// A proxy that takes nothing for this long is cut off, so that it reconnects, perhaps to a replica it can hear.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Proxies that are being told everything they follow at the same time. When a replica is lost, thousands come at once; the others
/// wait for their turn, and go on with what they know.
const FIRST_ANSWERS_MAX: usize = 256;
/// A proxy that has not acknowledged its first answer by then does not hold up the next one.
const FIRST_ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Responses between the stream's task and its connection. One: what waits in a queue goes stale, what waits in the state
/// is merged.
const RESPONSES_IN_FLIGHT: usize = 1;

/// The service, over this replica's applied state.
pub struct DiscoveryServer {
    trust_domain: TrustDomain,
    state: watch::Receiver<Arc<MeshState>>,
    registry: Registry,
    observations: Observations,
    encodings: Arc<Encodings>,
    first_answers: Arc<Semaphore>,
}

impl DiscoveryServer {
    /// Serves what `state` says; who is connected shows in `registry`, and what proxies see goes to `observations`.
    pub fn new(
        trust_domain: TrustDomain,
        state: watch::Receiver<Arc<MeshState>>,
        registry: Registry,
        observations: Observations,
    ) -> Self {
        let first_answers = Arc::new(Semaphore::new(FIRST_ANSWERS_MAX));
        Self { trust_domain, state, registry, observations, encodings: Arc::default(), first_answers }
    }
}

#[tonic::async_trait]
impl discovery_server::Discovery for DiscoveryServer {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let peer = peer_of(&request)?;
        let mut requests = request.into_inner();
        let hello = first_hello(&mut requests).await?;
        if hello.namespace != peer.id().namespace() {
            let message = format!("{} may not speak for a pod in namespace `{}`", peer.id(), hello.namespace);
            return Err(Status::permission_denied(message));
        }
        let pod = PodName::new(&hello.namespace, &hello.pod).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let applied = self.state.borrow().revision();
        if Revision::from(hello.revision) > applied {
            let message = format!("behind: this replica is at revision {applied}, the proxy at {}", hello.revision);
            return Err(Status::failed_precondition(message));
        }

        let mut subscriptions =
            Subscriptions::new(pod.clone(), self.trust_domain.clone(), self.encodings.clone(), hello.level);
        for held in hello.resume {
            subscribe(&mut subscriptions, held)?;
        }
        info!(peer.pod = %pod, proxy.version = %hello.version, revision = hello.revision, "subscribed");
        let (responses, stream) = mpsc::channel(RESPONSES_IN_FLIGHT);
        let registration = self.registry.open(pod);
        if let Some(certified) = hello.certified {
            registration.certified(certified.into());
        }
        let watch = Watch {
            proxy: Proxy {
                registration,
                subscriptions,
                progress: Progress::default(),
                observations: self.observations.clone(),
            },
            requests,
            state: self.state.clone(),
            peer: peer.id().clone(),
            responses,
            first_answers: self.first_answers.clone(),
        };
        tokio::spawn(watch.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn first_hello(requests: &mut Streaming<WatchRequest>) -> Result<Hello, Status> {
    match requests.message().await?.and_then(|request| request.kind) {
        Some(watch_request::Kind::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first request of a discovery stream must be hello")),
    }
}

/// One open stream.
struct Watch<S> {
    proxy: Proxy,
    requests: S,
    state: watch::Receiver<Arc<MeshState>>,
    peer: SpiffeId,
    responses: mpsc::Sender<Result<WatchResponse, Status>>,
    first_answers: Arc<Semaphore>,
}

impl<S: Stream<Item = Result<WatchRequest, Status>> + Unpin> Watch<S> {
    async fn run(mut self) {
        if let Err(status) = self.serve().await {
            debug!(error = %status, "discovery stream ended");
            // The proxy may be gone already, or not reading; it then learns from the connection.
            let _ = self.responses.try_send(Err(status));
        }
    }

    /// Until the proxy ends the stream (`Ok`), or it cannot go on.
    async fn serve(&mut self) -> Result<(), Status> {
        let Self { proxy, requests, state, peer, responses, first_answers } = self;
        let closing = proxy.registration.closing();
        tokio::pin!(closing);
        let turn = first_answers.acquire().await.map_err(|_| Status::unavailable("this replica is shutting down"))?;
        let (mut turn, turn_ends) = (Some(turn), Instant::now() + FIRST_ACK_TIMEOUT);
        // Something may have changed since the proxy was last sent anything.
        let mut stale_since = Some(Instant::now());
        loop {
            let cut_off = stale_since.map(|since| since + SEND_TIMEOUT);
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => {
                        if proxy.on_request(request?)? {
                            stale_since.get_or_insert_with(Instant::now);
                        }
                        if proxy.progress.has_acked {
                            turn = None;
                        }
                    }
                    None => return Ok(()),
                },
                changed = state.changed() => {
                    changed.map_err(|_| Status::unavailable("this replica is shutting down"))?;
                    stale_since.get_or_insert_with(Instant::now);
                }
                permit = responses.reserve(), if stale_since.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let latest = state.borrow_and_update().clone();
                    let denial = latest.ca().and_then(|ca| ca.denied.get(peer));
                    if denial.is_some_and(|denial| denial.drop_connections) {
                        return Err(Status::permission_denied(format!("{peer} is denied")));
                    }
                    let response = proxy.subscriptions.update(&latest);
                    proxy.holds(|progress| progress.updated(latest.revision(), response.is_some()));
                    if let Some(response) = response {
                        permit.send(Ok(response));
                    }
                    stale_since = None;
                }
                () = &mut closing => return Err(Status::unavailable("this replica is shutting down; ask another one")),
                () = sleep_until(turn_ends), if turn.is_some() => turn = None,
                () = sleep_until(cut_off.unwrap_or_else(Instant::now)), if cut_off.is_some() => {
                    return Err(Status::deadline_exceeded("the proxy does not take updates"));
                }
            }
        }
    }
}

/// What one stream's proxy follows, and has acknowledged.
struct Proxy {
    registration: Registration,
    subscriptions: Subscriptions,
    progress: Progress,
    observations: Observations,
}

/// What a proxy holds. Most changes concern few proxies: one that has taken everything it was sent holds whatever is newer,
/// as long as that is nothing to it. Pure.
#[derive(Debug, Default)]
struct Progress {
    /// The last revision that something was sent for.
    sent: Revision,
    /// The state that the stream was last brought up to.
    current: Revision,
    acked: Revision,
    /// It has acknowledged anything at all.
    has_acked: bool,
}

impl Progress {
    /// The stream was brought up to `current`, for which something had to be sent, or nothing.
    fn updated(&mut self, current: Revision, sent: bool) {
        self.current = current;
        if sent {
            self.sent = current;
        }
    }

    /// The proxy has taken over what it was sent for `revision`.
    fn acked(&mut self, revision: Revision) {
        self.acked = self.acked.max(revision);
        self.has_acked = true;
    }

    fn holds(&self) -> Revision {
        if self.acked >= self.sent { self.current } else { self.acked }
    }
}

impl Proxy {
    fn holds(&mut self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress);
        self.registration.holds(self.progress.holds());
    }

    /// Whether there may be something to send now.
    fn on_request(&mut self, request: WatchRequest) -> Result<bool, Status> {
        match request.kind {
            Some(watch_request::Kind::Subscribe(held)) => {
                subscribe(&mut self.subscriptions, held)?;
                return Ok(true);
            }
            Some(watch_request::Kind::Unsubscribe(target)) => self.subscriptions.unsubscribe(&parse(&target)?),
            Some(watch_request::Kind::Ack(revision)) => self.holds(|progress| progress.acked(revision.into())),
            Some(watch_request::Kind::Nack(nack)) => {
                warn!(revision = nack.revision, reason = %nack.reason, "a proxy refused an update");
            }
            Some(watch_request::Kind::Certified(certified)) => self.registration.certified(certified.into()),
            Some(watch_request::Kind::Observed(observed)) => self.observed(observed)?,
            Some(watch_request::Kind::Hello(_)) | None => {
                return Err(Status::invalid_argument("hello is only allowed as the first request"));
            }
        }
        Ok(false)
    }
}

impl Proxy {
    /// It speaks of what it follows, and of nothing else.
    fn observed(&self, observed: discovery::Observed) -> Result<(), Status> {
        let first = observed.first();
        let target = observed.target.ok_or_else(|| Status::invalid_argument("observed without a target"))?;
        let target = parse(&target)?;
        if self.subscriptions.follows(&target) {
            self.observations.tell(Observation { target, first });
        }
        Ok(())
    }
}

impl From<discovery::Certified> for Certified {
    fn from(wire: discovery::Certified) -> Self {
        Self { root: KeyId::from_bytes(&wire.root), not_after_ms: wire.not_after_ms }
    }
}

fn subscribe(subscriptions: &mut Subscriptions, held: discovery::Subscribe) -> Result<(), Status> {
    let target = held.target.ok_or_else(|| Status::invalid_argument("subscribe without a target"))?;
    let subscribed = subscriptions.subscribe(parse(&target)?, held.version.into());
    subscribed.map_err(|e| Status::resource_exhausted(e.to_string()))
}

fn parse(target: &discovery::Target) -> Result<Target, Status> {
    target.try_into().map_err(|e: conduit_api::wire::WireError| Status::invalid_argument(e.to_string()))
}

#[cfg(test)]
mod tests {
    use conduit_consensus::{Change, Command, Proposal};

    use super::*;

    /// It is cut off, and so reconnects, perhaps to a replica that it can hear; and what it was not sent is not kept for it.
    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_takes_nothing_is_cut_off() {
        let (states, state) = watch::channel(Arc::<MeshState>::default());
        let (responses, mut taken) = mpsc::channel(RESPONSES_IN_FLIGHT);
        let registry = Registry::default();
        let watch = Watch {
            proxy: Proxy {
                registration: registry.open("ns/stuck".parse().unwrap()),
                subscriptions: Subscriptions::new(
                    "ns/stuck".parse().unwrap(),
                    "cluster.local".parse().unwrap(),
                    Arc::default(),
                    0,
                ),
                progress: Progress::default(),
                observations: Observations::ignored(),
            },
            requests: futures::stream::pending(),
            state,
            peer: "spiffe://cluster.local/ns/ns/sa/stuck".parse().unwrap(),
            responses,
            first_answers: Arc::new(Semaphore::new(1)),
        };
        let start = Instant::now();
        let mut watch = tokio::spawn(async move {
            let mut watch = watch;
            watch.serve().await
        });
        // The first response is in the queue, and nobody takes it.
        let mut revision = 0;
        let ended = loop {
            tokio::select! {
                ended = &mut watch => break ended.unwrap(),
                () = sleep_until(Instant::now() + Duration::from_secs(1)) => {
                    revision += 1;
                    let name = conduit_api::ServiceName::new("ns", &format!("s{revision}")).unwrap();
                    let service = conduit_api::Service { name, cluster_ips: [].into(), ports: [].into(), balancing: Default::default() };
                    let change = Command::Batch(vec![Change::UpsertService(service)]);
                    let mut state = MeshState::default();
                    state.apply(revision, Proposal::new("test", 0, change));
                    states.send_replace(Arc::new(state));
                }
            }
        };
        assert_eq!(ended.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        let waited = start.elapsed();
        assert!((SEND_TIMEOUT..SEND_TIMEOUT + Duration::from_secs(2)).contains(&waited), "{waited:?}");
        assert!(registry.is_empty());
        assert!(taken.recv().await.is_some() && taken.recv().await.is_none(), "one response was queued, of many");
    }

    #[test]
    fn a_proxy_holds_what_it_has_taken_and_what_is_nothing_to_it() {
        let mut progress = Progress::default();
        progress.updated(5.into(), true);
        assert_eq!(progress.holds(), Revision::default(), "sent is not taken");
        progress.updated(6.into(), false);
        assert_eq!(progress.holds(), Revision::default());
        progress.acked(5.into());
        assert_eq!(progress.holds(), Revision::from(6), "nothing of 6 was for it");
        progress.updated(7.into(), false);
        assert_eq!(progress.holds(), Revision::from(7));
        progress.updated(8.into(), true);
        progress.updated(9.into(), true);
        progress.acked(8.into());
        assert_eq!(progress.holds(), Revision::from(8));
        progress.acked(9.into());
        assert_eq!(progress.holds(), Revision::from(9));
    }
}
