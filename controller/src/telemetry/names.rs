//! What one proxy's counts are told apart by, each with a number that slots know it by. Pure.

use std::{collections::BTreeMap, sync::Arc};

use conduit_api::{
    proto::{
        common::{Direction, Tls},
        telemetry::{RequestCounts, TcpCounts},
    },
    text,
};

use super::{paths::Path, select::Peer};

/// Names of one proxy. A proxy tells 1 000 label sets of requests apart each way, as many of connections, and 1 024 paths and ends; these are kept for hours.
pub const NAMES_MAX: usize = 4096;
/// Bytes of them: some three times as many as those usually take.
pub const NAMES_BYTES_MAX: usize = 1 << 20;
/// What proxies may say of an authority, a path, a method or an identity; what is longer is cut.
pub const NAME_LEN_MAX: usize = 256;
/// What is counted under it has names that there was no room for.
pub const OTHER: &str = "__other__";

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// Requests.
    Requests(Requests),
    /// Connections, and requests between two pods.
    Link(Link),
    /// Requests by what they ask for, and how they end.
    Path(Path),
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requests {
    pub(super) inbound: bool,
    pub(super) authority: String,
    /// Without its pod: clients use all pods of a service, which would be as many rows.
    pub(super) peer: Peer,
    /// None of what is inbound, or for no service: most names have none, and need no room for it.
    pub(super) service: Option<Box<ToService>>,
}

/// Requests for a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToService {
    /// Namespace and name of the one that they went to, or were to go to.
    pub(super) backend: (String, String),
    /// The same of what their clients asked for, before its routes; of an older proxy, the backend.
    pub(super) meant: (String, String),
    /// Of that; 0 of an older proxy.
    pub(super) port: u16,
    /// The route that accepted them; empty where none did, and of an older proxy.
    pub(super) route: String,
}

/// What connections are counted by, and requests between two pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub(super) inbound: bool,
    pub(super) peer: Peer,
    /// `Tls` of the wire: its state, and the peer's id.
    pub(super) tls: (i32, String),
}

impl Requests {
    /// Of a row of a report.
    pub(super) fn of(counts: &RequestCounts) -> Self {
        let peer = Peer { pod: String::new(), ..Peer::of(counts.peer.as_ref(), "") };
        let inbound = counts.direction() == Direction::Inbound;
        let is_for_one = !counts.service.is_empty() || !counts.backend.is_empty();
        let service = (!inbound && is_for_one).then(|| Box::new(ToService::of(counts, &peer)));
        Self { inbound, authority: cut(&counts.authority).to_owned(), peer, service }
    }

    fn past_the_budget(&self) -> Self {
        let some = || (String::new(), OTHER.to_owned());
        let other = || ToService { backend: some(), meant: some(), port: 0, route: OTHER.to_owned() };
        let service = self.service.is_some().then(|| Box::new(other()));
        Self { inbound: self.inbound, authority: OTHER.to_owned(), peer: Peer::default(), service }
    }
}

impl ToService {
    fn of(counts: &RequestCounts, peer: &Peer) -> Self {
        let text = |text: &str| cut(text).to_owned();
        let backend = if counts.service.is_empty() { &counts.backend } else { &counts.service };
        let Some(meant) = &counts.meant else {
            // An older proxy says it of the peer only.
            let backend = (peer.namespace.clone(), text(&counts.service));
            return Self { meant: backend.clone(), backend, port: 0, route: String::new() };
        };
        Self {
            backend: (text(&counts.service_namespace), text(backend)),
            meant: (text(&meant.namespace), text(&meant.name)),
            port: u16::try_from(meant.port).unwrap_or_default(),
            route: text(&meant.route),
        }
    }

    fn size(&self) -> usize {
        let text = |(namespace, name): &(String, String)| namespace.len() + name.len();
        size_of::<Self>() + text(&self.backend) + text(&self.meant) + self.route.len()
    }
}

impl Link {
    /// Of requests, if it is known where they went. Of an inbound request only the identity of who sent it is known, which its connection says as
    /// well.
    pub(super) fn of_requests(counts: &RequestCounts) -> Option<Self> {
        let inbound = counts.direction() == Direction::Inbound;
        let peer = Peer::of(counts.peer.as_ref(), &counts.peer_pod);
        (!inbound && !peer.kind.is_empty()).then(|| Self { inbound, peer, tls: tls(counts.tls.as_ref()) })
    }

    /// Of connections.
    pub(super) fn of_connections(counts: &TcpCounts) -> Self {
        let peer = Peer::of(counts.peer.as_ref(), &counts.peer_pod);
        Self { inbound: counts.direction() == Direction::Inbound, peer, tls: tls(counts.tls.as_ref()) }
    }
}

impl Name {
    /// What it is counted under when there are too many, so that sums stay true; of these there are few.
    fn past_the_budget(&self) -> Self {
        match self {
            Self::Requests(requests) => Self::Requests(requests.past_the_budget()),
            Self::Link(link) => {
                Self::Link(Link { inbound: link.inbound, peer: Peer::default(), tls: Default::default() })
            }
            Self::Path(path) => Self::Path(path.past_the_budget()),
        }
    }

    /// Bytes that it takes, about: it is kept once, and shared by two lists.
    fn size(&self) -> usize {
        let peer = |peer: &Peer| peer.kind.len() + peer.namespace.len() + peer.name.len() + peer.pod.len();
        let text = match self {
            Self::Requests(Requests { authority, service, peer: to, .. }) => {
                authority.len() + peer(to) + service.as_ref().map_or(0, |service| service.size())
            }
            Self::Link(link) => link.tls.1.len() + peer(&link.peer),
            Self::Path(path) => path.text_len(),
        };
        // Allocations, both counters, and the two places.
        size_of::<Self>() + text + 80
    }
}

/// Names by their numbers, and numbers by their names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_number: Vec<Arc<Name>>,
    numbers: BTreeMap<Arc<Name>, u32>,
    size: usize,
}

impl Names {
    /// The name of a number.
    pub fn name(&self, number: u32) -> Option<&Name> {
        self.by_number.get(number as usize).map(AsRef::as_ref)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_number.len()
    }

    /// Bytes that they take, about.
    pub fn size(&self) -> usize {
        self.size
    }

    /// There is no room for another one.
    pub fn is_full(&self) -> bool {
        self.count() >= NAMES_MAX || self.size >= NAMES_BYTES_MAX
    }

    /// The number of a name.
    pub fn known(&self, name: &Name) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The number of a name that is not known, or of what it is counted under, and whether it is that.
    pub fn learn(&mut self, name: Name) -> (u32, bool) {
        if !self.is_full() {
            return (self.add(Arc::new(name)), false);
        }
        let other = name.past_the_budget();
        (self.known(&other).unwrap_or_else(|| self.add(Arc::new(other))), true)
    }

    fn add(&mut self, name: Arc<Name>) -> u32 {
        let number = self.by_number.len() as u32;
        self.size += name.size();
        self.by_number.push(name.clone());
        *self.numbers.entry(name).or_insert(number)
    }

    /// Only those that are kept, and for each number the new one; those that are not are counted under what is past the budget.
    pub fn retain(&self, keep: impl Fn(u32) -> bool, is_used: impl Fn(u32) -> bool) -> (Self, Vec<u32>) {
        let mut kept = Self::default();
        let renamed = (0_u32..).zip(&self.by_number).map(|(number, name)| {
            if keep(number) {
                return kept.known(name).unwrap_or_else(|| kept.add(name.clone()));
            }
            if !is_used(number) {
                return 0;
            }
            let other = Arc::new(name.past_the_budget());
            kept.known(&other).unwrap_or_else(|| kept.add(other))
        });
        let renamed = renamed.collect();
        (kept, renamed)
    }
}

fn tls(tls: Option<&Tls>) -> (i32, String) {
    tls.map(|tls| (tls.state, cut(&tls.peer_id).to_owned())).unwrap_or_default()
}

/// No more of it than [`NAME_LEN_MAX`].
pub fn cut(name: &str) -> &str {
    text::cut(name, NAME_LEN_MAX)
}
