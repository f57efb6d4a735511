//! Who speaks with whom. Pure.

use std::collections::BTreeMap;

use conduit_api::proto::{
    common::{ResourceRef, Tls, tls},
    peer::{Counts, EdgeCounts},
    public::{Edge, EdgesRequest},
};

use super::{
    Reporter,
    counts::{Traffic, is_mutual},
    names::Link,
    questions::Of,
    select::Peer,
};

/// What there is one edge for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// Namespace, name and kind.
    source: (String, String, String),
    destination: (String, String, String),
    client_id: String,
    server_id: String,
    state: i32,
}

impl Ends {
    /// Of a row, if it is about what `request` asks for.
    pub(super) fn of(reporter: &Reporter, link: &Link, request: &EdgesRequest) -> Option<Self> {
        if link.inbound || link.peer.kind.is_empty() {
            return None;
        }
        let kind = request.kind.as_str();
        let (source, destination) = (reporter.resource(kind), link.peer.resource(kind));
        if source.is_none() && destination.is_none() {
            return None;
        }
        let here = |namespace: &str| request.namespace.is_empty() || request.namespace == namespace;
        if !here(reporter.pod.namespace()) && !here(&link.peer.namespace) {
            return None;
        }
        let of_kind = |(namespace, name)| (namespace, name, kind.to_owned());
        let mutual = link.tls.0 == i32::from(tls::State::Mutual);
        Some(Self {
            source: source.map_or_else(|| owner(reporter), of_kind),
            destination: destination.map_or_else(|| peer_owner(&link.peer), of_kind),
            client_id: if mutual { reporter.identity.clone() } else { String::new() },
            server_id: link.tls.1.clone(),
            state: link.tls.0,
        })
    }

    /// What another replica told.
    pub fn from_wire(edge: EdgeCounts) -> (Self, Counts) {
        let end = |end: Option<ResourceRef>| end.map(|end| (end.namespace, end.name, end.kind)).unwrap_or_default();
        let tls = edge.tls.unwrap_or_default();
        let ends = Self {
            source: end(edge.source),
            destination: end(edge.destination),
            client_id: edge.client_id,
            server_id: tls.peer_id,
            state: tls.state,
        };
        (ends, edge.counts.unwrap_or_default())
    }

    /// As replicas tell each other.
    pub fn to_wire(&self, traffic: &Traffic, of: Of) -> EdgeCounts {
        EdgeCounts {
            source: Some(reference(&self.source)),
            destination: Some(reference(&self.destination)),
            client_id: self.client_id.clone(),
            tls: Some(self.tls()),
            counts: Some(traffic.to_wire(of)),
        }
    }

    fn tls(&self) -> Tls {
        Tls { state: self.state, peer_id: self.server_id.clone() }
    }
}

fn owner(reporter: &Reporter) -> (String, String, String) {
    let namespace = reporter.pod.namespace().to_owned();
    match &reporter.workload {
        Some(workload) => (namespace, workload.name.clone(), workload.kind.clone()),
        None => (namespace, reporter.pod.name().to_owned(), "pod".to_owned()),
    }
}

fn peer_owner(peer: &Peer) -> (String, String, String) {
    (peer.namespace.clone(), peer.name.clone(), peer.kind.clone())
}

fn reference((namespace, name, kind): &(String, String, String)) -> ResourceRef {
    ResourceRef { kind: kind.clone(), namespace: namespace.clone(), name: name.clone() }
}

/// As people are told, sorted.
pub fn edges(merged: BTreeMap<Ends, Traffic>) -> Vec<Edge> {
    let edge = |(ends, traffic): (Ends, Traffic)| {
        let tls = ends.tls();
        Edge {
            source: Some(reference(&ends.source)),
            destination: Some(reference(&ends.destination)),
            secured: is_mutual(&tls),
            no_tls_reason: no_tls_reason(&tls).to_owned(),
            stats: traffic.stats(),
            read_bytes: traffic.tcp.read_bytes,
            write_bytes: traffic.tcp.write_bytes,
            tcp_open: u32::try_from(traffic.open()).unwrap_or(u32::MAX),
            client_id: ends.client_id,
            server_id: ends.server_id,
        }
    };
    merged.into_iter().map(edge).collect()
}

/// Why there is no mutual TLS; empty if there is.
fn no_tls_reason(tls: &Tls) -> &'static str {
    match tls.state() {
        tls::State::Mutual => "",
        tls::State::NoIdentity => "no identity provided by remote",
        tls::State::Loopback => "loopback",
        tls::State::Passthrough => "opaque TLS of the application",
        tls::State::Unspecified => "not known",
    }
}
