//! One connection that is kept, and made again when it broke.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};

/// A request that takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the requests go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `host:port`
    address: String,
    host: HeaderValue,
    path: Uri,
    url: Uri,
    http2: bool,
}

impl Target {
    /// The same, with HTTP/2 or without.
    pub(super) fn with_http2(self, http2: bool) -> Self {
        Self { http2, ..self }
    }

    /// HTTP/1.1 has the host in a header, and HTTP/2 in the URI.
    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        if self.http2 {
            *request.uri_mut() = self.url.clone();
        } else {
            *request.uri_mut() = self.path.clone();
            request.headers_mut().insert(HOST, self.host.clone());
        }
        request
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
            bail!("`{url}` is not a URL of the form http://host:port/path");
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)),
            host: authority.as_str().parse()?,
            path: path.parse()?,
            url: uri.clone(),
            http2: false,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// What sends requests: one at a time.
pub(super) struct Client {
    target: Target,
    sender: Option<Sender>,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    pub(super) async fn connect(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { target: target.clone(), sender: Some(open(target).await?) })
    }

    /// Another client on the same connection, if it can be shared.
    pub(super) fn sharing(&self) -> Option<Self> {
        match &self.sender {
            Some(Sender::Http2(sender)) => {
                Some(Self { target: self.target.clone(), sender: Some(Sender::Http2(sender.clone())) })
            }
            _ => None,
        }
    }

    /// One request and its whole answer. After an error, the next one goes over a new connection.
    pub(super) async fn get(&mut self) -> anyhow::Result<()> {
        let exchange = async {
            let mut sender = match self.sender.take() {
                Some(sender) if !sender.is_closed() => sender,
                _ => open(&self.target).await?,
            };
            let answer = sender.send(self.target.request()).await?;
            ensure!(answer.status().is_success(), "answered with {}", answer.status());
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            sender.ready().await?;
            self.sender = Some(sender);
            Ok(())
        };
        timeout(TIMEOUT, exchange).await.context("no answer in time")?
    }
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }

    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }
}

async fn open(target: &Target) -> anyhow::Result<Sender> {
    let stream = timeout(TIMEOUT, TcpStream::connect(&target.address)).await.context("no connection in time")??;
    stream.set_nodelay(true)?;
    let stream = TokioIo::new(stream);
    // A connection ends with its senders, or by itself; its errors are those of the requests.
    if target.http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    } else {
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let target: Target = "http://bench-server.bench:8080/a?b=c".parse().unwrap();
        assert_eq!(
            (target.to_string().as_str(), target.path.to_string().as_str()),
            ("bench-server.bench:8080", "/a?b=c")
        );
        assert_eq!("http://localhost".parse::<Target>().unwrap().to_string(), "localhost:80");
        for bad in ["", "localhost:80", "https://localhost/", "/path", "http://"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
