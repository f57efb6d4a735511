//! A data thread: everything that its connections share, and nothing that they share with other threads but snapshots.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use conduit_api::Target;
use conduit_ca::WorkloadTls;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinSet, spawn_local},
    time::{Instant, interval, sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    balance::Balancer,
    connect::Connector,
    destination::Destination,
    discovery::{Watched, client::Discovery},
    http::pool::Pool,
    io::Stream,
    live::{Denied, Live},
    original::OriginalDestination,
    tap::Taps,
    telemetry::{
        Direction, Telemetry, ThreadTelemetry, Tls,
        transport::{ConnectionLabels, Counted, Side},
    },
};

/// How long the first connection to a destination waits to be told what it is; then it goes where it was going.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// A destination that this thread has not used for so long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks for what is idle.
const SWEEP: Duration = Duration::from_secs(2);
/// After an accept that failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Connections may take so long to end when the proxy is told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a thread is made of; cloned for each.
#[derive(Clone)]
pub struct Setup {
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// Listeners of this proxy: no connection is ever forwarded to one of them.
    pub own_ports: [u16; 2],
    /// This proxy's certificate, and whom it trusts.
    pub tls: WorkloadTls,
    /// Makes connections.
    pub connector: Connector,
    /// Where redirected connections were going to.
    pub original: OriginalDestination,
    /// Follows destinations.
    pub discovery: Discovery,
    /// The running taps.
    pub taps: Taps,
    /// All counters.
    pub telemetry: Telemetry,
    /// Identities whose connections are closed.
    pub denied: watch::Receiver<Denied>,
    /// Numbers connections.
    pub connections: Arc<AtomicU32>,
    /// Becomes true when the proxy is told to stop.
    pub drain: watch::Receiver<bool>,
}

/// One thread's part of the proxy.
pub struct Worker {
    /// What all threads have.
    pub setup: Setup,
    /// This thread's counters.
    pub telemetry: Rc<ThreadTelemetry>,
    /// This thread's connections to endpoints.
    pub pool: Pool,
    /// This thread's connections with other proxies.
    live: Live,
    /// Upgraded connections, which have outlived the ones that they came from.
    tunnels: RefCell<JoinSet<()>>,
    followed: RefCell<HashMap<Target, Rc<Followed>>>,
}

/// A destination that this thread follows.
pub struct Followed {
    watched: RefCell<Watched>,
    current: RefCell<Arc<Destination>>,
    /// Over the endpoints of `current`.
    pub balancer: Rc<RefCell<Balancer>>,
    used: Cell<Instant>,
}

impl Followed {
    fn new(watched: Watched) -> Rc<Self> {
        let followed = Self {
            watched: RefCell::new(watched),
            current: RefCell::new(Arc::new(Destination::Unknown)),
            balancer: Rc::default(),
            used: Cell::new(Instant::now()),
        };
        followed.take_over();
        Rc::new(followed)
    }

    /// What it is now. The balancer is brought up to that first.
    pub fn destination(&self) -> Arc<Destination> {
        self.used.set(Instant::now());
        if self.watched.borrow().has_changed().unwrap_or(false) {
            self.take_over();
        }
        self.current.borrow().clone()
    }

    fn take_over(&self) {
        let Some(destination) = self.watched.borrow_mut().borrow_and_update().clone() else { return };
        if let Destination::Service(service) = &*destination {
            self.balancer.borrow_mut().update(Instant::now(), service.endpoints.keys());
        }
        self.current.replace(destination);
    }
}

impl Worker {
    /// To be made on its own thread.
    pub fn new(setup: Setup) -> Rc<Self> {
        let telemetry = Rc::new(setup.telemetry.thread());
        let live = Live::new(setup.denied.clone());
        let pool = Pool::new(setup.connector.clone(), telemetry.clone(), live.clone());
        Rc::new(Self { setup, telemetry, pool, live, tunnels: RefCell::default(), followed: RefCell::default() })
    }

    /// `stream` has come, for `direction`, and is secured by `tls`: from now on it counts.
    pub fn accepted(&self, direction: Direction, tls: Tls, stream: Stream) -> Counted {
        let lives = match &tls {
            Tls::Mutual(peer) => Some(self.live.begin(peer, stream.tcp())),
            Tls::NoIdentity | Tls::Loopback | Tls::Passthrough => None,
        };
        let labels = ConnectionLabels { direction, side: Side::Source, tls, destination: None };
        Counted::new(stream, self.telemetry.connections(&labels), lives)
    }

    /// Runs `tunnel` on this thread; the proxy waits for it when it is told to stop.
    pub fn tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.tunnels.borrow_mut().spawn_local(tunnel);
    }

    /// What `target` is, and from now on will be. The first time it waits for the control plane, but not for long.
    pub async fn follow(&self, target: &Target) -> Rc<Followed> {
        let known = self.followed.borrow().get(target).cloned();
        if let Some(followed) = known {
            return followed;
        }
        let mut watched = match self.setup.discovery.follow(target.clone()).await {
            Some(watched) => watched,
            None => watch::channel(Some(Arc::new(Destination::Unknown))).1,
        };
        let answered =
            timeout(FIRST_ANSWER, watched.wait_for(Option::is_some)).await.is_ok_and(|waited| waited.is_ok());
        if !answered {
            debug!(?target, "the control plane did not say what it is; it is forwarded as it is");
        }
        watched.mark_changed();
        let followed = Followed::new(watched);
        // Another connection may have been faster.
        self.followed.borrow_mut().entry(target.clone()).or_insert(followed).clone()
    }

    /// A number for a connection, for those who watch.
    pub fn number(&self) -> u32 {
        self.setup.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Where `stream` was going to; not back to this proxy.
    ///
    /// # Errors
    /// When that is unknown, or a loop.
    pub fn original(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let original = self.setup.original.of(stream)?;
        let own = original.ip() == self.setup.pod_ip || original.ip().is_loopback();
        if own && self.setup.own_ports.contains(&original.port()) {
            return Err(io::Error::other("the connection is for this proxy itself"));
        }
        Ok(original)
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.pool.sweep(now);
        while self.tunnels.borrow_mut().try_join_next().is_some() {}
        self.followed.borrow_mut().retain(|_, followed| {
            now.saturating_duration_since(followed.used.get()) < IDLE || Rc::strong_count(followed) > 1
        });
    }

    /// Serves both listeners until the proxy is told to stop, and then until the connections have ended.
    pub async fn run(self: Rc<Self>, outbound: TcpListener, inbound: TcpListener) {
        let mut drain = self.setup.drain.clone();
        let mut connections = JoinSet::new();
        let sweeper = spawn_local({
            let worker = self.clone();
            async move {
                let mut ticks = interval(SWEEP);
                loop {
                    ticks.tick().await;
                    worker.sweep();
                }
            }
        });
        let closer = spawn_local(self.live.clone().keep());
        loop {
            tokio::select! {
                accepted = outbound.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn_local(crate::outbound::serve(self.clone(), stream))),
                    Err(error) => pause(error).await,
                },
                accepted = inbound.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn_local(crate::inbound::serve(self.clone(), stream))),
                    Err(error) => pause(error).await,
                },
                Some(_) = connections.join_next() => {}
                _ = drain.wait_for(|draining| *draining) => break,
            }
        }
        drop((outbound, inbound));
        let mut tunnels = JoinSet::new();
        let ended = timeout(DRAIN_TIMEOUT, async {
            while connections.join_next().await.is_some() {}
            tunnels = self.tunnels.take();
            while tunnels.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            let (connections, tunnels) = (connections.len(), tunnels.len() + self.tunnels.borrow().len());
            warn!(connections, tunnels, "connections did not end in time");
        }
        sweeper.abort();
        closer.abort();
    }
}

async fn pause(error: io::Error) {
    warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}
