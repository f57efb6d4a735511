//! A connection to the application, on its way in. Read it from top to bottom:
//!
//! accept → original destination → TLS → identity → authorize → detect → connect → forward → record

use std::{cell::Cell, cell::RefCell, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use conduit_api::proto::common;
use conduit_ca::{AuthenticatedPeer, ClientAuth, Refusal};
use http::{Request, Response};
use hyper::body::Incoming;
use rustls::server::Acceptor;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use crate::{
    connect::Upstream,
    forward::{self, Answered, Spoken},
    http::{
        Failure, Protocol, ResponseBody, authority,
        exchange::{Exchange, Path},
        is_grpc,
        pool::{SendError, foreign},
        serve, strip_hop_by_hop, strip_reserved, wants_tunnel,
    },
    io::{DETECTION_TIMEOUT, Prefixed, Stream, read_ahead_for},
    telemetry::{Counters, Direction, Labels, Tls, transport::Counted},
    worker::Worker,
};

/// Within this a TLS handshake is done.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Authorities whose counters a connection remembers; a proxy's connection carries requests of many.
const AUTHORITIES_REMEMBERED_MAX: usize = 16;
/// How often a request that was not sent is sent again, on another connection to the application.
const ATTEMPTS_MAX: usize = 3;

/// Serves one connection.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream) {
    if let Err(error) = connection(&worker, stream).await {
        debug!(%error, "an inbound connection ended badly");
    }
}

async fn connection(worker: &Rc<Worker>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let source = stream.peer_addr()?;

    // Which of the application's ports is it for?
    let original = worker.original(&stream)?;
    let (direction, tls) = (Direction::Inbound, Tls::Loopback);
    let application = Upstream { direction, endpoint: foreign(original), service: None, tls };

    // Another proxy says in its handshake what the connection carries, and who it is.
    let mut buffer = BytesMut::new();
    let connect = async || worker.pool.connect(&application, Protocol::Opaque).await;
    let (spoken, upstream) = forward::spoken(&mut stream, &mut buffer, connect).await?;
    let protocol = match spoken {
        Spoken::Http(protocol) => protocol,
        Spoken::Other => Protocol::Opaque,
        Spoken::Tls => {
            let protocol = mesh_protocol(&mut stream, &mut buffer).await?;
            let stream = Prefixed::new(buffer.freeze(), stream);
            if let Some(protocol) = protocol {
                return mesh(worker, stream, source, application, protocol).await;
            }
            let stream = worker.accepted(Direction::Inbound, Tls::Passthrough, Stream::Detected(stream));
            return opaque(worker, stream, None, &application).await;
        }
    };
    let stream = Stream::Detected(Prefixed::new(buffer.freeze(), stream));
    let stream = worker.accepted(Direction::Inbound, Tls::NoIdentity, stream);
    if protocol == Protocol::Opaque {
        return opaque(worker, stream, upstream, &application).await;
    }
    drop(upstream);
    requests(worker, stream, source, application, protocol, Tls::NoIdentity).await
}

/// What another proxy's handshake says that the connection carries; `None` for TLS of the application's own.
async fn mesh_protocol(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Protocol>> {
    loop {
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut &buffer[..])?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Ok(hello.alpn().into_iter().flatten().find_map(Protocol::from_alpn));
            }
            Ok(None) if read_ahead_for(DETECTION_TIMEOUT, stream, buffer).await? == Some(true) => {}
            // It is not TLS that we understand; perhaps the application does.
            Ok(None) | Err(_) => return Ok(None),
        }
    }
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
    let accepted = timeout(HANDSHAKE_TIMEOUT, Box::pin(TlsAcceptor::from(config).accept(stream))).await;
    let accepted = accepted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten();
    let tls = accepted.inspect_err(|error| {
        let refusal = Refusal::of_io(error);
        if let Some(refusal) = &refusal {
            worker.telemetry.refused(Direction::Inbound, refusal);
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
    let stream = worker.accepted(Direction::Inbound, secured.clone(), Stream::TlsServer(Box::new(tls)));
    match protocol {
        Protocol::Opaque => opaque(worker, stream, None, &application).await,
        Protocol::Http1 | Protocol::Http2 => requests(worker, stream, source, application, protocol, secured).await,
    }
}

/// Bytes, to the application as they are.
async fn opaque(worker: &Worker, stream: Counted, upstream: Option<Counted>, application: &Upstream) -> io::Result<()> {
    let upstream = match upstream {
        Some(upstream) => upstream,
        None => match worker.pool.connect(application, Protocol::Opaque).await {
            Ok(upstream) => upstream,
            Err(error) => {
                // The application does not listen: its client is to see what it would see without us.
                forward::reset(stream.tcp());
                return Err(error);
            }
        },
    };
    forward::copy(stream, upstream).await;
    Ok(())
}

async fn requests(
    worker: &Rc<Worker>,
    stream: Counted,
    source: SocketAddr,
    application: Upstream,
    protocol: Protocol,
    tls: Tls,
) -> io::Result<()> {
    let path = Path {
        direction: common::Direction::Inbound,
        source,
        destination: application.endpoint.address,
        pod: None,
        workload: None,
        tls,
    };
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        number: worker.number(),
        requests: Cell::new(0),
        application,
        protocol,
        path,
        counters: RefCell::default(),
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
    application: Upstream,
    protocol: Protocol,
    path: Path,
    /// By authority.
    counters: RefCell<Vec<(String, Arc<Counters>)>>,
}

async fn request_of(connection: Rc<Connection>, mut request: Request<Incoming>) -> Response<ResponseBody> {
    let tunnel = wants_tunnel(&request);
    strip_hop_by_hop(request.headers_mut(), tunnel);
    strip_reserved(request.headers_mut());
    let stream = connection.requests.replace(connection.requests.get() + 1);
    let is_grpc = is_grpc(request.headers());
    let worker = &connection.worker;
    let counters = connection.counters(authority(&request));
    let mut failure = Failure::Connect;
    for _ in 0..ATTEMPTS_MAX {
        let number = (connection.number, stream);
        let exchange = Exchange::begin(&request, counters.clone(), &worker.setup.taps, &connection.path, number);
        let (application, protocol) = (&connection.application, connection.protocol);
        match forward::request(worker, application, protocol, tunnel, request, exchange).await {
            Answered::Response(response) => return response,
            Answered::Failed(SendError::Unsent(unsent), exchange) => {
                exchange.abandon();
                failure = Failure::Broken;
                request = unsent;
            }
            Answered::Failed(SendError::Connect(error, _), exchange) => {
                exchange.fail(Failure::Connect.status());
                debug!(dst.addr = %application.endpoint.address, %error, "the application cannot be connected to");
                return Failure::Connect.response(is_grpc);
            }
            Answered::Failed(SendError::Broken(error), exchange) => {
                exchange.fail(Failure::Broken.status());
                debug!(dst.addr = %application.endpoint.address, %error, "the application did not answer");
                return Failure::Broken.response(is_grpc);
            }
        }
    }
    failure.response(is_grpc)
}

impl Connection {
    /// Looked up once for each authority that this connection carries requests of.
    fn counters(&self, authority: &str) -> Arc<Counters> {
        let mut known = self.counters.borrow_mut();
        if let Some((_, counters)) = known.iter().find(|(known, _)| known == authority) {
            return counters.clone();
        }
        let counters = self.worker.telemetry.requests(&labels(authority.to_owned(), self.path.tls.clone()));
        if known.len() >= AUTHORITIES_REMEMBERED_MAX {
            known.remove(0);
        }
        known.push((authority.to_owned(), counters.clone()));
        counters
    }
}

fn labels(authority: String, tls: Tls) -> Labels {
    Labels { direction: Direction::Inbound, authority, tls, destination: None }
}
