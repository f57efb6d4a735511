//! Where a redirected connection was going to before it was redirected here.

use std::{
    collections::BTreeMap,
    io,
    net::{AddrParseError, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

/// How the original destination is found out.
#[derive(Clone, Debug)]
pub enum OriginalDestination {
    /// The kernel remembers it (`SO_ORIGINAL_DST`), as long as it tracks the connection.
    Kernel,
    /// By the local address that was connected to, for tests and measurements without redirection.
    Table(Arc<BTreeMap<SocketAddr, SocketAddr>>),
}

/// A table: `LISTEN=DESTINATION,...`
impl FromStr for OriginalDestination {
    type Err = AddrParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let row = |row: &str| {
            let (listen, destination) = row.split_once('=').unwrap_or((row, ""));
            Ok((listen.parse()?, destination.parse()?))
        };
        Ok(Self::Table(Arc::new(s.split(',').map(row).collect::<Result<_, _>>()?)))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let table = "127.0.0.1:4140=10.96.0.1:80,[::1]:4140=[fd00::1]:80".parse();
        let Ok(OriginalDestination::Table(table)) = table else { panic!("{table:?}") };
        assert_eq!(table[&([127, 0, 0, 1], 4140).into()].port(), 80);
        assert_eq!(table.len(), 2);
        for bad in ["", "127.0.0.1:4140", "127.0.0.1=10.96.0.1:80", "127.0.0.1:4140=10.96.0.1:80,"] {
            assert!(bad.parse::<OriginalDestination>().is_err(), "{bad}");
        }
    }
}
