//! What this proxy knows of the mesh: the pure part of its discovery stream.
//!
//! ```text
//!   data threads ──wanted──► Directory ──► Subscribe, Unsubscribe, Ack ──► control plane
//!   data threads ◄──watch─── Directory ◄── updates, each with its revision ◄──┘
//! ```
//!
//! What was learned is kept when the control plane is gone, for as long as that takes: the last state is better than none.

pub mod client;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use conduit_api::{
    ProtocolHint, Revision, Target,
    proto::discovery::{
        self, Certified, EndpointDelta, Hello, Nack, Observed, Subscribe, TargetUpdate, WatchRequest, WatchResponse,
        observed::First, target_update, watch_request,
    },
    route::PROXY_LEVEL,
    wire::WireError,
};
use prost::Message as _;
use tokio::{sync::watch, time::Instant};

use crate::{
    destination::{Destination, endpoint},
    route::Routes,
};

/// A destination that no connection uses is forgotten after this long.
const IDLE: Duration = Duration::from_secs(60);
/// What is seen of a destination again and again is told again after so long: what was learned of it is to be kept.
const OBSERVED_AGAIN: Duration = Duration::from_secs(3600);
/// ... and after so long, if it was not learned: whoever was told had perhaps too much to do.
const UNLEARNED_AGAIN: Duration = Duration::from_secs(60);
/// Destinations at once. Past it new ones are forwarded unresolved.
pub const TARGETS_MAX: usize = 10_000;

/// What a data thread holds of a target: nothing until the first answer.
pub type Watched = watch::Receiver<Option<Arc<Destination>>>;

struct Entry {
    version: u64,
    destination: watch::Sender<Option<Arc<Destination>>>,
    /// Since nobody holds a receiver.
    idle_since: Option<Instant>,
    /// What was last told of it on this stream, and when.
    observed: Option<(First, Instant)>,
}

impl Entry {
    fn new(destination: watch::Sender<Option<Arc<Destination>>>) -> Self {
        Self { version: 0, destination, idle_since: None, observed: None }
    }
}

/// All targets that this proxy follows.
pub struct Directory {
    namespace: String,
    pod: String,
    revision: Revision,
    zone: watch::Sender<Zone>,
    /// The replica of this stream takes what is observed: one that does, also says where this proxy runs.
    is_taught: bool,
    connected: bool,
    targets: BTreeMap<Target, Entry>,
}

/// Where this proxy runs, as the control plane says; none before it has, and where nobody knows.
pub type Zone = Option<Arc<str>>;

/// An update that must not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The replica is behind another one that this proxy has heard.
    #[error("revision {0} is older than {1}, which is in force")]
    Stale(Revision, Revision),
    /// It does not say what the protocol requires.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is not even protobuf.
    #[error(transparent)]
    Encoding(#[from] prost::DecodeError),
    /// Differences to what was never sent.
    #[error("a difference for a target that is not known")]
    NothingToChange,
}

impl Directory {
    /// Of the proxy beside the pod `namespace`/`pod`; empty.
    pub fn new(namespace: &str, pod: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            revision: Revision::default(),
            zone: watch::Sender::default(),
            is_taught: false,
            connected: false,
            targets: BTreeMap::new(),
        }
    }

    /// The highest revision that was ever in force.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Where this proxy runs, now and from now on.
    pub fn zone(&self) -> watch::Receiver<Zone> {
        self.zone.subscribe()
    }

    /// Everything that is known, in full.
    pub fn to_updates(&self) -> Vec<TargetUpdate> {
        let known = self.targets.iter().filter_map(|(target, entry)| {
            let destination = entry.destination.borrow().as_deref().map(discovery::Destination::from)?;
            let kind = Some(target_update::Kind::Full(destination.encode_to_vec().into()));
            Some(TargetUpdate { target: Some(target.into()), version: entry.version, kind })
        });
        known.collect()
    }

    /// Goes on from what another directory knew at `revision`; what this one was asked for in the meantime gets its answer.
    ///
    /// The requests are for a stream that has begun without these targets.
    ///
    /// # Errors
    /// When it makes no sense; then nothing has changed.
    pub fn restore(&mut self, revision: Revision, updates: &[TargetUpdate]) -> Result<Vec<WatchRequest>, UpdateError> {
        let full = |update: &TargetUpdate| {
            let target = Target::try_from(update.target.as_ref().ok_or(WireError::Missing("update.target"))?)?;
            let Some(target_update::Kind::Full(full)) = &update.kind else { return Err(UpdateError::NothingToChange) };
            Ok((target, update.version, destination(full)?))
        };
        let known = updates.iter().take(TARGETS_MAX).map(full).collect::<Result<Vec<_>, _>>()?;
        let mut requests = Vec::new();
        for (target, version, destination) in known {
            if self.connected && !self.targets.contains_key(&target) {
                requests.push(request(watch_request::Kind::Subscribe(subscribe(&target, version))));
            }
            let entry = self.targets.entry(target).or_insert_with(|| Entry::new(watch::channel(None).0));
            entry.version = version;
            entry.destination.send_replace(Some(Arc::new(destination)));
        }
        self.revision = self.revision.max(revision);
        Ok(requests)
    }

    /// A stream begins: what to say first. It resumes everything that is known. `certified` is the certificate that this proxy presents.
    pub fn connect(&mut self, certified: Option<Certified>) -> WatchRequest {
        self.connected = true;
        self.is_taught = false;
        // Whoever was told may not have taken it on.
        self.targets.values_mut().for_each(|entry| entry.observed = None);
        let resume = self.targets.iter().map(|(target, entry)| subscribe(target, entry.version)).collect();
        request(watch_request::Kind::Hello(Hello {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            version: conduit_api::VERSION.to_owned(),
            revision: self.revision.as_u64(),
            resume,
            certified,
            level: PROXY_LEVEL,
        }))
    }

    /// The stream has ended. Everything stays as it is.
    pub fn disconnect(&mut self) {
        self.connected = false;
    }

    /// Somebody wants to know `target`; the request to send, if it is new and there is a stream. `None` instead of the
    /// receiver when there are too many.
    pub fn want(&mut self, target: Target) -> (Option<Watched>, Option<WatchRequest>) {
        if let Some(entry) = self.targets.get_mut(&target) {
            entry.idle_since = None;
            return (Some(entry.destination.subscribe()), None);
        }
        if self.targets.len() >= TARGETS_MAX {
            return (None, None);
        }
        let (destination, watched) = watch::channel(None);
        let request = self.connected.then(|| request(watch_request::Kind::Subscribe(subscribe(&target, 0))));
        self.targets.insert(target, Entry::new(destination));
        (Some(watched), request)
    }

    /// A connection to `target` has shown who speaks first there; the request to send, if that was not told lately.
    pub fn observe(&mut self, now: Instant, target: &Target, first: First) -> Option<WatchRequest> {
        let entry = self.targets.get_mut(target).filter(|_| self.connected && self.is_taught)?;
        let hint = entry.destination.borrow().as_deref().map(Destination::hint);
        let is_learned = (first == First::Server) == (hint == Some(ProtocolHint::ServerFirst));
        let again = if is_learned { OBSERVED_AGAIN } else { UNLEARNED_AGAIN };
        let is_known = |(known, at): (First, Instant)| known == first && now.duration_since(at) < again;
        if entry.observed.is_some_and(is_known) {
            return None;
        }
        entry.observed = Some((first, now));
        let observed = Observed { target: Some(target.into()), first: first.into() };
        Some(request(watch_request::Kind::Observed(observed)))
    }

    /// Forgets what nobody has used for a while; the requests to send.
    pub fn sweep(&mut self, now: Instant) -> Vec<WatchRequest> {
        let mut requests = Vec::new();
        let connected = self.connected;
        self.targets.retain(|target, entry| {
            if entry.destination.receiver_count() > 0 {
                entry.idle_since = None;
                return true;
            }
            // Without a stream what is known could not be had again.
            let keep = (!connected && entry.destination.borrow().is_some())
                || now.saturating_duration_since(*entry.idle_since.get_or_insert(now)) < IDLE;
            if !keep && connected {
                requests.push(request(watch_request::Kind::Unsubscribe(target.into())));
            }
            keep
        });
        requests
    }

    /// Takes an update over, all of it or, with the request that says why not, nothing. The request acknowledges it
    /// otherwise: it is in force then.
    ///
    /// # Errors
    /// When it is older than what is in force, or makes no sense; the stream must be ended.
    pub fn update(&mut self, response: &WatchResponse) -> Result<WatchRequest, Box<(UpdateError, WatchRequest)>> {
        let revision = Revision::from(response.revision);
        let parsed = if revision < self.revision {
            Err(UpdateError::Stale(revision, self.revision))
        } else {
            response.updates.iter().map(|update| self.parse(update)).collect::<Result<Vec<_>, _>>()
        };
        match parsed {
            Ok(updates) => {
                if let Some(zone) = &response.zone {
                    self.is_taught = true;
                    self.zone.send_replace((!zone.is_empty()).then(|| zone.as_str().into()));
                }
                for (target, version, destination) in updates.into_iter().flatten() {
                    if let Some(entry) = self.targets.get_mut(&target) {
                        entry.version = version;
                        entry.destination.send_replace(Some(Arc::new(destination)));
                    }
                }
                self.revision = revision;
                Ok(request(watch_request::Kind::Ack(response.revision)))
            }
            Err(error) => {
                let nack = Nack { revision: response.revision, reason: error.to_string() };
                Err(Box::new((error, request(watch_request::Kind::Nack(nack)))))
            }
        }
    }

    /// What an update makes of its target; `None` of one that was given up in the meantime.
    fn parse(&self, update: &TargetUpdate) -> Result<Option<(Target, u64, Destination)>, UpdateError> {
        let target = Target::try_from(update.target.as_ref().ok_or(WireError::Missing("update.target"))?)?;
        let Some(entry) = self.targets.get(&target) else { return Ok(None) };
        let destination = match update.kind.as_ref().ok_or(WireError::Missing("update.kind"))? {
            target_update::Kind::Full(full) => destination(full)?,
            target_update::Kind::Delta(delta) => {
                let delta = EndpointDelta::decode(delta.clone())?;
                let current = entry.destination.borrow().clone();
                let Some(Destination::Service(service)) = current.as_deref() else {
                    return Err(UpdateError::NothingToChange);
                };
                let mut service = service.clone();
                for removed in &delta.removals {
                    service.endpoints.remove(&removed.try_into()?);
                }
                for upsert in &delta.upserts {
                    let (address, upsert) = endpoint(upsert)?;
                    service.endpoints.insert(address, upsert);
                }
                if let Some(balancing) = &delta.balancing {
                    service.balancing = balancing.into();
                }
                if let Some(hint) = delta.hint {
                    service.hint = hint.into();
                }
                if let Some(routes) = &delta.routes {
                    service.routes = Routes::new(&service.name, service.port, Some(routes))?;
                }
                Destination::Service(service)
            }
        };
        Ok(Some((target, update.version, destination)))
    }
}

fn destination(encoded: &Bytes) -> Result<Destination, UpdateError> {
    Ok(Destination::try_from(&discovery::Destination::decode(encoded.clone())?)?)
}

fn subscribe(target: &Target, version: u64) -> Subscribe {
    Subscribe { target: Some(target.into()), version }
}

fn request(kind: watch_request::Kind) -> WatchRequest {
    WatchRequest { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::discovery::destination;

    use super::*;

    fn target() -> Target {
        Target::Address(([10, 96, 0, 1], 80).into())
    }

    fn wire_endpoint(port: u16) -> discovery::Endpoint {
        let address = std::net::SocketAddr::from(([10, 244, 1, 1], port));
        discovery::Endpoint { address: Some(address.into()), ..discovery::Endpoint::default() }
    }

    fn response(revision: u64, kind: target_update::Kind) -> WatchResponse {
        let update = TargetUpdate { target: Some((&target()).into()), version: revision, kind: Some(kind) };
        WatchResponse { revision, updates: vec![update], ..WatchResponse::default() }
    }

    fn full(ports: &[u16]) -> target_update::Kind {
        let endpoints = ports.iter().map(|port| wire_endpoint(*port)).collect();
        let service = discovery::Service {
            namespace: "ns".into(),
            name: "web".into(),
            port: 80,
            endpoints,
            ..Default::default()
        };
        let service = discovery::Destination { kind: Some(destination::Kind::Service(service)) };
        target_update::Kind::Full(service.encode_to_vec().into())
    }

    fn delta(upserts: &[u16], removals: &[u16]) -> target_update::Kind {
        let delta = EndpointDelta {
            upserts: upserts.iter().map(|port| wire_endpoint(*port)).collect(),
            removals: removals.iter().filter_map(|port| wire_endpoint(*port).address).collect(),
            ..EndpointDelta::default()
        };
        target_update::Kind::Delta(delta.encode_to_vec().into())
    }

    fn ports(watched: &Watched) -> Vec<u16> {
        match watched.borrow().as_deref() {
            Some(Destination::Service(known)) => known.endpoints.keys().map(std::net::SocketAddr::port).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn connected() -> (Directory, Watched) {
        let mut directory = Directory::new("emojivoto", "web-0");
        directory.connect(None);
        let (watched, request) = directory.want(target());
        assert!(matches!(request.unwrap().kind, Some(watch_request::Kind::Subscribe(_))));
        (directory, watched.unwrap())
    }

    #[test]
    fn updates_are_in_force_and_acknowledged() {
        let (mut directory, watched) = connected();
        assert!(watched.borrow().is_none());
        let ack = directory.update(&response(5, full(&[1, 2]))).unwrap();
        assert_eq!(ack.kind, Some(watch_request::Kind::Ack(5)));
        assert_eq!(ports(&watched), [1, 2]);
        directory.update(&response(6, delta(&[3], &[1]))).unwrap();
        assert_eq!(ports(&watched), [2, 3]);
        assert_eq!(directory.revision(), Revision::from(6));
    }

    #[test]
    fn what_is_seen_again_and_again_is_told_once_in_a_while() {
        let (mut directory, _watched) = connected();
        let (now, other) = (Instant::now(), Target::Address(([10, 96, 0, 2], 80).into()));
        assert_eq!(directory.observe(now, &target(), First::Server), None, "the replica may not understand it");
        let greeted = || WatchResponse { zone: Some(String::new()), ..response(5, full(&[1])) };
        directory.update(&greeted()).unwrap();
        assert_eq!(directory.observe(now, &other, First::Server), None, "nobody follows it");
        assert!(directory.observe(now, &target(), First::Server).is_some());
        assert_eq!(directory.observe(now, &target(), First::Server), None);
        assert!(directory.observe(now + UNLEARNED_AGAIN, &target(), First::Server).is_some(), "nobody has learned it");
        assert!(directory.observe(now, &target(), First::Client).is_some(), "that is something else");
        assert_eq!(directory.observe(now + UNLEARNED_AGAIN, &target(), First::Client), None, "as is known");
        assert!(directory.observe(now + OBSERVED_AGAIN, &target(), First::Client).is_some());
        directory.connect(None);
        directory.update(&greeted()).unwrap();
        assert!(directory.observe(now, &target(), First::Client).is_some(), "another replica may not know");
        directory.disconnect();
        assert_eq!(directory.observe(now, &target(), First::Server), None);
    }

    #[test]
    fn nothing_older_is_ever_taken_over() {
        let (mut directory, watched) = connected();
        directory.update(&response(5, full(&[1]))).unwrap();
        let (error, nack) = *directory.update(&response(4, full(&[2]))).unwrap_err();
        assert!(matches!(error, UpdateError::Stale(..)));
        assert!(matches!(nack.kind, Some(watch_request::Kind::Nack(Nack { revision: 4, .. }))));
        assert_eq!(ports(&watched), [1]);
    }

    #[test]
    fn half_an_update_is_not_taken_over() {
        let (mut directory, watched) = connected();
        directory.update(&response(5, full(&[1]))).unwrap();
        let mut bad = response(6, full(&[2]));
        bad.updates.push(TargetUpdate::default());
        assert!(directory.update(&bad).is_err());
        assert_eq!(ports(&watched), [1]);
        assert_eq!(directory.revision(), Revision::from(5));
    }

    #[test]
    fn what_is_known_outlives_the_stream_and_is_resumed() {
        let (mut directory, watched) = connected();
        directory.update(&response(5, full(&[1]))).unwrap();
        directory.disconnect();
        assert_eq!(ports(&watched), [1]);
        let (_, request) = directory.want(Target::Address(([10, 96, 0, 2], 80).into()));
        assert!(request.is_none(), "there is nobody to ask");
        let Some(watch_request::Kind::Hello(hello)) = directory.connect(None).kind else { panic!("not hello") };
        assert_eq!(hello.revision, 5);
        assert_eq!(hello.resume.iter().map(|held| held.version).collect::<Vec<_>>(), [5, 0]);
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let (mut directory, watched) = connected();
        let now = Instant::now();
        assert!(directory.sweep(now + IDLE * 2).is_empty(), "somebody holds it");
        drop(watched);
        assert!(directory.sweep(now).is_empty());
        let requests = directory.sweep(now + IDLE);
        assert!(matches!(requests[..], [WatchRequest { kind: Some(watch_request::Kind::Unsubscribe(_)) }]));
        assert!(directory.update(&response(5, full(&[1]))).is_ok(), "an answer that comes late does no harm");
    }

    #[test]
    fn what_one_proxy_knew_another_goes_on_from() {
        let (mut directory, _watched) = connected();
        directory.update(&response(5, full(&[1, 2]))).unwrap();
        let kept = directory.to_updates();
        let mut restarted = Directory::new("emojivoto", "web-0");
        let (asked_before, _) = restarted.want(target());
        restarted.restore(5.into(), &kept).unwrap();
        assert_eq!(ports(&asked_before.unwrap()), [1, 2]);
        assert_eq!((restarted.revision(), restarted.to_updates()), (5.into(), kept.clone()));
        assert!(restarted.sweep(Instant::now() + IDLE * 2).is_empty());
        let mut connecting = Directory::new("emojivoto", "web-0");
        connecting.connect(None);
        let requests = connecting.restore(5.into(), &kept).unwrap();
        assert_eq!(requests, [request(watch_request::Kind::Subscribe(subscribe(&target(), 5)))]);
        let Some(watch_request::Kind::Hello(hello)) = restarted.connect(None).kind else { panic!("not hello") };
        assert_eq!((hello.revision, hello.resume[0].version), (5, 5), "nothing older is believed from then on");
    }

    #[test]
    fn targets_are_bounded() {
        let mut directory = Directory::new("ns", "pod");
        let held: Vec<_> = (0..TARGETS_MAX)
            .map(|i| directory.want(Target::Address(([10, 1, (i >> 8) as u8, i as u8], 80).into())).0.unwrap())
            .collect();
        assert!(directory.want(target()).0.is_none());
        drop(held);
    }
}
