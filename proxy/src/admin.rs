//! `/live`, `/ready`, `/metrics`, `/identity` and `/shutdown`, on the control thread: a scrape never touches a request.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use conduit_api::{
    exposition::Format,
    process::{Account, Measure},
};
use conduit_ca::{WorkloadTls, bundle::to_pem};
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::spawn_local,
    time::sleep,
};
use tracing::warn;

use crate::{
    discovery::client::DiscoveryStatus,
    journal::Counts,
    telemetry::{Telemetry, prometheus},
};

/// A client that does not finish its request head is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What it tells of.
pub struct Admin {
    /// Has this proxy an identity?
    pub tls: WorkloadTls,
    /// Does it know the mesh?
    pub discovery: Arc<ArcSwap<DiscoveryStatus>>,
    /// What has it counted?
    pub telemetry: Telemetry,
    /// What became of what it has written down?
    pub journal: Option<Arc<Counts>>,
    /// Is it about to end?
    pub drain: watch::Receiver<bool>,
    /// Told when the application says that it has ended.
    pub stop: Rc<Notify>,
    /// When this process was started.
    pub started: SystemTime,
}

impl Admin {
    /// Serves until the proxy ends.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let admin = Rc::new(self);
        spawn_local(async move {
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let admin = admin.clone();
                spawn_local(async move {
                    let service = service_fn(move |request| {
                        let admin = admin.clone();
                        async move { Ok::<_, Infallible>(admin.answer(&request, peer)) }
                    });
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                    // The client went away.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let discovery = self.discovery.load();
        self.tls.identity().is_some() && (discovery.answered || discovery.stale) && !*self.drain.borrow()
    }

    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        match request.uri().path() {
            // The last act of a Job, whose pod ends when its proxy has.
            "/shutdown" if request.method() != Method::POST => text(StatusCode::METHOD_NOT_ALLOWED, "POST it\n"),
            "/shutdown" if !peer.ip().to_canonical().is_loopback() => {
                text(StatusCode::FORBIDDEN, "only the application beside this proxy may end it\n")
            }
            "/shutdown" => {
                self.stop.notify_one();
                text(StatusCode::OK, "ending when nothing is under way\n")
            }
            "/live" | "/ping" => text(StatusCode::OK, "live\n"),
            "/ready" if self.is_ready() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => {
                let (requests, connections) = (self.telemetry.requests(), self.telemetry.connections());
                let format = Format::accepted(request.headers());
                let metrics =
                    prometheus::render(format, &requests, &connections, &self.telemetry.refusals(), &self.own());
                let mut response = text(StatusCode::OK, metrics);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
                response
            }
            "/identity" => text(StatusCode::OK, to_pem(&self.tls.chain())),
            _ => text(StatusCode::NOT_FOUND, "not found; there are /live, /ready, /metrics, /identity and /shutdown\n"),
        }
    }

    /// What the proxy says of itself.
    fn own(&self) -> Vec<Measure> {
        let discovery = **self.discovery.load();
        let expiry = self.tls.identity().and_then(|i| i.not_after.duration_since(SystemTime::UNIX_EPOCH).ok());
        let gauge = |name, help, value| Measure { name, is_counter: false, help, value };
        let flag = |name, help, value| gauge(name, help, f64::from(u8::from(value)));
        let mut own = vec![
            flag("conduit_proxy_ready", "Whether traffic may be sent here.", self.is_ready()),
            flag(
                "conduit_proxy_discovery_connected",
                "Whether a replica of the control plane is connected; if not, the last state is in force.",
                discovery.connected,
            ),
            flag(
                "conduit_proxy_discovery_stale",
                "Whether what is in force was known before this proxy started, and no replica has confirmed it since.",
                discovery.stale,
            ),
            gauge(
                "conduit_proxy_discovery_revision",
                "Revision of the discovery state in force.",
                discovery.revision.as_u64() as f64,
            ),
            gauge(
                "identity_cert_expiration_timestamp_seconds",
                "When this proxy's certificate expires, since the Unix epoch.",
                expiry.map_or(0.0, |expiry| expiry.as_secs_f64()),
            ),
        ];
        own.extend(self.journal.iter().flat_map(|counts| counts.measures()));
        own.extend(process(self.started));
        own
    }
}

/// What this process uses.
fn process(started: SystemTime) -> Vec<Measure> {
    let read = |name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let account = Account {
        stat: &read("stat"),
        status: &read("status"),
        limits: &read("limits"),
        open_fds: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
        started_seconds: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
    };
    account.measures()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
