//! The public API in JSON, for pages and tools that ask by way of the API server: `kubectl proxy`, `kubectl create --raw`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use axum::Router;
use bytes::Bytes;
use conduit_api::access::Method;
use conduit_dashboard::{Channel, Upstream};
use futures::StreamExt as _;
use http::Uri;
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use super::{Answering, Caller, Grpc, bounded::ANSWER_MAX};

/// Answers questions at the paths of [`conduit_dashboard::json_api`] by asking gRPC services of the same process, by the rights of each caller.
#[derive(Clone)]
pub(super) struct Json<S> {
    router: Router,
    grpc: S,
    pages: Pages,
}

/// Pages that are open, by whom: each asks all replicas every two seconds, and one person's are not to be all that there may be.
#[derive(Clone, Default)]
struct Pages(Arc<Mutex<BTreeMap<String, usize>>>);

/// As many as a person looks at; a browser has no more connections to an address.
const PAGES_OF_ONE_MAX: usize = 8;

/// One of them, until this is dropped.
struct Page {
    pages: Pages,
    user: String,
}

impl Pages {
    fn open(&self, user: &str) -> Option<Page> {
        let mut open = self.0.lock();
        let count = open.entry(user.to_owned()).or_default();
        (*count < PAGES_OF_ONE_MAX).then(|| {
            *count += 1;
            Page { pages: self.clone(), user: user.to_owned() }
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut open = self.pages.0.lock();
        let left = open.get_mut(&self.user).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            open.remove(&self.user);
        }
    }
}

impl<S: Grpc> Json<S> {
    pub(super) fn over(grpc: S) -> Self {
        Self { router: conduit_dashboard::json_api(), grpc, pages: Pages::default() }
    }

    /// A page's stream, as [`ask`](Self::ask); nothing if this caller has enough of them.
    pub(super) fn live(&self, request: http::Request<Body>, caller: Caller) -> Option<Answering> {
        let page = self.pages.open(&caller.user)?;
        let answer = self.ask(request, conduit_dashboard::LIVE, caller);
        Some(Box::pin(async move {
            Ok(answer.await?.map(|body| {
                let frames = http_body_util::BodyStream::new(body);
                Body::new(StreamBody::new(frames.inspect(move |_| _ = &page)))
            }))
        }))
    }

    /// The answer to `request`, as if it had been made at `path`. It ends in time, as all answers do.
    pub(super) fn ask(&self, mut request: http::Request<Body>, path: &str, caller: Caller) -> Answering {
        let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
        let channel = As { grpc: self.grpc.clone(), caller };
        let channel: Channel = BoxCloneSyncService::new(channel.map_err(|never: Infallible| match never {}));
        request.extensions_mut().insert(Arc::new(Upstream::one(channel)));
        let router = self.router.clone();
        // A query that was read once is read again.
        let uri = Uri::try_from(format!("{path}{query}"));
        Box::pin(async move {
            *request.uri_mut() = uri.unwrap_or_default();
            let answer = router.oneshot(request.map(axum::body::Body::new)).await?;
            Ok(answer.map(|body| Body::new(StreamBody::new(ending(body)))))
        })
    }
}

/// What the services behind JSON are asked ends by itself; a page's stream, which asks them again and again, does not.
fn ending(body: axum::body::Body) -> impl futures::Stream<Item = Result<Frame<Bytes>, Status>> {
    let data =
        body.into_data_stream().map(|data| data.map(Frame::data).map_err(|error| Status::internal(error.to_string())));
    data.take_until(sleep(ANSWER_MAX))
}

/// Services that are told who calls.
#[derive(Clone)]
struct As<S> {
    grpc: S,
    caller: Caller,
}

impl<S: Grpc> Service<http::Request<Body>> for As<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // Of a question about a namespace services look whether that is the caller's; of the others there is only this to look.
        if self.caller.namespace.is_some()
            && !Method::of_grpc(request.uri().path()).is_some_and(|method| method.namespaced)
        {
            let refused =
                Status::permission_denied("this is about the whole mesh, and was let in by rights in a namespace");
            return Box::pin(ready(Ok(refused.into_http())));
        }
        request.extensions_mut().insert(self.caller.clone());
        Box::pin(self.grpc.call(request))
    }
}
