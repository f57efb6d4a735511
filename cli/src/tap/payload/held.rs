//! Events in their order, while it is not known yet what a message among them is. Pure.

use std::{collections::VecDeque, time::Duration};

use conduit_api::proto::tap::{TapEvent, tap_event::Kind};
use tokio::time::Instant;

use super::{Services, server};

/// A proxy asks for two seconds at most.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// Some megabytes, with messages.
const EVENTS_MAX: usize = 512;

/// Those that wait.
#[derive(Default)]
pub(crate) struct Held {
    /// With when they came: none waits for longer because others did before it.
    events: VecDeque<(TapEvent, Instant)>,
}

impl Held {
    /// Takes one more.
    pub(crate) fn push(&mut self, event: TapEvent, now: Instant) {
        self.events.push_back((event, now));
    }

    /// The next that can be shown.
    pub(crate) fn next(&mut self, services: &mut Services, now: Instant) -> Option<TapEvent> {
        if let Some((event @ TapEvent { kind: Some(Kind::Message(message)), .. }, since)) = self.events.front()
            && !services.is_decided(&server(event), message)
        {
            if now.duration_since(*since) < WAIT_MAX && self.events.len() < EVENTS_MAX {
                return None;
            }
            services.give_up(&server(event), message);
        }
        self.events.pop_front().map(|(event, _)| event)
    }
}

#[cfg(test)]
mod tests {
    use conduit_api::proto::tap::tap_event::{Message, ResponseInit, Schema};

    use super::*;

    fn message(path: &str) -> TapEvent {
        let message = Message { path: path.to_owned(), ..Message::default() };
        TapEvent { kind: Some(Kind::Message(message)), ..TapEvent::default() }
    }

    fn next(held: &mut Held, services: &mut Services, now: Instant) -> usize {
        std::iter::from_fn(|| held.next(services, now)).count()
    }

    #[test]
    fn what_comes_after_a_message_waits_with_it_but_not_for_ever() {
        let (mut held, mut services, now) = (Held::default(), Services::default(), Instant::now());
        let response = TapEvent { kind: Some(Kind::ResponseInit(ResponseInit::default())), ..TapEvent::default() };
        held.push(response.clone(), now);
        held.push(message("/a.B/C"), now);
        held.push(response.clone(), now);
        assert_eq!(next(&mut held, &mut services, now), 1);
        services.learn("", &Schema { service: "a.B".into(), error: "none".into(), ..Schema::default() });
        assert_eq!(next(&mut held, &mut services, now), 2);

        held.push(message("/a.X/C"), now);
        assert_eq!(next(&mut held, &mut services, now), 0);
        assert_eq!(next(&mut held, &mut services, now + WAIT_MAX), 1);
        held.push(message("/a.X/D"), now);
        assert_eq!(next(&mut held, &mut services, now), 1, "nothing was said of the service before");

        for _ in 0..EVENTS_MAX {
            held.push(message("/a.Y/C"), now);
        }
        assert_eq!(next(&mut held, &mut services, now), EVENTS_MAX);
    }

    #[test]
    fn services_of_which_nothing_is_heard_wait_at_the_same_time() {
        let (mut held, mut services, now) = (Held::default(), Services::default(), Instant::now());
        for service in 0..10 {
            held.push(message(&format!("/a.S{service}/C")), now);
        }
        assert_eq!(next(&mut held, &mut services, now), 0);
        assert_eq!(next(&mut held, &mut services, now + WAIT_MAX), 10);
    }
}
