//! A connection of the application, on its way out. Read it from top to bottom:
//!
//! accept → original destination → resolve → detect → route → balance → connect → forward → record

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use conduit_api::{Endpoint, ProtocolHint, Target, proto::discovery::observed::First};
use conduit_ca::Refusal;
use tokio::{net::TcpStream, time::Instant};
use tracing::debug;

use crate::{
    balance::Balancer,
    buffer::Buffer,
    buffered::Buffered,
    connect::Upstream,
    destination::Destination,
    forward::{self, APPLICATION_FIRST, Spoken},
    http::{self, ATTEMPTS_MAX, Client, Failure, Forward, Protocol, RequestView, exchange::Hop, pool::foreign},
    io::Stream,
    policy::Policy,
    route::{Choice, Chosen},
    telemetry::{Direction, Labels, Meant, Peer, Tls, transport::Counted},
    worker::{Followed, Worker},
};

/// Headless services that one connection's requests may name; a client has one or two names for one.
const HEADLESS_REMEMBERED_MAX: usize = 8;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    if let Err(error) = connection(&worker, stream).await {
        debug!(%error, "an outbound connection ended badly");
    }
}

async fn connection(worker: &Rc<Worker>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    forward::keep_alive(&stream);
    let source = stream.peer_addr()?;
    // As long as the application has connections, it is there, and needs this proxy.
    let _busy = worker.busy();

    // Where was it going, and what is there?
    let original = worker.original(&stream)?;
    let target = Target::Address(original);
    let followed = worker.follow(&target).await;

    // What does it speak? Nobody waits for long: a silent client may be waiting for the server.
    let mut buffer = Buffer::default();
    let connect = async || opaque_upstream(worker, &followed, original).await;
    let hint = followed.destination().hint();
    let spoken = match hint {
        ProtocolHint::None => forward::spoken(&mut stream, &mut buffer, APPLICATION_FIRST, &connect).await,
        ProtocolHint::ServerFirst => match forward::spoken(&mut stream, &mut buffer, Duration::ZERO, &connect).await {
            // If it is a request after all, it gets an answer that says why there is none.
            Err(_) => forward::spoken(&mut stream, &mut buffer, APPLICATION_FIRST, &connect).await,
            spoken => spoken,
        },
        ProtocolHint::Opaque => Ok((Spoken::Other, None)),
    };
    // A destination that refuses is not one that ends.
    let (spoken, upstream) = spoken.inspect_err(|_| forward::reset(&stream))?;
    if let Some(first) = spoken.first(hint) {
        worker.setup.discovery.observed(&target, first);
    }
    let tls = match spoken {
        Spoken::Tls => {
            let hello = forward::client_hello(&mut stream, &mut buffer).await;
            worker.passthrough(hello.and_then(|hello| hello.server_name))
        }
        Spoken::Http(_) | Spoken::ServerFirst | Spoken::Other => Tls::Loopback,
    };
    let client = worker.accepted(Direction::Outbound, tls, Stream::Tcp(stream), buffer);
    let protocol = match spoken {
        Spoken::Http(protocol) => protocol,
        Spoken::Tls | Spoken::ServerFirst | Spoken::Other => {
            let upstream = match upstream {
                Some(upstream) => upstream,
                None => {
                    let upstream = opaque_upstream(worker, &followed, original).await;
                    Buffered::new(upstream.inspect_err(|_| forward::reset(client.tcp()))?, Buffer::default())
                }
            };
            forward::copy(client, upstream).await;
            return Ok(());
        }
    };
    drop(upstream);
    let asks = Client::new(worker, Direction::Outbound, source, None);
    let connection = Connection { client: asks, original, followed, headless: RefCell::default() };
    http::serve(connection, protocol, client).await
}

impl Spoken {
    /// What the control plane is to know of it: a greeting, and that there was none where one was to be expected.
    fn first(&self, hint: ProtocolHint) -> Option<First> {
        match (self, hint) {
            (Self::ServerFirst, _) => Some(First::Server),
            (Self::Http(_) | Self::Tls, ProtocolHint::ServerFirst) => Some(First::Client),
            (Self::Http(_) | Self::Tls | Self::Other, _) => None,
        }
    }
}

/// Where a request goes.
struct Routed {
    followed: Rc<Followed>,
    /// What it is counted by; none where it is for no service.
    meant: Option<Rc<Meant>>,
    /// Why it goes nowhere, although it is known what it is for.
    dead_end: Option<Failure>,
    /// What its route says of it besides; mostly nothing.
    policy: Option<Arc<Policy>>,
}

/// A connection that carries requests.
struct Connection {
    client: Client,
    original: SocketAddr,
    followed: Rc<Followed>,
    /// By authority: the headless services that this connection's requests were found to mean.
    headless: RefCell<Vec<(String, Rc<Followed>)>>,
}

impl Forward for Connection {
    type Service = Routed;

    fn client(&self) -> &Client {
        &self.client
    }

    /// The original destination, or the headless service that the request names and the destination is part of; and from there
    /// where the service's routes send such requests.
    async fn resolve(&self, request: &RequestView<'_>) -> Result<Routed, Failure> {
        let followed = self.service(request.authority).await;
        Ok(self.route(followed, request).await)
    }

    fn pick(
        &self,
        Routed { followed, meant, dead_end, .. }: &Routed,
        request: &RequestView<'_>,
        tried: &[SocketAddr],
    ) -> Result<Rc<Hop>, Failure> {
        if let Some(failure) = dead_end {
            return Err(*failure);
        }
        let destination = followed.destination();
        let endpoint = pick(&destination, followed, self.original, tried).ok_or(Failure::NoEndpoints)?;
        let hop = followed.hop(request.authority, meant.as_ref(), &endpoint, || {
            let upstream = self.client.worker.upstream(&destination, endpoint.clone());
            let labels = labels(request.authority, &upstream, meant.as_ref());
            Hop::new(&self.client.worker, upstream, &labels)
        });
        hop.with_room()
    }

    fn balancer<'a>(&self, routed: &'a Routed) -> Option<&'a Rc<RefCell<Balancer>>> {
        Some(&routed.followed.balancer)
    }

    fn meant<'a>(&self, routed: &'a Routed) -> Option<&'a Meant> {
        routed.meant.as_deref()
    }

    fn policy<'a>(&self, routed: &'a Routed) -> Option<&'a Arc<Policy>> {
        routed.policy.as_ref()
    }

    fn answered(&self, routed: Option<&Routed>, request: &RequestView<'_>, status: u16) {
        let (endpoint, tls) = (foreign(self.original), Tls::NoIdentity);
        let service = routed.and_then(|routed| routed.followed.destination().service().cloned());
        let nobody = Upstream { direction: Direction::Outbound, endpoint, service, tls };
        let labels = labels(request.authority, &nobody, routed.and_then(|routed| routed.meant.as_ref()));
        self.client.worker.telemetry.requests(&labels).fail(status);
    }

    /// The application leaves when it has done what it has to do; until then it is served.
    fn is_leaving(&self) -> bool {
        false
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
        let followed = self.client.worker.follow(&Target::Service(name, port)).await;
        let mut headless = self.headless.borrow_mut();
        if headless.len() < HEADLESS_REMEMBERED_MAX {
            headless.push((authority.to_owned(), followed.clone()));
        }
        followed
    }

    /// Where a request for `followed` goes: a backend is its endpoints, whatever routes it has itself.
    async fn route(&self, followed: Rc<Followed>, request: &RequestView<'_>) -> Routed {
        let destination = followed.destination();
        let Destination::Service(service) = &*destination else {
            return Routed { followed, meant: None, dead_end: None, policy: None };
        };
        let Choice { chosen, policy, meant } = service.routes.choose(request, rand::random);
        let (policy, meant) = (policy.cloned(), followed.meant(meant));
        if policy.as_ref().is_some_and(|policy| policy.filters.redirect.is_some()) {
            return Routed { followed, meant, dead_end: None, policy };
        }
        let dead_end = match chosen {
            Chosen::Own => return Routed { followed, meant, dead_end: None, policy },
            Chosen::Other(target) => {
                let backend = self.client.worker.follow(target).await;
                if backend.destination().service().is_some() {
                    return Routed { followed: backend, meant, dead_end: None, policy };
                }
                Failure::NoBackend
            }
            Chosen::NoRoute => Failure::NoRoute,
            Chosen::NoBackend => Failure::NoBackend,
        };
        Routed { followed, meant, dead_end: Some(dead_end), policy: None }
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
        Destination::Pod(pod) => tried.is_empty().then(|| pod.endpoint.clone()),
        Destination::Unknown => tried.is_empty().then(|| foreign(original)),
    }
}

/// A connection for bytes, to an endpoint of where the client's was going.
async fn opaque_upstream(worker: &Worker, followed: &Followed, original: SocketAddr) -> io::Result<Counted> {
    let (mut tried, mut was_greeted) = (Vec::new(), false);
    let mut last = io::Error::new(io::ErrorKind::NotConnected, "no ready endpoints");
    while tried.len() < ATTEMPTS_MAX {
        let destination = followed.destination();
        let Some(endpoint) = pick(&destination, followed, original, &tried) else { break };
        let address = endpoint.address;
        tried.push(address);
        match worker.pool.connect(&worker.upstream(&destination, endpoint), Protocol::Opaque).await {
            Ok(stream) => return Ok(stream),
            // We were slow, and taken for a client that waits for a greeting (`callers.rs`). Nothing of the client's has been sent.
            Err(error) if !was_greeted && matches!(Refusal::of_io(&error), Some(Refusal::Plaintext)) => {
                was_greeted = true;
                tried.pop();
            }
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
        let service = destination.service().cloned();
        Upstream { direction: Direction::Outbound, endpoint, service, tls }
    }
}

fn labels(authority: &str, upstream: &Upstream, meant: Option<&Rc<Meant>>) -> Labels {
    let (direction, tls) = (upstream.direction, upstream.tls.clone());
    let destination = Peer::of(&upstream.endpoint, upstream.service.as_ref()).map(Arc::new);
    let backend = upstream.service.as_ref().map(|service| (service.namespace().to_owned(), service.name().to_owned()));
    let meant = meant.map(|meant| Arc::new(Meant::clone(meant)));
    Labels { direction, authority: authority.to_owned(), tls, destination, meant, backend }
}
