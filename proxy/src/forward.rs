//! What both directions do with a connection: find out what it carries, and carry bytes.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tracing::debug;

use crate::{
    buffer::Buffer,
    buffered::Buffered,
    client_hello::{self, ClientHello, Read},
    detect::{Detected, detect},
    http::Protocol,
    telemetry::transport::Counted,
};

/// A client that says nothing for so long may be waiting for the server to speak first.
pub const APPLICATION_FIRST: Duration = Duration::from_millis(10);
/// One that has begun to speak and stops may be waiting for an answer: it is carried as bytes from then on. A request that comes in
/// two parts takes no longer than a lost packet that is sent again.
const DETECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// A server that has something to say after so long does not greet: it has perhaps waited for a request for long enough.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that has been silent for so long is probed, and given up after a minute without an answer.
const KEEPALIVE_TIME: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// What a pipe may hold: with less, a sender and a receiver wait for each other.
const PIPE_BYTES: usize = 256 * 1024;
/// Moved at once.
const SPLICE_BYTES: usize = 1024 * 1024;
/// A read that brings less ends a bulk transfer: then a pipe only costs system calls.
const BULK_BYTES: usize = 16 * 1024;
/// Pipes that a thread keeps. Two descriptors each.
const PIPES_KEPT_MAX: usize = 16;

/// What a connection carries, as its first bytes say.
pub enum Spoken {
    /// Requests.
    Http(Protocol),
    /// TLS; its ClientHello has begun.
    Tls,
    /// What the client waits for: it has said nothing, and the server something, soon.
    ServerFirst,
    /// Anything else, and nothing at all.
    Other,
}

/// Finds out what `client` speaks; what was read of it is in `buffer` then. Nobody waits for long: a client that is silent for
/// `patience` may be waiting for the server, which is connected to by `connect` and returned as well.
///
/// # Errors
/// When one of the connections breaks, or there is nobody to connect to.
pub async fn spoken(
    client: &mut TcpStream,
    buffer: &mut Buffer,
    patience: Duration,
    connect: &impl AsyncFn() -> io::Result<Counted>,
) -> io::Result<(Spoken, Option<Buffered>)> {
    let mut server: Option<Buffered> = None;
    let (since, mut begun) = (Instant::now(), None);
    loop {
        match detect(buffer.filled()) {
            Detected::Http1 => return Ok((Spoken::Http(Protocol::Http1), server)),
            Detected::Http2 => return Ok((Spoken::Http(Protocol::Http2), server)),
            Detected::Tls => return Ok((Spoken::Tls, server)),
            Detected::Opaque => return Ok((Spoken::Other, server)),
            Detected::Undecided => {}
        }
        let until = match begun {
            Some(begun) => Some(begun + DETECTION_TIMEOUT),
            None if server.is_none() => Some(Instant::now() + patience),
            None => None,
        };
        let heard = poll_fn(|cx| {
            if let Poll::Ready(read) = buffer.poll_fill(cx, client) {
                return Poll::Ready(read);
            }
            // A TLS session's own messages are none of the server's.
            match &mut server {
                Some(server) => server.poll_fill(cx).map_ok(|_| 0),
                None => Poll::Pending,
            }
        });
        let heard = match until {
            Some(until) => timeout_at(until, heard).await.ok(),
            None => Some(heard.await),
        };
        match heard.transpose()? {
            // The end of the client, or the beginning of the server.
            Some(0) => {
                let greets = buffer.is_empty()
                    && server.as_ref().is_some_and(|server| !server.input.is_empty())
                    && since.elapsed() < GREETING_TIMEOUT;
                return Ok((if greets { Spoken::ServerFirst } else { Spoken::Other }, server));
            }
            Some(_) => drop(begun.get_or_insert_with(Instant::now)),
            None if begun.is_some() => return Ok((Spoken::Other, server)),
            None => server = Some(Buffered::new(connect().await?, Buffer::default())),
        }
    }
}

/// What a client that has begun with TLS says in its first message, which is in `buffer` then; `None` when that is none, is too large, or
/// does not come soon: then it is perhaps the application that understands it.
pub async fn client_hello(client: &mut TcpStream, buffer: &mut Buffer) -> Option<ClientHello> {
    let until = Instant::now() + DETECTION_TIMEOUT;
    loop {
        match client_hello::read(buffer.filled()) {
            Read::Whole(hello) => return Some(hello),
            Read::None => return None,
            Read::Partial => match timeout_at(until, poll_fn(|cx| buffer.poll_fill(cx, client))).await {
                Ok(Ok(1..)) => {}
                // A connection that has broken is found to be by whoever uses it next.
                Ok(Ok(0) | Err(_)) | Err(_) => return None,
            },
        }
    }
}

/// Copies bytes both ways until both sides have ended. The end of one side is passed on as the end of that direction only, and
/// a reset as a reset.
pub async fn copy(client: Buffered, server: Buffered) {
    copy_if(client, server, |_, _| Poll::Ready(Ok(true))).await;
}

/// The same of a client that `server` has greeted. If that was another proxy, which was slow to begin, its handshake is nothing for the application, and
/// the connection ends; `came` is told which of both it was, once it has said something.
pub async fn copy_greeted(client: Buffered, server: Buffered, came: impl Fn(bool)) {
    let first = |cx: &mut Context<'_>, client: &mut Buffered| loop {
        let is_proxy = match client_hello::read(client.input.filled()) {
            Read::Partial if !client.input.is_full() => match ready!(client.poll_fill(cx))? {
                // It has come for the greeting. A proxy would have begun.
                0 => false,
                _ => continue,
            },
            Read::Whole(hello) => hello.protocol.is_some(),
            Read::Partial | Read::None => false,
        };
        came(is_proxy);
        return Poll::Ready(Ok(!is_proxy));
    };
    copy_if(client, server, first).await;
}

/// What the client says waits until `goes_on` is ready, and nothing more is copied if that says so.
async fn copy_if(
    mut client: Buffered,
    mut server: Buffered,
    goes_on: impl Fn(&mut Context<'_>, &mut Buffered) -> Poll<io::Result<bool>>,
) {
    let is_plain = client.counted().is_plain() && server.counted().is_plain();
    let (mut there, mut back) = (Way::new(is_plain), Way::new(is_plain));
    let mut is_looked_at = false;
    let copied = poll_fn(|cx| {
        if !is_looked_at && let Poll::Ready(goes_on) = goes_on(cx, &mut client)? {
            if !goes_on {
                return Poll::Ready(Ok(()));
            }
            is_looked_at = true;
        }
        let there = if is_looked_at { there.poll(cx, &mut client, &mut server)? } else { Poll::Pending };
        let back = back.poll(cx, &mut server, &mut client)?;
        // The first direction that breaks ends both: nothing useful can follow.
        if there.is_ready() && back.is_ready() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
    });
    if let Err(error) = copied.await {
        debug!(%error, "a connection was reset");
        reset(client.tcp());
        reset(server.tcp());
    }
}

/// Notices when the other end has gone without a word: nobody else would, of a connection that may be silent for days.
pub fn keep_alive(stream: &TcpStream) {
    let keep_alive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL).with_retries(6);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keep_alive) {
        debug!(%error, "a connection is not probed");
    }
}

/// Makes the close that follows an abortive one.
pub fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        debug!(%error, "a reset is passed on as an end");
    }
}

/// One direction of a connection that is copied.
struct Way {
    state: State,
    /// Neither side is under TLS: what comes in bulk need not come into this process.
    is_plain: bool,
    /// There is probably more than a buffer's worth.
    is_bulk: bool,
    pipe: Option<Pipe>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    Ending,
    Ended,
}

impl Way {
    fn new(is_plain: bool) -> Self {
        Self { state: State::Copying, is_plain, is_bulk: false, pipe: None }
    }

    /// Ready when `from` has ended, and `to` knows.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Buffered, to: &mut Buffered) -> Poll<io::Result<()>> {
        while self.state == State::Copying {
            ready!(self.poll_hand_over(cx, from, to))?;
            let read = if self.is_bulk && self.is_plain {
                ready!(self.poll_splice(cx, from))?
            } else {
                ready!(to.poll_flush(cx))?;
                if self.is_bulk {
                    from.input.widen();
                }
                let read = ready!(from.poll_fill(cx))?;
                self.is_bulk = from.input.is_full();
                read
            };
            if read == 0 {
                self.state = State::Ending;
            }
        }
        if self.state == State::Ending {
            ready!(to.poll_end(cx))?;
            self.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// All that has been read is with `to` then, in the order in which it came: whatever is read next, and in which way, comes behind it.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>, from: &mut Buffered, to: &mut Buffered) -> Poll<io::Result<()>> {
        while !from.input.is_empty() {
            let written = ready!(to.poll_write(cx, from.input.filled()))?;
            from.input.consume(written);
        }
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while pipe.filled > 0 {
            ready!(to.tcp().poll_write_ready(cx))?;
            let moved = to.tcp().try_io(Interest::WRITABLE, || {
                let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
                Ok(splice(&pipe.ends.read, None, to.tcp(), None, pipe.filled, flags)?)
            });
            match moved {
                Ok(moved) => {
                    pipe.filled -= moved;
                    from.counted().passed(moved, to.counted());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if !self.is_bulk {
            self.pipe = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what there is into the pipe, which is empty, within the kernel; how much that was, 0 at the end.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &Buffered) -> Poll<io::Result<usize>> {
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            None => match Pipe::take() {
                Ok(pipe) => self.pipe.insert(pipe),
                Err(error) => {
                    debug!(%error, "there is no pipe; bytes are copied");
                    self.is_plain = false;
                    return Poll::Ready(Ok(1));
                }
            },
        };
        loop {
            if from.tcp().poll_read_ready(cx)?.is_pending() {
                // A connection that waits keeps no pipe, and goes on with bulk when more comes.
                self.pipe = None;
                return Poll::Pending;
            }
            let read = from.tcp().try_io(Interest::READABLE, || {
                let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
                Ok(splice(from.tcp(), None, &pipe.ends.write, None, SPLICE_BYTES, flags)?)
            });
            match read {
                Ok(read) => {
                    pipe.filled = read;
                    self.is_bulk = read >= BULK_BYTES;
                    return Poll::Ready(Ok(read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Memory of the kernel that bytes pass through.
struct Pipe {
    ends: Rc<Ends>,
    filled: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static PIPES: RefCell<Vec<Rc<Ends>>> = const { RefCell::new(Vec::new()) };
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(ends) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(Self { ends, filled: 0 });
        }
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // What one user may have in pipes is limited; a smaller one does as well.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        Ok(Self { ends: Rc::new(Ends { read, write }), filled: 0 })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // What is still in one is somebody's.
        if self.filled == 0 {
            let _ = PIPES.try_with(|pipes| {
                let mut pipes = pipes.borrow_mut();
                if pipes.len() < PIPES_KEPT_MAX {
                    pipes.push(self.ends.clone());
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::watch,
        task::LocalSet,
        time::timeout,
    };

    use super::*;
    use crate::{
        io::Stream,
        telemetry::{
            Direction, Telemetry, Tls,
            transport::{ConnectionLabels, Side},
        },
    };

    /// So that whoever writes waits for whoever reads nearly always.
    const SOCKET_BYTES: usize = 16 * 1024;
    const BURSTS: usize = 12;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Two ends of a connection; the first is this proxy's.
    async fn connection() -> (Buffered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        SockRef::from(&near).set_send_buffer_size(SOCKET_BYTES).unwrap();
        SockRef::from(&far).set_recv_buffer_size(SOCKET_BYTES).unwrap();
        let labels = ConnectionLabels {
            direction: Direction::Outbound,
            side: Side::Source,
            tls: Tls::NoIdentity,
            destination: None,
        };
        let counters = Telemetry::default().thread().connections(&labels);
        (Buffered::new(Counted::new(Stream::Tcp(near), counters, None, None), Buffer::default()), far)
    }

    /// Not the same anywhere near.
    fn bytes(from: usize, to: usize) -> Vec<u8> {
        (from..to).map(|position| (position / 251 + position % 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_a_greeted_client_says_goes_on_at_once() {
        for said in [&b"\n"[..], b"EHLO mail\r\n", b"GET", &[0x16, 0, 0, 1]] {
            let ((client, mut near), (server, mut application)) = (connection().await, connection().await);
            let came = Rc::<Cell<Option<bool>>>::default();
            let (tasks, told) = (LocalSet::new(), came.clone());
            tasks.spawn_local(copy_greeted(client, server, move |is_proxy| told.set(Some(is_proxy))));
            let arrives = async {
                application.write_all(b"220 ready\r\n").await.unwrap();
                near.read_exact(&mut [0; 11]).await.unwrap();
                assert_eq!(came.get(), None);
                near.write_all(said).await.unwrap();
                let mut heard = vec![0; said.len()];
                application.read_exact(&mut heard).await.unwrap();
                assert_eq!((heard.as_slice(), came.get()), (said, Some(false)));
            };
            timeout(PATIENCE, tasks.run_until(arrives)).await.unwrap();
        }
    }

    /// Bursts whose last part is a small one, to somebody who takes them slowly: all of each is there before the next begins.
    #[tokio::test]
    async fn every_byte_arrives() {
        for seed in 0..3 {
            let mut random = SmallRng::seed_from_u64(seed);
            let ((client, mut sender), (server, mut receiver)) = (connection().await, connection().await);
            let (progress, mut received) = watch::channel(0);
            let tasks = LocalSet::new();
            tasks.spawn_local(copy(client, server));
            tasks.spawn_local(async move {
                let mut buffer = vec![0; SOCKET_BYTES];
                loop {
                    let read = receiver.read(&mut buffer).await.unwrap();
                    let before = *progress.borrow();
                    assert_eq!(buffer[..read], bytes(before, before + read), "seed {seed}: from byte {before}");
                    progress.send_replace(before + read);
                    if read == 0 {
                        return;
                    }
                }
            });
            let send = async {
                let mut sent = 0;
                for _ in 0..BURSTS {
                    let bulk = random.random_range(BULK_BYTES..20 * BULK_BYTES);
                    for part in [bulk, random.random_range(1..BULK_BYTES)] {
                        sender.write_all(&bytes(sent, sent + part)).await.unwrap();
                        sent += part;
                    }
                    let arrived = timeout(PATIENCE, received.wait_for(|received| *received == sent)).await;
                    assert!(arrived.is_ok(), "seed {seed}: not all of {sent} bytes arrived");
                }
                drop(sender);
                assert!(received.wait_for(|_| false).await.is_err(), "the end does not arrive");
                assert_eq!(*received.borrow(), sent);
            };
            tasks.run_until(timeout(PATIENCE * 2, send)).await.unwrap();
        }
    }
}
