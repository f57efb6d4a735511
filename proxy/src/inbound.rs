//! A connection to the application, on its way in. Read it from top to bottom:
//!
//! accept → original destination → TLS → identity → authorize → detect → connect → forward → record

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use conduit_api::PortRange;
use conduit_ca::{AuthenticatedPeer, ClientAuth, Refusal};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use crate::{
    balance::Balancer,
    buffer::Buffer,
    buffered::Buffered,
    connect::Upstream,
    forward::{self, Spoken},
    http::{self, Client, Failure, Forward, Protocol, RequestView, exchange::Hop, pool::foreign},
    io::{Prefixed, Stream},
    policy::Policy,
    telemetry::{Direction, End, Labels, Layer, Meant, Tls},
    worker::Worker,
};

/// Within this a TLS handshake is done.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Why a handshake is refused that nobody has looked at.
const OVERLOADED: &str = "overloaded";
/// Authorities whose counters a connection remembers; a proxy's connection carries requests of many.
const AUTHORITIES_REMEMBERED_MAX: usize = 16;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    if let Err(error) = connection(&worker, stream).await {
        debug!(%error, "an inbound connection ended badly");
    }
}

async fn connection(worker: &Rc<Worker>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    forward::keep_alive(&stream);
    let source = stream.peer_addr()?;

    // Which of the application's ports is it for?
    let original = worker.original(&stream)?;
    let (direction, tls) = (Direction::Inbound, Tls::Loopback);
    let application = Upstream { direction, endpoint: foreign(original), service: None, tls };

    // Another proxy says in its handshake what the connection carries, and who it is.
    let mut buffer = Buffer::default();
    let connect = async || worker.pool.connect(&application, Protocol::Opaque).await;
    let caller = (source.ip(), original.port());
    let spoken = forward::spoken(&mut stream, &mut buffer, worker.callers.patience(caller), &connect).await;
    // An application that does not listen is not one that ends.
    let (spoken, mut upstream) = spoken.inspect_err(|_| forward::reset(&stream))?;
    if matches!(spoken, Spoken::ServerFirst)
        && let Some(server) = upstream.take()
    {
        let client = worker.accepted(Direction::Inbound, Tls::NoIdentity, Stream::Tcp(stream), buffer);
        let _busy = worker.busy();
        forward::copy_greeted(client, server, |is_proxy| worker.callers.came(caller, is_proxy)).await;
        return Ok(());
    }
    let has_shown = !buffer.is_empty();
    let is_opaque = PortRange::any_contains(&worker.setup.opaque_ports, original.port());
    let (protocol, tls) = match spoken {
        Spoken::Http(_) if is_opaque => (Protocol::Opaque, Tls::NoIdentity),
        Spoken::Http(protocol) => (protocol, Tls::NoIdentity),
        Spoken::ServerFirst | Spoken::Other => (Protocol::Opaque, Tls::NoIdentity),
        Spoken::Tls => {
            let hello = forward::client_hello(&mut stream, &mut buffer).await.unwrap_or_default();
            if let Some(protocol) = hello.protocol {
                worker.callers.came(caller, true);
                drop(upstream);
                return Box::pin(mesh(worker, Prefixed::new(buffer, stream), source, application, protocol)).await;
            }
            (Protocol::Opaque, worker.passthrough(hello.server_name))
        }
    };
    if has_shown {
        worker.callers.came(caller, false);
    }
    let client = worker.accepted(Direction::Inbound, tls.clone(), Stream::Tcp(stream), buffer);
    let upstream = upstream.filter(|_| protocol == Protocol::Opaque);
    carry(worker, client, upstream, source, application, protocol, tls).await
}

/// A connection from another proxy: who is it?
async fn mesh(
    worker: &Rc<Worker>,
    stream: Prefixed<TcpStream>,
    source: SocketAddr,
    application: Upstream,
    protocol: Protocol,
) -> io::Result<()> {
    let config = worker.setup.tls.server_config(&[protocol.alpn()], ClientAuth::Required);
    // In turn with others, and with requests between them.
    let handshake = worker.handshakes.take(TlsAcceptor::from(config).accept(stream));
    let accepted = timeout(HANDSHAKE_TIMEOUT, Box::pin(handshake)).await;
    let accepted = match accepted {
        Ok(Some(accepted)) => accepted,
        Ok(None) => {
            // Not said of each: there are too many.
            worker.telemetry.refused(Direction::Inbound, Layer::Tls, OVERLOADED);
            return Err(io::Error::other("too many handshakes are waiting"));
        }
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let tls = accepted.inspect_err(|error| {
        let refusal = Refusal::of_io(error);
        if let Some(refusal) = &refusal {
            worker.telemetry.refused(Direction::Inbound, Layer::Tls, refusal.reason());
        }
        match refusal {
            Some(refusal) => {
                info!(peer.addr = %source, reason = refusal.reason(), error = %refusal, "refused a connection");
            }
            None => info!(peer.addr = %source, reason = "io", %error, "refused a connection"),
        }
    })?;
    let peer = AuthenticatedPeer::from_connection(tls.get_ref().1)
        .ok_or_else(|| io::Error::other("a handshake that requires a certificate was completed without one"))?;
    let secured = Tls::Mutual(peer.id().clone());
    let stream = Stream::TlsServer(Box::new(tls));
    let client = worker.accepted(Direction::Inbound, secured.clone(), stream, Buffer::default());
    carry(worker, client, None, source, application, protocol, secured).await
}

/// What `client` sends, to the application; over `upstream`, if that is there already.
async fn carry(
    worker: &Rc<Worker>,
    client: Buffered,
    upstream: Option<Buffered>,
    source: SocketAddr,
    application: Upstream,
    protocol: Protocol,
    tls: Tls,
) -> io::Result<()> {
    if protocol == Protocol::Opaque {
        return opaque(worker, client, upstream, &application).await;
    }
    let identity = match &tls {
        Tls::Mutual(peer) => Some(peer.clone()),
        Tls::NoIdentity | Tls::Loopback | Tls::Passthrough(_) => None,
    };
    let asks = Client::new(worker, Direction::Inbound, source, identity);
    let connection = Connection { client: asks, application, tls, hops: RefCell::default() };
    http::serve(connection, protocol, client).await
}

/// Bytes, to the application as they are.
async fn opaque(
    worker: &Rc<Worker>,
    client: Buffered,
    upstream: Option<Buffered>,
    application: &Upstream,
) -> io::Result<()> {
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => match worker.pool.connect(application, Protocol::Opaque).await {
            Ok(upstream) => Buffered::new(upstream, Buffer::default()),
            Err(error) => {
                // The application does not listen: its client is to see what it would see without us.
                forward::reset(client.tcp());
                return Err(error);
            }
        },
    };
    let _busy = worker.busy();
    forward::copy(client, upstream).await;
    Ok(())
}

/// A connection that carries requests.
struct Connection {
    client: Client,
    application: Upstream,
    /// How its client is known.
    tls: Tls,
    /// By authority.
    hops: RefCell<Vec<Rc<Hop>>>,
}

impl Forward for Connection {
    type Service = ();

    fn client(&self) -> &Client {
        &self.client
    }

    /// The application: there is no other.
    async fn resolve(&self, _request: &RequestView<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn pick(&self, (): &(), request: &RequestView<'_>, tried: &[SocketAddr]) -> Result<Rc<Hop>, Failure> {
        if tried.is_empty() { self.hop(request.authority).with_room() } else { Err(Failure::NoEndpoints) }
    }

    fn balancer<'a>(&self, (): &'a ()) -> Option<&'a Rc<RefCell<Balancer>>> {
        None
    }

    fn meant<'a>(&self, (): &'a ()) -> Option<&'a Meant> {
        None
    }

    /// Routes are for those who send.
    fn policy<'a>(&self, (): &'a ()) -> Option<&'a Arc<Policy>> {
        None
    }

    fn answered(&self, _: Option<&()>, request: &RequestView<'_>, status: u16) {
        let counters = self.client.worker.telemetry.requests(&self.labels(request.authority));
        counters.fail(status);
        let is_mutual = matches!(self.tls, Tls::Mutual(_));
        let row = self.client.worker.telemetry.paths.row(is_mutual, request.method, request.path);
        row.end(End::Http(status), None);
    }

    fn is_leaving(&self) -> bool {
        self.client.worker.is_draining()
    }
}

impl Connection {
    /// Looked up once for each authority that this connection carries requests of.
    fn hop(&self, authority: &str) -> Rc<Hop> {
        let mut known = self.hops.borrow_mut();
        if let Some(hop) = known.iter().find(|hop| hop.authority() == authority) {
            return hop.clone();
        }
        let hop = Hop::new(&self.client.worker, self.application.clone(), &self.labels(authority));
        if known.len() >= AUTHORITIES_REMEMBERED_MAX {
            known.remove(0);
        }
        known.push(hop.clone());
        hop
    }

    fn labels(&self, authority: &str) -> Labels {
        let (authority, tls) = (authority.to_owned(), self.tls.clone());
        Labels { direction: Direction::Inbound, authority, tls, destination: None, meant: None, backend: None }
    }
}
