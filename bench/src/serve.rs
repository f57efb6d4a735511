//! A server whose own time does not show in the figures.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Answers every request on every connection with `body_bytes` bytes, for ever.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, body_bytes: usize) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let answer = service_fn(move |_: Request<Incoming>| {
            let answer = Response::new(Full::new(body.clone()));
            async move { Ok::<_, Infallible>(answer) }
        });
        // A connection that breaks is the client's to count.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await });
    }
}
