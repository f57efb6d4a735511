//! A connection that is held: it costs this program little, so that there can be thousands.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A request that takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(20);
/// When a request is not answered by then, another one may be.
const SOON: Duration = Duration::from_secs(2);
/// Of each answer's body.
const BODY_BYTES: usize = 1024;
/// More than an answer takes, with what proxies add to its head.
const ANSWER_BYTES: usize = 4 * 1024;

/// HTTP/1.1, kept.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects, and does nothing more.
    ///
    /// # Errors
    /// When nobody accepts it.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// One request and its answer, soon, on a connection of their own.
    ///
    /// # Errors
    /// When there is no answer, or it is no success.
    pub async fn answered(address: SocketAddr) -> io::Result<()> {
        timeout(SOON, async { Self::open(address).await?.get().await }).await?
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// When there is no answer, or it is no success.
    pub async fn get(&mut self) -> io::Result<()> {
        self.get_after(Duration::ZERO).await
    }

    /// One request, and its answer when the server has waited for so long.
    ///
    /// # Errors
    /// When there is no answer, or it is no success.
    pub async fn get_after(&mut self, late: Duration) -> io::Result<()> {
        timeout(late + TIMEOUT, self.exchange(late)).await?
    }

    async fn exchange(&mut self, late: Duration) -> io::Result<()> {
        let path =
            if late.is_zero() { format!("/{BODY_BYTES}") } else { format!("/{BODY_BYTES}/{}", late.as_millis()) };
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        loop {
            if self.stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            if !answer.starts_with(b"HTTP/1.1 200") {
                let status = String::from_utf8_lossy(&answer[..head.min(16)]).into_owned();
                return Err(io::Error::other(status));
            }
            if answer.len() >= head + 4 + BODY_BYTES {
                return Ok(());
            }
        }
    }
}
