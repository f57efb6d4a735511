//! Making connections: to endpoints, to the application, to the control plane.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conduit_api::{Endpoint, ServiceName, SpiffeId};
use conduit_ca::{AuthenticatedPeer, TrustBundle, WorkloadTls};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    forward::keep_alive,
    http::Protocol,
    io::Stream,
    telemetry::{Direction, Tls},
};

/// Within this a connection is made, or another endpoint is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Within this its TLS handshake is done.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a connection or a request goes next.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Inbound to the application, outbound to an endpoint.
    pub direction: Direction,
    /// Who is there.
    pub endpoint: Arc<Endpoint>,
    /// The service that it was chosen for.
    pub service: Option<ServiceName>,
    /// [`Tls::Mutual`] when it is a proxy, which must prove to be that peer; anything else is plaintext from here.
    pub tls: Tls,
}

impl Upstream {
    /// Who must be there.
    pub fn peer(&self) -> Option<&SpiffeId> {
        match &self.tls {
            Tls::Mutual(peer) => Some(peer),
            Tls::NoIdentity | Tls::Loopback | Tls::Passthrough(_) => None,
        }
    }
}

/// As whom this proxy comes to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As the workload that its certificate names.
    Workload,
    /// Without a certificate, to get one.
    Nobody,
}

/// Makes this proxy's connections, so that they can be told from the application's.
#[derive(Clone)]
pub struct Connector {
    mark: Option<u32>,
    tls: WorkloadTls,
}

impl Connector {
    /// Marks sockets with `mark`, if there is one; authenticates with `tls`.
    pub fn new(mark: Option<u32>, tls: WorkloadTls) -> Self {
        Self { mark, tls }
    }

    /// One that believes `bundle`, and has nothing to prove who it is.
    pub fn trusting(&self, bundle: TrustBundle) -> Self {
        Self { mark: self.mark, tls: WorkloadTls::new(self.tls.trust_domain().clone(), bundle) }
    }

    /// It can prove who it is.
    pub fn is_certified(&self) -> bool {
        self.tls.identity().is_some()
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// When it is refused, or takes longer than a second.
    pub async fn tcp(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        let connected = timeout(CONNECT_TIMEOUT, socket.connect(address)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        keep_alive(&stream);
        Ok(stream)
    }

    /// A connection to the proxy beside an endpoint, which must prove to be `peer`; it is then known what it will carry. Until then
    /// both have proved who they are: what comes later goes over another one.
    ///
    /// # Errors
    /// When it cannot be made, or the peer is somebody else.
    pub async fn mesh(
        &self,
        address: SocketAddr,
        peer: &SpiffeId,
        protocol: Protocol,
    ) -> io::Result<(Stream, Instant)> {
        let tcp = self.tcp(address).await?;
        let config = self.tls.client_config(&[protocol.alpn()], peer);
        let tls = handshake(config, address, tcp).await?;
        let Some(authenticated) = AuthenticatedPeer::from_connection(tls.get_ref().1) else {
            return Err(io::Error::other("the session was resumed, and the peer's certificate has expired meanwhile"));
        };
        if tls.get_ref().1.alpn_protocol() != Some(protocol.alpn()) {
            return Err(io::Error::other("the peer's proxy does not speak this mesh's protocol"));
        }
        let own = self.tls.identity().map(|identity| identity.not_after);
        let not_after = own.map_or(authenticated.not_after(), |own| own.min(authenticated.not_after()));
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        Ok((Stream::TlsClient(Box::new(tls)), Instant::now() + left))
    }

    /// A connection to the control plane, as `who`.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else answers.
    pub async fn control(
        &self,
        address: SocketAddr,
        controller: &SpiffeId,
        who: Who,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = self.tcp(address).await?;
        let config = match who {
            Who::Workload => self.tls.client_config(&[b"h2"], controller),
            Who::Nobody => self.tls.anonymous_client_config(&[b"h2"], controller),
        };
        handshake(config, address, tcp).await
    }
}

/// Boxed: it is much larger than what is left when it is done, and a connection's task keeps the size of its largest part.
async fn handshake(
    config: Arc<ClientConfig>,
    address: SocketAddr,
    tcp: TcpStream,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    // An address is not sent as a name; the peer is known by its SPIFFE id.
    let name = ServerName::from(address.ip());
    let connected = timeout(HANDSHAKE_TIMEOUT, Box::pin(TlsConnector::from(config).connect(name, tcp))).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
