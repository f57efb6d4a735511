//! One HTTP/1.1 connection that is kept, and made again when it broke.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// Longer than `web` waits for its own services.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Above any answer of `web`.
const BODY_BYTES_MAX: usize = 1 << 20;

pub(super) struct Client {
    host: String,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    pub(super) fn new(host: &str) -> Self {
        Self { host: host.to_owned(), connection: None }
    }

    /// The whole answer. After an error the next request goes over a new connection.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::get(path).header(HOST, &self.host).body(Empty::new())?;
        let exchange = async {
            let mut connection = self.take_connection().await?;
            let answer = connection.send_request(request).await.context("the request failed")?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error).context("the answer broke off"))?.to_bytes();
            self.connection = Some(connection);
            Ok((status, body))
        };
        timeout(REQUEST_TIMEOUT, exchange).await.context("there was no answer in time")?
    }

    /// The kept connection if it still stands, else a new one.
    async fn take_connection(&mut self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        if let Some(mut kept) = self.connection.take()
            && kept.ready().await.is_ok()
        {
            return Ok(kept);
        }
        let stream =
            TcpStream::connect(&self.host).await.with_context(|| format!("cannot connect to {}", self.host))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender, or with the connection; its errors are those of the requests.
        tokio::spawn(connection);
        Ok(sender)
    }
}
