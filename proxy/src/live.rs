//! A data thread's connections from and to other proxies, by peer: those of an identity that is denied are closed.
//!
//! Kept in step at the beginning and the end of connections, never while they carry anything.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use conduit_api::SpiffeId;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::{net::TcpStream, sync::watch};
use tracing::info;

/// Identities whose connections are closed; clones of the set are the same.
pub type Denied = Arc<BTreeSet<SpiffeId>>;

/// The connections of one thread.
#[derive(Clone)]
pub struct Live {
    denied: watch::Receiver<Denied>,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, (SpiffeId, RawFd)>,
}

/// A connection is in [`Live`] as long as this is there. It must go before the connection does, or with it: file descriptors
/// are used again.
pub struct Lives {
    connections: Arc<Mutex<Connections>>,
    id: u64,
}

impl Live {
    /// None yet.
    pub fn new(denied: watch::Receiver<Denied>) -> Self {
        Self { denied, connections: Arc::default() }
    }

    /// `stream` carries a connection with `peer` from now on; it is closed at once if that was denied in the meantime.
    pub fn begin(&self, peer: &SpiffeId, stream: &TcpStream) -> Lives {
        let mut connections = locked(&self.connections);
        let id = connections.next;
        connections.next += 1;
        connections.open.insert(id, (peer.clone(), stream.as_raw_fd()));
        // After it is in the list: whoever is denied from here on is found there.
        if self.denied.borrow().contains(peer) {
            close(peer, stream.as_raw_fd());
        }
        Lives { connections: self.connections.clone(), id }
    }

    /// Closes the connections of the denied whenever that changes, for ever.
    pub async fn keep(mut self) {
        while self.denied.changed().await.is_ok() {
            let denied = self.denied.borrow_and_update().clone();
            for (peer, descriptor) in locked(&self.connections).open.values() {
                if denied.contains(peer) {
                    close(peer, *descriptor);
                }
            }
        }
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        locked(&self.connections).open.remove(&self.id);
    }
}

/// Both sides see it end; whoever owns it cleans up.
fn close(peer: &SpiffeId, descriptor: RawFd) {
    // It may have ended just now.
    let _ = shutdown(descriptor, Shutdown::Both);
    info!(spiffe_id = %peer, "closed a connection: the peer is denied");
}

fn locked(connections: &Mutex<Connections>) -> MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt as _,
        net::{TcpListener, TcpStream},
        task::yield_now,
    };

    use super::*;

    #[tokio::test]
    async fn connections_of_the_denied_are_closed_and_no_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (web, voting) = (id("web"), id("voting"));
        let (denied, watched) = watch::channel(Denied::default());
        let live = Live::new(watched);
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for peer in [&web, &voting] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            ours.push((live.begin(peer, &stream), stream));
            theirs.push(listener.accept().await.unwrap().0);
        }
        let keeper = tokio::spawn(live.clone().keep());
        yield_now().await;
        denied.send_replace(Arc::new([web.clone()].into()));
        assert_eq!(theirs[0].read(&mut [0]).await.unwrap(), 0, "web's has ended");
        assert!(theirs[1].try_read(&mut [0]).is_err(), "voting's has not");
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _late = live.begin(&web, &stream);
        assert_eq!(listener.accept().await.unwrap().0.read(&mut [0]).await.unwrap(), 0, "nor does one begin");
        drop(ours);
        assert_eq!(locked(&live.connections).open.len(), 1);
        keeper.abort();
    }

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/emojivoto/sa/{name}").parse().unwrap()
    }
}
