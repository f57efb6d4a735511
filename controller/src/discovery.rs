//! What one proxy's discovery stream has been sent, and what it must be sent next. Pure.
//!
//! ```text
//!   MeshState (latest) ──► Subscriptions::update ──► WatchResponse (only what changed) ──► the stream
//!                                   ▲
//!     subscribe / unsubscribe ──────┘
//! ```
//!
//! A slow stream is coalesced: it is diffed against the latest state when it can take more, and never queues states.

pub mod encodings;
mod levels;
pub mod registry;
pub mod server;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use conduit_api::{
    Endpoint, Pod, PodName, ProtocolHint, Revision, RouteTable, Service, ServiceName, SpiffeId, Target, TrustDomain,
    proto::{
        discovery::{self, destination, target_update},
        identity,
    },
    route::PROXY_LEVEL,
    target::to_service_port,
    wire,
};
use conduit_consensus::{FederatedRecord, MeshState, Versioned};
use prost::Message as _;

use self::encodings::{Encodings, Routed};
use crate::authority::roots::anchors;

/// The most destinations one proxy may follow: what it calls, not what there is.
pub const TARGETS_PER_STREAM_MAX: usize = 10_000;

/// One stream's subscriptions, and what it holds of each.
pub struct Subscriptions {
    pod: PodName,
    trust_domain: TrustDomain,
    encodings: Arc<Encodings>,
    /// How much of routes the proxy understands.
    level: u32,
    sent: BTreeMap<Target, Sent>,
    /// Where the proxy runs, as it was told; none before that.
    zone: Option<String>,
    /// Where it was told that its application has ended.
    told_end: Option<IpAddr>,
    /// What the bundle that it holds was made of.
    bundle: Option<(Revision, u32)>,
    /// The first response is sent even when it is empty: it tells the proxy that it is connected.
    greeted: bool,
}

/// What the proxy holds of a target.
enum Sent {
    /// Nothing of this stream; a service at this version of an earlier one (0 for none).
    Resumed(Revision),
    Service(Held),
    /// Encoded.
    Other(Bytes),
}

/// A service, and what holds for its requests and connections.
struct Held {
    service: Arc<Versioned<Service>>,
    routes: Option<Arc<RouteTable>>,
    hint: ProtocolHint,
}

impl Held {
    fn routed(&self, level: u32) -> Routed<'_> {
        Routed { service: &self.service, routes: self.routes.as_deref(), hint: self.hint, level }
    }
}

/// More targets than [`TARGETS_PER_STREAM_MAX`].
#[derive(Debug, thiserror::Error)]
#[error("more than {TARGETS_PER_STREAM_MAX} subscriptions on one stream")]
pub struct TooManyTargets;

impl Subscriptions {
    /// Of the proxy beside `pod`, which holds nothing yet, and says that it is of `level`. `encodings` are those of all streams.
    pub fn new(pod: PodName, trust_domain: TrustDomain, encodings: Arc<Encodings>, level: u32) -> Self {
        let level = level.min(PROXY_LEVEL);
        Self {
            pod,
            trust_domain,
            encodings,
            level,
            sent: BTreeMap::new(),
            zone: None,
            told_end: None,
            bundle: None,
            greeted: false,
        }
    }

    /// Follows `target`; `held` is the version that the proxy has of it from an earlier stream.
    ///
    /// # Errors
    /// When there are too many.
    pub fn subscribe(&mut self, target: Target, held: Revision) -> Result<(), TooManyTargets> {
        if self.sent.len() >= TARGETS_PER_STREAM_MAX && !self.sent.contains_key(&target) {
            return Err(TooManyTargets);
        }
        self.sent.insert(target, Sent::Resumed(held));
        Ok(())
    }

    /// Follows `target` no longer.
    pub fn unsubscribe(&mut self, target: &Target) {
        self.sent.remove(target);
    }

    /// Whether `target` is followed.
    pub fn follows(&self, target: &Target) -> bool {
        self.sent.contains_key(target)
    }

    /// What to send so that the proxy holds `state`; `None` when it already does.
    pub fn update(&mut self, state: &MeshState) -> Option<discovery::WatchResponse> {
        let mut updates = Vec::new();
        for (target, sent) in &mut self.sent {
            let now = resolve(target, state, &self.trust_domain);
            if let Some((version, kind)) = advance(sent, now, &self.encodings, self.level) {
                let version = version.as_u64();
                updates.push(discovery::TargetUpdate { target: Some(target.into()), version, kind: Some(kind) });
            }
        }
        let (zone, bundle) = (self.zone(state), self.bundle(state));
        let ended_at = self.application_ended(state);
        if self.greeted && updates.is_empty() && zone.is_none() && bundle.is_none() && ended_at.is_none() {
            return None;
        }
        self.greeted = true;
        let application_ended_at = ended_at.map(wire::octets).unwrap_or_default();
        let revision = state.revision().as_u64();
        Some(discovery::WatchResponse { revision, updates, bundle, zone, application_ended_at })
    }

    /// Where the proxy's application has ended, if it does not know.
    fn application_ended(&mut self, state: &MeshState) -> Option<IpAddr> {
        let pod = state.pods().get(&self.pod).filter(|pod| pod.value.application_ended)?;
        let ip = pod.value.ip;
        (self.told_end.replace(ip) != Some(ip)).then_some(ip)
    }

    /// Where the proxy runs, if it does not know.
    fn zone(&mut self, state: &MeshState) -> Option<String> {
        let zone = state.pods().get(&self.pod).and_then(|pod| pod.value.zone.clone()).unwrap_or_default();
        if self.zone.as_ref() == Some(&zone) {
            return None;
        }
        self.zone.insert(zone).clone().into()
    }

    /// The bundle, if the proxy does not hold it.
    fn bundle(&mut self, state: &MeshState) -> Option<identity::TrustBundle> {
        let made_of = (state.ca()?.revision, renew_within_ms(state));
        if self.bundle.replace(made_of) == Some(made_of) {
            return None;
        }
        bundle_of(state)
    }
}

/// Makes `sent` what `now` is, and says what takes the proxy from the one to the other.
fn advance(
    sent: &mut Sent,
    now: Resolved,
    encodings: &Encodings,
    level: u32,
) -> Option<(Revision, target_update::Kind)> {
    match now {
        Resolved::Service(now, port) => {
            let kind = match &*sent {
                Sent::Service(before) if Arc::ptr_eq(&before.service, &now.service) => return None,
                Sent::Service(before) => {
                    encodings.delta(before.routed(level), now.routed(level), port).map(target_update::Kind::Delta)
                }
                // One of a level below may have it from its successor, which was told all of it.
                Sent::Resumed(held) if *held == now.service.version && levels::is_told_all(now.routed(level), port) => {
                    None
                }
                Sent::Resumed(_) | Sent::Other(_) => {
                    Some(target_update::Kind::Full(encodings.full(now.routed(level), port)))
                }
            };
            let version = now.service.version;
            *sent = Sent::Service(now);
            kind.map(|kind| (version, kind))
        }
        Resolved::Other(encoded) => {
            if matches!(&*sent, Sent::Other(before) if *before == encoded) {
                return None;
            }
            *sent = Sent::Other(encoded.clone());
            // A pod, and nothing at all, have no version: they are small, and sent whole on every stream.
            Some((Revision::default(), target_update::Kind::Full(encoded)))
        }
    }
}

enum Resolved {
    /// A service that has this port, and what holds for its requests.
    Service(Held, u16),
    /// Encoded.
    Other(Bytes),
}

/// What is at a target.
pub enum Found<'a> {
    /// A service that has this port.
    Service(&'a Arc<Versioned<Service>>, u16),
    /// A pod, addressed directly.
    Pod(&'a Versioned<Pod>),
    /// Nothing of this mesh.
    Nothing,
}

/// Looks `target` up.
pub fn find<'a>(target: &Target, state: &'a MeshState) -> Found<'a> {
    let (service, port) = match target {
        Target::Address(address) => (state.service_by_cluster_ip(address.ip()), address.port()),
        Target::Service(name, port) => (state.services().get(name), *port),
    };
    match (service, target) {
        (Some(service), _) if service.value.ports.contains_key(&port) => Found::Service(service, port),
        (None, Target::Address(address)) => state.pod_by_ip(address.ip()).map_or(Found::Nothing, |pod| Found::Pod(pod)),
        _ => Found::Nothing,
    }
}

fn resolve(target: &Target, state: &MeshState, trust_domain: &TrustDomain) -> Resolved {
    match (find(target, state), target) {
        (Found::Service(service, port), _) => {
            let routes = state.routes_of(&service.value.name).cloned();
            let hint = state.hint_of(&service.value, port);
            Resolved::Service(Held { service: service.clone(), routes, hint }, port)
        }
        (Found::Pod(pod), Target::Address(address)) => {
            Resolved::Other(destination_of_pod(&pod.value, *address, state, trust_domain).encode_to_vec().into())
        }
        (Found::Pod(_) | Found::Nothing, _) => Resolved::Other(unknown().encode_to_vec().into()),
    }
}

/// `address` of `pod`, as those see it who connect to it directly.
pub fn endpoint_of_pod(pod: &Pod, address: SocketAddr, trust_domain: &TrustDomain) -> Endpoint {
    let identity = || SpiffeId::new(trust_domain, pod.name.namespace(), &pod.service_account).ok();
    Endpoint {
        address,
        pod: Some(pod.name.clone()),
        workload: pod.workload.clone(),
        identity: pod.is_meshed_at(address.port()).then(identity).flatten(),
        zone: pod.zone.clone(),
    }
}

fn destination_of_pod(
    pod: &Pod,
    address: SocketAddr,
    state: &MeshState,
    trust_domain: &TrustDomain,
) -> discovery::Destination {
    let endpoint = endpoint_of_pod(pod, address, trust_domain);
    let headless = state.headless_services_of(address);
    let hint = hint_of_pod(pod, address.port(), &headless, state);
    let pod = discovery::Pod {
        endpoint: Some((&endpoint).into()),
        headless: headless.iter().map(|(name, port)| to_service_port(name, *port)).collect(),
        hint: discovery::ProtocolHint::from(hint).into(),
    };
    discovery::Destination { kind: Some(destination::Kind::Pod(pod)) }
}

/// What somebody says of the pod, or else what holds for the services that its address is part of.
pub fn hint_of_pod(pod: &Pod, port: u16, headless: &[(ServiceName, u16)], state: &MeshState) -> ProtocolHint {
    if pod.is_opaque(port) {
        return ProtocolHint::Opaque;
    }
    let of_service = |(name, port): &(ServiceName, u16)| Some(state.hint_of(&state.services().get(name)?.value, *port));
    let mut hints = headless.iter().filter_map(of_service);
    hints.find(|hint| *hint != ProtocolHint::None).unwrap_or_default()
}

fn unknown() -> discovery::Destination {
    discovery::Destination { kind: Some(destination::Kind::Unknown(discovery::Unknown {})) }
}

/// Proxies that ask for new certificates in a second, when all of them have to: a fraction of what a replica can sign.
const RENEWALS_PER_SECOND: usize = 1000;

/// Whom every proxy is to trust; none before the CA exists.
pub fn bundle_of(state: &MeshState) -> Option<identity::TrustBundle> {
    let ca = state.ca()?;
    let denied = ca.denied.iter().map(|(id, denial)| identity::DeniedIdentity {
        spiffe_id: id.to_string(),
        drop_connections: denial.drop_connections,
    });
    Some(identity::TrustBundle {
        roots: anchors(ca).iter().map(|anchor| anchor.to_vec()).collect(),
        issuing_root: ca.active().map(|active| active.root.id.as_bytes().to_vec()).unwrap_or_default(),
        renew_within_ms: renew_within_ms(state),
        denied: denied.collect(),
        revoked_issuers: ca.revoked.iter().map(|id| id.as_bytes().to_vec()).collect(),
        revision: ca.revision.as_u64(),
        jwt_keys: ca.jwt_keys.iter().map(|(id, key)| jwt_key(id, &key.jwk)).collect(),
        federated: ca.federated.iter().map(|(trust_domain, record)| federated(trust_domain, record)).collect(),
    })
}

fn jwt_key(id: &str, jwk: &str) -> identity::JwtKey {
    identity::JwtKey { id: id.to_owned(), jwk: jwk.to_owned() }
}

fn federated(
    trust_domain: &TrustDomain,
    FederatedRecord { roots, jwt }: &FederatedRecord,
) -> identity::FederatedBundle {
    identity::FederatedBundle {
        trust_domain: trust_domain.to_string(),
        roots: roots.clone(),
        jwt_keys: jwt.iter().map(|(id, jwk)| jwt_key(id, jwk)).collect(),
    }
}

/// In whole seconds, so that it changes as seldom as the number of pods does.
fn renew_within_ms(state: &MeshState) -> u32 {
    u32::try_from(state.pods().len() / RENEWALS_PER_SECOND * 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
