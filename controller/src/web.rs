//! `web`: the dashboard's pages in Kubernetes, for people who come through the API server.
//!
//! ```text
//!   browser ── kubectl proxy ──► API server ── …/services/web:http/proxy/ ──► this: pages, the same for everybody
//!                                           ── …/v1alpha1/watch/stat ───────► api: who asks, and whether they may, is known
//! ```
//!
//! So no password, token or right of anybody comes here, and there is nothing to sign in to.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use conduit_api::access;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tracing::debug;

use crate::serve::accept;

/// Whoever does not finish a request's head is let go, and whoever asks nothing more.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// All that a browser asks for is there long before.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// At once: API servers keep a few, and whoever else comes asks for six files.
const CONNECTIONS_MAX: usize = 64;

const ADVICE: &str = "this port has nothing but pages, which ask the cluster's API server: open them through `kubectl proxy`, at \
                      /api/v1/namespaces/NAMESPACE/services/web:http/proxy/ of its address, or run `conduit dashboard`";

/// Serves the pages of the control plane in `namespace` until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, namespace: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let (pages, free) = (pages(namespace), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    tokio::spawn(async move {
        loop {
            let Some((stream, _)) = accept(&listener).await else { continue };
            let Ok(place) = free.clone().try_acquire_owned() else { continue };
            let service = TowerToHyperService::new(pages.clone());
            tokio::spawn(async move {
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                // Whoever reads slowly is let go as well.
                let served = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(stream), service)).await;
                if let Ok(Err(error)) = served {
                    debug!(%error, "a connection to the pages ended");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

fn pages(namespace: &str) -> Router {
    // Up from `/api/v1/namespaces/NAMESPACE/services/web:http/proxy/`, whatever is in front of that.
    let up = "../".repeat(7);
    let api = access::base(namespace);
    conduit_dashboard::pages(&format!("{up}{}/watch/", api.trim_start_matches('/')), ADVICE)
}
