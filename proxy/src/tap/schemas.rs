//! Which schemas somebody is to be told, of what passes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use conduit_api::{
    grpc,
    proto::{
        common::Direction,
        tap::{
            AttachRequest, Observed, TapEvent, attach_request,
            tap_event::{Kind, Message, Peer, Schema},
        },
    },
};
use tokio::time::Instant;

/// Paths are what clients send: of services past it, it is told once that they are too many, unless some can be forgotten.
const SERVICES_MAX: usize = 64;
/// The application has other things to do.
const ASKED_AT_ONCE: usize = 2;
/// It may be another release by then; and what was told may have been lost on its way.
const FRESH: Duration = Duration::from_secs(60);
/// ... or may have been starting.
const FRESH_FAILURE: Duration = Duration::from_secs(5);
/// Of all that is known. Past it some is asked for again.
const KNOWN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The files of a schema, or why there are none.
pub(super) type Files = Result<Vec<Vec<u8>>, String>;

/// What is known, and what is being asked.
#[derive(Default)]
pub(super) struct Schemas {
    /// Taps. Events of those that have ended may still come.
    running: BTreeSet<u64>,
    services: BTreeMap<Question, Service>,
    to_ask: VecDeque<Question>,
    /// Taps that were told that there are too many services.
    told_of_too_many: BTreeSet<u64>,
}

/// What an application beside this proxy is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    pub(super) application: SocketAddr,
    pub(super) service: String,
}

#[derive(Default)]
struct Service {
    known: Option<(Files, Instant)>,
    /// Taps that were told what is known.
    told: BTreeSet<u64>,
    /// Taps that are to be told when there is an answer; somebody asks for it as long as there are any.
    waiting: BTreeSet<u64>,
}

impl Schemas {
    /// A tap for messages begins; it is told everything anew.
    pub(super) fn start(&mut self, tap: u64) {
        self.stop(tap);
        self.running.insert(tap);
    }

    /// A tap ends: whether it was the last, so that no answer is needed any more.
    pub(super) fn stop(&mut self, tap: u64) -> bool {
        self.running.remove(&tap);
        self.told_of_too_many.remove(&tap);
        if self.running.is_empty() {
            *self = Self::default();
            return true;
        }
        for service in self.services.values_mut() {
            service.told.remove(&tap);
        }
        false
    }

    /// `request` is told: what is to be told with it.
    pub(super) fn saw(&mut self, request: &AttachRequest, now: Instant) -> Option<AttachRequest> {
        let (tap, question) = Question::of(request)?;
        if !self.running.contains(&tap) {
            return None;
        }
        if self.services.len() >= SERVICES_MAX && !self.services.contains_key(&question) && !self.forget_a_failure() {
            let error = format!("more than {SERVICES_MAX} services are asked for");
            return self.told_of_too_many.insert(tap).then(|| told(tap, "", Err(error)));
        }
        let service = self.services.entry(question.clone()).or_default();
        match &service.known {
            Some((files, at)) if now.duration_since(*at) < fresh(files) => {
                service.told.insert(tap).then(|| told(tap, &question.service, files.clone()))
            }
            _ => {
                if service.waiting.is_empty() {
                    self.to_ask.push_back(question);
                }
                service.waiting.insert(tap);
                None
            }
        }
    }

    /// Anybody may send requests for services that are not there: those are forgotten before any that are.
    fn forget_a_failure(&mut self) -> bool {
        let failed = |(question, service): (&Question, &Service)| match &service.known {
            Some((Err(_), at)) if service.waiting.is_empty() => Some((*at, question.clone())),
            _ => None,
        };
        let oldest = self.services.iter().filter_map(failed).min();
        oldest.is_some_and(|(_, question)| self.services.remove(&question).is_some())
    }

    /// What is to be asked now, while `asking` answers are awaited.
    pub(super) fn next(&mut self, asking: usize) -> Option<Question> {
        if asking < ASKED_AT_ONCE { self.to_ask.pop_front() } else { None }
    }

    /// What is to be told of an answer.
    pub(super) fn answered(&mut self, question: &Question, files: Files, now: Instant) -> Vec<AttachRequest> {
        let Some(service) = self.services.get_mut(question) else { return Vec::new() };
        service.told = std::mem::take(&mut service.waiting);
        service.told.retain(|tap| self.running.contains(tap));
        let all = service.told.iter().map(|tap| told(*tap, &question.service, files.clone())).collect();
        service.known = Some((files, now));
        self.make_room(question);
        all
    }

    /// Forgets others than `newest`, if all are too much.
    fn make_room(&mut self, newest: &Question) {
        let mut bytes: usize = self.services.values().map(Service::bytes).sum();
        for (_, service) in self.services.iter_mut().filter(|(question, _)| *question != newest) {
            if bytes <= KNOWN_BYTES_MAX {
                return;
            }
            bytes -= service.bytes();
            service.known = None;
        }
    }
}

impl Service {
    fn bytes(&self) -> usize {
        self.known.iter().flat_map(|(files, _)| files.iter().flatten()).map(Vec::len).sum()
    }
}

impl Question {
    /// Which one a message raises, and for which tap.
    fn of(request: &AttachRequest) -> Option<(u64, Self)> {
        let Some(attach_request::Kind::Event(Observed { tap, event: Some(event), .. })) = &request.kind else {
            return None;
        };
        let Some(Kind::Message(Message { path, .. })) = &event.kind else { return None };
        let (service, _) = grpc::method(path)?;
        let address = event.destination.as_ref().and_then(|peer| peer.address.as_ref())?;
        let application = SocketAddr::try_from(address).ok()?;
        Some((*tap, Self { application, service: service.to_owned() }))
    }
}

fn fresh(files: &Files) -> Duration {
    if files.is_ok() { FRESH } else { FRESH_FAILURE }
}

/// What is told: the files, or why there are none.
fn told(tap: u64, service: &str, files: Files) -> AttachRequest {
    let (files, error) = files.map_or_else(|error| (Vec::new(), error), |files| (files, String::new()));
    let schema = Schema { service: service.to_owned(), files, error, ..Schema::default() };
    about_this_pod(tap, Kind::Schema(schema))
}

/// For `tap` alone. The control plane adds which pod this is.
pub(super) fn about_this_pod(tap: u64, kind: Kind) -> AttachRequest {
    let (direction, destination) = (Direction::Inbound.into(), Some(Peer::default()));
    let event = TapEvent { direction, destination, kind: Some(kind), ..TapEvent::default() };
    AttachRequest { kind: Some(attach_request::Kind::Event(Observed { tap, event: Some(event), dropped: 0 })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8080))
    }

    fn message(tap: u64, path: &str) -> AttachRequest {
        let kind = Kind::Message(Message { path: path.to_owned(), ..Message::default() });
        let destination = Some(Peer { address: Some(address().into()), ..Peer::default() });
        let direction = Direction::Inbound.into();
        let event = TapEvent { direction, destination, kind: Some(kind), ..TapEvent::default() };
        AttachRequest { kind: Some(attach_request::Kind::Event(Observed { tap, event: Some(event), dropped: 0 })) }
    }

    fn question(service: &str) -> Question {
        Question { application: address(), service: service.to_owned() }
    }

    fn schemas(taps: impl IntoIterator<Item = u64>) -> Schemas {
        let mut schemas = Schemas::default();
        taps.into_iter().for_each(|tap| schemas.start(tap));
        schemas
    }

    /// Which tap is told what.
    fn read(told: AttachRequest) -> (u64, Schema) {
        let Some(attach_request::Kind::Event(Observed { tap, event: Some(event), .. })) = told.kind else {
            panic!("it is no event")
        };
        let Some(Kind::Schema(schema)) = event.kind else { panic!("it is no schema") };
        (tap, schema)
    }

    #[test]
    fn an_application_is_asked_once_for_all() {
        let (mut schemas, now) = (schemas([1, 2]), Instant::now());
        assert_eq!(schemas.saw(&message(1, "/a.B/C"), now), None);
        assert_eq!(schemas.saw(&message(1, "/a.B/D"), now), None);
        assert_eq!(schemas.saw(&message(1, "nonsense"), now), None);
        assert_eq!((schemas.next(0), schemas.next(0)), (Some(question("a.B")), None));
        let told = schemas.answered(&question("a.B"), Ok(vec![b"file".to_vec()]), now);
        let told: Vec<_> = told.into_iter().map(read).collect();
        assert_eq!(told, [(1, Schema { service: "a.B".into(), files: vec![b"file".to_vec()], ..Schema::default() })]);
        assert_eq!(schemas.saw(&message(1, "/a.B/C"), now), None, "it knows");
        assert_eq!(schemas.saw(&message(2, "/a.B/C"), now).map(read).unwrap().0, 2);
        assert_eq!(schemas.next(0), None);
    }

    #[test]
    fn it_is_asked_again_after_a_while_and_soon_after_a_failure() {
        let (mut schemas, now) = (schemas([1]), Instant::now());
        let mut asked_after = |files: Files, after: Duration| {
            schemas.start(1);
            schemas.saw(&message(1, "/a.B/C"), now);
            let question = schemas.next(0).unwrap();
            assert_eq!(schemas.answered(&question, files, now).len(), 1);
            schemas.saw(&message(1, "/a.B/C"), now + after);
            schemas.next(0).is_some()
        };
        assert!(!asked_after(Ok(Vec::new()), FRESH_FAILURE));
        assert!(asked_after(Ok(Vec::new()), FRESH));
        assert!(asked_after(Err("starting".into()), FRESH_FAILURE));
    }

    #[test]
    fn few_are_asked_at_once_and_too_many_not_at_all() {
        let (mut schemas, now) = (schemas([1]), Instant::now());
        for service in 0..SERVICES_MAX {
            assert_eq!(schemas.saw(&message(1, &format!("/s{service}/m")), now), None);
        }
        let (_, told) = read(schemas.saw(&message(1, "/one.more/m"), now).unwrap());
        assert!(told.service.is_empty() && told.error.contains("64 services"), "{told:?}");
        assert_eq!(schemas.saw(&message(1, "/two.more/m"), now), None, "it was told");
        assert!(schemas.next(ASKED_AT_ONCE - 1).is_some());
        assert_eq!(schemas.next(ASKED_AT_ONCE), None);
    }

    #[test]
    fn services_that_are_not_there_take_no_room() {
        let (mut schemas, now) = (schemas([1]), Instant::now());
        for service in 0..SERVICES_MAX {
            schemas.saw(&message(1, &format!("/s{service}/m")), now);
            let asked = schemas.next(0).unwrap();
            let answer = if service == 0 { Ok(Vec::new()) } else { Err("there is no such service".to_owned()) };
            schemas.answered(&asked, answer, now);
        }
        for service in 0..SERVICES_MAX {
            assert_eq!(schemas.saw(&message(1, &format!("/new{service}/m")), now), None);
            let asked = schemas.next(0).unwrap();
            schemas.answered(&asked, Err("there is no such service".to_owned()), now);
        }
        assert_eq!(schemas.services.len(), SERVICES_MAX);
        assert!(schemas.services.contains_key(&question("s0")), "it is described");
    }

    #[test]
    fn after_its_end_a_tap_is_told_nothing() {
        let (mut schemas, now) = (schemas([1, 2]), Instant::now());
        schemas.saw(&message(1, "/a.B/C"), now);
        let asked = schemas.next(0).unwrap();
        assert!(!schemas.stop(1));
        assert_eq!(schemas.answered(&asked, Err("no".into()), now), []);
        assert_eq!(schemas.saw(&message(1, "/a.X/C"), now), None);
        assert_eq!(schemas.next(0), None);
        assert!(schemas.stop(2), "it is the last");
        assert!(schemas.services.is_empty());
    }

    #[test]
    fn what_is_known_has_a_bound() {
        let (mut schemas, now) = (schemas([1]), Instant::now());
        for service in 0..10 {
            schemas.saw(&message(1, &format!("/s{service}/m")), now);
            let asked = schemas.next(0).unwrap();
            schemas.answered(&asked, Ok(vec![vec![0; KNOWN_BYTES_MAX / 4]]), now);
            assert!(schemas.services.values().map(Service::bytes).sum::<usize>() <= KNOWN_BYTES_MAX);
            assert!(schemas.services[&asked].known.is_some());
        }
    }
}
