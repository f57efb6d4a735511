//! A connection of the application, on its way out. Read it from top to bottom:
//!
//! accept → original destination → resolve → detect → route → balance → connect → forward → record

use std::{cell::Cell, cell::RefCell, io, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::BytesMut;
use conduit_api::{Endpoint, Target, proto::common};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::Instant};
use tracing::debug;

use crate::{
    connect::Upstream,
    destination::Destination,
    forward::{self, Answered, Spoken},
    http::{
        Failure, Protocol, ResponseBody, authority,
        exchange::{Exchange, Path},
        is_grpc,
        pool::{SendError, foreign},
        serve, strip_hop_by_hop, strip_reserved, wants_tunnel,
    },
    io::{Prefixed, Stream},
    route::Chosen,
    telemetry::{Counters, Direction, End, Labels, Peer, Tls, transport::Counted},
    worker::{Followed, Worker},
};

/// Endpoints that one request is tried at, when it cannot be sent to the first.
const ENDPOINTS_TRIED_MAX: usize = 3;
/// Headless services that one connection's requests may name; a client has one or two names for one.
const HEADLESS_REMEMBERED_MAX: usize = 8;
/// Peers whose counters a connection remembers; more than one only for balanced requests.
const PEERS_REMEMBERED_MAX: usize = 64;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    if let Err(error) = connection(&worker, stream).await {
        debug!(%error, "an outbound connection ended badly");
    }
}

async fn connection(worker: &Rc<Worker>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let source = stream.peer_addr()?;

    // Where was it going, and what is there?
    let original = worker.original(&stream)?;
    let followed = worker.follow(&Target::Address(original)).await;

    // What does it speak? Nobody waits for long: a silent client may be waiting for the server.
    let mut buffer = BytesMut::new();
    let connect = async || opaque_upstream(worker, &followed, original).await;
    let (spoken, upstream) = forward::spoken(&mut stream, &mut buffer, connect).await?;
    let protocol = match spoken {
        Spoken::Http(protocol) => protocol,
        Spoken::Tls | Spoken::Other => Protocol::Opaque,
    };

    let stream = Stream::Detected(Prefixed::new(buffer.freeze(), stream));
    let stream = worker.accepted(Direction::Outbound, Tls::Loopback, stream);
    if protocol == Protocol::Opaque {
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => opaque_upstream(worker, &followed, original).await?,
        };
        forward::copy(stream, upstream).await;
        return Ok(());
    }
    drop(upstream);
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        number: worker.number(),
        requests: Cell::new(0),
        source,
        original,
        protocol,
        followed,
        headless: RefCell::default(),
        peers: RefCell::default(),
    });
    let drain = worker.setup.drain.clone();
    let answer = move |request| request_of(connection.clone(), request);
    serve::serve(protocol, stream, drain, answer).await.map_err(io::Error::other)
}

/// A connection that carries requests.
struct Connection {
    worker: Rc<Worker>,
    number: u32,
    requests: Cell<u64>,
    source: SocketAddr,
    original: SocketAddr,
    protocol: Protocol,
    followed: Rc<Followed>,
    /// By authority: the headless services that this connection's requests were found to mean.
    headless: RefCell<Vec<(String, Rc<Followed>)>>,
    /// What was looked up for the peers that this connection's requests went to.
    peers: RefCell<Vec<Rc<KnownPeer>>>,
}

/// What requests to one endpoint have in common.
struct KnownPeer {
    upstream: Upstream,
    authority: String,
    counters: Arc<Counters>,
    path: Path,
}

async fn request_of(connection: Rc<Connection>, mut request: Request<Incoming>) -> Response<ResponseBody> {
    let tunnel = wants_tunnel(&request);
    strip_hop_by_hop(request.headers_mut(), tunnel);
    strip_reserved(request.headers_mut());
    let is_grpc = is_grpc(request.headers());
    let stream = connection.requests.replace(connection.requests.get() + 1);

    // Route: the original destination, or the headless service that the request names and the destination is part of; and from
    // there to where the service's routes send such requests.
    let followed = connection.service(authority(&request)).await;
    let followed = match connection.route(followed, &request).await {
        Ok(followed) => followed,
        Err(failure) => {
            connection.count_failure(&request, failure);
            return failure.response(is_grpc);
        }
    };

    // Balance and send; to another endpoint if the first cannot be reached, as long as nothing was sent.
    let mut tried = Vec::new();
    let mut failure = Failure::NoEndpoints;
    while tried.len() < ENDPOINTS_TRIED_MAX {
        let Some(endpoint) = connection.pick(&followed, &tried) else { break };
        tried.push(endpoint.address);
        let peer = connection.peer(&followed, endpoint, &request);
        match send(&connection, &followed, &peer, stream, tunnel, request).await {
            Ok(response) => return response,
            Err((unsent, why)) => {
                failure = why;
                match unsent {
                    Some(unsent) => request = unsent,
                    None => return failure.response(is_grpc),
                }
            }
        }
    }
    debug!(dst.addr = %connection.original, ?failure, tried = tried.len(), "a request could not be forwarded");
    connection.count_failure(&request, failure);
    failure.response(is_grpc)
}

/// One attempt. On failure the request, if none of it was sent.
async fn send(
    connection: &Connection,
    followed: &Followed,
    peer: &KnownPeer,
    stream: u64,
    tunnel: bool,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, (Option<Request<Incoming>>, Failure)> {
    let worker = &connection.worker;
    let number = (connection.number, stream);
    let mut exchange = Exchange::begin(&request, peer.counters.clone(), &worker.setup.taps, &peer.path, number);
    exchange.loads(followed.balancer.clone(), peer.upstream.endpoint.address);
    let address = peer.upstream.endpoint.address;
    match forward::request(worker, &peer.upstream, connection.protocol, tunnel, request, exchange).await {
        Answered::Response(response) => Ok(response),
        Answered::Failed(SendError::Connect(error, request), exchange) => {
            exchange.abandon();
            debug!(dst.addr = %address, %error, "cannot connect to an endpoint");
            let mut balancer = followed.balancer.borrow_mut();
            balancer.unreachable(Instant::now(), address, rand::random());
            Err((Some(request), Failure::Connect))
        }
        Answered::Failed(SendError::Unsent(request), exchange) => {
            exchange.abandon();
            Err((Some(request), Failure::Broken))
        }
        Answered::Failed(SendError::Broken(error), exchange) => {
            exchange.fail(Failure::Broken.status());
            debug!(dst.addr = %address, %error, "an endpoint did not answer");
            Err((None, Failure::Broken))
        }
    }
}

impl Connection {
    /// What a request is for. One that was found to mean a headless service goes on meaning it when the one pod that its
    /// client once chose is gone: that is what a service is for.
    async fn service(&self, authority: &str) -> Rc<Followed> {
        let known = self.headless.borrow().iter().find(|(known, _)| known == authority).map(|(_, f)| f.clone());
        if let Some(followed) = known {
            return followed;
        }
        let Some((name, port)) = self.followed.destination().headless(authority).cloned() else {
            return self.followed.clone();
        };
        let followed = self.worker.follow(&Target::Service(name, port)).await;
        let mut headless = self.headless.borrow_mut();
        if headless.len() < HEADLESS_REMEMBERED_MAX {
            headless.push((authority.to_owned(), followed.clone()));
        }
        followed
    }

    /// Where a request for `followed` goes: a backend is its endpoints, whatever routes it has itself.
    async fn route(&self, followed: Rc<Followed>, request: &Request<Incoming>) -> Result<Rc<Followed>, Failure> {
        let destination = followed.destination();
        let Destination::Service(service) = &*destination else { return Ok(followed) };
        let backend = match service.routes.choose(request, rand::random()) {
            Chosen::Own => return Ok(followed),
            Chosen::Other(target) => self.worker.follow(target).await,
            Chosen::NoRoute => return Err(Failure::NoRoute),
            Chosen::NoBackend => return Err(Failure::NoBackend),
        };
        match &*backend.destination() {
            Destination::Service(_) => Ok(backend),
            Destination::Pod(..) | Destination::Unknown => Err(Failure::NoBackend),
        }
    }

    /// A request that never got an endpoint counts as well.
    fn count_failure(&self, request: &Request<Incoming>, failure: Failure) {
        let (endpoint, tls) = (foreign(self.original), Tls::NoIdentity);
        let nobody = Upstream { direction: Direction::Outbound, endpoint, service: None, tls };
        let labels = labels(authority(request).to_owned(), &nobody);
        let counters = self.worker.telemetry.requests(&labels);
        counters.requests.add(1);
        counters.end(End::Http(failure.status()));
    }

    fn pick(&self, followed: &Followed, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        pick(&followed.destination(), followed, self.original, tried)
    }

    /// What is known of `endpoint`; looked up once for this connection.
    fn peer(&self, followed: &Followed, endpoint: Arc<Endpoint>, request: &Request<Incoming>) -> Rc<KnownPeer> {
        let authority = authority(request);
        let mut peers = self.peers.borrow_mut();
        let known = peers.iter().find(|peer| peer.upstream.endpoint == endpoint && peer.authority == authority);
        if let Some(known) = known {
            return known.clone();
        }
        let upstream = self.worker.upstream(&followed.destination(), endpoint);
        let endpoint = &upstream.endpoint;
        let labels = labels(authority.to_owned(), &upstream);
        let reference = |kind: &str, namespace: &str, name: &str| common::ResourceRef {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let pod = endpoint.pod.as_ref();
        let path = Path {
            direction: common::Direction::Outbound,
            source: self.source,
            destination: endpoint.address,
            pod: pod.map(|pod| reference("pod", pod.namespace(), pod.name())),
            workload: pod.zip(endpoint.workload.as_ref()).map(|(pod, w)| reference(&w.kind, pod.namespace(), &w.name)),
            tls: upstream.tls.clone(),
        };
        let counters = self.worker.telemetry.requests(&labels);
        let peer = Rc::new(KnownPeer { upstream, authority: authority.to_owned(), counters, path });
        if peers.len() >= PEERS_REMEMBERED_MAX {
            peers.remove(0);
        }
        peers.push(peer.clone());
        peer
    }
}

/// An endpoint of `destination` that was not tried yet.
fn pick(
    destination: &Destination,
    followed: &Followed,
    original: SocketAddr,
    tried: &[SocketAddr],
) -> Option<Arc<Endpoint>> {
    match destination {
        Destination::Service(service) => {
            let random = (rand::random(), rand::random());
            let picked = followed.balancer.borrow().pick(Instant::now(), random, tried)?;
            service.endpoints.get(&picked).cloned()
        }
        Destination::Pod(endpoint, _) => tried.is_empty().then(|| endpoint.clone()),
        Destination::Unknown => tried.is_empty().then(|| foreign(original)),
    }
}

/// A connection for bytes, to an endpoint of where the client's was going.
async fn opaque_upstream(worker: &Worker, followed: &Followed, original: SocketAddr) -> io::Result<Counted> {
    let mut tried = Vec::new();
    let mut last = io::Error::new(io::ErrorKind::NotConnected, "no ready endpoints");
    while tried.len() < ENDPOINTS_TRIED_MAX {
        let destination = followed.destination();
        let Some(endpoint) = pick(&destination, followed, original, &tried) else { break };
        let address = endpoint.address;
        tried.push(address);
        match worker.pool.connect(&worker.upstream(&destination, endpoint), Protocol::Opaque).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                followed.balancer.borrow_mut().unreachable(Instant::now(), address, rand::random());
                last = error;
            }
        }
    }
    Err(last)
}

impl Worker {
    /// How `endpoint` of `destination` is reached. What does not leave the pod has no proxy in between that could speak TLS.
    fn upstream(&self, destination: &Destination, endpoint: Arc<Endpoint>) -> Upstream {
        let tls = match &endpoint.identity {
            _ if endpoint.address.ip() == self.setup.pod_ip => Tls::Loopback,
            Some(identity) => Tls::Mutual(identity.clone()),
            None => Tls::NoIdentity,
        };
        let service = match destination {
            Destination::Service(service) => Some(service.name.clone()),
            Destination::Pod(..) | Destination::Unknown => None,
        };
        Upstream { direction: Direction::Outbound, endpoint, service, tls }
    }
}

fn labels(authority: String, upstream: &Upstream) -> Labels {
    let destination = Peer::of(&upstream.endpoint, upstream.service.as_ref()).map(Arc::new);
    Labels { direction: upstream.direction, authority, tls: upstream.tls.clone(), destination }
}
