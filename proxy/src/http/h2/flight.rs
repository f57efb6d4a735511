//! A request of HTTP/2 and its response, between two connections.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use http::header::LOCATION;
use tokio::{
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep_until},
};

use super::{
    connection::Expects,
    fields::{Fields, Indexing, Request, Response, trailers},
    frame::Reason,
    line::Line,
};
use crate::{
    http::{
        ATTEMPTS_MAX, Failure, Headers, INTERIM_MAX, Refusal, RequestView,
        exchange::{Asked, Exchange},
    },
    journal::Entry,
    policy::{Policy, edit_fields},
    worker::Busy,
};

/// Why there is no response from where the request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server did not begin to process it.
    Unprocessed,
    /// The server's proxy says that its application never got it, and it has no body.
    Undelivered,
    /// The server says of this request alone that it is over.
    Reset(Reason),
    /// The response is none.
    BadResponse(Refusal),
    /// It was, to begin with: its client has that already.
    Cut(Refusal),
    /// The server has not said that it takes such requests.
    Unsupported,
    /// The connection broke.
    Broken,
    /// It did not come in time.
    Late,
}

/// Where a request is.
enum Server {
    /// Nowhere yet, or not any more.
    None,
    /// It waits there for room.
    Waiting(Rc<Line>),
    /// On this stream.
    At(Rc<Line>, u32),
}

/// How far its response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Awaited,
    Begun,
    Ended,
    /// Its time is over, which its client is about to be told.
    Late,
    /// Nobody waits for it.
    Cancelled,
}

/// A request that is under way.
pub(super) struct Flight {
    client: Rc<Line>,
    stream: u32,
    request: Request,
    has_body: bool,
    pub(super) asked: Asked,
    _busy: Busy,
    stage: Cell<Stage>,
    server: RefCell<Server>,
    /// The server is a proxy of this mesh, and may speak for it.
    is_mesh: Cell<bool>,
    /// Something of the body has gone: it is not here any more.
    has_sent: Cell<bool>,
    interim_left: Cell<usize>,
    recorded: RefCell<Option<Exchange>>,
    /// What is written down of it.
    pub(super) entry: Option<Rc<Entry>>,
    pub(super) attempts: RefCell<Attempts>,
    /// What its route says of it besides, and until when all of the response is to be here.
    policy: OnceCell<(Arc<Policy>, Option<Instant>)>,
    /// Of the attempt that is under way.
    timer: Cell<Option<Timer>>,
    has_timed_out: Cell<bool>,
}

/// Ends a request that takes too long, unless it is dropped before.
struct Timer(AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What has become of a request so far.
pub(super) struct Attempts {
    left: usize,
    /// Those that could not be reached.
    pub(super) tried: Vec<SocketAddr>,
    /// The last one's.
    pub(super) failure: Failure,
    /// The last one did not process it.
    pub(super) is_unprocessed: bool,
}

impl Flight {
    pub(super) fn new(
        client: Rc<Line>,
        stream: u32,
        request: Request,
        ends: bool,
        asked: Asked,
        busy: Busy,
        entry: Option<Rc<Entry>>,
    ) -> Rc<Self> {
        let failure = Failure::NoEndpoints;
        let attempts = Attempts { left: ATTEMPTS_MAX, tried: Vec::new(), failure, is_unprocessed: false };
        Rc::new(Self {
            client,
            stream,
            request,
            has_body: !ends,
            asked,
            _busy: busy,
            stage: Cell::new(Stage::Awaited),
            server: RefCell::new(Server::None),
            is_mesh: Cell::new(false),
            has_sent: Cell::new(false),
            interim_left: Cell::new(INTERIM_MAX),
            recorded: RefCell::default(),
            entry,
            attempts: RefCell::new(attempts),
            policy: OnceCell::new(),
            timer: Cell::default(),
            has_timed_out: Cell::default(),
        })
    }

    pub(super) fn view(&self) -> RequestView<'_> {
        view(&self.request)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.stage.get() == Stage::Cancelled
    }

    /// Whether its client has nothing of a response.
    pub(super) fn is_awaited(&self) -> bool {
        self.stage.get() == Stage::Awaited
    }

    /// Whether it was answered, or is about to be, because its response did not come in time.
    pub(super) fn has_timed_out(&self) -> bool {
        self.has_timed_out.get()
    }

    /// What records it, while nobody else does.
    pub(super) fn recorded(&self) -> Option<Exchange> {
        self.recorded.take()
    }

    /// Another attempt at somebody, as long as there may be one: whoever `pick` says, who is not among those that it is told.
    pub(super) fn attempt<H>(&self, pick: impl FnOnce(&[SocketAddr]) -> Result<H, Failure>) -> Option<H> {
        let mut attempts = self.attempts.borrow_mut();
        let left = attempts.left.checked_sub(1)?;
        match pick(&attempts.tried) {
            Ok(picked) => {
                attempts.left = left;
                Some(picked)
            }
            Err(failure) => {
                if attempts.left == ATTEMPTS_MAX {
                    attempts.failure = failure;
                }
                None
            }
        }
    }

    /// Its route says so of it.
    pub(super) fn obeys(&self, policy: &Arc<Policy>) {
        self.policy.get_or_init(|| (policy.clone(), policy.deadline(Instant::now())));
    }

    fn policy(&self) -> Option<&Policy> {
        self.policy.get().map(|(policy, _)| policy.as_ref())
    }

    /// An attempt begins, which may take as long as the route allows.
    pub(super) fn begins(self: &Rc<Self>) {
        let deadline =
            self.policy.get().and_then(|(policy, deadline)| policy.deadline_of_attempt(Instant::now(), *deadline));
        let Some(deadline) = deadline else { return };
        let flight = Rc::downgrade(self);
        let late = spawn_local(async move {
            sleep_until(deadline).await;
            if let Some(flight) = flight.upgrade() {
                flight.times_out();
            }
        });
        self.timer.set(Some(Timer(late.abort_handle())));
    }

    /// Its time is over.
    fn times_out(self: &Rc<Self>) {
        match self.stage.get() {
            Stage::Awaited => {
                self.stage.set(Stage::Late);
                self.has_timed_out.set(true);
                self.leave_server(Reason::CANCEL);
                self.fails(Outcome::Late);
            }
            Stage::Begun => {
                self.leave_server(Reason::CANCEL);
                self.reset(Reason::CANCEL);
            }
            Stage::Ended | Stage::Late | Stage::Cancelled => {}
        }
    }

    fn place(&self) -> Option<(Rc<Line>, u32)> {
        match &*self.server.borrow() {
            Server::At(line, stream) => Some((line.clone(), *stream)),
            Server::None | Server::Waiting(_) => None,
        }
    }

    /// Goes to `server`, as soon as that has room.
    pub(super) fn send(self: &Rc<Self>, server: &Rc<Line>, is_mesh: bool, mut recorded: Exchange, now: Instant) {
        self.is_mesh.set(is_mesh);
        if recorded.copies_messages() {
            recorded.request_data(self.client.connection.borrow().held(self.stream));
        }
        self.recorded.replace(Some(recorded));
        if self.fits(server) && server.waiting.borrow().is_empty() {
            self.open(server, now);
        } else {
            self.server.replace(Server::Waiting(server.clone()));
            server.waiting.borrow_mut().push_back(self.clone());
        }
        server.wake();
    }

    /// Whether it can begin on `line` now: there is room, and the server has said whether it takes such requests, if others do not.
    pub(super) fn fits(&self, line: &Line) -> bool {
        let connection = line.connection.borrow();
        connection.has_room() && (!self.request.is_extended_connect() || connection.takes_extended_connect().is_some())
    }

    /// Begins on `line`, which it [fits](Self::fits).
    pub(super) fn open(self: &Rc<Self>, line: &Rc<Line>, now: Instant) {
        if self.is_cancelled() {
            return;
        }
        if self.request.is_extended_connect() && line.connection.borrow().takes_extended_connect() != Some(true) {
            return self.fails(Outcome::Unsupported);
        }
        let (mut client, mut server) = (self.client.connection.borrow_mut(), line.connection.borrow_mut());
        let expects = match self.request.method() {
            "HEAD" => Expects::NoBody,
            "CONNECT" => Expects::Tunnel,
            _ => Expects::Body,
        };
        let ends = client.has_passed(self.stream);
        let edits = self.policy().and_then(Policy::of_requests);
        let edited = edits.map(|edits| edit_fields(edits, &self.request.fields));
        let fields = edited.as_ref().unwrap_or(&self.request.fields);
        let Some(stream) = server.open(fields, expects, ends, self.clone()) else {
            drop((client, server));
            return self.fails(Outcome::Unprocessed);
        };
        self.server.replace(Server::At(line.clone(), stream));
        if !ends {
            let passed = client.pass(self.stream, &mut server, stream, now);
            self.has_sent.set(passed.bytes > 0 || passed.trailers);
        }
        drop((client, server));
        // It may send more now.
        self.client.wake();
    }

    /// Its client's task is to see to it.
    pub(super) fn fails(self: &Rc<Self>, outcome: Outcome) {
        if self.is_cancelled() {
            return;
        }
        self.server.replace(Server::None);
        self.client.outcomes.borrow_mut().push((self.clone(), outcome));
        self.client.wake();
    }

    /// Sends `reason` to whoever has asked.
    pub(super) fn reset(&self, reason: Reason) {
        self.server.replace(Server::None);
        let stage = self.stage.replace(Stage::Ended);
        if let Some(entry) = self.entry.as_ref().filter(|_| matches!(stage, Stage::Awaited | Stage::Begun)) {
            // Whoever else records it may have been told already that it came to nothing, and not why.
            entry.reset();
        }
        self.client.connection.borrow_mut().reset(self.stream, reason);
        self.client.wake();
        if let Some(mut recorded) = self.recorded.take() {
            recorded.reset();
        }
    }

    /// Nobody waits for it any longer.
    pub(super) fn cancelled(&self, reason: Reason) {
        self.stage.set(Stage::Cancelled);
        self.leave_server(reason);
        // It was cancelled, if it has not ended.
        self.recorded.take();
    }

    /// Whoever was to answer is not to do so any more.
    fn leave_server(&self, reason: Reason) {
        if let Some((line, stream)) = self.place() {
            line.connection.borrow_mut().reset(stream, reason);
            line.wake();
        }
        if let Server::Waiting(line) = self.server.replace(Server::None) {
            line.waiting.borrow_mut().retain(|waiting| !std::ptr::eq(&raw const **waiting, self));
            // Those behind it may have waited for no more than that.
            line.wake();
        }
    }

    /// This proxy's own answer, because there is no other.
    pub(super) fn say(&self, failure: Failure, now: Instant) {
        if let Some(entry) = &self.entry {
            entry.fail(failure);
        }
        self.stage.set(Stage::Ended);
        say(&self.client, self.stream, Some(&self.request), failure, now);
    }

    /// This proxy's own answer.
    pub(super) fn answer(&self, response: &http::Response<Bytes>, now: Instant) {
        self.stage.set(Stage::Ended);
        if let Some(entry) = &self.entry {
            entry.answer(response);
        }
        answer(&self.client, self.stream, Some(&self.request), response, now);
    }
}

/// What came from the client.
impl Flight {
    pub(super) fn uploaded(&self, data: &[u8], ends: bool, now: Instant) {
        if let Some(entry) = &self.entry {
            entry.received(data.len());
        }
        if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
            recorded.request_data(data);
        }
        let mut client = self.client.connection.borrow_mut();
        let Some((line, stream)) = self.place() else {
            return if self.is_awaited() {
                client.hold(self.stream, data)
            } else {
                client.passed(self.stream, data.len())
            };
        };
        let mut server = line.connection.borrow_mut();
        let is_behind = client.is_holding(self.stream);
        let count = if is_behind { 0 } else { server.send_data(stream, data, ends, now) };
        self.has_sent.set(self.has_sent.get() || count > 0);
        client.passed(self.stream, count);
        client.hold(self.stream, &data[count..]);
        if ends && !is_behind && count == data.len() {
            client.done(self.stream);
        }
        drop(server);
        line.wake();
    }

    pub(super) fn upload_ended(&self, mut trailers: Fields, now: Instant) {
        trailers.strip_reserved();
        let mut client = self.client.connection.borrow_mut();
        let Some((line, stream)) = self.place().filter(|_| !client.is_holding(self.stream)) else {
            return client.hold_trailers(self.stream, trailers);
        };
        self.has_sent.set(true);
        line.connection.borrow_mut().send_head(stream, &trailers, true, now);
        client.done(self.stream);
        line.wake();
    }

    /// The server has room for more of the body.
    pub(super) fn pass_upload(&self, now: Instant) {
        let Some((line, stream)) = self.place() else { return };
        let mut client = self.client.connection.borrow_mut();
        let passed = client.pass(self.stream, &mut line.connection.borrow_mut(), stream, now);
        self.has_sent.set(self.has_sent.get() || passed.bytes > 0 || passed.trailers);
        drop(client);
        self.client.wake();
    }

    /// The request has gone on long enough after its response.
    pub(super) fn rest_is_over(&self) {
        self.client.connection.borrow_mut().reset(self.stream, Reason::NO_ERROR);
        self.cancelled(Reason::CANCEL);
    }
}

/// What came from the server, on `stream` of `line`.
impl Flight {
    pub(super) fn responded(self: &Rc<Self>, line: &Line, stream: u32, response: Response, ends: bool, now: Instant) {
        let is_mesh = self.is_mesh.get();
        let (is_interim, mut fields) = (response.is_interim(), response.fields);
        if is_interim || !is_mesh {
            // Only a proxy of this mesh, which has proved to be one, speaks for it.
            fields.strip_reserved();
        }
        if is_interim {
            let Some(left) = self.interim_left.get().checked_sub(1) else {
                line.connection.borrow_mut().reset(stream, Reason::CANCEL);
                return self.fails(Outcome::BadResponse(Refusal::TooManyInterim));
            };
            self.interim_left.set(left);
            self.client.connection.borrow_mut().send_interim(self.stream, &fields);
        } else if is_mesh && response.is_undelivered && !self.has_body {
            line.connection.borrow_mut().reset(stream, Reason::CANCEL);
            return self.fails(Outcome::Undelivered);
        } else {
            self.stage.set(Stage::Begun);
            if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
                recorded.response_encoding(|| fields.get("grpc-encoding").map(<[u8]>::to_vec));
                let is_proxy_error = is_mesh && response.is_proxy_error;
                recorded.head(response.status, response.grpc_status, is_proxy_error, Headers::Http2(&fields));
            }
            if self.request.method() == "CONNECT" && (200..300).contains(&response.status) {
                // A tunnel has no response that could be all here.
                self.timer.take();
            }
            if let Some(edits) = self.policy().and_then(Policy::of_responses) {
                fields = edit_fields(edits, &fields);
            }
            self.client.connection.borrow_mut().send_head(self.stream, &fields, ends, now);
            if ends {
                line.connection.borrow_mut().done(stream);
                self.ended(line, stream, None);
            }
        }
        line.connection.borrow_mut().reuse(fields);
        self.client.wake();
    }

    pub(super) fn downloaded(&self, line: &Line, stream: u32, data: &[u8], ends: bool, now: Instant) {
        if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
            recorded.response_data(data);
        }
        let mut server = line.connection.borrow_mut();
        let is_behind = server.is_holding(stream);
        let count = match is_behind {
            true => 0,
            false => self.client.connection.borrow_mut().send_data(self.stream, data, ends, now),
        };
        server.passed(stream, count);
        server.hold(stream, &data[count..]);
        let is_end = ends && !is_behind && count == data.len();
        if is_end {
            server.done(stream);
        }
        drop(server);
        self.count(count);
        if is_end {
            self.ended(line, stream, None);
        }
        self.client.wake();
    }

    pub(super) fn download_ended(&self, line: &Line, stream: u32, mut fields: Fields, now: Instant) {
        if !self.is_mesh.get() {
            fields.strip_reserved();
        }
        let mut server = line.connection.borrow_mut();
        if server.is_holding(stream) {
            return server.hold_trailers(stream, fields);
        }
        server.done(stream);
        drop(server);
        self.client.connection.borrow_mut().send_head(self.stream, &fields, true, now);
        self.ended(line, stream, trailers(&fields).ok().flatten());
        line.connection.borrow_mut().reuse(fields);
        self.client.wake();
    }

    /// The client has room for more of the body.
    pub(super) fn pass_download(&self, now: Instant) {
        let Some((line, stream)) = self.place() else { return };
        let mut server = line.connection.borrow_mut();
        let passed = server.pass(stream, &mut self.client.connection.borrow_mut(), self.stream, now);
        drop(server);
        self.count(passed.bytes);
        if let Some(status) = passed.ended {
            self.ended(&line, stream, status);
        }
        line.wake();
    }

    fn count(&self, bytes: usize) {
        if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
            recorded.data(bytes);
        }
    }

    /// All of the response has gone. The rest of the request goes on, as far as both sides want it.
    fn ended(&self, line: &Line, stream: u32, status: Option<u32>) {
        self.stage.set(Stage::Ended);
        if let Some(mut recorded) = self.recorded.take() {
            recorded.end(status);
        }
        let mut client = self.client.connection.borrow_mut();
        if line.connection.borrow().is_sending(stream) {
            self.client.has_rest.set(true);
        } else {
            // Nobody takes what is left of it, if anything is.
            client.reset(self.stream, Reason::NO_ERROR);
        }
    }

    /// The server has given it up.
    pub(super) fn reset_by_server(self: &Rc<Self>, reason: Reason) {
        match self.stage.get() {
            Stage::Awaited if reason == Reason::REFUSED_STREAM => self.fails(Outcome::Unprocessed),
            Stage::Awaited => self.fails(Outcome::Reset(reason)),
            Stage::Begun => self.reset(reason),
            // The response was whole.
            Stage::Ended => self.reset(Reason::NO_ERROR),
            Stage::Late | Stage::Cancelled => {}
        }
    }

    /// What it sent is no response.
    pub(super) fn malformed_by_server(self: &Rc<Self>, refusal: Refusal) {
        match self.stage.get() {
            Stage::Awaited => self.fails(Outcome::BadResponse(refusal)),
            Stage::Begun => self.fails(Outcome::Cut(refusal)),
            Stage::Ended => self.reset(Reason::NO_ERROR),
            Stage::Late | Stage::Cancelled => {}
        }
    }

    /// Its connection is gone.
    pub(super) fn broken(self: &Rc<Self>) {
        match self.stage.get() {
            Stage::Awaited => self.fails(Outcome::Broken),
            // What is said of a connection is not said of its streams.
            Stage::Begun => self.reset(Reason::INTERNAL_ERROR),
            Stage::Ended => self.reset(Reason::NO_ERROR),
            Stage::Late | Stage::Cancelled => {}
        }
    }

    /// Whether nothing of its body is anywhere else: then it may be sent again.
    pub(super) fn is_whole(&self) -> bool {
        !self.has_sent.get()
    }
}

pub(super) fn view(request: &Request) -> RequestView<'_> {
    RequestView {
        method: request.method(),
        scheme: request.scheme(),
        authority: request.authority(),
        path: request.path(),
        is_grpc: request.is_grpc(),
        headers: Headers::Http2(&request.fields),
    }
}

/// Answers the request on `stream` of `line`, of which nothing more is wanted, because nobody else does.
pub(super) fn say(line: &Line, stream: u32, request: Option<&Request>, failure: Failure, now: Instant) {
    answer(line, stream, request, &failure.response(request.is_some_and(Request::is_grpc)), now);
}

fn answer(line: &Line, stream: u32, request: Option<&Request>, response: &http::Response<Bytes>, now: Instant) {
    let mut fields = Fields::default();
    fields.push(b":status", response.status().as_str().as_bytes(), Indexing::Incremental);
    for (name, value) in response.headers() {
        // Where somebody is sent may be for nobody else, and differs from one to the other.
        let indexing = if name == LOCATION { Indexing::Without } else { Indexing::Incremental };
        fields.push(name.as_str().as_bytes(), value.as_bytes(), indexing);
    }
    let body = if request.is_some_and(|request| request.method() == "HEAD") { &[][..] } else { response.body() };
    let mut connection = line.connection.borrow_mut();
    connection.send_head(stream, &fields, body.is_empty(), now);
    let is_sent = body.is_empty() || connection.send_data(stream, body, true, now) == body.len();
    connection.reset(stream, if is_sent { Reason::NO_ERROR } else { Reason::CANCEL });
    drop(connection);
    line.wake();
}
