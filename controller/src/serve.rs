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
use conduit_ca::{AuthenticatedPeer, Refusal, replica::peer_node};
use rustls::ServerConfig;
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

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
    /// The workload that its certificate proves; none without a certificate.
    pub workload: Option<AuthenticatedPeer>,
    /// The replica that its certificate proves, on the peer port.
    pub replica: Option<NodeId>,
}

/// Binds `address` and yields its connections when their handshakes are done.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(
    address: SocketAddr,
    tls: Arc<ServerConfig>,
) -> io::Result<ReceiverStream<Result<Connection, io::Error>>> {
    let listener = TcpListener::bind(address).await?;
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let (sender, receiver) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(async move {
        while !sender.is_closed() {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = handshake(acceptor, stream, address).await {
                    // The server is gone: so is the connection.
                    let _ = sender.send(Ok(connection)).await;
                }
                drop(permit);
            });
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(peer.addr = %address, %error, "connection lost");
        return None;
    }
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let workload = AuthenticatedPeer::from_connection(session);
            let replica = session.peer_certificates().and_then(peer_node);
            Some(Connection { peer: Peer { address, workload, replica }, stream })
        }
        Ok(Err(error)) => {
            match Refusal::of_io(&error) {
                Some(refusal) => {
                    info!(peer.addr = %address, reason = refusal.reason(), error = %refusal, "refused a connection");
                }
                None => info!(peer.addr = %address, reason = "io", %error, "refused a connection"),
            }
            None
        }
        Err(_) => {
            info!(peer.addr = %address, reason = "timeout", "refused a connection");
            None
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
