//! The connection to the control plane: any replica will do, the next one when that fails.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use conduit_api::{SpiffeId, TrustDomain, spiffe::ParseSpiffeError};
use conduit_ca::{Refusal, TrustBundle};
use futures::FutureExt as _;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Mutex, Notify, watch},
    time::sleep,
};
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::connect::{Connector, Who};

/// A replica that says nothing for this long is probed: a dead path looks like a quiet one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks for the first certificate.
const CERTIFIED_POLL: Duration = Duration::from_millis(20);
/// The first pause after a failure, doubled at each further one ...
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// ... up to this; each is drawn from zero to its length, so that a thousand proxies do not come back at once.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The replicas of the control plane. Clones are the same, and share the connection.
#[derive(Clone)]
pub struct Controllers(Rc<Inner>);

struct Inner {
    addresses: Vec<String>,
    controller: SpiffeId,
    connector: Connector,
    /// Whose turn it is: goes round the replicas, from a random one on.
    next: Cell<usize>,
    /// Held while it is made, so that all who need it wait for the same one.
    shared: Mutex<Option<Shared>>,
    changes: watch::Sender<()>,
    bundle_changed: Notify,
    renewed: Notify,
    refused: Arc<Notify>,
}

/// A connection to a replica; an alert instead of an answer is how it refuses this proxy's certificate (RFC 8446 section 6.2):
/// after the handshake, which for this side was complete.
struct Control {
    stream: TlsStream<TcpStream>,
    refused: Arc<Notify>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NotConnected {
    /// This proxy refused whom it met.
    Refused(tonic::transport::Error),
    /// Anything else.
    Failed(tonic::transport::Error),
}

/// The connection that everything which this proxy asks for goes over. One of them, because each costs both ends some sixty
/// kilobytes, and a control plane has thousands.
#[derive(Clone)]
pub struct Shared {
    /// To be used by as many as there are.
    pub channel: Channel,
    /// The turn in which it was made.
    turn: usize,
}

impl Controllers {
    /// At `addresses`, each `host:port`.
    ///
    /// # Errors
    /// Never for a valid trust domain.
    pub fn new(
        addresses: Vec<String>,
        trust_domain: &TrustDomain,
        connector: Connector,
    ) -> Result<Self, ParseSpiffeError> {
        let controller = SpiffeId::new(trust_domain, "conduit", "controller")?;
        let next = Cell::new(rand::random_range(0..addresses.len().max(1)));
        Ok(Self(Rc::new(Inner {
            addresses,
            controller,
            connector,
            next,
            shared: Mutex::default(),
            changes: watch::Sender::default(),
            bundle_changed: Notify::new(),
            renewed: Notify::new(),
            refused: Arc::default(),
        })))
    }

    /// Waits until this proxy has a certificate: without one nobody lets it in.
    pub async fn certified(&self) {
        while !self.0.connector.is_certified() {
            sleep(CERTIFIED_POLL).await;
        }
    }

    /// There are other roots to trust than before: the present certificate may be worth nothing any more.
    pub fn bundle_changed(&self) {
        self.0.bundle_changed.notify_one();
        self.0.changes.send_replace(());
    }

    /// Resolves when that has happened since it was last waited for.
    pub async fn until_bundle_changed(&self) {
        self.0.bundle_changed.notified().await;
    }

    /// There is another certificate than before: the control plane wants to know.
    pub fn renewed(&self) {
        self.0.renewed.notify_one();
        self.0.changes.send_replace(());
    }

    /// Changes whenever this proxy presents or trusts something else.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Resolves when that has happened since it was last waited for.
    pub async fn until_renewed(&self) {
        self.0.renewed.notified().await;
    }

    /// Resolves when one side has refused the other's certificate: this proxy has missed something, or is denied.
    pub async fn until_refused(&self) {
        self.0.refused.notified().await;
    }

    /// The shared connection. It is made if there is none, to the replica whose turn it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn shared(&self) -> Result<Shared, tonic::transport::Error> {
        let mut shared = self.0.shared.lock().await;
        if let Some(shared) = &*shared {
            return Ok(shared.clone());
        }
        let (channel, turn) = (self.connect(Who::Workload).await?, self.0.next.get());
        Ok(shared.insert(Shared { channel, turn }).clone())
    }

    /// Whoever asks for a connection from now on gets another one than `failed`.
    pub async fn give_up(&self, failed: &Shared) {
        self.0.shared.lock().await.take_if(|shared| shared.turn == failed.turn);
    }

    /// A connection of its own to the replica whose turn it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect(&self, who: Who) -> Result<Channel, tonic::transport::Error> {
        // What is asked as nobody is asked to mend that.
        let refused = if who == Who::Workload { self.0.refused.clone() } else { Arc::default() };
        self.connect_by(&self.0.connector, who, refused).await
    }

    /// The same as nobody, for a certificate.
    ///
    /// # Errors
    /// When it cannot be made, and whether that is because this proxy does not know the replica.
    pub async fn connect_as_nobody(&self) -> Result<Channel, NotConnected> {
        let refused = Arc::<Notify>::default();
        let connected = self.connect_by(&self.0.connector, Who::Nobody, refused.clone()).await;
        connected.map_err(|error| match refused.notified().now_or_never() {
            Some(()) => NotConnected::Refused(error),
            None => NotConnected::Failed(error),
        })
    }

    /// The same as nobody, to one that `bundle` vouches for, whatever is trusted otherwise.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn connect_trusting(&self, bundle: TrustBundle) -> Result<Channel, tonic::transport::Error> {
        self.connect_by(&self.0.connector.trusting(bundle), Who::Nobody, Arc::default()).await
    }

    async fn connect_by(
        &self,
        connector: &Connector,
        who: Who,
        refused: Arc<Notify>,
    ) -> Result<Channel, tonic::transport::Error> {
        let turn = self.0.next.get();
        self.0.next.set(turn.wrapping_add(1));
        let address = self.0.addresses[turn % self.0.addresses.len()].clone();
        let (connector, controller) = (connector.clone(), self.0.controller.clone());
        // The URI is only what HTTP/2 wants to see; the connector knows where to go.
        Endpoint::from(Uri::from_static("http://controller.conduit"))
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(service_fn(move |_: Uri| {
                let (address, connector, controller) = (address.clone(), connector.clone(), controller.clone());
                let refused = refused.clone();
                async move {
                    let resolved = resolve(&address).await?;
                    let stream = connector.control(resolved, &controller, who).await;
                    let stream = stream.inspect_err(|error| notice(error, &refused))?;
                    Ok::<_, io::Error>(TokioIo::new(Control { stream, refused }))
                }
            }))
            .await
    }
}

/// The pause after a number of failures in a row; `random` is below 1.
pub fn backoff(failures: u32, random: f64) -> Duration {
    (BACKOFF_MIN * 2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MAX).mul_f64(random)
}

fn notice(error: &io::Error, refused: &Notify) {
    if Refusal::of_io(error).is_some() {
        refused.notify_one();
    }
}

impl AsyncRead for Control {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            notice(error, &self.refused);
        }
        read
    }
}

impl AsyncWrite for Control {
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

/// The first address of `host:port`.
///
/// # Errors
/// When it has none.
pub async fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(backoff(0, 1.0), BACKOFF_MIN);
        assert_eq!(backoff(3, 0.5), BACKOFF_MIN * 4);
        assert_eq!(backoff(1000, 1.0), BACKOFF_MAX);
        assert_eq!(backoff(5, 0.0), Duration::ZERO);
    }
}
