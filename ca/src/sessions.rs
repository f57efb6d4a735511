//! Sessions that are resumed, and when they are not.
//!
//! rustls takes a resumed peer's identity from the session without verifying it again, and every resumed handshake mints the
//! next ticket (RFC 8446 section 4.6.1): left alone, a peer could go on for ever after its issuer was dropped from the bundle, it
//! was denied, or its key was replaced. So configurations are of an *epoch*, which ends whenever what is trusted or presented
//! changes, and what they remember and give out is of no use in another: also what a handshake has verified in one and ends in the
//! next. That a certificate expires ends no epoch; it is looked at after the handshake
//! ([`AuthenticatedPeer`](crate::AuthenticatedPeer)).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    NamedGroup,
    client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    crypto::aws_lc_rs::Ticketer,
    server::ProducesTickets,
};
use rustls_pki_types::ServerName;

/// Servers of one identity whose sessions a client remembers; a session is some three kilobytes.
const SERVERS_MAX: usize = 16;
/// rustls counts in tickets, of which it keeps up to so many of each server.
const TICKETS_PER_SERVER: usize = 8;

/// Counts what has changed. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch(Arc<AtomicU64>);

impl Epoch {
    /// Whatever was agreed on so far is agreed on anew.
    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// The present one.
    pub(crate) fn number(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn pin(&self) -> Pinned {
        Pinned { epoch: self.clone(), number: self.number() }
    }
}

/// An epoch that may be over.
#[derive(Debug)]
struct Pinned {
    epoch: Epoch,
    number: u64,
}

impl Pinned {
    fn lasts(&self) -> bool {
        self.epoch.number() == self.number
    }
}

/// A server's tickets hold what is to be remembered of a client, encrypted under keys of one epoch.
#[derive(Debug)]
pub(crate) struct Tickets {
    epoch: Pinned,
    keys: Arc<dyn ProducesTickets>,
}

impl Tickets {
    /// Of the present epoch; `None` without randomness for keys, and then nothing is resumed.
    pub(crate) fn new(epoch: &Epoch) -> Option<Self> {
        Some(Self { epoch: epoch.pin(), keys: Ticketer::new().ok()? })
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.epoch.lasts()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.epoch.lasts().then(|| self.keys.encrypt(plain))?
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.epoch.lasts().then(|| self.keys.decrypt(cipher))?
    }
}

/// What a client remembers of the servers of one identity, for one protocol, in one epoch.
pub(crate) struct Sessions {
    epoch: Pinned,
    known: ClientSessionMemoryCache,
}

impl Sessions {
    /// Of the present epoch.
    pub(crate) fn new(epoch: &Epoch) -> Self {
        Self { epoch: epoch.pin(), known: ClientSessionMemoryCache::new(SERVERS_MAX * TICKETS_PER_SERVER) }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.known.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.known.kx_hint(server)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    /// A server may send a ticket at any time: long after it was verified.
    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        if self.epoch.lasts() {
            self.known.insert_tls13_ticket(server, ticket);
        }
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.epoch.lasts().then(|| self.known.take_tls13_ticket(server))?
    }
}
