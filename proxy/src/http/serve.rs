//! The side of a connection that asks: one request after the other, or many at once.

use std::{convert::Infallible, future::Future, rc::Rc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::spawn_local,
};

use super::{Protocol, ResponseBody};

/// A client that does not finish the head of a request is let go (slowloris), and one that does not begin another: hyper has
/// one timeout for both.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The same bound as most servers have.
const HEADERS_MAX: usize = 128;
/// Of a head, of HTTP/2 as well as HTTP/1.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Streams that one connection of an application may have open.
const STREAMS_MAX: u32 = 250;
/// RFC 9113's default for a stream; a connection has room for sixteen streams that nobody reads.
pub(super) const STREAM_WINDOW: u32 = 65_535;
pub(super) const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// Runs futures where they are made: nothing of a connection ever leaves its thread.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Answers the requests on `stream` by `answer`, until the client ends, or until `drain` says to finish what is under way.
///
/// # Errors
/// When the connection breaks, or is not HTTP.
pub async fn serve<S, F, Fut>(
    protocol: Protocol,
    stream: S,
    mut drain: watch::Receiver<bool>,
    answer: F,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>) -> Fut + 'static,
    Fut: Future<Output = Response<ResponseBody>> + 'static,
{
    let answer = Rc::new(answer);
    let service = service_fn(move |request| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    let stream = TokioIo::new(stream);
    if protocol == Protocol::Http2 {
        let connection = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(stream, service);
        tokio::pin!(connection);
        tokio::select! {
            served = &mut connection => return served,
            _ = drain.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .preserve_header_case(true)
            .half_close(true)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(stream, service)
            .with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            served = &mut connection => return served,
            _ = drain.wait_for(|draining| *draining) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}
