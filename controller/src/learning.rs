//! What proxies see of ports, for all proxies: who speaks first there.
//!
//! ```text
//!   a proxy ──Observed──► any replica ──► lessons() ──► Command::Learn ──► the log ──► hints to whoever follows the service
//!                                       the leader ──► expired() ──► Command::Forget
//! ```
//!
//! A hint that is wrong costs a connection and is corrected by whoever sees it, so one proxy is believed.

pub mod actor;

use std::time::Duration;

use conduit_api::{ServiceName, Target, proto::discovery::observed::First};
use conduit_consensus::{Belief, Command, Lesson, MeshState};

use crate::propose::millis;

/// A database stays one for longer than that; and one that is asked now and then is seen again before.
const SERVER_FIRST_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// A port on which both sides have spoken first was perhaps another program's before: it is given another chance.
const MIXED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Of one proposal.
const FORGOTTEN_AT_ONCE_MAX: usize = 1_000;

/// A proxy's word on one of its targets.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What it follows.
    pub target: Target,
    /// Who has spoken first there.
    pub first: First,
}

/// What `observation` teaches that `state` does not say yet. Pure.
pub fn lessons(state: &MeshState, observation: &Observation, now_ms: u64) -> Vec<Command> {
    let ports = ports(state, &observation.target);
    let lesson = |(service, port): (ServiceName, u16)| {
        let known = state.lesson_of(&service, port);
        let (belief, duration) = match (observation.first, known) {
            (First::Server, None) => (Belief::ServerFirst, SERVER_FIRST_FOR),
            // Half of its time is over.
            (First::Server, Some(Lesson { belief: Belief::ServerFirst, until_ms }))
                if until_ms.saturating_sub(now_ms) < millis(SERVER_FIRST_FOR) / 2 =>
            {
                (Belief::ServerFirst, SERVER_FIRST_FOR)
            }
            (First::Client, Some(Lesson { belief: Belief::ServerFirst, .. })) => (Belief::Mixed, MIXED_FOR),
            _ => return None,
        };
        let lesson = Lesson { belief, until_ms: now_ms.saturating_add(millis(duration)) };
        Some(Command::Learn { service, port, lesson })
    };
    ports.into_iter().filter_map(lesson).collect()
}

/// What is to be forgotten by now. Pure.
pub fn expired(state: &MeshState, now_ms: u64) -> Option<Command> {
    let over = state.lessons().filter(|(_, _, lesson)| lesson.until_ms <= now_ms);
    let over: Vec<_> = over
        .map(|(service, port, lesson)| (service.clone(), port, lesson.until_ms))
        .take(FORGOTTEN_AT_ONCE_MAX)
        .collect();
    (!over.is_empty()).then_some(Command::Forget(over))
}

/// The ports of services that connections to `target` are for. Others are not learned of: they have no name.
fn ports(state: &MeshState, target: &Target) -> Vec<(ServiceName, u16)> {
    match target {
        Target::Service(name, port) => vec![(name.clone(), *port)],
        Target::Address(address) => match state.service_by_cluster_ip(address.ip()) {
            Some(service) => vec![(service.value.name.clone(), address.port())],
            None => state.headless_services_of(*address),
        },
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::{Service, ServicePort};
    use conduit_consensus::{Change, Outcome, Proposal};

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn mesh() -> MeshState {
        let mut state = MeshState::default();
        let ports = [(3306, ServicePort::default())];
        let name = ServiceName::new("db", "mysql").unwrap();
        let service = Service {
            name,
            cluster_ips: [[10, 96, 0, 1].into()].into(),
            ports: ports.into(),
            balancing: Default::default(),
        };
        state.apply(1, Proposal::new("test", 0, Command::Batch(vec![Change::UpsertService(service)])));
        state
    }

    /// Tells the commands apart by what they do to `state`.
    fn see(state: &mut MeshState, first: First, now_ms: u64) -> Option<Outcome> {
        let target = Target::Address(([10, 96, 0, 1], 3306).into());
        let command = lessons(state, &Observation { target, first }, now_ms).pop()?;
        Some(state.apply(state.revision().as_u64() + 1, Proposal::new("test", now_ms, command)).outcome)
    }

    #[test]
    fn what_one_proxy_has_seen_is_learned_once_and_again_when_half_of_its_time_is_over() {
        let mut state = mesh();
        assert_eq!(see(&mut state, First::Client, 0), None, "there is nothing to correct");
        assert_eq!(see(&mut state, First::Server, 0), Some(Outcome::Done));
        assert_eq!(see(&mut state, First::Server, 3 * DAY), None);
        assert_eq!(see(&mut state, First::Server, 4 * DAY), Some(Outcome::Done));
        assert_eq!(expired(&state, 10 * DAY), None);
        let forget = expired(&state, 11 * DAY).unwrap();
        assert_eq!(state.apply(9, Proposal::new("test", 0, forget)).outcome, Outcome::Done);
        assert_eq!(state.lessons().count(), 0);
    }

    #[test]
    fn a_wrong_lesson_is_corrected_and_stays_so_for_a_while() {
        let mut state = mesh();
        assert_eq!(see(&mut state, First::Server, 0), Some(Outcome::Done));
        assert_eq!(see(&mut state, First::Client, 1), Some(Outcome::Done));
        assert_eq!(see(&mut state, First::Server, 2), None, "the two would take turns for ever");
        assert_eq!(see(&mut state, First::Client, 3), None);
        assert!(expired(&state, DAY).is_none() && expired(&state, DAY + 1).is_some());
    }

    #[test]
    fn nothing_is_learned_of_what_is_no_service() {
        let elsewhere = Target::Address(([192, 0, 2, 1], 25).into());
        assert!(lessons(&mesh(), &Observation { target: elsewhere, first: First::Server }, 0).is_empty());
    }
}
