//! A connection, with what was read of it and not used yet.

use std::{
    io,
    os::fd::AsRawFd as _,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{buffer::Buffer, telemetry::transport::Counted};

/// One end of what this proxy ties together.
pub struct Buffered {
    stream: Counted,
    /// What was read, and not used yet.
    pub input: Buffer,
    ended: bool,
}

impl Buffered {
    /// `stream`, of which `input` has been read already.
    pub fn new(stream: Counted, input: Buffer) -> Self {
        stream.read_before(input.filled().len());
        Self { stream, input, ended: false }
    }

    /// The TCP connection under it, for its options.
    pub fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }

    /// What counts it.
    pub fn counted(&self) -> &Counted {
        &self.stream
    }

    /// Reads what there is behind what is there; how much, 0 at the end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let read = ready!(self.input.poll_fill(cx, &mut self.stream))?;
        self.ended = read == 0;
        Poll::Ready(Ok(read))
    }

    /// Writes some of `bytes`, which are not empty.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    /// Nothing of what was written stays here.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says that nothing more is sent.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Nobody has closed it, or sent what was not asked for, as far as the kernel has told; when it is asked, `surely`.
    pub fn is_quiet(&mut self, surely: bool) -> bool {
        let is_silent = || {
            let peeked = recv(self.tcp().as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
            peeked == Err(Errno::EAGAIN)
        };
        // A task that has used its turn up is told that nothing is there, whatever there is.
        let is_told = tokio::task::coop::has_budget_remaining();
        ((!surely && is_told) || is_silent())
            && self.input.is_empty()
            && self.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        self.input.drain_to(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
