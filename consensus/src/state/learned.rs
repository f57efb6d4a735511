//! What connections to the ports of services were seen to carry, for as long as that is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use conduit_api::{ProtocolHint, Service, ServiceName};
use serde::{Deserialize, Serialize};

use crate::command::Outcome;

/// What was seen of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Belief {
    /// Its servers speak first.
    ServerFirst,
    /// Its servers have spoken first, and clients have as well: there is nothing to expect, however often one of both is seen again.
    Mixed,
}

/// A belief, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// What is believed.
    pub belief: Belief,
    /// When the leader forgets it, milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl Lesson {
    fn hint(self) -> ProtocolHint {
        match self.belief {
            Belief::ServerFirst => ProtocolHint::ServerFirst,
            Belief::Mixed => ProtocolHint::None,
        }
    }
}

/// Of the ports of services that there are, and of no others: that is what bounds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Learned(Arc<BTreeMap<ServiceName, BTreeMap<u16, Lesson>>>);

/// What has become of a lesson.
pub(super) struct Taught {
    pub(super) outcome: Outcome,
    /// Who follows the service is to be told.
    pub(super) is_news: bool,
}

impl Learned {
    pub(super) fn get(&self, service: &ServiceName, port: u16) -> Option<Lesson> {
        self.0.get(service)?.get(&port).copied()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&ServiceName, u16, Lesson)> {
        self.0.iter().flat_map(|(name, ports)| ports.iter().map(move |(port, lesson)| (name, *port, *lesson)))
    }

    pub(super) fn hint(&self, service: &ServiceName, port: u16) -> ProtocolHint {
        self.get(service, port).map_or(ProtocolHint::None, Lesson::hint)
    }

    /// A port of a service that there is.
    pub(super) fn learn(&mut self, service: ServiceName, port: u16, lesson: Lesson) -> Taught {
        let known = self.get(&service, port);
        let is_known = known.is_some_and(|known| match (known.belief, lesson.belief) {
            (Belief::Mixed, Belief::ServerFirst) => true,
            (known_belief, belief) => known_belief == belief && known.until_ms >= lesson.until_ms,
        });
        if is_known {
            return Taught { outcome: Outcome::Unchanged, is_news: false };
        }
        let is_news = known.map_or(ProtocolHint::None, Lesson::hint) != lesson.hint();
        Arc::make_mut(&mut self.0).entry(service).or_default().insert(port, lesson);
        Taught { outcome: Outcome::Done, is_news }
    }

    /// Unless it was learned again meanwhile.
    pub(super) fn forget(&mut self, service: &ServiceName, port: u16, until_ms: u64) -> Taught {
        let Some(known) = self.get(service, port).filter(|known| known.until_ms == until_ms) else {
            return Taught { outcome: Outcome::Unchanged, is_news: false };
        };
        self.keep(service, |kept| kept != port);
        Taught { outcome: Outcome::Done, is_news: known.hint() != ProtocolHint::None }
    }

    /// The service is another one now, or gone.
    pub(super) fn retain(&mut self, service: &ServiceName, now: Option<&Service>) {
        let ports: BTreeSet<u16> = now.into_iter().flat_map(|service| service.ports.keys().copied()).collect();
        if self.0.get(service).is_some_and(|learned| learned.keys().any(|port| !ports.contains(port))) {
            self.keep(service, |port| ports.contains(&port));
        }
    }

    fn keep(&mut self, service: &ServiceName, keep: impl Fn(u16) -> bool) {
        let all = Arc::make_mut(&mut self.0);
        if let Some(ports) = all.get_mut(service) {
            ports.retain(|port, _| keep(*port));
            if ports.is_empty() {
                all.remove(service);
            }
        }
    }
}
