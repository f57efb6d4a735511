//! Sessions that are resumed, and when they are not.
//!
//! rustls takes a resumed peer's identity from the session without verifying it again, and every resumed handshake mints the
//! next ticket (RFC 8446 section 4.6.1): left alone, a peer could go on for ever after its issuer was dropped from the bundle, it
//! was denied, or its key was replaced. So a session is of an *epoch*, which ends whenever what is trusted or presented changes:
//! tickets of an earlier one cannot be opened, and sessions of it are forgotten. That a certificate expires ends no epoch; it is
//! looked at after the handshake ([`AuthenticatedPeer`](crate::AuthenticatedPeer)).

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
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
#[derive(Clone, Default)]
pub(crate) struct Epoch {
    number: Arc<AtomicU64>,
    tickets: Arc<ArcSwapOption<Arc<dyn ProducesTickets>>>,
}

impl Epoch {
    /// Whatever was agreed on so far is agreed on anew.
    pub(crate) fn end(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        // Without new keys there is no resumption; nothing else depends on them.
        self.tickets.store(Ticketer::new().ok().map(Arc::new));
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.number.load(Ordering::Relaxed))
    }
}

/// A server's tickets hold what is to be remembered of a client, encrypted under keys that are made anew with every epoch.
impl ProducesTickets for Epoch {
    fn enabled(&self) -> bool {
        self.tickets.load().is_some()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.load().as_ref().map_or(0, |tickets| tickets.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.load().as_ref()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.load().as_ref()?.decrypt(cipher)
    }
}

/// What a client remembers of the servers of one identity, for one protocol, in one epoch.
pub(crate) struct Sessions {
    epoch: Epoch,
    known: Mutex<(u64, ClientSessionMemoryCache)>,
}

impl Sessions {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let number = epoch.number.load(Ordering::SeqCst);
        Self { epoch, known: Mutex::new((number, none())) }
    }

    /// Of this epoch.
    fn current(&self) -> MutexGuard<'_, (u64, ClientSessionMemoryCache)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.epoch.number.load(Ordering::SeqCst);
        if known.0 != number {
            *known = (number, none());
        }
        known
    }
}

fn none() -> ClientSessionMemoryCache {
    ClientSessionMemoryCache::new(SERVERS_MAX * TICKETS_PER_SERVER)
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.current().1.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.current().1.kx_hint(server)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.current().1.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.current().1.take_tls13_ticket(server)
    }
}
