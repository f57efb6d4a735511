//! Channels to the other replicas: one to each, kept warm.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use conduit_api::NodeId;
use conduit_ca::ReplicaTls;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Within this a connection is made, TLS included. Below the shortest election timeout, or a replica that is down would
/// keep a candidate waiting until its election is over (fluree/db#1373).
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// A peer that says nothing for this long is probed: a dead path looks like a quiet one (hyperium/h2#694).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// A batch of entries, or a chunk of a snapshot, fits; a hundred of them do not.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection, whatever it runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Makes connections to replicas: TCP and TLS in production, a simulated network in simulation.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `address`, where `node` is expected; anybody who holds the seed if that is not known yet.
    fn dial(&self, address: String, node: Option<NodeId>) -> Dialing;
}

impl Dial for ReplicaTls {
    fn dial(&self, address: String, node: Option<NodeId>) -> Dialing {
        let config = node.map_or_else(|| self.client_config(), |node| self.client_config_for(node));
        Box::pin(async move {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            // Replicas are known by the id in their certificate; the name is not looked at.
            let name = ServerName::try_from("controller.conduit").map_err(io::Error::other)?;
            let tls = TlsConnector::from(config).connect(name, tcp).await?;
            Ok(Box::new(tls) as Box<dyn Io>)
        })
    }
}

/// What a channel is for. Snapshots have their own, so that a large one does not hold up heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Messages,
    Snapshots,
}

/// With the address that each leads to: a replica that moved gets a new one.
type Channels = BTreeMap<(NodeId, Purpose), (String, Channel)>;

/// The channels of this replica. Cloned handles share them.
#[derive(Clone)]
pub struct Peers {
    dial: Arc<dyn Dial>,
    channels: Arc<Mutex<Channels>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// None yet.
    pub fn new(dial: impl Dial) -> Self {
        Self { dial: Arc::new(dial), channels: Arc::default() }
    }

    /// A channel to `node`, at `address` unless it has [moved](Self::moved). It connects when it is first used, and again
    /// whenever it has lost its connection.
    pub(crate) fn channel(&self, node: NodeId, address: &str, purpose: Purpose) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = || (address.to_owned(), self.connect(address, Some(node)));
        channels.entry((node, purpose)).or_insert_with(connect).1.clone()
    }

    /// From now on `node` is at `address`: the members say so, or it says so itself. Whoever answers there has to prove that it is `node`.
    pub(crate) fn moved(&self, node: NodeId, address: &str) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        for purpose in [Purpose::Messages, Purpose::Snapshots] {
            if channels.get(&(node, purpose)).is_none_or(|(known, _)| known != address) {
                channels.insert((node, purpose), (address.to_owned(), self.connect(address, Some(node))));
            }
        }
    }

    /// A channel to whichever replica is at `address`.
    pub fn stranger(&self, address: &str) -> Channel {
        self.connect(address, None)
    }

    fn connect(&self, address: &str, node: Option<NodeId>) -> Channel {
        let (dial, address) = (self.dial.clone(), address.to_owned());
        // The URI is only what HTTP/2 wants to see; the connector knows where to go.
        Endpoint::from(Uri::from_static("http://controller.conduit"))
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(service_fn(move |_: Uri| {
                let dialing = dial.dial(address.clone(), node);
                async move {
                    let dialed = timeout(CONNECT_TIMEOUT, dialing).await;
                    dialed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(TokioIo::new)
                }
            }))
    }
}
