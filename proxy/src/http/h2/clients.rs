//! What comes of a client's connection: requests, each sent to whoever is to get it, and again if nobody got it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
};

use tokio::{task::spawn_local, time::Instant};
use tracing::debug;

use super::{
    Line,
    connection::{Broken, Event},
    fields::Request,
    flight::{self, Flight, Outcome},
    frame::Reason,
    line::Side,
};
use crate::http::{Failure, Forward, REST_TIMEOUT, Refusal, exchange::Exchange};

/// Requests of an application that it has cancelled again within a second: more is an attack (CVE-2023-44487).
const CANCELLED_PER_SECOND_MAX: u32 = 500;

/// What is done with what clients send.
pub(super) struct Clients<F> {
    pub(super) forward: Rc<F>,
    pub(super) line: Rc<Line>,
}

impl<F: Forward> Side for Clients<F> {
    fn event(&mut self, event: Event<'_, Rc<Flight>>, now: Instant) -> Result<(), Broken> {
        match event {
            Event::Request { stream, request, ends } => return self.request(stream, request, ends, now),
            Event::Data { owner, data, ends, .. } => owner.uploaded(data, ends, now),
            Event::Trailers { owner, trailers, .. } => owner.upload_ended(trailers, now),
            Event::Reset { owner, reason } => {
                let is_awaited = owner.is_awaited();
                owner.cancelled(reason);
                if is_awaited {
                    return self.cancelled(now);
                }
            }
            Event::Malformed { owner, refusal } => {
                self.forward.refused(refusal);
                owner.cancelled(Reason::CANCEL);
                return self.cancelled(now);
            }
            // What servers send.
            Event::Response { .. } | Event::Stopped { .. } | Event::Unprocessed { .. } => {}
        }
        Ok(())
    }

    fn pass(&mut self, flight: &Rc<Flight>, now: Instant) {
        flight.pass_download(now);
    }

    fn settle(&mut self, now: Instant) {
        let outcomes = std::mem::take(&mut *self.line.outcomes.borrow_mut());
        for (flight, outcome) in outcomes {
            if !flight.is_cancelled() {
                self.outcome(&flight, outcome, now);
            }
        }
    }

    fn needs_time(&self) -> bool {
        self.line.has_rest.get()
    }

    fn tick(&mut self, now: Instant) -> bool {
        if self.line.has_rest.get() {
            let Some(then) = now.checked_sub(REST_TIMEOUT) else { return true };
            let old = self.line.connection.borrow().outlasting(then);
            for stream in old {
                let flight = self.line.connection.borrow().owner(stream);
                if let Some(flight) = flight {
                    flight.rest_is_over();
                }
            }
            self.line.has_rest.set(self.line.connection.borrow().has_outlasting());
        }
        true
    }

    fn is_over(&self) -> bool {
        self.line.connection.borrow().has_left()
    }
}

impl<F: Forward> Clients<F> {
    fn request(
        &mut self,
        stream: u32,
        request: Result<Request, Refusal>,
        ends: bool,
        now: Instant,
    ) -> Result<(), Broken> {
        let (worker, asked) = (&self.forward.client().worker, self.forward.client().asks(stream.into()));
        let mut request = match request {
            Ok(request) => request,
            Err(refusal) => {
                self.forward.refused(refusal);
                if matches!(refusal, Refusal::HeadTooLarge | Refusal::TooManyHeaders) {
                    flight::say(&self.line, stream, None, Failure::Refused(refusal), now);
                } else {
                    self.line.connection.borrow_mut().reset(stream, refusal.of_stream());
                }
                return self.cancelled(now);
            }
        };
        if let Err(refusal) = request.check_authority() {
            self.forward.refused(refusal);
            flight::say(&self.line, stream, Some(&request), Failure::Refused(refusal), now);
            return Ok(());
        }
        let entry = worker.setup.journal.as_ref().and_then(|journal| {
            let (entry, edit) = journal.begin(self.forward.client(), &flight::view(&request), "HTTP/2.0");
            if !edit.is_empty() {
                request.edit(&edit);
            }
            entry
        });
        let flight = Flight::new(self.line.clone(), stream, request, ends, asked, worker.busy(), entry);
        let mut connection = self.line.connection.borrow_mut();
        connection.own(stream, flight.clone());
        if ends {
            connection.done(stream);
        }
        drop(connection);
        self.dispatch(&flight);
        Ok(())
    }

    /// Mostly everything that there is to know is known, and it is on its way at once.
    fn dispatch(&self, flight: &Rc<Flight>) {
        let mut dispatching = Box::pin(dispatch(self.forward.clone(), flight.clone()));
        if Pin::new(&mut dispatching).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            spawn_local(dispatching);
        }
    }

    /// The client has cancelled a request, or has made this side do so.
    fn cancelled(&self, now: Instant) -> Result<(), Broken> {
        let cancelled = self.line.connection.borrow_mut().cancelled(now);
        if !self.forward.client().is_mesh() && cancelled > CANCELLED_PER_SECOND_MAX {
            return Err(Broken { reason: Reason::ENHANCE_YOUR_CALM, refusal: Refusal::TooManyCancelled });
        }
        Ok(())
    }

    fn outcome(&self, flight: &Rc<Flight>, outcome: Outcome, now: Instant) {
        let recorded = flight.recorded();
        let address = recorded.as_ref().map(Exchange::address);
        debug!(dst.addr = ?address, ?outcome, "an endpoint did not answer");
        match outcome {
            // It cannot be sent again from here; its client may.
            Outcome::Unprocessed if !flight.is_whole() => flight.reset(Reason::REFUSED_STREAM),
            Outcome::Unprocessed => {
                recorded.into_iter().for_each(Exchange::abandon);
                let mut attempts = flight.attempts.borrow_mut();
                (attempts.failure, attempts.is_unprocessed) = (Failure::Broken, true);
                drop(attempts);
                self.dispatch(flight);
            }
            Outcome::Undelivered => {
                recorded.into_iter().for_each(Exchange::unreachable);
                let mut attempts = flight.attempts.borrow_mut();
                attempts.tried.extend(address);
                attempts.failure = Failure::Connect;
                drop(attempts);
                self.dispatch(flight);
            }
            // What the server says of this stream alone is for its client.
            Outcome::Reset(reason) => flight.reset(reason),
            Outcome::BadResponse(refusal) => {
                self.forward.refused(refusal);
                recorded.into_iter().for_each(|recorded| recorded.fail(Failure::BadResponse));
                flight.say(Failure::BadResponse, now);
            }
            Outcome::Cut(refusal) => {
                self.forward.refused(refusal);
                flight.reset(Reason::INTERNAL_ERROR);
            }
            Outcome::Unsupported => {
                recorded.into_iter().for_each(|recorded| recorded.fail(Failure::NoExtendedConnect));
                flight.say(Failure::NoExtendedConnect, now);
            }
            Outcome::Broken => {
                recorded.into_iter().for_each(|recorded| recorded.fail(Failure::Broken));
                flight.say(Failure::Broken, now);
            }
            Outcome::Late => {
                recorded.into_iter().for_each(|recorded| recorded.fail(Failure::Timeout));
                flight.say(Failure::Timeout, now);
            }
        }
    }
}

/// Sends a request to whoever is to get it.
async fn dispatch<F: Forward>(forward: Rc<F>, flight: Rc<Flight>) {
    let (view, worker) = (flight.view(), &forward.client().worker);
    let service = match forward.resolve(&view).await {
        Ok(service) => service,
        Err(failure) => {
            forward.failed(None, &view, failure);
            return flight.say(failure, Instant::now());
        }
    };
    if let Some(entry) = &flight.entry {
        entry.is_for(forward.meant(&service));
    }
    if let Some(policy) = forward.policy(&service) {
        if let Some(response) = policy.redirect(&view) {
            forward.answered(Some(&service), &view, response.status().as_u16());
            return flight.answer(&response, Instant::now());
        }
        flight.obeys(policy);
    }
    while flight.is_awaited() {
        let Some(hop) = flight.attempt(|tried| forward.pick(&service, &view, tried)) else { break };
        let mut recorded = Exchange::begin(&view, &hop, &worker.setup.taps, flight.asked, flight.entry.as_ref());
        if let Some(balancer) = forward.balancer(&service) {
            recorded.loads(balancer);
        }
        flight.begins();
        let connected = match hop.connections.http2() {
            Some(server) => Ok(server),
            // It must not be given up halfway: others wait for it, and whether it can be made is to be known.
            None => worker.pool.http2(&hop.upstream, &hop.connections).await,
        };
        match connected {
            Ok(_) if flight.has_timed_out() => return recorded.fail(Failure::Timeout),
            // The client waits no longer, and `recorded` says so.
            Ok(_) if !flight.is_awaited() => return,
            Ok(server) => return flight.send(&server, hop.upstream.peer().is_some(), recorded, Instant::now()),
            Err(error) => {
                let address = hop.upstream.endpoint.address;
                debug!(dst.addr = %address, %error, "an endpoint cannot be connected to");
                recorded.unreachable();
                let mut attempts = flight.attempts.borrow_mut();
                attempts.tried.push(address);
                attempts.failure = Failure::Connect;
            }
        }
    }
    if flight.has_timed_out() {
        return forward.failed(Some(&service), &view, Failure::Timeout);
    }
    if !flight.is_awaited() {
        return;
    }
    let (failure, is_unprocessed) = {
        let attempts = flight.attempts.borrow();
        (attempts.failure, attempts.is_unprocessed)
    };
    forward.failed(Some(&service), &view, failure);
    if is_unprocessed && failure == Failure::Broken {
        // Its client may send it again, and is told so.
        return flight.reset(Reason::REFUSED_STREAM);
    }
    flight.say(failure, Instant::now());
}
