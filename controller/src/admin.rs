//! `/live`, `/ready` and `/metrics`, for the one who runs the replica.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_ca::lifetime;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{net::TcpListener, time::sleep};
use tracing::warn;

use crate::{peer::server::Own, propose::unix_ms};

/// A client that does not finish its request head is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, own: Own, ready: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let admin = Arc::new(Admin { own, ready: Box::new(ready) });
    tokio::spawn(async move {
        loop {
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let admin = admin.clone();
                    async move { Ok::<_, Infallible>(admin.answer(&request)) }
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

struct Admin {
    own: Own,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Role {
    role: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Root {
    root: String,
    state: String,
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/live" | "/ping" => text(StatusCode::OK, "live\n"),
            "/ready" if (self.ready)() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => match self.metrics() {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "not found; there are /live, /ready and /metrics\n"),
        }
    }

    /// Everything is read off at the scrape: nothing is counted twice, in two places.
    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("conduit_controller");
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        };
        let status = self.own.cluster.status().borrow().clone();
        gauge("raft_term", "Raft's current term", status.term);
        gauge("raft_applied_index", "Last log index applied to the state", status.applied_index);
        gauge("raft_last_log_index", "Last log index in this replica's log", status.last_log_index);
        gauge("raft_has_leader", "Whether this replica knows a leader", status.leader.is_some().into());
        let state = self.own.cluster.state().borrow().clone();
        gauge("discovery_revision", "Revision of the discovery state served", state.revision().as_u64());
        gauge("discovery_streams", "Proxies connected to this replica", self.own.registry.len() as u64);
        gauge(
            "telemetry_dropped_rows",
            "Rows of reports dropped for their number",
            self.own.telemetry.lock().dropped_rows(),
        );
        let expiry = |ms: u64| i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        let issuer = self.own.issuer.load_full().map_or(0, |issuer| unix_ms(issuer.not_after()));
        gauge(
            "issuer_expiry_timestamp_seconds",
            "When this replica's issuing certificate expires, since the Unix epoch; 0 while there is none",
            issuer / 1000,
        );
        let clock_offset: Gauge = Gauge::default();
        clock_offset.set(self.own.clock.offset_ms());
        let help = "How far this replica's clock is ahead of the one in the middle, in milliseconds";
        registry.register("clock_offset_milliseconds", help, clock_offset);
        let roots = Family::<Root, Gauge>::default();
        for record in state.ca().iter().flat_map(|ca| &ca.roots) {
            let not_after = lifetime(&record.root.certificate).map_or(0, |(_, not_after)| unix_ms(not_after));
            let labels = Root { root: record.root.id.to_string(), state: record.state.to_string() };
            roots.get_or_create(&labels).set(expiry(not_after));
        }
        let help = "When a trust root expires, since the Unix epoch";
        registry.register("trust_root_expiry_timestamp_seconds", help, roots);
        self.own.identity_metrics.register(&mut registry);
        self.own.refusals.register(&mut registry);
        let role = Family::<Role, Gauge>::default();
        role.get_or_create(&Role { role: status.role.to_string() }).set(1);
        registry.register("raft_role", "This replica's role in Raft", role);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
