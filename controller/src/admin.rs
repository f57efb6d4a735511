//! `/live`, `/ready` and `/metrics`, for the one who runs the replica.

mod format;
pub mod metrics;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_api::exposition::Format;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::{peer::server::Own, serve::accept};

/// A client that does not finish its request head is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, own: Own, ready: impl Fn() -> bool + Send + Sync + 'static) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let admin = Arc::new(Admin { own, ready: Box::new(ready) });
    tokio::spawn(async move {
        loop {
            let Some((stream, _)) = accept(&listener).await else { continue };
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

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/live" | "/ping" => text(StatusCode::OK, "live\n"),
            "/ready" if (self.ready)() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => self.metrics(Format::accepted(request.headers())),
            _ => text(StatusCode::NOT_FOUND, "not found; there are /live, /ready and /metrics\n"),
        }
    }

    fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        match metrics::scrape(&self.own, format) {
            Ok(metrics) => {
                let mut response = text(StatusCode::OK, metrics);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
