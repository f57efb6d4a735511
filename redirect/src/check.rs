//! Whether this network namespace is redirected, found out without any rights: by a connection that only redirection brings anywhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

/// Addresses of documentation (RFC 5737, RFC 3849): nobody has them.
const NOBODY: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::LOCALHOST)),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)),
];
/// What is redirected stays on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The other end of a connection that is there is looked for so often, a second in all.
const LOOKS: u32 = 500;
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What redirection should be like. This may not be run as the proxy's user, who is not redirected, nor while the proxy listens.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// The port that connections from the pod are redirected to.
    #[arg(long, default_value_t = 4140)]
    pub outgoing_proxy_port: u16,
    /// A port elsewhere that is not left alone.
    #[arg(long, default_value_t = 80)]
    pub to_port: u16,
}

/// Why it cannot be said that traffic is redirected.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is not.
    #[error(
        "connections of this pod do not come to its proxy ({0}): it was made before Conduit's CNI plugin was on its node. Delete the pod, \
         so that it is made anew; if it is the same then, see why the DaemonSet conduit-cni is not ready there"
    )]
    NotRedirected(String),
    /// Something else listens.
    #[error("cannot listen where connections should come to, port {0}: {1}")]
    Listen(u16, io::Error),
}

/// Returns when connections from here come to where the proxy will listen. One of IPv4 and IPv6 is enough: [`apply`](crate::apply) writes rules
/// for both or for none, and a pod may have an address of one that leads nowhere.
///
/// # Errors
/// When they do not.
pub fn check(check: &Check) -> Result<(), CheckError> {
    let mut refused = Vec::new();
    for (nobody, here) in NOBODY {
        let listener = match TcpListener::bind((here, check.outgoing_proxy_port)) {
            Ok(listener) => listener,
            // A pod may have either only.
            Err(_) if !is_there(here) => continue,
            Err(error) => return Err(CheckError::Listen(check.outgoing_proxy_port, error)),
        };
        match comes_to(&listener, SocketAddr::new(nobody, check.to_port)) {
            Ok(true) => return Ok(()),
            Ok(false) => refused.push(format!("somebody else answers as {nobody}")),
            Err(error) => refused.push(format!("{nobody}: {error}")),
        }
    }
    Err(CheckError::NotRedirected(refused.join(", ")))
}

/// Whether there is such a loopback address at all.
fn is_there(here: IpAddr) -> bool {
    TcpListener::bind((here, 0)).is_ok()
}

fn comes_to(listener: &TcpListener, nobody: SocketAddr) -> io::Result<bool> {
    let stream = TcpStream::connect_timeout(&nobody, CONNECT_TIMEOUT)?;
    let from = stream.local_addr()?;
    listener.set_nonblocking(true)?;
    for _ in 0..LOOKS {
        match listener.accept() {
            Ok((_, peer)) if peer == from => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(LOOK_AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
