//! What comes of a connection to a server: responses, each to whoever has asked.

use std::{rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{
    Line,
    connection::{Broken, Event},
    flight::{Flight, Outcome},
    frame::Reason,
    line::Side,
};

/// Another proxy that says nothing for this long, while it is waited for, is probed. Servers of others would take probes amiss; those
/// that are gone, TCP notices.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What is done with what servers send.
pub(super) struct Servers {
    line: Rc<Line>,
    is_mesh: bool,
    /// When something last came, or began to be waited for.
    heard: Instant,
    /// When the peer was asked whether it is there.
    asked: Option<Instant>,
    was_busy: bool,
}

impl Servers {
    pub(super) fn new(line: Rc<Line>, is_mesh: bool) -> Self {
        Self { line, is_mesh, heard: Instant::now(), asked: None, was_busy: false }
    }
}

impl Side for Servers {
    fn event(&mut self, event: Event<'_, Rc<Flight>>, now: Instant) -> Result<(), Broken> {
        match event {
            Event::Response { stream, owner, response, ends } => {
                owner.responded(&self.line, stream, response, ends, now);
            }
            Event::Data { stream, owner, data, ends } => owner.downloaded(&self.line, stream, data, ends, now),
            Event::Trailers { stream, owner, trailers } => owner.download_ended(&self.line, stream, trailers, now),
            Event::Reset { owner, reason } => owner.reset_by_server(reason),
            Event::Malformed { owner, refusal } => owner.malformed_by_server(refusal),
            Event::Unprocessed { owners } => {
                owners.iter().for_each(|owner| owner.reset_by_server(Reason::REFUSED_STREAM));
            }
            // What clients send; and what is seen when the response has ended.
            Event::Request { .. } | Event::Stopped { .. } => {}
        }
        Ok(())
    }

    fn pass(&mut self, flight: &Rc<Flight>, now: Instant) {
        flight.pass_upload(now);
    }

    fn settle(&mut self, now: Instant) {
        while self.line.next_fits() {
            let Some(flight) = self.line.waiting.borrow_mut().pop_front() else { break };
            flight.open(&self.line, now);
        }
        if !self.line.is_open() {
            let waiting = std::mem::take(&mut *self.line.waiting.borrow_mut());
            waiting.iter().for_each(|flight| flight.fails(Outcome::Unprocessed));
        }
        // Also with those that wait for what it takes: it may have gone before it has said so.
        let is_busy = self.line.requests() > 0;
        if is_busy && !self.was_busy {
            self.heard = now;
        }
        self.was_busy = is_busy;
    }

    fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    fn needs_time(&self) -> bool {
        self.is_mesh && self.was_busy
    }

    fn tick(&mut self, now: Instant) -> bool {
        // Without requests a peer that is silent owes nothing.
        if !self.needs_time() {
            self.asked = None;
        } else if let Some(asked) = self.asked {
            return now - asked < KEEPALIVE_TIMEOUT;
        } else if now - self.heard >= KEEPALIVE_INTERVAL {
            self.asked = Some(now);
            self.line.connection.borrow_mut().ping(*b"are you?");
        }
        true
    }

    fn is_over(&self) -> bool {
        !self.line.is_open() && self.line.requests() == 0
    }
}
