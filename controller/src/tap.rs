//! Taps: who watches what, and which proxies are told. Pure.
//!
//! ```text
//!   CLI ──► any replica ──► every replica: Broker::start ──► Start to each attached proxy that is concerned
//!   CLI ◄── any replica ◄── every replica ◄── Broker::event ◄── what those proxies observe
//! ```

pub mod server;
mod waiting;

use std::collections::BTreeMap;

use conduit_api::{
    PodName,
    proto::{
        public::ResourceSelection,
        tap::{Match, Start},
    },
};
use conduit_consensus::MeshState;

use crate::telemetry::select::matches;

/// Taps that run at once on one replica; each costs every tapped proxy a match per request.
pub const TAPS_MAX: usize = 64;
/// Of them, those that see payloads or headers: each may have some megabytes of them waiting for a slow reader (see `tap/waiting.rs`).
pub const PAYLOAD_TAPS_MAX: usize = 8;

/// A running tap.
#[derive(Clone, Debug)]
pub struct Tap {
    /// Which pods.
    pub target: ResourceSelection,
    /// Which of their requests.
    pub matches: Match,
    /// Of each proxy.
    pub max_rps: f32,
    /// The messages of gRPC as well.
    pub payloads: bool,
    /// What heads say as well.
    pub headers: bool,
}

/// Why a tap does not start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TapError {
    /// See [`TAPS_MAX`].
    #[error("{TAPS_MAX} taps are running on this replica already; end one of them first")]
    TooMany,
    /// See [`PAYLOAD_TAPS_MAX`].
    #[error("{PAYLOAD_TAPS_MAX} taps see payloads or headers on this replica already; end one of them first")]
    TooManyPayloads,
}

/// The taps and the attached proxies of this replica. `A` sends to a proxy, `S` to the one who watches.
pub struct Broker<A, S> {
    taps: BTreeMap<u64, (Tap, S)>,
    next_proxy: u64,
    proxies: BTreeMap<u64, (PodName, A)>,
}

impl<A: Clone, S: Clone> Default for Broker<A, S> {
    fn default() -> Self {
        Self { taps: BTreeMap::new(), next_proxy: 1, proxies: BTreeMap::new() }
    }
}

impl<A: Clone, S: Clone> Broker<A, S> {
    /// A proxy attached: its number, and the taps to start in it.
    pub fn attach(&mut self, pod: PodName, proxy: A, state: &MeshState) -> (u64, Vec<Start>) {
        let id = self.next_proxy;
        self.next_proxy += 1;
        let starts = self.taps.iter().filter(|(_, (tap, _))| concerns(&tap.target, &pod, state));
        let starts = starts.map(|(id, (tap, _))| tap.start(*id)).collect();
        self.proxies.insert(id, (pod, proxy));
        (id, starts)
    }

    /// A proxy is gone.
    pub fn detach(&mut self, proxy: u64) {
        self.proxies.remove(&proxy);
    }

    /// Somebody watches: what to tell, and which proxies. `id` is one that nobody can have used before, on this replica or another: proxies that
    /// come from there may still speak of theirs.
    ///
    /// # Errors
    /// When too many taps are running.
    pub fn start(&mut self, id: u64, tap: Tap, watcher: S, state: &MeshState) -> Result<(Start, Vec<A>), TapError> {
        self.has_room(tap.is_large())?;
        let concerned = self.proxies.values().filter(|(pod, _)| concerns(&tap.target, pod, state));
        let concerned = concerned.map(|(_, proxy)| proxy.clone()).collect();
        let start = tap.start(id);
        self.taps.insert(id, (tap, watcher));
        Ok((start, concerned))
    }

    fn has_room(&self, is_large: bool) -> Result<(), TapError> {
        if self.taps.len() >= TAPS_MAX {
            return Err(TapError::TooMany);
        }
        if is_large && self.taps.values().filter(|(tap, _)| tap.is_large()).count() >= PAYLOAD_TAPS_MAX {
            return Err(TapError::TooManyPayloads);
        }
        Ok(())
    }

    /// Nobody watches any more: the proxies to tell, which may include some that were never concerned.
    pub fn stop(&mut self, tap: u64) -> Vec<A> {
        self.taps.remove(&tap);
        self.proxies.values().map(|(_, proxy)| proxy.clone()).collect()
    }

    /// Who is told what `pod` observes for `tap`, which may be of messages: nobody when it has just ended, or never asked for that.
    pub fn watcher(&self, tap: u64, pod: &PodName, of_messages: bool, state: &MeshState) -> Option<S> {
        let (tap, watcher) = self.taps.get(&tap)?;
        let may_see = (tap.payloads || !of_messages) && concerns(&tap.target, pod, state);
        may_see.then(|| watcher.clone())
    }
}

impl Tap {
    /// Whether its events may be large.
    fn is_large(&self) -> bool {
        self.payloads || self.headers
    }

    fn start(&self, id: u64) -> Start {
        Start {
            tap: id,
            r#match: Some(self.matches.clone()),
            max_rps: self.max_rps,
            payloads: self.payloads,
            headers: self.headers,
        }
    }
}

/// Whether a selection takes in `pod`, itself or by its workload, namespace or service.
pub fn concerns(selection: &ResourceSelection, pod: &PodName, state: &MeshState) -> bool {
    let namespace = pod.namespace();
    match selection.kind.as_str() {
        "pod" => matches(selection, "pod", namespace, pod.name()),
        "namespace" => matches(selection, "namespace", "", namespace),
        kind => {
            let workload = state.pods().get(pod).and_then(|pod| pod.value.workload.as_ref());
            workload
                .is_some_and(|workload| workload.kind == kind && matches(selection, kind, namespace, &workload.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::{Pod, WorkloadRef};
    use conduit_consensus::{Change, Command, Proposal};

    use super::*;

    fn state() -> MeshState {
        let pod = |name: &str| Pod {
            name: PodName::new("emojivoto", name).unwrap(),
            ip: format!("10.244.1.{}", name.len()).parse().unwrap(),
            workload: Some(WorkloadRef { kind: "deployment".into(), name: name.rsplit_once('-').unwrap().0.into() }),
            service_account: "default".into(),
            uid: None,
            ports: Default::default(),
            zone: None,
            meshed: true,
            ready: true,
            application_ended: false,
        };
        let mut state = MeshState::default();
        let changes = ["web-0", "voting-0"].map(|name| Change::UpsertPod(pod(name))).to_vec();
        state.apply(1, Proposal::new("test", 0, Command::Batch(changes)));
        state
    }

    fn tap(kind: &str, name: &str) -> Tap {
        let target = ResourceSelection { kind: kind.into(), namespace: "emojivoto".into(), name: name.into() };
        Tap { target, matches: Match::default(), max_rps: 100.0, payloads: false, headers: false }
    }

    fn pod(name: &str) -> PodName {
        PodName::new("emojivoto", name).unwrap()
    }

    #[test]
    fn only_proxies_concerned_are_told_also_those_that_attach_later() {
        let state = state();
        let mut broker = Broker::<&str, &str>::default();
        broker.attach(pod("web-0"), "web-0", &state);
        let (start, told) = broker.start(9, tap("deployment", "voting"), "cli", &state).unwrap();
        assert!(told.is_empty());
        let (_, starts) = broker.attach(pod("voting-0"), "voting-0", &state);
        assert_eq!(starts, std::slice::from_ref(&start));
        assert_eq!(broker.watcher(start.tap, &pod("voting-0"), false, &state), Some("cli"));
        assert_eq!(broker.stop(start.tap), ["web-0", "voting-0"]);
        assert_eq!(broker.watcher(start.tap, &pod("voting-0"), false, &state), None);
    }

    #[test]
    fn nobody_is_told_what_he_did_not_ask_for() {
        let state = state();
        let mut broker = Broker::<(), &str>::default();
        broker.start(1, tap("deployment", "voting"), "requests", &state).unwrap();
        broker.start(2, Tap { payloads: true, ..tap("deployment", "voting") }, "messages", &state).unwrap();
        for (id, name, of_messages, told) in [
            (1, "voting-0", false, Some("requests")),
            (1, "voting-0", true, None),
            (2, "voting-0", true, Some("messages")),
            (2, "web-0", true, None),
            (2, "web-0", false, None),
            (3, "voting-0", false, None),
        ] {
            assert_eq!(broker.watcher(id, &pod(name), of_messages, &state), told, "{id} {name} {of_messages}");
        }
    }

    #[test]
    fn selections_take_in_pods_by_name_workload_and_namespace() {
        let state = state();
        for (kind, name, concerned) in [
            ("deployment", "web", true),
            ("deployment", "voting", false),
            ("deployment", "", true),
            ("pod", "web-0", true),
            ("pod", "web", false),
            ("namespace", "emojivoto", true),
            ("namespace", "other", false),
            ("service", "web", false),
        ] {
            assert_eq!(concerns(&tap(kind, name).target, &pod("web-0"), &state), concerned, "{kind}/{name}");
        }
    }

    #[test]
    fn taps_are_bounded() {
        let state = MeshState::default();
        let mut broker = Broker::<(), ()>::default();
        for id in 0..TAPS_MAX as u64 {
            broker.start(id, tap("pod", ""), (), &state).unwrap();
        }
        assert_eq!(broker.start(100, tap("pod", ""), (), &state).unwrap_err(), TapError::TooMany);

        let mut broker = Broker::<(), ()>::default();
        let payloads = || Tap { payloads: true, ..tap("pod", "") };
        for id in 0..PAYLOAD_TAPS_MAX as u64 {
            assert!(broker.start(id, payloads(), (), &state).unwrap().0.payloads);
        }
        assert_eq!(broker.start(100, payloads(), (), &state).unwrap_err(), TapError::TooManyPayloads);
        assert!(!broker.start(100, tap("pod", ""), (), &state).unwrap().0.payloads, "others go on");
    }
}
