//! Connections: with what was read ahead of them, and copied as they are.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{client, server};

/// A connection that has begun to speak says within this what it speaks; then it is carried as bytes.
pub const DETECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Enough for a ClientHello with a hybrid key share (1.7 kB), or the head of almost any request.
const READ_AHEAD_BYTES: usize = 4096;
/// One buffer of a copy. Two of them are all that an opaque connection keeps.
const COPY_BYTES: usize = 16 * 1024;

/// A connection, in each of the ways that one reaches or leaves this proxy.
pub enum Stream {
    /// In clear.
    Tcp(TcpStream),
    /// In clear, from somebody whose first bytes have been looked at.
    Detected(Prefixed<TcpStream>),
    /// To another proxy.
    TlsClient(Box<client::TlsStream<TcpStream>>),
    /// From another proxy.
    TlsServer(Box<server::TlsStream<Prefixed<TcpStream>>>),
}

/// A stream whose first bytes have been read already.
pub struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// `prefix` comes before what `inner` still has.
    pub fn new(prefix: Bytes, inner: S) -> Self {
        Self { prefix, inner }
    }
}

impl Stream {
    /// The TCP connection under it, for its options.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Detected(stream) => &stream.inner,
            Self::TlsClient(stream) => stream.get_ref().0,
            Self::TlsServer(stream) => &stream.get_ref().0.inner,
        }
    }
}

/// Reads what there is, up to the read-ahead bound, behind what `buffer` has; `false` at the end of the stream.
///
/// # Errors
/// When the connection breaks, or sends more without making itself known.
pub async fn read_ahead(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<bool> {
    if buffer.len() >= READ_AHEAD_BYTES * 4 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake of more than 16 kB"));
    }
    buffer.reserve(READ_AHEAD_BYTES);
    Ok(stream.read_buf(buffer).await? > 0)
}

/// The same, for as long as `patience`; `None` when nothing came.
///
/// # Errors
/// When the connection breaks.
pub async fn read_ahead_for(
    patience: Duration,
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<Option<bool>> {
    // Cancelling `read_buf` loses nothing: what it had not read yet is still in the socket.
    timeout(patience, read_ahead(stream, buffer)).await.ok().transpose()
}

/// Copies both ways until both sides have ended, and says how much went each way. The end of one side is passed on as the
/// end of that direction only; a connection that was reset is reset on the other side as well.
pub async fn copy(
    a: &mut (impl AsyncRead + AsyncWrite + Unpin),
    b: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Copied {
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let mut copied = Copied::default();
    let result = {
        let there = one_way(&mut a_read, &mut b_write, &mut copied.there);
        let back = one_way(&mut b_read, &mut a_write, &mut copied.back);
        // The first direction that breaks ends both: nothing useful can follow.
        tokio::try_join!(there, back)
    };
    copied.reset = result.is_err();
    copied
}

/// What went through an opaque connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes from the first side to the second.
    pub there: u64,
    /// Bytes from the second side to the first.
    pub back: u64,
    /// It broke, rather than ended.
    pub reset: bool,
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &mut u64,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(COPY_BYTES);
    loop {
        if from.read_buf(&mut buffer).await? == 0 {
            return to.shutdown().await;
        }
        *bytes += buffer.len() as u64;
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
        buffer.clear();
        buffer.reserve(COPY_BYTES);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // Gives the buffer back: a connection may be idle for hours.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Detected(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsServer(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Detected(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsServer(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Detected(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsServer(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that has gone already cannot be told that we end.
        let result = ready!(match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Detected(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsServer(stream) => Pin::new(stream).poll_shutdown(cx),
        });
        Poll::Ready(result.or_else(|error| match error.kind() {
            io::ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        }))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Detected(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::TlsClient(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::TlsServer(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first() {
        let (mut near, far) = duplex(64);
        near.write_all(b"world").await.unwrap();
        drop(near);
        let mut all = String::new();
        Prefixed::new(Bytes::from_static(b"hello "), far).read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world");
    }

    #[tokio::test]
    async fn the_end_of_one_direction_is_not_the_end_of_the_other() {
        let (mut client, mut proxy_a) = duplex(64);
        let (mut proxy_b, mut server) = duplex(64);
        let proxy = tokio::spawn(async move { copy(&mut proxy_a, &mut proxy_b).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer!").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer!");
        assert_eq!(proxy.await.unwrap(), Copied { there: 8, back: 7, reset: false });
    }
}
