//! A data thread: everything that its connections share, and nothing that they share with other threads but snapshots.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use conduit_api::{Endpoint, PortRange, Target};
use conduit_ca::WorkloadTls;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinSet, spawn_local},
    time::{Instant, interval, sleep, timeout},
};
use tracing::warn;

use crate::{
    alike::Alike,
    balance::Balancer,
    buffer::{self, Buffer},
    buffered::Buffered,
    callers::Callers,
    connect::Connector,
    destination::Destination,
    discovery::{Watched, Zone, client::Discovery},
    http::{exchange::Hop, pool::Pool},
    io::Stream,
    journal::Journal,
    listeners::Listeners,
    live::{Denied, Live},
    original::OriginalDestination,
    tap::Taps,
    telemetry::{
        Direction, Meant, OTHER, Telemetry, ThreadTelemetry, Tls,
        transport::{ConnectionLabels, Counted, Side},
    },
    turns::Turns,
};

/// How long the first connection to a destination waits to be told what it is while no replica is there; then it goes where it was
/// going, ...
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// ... and while one is there, which is slow: in plaintext to where mutual TLS is spoken is worse than late.
const SLOW_ANSWER: Duration = Duration::from_secs(4);
/// Between two times that this is said: an application may ask for as many addresses as it likes.
const UNANSWERED_SAID: Duration = Duration::from_secs(10);
/// A destination that this thread has not used for so long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks for what is idle.
const SWEEP: Duration = Duration::from_secs(2);
/// After an accept that failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Names that TLS clients ask for, which anybody can make up, and which must leave room for what is counted otherwise.
const SERVER_NAMES_MAX: usize = 100;
/// When the proxy is told to stop, and nothing has been under way for so long, its application has gone, or is not asked any more: who
/// still knows its address has been told by then.
const QUIET: Duration = Duration::from_millis(500);
/// Between two looks whether it is quiet.
const QUIET_LOOK: Duration = Duration::from_millis(20);
/// After this it stops all the same: Kubernetes kills a pod after 30 seconds, if nobody says otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// What a thread is made of; cloned for each.
#[derive(Clone)]
pub struct Setup {
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// Listeners of this proxy: no connection is ever forwarded to one of them.
    pub own_ports: [u16; 2],
    /// Ports of the application whose connections are carried as bytes, whatever they look like.
    pub opaque_ports: Arc<[PortRange]>,
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
    /// What writes requests down one by one, if anything does.
    pub journal: Option<Arc<Journal>>,
    /// Identities whose connections are closed.
    pub denied: watch::Receiver<Denied>,
    /// Where this proxy runs.
    pub zone: watch::Receiver<Zone>,
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
    /// Handshakes of other proxies with this one, which anybody may begin.
    pub handshakes: Turns,
    /// Which clients are other proxies.
    pub callers: Callers,
    /// This thread's connections with other proxies.
    live: Live,
    /// Connections that wait for a request, by number, to be told when the proxy is to stop.
    waiting: RefCell<HashMap<u32, Waker>>,
    /// What is under way.
    busy: Cell<usize>,
    /// When something last was.
    busy_until: Cell<Instant>,
    followed: RefCell<HashMap<Target, Rc<Followed>>>,
    /// When it was said last that one of them is not known.
    unanswered_said: Cell<Option<Instant>>,
    /// Names that TLS clients have asked for, and that are counted by themselves.
    server_names: RefCell<HashSet<Arc<str>>>,
}

/// Something is under way as long as this is there.
pub struct Busy(Rc<Worker>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.busy_until.set(Instant::now());
    }
}

/// A connection that may wait for its client to say something.
pub struct Idle {
    worker: Rc<Worker>,
    connection: u32,
    is_watched: Cell<bool>,
}

impl Idle {
    /// The task that polls this is woken when the proxy is told to stop. It is always the same one.
    pub fn watch(&self, cx: &Context<'_>) {
        if !self.is_watched.replace(true) {
            self.worker.waiting.borrow_mut().insert(self.connection, cx.waker().clone());
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.worker.waiting.borrow_mut().remove(&self.connection);
    }
}

/// A destination that this thread follows.
pub struct Followed {
    watched: RefCell<Watched>,
    zone: RefCell<watch::Receiver<Zone>>,
    current: RefCell<Arc<Destination>>,
    /// Over the endpoints of `current`.
    pub balancer: Rc<RefCell<Balancer>>,
    /// What requests that go to it have in common.
    hops: RefCell<Alike<Rc<Hop>>>,
    /// What requests for it are counted by, in the order of [`Routes::meant`](crate::route::Routes::meant). Of this thread alone, so that no request
    /// writes to what other threads read; and kept over updates, so that it is compared by its place.
    meant: RefCell<Vec<Rc<Meant>>>,
    used: Cell<Instant>,
}

impl Followed {
    fn new(watched: Watched, zone: watch::Receiver<Zone>) -> Rc<Self> {
        let followed = Self {
            watched: RefCell::new(watched),
            zone: RefCell::new(zone),
            current: RefCell::new(Arc::new(Destination::Unknown)),
            balancer: Rc::default(),
            hops: RefCell::default(),
            meant: RefCell::default(),
            used: Cell::new(Instant::now()),
        };
        followed.take_over();
        Rc::new(followed)
    }

    /// What it is now. The balancer is brought up to that first.
    pub fn destination(&self) -> Arc<Destination> {
        self.used.set(Instant::now());
        if self.watched.borrow().has_changed().unwrap_or(false) || self.zone.borrow().has_changed().unwrap_or(false) {
            self.take_over();
        }
        self.current.borrow().clone()
    }

    /// What requests are counted by that `choose` of its routes has said the place of; none where it is no service.
    pub fn meant(&self, at: usize) -> Option<Rc<Meant>> {
        self.meant.borrow().get(at).cloned()
    }

    /// What requests for `authority` that mean `meant` and go to `endpoint` have in common; made by `make` when they are the first.
    pub fn hop(
        &self,
        authority: &str,
        meant: Option<&Rc<Meant>>,
        endpoint: &Arc<Endpoint>,
        make: impl FnOnce() -> Rc<Hop>,
    ) -> Rc<Hop> {
        let mut hops = self.hops.borrow_mut();
        let same = hops.of(authority, meant);
        if let Some(hop) = same.get(&endpoint.address)
            && (Arc::ptr_eq(&hop.upstream.endpoint, endpoint) || hop.upstream.endpoint == *endpoint)
        {
            return hop.clone();
        }
        let hop = make();
        same.insert(endpoint.address, hop.clone());
        hop
    }

    fn take_over(&self) {
        let Some(destination) = self.watched.borrow_mut().borrow_and_update().clone() else { return };
        self.hops.borrow_mut().clear();
        let zone = self.zone.borrow_mut().borrow_and_update().clone();
        if let Destination::Service(service) = &*destination {
            let is_near = |endpoint: &Endpoint| zone.is_some() && endpoint.zone.as_deref() == zone.as_deref();
            let endpoints = service.endpoints.iter().map(|(address, endpoint)| (*address, is_near(endpoint)));
            self.balancer.borrow_mut().update(Instant::now(), service.balancing, endpoints);
            renew(&mut self.meant.borrow_mut(), service.routes.meant());
        }
        self.current.replace(destination);
    }
}

/// Makes `known` what is meant now; what is as it was stays where it is.
fn renew(known: &mut Vec<Rc<Meant>>, now: &[Meant]) {
    let before = std::mem::take(known);
    let kept = |meant: &Meant| before.iter().find(|known| ***known == *meant).cloned();
    known.extend(now.iter().map(|meant| kept(meant).unwrap_or_else(|| Rc::new(meant.clone()))));
}

impl Worker {
    /// To be made on its own thread.
    pub fn new(setup: Setup) -> Rc<Self> {
        let telemetry = Rc::new(setup.telemetry.thread());
        let live = Live::new(setup.denied.clone());
        let pool = Pool::new(setup.connector.clone(), telemetry.clone(), live.clone());
        Rc::new(Self {
            setup,
            telemetry,
            pool,
            handshakes: Turns::default(),
            callers: Callers::default(),
            live,
            waiting: RefCell::default(),
            busy: Cell::new(0),
            busy_until: Cell::new(Instant::now()),
            followed: RefCell::default(),
            unanswered_said: Cell::new(None),
            server_names: RefCell::default(),
        })
    }

    /// `stream` has come, for `direction`, and is secured by `tls`; `input` was read of it. From now on it counts.
    pub fn accepted(&self, direction: Direction, tls: Tls, stream: Stream, input: Buffer) -> Buffered {
        let lives = match &tls {
            Tls::Mutual(peer) => Some(self.live.begin(peer, stream.tcp())),
            Tls::NoIdentity | Tls::Loopback | Tls::Passthrough(_) => None,
        };
        let labels = ConnectionLabels { direction, side: Side::Source, tls, destination: None };
        Buffered::new(Counted::new(stream, self.telemetry.connections(&labels), lives, None), input)
    }

    /// How a connection is counted that is TLS of the application's own: by the name that its client asks for, as long as there are few.
    pub fn passthrough(&self, server_name: Option<String>) -> Tls {
        let mut known = self.server_names.borrow_mut();
        Tls::Passthrough(server_name.map(|name| match known.get(name.as_str()) {
            Some(name) => name.clone(),
            None if known.len() >= SERVER_NAMES_MAX => OTHER.into(),
            None => {
                let name = Arc::<str>::from(name);
                known.insert(name.clone());
                name
            }
        }))
    }

    /// For the connection numbered `connection`.
    pub fn idle(self: &Rc<Self>, connection: u32) -> Idle {
        Idle { worker: self.clone(), connection, is_watched: Cell::new(false) }
    }

    /// Something begins: the proxy does not stop before it has ended.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(self.clone())
    }

    /// The proxy is told to stop.
    pub fn is_draining(&self) -> bool {
        *self.setup.drain.borrow()
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
        let mut answered = async |patience| {
            timeout(patience, watched.wait_for(Option::is_some)).await.is_ok_and(|waited| waited.is_ok())
        };
        let is_answered = answered(FIRST_ANSWER).await
            || self.setup.discovery.is_connected() && answered(SLOW_ANSWER.saturating_sub(FIRST_ANSWER)).await;
        if !is_answered && self.unanswered_said.get().is_none_or(|said| said.elapsed() >= UNANSWERED_SAID) {
            self.unanswered_said.set(Some(Instant::now()));
            warn!(
                ?target,
                "the control plane did not say what it is; connections to it go on as they are, in plaintext"
            );
        }
        watched.mark_changed();
        let followed = Followed::new(watched, self.setup.zone.clone());
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
        // One that nobody has redirected has come to the listener itself, at whatever address of the pod.
        if (own && self.setup.own_ports.contains(&original.port())) || original == stream.local_addr()? {
            return Err(io::Error::other("the connection is for this proxy itself"));
        }
        Ok(original)
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.pool.sweep(now);
        buffer::trim();
        self.followed.borrow_mut().retain(|_, followed| {
            now.saturating_duration_since(followed.used.get()) < IDLE || Rc::strong_count(followed) > 1
        });
    }

    /// Serves both listeners until the proxy is told to stop, and then until the connections have ended.
    pub async fn run(self: Rc<Self>, outbound: Listeners, inbound: Listeners) {
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
        let mut is_leaving = false;
        let leave = self.clone().leave();
        tokio::pin!(leave);
        loop {
            tokio::select! {
                accepted = outbound.accept() => match accepted {
                    Ok(stream) => drop(connections.spawn_local(crate::outbound::serve(self.clone(), stream))),
                    Err(error) => pause(error).await,
                },
                accepted = inbound.accept() => match accepted {
                    Ok(stream) => drop(connections.spawn_local(crate::inbound::serve(self.clone(), stream))),
                    Err(error) => pause(error).await,
                },
                Some(_) = connections.join_next() => {}
                // Connections are still accepted: not everybody knows yet that this pod is going.
                _ = drain.wait_for(|draining| *draining), if !is_leaving => is_leaving = true,
                () = &mut leave, if is_leaving => break,
            }
        }
        sweeper.abort();
        closer.abort();
    }
}

impl Worker {
    /// Tells whoever waits that the proxy is to stop, and returns when nothing is under way any more.
    async fn leave(self: Rc<Self>) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_values().for_each(Waker::wake);
        let since = Instant::now();
        while self.busy.get() > 0 || self.busy_until.get().max(since).elapsed() < QUIET {
            if since.elapsed() > DRAIN_TIMEOUT {
                warn!(under_way = self.busy.get(), "what is under way did not end in time");
                return;
            }
            sleep(QUIET_LOOK).await;
        }
    }
}

async fn pause(error: io::Error) {
    warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_requests_are_counted_by_stays_where_it_is() {
        let meant = |route: &str| Meant { route: route.to_owned(), ..Meant::default() };
        let mut known = Vec::new();
        renew(&mut known, &[meant(""), meant("gone"), meant("stays")]);
        let before = known.clone();
        renew(&mut known, &[meant(""), meant("stays"), meant("new")]);
        assert!(Rc::ptr_eq(&known[0], &before[0]) && Rc::ptr_eq(&known[1], &before[2]));
        assert_eq!(known.iter().map(|meant| meant.route.as_str()).collect::<Vec<_>>(), ["", "stays", "new"]);
    }
}
