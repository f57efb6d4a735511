//! A replica that knows its version and two events, and says of everything else that it is not found.

use std::{
    convert::Infallible,
    mem::ManuallyDrop,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use conduit_api::proto::{
    public::VersionResponse,
    tap::{TapEvent, tap_event::Id},
};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::{Endpoint, Server},
};
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use crate::{codec::Encoded, upstream::Channel};

pub(super) struct Replica {
    address: SocketAddr,
    /// Of its own, with which its connections end as well. Runs until the tests end, unless it is stopped.
    runtime: ManuallyDrop<Runtime>,
    asked: Arc<AtomicUsize>,
}

impl Replica {
    /// With `refuses`, it has no leader.
    pub(super) async fn start(version: &'static str, refuses: bool) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.spawn(TcpListener::bind("127.0.0.1:0")).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let serve = Server::builder().add_service(Answers { version, refuses, asked: asked.clone() });
        runtime.spawn(async move { serve.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Self { address, runtime: ManuallyDrop::new(runtime), asked }
    }

    pub(super) fn channel(&self) -> Channel {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(Box::new(error))))
    }

    pub(super) fn asked(&self) -> Arc<AtomicUsize> {
        self.asked.clone()
    }

    /// Nothing listens there any more, and its connections are gone.
    pub(super) fn stop(self) {
        ManuallyDrop::into_inner(self.runtime).shutdown_background();
    }
}

#[derive(Clone)]
struct Answers {
    version: &'static str,
    refuses: bool,
    asked: Arc<AtomicUsize>,
}

impl NamedService for Answers {
    const NAME: &'static str = "conduit.public.v1.Api";
}

impl Service<http::Request<Body>> for Answers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let answers = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Encoded);
            Ok(match method.as_str() {
                "Tap" => grpc.server_streaming(Events, request).await,
                _ => grpc.unary(Answer { method, answers }, request).await,
            })
        })
    }
}

struct Answer {
    method: String,
    answers: Answers,
}

impl UnaryService<Bytes> for Answer {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let answer = match self.method.as_str() {
            _ if self.answers.refuses => Err(Status::unavailable("no leader")),
            "Version" => Ok(VersionResponse { version: self.answers.version.to_owned() }.encode_to_vec()),
            "Stat" | "Pods" | "Routes" | "RaftStatus" | "CaStatus" => Ok(Vec::new()),
            "Edges" | "Series" => Err(Status::unimplemented("not counted yet")),
            _ => Err(Status::not_found("there is no such thing")),
        };
        Box::pin(async { answer.map(|answer| Response::new(answer.into())) })
    }
}

/// Two events, and the end of the replica.
struct Events;

impl ServerStreamingService<Bytes> for Events {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        let event = |base| TapEvent { id: Some(Id { base, stream: 0 }), ..TapEvent::default() }.encode_to_vec().into();
        let events = [Ok(event(1)), Ok(event(2)), Err(Status::unavailable("going away"))];
        Box::pin(async { Ok(Response::new(Box::pin(stream::iter(events)) as BoxStream<_>)) })
    }
}
