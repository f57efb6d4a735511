//! Requests with bodies.

use std::net::SocketAddr;

use anyhow::ensure;
use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// One after the other, on one connection.
const UPLOADS: usize = 100;

/// Sends bodies of so many bytes.
///
/// # Errors
/// When one is not answered.
pub async fn send(entrance: SocketAddr, http2: bool, body_bytes: usize) -> anyhow::Result<()> {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let stream = TokioIo::new(TcpStream::connect(entrance).await?);
    if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        for _ in 0..UPLOADS {
            let request = Request::builder().method(Method::POST).uri(format!("http://{entrance}/{body_bytes}"));
            read(sender.send_request(request.body(Full::new(body.clone()))?).await?).await?;
        }
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        for _ in 0..UPLOADS {
            let request = Request::builder().method(Method::POST).uri("/1024").header(HOST, "server");
            sender.ready().await?;
            read(sender.send_request(request.body(Full::new(body.clone()))?).await?).await?;
        }
    }
    Ok(())
}

async fn read(answer: http::Response<Incoming>) -> anyhow::Result<()> {
    ensure!(answer.status().is_success(), "answered with {}", answer.status());
    answer.into_body().collect().await?;
    Ok(())
}
