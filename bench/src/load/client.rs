//! One HTTP/1.1 connection that is kept, and made again when it broke.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header::HOST};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
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
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

pub(super) struct Client {
    target: Target,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    pub(super) async fn connect(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { target: target.clone(), connection: Some(open(target).await?) })
    }

    /// One request and its whole answer. After an error, the next one goes over a new connection.
    pub(super) async fn get(&mut self) -> anyhow::Result<()> {
        let exchange = async {
            let mut connection = match self.connection.take() {
                Some(connection) if !connection.is_closed() => connection,
                _ => open(&self.target).await?,
            };
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = self.target.path.clone();
            request.headers_mut().insert(HOST, self.target.host.clone());
            let answer = connection.send_request(request).await?;
            ensure!(answer.status().is_success(), "answered with {}", answer.status());
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            connection.ready().await?;
            self.connection = Some(connection);
            Ok(())
        };
        timeout(TIMEOUT, exchange).await.context("no answer in time")?
    }
}

async fn open(target: &Target) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = timeout(TIMEOUT, TcpStream::connect(&target.address)).await.context("no connection in time")??;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, or with the connection; its errors are those of the requests.
    tokio::spawn(connection);
    Ok(sender)
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
