//! The control plane behind a router: one replica at a time, and another one when that is gone.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_api::{access::about_encoded, failover::is_of_replica};
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use http::uri::PathAndQuery;
use tokio::{sync::Mutex, time::timeout};
use tonic::{Request, Status, Streaming, body::Body, client::Grpc};
use tower::util::BoxCloneSyncService;
use tracing::debug;

use crate::{codec::Encoded, methods::Method};

/// How calls get to a replica.
pub type Channel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Connects to a replica that answers. The number says how many were lost before, so that another one comes first each time.
pub type Connect = Arc<dyn Fn(usize) -> BoxFuture<'static, Result<Channel, Status>> + Send + Sync>;

/// Of a question, however many replicas it is asked of: longer than a replica looks for a leader before it gives up, so that it can say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Of one replica: one that hangs is not waited for while there is another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// As many replicas as a control plane has at most, so that each gets its chance.
const ATTEMPTS_MAX: usize = 5;

/// Keeps the connection that works.
pub struct Upstream {
    connect: Connect,
    current: Mutex<Current>,
    /// Of a question that may be asked again.
    attempts: usize,
}

#[derive(Default)]
struct Current {
    channel: Option<Channel>,
    lost: usize,
}

impl Upstream {
    /// Connects by `connect`, at the first question and when a replica is lost.
    pub fn new(connect: Connect) -> Self {
        Self { connect, current: Mutex::default(), attempts: ATTEMPTS_MAX }
    }

    /// The one replica that there is to ask, at the other end of `channel`.
    pub fn one(channel: Channel) -> Self {
        let connect = move |_| ready(Ok(channel.clone())).boxed();
        Self { connect: Arc::new(connect), current: Mutex::default(), attempts: 1 }
    }

    /// The answer of a replica. What only reads is asked again of another one when a replica is lost or cannot answer.
    pub(crate) async fn ask(&self, method: &Method, message: Bytes) -> Result<Bytes, Status> {
        let attempts = if method.reads { self.attempts } else { 1 };
        let (name, path) = (method.descriptor.name().to_owned(), method.path.clone());
        let ask = move |client| unary(client, path.clone(), about_encoded(&name, message.clone())).boxed();
        within(ANSWER_TIMEOUT, self.attempt(attempts, ask)).await
    }

    /// A stream of answers of one replica; when that is lost, it ends with an error.
    pub(crate) async fn stream(&self, method: &Method, message: Bytes) -> Result<Streaming<Bytes>, Status> {
        let (name, path) = (method.descriptor.name().to_owned(), method.path.clone());
        let begin = move |client| begin_stream(client, path.clone(), about_encoded(&name, message.clone())).boxed();
        within(ANSWER_TIMEOUT, self.attempt(self.attempts, begin)).await
    }

    async fn attempt<T>(
        &self,
        attempts: usize,
        ask: impl Fn(Grpc<Channel>) -> BoxFuture<'static, Result<T, Status>>,
    ) -> Result<T, Status> {
        // What is asked once is asked of one that says within its own time why it cannot.
        let limit = if attempts > 1 { ATTEMPT_TIMEOUT } else { ANSWER_TIMEOUT };
        let mut left = attempts;
        loop {
            let (channel, lost) = self.channel().await?;
            let failed = match within(limit, ask(Grpc::new(channel))).await {
                Ok(answer) => return Ok(answer),
                Err(status) if is_of_replica(&status) => status,
                Err(status) => return Err(status),
            };
            debug!(error = failed.message(), "asking the next replica");
            self.lose(lost).await;
            left -= 1;
            if left == 0 {
                return Err(failed);
            }
        }
    }

    async fn channel(&self) -> Result<(Channel, usize), Status> {
        // Whoever comes while one connects waits for that connection.
        let mut current = self.current.lock().await;
        if let Some(channel) = &current.channel {
            return Ok((channel.clone(), current.lost));
        }
        let channel = (self.connect)(current.lost).await?;
        current.channel = Some(channel.clone());
        Ok((channel, current.lost))
    }

    /// Several may notice; the first one's word is enough.
    async fn lose(&self, lost: usize) {
        let mut current = self.current.lock().await;
        if current.lost == lost {
            *current = Current { channel: None, lost: lost.wrapping_add(1) };
        }
    }
}

async fn within<T>(time: Duration, asked: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = timeout(time, asked).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {time:?}"))))
}

async fn unary(mut client: Grpc<Channel>, path: PathAndQuery, question: Request<Bytes>) -> Result<Bytes, Status> {
    wait_for(&mut client).await?;
    Ok(client.unary(question, path, Encoded).await?.into_inner())
}

async fn begin_stream(
    mut client: Grpc<Channel>,
    path: PathAndQuery,
    question: Request<Bytes>,
) -> Result<Streaming<Bytes>, Status> {
    wait_for(&mut client).await?;
    Ok(client.server_streaming(question, path, Encoded).await?.into_inner())
}

async fn wait_for(client: &mut Grpc<Channel>) -> Result<(), Status> {
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))
}
