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
use tokio::{sync::Mutex, time::Instant};
use tracing::info;

use super::{
    Protocol,
    h2::{self, Line},
};
use crate::{
    buffered::Buffered,
    connect::{Connector, Upstream},
    io::Stream,
    live::Live,
    telemetry::{
        self, Layer, ThreadTelemetry,
        transport::{ConnectionLabels, Counted, Side},
    },
};

/// Idle HTTP/1 connections to one endpoint: as many as there were requests at once, for as long as they may be idle.
const IDLE_MAX: usize = 1024;
/// Less than the five seconds after which common servers close an idle connection: one that is reused just then fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// A connection to another proxy costs a handshake, and is not closed over there before it is here.
const IDLE_TIMEOUT_MESH: Duration = Duration::from_secs(60);
/// HTTP/2 connections to one endpoint: another one is made when the others carry as many requests as the server allows.
const HTTP2_CONNECTIONS_MAX: usize = 64;

/// The connections of one thread.
pub struct Pool {
    connector: Connector,
    telemetry: Rc<ThreadTelemetry>,
    live: Live,
    endpoints: RefCell<HashMap<Peer, Rc<Connections>>>,
}

/// Where, and who must be there.
type Peer = (SocketAddr, Option<SpiffeId>);

/// To one endpoint, which proved to be `identity`.
pub struct Connections {
    /// Requests.
    pub unanswered: Cell<usize>,
    identity: Option<SpiffeId>,
    http1: RefCell<Vec<(Instant, Buffered)>>,
    http2: RefCell<Vec<Http2>>,
    /// Held while a connection is made, so that requests which come meanwhile share it.
    http2_making: Mutex<()>,
    http2_used: Cell<Instant>,
    /// When one could not be made.
    http2_failed: Cell<Option<Instant>>,
}

/// One that many requests share.
struct Http2 {
    line: Rc<Line>,
    /// When the certificates expire that it was made with.
    until: Option<Instant>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        // It ends with the requests that are still under way.
        self.line.close();
    }
}

impl Pool {
    /// Without connections.
    pub fn new(connector: Connector, telemetry: Rc<ThreadTelemetry>, live: Live) -> Self {
        Self { connector, telemetry, live, endpoints: RefCell::default() }
    }

    /// To `upstream`. An endpoint whose address has passed to somebody else has other ones.
    pub fn connections(&self, upstream: &Upstream) -> Rc<Connections> {
        let key = (upstream.endpoint.address, upstream.peer().cloned());
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(connections) = endpoints.get(&key) {
            return connections.clone();
        }
        let connections = Rc::new(Connections {
            unanswered: Cell::default(),
            identity: upstream.peer().cloned(),
            http1: RefCell::default(),
            http2: RefCell::default(),
            http2_making: Mutex::default(),
            http2_used: Cell::new(Instant::now()),
            http2_failed: Cell::default(),
        });
        endpoints.insert(key, connections.clone());
        connections
    }

    /// Forgets connections that nobody has used for a while.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, connections| {
            let (patience, mut http1) = (connections.patience(), connections.http1.borrow_mut());
            http1.retain(|(since, _)| now.saturating_duration_since(*since) < patience);
            let mut http2 = connections.http2.borrow_mut();
            if now.saturating_duration_since(connections.http2_used.get()) >= IDLE_TIMEOUT_MESH {
                http2.clear();
            }
            !http1.is_empty() || !http2.is_empty() || Rc::strong_count(connections) > 1
        });
    }

    /// A connection that will carry `protocol`.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else is there.
    pub async fn connect(&self, upstream: &Upstream, protocol: Protocol) -> io::Result<Counted> {
        let address = upstream.endpoint.address;
        let (stream, until) = match upstream.peer() {
            Some(peer) => self
                .connector
                .mesh(address, peer, protocol)
                .await
                .map(|(stream, until)| (stream, Some(until)))
                .inspect_err(|error| {
                    if let Some(refusal) = Refusal::of_io(error) {
                        self.telemetry.refused(upstream.direction, Layer::Tls, refusal.reason());
                        info!(dst.addr = %address, reason = refusal.reason(), error = %refusal, "refused a peer");
                    }
                })?,
            None => (Stream::Tcp(self.connector.tcp(address).await?), None),
        };
        let labels = ConnectionLabels {
            direction: upstream.direction,
            side: Side::Destination,
            tls: upstream.tls.clone(),
            destination: telemetry::Peer::of(&upstream.endpoint, upstream.service.as_ref()).map(Arc::new),
        };
        let lives = upstream.peer().map(|peer| self.live.begin(peer, stream.tcp()));
        Ok(Counted::new(stream, self.telemetry.connections(&labels), lives, until))
    }

    /// One for a request over HTTP/2, made if there is none. It must not be given up halfway: others wait for it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn http2(&self, upstream: &Upstream, connections: &Connections) -> io::Result<Rc<Line>> {
        let since = Instant::now();
        let _making = connections.http2_making.lock().await;
        if let Some(line) = connections.http2() {
            return Ok(line);
        }
        // Whoever waited for an attempt that failed has failed as well.
        if connections.http2_failed.get().is_some_and(|failed| failed >= since) {
            return Err(io::Error::other("the connection that it waited for could not be made"));
        }
        let made = self.connect_http2(upstream).await.inspect_err(|_| {
            connections.http2_failed.set(Some(Instant::now()));
        })?;
        let line = made.line.clone();
        connections.http2.borrow_mut().push(made);
        Ok(line)
    }

    async fn connect_http2(&self, upstream: &Upstream) -> io::Result<Http2> {
        let stream = self.connect(upstream, Protocol::Http2).await?;
        let until = stream.until();
        Ok(Http2 { line: h2::client(stream, upstream.peer().is_some()), until })
    }
}

impl Connections {
    /// An idle connection that can take a request now, the one last used first: the others may be closed sooner. `surely` asks the
    /// kernel whether it is open, which costs a system call.
    pub fn idle(&self, surely: bool) -> Option<Buffered> {
        let mut idle = self.http1.borrow_mut();
        while let Some((since, mut connection)) = idle.pop() {
            // Those below were used even earlier.
            if since.elapsed() >= self.patience() {
                idle.clear();
            } else if connection.counted().is_current() && connection.is_quiet(surely) {
                return Some(connection);
            }
        }
        None
    }

    /// `connection` is free for another request.
    pub fn give_back(&self, mut connection: Buffered) {
        // It may be idle for a minute.
        connection.input.release();
        let mut idle = self.http1.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push((Instant::now(), connection));
        }
    }

    fn patience(&self) -> Duration {
        if self.identity.is_some() { IDLE_TIMEOUT_MESH } else { IDLE_TIMEOUT }
    }

    /// The one with the fewest requests, if it has room for another, or there must not be more: then the request waits in it until
    /// the server has finished one.
    pub fn http2(&self) -> Option<Rc<Line>> {
        let now = Instant::now();
        self.http2_used.set(now);
        let mut connections = self.http2.borrow_mut();
        connections.retain(|connection| connection.until.is_none_or(|until| until > now) && connection.line.is_open());
        let idlest = connections.iter().min_by_key(|connection| connection.line.requests())?;
        let has_room = idlest.line.requests() < idlest.line.requests_max();
        (has_room || connections.len() >= HTTP2_CONNECTIONS_MAX).then(|| idlest.line.clone())
    }
}

/// Of an endpoint that is nowhere in the mesh.
pub fn foreign(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { address, pod: None, workload: None, identity: None, zone: None })
}
