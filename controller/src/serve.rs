//! Listening: TLS on TCP, and who is at the other end.
//!
//! Handshakes run beside each other and are bounded in number and time, so that a client that never finishes one holds up
//! nobody (hyperium/hyper#4170: nor a shutdown).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use conduit_api::NodeId;
use conduit_ca::{AuthenticatedPeer, Refusal, WorkloadTls, replica::peer_node};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::server::Connected};
use tracing::{debug, info, warn};

/// Within this a TLS handshake is finished or given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; one costs about half a millisecond of a core, so that more only wait for each other.
const HANDSHAKES_MAX: usize = 64;
/// After an accept that failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A connection whose handshake is done.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// Those that were made, as a server takes them.
pub type Connections = ReceiverStream<Result<Connection, io::Error>>;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
    /// The workload that its certificate proves; none without a certificate.
    pub workload: Option<AuthenticatedPeer>,
    /// The certificates that proved it when the connection was made; the leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// The replica that its certificate proves, on the peer port.
    pub replica: Option<NodeId>,
}

/// Handshakes that were refused, by the server that refused them and why. Clones are the same.
#[derive(Clone, Default)]
pub struct Refusals(Family<Refused, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    server: &'static str,
    reason: &'static str,
}

impl Refusals {
    /// Into what is scraped.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("tls_refused", "Handshakes that were refused, by server and why", self.0.clone());
    }

    fn count(&self, server: &'static str, reason: &'static str) {
        self.0.get_or_create(&Refused { server, reason }).inc();
    }
}

/// The next connection; none when it could not be accepted, which is said, and after a pause: it may be possible again then.
pub async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            warn!(%error, "cannot accept a connection");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Binds `address` and yields its connections when their handshakes are done; those that are refused are counted for `server`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(
    address: SocketAddr,
    tls: impl Fn() -> Arc<ServerConfig> + Send + 'static,
    server: &'static str,
    refusals: Refusals,
) -> io::Result<Connections> {
    let listener = TcpListener::bind(address).await?;
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let (sender, receiver) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(async move {
        while !sender.is_closed() {
            let Some((stream, address)) = accept(&listener).await else { continue };
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let (acceptor, sender, refusals) = (TlsAcceptor::from(tls()), sender.clone(), refusals.clone());
            tokio::spawn(async move {
                match handshake(acceptor, stream, address).await {
                    // The server may be gone: so is the connection.
                    Ok(connection) => drop(sender.send(Ok(connection)).await),
                    Err(reason) => refusals.count(server, reason),
                }
                drop(permit);
            });
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// Or why there is no connection, in a word.
async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Result<Connection, &'static str> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(peer.addr = %address, %error, "connection lost");
        return Err("io");
    }
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let workload = AuthenticatedPeer::from_connection(session);
            let chain = session.peer_certificates().unwrap_or_default();
            let (replica, chain) = (peer_node(chain), chain.into());
            Ok(Connection { peer: Peer { address, workload, chain, replica }, stream })
        }
        Ok(Err(error)) => match Refusal::of_io(&error) {
            Some(refusal) => {
                info!(peer.addr = %address, reason = refusal.reason(), error = %refusal, "refused a connection");
                Err(refusal.reason())
            }
            None => {
                info!(peer.addr = %address, reason = "io", %error, "refused a connection");
                Err("io")
            }
        },
        Err(_) => {
            info!(peer.addr = %address, reason = "timeout", "refused a connection");
            Err("timeout")
        }
    }
}

/// The workload that made a call.
///
/// # Errors
/// UNAUTHENTICATED when it came without a certificate.
pub fn peer_of<T>(request: &Request<T>) -> Result<AuthenticatedPeer, Status> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.workload.clone());
    peer.ok_or_else(|| {
        Status::unauthenticated("this call needs a certificate of the mesh; get one by Identity.Certify")
    })
}

/// The same, if its certificate would be let in now as well: what it is given outlives the connection.
///
/// # Errors
/// UNAUTHENTICATED otherwise; with the certificate that it has by now, another connection may do.
pub fn peer_in_force<T>(request: &Request<T>, tls: &WorkloadTls) -> Result<AuthenticatedPeer, Status> {
    let peer = peer_of(request)?;
    match request.extensions().get::<Peer>().is_some_and(|peer| tls.accepts_client(&peer.chain)) {
        true => Ok(peer),
        false => Err(Status::unauthenticated("this connection's certificate is not accepted any more; connect anew")),
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
