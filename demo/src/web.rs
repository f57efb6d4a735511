//! The page that people vote on, and the HTTP/1.1 API behind it.
//!
//! `GET /`, `/api/list`, `/api/vote?choice=:doughnut:`, `/api/leaderboard`. A backend that fails is answered with 500.

mod answer;
mod poll;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, StatusCode, Uri};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::{debug, warn};

use self::{answer::Answer, poll::Poll};
use crate::shutdown::Shutdown;

/// Connections at one time; further ones wait in the listener's backlog. Each costs some 20 KB.
const CONNECTIONS_MAX: usize = 1024;

/// After the listener could not accept, mostly because of too many open files: long enough for some to be closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Where the gRPC services are, as `name:port`.
#[derive(Clone, Debug)]
pub struct Backends {
    /// The emoji service.
    pub emoji: String,
    /// The voting service.
    pub voting: String,
}

/// Serves until the shutdown, and what is under way then.
///
/// # Errors
/// When a backend's address is not one.
pub async fn serve(listener: TcpListener, backends: &Backends, shutdown: Shutdown) -> anyhow::Result<()> {
    let poll = Arc::new(Poll::connect(backends)?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.clone().started() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, poll.clone(), shutdown.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    drop(listener);
    connections.join_all().await;
    Ok(())
}

async fn serve_connection(stream: TcpStream, poll: Arc<Poll>, shutdown: Shutdown) {
    // Small answers must not wait for the previous one's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let answer = service_fn(|request: Request<Incoming>| {
        let poll = poll.clone();
        async move { Ok::<_, Infallible>(route(&request, &poll).await.into_response()) }
    });
    let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.started() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "a connection broke");
    }
}

async fn route(request: &Request<Incoming>, poll: &Poll) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET is understood here");
    }
    match request.uri().path() {
        "/" => Answer::page(include_str!("web/page.html")),
        "/api/list" => poll.list().await,
        "/api/vote" => match choice(request.uri()) {
            Some(shortcode) => poll.vote(&shortcode).await,
            None => Answer::refusal(StatusCode::BAD_REQUEST, "say what to vote for: /api/vote?choice=:doughnut:"),
        },
        "/api/leaderboard" => poll.leaderboard().await,
        _ => Answer::refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// The value of `choice` in the query. Browsers write the colons of a shortcode as `%3A`.
fn choice(uri: &Uri) -> Option<String> {
    let parameter =
        |pair: &str| pair.strip_prefix("choice=").map(|value| value.replace("%3A", ":").replace("%3a", ":"));
    uri.query()?.split('&').find_map(parameter).filter(|shortcode| !shortcode.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_read_from_the_query() {
        for (uri, expected) in [
            ("/api/vote?choice=:doughnut:", Some(":doughnut:")),
            ("/api/vote?a=b&choice=%3Adoughnut%3a", Some(":doughnut:")),
            ("/api/vote?choice=", None),
            ("/api/vote?choices=:doughnut:", None),
            ("/api/vote", None),
        ] {
            assert_eq!(choice(&uri.parse().unwrap()).as_deref(), expected, "{uri}");
        }
    }
}
