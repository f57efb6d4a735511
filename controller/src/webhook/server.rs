//! The shell of the webhook: HTTPS for the API server, which asks any replica.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use conduit_inject::{Annotations, Settings};
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{Answer, Review};
use crate::serve::Connections;

/// The API server takes no object of more than three megabytes, and wraps it.
const REVIEW_BYTES_MAX: usize = 4 << 20;
/// A client that does not finish its request head is let go.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The API server waits five seconds, and then goes on without a proxy.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(4);
/// At once, of anybody: each may have a review in memory. API servers keep a few.
const CONNECTIONS_MAX: usize = 64;

/// What is reviewed, by the path that it is posted to.
#[derive(Clone, Copy)]
enum About {
    Pod,
    Route,
    Objective,
}

impl About {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "a pod that may want a proxy",
            Self::Route => "a route",
            Self::Objective => "an objective",
        }
    }
}

/// Answers reviews.
pub struct Webhook {
    client: Client,
    settings: PathBuf,
}

impl Webhook {
    /// Adds proxies as the file `settings` says, which is read anew for each pod: it is short, and may change.
    pub fn new(client: Client, settings: &Path) -> Self {
        Self { client, settings: settings.to_owned() }
    }

    /// Serves `connections` until there are no more.
    pub async fn serve(self, mut connections: Connections) {
        let (webhook, free) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        while let Some(connection) = connections.next().await {
            // More than the API server has are somebody else's, and are closed.
            let (Ok(connection), Ok(permit)) = (connection, free.clone().try_acquire_owned()) else { continue };
            let webhook = webhook.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let service = service_fn(|request| {
                    let webhook = webhook.clone();
                    async move { Ok::<_, Infallible>(webhook.respond_in_time(request).await) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                if let Err(error) = http.serve_connection(TokioIo::new(connection), service).await {
                    debug!(%error, "a connection to the webhook ended");
                }
            });
        }
    }

    async fn respond_in_time(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let response = timeout(RESPONSE_TIMEOUT, self.respond(request)).await;
        response.unwrap_or_else(|_| status(StatusCode::REQUEST_TIMEOUT, "the review did not come in time".to_owned()))
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let about = match (request.method(), request.uri().path()) {
            (&Method::POST, "/inject") => About::Pod,
            (&Method::POST, "/routes") => About::Route,
            (&Method::POST, "/objectives") => About::Objective,
            _ => {
                let there = "there are POST /inject, POST /routes and POST /objectives";
                return status(StatusCode::NOT_FOUND, there.to_owned());
            }
        };
        let Ok(body) = Limited::new(request.into_body(), REVIEW_BYTES_MAX).collect().await else {
            return status(StatusCode::PAYLOAD_TOO_LARGE, format!("no more than {REVIEW_BYTES_MAX} bytes are read"));
        };
        match self.review(about, &body.to_bytes()).await {
            Ok(answer) => {
                let body = serde_json::to_vec(&answer).expect("it is text and lists of it");
                let mut response = Response::new(Full::from(body));
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => {
                // By its failure policy, the API server goes on as if nobody had been asked.
                warn!(error = %format_args!("{error:#}"), "{} was not looked at", about.name());
                status(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
            }
        }
    }

    async fn review(&self, about: About, body: &[u8]) -> anyhow::Result<Answer> {
        let review: Review =
            serde_json::from_slice(body).context("this is no AdmissionReview of admission.k8s.io/v1")?;
        match about {
            About::Route => Ok(review.answer_about_route()),
            About::Objective => Ok(review.answer_about_objective()),
            About::Pod => {
                let settings = settings(&self.settings)?;
                let namespace = self.annotations(&review.request.namespace).await?;
                Ok(review.answer(&namespace, &settings))
            }
        }
    }

    /// Asked for each time: who annotates a namespace expects the next pod in it to be another one.
    async fn annotations(&self, namespace: &str) -> anyhow::Result<Annotations> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let metadata = timeout(NAMESPACE_TIMEOUT, namespaces.get_metadata(namespace)).await;
        let metadata = metadata.context("no answer in time").and_then(|found| Ok(found?));
        let metadata = metadata.with_context(|| format!("cannot read the namespace {namespace}"))?;
        Ok(metadata.metadata.annotations.unwrap_or_default())
    }
}

/// How proxies are made, as it is now: the file is a mounted ConfigMap, which changes.
///
/// # Errors
/// When it cannot be read, or says what cannot be.
pub fn settings(file: &Path) -> anyhow::Result<Settings> {
    let path = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {path}"))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("{path}"))
}

fn status(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
