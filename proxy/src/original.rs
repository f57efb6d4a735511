//! Where a redirected connection was going to before it was redirected here.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

/// How the original destination is found out.
#[derive(Clone)]
pub enum OriginalDestination {
    /// The kernel remembers it (`SO_ORIGINAL_DST`), as long as it tracks the connection.
    Kernel,
    /// By the local address that was connected to, for tests without redirection.
    Table(Arc<BTreeMap<SocketAddr, SocketAddr>>),
}

impl OriginalDestination {
    /// Of `stream`.
    ///
    /// # Errors
    /// When it was not redirected, or the kernel has forgotten it.
    pub fn of(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel => kernel(stream),
            Self::Table(table) => {
                let local = stream.local_addr()?;
                table.get(&local).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            }
        }
    }
}

fn kernel(stream: &TcpStream) -> io::Result<SocketAddr> {
    if stream.local_addr()?.is_ipv4() {
        let original = getsockopt(stream, sockopt::OriginalDst)?;
        let ip = Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
        Ok((ip, u16::from_be(original.sin_port)).into())
    } else {
        let original = getsockopt(stream, sockopt::Ip6tOriginalDst)?;
        let ip = Ipv6Addr::from(original.sin6_addr.s6_addr);
        Ok((ip, u16::from_be(original.sin6_port)).into())
    }
}
