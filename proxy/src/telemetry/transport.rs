//! Connections, counted: every one that reaches or leaves this proxy, by what came out of its TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{Counter, Direction, Histogram, HistogramTotals, OTHER, Peer, Tls, registry::LabelSet};
use crate::{io::Stream, live::Lives};

/// Which end of a direction's path a connection is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Whoever connected to this proxy.
    Source,
    /// Whom this proxy connected to.
    Destination,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionLabels {
    /// To or from the application.
    pub direction: Direction,
    /// With whom.
    pub side: Side,
    /// How it is secured.
    pub tls: Tls,
    /// Where an outbound connection goes.
    pub destination: Option<Arc<Peer>>,
}

impl LabelSet for ConnectionLabels {
    fn direction(&self) -> Direction {
        self.direction
    }

    fn past_the_budget(&self) -> Self {
        let tls = match &self.tls {
            Tls::Passthrough(Some(_)) => Tls::Passthrough(Some(OTHER.into())),
            tls => tls.clone(),
        };
        Self { tls, destination: None, ..self.clone() }
    }
}

/// The counters of one label set in one thread.
#[derive(Default)]
pub struct Connections {
    opened: Counter,
    closed: Counter,
    read_bytes: Counter,
    write_bytes: Counter,
    duration: Histogram,
}

/// The sum of a label set over all threads, since the proxy started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTotals {
    /// Connections.
    pub opened: u64,
    /// Of these, the ones that have ended.
    pub closed: u64,
    /// Bytes from the other end.
    pub read_bytes: u64,
    /// Bytes to the other end.
    pub write_bytes: u64,
    /// How long those that have ended lasted.
    pub duration: HistogramTotals,
}

impl Connections {
    pub(super) fn add_to(&self, totals: &mut ConnectionTotals) {
        totals.opened += self.opened.value();
        totals.closed += self.closed.value();
        totals.read_bytes += self.read_bytes.value();
        totals.write_bytes += self.write_bytes.value();
        self.duration.add_to(&mut totals.duration);
    }

    /// One was opened, of which there is nothing else.
    #[cfg(test)]
    pub(super) fn open_for_test(&self) {
        self.opened.add(1);
    }
}

impl ConnectionTotals {
    /// Adds `other`.
    pub fn merge(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.duration.merge(&other.duration);
    }
}

/// A connection that is counted as long as it lives, and its bytes as they pass.
pub struct Counted {
    /// Before the stream: see [`Lives`].
    _lives: Option<Lives>,
    stream: Stream,
    counters: Arc<Connections>,
    since: Instant,
    until: Option<Instant>,
}

impl Counted {
    /// `stream` is open.
    ///
    /// `lives` ends with it, and `until` then it may carry what begins.
    pub fn new(stream: Stream, counters: Arc<Connections>, lives: Option<Lives>, until: Option<Instant>) -> Self {
        counters.opened.add(1);
        Self { _lives: lives, stream, counters, since: Instant::now(), until }
    }

    /// When the certificates expire that it was made with.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// They have not.
    pub fn is_current(&self) -> bool {
        self.until.is_none_or(|until| until > Instant::now())
    }

    /// The TCP connection under it, for its options.
    pub fn tcp(&self) -> &TcpStream {
        self.stream.tcp()
    }

    /// So many bytes were read of it before it was known what it is.
    pub fn read_before(&self, bytes: usize) {
        self.counters.read_bytes.add(bytes as u64);
    }

    /// So many bytes went from it to `to` without having been here.
    pub fn passed(&self, bytes: usize, to: &Self) {
        self.counters.read_bytes.add(bytes as u64);
        to.counters.write_bytes.add(bytes as u64);
    }

    /// Whether there is nothing between it and its socket.
    pub fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    fn wrote(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = wrote {
            self.counters.write_bytes.add(bytes as u64);
        }
        wrote
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.closed.add(1);
        self.counters.duration.observe(self.since.elapsed());
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counters.read_bytes.add((buf.filled().len() - before) as u64);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
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
