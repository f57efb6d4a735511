//! Connections that requests are sent on: kept for the next request to the same endpoint, by one thread.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use conduit_api::{Endpoint, SpiffeId};
use conduit_ca::Refusal;
use futures::FutureExt as _;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Mutex, task::spawn_local, time::Instant};
use tracing::info;

use super::{
    Protocol,
    serve::{CONNECTION_WINDOW, LocalExecutor, STREAM_WINDOW},
};
use crate::{
    connect::{Connector, Upstream},
    io::Stream,
    live::Live,
    telemetry::{
        Peer, ThreadTelemetry,
        transport::{ConnectionLabels, Counted, Side},
    },
};

/// Idle HTTP/1 connections to one endpoint.
const IDLE_MAX: usize = 32;
/// Less than the five seconds after which common servers close an idle connection: one that is reused just then fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// An HTTP/2 connection without requests costs both ends its buffers, and a new one a round trip or two.
const IDLE_TIMEOUT_HTTP2: Duration = Duration::from_secs(60);
/// A peer on an HTTP/2 connection that says nothing for this long is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The connections of one thread.
pub struct Pool {
    connector: Connector,
    telemetry: Rc<ThreadTelemetry>,
    live: Live,
    endpoints: RefCell<HashMap<SocketAddr, Rc<Connections>>>,
}

/// To one endpoint, which proved to be `identity`.
struct Connections {
    identity: Option<SpiffeId>,
    http1: RefCell<Vec<(Instant, http1::SendRequest<Incoming>)>>,
    /// Held while the connection is made, so that requests which come meanwhile share it.
    http2: Mutex<Option<http2::SendRequest<Incoming>>>,
    http2_used: Cell<Instant>,
}

/// A response, and its connection, if that is to be given back when the response has ended.
pub struct Sent {
    /// As it came.
    pub response: Response<Incoming>,
    giving_back: Option<(Rc<Connections>, http1::SendRequest<Incoming>)>,
}

impl Sent {
    /// What to do when the response has ended: gives its connection back.
    pub fn split(self) -> (Response<Incoming>, Option<impl FnOnce() + 'static>) {
        let give_back = self.giving_back.map(|(connections, sender)| {
            move || {
                let mut idle = connections.http1.borrow_mut();
                if idle.len() < IDLE_MAX {
                    idle.push((Instant::now(), sender));
                }
            }
        });
        (self.response, give_back)
    }
}

/// Why there is no response.
pub enum SendError {
    /// There is no connection. The request is as it was.
    Connect(io::Error, Request<Incoming>),
    /// The connection broke before any of the request was sent on it: it may be sent on another.
    Unsent(Request<Incoming>),
    /// It broke afterwards.
    Broken(hyper::Error),
}

impl Pool {
    /// Without connections.
    pub fn new(connector: Connector, telemetry: Rc<ThreadTelemetry>, live: Live) -> Self {
        Self { connector, telemetry, live, endpoints: RefCell::default() }
    }

    /// Sends `request` to `upstream`. `tunnel` asks for a connection of its own.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn send(
        &self,
        upstream: &Upstream,
        protocol: Protocol,
        tunnel: bool,
        request: Request<Incoming>,
    ) -> Result<Sent, SendError> {
        let connections = self.connections(upstream);
        match protocol {
            Protocol::Http2 => self.send_http2(upstream, &connections, request).await,
            Protocol::Http1 | Protocol::Opaque => self.send_http1(upstream, connections, tunnel, request).await,
        }
    }

    /// Forgets connections that nobody has used for a while.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, connections| {
            let mut http1 = connections.http1.borrow_mut();
            http1.retain(|(since, sender)| now.saturating_duration_since(*since) < IDLE_TIMEOUT && !sender.is_closed());
            let idle = now.saturating_duration_since(connections.http2_used.get()) >= IDLE_TIMEOUT_HTTP2;
            // Requests that are still under way keep the connection open; it ends with the last of them.
            let http2 = connections.http2.try_lock().map_or(true, |mut http2| {
                http2.take_if(|sender| idle || sender.is_closed()).is_none() && http2.is_some()
            });
            !http1.is_empty() || http2 || Rc::strong_count(connections) > 1
        });
    }

    /// An endpoint whose address has passed to somebody else has other connections.
    fn connections(&self, upstream: &Upstream) -> Rc<Connections> {
        let address = upstream.endpoint.address;
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(connections) = endpoints.get(&address)
            && connections.identity.as_ref() == upstream.peer()
        {
            return connections.clone();
        }
        let connections = Rc::new(Connections {
            identity: upstream.peer().cloned(),
            http1: RefCell::default(),
            http2: Mutex::default(),
            http2_used: Cell::new(Instant::now()),
        });
        endpoints.insert(address, connections.clone());
        connections
    }

    async fn send_http1(
        &self,
        upstream: &Upstream,
        connections: Rc<Connections>,
        tunnel: bool,
        mut request: Request<Incoming>,
    ) -> Result<Sent, SendError> {
        *request.version_mut() = http::Version::HTTP_11;
        if !tunnel {
            while let Some(mut sender) = connections.idle() {
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok(Sent { response, giving_back: Some((connections, sender)) }),
                    Err(mut error) => match error.take_message() {
                        // The server was closing it: the next one, or a new one.
                        Some(unsent) => request = unsent,
                        None => return Err(SendError::Broken(error.into_error())),
                    },
                }
            }
        }
        let mut sender = match self.connect_http1(upstream).await {
            Ok(sender) => sender,
            Err(error) => return Err(SendError::Connect(error, request)),
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                let giving_back = (!tunnel).then_some((connections, sender));
                Ok(Sent { response, giving_back })
            }
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => SendError::Unsent(unsent),
                None => SendError::Broken(error.into_error()),
            }),
        }
    }

    async fn send_http2(
        &self,
        upstream: &Upstream,
        connections: &Connections,
        request: Request<Incoming>,
    ) -> Result<Sent, SendError> {
        connections.http2_used.set(Instant::now());
        let mut sender = {
            let mut shared = connections.http2.lock().await;
            let usable = match shared.as_mut() {
                Some(sender) => sender.ready().await.is_ok(),
                None => false,
            };
            match shared.as_ref().filter(|_| usable) {
                Some(sender) => sender.clone(),
                None => match self.connect_http2(upstream).await {
                    Ok(sender) => shared.insert(sender).clone(),
                    Err(error) => {
                        *shared = None;
                        return Err(SendError::Connect(error, request));
                    }
                },
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok(Sent { response, giving_back: None }),
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => SendError::Unsent(unsent),
                None => SendError::Broken(error.into_error()),
            }),
        }
    }

    /// A connection that will carry `protocol`.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else is there.
    pub async fn connect(&self, upstream: &Upstream, protocol: Protocol) -> io::Result<Counted> {
        let address = upstream.endpoint.address;
        let stream = match upstream.peer() {
            Some(peer) => self.connector.mesh(address, peer, protocol).await.inspect_err(|error| {
                if let Some(refusal) = Refusal::of_io(error) {
                    self.telemetry.refused(upstream.direction, &refusal);
                    info!(dst.addr = %address, reason = refusal.reason(), error = %refusal, "refused a peer");
                }
            })?,
            None => Stream::Tcp(self.connector.tcp(address).await?),
        };
        let labels = ConnectionLabels {
            direction: upstream.direction,
            side: Side::Destination,
            tls: upstream.tls.clone(),
            destination: Peer::of(&upstream.endpoint, upstream.service.as_ref()).map(Arc::new),
        };
        let lives = upstream.peer().map(|peer| self.live.begin(peer, stream.tcp()));
        Ok(Counted::new(stream, self.telemetry.connections(&labels), lives))
    }

    async fn connect_http1(&self, upstream: &Upstream) -> io::Result<http1::SendRequest<Incoming>> {
        let stream = TokioIo::new(self.connect(upstream, Protocol::Http1).await?);
        let handshake = http1::Builder::new().preserve_header_case(true).handshake(stream).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        // Ends with its connection; those who use it learn why.
        spawn_local(connection.with_upgrades().map(drop));
        Ok(sender)
    }

    async fn connect_http2(&self, upstream: &Upstream) -> io::Result<http2::SendRequest<Incoming>> {
        let stream = TokioIo::new(self.connect(upstream, Protocol::Http2).await?);
        let handshake = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        spawn_local(connection.map(drop));
        Ok(sender)
    }
}

impl Connections {
    /// An idle connection that can take a request now, the one last used first.
    fn idle(&self) -> Option<http1::SendRequest<Incoming>> {
        let mut idle = self.http1.borrow_mut();
        let now = Instant::now();
        idle.retain(|(since, sender)| !sender.is_closed() && now.saturating_duration_since(*since) < IDLE_TIMEOUT);
        let ready = idle.iter_mut().rposition(|(_, sender)| matches!(sender.ready().now_or_never(), Some(Ok(()))))?;
        Some(idle.remove(ready).1)
    }
}

/// Of an endpoint that is nowhere in the mesh.
pub fn foreign(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { address, pod: None, workload: None, identity: None })
}
