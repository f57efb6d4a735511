//! Where redirected connections arrive, over IPv4 and IPv6.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::Poll,
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// One thread's sockets for one direction, before the thread has a runtime. The kernel spreads connections over those of all threads.
pub struct Bound {
    one: std::net::TcpListener,
    twin: Option<std::net::TcpListener>,
}

/// The same, in its thread.
pub struct Listeners {
    one: TcpListener,
    twin: Option<TcpListener>,
    is_twins_turn: Cell<bool>,
}

impl Bound {
    /// Listens on `address`, and on its twin: the kernel redirects connections of IPv6 to the same port of `::1`, or of the address
    /// that they came to. A machine without IPv6 has no twin.
    ///
    /// # Errors
    /// When the kernel refuses `address`.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let twin = match address.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Ipv6Addr::LOCALHOST),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(Ipv6Addr::UNSPECIFIED),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        let twin = twin.map(|ip| bind((ip, address.port()).into())).transpose();
        let twin = twin.or_else(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => Ok(None),
            _ => Err(error),
        })?;
        Ok(Self { one: bind(address)?, twin })
    }

    /// To be called on the thread's runtime.
    ///
    /// # Errors
    /// When the runtime takes no more.
    pub fn start(self) -> io::Result<Listeners> {
        let twin = self.twin.map(TcpListener::from_std).transpose()?;
        Ok(Listeners { one: TcpListener::from_std(self.one)?, twin, is_twins_turn: Cell::default() })
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // Addresses of IPv4 are to look like it.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listeners {
    /// The next connection.
    ///
    /// # Errors
    /// When there are no descriptors left, and the like.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        // In turn, so that neither keeps the other from being heard.
        self.is_twins_turn.set(!self.is_twins_turn.get());
        let (first, second) = match &self.twin {
            Some(twin) if self.is_twins_turn.get() => (twin, Some(&self.one)),
            twin => (&self.one, twin.as_ref()),
        };
        poll_fn(|cx| match (first.poll_accept(cx), second) {
            (Poll::Pending, Some(second)) => second.poll_accept(cx),
            (accepted, _) => accepted,
        })
        .await
        .map(|(stream, _)| stream)
    }
}
