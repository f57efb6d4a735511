//! A connection of the application, on its way out. Read it from top to bottom:
//!
//! accept → original destination → resolve → detect → route → balance → connect → forward → record

use std::{cell::Cell, cell::RefCell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use conduit_api::{Endpoint, proto::common};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::Instant};
use tracing::debug;

use crate::{
    destination::{Destination, Target},
    detect::{Detected, detect},
    forward::{self, Answered},
    http::{
        ERROR_HEADER, Failure, Protocol, ResponseBody, authority,
        exchange::{Exchange, Path},
        is_grpc,
        pool::{SendError, foreign},
        serve, strip_hop_by_hop, strip_reserved, wants_tunnel,
    },
    io::{Prefixed, Stream, read_ahead, read_ahead_for},
    telemetry::{Counters, Direction, End, Labels, Peer, Tls},
    worker::{Followed, Worker},
};

/// A client that says nothing for so long may be waiting for the server to speak first.
const CLIENT_FIRST: Duration = Duration::from_millis(10);
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
    let followed = worker.follow(Target::Address(original)).await;

    // What does it speak? Nobody waits for long: a silent client may be waiting for the server.
    let mut buffer = BytesMut::new();
    let mut upstream = None;
    let protocol = loop {
        match detect(&buffer) {
            Detected::Http1 => break Protocol::Http1,
            Detected::Http2 => break Protocol::Http2,
            Detected::Tls | Detected::Opaque => break Protocol::Opaque,
            Detected::Undecided => {}
        }
        let open = match &mut upstream {
            None => match read_ahead_for(CLIENT_FIRST, &mut stream, &mut buffer).await? {
                Some(open) => open,
                None if buffer.is_empty() => {
                    upstream = Some(opaque_upstream(worker, &followed, original).await?);
                    continue;
                }
                None => read_ahead(&mut stream, &mut buffer).await?,
            },
            Some((upstream, _, _)) => match forward::first_to_speak(&mut stream, &mut buffer, upstream).await? {
                forward::First::Client(open) => open,
                forward::First::Server => break Protocol::Opaque,
            },
        };
        if !open {
            break Protocol::Opaque;
        }
    };

    let stream = Prefixed::new(buffer.freeze(), stream);
    if protocol == Protocol::Opaque {
        let (upstream, endpoint, tls) = match upstream {
            Some(upstream) => upstream,
            None => opaque_upstream(worker, &followed, original).await?,
        };
        let labels = labels(String::new(), &endpoint, tls);
        forward::copy(Stream::Detected(stream), upstream, &worker.telemetry.counters(&labels)).await;
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
    endpoint: Arc<Endpoint>,
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

    // Route: the original destination, or the headless service that the request names and the destination is part of.
    let followed = connection.route(authority(&request)).await;

    // Balance and send; to another endpoint if the first cannot be reached, as long as nothing was sent.
    let mut tried = Vec::new();
    let mut failure = Failure::NoEndpoints;
    while tried.len() < ENDPOINTS_TRIED_MAX {
        let Some(endpoint) = connection.pick(&followed, &tried) else { break };
        tried.push(endpoint.address);
        let peer = connection.peer(endpoint, &request);
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
    exchange.loads(followed.balancer.clone(), peer.endpoint.address);
    let plain = worker.is_local(&peer.endpoint);
    let answered =
        forward::request(worker, &peer.endpoint, plain, connection.protocol, tunnel, request, exchange).await;
    match answered {
        Answered::Response(response) => {
            if response.headers().contains_key(ERROR_HEADER) {
                // The peer's proxy speaks for an application that is gone. It says so quickly, and must not be liked for it.
                let mut balancer = followed.balancer.borrow_mut();
                balancer.unreachable(Instant::now(), peer.endpoint.address, rand::random());
            }
            Ok(response)
        }
        Answered::Failed(SendError::Connect(error, request), exchange) => {
            exchange.abandon();
            debug!(dst.addr = %peer.endpoint.address, %error, "cannot connect to an endpoint");
            let mut balancer = followed.balancer.borrow_mut();
            balancer.unreachable(Instant::now(), peer.endpoint.address, rand::random());
            Err((Some(request), Failure::Connect))
        }
        Answered::Failed(SendError::Unsent(request), exchange) => {
            exchange.abandon();
            Err((Some(request), Failure::Broken))
        }
        Answered::Failed(SendError::Broken(error), exchange) => {
            exchange.fail(Failure::Broken.status());
            debug!(dst.addr = %peer.endpoint.address, %error, "an endpoint did not answer");
            Err((None, Failure::Broken))
        }
    }
}

impl Connection {
    /// Where a request goes. One that was found to mean a headless service goes on meaning it when the one pod that its
    /// client once chose is gone: that is what a service is for.
    async fn route(&self, authority: &str) -> Rc<Followed> {
        let known = self.headless.borrow().iter().find(|(known, _)| known == authority).map(|(_, f)| f.clone());
        if let Some(followed) = known {
            return followed;
        }
        let Some((name, port)) = self.followed.destination().headless(authority).cloned() else {
            return self.followed.clone();
        };
        let followed = self.worker.follow(Target::Service(name, port)).await;
        let mut headless = self.headless.borrow_mut();
        if headless.len() < HEADLESS_REMEMBERED_MAX {
            headless.push((authority.to_owned(), followed.clone()));
        }
        followed
    }

    /// A request that never got an endpoint counts as well.
    fn count_failure(&self, request: &Request<Incoming>, failure: Failure) {
        let labels = labels(authority(request).to_owned(), &foreign(self.original), Tls::NoIdentity);
        let counters = self.worker.telemetry.counters(&labels);
        counters.requests.add(1);
        counters.end(End::Http(failure.status()));
    }

    fn pick(&self, followed: &Followed, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        pick(&followed.destination(), followed, self.original, tried)
    }

    /// What is known of `endpoint`; looked up once for this connection.
    fn peer(&self, endpoint: Arc<Endpoint>, request: &Request<Incoming>) -> Rc<KnownPeer> {
        let authority = authority(request);
        let mut peers = self.peers.borrow_mut();
        let known = peers.iter().find(|peer| peer.endpoint == endpoint && peer.authority == authority);
        if let Some(known) = known {
            return known.clone();
        }
        let tls = self.worker.tls_to(&endpoint);
        let labels = labels(authority.to_owned(), &endpoint, tls.clone());
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
            tls,
        };
        let counters = self.worker.telemetry.counters(&labels);
        let peer = Rc::new(KnownPeer { endpoint, authority: authority.to_owned(), counters, path });
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
        Destination::Service(_, _, endpoints) => {
            let random = (rand::random(), rand::random());
            let picked = followed.balancer.borrow().pick(Instant::now(), random, tried)?;
            endpoints.get(&picked).cloned()
        }
        Destination::Pod(endpoint, _) => tried.is_empty().then(|| endpoint.clone()),
        Destination::Unknown => tried.is_empty().then(|| foreign(original)),
    }
}

/// A connection for bytes, to an endpoint of where the client's was going.
async fn opaque_upstream(
    worker: &Worker,
    followed: &Followed,
    original: SocketAddr,
) -> io::Result<(Stream, Arc<Endpoint>, Tls)> {
    let mut tried = Vec::new();
    let mut last = io::Error::new(io::ErrorKind::NotConnected, "no ready endpoints");
    while tried.len() < ENDPOINTS_TRIED_MAX {
        let Some(endpoint) = pick(&followed.destination(), followed, original, &tried) else { break };
        tried.push(endpoint.address);
        let connected = match endpoint.identity.as_ref().filter(|_| !worker.is_local(&endpoint)) {
            Some(peer) => worker.setup.connector.mesh(endpoint.address, peer, Protocol::Opaque).await,
            None => worker.setup.connector.tcp(endpoint.address).await.map(Stream::Tcp),
        };
        match connected {
            Ok(stream) => {
                let tls = worker.tls_to(&endpoint);
                return Ok((stream, endpoint, tls));
            }
            Err(error) => {
                followed.balancer.borrow_mut().unreachable(Instant::now(), endpoint.address, rand::random());
                last = error;
            }
        }
    }
    Err(last)
}

impl Worker {
    /// It does not leave the pod: there is no proxy in between that could speak TLS.
    fn is_local(&self, endpoint: &Endpoint) -> bool {
        endpoint.address.ip() == self.setup.pod_ip
    }

    fn tls_to(&self, endpoint: &Endpoint) -> Tls {
        match &endpoint.identity {
            _ if self.is_local(endpoint) => Tls::Loopback,
            Some(identity) => Tls::Mutual(identity.clone()),
            None => Tls::NoIdentity,
        }
    }
}

fn labels(authority: String, endpoint: &Endpoint, tls: Tls) -> Labels {
    Labels { direction: Direction::Outbound, authority, tls, destination: Peer::of(endpoint).map(Arc::new) }
}
